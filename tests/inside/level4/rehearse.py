"""The rehearsal retrains after a change that was planted in a past, gains by it, and is quiet where nothing changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.contract import Columns, ProjectError
from flight_delays.ops.monitor import Monitor
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.retrain.past import World
from flight_delays.ops.retrain.policy import Cause, Course, replay
from flight_delays.ops.retrain.rehearse import ages, policies, rehearse

ROWS, CHANGE = 8_000, 5_000
DATA, CASE = load(Data), load(Case)
MODEL = load(Model).model_copy(update={"estimator": "LogisticRegression", "parameters": {}})
SETTINGS = Monitor()


def past(change: int = ROWS) -> Columns:
    """Draw rows of one distribution in which far flights are late, from a row on the near ones; one in ten by chance.

    They are 73 days apart, so that every window has all months and weekdays.
    """
    columns = drawn(DATA, MODEL.task, ROWS)
    random = np.random.default_rng(0)
    far = columns["distance"] > np.median(columns["distance"])
    late = np.where(np.arange(ROWS) < change, far, ~far) ^ (random.random(ROWS) < 0.1)
    times = np.datetime64("2020-01-01", "us") + np.arange(ROWS) * np.timedelta64(73, "D")
    return {**columns, "late": late.astype(np.float64), "scheduled": times}


def world(columns: Columns, data: Data = DATA) -> World:
    return World(columns, data, CASE, MODEL, Policy(), SETTINGS)


def lived(found: World) -> Course:
    return replay(found, SETTINGS, lambda _: None)


def test_it_retrains_after_a_change_and_gains() -> None:
    found = world(past(CHANGE))
    course = lived(found)
    before = (CHANGE - found.start) // found.size
    assert course.retrainings
    assert all(one.window >= before for one in course.retrainings)
    taken = [one for one in found.measured(course) if not one.refused]
    assert taken[0].cause.signal == "quality"
    assert taken[0].window <= before + 2
    assert taken[0].gain is not None
    assert taken[0].gain.low > 0.1
    assert taken[0].helped


def test_one_distribution_is_left_alone() -> None:
    found = world(past())
    course = lived(found)
    assert course.retrainings == []
    assert set(course.live) == {found.first}


def test_a_model_ages_where_the_world_changes() -> None:
    assert ages(world(past(2_200)))[-1].low > 0.1
    assert all(abs(age.lost) < 0.02 for age in ages(world(past())))  # more rows to learn from are worth a little


def test_the_page_tells_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same."""
    monkeypatch.chdir(tmp_path)
    pages = []
    for _ in range(2):
        page = rehearse(world(past(CHANGE)), lambda _: None)
        pages.append(page.read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert "surely helped." in pages[0]
    assert "http" not in pages[0].replace("http://www.w3.org", "")
    facts = json.loads(page.with_suffix(".json").read_bytes())
    assert set(facts["policies"]) == set(policies(SETTINGS))
    assert facts["policies"]["never"] == []


def test_a_class_that_comes_later_is_answered_with_nothing_until_then() -> None:
    """The first model knows two of three classes; its answers have a place for each, in their order."""
    columns = past(CHANGE)
    kinds = np.where(columns["late"] == 1, "c", "a").astype(object)
    kinds[ROWS // 2 :: 3] = "b"
    data = {**DATA.columns, "late": DATA.columns["late"].model_copy(update={"type": "text"})}
    found = world({**columns, "late": kinds}, DATA.model_copy(update={"columns": data}))
    raw = found.pupils[found.first].answers.raw
    assert (found.signature.classes, raw.shape) == (("a", "b", "c"), (ROWS, 3))
    assert raw[:, 1].max() == 0
    assert raw[:, [0, 2]].max(axis=1).min() > 0.4
    assert lived(found).live[0] == found.first


def test_one_class_alone_teaches_nothing() -> None:
    """From a row on all are late, and the recent rows alone are to be learned from."""
    columns = past()
    found = world({**columns, "late": np.where(np.arange(ROWS) > CHANGE, 1.0, columns["late"])})
    recent = SETTINGS.model_copy(update={"retrain": SETTINGS.retrain.model_copy(update={"window": "recent"})})
    course = Course(recent, [found.first] * found.windows)
    cause = Cause("data drift", ("distance",), float(found.times[CHANGE + 1]), 1, found.first, 1, "It drifts.")
    assert found.learned(course, cause)[::2] == (found.first, ("training",))


def test_without_a_time_there_is_no_past() -> None:
    timeless = DATA.model_copy(update={"time": None})
    with pytest.raises(ProjectError, match=r"config/data.yaml, time: missing"):
        world(past(), timeless)


def test_a_short_past_is_refused() -> None:
    few = {name: values[:2_000] for name, values in past().items()}
    with pytest.raises(ProjectError, match="2000 rows with a time are too few"):
        world(few)


def test_the_verb_lives_through_the_default_data(tmp_path: Path) -> None:
    """With a small estimator, in a copy of the settings: the months of 2013."""
    for name in ("src", ".git", ".dvc", "data", "pyproject.toml", "uv.lock"):
        if Path(name).exists():
            (tmp_path / name).symlink_to(Path(name).resolve())
    (tmp_path / "config").mkdir()
    for file in Path("config").iterdir():
        text = file.read_text(encoding="utf-8")
        if file.name == "model.yaml":
            lines = [line for line in text.splitlines() if not line.startswith("parameters")]
            text = "\n".join(lines).replace("RandomForestClassifier", "LogisticRegression")
        (tmp_path / "config" / file.name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "flight_delays.ops", "rehearse"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("wrote reports/rehearsal.html\n")
    assert "4 April 2013 to 31 December 2013" in (tmp_path / "reports/rehearsal.html").read_text(encoding="utf-8")
