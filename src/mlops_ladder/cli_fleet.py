"""The commands of a team: `fleet status`, `fleet update`, `new`, `adopt-repo`, and `propose` for its schedules."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import fleet_page, standing
from . import team as teams
from .commands import Data, ProjectPath, TeamFile, answered
from .console import errors, out
from .errors import RefusedError
from .places import found

app = typer.Typer(no_args_is_help=True, help="All repositories of a team: how they stand, and an update for each.")
Sources = Annotated[
    list[str], typer.Argument(help="Folders, files that list them, addresses of git.", metavar="FILE|FOLDER|GIT-URL...")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(
    sources: Sources,
    team: TeamFile = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Render what is needed to count drift; takes time once.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page that needs nothing but itself.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show template version, level, last update, drift and open branches of every repository."""
    rows = standing.status(sources, teams.read(team), drift=drift)
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(fleet_page.page(rows, datetime.now(UTC)), encoding="utf-8")
    if as_json:
        out().out(json.dumps([asdict(row) for row in rows], indent=2), highlight=False)
        return 0
    table = Table(*fleet_page.COLUMNS, box=None, pad_edge=False, title_justify="left")
    for row in rows:
        style = "red" if row.problem else "yellow" if row.deviations or row.late not in ("", "up to date") else ""
        table.add_row(*map(Text, fleet_page.cells(row)), style=style)
    out().print(table)
    written = f"; page written to {html}" if html else ""
    out().print(f"\n{fleet_page.summary(rows)}{written}", markup=False)
    return 0


@app.command()
def update(
    sources: Sources,
    team: TeamFile = None,
    to: Annotated[str, typer.Option("--to", help="The template's version; the newest if left out.")] = "",
    canary: Annotated[list[str] | None, typer.Option("--canary", help="A repository that goes first.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push every branch to origin.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core if left out.")] = None,
    as_json: AsJson = False,
) -> int:
    """Make a branch with the update in every repository where nobody has to decide; leave the others, and say why.

    Working trees stay as they are. Ends with 0 if every repository got on, 2 if a person must decide, 1 if one failed.
    """
    from . import fleet

    agreed = teams.read(team)
    agreed = agreed.model_copy(update={"to": to or agreed.to})
    repositories = found(sources)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors(), transient=True) as progress:
        bar = progress.add_task("repositories", total=len(repositories))
        outcomes = fleet.update(
            repositories,
            agreed,
            canaries=canary or (),
            push=push,
            workers=workers,
            told=lambda outcome: progress.update(bar, advance=1, description=outcome.name),
        )
    if as_json:
        told = [{name: value for name, value in asdict(one).items() if name != "key"} for one in outcomes]
        out().out(json.dumps(told, indent=2), highlight=False)
    else:
        table = Table("repository", "", "what", "branch", box=None, pad_edge=False)
        for one in outcomes:
            said = "; ".join((one.said, *one.deviations))
            cells = (one.name, one.state, said, one.branch or "-")
            table.add_row(*map(Text, cells), style="" if one.state in fleet.DONE else "yellow")
        out().print(table)
        states = [one.state for one in outcomes]
        out().print("\n" + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    states_left = {one.state for one in outcomes} - set(fleet.DONE)
    return 0 if not states_left else 2 if states_left == {"left"} else 1


Template = Annotated[str, typer.Option("--template", help="Address or path of the template.")]
Version = Annotated[str, typer.Option("--to", help="Tag or commit of the template; the newest release by default.")]


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the project goes; a new folder.")],
    team: TeamFile = None,
    template: Template = "",
    to: Version = "",
    data: Data = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask every question that is not answered by now.")] = False,
) -> int:
    """Generate a project with the team's answers."""
    from .born import born

    agreed = teams.read(team)
    answers = born(folder, agreed, answered(data), template=template, to=to, ask=ask)
    page = out()
    page.print(f"{answers.get('project_name', folder)} stands in {folder}.", markup=False)
    for deviation in agreed.deviations(answers):
        page.print(f"It differs from the team: {deviation}.", markup=False)
    page.print(f"Next: cd {folder}; make setup; make train", markup=False)
    return 0


def adopt_repo(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A repository that was not generated.")],
    team: TeamFile = None,
    template: Template = "",
    to: Version = "",
    data: Data = None,
    branch: Annotated[str, typer.Option("--branch", help="Name of the new branch.")] = "mlops-ladder/adopt",
) -> int:
    """Lay the template around a repository's files on a branch, overwriting none, and list what to move where."""
    from .adopt import PAGE, adopted

    agreed = teams.read(team)
    address = template or agreed.template
    if not address:
        raise RefusedError("Which template? Give --template, or `template:` in the team's file.")
    asked = answered(data)
    agreed.agreed({}, asked)
    answers = {**agreed.defaults, **asked, **agreed.locked}
    laid = adopted(path, address, answers, to=to or agreed.to, name=branch)
    table = Table("your file", "what to do", box=None, pad_edge=False)
    for move in laid.moves:
        table.add_row(Text(move.path), Text(move.advice))
    for place in laid.aside:
        table.add_row(Text(place), Text(f"yours stays; the template's is adopt/{place}"))
    page = out()
    page.print(table)
    page.print(
        f"\n{len(laid.added)} files of the template at {laid.version} stand on the branch {laid.branch}; "
        f"none of yours was changed.\nNext: git switch {laid.branch}, and go through {PAGE}",
        markup=False,
    )
    return 0


def propose(path: ProjectPath = Path()) -> int:
    """Push the template's update as a branch and open a pull request with the plan as its text; for a schedule."""
    from .proposal import proposed

    out().print(proposed(path), markup=False)
    return 0
