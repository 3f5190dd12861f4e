"""Each trait of a stranger's file by itself, from its adoption to an answer of the service."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request

import ask
import pytest
from conftest import commit, git, make, share_environment, well

pytestmark = [pytest.mark.life, pytest.mark.thorough]

ROWS = 400
Cells = list[Any]
Lived = Callable[[int, str], Path]


@dataclass
class Table:
    """A file in the making: the column `size` tells something of the target, `kind` and `count` little."""

    draw: random.Random
    columns: dict[str, Cells] = field(default_factory=dict)
    separator: str = ","
    encoding: str = "utf-8"
    ending: str = "\n"

    def each(self, *cells: Any) -> Cells:
        """Return a column of cells that are drawn from some."""
        return [self.draw.choice(cells) for _ in range(ROWS)]

    def change(self, name: str, how: Callable[[Any], Any]) -> None:
        """Write every cell of a column otherwise."""
        self.columns[name] = [how(cell) for cell in self.columns[name]]

    def gaps(self, name: str, *words: str) -> None:
        """Take every fifth value of a column away."""
        self.change(name, lambda cell: self.draw.choice(words) if self.draw.random() < 0.2 else cell)

    def bytes(self) -> bytes:
        """Return the file."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=self.separator, lineterminator=self.ending)
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return text.getvalue().encode(self.encoding)


def missing(table: Table) -> None:
    for name in ("size", "kind", "count"):
        table.gaps(name, "")


def decimal_commas(table: Table) -> None:
    table.separator = ";"
    for name, cells in table.columns.items():
        if all(isinstance(cell, float) for cell in cells):
            table.change(name, lambda cell: str(cell).replace(".", ","))


def names(table: Table) -> None:
    renamed = {"size": "Größe in m", "kind": "type d'été", "count": " n° (total)"}
    table.columns = {renamed.get(name, name): cells for name, cells in table.columns.items()}


def dates(table: Table) -> None:
    days = [date(2021, 1, 1) + timedelta(days=2 * row) for row in range(ROWS)]
    table.columns |= {"seen on": [f"{day:%d.%m.%Y}" for day in days], "due": [f"{day:%Y-%m-%d 17:45}" for day in days]}
    table.gaps("due", "")


def booleans(table: Table) -> None:
    spellings = {"a": ("ja", "nein"), "b": ("T", "F"), "c": ("YES", "no"), "d": (1, 0), "e": ("oui", "non")}
    table.columns |= {name: table.each(*both) for name, both in spellings.items()}


def many_values(table: Table) -> None:
    table.columns |= {
        "town": [f"town {table.draw.randint(0, 60)}" for _ in range(ROWS)],
        "street": [f"street {table.draw.randint(0, 900)}" for _ in range(ROWS)],
        "order_id": [f"o{row}" for row in range(ROWS)],
    }


def gives_away(table: Table) -> None:
    table.columns["settled"] = list(table.columns["answer"])


def twice(table: Table) -> None:
    table.columns = {name: [*cells[: ROWS // 2], *cells[: ROWS // 2]] for name, cells in table.columns.items()}


def rare(table: Table) -> None:
    answers = table.columns["answer"]
    if len(set(answers)) == 2:
        table.columns["answer"] = [max(answers) if row % 20 == 0 else min(answers) for row in range(ROWS)]
    elif len(set(answers)) < 10:
        table.columns["answer"] = ["rare" if row % 100 == 0 else answer for row, answer in enumerate(answers)]


def lines_in_cells(table: Table) -> None:
    table.ending = "\r\n"
    table.columns["kind"] = table.each('a, "b"', "c\nd", "e\r\nf")


def without_target(table: Table) -> None:
    table.gaps("answer", "", " ")


TRAITS: Mapping[str, Callable[[Table], None]] = {
    "as usual": lambda _: None,
    "missing values": missing,
    "numbers with blanks": lambda table: table.gaps("size", "", " ", "n/a"),
    "semicolons and decimal commas": decimal_commas,
    "UTF-8 with a mark": lambda table: setattr(table, "encoding", "utf-8-sig"),
    "Latin-1": lambda table: setattr(table, "encoding", "latin-1"),
    "dates": dates,
    "booleans in several spellings": booleans,
    "many values": many_values,
    "the same in every row": lambda table: table.columns.update(land=["DE"] * ROWS),
    "an empty column": lambda table: table.columns.update(empty=[""] * ROWS),
    "gives the target away": gives_away,
    "rows twice": twice,
    "spaces and accents in names": names,
    "rare answers": rare,
    "line ends in cells": lines_in_cells,
    "rows without a target": without_target,
}
ANSWERS: Mapping[str, tuple[str, Callable[[float, random.Random], Any]]] = {
    "two classes": ("classification", lambda size, draw: "kündigt" if size + draw.gauss(0, 0.1) > 1.75 else "bleibt"),
    "many classes": (
        "classification",
        lambda size, draw: "abcd"[min(max(int((size + draw.gauss(0, 0.02) - 1.5) * 10), 0), 3)],
    ),
    "a quantity": ("regression", lambda size, draw: round(1000 * size + draw.gauss(0, 50), 2)),
}
OF_THE_TARGET = ("as usual", "gives the target away", "rare answers", "rows without a target")
CASES = [
    (trait, answer)
    for place, trait in enumerate(TRAITS)
    for answer in (ANSWERS if trait in OF_THE_TARGET else [list(ANSWERS)[place % len(ANSWERS)]])
]
"""What concerns the target with every kind of it, the rest with each kind in turn."""


def strangers(trait: str, answer: str) -> bytes:
    """Return a file with one trait."""
    draw, (_, rule) = random.Random(trait), ANSWERS[answer]
    sizes = [round(draw.gauss(1.7, 0.1), 3) for _ in range(ROWS)]
    table = Table(draw)
    table.columns = {
        "size": sizes,
        "kind": table.each("klein", "groß", "riesig"),
        "count": table.each(1, 2, 3, 5, 8),
        "answer": [rule(size + draw.gauss(0, 0.03), draw) for size in sizes],
    }
    TRAITS[trait](table)
    return table.bytes()


@pytest.fixture(scope="module")
def homes(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the project of a task, as it is after its first training."""
    known: dict[str, Path] = {}

    def _home(task: str) -> Path:
        if task not in known:
            source, known[task] = lived(1, task), tmp_path_factory.mktemp(task) / "project"
            shutil.copytree(source, known[task], ignore=shutil.ignore_patterns(".venv", ".git", "raw"), symlinks=True)
            share_environment(source, known[task])
            commit(known[task], "Start the project")
        git(known[task], "reset", "--quiet", "--hard")
        git(known[task], "clean", "--quiet", "--force", "-d", "--exclude=.venv")
        return known[task]

    return _home


@pytest.mark.parametrize(("trait", "answer"), CASES)
def test_a_trait(homes: Callable[[str], Path], tmp_path: Path, trait: str, answer: str) -> None:
    project, file = homes(ANSWERS[answer][0]), tmp_path / "rows.csv"
    file.write_bytes(strangers(trait, answer))
    well(make(project, "adopt", f"DATA={file}", "TARGET=answer"))
    report = project / "reports" / "report.html"
    report.unlink(missing_ok=True)
    well(make(project, "train"))
    assert report.stat().st_size > 10_000
    well(make(project, "predict", f"INPUT={file}", "OUTPUT=outputs/scored.csv"))
    with (project / "outputs/scored.csv").open(encoding="utf-8", newline="") as scored:
        predicted = [row["prediction"] for row in csv.DictReader(scored)]
    assert len(predicted) == ROWS
    assert all(predicted)
    assert len(set(predicted)) > 1 or trait == "rare answers", "the model tells rows apart"
    well(make(project, "contract"))
    with ask.service(project) as address:
        request = Request(f"{address}/invocations", file.read_bytes(), {"Content-Type": "text/csv"})
        with ask.direct.open(request, timeout=60) as reply:
            assert [str(one) for one in json.load(reply)["predictions"]] == predicted
