"""How far a project's managed files are from what the recorded version made, and whether the record is true."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import answers_text, choices_of
from .errors import RefusedError
from .merge import unified
from .places import ANSWERS, LEVEL, parsed
from .plan import Progress
from .renders import Release, Source, source
from .repository import Blob, Repository


@dataclass(frozen=True)
class Drifted:
    """A file of the template that is not as the template made it."""

    path: str
    kind: str
    """edited, deleted, or mode (its right to execute, or a link in its place)."""
    added: int | None
    """Lines; None for a binary file."""
    removed: int | None
    diff: str


@dataclass(frozen=True)
class Drift:
    """What differs from a fresh render of the recorded version with the recorded answers."""

    project: Path
    version: str
    level: int | None
    managed: int
    """How many files the template looks after at this level."""
    files: Sequence[Drifted]
    """Those that differ, the most changed first."""
    truth: str | None
    """What is untrue in the answers file, as a sentence; None if nothing is."""


def drifted(project: Path, *, template: Path | None = None, progress: Progress = lambda _: None) -> Drift:
    """Return how a project's last commit differs from what its answers file says that it was made from.

    Starters are the user's and do not count. Raises RefusedError where the recorded version cannot be rendered.
    """
    repository = Repository.of(project)
    text = answers_text(repository)
    answers = parsed(text, repository.project / ANSWERS)
    progress(f"Reading the template at {answers['_src_path']}")
    origin = source(str(answers["_src_path"]), template)
    release = origin.release(str(answers["_commit"]))
    progress(f"Rendering {release.name}")
    render = origin.render(release, {}, kept=text)
    made = repository.tree_of(render.folder)
    managed = {path: blob for path, blob in made.items() if path != ANSWERS}
    files = [_drifted(repository, path, blob) for path, blob in managed.items() if repository.files.get(path) != blob]
    files.sort(key=lambda file: (-(file.added or 0) - (file.removed or 0), file.path))
    truth = _untrue_level(repository, origin, release, text) or _untrue_answer(answers, render.answers)
    level = answers.get(LEVEL)
    return Drift(repository.project, release.name, level, len(managed), files, truth)


def insist_on_level(project: Path) -> None:
    """Raise RefusedError where none of the files of the recorded level is there.

    An update would take them for deleted by the user, and never bring them.
    """
    repository = Repository.of(project)
    text = answers_text(repository)
    answers = parsed(text, repository.project / ANSWERS)
    origin = source(str(answers["_src_path"]))
    lie = absent_level(repository, origin, origin.release(str(answers["_commit"])), text)
    if lie:
        raise RefusedError(lie)


def _drifted(repository: Repository, path: str, made: Blob) -> Drifted:
    mine = repository.files.get(path)
    before, after = repository.content(made), repository.content(mine) if mine else b""
    kind = "deleted" if mine is None else "mode" if mine[1] == made[1] else "edited"
    if b"\0" in before + after:
        return Drifted(path, kind, None, None, unified(path, before, after))
    old, new = (content.decode(errors="replace").splitlines() for content in (before, after))
    blocks = difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    changed = [block for block in blocks if block[0] != "equal"]
    added, removed = sum(block[4] - block[3] for block in changed), sum(block[2] - block[1] for block in changed)
    return Drifted(path, kind, added, removed, unified(path, before, after))


def _untrue_answer(said: Mapping[str, Any], made: Mapping[str, Any]) -> str | None:
    """An answer that the recorded version does not take as it stands."""
    for name, value in said.items():
        if name not in made:
            return f"{ANSWERS} has {name}: {value}, which the recorded version does not ask for: remove the line."
        if name != "_commit" and made[name] != value:
            return f"{ANSWERS} has {name}: {value}, which the recorded version takes as {made[name]}: correct the line."
    return None


def _untrue_level(repository: Repository, origin: Source, release: Release, text: str) -> str | None:
    """A level none of whose own files is there, or one above the answer most of whose own files are."""
    return absent_level(repository, origin, release, text) or _hidden_level(repository, origin, release, text)


def absent_level(repository: Repository, origin: Source, release: Release, text: str) -> str | None:
    """Return a sentence where the answers file `text` says a level none of whose own files is in the project."""
    level, levels = _levels(repository, origin, release, text)
    if level is None or level - 1 not in levels:
        return None
    own = _files(origin, release, text, level) - _files(origin, release, text, level - 1)
    if not own or own & repository.files.keys():
        return None
    return f"{ANSWERS} says level {level}, and none of the {len(own)} files of that level is there: {_mend(level)}"


def _hidden_level(repository: Repository, origin: Source, release: Release, text: str) -> str | None:
    level, levels = _levels(repository, origin, release, text)
    if level is None or level + 1 not in levels:
        return None
    own = _files(origin, release, text, level + 1) - _files(origin, release, text, level)
    there = own & repository.files.keys()
    if 2 * len(there) <= len(own):
        return None
    return f"{ANSWERS} says level {level}, and {len(there)} files of level {level + 1} are there: {_mend(level)}"


def _levels(repository: Repository, origin: Source, release: Release, text: str) -> tuple[int | None, list[int]]:
    """Return the level of an answers file and those of the template; None where it has none."""
    question, level = origin.questions(release).get(LEVEL), parsed(text, repository.project / ANSWERS).get(LEVEL)
    if question is None or not isinstance(level, int):
        return None, []
    return level, [int(choice) for choice in choices_of(question).values()]


def _files(origin: Source, release: Release, text: str, level: int) -> set[str]:
    folder = origin.render(release, {LEVEL: level}, kept=text).folder
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _mend(level: int) -> str:
    return f"put back the level whose files are there, commit, and use `mlops-ladder climb --to {level}`."
