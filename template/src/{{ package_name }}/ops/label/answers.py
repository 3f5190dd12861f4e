"""The answers of people: taken in from files with where they came from, and weighed against each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Column, Data, Settings, Task
from ..contract import ProjectError
from ..pages import hint
from .formats import Answer, Said, moment, plain, read_answers, said_in, text, write_answers


class Labels(Settings):
    """`config/labels.yaml`: what counts when people label rows."""

    guide: str = ""
    judge: str | None = None
    tolerance: float = Field(default=0, ge=0)


@dataclass(frozen=True)
class Standing:
    """What people say of each row: the latest answer of each annotator counts."""

    said: dict[str, dict[str, str]]
    """Key, annotator, label."""
    accepted: dict[str, str]
    """Key and label of the rows on which people agree, or which the judge has answered."""

    @property
    def conflicts(self) -> dict[str, dict[str, str]]:
        """Rows on which people disagree; they teach nothing."""
        return {key: said for key, said in self.said.items() if key not in self.accepted}

    @property
    def shared(self) -> list[list[str]]:
        """The labels of each row that several people answered."""
        return [list(said.values()) for said in self.said.values() if len(said) > 1]


@dataclass(frozen=True)
class Taken:
    """What became of a file of answers."""

    added: int
    known: int
    """Answers that were there before."""
    empty: int
    """Rows without an answer: not labelled yet, or skipped."""


def key_of(data: Data) -> str:
    """Return the name of the key; raises ProjectError where there is none."""
    if data.key is None:
        raise ProjectError("config/data.yaml: labels need a `key`; name the column that is different in every row")
    return data.key


def take_in(path: Path, by: str, data: Data, keys: Collection[str], allowed: Collection[str] | None) -> Taken:
    """Add the answers in a file to labels/answers.csv, all or none; what was taken in before is not added again.

    `keys` are those of all rows, `allowed` the classes (nothing for a quantity).

    Raises ProjectError naming the row or the task that is wrong: unknown key, unknown class, wrong type, out of range.
    """
    key, target = (data.columns[name].as_input(name, nulls=False) for name in (key_of(data), data.target))
    said, empty, digest = said_in(path, key.name, by)
    before, now = read_answers(), datetime.now(UTC)
    added: dict[tuple[str, str, str], Answer] = {}
    earlier = {(a.key, a.annotator, a.label, mark) for a in before for mark in (a.sha256, a.answered)}
    latest = {(a.key, a.annotator): a.label for a in sorted(before, key=lambda a: a.answered)}
    for one in said:
        of, what = plain(one.key, key, one.where), plain(one.label, target, one.where)
        if allowed and what not in allowed:  # the blanks around a class are lost in a CSV file
            what = next((name for name in allowed if name.strip() == what.strip()), what)
        if of not in keys:
            raise ProjectError(f"{one.where}: {key.name} {of!r} is of no row; add such rows to a source first")
        _refuse_value(what, one, data.columns[target.name], allowed)
        answer = Answer(of, what, one.annotator, moment(one, now), path.name, digest)
        same = {(of, one.annotator, what, mark) for mark in (digest, answer.answered)}
        if same.isdisjoint(earlier) and (one.answered or latest.get((of, one.annotator)) != what):
            twice = added.setdefault((of, one.annotator, answer.answered), answer)
            if twice.label != what:
                both = f"{twice.label!r} and {what!r}"
                raise ProjectError(f"{one.where}: {one.annotator} answers {key.name} {of} twice, with {both}")
    if added:
        write_answers([*before, *added.values()])
    return Taken(len(added), len(said) - len(added), empty)


def _refuse_value(value: str, said: Said, column: Column, allowed: Collection[str] | None) -> None:
    if allowed is not None and value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ProjectError(f"{said.where}: {value!r} is none of the classes {known}{hint(value, allowed)}")
    for bound, side, sign in ((column.min, "below the minimum", 1), (column.max, "above the maximum", -1)):
        if isinstance(bound, float) and sign * float(value) < sign * bound:
            raise ProjectError(f"{said.where}: {value} is {side} of {text(bound, 'number')} in config/data.yaml")


def standing(answers: Sequence[Answer], data: Data, settings: Labels) -> Standing:
    """Weigh every answer: what people agree on is accepted, and so is what the judge of config/labels.yaml says."""
    said: dict[str, dict[str, str]] = {}
    for answer in sorted(answers, key=lambda answer: (answer.key, answer.annotator, answer.answered)):
        said.setdefault(answer.key, {})[answer.annotator] = answer.label
    middle = median_low if data.columns[data.target].type == "integer" else median
    is_number = data.columns[data.target].type in ("number", "integer") and settings.tolerance > 0
    accepted = {}
    for key, labels in said.items():
        every = sorted(set(labels.values()))
        if settings.judge in labels:
            accepted[key] = labels[settings.judge]
        elif len(every) == 1:
            accepted[key] = every[0]
        elif is_number and np.ptp([float(value) for value in every]) <= settings.tolerance:
            accepted[key] = text(middle(map(float, labels.values())), "number")
    return Standing(said, accepted)


def agreement(shared: Sequence[Sequence[str]], task: Task) -> float | None:
    """Return Krippendorff's alpha of the labels of each row that several people answered: 1 is perfect, 0 is chance.

    Nominal for classes, interval for quantities (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).
    Nothing where there is no such row, or all labels are equal.
    """
    spellings = sorted({value for values in shared for value in values})
    numbers = np.array([[float(v)] for v in spellings]) if task == "regression" else np.eye(len(spellings))
    rated = [numbers[[spellings.index(value) for value in values]] for values in shared]
    total = sum(map(len, rated))
    expected = _apart(np.concatenate(rated)) / (total - 1) if rated else 0.0
    return float(1 - sum(_apart(row) / (len(row) - 1) for row in rated) / expected) if expected > 0 else None


def _apart(values: NDArray[np.float64]) -> float:
    """Return the sum of the squared distances of all pairs of rows."""
    return float(len(values) * (values**2).sum() - (values.sum(axis=0) ** 2).sum())
