"""Tuning on planted rows: noise, a bound, time, and a kill. Run by `test_tune.py` with a project's environment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    load,
)
from flight_delays.ops.evaluate import (
    compare,
    contest,
    importance,
)
from flight_delays.ops.evaluate import (
    evaluate as measured,
)
from flight_delays.ops.scorer import (
    Packed,
    Signature,
)
from flight_delays.ops.train import (
    Examples,
)
from flight_delays.ops.train import (
    tune as room,
)
from flight_delays.ops.train.space import (
    Range,
    Tuning,
)
from sklearn.tree import DecisionTreeClassifier

ROWS = 1_200
DATA = load(Data)
CASE = load(Case)
MODEL = load(Model).model_copy(
    update={"estimator": "DecisionTreeClassifier", "metric": "roc_auc", "parameters": {"max_depth": 2}}
)
DEPTH = {"max_depth": Range(low=1, high=4)}
TUNING = Tuning(trials=6, splits=2, rows=ROWS, space=DEPTH)
SEARCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import tune as me
def tell(known, best):
    print(known, flush=True)
me.room.tune(me.rows("deep"), me.DATA, me.MODEL, me.TUNING, tell, Path(sys.argv[1]))
"""


def rows(kind: str, seed: int = 0) -> Examples:
    """Rows over a year whose answer is noise, or hangs on eight inputs at once, which takes a deep tree."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(ROWS, 8)).astype(np.float32)
    target = rng.integers(0, 2, ROWS) if kind == "noise" else ((numbers > 0).sum(axis=1) > 4).astype(int)
    times = np.datetime64("2020-01-01", "us") + np.arange(ROWS) * np.timedelta64(8, "h")
    return Examples({"scheduled": times}, Packed(numbers, np.empty((ROWS, 0), dtype=object)), target)


def test_noise_does_not_beat_the_default(tmp_path: Path) -> None:
    beaten = [
        room.tune(rows("noise", seed), DATA, MODEL, TUNING, lambda *_: None, tmp_path / f"{seed}.db").beaten
        for seed in range(4)
    ]
    assert sum(beaten) <= 1  # the interval covers 95 of 100


def test_a_better_depth_beats_it_and_lies_on_the_bound(tmp_path: Path) -> None:
    outcome = room.tune(rows("deep"), DATA, MODEL, TUNING, lambda *_: None, tmp_path / "a.db")
    assert outcome.beaten
    assert outcome.best.parameters == {"max_depth": 4}
    assert [
        warning for warning in outcome.warnings if "max_depth (4) lies on the bound of its range (1 to 4)" in warning
    ]
    wide = TUNING.model_copy(update={"trials": 12, "space": {"max_depth": Range(low=1, high=60)}})
    outcome = room.tune(rows("deep"), DATA, MODEL, wide, lambda *_: None, tmp_path / "a.db")
    assert not [warning for warning in outcome.warnings if "bound" in warning]


def test_a_default_outside_the_space_is_tried_and_a_refused_value_is_told(tmp_path: Path) -> None:
    odd = TUNING.model_copy(update={"space": {"max_depth": Range(choices=[3, -1])}})
    outcome = room.tune(rows("deep"), DATA, MODEL, odd, lambda *_: None, tmp_path / "a.db")
    assert outcome.default.parameters == {"max_depth": 2}
    assert outcome.best.parameters == {"max_depth": 3}
    assert [warning for warning in outcome.warnings if "trials were refused" in warning]


def test_each_split_measures_on_later_rows_and_the_last_chooses_nothing() -> None:
    learn = rows("noise")
    order = Examples(learn.columns, Packed(np.arange(ROWS, dtype=np.float32)[:, None], learn.packed.text), learn.target)
    pairs = room.splits(order, DATA, MODEL, TUNING)
    assert len(pairs) == 3
    seen = [(known.packed.numbers.max(), later.packed.numbers.min()) for known, later in pairs]
    assert all(before < after for before, after in seen)
    *choosing, last = pairs
    chosen = np.concatenate([part.packed.numbers for pair in choosing for part in pair])
    assert chosen.max() < last[1].packed.numbers.min()
    timeless = room.splits(order, DATA.model_copy(update={"time": None}), MODEL, TUNING)
    chosen = np.concatenate([part.packed.numbers for pair in timeless[:-1] for part in pair])
    assert not set(chosen.ravel()) & set(timeless[-1][1].packed.numbers.ravel())


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    """Killed in the middle, it finds what it would have found, and no trial is lost or done twice."""
    whole = room.tune(rows("deep"), DATA, MODEL, TUNING, lambda *_: None, tmp_path / "whole.db")
    store = tmp_path / "killed.db"
    command = [sys.executable, "-c", SEARCH, str(store), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if int(line) >= 2:
                time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                break
    told: list[int] = []
    after = room.tune(rows("deep"), DATA, MODEL, TUNING, lambda known, _: told.append(known), store)
    assert told[0] >= 2
    assert after.trials == whole.trials
    assert after.gain == whole.gain


def test_other_rows_or_another_space_are_another_search(tmp_path: Path) -> None:
    store = tmp_path / "a.db"
    for learn, space in (
        (rows("deep"), DEPTH),
        (rows("noise"), DEPTH),
        (rows("deep"), {"max_depth": Range(low=1, high=5)}),
    ):
        room.tune(learn, DATA, MODEL, TUNING.model_copy(update={"space": space}), lambda *_: None, store)
    assert len(optuna.get_all_study_names(f"sqlite:///{store}")) == 3


def test_a_needed_feature_is_missed_and_a_double_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(ROWS, 4)).astype(np.float32)
    numbers[:, 1] = numbers[:, 0]
    target = (numbers[:, 0] + numbers[:, 2] + rng.normal(size=ROWS) > 0).astype(int)
    every = Examples(
        {"scheduled": rows("deep").columns["scheduled"]}, Packed(numbers, np.empty((ROWS, 0), object)), target
    )
    learn, test = every.take(np.arange(ROWS) < 800), every.take(np.arange(ROWS) >= 800)
    signature = Signature("toy", "0", "classification", "y", None, (), ("one", "double", "two", "idle"), (), (0, 1))
    outcome = contest(learn, test, signature, MODEL, DecisionTreeClassifier(max_depth=5, random_state=0))
    worth = {feature.name: feature for feature in importance.worth(outcome.entrants[-1], learn, test, MODEL).features}
    assert worth["two"].left_out is not None
    assert worth["two"].left_out.low > 0
    assert worth["two"].shuffled.low > 0
    for name in ("one", "double"):
        assert worth[name].left_out.low <= 0
    assert max(worth["one"].shuffled.low, worth["double"].shuffled.low) > 0
    assert worth["idle"].left_out.low <= 0
    data = DATA.model_copy(update={"slices": [], "columns": {"scheduled": DATA.columns["scheduled"]}})
    monkeypatch.setattr(type(data), "inputs", property(lambda _: {}))
    monkeypatch.chdir(tmp_path)
    champion = tmp_path / "champion.onnx"
    champion.write_bytes(outcome.kept.content)
    e = measured(outcome, learn, test, data.model_copy(update={"time": None}), CASE, MODEL)
    assert "byte for byte" in compare.against(e, outcome, test, data, MODEL, champion).shown
    assert "No champion yet" in compare.against(e, outcome, test, data, MODEL, None).shown
    curve = compare.curve(e, outcome, learn, test, MODEL).facts["learning_curve"]
    assert list(curve) == ["200", "400", "800"]
    assert compare.curve(e, outcome, learn, test, MODEL).facts["learning_curve"] == curve
