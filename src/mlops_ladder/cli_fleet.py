"""The commands for a whole team: `fleet status`, `fleet update`, `new`, `adopt-repo`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import fleet_page, standing
from . import team as teams
from .places import found

app = typer.Typer(no_args_is_help=True, help="All repositories of a team: how they stand, and an update for each.")
Sources = Annotated[
    list[str], typer.Argument(help="Folders, files that list them, addresses of git.", metavar="FILE|FOLDER|GIT-URL...")
]
TeamFile = Annotated[Path | None, typer.Option("--team", help="The team's file of defaults and locked answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console() -> Console:
    """Return where tables go: as wide as they need to be where nobody looks at a terminal."""
    return Console(width=None if sys.stdout.isatty() else 240, highlight=False)


@app.command()
def status(
    sources: Sources,
    team: TeamFile = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Render what is needed to count drift; takes time once.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page that needs nothing but itself.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show template version, level, last update, drift and open branches of every repository."""
    rows = standing.status(sources, teams.read(team), drift=drift)
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(fleet_page.page(rows, datetime.now(UTC)), encoding="utf-8")
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(*fleet_page.COLUMNS, box=None, pad_edge=False, title_justify="left")
    for row in rows:
        style = "red" if row.problem else "yellow" if row.deviations or row.late not in ("", "up to date") else ""
        table.add_row(*fleet_page.cells(row), style=style)
    console().print(table)
    console().print(f"\n{fleet_page.summary(rows)}" + (f"; page written to {html}" if html else ""))


@app.command()
def update(
    sources: Sources,
    team: TeamFile = None,
    to: Annotated[str, typer.Option("--to", help="The template's version; the newest if left out.")] = "",
    canary: Annotated[list[str] | None, typer.Option("--canary", help="A repository that goes first.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push every branch to origin.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a branch with the update in every repository where nobody has to decide; leave the others, and say why.

    Working trees stay as they are. Ends with 0 if every repository got on, 2 if a person must decide, 1 if one failed.
    """
    from . import fleet

    agreed = teams.read(team)
    agreed = agreed.model_copy(update={"to": to or agreed.to})
    repositories = found(sources)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
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
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        table = Table("repository", "", "what", "branch", box=None, pad_edge=False)
        for one in outcomes:
            said = "; ".join((one.said, *one.deviations))
            table.add_row(
                one.name, one.state, said, one.branch or "-", style="" if one.state in fleet.DONE else "yellow"
            )
        console().print(table)
        states = [one.state for one in outcomes]
        console().print("\n" + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    states_left = {one.state for one in outcomes} - set(fleet.DONE)
    raise typer.Exit(0 if not states_left else 2 if states_left == {"left"} else 1)


def register(other: typer.Typer) -> None:
    """Add these commands to the program's."""
    other.add_typer(app, name="fleet")
