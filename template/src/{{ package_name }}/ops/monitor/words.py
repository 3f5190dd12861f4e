"""What the drift rule found, in a sentence for people who know the data and not the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cells import Cells

Aspect: TypeAlias = Literal["level", "spread", "shape", "share"]
State: TypeAlias = Literal["quiet", "suspected", "drift"]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What differs most in a column."""

    column: str
    aspect: Aspect
    figure: float
    """Standard errors by which it differs from the reference."""
    limit: float
    """Figure beyond which it drifts, given that the change matters and both windows show it."""
    state: State
    sentence: str


def sentence(name: str, cells: Cells, rows: ArrayLike, aspect: Aspect, cell: int, unit: str | None) -> str:
    """Say how the rows counted into the cells of a column differ from the reference, above all in that cell."""
    now, then = np.asarray(rows, dtype=np.float64), np.asarray(cells.counts, dtype=np.float64)
    unit = f" {unit}" if unit else ""
    if aspect == "level":
        return _level(name, cells, now[:-1], then[:-1], unit)
    if aspect == "spread":
        (low, high), (least, most) = (_quantiles(cells, part[:-1], (0.1, 0.9)) for part in (now, then))
        less = "less" if high - low < most - least else "more"
        range_ = f"{_number(low, most - least)} to {_number(high, most - least)}{unit}"
        was = f"{_number(least, most - least)} to {_number(most, most - least)}"
        return f"{name} varies {less} than in training: 80 % of its values lie from {range_}, in training from {was}."
    shares = f"in {_percent(now, cell)} of the rows, in training in {_percent(then, cell)}."
    if aspect == "shape":
        return f"The mix of values of {name} differs from training; above all, it {_is(cells, cell, unit)} {shares}"
    return f"{name} {_is(cells, cell, unit)} {shares}"


def _level(name: str, cells: Cells, now: Floats, then: Floats, unit: str) -> str:
    """Compare medians; where ties hold them, the shares above the value at which they differ most."""
    below_now, below_then = now.cumsum() / now.sum(), then.cumsum() / then.sum()
    (median,), (was,) = (_quantiles(cells, part, (0.5,)) for part in (now, then))
    (low, high) = _quantiles(cells, then, (0.25, 0.75))
    higher = (below_then - below_now).sum() > 0
    word = "higher" if higher else "lower"
    if abs(median - was) > (high - low) / 50 and (median > was) == higher:
        by, to, from_ = (_number(value, high - low) for value in (abs(median - was), median, was))
        return f"{name} is {by}{unit} {word} than in training (median {to} instead of {from_})."
    cut = int(np.abs(below_now - below_then)[:-1].argmax())
    shares = [f"{100 * (1 - below[cut]):.3g} %" for below in (below_now, below_then)]
    edge = f"{cells.edges[cut]:.4g}{unit}"
    return f"{name} tends to be {word} than in training: above {edge} in {shares[0]} of the rows, was in {shares[1]}."


def _is(cells: Cells, cell: int, unit: str) -> str:
    """Say what rows of a cell are."""
    if cell == len(cells.counts) - 1:
        return "is missing"
    if cells.kind == "text":
        others = ("has one of its rare values", "has a value that training did not know")
        return f"is '{cells.values[cell]}'" if cell < len(cells.values) else others[cell - len(cells.values)]
    if cell == 0:
        return f"is below {cells.edges[0]:.4g}{unit}, the least value of training,"
    if cell == len(cells.edges):
        return f"is above {cells.edges[-1]:.4g}{unit}, the greatest value of training,"
    if cell in cells.only:
        return f"is {cells.only[cell]:.6g}{unit}"
    return f"is between {cells.edges[cell - 1]:.4g} and {cells.edges[cell]:.4g}{unit}"


def _percent(counts: Floats, cell: int) -> str:
    return f"{100 * counts[cell] / counts.sum():.3g} %"


def _quantiles(cells: Cells, counts: Floats, shares: Sequence[float]) -> list[float]:
    """Read quantiles off the cells, their rows spread evenly; beyond the values of training, their limit."""
    edges = [cells.edges[0], *cells.edges]
    ends = np.append(0, counts.cumsum()) / counts.sum()
    found = []
    for share in shares:
        cell = min(int(np.searchsorted(ends, share)), len(edges) - 1)
        part = (share - ends[cell - 1]) / max(ends[cell] - ends[cell - 1], 1e-12)
        spread = float(edges[cell - 1] + min(part, 1.0) * (edges[cell] - edges[cell - 1]))
        found.append(cells.only.get(cell - 1, spread))
    return found


def _number(value: float, spread: float) -> str:
    """Write a value in the digits that mean something beside a spread."""
    digits = 2 - int(np.floor(np.log10(spread))) if spread > 0 else 3
    return f"{value:,.{min(max(digits - 1, 0), 9)}f}"
