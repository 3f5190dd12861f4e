"""What the tests share: the working tree as a clean template, renders of it, and projects that are set up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import copier
import pytest
from ask import user_environment
from make_questions import questions

ROOT = Path(__file__).parents[1]
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
OFFLINE = (sys.executable, str(ROOT / "tests" / "offline.py"))
"""Put before a command: it then runs without a network."""
VERSION = "v0.0.1"
os.environ.pop("PYTEST_ADDOPTS", None)
"""What was said to this run is not meant for the runs of pytest inside projects."""
OFFERED: list[int] = sorted(questions()["maturity_level"]["choices"].values())
"""The levels that copier.yml lets one choose."""
TIMES: dict[str, float] = {}
"""Seconds that some steps took; printed at the end, never judged."""

Answers: TypeAlias = Mapping[str, Any]
Command: TypeAlias = Sequence[str | Path]
Done: TypeAlias = subprocess.CompletedProcess[str]
Render: TypeAlias = Callable[..., Path]


def run(command: Command, cwd: Path, **environment: str) -> Done:
    """Run a command to its end and return what it said; it never reads from the terminal and never fails by itself."""
    return _run(command, cwd, {**os.environ, **environment})


def _run(command: Command, cwd: Path, environment: Mapping[str, str]) -> Done:
    words = [str(part) for part in command]
    return subprocess.run(
        words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def must(command: Command, cwd: Path, **environment: str) -> str:
    """Run a command that has to end well, and return its standard output."""
    return well(run(command, cwd, **environment))


def well(done: Done) -> str:
    """Return a command's standard output after making sure that it ended well."""
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def make(project: Path, *words: str, offline: bool = True, environment: Mapping[str, str] | None = None) -> Done:
    """Run make in a project as its user does: without this repository's environment, and without a network."""
    command = [*(OFFLINE if offline else ()), "make", "--no-print-directory", *words]
    return _run(command, project, {**user_environment(), **(environment or {})})


def git(folder: Path, *words: str) -> str:
    """Run git with an identity of its own."""
    return must(["git", *IDENTITY, *words], folder)


def commit(folder: Path, message: str = "Change", tag: str | None = None) -> None:
    """Commit everything in a repository, which is made if there is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    if tag:
        git(folder, "tag", tag)


def working_files() -> list[str]:
    """Return the path of every file of the working tree that git does not ignore."""
    names = must(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT).split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


def copied_tree(folder: Path) -> Path:
    """Copy the working tree to `folder`, as the files stand at this moment."""
    for name in working_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a project with its content; what git and Python keep for themselves is left out."""
    outside = {".git", ".venv", ".uv", "__pycache__"}
    names = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in names.items() if outside.isdisjoint(name.parts)}


def share_environment(source: Path, project: Path) -> None:
    """Give a copy of a project that is set up an environment made of links, in which the copy's own code runs."""
    old, new = source / ".venv", project / ".venv"
    packages = next(old.glob("lib/python*/site-packages"))
    linked = new / packages.relative_to(old)
    linked.mkdir(parents=True)
    for entry in packages.iterdir():
        (linked / entry.name).symlink_to(entry)
    (own,) = (path for path in linked.glob("*.pth") if path.read_text(encoding="utf-8").strip() == str(source / "src"))
    own.unlink()
    own.write_text(f"{project / 'src'}\n", encoding="utf-8")
    (new / "bin").symlink_to(old / "bin")
    shutil.copy2(old / "pyvenv.cfg", new)


def clone_at_start(source: Path, folder: Path) -> None:
    """Clone a project as it stood at its first commit, whatever other tests committed since."""
    git(source, "clone", "--quiet", str(source), str(folder))
    git(folder, "reset", "--quiet", "--hard", git(folder, "rev-list", "--max-parents=0", "HEAD").strip())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working tree as a clean repository with one release."""
    folder = copied_tree(tmp_path_factory.mktemp("mlops-ladder"))
    commit(folder, "Release", VERSION)
    return folder


@pytest.fixture(scope="session")
def render(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return a function that renders the template with some answers and returns the new project's folder."""

    def _render(**answers: Any) -> Path:
        folder = tmp_path_factory.mktemp("project")
        copier.run_copy(str(template), folder, data=answers, defaults=True, quiet=True)
        return folder

    return _render


@pytest.fixture(scope="session")
def lived(render: Render) -> Callable[[int, str], Path]:
    """Return a function that gives the one project of a level and a task which is set up and trained."""
    known: dict[tuple[int, str], Path] = {}

    def _lived(level: int, task: str) -> Path:
        if (level, task) not in known:
            project = render(maturity_level=level, task=task)
            for step in ("setup", "train"):
                start = time.monotonic()
                well(make(project, step, offline=step != "setup"))
                TIMES[f"make {step}, level {level}, {task}"] = time.monotonic() - start
            known[level, task] = project
        return known[level, task]

    return _lived


@pytest.fixture(scope="session")
def home(lived: Callable[[int, str], Path]) -> Path:
    """Return the project of level 1, set up and trained."""
    return lived(1, "classification")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this worker measured, if it is one."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["times"] = TIMES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker measured."""
    TIMES.update(getattr(node, "workeroutput", {}).get("times", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured."""
    for name, seconds in TIMES.items():
        terminalreporter.write_line(f"{name}: {seconds:.1f} s")
