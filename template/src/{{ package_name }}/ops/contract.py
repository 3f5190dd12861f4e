"""The names that your own modules may import from the machinery; a stable promise, they do not change meaning.

Your modules (`collect`, `process`, `features`, `model`), tests and notebooks import from here, nowhere else in `ops`.
This module needs NumPy alone, so that the service can run your `features.py` without any training library.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""One column: shape (rows,), of one of the three kinds that `Columns` describes."""

Columns: TypeAlias = Mapping[str, Array]
"""Named columns of equal length. Numbers and booleans are float64 (missing: NaN), text is object (missing: "").
Times are datetime64[us] without a zone (missing: NaT)."""


class ProjectError(Exception):
    """A mistake that a person can mend: one sentence that names file, key, column, row or value and says what to do.

    The command prints the sentence and ends with exit code 1; nobody sees a traceback.
    """


class Transformer(Protocol):
    """A scikit-learn transformer."""

    def fit(self, rows: Any, /) -> Any:
        """Learn from rows of shape (rows, columns)."""
        ...

    def transform(self, rows: Any, /) -> Any:
        """Return the rows as the estimator will see them, shape (rows, any number of columns)."""
        ...


class Estimator(Protocol):
    """A scikit-learn estimator."""

    def fit(self, rows: Any, target: Any, /) -> Any:
        """Learn from float32 rows of shape (rows, columns) and their target of shape (rows,)."""
        ...

    def predict(self, rows: Any, /) -> Any:
        """Return one prediction a row, shape (rows,)."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """What is fitted before the estimator. Both parts become a part of the exported model file."""

    numbers: Transformer
    """Sees the number features, float32 of shape (rows, number features), NaN where missing."""
    text: Transformer
    """Sees the text features, strings of shape (rows, text features), "" where missing."""


def plain(columns: Columns) -> dict[str, Array]:
    """Return features that suit any data: numbers and text as they are, of each time its month, weekday and hour."""
    made: dict[str, Array] = {}
    for name, values in columns.items():
        if values.dtype.kind == "M":
            for part in (month, weekday, hour):
                free = f"{name}_{part.__name__}"
                while free in columns:  # it is another input
                    free += "_"
                made[free] = part(values)
        else:
            made[name] = values
    return made


def month(time: Array) -> Array:
    """Month of the year, 1 to 12."""
    return _whole(time, time.astype("datetime64[M]").astype(np.int64) % 12 + 1)


def weekday(time: Array) -> Array:
    """Day of the week, Monday 0 to Sunday 6 (the epoch, 1970-01-01, was a Thursday)."""
    return _whole(time, (time.astype("datetime64[D]").astype(np.int64) + 3) % 7)


def hour(time: Array) -> Array:
    """Hour of the day with its fraction, 0 to 24."""
    return _whole(time, (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h"))


def _whole(time: Array, part: Array) -> Array:
    return np.where(np.isnat(time), np.nan, part)


def load_rows(project: str | Path = ".") -> dict[str, Array]:
    """Collect and process the project's data, for notebooks: the declared columns, ordered by time and key.

    Raises ProjectError for what `make train` would refuse as well.
    """
    with chdir(project):
        config, collect, process = (import_module(f"{__package__}.{room}") for room in ("config", "collect", "process"))
        data = config.load(config.Data)
        sources = f"{collect.__name__}.sources"  # from level 1 on
        paths = import_module(sources).snapshot(data) if find_spec(sources) else collect.local_paths(data)
        rows: dict[str, Array] = process.processed(collect.collected(paths, data), data)
        return rows


def to_columns(table: Any) -> dict[str, Array]:
    """Return the columns of an Ibis (or Arrow) table as NumPy arrays of the kinds that `Columns` describes.

    Raises ProjectError for a column of a kind that no feature can use (lists, structures, binary).
    """
    arrow = table if hasattr(table, "column_names") else table.to_pyarrow()
    return {name: _to_array(name, arrow.column(name)) for name in arrow.column_names}


def _to_array(name: str, column: Any) -> Array:
    kind = str(column.type)
    if kind.startswith(("timestamp", "date")):
        return np.asarray(column.cast("timestamp[us]", safe=False).to_numpy(), dtype="datetime64[us]")
    if kind in ("string", "large_string", "string_view") or kind.startswith("dictionary"):
        return np.array(["" if value is None else str(value) for value in column.to_pylist()], dtype=object)
    if kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal", "bool", "null")):
        try:
            return np.asarray(column.cast("float64").to_numpy(), dtype=np.float64)
        except ValueError:  # Arrow refuses whole numbers beyond 2^53
            raise ProjectError(
                f"column '{name}' holds whole numbers with more digits than a number keeps: turn it into text in "
                f"process.py (`.cast('string')`), and declare it with `type: text`"
            ) from None
    raise ProjectError(f"column '{name}' is of type {kind}: turn it into numbers, text or a time in process.py")
