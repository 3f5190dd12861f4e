"""Rows from production: typed, whole, each once, under keys of their own, and part of the version of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flight_delays.ops import stages
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.retrain import production
from flight_delays.ops.retrain.production import Rows, began, better, known, put_back, taken_in, write

PROJECT = Path.cwd()
NOON = 1_772_539_200.0
COLUMNS: dict[str, Any] = {
    "id": {"type": "integer", "role": "ignore"},
    "at": {"type": "time"},
    "kind": {"type": "text", "values": ["a", "b"]},
    "size": {"type": "number", "min": 0, "max": 10, "nulls": True},
    "note": {"type": "text", "role": "ignore"},
    "late": {"type": "boolean", "role": "outcome"},
}


def page(**changes: Any) -> Data:
    usual = {"source": {"rows": "rows.csv"}, "target": "late", "key": "id", "time": "at", "columns": COLUMNS}
    return Data.model_validate({**usual, **changes})


def log(folder: Path, lines: list[dict[str, Any]], name: str) -> None:
    path = folder / "logs" / name / "20260303T120000-abc-000001.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def answered(number: int, **changes: Any) -> dict[str, Any]:
    inputs = {"at": f"2026-03-0{number % 9 + 1}T08:00:00", "kind": "a", "size": number % 10}
    inputs |= changes.pop("inputs", {})
    about = {"id": f"r{number}-1", "time": NOON + number, "model": "m1", "version": 1, "variant": "champion"}
    said = {"entity": None, "numbers": [1.0], "text": ["a"], "prediction": True, "probabilities": [0.4, 0.6]}
    return {**about, **said, **changes, "inputs": inputs}


def truth(number: int, value: Any = True, arrived: float = 0.0) -> dict[str, Any]:
    return {"id": f"r{number}-1", "truth": value, "observed": None, "arrived": NOON + 100 + number + arrived}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_was_asked_and_what_became_of_it_are_rows(folder: Path) -> None:
    log(folder, [answered(2), answered(1), answered(3)], "predictions")
    log(folder, [truth(1, False), truth(2), truth(9)], "feedback")
    rows = known(page())
    assert len(rows) == 2
    assert rows.left_out == 0
    assert rows.times.tolist() == [NOON + 1, NOON + 2]
    assert rows.columns["late"].tolist() == [0.0, 1.0]
    assert rows.columns["at"].astype(str).tolist() == ["2026-03-02T08:00:00.000000", "2026-03-03T08:00:00.000000"]
    assert rows.errors.tolist() == [1.0, 0.0]
    assert set(rows.columns) == {"id", "at", "kind", "size", "late"}


def test_each_row_once_and_the_truth_that_was_seen_last(folder: Path) -> None:
    log(folder, [answered(1), answered(1), answered(1, variant="shadow", model="m2")], "predictions")
    log(folder, [truth(1, False), truth(1, True, 50), truth(1, True, 50)], "feedback")
    rows = known(page())
    assert len(rows) == 1
    assert rows.columns["late"].tolist() == [1.0]
    assert rows.models.tolist() == ["m1"]
    assert production.fresh(NOON) == 1
    assert production.fresh(NOON + 110) == 0


def test_only_whole_rows_teach_and_the_others_are_counted(folder: Path) -> None:
    bad: list[dict[str, Any]] = [{"kind": "c"}, {"size": 11}, {"size": "big"}, {"at": None}, {"at": "2999-01-01"}]
    lines = [answered(number, inputs=inputs) for number, inputs in enumerate(bad)]
    log(folder, [*lines, answered(7, inputs={"size": None}), answered(8)], "predictions")
    log(folder, [truth(number) for number in range(9)], "feedback")
    rows = known(page())
    assert rows.times.tolist() == [NOON + 7, NOON + 8]
    assert rows.left_out == len(bad)
    assert np.isnan(rows.columns["size"][0])


@pytest.mark.parametrize("kind", ["integer", "number", "text", "time"])
def test_keys_are_unique_and_stay(folder: Path, kind: str) -> None:
    log(folder, [answered(number) for number in range(300)], "predictions")
    log(folder, [truth(number) for number in range(0, 300, 2)], "feedback")
    data = page(columns={**COLUMNS, "id": {"type": kind, "role": "ignore"}})
    first = known(data)
    log(folder, [truth(number) for number in range(1, 300, 2)], "feedback")
    second = known(data)
    assert len(set(second.columns["id"].tolist())) == 300
    assert first.columns["id"].tolist() == second.columns["id"][::2].tolist()


def test_a_key_that_was_asked_for_stays_and_its_last_row_counts(folder: Path) -> None:
    data = page(columns={**COLUMNS, "id": {"type": "integer"}})
    log(folder, [answered(number, inputs={"id": number % 2}) for number in range(6)], "predictions")
    log(folder, [truth(number) for number in range(5)], "feedback")
    rows = known(data)
    assert (rows.columns["id"].tolist(), rows.times.tolist()) == ([1.0, 0.0], [NOON + 3, NOON + 4])


def test_without_a_time_among_the_inputs_it_is_when_they_were_asked(folder: Path) -> None:
    log(folder, [answered(1)], "predictions")
    log(folder, [truth(1)], "feedback")
    rows = known(page(columns={**COLUMNS, "at": {"type": "time", "role": "ignore"}}))
    assert rows.columns["at"].astype(str).tolist() == ["2026-03-03T12:00:01.000000"]


def collected(count: int) -> dict[str, Any]:
    return drawn(page(), "classification", count)


def some(folder: Path, count: int) -> Rows:
    log(folder, [answered(number) for number in range(count)], "predictions")
    log(folder, [truth(number, number % 3 == 0) for number in range(count)], "feedback")
    return known(page())


def test_they_are_added_to_the_collected_rows_and_the_latest_test(folder: Path) -> None:
    older = collected(100)
    before = {name: values.copy() for name, values in older.items()}
    untouched, none = taken_in(older, page(), 0.2)
    assert none is None
    assert untouched is older
    write(some(folder, 50), "all", "a1", page())
    columns, is_tested = taken_in(older, page(), 0.2)
    assert is_tested is not None
    assert {len(values) for values in columns.values()} == {150}
    assert np.flatnonzero(is_tested).tolist() == list(range(125, 150))
    assert set(columns) == set(COLUMNS)
    assert columns["note"][100:].tolist() == [""] * 50
    assert all((columns[name][:100].astype(str) == before[name].astype(str)).all() for name in before)


def test_recent_rows_take_the_place_of_all_others(folder: Path) -> None:
    rows = some(folder, 50)
    write(rows.since(NOON + 10), "recent", "a1", page())
    columns, is_tested = taken_in(collected(100), page(), 0.2)
    assert is_tested is not None
    assert (len(columns["late"]), int(is_tested.sum())) == (40, 20)


def test_what_the_rules_of_today_do_not_allow_is_left_out(folder: Path) -> None:
    write(some(folder, 50), "all", "a1", page())
    stricter = page(columns={**COLUMNS, "size": {"type": "number", "min": 0, "max": 4}})
    columns, _ = taken_in(collected(100), stricter, 0.2)
    assert len(columns["late"]) == 125
    wider = page(columns={**COLUMNS, "new": {"type": "number"}})
    assert len(taken_in({**collected(100), "new": np.ones(100)}, wider, 0.2)[0]["late"]) == 100


def test_rows_that_came_to_nothing_go_and_those_before_come_back(folder: Path) -> None:
    rows = some(folder, 50)
    write(rows, "all", "a1", page())
    put_back("another")
    assert production.holds("a1")
    earlier = production.ROWS.read_bytes()
    write(rows.since(NOON + 20), "recent", "a2", page())
    put_back("a2")
    assert production.ROWS.read_bytes() == earlier
    production.BEFORE.unlink()
    put_back("a1")
    assert not production.ROWS.exists()


def test_a_source_of_this_name_is_refused(folder: Path) -> None:
    production.ROWS.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), production.ROWS)
    assert not production.holds("a1")
    put_back("a1")
    assert production.ROWS.exists()
    with pytest.raises(ProjectError, match="rename"):
        write(some(folder, 50), "all", "a1", page(source={"production": "rows.csv"}))


@pytest.mark.parametrize(("rows", "test"), [(10, 5), (400, 200), (900, 200), (5000, 1000)])
def test_the_rows_that_test_are_enough_and_at_most_half(rows: int, test: int) -> None:
    assert production.tested(rows, 0.2) == test


def test_the_change_is_found_where_the_errors_grew() -> None:
    draw, found = np.random.default_rng(0), []
    for _ in range(50):
        errors = np.concatenate([draw.random(600) < 0.3, draw.random(400) < 0.6]).astype(float)
        rows = Rows({}, np.arange(1000.0), np.full(1000, "m1", dtype=object), errors, 0)
        found.append(began(rows, "m1"))
    assert np.quantile(np.abs(np.array(found) - 600), 0.9) < 30
    still = Rows({}, np.arange(1000.0), np.full(1000, "m1", dtype=object), np.ones(1000), 0)
    assert began(still, "m1") == 0.0
    assert began(still, "m2") == 0.0


def test_the_better_window_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the project's own rows: turned round since the change, the recent ones teach better; else all of them."""
    monkeypatch.chdir(PROJECT)
    data, case = load(Data), load(Case)
    model = load(Model).model_copy(update={"estimator": "LogisticRegression", "parameters": {}})
    learn, _, _ = stages.parted(stages.read_columns(stages.PROCESSED), data, case, model)
    half, count = len(learn) // 2, min(len(learn) // 2, 3000)
    older = {name: learn.columns[name][:half] for name in data.judged}
    latest = {name: learn.columns[name][-count:] for name in data.judged}
    usual = Rows(latest, np.arange(float(count)), np.full(count, "m1", dtype=object), np.zeros(count), 0)
    assert better(usual, 0.7 * count, older, data, case, model)[0] == "all"
    turned = replace(usual, columns={**latest, data.target: 1 - latest[data.target]})
    window, told = better(turned, 0, older, data, case, model)
    assert window == "recent"
    assert "since the change, alone" in told
