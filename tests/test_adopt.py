"""Strangers' files are adopted by their user's command; afterwards every command works with no code written."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request

import ask
import pytest
from conftest import commit, git, make, must, share_environment, tree, well

pytestmark = pytest.mark.life

Lived = Callable[[int, str], Path]
ROWS = 500


@pytest.fixture
def project(lived: Lived, tmp_path: Path, level: int, task: str) -> Path:
    """Return a copy of a trained project, all of it committed."""
    folder, source = tmp_path / "project", lived(level, task)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".venv", ".git", "raw"), symlinks=True)
    share_environment(source, folder)
    commit(folder, "Start the project")
    return folder


def strangers_file(path: Path, answer: Callable[[float, random.Random], object]) -> list[str]:
    """Write a file with every trait at once, of a dialect of its own, and return its lines."""
    draw = random.Random(0)
    lines = ["Kunden-ID;Name;E-Mail;Alter;Geschlecht;Größe in m;Tarif;aktiv;seit;Land;leer;PLZ;Notiz;answer"]
    for i in range(ROWS):
        size = draw.gauss(1.7, 0.1)
        cells = (
            1000 + i,
            f"Person {i}",
            f"p{i}@example.org",
            draw.randint(18, 80),
            draw.choice("mw"),
            draw.choice(("", " ", "NA", *(f"{size:.3f}".replace(".", ",") for _ in range(20)))),
            draw.choice(("klein", "groß", "riesig")),
            draw.choice(("ja", "nein")),
            f"{draw.randint(1, 28):02}.{draw.randint(1, 12):02}.2023",
            "DE",
            "",
            f"{draw.randint(0, 99999):05}",
            f"Notiz {draw.random()}",
            answer(size, draw) if i % 50 else "",
        )
        lines.append(";".join(map(str, cells)))
    lines.append(lines[-1])
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return lines


def either(size: float, draw: random.Random) -> object:
    return "kündigt" if size + draw.gauss(0, 0.1) > 1.75 else "bleibt"


def one_of_many(size: float, draw: random.Random) -> object:
    return "abc"[min(max(int((size + draw.gauss(0, 0.05) - 1.55) * 10), 0), 2)]


def quantity(size: float, draw: random.Random) -> object:
    return f"{1000 * size + draw.gauss(0, 50):.2f}".replace(".", ",")


@pytest.mark.parametrize(
    ("level", "task", "answer"),
    [(1, "classification", either), (1, "classification", one_of_many), (0, "regression", quantity)],
    ids=["two classes", "many classes", "a quantity"],
)
def test_every_command_works_afterwards(
    project: Path, tmp_path: Path, level: int, answer: Callable[[float, random.Random], object]
) -> None:
    lines = strangers_file(tmp_path / "Neue Kunden.csv", answer)
    said = well(make(project, "adopt", f"DATA={tmp_path / 'Neue Kunden.csv'}", "TARGET=answer"))
    assert "next: make train" in said
    settings = (project / "config/data.yaml").read_text(encoding="utf-8")
    assert "csv: {separator: ;, decimal: ',', encoding: latin-1, missing: [NA]}" in settings
    assert ("positive: kündigt" in settings) == (answer is either)
    well(make(project, "train"))
    (tmp_path / "rows.csv").write_text("\n".join(lines[:6]) + "\n", encoding="latin-1")
    for source in ("outputs/unseen.csv", str(tmp_path / "rows.csv")):
        well(make(project, "predict", f"INPUT={source}", "OUTPUT=outputs/scored.csv"))
    with (project / "outputs/scored.csv").open(encoding="utf-8", newline="") as file:
        scored = [row["prediction"] for row in csv.DictReader(file)]
    assert len(scored) == 5
    python = project / ".venv/bin/python"
    must([python, "-m", "compileall", "-q", "src"], project)
    if level == 0:
        return
    well(make(project, "contract"))
    with ask.service(project) as address:
        request = Request(f"{address}/invocations", (tmp_path / "rows.csv").read_bytes(), {"Content-Type": "text/csv"})
        with ask.direct.open(request, timeout=30) as reply:
            assert json.load(reply)["predictions"] == scored
    for words in (
        ("ruff", "check"),
        ("ruff", "format", "--check"),
        ("mypy",),
        ("pytest", "-q", "tests/test_own.py"),
    ):
        must([python, "-m", *words], project)
    well(make(project, "guards"))


@pytest.mark.parametrize(("level", "task"), [(1, "classification")])
def test_notebook_runs_on_other_data(project: Path, tmp_path: Path) -> None:
    strangers_file(tmp_path / "rows.csv", one_of_many)
    well(make(project, "adopt", f"DATA={tmp_path / 'rows.csv'}", "TARGET=answer"))
    options = ("--to=notebook", "--execute", f"--output-dir={tmp_path}", "notebooks/explore.ipynb")
    must([project / ".venv/bin/python", "-m", "nbconvert", *options], project, JUPYTER_RUNTIME_DIR=str(tmp_path))


@pytest.mark.parametrize(("level", "task"), [(1, "classification")])
def test_nothing_is_lost_and_nothing_is_half_written(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    strangers_file(file, either)
    (project / "src/flight_delays/process.py").open("a", encoding="utf-8").write("# my own work\n")
    refusals = {
        ("DATA=absent.csv", "TARGET=answer"): r"absent\.csv not found",
        ("DATA=config", "TARGET=answer"): "is a folder",
        (f"DATA={file}", "TARGET=anwser"): "did you mean 'answer'",
        (f"DATA={file}", "TARGET=answer", "TASK=guessing"): "neither classification nor regression",
        (f"DATA={file}",): "make adopt DATA=",
    }
    before = tree(project)
    for words, told in refusals.items():
        done = make(project, "adopt", *words)
        assert re.match(rf"error: .*{told}.*\n(make: .*\n)?$", done.stderr), done.stderr
    git(project, "checkout", "--quiet", "--", "src")
    (project / "config/case.yaml").open("a", encoding="utf-8").write("# mine\n")
    before = tree(project)
    done = make(project, "adopt", f"DATA={file}", "TARGET=answer")
    assert re.search(r"error: config/case\.yaml: not committed", done.stderr), done.stderr
    assert tree(project) == before
