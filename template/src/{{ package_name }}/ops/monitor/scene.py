"""What monitors look at: rows of the prediction log as arrays, and what the release promised when it was made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import ibis
import msgspec
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ..config import Data, Model
from ..contract import Array, Columns, to_columns
from ..evaluate.compare import sure
from ..evaluate.metrics import METRICS, SLICE_ROWS, Floats, paired
from ..features import from_records, in_words
from ..files import atomic
from ..log import truth
from ..release.bundle import Bundle
from ..release.evidence import Trial, answered, tried
from ..release.policy import Policy
from ..scorer import Packed, Signature
from ..serve import Measure
from . import Aging, Monitor
from .cells import Reference, summarise

KEPT = Path("outputs/monitor")
"""What was promised, by the bundle's digest: it never changes, and takes a second to work out."""
SURE = 0.95
"""Confidence with which it was as good as is promised."""
VALUES = 10
"""A number with more values is divided into quarters of its rows."""
BATCH = 10_000
"""Rows whose inputs are held as Python values at once."""
Key = tuple[float, str]
"""When a row was answered, and its id: the order of the log."""


@dataclass(frozen=True)
class Rows:
    """Answered rows in the order of the log."""

    times: Floats
    """When each was answered, in seconds since 1970."""
    ids: Array
    columns: Columns
    """The inputs that the request carried, or some of them, as a model takes them."""
    packed: Packed
    """The features that the service logged; none where only some inputs were read."""
    raw: NDArray[np.float32]
    """As `Scorer.run` gives it; NaN where the log has no number."""
    truth: Floats
    """The place of the true class, or the true value; NaN as long as nobody told."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.times)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a truth."""
        return ~np.isnan(self.truth)

    def part(self, start: int, end: int) -> Rows:
        """Return some rows that follow one another."""
        rows = slice(start, end)
        columns = {name: values[rows] for name, values in self.columns.items()}
        packed = Packed(self.packed.numbers[rows], self.packed.text[rows])
        return Rows(self.times[rows], self.ids[rows], columns, packed, self.raw[rows], self.truth[rows])

    def key(self, row: int) -> Key:
        """Return the key of a row."""
        return float(self.times[row]), str(self.ids[row])

    def until(self, key: Key) -> int:
        """Return how many rows were answered up to a key, itself included."""
        start, end = np.searchsorted(self.times, key[0], "left"), np.searchsorted(self.times, key[0], "right")
        return int(start) + bisect_right(self.ids[start:end].tolist(), key[1])


@dataclass(frozen=True)
class Promise:
    """What a release is measured by."""

    metric: str
    by: tuple[str, ...]
    """Columns whose values are judged by themselves."""
    inputs: Reference
    """Of the rows that it learned from."""
    learned: Reference
    """Its answers to these rows, which it knows by heart."""
    tested: Reference
    """Its answers to the rows that tested it."""
    constant: list[float]
    """What answers every row alike: the shares of the classes, or the mean, of the rows learned from."""
    lead: float
    """How much better than a constant answer it surely was on these rows."""
    leads: dict[str, float]
    """The same for each slice that had enough of them."""
    edges: dict[str, tuple[float, ...]]
    """Where numbers are divided."""


@dataclass(frozen=True)
class Clock:
    """When what happened, in seconds since 1970."""

    made: float
    """The bundle."""
    deployed: float
    """When it came into the environment."""
    asked: float | None
    """Its first answer; None before any."""
    answered: float | None
    """Its last answer."""
    told: float | None
    """When the truth that was seen last was seen."""
    truths: int
    """Its answers whose truth is known."""
    now: float


@dataclass(frozen=True)
class Scene:
    """What a monitor may look at."""

    settings: Monitor
    policy: Policy
    data: Data
    model: Model
    bundle: Bundle
    promise: Promise
    clock: Clock
    known: Rows
    """The latest answered rows whose truth is known, up to the end of the window."""
    rows: Rows | None = None
    """The window; None between two windows."""
    before: Rows | None = None
    """The window before."""
    measures: Sequence[Measure] = ()
    """How services fared lately, oldest first."""
    aging: Aging | None = None
    """How fast the model ages; None as long as nobody rehearsed."""

    def trial(self, rows: NDArray[np.bool_]) -> dict[str, Floats]:
        """Return the metric on some of the known rows, of the model and of a constant answer, see `paired`."""
        known, task = self.known, self.model.task
        target = known.truth[rows] if task == "regression" else known.truth[rows].astype(np.int64)
        constant = np.broadcast_to(np.array(self.promise.constant), (len(target), len(self.promise.constant)))
        answers = {"model": known.raw[rows], "constant": constant[:, 0] if task == "regression" else constant}
        return paired(self.model, target, answers)


def logged(bundle: Bundle, engine: Any) -> ibis.Table:
    """Return what a bundle answered as the champion, with the truth where it is known."""
    answers, told = truth.predictions(engine), truth.truths(engine)
    if known := [truth.word(name) for name in bundle.scorer.signature.classes]:
        told = told.filter(told.truth.isin(known))  # a class that it does not know cannot be measured by its answers
    own = answers.filter(answers.model == bundle.digest, answers.variant == "champion")
    return own.left_join(told.select("id", "truth", "seen"), "id").drop("id_right")


def rows_of(table: ibis.Table, bundle: Bundle, only: Sequence[str] | None = None) -> Rows:
    """Read logged rows, in the order of the table; with `only`, of the inputs these alone, and no features."""
    signature, features = bundle.scorer.signature, ("numbers", "text") if only is None else ()
    wanted = [one for one in signature.inputs if only is None or one.name in only]
    said = "probabilities" if signature.classes else "prediction"
    found = table.select("time", "id", "inputs", "truth", said, *features).to_pyarrow()
    count, classes = found.num_rows, {truth.word(name): place for place, name in enumerate(signature.classes)}
    if not count:
        return nothing(bundle)

    def flat(name: str, kind: type) -> Array:
        return np.asarray(pc.list_flatten(found[name]).to_numpy().astype(kind)).reshape(count, -1)

    parts = (found["inputs"].slice(start, BATCH).to_pylist() for start in range(0, count, BATCH))
    typed = [from_records([*map(msgspec.json.decode, part)], wanted, signature.csv) for part in parts]
    told = found["truth"].to_pylist()
    return Rows(
        times=found["time"].to_numpy(),
        ids=found["id"].to_numpy(),
        columns={one.name: np.concatenate([part[one.name] for part in typed]) for one in wanted},
        packed=Packed(flat("numbers", np.float32), flat("text", object)) if features else nothing(bundle).packed,
        raw=flat(said, np.float32) if classes else found[said].to_numpy().astype(np.float32),
        truth=np.array([classes.get(word, np.nan) if classes else float(word or "nan") for word in told]),
    )


def nothing(bundle: Bundle) -> Rows:
    """Return no rows."""
    signature = bundle.scorer.signature
    packed = Packed(np.empty((0, len(signature.numbers)), np.float32), np.empty((0, len(signature.text)), object))
    raw = np.empty((0, len(signature.classes)) if signature.classes else (0,), np.float32)
    return Rows(np.empty(0), np.empty(0, object), {}, packed, raw, np.empty(0))


def answers(raw: NDArray[np.float32], signature: Signature) -> dict[str, Array]:
    """Return what is judged of answers: the value, the probability of the second of two classes, or of each."""
    given = raw.astype(np.float64)
    if not signature.classes:
        return {signature.target: given}
    if len(signature.classes) == 2:
        return {f"the probability of {signature.target} {truth.word(signature.classes[1])}": given[:, 1]}
    names = [f"the probability of {signature.target} {truth.word(name)}" for name in signature.classes]
    return dict(zip(names, given.T, strict=True))


def answer_columns(signature: Signature) -> dict[str, str]:
    """Return the column of a file of `make score` for each name of `answers`."""
    if not signature.classes:
        return {signature.target: "prediction"}
    classes = signature.classes[1:] if len(signature.classes) == 2 else signature.classes
    words = [truth.word(name) for name in classes]
    return {f"the probability of {signature.target} {word}": f"probability_{word}" for word in words}


def promise(bundle: Bundle, data: Data, model: Model) -> Promise:
    """Return what a release promised; worked out once for each bundle and settings."""
    inputs = {one.name for one in bundle.scorer.signature.inputs}
    by = tuple(name for name in groupable(data) if name in inputs)
    path, kind = KEPT / f"{bundle.digest[:16]}.json", TypeAdapter(Promise)
    with suppress(OSError, ValidationError):  # there is none, or another version of the template wrote it
        kept = kind.validate_json(path.read_bytes())
        if (kept.metric, kept.by) == (model.metric, by):
            return kept
    trial, learned = tried(bundle, None, model, 1), to_columns(pq.read_table(bundle.folder / "reference.parquet"))
    made = promised(trial, bundle.scorer.signature, learned, answered(bundle, learned, bundle.scorer.signature), by)
    with atomic(path) as file:
        file.write_bytes(kind.dump_json(made))
    return made


def promised(
    trial: Trial, signature: Signature, learned: Columns, said: NDArray[np.float32], by: tuple[str, ...]
) -> Promise:
    """Return what a model promised: by the rows that tested it, and by what it said of rows that it learned from."""
    columns = {one.name: learned[one.name] for one in signature.inputs}
    edges = {name: _edges(columns[name]) for name in by}
    everything = np.ones(len(trial.target), dtype=bool)
    leads = {
        name: _lead(trial, rows)
        for column in by
        for name, rows in groups(column, trial.columns[column], signature, edges[column])
        if rows.sum() >= SLICE_ROWS
    }
    return Promise(
        metric=trial.model.metric,
        by=by,
        inputs=summarise(columns),
        learned=summarise(answers(said, signature)),
        tested=summarise(answers(trial.candidate, signature)),
        constant=np.atleast_1d(np.asarray(trial.constant[0], dtype=np.float64)).tolist(),
        lead=_lead(trial, everything),
        leads={name: lead for name, lead in leads.items() if np.isfinite(lead)},
        edges=edges,
    )


def _lead(trial: Trial, rows: NDArray[np.bool_]) -> float:
    drawn = trial.draws(rows)
    return sure(METRICS[trial.model.metric].gain(drawn["candidate"], drawn["constant"]), SURE).low


def _edges(values: Array) -> tuple[float, ...]:
    """Return the quarters of a number with many values; nothing for what is judged value by value."""
    if values.dtype.kind in "OUT":
        return ()
    distinct = np.unique(values[np.isfinite(values)])
    return () if len(distinct) <= VALUES else tuple(np.unique(np.nanquantile(values, [0.25, 0.5, 0.75])).tolist())


def groups(
    column: str, values: Array, signature: Signature, edges: Sequence[float]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the rows of each value of a column, or of each part of a number with many values, by name."""
    kind = next(one.type for one in signature.inputs if one.name == column)
    if not edges:
        distinct, place = np.unique(values, return_inverse=True)
        for position, value in enumerate(distinct):
            yield f"{column} {in_words(value, kind)}", place == position
        return
    place = np.searchsorted(edges, values, side="right")
    names = [f"below {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"from {edges[-1]:g}"]
    for position, name in enumerate(names):
        yield f"{column} {name}", (place == position) & ~np.isnan(values)


def groupable(data: Data) -> list[str]:
    """Return the columns whose values are judged by themselves: slices, and what describes people."""
    named = [*data.slices, *(name for name, column in data.columns.items() if column.sensitive)]
    return [name for name in dict.fromkeys(named) if data.columns[name].type != "time"]
