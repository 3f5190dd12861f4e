"""Tuning: a search that was cut short ends as if it had not been, its mistakes are named, and your file is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    load,
    parse,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.process.schema import (
    drawn,
)
from flight_delays.ops.train import (
    Examples,
    examples,
    split,
)
from flight_delays.ops.train.space import (
    Outcome,
    Range,
    Trial,
    Tuning,
    write_parameters,
)
from flight_delays.ops.train.tune import (
    tune,
)

DATA, CASE, MODEL = load(Data), load(Case), load(Model)
QUICK = {"n_estimators": 5, "n_jobs": 1}
PARAMETERS = {name: QUICK.get(name, value) for name, value in MODEL.parameters.items()}
MODEL = MODEL.model_copy(update={"parameters": PARAMETERS})
TUNING = load(Tuning).model_copy(update={"trials": 3, "splits": 2, "rows": 300})


@pytest.fixture(scope="module")
def learn() -> Examples:
    """Rows to learn from, drawn from the settings."""
    rows, _ = examples(drawn(DATA, MODEL.task, 500), DATA, CASE, MODEL)
    return split(rows, DATA, MODEL)[0]


def search(learn: Examples, store: Path, stop: int = 99) -> tuple[Outcome, list[int]]:
    """Tune, interrupted once `stop` trials are known; return also how many were known each time it told."""
    told: list[int] = []

    def tell(known: int, _: Trial) -> None:
        told.append(known)
        if known == stop and told.count(stop) == 1:
            raise KeyboardInterrupt

    return tune(learn, DATA, MODEL, TUNING, tell, store), told


def test_an_interrupted_search_goes_on_with_the_rest(learn: Examples, tmp_path: Path) -> None:
    """Stopped and started again, it tries what was left only, and finds what it would have found in one go."""
    whole, _ = search(learn, tmp_path / "whole.db")
    half, _ = search(learn, tmp_path / "half.db", stop=2)
    assert (len(half.trials), half.left) == (2, 1)
    rest, told = search(learn, tmp_path / "half.db")
    assert told == [2, 3]
    assert replace(rest, study="") == replace(whole, study="")
    assert search(learn, tmp_path / "half.db")[1] == [3]


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({}, "space"),
        ({"a": {"low": 5, "high": 2}}, r"space\.a.*low \(5\)"),
        ({"a": {"low": 0, "high": 2, "log": True}}, r"space\.a.*log needs a low above 0"),
        ({"a": {"low": 1}}, r"space\.a.*give low and high"),
        ({"a": {"low": 1, "high": 4, "step": 2}}, r"space\.a.*step"),
        ({"a": {"choices": [1]}}, r"space\.a.*two choices"),
        ({"a": {"low": 1, "hihg": 2}}, r"space\.a\.hihg.*unknown key"),
    ],
)
def test_a_mistake_in_the_space_is_named(space: dict[str, object], told: str, tmp_path: Path) -> None:
    """File and key stand in the sentence."""
    page = tmp_path / "tuning.yaml"
    page.write_text(yaml.safe_dump({"space": space}), encoding="utf-8")
    with pytest.raises(ProjectError, match=f"tuning.yaml, {told}"):
        parse(Tuning, page)


def test_a_parameter_that_does_not_exist_is_named(learn: Examples, tmp_path: Path) -> None:
    """The estimator is asked which parameters it has."""
    tuning = TUNING.model_copy(update={"space": {"colour": Range(choices=["red", "blue"])}})
    with pytest.raises(ProjectError, match=rf"space\.colour: {MODEL.estimator} has no such parameter"):
        tune(learn, DATA, MODEL, tuning, lambda *_: None, tmp_path / "none.db")


@pytest.mark.parametrize(
    "parameters",
    ["{depth: 3, leaf: 20} # mine", "{}", "\n  depth: 3 # deep\n  leaf: 20\n", "{\n  depth: 3,\n  leaf: 20 }", "null"],
)
def test_the_best_parameters_change_nothing_else(parameters: str, tmp_path: Path) -> None:
    """Comments, order and layout of config/model.yaml stay as a person wrote them."""
    page = tmp_path / "model.yaml"
    page.write_bytes(f"# My model\r\nestimator: Any # chosen\r\nparameters: {parameters}\nseed: 0\n".encode())
    before = yaml.safe_load(page.read_bytes())
    write_parameters({"leaf": 0.00001, "width": "sqrt"}, page)
    text = page.read_bytes().decode()
    assert yaml.safe_load(text) == {
        **before,
        "parameters": {**(before["parameters"] or {}), "leaf": 0.00001, "width": "sqrt"},
    }
    assert text.startswith("# My model\r\nestimator: Any # chosen\r\nparameters:")
    assert all(comment in text for comment in ("# mine", "# deep") if comment in parameters)
