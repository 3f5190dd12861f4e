"""The pipeline as one command: collect, run what has changed, publish, record, register. Killed, it goes on next time.

Every step looks at what is there before it does anything, so that nothing is done twice. Nothing heavy is imported
until a stage has to run: without a change, the answer comes within seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from . import stages
from .collect import versions
from .collect.sources import RAW, places, snapshot
from .config import Data, Model
from .contract import ProjectError
from .files import put_in_place
from .register import events, run
from .scorer import MODEL

Say = Callable[[str], None]


def pipeline(data: Data, version: str, say: Say) -> bool:
    """Run the pipeline on the sources as they are now, or on an earlier version of the data; say what came of it.

    Returns whether that made a new run. Raises ProjectError where a stage fails; model, report and records then stay as
    they were.
    """
    start = time.monotonic()
    run.commit()
    with events.locked("pipeline"):
        bring(data, version)
        stages.write_inputs()
        ran = not versions.unchanged()
        if ran:
            _fetch_champion(say)
            versions.repeat(say)
        stages.publish()
        kept, dirty = str(versions.version()), run.uncommitted()
        noted(kept)
        known = run.of(run.key(dirty))
        record = known or run.made(dirty, kept, places(data), time.monotonic() - start)
        if known is None:
            run.write(record)
        number = _registered(record, say)
    if known is not None:
        say(f"{'' if ran else 'nothing changed: '}run {record.id}, version {number} stands{' again' if ran else ''}")
        return False
    say(f"wrote {MODEL} (predictions {record.prediction[:12]}) and {stages.REPORT}")
    say(f"run {record.id} is version {number}; commit dvc.lock, {versions.POINTER} and {record.path}")
    if dirty:
        say(f"marked dirty: {', '.join(dirty)}; commit and run `make pipeline` again to be able to promote it")
    return True


def collect(data: Data, model: Model, version: str, say: Say) -> None:
    """Collect every source again and check it, or bring back an earlier version of the data."""
    with events.locked("pipeline"):
        if version:
            kept = restored(version)
            say(f"version {kept} of the data is back in {RAW}")
            say(f"next: make pipeline VERSION={kept[:8]} (without VERSION it collects anew)")
            return
        snapshot(data, refresh=True)
        rows = len(stages.checked(data, model)[data.target])
        kept = versions.keep()
        noted(kept)
    say(f"{rows} rows collected and checked -> {RAW}, version {kept}")


def bring(data: Data, version: str) -> None:
    """Collect the sources as they are now, or bring an earlier version of the data back."""
    if version:
        restored(version)
    else:
        snapshot(data)


def restored(version: str) -> str:
    """Bring an earlier version of the data back to data/raw, and return all of its name."""
    known = {event["data"] for event in events.read("data")} | {one.data["version"] for one in run.records()}
    return versions.restore(version, known)


def noted(version: str) -> None:
    """Write an event about a version of the data, if there is none yet."""
    if events.last("data", data=version) is None:
        events.append("data", data=version)


def _fetch_champion(say: Say) -> None:
    """Put the model in production to where the report is compared with it."""
    stages.CHAMPION.unlink(missing_ok=True)
    if events.last("promote", environment="prod") is None:
        return

    from .register import current

    try:
        champion = current("prod")[1]
    except ProjectError as error:
        say(f"warning: the report compares with no champion: {error}")
    else:
        put_in_place({stages.CHAMPION: champion})


def _registered(record: run.Run, say: Say) -> int:
    """Return the version of the run's model, which is registered if it is not yet."""
    if events.last("train", run=record.id) is None:
        events.append("train", run=record.id, data=record.data["version"])
    known = events.last("register", run=record.id)
    if known is not None:
        return int(known["version"])

    from .register import register

    made = (stages.REPORT, stages.METRICS, stages.CARD, stages.TEST, stages.REFERENCE)
    files = (*made, record.path, versions.LOCK, versions.POINTER)
    return register(record, MODEL, {path.name: path for path in files}, say)
