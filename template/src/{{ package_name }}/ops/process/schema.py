"""Validation: nothing is fitted on rows that `config/data.yaml` does not allow, or on an input that is the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandera.errors import SchemaErrors
from pandera.pandas import Check, DataFrameSchema
from pandera.pandas import Column as Rules

from ..config import Column, Data, Task, utc
from ..contract import Array, Columns, ProjectError
from ..scorer import READERS, WANTED
from . import given_away, missing

SHOWN = 10
"""Mistakes that one message tells."""
CLASSES = 10
"""Classes of a target that are drawn: of more than these the first."""
NULLS = 0.05
"""Share of missing values in drawn rows."""
USUAL_SPAN = 100.0
FARTHEST_ZONE = timedelta(hours=14)
"""Times carry no zone: where the day begins first, the clock is this far ahead of UTC."""
LATEST = np.datetime64("2024-12-31", "us")
"""Where drawn times end, unless they are declared to lie later: equal seeds give equal rows on any day."""

Rule = tuple[str, Callable[[Array], NDArray[np.bool_]]]
"""What a wrong value is told, and which of the values are right."""


def refuse_invalid(columns: Columns, data: Data, task: Task) -> None:
    """Raise one ProjectError for everything that is wrong with the processed columns, each of shape (rows,).

    Every line names column, row (counted from 1), key and value, and what is allowed.
    """
    mistakes = [*_broken_rules(columns, data), *_no_choice(columns, data), *_leaks(columns, data, task)]
    if mistakes:
        more = [f"and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        lines = "\n".join(f"  {line}" for line in mistakes[:SHOWN] + more)
        raise ProjectError(f"the processed rows are not what config/data.yaml allows, so nothing was fitted:\n{lines}")


def _broken_rules(columns: Columns, data: Data) -> Iterator[str]:
    rules = {name: list(_rules(name, column, data)) for name, column in data.columns.items()}
    schema = DataFrameSchema({name: Rules(checks=_checks(made), nullable=True) for name, made in rules.items()})
    try:
        schema.validate(pd.DataFrame(dict(columns)), lazy=True)
    except SchemaErrors as errors:
        for (name, told), cases in errors.failure_cases.groupby(["column", "check"], sort=False):
            yield _line(str(name), str(told), np.sort(cases["index"].to_numpy(dtype=np.int64)), columns, data)


def allowed(columns: Columns, data: Data) -> NDArray[np.bool_]:
    """Return which rows have values, in the columns given, that `config/data.yaml` allows."""
    right = np.ones(len(next(iter(columns.values()))), dtype=bool)
    for name, values in columns.items():
        for _, rule in _rules(name, data.columns[name], data):
            right &= rule(values)
    return right


def _checks(rules: list[Rule]) -> list[Check]:
    def check(right: Callable[[Array], NDArray[np.bool_]]) -> Callable[[Any], Any]:
        return lambda series: pd.Series(right(series.to_numpy()), index=series.index)

    return [Check(check(right), error=told, ignore_na=False) for told, right in rules]


def _rules(name: str, column: Column, data: Data) -> Iterator[Rule]:
    wanted = f"is not {WANTED[column.type]} (type: {column.type})"
    nulls_allowed = column.nulls and name not in (data.target, data.key, data.time)
    if not nulls_allowed:
        yield "and a value is wanted in every row (`nulls: true` would allow none)", lambda v: ~missing(v)
    if name == data.key:
        yield "stands in an earlier row too, and the key is of one row", lambda v: ~pd.Series(v).duplicated().to_numpy()
    if name == data.time:
        latest = np.datetime64(datetime.now(UTC).replace(tzinfo=None) + FARTHEST_ZONE, "us")
        yield "lies in the future", lambda v: ~(v > latest)
    if column.type in ("number", "integer"):
        yield "is infinite (or too large for the model's 32 bits)", lambda v: ~(np.abs(v) > np.finfo(np.float32).max)
    if column.type == "integer":
        yield wanted, lambda v: (v == np.floor(v)) | ~np.isfinite(v)
    if column.type == "boolean":
        yield wanted, lambda v: np.isin(v, (0.0, 1.0)) | np.isnan(v)
    yield from _limits(column)
    if column.values is not None:
        allowed = np.array(column.values, dtype=object if column.type == "text" else np.float64)
        listed = ", ".join(show(value, column) for value in allowed[:SHOWN]) + (", ..." if len(allowed) > SHOWN else "")
        yield f"is not one of the values {listed}", lambda v: pd.Series(v).isin(allowed).to_numpy() | missing(v)


def _limits(column: Column) -> Iterator[Rule]:
    for key, given, side in (("min", column.min, "below"), ("max", column.max, "above")):
        if given is None:
            continue
        bound = limit(given)
        told = f"is {side} the {key}imum of {show(bound, column)}" + (f" {column.unit}" if column.unit else "")
        yield told, partial(_within, key, bound)


def limit(given: float | datetime | None) -> Any:
    """Return `min` or `max` of config/data.yaml as columns hold it."""
    return np.datetime64(utc(given), "us") if isinstance(given, datetime) else given


def _within(key: str, bound: Any, values: Array) -> NDArray[np.bool_]:
    return np.asarray(~(values < bound) if key == "min" else ~(values > bound))


def _line(name: str, told: str, wrong: NDArray[np.int64], columns: Columns, data: Data) -> str:
    row = int(wrong[0])
    key = "" if data.key in (None, name) else f" ({data.key} {show(columns[data.key][row], data.columns[data.key])})"
    value = columns[name][row]
    shown = "no value," if missing(columns[name][row : row + 1])[0] else show(value, data.columns[name])
    more = "" if len(wrong) == 1 else f" (so in {len(wrong)} rows)"
    return f"row {row + 1}{key}, column '{name}': {shown} {told}{more}"


def _no_choice(columns: Columns, data: Data) -> Iterator[str]:
    values = columns[data.target]
    present = values[~missing(values)]
    if len(present) and (present == present[0]).all():
        only = show(present[0], data.columns[data.target])
        yield f"column '{data.target}': {only} in every row, so the target leaves nothing to learn"


def _leaks(columns: Columns, data: Data, task: Task) -> Iterator[str]:
    measure = "AUC" if task == "classification" else "R2"
    for name, score in given_away(columns, data, task).items():
        yield (
            f"column '{name}' alone gives '{data.target}' away ({measure} {score:.2f}); "
            "if it is known too late to be an input, give it `role: outcome` in config/data.yaml"
        )


def drawn(data: Data, task: Task, rows: int, seed: int = 0) -> dict[str, Array]:
    """Draw processed columns of shape (rows,) that `config/data.yaml` allows; the target depends on nothing."""
    draw = np.random.default_rng(seed)
    made = {}
    for name, column in data.columns.items():
        is_class = name == data.target and task == "classification"
        shown = _with_classes(column, data.positive) if is_class else column
        values = _drawn(shown, rows, draw, name == data.key, is_class)
        if column.nulls and name not in (data.target, data.key, data.time):
            values[draw.random(rows) < NULLS] = "" if column.type == "text" else None
        made[name] = values
    return made


def drawable(data: Data) -> Data:
    """Return the settings without limits of the key: they may allow fewer values than there are rows to draw."""
    if data.key is None:
        return data
    free = data.columns[data.key].model_copy(update=dict.fromkeys(("min", "max", "values")))
    return data.model_copy(update={"columns": {**data.columns, data.key: free}})


def _with_classes(column: Column, positive: Any) -> Column:
    """Return the target's column with the first of many classes, or with two where only yes is named."""
    if column.values is not None:
        return column.model_copy(update={"values": column.values[:CLASSES]})
    if positive is None or column.type == "boolean":
        return column
    least = float(np.ceil(bounds(column)[0]))
    other = f"not {positive}" if column.type == "text" else least if least != positive else least + 1
    return column.model_copy(update={"values": [other, positive]})


def _drawn(column: Column, rows: int, draw: np.random.Generator, is_key: bool, is_class: bool) -> Array:
    low, high = bounds(column)
    classes = 3 if column.type == "text" else 2
    steps = np.arange(rows) if is_key else draw.integers(0, classes if is_class else 5, rows)
    if column.values is not None:
        return draw.choice(np.array(column.values, dtype=READERS[column.type][2]), rows)
    if column.type == "text":
        return np.array([f"value {step}" for step in steps], dtype=object)
    if column.type == "time":
        return np.asarray(low + (steps / rows if is_key else draw.random(rows)) * (high - low))
    if column.type == "boolean":
        return draw.integers(0, 2, rows).astype(np.float64)
    if is_key or is_class:
        return np.asarray(np.ceil(low) + steps)
    numbers = draw.uniform(low, high, rows)
    return numbers if column.type == "number" else np.maximum(np.floor(numbers), np.ceil(low))


def bounds(column: Column) -> tuple[Any, Any]:
    """Return the least and the greatest value of a number or a time; where none is declared, usual ones."""
    low, high = limit(column.min), limit(column.max)
    if column.type == "time":
        high = LATEST if high is None else min(high, LATEST)
        low = high - np.timedelta64(365, "D") if low is None else low
        return low, max(low + np.timedelta64(1, "h"), high)
    if low is None:
        low = 0.0 if high is None else high - USUAL_SPAN
    return low, low + USUAL_SPAN if high is None else high


def show(value: Any, column: Column) -> str:
    """Write a value as a person would."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]"))
    if column.type == "boolean" and value in (0.0, 1.0):
        return "true" if value else "false"
    return f"{value:.15g}"
