"""The written contract: what those who train the model hand over to those who run the service."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from ..config import Case, Kind, Settings, parse
from ..contract import ProjectError
from ..files import atomic
from ..pages import hint
from ..scorer import Dialect, Input, Signature, from_values

CONTRACT = Path("config/contract.yaml")
SHOWN = 10
"""Differences that one message tells."""
UNSEEN_ROWS = 1000
"""Rows that the examples are drawn from."""
HEADER = """\
# The contract: what those who train the model hand over to those who run the service. Both review its changes.
# `make contract` writes it anew from models/model.onnx; service, image and release refuse a model that differs from it.
# An example is a typical value, no real row: together they are the request that the service's page shows.
"""


class Promised(Settings):
    """One input column of every request."""

    type: Kind
    unit: str | None = None
    means: str | None = None
    nulls: bool = False
    example: Any = None

    @field_validator("example")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if isinstance(value, date):  # YAML reads an unquoted time as one
            return value.isoformat()
        if not isinstance(value, bool | int | float | str | None):
            raise ValueError("one plain value is wanted")
        return value


class Output(Settings):
    """The answer to every row: a value with its unit, or one of the classes."""

    target: str
    type: Kind
    unit: str | None = None
    classes: list[bool | int | float | str] = Field(default_factory=list)


class Contract(Settings):
    """`config/contract.yaml`: who answers for the model, what it decides, what it takes and gives."""

    name: str
    owner: str
    decision: str
    inputs: dict[str, Promised] = Field(min_length=1)
    output: Output

    @property
    def example(self) -> dict[str, Any]:
        """One row of a request that works."""
        return {name: column.example for name, column in self.inputs.items()}


def read_contract(path: Path = CONTRACT) -> Contract:
    """Read the contract.

    Raises ProjectError where there is none, or where it is not what a contract should be.
    """
    if not path.is_file():
        raise ProjectError(f"{path}: not found; `make contract` writes it from the trained model, review and commit it")
    return parse(Contract, path)


def refuse_mismatch(contract: Contract, signature: Signature) -> None:
    """Raise ProjectError naming every column in which the contract and the model file differ."""
    inputs = {column.name: column for column in signature.inputs}
    absent = [name for name in contract.inputs if name not in inputs]
    extra = [name for name in inputs if name not in contract.inputs]
    found = [f"column '{name}' is not an input of the model{hint(name, extra)}" for name in absent]
    found += [f"the model also needs column '{name}'" for name in extra]
    for name, promised in contract.inputs.items():
        if name in inputs:
            found += _differences(f"column '{name}'", promised, inputs[name], ("type", "unit", "nulls"))
    found += _differences("the output", contract.output, output(signature), ("target", "type", "unit", "classes"))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines = [*found[:SHOWN], *more, "if the model is right, run `make contract` and have the change reviewed"]
        raise ProjectError(f"{CONTRACT} does not describe the model:\n  " + "\n  ".join(lines))


def breaking(new: Contract, live: Contract) -> Iterator[tuple[str, str]]:
    """Yield each column in which requests of the live contract would fail or mean something else, and how."""
    added = [name for name in new.inputs if name not in live.inputs]
    for name, column in live.inputs.items():
        if name not in new.inputs:
            yield name, f"column '{name}' is taken no more{hint(name, added)}"
            continue
        yield from ((name, f"column '{name}': {told}") for told in _narrowed(new.inputs[name], column))
    for name in added:
        yield name, f"column '{name}' is newly wanted"
    for key in ("target", "type", "unit", "classes"):
        before, now = getattr(live.output, key), getattr(new.output, key)
        if before != now:
            yield "output", f"the output's {key} was {before!r} and is {now!r}"


def output(signature: Signature) -> Output:
    """Return what a model of this signature gives."""
    return Output(
        target=signature.target,
        type=_kind(signature.classes[0]) if signature.classes else "number",
        unit=signature.unit,
        classes=list(signature.classes),
    )


def drawn_up(signature: Signature, case: Case, unseen: Path) -> Contract:
    """Return the contract that describes the model, with examples from a CSV file of rows that it has not seen.

    Raises ProjectError where the file is missing: training writes it.
    """
    try:
        with unseen.open(encoding=signature.csv.encoding, newline="") as file:
            rows = list(islice(csv.DictReader(file, delimiter=signature.csv.separator), UNSEEN_ROWS))
    except FileNotFoundError:
        raise ProjectError(f"{unseen}: not found; run `make train` first") from None
    inputs = {
        column.name: Promised(
            type=column.type,  # type: ignore[arg-type]
            unit=column.unit,
            means=column.means,
            nulls=column.nulls,
            example=_typical(column, [row[column.name] for row in rows if row.get(column.name)], signature.csv),
        )
        for column in signature.inputs
    }
    about = {"name": signature.name, "owner": case.owner, "decision": case.decision}
    return Contract(**about, inputs=inputs, output=output(signature))


def write_contract(signature: Signature, case: Case, unseen: Path, path: Path = CONTRACT) -> None:
    """Write the contract anew from the trained model, for `git diff` and a review."""
    content = drawn_up(signature, case, unseen).model_dump(exclude_defaults=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=200)
    with atomic(path) as temporary:
        temporary.write_text(HEADER + text, encoding="utf-8")


def _differences(what: str, promised: Settings, real: Any, keys: tuple[str, ...]) -> list[str]:
    pairs = [(key, getattr(promised, key), getattr(real, key)) for key in keys]
    return [f"{what}: {key} is {ours!r}, but {theirs!r} in the model" for key, ours, theirs in pairs if ours != theirs]


def _narrowed(new: Promised, live: Promised) -> Iterator[str]:
    for key in ("type", "unit"):
        if getattr(new, key) != getattr(live, key):
            yield f"its {key} was {getattr(live, key)!r} and is {getattr(new, key)!r}"
    if live.nulls and not new.nulls:
        yield "a value is newly wanted in every row"


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    return "integer" if isinstance(value, int) else "number"


def _typical(column: Input, words: list[str], dialect: Dialect) -> Any:
    """The middle number or time, the most frequent word: values by which no single person can be known."""
    values = from_values(column, words, csv=dialect).tolist()
    if not values:
        return None
    if column.type in ("number", "integer"):
        middle = sorted(values)[len(values) // 2]
        return int(middle) if middle == int(middle) else middle
    if column.type == "time":
        return sorted(values)[len(values) // 2].isoformat()
    common, times = Counter(values).most_common(1)[0]
    if column.type == "boolean":
        return common == 1.0
    return common if times > 1 else f"some {column.name}"
