"""The repositories of a team: where they are, and what their git objects say. Nothing is rendered here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from .errors import RefusedError
from .repository import Tree, git, listed, names

ANSWERS = ".copier-answers.yml"
LEVEL = "maturity_level"
BRANCHES = "mlops-ladder/"
"""What the names of branches with a template's update begin with."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|[\w.-]+@[\w.-]+:", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """One project of the team."""

    name: str
    folder: Path
    """The project's folder: the top of a repository, or a folder inside one."""
    url: str = ""
    """Where it was cloned from, for one that was given by its address."""
    problem: str = ""
    """Why it cannot be read; "" if it can."""


@dataclass(frozen=True)
class Facts:
    """What a project's last commit says about its template."""

    head: str
    answers: Mapping[str, Any]
    updated: int
    """When the answers were last changed, in seconds since 1970."""
    branches: tuple[str, ...] = ()
    """Branches with an update of the template that are not merged."""
    proved: int | None = None
    """The highest level of which git holds a proof: at level 2, the record of a run."""
    tree: Tree = field(default_factory=dict)
    """The files of the commit; empty where it was not asked for."""


def cache() -> Path:
    """Return the folder for copies and results that can be made again."""
    return Path(os.environ.get("MLOPS_LADDER_CACHE") or platformdirs.user_cache_dir("mlops-ladder"))


def at_home(path: str) -> Path:
    """Return a path in which `~` is its user's home; where there is no such user it stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def in_full(address: str) -> str:
    """Return a template's address as it is recorded: the full path of what is on this machine."""
    path = at_home(address)
    return str(path.resolve()) if path.exists() else address


def found(sources: Iterable[str]) -> list[Place]:
    """Return the projects that a file, a folder or an address of git names, each once, in their order.

    A file has a folder or an address a line; `#` begins a remark. A folder is a project itself, or holds repositories.
    Raises RefusedError for something that is none of them.
    """
    repositories = {str(one.folder): one for source in sources for one in _of(source, Path())}
    if not repositories:
        raise RefusedError("no repository is named: give folders, a file that lists them, or addresses of git")
    return list(repositories.values())


def _of(source: str, base: Path, *, nested: bool = False) -> Iterable[Place]:
    path = base / at_home(source)
    if path.is_dir():
        yield from _inside(path.resolve())
    elif path.is_file() and not nested:
        for line in _lines(path):
            try:
                yield from _of(line, path.parent, nested=True)
            except RefusedError as error:
                yield Place(line, path.parent / line, problem=str(error))
    elif ADDRESS.match(source):
        yield cloned(source)
    else:
        what = "no folder and no address of git" if nested else "no folder, no file and no address of git"
        raise RefusedError(f"{source}: is {what}")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RefusedError(f"{path}: is no list of repositories, for it is not text in UTF-8") from None
    return [line for line in (part.split("#")[0].strip() for part in text.splitlines()) if line]


def _inside(folder: Path) -> Iterable[Place]:
    if (folder / ANSWERS).is_file() or (folder / ".git").exists():
        yield from _projects(folder)
        return
    children = sorted(child for child in folder.iterdir() if (child / ".git").exists() or (child / ANSWERS).is_file())
    if not children:
        raise RefusedError(f"{folder}: holds no repository")
    for child in children:
        yield from _projects(child)


def _projects(folder: Path) -> Iterable[Place]:
    """Give the project at a repository's top, or else those in its folders."""
    if (folder / ANSWERS).is_file():
        yield Place(folder.name, folder)
        return
    try:
        present = git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", cwd=folder, accepted=(0, 1))
        paths = names(git("ls-tree", "-r", "-z", "--name-only", "HEAD", cwd=folder)) if present else []
    except RefusedError as error:
        yield Place(folder.name, folder, problem=str(error))
        return
    if not present:
        yield Place(folder.name, folder, problem="it has no commit yet")
        return
    inner = [folder / Path(path).parent for path in sorted(paths) if Path(path).name == ANSWERS]
    for one in inner:
        yield Place(f"{folder.name}/{one.relative_to(folder).as_posix()}", one)
    if not inner:
        yield Place(folder.name, folder, problem=f"no template project: it has no {ANSWERS}")


def cloned(url: str) -> Place:
    """Return the project of an address, from this machine's copy of it, which is brought up to date."""
    name = re.split(r"[/:]", url.rstrip("/").removesuffix(".git"))[-1]
    folder = cache() / "repositories" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    try:
        if (folder / ".git").exists():
            git("fetch", "--quiet", "--prune", "--tags", "origin", cwd=folder)
            git("remote", "set-head", "origin", "--auto", cwd=folder)
            git("reset", "--quiet", "--hard", "origin/HEAD", cwd=folder)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            git("clone", "--quiet", "--", url, str(folder), cwd=folder.parent)
    except RefusedError as error:
        return Place(name, folder, url, problem=f"{url}: {error}")
    return Place(name, folder, url, "" if (folder / ANSWERS).is_file() else f"no template project: no {ANSWERS}")


def facts(folder: Path, *, tree: bool = False) -> Facts:
    """Read a project's last commit; `tree` reads its list of files too.

    Raises RefusedError where there is no repository, no commit or no sound answers file in it.
    """
    head = said(folder, "rev-parse", "--verify", "HEAD")
    answers = read_answers(folder)
    updated = said(folder, "log", "-1", "--format=%ct", "HEAD", "--", ANSWERS)
    places = f"refs/heads/{BRANCHES}", "refs/remotes"
    refs = said(folder, "for-each-ref", "--format=%(refname)", "--no-merged=HEAD", *places).splitlines()
    beginning = re.escape(branches_of(folder))
    own = (re.fullmatch(rf"refs/(?:heads|remotes/[^/]+)/({beginning}[^/]+)", ref) for ref in refs)
    return Facts(
        head,
        answers,
        int(updated or 0),
        tuple(sorted({ref[1] for ref in own if ref})),
        2 if ".json" in said(folder, "ls-tree", "--name-only", "HEAD", "runs/") else None,
        listed(git("ls-tree", "-r", "-z", "HEAD", cwd=folder)) if tree else {},
    )


def branches_of(folder: Path) -> str:
    """Return what the names of a project's branches begin with: its own folder, where a repository holds several."""
    inside = said(folder, "rev-parse", "--show-prefix").strip("/")
    return f"{BRANCHES}{inside.replace('/', '-')}/" if inside else BRANCHES


def read_answers(folder: Path) -> dict[str, Any]:
    """Return the answers of a project's last commit.

    Raises RefusedError where there are none, or none that can be read.
    """
    try:
        text = said(folder, "show", f"HEAD:./{ANSWERS}")
    except RefusedError:
        raise RefusedError(f"no template project: its last commit has no {ANSWERS}") from None
    return parsed(text, ANSWERS)


def parsed(text: str, where: Path | str) -> dict[str, Any]:
    """Return the answers in the text of a project's answers file, which sentences call `where`.

    Raises RefusedError where it is no YAML, does not name the template, or has a level that is none.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RefusedError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    answers = found if isinstance(found, dict) else {}
    missing = [key for key in ("_src_path", "_commit") if not isinstance(answers.get(key) or None, str | int)]
    if missing:
        raise RefusedError(
            f"{where} does not say {' and '.join(missing)}: the project was not generated from a committed template, "
            "and an update cannot know what it started from."
        )
    if LEVEL in answers and type(answers[LEVEL]) is not int:
        raise RefusedError(f"{where} has {LEVEL}: {answers[LEVEL]}, which is no number: correct it, and commit.")
    return {**answers, **{key: str(answers[key]) for key in ("_src_path", "_commit")}}


def said(folder: Path, *words: str) -> str:
    """Run git in a folder and return what it said; raises RefusedError with its reason where it fails."""
    return git(*words, cwd=folder).decode(errors="replace").strip()
