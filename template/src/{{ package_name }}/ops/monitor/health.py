"""Whether what comes in and goes out looks as it did in training, and whether it comes at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ..contract import Columns
from ..scorer import Signature
from . import Signal, State, Verdict
from .cells import Reference, Window, counted
from .drift import judge
from .scene import Promise, Rows, Scene, answers
from .words import Finding

STATES: dict[str, State] = {"quiet": "quiet", "suspected": "suspected", "drift": "alarm"}
SEVERITY = tuple(STATES)
HOUR, DAY = 3600, 86_400
SUM = 1e-3
"""How far probabilities may be from a sum of 1."""
Counts: TypeAlias = Callable[[Reference], tuple[Window | None, Window]]
"""Counts the window before, if there is one, and the window into the cells of a reference."""


def data_drift(scene: Scene) -> Iterator[Verdict]:
    """Judge every input column of the window, together with the window before, against the rows learned from."""
    signature = scene.bundle.scorer.signature
    if scene.rows is not None:
        yield from inputs_drift(
            scene.promise, signature, _counts(scene.before, scene.rows, lambda r: r.columns(signature))
        )


def prediction_drift(scene: Scene) -> Iterator[Verdict]:
    """Judge the answers: they drift if they look neither as to the rows learned from, nor as to those of the test.

    A model is surer of rows that it learned from than of any others, so that alone would drift for ever.
    """
    signature = scene.bundle.scorer.signature
    if scene.rows is not None:
        yield from answers_drift(scene.promise, _counts(scene.before, scene.rows, lambda r: answers(r.raw, signature)))


def inputs_drift(promise: Promise, signature: Signature, counts: Counts) -> Iterator[Verdict]:
    """Judge inputs by how many rows fall into each cell, wherever these were counted."""
    units = {one.name: one.unit for one in signature.inputs if one.unit}
    findings = judge(promise.inputs, *counts(promise.inputs), units).findings
    yield from (_verdict("data drift", found) for found in findings)


def answers_drift(promise: Promise, counts: Counts) -> Iterator[Verdict]:
    """Judge answers in the same way."""
    learned, tested = (
        {found.column: found for found in judge(reference, *counts(reference), {}).findings}
        for reference in (promise.learned, promise.tested)
    )
    for name, found in learned.items():
        of_test = tested.get(name, found)
        other = replace(of_test, sentence=of_test.sentence.replace("in training", "in the test"))
        nearer = min(found, other, key=lambda one: (SEVERITY.index(one.state), one.figure))
        yield _verdict("prediction drift", nearer)


def skew(scene: Scene) -> Iterator[Verdict]:
    """Work the features of the window out again from its inputs: those that the model was given must be the same."""
    if scene.rows is None:
        return
    signature, given = scene.bundle.scorer.signature, scene.rows.packed
    again = scene.bundle.prepare(scene.rows.columns(signature))
    near = scene.policy.parity.tolerance
    same = np.isclose(again.numbers, given.numbers, rtol=near, atol=near, equal_nan=True)
    other = np.concatenate([~same, again.text != given.text], axis=1)
    count, names = int(other.any(axis=1).sum()), [*signature.numbers, *signature.text]
    if not count:
        told = f"The features of {len(scene.rows)} answers, worked out again from their inputs, are the same."
        yield Verdict("skew", "features", "quiet", 0.0, 0.0, told)
    for place in np.flatnonzero(other.any(axis=0)):
        rows = int(other[:, place].sum())
        told = f"{names[place]} was another in {rows} of {len(scene.rows)} answers than its inputs give."
        yield Verdict("skew", names[place], "alarm", float(rows), 0.0, told)


def numbers(scene: Scene) -> Iterator[Verdict]:
    """Look at the answers as numbers: each is one, not all are the same, probabilities are shares of a whole."""
    if scene.rows is None:
        return
    raw, count = scene.rows.raw, len(scene.rows)
    shares = raw.reshape(count, -1)
    bad = ~np.isfinite(shares).all(axis=1)
    if scene.bundle.scorer.signature.classes:
        with np.errstate(invalid="ignore"):
            bad |= (shares < -SUM).any(axis=1) | (np.abs(shares.sum(axis=1) - 1) > SUM)
    what = "probabilities" if scene.bundle.scorer.signature.classes else "numbers"
    told = f"{int(bad.sum())} of {count} answers are no {what}." if bad.any() else f"All {count} answers are {what}."
    yield Verdict("numbers", "answers", "alarm" if bad.any() else "quiet", float(bad.sum()), 0.0, told)
    distinct = len(np.unique(shares, axis=0))
    told = f"All {count} answers are the same." if distinct == 1 else f"{count} answers have {distinct} values."
    yield Verdict("numbers", "variety", "alarm" if distinct == 1 else "quiet", float(distinct), 1.0, told)


def freshness(scene: Scene) -> Iterator[Verdict]:
    """Look at the clock: how long ago was the last answer, the last truth, the training of the model."""
    limits, clock = scene.settings.freshness, scene.clock
    if clock.answered is None or clock.asked is None:
        what = "No answer was given; the model came in"
        yield _aged("answers", what, clock.now - clock.deployed, limits.answer_hours * HOUR)
    else:
        since = max(clock.answered, clock.deployed)  # it may have answered long ago, and be back since
        yield _aged("answers", "The last answer was given", clock.now - since, limits.answer_hours * HOUR)
        what = "No truth was told; the first answer was given" if clock.told is None else "The last truth was told"
        yield _aged("truth", what, clock.now - (clock.told or clock.asked), limits.truth_days * DAY)
    yield _aged("model", "The model was made", clock.now - clock.made, limits.model_days * DAY)


def _aged(subject: str, what: str, age: float, limit: float) -> Verdict:
    state: State = "alarm" if age > limit else "quiet"
    told = f"{what} {_span(age)} ago; at most {_span(limit)} is wanted."
    return Verdict("freshness", subject, state, age / HOUR, limit / HOUR, told)


def _span(seconds: float) -> str:
    """Write a span of time in the unit that suits it."""
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", 60)):
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def _counts(before: Rows | None, now: Rows, columns: Callable[[Rows], Columns]) -> Counts:
    return lambda reference: (
        None if before is None else counted(reference, columns(before)),
        counted(reference, columns(now)),
    )


def _verdict(signal: Signal, found: Finding) -> Verdict:
    return Verdict(signal, found.column, STATES[found.state], found.figure, found.limit, found.sentence)
