"""The room of collection: the sources of `config/data.yaml` become tables, which your `collect.py` joins.

What is written as text (all of CSV) gets the type that `config/data.yaml` declares, by the one rule of `ops/scorer.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from ...collect import collect
from ..config import Data, first_line, your_code
from ..contract import Array, ProjectError
from ..files import header, in_utf8, refuse_empty
from ..scorer import EXACT, FALSE, LARGEST, READERS, TRUE, Dialect, Input, from_values

SUFFIXES = (".csv", ".parquet")
# types come from the whole file: a sample would let a late value break a later reading
CSV = {"quote": '"', "escape": '"', "header": True, "skip": 0, "null_padding": False, "sample_size": -1}
ROWS = 122_880
"""Rows of a source that are held in memory at a time."""
STORED = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "text": pa.string(),
    "time": pa.timestamp("us"),
}
PLAIN = {
    "number": r"^-?[0-9]{1,15}(\.[0-9]{1,15})?([eE][-+]?[0-9]{1,2})?$",
    "integer": r"^-?[0-9]{1,15}$",
    "time": r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{6})?)?)?$",
}
"""Spellings that Arrow reads at once, and just as `from_values` does."""
CODES = r"^\s*[+-]?(0[0-9]+|[0-9]{16,})\s*$"
MARKERS = pa.array(["NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "none", "-", "--", "?", "."])
"""Words that mean no value where all others are numbers, times, or yes and no."""
NATIVE = {
    "boolean": (pa.types.is_boolean,),
    "integer": (pa.types.is_integer,),
    "number": (pa.types.is_floating, pa.types.is_decimal),
    "time": (pa.types.is_timestamp, pa.types.is_date),
}
DAYS = ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d/%m/%y", "%d.%m.%y", "%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y", "%Y/%m/%d")
NAMED_MONTHS = ("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y")
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
FORMATS = [day + clock for day in DAYS + NAMED_MONTHS for clock in CLOCKS]
"""How people write times beside ISO 8601, the day first where it could be the month as well."""


def local_paths(data: Data) -> dict[str, Path]:
    """Return the file of every source.

    Raises ProjectError for a source that is not a file on this machine: fetching starts at level 1.
    """
    paths = {}
    for name, source in data.source.items():
        if not isinstance(source, str) or "://" in source:
            raise ProjectError(
                f"config/data.yaml, source.{name}: level 0 reads files on this machine only; "
                "databases and addresses are collected from level 1 on"
            )
        paths[name] = Path(source)
    return paths


def collected(paths: Mapping[str, Path], data: Data) -> ibis.Table:
    """Read every source and run your `collect.py` on the tables."""
    sources = {name: read(name, path, data) for name, path in paths.items()}
    with your_code("collect.py", {name: table.columns for name, table in sources.items()}):
        return collect(sources)


def read(name: str, path: Path, data: Data) -> ibis.Table:
    """Open one file as an Ibis table on the embedded DuckDB, in memory where it has text to be typed; see `opened`."""
    with opened(name, path, data, ibis.get_backend()) as (table, schema, batches):
        in_place = path.suffix == ".parquet" and not _untyped(table, path, data)
        return table if in_place else ibis.memtable(pa.Table.from_batches(batches, schema))


@contextmanager
def opened(
    name: str, path: Path, data: Data, engine: Backend
) -> Iterator[tuple[ibis.Table, pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open one CSV or Parquet file: as a table that is not read yet, and as a stream whose declared columns are typed.

    Raises ProjectError naming the file where it is missing, empty, damaged or of another format, and row (from 1),
    column and value of what is not of its declared type.
    """
    if not path.is_file():
        raise ProjectError(f"{path}: not found (source '{name}' of config/data.yaml)")
    if path.suffix not in SUFFIXES:
        raise ProjectError(f"{path}: source '{name}' should be one of {', '.join(SUFFIXES)}")
    with read_well(path), in_utf8(path, data.csv) as file:
        if path.suffix == ".parquet":
            refuse_empty(path)
            table = engine.read_parquet(file)
        else:
            table = _csv(file, header(path, data.csv), data, engine)
        declared = _untyped(table, path, data)
        stored = [pa.field(n, STORED[declared[n].type]) if n in declared else f for n, f in _fields(table)]
        schema = pa.schema(stored)
        batches = engine.raw_sql(engine.compile(table)).to_arrow_reader(ROWS)
        yield table, schema, _typed_rows(batches, path, declared, data.csv, schema)


def _csv(file: Path, names: list[str], data: Data, engine: Backend) -> ibis.Table:
    as_text = {name: "VARCHAR" for name in names if name in data.columns}
    options: dict[str, Any] = {"delim": data.csv.separator, "decimal_separator": data.csv.decimal}
    if as_text:
        options |= {"all_varchar": True} if len(as_text) == len(names) else {"types": as_text}
    return engine.read_csv(file, **CSV, **options, nullstr=["", *data.csv.missing])


def _fields(table: ibis.Table) -> Iterator[tuple[str, pa.Field]]:
    return ((field.name, field) for field in table.schema().to_pyarrow())


def _untyped(table: ibis.Table, path: Path, data: Data) -> dict[str, Input]:
    """Return the declared columns that a file holds as text and that have to be read from it."""
    found = {name for name, kind in table.schema().items() if kind.is_string() and name in data.columns}
    inputs = {name: data.columns[name].as_input(name, nulls=True) for name in table.columns if name in found}
    of_csv = path.suffix == ".csv"
    return {name: made for name, made in inputs.items() if of_csv or made.type != "text" or data.csv.missing}


def _typed_rows(
    batches: Iterable[pa.RecordBatch], path: Path, declared: Mapping[str, Input], csv: Dialect, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    first_row = 1
    for batch in batches:
        made = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, column in declared.items():
            try:
                values = typed(column, made[name], first_row, csv)
            except ProjectError as error:
                advice = "mend it, or change the column's `type` or `csv: {missing: [...]}` in config/data.yaml"
                raise ProjectError(f"{path}: {error}; {advice}") from None
            made[name] = stored(column, values)
        yield pa.record_batch([made[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
        first_row += batch.num_rows


def stored(column: Input, values: Array) -> pa.Array:
    """Return typed values as Arrow keeps them in a file, null where they are missing."""
    empty = values == "" if column.type == "text" else np.isnan(values)
    return pa.array(values, STORED[column.type], mask=empty)


@contextmanager
def read_well(path: Path) -> Iterator[None]:
    """Turn what DuckDB, PyArrow and Ibis raise while a file is read into a sentence."""
    try:
        yield
    except (ProjectError, OSError):
        raise
    except Exception as error:  # each library raises classes of its own
        kind = path.suffix[1:]
        raise ProjectError(f"{path}: not a readable {kind} file, or damaged ({first_line(error)})") from None


def typed(column: Input, values: pa.Array, first_row: int = 1, csv: Dialect | None = None) -> Array:
    """Turn an Arrow column into an array of its declared type, shape (rows,), just as `from_values` would, but fast.

    Raises ProjectError naming the row and the value that does not fit.
    """
    csv = csv or Dialect()
    try:
        made = _at_once(column, values, csv)
    except (ProjectError, pa.ArrowException):
        made = None  # read value by value, the first that does not fit is named
    return from_values(column, values.to_pylist(), first_row, csv) if made is None else made


def _at_once(column: Input, values: pa.Array, csv: Dialect) -> Array | None:
    kind = values.type
    if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values = values.cast(pa.string())
    if pa.types.is_string(values.type):
        return _from_text(column, values, csv)
    if values.null_count and not column.nulls:
        return None
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    if column.type in ("number", "integer") and numeric:
        return _usual(column, np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64))
    if column.type == "boolean" and pa.types.is_boolean(kind):
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    if column.type == "time" and pa.types.is_temporal(kind):
        if pa.types.is_timestamp(kind):
            values = pc.floor_temporal(values, unit="microsecond")
        return np.asarray(values.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False), dtype="datetime64[us]")
    return None


def _usual(column: Input, numbers: Array) -> Array | None:
    wrong = np.abs(numbers) > LARGEST
    if column.type == "integer":
        wrong |= (numbers != np.floor(numbers)) & ~np.isnan(numbers) | (np.abs(numbers) >= EXACT)
    return None if wrong.any() or (not column.nulls and np.isnan(numbers).any()) else numbers


def _from_text(column: Input, values: pa.Array, csv: Dialect) -> Array | None:
    """Read plain spellings in one step, and every other word once."""
    pattern = None if column.format else PLAIN.get(column.type)
    if pattern is None:
        plain = np.zeros(len(values), dtype=bool)
    else:
        found = pc.match_substring_regex(values, pattern.replace(r"\.", ",") if csv.decimal == "," else pattern)
        known = pc.is_in(values, pa.array(csv.missing, pa.string()))
        plain = np.asarray(pc.fill_null(pc.and_not(found, known), False))
    odd = values.filter(pa.array(~plain)).dictionary_encode(null_encoding="encode")
    made = np.empty(len(values), dtype=READERS[column.type][2])
    made[~plain] = from_values(column, odd.dictionary.to_pylist(), csv=csv)[np.asarray(odd.indices)]
    if plain.any():
        words = values.filter(pa.array(plain))
        words = pc.replace_substring(words, ",", ".") if csv.decimal == "," else words
        kind = pa.timestamp("us") if column.type == "time" else pa.float64()
        made[plain] = words.cast(kind).to_numpy(zero_copy_only=False)
    return made if column.type not in ("number", "integer") else _usual(column, made)


def decimal_of(columns: Iterable[pa.Array], csv: Dialect) -> str:
    """Return the decimal sign that more of a file's words could have."""
    texts = [values.slice(0, ROWS) for values in columns if pa.types.is_string(values.type)]
    like = {mark: rf"^\s*[+-]?[0-9]+([. \x{{a0}}][0-9]{{3}})*[{mark}][0-9]+\s*$" for mark in ",."}
    found = {m: sum(pc.sum(pc.match_substring_regex(t, like[m])).as_py() or 0 for t in texts) for m in like}
    return "," if csv.separator != "," and found[","] > found["."] else "."


def type_of(values: pa.Array, csv: Dialect) -> tuple[dict[str, str], set[str]]:
    """Return the `type` of a column (and the `format` of a time) for `config/data.yaml`, and its words for no value.

    Words with leading zeros or of more than 15 digits are text: they are codes, and a number would lose them.
    Raises ProjectError for what no model learns from.
    """
    kind = values.type
    if pa.types.is_integer(kind) and max(abs(end or 0) for end in pc.min_max(values).as_py().values()) >= EXACT:
        raise ProjectError("it has more digits than a number keeps; turn it into text at its source")
    for name, are in NATIVE.items():
        if any(is_one(kind) for is_one in are):
            return {"type": name}, set()
    if not (pa.types.is_string(kind) or pa.types.is_null(kind)):
        raise ProjectError(f"no model learns from {kind}; turn it into numbers or text at its source")
    words = pc.unique(pc.drop_null(values.cast(pa.string())))
    words = words.filter(pc.not_equal(pc.utf8_trim_whitespace(words), ""))
    gone = pc.is_in(pc.utf8_trim_whitespace(words), MARKERS)
    name, form = _kind_of(words.filter(pc.invert(gone)), csv)
    markers = {word.strip() for word in words.filter(gone).to_pylist()} if name != "text" else set()
    return {"type": name} | ({"format": form} if form else {}), markers


def _kind_of(words: pa.Array, csv: Dialect) -> tuple[str, str | None]:
    if not len(words) or pc.any(pc.match_substring_regex(words, CODES)).as_py():
        return "text", None
    known = {word.strip().lower() for word in words.slice(0, len(TRUE)).to_pylist()}
    if known & TRUE and known & FALSE and reads(words, "boolean", csv):
        return "boolean", None
    whole = not pc.any(pc.match_substring(words, csv.decimal)).as_py()
    for kind in ("integer", "number") if whole else ("number",):
        if reads(words, kind, csv):
            return kind, None
    form = next((form for form in (None, *FORMATS) if reads(words, "time", csv, form)), "")
    return ("text", None) if form == "" else ("time", form)


def reads(words: pa.Array, kind: str, csv: Dialect, form: str | None = None) -> bool:
    """Say whether all words read as one type, or mean no value."""
    column = Input("", kind, nulls=True, format=form)
    try:
        from_values(column, words.slice(0, 20).to_pylist(), csv=csv)  # most other types fail at once
        typed(column, words, csv=csv)
    except ProjectError:
        return False
    return True
