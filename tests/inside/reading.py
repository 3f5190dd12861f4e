"""Training, `make predict` and the service read a value the same way. Run by `test_inside.py`."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flight_delays.ops.collect import (
    collected,
    header,
    read,
    sources,
    stored,
    typed,
)
from flight_delays.ops.config import (
    Case,
    Data,
    load,
    parse,
)
from flight_delays.ops.contract import (
    Array,
    ProjectError,
    to_columns,
)
from flight_delays.ops.process import (
    declared,
    refuse_missing,
    schema,
)
from flight_delays.ops.release.contract import (
    drawn_up,
)
from flight_delays.ops.scorer import (
    READERS,
    Dialect,
    Input,
    Signature,
    from_values,
)
from flight_delays.ops.serve.app import (
    read_csv,
)
from flight_delays.ops.serve.batch import (
    _typed,
    batches,
    predict,
)
from flight_delays.ops.train import (
    Examples,
    write_unseen,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SPELLINGS = """
7| 7 |7.|.5|+7|-7|-0|1e3|1E-3|1e400|1e39|0x1|7_19|٣|nan|NaN|inf|-Infinity|True|yes|1.0|0.0|1,5|1.234,5|1 234,5|12.34,5
1.234|1\xa0234|1.234 567|,5|,|.|e|-|--1|007|9007199254740991|9007199254740992|9007199254740993|123456789012345678|1e15
2013-01-31|2013-01-31T17:45|2013-01-31 17:45:00|2013-01-31T17:45:00.123|2013-01-31T17:45:00.123456|2013-01-31T17:45:00Z
2013-01-31 17:45:00+02:00|2013-02-30|2013-13-01|0000-01-01|0001-01-01|9999-12-31|2013-01-31T24:00|2013-01-31 23:59:60
2013-1-31|2013-01-31T|31/12/2024|31/02/2024|1/2/2024|12/31/2024|2013-W05-4|2013-01-31  17:45|2013-01-31 17|20130131|soon
y|n|T|f|on|OFF|Oui|non|ja|NEIN|si|sí|1|0|2|TRUE |-|é|\x1f7|\u20097|a,b|NA| NA |-999|0.1e1|\uff17
""".replace("\n", "|").split("|")
SPELLINGS = [*dict.fromkeys([*SPELLINGS, "", " ", "\t", "\xa0", "\u2028"])]
COLUMNS = [Input("x", kind, nulls=nulls) for kind in READERS for nulls in (True, False)]
COLUMNS += [Input("x", "time", nulls=True, format=form) for form in ("%d/%m/%Y", "%m/%d/%y %H:%M")]
DIALECTS = [Dialect(), Dialect(";", ",", missing=("NA", "-999", "1,5"))]


def outcome(reading: Callable[..., Array], *given: Any) -> str:
    """What a reading gives, as text that can be compared: its values, or the sentence of its refusal."""
    try:
        values = reading(*given)
    except ProjectError as error:
        return str(error)
    return f"{values.dtype} {values.tolist()}"


@pytest.mark.parametrize("csv", DIALECTS, ids=["plain", "decimal comma"])
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.type} {column.nulls} {column.format or ''}")
def test_both_ways_read_every_spelling_alike(column: Input, csv: Dialect) -> None:
    for word in [*SPELLINGS, None]:
        arrow = pa.array([word], pa.string())
        alone = outcome(from_values, column, [word], 5, csv)
        assert outcome(typed, column, arrow, 5, csv) == alone, word
        assert outcome(typed, column, arrow.cast(pa.large_string()), 5, csv) == alone, word


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPELLINGS, None]), min_size=1), st.sampled_from(COLUMNS), st.sampled_from(DIALECTS))
def test_both_ways_read_any_column_alike(words: list[str | None], column: Input, csv: Dialect) -> None:
    fitting = [word for word in words if not outcome(from_values, column, [word], 1, csv).startswith("row")]
    for chosen in (words, fitting):
        arrow = pa.array(chosen, pa.string())
        assert outcome(typed, column, arrow, 1, csv) == outcome(from_values, column, chosen, 1, csv)


@settings(deadline=None)
@given(st.floats(allow_nan=False, width=64) | st.integers(-(10**17), 10**17) | st.decimals(allow_nan=False, places=3))
def test_both_ways_read_any_number_alike(number: Any) -> None:
    for column in COLUMNS[:4]:
        assert outcome(typed, column, pa.array([str(number)])) == outcome(from_values, column, [str(number)])


TYPED: list[pa.Array] = [
    pa.array([1, None, -5]),
    pa.array([2**53, 1]),
    pa.array([2**64 - 1], pa.uint64()),
    pa.array([1.5, float("nan"), 1e300]),
    pa.array([1.0, None, 7.0]),
    pa.array([float("inf")]),
    pa.array([True, None, False]),
    pa.array([Decimal("1.50"), None]),
    pa.array([date(2013, 1, 31), None]),
    pa.array([datetime(2013, 1, 31, 17, 45), None]),
    pa.array([datetime(2013, 1, 31, 17, 45)], pa.timestamp("s", "Europe/Paris")),
    pa.array([1359654300123456789], pa.timestamp("ns")),
    pa.array(["a", None, "a"]).dictionary_encode(),
    pa.array([[1], None]),
    pa.array([None, None], pa.null()),
]


@pytest.mark.parametrize("column", COLUMNS[:10], ids=lambda column: f"{column.type} {column.nulls}")
@pytest.mark.parametrize("values", TYPED, ids=lambda values: str(values.type))
def test_both_ways_read_typed_columns_alike(column: Input, values: pa.Array) -> None:
    if str(values.type) == "timestamp[ns]" and column.type == "text":
        pytest.skip("Python has no nanoseconds to write")
    assert outcome(typed, column, values) == outcome(from_values, column, values.to_pylist())


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        ("number", " 7 ", 7.0),
        ("number", "1e3", 1000.0),
        ("number", "7_19", None),
        ("number", "٣", None),
        ("number", "0x1", None),
        ("number", "nan", None),
        ("number", "inf", None),
        ("number", True, None),
        ("integer", "1.0", 1.0),
        ("integer", "9007199254740993", None),
        ("boolean", "Ja", 1.0),
        ("boolean", "sí", 1.0),
        ("boolean", "off", 0.0),
        ("boolean", "maybe", None),
        ("text", "1.10", "1.10"),
        ("text", " ", " "),
        ("text", True, "true"),
        ("time", "2013-01-31 17:45:00+02:00", datetime(2013, 1, 31, 15, 45)),
        ("time", "31/12/2024", None),
        ("time", 20130131, None),
    ],
)
def test_the_rule(kind: str, word: Any, value: Any) -> None:
    read_as = outcome(from_values, Input("x", kind), [word])
    if value is None:
        assert repr(word) in read_as
    else:
        assert read_as == outcome(np.array, [value], READERS[kind][2])


@pytest.mark.parametrize("kind", READERS)
def test_a_blank_is_missing_but_for_text(kind: str) -> None:
    (blank,) = from_values(Input("x", kind, nulls=True), ["  "])
    assert blank == "  " if kind == "text" else np.isnan(blank)
    (empty,) = from_values(Input("x", kind, nulls=True), [""])
    assert empty == "" if kind == "text" else np.isnan(empty)
    with pytest.raises(ProjectError, match="row 1, column 'x': no value"):
        from_values(Input("x", kind), [""])


ODD = b"""\xef\xbb\xbfwhen; price ;answer;text;flag ;"free";n
31/12/2024;1.234,5;Yes;1.10;oui;007;1
;NA;No;"a;b
c";non;x;

"01/02/2024";-1;Yes;true;1;;3
"""
SETTINGS: dict[str, Any] = {
    "source": {"rows": "rows.csv"},
    "csv": {"separator": ";", "decimal": ",", "missing": ["NA"]},
    "target": "answer",
    "columns": {
        "when": {"type": "time", "format": "%d/%m/%Y", "nulls": True},
        "price": {"type": "number", "nulls": True},
        "text": {"type": "text"},
        "flag": {"type": "boolean"},
        "n": {"type": "integer", "nulls": True},
        "answer": {"type": "text", "role": "outcome"},
    },
}
DATA = Data.model_validate(SETTINGS)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_bytes(ODD)
    return tmp_path / "rows.csv"


def test_a_file_of_another_dialect_is_read_alike_by_all(odd: Path, tmp_path: Path) -> None:
    wanted = [
        {"when": datetime(2024, 12, 31), "price": 1234.5, "text": "1.10", "flag": True, "n": 1, "answer": "Yes"},
        {"when": None, "price": None, "text": "a;b\nc", "flag": False, "n": None, "answer": "No"},
        {"when": datetime(2024, 2, 1), "price": -1.0, "text": "true", "flag": True, "n": 3, "answer": "Yes"},
    ]
    table = read("rows", odd, DATA)
    assert table.select(*DATA.columns).to_pyarrow().to_pylist() == wanted
    assert table.free.to_pyarrow().to_pylist() == ["007", "x", None]
    raw = sources.snapshot(DATA.model_copy(update={"source": {"rows": str(odd)}}), folder=tmp_path / "raw")["rows"]
    assert pq.read_table(raw).select(list(DATA.columns)).to_pylist() == wanted
    inputs = {name: column.as_input(name) for name, column in DATA.columns.items()}
    with ExitStack() as stack:
        ((_, batch),) = list(batches(odd, DATA.csv, stack))
    rows = read_csv(ODD, [], DATA.csv)
    for name, column in inputs.items():
        at_once = _typed(column, batch, 1, DATA.csv)
        assert stored(column, at_once).to_pylist() == [row[name] for row in wanted]
        one_by_one = from_values(column, [row[name] for row in rows], 1, DATA.csv)
        assert outcome(np.asarray, at_once) == outcome(np.asarray, one_by_one)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_other_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("é,b\nü,1\n", encoding=encoding)
    data = Data.model_validate(SETTINGS | {"csv": {"encoding": encoding}})
    assert read("rows", path, data).to_pyarrow().to_pylist() == [{"é": "ü", "b": 1}]
    if encoding != "utf-8-sig":
        with pytest.raises(ProjectError, match=r"line 1 is not utf-8 text.*encoding: latin-1|not text"):
            header(path, Dialect())


WRONG: dict[str, tuple[bytes, str]] = {
    "value": (ODD.replace(b"-1;", b"one;"), r"row 3, column 'price': 'one' is not a finite number"),
    "time": (ODD.replace(b"31/12", b"31/02"), r"row 1, column 'when': '31/02/2024' is not a time .* or as %d/%m/%Y"),
    "long": (ODD.replace(b";3\n", b";12345678901234567890\n"), r"row 3, column 'n'.*more digits.*type: text"),
    "twice": (ODD.replace(b"free", b"Price"), "column 'Price' is given twice"),
    "separator": (ODD.replace(b";", b"|"), r"separated by '\|', not by ';'.*csv: \{separator"),
    "empty": (b"", "empty"),
    "binary": (b"a;b\0c\n", "not text"),
    "web": (b"<html>", "web page"),
    "ragged": (ODD + b"1;2\n", "rows.csv: .*csv"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_cannot_be_read_is_told_at_both_levels(mistake: str, odd: Path, tmp_path: Path) -> None:
    content, told = WRONG[mistake]
    odd.write_bytes(content)
    data = DATA.model_copy(update={"source": {"rows": str(odd)}})
    with pytest.raises(ProjectError, match=told) as first:
        collected({"rows": odd}, data)
    with pytest.raises(ProjectError, match=told) as second:
        sources.snapshot(data, folder=tmp_path / "raw")
    assert str(odd) in str(first.value)
    assert str(odd) in str(second.value)
    assert list((tmp_path / "raw").iterdir()) == []


def test_text_in_parquet_is_typed_and_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    base = {"when": ["31/12/2024"], "price": ["1,5"], "text": ["a"], "flag": ["ja"], "n": [1], "answer": ["Yes"]}
    pq.write_table(pa.table(base), path)
    table = read("rows", path, DATA)
    assert {name: values.tolist() for name, values in declared(table, DATA).items()} == base | {
        "when": [datetime(2024, 12, 31)],
        "price": [1.5],
        "flag": [1.0],
    }
    for name, values, held in (("text", [1.5], "numbers"), ("price", [datetime(2024, 1, 1)], "times")):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(base | {name: values}), path)
        with pytest.raises(ProjectError, match=f"column '{name}' holds {held}.*config/data.yaml declares"):
            declared(read("rows", path, DATA), DATA)
    pq.write_table(pa.table(base | {"n": [2**60]}), tmp_path / "long.parquet")
    with pytest.raises(ProjectError, match=r"column 'n'.*more digits.*text"):
        declared(read("rows", tmp_path / "long.parquet", DATA), DATA)
    pq.write_table(pa.table(base | {"text": pa.array([None], pa.null())}), tmp_path / "empty.parquet")
    with pytest.raises(ProjectError, match="row 1, column 'text': no value"):
        refuse_missing(declared(read("rows", tmp_path / "empty.parquet", DATA), DATA), DATA)


def test_a_changed_dialect_or_type_is_collected_again(odd: Path, tmp_path: Path) -> None:
    data = DATA.model_copy(update={"source": {"rows": str(odd)}})
    first = sources.snapshot(data, folder=tmp_path / "raw")["rows"].read_bytes()
    sources.snapshot(data, folder=tmp_path / "other")
    assert (tmp_path / "other" / "rows.parquet").read_bytes() == first
    columns = data.columns | {"n": data.columns["n"].model_copy(update={"type": "text"})}
    again = sources.snapshot(data.model_copy(update={"columns": columns}), folder=tmp_path / "raw")["rows"]
    assert pq.read_schema(again).field("n").type == pa.string()


@contextmanager
def small_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_not_called_damaged_data(odd: Path, tmp_path: Path) -> None:
    with small_disk(), pytest.raises(ProjectError, match="raw: cannot be written"):
        sources.snapshot(DATA.model_copy(update={"source": {"rows": str(odd)}}), folder=tmp_path / "raw")


def test_an_unreadable_file_is_said_so(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ProjectError, match=r"rows\.csv: cannot be read \(Permission denied\)"):
        read("rows", odd, DATA)


class Loaded:
    """A model of one number."""

    signature = Signature("toy", "1", "regression", "y", None, (Input("price", "number"),), ("x",), (), csv=DATA.csv)

    @property
    def scorer(self) -> Loaded:
        """The model file is itself."""
        return self


def test_a_list_is_not_written_to_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "flight_delays.ops.serve.batch"
    monkeypatch.setattr(f"{module}.scored", lambda _, batch, *__: pa.table(batch))
    pq.write_table(pa.table({"price": [1.0], "tags": [["a"]]}), tmp_path / "rows.parquet")
    with pytest.raises(ProjectError, match=r"out\.csv: column 'tags' holds list.*\.parquet"):
        predict(Loaded(), tmp_path / "rows.parquet", tmp_path / "out.csv", lambda _: None)  # type: ignore[arg-type]
    assert not (tmp_path / "out.csv").exists()


def test_unseen_rows_are_written_in_the_dialect(odd: Path, tmp_path: Path) -> None:
    data = DATA.model_copy(update={"csv": Dialect(";", ",", "latin-1", ("NA",))})
    columns = declared(read("rows", odd, DATA), data)
    rows = Examples(columns, None, np.zeros(3))  # type: ignore[arg-type]
    write_unseen(rows, data, tmp_path / "unseen.csv")
    again = read("rows", tmp_path / "unseen.csv", data)
    inputs = tuple(column.as_input(name) for name, column in data.inputs.items())
    for column in inputs:
        assert outcome(np.asarray, to_columns(again)[column.name]) == outcome(np.asarray, columns[column.name])
    signature = Signature("toy", "1", "regression", "y", None, inputs, (), (), csv=data.csv)
    example = drawn_up(signature, load(Case), tmp_path / "unseen.csv").example
    assert example == {"when": "2024-12-31T00:00:00", "price": 1234.5, "text": "some text", "flag": True, "n": 3}
    assert Signature.parse(signature.dump()) == signature


def test_an_old_model_file_has_the_usual_dialect() -> None:
    signature = Signature("toy", "1", "regression", "y", None, (Input("x", "number"),), ("x",), ())
    old = json.loads(signature.dump())
    del old["csv"], old["inputs"][0]["format"]
    assert Signature.parse(json.dumps(old)) == signature


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"type": "number", "min": math.nan}, "nan"),
    ({"type": "number", "min": math.inf}, "inf"),
    ({"type": "number", "min": 2, "max": 1}, "min: 2.0 is above max"),
    ({"type": "time", "min": "2020-01-02", "max": "2020-01-01"}, "above max"),
    ({"type": "text", "min": 1}, "min: 1.0 does not suit `type: text`"),
    ({"type": "number", "min": "2020-01-01"}, "does not suit `type: number`"),
    ({"type": "text", "values": []}, "values: the list is empty"),
    ({"type": "text", "values": ["a", "a"]}, "'a' is given twice"),
    ({"type": "text", "values": [1, 2]}, "put it in quotes"),
    ({"type": "number", "values": ["a"]}, "does not suit `type: number`"),
    ({"type": "boolean", "values": [0, 1]}, "does not suit `type: boolean`"),
    ({"type": "text", "nulls": "maybe"}, "nulls.*maybe"),
    ({"type": "number", "format": "%Y"}, "format: does not suit"),
    ({"type": "time", "format": "%H:%M"}, "no year"),
    ({"type": "time", "format": "dd/mm/yyyy"}, "no year.*%d/%m/%Y"),
]


@pytest.mark.parametrize(("column", "told"), NONSENSE)
def test_a_nonsensical_column_is_refused_in_a_sentence(column: dict[str, Any], told: str, tmp_path: Path) -> None:
    columns = SETTINGS["columns"] | {"when": column}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(SETTINGS | {"columns": columns}))
    with pytest.raises(ProjectError, match=rf"data\.yaml, columns\.when.*{told}") as error:
        parse(Data, tmp_path / "data.yaml")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("csv", "told"),
    [
        ({"separator": ";;"}, "separator: one sign"),
        ({"separator": "\n"}, "separator: one sign"),
        ({"decimal": "'"}, "decimal: should be"),
        ({"decimal": ","}, "cannot both be"),
        ({"encoding": "latin-99"}, "'latin-99' is unknown"),
        ({"encoding": "hex"}, "'hex' is unknown"),
        ({"missing": "NA"}, "missing"),
        ({"delimiter": ";"}, "csv.delimiter: unknown key"),
    ],
)
def test_a_nonsensical_dialect_is_refused_in_a_sentence(csv: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(SETTINGS | {"csv": csv}))
    with pytest.raises(ProjectError, match=told) as error:
        parse(Data, tmp_path / "data.yaml")
    assert len(str(error.value).splitlines()) == 1


def test_equal_seeds_draw_equal_rows_on_any_day() -> None:
    drawn = schema.drawn(DATA, "classification", 20)["when"]
    assert str(np.nanmin(drawn)) == "2024-01-01T23:59:21.341365"


def test_a_stream_stays_small(tmp_path: Path) -> None:
    """A file of many batches is collected in order, and its engine is asked for one batch at a time."""
    path = tmp_path / "rows.csv"
    path.write_text("n,answer\n" + "".join(f"{i},a\n" for i in range(300_000)))
    data = Data.model_validate(SETTINGS | {"source": {"rows": str(path)}, "csv": {}})
    raw = pq.ParquetFile(sources.snapshot(data, folder=tmp_path / "raw")["rows"])
    assert raw.num_row_groups > 1
    assert raw.read(["n"]).column("n").to_pylist() == list(range(300_000))
