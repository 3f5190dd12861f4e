"""Labels lived with: people are asked, disagree, are taken in once, and training learns from what they said."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import commit, git, make, must, share_environment, well

pytestmark = pytest.mark.life

ASKED = 20
BOTH = ["classification", pytest.param("regression", marks=pytest.mark.thorough)]


@pytest.fixture(params=BOTH)
def project(request: pytest.FixtureRequest, lived: Callable[[int, str], Path], tmp_path: Path) -> Path:
    """Return a copy of a trained project of level 2 that uses the same environment."""
    source, folder = lived(2, request.param), tmp_path / "project"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".venv", ".git"), symlinks=True)
    share_environment(source, folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".git" / "info" / "exclude").write_text(".venv\n")
    commit(folder, "Start the project")
    return folder


def queued(project: Path) -> list[dict[str, str]]:
    with (project / "labels" / "queue.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def trained(project: Path) -> tuple[int, str | None]:
    """Train, and return how many rows there were and which labels the newest record names."""
    well(make(project, "train"))
    newest = max((project / "runs").glob("*.json"))
    return pq.read_metadata(project / "build" / "processed.parquet").num_rows, json.loads(newest.read_text())["labels"]


def test_people_are_asked_and_learned_from(project: Path) -> None:
    answers, labels = project / "labels" / "answers.csv", project / "labels"
    rows = pq.read_metadata(project / "build" / "processed.parquet").num_rows

    well(make(project, "queue", f"N={ASKED}"))
    asked, files = queued(project), {path.name: path.read_bytes() for path in labels.iterdir()}
    assert files.keys() == {"queue.csv", "tasks.json", "interface.xml"}
    doubts = [float(row["uncertainty"]) for row in asked]
    assert (len(asked), doubts) == (ASKED, sorted(doubts, reverse=True))
    well(make(project, "queue", f"N={ASKED}"))
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == files
    assert git(project, "status", "--short") == ""

    keys, (one, other) = [row["flight_id"] for row in asked], two_answers(asked)
    said = [f"{key},{one},ann" for key in keys] + [f"{key},{one},bob" for key in keys[1:5]] + [f"{keys[0]},{other},bob"]
    (project / "said.csv").write_text("\n".join(["flight_id,label,annotator", *said]) + "\n", encoding="utf-8")
    told = well(make(project, "labels", "FILE=said.csv"))
    assert f"{len(said)} answers taken in" in told
    assert f"{ASKED - 1} rows are labelled, 1 wait" in told
    assert keys[0] in told
    first = answers.read_bytes()
    assert "0 answers taken in" in well(make(project, "labels", "FILE=said.csv"))
    assert answers.read_bytes() == first
    well(make(project, "queue", f"N={ASKED}"))
    assert not {row["flight_id"] for row in queued(project)} & set(keys)

    export = project / "export.json"
    export.write_text((labels / "tasks.json").read_text(encoding="utf-8")[:-100], encoding="utf-8")
    done = make(project, "labels", "FILE=export.json")
    assert (done.returncode, done.stdout) != (0, "")
    assert "export.json: not JSON, or cut off" in done.stderr
    assert answers.read_bytes() == first

    (project / "said.csv").unlink()
    export.unlink()
    commit(project, "Answers")
    assert trained(project) == (rows + ASKED - 1, hashlib.sha256(first).hexdigest())
    settings = project / "config" / "labels.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("judge: null", "judge: ann"), encoding="utf-8")
    said_of_it = must([project / ".venv/bin/python", "-m", "flight_delays.ops", "stage", "process"], project)
    assert f"{rows + ASKED} rows" in said_of_it


def two_answers(asked: list[dict[str, str]]) -> tuple[str, str]:
    """Return two labels that the target can have."""
    return ("true", "false") if asked[0]["prediction"] in ("true", "false") else ("12", "90.5")
