"""Training: which class counts as yes, and faults in your own modules. Run by `test_inside.py`, see there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from flight_delays import features as own
from flight_delays import model as your_model
from flight_delays.ops import (
    train,
)
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    parse,
)
from flight_delays.ops.contract import (
    Array,
    Columns,
    Preprocessing,
    ProjectError,
)
from flight_delays.ops.evaluate import (
    contest,
    evaluate,
    report,
)
from flight_delays.ops.features import (
    compute,
    prepare,
)
from flight_delays.ops.release.contract import (
    Contract,
    Promised,
    output,
)
from flight_delays.ops.scorer import (
    Scorer,
)
from flight_delays.ops.serve.app import (
    create_app,
)
from flight_delays.ops.train import (
    export,
)
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

ROWS = 400
COSTS = {"false_alarm": 1.0, "miss": 3.0}
MODEL = Model(estimator="LogisticRegression", metric="roc_auc")
X = np.random.default_rng(0).normal(size=ROWS)
LATE = np.random.default_rng(1).normal(size=ROWS) / 2 < X - 0.8
"""The larger x, the more likely; about a quarter of the rows."""


@pytest.fixture(autouse=True)
def inputs_are_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "features", dict)


def case(costs: dict[str, float] | None = None) -> Case:
    return Case.model_validate({"decision": "d", "kpi": "k", "owner": "o", "cost_of_errors": costs})


def data(kind: str, **changes: Any) -> Data:
    """Return a page of one number `x`, empty `e` and a target `y` of a kind."""
    columns = {"x": {"type": "number"}, "e": {"type": "number", "nulls": True}, "y": {"type": kind, "role": "outcome"}}
    return Data.model_validate({"source": {"rows": "rows.csv"}, "target": "y", "columns": columns, **changes})


def rows(target: Any) -> dict[str, Array]:
    return {"x": X, "e": np.full(ROWS, np.nan), "y": np.asarray(target)}


def words(yes: str = "late", no: str = "ok") -> Array:
    return np.where(LATE, yes, no).astype(object)


def fitted(page: Data, why: Case, columns: dict[str, Array]) -> tuple[train.Fitted, train.Examples, train.Examples]:
    every, signature = train.examples(columns, page, why, MODEL)
    learn, test = train.split(every, page, MODEL)
    return train.fit(learn, test, signature, LogisticRegression()), learn, test


YES = {
    "the first of two words": ("text", "late", words(), ("ok", "late")),
    "the second of two words": ("text", "ok", words(), ("late", "ok")),
    "true by itself": ("boolean", None, LATE.astype(float), (False, True)),
    "false": ("boolean", False, LATE.astype(float), (True, False)),
    "the larger by itself": ("integer", None, LATE + 1.0, (1, 2)),
    "the smaller": ("integer", 1, LATE + 1.0, (2, 1)),
}


@pytest.mark.parametrize("name", YES)
def test_the_second_class_counts_as_yes(name: str, tmp_path: Path) -> None:
    """Costs, threshold, probabilities, confusion and page all speak of the class that `positive` names."""
    kind, positive, target, classes = YES[name]
    page, yes = data(kind, positive=positive), np.asarray(target) == classes[1]
    made, learn, test = fitted(page, case(COSTS), rows(target))
    assert (made.signature.classes, made.signature.threshold) == (classes, 0.25)
    (tmp_path / "model.onnx").write_bytes(made.content)
    scorer = Scorer(tmp_path / "model.onnx")
    raw = scorer.run(test.packed)
    said = scorer.answers(raw) == classes[1]
    assert (said == (raw[:, 1] >= 0.25)).all()
    really = test.target == 1
    assert np.corrcoef(raw[:, 1], really)[0, 1] > 0.5
    assert really.mean() == pytest.approx(yes.mean(), abs=0.1)
    judged = evaluate(
        contest(learn, test, made.signature, MODEL, LogisticRegression()), learn, test, page, case(COSTS), MODEL
    )
    assert judged.confusion[1] == [int((really & ~said).sum()), int((really & said).sum())]
    shown = {True: "y", False: "not y"}[classes[1]] if kind == "boolean" else f"y {classes[1]}"
    assert f"The answer is “{shown}” from a probability of 25 %" in report.page(judged)


def test_without_costs_the_threshold_is_a_half() -> None:
    made, _, _ = fitted(data("text"), case(), rows(words()))
    assert (made.signature.classes, made.signature.threshold) == (("late", "ok"), 0.5)


THREE = np.array(["a", "b", "c"], dtype=object)[np.arange(ROWS) % 3]


@pytest.mark.parametrize(
    ("positive", "target", "told"),
    [
        (None, words(), r"config/data\.yaml, positive:.*'late' and 'ok'.*cost_of_errors.*`positive: \"ok\"`"),
        ("lat", words(), r"config/data\.yaml, positive:.*'late' and 'ok', 'lat' is given; name one of them"),
        ("a", THREE, r"positive:.*'a', 'b' and 'c'.*remove the line"),
    ],
)
def test_an_unknown_yes_is_refused(positive: str | None, target: Array, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        train.examples(rows(target), data("text", positive=positive), case(COSTS), MODEL)


def test_more_than_two_classes_need_no_yes() -> None:
    assert train.examples(rows(THREE), data("text"), case(COSTS), MODEL)[1].threshold is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("positive: 1", r"data\.yaml, positive: 1 is no value of the target's `type: text`"),
        ("positive: yes", r"positive: True is no value of the target's `type: text`; put the word in quotes"),
    ],
)
def test_a_yes_of_another_type_is_refused(change: str, told: str, tmp_path: Path) -> None:
    columns = "columns: {x: {type: number}, y: {type: text, role: outcome}}"
    (tmp_path / "data.yaml").write_text(f"source: {{a: a.csv}}\ntarget: y\n{change}\n{columns}\n", encoding="utf-8")
    with pytest.raises(ProjectError, match=told):
        parse(Data, tmp_path / "data.yaml")


@pytest.mark.parametrize("cost", [".nan", ".inf", "0", "-1", "much"])
def test_costs_that_cannot_be_weighed_are_refused(cost: str, tmp_path: Path) -> None:
    text = f"decision: d\nkpi: k\nowner: o\ncost_of_errors: {{false_alarm: 1, miss: {cost}}}\n"
    (tmp_path / "case.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=r"case\.yaml, cost_of_errors") as error:
        parse(Case, tmp_path / "case.yaml")
    assert "\n" not in str(error.value)


def test_a_feature_that_is_always_empty_is_kept() -> None:
    """Nothing is learned from it, and file and library agree also where it has values later."""
    made, _, _ = fitted(data("boolean"), case(), rows(LATE.astype(float)))
    later = {"x": np.array([0.5, np.nan]), "e": np.array([3.0, np.nan])}
    assert np.isfinite(made.native(prepare(later, made.signature))).all()


@pytest.mark.parametrize("level", [1e-3, 1.0, 1e6])
def test_the_file_is_as_exact_as_its_numbers(level: float) -> None:
    """A value near 0 may be a sum of large parts; what is off by more than rounding is refused at any size."""
    native = np.random.default_rng(0).normal(size=200) * level
    native[0] = level * 1e-7
    rounded = (native + level * 1e-7).astype(np.float32).reshape(-1, 1)
    export.refuse_disparity(native, rounded, "It")
    rounded[7] += np.float32(1e-3 * level)
    with pytest.raises(ProjectError, match="test row 8"):
        export.refuse_disparity(native, rounded, "It")


def broken_numbers() -> Preprocessing:
    def refuse(_: Any) -> Any:
        raise KeyError("a number")

    return Preprocessing(FunctionTransformer(refuse), OneHotEncoder())


def unknown_numbers() -> Preprocessing:
    return Preprocessing(FunctionTransformer(np.sinh), OneHotEncoder())


@pytest.mark.parametrize("made", [broken_numbers, unknown_numbers])
def test_preprocessing_that_fails_is_told(made: Callable[[], Preprocessing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "preprocessing", made)
    with pytest.raises(ProjectError, match=r"src/flight_delays/model\.py, preprocessing of numbers: \w+Error"):
        fitted(data("boolean"), case(), rows(LATE.astype(float)))


def test_an_estimator_that_cannot_be_built_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(your_model.ESTIMATORS, "Odd", lambda **_: {}["depth"])
    with pytest.raises(ProjectError, match=r"config/model\.yaml, parameters of Odd: 'depth'"):
        train.unfitted(MODEL.model_copy(update={"estimator": "Odd"}))


def centred(columns: Columns) -> dict[str, Array]:
    return {"x": columns["x"], "centred": columns["x"] - columns["x"].mean()}


def shifted(columns: Columns) -> dict[str, Array]:
    return {"x": columns["x"], "previous": np.append([0.0], columns["x"][:-1])}


def drawn(columns: Columns) -> dict[str, Array]:
    return {"x": columns["x"], "noise": np.random.default_rng(0).normal(size=len(columns["x"]))}


def ranked(columns: Columns) -> dict[str, Array]:
    return {"x": columns["x"], "half": np.where(columns["x"] > np.median(columns["x"]), "up", "low").astype(object)}


def only_many(columns: Columns) -> dict[str, Array]:
    return {"x": columns["x"], **({"many": columns["x"]} if len(columns["x"]) > 1 else {})}


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (centred, r"'centred' of row \d+ is .* among all rows, but .* among"),
        (shifted, "'previous' of row"),
        (drawn, "'noise' of row"),
        (ranked, "'half' of row"),
        (only_many, "'many' is made of some rows only"),
        (lambda _: None, r"features\.py should return a dict"),
        (lambda columns: {"x": np.full(len(columns["x"]), None, dtype=object)}, "'x' holds None among its text"),
        (lambda columns: {"x": columns["missing"]}, r"features\.py: KeyError: 'missing' \(a row has x, e\)"),
        (lambda columns: {"x": columns["x"] * (1 // (len(columns["x"]) - 1))}, "features.py: ZeroDivisionError"),
    ],
)
def test_features_that_the_service_could_not_make_are_refused(
    function: Callable[[Columns], Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "features", function)
    with pytest.raises(ProjectError, match=told):
        train.examples(rows(LATE.astype(float)), data("boolean"), case(), MODEL)


def test_row_wise_features_pass() -> None:
    mixed = {"x": X, "word": words(), "flag": LATE.astype(float)}
    train.refuse_dependent(compute(mixed), mixed, compute)


def test_a_fault_in_features_is_not_told_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller cannot mend it: the answer is 500 without a word of the code."""
    made, _, _ = fitted(data("boolean"), case(), rows(LATE.astype(float)))
    (tmp_path / "model.onnx").write_bytes(made.content)
    scorer, example = Scorer(tmp_path / "model.onnx"), {"x": 1.0, "e": None}
    promised = {c.name: Promised(type=c.type, nulls=c.nulls, example=example[c.name]) for c in made.signature.inputs}
    contract = Contract(name="n", owner="o", decision="d", inputs=promised, output=output(made.signature))
    client = TestClient(create_app(scorer, contract, ""), raise_server_exceptions=False)
    assert client.post("/invocations", json={"instances": [example]}).status_code == 200
    monkeypatch.setattr(own, "features", lambda columns: {"x": columns["secret"]})
    answer = client.post("/invocations", json={"instances": [example]})
    assert answer.status_code == 500
    assert "secret" not in answer.text
