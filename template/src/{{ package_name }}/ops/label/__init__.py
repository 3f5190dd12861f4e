"""The room of labels: which rows people should look at next, what they answered, and what of it the model learns from.

Answers live in `labels/answers.csv`, in git; the rows that they are about stay in the sources of `config/data.yaml`.
The order is collect.py, process.py, label.py: what process.py leaves out for want of a target can be answered for,
because the inputs of such a row are taken from the collected table.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ...label import label
from ...process import process
from ..collect import read, stored
from ..config import ANSWERS, Data, Task, your_code
from ..contract import Array, Columns, ProjectError, to_columns
from ..pages import hint
from ..process import declared, missing, processed
from ..scorer import Packed, Signature, from_values
from . import formats
from .answers import Labels, key_of, standing
from .formats import text, texts

NEIGHBOURS = 20
KNOWN = 5_000
"""Rows of known target among which neighbours are looked for."""


def refuse_answers(names: Iterable[str], data: Data, what: str = "config/data.yaml: the input") -> None:
    """Raise ProjectError for an input or a feature that is named like an answer: an outcome, or a column of labelling.

    A column called `label` or `annotator` may mean something else, so these two are refused only where people label.
    """
    outcomes = {name for name, column in data.columns.items() if column.role == "outcome"}
    answers = outcomes | ({"label", "annotator"} if ANSWERS.is_file() else set())
    for name in names:
        if name in answers:
            told = "an outcome" if name in outcomes else "what people answered"
            raise ProjectError(f"{what} '{name}' has the name of {told}, which no model may see; drop or rename it")


def labelled(collected: ibis.Table, data: Data, settings: Labels) -> dict[str, Array]:
    """Run your `process.py`, and your `label.py` where there are answers; return the declared columns, see `processed`.

    Raises ProjectError naming an answer that is of no row any more or not of the target's type.
    """
    answers = formats.read_answers()
    if not answers:
        return processed(collected, data)
    refuse_answers(data.inputs, data)
    key, (rows, every) = key_of(data), _rows(collected, data)
    accepted = standing(answers, data, settings).accepted
    given = pa.table({key: _stored(accepted, key, data), data.target: _stored(accepted.values(), data.target, data)})
    answered = every.drop(data.target).inner_join(ibis.memtable(given), key).select(*rows.columns).cast(rows.schema())
    with your_code("label.py", {"the processed table": rows.columns}):
        return declared(label(rows, answered, key), data)


def asked(collected: ibis.Table, data: Data, keys: Path | None = None) -> tuple[dict[str, Array], int]:
    """Return key and inputs of the rows that people may be asked about, typed columns of shape (rows,).

    These are the rows without a target; or, with a file that has the key's column, its rows whether they have a target
    or not. Rows that lack a needed input cannot be scored: the second answer is their number.
    Raises ProjectError naming a key that is of no row, and where nothing is left to ask.
    """
    refuse_answers(data.inputs, data)
    key, (_, every) = key_of(data), _rows(collected, data)
    clash = next((name for name in [key, *data.inputs] if name in formats.ADDED), None)
    if clash:
        raise ProjectError(f"config/data.yaml: the queue has a column '{clash}' of its own; rename yours in collect.py")
    if keys is None:
        target = every[data.target]
        empty = target == "" if target.type().is_string() else target.isnan() if target.type().is_floating() else False
        every = every.filter(target.isnull() | empty)
    found = to_columns(every.select(key, *(name for name in data.inputs if name != key)).order_by(key))
    chosen = np.ones(len(found[key]), dtype=bool) if keys is None else _chosen(keys, found[key], data)
    whole = chosen.copy()
    for name, column in data.inputs.items():
        whole &= column.nulls | ~missing(found[name])
    if not chosen.any():
        raise ProjectError(
            "every row has its target, so nothing is left to label; to ask about rows that have one, "
            "name them: make queue INPUT=outputs/unseen.csv"
        )
    return {name: values[whole] for name, values in found.items()}, int(chosen.sum() - whole.sum())


def doubt(probabilities: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Return how uncertain each answer is, from 0 to 1; the probabilities are of shape (rows, classes).

    It is 1 less the margin between the two likeliest classes, which is about wrong answers; where the metric is the log
    loss, it is the entropy, as a part of the highest one (Settles 2009, Active Learning Literature Survey, 3.1).
    """
    each = np.asarray(probabilities, dtype=np.float64)
    if metric == "log_loss":
        safe = np.clip(each, np.finfo(np.float64).tiny, 1)
        return np.asarray(-(each * np.log(safe)).sum(axis=1) / np.log(each.shape[1]))
    second, first = np.sort(each, axis=1)[:, -2:].T
    return np.asarray(1 - (first - second))


def expected_error(rows: Packed, known: Packed, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far off each answer for a quantity is likely to be, in the target's unit, shape (rows,).

    It is the model's mean absolute error on the nearest of the known rows, from which it has not learned: the local
    scale of error of nearest-neighbour conformal regression (Papadopoulos, Vovk, Gammerman 2011). The exported file
    has no spread of its own to ask. Numbers are measured in standard deviations; a text that differs counts as 1.
    """
    few = np.sort(np.random.default_rng(0).permutation(len(errors))[:KNOWN])
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    sides = ((numbers, known.numbers[few], rows.numbers, 1.0), (words, known.text[few], rows.text, np.sqrt(2)))
    fitted = [(step.fit(there), there, here, size) for step, there, here, size in sides if there.shape[1]]
    known_at = np.hstack([step.transform(there) / size for step, there, _, size in fitted])
    asked_at = np.hstack([step.transform(here) / size for step, _, here, size in fitted])
    nearest = KNeighborsRegressor(min(NEIGHBOURS, len(few))).fit(known_at, np.abs(errors[few]))
    return np.asarray(nearest.predict(asked_at))


def most_uncertain(rows: Columns, uncertainty: NDArray[np.float64], count: int, data: Data) -> NDArray[np.int64]:
    """Return the positions of the rows to ask about, the most uncertain first: nobody has answered them yet.

    Raises ProjectError where labels/queue.csv holds answers that would be lost, and where every row is answered.
    """
    answers, key = formats.read_answers(), key_of(data)
    lost = formats.filled_in() - {(answer.key, answer.label) for answer in answers}
    if lost:
        advice = f"take them in first: make labels FILE={formats.QUEUE}"
        raise ProjectError(f"{formats.QUEUE}: holds {len(lost)} answers that would be lost; {advice}")
    answered = {answer.key for answer in answers}
    is_open = np.array([of not in answered for of in texts(rows[key], data.columns[key].type)])
    if not is_open.any():
        raise ProjectError("every row that could be asked about has its answer")
    order = np.argsort(-np.round(uncertainty, 6), kind="stable")
    return np.asarray(order[is_open[order]][:count], dtype=np.int64)


def queue_rows(
    rows: Columns,
    chosen: NDArray[np.int64],
    answers: Array,
    uncertainty: NDArray[np.float64],
    signature: Signature,
    data: Data,
    guide: str,
) -> None:
    """Write the chosen rows for people to label; `answers` are what the model of this signature says of all rows."""
    target = data.columns[data.target]
    classes = [text(value, target.type) for value in signature.classes] or None
    said = [text(answer, target.type) if classes else f"{answer:.6g}" for answer in answers[chosen]]
    shown = {name: texts(values[chosen], data.columns[name].type) for name, values in rows.items()}
    view = formats.Interface(target.as_input(data.target), guide, classes)
    formats.write_queue(shown, said, uncertainty[chosen], view, signature.version)


def answerable(collected: ibis.Table, data: Data, task: Task) -> tuple[set[str], list[str] | None]:
    """Return the keys of all rows, and the classes that an answer may name (nothing for a quantity)."""
    refuse_answers(data.inputs, data)
    key, (rows, every) = key_of(data), _rows(collected, data)
    keys = set(texts(to_columns(every.select(key))[key], data.columns[key].type))
    return keys, _classes(rows, data) if task == "classification" else None


def _classes(rows: ibis.Table, data: Data) -> list[str]:
    column = data.columns[data.target]
    if column.values is not None:
        return [text(value, column.type) for value in column.values]
    if column.type == "boolean":
        return ["false", "true"]
    found = to_columns(rows.select(data.target).distinct().order_by(data.target))[data.target]
    return texts(found[~missing(found)], column.type)


def _rows(collected: ibis.Table, data: Data) -> tuple[ibis.Table, ibis.Table]:
    """Return the declared columns of your process.py's rows, and of all rows: those that it leaves out come along.

    They come with what the collected table has of them; if it lacks an input (process.py makes it), none can come.
    """
    key = key_of(data)
    with your_code("process.py", {"the collected table": collected.columns}):
        made = process(collected)
    if not set(data.columns) <= set(made.columns):
        declared(made, data)  # says which column is missing
    rows = made.select(*data.columns)
    if data.columns[data.target].type == "number":
        rows = rows.mutate({data.target: rows[data.target].cast("float64")})
    if not {key, *data.inputs} <= set(collected.columns):
        return rows, rows
    left = collected.filter(collected[key].notnull()).anti_join(rows, key)
    kinds = rows.schema().items()
    filled = {n: left[n].try_cast(kind) if n in left.columns else ibis.null(kind) for n, kind in kinds}
    return rows, rows.union(left.select(**filled))


def _chosen(file: Path, keys: Array, data: Data) -> NDArray[np.bool_]:
    name = key_of(data)
    table = read("INPUT", file, data)
    if name not in table.columns:
        raise ProjectError(f"{file}: the key's column '{name}' is missing{hint(name, table.columns)}")
    wanted = to_columns(table.select(name))[name]
    strange = np.flatnonzero(~np.isin(wanted, keys))
    if len(strange):
        shown = text(wanted[strange[0]], data.columns[name].type)
        advice = "add such rows to a source first"
        raise ProjectError(f"{file}, row {strange[0] + 1}: {name} {shown} is of no row; {advice}")
    return np.asarray(np.isin(keys, wanted))


def _stored(values: Iterable[str], name: str, data: Data) -> pa.Array:
    column = data.columns[name].as_input(name, nulls=False)
    try:
        return stored(column, from_values(column, list(values)))
    except ProjectError as error:
        raise ProjectError(f"{ANSWERS}: the answers do not suit the column's type any more: {error}") from None
