"""The room of the prediction log: what was asked and answered, and what became of it.

A log is a folder of segments: files of JSON lines that are only ever added to, each by one process alone. So writers
need no lock and readers no database.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

import msgspec

from ..config import UnfinishedError
from ..release.policy import Log
from ..serve import Answered

PREDICTIONS, FEEDBACK = Path("logs/predictions"), Path("logs/feedback")
SEGMENT = re.compile(r"(\d{8}T\d{6})-(\w+)-(\d{6})\.jsonl")
"""When it was begun (UTC), by whom, and which one of theirs it is."""
BEGUN = "%Y%m%dT%H%M%S"
LARGEST, PARTS = 64 * 2**20, 8
"""Bytes of a segment, and into how many segments a small log is divided at least."""
AGE = 3600.0
"""Seconds after which a process begins another segment: whoever is older by far is written to no more."""
LOOK = 1.0
"""Seconds between two looks at whether somebody removed the segment."""
DAY = 86_400
BINARY: int = getattr(os, "O_BINARY", 0)
"""Windows would turn the end of a line into two signs."""


class Line(msgspec.Struct):
    """One answered row; `numbers` and `text` are its features in the order of the model's signature."""

    id: str
    time: float
    model: str
    version: int
    variant: str
    entity: str | None
    inputs: Any
    numbers: list[float]
    text: list[str]
    prediction: Any
    probabilities: list[float] | None


class Segments:
    """The segments of one process in a folder that it shares with others."""

    def __init__(self, settings: Log, folder: Path) -> None:
        """Prepare to write; the first segment is begun with the first line."""
        self.folder, self.settings = folder, settings
        self.most = int(settings.max_mb * 2**20)
        self.largest = min(LARGEST, self.most // PARTS)
        self._who, self._count = token_hex(6), 0
        self._file, self._path, self._size = -1, folder, 0
        self._until = self._look = 0.0
        self._lock = Lock()

    def add(self, lines: bytes) -> None:
        """Add whole lines; when this returns they outlive the process, and when it raises none of them is there.

        Raises UnfinishedError where they cannot be written.
        """
        with self._lock:
            try:
                if self._is_over():
                    self._begin()
                written = os.write(self._file, lines)
            except OSError as error:
                self._take_back()
                raise UnfinishedError(f"{self._path}: cannot be written ({error.strerror or error})") from None
            if written < len(lines):
                self._take_back()
                raise UnfinishedError(f"{self._path}: cannot be written (the disk is full)")
            self._size += written

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now >= self._until or self._size >= self.largest:
            return True
        if now >= self._look:
            self._look = now + LOOK
            return os.fstat(self._file).st_nlink == 0
        return False

    def _begin(self) -> None:
        """Close the segment that is over, make room, and open the next one."""
        self._close()
        self._count += 1
        self._path = self.folder / f"{datetime.now(UTC):{BEGUN}}-{self._who}-{self._count:06}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        tidy(self.folder, self.settings.days, self.most - self.largest)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        self._until, self._look = time.monotonic() + AGE, time.monotonic() + LOOK

    def _take_back(self) -> None:
        """Cut off what was written of lines that nobody will be told of."""
        if self._file >= 0:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self._close()

    def _close(self) -> None:
        file, self._file, self._size, self._until = self._file, -1, 0, 0.0
        if file >= 0:
            with suppress(OSError):
                os.close(file)


class Writer:
    """The prediction log of one service; called with what it is about to answer."""

    def __init__(self, settings: Log, folder: Path = PREDICTIONS) -> None:
        """Prepare to write segments into `folder`."""
        self._segments = Segments(settings, folder)
        self._encoder = msgspec.json.Encoder()

    def __call__(self, answered: Sequence[Answered]) -> None:
        """Log every row before anybody is answered; see `Segments.add`."""
        self._segments.add(self._encoder.encode_lines([line for rows in answered for line in lines(rows)]))


def lines(rows: Answered) -> Iterator[Line]:
    """Yield a line for each row of a request."""
    raw: list[Any] = rows.raw.tolist()
    entities: Sequence[str | None] = rows.entities or [None] * len(raw)
    ofs = zip(entities, rows.inputs, rows.packed.numbers.tolist(), rows.packed.text.tolist(), strict=True)
    about = (rows.time, rows.digest, rows.version, rows.variant)
    given = raw if rows.raw.ndim == 2 else [None] * len(raw)
    for place, (of, said, shares) in enumerate(zip(ofs, rows.predictions, given, strict=True), start=1):
        yield Line(f"{rows.request}-{place}", *about, *of, said, shares)


def tidy(folder: Path, days: float, most: int) -> None:
    """Remove segments that are older than `days`, then the oldest until at most `most` bytes are left.

    A segment that a living process may still write to stays: the last one of its writer, until it is old.
    """
    parsed = ((SEGMENT.fullmatch(entry.name), entry) for entry in os.scandir(folder))
    found = sorted((name[1], name[2], name[3], entry) for name, entry in parsed if name)
    last = {who: number for _, who, number, _ in sorted(found, key=lambda segment: segment[2])}
    sizes = [entry.stat().st_size for *_, entry in found]
    too_much, now = sum(sizes) - most, time.time()
    for (begun, who, number, entry), size in zip(found, sizes, strict=True):
        age = now - datetime.strptime(f"{begun}+0000", f"{BEGUN}%z").timestamp()
        is_closed = number != last[who] or age > 2 * AGE
        if is_closed and (too_much > 0 or age > AGE + days * DAY):
            Path(entry).unlink(missing_ok=True)
            too_much -= size
