"""The space of tuning: where parameters are looked for, what was found, and how it gets into config/model.yaml."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, FiniteFloat, model_validator

from ..config import Data, Settings
from ..contract import ProjectError
from ..files import atomic
from . import Examples

OUTCOME = Path("reports/tuning.json")
NEAR = 1e-9
EDGE = 0.01  # share of a range that counts as its bound

Setting = str | bool | int | float | None


class Range(Settings):
    """The values that one parameter may take: `low` to `high`, both included, or `choices`."""

    low: int | FiniteFloat | None = None
    high: int | FiniteFloat | None = None
    step: int | FiniteFloat | None = None
    log: bool = False
    choices: list[Setting] | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range that has no choices."""
        return (0 if self.low is None else self.low), (0 if self.high is None else self.high)

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers, as the bounds are."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    @property
    def distribution(self) -> BaseDistribution:
        """The range as Optuna takes it."""
        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        low, high = self.bounds
        if self.whole:
            return IntDistribution(int(low), int(high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of those that the search could propose."""
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if not isinstance(value, int if self.whole else int | float) or isinstance(value, bool):
            return False
        low, high = self.bounds
        steps = (value - low) / (self.step or 1)
        return low <= value <= high and (self.step is None or abs(steps - round(steps)) < NEAR)

    def on_bound(self, value: Any) -> bool:
        """Whether a value lies on the lowest or the highest one."""
        if self.choices is not None or not self.holds(value):
            return False
        low, high, here = (math.log(part) if self.log else part for part in (*self.bounds, value))
        return bool(min(here - low, high - here) <= EDGE * (high - low))

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.choices is not None:
            if self.model_fields_set != {"choices"} or len(self.choices) < 2:
                raise ValueError("give at least two choices, and neither low nor high, step or log beside them")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log needs a low above 0 ({self.low} is given) and no step")
        steps = (self.high - self.low) / self.step if self.step else 1
        if steps < 1 or abs(steps - round(steps)) > NEAR:
            raise ValueError(f"step ({self.step}) must lead from low ({self.low}) to high ({self.high})")
        return self


class Tuning(Settings):
    """`config/tuning.yaml`: how long the search for parameters takes, and where it looks."""

    trials: int = Field(default=12, ge=2, le=10_000)
    minutes: float = Field(default=10, gt=0)
    splits: int = Field(default=3, ge=2, le=20)
    rows: int = Field(default=15_000, ge=100)
    space: dict[str, Range] = Field(min_length=1)

    def at_bounds(self, parameters: dict[str, Any]) -> list[str]:
        """Return a warning for each parameter whose value lies on the bound of its range."""
        said = []
        for name, part in self.space.items():
            if part.on_bound(value := parameters[name]):
                low, high = part.bounds
                said.append(
                    f"the best {name} ({value:g}) lies on the bound of its range ({low:g} to {high:g}): "
                    "a better one may lie beyond, widen the range in config/tuning.yaml"
                )
        return said


@dataclass(frozen=True)
class Trial:
    """One set of parameters that was tried."""

    parameters: dict[str, Any]
    scores: list[float]
    """The metric on each split that chooses; empty if the estimator refused the parameters."""
    refused: str = ""
    """Why."""

    @property
    def quality(self) -> float:
        """The mean over the splits."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Outcome:
    """What the search found; written to reports/tuning.json."""

    study: str
    """Name of the search: a hash of data, space, settings and code."""
    data: str
    """Fingerprint of the rows to learn from."""
    estimator: str
    metric: str
    rows: int
    of_rows: int
    """Rows to learn from, of which `rows` were drawn."""
    trials: list[Trial]
    """In the order in which they were tried."""
    left: int
    """Trials that the budget has left; 0 says that the search is finished."""
    default: Trial
    """What config/model.yaml says, or what the estimator takes where it says nothing."""
    best: Trial
    gain: tuple[float, float, float]
    """What the best gains over the default on the split that chose nothing, with its 95 % interval; above 0: better."""
    importance: dict[str, float]
    """Parameter: share of the quality's variation that it explains (fANOVA)."""
    space: dict[str, dict[str, Any]]
    warnings: list[str]

    @property
    def beaten(self) -> bool:
        """Whether the default is beaten beyond doubt."""
        return self.gain[1] > 0

    @property
    def sentence(self) -> str:
        """How far the search is, and what it gained."""
        done = len(self.trials)
        far = (
            f"{done} trials done, {self.left} are left: make tune goes on"
            if self.left
            else f"all {done} trials are done"
        )
        chosen = f"{self.metric} of the default {self.default.quality:.4g}, of the best {self.best.quality:.4g}"
        value, low, high = self.gain
        return f"{far}; {chosen}; gain on the split that chose nothing {value:.2g} ({low:.2g} to {high:.2g})"


def fingerprint(rows: Examples, data: Data) -> str:
    """Return a hash of rows: their features, their target and their time."""
    content = hashlib.sha256(rows.packed.numbers.tobytes() + rows.target.tobytes())
    content.update("\0".join(map(str, rows.packed.text.ravel())).encode())
    content.update(rows.columns[data.time].tobytes() if data.time else b"")
    return content.hexdigest()


def write_parameters(values: dict[str, Any], path: Path = Path("config/model.yaml")) -> None:
    """Put values under `parameters:` of a page of settings; every other character of the file stays as it is.

    Raises ProjectError, and writes nothing, where the page is written in a way that does not allow it.
    """
    text = path.read_bytes().decode("utf-8")
    wanted = yaml.safe_load(text)
    wanted["parameters"] = {**(wanted.get("parameters") or {}), **values}
    for name, value in values.items():
        text = _with(text, name, yaml.safe_dump([value], default_flow_style=True, width=1000).strip()[1:-1])
    if yaml.safe_load(text) != wanted:
        raise ProjectError(f"{path}: its parameters cannot be changed in place; write {values} there yourself")
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def _with(text: str, name: str, value: str) -> str:
    """Return a page with one parameter changed or added, at the place that the YAML parser tells."""
    page = _entries(yaml.compose(text, Loader=yaml.SafeLoader))
    if "parameters" not in page:
        text = text if text.endswith("\n") else f"{text}\n"
        return f"{text}parameters: {{{name}: {value}}}\n"
    node = page["parameters"][1]
    entries = _entries(node)
    if name in entries:
        start, end, put = entries[name][1].start_mark.index, entries[name][1].end_mark.index, value
    elif not entries:
        start, end, put = node.start_mark.index, node.end_mark.index, f"{{{name}: {value}}}"
    else:
        start = end = node.value[-1][1].end_mark.index
        indent = " " * node.value[0][0].start_mark.column
        put = f", {name}: {value}" if text[node.start_mark.index] == "{" else f"\n{indent}{name}: {value}"
    return text[:start] + put + text[end:]


def _entries(node: yaml.Node | None) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    return {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
