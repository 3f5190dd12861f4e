"""Look at the prediction log: every monitor judges every window of answers once, and what time alone changes.

Where the last window ended stands in the records. One process looks at a time, and a record is on disk before the next
window is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Data, Model, first_line, load
from ..contract import ProjectError
from ..log import PREDICTIONS, whole
from ..register.events import add, locked
from ..release.ledger import MOVES, Entry
from ..release.policy import Policy
from ..release.store import opened
from . import RECORDS, Monitor, Record, Signal, Verdict, dump, health, quality, read
from .cells import Reference, Window, counted_in
from .drift import LEAST_ROWS
from .quality import HISTORY, LEAST, history
from .scene import Clock, Key, Rows, Scene, answer_columns, logged, nothing, promise, rows_of

FILES = "files"
"""In place of an environment, in the records of scored files."""
SETTLE = 1.0
"""Seconds after which an answer surely is in the log, whoever gave it: the log is judged in the order of time."""
LATELY = 3 * 86_400.0
"""Seconds in which it is looked at how services fared."""
START = (0.0, "")
"""A key before all others."""
MOST, AT_ONCE = HISTORY, 50_000
"""Windows, and rows in them, that are judged at once; of large windows a single one."""


@dataclass(frozen=True)
class Watch:
    """One monitor, and what it waits for: a window of answers, new truth, the last of many windows, the clock alone."""

    signal: Signal
    look: Callable[[Scene], Iterable[Verdict]]
    waits_for: Literal["answers", "truth", "last", "clock"]


WATCHES: tuple[Watch, ...] = (
    Watch("quality", quality.quality, "truth"),
    Watch("slices", quality.slices, "last"),
    Watch("bias", quality.bias, "last"),
    Watch("calibration", quality.calibration, "truth"),
    Watch("data drift", health.data_drift, "answers"),
    Watch("prediction drift", health.prediction_drift, "answers"),
    Watch("skew", health.skew, "answers"),
    Watch("numbers", health.numbers, "answers"),
    Watch("latency", health.latency, "answers"),
    Watch("memory", health.memory, "clock"),
    Watch("packages", health.packages, "clock"),
    Watch("staleness", health.staleness, "clock"),
    Watch("freshness", health.freshness, "clock"),
)


def look(environment: str, settings: Monitor, policy: Policy, now: float) -> list[Record]:
    """Judge what an environment's champion answered since the last look; `now` is in seconds since 1970.

    Returns the new records, which are on disk. Raises ProjectError where nothing is in the environment, UnfinishedError
    where another process is looking for too long.
    """
    with locked("monitor"):
        store, data, model = opened(policy), load(Data), load(Model)
        bundle = store.load(environment)
        log = logged(bundle, ibis.duckdb.connect()) if whole(PREDICTIONS) else None
        made, deployed = _times(store.entries(), environment, bundle.digest)
        clock = _clock(log, made, deployed, now)
        scene = Scene(settings, policy, data, model, bundle, promise(bundle, data, model), clock, nothing(bundle))
        scene = replace(scene, measures=health.noted(now - LATELY), aging=health.aging())
        return list(_looked(scene, environment, log))


def look_into(file: Path, policy: Policy, now: float) -> list[Record]:
    """Judge a file of `make score` for drift: its first half is the window before its second half.

    Rows are counted where they lie, so a file of millions takes seconds and little memory. Its record is one of FILES,
    and it is judged once. Raises ProjectError for a file that no version here has scored, or of few rows.
    """
    with locked("monitor"):
        origin, rows = _origin(file)
        bundle, data, model = opened(policy).bundle(origin["bundle"]), load(Data), load(Model)
        past, signature, known = read(FILES), bundle.scorer.signature, promise(bundle, data, model)
        if (bundle.digest, origin["source"]) in {(record.model, record.first) for record in past}:
            return []
        table = ibis.duckdb.connect().read_parquet(file, file_row_number=True)
        _refuse_text(file, table, known.inputs)
        named = {name: table[column] for name, column in answer_columns(signature).items()}
        given = table.select(**named, file_row_number=table.file_row_number)
        record = Record(
            window=len(past) + 1,
            environment=FILES,
            first=origin["source"],
            last=origin["source"],
            begin=now,
            end=now,
            rows=rows,
            known=0,
            truths=0,
            model=bundle.digest,
            version=bundle.manifest.version,
            looked=now,
            verdicts=[
                *health.inputs_drift(known, signature, partial(_halves, table, rows)),
                *health.answers_drift(known, signature, partial(_halves, given, rows)),
            ],
        )
        add(RECORDS, dump(record))
        return [record]


def overview(records: Sequence[Record], environment: str, settings: Monitor) -> Iterator[str]:
    """Yield for people what a look found: all that is not quiet, and how much is."""
    if not records:
        yield f"{environment}: nothing new to judge; a window takes {settings.window} answers"
    for record in records:
        what = f"window {record.window}, {record.rows} answers, {record.known} with known truth"
        yield f"{environment}, version {record.version}, {what if record.rows else 'between two windows'}:"
        for verdict in record.verdicts:
            if verdict.state != "quiet" or verdict.signal == "quality":
                yield f"  {verdict.state:9} {verdict.signal}: {verdict.sentence}"
        quiet = Counter(verdict.signal for verdict in record.verdicts if verdict.state == "quiet")
        yield f"  quiet     {', '.join(f'{signal} ({count})' for signal, count in quiet.items())}"


def _looked(scene: Scene, environment: str, log: ibis.Table | None) -> Iterator[Record]:
    """Yield what is new, each record after it was written."""
    past = read(environment)
    number = max((record.window for record in past), default=0)
    own = [record for record in past if record.model == scene.bundle.digest]
    last = next((record for record in reversed(own) if record.rows), None)
    judged = False
    for seen, is_last in _windows(scene, log, last):
        number, judged = number + 1, True
        watches = [watch for watch in WATCHES if is_last or watch.waits_for != "last"]
        yield _written(seen, environment, number, watches)
    if judged:
        return
    is_news = scene.clock.truths - (own[-1].truths if own else 0) >= LEAST
    if is_news and log is not None:
        known = _known(scene, log, None, history(scene.settings.window))
        watches = [watch for watch in WATCHES if watch.waits_for != "answers"]
        yield _written(replace(scene, known=known), environment, number, watches)
        return
    watches = [watch for watch in WATCHES if watch.waits_for == "clock"]
    said = [verdict for watch in watches for verdict in watch.look(scene)]
    if _alarms(said) != _alarms(own[-1].verdicts if own else ()):
        yield _written(scene, environment, number, watches)


def _windows(scene: Scene, log: ibis.Table | None, last: Record | None) -> Iterator[tuple[Scene, bool]]:
    """Yield the windows that are full, in their order, each with the one before and with the truth known by now.

    And whether it is the last of those that are read at once: what gathers truth over HISTORY windows, at least as
    many, needs no other one.
    """
    size = scene.settings.window
    most, back = max(1, min(MOST, AT_ONCE // size)), history(size)
    begin, end = ((last.begin, last.first), (last.end, last.last)) if last else (START, START)
    while log is not None:
        fresh = _between(log.filter(log.time <= scene.clock.now - SETTLE), begin)
        rows = rows_of(_between(fresh, begin, _key(fresh, (most + 1) * size)), scene.bundle)
        start = rows.until(end)
        starts = range(start, len(rows) - size + 1, size)
        if not starts:
            return
        known = _known(scene, log, rows.key(starts[-1] + size - 1), back + len(starts) * size)
        for place in starts:
            window, before = rows.part(place, place + size), rows.part(max(place - size, 0), place)
            count = known.until(window.key(-1))
            so_far = known.part(max(count - back, 0), count)
            yield replace(scene, rows=window, before=before, known=so_far), place == starts[-1]
        begin, end = window.key(0), window.key(-1)


def _known(scene: Scene, log: ibis.Table, until: Key | None, most: int) -> Rows:
    """Read the latest answers whose truth is known, the latest last."""
    told = _between(log.filter(log.truth.notnull()), START, until)
    return rows_of(_between(told, _key(told, -most) or START), scene.bundle, scene.promise.by)


def _key(table: ibis.Table, row: int) -> Key | None:
    """Return the key of a row, the first being 1 and the last -1; None where there are fewer.

    It is looked for by itself, as DuckDB would sort all that the log holds of each row, however few are wanted.
    """
    keys = [table.time, table.id] if row > 0 else [table.time.desc(), table.id.desc()]
    found = table.select("time", "id").order_by(keys).limit(1, offset=abs(row) - 1).to_pyarrow().to_pylist()
    return (found[0]["time"], found[0]["id"]) if found else None


def _between(table: ibis.Table, begin: Key, end: Key | None = None) -> ibis.Table:
    """Return the rows from a key up to another one, these included, in their order."""
    rows = table.filter((table.time > begin[0]) | ((table.time == begin[0]) & (table.id >= begin[1])))
    if end is not None:
        rows = rows.filter((rows.time < end[0]) | ((rows.time == end[0]) & (rows.id <= end[1])))
    return rows.order_by(["time", "id"])


def _written(scene: Scene, environment: str, number: int, watches: Iterable[Watch]) -> Record:
    record = judged(scene, environment, number, watches)
    add(RECORDS, dump(record))
    return record


def judged(scene: Scene, environment: str, number: int, watches: Iterable[Watch]) -> Record:
    """Return what some monitors say of a window, or of what changes between two windows."""
    rows = scene.rows or nothing(scene.bundle)
    (begin, first), (end, last) = (rows.key(0), rows.key(-1)) if len(rows) else ((scene.clock.now, ""),) * 2
    return Record(
        window=number,
        environment=environment,
        first=first,
        last=last,
        begin=begin,
        end=end,
        rows=len(rows),
        known=int(rows.known.sum()),
        truths=scene.clock.truths,
        model=scene.bundle.digest,
        version=scene.bundle.manifest.version,
        looked=scene.clock.now,
        verdicts=[verdict for watch in watches for verdict in watch.look(scene)],
    )


def _alarms(verdicts: Iterable[Verdict]) -> set[tuple[Signal, str]]:
    """Return what alarms by time alone."""
    timed = {watch.signal for watch in WATCHES if watch.waits_for == "clock"}
    return {(one.signal, one.subject) for one in verdicts if one.state == "alarm" and one.signal in timed}


def _clock(log: ibis.Table | None, made: float, deployed: float, now: float) -> Clock:
    if log is None:
        return Clock(made, deployed, None, None, None, 0, now)
    ages = {"asked": log.time.min(), "answered": log.time.max(), "told": log.seen.max(), "truths": log.truth.count()}
    (found,) = log.aggregate(**ages).to_pyarrow().to_pylist()
    return Clock(made, deployed, **found, now=now)


def _origin(file: Path) -> tuple[dict[str, str], int]:
    """Return what `make score` wrote about a file, and how many rows it has."""
    if not file.is_file():
        raise ProjectError(f"FILE={file}: not found; give a file that `make score` wrote")
    try:
        about = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise ProjectError(f"FILE={file}: not a readable parquet file ({first_line(error)})") from None
    found = {key.decode(): value.decode("utf-8", "replace") for key, value in (about.metadata or {}).items()}
    if not {"bundle", "source"} <= found.keys():
        raise ProjectError(
            f"FILE={file}: does not say which version gave its answers; give one that `make score` wrote"
        )
    if about.num_rows < 2 * LEAST_ROWS:
        raise ProjectError(f"FILE={file}: has {about.num_rows} rows, and a verdict takes {2 * LEAST_ROWS}")
    return found, about.num_rows


def _refuse_text(file: Path, table: ibis.Table, reference: Reference) -> None:
    for name, cells in reference.columns.items():
        if cells.kind == "number" and table[name].type().is_string():
            told = "its numbers are text, since a CSV file was scored; score a Parquet file"
            raise ProjectError(f"FILE={file}, column '{name}': {told}")


def _halves(table: ibis.Table, rows: int, reference: Reference) -> tuple[Window, Window]:
    is_late = table.file_row_number >= rows // 2
    return counted_in(reference, table.filter(~is_late)), counted_in(reference, table.filter(is_late))


def _times(entries: Sequence[Entry], environment: str, digest: str) -> tuple[float, float]:
    """Return when a bundle was made, and when it came into an environment where it still is."""
    made = next(entry.time for entry in entries if entry.kind == "bundle" and entry.facts["digest"] == digest)
    moved = made
    for entry in reversed(entries):
        if entry.kind in MOVES and entry.facts["environment"] == environment:
            if entry.facts["digest"] != digest:
                break
            moved = entry.time
    return datetime.fromisoformat(made).timestamp(), datetime.fromisoformat(moved).timestamp()
