"""The room of the registry: every run's model is a version, and each environment points to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..contract import ProjectError
from . import events, store
from .run import Run, digest
from .store import MODEL, NAME, Version

ENVIRONMENTS = ("dev", "staging", "prod")


def register(run: Run, model: Path, artifacts: Mapping[str, Path], say: Callable[[str], None] = print) -> int:
    """Put a run, its files by their names, and its model as a new version into the registry; return the version.

    What a killed process left of the same run is finished, and a run that is registered already keeps its version.
    Raises ProjectError where the model's bytes are not those of the run, or of the version that the run already has.
    """
    own = digest(model)
    if own != run.model:
        raise ProjectError(f"{model}: is not the model of run {run.id} any more; run `make train` again")
    with events.locked("registry"):
        if not store.exists():
            say("creating the registry")
            store.create()
        with store.opened() as client:
            known = [version for version in store.versions(client) if version.key == run.key]
            refuse_other_bytes(known, own)
            number = known[0].number if known else store.add(client, run, {MODEL: model, **artifacts})
            if events.last("register", version=number) is None:  # the last step, which a kill may have prevented
                client.set_registered_model_alias(NAME, "challenger", str(number))
                events.append("register", version=number, run=run.id, digest=own)
    return number


def promote(number: int, environment: str, noted: events.Event | None, why: str = "") -> events.Event | None:
    """Point an environment to a version, and return the event; None if it pointed there already.

    `noted` is the environment's last promotion when the person decided. `prod` also makes the version the champion.
    Raises ProjectError for an unknown version, one from uncommitted files, one whose bytes are not those that were
    registered, and where somebody else moved the environment since `noted`.
    """
    _refuse_empty()
    with events.locked("registry"), store.opened() as client:
        before = promotion(environment)
        refuse_moved(environment, noted, before)
        versions = store.versions(client)
        version = _numbered(versions, number)
        refuse_dirty(version)
        refuse_altered(version, store.model_file(client, version))
        previous = next((other.number for other in versions if environment in other.aliases), None)
        for alias in (environment, "champion") if environment == "prod" else (environment,):
            client.set_registered_model_alias(NAME, alias, str(number))
        if environment == "prod" and "challenger" in version.aliases:
            client.delete_registered_model_alias(NAME, "challenger")
        if previous == number and before is not None and before["version"] == number:
            return None
        reason = {"why": why} if why else {}
        events.append("promote", environment=environment, version=number, previous=previous, run=version.run, **reason)
        return promotion(environment)


def promotion(environment: str) -> events.Event | None:
    """Return the last promotion to an environment that the event log knows; quick, as it loads no library.

    Raises ProjectError for an environment that does not exist.
    """
    if environment not in ENVIRONMENTS:
        raise ProjectError(f"ENV is '{environment}': choose {', '.join(ENVIRONMENTS[:-1])} or {ENVIRONMENTS[-1]}")
    return events.last("promote", environment=environment)


def versions() -> list[Version]:
    """Return every registered version, newest first."""
    if not store.exists():
        return []
    with store.opened() as client:
        return store.versions(client)


def measured() -> dict[str, dict[str, float]]:
    """Return the metrics of the runs by MLflow's id, then by name; an interval ends at `name_low` and `name_high`."""
    with store.opened() as client:
        return store.metrics(client)


def current(environment: str) -> tuple[Version, Path]:
    """Return the version that an environment points to and its model file, after comparing the file with its digest.

    Raises ProjectError where the environment points nowhere, or the file is missing or altered.
    """
    promotion(environment)
    _refuse_empty()
    with store.opened() as client:
        version = next((version for version in store.versions(client) if environment in version.aliases), None)
        if version is None:
            raise ProjectError(f"nothing is in {environment} yet; promote one of the versions that `make models` lists")
        file = store.model_file(client, version)
    refuse_altered(version, file)
    return version, file


def refuse_other_bytes(known: Iterable[Version], own: str) -> None:
    """Raise ProjectError where a version that a run already has holds another model."""
    for version in known:
        if version.digest != own:
            raise ProjectError(
                f"version {version.number} holds other bytes ({version.digest[:12]}) than this model ({own[:12]}) "
                "of the same run: a version never changes; commit what you changed and run `make train` again"
            )


def refuse_moved(environment: str, noted: events.Event | None, now: events.Event | None) -> None:
    """Raise ProjectError where an environment was promoted to since its last promotion was noted."""
    if now is not None and (noted is None or noted["id"] != now["id"]):
        raise ProjectError(
            f"{environment} was moved to version {now['version']} by {now['who']} while this command was starting: "
            "nothing is changed; look at `make models`, and promote again if you still want to"
        )


def refuse_dirty(version: Version) -> None:
    """Raise ProjectError for a version that no commit can bring back."""
    if version.dirty:
        raise ProjectError(
            f"version {version.number} was trained from changes that are not committed (run {version.run}): "
            "commit them, run `make train` again and promote the version that it registers"
        )


def refuse_altered(version: Version, file: Path) -> None:
    """Raise ProjectError where a registered file is gone, or is not what was registered."""
    if not file.is_file():
        raise ProjectError(f"{file}: the model of version {version.number} is missing")
    if digest(file) != version.digest:
        raise ProjectError(f"{file}: is not the file that was registered as version {version.number}; it was altered")


def _numbered(versions: Iterable[Version], number: int) -> Version:
    by_number = {version.number: version for version in versions}
    if number not in by_number:
        listed = ", ".join(str(known) for known in sorted(by_number)) or "none yet"
        raise ProjectError(f"VERSION is {number}: there is no such version; registered: {listed}")
    return by_number[number]


def _refuse_empty() -> None:
    if not store.exists():
        raise ProjectError("nothing is registered yet; `make train` registers the model that it makes")
