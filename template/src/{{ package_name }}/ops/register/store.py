"""The registry's store: MLflow, with its database and files in the project unless MLFLOW_TRACKING_URI names another.

Files lie under `mlartifacts/` and are named relative to it, as `mlflow server` has it: the project's folder may move.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from ..config import PACKAGE, UnfinishedError, masked
from ..contract import ProjectError
from ..files import put_in_place, scratch
from .events import who
from .run import Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NAME = PACKAGE.name.replace("_", "-")
"""Of the experiment and of the registered model."""
DATABASE, ARTIFACTS, COPIES = Path("mlflow.db"), Path("mlartifacts"), Path("models/versions")
MODEL = "model.onnx"
SCHEME = "mlflow-artifacts:/"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Which of its pages MLflow shows."""
PARAMETERS = 100
"""Most parameters that MLflow takes at once."""
ANSWER = 10
"""Seconds in which another store has to answer."""


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    number: int
    run: str
    """Id of the run record."""
    key: str
    digest: str
    """SHA-256 of the model file."""
    data: str
    commit: str
    dirty: bool
    """Whether it was trained from files that no commit holds."""
    aliases: frozenset[str]
    source: str
    """MLflow's address of the run's files."""
    tracked: str
    """Id of MLflow's own run."""

    @property
    def local(self) -> Path | None:
        """Where the model file lies in the project; None where another store keeps it."""
        folder = _local(self.source)
        return folder / MODEL if folder is not None else None


def exists() -> bool:
    """Whether there is a store to read from."""
    return not is_own() or DATABASE.exists()


def is_own() -> bool:
    """Whether the store is the project's own."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def create() -> None:
    """Make the project's own store: whole or not at all."""
    with scratch(DATABASE.parent) as folder, _quiet():
        from mlflow.tracking import MlflowClient

        address = f"sqlite:///{(folder / DATABASE.name).as_posix()}"
        MlflowClient(address, address).create_experiment(NAME, SCHEME + NAME, KIND)
        put_in_place({DATABASE: folder / DATABASE.name})


@contextmanager
def opened() -> Iterator[MlflowClient]:
    """Open the store; raises UnfinishedError in seconds where it does not answer, ProjectError for what it refuses."""
    address = os.environ.get("MLFLOW_TRACKING_URI") or _own_address()
    _refuse_silent(address)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with _quiet():
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield MlflowClient(address)
        except (MlflowException, SQLAlchemyError) as error:
            first = str(error).partition("\n")[0][:300]
            raise ProjectError(f"MLflow at {masked(address)} refuses: {first}") from None


def versions(client: MlflowClient) -> list[Version]:
    """Return every registered version, newest first."""
    found = client.search_model_versions(f"name = '{NAME}'", max_results=10_000)
    model = client.get_registered_model(NAME) if found else None
    aliases: dict[int, set[str]] = {}
    for alias, number in (model.aliases if model else {}).items():
        aliases.setdefault(int(number), set()).add(alias)
    return sorted(
        (
            Version(
                number=int(version.version),
                **{name: version.tags.get(name, "") for name in ("run", "key", "digest", "data", "commit")},
                dirty=version.tags.get("dirty") != "no",
                aliases=frozenset(aliases.get(int(version.version), ())),
                source=version.source or "",
                tracked=version.run_id or "",
            )
            for version in found
        ),
        key=lambda version: -version.number,
    )


def metrics(client: MlflowClient) -> dict[str, dict[str, float]]:
    """Return the metrics of MLflow's runs by name, newest run first; an interval ends at `name_low` and `name_high`."""
    known = client.get_experiment_by_name(NAME)
    runs = client.search_runs([known.experiment_id], max_results=1000) if known else ()
    return {run.info.run_id: run.data.metrics for run in runs}


def add(client: MlflowClient, run: Run, files: Mapping[str, Path]) -> int:
    """Track a run with its files, by their names, and register its model; what a killed process began is finished."""
    from mlflow.exceptions import MlflowException

    tracked = _track(client, run, files)
    try:
        client.create_registered_model(NAME)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"run": run.id, "key": run.key, "digest": run.model, "data": run.data["version"], "commit": run.commit or ""}
    version = client.create_model_version(
        NAME,
        source=client.get_run(tracked).info.artifact_uri,
        run_id=tracked,
        tags={**tags, "dirty": "yes" if run.dirty else "no"},
        await_creation_for=0,
    )
    return int(version.version)


def model_file(client: MlflowClient, version: Version) -> Path:
    """Return where a version's model lies; one that another store keeps is copied into the project first."""
    if version.local is not None:
        return version.local
    copy = COPIES / f"{version.digest}.onnx"
    if not copy.exists():
        with scratch(COPIES) as folder:
            put_in_place({copy: Path(client.download_artifacts(version.tracked, MODEL, str(folder)))})
    return copy


def flattened(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Return nested settings under dotted names that MLflow allows."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = before + re.sub(r"[^\w\-. ]", "_", str(key))
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name[:250]: str(value)[:6000]}
    return flat


def _track(client: MlflowClient, run: Run, files: Mapping[str, Path]) -> str:
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(NAME)
    place = SCHEME + NAME if is_own() else None
    experiment = known.experiment_id if known else client.create_experiment(NAME, place, KIND)
    begun = client.search_runs([experiment], f"tags.key = '{run.key}'", max_results=1)
    end = _ended(run)
    start = end - round(1000 * run.duration)
    tracked = begun[0] if begun else client.create_run(experiment, start, _tags(run), run.id)
    number = tracked.info.run_id
    parameters = [Param(name, value) for name, value in flattened(run.parameters["model"]).items()]
    metrics = [Metric(name, value, end, 0) for name, value in _measured(run).items()]
    for first in range(0, len(parameters), PARAMETERS):
        client.log_batch(number, params=parameters[first : first + PARAMETERS])
    client.log_batch(number, metrics=metrics)
    for name, file in files.items():
        _keep(client, tracked.info, name, file)
    client.set_terminated(number, end_time=end)
    return str(number)


def _keep(client: MlflowClient, info: Any, name: str, file: Path) -> None:
    folder = _local(info.artifact_uri)
    if folder is not None:
        put_in_place({folder / name: file})
        return
    with scratch(COPIES) as named:
        copyfile(file, named / name)
        client.log_artifact(info.run_id, str(named / name))


def _local(address: str) -> Path | None:
    return ARTIFACTS / address.removeprefix(SCHEME) if is_own() and address.startswith(SCHEME) else None


def _tags(run: Run) -> dict[str, str]:
    return {
        "key": run.key,
        "commit": run.commit or "",
        "dirty": "yes" if run.dirty else "no",
        "data": run.data["version"],
        "lock": run.lock,
        "kept": run.kept,
        "mlflow.source.git.commit": run.commit or "",
        "mlflow.source.name": "make train",
        "mlflow.user": who(),
    }


def _measured(run: Run) -> dict[str, float]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    found = {name + end: interval.get(key) for name, interval in run.metrics.items() for end, key in ends.items()}
    return {name: value for name, value in found.items() if value is not None}


def _ended(run: Run) -> int:
    """Return when the run was over, as its id says, in milliseconds since 1970."""
    return round(1000 * datetime.strptime(f"{run.id[:15]}+0000", "%Y%m%d-%H%M%S%z").timestamp())


def _own_address() -> str:
    """Return the database's address; whole where that is safe, because MLflow keeps what it opens by its address."""
    whole = DATABASE.absolute().as_posix()
    return f"sqlite:///{whole if quote(whole, safe='/:') == whole else DATABASE.as_posix()}"


def _refuse_silent(address: str) -> None:
    """Ask a server once before MLflow asks it for minutes; whatever it answers, it is there."""
    if urlsplit(address).scheme not in ("http", "https"):
        return
    try:
        urlopen(f"{address.rstrip('/')}/health", timeout=ANSWER).close()  # noqa: S310 - the scheme is checked above
    except HTTPError:
        return
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # MLflow has settings of its own for certificates
            told = getattr(reason, "strerror", None) or reason
            raise UnfinishedError(f"MLFLOW_TRACKING_URI: {masked(address)} does not answer ({told})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's own notes from the user."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401 - it sets its loggers up when it is imported

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
