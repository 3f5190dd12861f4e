"""What the drift rule needs of many rows: how many of them fall into each of a few dozen cells of every column.

The cells are made once from a reference sample; the rows of a window are counted into them, with NumPy or in one DuckDB
query. Counts are small, add up over windows and tell nothing about a single row, so they can be kept for years.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ibis
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.special import ndtr

from ..contract import Array, Columns
from ..files import atomic

Counts: TypeAlias = NDArray[np.int64]
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
