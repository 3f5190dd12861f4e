"""Every mistake in a page of settings is told in plain words, with file, key and value. Run by `test_inside.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    Settings,
    load,
    parse,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.release.contract import (
    Contract,
)

CHANGES: list[tuple[type[Settings], str, str, str]] = [
    (
        Data,
        "flights: data/flights.parquet",
        "flights: 3",
        "source.flights: should be text or `{sql: ..., database: ...}` (3 is given)",
    ),
    (
        Data,
        "flights: data/flights.parquet",
        "flights:",
        "source.flights: should be text or `{sql: ..., database: ...}` (nothing is given)",
    ),
    (Data, "flights: data/flights.parquet", "flights: {sql: select 1}", "source.flights.database: missing"),
    (
        Data,
        "flights: data/flights.parquet",
        "flights: {sql: select 1, databse: x, database: y}",
        "source.flights.databse: unknown key; did you mean 'database'?",
    ),
    (
        Data,
        "min: 10, max: 6000",
        "min: low, max: 6000",
        "columns.distance.min: should be a number or a time such as 2013-01-31T17:45:00 ('low' is given)",
    ),
    (
        Data,
        "values: [EWR, JFK, LGA]",
        "values: EWR",
        "columns.origin.values: should be a list of words or a list of numbers ('EWR' is given)",
    ),
    (
        Data,
        "values: [EWR, JFK, LGA]",
        "values: [EWR, 3]",
        "columns.origin.values: should be a list of words or a list of numbers",
    ),
    (Data, "min: 10, max: 6000", "mim: 10, max: 6000", "columns.distance.mim: unknown key; did you mean 'min'?"),
    (Data, "slices:", "slice:", "slice: unknown key; did you mean 'slices'?"),
    (Data, "slices: [origin, carrier]", "slices: origin", "slices: should be a list ('origin' is given)"),
    (
        Data,
        "dest: {type: text",
        "dest: {type: txt",
        "columns.dest.type: should be 'number', 'integer', 'text', 'boolean' or 'time'",
    ),
    (
        Data,
        "dest: {type: text, means: airport of arrival}",
        "dest:",
        "columns.dest: should be `key: value` lines (nothing is given)",
    ),
    (Data, "  dest:", "  no:", "columns: false is no text, and a name should be; put it in quotes"),
    (Data, "nulls: true}", "nulls: perhaps}", "columns.temp.nulls: should be true or false ('perhaps' is given)"),
    (Data, "target: late", "", "target: missing"),
    (Data, "  origin: {", "  carrier: {", "'carrier' is given already in line"),
    (
        Data,
        "{type: number, unit: miles, min: 10,",
        "{type: number, unit: miles, type: text,",
        "'type' is given already in line",
    ),
    (Data, "target: late", "target: late: now", "not valid YAML: mapping values are not allowed here"),
    (Data, "target: late", "target: 2013-02-30", "not valid YAML: day is out of range for month"),
    (
        Data,
        "target: late",
        "target: !odd late",
        "not valid YAML: could not determine a constructor for the tag '!odd'",
    ),
    (Model, "seed: 0", "seed: 1.5", "seed: should be a whole number (1.5 is given)"),
    (Model, "seed: 0", "seed: -1", "seed: should be at least 0 (-1 is given)"),
    (Model, "seed: 0", "seed: 0\nseed: 1", "'seed' is given already in line"),
    (Model, "test_share: 0.2", "test_share: some", "test_share: should be a number ('some' is given)"),
    (Model, "test_share: 0.2", "test_share: 0.9", "test_share: should be at most 0.5 (0.9 is given)"),
    (
        Model,
        "roc_auc",
        "auc",
        "metric: should be 'roc_auc', 'log_loss', 'accuracy', 'rmse', 'mae' or 'r2' ('auc' is given)",
    ),
    (Case, "miss:", "mis:", "cost_of_errors.mis: unknown key; did you mean 'miss'?"),
    (Contract, "type: time", "type: tim", "inputs.scheduled.type: should be 'number'"),
]


@pytest.mark.parametrize(("kind", "old", "new", "told"), CHANGES)
def test_a_mistake_is_told_in_plain_words(kind: type[Settings], old: str, new: str, told: str, tmp_path: Path) -> None:
    page = f"{kind.__name__.lower()}.yaml"
    text = Path("config", page).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / page).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProjectError) as error:
        load(kind, tmp_path)
    said = str(error.value)
    assert told in said.removeprefix(f"{tmp_path / page}, ").removeprefix(f"{tmp_path / page}: ")
    assert said.startswith(str(tmp_path / page))
    assert not any(word in said for word in ("Input should", "Extra inputs", "valid dictionary", "unicode string"))


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    text = Path("config/model.yaml").read_text(encoding="utf-8").replace("seed: 0", "sed: x\ntest_shar: 1")
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError) as error:
        load(Model, tmp_path)
    assert [line.partition("model.yaml, ")[2] for line in str(error.value).splitlines()] == [
        "sed: unknown key; did you mean 'seed'?",
        "test_shar: unknown key; did you mean 'test_share'?",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "should hold `key: value` lines"),
        (b"- a\n", "should hold `key: value` lines"),
        ("owner: café".encode("latin-1"), "is not UTF-8 text"),
        (b"a: \x00", "not valid YAML"),
        (b"decision: [", "line 1: not valid YAML"),
    ],
)
def test_a_page_of_another_kind_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    page = tmp_path / "case.yaml"
    page.write_bytes(content)
    with pytest.raises(ProjectError, match=told):
        parse(Case, page)


def test_merge_keys_of_yaml_work(tmp_path: Path) -> None:
    page = tmp_path / "model.yaml"
    page.write_text(
        "estimator: A\nmetric: rmse\nparameters: {a: &a {x: 1}, b: {<<: *a, x: 2, y: 3}}\n", encoding="utf-8"
    )
    assert parse(Model, page).parameters["b"] == {"x": 2, "y": 3}
