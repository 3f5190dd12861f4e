"""Every climb and fall between the levels of the real template, untouched and with a user's work in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import copier
import pytest
from conftest import OFFERED, ROOT, Render, commit, copied_tree, git, tree
from manifest import entries
from tiny import ANSWERS, state

from mlops_ladder.drift import drifted
from mlops_ladder.plan import CURRENT, applied, planned

PAIRS = [(old, new) for old in OFFERED for new in OFFERED if old != new]
RISES = [pair for pair in PAIRS if pair[0] < pair[1]]
FALLS = [pair for pair in PAIRS if pair[0] > pair[1]]
MINE = "# mine, and nobody else's\n"
OF_LEVEL = {1: "mk/1.mk", 2: "mk/2.mk", 3: "mk/3.mk", 4: "mk/4.mk"}
"""A managed file that comes with each level."""
TASKS = [
    "classification",
    pytest.param("regression", marks=pytest.mark.thorough),
]


def starters(level: int) -> set[str]:
    """Return the user's files that come with a level."""
    found = (entry for entry in entries() if entry.starter and entry.level == level)
    return {entry.path.replace("{{ package_name }}", "flight_delays") for entry in found}


@pytest.fixture(scope="module")
def fresh(render: Render) -> Callable[..., Path]:
    """A function that gives a committed project of a level, which nobody may change."""
    known: dict[tuple[int, str], Path] = {}

    def _fresh(level: int, task: str) -> Path:
        if (level, task) not in known:
            known[level, task] = render(maturity_level=level, task=task)
            commit(known[level, task], "Start")
        return known[level, task]

    return _fresh


@pytest.fixture
def born(fresh: Callable[..., Path], tmp_path: Path) -> Callable[[int, str], Path]:
    """A function that gives a committed project of a level, to live in."""

    def _born(level: int, task: str = "classification") -> Path:
        return Path(shutil.copytree(fresh(level, task), tmp_path / "project", symlinks=True))

    return _born


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("low", "high"), RISES)
def test_a_climb_equals_a_fresh_copy(
    born: Callable[..., Path], fresh: Callable[[int, str], Path], task: str, low: int, high: int
) -> None:
    project = born(low, task)
    plan = planned(project, to=CURRENT, answers={"maturity_level": high})
    assert plan.clean
    assert {change.kind for change in plan.changes} == {"added", "updated"}
    applied(plan)
    assert state(project) == state(fresh(high, task))
    assert drifted_after_commit(project) == []


def drifted_after_commit(project: Path) -> list[str]:
    commit(project)
    drift = drifted(project)
    assert drift.truth is None
    return [file.path for file in drift.files]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("high", "low"), FALLS)
def test_a_fall_equals_a_fresh_copy_and_the_users_files(
    born: Callable[..., Path], fresh: Callable[[int, str], Path], task: str, high: int, low: int
) -> None:
    project = born(high, task)
    plan = planned(project, to=CURRENT, answers={"maturity_level": low})
    assert plan.clean
    applied(plan)
    mine = {name for level in range(low + 1, high + 1) for name in starters(level)}
    assert mine
    assert {change.path for change in plan.of("kept")} == mine
    kept, expected = tree(project), tree(fresh(low, task))
    assert {name for name in kept if name in mine} == mine
    water, lower = f"unlocked: {high}".encode(), f"unlocked: {low}".encode()
    assert kept.pop(ANSWERS) == expected.pop(ANSWERS).replace(lower, water)
    assert {name: content for name, content in kept.items() if name not in mine} == expected
    assert drifted_after_commit(project) == []


def worked_in(project: Path, level: int) -> dict[str, bytes]:
    """Do what a user does in a project, and return the files that must be there afterwards, to the byte."""
    own = {
        "src/flight_delays/features.py": MINE,
        "config/model.yaml": MINE,
        "README.md": MINE,
        "src/flight_delays/ops/own.py": MINE,
        "notes with blanks/ünï.txt": MINE,
        "mk/own.txt": MINE,
    }
    for name, text in own.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    for name in [OF_LEVEL[each] for each in range(1, level + 1)]:
        (project / name).write_text((project / name).read_text() + MINE)
    lines = (project / "pyproject.toml").read_text()
    assert '  "typer' in lines
    (project / "pyproject.toml").write_text(lines.replace('  "typer', '  "my-own-library>=1",\n  "typer'))
    makefile = project / "Makefile"
    makefile.write_text(f"{makefile.read_text()}\nmine: ## my own target\n\t@echo mine\n")
    (project / "src/flight_delays/ops/contract.py").write_text(MINE)
    (project / "src/flight_delays/model.py").unlink()
    (project / ".gitattributes").unlink()
    commit(project)
    return {name: text.encode() for name, text in own.items()}


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_nothing_of_the_user_is_lost(born: Callable[..., Path], old: int, new: int) -> None:
    project = born(old, "classification")
    own = worked_in(project, old)
    plan = planned(project, to=CURRENT, answers={"maturity_level": new})
    dropped = [OF_LEVEL[level] for level in range(new + 1, old + 1)]
    assert [change.path for change in plan.of("lost")] == dropped
    assert plan.of("conflict") == []
    applied(plan, keep=True)
    after = tree(project)
    assert {name: after.get(name) for name in own} == own
    for name in [OF_LEVEL[level] for level in range(1, old + 1)]:
        assert after[name].decode().endswith(MINE)
    assert b"my-own-library" in after["pyproject.toml"]
    assert after["Makefile"].endswith(b"@echo mine\n")
    assert after["src/flight_delays/ops/contract.py"].decode() == MINE
    assert not {"src/flight_delays/model.py", ".gitattributes"} & after.keys()
    assert {path for path in starters(new) if not (project / path).exists()} <= {"src/flight_delays/model.py"}


@pytest.mark.parametrize("low", [0, 2])
def test_a_newer_template_and_a_higher_level_at_once_are_as_copiers(tmp_path: Path, low: int) -> None:
    source, project, other = tmp_path / "source", tmp_path / "project", tmp_path / "other"
    commit(copied_tree(source), "Release", "v0.0.1")
    copier.run_copy(str(source), project, data={"maturity_level": low}, defaults=True, quiet=True)
    commit(project)
    for name, old, new in (
        ("template/Makefile.jinja", "open the notebooks", "open the notebooks in the browser"),
        ("template/src/{{ package_name }}/features.py", "import numpy as np", "import numpy"),
        ("template/.gitignore", "/dist/", "/dist/\n/more/"),
    ):
        text = (source / name).read_text()
        assert old in text
        (source / name).write_text(text.replace(old, new))
    commit(source, "Release", "v0.0.2")
    edited = project / "src/flight_delays/features.py"
    edited.write_text(edited.read_text() + MINE)
    (project / ".gitignore").write_text((project / ".gitignore").read_text() + "/mine/\n")
    commit(project)
    shutil.copytree(project, other, symlinks=True)
    copier.run_update(other, data={"maturity_level": low + 1}, defaults=True, overwrite=True, quiet=True)
    plan = planned(project, answers={"maturity_level": low + 1})
    assert plan.new == "v0.0.2"
    applied(plan)
    assert state(project) == state(other)
    assert "/more/" in (project / ".gitignore").read_text()


def test_drift_tells_what_differs_and_what_is_untrue(born: Callable[..., Path]) -> None:
    project = born(1)
    (project / "src/flight_delays/ops/contract.py").write_text(MINE)
    (project / "src/flight_delays/features.py").write_text(MINE)
    (project / "Dockerfile").unlink()
    commit(project)
    drift = drifted(project)
    assert drift.truth is None
    assert {(file.path, file.kind) for file in drift.files} == {
        ("Dockerfile", "deleted"),
        ("src/flight_delays/ops/contract.py", "edited"),
    }
    assert all(file.removed for file in drift.files)
    text = (project / ANSWERS).read_text()
    for old, new, sentence in (
        ("maturity_level: 1", "maturity_level: 2", "says level 2, and none of the"),
        ("maturity_level: 1", "maturity_level: 0", "says level 0, and"),
        ("license: MIT", "license: Mit", "license: Mit, which the recorded version takes as MIT"),
        ("unlocked: 1", "unlocked: 1\nmine: 3", "has mine: 3"),
    ):
        assert old in text
        (project / ANSWERS).write_text(text.replace(old, new))
        commit(project)
        truth = drifted(project).truth
        assert truth is not None
        assert sentence in truth
        git(project, "reset", "--quiet", "--hard", "HEAD~1")


def releases(changelog: str) -> list[str]:
    """Return the commits that a changelog names beside its versions."""
    return re.findall(r"^## .*\b([0-9a-f]{7,40})\b", changelog, re.MULTILINE)


def test_every_release_updates_to_the_working_tree(tmp_path: Path) -> None:
    """The last commit stands for a release that is not named yet."""
    assert releases("## Unreleased\n\n## 1.0.0 (2026-11-30, abcdef0)\n\nabcdef1\n") == ["abcdef0"]
    source = tmp_path / "source"
    git(ROOT, "clone", "--quiet", str(ROOT), str(source))
    for number, commit_of in enumerate([*releases((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")), "HEAD"]):
        git(source, "tag", f"v0.0.{number}", commit_of)
        project = tmp_path / f"project-{number}"
        copier.run_copy(str(source), project, vcs_ref=f"v0.0.{number}", defaults=True, quiet=True)
        commit(project)
    for name in git(source, "ls-files", "-z").split("\0")[:-1]:
        (source / name).unlink()
    commit(copied_tree(source), "The working tree", "v0.1.0")
    copier.run_copy(str(source), tmp_path / "fresh", defaults=True, quiet=True)
    for project in tmp_path.glob("project-*"):
        plan = planned(project)
        assert plan.clean
        applied(plan)
        assert state(project) == state(tmp_path / "fresh")
