"""The record of a run: what went in, what came out, all that it takes to do it again; JSON in runs/, kept by git."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import yaml

from ..config import ANSWERS, Data, Model, load
from ..contract import ProjectError
from ..files import atomic, sha256
from ..scorer import MODEL
from . import events

RUNS = Path("runs")
LOCK, STAGES = Path("uv.lock"), Path("dvc.lock")
PAGES = ("model", "case", "data")
BOUND = ("dvc.lock", "runs", "data")
"""What a run makes, or binds by its hash: not being committed, it does not make a run dirty."""
CODE = ("src", "config", "labels")
"""Where a file that git does not know makes a run dirty."""


@dataclass(frozen=True)
class Run:
    """One run of the pipeline."""

    id: str
    """Time in UTC and the beginning of the key, such as 20261123-231455-1a2b3c4d."""
    key: str
    """Hash of all that went in and came out: two runs with one key are the same run."""
    commit: str
    dirty: list[str]
    """Files that were not as the commit has them; no commit can bring such a run back."""
    data: dict[str, Any]
    """`version`, and of each source its `rows` and `sha256`."""
    labels: str | None
    """SHA-256 of labels/answers.csv, where there is one."""
    lock: str
    """SHA-256 of uv.lock."""
    parameters: dict[str, Any]
    """What config/model.yaml, case.yaml and data.yaml say, by page."""
    seed: int
    environment: dict[str, Any]
    """`python`, `platform`, and the versions of the libraries that pyproject.toml names."""
    threads: int
    duration: float
    """Seconds."""
    metrics: dict[str, dict[str, float | None]]
    """Metric: `value`, `low` and `high` of the kept model."""
    kept: str
    """constant, linear or candidate."""
    model: str
    """SHA-256 of the model file."""
    prediction: str
    """Hash of its predictions on the test rows."""

    @property
    def path(self) -> Path:
        """Where the record lies."""
        return RUNS / f"{self.id}.json"


def records() -> list[Run]:
    """Return every run, newest first."""
    return [read(path) for path in sorted(RUNS.glob("*.json"), reverse=True)]


def found(name: str) -> Run:
    """Return the run with an id, the beginning of one, or the path of its record.

    Raises ProjectError where there is none or more than one.
    """
    path = Path(name)
    paths = [path] if path.suffix == ".json" and path.is_file() else sorted(RUNS.glob("*.json"))
    fit = [one for one in paths if one == path or one.stem.startswith(name)]
    if not name or len(fit) != 1:
        told = f"{len(fit)} runs begin so; give more of it" if name and fit else "is no run"
        raise ProjectError(f"RUN={name}: {told}; `make runs` lists them")
    return read(fit[0])


def read(path: Path) -> Run:
    """Read a record; raises ProjectError where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Run(**{field.name: content[field.name] for field in fields(Run)})
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ProjectError(f"{path}: is not the record of a run ({error!r}); bring it back from git") from None


def write(run: Run) -> None:
    """Write the record to runs/."""
    with atomic(run.path) as path:
        path.write_text(json.dumps(asdict(run), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def of(key: str) -> Run | None:
    """Return the run with this key, if there is one; the quick way to know that nothing has changed."""
    alike = (read(path) for path in sorted(RUNS.glob(f"*-{key[:8]}.json")))
    return next((run for run in alike if run.key == key), None)


def key(dirty: list[str]) -> str:
    """Return the key of what the pipeline has just made: every stage's command and what it read.

    A run whose tests failed stands no longer when more is committed than what it made: the same makes another run.
    """
    stages = yaml.safe_load(STAGES.read_text(encoding="utf-8"))["stages"].values()
    told = json.dumps([[{**s, "outs": 0} for s in stages], digest(LOCK), bool(dirty)], sort_keys=True, default=str)
    own = hashlib.sha256(told.encode()).hexdigest()
    while (before := of(own)) and events.last("unfit", run=before.id) and committed_since(before):
        own = hashlib.sha256(f"{own} {before.id}".encode()).hexdigest()
    return own


def committed_since(run: Run) -> bool:
    """Whether more was committed since a run than what it made."""
    try:
        return bool(git("diff", "--name-only", "--relative", run.commit, "HEAD", "--", ".", *_but(BOUND)))
    except ProjectError:  # git does not have its commit any more
        return True


def made(dirty: list[str], version: str, sources: dict[str, Path], duration: float) -> Run:
    """Return the record of what the pipeline has just made of the collected files of a data version."""
    import pyarrow.parquet as pq

    metrics = json.loads(Path("reports/metrics.json").read_text(encoding="utf-8"))
    rows = {name: {"rows": pq.read_metadata(path).num_rows, "sha256": digest(path)} for name, path in sources.items()}
    own = key(dirty)
    return Run(
        id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{own[:8]}",
        key=own,
        commit=commit(),
        dirty=dirty,
        data={"version": version, "sources": rows},
        labels=digest(ANSWERS) if ANSWERS.is_file() else None,
        lock=digest(LOCK),
        parameters=parameters(),
        seed=seed(),
        environment=environment(),
        threads=int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        duration=round(duration, 1),
        metrics={metric: measured[metrics["kept"]] for metric, measured in metrics["metrics"].items()},
        kept=metrics["kept"],
        model=digest(MODEL),
        prediction=metrics["predictions"],
    )


def parameters() -> dict[str, Any]:
    """Return what the pages of config/ say that a model depends on."""
    pages = {name: yaml.safe_load(Path(f"config/{name}.yaml").read_text(encoding="utf-8")) for name in PAGES}
    return dict(json.loads(json.dumps(pages, default=str)))


def seed() -> int:
    """Return the seed of config/model.yaml."""
    return load(Model).seed


def environment() -> dict[str, Any]:
    """Return Python, platform, and the installed versions of the libraries that pyproject.toml names."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    groups = project.get("dependency-groups", {}).values()
    asked = [*project["project"]["dependencies"], *(line for group in groups for line in group)]
    names = {match[0] for line in asked if isinstance(line, str) and (match := re.match(r"[\w.-]+", line))}
    libraries = {}
    for name in sorted(names):
        try:
            libraries[name] = installed(name)
        except PackageNotFoundError:
            libraries[name] = "not installed"
    return {"python": platform.python_version(), "platform": platform.platform(), "libraries": libraries}


def commit() -> str:
    """Return the commit that the project stands on.

    Raises ProjectError where git does not know the project.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", "HEAD").strip()
    except ProjectError:
        raise ProjectError("the project has no commit yet, and a run names one: `make setup` makes the first") from None


def uncommitted() -> list[str]:
    """Return the files that are not as the last commit has them, where that changes what no hash binds."""
    sources = [source for source in load(Data).source.values() if isinstance(source, str) and "://" not in source]
    changed = git("diff", "--name-only", "--relative", "-z", "HEAD", "--", ".", *_but((*BOUND, *sources)))
    new = git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    return sorted({name for name in (changed + new).split("\0") if name})


def _but(names: Iterable[str]) -> list[str]:
    return [f":(exclude,literal){name}" for name in names]


def git(*words: str, folder: Path = Path()) -> str:
    """Run git and return what it says; raises ProjectError where it refuses."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ProjectError("git is not on this machine; install it, runs are bound to its commits") from None
    if done.returncode != 0:
        raise ProjectError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; raises ProjectError where it is not there."""
    if not path.is_file():
        raise ProjectError(f"{path}: not found; it should be there, see `git status`")
    return sha256(path)
