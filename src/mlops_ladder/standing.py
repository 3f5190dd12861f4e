"""How all repositories of a team stand, read from git: version, level, drift, what is open."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import crew, versions
from .errors import RefusedError
from .places import ANSWERS, LEVEL, Facts, Place, cache, facts, found
from .repository import LINK
from .team import Team

PATIENCE = 300.0
"""Seconds that the render of one project may take."""


@dataclass(frozen=True)
class Row:
    """How one project stands. What is not known is None, and why stands in `problem`."""

    name: str
    folder: str
    version: str = ""
    to: str = ""
    behind: dict[str, int] | None = None
    late: str = ""
    """The distance in words."""
    level: int | None = None
    proved: int | None = None
    updated: int | None = None
    """Seconds since 1970."""
    drift: int | None = None
    branches: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    problem: str = ""


def status(sources: Iterable[str], team: Team, *, drift: bool = False) -> list[Row]:
    """Return how the projects of some sources stand. `drift` renders where no render is kept, which takes time."""
    places = found(sources)
    with ThreadPoolExecutor(8) as threads:  # they wait for git
        read = list(threads.map(lambda one: _facts(one, tree=True), places))
    if drift and (unknown := [one for one in places if not one.problem]):
        for _ in crew.shared(measured, unknown, lambda *_: None, workers=os.cpu_count() or 1, patience=PATIENCE):
            pass  # each leaves its render, which is read below
    return [_row(one, known, team) for one, known in zip(places, read, strict=True)]


def _facts(place: Place, *, tree: bool) -> Facts | str:
    if place.problem:
        return place.problem
    try:
        return facts(place.folder, tree=tree)
    except RefusedError as error:
        return str(error)


def measured(place: Place) -> None:
    """Render what a project's template gave it and keep it, if that is possible."""
    known = _facts(place, tree=False)
    if isinstance(known, Facts):
        _drift(known, render=True)


def _drift(known: Facts, *, render: bool) -> int | None:
    """Return how many of the template's files a project has changed or removed.

    A render is kept under the version's commit and the answers. Without one it is made if `render` says so; else None
    is returned.
    """
    try:
        commit = versions.commit(known.answers["_src_path"], known.answers["_commit"])
        told = json.dumps([commit, _algorithm(known.head), known.answers], sort_keys=True, default=str)
        kept = cache() / "renders" / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.json"
        if render and not kept.is_file():
            _render(known, kept)
    except RefusedError:
        return None  # the row names the reason
    if not kept.is_file():
        return None
    rendered = json.loads(kept.read_text(encoding="utf-8"))
    return sum(known.tree.get(path) != (mode, blob) for path, (mode, blob) in rendered.items())


def _render(known: Facts, kept: Path) -> None:
    from .answers import known as given  # takes a second, for Copier
    from .renders import source

    url = known.answers["_src_path"]
    origin = source(url, versions.history(url))
    folder = origin.render(origin.release(known.answers["_commit"]), given(known.answers)).folder
    paths = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    rendered = {path.relative_to(folder).as_posix(): _as_git_names(path, _algorithm(known.head)) for path in paths}
    rendered.pop(ANSWERS, None)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(rendered), encoding="utf-8")
    part.replace(kept)


def _algorithm(name: str) -> str:
    return "sha256" if len(name) == 64 else "sha1"


def _as_git_names(path: Path, algorithm: str) -> tuple[str, str]:
    link = path.is_symlink()
    content = os.fsencode(path.readlink()) if link else path.read_bytes()
    mode = LINK if link else "100755" if path.stat().st_mode & 0o111 else "100644"
    return mode, hashlib.new(algorithm, b"blob %d\0" % len(content) + content).hexdigest()


def _row(place: Place, known: Facts | str, team: Team) -> Row:
    where = place.url or str(place.folder)
    if isinstance(known, str):
        return Row(place.name, where, problem=known)
    url, version = known.answers["_src_path"], known.answers["_commit"]
    to, distance, problem = "", None, ""
    try:
        to = team.to or versions.newest(url)
        distance = versions.behind(url, version, to)
    except RefusedError as error:
        problem = str(error)
    return Row(
        place.name,
        where,
        version,
        to,
        {"releases": distance.releases, "commits": distance.commits} if distance else None,
        str(distance or ""),
        known.answers.get(LEVEL),
        known.proved,
        known.updated,
        _drift(known, render=False),
        known.branches,
        tuple(team.deviations(known.answers)),
        problem,
    )
