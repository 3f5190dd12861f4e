"""The one table of guards: what each refuses, beside the fault that it must catch.

A guard works when a clean control passes, and the same with its fault planted is refused in words that name the fault.
Faults are planted in rows drawn from your own `config/`. `guards_N*.py` hold the rows of the table that level N adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from .collect import read, sources
from .config import Case, Column, Data, Model, load
from .contract import Array, Columns, ProjectError
from .process import declared, schema
from .scorer import Dialect
from .train import Examples, Fitted, examples, fit, split

ROWS = 2_000
ODD = 7  # the row that gets a wrong value


class UnsuitableError(Exception):
    """The project's configuration has nothing that this fault could be planted in; says what is missing."""


@dataclass(frozen=True)
class Planted:
    """A clean control, the same with a fault, and what the refusal must name."""

    clean: Callable[[], object]
    faulty: Callable[[], object]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Where faults are planted: the project's settings, rows drawn from them, and a folder that is thrown away."""

    data: Data
    case: Case
    model: Model
    folder: Path
    rows: dict[str, Array]

    def first(self, what: str, suits: Callable[[str, Column], bool]) -> str:
        """Return the first column that suits, rather an input; raises UnsuitableError naming what is missing."""
        found = [name for name in [*self.data.inputs, *self.data.columns] if suits(name, self.data.columns[name])]
        if not found:
            raise UnsuitableError(f"config/data.yaml has no {what}")
        return found[0]

    def put(self, name: str, value: Any, *names: str) -> Planted:
        """Plant one odd value in a column, or another column in its place; the refusal must name it and `names`.

        Of one odd value the refusal must tell a row too: which one, its order by time and key decides.
        """
        if isinstance(value, np.ndarray):
            return self.replace({**self.rows, name: value}, f"column '{name}'", *names)
        values = self.rows[name].copy()
        values[ODD] = value
        return self.replace({**self.rows, name: values}, "row ", f"column '{name}'", *names)

    def replace(self, faulty: Columns, *names: str) -> Planted:
        """Plant other rows."""
        return Planted(lambda: self.check(self.rows), lambda: self.check(faulty), names)

    def write(self, name: str, rows: Columns) -> Path:
        """Write rows to a CSV or Parquet file."""
        table = pa.table({column: pa.array(values, from_pandas=True) for column, values in rows.items()})
        path = self.folder / name
        (pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, path)
        return path

    def check(self, rows: Columns) -> None:
        """Take rows the way of a training: from a file through the declared columns to validation."""
        file = self.write(f"{len(list(self.folder.iterdir()))}.parquet", rows)  # DuckDB keeps what it read of a name
        usual = self.data.model_copy(update={"csv": Dialect()})
        schema.refuse_invalid(declared(read("rows", file, usual), self.data), self.data, self.model.task)

    def collect(self, source: Path) -> None:
        """Collect one file, of the usual dialect, into a folder of its own."""
        changes = {"source": {"rows": str(source)}, "csv": Dialect()}
        sources.snapshot(self.data.model_copy(update=changes), folder=self.folder / "raw")

    def fitted(self) -> tuple[Fitted, Examples]:
        """Train a small tree on the rows and return it with the rows that test it."""
        rows, signature = examples(self.rows, self.data, self.case, self.model)
        learn, test = split(rows, self.data, self.model)
        tree = DecisionTreeClassifier if self.model.task == "classification" else DecisionTreeRegressor
        return fit(learn, test, signature, tree(max_depth=3, random_state=0)), test


@dataclass(frozen=True)
class Guard:
    """One refusal that the project promises."""

    name: str
    room: str
    refuses: str
    plant: Callable[[Scene], Planted]


@dataclass(frozen=True)
class Outcome:
    """What became of a guard's planted fault; `detail` is the refusal, or what went wrong."""

    guard: Guard
    state: Literal["caught", "missed", "noisy", "not applicable"]
    detail: str

    @property
    def works(self) -> bool:
        """Whether the promise holds, as far as the project's configuration lets it be tried."""
        return self.state in ("caught", "not applicable")


def table() -> tuple[Guard, ...]:
    """Return the guards of every level that the project has."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("guards_*.py"))
    return tuple(guard for name in names for guard in import_module(f"{__package__}.{name}").TABLE)


def report() -> list[Outcome]:
    """Try every guard."""
    return [run(guard) for guard in table()]


def run(guard: Guard) -> Outcome:
    """Plant a guard's fault, and say whether it was caught while the clean control passed."""
    data, case, model = schema.drawable(load(Data)), load(Case), load(Model)
    with TemporaryDirectory() as folder:
        try:
            planted = guard.plant(Scene(data, case, model, Path(folder), schema.drawn(data, model.task, ROWS)))
            planted.clean()
        except UnsuitableError as reason:
            return Outcome(guard, "not applicable", str(reason))
        except ProjectError as error:
            return Outcome(guard, "noisy", f"refuses its clean control: {error}")
        try:
            planted.faulty()
        except ProjectError as error:
            unnamed = [name for name in planted.names if name not in str(error)]
            told = f"does not name {', '.join(unnamed)}: {error}" if unnamed else str(error)
            return Outcome(guard, "missed" if unnamed else "caught", told)
    return Outcome(guard, "missed", "the planted fault passed")
