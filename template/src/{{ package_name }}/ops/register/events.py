"""The log of the model's life: one line an event, only ever added to, by any number of processes at once."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

from filelock import FileLock, Timeout

from ..config import UnfinishedError
from ..contract import ProjectError

EVENTS = Path("logs/events.jsonl")
PATIENCE = 120
"""Seconds that a command waits for another one to let go of what both write."""
Event: TypeAlias = dict[str, Any]


def append(kind: str, **ids: Any) -> None:
    """Add an event with its time (UTC), who caused it, and the ids that it is about; on disk when this returns."""
    event = {"id": uuid4().hex, "time": datetime.now(UTC).isoformat(), "kind": kind, "who": who(), **ids}
    with locked("events"):
        add(EVENTS, json.dumps(event, ensure_ascii=False).encode())


def add(path: Path, line: bytes) -> None:
    """Add a line to a log that nobody else writes to meanwhile; on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as log:
        _mend(log.fileno())
        log.write(line + b"\n")
        log.flush()
        os.fsync(log.fileno())


def read(*kinds: str) -> list[Event]:
    """Return the events of some kinds, or all, oldest first; a last line that is still being written is left out.

    Raises ProjectError naming the line where one is not an event.
    """
    if not EVENTS.is_file():
        return []
    *lines, _ = EVENTS.read_bytes().split(b"\n")
    events = [_parsed(line, number) for number, line in enumerate(lines, start=1)]
    return [event for event in events if not kinds or event["kind"] in kinds]


def last(kind: str, **ids: Any) -> Event | None:
    """Return the newest event of a kind that is about all of `ids`; None if there is none."""
    about = (event for event in reversed(read(kind)) if ids.items() <= event.items())
    return next(about, None)


def frozen() -> Event | None:
    """Return the event that froze what changes by itself; None if nothing did, or it was thawed since."""
    moves = read("freeze", "thaw")
    return moves[-1] if moves and moves[-1]["kind"] == "freeze" else None


def freeze(why: str) -> None:
    """Note that what changes by itself stops; raises ProjectError without a reason, or where it has stopped already."""
    if not why:
        raise ProjectError("say why, for those who find it frozen: make freeze WHY=reason")
    if found := frozen():
        raise ProjectError(f"it is frozen already, by {found['who']} ({found['why']}); make thaw ends it")
    append("freeze", why=why)


def thaw(why: str) -> None:
    """Note that it may change by itself again; raises ProjectError without a reason, or where it may already."""
    if not why:
        raise ProjectError("say why, for those who froze it: make thaw WHY=reason")
    if not frozen():
        raise ProjectError("it is not frozen; make freeze WHY=reason does so")
    append("thaw", why=why)


def who() -> str:
    """Return the person as git knows them, or else the user of the operating system."""
    name, address = (_asked("git", "config", f"user.{key}") for key in ("name", "email"))
    if name or address:
        return f"{name} <{address}>".strip() if address else name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"user {os.getuid()}"


@contextmanager
def locked(what: str) -> Iterator[None]:
    """Let one process at a time write something; the lock falls with the process that holds it.

    Raises UnfinishedError where another process holds it for too long.
    """
    lock = EVENTS.with_name(f".{what}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=PATIENCE):
            yield
    except Timeout:
        raise UnfinishedError(f"another command has held the {what} for {PATIENCE} s; try again later") from None


def _mend(log: int) -> None:
    """Cut off a last line that a killed process left half-written."""
    end = size = os.fstat(log).st_size
    while end:
        start = max(0, end - 4096)
        os.lseek(log, start, os.SEEK_SET)
        newline = os.read(log, end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.truncate(log, end)


def _parsed(line: bytes, number: int) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "kind" not in event:
        raise ProjectError(f"{EVENTS}, line {number}: is not an event; put the file back as it was, nobody edits it")
    return event


def _asked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
