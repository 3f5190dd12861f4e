"""The room of features: values become typed columns, your `features.py` runs on them, the graph's tensors come out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..config import your_code
from ..contract import Array, Columns, ProjectError
from ..scorer import Dialect, Input, Packed, Signature, from_values

Features: TypeAlias = Callable[[Columns], dict[str, Array]]
"""What `features` of a `features.py` is."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can carry and UTF-8 cannot."""
TEXT = "OUT"
"""Kinds of arrays that hold text."""


def compute(columns: Columns, features: Features | None = None) -> dict[str, Array]:
    """Run your `features.py`, or that of a release, on typed columns of shape (rows,) and check what it returned.

    Raises ProjectError naming the feature that has the wrong length or kind, or the line that fails.
    """
    if features is None:  # only then: what is released must not need the project's own to be in order
        from ...features import features as own

        features = own
    rows = len(next(iter(columns.values())))
    with your_code("features.py", {"a row": columns}):
        made = features(columns)
    if not isinstance(made, dict) or not made:
        raise ProjectError("features.py should return a dict of at least one feature")
    for name, values in made.items():
        if not isinstance(values, np.ndarray) or values.shape != (rows,):
            raise ProjectError(f"features.py: '{name}' should be an array of {rows} values, one for each row")
        if values.dtype.kind == "f":
            continue
        if values.dtype.kind not in "iubOUT":
            raise ProjectError(f"features.py: '{name}' is of kind {values.dtype}; return numbers or text")
        odd = [value for value in values if not isinstance(value, str)] if is_text(values) else []
        if odd:
            raise ProjectError(f"features.py: '{name}' holds {odd[0]!r} among its text; return numbers or text")
    return made


def is_text(values: Array) -> bool:
    """Whether a feature is text rather than a number."""
    return values.dtype.kind in TEXT


def in_words(value: Any, kind: str) -> str:
    """Write the value that a slice has, given the type of its column."""
    if value == "" or str(value) in ("nan", "NaT"):
        return "(missing)"
    return str(bool(value)).lower() if kind == "boolean" else f"{value:g}" if isinstance(value, float) else str(value)


def pack(made: Columns, numbers: Sequence[str], text: Sequence[str]) -> Packed:
    """Stack named features into the two tensors that the graph takes, float32 (rows, n) and strings (rows, m)."""
    rows = len(next(iter(made.values())))
    packed_numbers = np.empty((rows, len(numbers)), dtype=np.float32)
    packed_text = np.empty((rows, len(text)), dtype=object)
    for position, name in enumerate(numbers):
        packed_numbers[:, position] = made[name]
    infinite = np.isinf(packed_numbers)
    if infinite.any():
        position = int(infinite.any(axis=0).argmax())
        name, row = numbers[position], int(infinite[:, position].argmax()) + 1
        raise ProjectError(f"features.py: '{name}' is infinite in row {row}; return NaN where there is no number")
    for position, name in enumerate(text):
        packed_text[:, position] = made[name]
    return Packed(packed_numbers, packed_text)


def prepare(columns: Columns, signature: Signature, features: Features | None = None) -> Packed:
    """Turn the typed input columns of a request or a batch into what the model file takes.

    `features` is that of a release; without it, your own runs.

    Raises ProjectError naming the feature by which your `features.py` and the model file differ.
    """
    made = compute(columns, features)
    for names, kind in ((signature.numbers, "a number"), (signature.text, "text")):
        for name in names:
            if name not in made or (made[name].dtype.kind in TEXT) != (kind == "text"):
                known = "returns none" if name not in made else "makes it something else"
                reason = f"the model was trained on a feature '{name}', {kind}, and features.py {known}"
                raise ProjectError(f"{reason}; run `make train` again")
    return pack(made, signature.numbers, signature.text)


def from_records(
    records: Sequence[Mapping[str, Any]], inputs: Iterable[Input], csv: Dialect | None = None
) -> dict[str, Array]:
    """Turn rows of plain values (JSON, CSV) into typed columns; row numbers in errors start at 1.

    Raises ProjectError naming the row and the column of a value that is missing or of the wrong type.
    """
    typed = {}
    for column in inputs:
        for number, record in enumerate(records, start=1):
            if column.name not in record:
                raise ProjectError(f"row {number}, column '{column.name}': missing; the model needs it")
        typed[column.name] = from_values(column, [record[column.name] for record in records], csv=csv)
    return typed


def from_request(rows: Sequence[Mapping[str, Any]], signature: Signature) -> dict[str, Array]:
    """Turn the rows of a request into typed columns; see `from_records`."""
    _refuse_nested(rows, [column.name for column in signature.inputs])
    return from_records(rows, signature.inputs, signature.csv)


def _refuse_nested(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    for number, row in enumerate(rows, start=1):
        for name in names:
            value = row.get(name)
            if isinstance(value, dict | list):
                raise ProjectError(f"row {number}, column '{name}': one value is wanted, not a list or an object")
            if isinstance(value, str) and SURROGATE.search(value):
                raise ProjectError(f"row {number}, column '{name}': half a Unicode character is no text")
