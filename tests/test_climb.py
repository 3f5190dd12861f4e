"""Raising and lowering the level, and taking a newer template: commuting squares, and the user's own work survives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
from conftest import Render, commit, copied_tree, git, must, run, tree
from manifest import entries

ANSWERS = ".copier-answers.yml"
TASKS = ("classification", "regression")
RISES = [(low, high) for high in range(1, 5) for low in range(high)]
NOTE = "# mine, and nobody else's\n"


def update(folder: Path, **answers: Any) -> None:
    """Raise or lower a committed project without any trust."""
    copier.run_update(folder, data=answers, defaults=True, overwrite=True, quiet=True)


def starters(level: int) -> list[str]:
    return [
        entry.path.replace("{{ package_name }}", "flight_delays")
        for entry in entries()
        if entry.starter and entry.level == level
    ]


def without_answers(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if name != ANSWERS}


@pytest.fixture
def born(render: Render) -> Callable[..., Path]:
    """A function that renders a project and commits it, as `make setup` does."""

    def _born(**answers: Any) -> Path:
        folder = render(**answers)
        commit(folder, "Start the project")
        return folder

    return _born


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("low", "high"), RISES)
def test_raised_project_equals_a_fresh_one(
    born: Callable[..., Path], render: Render, task: str, low: int, high: int
) -> None:
    raised = born(task=task, maturity_level=low)
    before = tree(raised)
    update(raised, maturity_level=high)
    fresh = tree(render(task=task, maturity_level=high))
    assert tree(raised) == fresh
    assert len(fresh) > len(before), "a level adds files, or this test shows nothing"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("low", "high"), RISES)
def test_lowered_project_keeps_its_starters(
    born: Callable[..., Path], render: Render, task: str, low: int, high: int
) -> None:
    lowered = born(task=task, maturity_level=high)
    update(lowered, maturity_level=low)
    fresh, kept = tree(render(task=task, maturity_level=low)), tree(lowered)
    assert fresh.pop(ANSWERS).replace(f"unlocked: {low}".encode(), f"unlocked: {high}".encode()) == kept.pop(ANSWERS)
    for level in range(low + 1, high + 1):
        for name in starters(level):
            assert kept.pop(name), f"{name} is the user's and stays"
    assert kept == fresh


def test_lowered_and_raised_again(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=1)
    (folder / starters(1)[0]).unlink()
    commit(folder)
    before = tree(folder)
    for level in (0, 1):
        update(folder, maturity_level=level)
        commit(folder)
    assert tree(folder) == before


def test_edits_of_starters_survive(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=0)
    edited, deleted = folder / "src/flight_delays/features.py", folder / "src/flight_delays/collect.py"
    table, readme = folder / "data/weather.parquet", folder / "README.md"
    edited.write_text(edited.read_text() + NOTE)
    table.write_bytes(b"my own bytes\0")
    readme.write_text(NOTE)
    deleted.unlink()
    shutil.rmtree(folder / "notebooks", ignore_errors=True)
    commit(folder)
    update(folder, maturity_level=1)
    assert edited.read_text().endswith(NOTE)
    assert table.read_bytes() == b"my own bytes\0"
    assert readme.read_text() == NOTE
    assert not deleted.exists()
    assert not (folder / "notebooks").exists()
    assert (folder / starters(1)[0]).exists()


def test_edits_of_managed_files_survive(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=0)
    project = folder / "pyproject.toml"
    added = (
        project.read_text()
        .replace('  "typer', '  "my-own-library>=1",\n  "typer')
        .replace("\n[build-system]", '\n[tool.mine]\nkey = "value"\n\n[build-system]')
    )
    project.write_text(added)
    makefile = folder / "Makefile"
    makefile.write_text(makefile.read_text() + "\nmine: ## my own target\n\t@echo mine\n")
    commit(folder)
    update(folder, maturity_level=1)
    text = project.read_text()
    assert "my-own-library" in text
    assert "[tool.mine]" in text
    assert "Level 1" in text
    assert "my own target" in makefile.read_text()
    assert "<<<<<<<" not in "".join(path.read_text() for path in (project, makefile))


def test_files_that_the_user_added_survive_a_fall(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=1)
    mine = folder / "tests" / "test_mine.py"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(NOTE)
    commit(folder)
    update(folder, maturity_level=0)
    assert mine.read_text() == NOTE


def test_newer_template_without_trust(tmp_path: Path) -> None:
    source, folder = copied_tree(tmp_path / "source"), tmp_path / "project"
    commit(source, "Release", "v0.0.1")
    said = must(["copier", "copy", "--defaults", source, folder], tmp_path)
    assert "--trust" not in said
    commit(folder)
    edited = folder / "src/flight_delays/features.py"
    edited.write_text(edited.read_text() + NOTE)
    commit(folder)
    for name, old, new in (
        ("template/Makefile.jinja", "open the notebooks", "open the notebooks in the browser"),
        ("template/src/{{ package_name }}/features.py", "import numpy as np", "import numpy"),
    ):
        text = (source / name).read_text()
        assert old in text
        (source / name).write_text(text.replace(old, new))
    commit(source, "Release", "v0.0.2")
    must(["copier", "update", "--defaults"], folder)
    assert "in the browser" in (folder / "Makefile").read_text()
    assert edited.read_text().endswith(NOTE), "a starter is never merged"
    assert "import numpy\n" not in edited.read_text()
    assert "_commit: v0.0.2" in (folder / ANSWERS).read_text()
    assert git(folder, "diff", "--name-only").split() == [ANSWERS, "Makefile"]


def test_uncommitted_work_is_refused(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=0)
    (folder / "README.md").write_text(NOTE)
    done = run(["copier", "update", "--defaults", "--data", "maturity_level=1"], folder)
    assert done.returncode != 0
    assert (folder / "README.md").read_text() == NOTE


def test_level_outside_the_choices_is_refused(tmp_path: Path, template: Path) -> None:
    done = run(["copier", "copy", "--defaults", "--data", "maturity_level=7", template, tmp_path / "p"], tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "p").exists()


def test_managed_files_fall_with_the_level(born: Callable[..., Path]) -> None:
    folder = born(maturity_level=1)
    update(folder, maturity_level=0)
    left = [
        entry.path for entry in entries() if entry.level == 1 and not entry.starter and (folder / entry.path).is_file()
    ]
    assert left == []
    assert without_answers(folder)
