"""What became of predictions: truth arrives late, twice, out of order or for nobody, and meets them when it is read.

Both logs are Ibis tables that DuckDB reads in place, while they are written. What a service imports from here needs
neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..config import Data, load
from ..contract import Array, ProjectError
from ..files import atomic, header, in_utf8, refuse_empty, refuse_twice, sha256
from ..release.contract import Output, read_contract
from ..release.policy import Policy
from ..scorer import Dialect, Input, Packed, from_values
from . import BEGUN, FEEDBACK, PREDICTIONS, Segments, tidy, whole

if TYPE_CHECKING:
    import ibis

    from ..release.evidence import Logged
    from ..release.experiment import Known

PREDICTED = dict.fromkeys(("id", "model", "variant", "entity", "prediction"), "VARCHAR")
PREDICTED |= {"time": "DOUBLE", "version": "BIGINT", "inputs": "JSON"}
PREDICTED |= {"numbers": "DOUBLE[]", "text": "VARCHAR[]", "probabilities": "DOUBLE[]"}
"""Types of `Line`, as DuckDB calls them; inputs stay what the request carried, a contract may change."""
SAID = {"id": "VARCHAR", "truth": "VARCHAR", "observed": "DOUBLE", "arrived": "DOUBLE"}
LONGEST = 200  # characters of an id
WIDEST = 2**26  # bytes of a line: a value as large as a request may be stands in it twice, as input and as feature
TICK = 1e-6  # seconds between the arrivals of truths that arrive together, so that they have an order


class Said(msgspec.Struct):
    """What somebody said became of a prediction; times are seconds since 1970."""

    id: str
    truth: Any
    observed: float | None
    """When it was seen to be so; None where nobody said."""
    arrived: float

    @property
    def seen(self) -> float:
        """When it was seen to be so; without a time of its own, when it arrived."""
        return self.arrived if self.observed is None else self.observed


def told(said: Sequence[tuple[str, Any]], promised: Output | None = None) -> None:
    """Log what became of predictions, on disk when this returns; whether their ids are known is seen when it is read.

    Values are checked against what the contract promises, by default that of config/contract.yaml. Raises ProjectError
    naming the row, UnfinishedError where nothing can be written.
    """
    output = promised or read_contract().output
    now, made = time.time(), []
    for row, (key, value) in enumerate(said, start=1):
        if not isinstance(key, str) or not 0 < len(key) <= LONGEST:
            raise ProjectError(f"row {row}, id: text of 1 to {LONGEST} characters is wanted")
        truth = answers(from_values(Input("truth", output.type), [value], row), output, row)[0]
        made.append(Said(key, truth, None, now + row * TICK))
    _segments().add(msgspec.json.Encoder().encode_lines(made))


def take_in(file: Path, say: Callable[[str], None]) -> None:
    """Take in a CSV or Parquet file with the columns id and truth, and time if it says when each was seen to be so.

    Or what `make score` wrote, with truth: there `prediction_id` is the id, and time would be a column of the rows. All
    of it or nothing; the same file again changes nothing. A row without truth says nothing yet. Raises ProjectError
    naming file, row and value of what is no answer of the contract.
    """
    output, dialect = read_contract().output, load(Data).csv
    if not file.is_file():
        raise ProjectError(f"{file}: not found; give a CSV or Parquet file with the columns id and truth")
    digest = sha256(file)[:32]
    if any(FEEDBACK.glob(f"*-{digest}-*.jsonl")):
        say(f"{file} was taken in already; nothing is changed")
        return
    try:
        said, empty = _read(file, output, dialect)
    except ProjectError as error:
        raise ProjectError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None
    kept: dict[str, Said] = {}
    contradicting = set()
    for one in said:
        before = kept.setdefault(one.id, one)
        if before.truth != one.truth:
            contradicting.add(one.id)
        if (one.seen, one.arrived) > (before.seen, before.arrived):
            kept[one.id] = one
    earlier, logged = _known(truths, kept, "truth"), _known(predictions, kept, "id") if whole(PREDICTIONS) else {}
    contradicting |= {key for key, word in earlier.items() if _meant(word, output.type) != kept[key].truth}
    settings = load(Policy).log
    with atomic(FEEDBACK / f"{datetime.now(UTC):{BEGUN}}-{digest}-000001.jsonl") as path:
        path.write_bytes(msgspec.json.Encoder().encode_lines(list(kept.values())))
    known = len(kept.keys() & earlier.keys())
    tidy(FEEDBACK, settings.days, int(settings.max_mb * 2**20))
    say(f"{len(kept)} truths taken in from {file}: {len(kept) - known} new, {known} told before")
    if contradicting:
        of = min(contradicting)
        say(f"{len(contradicting)} contradict another one, such as that of {of}: what was seen later counts")
    if unknown := kept.keys() - logged.keys():
        say(f"{len(unknown)} are of ids that the prediction log does not have, such as {min(unknown)}; they are kept")
    if empty:
        say(f"{empty} rows have no truth yet and say nothing")


def predictions(engine: Any = None) -> ibis.Table:
    """Return the prediction log, see `PREDICTED`; a shadow's answer has the id of the champion's.

    Raises ProjectError where nothing was logged yet.
    """
    table = _table(PREDICTIONS, PREDICTED, engine)
    if table is None:
        raise ProjectError(f"{PREDICTIONS}: no prediction is logged yet; `make serve` and `make score LOG=yes` do it")
    return table


def truths(engine: Any = None) -> ibis.Table:
    """Return the truth of each id that somebody told: the one seen last, `times` told, and in `kinds` of words.

    `came` is when it was told first. Without a time of its own, a truth was seen when it arrived.
    """
    import ibis

    table = _table(FEEDBACK, SAID, engine)
    if table is None:
        kinds = {"id": "str", "truth": "str", "seen": "float", "came": "float", "times": "int", "kinds": "int"}
        return ibis.memtable({name: list[Any]() for name in kinds}, schema=kinds)
    seen = table.mutate(seen=ibis.coalesce(table.observed, table.arrived))
    order = ibis.struct({"seen": seen.seen, "arrived": seen.arrived})
    ages = {"seen": seen.seen.max(), "came": seen.arrived.min()}
    return seen.group_by("id").agg(
        truth=seen.truth.argmax(order), times=seen.count(), kinds=seen.truth.nunique(), **ages
    )


def joined() -> ibis.Table:
    """Return predictions with their truth. One whose truth is not known yet is left out: nobody knows that it is no."""
    import ibis

    engine = ibis.duckdb.connect()
    return predictions(engine).inner_join(truths(engine), "id")


def logged(digests: Collection[str], rows: int) -> list[Logged]:
    """Return the latest logged rows that some bundles answered, at most so many of all; none without a log."""
    from ..release.evidence import Logged

    if not whole(PREDICTIONS):
        return []
    table = predictions()
    latest = table.filter(table.model.isin(list(digests))).order_by([table.time.desc(), table.id.desc()]).limit(rows)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in reversed(latest.to_pyarrow().to_pylist()):
        found.setdefault(row["model"], []).append(row)
    return [
        Logged(digest, [msgspec.json.decode(row["inputs"]) for row in of], packed(of), raw(of))
        for digest, of in found.items()
    ]


def packed(rows: Sequence[Mapping[str, Any]]) -> Packed:
    """Return the features of logged rows as the model took them."""
    numbers = np.array([row["numbers"] for row in rows], dtype=np.float32).reshape(len(rows), -1)
    return Packed(numbers, np.array([row["text"] for row in rows], dtype=object).reshape(len(rows), -1))


def raw(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return what the model answered to logged rows, as `Scorer.run` gives it."""
    given = [row["prediction"] if row["probabilities"] is None else row["probabilities"] for row in rows]
    return np.array(given, dtype=np.float32)


def compared(models: tuple[str, str], since: float, shadow: bool) -> Known:
    """Return what champion and challenger, by their digests, answered since a time and whose truth is known."""
    from ..release.experiment import Known
    from ..serve.score import LOGGED

    if not whole(PREDICTIONS):
        return Known([], [], np.zeros(0, dtype=bool), [], [])
    table, (champion, challenger) = joined(), models
    met = (table.model == challenger) & (table.variant == ("shadow" if shadow else "challenger"))
    ours = ((table.model == champion) & (table.variant == "champion")) | met
    asked = table.filter(ours, table.time >= since, ~table.id.re_search(LOGGED))  # nobody assigned those
    rows = asked.mutate(met=met).order_by(["id", "met"]).to_pyarrow()
    given = rows.select(["prediction", "probabilities"]).to_pylist()
    shares = [[float(row["prediction"])] if row["probabilities"] is None else row["probabilities"] for row in given]
    ids, entities, words = (rows[name].to_pylist() for name in ("id", "entity", "truth"))
    return Known(ids, entities, np.array(rows["met"].to_pylist(), dtype=bool), words, shares)


@cache
def _segments() -> Segments:
    return Segments(load(Policy).log, FEEDBACK)


def answers(typed: Array, output: Output, first_row: int = 1) -> list[Any]:
    """Return typed truths as plain values; raises ProjectError naming the first that the contract does not know."""
    kinds = {"boolean": bool, "integer": int, "text": str}
    made = [kinds.get(output.type, float)(value) for value in typed]
    for row, value in enumerate(made, start=first_row):
        if output.classes and value not in output.classes:
            known = ", ".join(map(word, output.classes))
            raise ProjectError(
                f"row {row}, column 'truth': {word(value)!r} is no answer that the model gives ({known})"
            )
    return made


def word(value: Any) -> str:
    """Return an answer or a truth as the log says it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meant(word: str, kind: str) -> Any:
    return word if kind == "text" else word == "true" if kind == "boolean" else float(word)


def _read(file: Path, output: Output, dialect: Dialect) -> tuple[list[Said], int]:
    """Return what the rows of a file say, and how many say nothing."""
    from ..collect import typed

    columns = _columns(file, dialect)
    own = "prediction_id" if "prediction_id" in columns else "id"
    for name in (own, "truth"):
        if name not in columns:
            raise ProjectError(f"column '{name}' is missing (found: {', '.join(columns)})")
    keys = typed(Input(own, "text"), columns[own], csv=dialect)
    truth = typed(Input("truth", output.type, nulls=True), columns["truth"], csv=dialect)
    seen: Array = np.full(len(keys), np.datetime64("NaT", "us"))
    if own == "id" and "time" in columns:
        seen = typed(Input("time", "time", nulls=True), columns["time"], csv=dialect)
    is_known = truth != "" if output.type == "text" else ~np.isnan(truth)
    now, said = time.time(), []
    for row in np.flatnonzero(is_known).tolist():
        moment = None if np.isnat(seen[row]) else float(seen[row].astype(np.int64)) / 1e6
        (value,) = answers(truth[[row]], output, row + 1)
        said.append(Said(str(keys[row]), value, moment, now + row * TICK))
    return said, int((~is_known).sum())


def _columns(file: Path, dialect: Dialect) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from ..collect import read_well

    refuse_empty(file)
    with read_well(file), in_utf8(file, dialect) as readable:
        if file.suffix == ".parquet":
            table = pq.read_table(readable)
            refuse_twice(file, table.column_names)
        else:
            as_text = dict.fromkeys(header(file, dialect), pa.string())
            options = pyarrow.csv.ConvertOptions(column_types=as_text, strings_can_be_null=False)
            form = pyarrow.csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True)
            table = pyarrow.csv.read_csv(readable, parse_options=form, convert_options=options)
    return {name: table[name].combine_chunks() for name in table.column_names}


def _known(log: Callable[[Any], ibis.Table], said: Iterable[str], column: str) -> dict[str, str]:
    """Return a column of the rows of a log whose ids are among some."""
    import ibis

    asked = ibis.memtable({"id": list(said)}, schema={"id": "string"})
    rows = log(ibis.duckdb.connect()).semi_join(asked, "id").to_pyarrow()
    return dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))


def _table(folder: Path, kinds: dict[str, str], engine: Any) -> Any:
    import ibis

    files = [piece.path for piece in whole(folder)]
    return rows(files, kinds, engine or ibis.duckdb.connect()) if files else None


def rows(files: Sequence[Path], kinds: dict[str, str], engine: Any) -> ibis.Table:
    """Open files of a log, whose rows are whole lines: one that is cut off, or being written, is nobody's answer."""
    import ibis

    form = {"format": "newline_delimited", "columns": kinds, "ignore_errors": True, "maximum_object_size": WIDEST}
    tables = []
    if written := [f"{path}" for path in files if path.suffix == ".jsonl"]:
        table = engine.read_json(written, **form)
        tables.append(table.filter(table.id.notnull()))
    if compacted := [f"{path}" for path in files if path.suffix == ".parquet"]:
        tables.append(engine.read_parquet(compacted))
    return ibis.union(*tables) if len(tables) > 1 else tables[0]
