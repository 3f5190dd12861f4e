"""The room of features: values become typed columns, your `features.py` runs on them, the graph's tensors come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...features import features
from ..config import your_code
from ..contract import Array, Columns, ProjectError
from ..scorer import Dialect, Input, Packed, Signature, from_values


def compute(columns: Columns) -> dict[str, Array]:
    """Run your `features.py` on typed columns of shape (rows,) and check what it returned.

    Raises ProjectError naming the feature that has the wrong length or kind, or the line that fails.
    """
    rows = len(next(iter(columns.values())))
    with your_code("features.py", {"a row": columns}):
        made = features(columns)
    if not isinstance(made, dict) or not made:
        raise ProjectError("features.py should return a dict of at least one feature")
    for name, values in made.items():
        if not isinstance(values, np.ndarray) or values.shape != (rows,):
            raise ProjectError(f"features.py: '{name}' should be an array of {rows} values, one for each row")
        if values.dtype.kind not in "fiubOUT":
            raise ProjectError(f"features.py: '{name}' is of kind {values.dtype}; return numbers or text")
        odd = [value for value in values if not isinstance(value, str)] if is_text(values) else []
        if odd:
            raise ProjectError(f"features.py: '{name}' holds {odd[0]!r} among its text; return numbers or text")
    return made


def is_text(values: Array) -> bool:
    """Whether a feature is text rather than a number."""
    return values.dtype.kind in "OUT"


def pack(made: Columns, numbers: Sequence[str], text: Sequence[str]) -> Packed:
    """Stack named features into the two tensors that the graph takes, float32 (rows, n) and strings (rows, m)."""
    rows = len(next(iter(made.values())))
    packed_numbers = np.empty((rows, len(numbers)), dtype=np.float32)
    packed_text = np.empty((rows, len(text)), dtype=object)
    for position, name in enumerate(numbers):
        packed_numbers[:, position] = made[name]
        if np.isinf(packed_numbers[:, position]).any():
            row = int(np.flatnonzero(np.isinf(packed_numbers[:, position]))[0]) + 1
            raise ProjectError(f"features.py: '{name}' is infinite in row {row}; return NaN where there is no number")
    for position, name in enumerate(text):
        packed_text[:, position] = made[name]
    return Packed(packed_numbers, packed_text)


def prepare(columns: Columns, signature: Signature) -> Packed:
    """Turn the typed input columns of a request or a batch into what the model file takes.

    Raises ProjectError naming the feature by which your `features.py` and the model file differ.
    """
    made = compute(columns)
    for names, kind in ((signature.numbers, "a number"), (signature.text, "text")):
        for name in names:
            if name not in made or is_text(made[name]) != (kind == "text"):
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
