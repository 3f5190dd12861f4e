"""Faults of the simulation, planted in rows of the default data: each is caught, and what has none stays quiet.

With THOROUGH in the environment a hundred times each, else a few times.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.monitor import Monitor, health, quality
from flight_delays.ops.monitor.scene import Clock, Rows, Scene
from flight_delays.ops.pipeline import bring
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.retrain.faults import FAULTS, Traffic, planted
from flight_delays.ops.retrain.faults import World as Source
from flight_delays.ops.retrain.past import Pupil, World
from flight_delays.ops.stages import gathered
from numpy.random import Generator

REPEATS = 100 if os.environ.get("THOROUGH") else 4
WINDOW, LATER = 500, 0.2
CAUGHT_BY = {
    "covariate": {"data drift"},
    "unit": {"data drift"},
    "nulls": {"data drift"},
    "concept": {"quality"},
    "label": {"data drift", "prediction drift"},
}
"""Each fault, and the signals of which one has to alarm."""


@pytest.fixture(scope="module")
def place() -> tuple[World, Pupil, np.ndarray]:
    """The default data; a model that learned from half of the rows of all but the last months; rows it has not seen."""
    data, case, model = load(Data), load(Case), load(Model)
    bring(data, "")
    world = World(gathered(data, model), data, case, model, Policy(), Monitor())
    drawn = np.random.default_rng(0).permutation(int((1 - LATER) * len(world.rows)))
    half, rest = len(drawn) // 2, len(drawn) * 3 // 4
    pupil = world.pupils[world.learn(np.sort(drawn[:half]), np.sort(drawn[half:rest]))]
    return world, pupil, np.sort(drawn[rest:])


def scene(world: World, pupil: Pupil, sent: Traffic) -> Scene:
    """Return what monitors see of two windows that were sent, with all their truth."""
    count = len(sent)
    columns = dict(sent.columns)
    packed = pupil.bundle.prepare(columns)
    ids = np.array([f"{row:06}" for row in range(count)], dtype=object)
    truth = np.asarray(sent.told, dtype=np.float64)
    rows = Rows(np.arange(float(count)), ids, columns, packed, pupil.bundle.scorer.run(packed), truth)
    clock = Clock(0.0, 0.0, 0.0, float(count), float(count), count, float(count))
    about = (Monitor(), Policy(), world.data, world.model, pupil.bundle, pupil.promise, clock, rows)
    return Scene(*about, rows.part(WINDOW, count), rows.part(0, WINDOW))


def alarms(seen: Scene) -> set[str]:
    """Return the signals that alarm, of those that may start a retraining."""
    found = [*health.data_drift(seen), *health.prediction_drift(seen), *quality.quality(seen)]
    return {verdict.signal for verdict in found if verdict.state == "alarm"}


def source(world: World, rows: np.ndarray) -> Source:
    some = world.rows.take(rows)
    inputs = {one.name: some.columns[one.name] for one in world.signature.inputs}
    return Source(Traffic(inputs, some.target, some.target), world.signature, frozenset(inputs))


@pytest.mark.parametrize("fault", CAUGHT_BY)
def test_a_planted_fault_is_caught(place: tuple[World, Pupil, np.ndarray], fault: str) -> None:
    world, pupil, rows = place
    assert fault in FAULTS
    found = [
        alarms(scene(world, pupil, planted(fault, 2 * WINDOW, source(world, rows), seed))) for seed in range(REPEATS)
    ]
    assert sum(bool(one & CAUGHT_BY[fault]) for one in found) == REPEATS, found


def test_months_that_it_learned_from_stay_quiet(place: tuple[World, Pupil, np.ndarray]) -> None:
    """The negative control of the test above."""
    world, pupil, rows = place
    found = [
        alarms(scene(world, pupil, planted("none", 2 * WINDOW, source(world, rows), seed))) for seed in range(REPEATS)
    ]
    assert sum(map(bool, found)) <= REPEATS // 50, found


def test_later_months_are_what_they_are(place: tuple[World, Pupil, np.ndarray]) -> None:
    """Their weather is another one, and the model is as good as it promised."""
    world, pupil, _ = place
    first, end = int((1 - LATER) * len(world.rows)), len(world.rows)
    random: Generator = np.random.default_rng(0)
    starts = random.integers(first, end - 2 * WINDOW, REPEATS)
    every = source(world, np.arange(end)).rows
    found = [alarms(scene(world, pupil, every.take(np.arange(start, start + 2 * WINDOW)))) for start in starts]
    told = {signal: sum(signal in one for one in found) for signal in ("data drift", "prediction drift", "quality")}
    print(f"of {REPEATS} pairs of windows of later months alarm: {told}")
    assert told["data drift"] == REPEATS
