"""Truth that arrives late, twice, out of order or for nobody, read beside predictions while both are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flight_delays.ops.config import UnfinishedError
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.log import (
    FEEDBACK,
    PREDICTIONS,
    Writer,
)
from flight_delays.ops.log import truth as module
from flight_delays.ops.log.truth import compared, joined, logged, predictions, take_in, told, truths
from flight_delays.ops.release.contract import Output
from flight_delays.ops.release.policy import Log
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered

DIGESTS = ("a" * 64, "b" * 64)


def promised(kind: str, *classes: Any) -> None:
    output = {"target": "y", "type": kind, "classes": list(classes)}
    page = {"name": "n", "owner": "o", "decision": "d", "inputs": {"size": {"type": "number"}}, "output": output}
    Path("config/contract.yaml").write_text(yaml.safe_dump(page), encoding="utf-8")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module._segments.cache_clear()
    columns = {"size": {"type": "number"}, "y": {"type": "boolean", "role": "outcome"}}
    data = {"source": {"rows": "rows.csv"}, "target": "y", "columns": columns}
    Path("config").mkdir()
    Path("config/data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    Path("config/policy.yaml").write_text("{}", encoding="utf-8")
    promised("boolean", False, True)


def answer(request: str, rows: int = 1, variant: Any = "champion", share: float = 0.75, **more: Any) -> Answered:
    packed = Packed(np.full((rows, 1), [1.5], dtype=np.float32), np.empty((rows, 0), dtype=object))
    raw = np.full((rows, 2), [1 - share, share], dtype=np.float32)
    digest = DIGESTS[variant != "champion"]
    about: dict[str, Any] = {"entities": None, "inputs": [{"size": 1.5}] * rows, "packed": packed, "raw": raw}
    about |= {"predictions": [True] * rows, **more}
    return Answered(request, 100.0, digest, 1, variant, **about)


def taken(content: str, name: str = "truth.csv") -> list[str]:
    said: list[str] = []
    Path(name).write_text(content, encoding="utf-8")
    take_in(Path(name), said.append)
    return said


def known() -> dict[str, str]:
    return {row["id"]: row["truth"] for row in truths().to_pyarrow().to_pylist()}


def met() -> set[str]:
    return set(joined().to_pyarrow()["id"].to_pylist())


def test_without_a_log_it_says_so() -> None:
    with pytest.raises(ProjectError, match="no prediction is logged yet"):
        predictions()
    assert logged(DIGESTS, 10) == []
    assert compared(("a", "b"), 0, shadow=False).ids == []
    assert known() == {}


def test_a_line_that_is_cut_off_or_damaged_is_nobodys() -> None:
    Writer(Log())([answer("r", 2)])
    Writer(Log())([answer("s", 1)])
    segment = max(PREDICTIONS.iterdir())
    with segment.open("ab") as file:
        file.write(b'{"id":"t-1","time":1.0,"mod')
    (PREDICTIONS / f".{segment.name}.1.part.jsonl").write_bytes(segment.read_bytes())
    assert sorted(predictions().to_pyarrow()["id"].to_pylist()) == ["r-1", "r-2", "s-1"]


def test_the_schema_is_not_guessed() -> None:
    """The first rows have no entity, no text and whole numbers; later ones have others."""
    write = Writer(Log())
    write([answer("r", 1, inputs=[{"size": 1}])])
    text = Packed(np.ones((1, 0), dtype=np.float32), np.array([["x"]], dtype=object))
    write([answer("s", 1, inputs=[{"size": "12,5", "new": [1]}], packed=text, entities=["7"])])
    first, second = predictions().order_by("id").to_pyarrow().to_pylist()
    assert (first["entity"], first["text"], json.loads(first["inputs"])) == (None, [], {"size": 1})
    assert (second["entity"], second["text"], second["numbers"]) == ("7", ["x"], [])
    assert json.loads(second["inputs"]) == {"size": "12,5", "new": [1]}


def test_a_value_as_large_as_a_request_does_not_end_the_log() -> None:
    big = "x" * 10_000_000
    packed = Packed(np.ones((1, 0), dtype=np.float32), np.array([[big]], dtype=object))
    Writer(Log())([answer("r", inputs=[{"size": big}], packed=packed), answer("s")])
    assert len(predictions().to_pyarrow()) == 2


def test_truth_may_come_before_its_prediction_and_for_nobody() -> None:
    told([("r-1", True), ("nobody-1", False)])
    Writer(Log())([answer("r", 3)])
    assert met() == {"r-1"}, "the others have no truth: that is not no"
    told([("r-3", False)])
    assert met() == {"r-1", "r-3"}
    assert known() == {"r-1": "true", "nobody-1": "false", "r-3": "false"}


def test_the_same_twice_is_once_and_what_came_later_wins() -> None:
    told([("r-1", True), ("s-1", True)])
    told([("r-1", True), ("s-1", False)])
    rows = {row["id"]: row for row in truths().to_pyarrow().to_pylist()}
    assert {key: (row["truth"], row["times"], row["kinds"]) for key, row in rows.items()} == {
        "r-1": ("true", 2, 1),
        "s-1": ("false", 2, 2),
    }


def test_what_was_seen_later_wins_over_what_arrived_later() -> None:
    said = taken("id,truth,time\nr-1,yes,2024-05-02 10:00:00\nr-1,no,2024-05-01 10:00:00\ns-1,no,2024-05-01\n")
    assert said[0] == "2 truths taken in from truth.csv: 2 new, 0 told before"
    assert said[1].startswith("1 contradict another one, such as that of r-1")
    assert known() == {"r-1": "true", "s-1": "false"}
    said = taken("id,truth,time\nr-1,no,2024-04-30\ns-1,yes,2024-05-03\n", "more.csv")
    assert said[0].endswith("0 new, 2 told before")
    assert said[1].startswith("2 contradict")
    assert known() == {"r-1": "true", "s-1": "true"}


def test_a_file_is_taken_in_once() -> None:
    Writer(Log())([answer("r", 2)])
    said = taken("id,truth\nr-1,true\nr-2,\nx-1,false\n")
    assert said == [
        "2 truths taken in from truth.csv: 2 new, 0 told before",
        "1 are of ids that the prediction log does not have, such as x-1; they are kept",
        "1 rows have no truth yet and say nothing",
    ]
    before = {path.name: path.read_bytes() for path in FEEDBACK.iterdir()}
    assert taken("id,truth\nr-1,true\nr-2,\nx-1,false\n", "copy.csv") == [
        "copy.csv was taken in already; nothing is changed"
    ]
    assert {path.name: path.read_bytes() for path in FEEDBACK.iterdir()} == before
    assert met() == {"r-1"}


def test_parquet_and_other_kinds_of_answers() -> None:
    promised("integer", 0, 1, 2)
    pq.write_table(pa.table({"truth": [2, 0], "id": ["r-1", "r-2"], "more": [1, 2]}), "truth.parquet")
    take_in(Path("truth.parquet"), print)
    assert known() == {"r-1": "2", "r-2": "0"}
    promised("number")
    told([("n-1", 1.5), ("n-2", "2.25")])
    promised("text", "on time", "late, very")
    taken('id,truth\nt-1,"late, very"\n')
    assert known() | {"n-1": "1.5", "n-2": "2.25", "t-1": "late, very"} == known()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("id,truth\nr-1,true\nr-2,perhaps\n", ("truth.csv", "row 2", "'perhaps'", "true or false")),
        ("id,truth\nr-1,true\n,false\n", ("truth.csv", "row 2", "'id'", "no value")),
        ("id,late\nr-1,true\n", ("truth.csv", "'truth' is missing", "id, late")),
        ("id,truth,time\nr-1,true,soon\n", ("truth.csv", "row 1", "'time'", "'soon'")),
        ("id;truth\nr-1;true\n", ("truth.csv", "';'")),
        ("", ("truth.csv", "empty")),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(content: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ProjectError) as refused:
        taken(content)
    assert [name for name in names if name not in str(refused.value)] == []
    assert not FEEDBACK.exists()


def test_an_answer_that_the_model_does_not_give_is_refused() -> None:
    output = Output(target="y", type="text", classes=["late", "ok"])
    told([("r-1", "late")], output)
    with pytest.raises(ProjectError, match=r"row 2, column 'truth': 'later' is no answer .*late, ok"):
        told([("r-1", "ok"), ("r-2", "later")], output)
    with pytest.raises(ProjectError, match="row 1, column 'truth': no value"):
        told([("r-1", None)], output)
    with pytest.raises(ProjectError, match="row 1, id"):
        told([("", "late")], output)
    assert known() == {"r-1": "late"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"gone\.csv: not found"):
        take_in(tmp_path / "gone.csv", print)


def test_truth_that_cannot_be_written_is_one_sentence() -> None:
    FEEDBACK.parent.mkdir()
    FEEDBACK.write_text("a file")
    with pytest.raises(UnfinishedError, match="cannot be written"):
        told([("r-1", True)])


def test_logged_rows_come_back_as_they_were() -> None:
    write = Writer(Log())
    write([answer("r", 3), answer("s", 1, "challenger", 0.1)])
    (mine,) = logged([DIGESTS[0]], 2)
    assert (mine.digest, mine.inputs) == (DIGESTS[0], [{"size": 1.5}] * 2)
    assert mine.packed.numbers.tolist() == [[1.5]] * 2
    assert mine.packed.text.shape == (2, 0)
    assert mine.raw.tolist() == [[0.25, 0.75]] * 2
    assert {one.digest for one in logged(DIGESTS, 10)} == set(DIGESTS)
    write([answer("t", raw=np.array([2.5], np.float32), predictions=[2.5])])
    assert logged(DIGESTS, 1)[0].raw.tolist() == [2.5]


def test_champion_and_challenger_are_told_apart() -> None:
    write = Writer(Log())
    write([answer("r", 2, entities=["ann", "bob"]), answer("s", 1, "challenger", 0.25), answer("t", 1, "shadow")])
    write([answer("t")])
    told([("r-1", True), ("r-2", False), ("s-1", True), ("t-1", False)])
    found = compared(DIGESTS, 100.0, shadow=False)
    assert dict(zip(found.ids, found.entities, strict=True)) == {"r-1": "ann", "r-2": "bob", "s-1": None, "t-1": None}
    assert found.keys == ["ann", "bob", "s", "t"]
    assert dict(zip(found.ids, found.is_challenger, strict=True)) == {"r-1": 0, "r-2": 0, "s-1": 1, "t-1": 0}
    assert dict(zip(found.ids, found.given, strict=True))["s-1"] == [0.75, 0.25]
    beside = compared(DIGESTS, 100.0, shadow=True)
    assert [(key, bool(who)) for key, who in zip(beside.ids, beside.is_challenger, strict=True) if key == "t-1"] == [
        ("t-1", False),
        ("t-1", True),
    ]
    assert compared(DIGESTS, 100.5, shadow=False).ids == []
