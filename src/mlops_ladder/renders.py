"""The template at a version, and what it renders to: Copier, without the clones and processes of `copier update`.

This is the one module that uses Copier's inner classes; the range in pyproject.toml is as narrow as that asks for, and
tests compare every result with the public `copier.run_update`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from copier._jinja_ext import SandboxedEnvironment
from copier._main import Worker, as_operation
from copier._template import Template
from copier._vcs import get_repo
from copier.errors import CopierError
from jinja2 import TemplateError

from .errors import RefusedError
from .places import ANSWERS, at_home
from .repository import git, listed
from .versions import newest_tag

RENDERS = 8
"""Renders that a process keeps for the next project with the same answers."""


@dataclass(frozen=True)
class Release:
    """A commit of the template."""

    commit: str
    name: str
    """What the answers file calls it: a tag, or the nearest tag and the distance from it."""


@dataclass(frozen=True)
class Render:
    """What the template makes of some answers."""

    folder: Path
    answers: Mapping[str, Any]
    """What the render's own answers file says."""
    excluded: Callable[[str], bool]
    """Whether an update leaves a path of the project alone, or out."""
    left_out: Callable[[str], bool]
    """Whether a fresh copy would leave a path out."""


class _Painter(Worker):
    """Copier's worker, writing to a folder that is in no repository."""

    def _sync_git_index_executable_bit(self, dst_relpath: Path, src_mode: int) -> None:
        """There is no index to keep up with."""


@dataclass
class Source:
    """The template's repository, read in place or from one clone of this process."""

    address: str
    """As the answers file has it."""
    repository: Path
    """A repository on this machine that has the template's history."""
    _templates: dict[str, Template] = field(default_factory=dict)
    _environments: dict[str, SandboxedEnvironment] = field(default_factory=dict)

    def git(self, *words: str | Path, **more: Any) -> bytes:
        """Run git in the template's repository."""
        return git(f"--git-dir={self.repository}", *words, **more)

    def release(self, revision: str) -> Release:
        """Return what a tag, branch or commit names; raises RefusedError where the template has no such revision."""
        for name in (revision, f"refs/remotes/origin/{revision}"):
            words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            commit = self.git(*words, accepted=(0, 1, 128)).decode().strip()
            if commit:
                return Release(commit, self.git("describe", "--tags", "--always", commit).decode().strip())
        raise RefusedError(
            f"The template at {self.address} has no revision {revision!r}: it was removed there, or never published "
            f"(`git ls-remote {self.address}` lists what there is)."
        )

    def newest(self) -> Release:
        """Return the newest release by its tag (no release candidates), or the main branch where nothing is tagged."""
        return self.release(newest_tag(self.git("tag", "--list").decode().split()) or "HEAD")

    def is_older(self, one: Release, other: Release) -> bool:
        """Say whether the first release is part of the second's history, and not the same."""
        base = self.git("merge-base", one.commit, other.commit, accepted=(0, 1)).decode().strip()
        return one.commit != other.commit and base == one.commit

    def template(self, release: Release) -> Template:
        """Return Copier's template for a release, written out once a process."""
        if release.commit not in self._templates:
            self._templates[release.commit] = self._written(release)
        return self._templates[release.commit]

    def _written(self, release: Release) -> Template:
        folder = Path(tempfile.mkdtemp(dir=_own_folder(), prefix="template-"))
        index = folder.with_suffix(".index")
        where = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": index}
        as_kept = {"core.autocrlf": "false", "core.eol": "lf", "core.bare": "false"}
        self.git("read-tree", release.commit, cwd=folder, **where)
        self.git("checkout-index", "--all", "--force", cwd=folder, settings=as_kept, **where)
        index.unlink()
        modes = listed(self.git("ls-tree", "-r", "-z", release.commit))
        template = Template(url=self.address, ref=release.name)
        vars(template).update(
            local_abspath=folder.resolve(),
            vcs="git",
            commit=release.name,
            commit_hash=release.commit,
            git_index_modes={PurePosixPath(path): int(mode, 8) for path, (mode, _) in modes.items()},
        )
        return template

    def _environment(self, release: Release, worker: Worker) -> SandboxedEnvironment:
        """Return the environment that renders of a release share: compiling its lines is most of a render's time."""
        if release.commit not in self._environments:
            made = worker.jinja_env
            vars(made)["from_string"] = lru_cache(maxsize=None)(made.from_string)
            self._environments[release.commit] = made
        return self._environments[release.commit]

    def questions(self, release: Release) -> dict[str, dict[str, Any]]:
        """Return the template's questions in order, the computed ones included."""
        with spoken(f"The template's copier.yml at {release.name} cannot be read"):
            questions: dict[str, dict[str, Any]] = self.template(release).questions_data
        return questions

    def exclusions(self, release: Release) -> tuple[str, ...]:
        """Return the lines of the template's manifest, as they are written."""
        return self.template(release).exclude

    def render(
        self, release: Release, answers: Mapping[str, Any], *, kept: str = "", exclude: Sequence[str] = ()
    ) -> Render:
        """Render a release as an update does, with new answers over those of an answers file (`kept`, its text).

        The folder belongs to this process and may be shared: nobody may write to it.
        """
        key = json.dumps(
            [self.address, release.commit, dict(answers), kept, list(exclude)], default=str, sort_keys=True
        )
        if key in _RENDERS and _RENDERS[key].folder.is_relative_to(_own_folder()):
            _RENDERS.move_to_end(key)
            return _RENDERS[key]
        made = self._rendered(release, answers, kept, exclude)
        _RENDERS[key] = made
        if len(_RENDERS) > RENDERS:
            shutil.rmtree(_RENDERS.popitem(last=False)[1].folder, ignore_errors=True)
        return made

    def _rendered(self, release: Release, answers: Mapping[str, Any], kept: str, exclude: Sequence[str]) -> Render:
        folder = Path(tempfile.mkdtemp(dir=_own_folder(), prefix="render-"))
        if kept:
            (folder / ANSWERS).write_text(kept, encoding="utf-8")
        with spoken(f"The template at {release.name} cannot be rendered"):
            worker = _Painter(
                src_path=self.address,
                dst_path=folder,
                data=dict(answers),
                exclude=list(exclude),
                defaults=True,
                overwrite=True,
                quiet=True,
            )
            vars(worker)["template"] = self.template(release)
            vars(worker)["jinja_env"] = self._environment(release, worker)
            as_operation("update")(worker.run_copy)()
            excluded = worker.match_exclude
            del worker.match_exclude
            left_out: Callable[[Path], bool] = as_operation("copy")(lambda: worker.match_exclude)()
            text = (folder / ANSWERS).read_text(encoding="utf-8") if (folder / ANSWERS).is_file() else ""
        return Render(
            folder,
            yaml.safe_load(text) or {},
            lambda path: excluded(Path(path)),
            lambda path: left_out(Path(path)),
        )


@contextmanager
def spoken(what: str) -> Iterator[None]:
    """Turn what Copier raises for wrong answers, unsafe or broken templates into one sentence."""
    try:
        yield
    except (CopierError, TemplateError, ValueError, TypeError, OSError, yaml.YAMLError) as error:
        raise RefusedError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from None


_RENDERS: OrderedDict[str, Render] = OrderedDict()
_SOURCES: dict[tuple[str, Path | None, int], Source] = {}
_FOLDERS: dict[int, tempfile.TemporaryDirectory[str]] = {}


def _own_folder() -> Path:
    """Return this process's folder for clones, templates and renders; it goes with the process."""
    if os.getpid() not in _FOLDERS:
        _FOLDERS[os.getpid()] = tempfile.TemporaryDirectory(prefix="mlops-ladder-")
    return Path(_FOLDERS[os.getpid()].name).resolve()


def source(address: str, local: Path | None = None) -> Source:
    """Return the template's repository: `local` (a clone that somebody has), the folder at the address, or a new clone.

    Raises RefusedError where the address cannot be reached.
    """
    key = (address, local, os.getpid())
    if key not in _SOURCES:
        _SOURCES[key] = Source(address, _here(str(local)) or _cloned(str(local)) if local else _reached(address))
    return _SOURCES[key]


def _reached(address: str) -> Path:
    remote = "://" in address or address.startswith(("gh:", "gl:", "git@", "git+")) or Path(address).is_absolute()
    if not remote and not address.startswith("~") and not Path(address).exists():
        raise RefusedError(
            f"The template's address {address!r} in {ANSWERS} is a path relative to some other folder: write its full "
            "path or its address there as _src_path, and commit."
        )
    if address.startswith("~") and not at_home(address).exists():
        raise RefusedError(f"The template at {address} cannot be reached: there is no such folder.")
    return _here(address) or _cloned(address)


def _here(address: str) -> Path | None:
    """Return the git folder of a repository on this machine."""
    path = at_home(address)
    if not path.is_dir():
        return None
    try:
        words = ("rev-parse", "--show-prefix", "--path-format=absolute", "--git-common-dir")
        prefix, found = git(*words, cwd=path).decode().splitlines()
    except RefusedError as error:
        if "not a git repository" in str(error):
            return None
        raise
    return None if prefix else Path(found)


def _cloned(address: str) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_own_folder(), prefix="clone-"))
    try:
        git("clone", "--mirror", "--quiet", "--", get_repo(address) or address, folder)
    except RefusedError as error:
        reason = str(error).removeprefix("git clone failed: ")
        raise RefusedError(f"The template at {address} cannot be reached: {reason}") from None
    return folder
