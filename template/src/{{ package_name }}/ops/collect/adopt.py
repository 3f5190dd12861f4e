"""Adoption: from a stranger's file, what each column is, and which of them a model can learn the target from.

All is decided from the whole file and told with its reason; the command writes the pages once everything is decided.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config import Task
from ..contract import Array, ProjectError
from ..files import header, in_utf8, refuse_empty, refuse_twice, sniffed
from ..pages import beyond, hint
from ..scorer import TRUE, Dialect, Input
from . import CSV, decimal_of, read_well, reads, type_of, typed

SUFFIXES = {".csv": ".csv", ".tsv": ".csv", ".txt": ".csv", ".parquet": ".parquet"}
KEYS = re.compile(r"\b(ids?|key|uuid|guid|identifier|number|nr|no|index|idx|ref|row)\b|id$")
NAME = re.compile(r"((first|last|given|family|middle|full|sur|customer|client|patient|passenger|person|user) )*name")
DIRECT = re.compile(r"\b(e?mail|phone|mobile|telephone|fax|ssn|passport|iban|address|street|(last|first|sur)name)\b")
PERSONAL = re.compile(
    r"\b(sex|gender|age|race|ethnicity|religion|nationality|citizenship|birth(day|date)?|dob|born|zip(code)?|postcode|"
    r"postal|plz|marital|disability|health|pregnant|orientation|geschlecht|alter|sexe)\b"
)
LISTED, OFTEN = 12, 10
"""Most values of a text that are listed, and rows that each of them has at least: a new one is then worth a refusal."""
ONE_HOT, CELLS = 200, 10**8
"""Most values of a text that is an input: each becomes a column of its own."""
CLASSES, RARE = 100, 10
SAMPLE = 20_000


@dataclass
class Found:
    """A column, and what was decided of it."""

    name: str
    values: pa.Array
    keys: dict[str, Any] = field(default_factory=dict)
    """What `config/data.yaml` says of it; empty where it is left out."""
    reasons: list[str] = field(default_factory=list)
    missing: int = 0
    distinct: int = 0
    counts: dict[Any, int] = field(default_factory=dict)
    """How often each of its values occurs, as YAML writes it; empty where they are many."""
    runs_on: bool = False
    """Whether it holds every whole number between its least and its greatest."""

    @property
    def is_input(self) -> bool:
        """Whether the model will see it."""
        return bool(self.keys) and "role" not in self.keys

    @property
    def words(self) -> str:
        """The words of its name."""
        return " ".join(re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name))).lower()

    def set_aside(self, role: str, reason: str) -> None:
        """Keep it from the model."""
        if role == "ignore":
            self.reasons = [reason for reason in self.reasons if not reason.startswith("seen")]
        kept = self.keys if role == "outcome" else {k: v for k, v in self.keys.items() if k not in ("min", "max")}
        self.keys = {"type": self.keys["type"], "role": role, **kept}
        self.reasons.append(reason)


@dataclass
class Adoption:
    """What was decided of a file."""

    path: Path
    target: str
    task: Task
    dialect: Dialect
    columns: dict[str, Found]
    rows: int
    time: str | None = None
    key: str | None = None
    positive: Any = None
    once: bool = False
    """Whether rows that are equal in every column are kept once."""
    rare: list[Any] = field(default_factory=list)
    """Classes of too few rows, which are dropped."""
    said: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """Where the data are kept, under the name of the source."""
        name = re.sub(r"[^\w-]+", "_", self.path.stem).strip("_-") or "rows"
        return Path("data") / (name + SUFFIXES[self.path.suffix.lower()])

    @property
    def classes(self) -> list[Any]:
        """The target's values, but for those that are dropped."""
        return [value for value in self.columns[self.target].counts if value not in self.rare]

    def read(self, one: Found, rows: Array | None = None) -> Array:
        """Return a column, or some rows of it, as training will read it."""
        column = Input(one.name, one.keys["type"], nulls=True, format=one.keys.get("format"))
        return typed(column, one.values if rows is None else one.values.take(pa.array(rows)), csv=self.dialect)

    def sample(self) -> dict[str, Array]:
        """Return some rows of the declared columns."""
        rows = np.sort(np.random.default_rng(0).permutation(self.rows)[:SAMPLE])
        return {one.name: self.read(one, rows) for one in self.columns.values() if one.keys}

    def refuse_inputs(self, scores: dict[str, float]) -> None:
        """Keep from the model what alone gives the target away; raises ProjectError where nothing else is left."""
        for name, score in scores.items():
            self.columns[name].set_aside("outcome", f"alone gives '{self.target}' away (score {score:.2f} of 1)")
        if not any(one.is_input for one in self.columns.values()):
            raise ProjectError(f"{self.path}: no column is left from which '{self.target}' could be learned")


def look(path: Path, target: str, task: Task | None, born: Task, progress: Callable[[float], None]) -> Adoption:
    """Read a file and decide what each column is; `progress` is told the share that is done.

    Raises ProjectError naming file, column and what to do where no model can be made of them.
    """
    dialect, table = _opened(path)
    if target not in table.column_names:
        known = ", ".join(table.column_names)
        raise ProjectError(f"TARGET: '{target}' is not in {path}{hint(target, table.column_names)} (it has {known})")
    columns = {n: Found(n, table[n].combine_chunks()) for n in table.column_names if n.strip()}
    dialect = replace(dialect, decimal=decimal_of([one.values for one in columns.values()], dialect))
    found = Adoption(path, target, born, dialect, columns, table.num_rows)
    markers: set[str] = set()
    for place, one in enumerate(columns.values()):
        try:
            one.keys, gone = type_of(one.values, dialect)
            markers |= gone
        except ProjectError as error:
            one.reasons.append(f"left out: {error}")
        progress(0.6 * place / len(columns))
    found.dialect = replace(dialect, missing=tuple(sorted(markers)))
    for one in columns.values():
        if one.keys:
            _count(one, found)
    found.task = _settle_task(found, task, born)
    progress(0.8)
    distinct = ibis.memtable(table).distinct().count().to_pyarrow().as_py()
    for one in sorted(columns.values(), key=lambda one: not KEYS.search(one.words)):  # the key is likely among these
        if one.keys and one.name != target:
            _settle_role(one, found, distinct)
    if distinct < found.rows:  # where a column is nearly unique, equal rows are copies of each other
        found.once = any(one.distinct > found.rows / 2 for one in columns.values())
        what = "each is kept once" if found.once else "they are kept, as they may be equal by nature"
        found.said.append(f"{found.rows - distinct} rows repeat others in every column; {what}")
    found.refuse_inputs({})
    return found


def _opened(path: Path) -> tuple[Dialect, pa.Table]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "not found"
        raise ProjectError(f"DATA: {path} {what}; give a CSV or Parquet file")
    if path.suffix.lower() not in SUFFIXES:
        raise ProjectError(f"DATA: {path} should end with .csv or .parquet; save it as one of them")
    refuse_empty(path)
    engine = ibis.duckdb.connect()
    with read_well(path):
        if path.suffix.lower() == ".parquet":
            dialect, table = Dialect(), engine.read_parquet(path).to_pyarrow()
            refuse_twice(path, table.column_names)
        else:
            dialect = sniffed(path)
            names = header(path, dialect)
            with in_utf8(path, dialect) as file:
                as_text = {"delim": dialect.separator, "all_varchar": True, "nullstr": [""]}
                table = engine.read_csv(file, **CSV, **as_text).to_pyarrow().rename_columns(names)
    if table.num_rows == 0:
        raise ProjectError(f"{path}: has no row")
    if table.num_columns == 1:
        raise ProjectError(f"{path}: has one column only, '{table.column_names[0]}', and nothing to learn it from")
    return dialect, table


def _count(one: Found, found: Adoption) -> None:
    """Count what a column holds, as training will read it."""
    kind = one.keys["type"]
    if kind == "text":
        counted = pc.value_counts(one.values.cast(pa.string())).to_pylist()
        gone = found.dialect.missing
        known = {c["values"]: c["counts"] for c in counted if c["values"] and c["values"].strip() not in gone}
        one.missing, one.distinct = found.rows - sum(known.values()), len(known)
    else:
        values = found.read(one)
        present = values[~np.isnan(values)]
        distinct, counts = np.unique(present, return_counts=True)
        one.missing, one.distinct = found.rows - len(present), len(distinct)
        plain = bool if kind == "boolean" else int if kind == "integer" else float
        few = range(0 if kind == "time" else min(len(distinct), CLASSES))
        known = {plain(distinct[place]): int(counts[place]) for place in few}
        form = one.keys.get("format", "")
        swapped = form.translate(str.maketrans("dm", "md"))
        if form.startswith("%d") and "%m" in form and reads(pc.unique(one.values), kind, found.dialect, swapped):
            one.reasons.append("the day is taken to stand first; if it is the month, change its format")
        if kind in ("integer", "number") and len(distinct) > 1:
            least, most = present.min(), present.max()
            one.runs_on = kind == "integer" and most - least + 1 == one.distinct
            low, high = beyond(least, least - most), beyond(most, most - least)
            one.keys |= {"min": low, "max": high}
            one.reasons.append(f"seen from {least:g} to {most:g}, allowed from {low:g} to {high:g}")
    one.counts = known if one.distinct <= CLASSES else {}
    one.keys |= {"nulls": True} if one.missing else {}


def _settle_task(found: Adoption, asked: Task | None, born: Task) -> Task:
    """Say what is learned: one of several classes, or a quantity."""
    one, where = found.columns[found.target], f"TARGET: '{found.target}' of {found.path}"
    kind = one.keys.get("type", "")
    if not one.keys or kind == "time" or one.distinct < 2:
        only = f"is {next(iter(one.counts), '')!r} in every row" if one.distinct else "has no value in any row"
        why = "is a time, which no model here predicts" if kind == "time" else f"{only}: there is nothing to learn"
        raise ProjectError(f"{where} {why if one.keys else one.reasons[0]}")
    if (kind == "text" and one.distinct > CLASSES) or (one.runs_on and one.distinct > 0.9 * found.rows):
        raise ProjectError(f"{where} has {one.distinct} values in {found.rows} rows, an identifier: nothing to learn")
    few = one.distinct == 2 or (kind == "integer" and one.distinct <= 10 and 20 * one.distinct <= found.rows)
    task = asked or ("classification" if kind in ("text", "boolean") or few else "regression")
    if task == "regression" and kind in ("text", "boolean"):
        raise ProjectError(f"{where} is {kind}, and a regression needs a number: leave TASK=regression out")
    if task == "classification" and one.distinct > CLASSES:
        raise ProjectError(f"{where} has {one.distinct} values, too many classes; for a quantity give TASK=regression")
    if task != born:
        other = f"make another one with `copier copy --data task={task}`" + ("" if asked else f", or give TASK={born}")
        raise ProjectError(f"{where} asks for a {task}, and this project was born for a {born}: {other}")
    one.set_aside("outcome", "the target")
    if one.keys.pop("nulls", None):
        found.said.append(f"{one.missing} rows without '{found.target}' are dropped in process.py")
    if task == "classification":
        _settle_classes(one, found)
    return task


def _settle_classes(one: Found, found: Adoption) -> None:
    one.keys = {key: value for key, value in one.keys.items() if key not in ("min", "max")}
    one.reasons = one.reasons[-1:]
    found.rare = [value for value, count in one.counts.items() if count < RARE] if len(one.counts) > 2 else []
    if found.rare:
        rare = ", ".join(map(str, found.rare))
        found.said.append(f"classes of less than {RARE} rows are dropped in process.py: {rare}")
    classes = {value: one.counts[value] for value in found.classes}
    if len(classes) < 2:
        raise ProjectError(f"TARGET: '{found.target}' has less than two values that {RARE} rows have: too few to learn")
    if one.keys["type"] == "text":
        one.keys["values"] = sorted(classes)
    least = min(classes, key=lambda value: classes[value])
    share = classes[least] / sum(classes.values())
    if share < 0.1:
        found.said.append(f"only {share:.1%} of the rows are {least!r}: accuracy says little then, roc_auc does more")
    if len(classes) == 2:
        found.said.append("a false alarm and a miss cost the same until config/case.yaml says otherwise")
    if len(classes) == 2 and one.keys["type"] != "boolean":
        found.positive = next((value for value in classes if str(value).strip().lower() in TRUE), least)
        found.said.append(f"{found.positive!r} counts as yes: `positive` of config/data.yaml says so")


def _settle_role(one: Found, found: Adoption, distinct: int) -> None:
    """Say what a column that is not the target is; `distinct` rows of the file differ from each other."""
    kind, codes = one.keys["type"], one.keys["type"] in ("text", "integer")
    direct = bool(NAME.fullmatch(one.words) or DIRECT.search(one.words))
    like_key = bool(KEYS.search(one.words))
    unique = codes and not one.missing and one.distinct == distinct > found.rows / 2
    if direct or PERSONAL.search(one.words):
        one.keys["sensitive"] = True
        one.reasons.append("describes a person, by its name")
    if one.distinct < 2 and not (one.distinct and one.missing):
        one.set_aside("ignore", "the same in every row" if one.distinct else "has no value in any row")
    elif codes and direct:
        one.set_aside("ignore", "names a person directly")
    elif unique and found.key is None and (like_key or one.runs_on or _is_code(one)):
        found.key = one.name
        one.set_aside("ignore", "the key: another value in each row")
    elif unique and (kind == "text" or one.runs_on):
        one.set_aside("ignore", "another value in each row")
    elif codes and like_key and one.distinct > ONE_HOT:
        one.set_aside("ignore", f"named like an identifier, with {one.distinct} values")
    elif kind == "text" and (one.distinct > ONE_HOT or one.distinct * found.rows > CELLS):
        one.set_aside("ignore", f"{one.distinct} different texts, too many to learn from")
    elif kind == "text" and 2 * one.distinct > found.rows - one.missing and one.distinct > LISTED:
        one.set_aside("ignore", "another text in almost every row")
    elif kind == "text" and one.distinct <= LISTED and min(one.counts.values()) >= OFTEN:
        one.keys["values"] = sorted(one.counts)
        one.reasons.append(f"{one.distinct} values; others are refused in training")


def _is_code(one: Found) -> bool:
    """Whether it holds texts of one word each, as a key that is not named like one does."""
    return one.keys["type"] == "text" and not pc.any(pc.match_substring_regex(one.values, r"\S\s+\S")).as_py()
