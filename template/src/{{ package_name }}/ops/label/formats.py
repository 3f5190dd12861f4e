"""The files of labelling: answers come in as CSV or as Label Studio's export; a queue goes out as CSV and as its tasks.

Formats: labelstud.io/guide/task_format (export), /guide/predictions (tasks), /tags (interface).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from ..config import ANSWERS
from ..contract import Array, ProjectError
from ..files import atomic, sha256
from ..pages import hint
from ..scorer import Input, from_values, wanted

QUEUE = Path("labels/queue.csv")
TASKS = Path("labels/tasks.json")
INTERFACE = Path("labels/interface.xml")
FILLED_IN = ("label", "annotator", "answered")
"""Columns of a file of answers, beside the key; the last one may be left out."""
ADDED = ("prediction", "uncertainty", *FILLED_IN)
"""Columns of the queue, beside the key and the inputs."""


@dataclass(frozen=True, order=True)
class Answer:
    """One line of labels/answers.csv: what one person said of one row, and which file told so."""

    key: str
    label: str
    annotator: str
    answered: str
    """When, in UTC."""
    file: str
    sha256: str


@dataclass(frozen=True)
class Said:
    """One answer as a file has it."""

    where: str
    """File and row, or task, for messages."""
    key: Any
    label: Any
    annotator: str
    answered: str | None


def text(value: Any, kind: str) -> str:
    """Write a typed value of a column (see `Columns` in `contract`) as text: `12`, `0.5`, `true`, or nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.datetime64):
        return "" if np.isnat(value) else str(value.astype(datetime).isoformat())
    if np.isnan(value):
        return ""
    if kind == "boolean":
        return "true" if value else "false"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def texts(values: Array, kind: str) -> list[str]:
    """Write a column as text."""
    return [text(value, kind) for value in values]


def plain(value: Any, column: Input, where: str) -> str:
    """Return a key or a label in the one spelling of its type, so that equal values are equal texts.

    Raises ProjectError with the place where the value stands, if it is not of the type.
    """
    try:
        return text(from_values(column, [value])[0], column.type)
    except ProjectError:
        raise ProjectError(f"{where}: {value!r} is not {wanted(column)}, as '{column.name}' should be") from None


def read_answers(path: Path = ANSWERS) -> list[Answer]:
    """Return every answer, or none without a file; raises ProjectError for a line that is none."""
    if not path.is_file():
        return []
    names = [field.name for field in fields(Answer)]
    advice = f"restore it from git, for instance with `git checkout HEAD -- {path}`"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ProjectError(f"{path}: cannot be read ({error}); {advice}") from None
    for number, line in enumerate([header, *lines], start=1):
        if len(line) != len(names) or (number == 1 and line != names):
            raise ProjectError(f"{path}, line {number}: should hold {', '.join(names)}; {advice}")
    return [Answer(*line) for line in lines]


def write_answers(answers: Sequence[Answer], path: Path = ANSWERS) -> None:
    """Write every answer, sorted, so that the same answers are the same bytes."""
    with atomic(path) as temporary:
        rows = [[field.name for field in fields(Answer)], *map(astuple, sorted(answers))]
        temporary.write_text(as_csv(rows), encoding="utf-8", newline="")


def version(path: Path = ANSWERS) -> str | None:
    """Return the SHA-256 of the answers, or nothing while there are none."""
    return sha256(path) if path.is_file() else None


def said_in(path: Path, key: str, by: str) -> tuple[list[Said], int, str]:
    """Return the answers in a CSV file or in a JSON export of Label Studio, how many rows have none, and its SHA-256.

    `by` is the annotator of answers without one. Raises ProjectError naming what is missing or damaged, and where.
    """
    try:
        content = path.read_bytes()
        written = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProjectError(f"{path}: not UTF-8 text; save it as CSV UTF-8") from None
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not written.strip():
        raise ProjectError(f"{path}: the file is empty")
    found = list(_of_export(path, written) if path.suffix == ".json" else _of_csv(path, written, key))
    answers = [said for said in found if said.label not in (None, "")]
    for said in answers:
        if not (said.annotator or by):
            raise ProjectError(f"{said.where}: nobody is named as annotator; say who answered: BY=name")
    named = [Said(s.where, s.key, s.label, s.annotator or by, s.answered) for s in answers]
    return named, len(found) - len(answers), hashlib.sha256(content).hexdigest()


def _of_csv(path: Path, written: str, key: str) -> Iterator[Said]:
    first = written.splitlines()[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(StringIO(written, newline=""), delimiter=separator, strict=True)
    header = list(reader.fieldnames or ())
    for name in (key, "label"):
        if name not in header:
            more = hint(name, header)
            raise ProjectError(f"{path}: column '{name}' is missing (found: {', '.join(header)}){more}")
    try:
        for number, row in enumerate(reader, start=1):
            where = f"{path}, row {number}"
            if None in row or None in row.values():
                raise ProjectError(f"{where}: should have {len(header)} values, as the first line has")
            cells = {name: value.strip() for name, value in row.items()}
            yield Said(where, row[key], cells["label"], cells.get("annotator", ""), cells.get("answered") or None)
    except csv.Error as error:
        raise ProjectError(f"{path}, line {reader.line_num}: not readable CSV ({error})") from None


def _of_export(path: Path, written: str) -> Iterator[Said]:
    try:
        tasks = json.loads(written)
    except ValueError as error:
        raise ProjectError(f"{path}: not JSON, or cut off ({error}); export it again") from None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise ProjectError(f"{path}: not a list of tasks with annotations; export as JSON (not JSON-MIN)")
    for task in tasks:
        where = f"{path}, task {task.get('id')}"
        try:
            key, annotations = task["data"]["key"], list(task["annotations"])
        except (KeyError, TypeError):
            raise ProjectError(f"{where}: its data have no 'key'; the tasks to import are {TASKS}") from None
        if not annotations:
            yield Said(where, key, None, "", None)
        for annotation in annotations:
            try:
                yield _of_annotation(f"{where}, annotation {annotation.get('id')}", key, annotation)
            except (KeyError, TypeError, AttributeError, IndexError):
                raise ProjectError(f"{where}: an annotation is not as Label Studio exports it; export again") from None


def _of_annotation(where: str, key: Any, annotation: dict[str, Any]) -> Said:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who["id"]
    annotator = f"user {who}" if isinstance(who, int) else who or ""
    answered = annotation.get("updated_at") or annotation.get("created_at")
    given = [] if annotation.get("was_cancelled") else annotation["result"]
    if not given:
        return Said(where, key, None, annotator, answered)
    values = [result["value"] for result in given if result["from_name"] == "label"]
    if len(values) != 1:
        raise ProjectError(f"{where}: has {len(values)} results named 'label', not one; set it up with {INTERFACE}")
    if "number" in values[0]:
        return Said(where, key, values[0]["number"], annotator, answered)
    choices = values[0]["choices"]
    if len(choices) != 1:
        raise ProjectError(f"{where}: chooses {', '.join(map(repr, choices))}, and one answer is wanted")
    return Said(where, key, choices[0], annotator, answered)


def moment(said: Said, now: datetime) -> str:
    """Return when an answer was given, in UTC to the millisecond; now, if its file does not say."""
    try:
        given = datetime.fromisoformat(said.answered) if said.answered else now
    except (TypeError, ValueError):
        raise ProjectError(
            f"{said.where}: {said.answered!r} is no time such as 2013-01-31T17:45:00, as 'answered' should be"
        ) from None
    return given.replace(tzinfo=given.tzinfo or UTC).astimezone(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Interface:
    """How Label Studio asks: one of the classes, or a number."""

    target: Input
    guide: str
    classes: Sequence[str] | None

    def task(self, row: Mapping[str, str], said: str, version: str) -> dict[str, Any]:
        """Return one row as a task, with what the model says; the key comes first."""
        kind, value = ("number", float(said)) if self.classes is None else ("choices", [said])
        result = {"from_name": "label", "to_name": "row", "type": kind, "value": {kind: value}}
        data = {"key": next(iter(row.values())), "row": dict(row)}
        return {"data": data, "predictions": [{"model_version": version, "result": [result]}]}

    def xml(self) -> str:
        """Return the labelling interface."""
        unit, means = (f" ({self.target.unit})" if self.target.unit else ""), self.target.means
        view = ET.Element("View")
        ET.SubElement(view, "Header", value=self.target.name + unit + (f": {means}" if means else ""))
        ET.SubElement(view, "Header", value=self.guide, size="5")
        ET.SubElement(view, "Text", name="row", value="$key")
        ET.SubElement(view, "Table", name="columns", value="$row")
        asked: dict[str, str] = {"name": "label", "toName": "row", "required": "true"}
        if self.classes is None:
            ET.SubElement(view, "Number", asked, step="1" if self.target.type == "integer" else "any")
        else:
            choices = ET.SubElement(view, "Choices", asked, choice="single")
            for value in self.classes:
                ET.SubElement(choices, "Choice", value=value)
        ET.indent(view)
        return ET.tostring(view, encoding="unicode") + "\n"


def write_queue(
    rows: Mapping[str, list[str]], said: list[str], uncertainty: Iterable[float], view: Interface, version: str
) -> None:
    """Write the queue as CSV, as Label Studio's tasks, and as the labelling interface for them; all three, or none.

    `rows` are key (first) and inputs as text; `said` is what the model of that version predicts.
    """
    with atomic(QUEUE) as table, atomic(TASKS) as tasks, atomic(INTERFACE) as interface:
        to_fill_in = [[""] * len(said) for _ in FILLED_IN]
        columns = [*rows.values(), said, [f"{value:.6g}" for value in uncertainty], *to_fill_in]
        table.write_text(as_csv([[*rows, *ADDED], *zip(*columns, strict=True)]), encoding="utf-8", newline="")
        shown = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        listed = [view.task(row, answer, version) for row, answer in zip(shown, said, strict=True)]
        tasks.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        interface.write_text(view.xml(), encoding="utf-8")


def filled_in(path: Path = QUEUE) -> set[tuple[str, str]]:
    """Return key and label of the rows of a queue that somebody has filled in."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {(next(iter(row.values())), row["label"]) for row in csv.DictReader(file) if row.get("label")}


def as_csv(rows: Iterable[Sequence[str]]) -> str:
    """Write lines of values as CSV, quoted where they must be."""
    written = StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()
