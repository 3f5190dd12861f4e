"""The settings in `config/`, typed and checked; a mistake is answered with file, key, value and what is allowed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from .contract import ProjectError
from .pages import hint, mistakes, read
from .scorer import Dialect, Input

PACKAGE = Path(__file__).parents[1]
ANSWERS = Path("labels/answers.csv")
"""Every answer that people ever gave to a row; kept by git. Level 2 writes it."""
Kind = Literal["number", "integer", "text", "boolean", "time"]
Task = Literal["classification", "regression"]
METRICS: dict[str, Task] = {
    "roc_auc": "classification",
    "log_loss": "classification",
    "accuracy": "classification",
    "rmse": "regression",
    "mae": "regression",
    "r2": "regression",
}


class Settings(BaseModel):
    """A page of settings: unknown keys are refused, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Case(Settings):
    """`config/case.yaml`: why the model exists, answered by a person."""

    decision: str
    kpi: str
    owner: str
    cost_of_errors: dict[Literal["false_alarm", "miss"], FiniteFloat] | None = None
    risk_class: str = "not classified"

    @property
    def threshold(self) -> float:
        """Probability from which yes is the cheaper answer: false alarm / (false alarm + miss) (Elkan 2001)."""
        if not self.cost_of_errors:
            return 0.5
        alarm, miss = self.cost_of_errors["false_alarm"], self.cost_of_errors["miss"]
        return alarm / (alarm + miss)

    @field_validator("cost_of_errors")
    @classmethod
    def _both_costs(cls, costs: dict[str, float] | None) -> dict[str, float] | None:
        if costs is not None and (set(costs) != {"false_alarm", "miss"} or min(costs.values()) <= 0):
            raise ValueError("give both false_alarm and miss, each above 0")
        return costs


class Query(Settings):
    """A source that a database answers."""

    sql: str
    database: str


class Column(Settings):
    """One column of the table that `process` returns."""

    type: Kind
    role: Literal["input", "outcome", "ignore"] = "input"
    unit: str | None = None
    means: str | None = None
    min: float | datetime | None = None
    max: float | datetime | None = None
    values: list[str] | list[float] | None = None
    nulls: bool = False
    sensitive: bool = False
    format: str | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        if isinstance(values, list) and any(isinstance(value, bool) for value in values):
            raise ValueError("YAML reads words like yes, no, on and off as true or false: put them in quotes")
        return values

    @model_validator(mode="after")
    def _suits_its_type(self) -> Column:
        for key, given in (("min", self.min), ("max", self.max)):
            if given is None:
                continue
            if isinstance(given, datetime) != (self.type == "time") or self.type in ("text", "boolean"):
                raise ValueError(f"{key}: {given} does not suit `type: {self.type}`")
            if isinstance(given, float) and not isfinite(given):
                raise ValueError(f"{key}: {given} is no limit; leave the key out")
        if self.min is not None and self.max is not None and utc(self.min) > utc(self.max):
            raise ValueError(f"min: {self.min} is above max, {self.max}")
        if self.values is not None:
            self._check_values(self.values)
        if self.format is not None:
            self._check_format(self.format)
        return self

    def _check_values(self, values: list[str] | list[float]) -> None:
        if not values:
            raise ValueError("values: the list is empty, so nothing would be allowed; leave the key out")
        if self.type in ("boolean", "time"):
            raise ValueError(f"values: does not suit `type: {self.type}`")
        for value in values:
            if isinstance(value, str) != (self.type == "text"):
                quotes = "; put it in quotes" if self.type == "text" else ""
                raise ValueError(f"values: {value!r} does not suit `type: {self.type}`{quotes}")
        twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
        if twice is not None:
            raise ValueError(f"values: {twice!r} is given twice")

    def _check_format(self, form: str) -> None:
        if self.type != "time":
            raise ValueError(f"format: does not suit `type: {self.type}`, only a time has one")
        moment = datetime(2013, 1, 31, 17, 45)
        try:
            read = datetime.strptime(moment.strftime(form), form)
        except ValueError as error:
            raise ValueError(f"format: {form!r} is not one of Python's strptime ({error})") from None
        if read.year != moment.year:
            raise ValueError(f"format: {form!r} has no year; a day first is '%d/%m/%Y'")

    def as_input(self, name: str, nulls: bool | None = None) -> Input:
        """Return the column as the model file describes it; `nulls` overrides whether values may be missing."""
        return Input(name, self.type, self.unit, self.means, self.nulls if nulls is None else nulls, self.format)

    def holds(self, value: bool | int | float | str) -> bool:
        """Whether a value as YAML reads it is of this column's type."""
        if isinstance(value, bool):
            return self.type == "boolean"
        return self.type == "text" if isinstance(value, str) else self.type in ("number", "integer")


class Data(Settings):
    """`config/data.yaml`: where the data are, what each column means and what is allowed in it."""

    source: dict[str, str | Query] = Field(min_length=1)
    csv: Dialect = Dialect()
    target: str
    positive: bool | int | float | str | None = None
    key: str | None = None
    time: str | None = None
    slices: list[str] = []
    columns: dict[str, Column] = Field(min_length=1)

    @property
    def inputs(self) -> dict[str, Column]:
        """The columns that a request carries, in order."""
        return {name: column for name, column in self.columns.items() if column.role == "input"}

    @property
    def judged(self) -> list[str]:
        """The columns by which a model is judged: key, time, inputs, slices and the target, each once."""
        named = (self.key, self.time, *self.inputs, *self.slices, self.target)
        return list(dict.fromkeys(name for name in named if name is not None))

    @model_validator(mode="after")
    def _names_exist(self) -> Data:
        named: dict[str, list[str | None]] = {
            "target": [self.target],
            "key": [self.key],
            "time": [self.time],
            "slices": [*self.slices],
        }
        for key, names in named.items():
            for name in names:
                if name is not None and name not in self.columns:
                    raise ValueError(f"{key}: '{name}' is not under columns{hint(name, self.columns)}")
        if self.columns[self.target].role == "input":
            raise ValueError(f"target: '{self.target}' must have `role: outcome`, or the model would see the answer")
        if self.positive is not None and not self.columns[self.target].holds(self.positive):
            kind = self.columns[self.target].type
            quoted = "; put the word in quotes" if kind == "text" else ""
            raise ValueError(f"positive: {self.positive!r} is no value of the target's `type: {kind}`{quoted}")
        if self.time is not None and self.columns[self.time].type != "time":
            raise ValueError(f"time: '{self.time}' must be a column with `type: time`")
        if not self.inputs:
            raise ValueError("columns: at least one needs `role: input`")
        return self


class Model(Settings):
    """`config/model.yaml`: what is trained, and how it is measured."""

    estimator: str
    parameters: dict[str, Any] = {}
    metric: Literal["roc_auc", "log_loss", "accuracy", "rmse", "mae", "r2"]
    seed: int = Field(default=0, ge=0, lt=2**32)
    test_share: float = Field(default=0.2, ge=0.05, le=0.5)

    @property
    def task(self) -> Task:
        """The task that the metric measures."""
        return METRICS[self.metric]


Page = TypeVar("Page", bound=Settings)


def load(kind: type[Page], folder: Path = Path("config")) -> Page:
    """Read and check one page of settings, for instance `load(Data)` for `config/data.yaml`.

    Raises ProjectError naming the file, the key, the value and what is allowed.
    """
    path = folder / f"{kind.__name__.lower()}.yaml"
    return parse(kind, path)


def parse(kind: type[Page], path: Path) -> Page:
    """Read and check one page of settings from any path; see `load`."""
    content = read(path)
    if not isinstance(content, dict):
        raise ProjectError(f"{path}: should hold `key: value` lines; see {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ProjectError(mistakes(path, kind, content, error)) from None


def utc(limit: float | datetime) -> Any:
    """Return `min` or `max` of a column as columns hold it: times without a zone, in UTC."""
    if isinstance(limit, datetime) and limit.tzinfo is not None:
        return limit.astimezone(UTC).replace(tzinfo=None)
    return limit


def masked(uri: str) -> str:
    """Return an address without its password and without the values of its query (signatures, tokens)."""
    bare, mark, query = re.sub(r"(://[^:/]*):[^@]+@", r"\1:***@", uri).partition("?")
    return bare + mark + re.sub(r"=[^&]*", "=***", query)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, without the parts that only a debugger wants."""
    told = re.sub(r" \([^()]*\.py[^()]*\)$", "", str(error))  # where an import failed, which is said more shortly
    lines = told.strip().splitlines() or [type(error).__name__]
    of_csv = "CSV" in lines[0] or "sniffing" in lines[0]  # DuckDB tells line, text and mistake in three
    return " ".join(lines[: 3 if of_csv else 1])


class UnfinishedError(ProjectError):
    """No mistake: something was killed, or another command is in the way. The same command may end well later."""

    code = 75  # as sysexits.h names it: a temporary failure


class YourCodeError(ProjectError):
    """An exception inside one of your modules; the service keeps its words to its own log."""


@contextmanager
def your_code(module: str, at_hand: Mapping[str, Iterable[str]]) -> Iterator[None]:
    """Turn an exception of one of your modules into a sentence with its file, its line and the columns at hand."""
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:  # your code may raise anything
        columns = "; ".join(f"{name} has {', '.join(names)}" for name, names in at_hand.items())
        where = place_in_your_code(error) or f"src/{PACKAGE.name}/{module}"
        raise YourCodeError(f"{where}: {type(error).__name__}: {first_line(error)} ({columns})") from error


def place_in_your_code(error: BaseException) -> str | None:
    """Return which of your files and which line an exception comes from, also while they are imported; else None."""
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if Path(frame.filename).is_relative_to(PACKAGE)]
    path, line = (Path(frames[-1].filename), frames[-1].lineno) if frames else (Path(), None)
    if isinstance(error, SyntaxError):
        path, line = Path(error.filename or ""), error.lineno
    elif isinstance(error, ImportError) and error.path and Path(error.path).is_relative_to(PACKAGE):
        path, line = Path(error.path), None  # a name that it should have is missing
    if not path.is_relative_to(PACKAGE) or "ops" in path.relative_to(PACKAGE).parts:
        return None
    return f"src/{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}" + (f", line {line}" if line else "")
