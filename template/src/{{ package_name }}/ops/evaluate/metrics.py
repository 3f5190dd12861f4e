"""What is measured, and how sure it is. A metric is a function of the rows' weights, so resampling costs little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..config import Case, Model
from ..contract import Array
from ..features import in_words

RESAMPLES = 500
BINS = 10
SLICE_ROWS = 50  # fewest test rows of a slice that is measured
PAIRS = 500
LEAST = np.finfo(np.float32).eps  # as scikit-learn clips probabilities of this precision
BLOCK = 4_000_000  # weights held in memory at a time
SPREAD_ROWS = 20_000  # of more rows, so many tell how sure a value is

Floats: TypeAlias = NDArray[np.float64]
Measure: TypeAlias = Callable[[Floats], Floats]
"""Weights of shape (rows, resamples) to values of shape (resamples,); NaN where the rows do not allow the metric."""


@dataclass(frozen=True)
class Interval:
    """A value with the range in which it would fall in 95 of 100 samples of as many rows; NaN: cannot be measured."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Floats) -> Interval:
        """Read the value (first) and its interval from what `resampled` returned, or from a difference of two."""
        usable = draws[1:][np.isfinite(draws[1:])]
        if not np.isfinite(draws[0]) or len(usable) < len(draws) / 2:
            return cls(float(draws[0]), float("nan"), float("nan"))
        low, high = np.percentile(usable, [2.5, 97.5])
        return cls(float(draws[0]), float(low), float(high))


@dataclass(frozen=True)
class Metric:
    """How a metric is read."""

    label: str
    higher: bool
    """Whether more is better."""
    means: str
    kind: str = "score"
    """How it is written: as a score, a share (in percent), points (between two shares) or in the unit of the target."""

    def gain(self, of: Floats, over: Floats) -> Floats:
        """How much better `of` is than `over`: above 0 is better, whatever the direction."""
        return of - over if self.higher else over - of

    @property
    def gains(self) -> Metric:
        """How gains of this metric are written: two shares differ by points."""
        return replace(self, kind="points" if self.kind == "share" else self.kind)

    def write(self, measured: Interval, unit: str | None = None, span: bool = True) -> str:
        """Write a value in its unit, with its interval, in the digits that the uncertainty leaves meaning."""
        scale = 100 if self.kind in ("share", "points") else 1
        spread = (measured.high - measured.low) * scale
        suffix = {"share": " %", "points": " points", "unit": f" {unit}" if unit else ""}.get(self.kind, "")
        if not np.isfinite(measured.value):
            return "n/a"
        value, low, high = (number(part * scale, spread) for part in (measured.value, measured.low, measured.high))
        return f"{value}{suffix} ({low} to {high})" if span and spread > 0 else f"{value}{suffix}"


METRICS = {
    "roc_auc": Metric("ROC AUC", True, "how often the right of two rows ranks first: 0.5 is guessing, 1 is perfect"),
    "log_loss": Metric("log loss", False, "how far the probabilities are from what happened: 0 is perfect"),
    "accuracy": Metric("accuracy", True, "share of the rows whose most probable answer is right", "share"),
    "precision": Metric("precision", True, "of the rows answered yes, the share that really are", "share"),
    "recall": Metric("recall", True, "of the rows that really are, the share answered yes", "share"),
    "cost": Metric("cost per row", False, "mean cost of the wrong answers, as config/case.yaml sets it"),
    "rmse": Metric("RMSE", False, "typical size of an error, large errors weighing more", "unit"),
    "mae": Metric("mean error", False, "mean size of an error, whatever its sign", "unit"),
    "r2": Metric("R²", True, "share of the variation explained: 0 is guessing the mean, 1 is perfect"),
}


@dataclass(frozen=True)
class Bin:
    """Rows with similar predictions: what was predicted on average, and what happened."""

    predicted: float
    observed: Interval
    rows: int


@dataclass(frozen=True)
class Slice:
    """The test rows with one value of a column, measured by themselves."""

    column: str
    value: str
    rows: int
    measured: Interval
    worse: bool
    """Whether the whole interval lies on the bad side of the value over all test rows."""


@dataclass(frozen=True)
class Errors:
    """Truth minus prediction of a regression."""

    half_within: float
    nine_tenths_within: float
    counts: list[int]
    """Test rows between two neighbours of `edges`; the most extreme hundredth is left out."""
    edges: list[float]
    predicted: list[float]
    """A sample of the test rows, to be drawn."""
    actual: list[float]


def number(value: float, spread: float) -> str:
    """Write a number with the digits that an interval of width `spread` leaves meaning."""
    digits = 1 - int(np.floor(np.log10(spread))) if spread > 0 else 2 - int(np.floor(np.log10(abs(value) or 1)))
    text = f"{value:,.{min(max(digits, 0), 6)}f}"
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.,") else "0"


def measures(task: str, target: NDArray[Any], raw: NDArray[Any], case: Case | None = None) -> dict[str, Measure]:
    """Return every metric of the task for what the model file answered (see `Scorer.run`).

    With two classes, `case` adds the metrics of the decision.
    """
    if task == "regression":
        square, centred = (target - raw) ** 2, target - target.mean()
        return {
            "rmse": lambda w: np.sqrt(_mean(square, w)),
            "mae": lambda w: _mean(np.abs(target - raw), w),
            "r2": lambda w: 1 - _ratio(_mean(square, w), _mean(centred**2, w) - _mean(centred, w) ** 2),
        }
    given = np.clip(raw[np.arange(len(raw)), target], LEAST, 1 - LEAST)
    made: dict[str, Measure] = {
        "roc_auc": _ranking(target, raw),
        "log_loss": lambda w: _mean(-np.log(given), w),
        "accuracy": lambda w: _mean(raw.argmax(axis=1) == target, w),
    }
    if raw.shape[1] == 2 and case is not None:
        yes, true = raw[:, 1] >= case.threshold, target == 1
        made["precision"] = lambda w: _ratio(_mean(yes & true, w), _mean(yes, w))
        made["recall"] = lambda w: _ratio(_mean(yes & true, w), _mean(true, w))
        if case.cost_of_errors is not None:
            costs = case.cost_of_errors
            cost = costs["false_alarm"] * (yes & ~true) + costs["miss"] * (~yes & true)
            made["cost"] = lambda w: _mean(cost, w)
    return made


def resampled(wanted: Mapping[str, Measure], rows: int, seed: int) -> dict[str, Floats]:
    """Return each measure's value on all rows, then on RESAMPLES bootstrap samples of them: shape (1 + RESAMPLES,).

    Equal `rows` and `seed` give equal samples, so the results of two models can be subtracted pair by pair.
    """
    rng, size = np.random.default_rng(seed), max(1, min(RESAMPLES, BLOCK // rows))
    with threadpool_limits(limits=1):  # the order of a sum changes its last bit
        values = {name: [measure(np.ones((rows, 1)))] for name, measure in wanted.items()}
        for start in range(0, RESAMPLES, size):
            weights = np.empty((rows, min(size, RESAMPLES - start)))
            for sample in range(weights.shape[1]):
                weights[:, sample] = np.bincount(rng.integers(0, rows, rows), minlength=rows)
            for name, measure in wanted.items():
                values[name].append(measure(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def sampled(wanted: Callable[[Array], Mapping[str, Measure]], rows: int, seed: int) -> dict[str, Floats]:
    """Return what `resampled` does of the measures of positions; of more than SPREAD_ROWS rows, some are resampled.

    Drawn at random, these spread more widely, by the root of how many times fewer they are, which is undone; the value
    is that of all rows.
    """
    if rows <= SPREAD_ROWS:
        return resampled(wanted(np.arange(rows)), rows, seed)
    some, scale = np.random.default_rng(seed).permutation(rows)[:SPREAD_ROWS], (SPREAD_ROWS / rows) ** 0.5
    with threadpool_limits(limits=1):
        values = {name: measure(np.ones((rows, 1))) for name, measure in wanted(np.arange(rows)).items()}
    drawn = resampled(wanted(some), len(some), seed)
    return {name: values[name] + scale * (draws - draws[0]) for name, draws in drawn.items()}


def paired(model: Model, target: NDArray[Any], answers: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """Return the metric of config/model.yaml of what several models answered to the same rows, see `sampled`."""

    def wanted(part: Array) -> dict[str, Measure]:
        return {name: measures(model.task, target[part], raw[part])[model.metric] for name, raw in answers.items()}

    return sampled(wanted, len(target), model.seed)


def draws(model: Model, target: NDArray[Any], raw: NDArray[Any]) -> Floats:
    """Return the metric of config/model.yaml of one model, see `sampled`."""
    return paired(model, target, {"": raw})[""]


def confusion(raw: NDArray[Any], target: NDArray[Any], threshold: float | None) -> list[list[int]]:
    """Count the rows by true class (rows) and answer (columns); the answer is what `Scorer.answers` gives."""
    answers, classes = raw.argmax(axis=1) if threshold is None else raw[:, 1] >= threshold, raw.shape[1]
    rows: list[list[int]] = np.bincount(target * classes + answers, minlength=classes**2).reshape(-1, classes).tolist()
    return rows


def calibration(raw: NDArray[Any], target: NDArray[Any], seed: int) -> list[Bin]:
    """Compare prediction and truth in tenths of the rows (fewer, if the rows are few), ordered by prediction.

    What is predicted is the value, the probability of the second of two classes, or among more classes the answer's
    probability of being right.
    """
    if raw.ndim == 1:
        predicted, happened = raw, target
    elif raw.shape[1] == 2:
        predicted, happened = raw[:, 1], target == 1
    else:
        predicted, happened = raw.max(axis=1), raw.argmax(axis=1) == target
    parts = min(BINS, max(1, len(predicted) // SLICE_ROWS))
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, parts + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="right")
    bins = []
    for rows in (place == position for position in np.unique(place)):
        observed = Interval.of(resampled({"": partial(_mean, happened[rows])}, int(rows.sum()), seed)[""])
        bins.append(Bin(float(predicted[rows].mean()), observed, int(rows.sum())))
    return bins


def errors(raw: NDArray[Any], target: NDArray[Any], seed: int) -> Errors:
    """Sum up the errors of a regression, and keep a sample of its predictions to be drawn."""
    shown = np.random.default_rng(seed).permutation(len(target))[:PAIRS]
    half, most = np.quantile(np.abs(target - raw), [0.5, 0.9])
    low, high = np.quantile(target - raw, [0.005, 0.995])
    counts, edges = np.histogram(target - raw, bins=30, range=(low, high) if high > low else None)
    points = raw[shown].tolist(), target[shown].tolist()
    return Errors(float(half), float(most), counts.tolist(), edges.tolist(), *points)


def sliced(
    column: str, kind: str, values: Array, target: NDArray[Any], raw: NDArray[Any], model: Model
) -> tuple[list[Slice], int]:
    """Measure the rows of each value of a column; returns also how many values have too few rows to be measured."""
    facts, slices = METRICS[model.metric], []
    whole = measures(model.task, target, raw)[model.metric](np.ones((len(target), 1)))[0]
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.bincount(place)
    for position in np.flatnonzero(counts >= SLICE_ROWS):
        rows = place == position
        measured = Interval.of(draws(model, target[rows], raw[rows]))
        if np.isfinite(measured.low):
            worse = bool(measured.high < whole if facts.higher else measured.low > whole)
            slices.append(Slice(column, in_words(distinct[position], kind), int(counts[position]), measured, worse))
    return slices, len(distinct) - len(slices)


def _mean(values: NDArray[Any], weights: Floats) -> Floats:
    result: Floats = values.astype(np.float64) @ weights / weights.sum(axis=0)
    return result


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _ranking(target: NDArray[Any], raw: NDArray[Any]) -> Measure:
    """ROC AUC; with more than two classes the mean over those present of each against the rest."""
    classes = [1] if raw.shape[1] == 2 else list(range(raw.shape[1]))
    parts = [_auc(raw[:, position], target == position) for position in classes]

    def measure(weights: Floats) -> Floats:
        values = np.array([part(weights) for part in parts])
        return _ratio(np.nansum(values, axis=0), np.isfinite(values).sum(axis=0))

    return measure


def _auc(score: NDArray[Any], positive: NDArray[np.bool_]) -> Measure:
    """Share of the pairs of a yes and a no whose scores are in order, ties counting half."""
    yes, no = score[positive], score[~positive]
    ranked = np.argsort(no, kind="stable")
    below, up_to = (np.searchsorted(no[ranked], yes, side=side) for side in ("left", "right"))

    def measure(weights: Floats) -> Floats:
        of_yes, of_no = weights[positive], weights[~positive][ranked]
        passed = np.concatenate([np.zeros((1, weights.shape[1])), of_no.cumsum(axis=0)])
        ordered = (of_yes * (passed[below] + passed[up_to])).sum(axis=0) / 2
        return _ratio(ordered, of_yes.sum(axis=0) * of_no.sum(axis=0))

    return measure
