"""What an update of a project would do, worked out beside it: Copier renders, git merges, the project is only read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from .answers import answers_text, choices_of, insist_on_askable, insist_on_same, known
from .apply import Sides, branch, moved, recovered
from .errors import RefusedError
from .levels import told
from .merge import Change, Verdict, diffs, merged, unified
from .places import ANSWERS, LEVEL, parsed
from .renders import Release, Render, Source, source
from .repository import Blob, Repository, Tree

__all__ = ["CURRENT", "Change", "Plan", "RefusedError", "applied", "branched", "planned", "recovered"]

Progress: TypeAlias = Callable[[str], None]
CURRENT = ":current:"
"""In place of a version: the one that the project has."""
LISTED = 10
"""Paths that a sentence names."""


@dataclass(frozen=True)
class Plan:
    """What an update does to a project, path by path, and the commit that holds the result."""

    project: Path
    old: str
    """The template's version that the project has."""
    new: str
    answers: Mapping[str, Any]
    """What the answers file says afterwards."""
    changes: Sequence[Change]
    """Every path that changes, and every one that does not though the template would have it so."""
    commit: str
    """The result, a commit in the project's repository that no branch has; lost paths are as the user has them."""
    before: Mapping[str, Any]
    """What the answers file says now."""
    sides: Mapping[str, Sides]
    """What the old and the new template have at each path in conflict."""

    def of(self, *kinds: str) -> list[Change]:
        """Return the changes of some kinds."""
        return [change for change in self.changes if change.kind in kinds]

    @property
    def clean(self) -> bool:
        """Whether nothing would be lost and nothing is in conflict."""
        return not self.of("lost", "conflict")

    @property
    def empty(self) -> bool:
        """Whether the project already is what the plan would make of it."""
        return not self.of("added", "updated", "merged", "conflict", "deleted", "lost")


def planned(
    project: Path,
    *,
    to: str | None = None,
    answers: Mapping[str, Any] = {},
    template: Path | None = None,
    progress: Progress = lambda _: None,
) -> Plan:
    """Return what an update of a project does; nothing but unreachable objects in its repository is written.

    `to` is a tag, branch or commit of the template, or CURRENT; the newest release if None. `answers` are new ones.
    `template` is a repository on this machine that has the template's history; the recorded address is used otherwise.
    `progress` is told what is being done.
    Raises RefusedError where the update cannot be worked out.
    """
    recovered(project)
    repository = Repository.of(project)
    _insist_on_committed(repository)
    text = answers_text(repository)
    before = parsed(text, repository.project / ANSWERS)
    progress(f"Reading the template at {before['_src_path']}")
    origin = source(str(before["_src_path"]), template)
    old = origin.release(str(before["_commit"]))
    new = _target(origin, old, to)
    insist_on_askable(origin.questions(new), new, before, answers)
    progress(f"Rendering {new.name}, the new version")
    after = origin.render(new, answers, kept=text)
    progress(f"Rendering {old.name}, the version that the project has")
    base = origin.render(old, known(before), exclude=origin.exclusions(new))
    insist_on_same(origin.questions(new), before, after.answers, answers, new)
    progress("Comparing both with your files")
    one, other = repository.tree_of(base.folder), repository.tree_of(after.folder)
    verdicts = merged(repository, one, other, new.name)
    verdicts.pop(ANSWERS, None)
    verdicts.update(_answers_verdict(repository, one, other))
    results = {path: verdict.result for path, verdict in verdicts.items() if verdict.kind not in ("lost", "kept")}
    commit = repository.committed(results, _message(before, after.answers, old, new)) if results else repository.head
    changes = _changes(repository, verdicts, one, other, commit)
    if LEVEL in before and int(after.answers[LEVEL]) < int(before[LEVEL]):
        changes += _starters(repository, base, after)
    sides = {path: (one.get(path), other[path]) for path, verdict in verdicts.items() if verdict.kind == "conflict"}
    return Plan(repository.project, old.name, new.name, after.answers, changes, commit, before, sides)


def level_of(project: Path) -> tuple[int, int]:
    """Return a project's level and the highest of its template; raises RefusedError where the template has none."""
    repository = Repository.of(project)
    answers = parsed(answers_text(repository), repository.project / ANSWERS)
    origin = source(str(answers["_src_path"]))
    questions = origin.questions(origin.release(str(answers["_commit"])))
    if LEVEL not in questions or LEVEL not in answers:
        raise RefusedError(f"{repository.project} has no level: its template does not ask for {LEVEL}.")
    return int(answers[LEVEL]), max(map(int, choices_of(questions[LEVEL]).values()))


def level_texts(plan: Plan) -> list[str]:
    """Return what each level that a plan climbs to adds, and what it asks of the team; nothing for a fall."""
    origin = source(str(plan.before["_src_path"]))
    question = origin.questions(origin.release(plan.new))[LEVEL]
    return told(question, range(int(plan.before[LEVEL]) + 1, int(plan.answers[LEVEL]) + 1))


def applied(plan: Plan, *, conflicts: bool = False, keep: bool = False) -> None:
    """Bring a plan into the working tree, whole or not at all; nothing is committed.

    Raises RefusedError where it has conflicts (unless `conflicts`: they are written as markers and git knows of them),
    where it would lose edits (unless `keep`: those files stay as they are), or where the project is not as it was.
    """
    if plan.of("lost") and not keep:
        raise RefusedError(f"Nothing was changed: {_first(plan.of('lost'))}")
    if plan.of("conflict") and not conflicts:
        raise RefusedError(f"Nothing was changed: {_first(plan.of('conflict'))}")
    repository = _as_planned(plan)
    _insist_on_committed(repository)
    moved(repository, plan.commit, plan.sides)


def branched(plan: Plan, name: str) -> None:
    """Leave a plan's result as a new branch, and the working tree as it is; raises RefusedError unless it is clean."""
    if not plan.clean:
        raise RefusedError(f"No branch was made: {_first(plan.of('lost', 'conflict'))}")
    branch(_as_planned(plan), name, plan.commit)


def _first(changes: Sequence[Change]) -> str:
    more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
    return f"{changes[0].path}: {changes[0].reason}{more}."


def _as_planned(plan: Plan) -> Repository:
    repository = Repository.of(plan.project)
    parents = repository.git("rev-parse", f"{plan.commit}^@").decode().split()
    if repository.head != plan.commit and repository.head not in parents:
        raise RefusedError(f"{plan.project} has a new commit since the plan was made: make the plan again.")
    return repository


def _insist_on_committed(repository: Repository) -> None:
    paths = repository.uncommitted()
    if paths:
        more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
        what = ", ".join(paths[:LISTED])
        raise RefusedError(f"{repository.project} has uncommitted work in {what}{more}: commit or stash it first.")


def _target(origin: Source, old: Release, to: str | None) -> Release:
    if to == CURRENT:
        return old
    new = origin.newest() if to is None else origin.release(to)
    if not origin.is_older(new, old):
        return new
    if to is None:
        return old
    raise RefusedError(f"{new.name} is older than {old.name}, which the project has: an update only goes forward.")


def _answers_verdict(repository: Repository, old: Tree, new: Tree) -> dict[str, Verdict]:
    """The answers file is written anew; lines that the user added to it are carried over."""
    mine, base, target = repository.files[ANSWERS], old.get(ANSWERS), new.get(ANSWERS)
    if target is None or mine == target:
        return {}
    if mine == base:
        return {ANSWERS: Verdict("updated", "says what the project is made from", target)}
    lines = [repository.content(blob).decode(errors="replace").splitlines() if blob else [] for blob in (base, target)]
    written = {line.strip() for part in lines for line in part}
    keys = {line.split(":")[0] for part in lines for line in part}
    own = [
        line
        for line in repository.content(mine).decode(errors="replace").splitlines()
        if line.strip() and line.strip() not in written and line.split(":")[0] not in keys
    ]
    if not own:
        return {ANSWERS: Verdict("updated", "says what the project is made from", target)}
    text = "\n".join([*lines[1], *own]) + "\n"
    result: Blob = (target[0], repository.stored(text.encode()))
    if result == mine:
        return {}
    return {ANSWERS: Verdict("merged", "says what the project is made from; your own lines stay, at its end", result)}


def _message(before: Mapping[str, Any], after: Mapping[str, Any], old: Release, new: Release) -> str:
    levels = before.get(LEVEL), after.get(LEVEL)
    moves = [f"from level {levels[0]} to level {levels[1]}"] if levels[0] != levels[1] else []
    moves += [f"from template {old.name} to {new.name}"] if old.commit != new.commit else []
    return f"Take the project {', '.join(moves) or 'to its answers'}\n"


def _changes(
    repository: Repository, verdicts: Mapping[str, Verdict], old: Tree, new: Tree, commit: str
) -> list[Change]:
    shown = diffs(repository, commit) if commit != repository.head else lambda _: ""
    found = []
    for path, verdict in sorted(verdicts.items()):
        change = partial(Change, path, verdict.kind, verdict.reason)
        if verdict.kind not in ("lost", "kept"):
            found.append(change(shown(path)))
            continue
        mine = repository.files.get(path)
        pair = (old.get(path), mine) if verdict.kind == "lost" and mine else (old.get(path), new.get(path))
        before, after = (repository.content(blob) if blob else b"" for blob in pair)
        found.append(change(unified(path, before, after)))
    return found


def _starters(repository: Repository, base: Render, after: Render) -> list[Change]:
    """The user's files of levels above the new one: an update leaves them alone, a fresh copy would not have them."""
    stay = "yours, of a level above the new one; it stays"
    return [
        Change(path, "kept", stay, "")
        for path in sorted(repository.files)
        if after.left_out(path) and after.excluded(path) and base.excluded(path) and not base.left_out(path)
    ]
