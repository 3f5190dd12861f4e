"""The room of release: one version of the application with changelog, commit, tag, wheel and image, or nothing at all.

Everything is made in a clone of the repository; only when all of it stands do quick steps bring it into the project.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from ..contract import ProjectError
from ..files import atomic, sha256
from ..scorer import MODEL, Scorer
from .contract import read_contract, refuse_mismatch

CHANGELOG = "CHANGELOG.md"
UNRELEASED = re.compile(r"^## \[Unreleased\][^\n]*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
DIST = Path("dist")
CHECK = ("make", "check")
Baked: TypeAlias = Callable[[], Sequence[Path]]
NO_ENGINE = "no container engine answers here (`docker info` fails)"


@dataclass(frozen=True)
class Plan:
    """What a release will do."""

    name: str
    version: str
    notes: str
    """What the changelog says of it, Markdown."""
    root: Path
    """The repository, whose folder `prefix` holds the project."""
    prefix: str
    branch: str
    author: tuple[str, str]
    """Name and address, as git knows them."""


def model_in_place() -> tuple[Path, ...]:
    """Return what the image holds beside the files that git knows: the model; refuses one that breaks the contract."""
    refuse_mismatch(read_contract(), Scorer().signature)
    return (MODEL,)


def release(
    version: str,
    confirm: str,
    say: Callable[[str], None] = print,
    check: Sequence[str] = CHECK,
    baked: Baked = model_in_place,
) -> None:
    """Release the version if `confirm` is "yes"; otherwise do everything in a temporary place and leave no trace.

    An empty version stands for the next one in a dry run; `baked` returns files that the image needs beside the commit.
    Raises ProjectError for whatever speaks against the release; nothing is released then: no commit, no tag, no file.
    """
    if confirm not in ("", "yes"):
        raise ProjectError(f"CONFIRM is '{confirm}': write CONFIRM=yes to release, or nothing to see what would happen")
    if confirm and not version:
        raise ProjectError("say which version: make release VERSION=0.2.0 CONFIRM=yes")
    plan, beside = planned(version), baked()
    passed(check)
    _refuse_dirty()
    with TemporaryDirectory() as scratch, ExitStack() as undo:
        project = _committed(plan, Path(scratch) / "clone")
        wheel = build_wheel(project, Path(scratch) / "wheel")
        candidate = _candidate(plan, project, beside, undo)
        image = f"{plan.name}:{plan.version}" if candidate else f"{NO_ENGINE}: the release workflow builds it"
        say(f"{plan.name} {plan.version}, from branch {plan.branch}")
        say(f"  changelog  what stands under [Unreleased] in {CHANGELOG} moves under [{plan.version}]")
        say(f"  wheel      {DIST / wheel.name}  sha256 {sha256(wheel)}")
        for path in beside:
            say(f"  model      {path}  sha256 {sha256(path)}")
        say(f"  image      {image}")
        say(f"  tag        v{plan.version} on the commit 'Release {plan.version}'")
        if confirm:
            _publish(plan, project, wheel, candidate)
            say("released; next: `git push --follow-tags`, and `make setup` so that the next model carries the version")
        else:
            say(f"dry run: nothing was kept; to release: make release VERSION={plan.version} CONFIRM=yes")


def passed(check: Sequence[str]) -> None:
    """Run the project's checks; raises ProjectError if they fail."""
    _stream(check, f"`{' '.join(check)}` failed: nothing is released")


def planned(version: str) -> Plan:
    """Return what a release of this version will do; an empty one stands for the next.

    Raises ProjectError without a repository, with uncommitted changes, a version that is not higher, or no changelog.
    """
    try:
        root = Path(_git("rev-parse", "--show-toplevel"))
    except ProjectError:
        raise ProjectError("no git repository here: a release is a commit and a tag; `make setup` starts one") from None
    _refuse_dirty()
    branch = _git("branch", "--show-current")
    if not branch:
        raise ProjectError("git is on no branch (detached HEAD): switch to the branch that is released")
    try:
        who = re.match(r"(.*) <(.*)> ", _git("var", "GIT_COMMITTER_IDENT"))
    except ProjectError:
        who = None
    if who is None:
        raise ProjectError("git does not know who releases: set `git config user.name` and `git config user.email`")
    name, current = _project(Path())
    version = _higher(version, current, _git("tag", "--list", "v*").splitlines())
    prefix = _git("rev-parse", "--show-prefix")
    return Plan(name, version, _notes(Path(CHANGELOG)), root, prefix, branch, (who[1], who[2]))


def image(output: str = "", baked: Baked = model_in_place) -> str:
    """Build the service's image from the project as it stands, save it as a file if one is named, and return its tag.

    Raises ProjectError without a container engine, or where `baked` refuses what the image needs beside the commit.
    """
    baked()
    if not engine():
        raise ProjectError(f"{NO_ENGINE}: start one, or let the release workflow build the image")
    tag = ":".join(_project(Path()))
    _build_image(Path(), tag)
    if output:
        with atomic(Path(output)) as temporary:
            _stream(("docker", "save", "--output", str(temporary), tag), f"image {tag} could not be saved to {output}")
    return tag


def build_wheel(project: Path, folder: Path) -> Path:
    """Build the project's wheel into a folder and return its path."""
    uv(("build", "--quiet", "--wheel", "--out-dir", str(folder.resolve())), project, "the wheel could not be built")
    return max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime_ns)


def _higher(version: str, current: str, tags: Sequence[str]) -> str:
    """Return the version if it may follow the current one and every release, or the next one for an empty version."""
    done = [tag[1:] for tag in tags if VERSION.fullmatch(tag[1:])]
    last = max([current, *done], key=_order)
    if not version:
        first, second, _ = _order(last)
        return f"{first}.{second + 1}.0" if last in done else last
    if version in done:
        raise ProjectError(f"version {version} is released already: the tag v{version} exists")
    if _order(version) < _order(last):
        raise ProjectError(f"version {version} is not higher than {last}, the last one")
    return version


def _order(version: str) -> tuple[int, int, int]:
    found = VERSION.fullmatch(version)
    if found is None:
        raise ProjectError(f"'{version}' is not a version: write three numbers, such as 0.2.0")
    return int(found[1]), int(found[2]), int(found[3])


def _notes(changelog: Path) -> str:
    """Return what stands under Unreleased."""
    if not changelog.is_file():
        raise ProjectError(f"{changelog}: not found; it says what each release changed (keepachangelog.com)")
    found = UNRELEASED.search(changelog.read_text(encoding="utf-8"))
    notes = found[1].strip() if found else ""
    if not any(line.strip() and not line.startswith(("#", "[")) for line in notes.splitlines()):
        raise ProjectError(f"{changelog}: nothing stands under `## [Unreleased]`; say there what this release changes")
    return notes


def _committed(plan: Plan, clone: Path) -> Path:
    """Clone the repository, commit and tag the release there, and return the project's folder in the clone."""
    _git("clone", "--quiet", "--single-branch", "--no-tags", str(plan.root), str(clone))
    project = clone / plan.prefix
    today = datetime.now(UTC).date()
    _replace(project / CHANGELOG, UNRELEASED, f"## [Unreleased]\n\n## [{plan.version}] - {today}\n\n{plan.notes}\n\n")
    _replace(project / "pyproject.toml", re.compile(r"(?<=^version = )\"[^\"]*\"", re.MULTILINE), f'"{plan.version}"')
    locked = re.compile(rf'(?<=^name = "{plan.name}"\nversion = )"[^"]*"', re.MULTILINE)
    _replace(project / "uv.lock", locked, f'"{plan.version}"')
    author = ("-c", f"user.name={plan.author[0]}", "-c", f"user.email={plan.author[1]}")
    title = f"Release {plan.version}"
    _git(*author, "commit", "--quiet", "--all", "--message", title, folder=clone)
    message = ("--cleanup=whitespace", "--message", title, "--message", plan.notes)
    _git(*author, "tag", "--annotate", *message, f"v{plan.version}", folder=clone)
    return project


def _replace(path: Path, pattern: re.Pattern[str], text: str) -> None:
    if not path.is_file():
        raise ProjectError(f"{path.name}: not in the last commit; a release needs it there")
    changed, times = pattern.subn(lambda _: text, path.read_text(encoding="utf-8"), count=1)
    if not times:
        raise ProjectError(f"{path.name}: the place of the project's version is not found; run `make setup` and commit")
    path.write_text(changed.rstrip("\n") + "\n", encoding="utf-8")


def _candidate(plan: Plan, project: Path, beside: Sequence[Path], undo: ExitStack) -> str:
    """Build the image under a passing name and return that name, or nothing without a container engine."""
    if not engine():
        return ""
    for path in beside:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, project / path)
    tag = f"{plan.name}:{plan.version}-candidate"
    _build_image(project, tag)
    undo.callback(_capture, ("docker", "image", "rm", tag), project, f"image {tag} could not be removed")
    return tag


def _publish(plan: Plan, project: Path, wheel: Path, candidate: str) -> None:
    """Bring wheel, image, tag and commit into the project; whatever fails takes the others back."""
    with ExitStack() as undo:
        kept = DIST / wheel.name
        with atomic(kept) as temporary:
            shutil.copyfile(wheel, temporary)
        undo.callback(kept.unlink)
        if candidate:
            tag = f"{plan.name}:{plan.version}"
            _capture(("docker", "tag", candidate, tag), Path(), f"image {tag} could not be named")
            undo.callback(_capture, ("docker", "image", "rm", tag), Path(), f"image {tag} could not be removed")
        tag = f"refs/tags/v{plan.version}"
        clone = _git("rev-parse", "--show-toplevel", folder=project)
        _git("fetch", "--quiet", "--no-tags", clone, f"{tag}:{tag}")
        undo.callback(_git, "tag", "--delete", f"v{plan.version}")
        _git("merge", "--quiet", "--ff-only", f"{tag}^{{commit}}")
        undo.pop_all()


def _build_image(folder: Path, tag: str) -> None:
    chosen = {name: os.environ.get(name) for name in ("BASE_IMAGE", "UV_IMAGE")}
    elsewhere = [f"--build-arg={name}={value}" for name, value in chosen.items() if value]
    _stream(("docker", "build", *elsewhere, "--tag", tag, "."), f"image {tag} could not be built", folder)


def engine() -> bool:
    """Whether a container engine answers here."""
    try:
        return subprocess.run(("docker", "info"), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _project(folder: Path) -> tuple[str, str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["name"], project["version"]


def _refuse_dirty() -> None:
    changed = _git("status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise ProjectError(f"{changed[0][2:].strip()}{more} not committed: commit first, a release is what git holds")


def _git(*arguments: str, folder: Path = Path()) -> str:
    return _capture(("git", *arguments), folder, f"git {arguments[0]} failed")


def uv(words: Sequence[str], folder: Path, failure: str) -> str:
    """Run uv, wherever it is installed, and return what it said; raises ProjectError beginning with `failure`."""
    program = os.environ.get("UV") or shutil.which("uv") or str(Path(sys.prefix).parent / ".uv/bin/uv")
    return _capture((program, *words), folder, failure)


def _capture(command: Sequence[str], folder: Path, failure: str) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ProjectError(f"{failure}: {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise ProjectError(f"{failure}: {' '.join((done.stderr or done.stdout).split())[-300:]}")
    return done.stdout.strip()


def _stream(command: Sequence[str], failure: str, folder: Path = Path()) -> None:
    """Run a command whose output a person wants to see."""
    quiet = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    try:
        done = subprocess.run(command, cwd=folder, env=quiet, check=False)
    except OSError as error:
        raise ProjectError(f"{failure}: {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise ProjectError(failure)
