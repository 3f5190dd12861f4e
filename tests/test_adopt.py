"""Strangers' files are adopted by their user's command; afterwards every command works with no code written."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request

import ask
import pytest
from conftest import Render, commit, git, make, must, share_environment, tree, well

pytestmark = pytest.mark.life

Lived = Callable[[int, str], Path]
ROWS = 500
ROW = "{},p{}@example.org,{},{}.{:03},{},{:02}.{:02}.2023,Notiz {},{}\n"
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command, and prints the most memory that one of its processes had, in KiB."""


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
    [
        pytest.param(1, "classification", either, id="two classes"),
        pytest.param(1, "classification", one_of_many, id="many classes"),
        pytest.param(0, "regression", quantity, id="a quantity"),
        pytest.param(2, "classification", one_of_many, id="many classes, level 2", marks=pytest.mark.thorough),
        pytest.param(2, "regression", quantity, id="a quantity, level 2", marks=pytest.mark.thorough),
    ],
)
def test_every_command_works_afterwards(
    project: Path, tmp_path: Path, level: int, answer: Callable[[float, random.Random], object]
) -> None:
    lines = strangers_file(tmp_path / "Neue Kunden.csv", answer)
    said = well(make(project, "adopt", f"DATA={tmp_path / 'Neue Kunden.csv'}", "TARGET=answer"))
    assert "next: commit these, if they are right, and make train" in said
    settings = (project / "config/data.yaml").read_text(encoding="utf-8")
    assert "csv: {separator: ;, decimal: ',', encoding: latin-1, missing: [NA]}" in settings
    assert ("positive: kündigt" in settings) == (answer is either)
    commit(project, "Adopted")
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
    if level == 2:
        newest = max((project / "runs").glob("*.json")).stem
        assert "is reproduced" in well(make(project, "reproduce", f"RUN={newest}", "THREADS=1"))
        assert "trials are done" in well(make(project, "tune"))
        assert "rows queued" in well(make(project, "queue", "N=5"))


@pytest.mark.parametrize(("level", "task"), [(1, "classification")])
def test_notebook_runs_on_other_data(project: Path, tmp_path: Path) -> None:
    strangers_file(tmp_path / "rows.csv", one_of_many)
    well(make(project, "adopt", f"DATA={tmp_path / 'rows.csv'}", "TARGET=answer"))
    options = ("--to=notebook", "--execute", f"--output-dir={tmp_path}", "notebooks/explore.ipynb")
    must([project / ".venv/bin/python", "-m", "nbconvert", *options], project, JUPYTER_RUNTIME_DIR=str(tmp_path))


def test_a_clone_has_the_bytes_of_data_and_labels(render: Render, tmp_path: Path) -> None:
    """Also where lines, or cells of several lines, end as on Windows: their digests stand in records."""
    project, clone, content = render(maturity_level=2), tmp_path / "clone", b'a,b\r\n1,"two\r\nlines"\r\n'
    files = ("data/rows.csv", "labels/answers.csv")
    for name in files:
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_bytes(content)
    commit(project)
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    assert [(clone / name).read_bytes() for name in files] == [content] * 2


@pytest.mark.thorough
@pytest.mark.parametrize(("level", "task"), [(1, "classification")])
def test_a_million_rows_need_less_than_two_gibibytes(project: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    with (tmp_path / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("Kunden-ID,E-Mail,Alter,Größe,Tarif,seit,Notiz,answer\n")
        for i in range(1_000_000):
            day, month, word = draw.randint(1, 28), draw.randint(1, 12), draw.choice(("klein", "groß"))
            cells = (i, i, draw.randint(18, 80), draw.randint(1, 2), draw.randint(0, 999), word, day, month)
            file.write(ROW.format(*cells, draw.random(), draw.choice(("bleibt", "kündigt"))))
    words = ("make", "adopt", f"DATA={tmp_path / 'rows.csv'}", "TARGET=answer")
    said = must([sys.executable, "-c", MEASURED, *words], project)
    assert "from 1000000 rows" in said
    assert int(said.splitlines()[-1]) / 1024**2 < 2


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
