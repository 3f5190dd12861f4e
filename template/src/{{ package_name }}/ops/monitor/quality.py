"""How good the answers are whose truth is known: of all, of each slice, and of one group of people beside the others.

An answer without a truth says nothing. A lead is what a model is better than a constant answer to the same rows, so
that a month in which everything is harder does not look like a model that got worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..evaluate.compare import sure
from ..evaluate.metrics import METRICS, Floats, Interval
from ..evaluate.metrics import calibration as tenths
from . import Signal, State, Verdict
from .scene import Scene, groups

LEAST = 200
"""Rows with known truth that a verdict takes."""
SPANS = (1, 4)
"""Over how many windows of known truth quality is judged: a fall is seen in the first, what creeps in the last."""
HISTORY = 20
"""Windows of known truth in which slices gather their rows."""
ENOUGH = 200_000
"""Rows of them, where windows are large."""
Part = NDArray[np.bool_]


def history(size: int) -> int:
    """Return how many rows with known truth are looked back on, where a window has so many."""
    return min(HISTORY * size, max(ENOUGH, SPANS[-1] * size))


def quality(scene: Scene) -> Iterator[Verdict]:
    """Say of the latest rows with known truth whether the release surely lost more than the margin of its lead."""
    found, spans = [], [span * scene.settings.window for span in SPANS]
    for span in [size for place, size in enumerate(spans) if not place or len(scene.known) > spans[place - 1]]:
        rows = np.arange(len(scene.known)) >= len(scene.known) - span
        found.append(_lost("quality", "all answers", scene, rows, scene.promise.lead, len(spans)))
    yield next((verdict for verdict in found if verdict.state == "alarm"), found[0])


def slices(scene: Scene) -> Iterator[Verdict]:
    """Say the same of each slice; together they raise as many false alarms as one comparison."""
    parts = [
        (name, rows)
        for name, rows in _groups(scene, [name for name in scene.promise.by if name in scene.data.slices])
        if rows.sum() >= LEAST and name in scene.promise.leads
    ]
    for name, rows in parts:
        yield _lost("slices", name, scene, rows, scene.promise.leads[name], len(parts))


def bias(scene: Scene) -> Iterator[Verdict]:
    """Say of each group of a sensitive column whether it surely falls behind all others by more than the gap."""
    settings, facts = scene.settings, METRICS[scene.model.metric]
    fewest, by = settings.bias.rows, [name for name in scene.promise.by if scene.data.columns[name].sensitive]
    parts = [(name, rows) for name, rows in _groups(scene, by) if min(rows.sum(), (~rows).sum()) >= fewest]
    for name, rows in parts:
        own, others = (scene.trial(part)["model"] for part in (rows, ~rows))
        behind = others - own if facts.higher else own / others - 1
        gap = sure(behind, 1 - (1 - settings.confidence) / len(parts))
        if not np.isfinite(gap.low):
            yield Verdict("bias", name, "unknown", None, settings.bias.gap, f"{name}: {facts.label} has no value.")
            continue
        far = "" if facts.higher else " of the others' error"
        on = f"on {int(rows.sum())} answers, of all others {_written(scene, others)}"
        told = f"{facts.label} of {name} is {_written(scene, own)} {on}"
        state: State = "alarm" if gap.low > settings.bias.gap else "quiet"
        limit = f"a group may surely be worse by at most {settings.bias.gap:g}{far}"
        yield Verdict("bias", name, state, gap.value, settings.bias.gap, f"{told}; {limit}.")


def calibration(scene: Scene) -> Iterator[Verdict]:
    """Say whether what is predicted is what happens: in all rows, and no less extreme in tenths of them by prediction.

    A model says too little of rows that it knows by heart, so what happens more surely than it says is no alarm.
    """
    known = scene.known.part(max(len(scene.known) - SPANS[-1] * scene.settings.window, 0), len(scene.known))
    count, gap, classes = len(known), scene.settings.calibration.gap, scene.bundle.scorer.signature.classes
    if count < LEAST:
        told = f"The truth of {count} answers is known, a verdict takes {LEAST}."
        yield Verdict("calibration", "all answers", "unknown", None, gap, told)
        return
    target = known.truth.astype(np.int64) if classes else known.truth
    scale = 1.0 if classes else max(float(target.std()), float(np.finfo(np.float64).tiny))
    bins = tenths(known.raw, target, scene.model.seed)
    rows = np.array([part.rows for part in bins])
    said, true = (np.array(values) for values in zip(*((b.predicted, b.observed.value) for b in bins), strict=True))
    errors = np.array([part.observed.high - part.observed.low for part in bins]) / 2 / NormalDist().inv_cdf(0.975)
    middle, mean = float(rows @ true) / count, float(rows @ said) / count
    apart = np.append((said - true) * np.sign(said - middle), abs(mean - middle))
    reach = NormalDist().inv_cdf(1 - (1 - scene.settings.confidence) / 2 / len(apart))
    doubt = reach * np.append(errors, float(np.sqrt(rows**2 @ errors**2)) / count)
    place = int(np.argmax(apart - doubt))
    written = partial(_value, scene, "accuracy" if classes else "mae", float(doubt[place]))
    state: State = "alarm" if apart[place] - doubt[place] > gap * scale else "quiet"
    where, what = np.append(said, mean)[place], np.append(true, middle)[place]
    told = (
        f"Where it says {written(where)}, {written(what)} is what happens, in {np.append(rows, count)[place]} answers"
    )
    low, high = (float(apart[place] + side * doubt[place]) / scale for side in (-1, 1))
    most = f"surely at most {written(gap * scale)} less extreme is wanted"
    yield Verdict("calibration", "all answers", state, float(apart[place]) / scale, gap, f"{told}; {most}.", low, high)


def _value(scene: Scene, metric: str, doubt: float, value: float) -> str:
    """Write a value, as one of a metric is written, in the digits that a doubt leaves meaning."""
    measured = Interval(value, value - doubt, value + doubt)
    return METRICS[metric].write(measured, scene.bundle.scorer.signature.unit, span=False)


def _lost(signal: Signal, subject: str, scene: Scene, rows: Part, lead: float, looks: int) -> Verdict:
    """Judge some of the known rows; `looks` comparisons share the doubt that is allowed."""
    facts, count = METRICS[scene.model.metric], int(rows.sum())
    if count < LEAST:
        told = f"The truth of {count} answers is known, a verdict takes {LEAST}."
        return Verdict(signal, subject, "unknown", None, None, told)
    drawn = scene.trial(rows)
    wanted = (1 - scene.settings.quality.margin) * lead
    limit = drawn["constant"] + (wanted if facts.higher else -wanted)
    spare = sure(facts.gain(drawn["model"], limit), 1 - (1 - scene.settings.confidence) / looks)
    if not np.isfinite(spare.high):
        return Verdict(signal, subject, "unknown", None, None, f"{facts.label} of {subject} has no value.")
    of = "" if subject == "all answers" else f" of {subject}"
    told = f"{facts.label}{of} on the latest {count} answers with known truth is {_written(scene, drawn['model'])}"
    end = _value(scene, scene.model.metric, 0.05 * abs(lead), float(limit[0]))
    share = f"all but {100 * scene.settings.quality.margin:g} % of its lead over a constant answer"
    promised = f"surely {'at least' if facts.higher else 'at most'} {end} was promised: {share}"
    state: State = "alarm" if spare.high < 0 else "quiet"
    span, said = sure(drawn["model"], 0.975), f"{told}; {promised}."
    return Verdict(signal, subject, state, span.value, float(limit[0]), said, span.low, span.high)


def _groups(scene: Scene, by: list[str]) -> Iterator[tuple[str, Part]]:
    for name, values in scene.known.columns.items():
        if name in by:
            yield from groups(name, values, scene.bundle.scorer.signature, scene.promise.edges[name])


def _written(scene: Scene, drawn: Floats) -> str:
    return METRICS[scene.model.metric].write(sure(drawn, 0.975), scene.bundle.scorer.signature.unit)
