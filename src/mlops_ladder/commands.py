"""The commands of one project: climb, update, drift."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .errors import CLEAN, CONFLICTS, REFUSED, RefusedError
from .places import LEVEL, read_answers

if TYPE_CHECKING:
    from .plan import Plan
    from .replay import Replay

ProjectPath = Annotated[Path, typer.Argument(metavar="[PATH]", help="The project's folder.", show_default="this one")]
Data = Annotated[
    list[str] | None, typer.Option("--data", "-d", metavar="NAME=VALUE", help="Give another answer to a question.")
]
TeamFile = Annotated[Path | None, typer.Option("--team", help="The team's file of defaults and locked answers.")]
Branch = Annotated[
    str | None, typer.Option("--branch", help="Leave the result as this new branch, and change no file.")
]
Diff = Annotated[bool, typer.Option("--diff", help="Show the difference of every file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")]
Conflicts = Annotated[bool, typer.Option("--conflicts", help="Write conflicts into the files, with both sides marked.")]
KeepMine = Annotated[bool, typer.Option("--keep-mine", help="Leave the files whose edits would be lost as they are.")]
NoReplay = Annotated[
    bool, typer.Option("--no-replay", help="Do not train the newest run again to compare predictions.")
]
Json = Annotated[bool, typer.Option("--json", help="Write the plan to standard output as JSON.")]


def climb(
    path: ProjectPath = Path(),
    to: Annotated[int | None, typer.Option("--to", help="The level to go to; the next one by default.")] = None,
    data: Data = None,
    team: TeamFile = None,
    branch: Branch = None,
    diff: Diff = False,
    dry_run: DryRun = False,
    conflicts: Conflicts = False,
    keep_mine: KeepMine = False,
    no_replay: NoReplay = False,
    as_json: Json = False,
) -> int:
    """Take a project to another level (a lower one too), at the template's version that it has.

    Nothing is changed unless the plan is clean. Exit code 0: clean, 1: refused, 2: conflicts.
    """
    from .plan import CURRENT, level_of

    asked = answered(data)
    if LEVEL in asked:
        raise RefusedError(f"The level to climb to is given with --to: leave {LEVEL} out of --data.")
    now, highest = level_of(path)
    level = min(now + 1, highest) if to is None else to
    answers = _agreed(path, team, {**asked, LEVEL: level})
    return _carry_out(path, CURRENT, answers, branch, diff, dry_run, conflicts, keep_mine, no_replay, as_json)


def update(
    path: ProjectPath = Path(),
    to: Annotated[
        str | None, typer.Option("--to", help="Tag or commit of the template; the newest release by default.")
    ] = None,
    data: Data = None,
    team: TeamFile = None,
    branch: Branch = None,
    diff: Diff = False,
    dry_run: DryRun = False,
    conflicts: Conflicts = False,
    keep_mine: KeepMine = False,
    no_replay: NoReplay = False,
    as_json: Json = False,
) -> int:
    """Take the template's improvements into a project, at the level that it has.

    Nothing is changed unless the plan is clean. Exit code 0: clean, 1: refused, 2: conflicts.
    """
    return _carry_out(
        path, to, _agreed(path, team, answered(data)), branch, diff, dry_run, conflicts, keep_mine, no_replay, as_json
    )


def drift(
    path: ProjectPath = Path(),
    diff: Annotated[bool, typer.Option("--diff", help="Show the difference of every file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write what was found to standard output as JSON.")] = False,
) -> int:
    """Show which of the template's files differ from what the recorded version made, and whether the answers are true.

    Exit code 0: the answers file tells the truth, however much was edited; 1: it does not.
    """
    from . import show
    from .drift import drifted

    with show.progress() as said:
        found = drifted(path, progress=said)
    if as_json:
        console.out().out(json.dumps(show.drift_as_json(found, with_diffs=diff), indent=2), highlight=False)
    else:
        show.print_drift(console.out(), found, with_diffs=diff)
    return CLEAN if found.truth is None else REFUSED


def _agreed(path: Path, team: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Add the team's locked answers to what is asked for, and say where the project differs from its defaults."""
    if team is None:
        return asked
    from .team import read

    agreed, present = read(team), read_answers(path)
    answers = agreed.agreed(present, asked)
    for deviation in agreed.deviations({**present, **answers}):
        console.errors().print(f"The project differs from the team: {deviation}.", markup=False)
    return answers


def answered(data: list[str] | None) -> dict[str, Any]:
    """Return the answers of NAME=VALUE pairs; raises RefusedError for a pair of another form."""
    answers = {}
    for pair in data or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise RefusedError(f"--data {pair} is not of the form NAME=VALUE.")
        answers[name] = value
    return answers


def _carry_out(
    path: Path,
    to: str | None,
    answers: dict[str, Any],
    branch: str | None,
    diff: bool,
    dry_run: bool,
    conflicts: bool,
    keep: bool,
    no_replay: bool,
    as_json: bool,
) -> int:
    from . import show
    from .apply import insist_on_free
    from .drift import insist_on_level
    from .plan import applied, branched, planned, recovered
    from .replay import replayed
    from .repository import Repository

    if branch is not None and (conflicts or keep or dry_run):
        raise RefusedError("--branch takes a clean plan only: leave out --conflicts, --keep-mine and --dry-run.")
    if recovered(path):
        console.errors().print("The last run here was stopped half-way: the project was put back as it was before it.")
    if branch is not None:
        insist_on_free(Repository.of(path), branch)
    with show.progress() as said:
        insist_on_level(path)
        plan = planned(path, to=to, answers=answers, progress=said)
        may = (not plan.of("lost") or keep) and (not plan.of("conflict") or conflicts)
        compares = not no_replay and not plan.of("conflict") and (may or dry_run)
        replay = replayed(plan, said) if compares else None
    acts = may and not dry_run and not plan.empty
    if acts and branch:
        branched(plan, branch)
    elif acts:
        applied(plan, conflicts=conflicts, keep=keep)
    _show(plan, replay, diff, as_json, acts, branch, conflicts)
    if plan.of("lost") and not keep:
        return REFUSED
    return CONFLICTS if plan.of("conflict") else CLEAN


def _show(
    plan: Plan, replay: Replay | str | None, diff: bool, as_json: bool, acted: bool, branch: str | None, conflicts: bool
) -> None:
    from . import show

    told = replay if isinstance(replay, str) or replay is None else replay.sentence
    if as_json:
        done: dict[str, Any] = {"applied": acted and not branch, "branch": branch if acted else None}
        done["replay"] = show.replay_as_json(replay)
        text = json.dumps({**show.as_json(plan, with_diffs=diff), **done}, indent=2, default=str)
        console.out().out(text, highlight=False)
        return
    page = console.out()
    if plan.empty:
        page.print(f"{show.headline(plan)}: nothing to do.", markup=False)
        return
    page.print(show.table(plan))
    if diff:
        show.print_diffs(page, plan)
    lines = ["", f"{show.summary(plan)}.", *([told] if told else [])]
    guide = show.guide(plan, acted and conflicts)
    lines += ["", *guide] if guide else []
    lines += ["", *_next(plan, acted, branch)]
    page.print("\n".join(lines), markup=False, soft_wrap=True)


def _next(plan: Plan, acted: bool, branch: str | None) -> list[str]:
    """Return what was done, what a new level means, and the commands to go on with."""
    from .levels import FIRST
    from .plan import level_texts

    if not acted:
        return ["Nothing was changed."]
    where = shlex.quote(str(plan.project))
    old, new = plan.before.get(LEVEL), plan.answers.get(LEVEL)
    if branch:
        lines = [f"The result is branch {branch}; the working tree is as it was. Next:"]
        lines.append(f"  git diff HEAD...{branch}    and, when you like it, git merge {branch}")
    else:
        ready = "the files above are resolved" if plan.of("conflict") else "you like it"
        lines = ["The files are in the working tree, and nothing is committed. Next:"]
        lines.append(f"  cd {where}; git status; git diff    and, when {ready}, git add --all . && git commit")
    lines.append("  make setup    takes over new dependencies")
    if isinstance(old, int) and isinstance(new, int) and new > old:
        lines.append(f"  {FIRST.get(new, 'make help')}    the first command at level {new}")
        lines += ["", *level_texts(plan)]
    return lines
