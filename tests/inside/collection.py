"""A stranger's file is adopted, and collection is whole, repeatable and discreet."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flight_delays.ops.collect import (
    sources,
)
from flight_delays.ops.collect.adopt import (
    look,
)
from flight_delays.ops.collect.sources import (
    MANIFEST,
    snapshot,
)
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    Query,
    load,
    masked,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.process import (
    described,
    given_away,
    settle_time,
    starters,
)
from flight_delays.ops.scorer import (
    Dialect,
)
from s3fs import S3FileSystem

DATA, TASK = load(Data), load(Model).task


def strangers_file(path: Path) -> Path:
    """A CSV file of another dialect with identifiers, gaps, times, a constant, a copy of the target and equal rows."""
    lines = [
        f"{i};p{i}@x.org;{i % 50},5;{'NA' if i % 9 == 0 else i % 7};{i % 28 + 1:02}/{i % 12 + 1:02}/2023;EUR;"
        f"{'é' if i % 3 else 'ü'};{'copy' if i % 50 > 25 else ''};{ANSWERS[i % 50 > 25] if i else ''}"
        for i in range(400)
    ]
    header = "Row id;e-mail;size;count;opened;currency;colour;after;answer"
    path.write_text("\n".join([header, *lines, lines[-1]]) + "\n", encoding="latin-1")
    return path


ANSWERS = ("No", "Yes") if TASK == "classification" else ("1", "2")


def test_a_strangers_file_is_adopted(tmp_path: Path) -> None:
    progress: list[float] = []
    found = look(strangers_file(tmp_path / "My rows.csv"), "answer", TASK, TASK, progress.append)
    settle_time(found, share=0.2)
    found.refuse_inputs(given_away(found.sample(), Data.model_validate(described(found)), found.task))
    made = described(found)
    assert made["csv"] == {"separator": ";", "decimal": ",", "encoding": "latin-1", "missing": ["NA"]}
    assert (made["source"], made["key"], made["time"]) == ({"My_rows": "data/My_rows.csv"}, "Row id", "opened")
    columns = made["columns"]
    assert {n for n, column in columns.items() if column.get("role") == "ignore"} == {"Row id", "e-mail", "currency"}
    assert columns["opened"] == {"type": "time", "format": "%d/%m/%Y"}
    assert columns["count"] == {"type": "integer", "min": 0, "max": 12, "nulls": True}
    assert columns["colour"]["values"] == ["é", "ü"]
    assert columns["after"]["role"] == columns["answer"]["role"] == "outcome"
    assert found.once
    written_files = starters(found, load(Case))
    assert any("collected.distinct()" in str(text) for text in written_files.values())
    assert yaml.safe_load(str(written_files[Path("config/data.yaml")])) == made
    assert 0 < max(progress) <= 1


@pytest.mark.parametrize(
    ("target", "told"),
    [("answr", "did you mean 'answer'"), ("opened", "is a time"), ("e-mail", "identifier"), ("currency", "every row")],
)
def test_a_target_that_cannot_be_learned_is_told(target: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=told):
        look(strangers_file(tmp_path / "rows.csv"), target, None, TASK, lambda _: None)


def only(**source: str | Query) -> Data:
    return DATA.model_copy(update={"source": source, "csv": Dialect()})


def written(path: Path, rows: int = 3) -> str:
    pq.write_table(pa.table({"a": range(rows), "b": ["é"] * rows}), path)
    return str(path)


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A web site on this machine, and the paths that were asked of it."""
    asked: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(403 if "closed" in self.path else 404 if "absent" in self.path else 200)
            self.send_header("Content-Length", "100" if "cut" in self.path else "8")
            self.end_headers()
            self.wfile.write(b"a,b\n1,2\n")

    monkeypatch.setattr(Site, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_collection_is_repeatable_and_lazy(tmp_path: Path) -> None:
    data = only(one=written(tmp_path / "one.parquet"), two=written(tmp_path / "two.parquet"))
    first, second = tmp_path / "first", tmp_path / "second"
    assert snapshot(data, folder=first) == {"one": first / "one.parquet", "two": first / "two.parquet"}
    snapshot(data, folder=second)
    assert kept(first).keys() == {"one.parquet", "two.parquet", MANIFEST}
    assert all(kept(first)[name] == kept(second)[name] for name in ("one.parquet", "two.parquet"))
    before = kept(first)
    snapshot(data, folder=first)
    assert kept(first) == before
    written(tmp_path / "one.parquet", rows=4)
    (first / "two.parquet").write_bytes(b"damaged afterwards")
    snapshot(data, folder=first)
    assert (first / "two.parquet").read_bytes() == before["two.parquet"]
    manifest = json.loads((first / MANIFEST).read_text(encoding="utf-8"))
    assert [entry["rows"] for entry in manifest.values()] == [4, 3]


def test_one_failure_keeps_the_earlier_snapshot(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "one.parquet"
    snapshot(only(one=written(path)), folder=raw)
    before = kept(raw)
    written(path, rows=9)
    with pytest.raises(ProjectError, match=r"absent\.csv: not found"):
        snapshot(only(one=str(path), two="absent.csv"), folder=raw)
    assert kept(raw) == before


def test_web_sources_are_fetched_once(tmp_path: Path, site: tuple[str, list[str]]) -> None:
    address, asked = site
    for refresh in (False, False, True):
        snapshot(only(web=f"{address}/rows.csv"), refresh, tmp_path / "raw")
    assert asked == ["/rows.csv"] * 2
    assert pq.read_table(tmp_path / "raw" / "web.parquet").to_pylist() == [{"a": 1, "b": 2}]


@pytest.fixture
def store(site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An object store that speaks S3, named by the environment as everywhere; the paths that were asked of it."""
    for name, value in {"ENDPOINT_URL": site[0], "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "sesame"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()  # it remembers the store of the test before
    return site[1]


def test_an_object_of_a_store_is_fetched(tmp_path: Path, store: list[str]) -> None:
    snapshot(only(web="s3://bucket/rows.csv"), folder=tmp_path / "raw")
    assert set(store) == {"/bucket/rows.csv"}
    assert pq.read_table(tmp_path / "raw" / "web.parquet").to_pylist() == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(("name", "told"), [("closed", "access is refused"), ("absent", "nothing is at this address")])
@pytest.mark.usefixtures("store")
def test_a_store_that_refuses_is_told(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=told) as error:
        snapshot(only(web=f"s3://bucket/{name}.csv"), folder=tmp_path / "raw")
    assert f"s3://bucket/{name}.csv" in str(error.value)
    assert "sesame" not in str(error.value)
    assert kept(tmp_path / "raw") == {}


WEB_FAILURES = {"closed": "credentials", "absent": "nothing is at", "cut": "not completed"}


@pytest.mark.parametrize(("page", "told"), WEB_FAILURES.items())
def test_a_web_failure_says_why_and_tells_no_secret(
    page: str, told: str, tmp_path: Path, site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "sesame")
    with pytest.raises(ProjectError, match=told) as error:
        snapshot(only(web=f"{site[0]}/{page}.csv?key=" + "${A_TOKEN}"), folder=tmp_path / "raw")
    assert "key=sesame" in site[1][0]
    assert "sesame" not in str(error.value)
    assert kept(tmp_path / "raw") == {}


@pytest.fixture
def database(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "rows.db")) as connection, connection:
        connection.execute("create table rows (a, b)")
        connection.executemany("insert into rows values (?, ?)", [(i, i + 0.5 if i % 2 else None) for i in range(10)])
    return f"sqlite:///{tmp_path / 'rows.db'}"


def test_a_query_keeps_its_order(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", 3)
    monkeypatch.setenv("A_PLACE", database)
    query = Query(sql="select a, b from rows where a > 3 and '%' <> ':x' order by a desc", database="${A_PLACE}")
    path = snapshot(only(rows=query), folder=tmp_path / "raw")["rows"]
    assert pq.read_table(path).to_pydict() == {"a": [9, 8, 7, 6, 5, 4], "b": [9.5, None, 7.5, None, 5.5, None]}
    assert database not in (tmp_path / "raw" / MANIFEST).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("select * from absent", "no such table: absent"),
        ("select a from rows where a > 99", "no row"),
        ("select a, b as a from rows", "two columns named 'a'"),
        ("select case a when 0 then 'x' else a end as c from rows", "column 'c' mixes kinds"),
        ("delete from rows", "should be a SELECT"),
    ],
)
def test_a_query_that_fails_is_told(sql: str, told: str, tmp_path: Path, database: str) -> None:
    with pytest.raises(ProjectError, match=told):
        snapshot(only(rows=Query(sql=sql, database=database)), folder=tmp_path / "raw")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Query(sql="select 1", database="postgresql://me:${AN_UNSET_ONE}@host/db"), "AN_UNSET_ONE is not set"),
        (Query(sql="select 1", database="unknown://me:sesame@host/db"), "dialects:unknown"),
        (Query(sql="select 1", database="sqlite:///absent.db"), r"absent\.db is not found"),
        (Query(sql="select 1", database="sesame"), "should look like"),
        ("http://127.0.0.1:1/rows.csv", "the host cannot be reached"),
        ("unknown://host/rows.csv", "Protocol not known"),
        ("memory://rows.txt", "should end with"),
        ("rows.txt", "not found"),
    ],
)
def test_a_source_that_cannot_be_reached_is_told(source: str | Query, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=told):
        snapshot(only(rows=source), folder=tmp_path / "raw")


def test_addresses_are_shown_without_secrets() -> None:
    assert masked("https://me:se/same@host/rows.csv?sig=sesame&v=1") == "https://me:***@host/rows.csv?sig=***&v=***"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b\n1,é\n".encode("latin-1"), "utf-8"),
        (b"a\tb\n1\t2\n", "separated by"),
        (b"<html>Log in</html>", "web page"),
        (b"a,b\n1,2\n1,2,3\n", "Line: 3|sniffing"),
        (b"a,b\n", "no row"),
    ],
)
def test_a_file_of_another_kind_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ProjectError, match=told) as error:
        snapshot(only(rows=str(tmp_path / "rows.csv")), folder=tmp_path / "raw")
    assert "rows.csv" in str(error.value)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProjectError, match="file/raw: cannot be written"):
        snapshot(only(one=written(tmp_path / "one.parquet")), folder=tmp_path / "file" / "raw")
