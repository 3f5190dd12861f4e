"""Reproduction: a recorded run is done again in a clone that is thrown away, and compared with its record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser, Error
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..collect.sources import RAW
from ..collect.versions import digest as version_of
from ..collect.versions import restore
from ..config import ANSWERS, PACKAGE
from ..contract import ProjectError
from . import run
from .run import Run, digest, git

METRICS = Path("build/evaluation/metrics.json")
STAGES = ("process", "train", "evaluate")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def reproduce(record: Run, threads: str, say: Callable[[str], None]) -> None:
    """Do a run again at its commit, on its data, in the present environment.

    `threads` is a number, or "" for as many as there are. Raises ProjectError where the run cannot be brought back, or
    naming everything in which it differs from its record.
    """
    if threads and not re.fullmatch("[1-9][0-9]{0,3}", threads):
        raise ProjectError(f"THREADS={threads}: should be a whole number above 0")
    refuse_lost(record)
    with TemporaryDirectory(prefix="reproduce-") as folder:
        place = _cloned(record, Path(folder))
        say(f"bringing back version {record.data['version']} of the data")
        with chdir(place):
            restore(record.data["version"], set())
        refuse_different(record, [*_settings(record, place), *_data(record, place)])
        for stage in STAGES:
            say(_ran(stage, place, threads))
        refuse_different(record, [*_environment(record), *results(record, place)])
    used = f" (THREADS={threads}, then {record.threads})" if threads else ""
    say(f"run {record.id} is reproduced: predictions {record.prediction[:12]}{used}")


def refuse_different(record: Run, differences: Sequence[str]) -> None:
    """Raise ProjectError naming every difference, if there is one."""
    if differences:
        told = "\n".join(f"  {difference}" for difference in differences)
        raise ProjectError(f"run {record.id} is not what is here now:\n{told}")


def refuse_lost(record: Run) -> None:
    """Raise ProjectError for a run that no commit of this repository can bring back."""
    if record.dirty:
        raise ProjectError(
            f"run {record.id} was made from files that were not committed ({', '.join(record.dirty)}): it is lost; "
            "commit, run `make pipeline`, and reproduce the new run"
        )
    try:
        git("cat-file", "-e", f"{record.commit}^{{commit}}")
    except ProjectError:
        raise ProjectError(
            f"run {record.id} belongs to commit {record.commit[:12]}, which this repository does not have: `git fetch`"
        ) from None


def _cloned(record: Run, folder: Path) -> Path:
    """Clone the repository at the run's commit, with this project's cache and remotes; return the project in it."""
    git("clone", "--quiet", "--shared", "--no-checkout", git("rev-parse", "--show-toplevel").strip(), str(folder))
    git("checkout", "--quiet", "--detach", record.commit, folder=folder)
    place = folder / git("rev-parse", "--show-prefix").strip()
    settings = ConfigParser(interpolation=None)
    settings["cache"] = {"dir": "cache"}
    try:
        settings.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    except Error as error:
        raise ProjectError(f".dvc/config: cannot be read ({error.message})") from None
    for section in settings.values():
        for key in section.keys() & {"dir", "url"}:
            if "://" not in section[key]:
                section[key] = str((Path(".dvc") / section[key]).resolve())  # as DVC reads it, from where it stands
    with (place / ".dvc/config.local").open("w", encoding="utf-8") as file:
        settings.write(file)
    return place


def _settings(record: Run, place: Path) -> Iterator[str]:
    with chdir(place):
        now, seed = run.parameters(), run.seed()
    if seed != record.seed:
        yield f"seed: {record.seed} in the record, {seed} in config/model.yaml of commit {record.commit[:12]}"
    for page in sorted(now.keys() | record.parameters.keys()):
        for name, ours, theirs in _unlike(now.get(page), record.parameters.get(page), f"config/{page}.yaml"):
            yield f"{name}: {theirs} in the record, {ours} in commit {record.commit[:12]}"
    labels = digest(place / ANSWERS) if (place / ANSWERS).is_file() else None
    if labels != record.labels:
        yield f"labels: {record.labels} in the record, {labels} in commit {record.commit[:12]}"
    if (lock := digest(place / run.LOCK)) != record.lock:
        yield f"lock: uv.lock is {record.lock[:12]} in the record, {lock[:12]} in commit {record.commit[:12]}"


def _environment(record: Run) -> Iterator[str]:
    if (lock := digest(run.LOCK)) != record.lock:
        yield f"lock: uv.lock is {record.lock[:12]} in the record, {lock[:12]} in this project"
    libraries = run.environment()["libraries"]
    for name, ours, theirs in _unlike(libraries, record.environment["libraries"], ""):
        yield f"environment: {name} {theirs} in the record, {ours} installed"


def _data(record: Run, place: Path) -> Iterator[str]:
    if (now := version_of(place / RAW)) != f"{record.data['version']}.dir":
        yield f"data: version {record.data['version']} in the record, {now.removesuffix('.dir')} came back"
    for name, source in record.data["sources"].items():
        if (now := digest(place / RAW / f"{name}.parquet")) != source["sha256"]:
            yield f"data: source '{name}' is {source['sha256'][:12]} in the record, {now[:12]} came back"


def results(record: Run, place: Path) -> Iterator[str]:
    """Yield in what the results of a project's last run are not those of a record."""
    metrics = json.loads((place / METRICS).read_text(encoding="utf-8"))
    if metrics["predictions"] != record.prediction:
        yield f"predictions: {record.prediction[:12]} in the record, {metrics['predictions'][:12]} now"
    if metrics["kept"] != record.kept:
        yield f"kept model: {record.kept} in the record, {metrics['kept']} now"


def _unlike(ours: Any, theirs: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield every place in which two pages differ, with the values of both."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _unlike(ours.get(key), theirs.get(key), f"{name}, {key}" if name else str(key))
    elif ours != theirs:
        yield name, ours, theirs


def _ran(stage: str, place: Path, threads: str) -> str:
    """Run a stage with the code of the clone, and return what it says."""
    limits = dict.fromkeys(THREADS, threads) if threads else {}
    environment = {**os.environ, **limits, "PYTHONPATH": str(place / "src")}
    command = [sys.executable, "-m", f"{PACKAGE.name}.ops", "stage", stage]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProjectError(f"stage {stage} of the reproduction failed: {done.stderr.strip().removeprefix('error: ')}")
    return done.stdout.strip()
