"""The room of processing: your `process.py` turns the collected table into the rows that the model learns from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.tree import DecisionTreeRegressor

from ...process import process
from ..collect.adopt import LISTED, Adoption
from ..config import PACKAGE, Case, Data, Task, your_code
from ..contract import Array, Columns, ProjectError, to_columns
from ..pages import hint, laid_out
from ..scorer import READERS, Dialect

LEAK = 0.99
"""AUC or R2 that one honest input does not reach alone."""
SAMPLE = 20_000
"""Rows in which a leak is looked for."""
HELD_OUT = 0.3
CASES = 20
"""Rows of a class, or of a sample, below which a score means nothing."""
CLASSES = 100
SLICES = 3
KINDS = {"f": "numbers", "O": "text", "M": "times"}
COLLECT = '''\
"""Collect: bring the sources together into one table. Set-wise work (joins, unions) belongs here, written with Ibis."""

from __future__ import annotations

from collections.abc import Mapping

import ibis


def collect(sources: Mapping[str, ibis.Table]) -> ibis.Table:
    """Return the one source of `config/data.yaml` as it is."""
    return sources[{source}]
'''
PROCESS = '''\
"""Process: from the collected table to the rows that the model learns from. Set-wise work belongs here, with Ibis."""

from __future__ import annotations

import ibis

TARGET = {target}
{rare}

def process(collected: ibis.Table) -> ibis.Table:
    """Keep the {kept}."""
    rows = {rows}
    return rows.filter(rows[TARGET].notnull(){others})
'''
FEATURES = '''\
"""Features: what the model sees, computed row by row from the inputs that `config/data.yaml` declares.

The very same function runs on the whole table in training and on one row in the service, so the two cannot disagree.
Write NumPy over columns; a row must never look at another row. What is fitted (imputing, scaling, encoding) is in
`model.py`.
"""

from __future__ import annotations

from .ops.contract import Array, Columns, plain


def features(columns: Columns) -> dict[str, Array]:
    """Return numbers and text as they are, and of each time its month, weekday and hour."""
    return plain(columns)
'''


def processed(collected: ibis.Table, data: Data) -> dict[str, Array]:
    """Run your `process.py` and return the declared columns, ordered by time and key so that every run sees one order.

    Raises ProjectError naming a declared column that is not there or of another kind, or when no row is left.
    """
    with your_code("process.py", {"the collected table": collected.columns}):
        return declared(process(collected), data)


def declared(table: ibis.Table, data: Data) -> dict[str, Array]:
    """Return the declared columns of the table that your `process.py` made; see `processed`."""
    missing = [name for name in data.columns if name not in table.columns]
    if missing:
        raise ProjectError(
            f"column '{missing[0]}' of config/data.yaml is not in the table that process.py returns"
            f"{hint(missing[0], set(table.columns) - set(data.columns))} (it has {', '.join(table.columns)})"
        )
    named = list(dict.fromkeys(name for name in (data.time, data.key) if name is not None))
    order = named if data.key else [*named, *(name for name in data.columns if name not in named)]
    arrow = table.select(*data.columns).order_by(order).to_pyarrow()
    if arrow.num_rows == 0:
        raise ProjectError("no row is left after process.py: the sources are empty, or process.py drops every row")
    columns = to_columns(arrow)
    for name, column in data.columns.items():
        wanted = np.dtype(READERS[column.type][2])
        if arrow.column(name).null_count == arrow.num_rows:
            columns[name] = np.full(arrow.num_rows, READERS[column.type][1], dtype=wanted)  # of no kind yet
        elif columns[name].dtype.kind != wanted.kind:
            raise ProjectError(
                f"column '{name}' holds {KINDS[columns[name].dtype.kind]} in the table that process.py returns, but "
                f"config/data.yaml declares `type: {column.type}`; cast it in process.py, or declare what it holds"
            )
    return columns


def refuse_missing(columns: Columns, data: Data) -> None:
    """Raise ProjectError naming the first missing value where `config/data.yaml` does not allow any."""
    for name, column in data.columns.items():
        empty = missing(columns[name])
        if empty.any() and (not column.nulls or name == data.target):
            advice = "drop such rows in process.py" if name == data.target else "`nulls: true` would allow none"
            row = int(np.flatnonzero(empty)[0]) + 1
            raise ProjectError(f"row {row}, column '{name}': no value, and a value is wanted in every row ({advice})")


def given_away(columns: Columns, data: Data, task: Task) -> dict[str, float]:
    """Return the inputs that alone give the target away, with their score on held-out rows (AUC or R2).

    Held out are the latest rows, or a random share without a time.
    """
    usable = np.flatnonzero(~missing(columns[data.target]))
    draw = np.random.default_rng(0)
    rows = np.sort(draw.choice(usable, SAMPLE, replace=False)) if len(usable) > SAMPLE else usable
    answers = _answers(columns[data.target][rows], task)
    if answers is None or HELD_OUT * len(rows) < CASES:
        return {}
    order = draw.permutation(len(rows)) if data.time is None else np.argsort(columns[data.time][rows], kind="stable")
    learn, held = np.split(order, [int((1 - HELD_OUT) * len(rows))])
    scores = {
        name: _score(_alone(columns[name][rows], answers, learn)[held], answers[held], task) for name in data.inputs
    }
    return {name: score for name, score in scores.items() if score >= LEAK}


def _answers(target: Array, task: Task) -> NDArray[np.float64] | None:
    """Return the target as numbers of shape (rows, classes) or (rows, 1), or nothing where it cannot be learned."""
    if task == "regression":
        numbers = target.dtype.kind == "f" and np.isfinite(target).all()
        return target.reshape(-1, 1) if numbers and np.ptp(target) > 0 else None
    classes, positions = np.unique(target, return_inverse=True)
    return np.eye(len(classes))[positions] if 1 < len(classes) <= CLASSES else None


def _alone(values: Array, answers: NDArray[np.float64], learn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what one column says of every row's answers, learned from some rows: means of a value, or a small tree."""
    if values.dtype == object:
        known, codes = np.unique(values.astype(str), return_inverse=True)
        sums, counts = np.zeros((len(known), answers.shape[1])), np.bincount(codes[learn], minlength=len(known))
        np.add.at(sums, codes[learn], answers[learn])
        means = (sums + answers[learn].mean(axis=0)) / (counts[:, None] + 1)
        return np.asarray(means[codes])
    numbers = values if values.dtype.kind == "f" else values.astype("datetime64[s]").astype(np.float64)
    single = np.where(missing(values) | ~np.isfinite(numbers), np.nan, numbers).astype(np.float32).reshape(-1, 1)
    tree = DecisionTreeRegressor(min_samples_leaf=5, max_leaf_nodes=512, random_state=0)
    return np.asarray(tree.fit(single[learn], answers[learn]).predict(single)).reshape(answers.shape)


def _score(said: NDArray[np.float64], answers: NDArray[np.float64], task: Task) -> float:
    """Return the R2, or the lowest AUC of one class against the rest: one class that stands apart is no leak."""
    if task == "regression":
        return float(r2_score(answers, said))
    cases = answers.sum(axis=0)
    told = [k for k in range(answers.shape[1]) if CASES <= cases[k] <= len(answers) - CASES]
    return min((float(roc_auc_score(answers[:, k], said[:, k])) for k in told), default=0.0)


def missing(values: Array) -> NDArray[np.bool_]:
    """Return which values are missing: "" of text, NaN of numbers, NaT of times."""
    return np.asarray(values == "" if values.dtype == object else np.isnan(values), dtype=np.bool_)


def settle_time(found: Adoption, share: float) -> None:
    """Let the one complete time of an adopted file say when a row happened, if its later rows can test a model."""
    times = [one for one in found.columns.values() if one.is_input and one.keys["type"] == "time" and not one.missing]
    times = [one for one in times if one.distinct > 1 and "sensitive" not in one.keys]
    if len(times) != 1:
        if times:
            names = " and ".join(one.name for one in times)
            found.said.append(f"{names} are times: name in `time` of config/data.yaml when a row happened")
        return
    target = found.columns[found.target]
    values, answers = found.read(times[0]), found.read(target)
    kept = ~missing(answers) & ~np.isin(answers, np.array(found.rare, dtype=answers.dtype))
    values, answers = values[kept], answers[kept]
    later = values > np.sort(values)[int((1 - share) * len(values))]
    is_class = found.task == "classification"
    enough = len(set(answers[later])) >= 2 and (not is_class or set(answers[~later]) >= set(answers))
    if values.max() > np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us") or not enough:
        found.said.append(f"'{times[0].name}' does not say when a row happened: its later rows cannot test a model")
        return
    found.time = times[0].name
    times[0].reasons.append("when a row happened: later rows test the model")


def described(found: Adoption) -> dict[str, Any]:
    """Return `config/data.yaml` of an adopted file."""
    usual, told = vars(Dialect()), vars(found.dialect) | {"missing": list(found.dialect.missing)}
    csv = {key: value for key, value in told.items() if value and value != usual[key]}
    grouped = [one for one in found.columns.values() if one.is_input and 1 < len(one.counts) <= LISTED]
    slices = [one.name for one in sorted(grouped, key=lambda one: "sensitive" not in one.keys)][:SLICES]
    made: dict[str, Any] = {"source": {found.file.stem: found.file.as_posix()}, "csv": csv, "key": found.key}
    made |= {"time": found.time, "target": found.target, "positive": found.positive, "slices": slices}
    columns = {one.name: one.keys for one in found.columns.values() if one.keys}
    return {key: value for key, value in made.items() if value not in (None, {}, [])} | {"columns": columns}


def starters(found: Adoption, case: Case) -> dict[Path, str | Path]:
    """Return what an adoption writes: the pages and modules that speak of the data, and the file that is copied."""
    pages, modules = Path("config"), Path("src") / PACKAGE.name
    headers = {page: (pages / page).read_text(encoding="utf-8") for page in ("data.yaml", "case.yaml")}
    about: dict[str, Any] = {
        "decision": f"Not said yet - what is decided with a prediction of {found.target}.",
        "kpi": f"not said yet - what gets better when {found.target} is predicted",
    }
    if found.task == "classification" and len(found.classes) == 2:
        about["cost_of_errors"] = {"false_alarm": 1, "miss": 1}
    about |= {"owner": case.owner, "risk_class": case.risk_class}
    made: dict[Path, str | Path] = {
        pages / "data.yaml": laid_out(described(found), headers["data.yaml"]),
        pages / "case.yaml": laid_out(about, headers["case.yaml"]),
        modules / "collect.py": COLLECT.format(source=json.dumps(found.file.stem, ensure_ascii=False)),
        modules / "process.py": _process_text(found),
        modules / "features.py": FEATURES,
    }
    return made if found.path.resolve() == found.file.resolve() else {found.file: found.path, **made}


def _process_text(found: Adoption) -> str:
    listed = "".join(f"    {json.dumps(value, ensure_ascii=False)},\n" for value in found.rare)
    own, known = found.columns[found.target], ""
    if found.file.suffix == ".parquet" and own.values.null_count < own.missing:  # "" and NaN are no null there
        is_float = str(own.values.type) in ("halffloat", "float", "double")
        known = ', rows[TARGET] != ""' if own.keys["type"] == "text" else ", ~rows[TARGET].isnan()" * is_float
    return PROCESS.format(
        target=json.dumps(found.target, ensure_ascii=False),
        rare=f"RARE = [\n{listed}]  # classes of too few rows to learn from\n" if found.rare else "",
        kept="rows whose target is known" + (", each of them once" if found.once else ""),
        rows="collected.distinct()" if found.once else "collected",
        others=known + (", ~rows[TARGET].isin(RARE)" if found.rare else ""),
    )
