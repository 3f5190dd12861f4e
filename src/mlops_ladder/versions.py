"""The versions of a template: which is the newest, and how far a project is behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from packaging.version import InvalidVersion, Version

from .errors import RefusedError
from .places import ADDRESS, at_home, cache, said
from .repository import git

SHORT = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/", "git+": ""}
"""What Copier takes before an address or in its place."""


@dataclass(frozen=True)
class Behind:
    """The distance from a project's version to another one."""

    releases: int
    commits: int
    forward: bool = True
    """Whether it is an older version that a project has, as an update needs."""

    def __str__(self) -> str:
        """Return it in words."""
        if not self.commits:
            return "up to date" if self.forward else "ahead"
        many, what = (self.releases, "release") if self.releases else (self.commits, "commit")
        return f"{many} {what}{'s' if many > 1 else ''}"


@lru_cache
def history(url: str) -> Path:
    """Return a folder with the template's history: itself on this machine, or a copy that is brought up to date.

    Without a network the copy of the last time serves. Raises RefusedError where there is none.
    """
    local = at_home(url.removeprefix("file://"))
    if local.is_dir():
        return local
    address = next((long + url.removeprefix(short) for short, long in SHORT.items() if url.startswith(short)), url)
    if not ADDRESS.match(address):
        raise RefusedError(f"the template {url} is not on this machine, and is no address")
    mirror = cache() / "templates" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"
    if not mirror.exists():
        mirror.parent.mkdir(parents=True, exist_ok=True)
        git("clone", "--quiet", "--mirror", "--", address, mirror)
        return mirror
    with suppress(RefusedError):  # without a network: what was known the last time
        git("remote", "update", "--prune", cwd=mirror)
    return mirror


def newest_tag(tags: Iterable[str]) -> str | None:
    """Return the newest of some tags that name a release; None where none does (a release candidate does not)."""
    found = []
    for tag in tags:
        try:
            found.append((Version(tag), tag))
        except InvalidVersion:
            continue
    return max(((version, tag) for version, tag in found if not version.is_prerelease), default=(None, None))[1]


@lru_cache
def newest(url: str) -> str:
    """Return the newest release of a template as Copier takes it, or the name of its last commit where it has none."""
    folder = history(url)
    return newest_tag(said(folder, "tag", "--list").split()) or said(folder, "rev-parse", "HEAD")


@lru_cache
def commit(url: str, version: str) -> str:
    """Return the full name of a version's commit. Raises RefusedError where the template does not have it."""
    try:
        return said(history(url), "rev-parse", "--verify", "--end-of-options", f"{version}^{{commit}}")
    except RefusedError:
        raise RefusedError(f"the template {url} has no version {version}: it was taken back, or not fetched") from None


@lru_cache
def behind(url: str, version: str, to: str) -> Behind:
    """Return how far a version is behind another one."""
    old, new, folder = commit(url, version), commit(url, to), history(url)
    commits = int(said(folder, "rev-list", "--count", f"{old}..{new}"))
    tags = said(folder, "tag", "--merged", new, "--no-merged", old).split() if commits else []
    return Behind(len(tags), commits, forward=said(folder, "merge-base", old, new) == old)


@lru_cache
def name(url: str, version: str) -> str:
    """Return the short name of a version: its tag, or the last tag with the commits since."""
    return said(history(url), "describe", "--tags", "--always", commit(url, version))
