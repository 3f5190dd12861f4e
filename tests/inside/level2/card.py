"""The model card: evidence alone, and what is missing is said. Run by `test_watch.py` with a project's environment."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flight_delays import (
    features as own,
)
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
)
from flight_delays.ops.evaluate import (
    Evaluation,
    card,
    contest,
    evaluate,
)
from flight_delays.ops.train import (
    examples,
    split,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

EVIL = 'a|"><script>*é*</script>'
DIGEST = "5e" * 32


@pytest.fixture(autouse=True)
def made_up_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inputs be the features, whatever the project's own `features.py` makes."""
    monkeypatch.setattr(own, "features", dict)


def judged(metric: str, kind: str, **case: Any) -> tuple[Evaluation, Data]:
    """Evaluate a small tree on made-up rows."""
    draw, rows = np.random.default_rng(0), 600
    columns: dict[str, Any] = {"x": draw.normal(size=rows), "z": draw.normal(size=rows)}
    columns["group"] = draw.choice(["a", EVIL], rows).astype(object)
    columns["at"] = np.datetime64("2024-01-01", "us") + np.arange(rows) * 3_600_000_000
    columns["y"] = columns["x"] + draw.normal(size=rows) / 2
    if kind != "number":
        named = np.array(["no", "some", "much"], dtype=object)[np.digitize(columns["y"], [-0.5, 0.5])]
        columns["y"] = named if kind == "text" else (columns["y"] > 0).astype(float)
    inputs = {"x": {"type": "number", "min": -9, "means": EVIL}, "z": {"type": "number", "nulls": True}}
    described: dict[str, Any] = {
        **inputs,
        "group": {"type": "text", "sensitive": True},
        "at": {"type": "time", "role": "ignore"},
        "y": {"type": kind, "role": "outcome"},
    }
    page = {"source": {"rows": "https://me:sesame@host/rows.csv"}, "target": "y", "time": "at", "columns": described}
    data = Data.model_validate(page | {"slices": ["group"]})
    why = Case.model_validate({"decision": EVIL, "kpi": "kpi", "owner": "me"} | case)
    model = Model.model_validate({"estimator": "Tree", "metric": metric})
    tree = DecisionTreeRegressor if kind == "number" else DecisionTreeClassifier
    every, signature = examples(columns, data, why, model)
    learn, test = split(every, data, model)
    outcome = contest(learn, test, signature, model, tree(max_depth=3, random_state=0))
    return evaluate(outcome, learn, test, data, why, model), data


def written(path: Path, evaluation: Evaluation, data: Data) -> tuple[str, str]:
    """Return the card as Markdown and as a page."""
    card.write(evaluation, data, DIGEST, path)
    return path.read_text(encoding="utf-8"), path.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("metric", "kind"), [("roc_auc", "boolean"), ("log_loss", "text"), ("mae", "number")])
def test_the_card_holds_the_evidence(metric: str, kind: str, tmp_path: Path) -> None:
    """The metadata hold what was measured, names stay text, tables are whole, and the same evidence gives it again."""
    evaluation, data = judged(metric, kind)
    text, page = written(tmp_path / "card.md", evaluation, data)
    assert written(tmp_path / "again.md", evaluation, data) == (text, page)
    _, head, body = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["pipeline_tag"] == f"tabular-{'regression' if kind == 'number' else 'classification'}"
    (result,) = facts["model-index"][0]["results"]
    measured = {name: values[evaluation.kept].value for name, values in evaluation.metrics.items()}
    assert {entry["type"]: entry["value"] for entry in result["metrics"]} == pytest.approx(measured, nan_ok=False)
    assert all(word in both for both in (body, page) for word in (DIGEST, "Intended use", "Limits"))
    assert not any(re.search(r"sesame|(?<!\\)<script", both) for both in (body, page))
    assert not any(word in page for word in ("http:", "src=", "@import", "url("))
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in body.splitlines()]
    neighbours = [(left, right) for left, right in pairwise(widths) if left and right]
    assert len(neighbours) > 10
    assert all(left == right for left, right in neighbours)


def test_what_nobody_answered_is_said(tmp_path: Path) -> None:
    evaluation, data = judged("roc_auc", "boolean", kpi="")
    evaluation = replace(evaluation, slices=[], unmeasured={})
    text, page = written(tmp_path / "card.md", evaluation, data.model_copy(update={"slices": []}))
    for missing in ("case.yaml, kpi", "case.yaml, cost", "case.yaml, risk", "data.yaml, slices"):
        assert all(f"not stated: config/{missing}" in re.sub(r"\\", "", both) for both in (text, page)), missing
    assert "Quality not compared by:** group" in text
    assert "config/data.yaml, means): z and group" in text


def test_answers_are_repeated(tmp_path: Path) -> None:
    costs = {"false_alarm": 1, "miss": 4}
    text, _ = written(tmp_path / "card.md", *judged("roc_auc", "boolean", cost_of_errors=costs, risk_class="high"))
    for answer in ("a miss costs 4, a false alarm 1", "from a probability of 20 %", "**Risk class:** high"):
        assert answer in text
    assert "not stated:" not in text
