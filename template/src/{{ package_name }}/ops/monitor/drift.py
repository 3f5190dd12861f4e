"""The drift rule: whether two consecutive windows of rows look like what the model learned from, column by column.

Each aspect of a column is a score of the cells into which rows fall, and the mean score of both windows together is
compared with that of the reference:

- level: normal scores (van der Waerden), the most powerful ranks for a shift of what is normally distributed;
- spread: their squares (Klotz);
- shape: chi-square over cells, joined until each is large enough;
- share: each cell by itself, so also missing, never seen, vanished: Fisher's exact test.

An aspect drifts if both windows together are beyond the limit, each alone leans the same way, and the change is large
enough to matter: one bad hour does not retrain a model, and a million rows do not make a trifle important.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr, ndtri
from scipy.stats import hypergeom

from .cells import Aspect, Cells, Finding, Floats, Reference, State, Window, sentence

Truths: TypeAlias = NDArray[np.bool_]

FALSE_ALARMS = 2.5e-4
"""Share of the windows without drift that are said to drift, whatever the number of columns."""
PARTS: dict[str, dict[Aspect, float]] = {
    "number": {"shape": 0.06, "spread": 0.08, "level": 0.8, "share": 0.06},
    "text": {"shape": 0.3, "share": 0.7},
}
"""What each aspect takes of the false alarms of its column: a shift of the level is the most usual drift.
Of two that are equally far off, the later one says better what happened."""
LEAST_ROWS = 200
LEANS: dict[Aspect, float] = {"shape": 2.33, "spread": 2.33, "level": 1.645, "share": 2.33}
"""Standard errors by which each window leans; of quiet windows, 1 of 100 (level: 20) leans as far to a given side."""
LEAN_SHARE = 0.25
"""Least share that this is of the figure of both windows."""
MATTERS, MATTERS_SHARE = 0.1, 0.01
"""Least change that matters: in standard deviations of the scores, and of the share of a cell."""
JOINED, GROUPS = 25, 10
"""Rows that a joined cell has, so that the tail of chi-square holds, and into how many numbers are joined."""
NEAR = 2.5
"""Standard errors from which on a tail is computed exactly; up to here it is far from every limit."""
FURTHEST = 37.0
"""Standard errors beyond which a tail is no longer told from 0."""
STEPS = 12
STATES: tuple[State, ...] = ("quiet", "suspected", "drift")


@dataclass(frozen=True)
class Verdict:
    """What is said of a window."""

    state: State | Literal["no verdict"]
    sentence: str
    findings: tuple[Finding, ...] = ()
    """The strongest one of each column, the strongest column first."""


@dataclass(frozen=True)
class Evidence:
    """One aspect of a column over many pairs of windows; every array has the shape of the pairs."""

    aspect: Aspect
    figure: Floats
    """Difference from the reference, in the standard errors of a normal distribution with the same tail."""
    limit: float
    matters: Truths
    leans: Truths
    cell: NDArray[np.int64]
    """The cell whose share differs most."""

    @property
    def suspected(self) -> Truths:
        """Where the difference is beyond the limit and matters."""
        return (self.figure > self.limit) & self.matters

    @property
    def drifts(self) -> Truths:
        """Where, besides, each window leans the same way."""
        return self.suspected & self.leans


def judge(reference: Reference, before: Window | None, now: Window, units: Mapping[str, str] | None = None) -> Verdict:
    """Judge a window together with the one before it, whose absence leaves at most a suspicion."""
    if now.rows < LEAST_ROWS:
        return Verdict("no verdict", f"No verdict: the window has {now.rows} rows, it takes {LEAST_ROWS}.")
    if before is not None and before.rows < LEAST_ROWS:
        before = None
    found = [_strongest(reference, name, before, now, units or {}) for name in reference.columns]
    found.sort(key=lambda finding: (STATES.index(finding.state), finding.figure), reverse=True)
    rows = now.rows + (before.rows if before else 0)
    if not found or found[0].state == "quiet":
        return Verdict("quiet", f"No drift in {len(found)} columns of {rows:,} rows.", tuple(found))
    lead, word = ("", "drifted") if found[0].state == "drift" else ("The next window decides: ", "suspected")
    alike = sum(finding.state == found[0].state for finding in found) - 1
    more = f" Columns {word} besides: {alike}." if alike else ""
    return Verdict(found[0].state, f"{lead}{found[0].sentence}{more}", tuple(found))


def _strongest(
    reference: Reference, name: str, before: Window | None, now: Window, units: Mapping[str, str]
) -> Finding:
    cells = reference.columns[name]
    last = np.array(now.counts[name])
    first = np.array(before.counts[name]) if before else np.zeros_like(last)
    weighed = weigh(cells, first, last, FALSE_ALARMS / len(reference.columns))
    ranked = [(int(part.suspected) + int(part.drifts), float(part.figure), part) for part in weighed]
    state, figure, best = max(reversed(ranked), key=lambda one: one[:2])
    said = sentence(name, cells, first + last, best.aspect, int(best.cell), units.get(name))
    return Finding(name, best.aspect, figure, best.limit, STATES[state], said)


def weigh(cells: Cells, before: ArrayLike, now: ArrayLike, alarms: float) -> Iterator[Evidence]:
    """Weigh pairs of windows, each counts of shape (..., cells); `alarms` is the share of false ones of this column."""
    known = np.array(cells.counts, dtype=np.float64)
    first, last = (np.asarray(window, dtype=np.float64) for window in (before, now))
    for aspect, part in PARTS[cells.kind].items():
        if aspect == "shape":
            yield _shape(cells.kind, known, first, last, alarms * part)
        elif aspect == "share":
            yield _share(known, first, last, alarms * part)
        else:
            scores = cell_scores(known[:-1])[aspect == "spread"]
            yield _scored(aspect, scores, known[:-1], first[..., :-1], last[..., :-1], alarms * part)


def cell_scores(counts: Floats) -> tuple[Floats, Floats]:
    """Return mean and mean square, less 1, of a standard normal variable over the part of it that each cell takes.

    The cells are ordered; one without rows has the scores of its neighbour.
    """
    ends = np.append(0, counts.cumsum()) / counts.sum()
    cuts = ndtri(ends)
    density = np.exp(-(cuts**2) / 2) / np.sqrt(2 * np.pi)
    slope = density * np.where(np.isfinite(cuts), cuts, 0)
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(np.arange(len(counts))[:, None] - filled).argmin(axis=1)]
    shares = np.diff(ends)[nearest]
    return -np.diff(density)[nearest] / shares, -np.diff(slope)[nearest] / shares


def _scored(aspect: Aspect, scores: Floats, known: Floats, first: Floats, last: Floats, alarms: float) -> Evidence:
    pair = first + last
    shares = _shares(known, pair)
    figure = np.array(_errors(scores, known, pair, shares))
    near = np.abs(figure) > NEAR
    if near.any():
        figure[near] = saddlepoint(scores, known, pair[near], shares[near])
    side = np.sign(figure)
    leans = [side * _errors(scores, known, window, shares) for window in (first, last)]
    change = (scores * _change(known, pair)).sum(axis=-1)
    matters = np.abs(change) >= MATTERS * _deviation(scores, known / known.sum())
    return _evidence(aspect, np.abs(figure), alarms, matters, leans, np.abs(_change(known, pair)).argmax(axis=-1))


def saddlepoint(scores: Floats, known: Floats, window: Floats, shares: Floats) -> Floats:
    """Return r* of the difference between two mean scores: its tail is that of a standard normal variable.

    Barndorff-Nielsen (1986), "Inference on full or partial parameters"; the cumulants are those of two samples, `known`
    and `window` of shape (pairs, cells), whose rows fall into the cells with the same `shares`.
    """
    change = (scores * _change(known, window)).sum(axis=-1)
    centred = scores - (scores * shares).sum(axis=-1, keepdims=True)
    sizes = window.sum(axis=-1), known.sum()
    scale = _deviation(scores, shares) * np.sqrt(1 / sizes[0] + 1 / sizes[1])
    tilt = np.zeros(len(window))
    for _ in range(STEPS):
        value, slope, bend = 0.0, 0.0, 1e-300
        for size, sign in zip(sizes, (1, -1), strict=True):
            exponents = sign * (tilt / size)[:, None] * centred
            top = exponents.max(axis=-1, keepdims=True)
            weights = shares * np.exp(exponents - top)
            total = weights.sum(axis=-1)
            mean = (weights * centred).sum(axis=-1) / total
            value = value + size * (np.log(total) + top[:, 0])
            slope = slope + sign * mean
            bend = bend + ((centred - mean[:, None]) ** 2 * weights).sum(axis=-1) / total / size
        step = (1 + np.abs(tilt * scale)) / scale
        tilt = tilt + np.clip((change - slope) / bend, -step, step)
    root = np.sign(tilt) * np.sqrt(np.maximum(2 * (tilt * change - value), 1e-12))
    return np.asarray(root + np.log(np.maximum(tilt * np.sqrt(bend) / root, 1e-300)) / root)


def _shape(kind: str, known: Floats, first: Floats, last: Floats, alarms: float) -> Evidence:
    cell = np.abs(_change(known, first + last)).argmax(axis=-1)
    joined = _joined(kind, known, float((first + last).sum(axis=-1).min()))
    known, first, last = known @ joined, first @ joined, last @ joined
    pair = first + last
    shares = _shares(known, pair)
    apart = (_change(known, pair) ** 2 / shares).sum(axis=-1)
    squares = apart / (1 / pair.sum(axis=-1) + 1 / known.sum())
    figure = _figure(chdtrc(max(len(known) - 1, 1), squares) / 2)
    # each window in the direction in which the other one differs
    ways = ((first, last), (last, first))
    leans = [_errors(_change(known, other) / shares, known, window, shares) for window, other in ways]
    return _evidence("shape", figure, alarms, np.sqrt(apart) >= MATTERS, leans, cell)


def _joined(kind: str, known: Floats, rows: float) -> Floats:
    """Join cells, neighbours of numbers or texts by size, until each has enough rows; 0 and 1, (cells, joined)."""
    shares = known / known.sum()
    order = np.argsort(-shares, kind="stable") if kind == "text" else np.arange(len(shares))
    least = max(JOINED / max(rows, JOINED), 1 / GROUPS if kind == "number" else 0)
    group, filled, groups = 0, 0.0, np.zeros(len(shares), dtype=np.int64)
    for cell in order:
        groups[cell] = group
        filled += shares[cell]
        if filled >= least:
            group, filled = group + 1, 0.0
    groups = np.minimum(groups, max(group - 1, 0))  # what remains joins the last
    return np.eye(groups.max() + 1)[groups]


def _share(known: Floats, first: Floats, last: Floats, alarms: float) -> Evidence:
    pair, total = first + last, known.sum()
    shares, change = _shares(known, pair), _change(known, pair)

    def errors(window: Floats) -> Floats:
        size = window.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(shares * (1 - shares) * (1 / size + 1 / total))
            return np.asarray(np.nan_to_num(np.sign(change) * _change(known, window) / scale))

    figure = errors(pair)
    near = figure > NEAR
    parts = np.broadcast_arrays(pair, known, pair.sum(axis=-1, keepdims=True), change > 0)
    cases, place = np.unique(np.stack(parts, axis=-1)[near], axis=0, return_inverse=True)
    found, there, rows, up = cases.T
    law = hypergeom(rows + total, found + there, rows)
    figure[near] = _figure(np.where(up > 0, law.sf(found - 1), law.cdf(found)))[place.ravel()]
    matters = np.abs(change) >= MATTERS_SHARE
    cell = (figure + FURTHEST * matters).argmax(axis=-1)
    figure, first, last = (
        np.take_along_axis(part, cell[..., None], -1)[..., 0] for part in (figure, errors(first), errors(last))
    )
    return _evidence("share", figure, alarms / len(known), np.asarray(matters.any(axis=-1)), [first, last], cell)


def _evidence(
    aspect: Aspect, figure: Floats, alarms: float, matters: Truths, leans: list[Floats], cell: NDArray[np.int64]
) -> Evidence:
    figure = np.minimum(figure, FURTHEST)
    agree = np.minimum(*leans) >= np.maximum(LEANS[aspect], LEAN_SHARE * figure)
    return Evidence(aspect, figure, float(-ndtri(alarms / 2)), matters, agree, cell)


def _shares(known: Floats, window: Floats) -> Floats:
    """Return the shares of the cells in windows (..., cells) and reference together."""
    return np.asarray((window + known) / (window.sum(axis=-1, keepdims=True) + known.sum()))


def _change(known: Floats, window: Floats) -> Floats:
    """Return how much larger the share of each cell is in windows (..., cells) than in the reference."""
    return np.asarray(window / np.maximum(window.sum(axis=-1, keepdims=True), 1) - known / known.sum())


def _deviation(scores: Floats, shares: Floats) -> Floats:
    """Return the standard deviation of scores whose cells have these shares (..., cells)."""
    centre = (scores * shares).sum(axis=-1, keepdims=True)
    return np.asarray(np.sqrt(((scores - centre) ** 2 * shares).sum(axis=-1)))


def _errors(scores: Floats, known: Floats, window: Floats, shares: Floats) -> Floats:
    """Return by how many standard errors the mean score of windows (..., cells) is above that of the reference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = _deviation(scores, shares) * np.sqrt(1 / window.sum(axis=-1) + 1 / known.sum())
        return np.asarray(np.nan_to_num((scores * _change(known, window)).sum(axis=-1) / scale))


def _figure(tail: Floats) -> Floats:
    """Return the standard errors beyond which a normal variable has this probability."""
    return np.asarray(-ndtri(np.clip(tail, ndtr(-FURTHEST), 0.5)))
