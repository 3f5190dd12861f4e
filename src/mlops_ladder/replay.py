"""What an update does to the model: the newest run's data are trained on twice, with the code before and after.

Both trainings are done in clones that are thrown away, by the project's own commands in its own environment. So what
differs is what the update changed: data, libraries and the user's code are the same.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from configparser import ConfigParser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RefusedError
from .plan import Plan, Progress
from .repository import Repository, git

STAGES = ("process", "train", "evaluate")
EVALUATION = Path("build", "evaluation")
MODEL = Path("models", "model.onnx")
SAID = 300
"""Characters of what a failing command said that are passed on."""


@dataclass(frozen=True)
class Replay:
    """What came of a recorded run under the new template."""

    run: str
    rows: int
    changed: int
    """How many of the predictions of the test rows are others."""
    largest: float
    """The largest change of a number in them: a probability, or the quantity itself."""

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        what = f"Run {self.run}, trained again under the new template:"
        most = f" (a number in them by {self.largest:.3g} at most)" if self.largest else ""
        return f"{what} {self.changed:,} of {self.rows:,} predictions change{most}."


def replayed(plan: Plan, progress: Progress = lambda _: None) -> Replay | str | None:
    """Train the newest committed run again without and with a plan; None where the project has none.

    Returns a sentence where it cannot be done, or the training fails under the new template.
    """
    repository = Repository.of(plan.project)
    record = _newest(plan.project)
    if record is None or plan.empty:
        return None
    python = plan.project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    package = str(plan.answers.get("package_name", ""))
    if not python.is_file() or not package:
        return f"Run {record['id']} was not trained again: the project has no environment; `make setup` makes it."
    with tempfile.TemporaryDirectory(prefix="mlops-ladder-replay-") as folder:
        try:
            sides = {}
            for name, commit in (("before", repository.head), ("after", plan.commit)):
                progress(f"Training run {record['id']} again as it is {name} the update")
                sides[name] = _Side(_cloned(repository, commit, Path(folder, name)), python, package)
                sides[name].train(str(record["data"]["version"]))
            return _compared(str(record["id"]), sides["before"], sides["after"], Path(folder))
        except RefusedError as error:
            return f"Run {record['id']} could not be trained again: {error}"


@dataclass(frozen=True)
class _Side:
    place: Path
    python: Path
    package: str

    def train(self, version: str) -> None:
        """Bring the data back, run the stages, and put the model in its place."""
        self._ran("data", "--version", version)
        for stage in STAGES:
            self._ran("stage", stage)
        target = self.place / MODEL
        target.parent.mkdir(exist_ok=True)
        (self.place / EVALUATION / MODEL.name).replace(target)

    def predict(self, rows: Path, output: Path) -> list[dict[str, str]]:
        """Score a file."""
        self._ran("predict", "--input", str(rows), "--output", str(output))
        with output.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _ran(self, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(self.place / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(self.python), "-m", f"{self.package}.ops", *words]
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-SAID:].removeprefix("error: ")
            raise RefusedError(f"`{' '.join(words)}` failed {self.place.name} the update: {said}")


def _newest(project: Path) -> dict[str, Any] | None:
    """Return the record of the newest run that was made from what was committed; None where there is none."""
    for path in sorted((project / "runs").glob("*.json"), reverse=True):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record.get("dirty") and record.get("data"):
            return dict(record)
    return None


def _cloned(repository: Repository, commit: str, folder: Path) -> Path:
    """Clone the repository at a commit, with the project's own cache of data, and return the project in the clone."""
    git("clone", "--quiet", "--shared", "--no-checkout", "--", repository.top, folder)
    git("checkout", "--quiet", "--detach", commit, cwd=folder)
    place = folder / repository.inside
    settings = ConfigParser(interpolation=None)
    settings.read([repository.project / ".dvc" / name for name in ("config", "config.local")], encoding="utf-8")
    cache = (repository.project / ".dvc" / settings.get("cache", "dir", fallback="cache")).resolve()
    (place / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    return place


def _compared(run: str, before: _Side, after: _Side, folder: Path) -> Replay:
    """Score the test rows of the one training with both models."""
    rows = before.place / EVALUATION / "unseen.csv"
    old, new = before.predict(rows, folder / "before.csv"), after.predict(rows, folder / "after.csv")
    pairs = list(zip(old, new, strict=True))
    changed = sum(one["prediction"] != other["prediction"] for one, other in pairs)
    return Replay(run, len(pairs), changed, max((_distance(one, other) for one, other in pairs), default=0.0))


def _distance(one: Mapping[str, str], other: Mapping[str, str]) -> float:
    """Return the largest difference of a number that the models gave; a text that differs is told by the count."""
    found = 0.0
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            with suppress(ValueError):
                found = max(found, abs(float(one[name]) - float(other[name])))
    return found
