"""What the drift rule needs of many rows: how many of them fall into each of a few dozen cells of every column.

The cells are made once from a reference sample; the rows of a window are counted into them, with NumPy or in one DuckDB
query. Counts are small, add up over windows and tell nothing about a single row, so they can be kept for years.
What the rule finds in them is told here too, in a sentence for people who know the data and not the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ibis
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter
from scipy.special import ndtr

from ..contract import Array, Columns
from ..files import atomic

Counts: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Aspect: TypeAlias = Literal["level", "spread", "shape", "share"]
State: TypeAlias = Literal["quiet", "suspected", "drift"]
CUTS = ndtr(np.arange(-3, 3.01, 0.15))
"""Share of the reference below each edge: evenly spaced on the normal scale, so that the tails have cells as well."""
NAMED = 50
RARE = 1_000
LEAST_SHARE = 0.005
"""Share of the rows from which on a text has a cell of its own."""


@dataclass(frozen=True)
class Cells:
    """The cells of one column, and how many rows of the reference fall into each.

    Numbers: up to the first of `edges`, between each two, above the last (first and last cell: never seen), missing.
    Text: each of `values`, those of `rare` together, a value that the reference does not know, missing.
    """

    kind: Literal["number", "text"]
    counts: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()
    only: dict[int, float] = field(default_factory=dict)
    """Of the cells of numbers that hold one value alone, the value."""
    values: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()

    def count(self, values: Array) -> Counts:
        """Count values of shape (rows,) into the cells."""
        if self.kind == "number":
            last = len(self.edges) + 1
            places = np.searchsorted(np.array(self.edges), values)
            return np.bincount(np.where(np.isnan(values), last, places), minlength=last + 1)
        named = len(self.values)
        place = dict.fromkeys(self.rare, named) | {"": named + 2}
        place |= {value: position for position, value in enumerate(self.values)}
        counts = np.zeros(named + 3, dtype=np.int64)
        for value, rows in Counter(values.tolist()).items():
            counts[place.get(value, named + 1)] += rows
        return counts


@dataclass(frozen=True)
class Reference:
    """The cells of every column, made from rows that the model learned from."""

    columns: dict[str, Cells]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        with atomic(path) as made:
            made.write_bytes(TypeAdapter(Reference).dump_json(self, indent=2))

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Read what `write` wrote."""
        return TypeAdapter(Reference).validate_json(path.read_bytes())


@dataclass(frozen=True)
class Window:
    """Rows that the service saw, counted into the cells of a reference; `counts` by column, as in `Cells`."""

    rows: int
    counts: dict[str, tuple[int, ...]]


def summarise(columns: Columns) -> Reference:
    """Make the cells of every column from a sample of the rows that the model learned from; 100,000 are plenty.

    Times are left out, their features are judged instead; so is a column without any value.
    """
    kept = {name: values for name, values in columns.items() if values.dtype.kind != "M"}
    made = {name: (_of_text if values.dtype.kind in "OUT" else _of_numbers)(values) for name, values in kept.items()}
    return Reference({name: cells for name, cells in made.items() if sum(cells.counts[:-1])})


def counted(reference: Reference, columns: Columns) -> Window:
    """Count the rows of typed columns."""
    rows = len(next(iter(columns.values())))
    return Window(rows, {name: tuple(cells.count(columns[name]).tolist()) for name, cells in reference.columns.items()})


def counted_in(reference: Reference, table: ibis.Table) -> Window:
    """Count the rows of a table of any size where it lies, in one DuckDB query."""
    totals = {f"{place}": _totals(table[name], cells) for place, (name, cells) in enumerate(reference.columns.items())}
    (found,) = table.aggregate(rows=table.count(), **totals).to_pyarrow().to_pylist()
    counts = {}
    for place, (name, cells) in enumerate(reference.columns.items()):
        tally = dict(found[f"{place}"] or ())
        if cells.kind == "text":
            rare = sum(tally.get(value, 0) for value in cells.rare)
            parts = [*(tally.get(value, 0) for value in cells.values), rare, tally.get("", 0)]
        else:  # by order: an edge may come back with another last digit
            parts = [tally[edge] for edge in sorted(tally)]
            parts += [0] * (len(cells.edges) + 1 - len(parts))
        counts[name] = (*parts, found["rows"] - sum(parts))
    return Window(found["rows"], counts)


@ibis.udf.agg.builtin  # type: ignore[untyped-decorator]
def histogram(values: float, edges: list[float]) -> dict[float, int]:  # type: ignore[empty-body]
    """Count numbers up to each edge and above the one before; DuckDB's own."""


@ibis.udf.agg.builtin  # type: ignore[untyped-decorator]
def histogram_exact(values: str, known: list[str]) -> dict[str, int]:  # type: ignore[empty-body]
    """Count each known text, all others under ""; DuckDB's own."""


def _totals(column: Any, cells: Cells) -> Any:
    if cells.kind == "text":
        known = ibis.literal([*cells.values, *cells.rare], "array<string>")
        return histogram_exact(column.cast("string").nullif(""), known)
    number = column.cast("float64")
    return histogram(ibis.ifelse(number.isnan(), None, number), ibis.literal(list(cells.edges), "array<float64>"))


def _of_numbers(values: Array) -> Cells:
    """Cut between values, never at one: what float32 rounds stays in its cell. A value that is common has its own."""
    values = values.astype(np.float64)
    distinct, tallies = np.unique(values[np.isfinite(values)], return_counts=True)
    if not len(distinct):
        return Cells("number")
    cuts = np.arange(1, len(distinct))
    if len(distinct) > len(CUTS) + 1:
        at, hits = np.unique(np.searchsorted(tallies.cumsum(), CUTS * tallies.sum(), "right"), return_counts=True)
        cuts = np.union1d(at, at[hits > 1] + 1)
        cuts = cuts[(cuts > 0) & (cuts < len(distinct))]
    between = distinct[cuts - 1] + (distinct[cuts] - distinct[cuts - 1]) / 2
    margin = max(1e-6 * np.abs(distinct[[0, -1]]).max(), 1e-30)
    spans = enumerate(pairwise([0, *cuts, len(distinct)]), start=1)
    only = {cell: float(distinct[start]) for cell, (start, end) in spans if end - start == 1}
    edges = (float(distinct[0] - margin), *between.tolist(), float(distinct[-1] + margin))
    cells = Cells("number", edges=edges, only=only)
    return replace(cells, counts=tuple(cells.count(values).tolist()))


def _of_text(values: Array) -> Cells:
    """One half of the rows names the cells, the other is counted: so a value is as often unknown as in new rows."""
    drawn = np.random.default_rng(0).permutation(values)
    half = len(drawn) // 2
    known = Counter(drawn[:half].tolist())
    del known[""]
    often = [value for value, rows in known.most_common(NAMED) if rows >= max(2, LEAST_SHARE * half)]
    rare = [value for value, _ in known.most_common(len(often) + RARE)[len(often) :]]
    cells = Cells("text", values=tuple(sorted(often)), rare=tuple(sorted(rare)))
    return replace(cells, counts=tuple(cells.count(drawn[half:]).tolist()))


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
    edge = f"{_edge(cells.edges[cut])}{unit}"
    return f"{name} tends to be {word} than in training: above {edge} in {shares[0]} of the rows, was in {shares[1]}."


def _is(cells: Cells, cell: int, unit: str) -> str:
    """Say what rows of a cell are."""
    if cell == len(cells.counts) - 1:
        return "is missing"
    if cells.kind == "text":
        others = ("has one of its rare values", "has a value that training did not know")
        return f"is '{cells.values[cell]}'" if cell < len(cells.values) else others[cell - len(cells.values)]
    if cell == 0:
        return f"is below {_edge(cells.edges[0])}{unit}, the least value of training,"
    if cell == len(cells.edges):
        return f"is above {_edge(cells.edges[-1])}{unit}, the greatest value of training,"
    if cell in cells.only:
        return f"is {_edge(cells.only[cell], 6)}{unit}"
    return f"is between {_edge(cells.edges[cell - 1])} and {_edge(cells.edges[cell])}{unit}"


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
    return f"{value:,.{min(max(digits - 1, 0), 9)}f}".replace("-", "\N{MINUS SIGN}")


def _edge(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
