"""The newest run is trained again before and after an update, by a project whose model is a number times another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import commit, git
from tiny import ANSWERS, FIRST, project_of, released, state

from mlops_ladder.plan import planned
from mlops_ladder.replay import Replay, replayed

COMMAND = """
import csv, pathlib, sys
from .factor import FACTOR
made = pathlib.Path("build/evaluation")
if sys.argv[1] == "data":
    cache = pathlib.Path(".dvc/config.local").read_text().split("dir = ")[1].strip()
    pathlib.Path("data.csv").write_bytes(pathlib.Path(cache, sys.argv[3]).read_bytes())
elif sys.argv[1:] == ["stage", "evaluate"]:
    made.mkdir(parents=True)
    (made / "model.onnx").write_text(str(FACTOR))
    (made / "unseen.csv").write_bytes(pathlib.Path("data.csv").read_bytes())
elif sys.argv[1] == "predict":
    factor = float(pathlib.Path("models/model.onnx").read_text())
    with open(sys.argv[3]) as rows, open(sys.argv[5], "w", newline="") as output:
        written = csv.writer(output)
        written.writerow(["x", "prediction", "probability_yes"])
        for row in csv.DictReader(rows):
            score = min(float(row["x"]) * factor, 1)
            written.writerow([row["x"], "yes" if score > 0.5 else "no", score])
"""
PACKAGE = {
    "copier.yml": f"package_name: {{type: str, default: small}}\n{FIRST['copier.yml']!s}",
    "template/src/small/ops/__init__.py": "",
    "template/src/small/ops/__main__.py": COMMAND,
    "template/src/small/ops/factor.py": "FACTOR = 1\n",
    "template/.dvc/config": "[core]\n    analytics = false\n",
    "template/.gitignore.jinja": "/.venv/\n/.dvc/cache/\n",
}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    released(
        tmp_path / "template",
        "v1",
        PACKAGE | {"template/.copier-answers.yml.jinja": FIRST["template/.copier-answers.yml.jinja"]},
    )
    return tmp_path / "template"


@pytest.fixture
def trained(template: Path, tmp_path: Path) -> Path:
    """A project with an environment, a run on record, and that run's data in its cache."""
    project = project_of(template, tmp_path / "project", maturity_level=2)
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (project / ".dvc" / "cache").mkdir()
    (project / ".dvc" / "cache" / "abc").write_text("x\n0.1\n0.3\n0.4\n0.9\n")
    (project / "runs").mkdir()
    for name, dirty in (("20260101-one", []), ("20260102-two", ["src/small/model.py"])):
        record = {"id": name, "dirty": dirty, "data": {"version": "abc"}}
        (project / "runs" / f"{name}.json").write_text(json.dumps(record))
    commit(project)
    return project


def test_nothing_changes(trained: Path, template: Path) -> None:
    released(template, "v2", {"template/fresh.py": "fresh = 1\n"})
    before = state(trained)
    found = replayed(planned(trained))
    assert found == Replay("20260101-one", 4, 0, 0.0)
    assert "0 of 4 predictions change." in found.sentence
    assert state(trained) == before


def test_what_changes_is_counted(trained: Path, template: Path) -> None:
    released(template, "v2", {"template/src/small/ops/factor.py": "FACTOR = 1.5\n"})
    found = replayed(planned(trained))
    assert isinstance(found, Replay)
    assert (found.rows, found.changed) == (4, 1)
    assert found.largest == pytest.approx(0.2)
    assert "1 of 4 predictions change (a number in them by 0.2 at most)." in found.sentence


def test_training_that_fails_under_the_new_template(trained: Path, template: Path) -> None:
    released(template, "v2", {"template/src/small/ops/factor.py": "import not_there\n"})
    found = replayed(planned(trained))
    assert isinstance(found, str)
    assert "could not be trained again: `data --version abc` failed after the update" in found
    assert "not_there" in found


def test_no_run_and_no_environment(trained: Path, template: Path) -> None:
    released(template, "v2", {"template/fresh.py": "fresh = 1\n"})
    (trained / ".venv" / "bin" / "python").unlink()
    found = replayed(planned(trained))
    assert isinstance(found, str)
    assert "`make setup`" in found
    git(trained, "rm", "-r", "--quiet", "runs")
    commit(trained)
    assert replayed(planned(trained)) is None


def test_the_command_replays_unless_told_not_to(
    trained: Path, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlops_ladder import commands

    released(template, "v2", {"template/src/small/ops/factor.py": "FACTOR = 1.5\n"})
    assert commands.update(trained, dry_run=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["replay"]["changed"] == 1
    assert commands.update(trained, dry_run=True, as_json=True, no_replay=True) == 0
    assert json.loads(capsys.readouterr().out)["replay"] is None
    assert commands.update(trained) == 0
    assert "1 of 4 predictions change" in capsys.readouterr().out
    assert "_commit: v2" in (trained / ANSWERS).read_text()
