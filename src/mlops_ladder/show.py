"""A plan as a table, as text that helps to resolve it, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from .console import errors
from .drift import Drift
from .merge import Change
from .places import ANSWERS, LEVEL
from .plan import Plan, Progress
from .replay import Replay

KINDS = {
    "lost": ("would lose an edit", "bold red"),
    "conflict": ("conflict", "red"),
    "merged": ("merged", "yellow"),
    "updated": ("updated", "cyan"),
    "deleted": ("deleted", "magenta"),
    "kept": ("kept", "dim"),
    "added": ("added", "green"),
}
"""What each kind is called, and its colour; in the order of a table."""
HINTS = {
    "pyproject.toml": "keep your dependencies beside the template's; then run `make setup`",
    "Makefile": "keep your targets, after the template's",
    ".gitignore": "keep the lines of both",
}
"""How files in which both add lines are resolved."""

Json: TypeAlias = dict[str, Any]


@contextmanager
def progress() -> Iterator[Progress]:
    """Give a function that shows on standard error what is being done."""
    console = errors()
    if not console.is_terminal:
        yield lambda step: console.print(f"{step} ...", style="dim", markup=False)
        return
    with console.status("Starting ...") as status:
        yield lambda step: status.update(Text(f"{step} ..."))


def headline(plan: Plan) -> str:
    """Return what a plan is about, in one line."""
    levels = plan.before.get(LEVEL), plan.answers.get(LEVEL)
    moves = [f"level {levels[0]} to {levels[1]}" if levels[0] != levels[1] else f"level {levels[0]}"] * (
        LEVEL in plan.answers
    )
    moves.append(f"template {plan.old} to {plan.new}" if plan.old != plan.new else f"template {plan.old}")
    return f"{plan.project}: {', '.join(moves)}"


def table(plan: Plan) -> Table:
    """Return every path with its kind and the reason."""
    table = Table(title=Text(headline(plan)), title_justify="left", box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("path", overflow="fold")
    table.add_column("why", overflow="fold")
    for kind, (name, style) in KINDS.items():
        for change in plan.of(kind):
            table.add_row(Text(name, style=style), Text(change.path), Text(change.reason))
    return table


def summary(plan: Plan) -> str:
    """Return how many paths there are of each kind."""
    counts = Counter(change.kind for change in plan.changes)
    return ", ".join(f"{counts[kind]} {name}" for kind, (name, _) in KINDS.items() if counts[kind])


def print_diffs(console: Console, plan: Plan) -> None:
    """Print the difference of every path that has one."""
    for change in plan.changes:
        if change.diff:
            console.print(Text(f"\n{KINDS[change.kind][0]}: {change.path}", style="bold"))
            if console.is_terminal:
                console.print(Syntax(change.diff, "diff", background_color="default"))
            else:
                console.out(change.diff, end="", highlight=False)


def guide(plan: Plan, conflicts_written: bool) -> list[str]:
    """Return, for each path that stops a plan, what its user can do."""
    lines = [line for change in plan.of("conflict") for line in _conflict(change, plan, conflicts_written)]
    lost = plan.of("lost")
    lines += [f"{change.path}: {change.reason}." for change in lost]
    if lost:
        lines.append(
            "Carry those edits over to another file and commit, or take the rest with --keep-mine, which leaves "
            f"{'this file' if len(lost) == 1 else 'these files'} as you have it."
        )
    return lines


def _conflict(change: Change, plan: Plan, written: bool) -> Iterator[str]:
    path = change.path
    yield f"{path}: {change.reason}."
    if not written:
        yield "  --diff shows both sides; --conflicts writes them into the file for you to choose from."
        return
    hint = HINTS.get(path.rsplit("/", 1)[-1], "keep what is right of both sides")
    yield f"  Between <<<<<<< yours and >>>>>>> template {plan.new}, {hint}. Then `git add {path}`."
    yield f"  To take one side whole: `git checkout --ours {path}` (yours) or `--theirs` (the template's)."


def as_json(plan: Plan, *, with_diffs: bool) -> Json:
    """Return a plan as what JSON can hold."""
    changes = [
        {
            "path": change.path,
            "kind": change.kind,
            "reason": change.reason,
            **({"diff": change.diff} if with_diffs else {}),
        }
        for change in plan.changes
    ]
    return {
        "project": str(plan.project),
        "old": plan.old,
        "new": plan.new,
        "level": {"old": plan.before.get(LEVEL), "new": plan.answers.get(LEVEL)},
        "clean": plan.clean,
        "commit": plan.commit,
        "answers": dict(plan.answers),
        "changes": changes,
    }


def replay_as_json(replay: Replay | str | None) -> Json | None:
    """Return what came of a replay; only a reason where it could not be done."""
    return {"reason": replay} if isinstance(replay, str) else asdict(replay) if replay else None


def print_drift(console: Console, drift: Drift, *, with_diffs: bool) -> None:
    """Print the template's files that differ, the most changed first, and what is wrong with the answers file."""
    if drift.files:
        table = Table(title=Text(f"{drift.project}: {drift.version}"), title_justify="left", box=None, pad_edge=False)
        for name, side in (("what", "left"), ("path", "left"), ("lines added", "right"), ("lines removed", "right")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for file in drift.files:
            counts = ("binary", "") if file.added is None else (str(file.added), str(file.removed))
            table.add_row(file.kind, Text(file.path), *counts)
        console.print(table)
    if with_diffs:
        for file in drift.files:
            console.out(file.diff, end="", highlight=False)
    share = f"{len(drift.files)} of {drift.managed} files of the template differ from {drift.version}"
    truth = drift.truth or f"{ANSWERS} tells the truth."
    console.print(f"{share}. {truth}", markup=False, soft_wrap=True)


def drift_as_json(drift: Drift, *, with_diffs: bool) -> Json:
    """Return what JSON can hold of a drift."""
    files = [asdict(file) for file in drift.files]
    if not with_diffs:
        files = [{key: value for key, value in file.items() if key != "diff"} for file in files]
    return {**asdict(drift), "project": str(drift.project), "files": files}
