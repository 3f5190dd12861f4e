"""Evaluation: a model must earn its place, and the page says what holds. Run by `test_inside.py`, see there."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flight_delays import (
    features as own,
)
from flight_delays.ops import evaluate as room
from flight_delays.ops.config import (
    METRICS,
    Case,
    Data,
    Model,
)
from flight_delays.ops.contract import (
    Array,
    Estimator,
)
from flight_delays.ops.evaluate import (
    Contest,
    Evaluation,
    contest,
    evaluate,
    report,
    words,
)
from flight_delays.ops.evaluate.metrics import (
    Interval,
    draws,
    measures,
)
from flight_delays.ops.train import (
    Examples,
    examples,
    quality,
    split,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

EVIL = 'a"><script>é</script>'


@pytest.fixture(autouse=True)
def made_up_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inputs be the features, whatever your own `features.py` makes."""
    monkeypatch.setattr(own, "features", dict)


def made_up(rows: int, seed: int = 0, group: str = "b") -> dict[str, Array]:
    """Draw two numbers that may decide a target, one that never does, a group and a time."""
    random = np.random.default_rng(seed)
    numbers: dict[str, Array] = {name: random.normal(size=rows) for name in ("x", "z", "noise")}
    groups = random.choice(["a", group], rows).astype(object)
    return {**numbers, "group": groups, "at": np.datetime64("2024-01-01", "us") + np.arange(rows) * 3_600_000_000}


def settings(metric: str, kind: str, time: str | None = "at", **case: Any) -> tuple[Data, Case, Model]:
    """Return the three pages for made-up rows."""
    inputs: dict[str, Any] = {name: {"type": "number"} for name in ("x", "z", "noise")}
    others = {"group": {"type": "text"}, "at": {"type": "time", "role": "ignore"}}
    columns = inputs | others | {"y": {"type": kind, "role": "outcome"}}
    page = {"source": {"rows": "rows.csv"}, "target": "y", "time": time, "slices": ["group"], "columns": columns}
    why = {"decision": "decide", "kpi": "kpi", "owner": "owner"} | case
    model = {"estimator": "Tree", "metric": metric}
    return Data.model_validate(page), Case.model_validate(why), Model.model_validate(model)


def compare(
    columns: dict[str, Array], pages: tuple[Data, Case, Model], candidate: Estimator
) -> tuple[Contest, Examples, Examples]:
    """Run the contest on made-up rows."""
    data, case, model = pages
    rows, signature = examples(columns, data, case, model)
    learn, test = split(rows, data, model)
    return contest(learn, test, signature, model, candidate), learn, test


def judge(columns: dict[str, Array], pages: tuple[Data, Case, Model], candidate: Estimator) -> Evaluation:
    """Run the contest and the evaluation on made-up rows."""
    return evaluate(*compare(columns, pages, candidate), *pages)


@pytest.mark.parametrize(
    ("rule", "depth", "kept"),
    [("bent", 4, "candidate"), ("straight", None, "linear"), ("none", 4, "constant")],
)
@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "mae"])
def test_a_model_earns_its_place(metric: str, rule: str, depth: int | None, kept: str) -> None:
    """Kept is the tree where only a tree sees the rule, the line where it is straight, nothing where is none."""
    columns = made_up(3_000)
    rules = {"bent": 4 * np.abs(columns["x"]) - 3, "straight": 2 * columns["x"], "none": 0 * columns["x"]}
    score = rules[rule] + np.random.default_rng(1).normal(size=3_000)
    if METRICS[metric] == "classification":
        tree, columns["y"] = DecisionTreeClassifier(max_depth=depth, random_state=0), (score > 0).astype(float)
        outcome, _, _ = compare(columns, settings(metric, "boolean"), tree)
    else:
        regressor, columns["y"] = DecisionTreeRegressor(max_depth=depth, random_state=0), score
        outcome, _, _ = compare(columns, settings(metric, "number"), regressor)
    assert outcome.kept.role == kept
    assert f"The {outcome.kept.name} is kept" in outcome.sentence
    told = any(words in outcome.sentence for words in ("does not beat it beyond doubt", "is worse"))
    assert told == (kept != "candidate")


def test_a_linear_candidate_is_fitted_once() -> None:
    """Where the candidate is the linear model, it competes with the constant answer alone."""
    columns = made_up(500)
    columns["y"] = (columns["x"] > 0).astype(float)
    outcome, _, _ = compare(columns, settings("roc_auc", "boolean"), LogisticRegression())
    assert [entrant.role for entrant in outcome.entrants] == ["constant", "candidate"]
    assert outcome.kept.role == "candidate"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_metrics_are_the_metrics(metric: str, classes: int) -> None:
    """With equal weights each metric is what scikit-learn says; a weight of two is the row twice."""
    random = np.random.default_rng(0)
    target: Array = random.integers(0, classes, 200)
    raw = random.dirichlet(np.ones(classes), 200).round(1).astype(np.float32) + np.float32(0.01)
    raw /= raw.sum(axis=1, keepdims=True)
    if METRICS[metric] == "regression":
        target, raw = random.normal(size=200), random.normal(size=200).astype(np.float32)
    measure = measures(METRICS[metric], target, raw)[metric]
    twice = np.r_[np.arange(200), np.arange(50)]
    weights = np.bincount(twice).astype(float)[:, None]
    assert measure(np.ones((200, 1)))[0] == pytest.approx(quality(metric, target, raw), rel=1e-5)
    assert measure(weights)[0] == pytest.approx(quality(metric, target[twice], raw[twice]), rel=1e-5)


@pytest.mark.parametrize("resampled", [150, 75])
def test_intervals_cover_the_truth(resampled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 intervals about 95 in 100 hold the true value: here the mean error of standard normal errors.

    So it is where a part of the rows alone is resampled; the value is that of all rows even then.
    """
    monkeypatch.setattr(room.metrics, "SPREAD_ROWS", resampled)
    random, truth, covered = np.random.default_rng(0), np.sqrt(2 / np.pi), 0
    model = Model.model_validate({"estimator": "Tree", "metric": "mae"})
    for _ in range(400):
        errors = random.normal(size=150)
        measured = Interval.of(draws(model, errors, np.zeros(150)))
        assert measured.value == pytest.approx(np.abs(errors).mean())
        covered += measured.low <= truth <= measured.high
    assert 0.90 <= covered / 400 <= 0.98


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_slice_is_flagged(broken: bool) -> None:
    """A group whose truth turned around in the later rows is named; the whole ones never are."""
    columns = made_up(4_000)
    turned = broken & (columns["group"] == "b") & (np.arange(4_000) >= 3_200) & (np.arange(4_000) % 2 == 0)
    columns["y"] = ((columns["x"] > 0) ^ turned).astype(float)
    columns["x"] = columns["x"] + np.random.default_rng(1).normal(size=4_000) / 2
    judged = judge(columns, settings("accuracy", "boolean"), DecisionTreeClassifier(max_depth=3, random_state=0))
    assert {part.value: part.worse for part in judged.slices} == {"a": False, "b": broken}
    assert any("clearly worse than overall" in caution for caution in words.cautions(judged)) == broken


def test_importance_finds_the_input_that_decides() -> None:
    """Shuffling the input that decides hurts; shuffling the others does not."""
    columns = made_up(2_000)
    columns["y"] = (columns["x"] > 0).astype(float)
    judged = judge(columns, settings("log_loss", "boolean"), DecisionTreeClassifier(max_depth=2, random_state=0))
    assert next(iter(judged.importance)) == "x"
    assert judged.importance["x"].low > 0 >= judged.importance["noise"].low


@pytest.mark.parametrize("fitted", [4_000, 2_000])
def test_a_random_split_promises_too_much(fitted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where days have moods that do not return, rows of the same days seem predictable; without moods not.

    So it is where not all rows are fitted again, but some.
    """
    monkeypatch.setattr(room, "LESSON_ROWS", fitted)
    moods = np.random.default_rng(1).normal(size=100).repeat(40)
    for strength in (3.0, 0.0):
        columns = made_up(4_000)
        columns["noise"] = np.arange(100).repeat(40).astype(float)
        columns["y"] = columns["x"] + strength * moods
        judged = judge(columns, settings("rmse", "number"), DecisionTreeRegressor(max_depth=12, random_state=0))
        gain = judged.lesson["candidate"]
        assert (gain["random"].low > gain["later"].high) == (strength > 0)
        assert any("Rows split at random would promise" in caution for caution in words.cautions(judged)) == (
            strength > 0
        )
        found = {3.0: "So it is here: for the ", 0.0: "no difference that can be told from chance"}
        assert found[strength] in report.page(judged)
    assert (
        judge(columns, settings("rmse", "number", time=None), DecisionTreeRegressor(max_depth=3, random_state=0)).lesson
        == {}
    )


def test_a_gain_that_grows_later_is_told_as_it_is() -> None:
    """Where the later rows are the easier ones, the page does not say that random rows promise too much."""
    columns = made_up(3_000)
    columns["y"] = columns["x"] * np.where(np.arange(3_000) > 2_400, 4, 2) + np.random.default_rng(1).normal(size=3_000)
    page = report.page(judge(columns, settings("rmse", "number"), DecisionTreeRegressor(max_depth=5, random_state=0)))
    assert "Here it is the other way round: the " in page


def test_a_constant_answer_looks_at_nothing() -> None:
    """Where guessing is kept, the page neither praises it nor draws what it does not have."""
    columns = made_up(2_000)
    columns["y"] = (np.arange(2_000) % 150 == 0).astype(float)
    pages = settings("accuracy", "boolean", cost_of_errors={"false_alarm": 1, "miss": 3})
    judged = judge(columns, pages, DecisionTreeClassifier(max_depth=2, random_state=0))
    page = report.page(judged)
    assert judged.kept == "constant"
    assert "At nothing: it is the constant answer." in page
    assert "instead of" not in page
    assert not any("suspiciously good" in caution for caution in words.cautions(judged))


def test_costs_that_nothing_weighs_are_told() -> None:
    """With three classes the costs of case.yaml have no say, and the page says so."""
    columns = made_up(900)
    columns["y"] = np.array(["no", "some", "much"], dtype=object)[np.digitize(columns["x"], [-0.5, 0.5])]
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    for costs in (None, {"false_alarm": 1, "miss": 3}):
        judged = judge(columns, settings("roc_auc", "text", cost_of_errors=costs), tree)
        assert any("is not used" in caution for caution in words.cautions(judged)) == (costs is not None)


@pytest.mark.parametrize("kind", ["boolean", "text", "number"])
@pytest.mark.parametrize("rows", [40, 900])
def test_every_task_is_reported(kind: str, rows: int, tmp_path: Path) -> None:
    """Two classes, three classes and a quantity, few rows or many: a page, and numbers that repeat."""
    columns = made_up(rows)
    columns["noise"][0] = np.nan
    columns["y"] = columns["x"] + np.random.default_rng(1).normal(size=rows) / 2
    metric, candidate = "rmse", DecisionTreeRegressor(max_depth=3, random_state=0)
    if kind != "number":
        metric, candidate = "roc_auc", DecisionTreeClassifier(max_depth=3, random_state=0)
        names = np.array(["no", "some", "much"], dtype=object)
        places = np.digitize(columns["y"], [-0.5, 0.5])
        columns["y"] = names[places] if kind == "text" else (columns["y"] > 0).astype(float)
    pages = settings(metric, kind, cost_of_errors={"false_alarm": 1, "miss": 3})
    written = []
    for folder in ("first", "second"):
        report.write(judge(columns, pages, candidate), tmp_path / folder / "report.html")
        written.append([(tmp_path / folder / name).read_text("utf-8") for name in ("report.html", "metrics.json")])
    assert written[0] == written[1]
    parts = ["guessing, and than a simple model?", "What does it look at?", "similar prediction"]
    parts += ["For whom is it worse?"] if rows == 900 else []  # of 40 rows no group is large enough
    for part in (*parts, "most extreme hundredth" if kind == "number" else "by truth and answer"):
        assert part in written[0][0]
    facts = json.loads(written[0][1])
    assert facts["rows"]["learn"] + facts["rows"]["test"] == rows
    assert sum(map(sum, facts["confusion"])) == (0 if kind == "number" else facts["rows"]["test"])
    assert facts["metrics"][metric][facts["kept"]]["value"] is not None


def test_the_page_is_safe_and_needs_nothing(tmp_path: Path) -> None:
    """Names with quotes and tags stay text, and nothing is loaded from elsewhere."""
    columns = made_up(900, group=EVIL)
    columns["y"] = np.where(columns["x"] > 0, EVIL, "no").astype(object)
    pages = settings("roc_auc", "text", decision=EVIL, kpi=EVIL, owner=EVIL)
    judged = judge(columns, pages, DecisionTreeClassifier(max_depth=3, random_state=0))
    judged = replace(judged, names=dict.fromkeys(judged.names, EVIL), sentence=EVIL)
    report.write(judged, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL in str(asdict(judged))
    assert "&lt;script&gt;é&lt;/script&gt;" in html
    assert not any(word in html for word in ("<script", "http:", "https:", "src=", "@import", "url("))
