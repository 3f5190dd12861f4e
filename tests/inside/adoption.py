"""What is decided of a stranger's file, trait by trait, and which files are refused. Run by `test_inside.py`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flight_delays.ops import pages
from flight_delays.ops.collect import (
    read,
)
from flight_delays.ops.collect.adopt import (
    look,
)
from flight_delays.ops.config import (
    PACKAGE,
    Case,
    Data,
)
from flight_delays.ops.contract import (
    ProjectError,
    hour,
    month,
    plain,
    weekday,
)
from flight_delays.ops.files import (
    refuse_uncommitted,
    sniffed,
)
from flight_delays.ops.pages import (
    beyond,
    laid_out,
)
from flight_delays.ops.process import (
    declared,
    described,
    given_away,
    settle_time,
    starters,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROWS = 300
DRAW = np.random.default_rng(0)
SIZE = [round(float(value), 3) for value in DRAW.normal(50, 10, ROWS)]
ANSWER = ["Yes" if size + noise > 55 else "No" for size, noise in zip(SIZE, DRAW.normal(0, 8, ROWS), strict=True)]
DAYS = [datetime(2023, 1, 1) + timedelta(days=i % 300) for i in range(ROWS)]
Cells = Sequence[Any]


def text(columns: dict[str, Cells], separator: str = ",") -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return file.getvalue()


def adopted(path: Path, target: str = "answer", task: Any = None, born: Any = "classification") -> dict[str, Any]:
    found = look(path, target, task, born, lambda _: None)
    settle_time(found, 0.2)
    found.refuse_inputs(given_away(found.sample(), Data.model_validate(described(found)), found.task))
    page = described(found)
    data = Data.model_validate(page)
    declared(read("rows", path, data), data)  # training reads what was decided
    return page | {"said": " ".join(found.said)}


def column(tmp_path: Path, name: str, cells: Cells) -> dict[str, Any]:
    """What is said of a column beside a size and an answer."""
    (tmp_path / "rows.csv").write_text(text({"size": SIZE, name: cells, "answer": ANSWER}), encoding="utf-8")
    page = adopted(tmp_path / "rows.csv")
    keys: dict[str, Any] = page["columns"][name]
    return keys | {key: page[key] for key in ("key", "time") if page.get(key) == name}


def each(*cells: Any) -> list[Any]:
    return [cells[int(place)] for place in DRAW.integers(0, len(cells), ROWS)]


COLUMNS: dict[str, tuple[str, Cells, dict[str, Any]]] = {
    "numbers with blanks": ("x", each(1.5, 2.5, "", " "), {"type": "number", "min": 0.5, "max": 3.5, "nulls": True}),
    "numbers with a marker": ("x", each(1.5, 2.5, "n/a"), {"type": "number", "min": 0.5, "max": 3.5, "nulls": True}),
    "whole numbers": ("x", each(-3, 5), {"type": "integer", "min": -11, "max": 13}),
    "codes": ("x", each("01", "02"), {"type": "text", "values": ["01", "02"]}),
    "long codes": ("x", each("12345678901234567", "12345678901234568"), {"type": "text"}),
    "yes and no": ("x", each("ja", "Nein"), {"type": "boolean"}),
    "yes and no and gaps": ("x", each("T", "f", ""), {"type": "boolean", "nulls": True}),
    "letters": ("x", each("M", "F"), {"type": "text", "values": ["F", "M"]}),
    "words as yes in text": ("x", each("1.10", "1.20", "b"), {"type": "text", "values": ["1.10", "1.20", "b"]}),
    "ISO days": ("x", [f"{day:%Y-%m-%d}" for day in DAYS], {"type": "time", "time": "x"}),
    "days first": ("x", [f"{d:%d.%m.%Y}" for d in DAYS], {"type": "time", "format": "%d.%m.%Y", "time": "x"}),
    "months first": (
        "x",
        [f"{day:%m/%d/%Y %I:%M %p}" for day in DAYS],
        {"type": "time", "format": "%m/%d/%Y %I:%M %p", "time": "x"},
    ),
    "named months": ("x", [f"{d:%d-%b-%Y}" for d in DAYS], {"type": "time", "format": "%d-%b-%Y", "time": "x"}),
    "days with gaps": ("x", [f"{d:%Y-%m-%d}" if d.day > 2 else "" for d in DAYS], {"type": "time", "nulls": True}),
    "days to come": ("x", [f"{day.replace(year=2100):%Y-%m-%d}" for day in DAYS], {"type": "time"}),
    "birth": ("birth date", [f"{day:%Y-%m-%d}" for day in DAYS], {"type": "time", "sensitive": True}),
    "constant": ("x", ["EUR"] * ROWS, {"type": "text", "role": "ignore"}),
    "nothing": ("x", [""] * ROWS, {"type": "text", "role": "ignore", "nulls": True}),
    "key": ("Order ID", range(7, 7 + ROWS), {"type": "integer", "role": "ignore", "key": "Order ID"}),
    "sequence": ("x", range(ROWS), {"type": "integer", "role": "ignore", "key": "x"}),
    "code of each row": ("x", [f"a{i}" for i in range(ROWS)], {"type": "text", "role": "ignore", "key": "x"}),
    "text of each row": ("x", [f"a {i}" for i in range(ROWS)], {"type": "text", "role": "ignore"}),
    "text of most rows": ("x", [f"a{i * 2 // 3}" for i in range(ROWS)], {"type": "text", "role": "ignore"}),
    "many texts": ("x", [f"a{i % 40}" for i in range(ROWS)], {"type": "text"}),
    "e-mail": ("E-Mail", each("a@x.org", "b@x.org"), {"type": "text", "role": "ignore", "sensitive": True}),
    "person": ("customerName", each("Ann", "Bob"), {"type": "text", "role": "ignore", "sensitive": True}),
    "age": ("Age", each(20, 30), {"type": "integer", "min": 10, "max": 40, "sensitive": True}),
    "accents and spaces": ("Größe in cm", each(1.5, 2.5), {"type": "number", "min": 0.5, "max": 3.5}),
    "a word of YAML": ("yes", each(1.5, 2.5), {"type": "number", "min": 0.5, "max": 3.5}),
    "commas and quotes": ("x", each('a, "b"', "c\nd"), {"type": "text", "values": ['a, "b"', "c\nd"]}),
    "copy of the answer": ("x", [f"it is {word}" for word in ANSWER], {"type": "text", "role": "outcome"}),
}


@pytest.mark.parametrize("trait", COLUMNS)
def test_what_a_column_is(trait: str, tmp_path: Path) -> None:
    name, cells, wanted = COLUMNS[trait]
    found = column(tmp_path, name, cells)
    if wanted["type"] == "text" and "values" not in wanted:
        found.pop("values", None)
    assert found == wanted


DIALECTS = [
    (mark, decimal, encoding)
    for mark in ",;\t|"
    for decimal in ".,"
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16")
    if mark != decimal
]


@pytest.mark.parametrize(("mark", "decimal", "encoding"), DIALECTS)
def test_the_dialect_is_found(mark: str, decimal: str, encoding: str, tmp_path: Path) -> None:
    sign = "€" if encoding == "cp1252" else "é"
    sizes = [str(size).replace(".", decimal) for size in SIZE]
    days = [f"{day:%d.%m.%Y}" for day in DAYS]
    columns = {
        "size": sizes,
        "sign": each(sign, "a, b"),
        "n": each(1, 2, 3),
        "day": days,
        "end": days,
        "answer": ANSWER,
    }
    path = tmp_path / "rows.txt"
    path.write_text(text(columns, mark), encoding=encoding, newline="")
    path.rename(path := path.with_suffix(".csv"))
    page = adopted(path)
    dialect = {"separator": mark, "decimal": decimal, "encoding": encoding.removesuffix("-sig")}
    usual = {"separator": ",", "decimal": ".", "encoding": "utf-8"}
    assert page.get("csv", {}) == {key: value for key, value in dialect.items() if value != usual[key]}
    assert page["columns"]["size"]["type"] == "number"
    assert page["columns"]["sign"]["values"] == sorted(("a, b", sign))
    assert sniffed(path).separator == mark


def test_blanks_around_a_name_are_no_part_of_it(tmp_path: Path) -> None:
    lines = text({"size": SIZE, " n° (total) ": each(1, 5), " answer": ANSWER})
    (tmp_path / "rows.csv").write_text(lines, encoding="utf-8")
    assert list(adopted(tmp_path / "rows.csv")["columns"]) == ["size", "n° (total)", "answer"]


def write(tmp_path: Path, **columns: Cells) -> Path:
    (tmp_path / "rows.csv").write_text(text({"size": SIZE, **columns}), encoding="utf-8")
    return tmp_path / "rows.csv"


def test_the_target_decides_the_task(tmp_path: Path) -> None:
    page = adopted(write(tmp_path, answer=ANSWER))
    assert page["columns"]["answer"] == {"type": "boolean", "role": "outcome"}
    page = adopted(write(tmp_path, answer=["late" if word == "Yes" else "on time" for word in ANSWER]))
    assert page["positive"] == min(("late", "on time"), key=["late" if w == "Yes" else "on time" for w in ANSWER].count)
    page = adopted(write(tmp_path, answer=[*each("a", "b", "c", "", *"abc" * 30)[1:], "rare"]))
    assert "rare" not in page["columns"]["answer"]["values"]
    assert "classes of less than 10 rows" in page["said"]
    assert "without 'answer' are dropped" in page["said"]
    page = adopted(write(tmp_path, answer=each(1, 2, 3)))
    assert page["columns"]["answer"] == {"type": "integer", "role": "outcome"}
    page = adopted(write(tmp_path, answer=DRAW.normal(size=ROWS).round(3)), born="regression")
    assert page["columns"]["answer"]["type"] == "number"
    page = adopted(write(tmp_path, answer=each(1, 2, 3)), task="regression", born="regression")
    assert page["columns"]["answer"]["max"] == 5
    assert "accuracy" in adopted(write(tmp_path, answer=[i % 30 == 0 for i in range(ROWS)]))["said"]


def test_equal_rows_are_told(tmp_path: Path) -> None:
    lines = text({"size": SIZE, "answer": ANSWER}).splitlines()
    (tmp_path / "rows.csv").write_text("\n".join([*lines, lines[-1]]))
    assert "each is kept once" in adopted(tmp_path / "rows.csv")["said"]
    (tmp_path / "rows.csv").write_text(text({"a": each(1, 2), "answer": ANSWER}))
    assert "they are kept" in adopted(tmp_path / "rows.csv")["said"]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "size": SIZE,
            "whole": pa.array(each(1, 2, None), pa.int32()),
            "long": [2**60 + i for i in range(ROWS)],
            "list": [[1]] * ROWS,
            "flag": [bool(value) for value in each(1, 0)],
            "day": pa.array([day.date() for day in DAYS]),
            "kind": pa.array(each("a", "b")).dictionary_encode(),
            "words": each("1.5", "2.5"),
            "answer": ANSWER,
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    page = adopted(tmp_path / "rows.parquet")
    types = {name: keys["type"] for name, keys in page["columns"].items()}
    kinds = ("number", "integer", "boolean", "time", "text", "number", "boolean")
    assert types == dict(zip(("size", "whole", "flag", "day", "kind", "words", "answer"), kinds, strict=True))


REFUSED: dict[str, tuple[bytes | None, str, str | None, str]] = {
    "missing file": (None, "answer", None, r"DATA: .*rows\.csv not found"),
    "empty file": (b"", "answer", None, "empty"),
    "header only": (b"a,answer\n", "answer", None, "has no row"),
    "binary file": (b"PK\x03\x04\0\0\x08\0", "answer", None, "not text"),
    "web page": (b"<html><body>x,y", "answer", None, "web page"),
    "one column": (b"answer\n1\n2\n", "answer", None, "one column only"),
    "column given twice": (b"a,A,answer\n1,2,3\n", "answer", None, "'A' is given twice"),
    "wrong target": (text({"size": SIZE, "answer": ANSWER}).encode(), "anwser", None, "did you mean 'answer'"),
    "one class": (text({"size": SIZE, "answer": ["a"] * ROWS}).encode(), "answer", None, "'a' in every row"),
    "no answer": (text({"size": SIZE, "answer": [""] * ROWS}).encode(), "answer", None, "no value in any row"),
    "identifier": (text({"size": SIZE, "answer": range(ROWS)}).encode(), "answer", None, "an identifier"),
    "names": (text({"size": SIZE, "answer": [f"p{i}" for i in range(ROWS)]}).encode(), "answer", None, "an identifier"),
    "time": (text({"size": SIZE, "answer": DAYS}).encode(), "answer", None, "is a time"),
    "quantity": (text({"x": ANSWER, "answer": SIZE}).encode(), "answer", None, r"asks for a regression.*copier copy"),
    "many classes": (text({"x": ANSWER, "answer": SIZE}).encode(), "answer", "classification", "too many classes"),
    "words to regress": (text({"x": SIZE, "answer": ANSWER}).encode(), "answer", "regression", "needs a number"),
    "nothing to learn from": (text({"x": range(ROWS), "answer": ANSWER}).encode(), "answer", None, "no column is left"),
    "rare classes": (b"a,answer\n" + b"1.5,a\n2.5,b\n3.5,c\n2,a\n" * 3, "answer", None, "too few to learn"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_cannot_be_adopted_is_told_in_one_line(mistake: str, tmp_path: Path) -> None:
    content, target, task, told = REFUSED[mistake]
    if content is not None:
        (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ProjectError, match=told) as error:
        adopted(tmp_path / "rows.csv", target, task)
    assert len(str(error.value).splitlines()) == 1


def test_rows_without_a_target_are_dropped_however_the_file_says_so(tmp_path: Path) -> None:
    """Arrow and Polars write NaN and "" that are no null."""
    for name, gap in (("number", float("nan")), ("text", "")):
        answer: list[Any] = [SIZE[row] if name == "number" else f"kind {ANSWER[row]}" for row in range(ROWS)]
        answer[::60] = [gap] * len(answer[::60])
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"size": SIZE, "answer": answer}), path)
        found = look(path, "answer", None, "regression" if name == "number" else "classification", lambda _: None)
        text = starters(found, Case(decision="d", kpi="k", owner="o"))[Path("src") / PACKAGE.name / "process.py"]
        assert ("~rows[TARGET].isnan()" in str(text)) == (name == "number")
        assert ('rows[TARGET] != ""' in str(text)) == (name == "text")


@pytest.mark.parametrize("name", ["How satisfied " * 12, "Total\nSales", "a: b # c", '"{x}"', "\u2028"])
def test_every_name_of_a_column_is_written_as_it_is_read(name: str, tmp_path: Path) -> None:
    page = {"source": {"rows": "rows.csv"}, "target": "y", "columns": {name: {"type": "number"}, "y": {"type": "text"}}}
    file = tmp_path / "data.yaml"
    file.write_text(laid_out(page), encoding="utf-8")
    assert pages.read(file) == page


def test_the_time_of_a_row_may_be_its_key() -> None:
    columns = {"t": {"type": "time"}, "size": {"type": "number"}, "y": {"type": "number", "role": "outcome"}}
    page = {"source": {"rows": "rows.csv"}, "target": "y", "key": "t", "time": "t", "columns": columns}
    table = ibis.memtable(
        pa.table({"t": [datetime(2024, 1, 2), datetime(2024, 1, 1)], "size": [1.0, 2.0], "y": [3.0, 4.0]})
    )
    assert declared(table, Data.model_validate(page))["y"].tolist() == [4, 3]


def test_other_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="is a folder"):
        adopted(tmp_path)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(ProjectError, match="save it as one of them"):
        adopted(tmp_path / "rows.xlsx")


def test_without_a_history_nothing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match="git keeps no history here"):
        refuse_uncommitted([tmp_path / "x"])


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@example(5e-324, 0.5)
def test_limits_lie_farther_out_and_keep_their_sign(end: float, span: float) -> None:
    low, high = beyond(end, -span), beyond(end, span)
    assert low <= end <= high
    assert (low >= 0) == (end >= 0 or low == 0)
    assert (high <= 0) == (end <= 0 and (high == 0 or end + span < 0))


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1)))
def test_parts_of_a_time_agree_with_the_calendar(moment: datetime) -> None:
    times = np.array([moment, "NaT"], dtype="datetime64[us]")
    made = plain({"t": times, "x": np.array(["a", ""], dtype=object)})
    assert list(made) == ["t_month", "t_weekday", "t_hour", "x"]
    assert (month(times)[0], weekday(times)[0], int(hour(times)[0])) == (moment.month, moment.weekday(), moment.hour)
    assert all(np.isnan(made[name][1]) for name in ("t_month", "t_weekday", "t_hour"))


def test_a_part_of_a_time_takes_the_place_of_no_input() -> None:
    columns = {"t": np.array(["2024-05-06"], dtype="datetime64[us]"), "t_month": np.array([0.5])}
    assert {name: values.tolist() for name, values in plain(columns).items()} == {
        "t_month_": [5],
        "t_weekday": [0],
        "t_hour": [0],
        "t_month": [0.5],
    }
