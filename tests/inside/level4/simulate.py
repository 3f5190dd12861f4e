"""Simulated traffic: every fault does what it says, the same each time, and goes to this machine alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.register import events
from flight_delays.ops.retrain.faults import FACTOR, FAULTS, LANES, POISONED, SHARE, Traffic, World, planted
from flight_delays.ops.retrain.simulate import Caller, Lane, found, simulate
from flight_delays.ops.scorer import Input, Packed, Signature

ROWS = 2000


def world(classes: tuple[Any, ...] = (False, True), inputs: tuple[str, ...] = ("number", "text", "time")) -> World:
    rng = np.random.default_rng(7)
    every = {
        "number": rng.normal(50, 10, ROWS),
        "integer": rng.integers(0, 2, ROWS).astype(float),
        "text": rng.choice(np.array(["a", "b", "c"], dtype=object), ROWS),
        "time": np.datetime64("2026-01-01", "us") + rng.integers(0, 10**6, ROWS) * np.timedelta64(1, "s"),
    }
    truth = rng.choice(len(classes), ROWS, p=[0.7, *[0.3 / (len(classes) - 1)] * (len(classes) - 1)])
    values = truth if classes else rng.normal(20, 5, ROWS)
    columns = {name: every[name] for name in inputs}
    described = tuple(Input(name, name, nulls=name == "number") for name in inputs)
    task = "classification" if classes else "regression"
    signature = Signature("toy", "1", task, "y", None, described, inputs, (), classes)
    return World(Traffic(columns, values, values), signature, frozenset(inputs))


def regression() -> World:
    made = world(("low", "high"))
    values = np.random.default_rng(3).normal(20, 5, ROWS)
    return World(Traffic(made.rows.columns, values, values), replace(made.signature, classes=()), made.seen)


WORLDS = {"two classes": world(), "three classes": world(("x", "y", "z")), "regression": regression()}
KINDS = pytest.mark.parametrize("kind", WORLDS)


def same(one: Traffic, other: Traffic) -> bool:
    def alike(a: Any, b: Any) -> bool:
        return bool(a.dtype == b.dtype and np.array_equal(a.astype(str), b.astype(str)))

    return (
        all(alike(one.columns[name], other.columns[name]) for name in one.columns)
        and alike(one.truth, other.truth)
        and alike(one.told, other.told)
        and all(getattr(one, field.name) == getattr(other, field.name) for field in fields(one)[3:])
    )


@KINDS
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_the_same_each_time_and_leaves_the_rows_it_is_planted_in(kind: str, fault: str) -> None:
    made, before = WORLDS[kind], {name: values.copy() for name, values in WORLDS[kind].rows.columns.items()}
    first, again, other = (planted(fault, 400, made, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert same(first, planted("none", 400, made, 1)) == (fault == "none")
    assert {name: values.tolist() for name, values in made.rows.columns.items()} == {
        name: values.tolist() for name, values in before.items()
    }
    assert first.planted


def test_rows_are_sent_once_each_as_long_as_there_are_enough() -> None:
    made = planted("none", ROWS, WORLDS["two classes"], 0)
    assert len(set(made.columns["number"].tolist())) == ROWS
    assert len(planted("none", ROWS + 500, WORLDS["two classes"], 0)) == ROWS + 500


@KINDS
def test_inputs_change_and_what_becomes_of_rows_stays(kind: str) -> None:
    quiet = planted("none", 400, WORLDS[kind], 1)
    shifted, scaled = (planted(fault, 400, WORLDS[kind], 1) for fault in ("covariate", "unit"))
    sigma = WORLDS[kind].rows.columns["number"].std()
    assert np.allclose(shifted.columns["number"] - quiet.columns["number"], sigma)
    assert np.allclose(scaled.columns["number"], FACTOR * quiet.columns["number"])
    for made in (shifted, scaled):
        assert (made.truth == quiet.truth).all()
        assert (made.columns["text"] == quiet.columns["text"]).all()


@KINDS
def test_the_shares_of_what_becomes_of_rows_change(kind: str) -> None:
    quiet, other = (planted(fault, 1000, WORLDS[kind], 1).truth for fault in ("none", "label"))
    if kind == "regression":
        assert 0.7 < (other > np.median(WORLDS[kind].rows.truth)).mean() < 0.8
        return
    rarest = np.bincount(quiet).argmin()
    before, after = ((truth == rarest).mean() for truth in (quiet, other))
    assert after == pytest.approx((1 + before) / 2, abs=0.05)


@KINDS
def test_what_becomes_of_rows_depends_otherwise_on_one_input(kind: str) -> None:
    made = WORLDS[kind]
    quiet, turned = (planted(fault, 1000, made, 1) for fault in ("none", "concept"))
    high = quiet.columns["number"] > np.median(made.rows.columns["number"])
    assert 0.4 < high.mean() < 0.6
    assert (turned.truth[~high] == quiet.truth[~high]).all()
    assert (turned.told == turned.truth).all()
    if made.signature.classes:
        assert (turned.truth[high] != quiet.truth[high]).all()
        assert set(turned.truth.tolist()) <= set(range(len(made.signature.classes)))
    else:
        assert np.corrcoef(turned.truth[high], quiet.truth[high])[0, 1] < -0.8
        assert turned.truth[high].mean() > quiet.truth[high].mean() + made.rows.truth.std()
        assert turned.truth.max() <= made.rows.truth.max()


@pytest.mark.parametrize(("inputs", "where"), [(("text",), "text is above a"), (("time",), "time is above 2026")])
def test_a_relation_changes_without_any_number_too(inputs: tuple[str, ...], where: str) -> None:
    made = world(inputs=inputs)
    quiet, turned = (planted(fault, 1000, made, 1) for fault in ("none", "concept"))
    assert 0.3 < (turned.truth != quiet.truth).mean() < 0.7
    assert where in turned.planted
    with pytest.raises(ProjectError, match="needs an input that is a number"):
        planted("covariate", 10, made, 1)


def test_a_number_that_the_model_sees_is_chosen() -> None:
    made = world(inputs=("number", "integer"))
    assert "integer is larger by 1" in planted("covariate", 10, replace(made, seen=frozenset({"integer"})), 1).planted


def test_values_go_missing_where_they_may() -> None:
    made = planted("nulls", 1000, WORLDS["two classes"], 1)
    assert np.isnan(made.columns["number"]).mean() == pytest.approx(SHARE, abs=0.05)
    strict = world(inputs=("text", "time"))
    assert "should be refused" in planted("nulls", 1000, strict, 1).planted


@KINDS
def test_truth_is_told_wrong_and_stays_what_it_is(kind: str) -> None:
    quiet, made = (planted(fault, 1000, WORLDS[kind], 1) for fault in ("none", "poison"))
    assert (made.truth == quiet.truth).all()
    assert (made.told != made.truth).mean() == pytest.approx(POISONED, abs=0.05)


def test_rows_come_late_together_or_not_at_all() -> None:
    late, spike, dead = (planted(fault, 100, WORLDS["two classes"], 1) for fault in ("late", "spike", "dead"))
    assert late.late
    assert spike.lanes == LANES
    assert len(dead) == 50


class Shelf:
    """A store of three releases, each of which learned from one number: its own."""

    def __init__(self, folder: Path, signature: Signature) -> None:
        """Lay the releases down."""
        self.folder, self.signature = folder, signature
        for name, value in {"one": 1.0, "two": 2.0, "three": 3.0}.items():
            (folder / name).mkdir()
            rows = {"number": [value] * 3, "y": [False, True, True]}
            pq.write_table(pa.table(rows), folder / name / "reference.parquet")

    def entries(self) -> list[Any]:
        """Return one line of the ledger a release, a day apart."""
        return [
            SimpleNamespace(kind="bundle", time=f"2026-01-0{day}T00:00:00+00:00", facts={"digest": name})
            for day, name in enumerate(("one", "two", "three"), start=1)
        ]

    def bundle(self, digest: str) -> Any:
        """Return what is needed of a release."""

        def prepare(columns: Any) -> Packed:
            return Packed(np.column_stack([columns["number"]]), np.empty((3, 0), dtype=object))

        return SimpleNamespace(
            scorer=SimpleNamespace(signature=self.signature), folder=self.folder / digest, prepare=prepare
        )


@pytest.mark.parametrize(("taught", "value"), [(None, 3), ("2026-01-02T12", 2), ("2025-01-01", 3)])
def test_rows_are_drawn_from_what_production_has_not_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taught: str | None, value: float
) -> None:
    monkeypatch.setattr(events, "read", lambda *_: [] if taught is None else [{"time": taught}])
    shelf: Any = Shelf(tmp_path, world(inputs=("number",)).signature)
    made = found(shelf, "three")
    assert made.rows.columns["number"].tolist() == [value] * 3
    assert made.rows.truth.tolist() == [0, 1, 1]
    assert made.seen == frozenset()


class Toy(BaseHTTPRequestHandler):
    """A service that answers with the share of yes, refuses rows without a number, and keeps what it is told."""

    protocol_version = "HTTP/1.1"
    asked: list[Any]

    def do_POST(self) -> None:
        """Answer a request."""
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, given, self.headers["X-API-Key"]))
        rows = [] if self.path == "/feedback" else given["dataframe_records"]
        status = 422 if any(row["number"] is None for row in rows) else 200
        said: dict[str, Any] = {"probabilities": [{"false": 0.7, "true": 0.3}] * len(rows)}
        if status == 422:
            said = {"detail": "row 1: missing"}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", f"r{len(self.asked)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def toy() -> Iterator[tuple[str, list[Any]]]:
    asked: list[Any] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (Toy,), {"asked": asked})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("fault", ["poison", "late"])
def test_rows_are_sent_and_their_truth_is_told_under_the_ids_of_their_answers(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_KEY", "secret")
    made = WORLDS["two classes"]
    traffic = planted(fault, 12, made, 1)
    with toy() as (address, asked), closing(Caller(address)) as caller:
        lane = Lane(caller, traffic, made.signature)
        lane.send(np.arange(6))
        lane.send(np.arange(6, 12))
        lane.tell()
    assert list(lane.answers) == list(range(12))
    assert lane.answers[0] == [0.7, 0.3]
    rows = [row for path, given, _ in asked if path == "/invocations" for row in given["dataframe_records"]]
    assert [row["number"] for row in rows] == traffic.columns["number"].tolist()
    told = [one for path, given, _ in asked if path == "/feedback" for one in given]
    assert [one["truth"] for one in told] == [bool(place) for place in traffic.told]
    third = "r3" if fault == "late" else "r4"
    assert [one["id"] for one in told][:7] == ["r1-1", "r1-2", "r1-3", "r1-4", "r1-5", "r2-1", f"{third}-1"]
    assert {key for *_, key in asked} == {"secret"}


def test_rows_that_are_refused_are_counted() -> None:
    made = WORLDS["two classes"]
    traffic = planted("nulls", 100, made, 1)
    with toy() as (address, _), closing(Caller(address)) as caller:
        lane = Lane(caller, traffic, made.signature)
        lane.send(np.arange(100))
    assert len(lane.refused) + len(lane.answers) == 100
    assert set(lane.refused) == {"row 1: missing"}


@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.1:8080", "http://example.com", "https://127.0.0.1:8080", "127.0.0.1:8080", "http://[", ""],
)
def test_another_machine_is_never_asked(address: str) -> None:
    with pytest.raises(ProjectError, match="this machine alone"):
        Caller(address)


def test_a_service_that_is_not_there_is_told() -> None:
    with pytest.raises(ProjectError, match="make serve"):
        Caller("http://127.0.0.1:9").version()


def test_an_unknown_fault_is_told() -> None:
    with pytest.raises(ProjectError, match="did you mean 'concept'"):
        simulate("concpt", 10, "http://127.0.0.1:9", 0, print)
