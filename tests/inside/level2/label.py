"""Answers of people: taken in once, weighed, and learned from; the queue asks about the most uncertain rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import ibis
import numpy as np
import pyarrow as pa
import pytest
from flight_delays.ops import (
    label,
    process,
)
from flight_delays.ops.config import (
    ANSWERS,
    Data,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.label import (
    asked,
    doubt,
    expected_error,
    labelled,
    most_uncertain,
)
from flight_delays.ops.label.answers import (
    Labels,
    agreement,
    standing,
    take_in,
)
from flight_delays.ops.label.formats import (
    QUEUE,
    TASKS,
    Answer,
    Interface,
    read_answers,
    version,
    write_queue,
)
from flight_delays.ops.scorer import (
    Packed,
)

DATA = Data.model_validate(
    {
        "source": {"rows": "rows.csv"},
        "target": "ripe",
        "key": "id",
        "columns": {
            "id": {"type": "integer", "role": "ignore"},
            "size": {"type": "number"},
            "ripe": {"type": "text", "role": "outcome"},
        },
    }
)
ROWS = ibis.memtable(pa.table({"id": [1, 2, 3, 4], "size": [1.0, 2.0, 3.0, None], "ripe": ["yes", "no", None, None]}))
CLASSES = ["no", "yes"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for room in (label, process):
        monkeypatch.setattr(room, "process", lambda table: table.filter(table.ripe.notnull()))


def take(content: str | list[Any], name: str = "answers.csv", by: str = "") -> tuple[int, int, int]:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    taken = take_in(Path(name), by, DATA, {"1", "2", "3", "4"}, CLASSES)
    return taken.added, taken.known, taken.empty


def exported(key: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 7, "data": {"key": key}, "annotations": list(annotations)}


def annotated(choice: str | None, who: object = 1, **more: Any) -> dict[str, Any]:
    result = {"from_name": "label", "to_name": "row", "type": "choices", "value": {"choices": [choice]}}
    made = {"id": 70, "completed_by": who, "was_cancelled": False, "result": [result] if choice else []}
    return {**made, "created_at": "2026-03-09T21:52:49.513742Z", **more}


def test_answers_are_taken_in_once() -> None:
    text = "id;label;annotator\n1;no;ann\n3;yes;\n4;;bob\n"
    assert take(text, by="bob") == (2, 0, 1)
    first = ANSWERS.read_bytes()
    assert take(text, by="bob") == (0, 2, 1)
    assert take("\ufeff" + text.replace(";", ","), "same.csv", by="bob") == (0, 2, 1)
    assert ANSWERS.read_bytes() == first
    assert [(a.key, a.label, a.annotator, a.file) for a in read_answers()] == [
        ("1", "no", "ann", "answers.csv"),
        ("3", "yes", "bob", "answers.csv"),
    ]
    assert version() != version(Path("absent.csv")) is None


def test_an_export_has_several_annotators() -> None:
    tasks = [
        exported(
            "1",
            annotated("no", {"id": 2, "email": "ann@host"}),
            annotated("yes"),
            annotated("no", 3, was_cancelled=True),
        ),
        exported("3", annotated(None)),
        exported("4"),
    ]
    assert take(tasks, "export.json") == (2, 0, 3)
    assert [(a.annotator, a.answered) for a in read_answers()] == [
        ("ann@host", "2026-03-09T21:52:49.513+00:00"),
        ("user 1", "2026-03-09T21:52:49.513+00:00"),
    ]
    tasks[1]["annotations"] = [annotated("yes")]
    assert take(tasks, "later.json") == (1, 2, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,label\n1,yse\n", r"answers\.csv, row 1: 'yse' is none of the classes .*did you mean 'yes'"),
        ("id,label\n1,yes\n9,yes\n", r"row 2: id '9' is of no row"),
        ("id,label\nfirst,yes\n", r"row 1: 'first' is not a whole number"),
        ("id,answer\n1,yes\n", "column 'label' is missing"),
        ("id,label\n1,yes,2\n", "row 1: should have 2 values"),
        ("id,label\n1,yes\n1,no\n", "row 2: ann answers id 1 twice"),
        ("id,label,answered\n1,yes,today\n", "row 1: 'today' is no time"),
        ("", "the file is empty"),
        ("[{", r"answers\.json: not JSON, or cut off"),
        ('[{"id": 1, "label": "yes"}]', r"not JSON-MIN"),
        (json.dumps([{"id": 5, "data": {}, "annotations": []}]), "task 5: its data have no 'key'"),
        (json.dumps([exported("1", {"id": 70})]), "task 7: an annotation is not as Label Studio exports it"),
        (json.dumps([exported("1", annotated("maybe"))]), "task 7, annotation 70: 'maybe'"),
    ],
)
def test_a_wrong_answer_is_refused_whole(content: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        take(content, "answers.json" if content.startswith("[") else "answers.csv", by="ann")
    assert not ANSWERS.exists()


def test_nobody_answers_without_a_name() -> None:
    with pytest.raises(ProjectError, match="row 1: nobody is named"):
        take("id,label\n1,yes\n")


def answer(key: str, what: str, who: str, when: str = "1") -> Answer:
    return Answer(key, what, who, when, "", "")


def test_people_agree_or_the_judge_decides() -> None:
    answers = [answer("1", "yes", "ann"), answer("1", "no", "ann", "2"), answer("1", "no", "bob")]
    answers += [answer("2", "yes", "ann"), answer("2", "no", "bob"), answer("3", "no", "bob")]
    weighed = standing(answers, DATA, Labels())
    assert (weighed.accepted, weighed.conflicts) == ({"1": "no", "3": "no"}, {"2": {"ann": "yes", "bob": "no"}})
    assert standing(answers, DATA, Labels(judge="ann")).accepted["2"] == "yes"
    columns = {**DATA.columns, "ripe": DATA.columns["size"]}
    quantity = DATA.model_copy(update={"columns": columns})
    near = [answer("1", "2", "ann"), answer("1", "3", "bob")]
    assert standing(near, quantity, Labels()).accepted == {}
    assert standing(near, quantity, Labels(tolerance=1)).accepted == {"1": "2.5"}


def test_whole_numbers_stay_whole_where_people_nearly_agree() -> None:
    columns = {**DATA.columns, "ripe": DATA.columns["id"]}
    whole = DATA.model_copy(update={"columns": columns})
    near = [answer("1", "2", "ann"), answer("1", "3", "bob")]
    assert standing(near, whole, Labels(tolerance=1)).accepted == {"1": "2"}


def test_blanks_around_a_class_are_no_other_class() -> None:
    Path("answers.csv").write_text("id,label\n1, <=50K\n", encoding="utf-8")
    take_in(Path("answers.csv"), "ann", DATA, {"1"}, [" <=50K", " >50K"])
    assert [one.label for one in read_answers()] == [" <=50K"]


def test_agreement_is_krippendorffs() -> None:
    """The worked example of Krippendorff 2011, part C: 12 units, 4 observers, missing answers."""
    units = ["111", "2223", "3333", "3333", "2222", "1234", "4444", "1112", "2222", "555", "11", "3"]
    shared = [list(unit) for unit in units if len(unit) > 1]
    assert agreement(shared, "classification") == pytest.approx(0.743, abs=5e-4)
    assert agreement(shared, "regression") == pytest.approx(0.849, abs=5e-4)
    assert agreement([["1", "1"]], "classification") is None


def test_answers_enter_the_target_and_bring_rows_back() -> None:
    before = labelled(ROWS, DATA, Labels())
    assert before["ripe"].tolist() == ["yes", "no"]
    take("id,label\n1,no\n3,yes\n", by="ann")
    after = labelled(ROWS, DATA, Labels())
    assert dict(zip(after["id"], after["ripe"], strict=True)) == {1: "no", 2: "no", 3: "yes"}
    assert after["size"].tolist() == [1, 2, 3]


def test_the_queue_holds_what_nobody_answered() -> None:
    rows, left_out = asked(ROWS, DATA)
    assert (rows["id"].tolist(), left_out) == ([3], 1)
    Path("keys.csv").write_text("id\n2\n3\n1\n", encoding="utf-8")
    rows, _ = asked(ROWS, DATA, Path("keys.csv"))
    assert most_uncertain(rows, np.array([0.1, 0.3, 0.2]), 2, DATA).tolist() == [1, 2]
    take("id,label\n2,no\n", by="ann")
    assert most_uncertain(rows, np.array([0.1, 0.3, 0.2]), 9, DATA).tolist() == [2, 0]
    Path("keys.csv").write_text("id\n8\n", encoding="utf-8")
    with pytest.raises(ProjectError, match=r"keys\.csv, row 1: id 8 is of no row"):
        asked(ROWS, DATA, Path("keys.csv"))
    with pytest.raises(ProjectError, match="nothing is left to label"):
        asked(ROWS.filter(ROWS.ripe.notnull()), DATA)


def test_the_queue_is_read_back_and_never_lost() -> None:
    view = Interface(DATA.columns["ripe"].as_input("ripe"), "Look & judge.", CLASSES)
    write_queue({"id": ["3"], "size": ["3"]}, ["yes"], [0.5], view, "0.1.0")
    task = json.loads(TASKS.read_text(encoding="utf-8"))[0]
    control = ET.fromstring(view.xml()).find("Choices")
    assert control is not None
    assert [choice.get("value") for choice in control] == CLASSES
    said = task["predictions"][0]["result"][0]
    assert (said["from_name"], said["to_name"]) == (control.get("name"), control.get("toName")) == ("label", "row")
    assert take([task | {"id": 1, "annotations": [{"id": 2, "completed_by": 3, "result": [said]}]}], "e.json") == (
        1,
        0,
        0,
    )
    QUEUE.write_text(QUEUE.read_text(encoding="utf-8").replace("0.5,,", "0.5,no,ann"), encoding="utf-8")
    rows = {"id": np.array([1.0]), "size": np.array([1.0])}
    with pytest.raises(ProjectError, match="1 answers that would be lost"):
        most_uncertain(rows, np.array([1.0]), 1, DATA)
    assert take(QUEUE.read_text(encoding="utf-8"), "queue.csv") == (1, 0, 0)
    assert len(most_uncertain(rows, np.array([1.0]), 1, DATA)) == 1


def test_uncertainty() -> None:
    sure, torn, spread = [0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3]
    each = np.array([sure, torn, spread], dtype=np.float32)
    assert np.argsort(-doubt(each, "roc_auc")).tolist() == [1, 2, 0]
    assert np.argsort(-doubt(each, "log_loss")).tolist() == [2, 1, 0]
    numbers = np.repeat([[0.0], [9.0]], 20, axis=0).astype(np.float32)
    known = Packed(numbers, np.full((40, 1), "a", dtype=object))
    two = Packed(np.array([[0.1], [8.9]], dtype=np.float32), np.array([["a"], ["b"]], dtype=object))
    assert expected_error(two, known, np.repeat([1.0, -5.0], 20)).tolist() == [1, 5]
    of_numbers = [Packed(part.numbers, part.text[:, :0]) for part in (two, known)]
    assert expected_error(*of_numbers, np.repeat([1.0, -5.0], 20)).tolist() == [1, 5]
    told = Packed(known.numbers[:, :0], np.repeat([["a"], ["b"]], 20, axis=0).astype(object))
    of_text = Packed(two.numbers[:, :0], two.text)
    assert expected_error(of_text, told, np.repeat([1.0, -5.0], 20)).tolist() == [1, 5]
