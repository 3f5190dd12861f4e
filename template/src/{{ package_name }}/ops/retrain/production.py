"""Rows from production: what was asked, and what became of it, becomes rows to learn from.

They lie beside the collected sources, so they are part of the version of the data, and `make reproduce` has them too.
The file holds them in the order in which they were asked: the latest of them test the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..collect.sources import RAW
from ..config import Case, Column, Data, Model
from ..contract import Array, Columns, ProjectError, to_columns
from ..evaluate.compare import sure
from ..evaluate.metrics import METRICS, paired
from ..files import atomic, put_in_place
from ..log.truth import joined
from ..process import missing
from ..process.schema import allowed
from ..scorer import EXACT, READERS, Dialect, Input, from_values
from ..train import examples, learned, unfitted

ROWS = RAW / "production.parquet"
BEFORE = Path("build/production.parquet")
"""The rows that were there before, until those in their place have shown their worth."""
TESTED = 200
"""Rows that test a model, where there are twice as many; or `test_share` of all rows, where that is more."""
MOST = 200_000
"""Rows of the log that are taken, the latest ones."""
SURE = 3.0
"""Standard errors by which errors have grown where there was a change."""
SURELY = 0.95
"""Confidence with which the recent rows alone have to be better."""
OLDER = 50_000
"""Collected rows with which a window is tried."""
Window: TypeAlias = Literal["all", "recent"]
FROM = {"all": "with all other rows", "recent": "since the change, alone"}


@dataclass(frozen=True)
class Rows:
    """Rows with known truth, in the order in which they were asked."""

    columns: dict[str, Array]
    """The columns by which a model is judged, each of shape (rows,)."""
    times: NDArray[np.float64]
    """When they were asked, seconds since 1970, shape (rows,)."""
    models: Array
    """Digest of the bundle that answered, shape (rows,)."""
    errors: NDArray[np.float64]
    """How far off its answer was; 1 for another class than the true one. Shape (rows,)."""
    left_out: int
    """Rows that config/data.yaml does not allow."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.times)

    def since(self, time: float) -> Rows:
        """Return those that were asked from a time on."""
        return self.take(self.times >= time)

    def take(self, rows: NDArray[np.bool_]) -> Rows:
        """Return the rows of a mask."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Rows(columns, self.times[rows], self.models[rows], self.errors[rows], self.left_out)


def known(data: Data) -> Rows:
    """Return the rows of the prediction log whose truth is known and which config/data.yaml allows, each once.

    Raises ProjectError where nothing was logged yet.
    """
    import msgspec

    table = joined()
    served = table.filter(table.variant != "shadow").select("id", "time", "model", "inputs", "prediction", "truth")
    latest = served.order_by([served.time.desc(), served.id.desc()]).limit(MOST).to_pyarrow().to_pylist()
    once = {row["id"]: row for row in reversed(latest)}
    times = np.array([row["time"] for row in once.values()], dtype=np.float64)
    inputs = [msgspec.json.decode(row["inputs"]) for row in once.values()]
    columns: dict[str, Array] = {}
    whole = np.ones(len(once), dtype=bool)
    for name, column in data.inputs.items():
        columns[name], is_read = _typed(column.as_input(name), [row.get(name) for row in inputs], data.csv)
        whole &= is_read
    answer = data.columns[data.target].as_input(data.target, nulls=False)
    columns[data.target], is_read = _typed(answer, [row["truth"] for row in once.values()], Dialect())
    whole &= is_read
    if data.time is not None and data.time not in columns:
        columns[data.time] = (times * 1e6).astype(np.int64).astype("datetime64[us]")
    whole &= allowed(columns, data.model_copy(update={"key": None}))
    if data.key is not None and data.key in columns:
        whole[whole] &= _is_last(columns[data.key][whole])
    elif data.key is not None:
        columns[data.key] = _keys(list(once), times, data.columns[data.key])
    for name in data.judged:
        columns.setdefault(name, _nothing(data.columns[name], len(once)))
    models = np.array([row["model"] for row in once.values()], dtype=object)
    made = {name: columns[name] for name in data.judged}
    return Rows(made, times, models, _errors(list(once.values()), data), int((~whole).sum())).take(whole)


def fresh(since: float) -> int:
    """Return how many answers there are whose truth was told after a time, seconds since 1970."""
    table = joined()
    return int(table.filter(table.variant != "shadow", table.came > since).id.nunique().to_pyarrow().as_py())


def began(rows: Rows, model: str) -> float:
    """Return when a model's errors grew, seconds since 1970: where the mean before and after differ most surely.

    This is the most likely place of one change of the mean (Hinkley 1970); where the errors did not surely grow, it is
    the model's first answer.
    """
    own = rows.take(rows.models == model)
    count = len(own)
    if count < 2:
        return float(own.times[0]) if count else 0.0
    before = np.arange(1, count)
    fewer = -np.cumsum(own.errors - own.errors.mean())[:-1]
    sure = fewer / np.sqrt(before * (count - before) / count) / max(float(own.errors.std()), np.finfo(float).tiny)
    place = int(np.argmax(sure)) + 1
    return float(own.times[place if sure[place - 1] > SURE else 0])


def write(rows: Rows, window: Window, cause: str, data: Data) -> None:
    """Put rows beside the collected sources; what was there is kept, see `put_back`.

    Raises ProjectError where a source has the name of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if ROWS.stem in data.source:
        raise ProjectError(f"config/data.yaml, source.{ROWS.stem}: {ROWS} is for rows from production; rename it")
    if ROWS.is_file():
        put_in_place({BEFORE: ROWS})
    else:
        BEFORE.unlink(missing_ok=True)
    table = pa.table({name: pa.array(values) for name, values in rows.columns.items()})
    with atomic(ROWS) as path:
        pq.write_table(table.replace_schema_metadata({"window": window, "cause": cause}), path, compression="zstd")


def holds(cause: str) -> bool:
    """Whether the rows were written for a cause."""
    return ROWS.is_file() and _about(ROWS).get("cause") == cause


def put_back(cause: str) -> None:
    """Put back the rows that were there before those of a cause, or take these away."""
    if not holds(cause):
        return
    if BEFORE.is_file():
        put_in_place({ROWS: BEFORE})
    else:
        ROWS.unlink()


def taken_in(columns: dict[str, Array], data: Data, share: float) -> tuple[dict[str, Array], NDArray[np.bool_] | None]:
    """Add the rows from production, if there are any, and say which rows test a model: the latest, see `tested`.

    With the window `recent` they take the place of all others. Those that config/data.yaml does not allow any more, or
    whose key the sources have by now, are left out.
    """
    if ROWS.stem in data.source or not ROWS.is_file():
        return columns, None
    import pyarrow.parquet as pq

    stored = to_columns(pq.read_table(ROWS))
    count = len(stored[data.target]) if data.target in stored else 0
    given = {name: stored.get(name, _nothing(column, count)) for name, column in data.columns.items()}
    whole = allowed({name: given[name] for name in (*data.inputs, data.target)}, data.model_copy(update={"key": None}))
    replaces = _about(ROWS)["window"] == "recent"
    if data.key is not None:
        whole &= ~missing(given[data.key]) & (replaces | ~np.isin(given[data.key], columns[data.key]))
    older, new = 0 if replaces else len(columns[data.target]), int(whole.sum())
    together = {name: np.concatenate([values[:older], given[name][whole]]) for name, values in columns.items()}
    return together, np.arange(older + new) >= older + new - tested(new, share)


def tested(rows: int, share: float) -> int:
    """Return how many rows from production test a model: at most half of them, for they also have to teach."""
    return max(int(share * rows), min(TESTED, rows // 2))


def better(rows: Rows, since: float, older: Columns, data: Data, case: Case, model: Model) -> tuple[Window, str]:
    """Return all, unless the recent rows alone surely make a better model, and how this was found, in words.

    Both models learn what a training would give them, but for the rows on which they are compared here; those that will
    test the new model are left out altogether.
    """
    count = len(older[data.target])
    drawn = np.sort(np.random.default_rng(model.seed).permutation(count)[:OLDER])
    together = {name: np.concatenate([older[name][drawn], rows.columns[name]]) for name in data.judged}
    every, _ = examples(together, data, case, model)
    recent = np.flatnonzero(rows.times >= since)
    recent = recent[: len(recent) - tested(len(recent), model.test_share)]
    held = recent[len(recent) - tested(len(recent), model.test_share) :] + len(drawn)
    parts = {"recent": np.setdiff1d(recent + len(drawn), held)}
    classes = len(np.unique(every.target)) if model.task == "classification" else 1
    if len(recent) < TESTED or any(len(np.unique(every.target[part])) < classes for part in (parts["recent"], held)):
        return "all", "too few rows since the change to learn from them alone"
    parts["all"], test, answers = np.arange(held[0]), every.take(held), {}
    for name, part in parts.items():
        _, native = learned(every.take(part), unfitted(model))
        answers[name] = native(test.packed)
    facts, draws = METRICS[model.metric], paired(model, test.target, answers)
    is_better = sure(facts.gain(draws["recent"], draws["all"]), SURELY).low > 0
    told = " and ".join(f"{values[0]:.4g} {FROM[name]}" for name, values in draws.items())
    return "recent" if is_better else "all", f"{facts.label} on {len(held)} rows: {told}"


def _about(path: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    return {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}


def _typed(column: Input, values: Sequence[Any], csv: Dialect) -> tuple[Array, NDArray[np.bool_]]:
    """Return typed values of shape (rows,), and which of them could be read."""
    is_read = np.ones(len(values), dtype=bool)
    try:
        return from_values(column, values, csv=csv), is_read
    except ProjectError:
        pass
    made = np.full(len(values), READERS[column.type][1], dtype=READERS[column.type][2])
    for place, value in enumerate(values):
        try:
            made[place] = from_values(column, [value], csv=csv)[0]
        except ProjectError:
            is_read[place] = False
    return made, is_read


def _keys(ids: Sequence[str], times: NDArray[np.float64], column: Column) -> Array:
    """Return a key for each prediction that no row of the sources has, and that is the same one every time."""
    if column.type == "text":
        return np.array([f"prediction {name}" for name in ids], dtype=object)
    drawn = np.array([int.from_bytes(sha256(name.encode()).digest()[:8]) for name in ids], dtype=np.uint64)
    numbers = (drawn % np.uint64(EXACT // 2)).astype(np.int64) + EXACT // 2
    if column.type == "time":
        return (times.astype(np.int64) * 10**6 + numbers % 10**6).astype("datetime64[us]")
    return numbers.astype(np.float64)


def _errors(rows: Sequence[dict[str, Any]], data: Data) -> NDArray[np.float64]:
    pairs = [(row["prediction"], row["truth"]) for row in rows]
    if data.columns[data.target].type in ("number", "integer"):
        return np.array([abs(float(said) - float(truth)) for said, truth in pairs], dtype=np.float64)
    return np.array([said != truth for said, truth in pairs], dtype=np.float64)


def _is_last(values: Array) -> NDArray[np.bool_]:
    """Return which values do not come again."""
    seen: set[Any] = set()
    last = np.zeros(len(values), dtype=bool)
    for place in range(len(values) - 1, -1, -1):
        last[place] = values[place] not in seen
        seen.add(values[place])
    return last


def _nothing(column: Column, rows: int) -> Array:
    _, empty, kind = READERS[column.type]
    return np.full(rows, empty, dtype=kind)
