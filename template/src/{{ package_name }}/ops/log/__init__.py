"""The room of the prediction log: what was asked and answered, and what became of it.

A log is a folder of segments: files of JSON lines that are only ever added to, each by one process alone. So writers
need no lock and readers no database. A Parquet file between them replaces the segments that it names, see `whole`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..config import UnfinishedError, first_line
from ..contract import ProjectError
from ..files import scratch
from ..release.policy import Log, Policy
from ..serve import Answered, Measure

if TYPE_CHECKING:
    import ibis

PREDICTIONS, FEEDBACK, SERVICES = Path("logs/predictions"), Path("logs/feedback"), Path("logs/services")
SEGMENT = re.compile(r"(\d{8}T\d{6})-(\w+)-(\d{6})\.(jsonl|parquet)")
"""When it was begun (UTC), by whom, which one of theirs it is, and whether it is lines or compacted."""
REPLACES = b"replaces"
"""Key in the footer of a Parquet file: the names of the files whose rows it has, as a JSON list."""
BEGUN = "%Y%m%dT%H%M%S"
LARGEST, PARTS = 64 * 2**20, 8
"""Bytes of a segment, and into how many segments a small log is divided at least."""
AGE = 3600.0
"""Seconds after which a process begins another segment: whoever is older by far is written to no more."""
GROUP = 20_000
"""Rows that a Parquet file keeps together: who asks for a span of time reads few groups."""
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
        self.largest = largest(settings)
        self._who, self._count = token_hex(6), 0
        self._file, self._path, self._size = -1, folder, 0
        self._until = self._ends = self._look = 0.0
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
        if now >= self._until or self._size >= self.largest or time.time() >= self._ends:
            return True  # the first clock stands still while the machine sleeps, the second may be set
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
        tidy(self.folder, self.settings.days, int(self.settings.max_mb * 2**20) - self.largest)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        self._until, self._look, self._ends = time.monotonic() + AGE, time.monotonic() + LOOK, time.time() + AGE

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


class Pieces:
    """The prediction log of scored files: a Parquet file for each part, known by the ids in it; a `score.Journal`."""

    def __init__(self, policy: Policy, folder: Path = PREDICTIONS) -> None:
        """Prepare to take in files."""
        self.folder, self.days, self.entity = folder, policy.log.days, policy.experiment.entity
        self.most = int(policy.log.max_mb * 2**20) - largest(policy.log)

    def keep(self, lines: Any, path: Path) -> None:
        """Write an Arrow table of lines whose inputs are structures, and whose times are seconds from logging."""
        import ibis

        table = ibis.memtable(lines)
        put(table.mutate(inputs=table.inputs.cast("json")), path, ibis.duckdb.connect())

    def place(self, made: Sequence[Path]) -> int:
        """Log what `keep` wrote, but for files whose first row is logged; returns how many rows are new.

        No monitor looks between the time that rows bear and their being there. Raises UnfinishedError on a full disk.
        """
        import ibis

        from ..register.events import locked
        from .truth import PREDICTED, rows

        engine, new = ibis.duckdb.connect(), 0
        with locked("monitor"), scratch(self.folder) as hidden:
            now, there = datetime.now(UTC), [one.path for one in whole(self.folder) if one.path.suffix == ".parquet"]
            log = rows(there, PREDICTED, engine) if there else None
            for number, path in enumerate(made, start=1):
                table = rows([path], PREDICTED, engine)
                first = table.id.min().to_pyarrow().as_py()
                if log is not None and len(log.filter(log.id == first).id.to_pyarrow()):
                    continue
                piece = hidden / f"{now:{BEGUN}}-{first.partition('-')[0]}-{number:06}.parquet"
                new += put(table.mutate(time=table.time + now.timestamp()), piece, engine)
                piece.replace(self.folder / piece.name)
        tidy(self.folder, self.days, self.most)
        return new


class Notes:
    """How services fared, minute by minute; called with each measure."""

    def __init__(self, settings: Log, folder: Path = SERVICES) -> None:
        """Prepare to write segments into `folder`."""
        self._segments = Segments(settings, folder)

    def __call__(self, measure: Measure) -> None:
        """Log a measure; see `Segments.add`."""
        self._segments.add(msgspec.json.Encoder().encode_lines([measure]))


def lines(rows: Answered) -> Iterator[Line]:
    """Yield a line for each row of a request."""
    raw: list[Any] = rows.raw.tolist()
    entities: Sequence[str | None] = rows.entities or [None] * len(raw)
    ofs = zip(entities, rows.inputs, rows.packed.numbers.tolist(), rows.packed.text.tolist(), strict=True)
    about = (rows.time, rows.digest, rows.version, rows.variant)
    given = raw if rows.raw.ndim == 2 else [None] * len(raw)
    for place, (of, said, shares) in enumerate(zip(ofs, rows.predictions, given, strict=True), start=1):
        yield Line(f"{rows.request}-{place}", *about, *of, said, shares)


class Piece(NamedTuple):
    """A file of a log."""

    begun: float
    """Seconds since 1970; of a Parquet file, when the latest of the segments was begun that it replaces."""
    who: str
    number: int
    size: int
    path: Path
    is_closed: bool
    """Whether nobody writes to it any more."""


def pieces(folder: Path) -> list[Piece]:
    """Return the files of a log, the oldest first.

    A living process may still write to its last segment, until that is old.
    """
    found = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if name := SEGMENT.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # removed since
                    begun = datetime.strptime(f"{name[1]}+0000", f"{BEGUN}%z").timestamp()
                    found.append((begun, name[2], int(name[3]), entry.stat().st_size, Path(entry)))
    found.sort()
    last, now = {who: number for _, who, number, *_ in sorted(found, key=lambda one: one[2])}, time.time()
    return [
        Piece(*one, one[-1].suffix == ".parquet" or one[2] != last[one[1]] or now - one[0] > 2 * AGE) for one in found
    ]


def largest(settings: Log) -> int:
    """Return how many bytes a segment may have before another one is begun."""
    return min(LARGEST, int(settings.max_mb * 2**20) // PARTS)


def tidy(folder: Path, days: float, most: int) -> None:
    """Remove files that are older than `days`, then the oldest until at most `most` bytes are left.

    A segment that a living process may still write to stays.
    """
    found = pieces(folder)
    too_much, now = sum(piece.size for piece in found) - most, time.time()
    for piece in found:
        if piece.is_closed and (too_much > 0 or now - piece.begun > AGE + days * DAY):
            piece.path.unlink(missing_ok=True)
            too_much -= piece.size


def whole(folder: Path) -> list[Piece]:
    """Return the files that together have each row of a log once, the oldest first.

    A Parquet file comes into place whole and beside the files that it replaces. They go an hour later, so who listed
    the folder before it came reads them, and who lists it afterwards leaves them out.
    """
    found = pieces(folder)
    gone = {name for piece in found if piece.path.suffix == ".parquet" for name in replaced(piece.path)}
    return [piece for piece in found if piece.path.name not in gone]


@cache
def replaced(path: Path) -> frozenset[str]:
    """Return the names of the files that a Parquet file replaces; none if it was removed since.

    Raises ProjectError where it is not as it was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return frozenset(msgspec.json.decode((pq.read_metadata(path).metadata or {})[REPLACES], type=list[str]))
    except FileNotFoundError:
        return frozenset()
    except (OSError, KeyError, pa.ArrowException, msgspec.DecodeError):
        raise ProjectError(f"{path}: is not as `make compact` wrote it; move it away, or bring it back") from None


def put(table: ibis.Table, path: Path, engine: Any, replaces: Iterable[str] = ()) -> int:
    """Write lines to a Parquet file, on disk when this returns, and return how many; else raises UnfinishedError."""
    import duckdb
    import pyarrow.parquet as pq

    from .truth import PREDICTED

    footer = {REPLACES.decode(): msgspec.json.encode(sorted(replaces)).decode()}
    try:
        engine.to_parquet(table.select(*PREDICTED), path, compression="zstd", row_group_size=GROUP, kv_metadata=footer)
    except duckdb.IOException as error:
        raise UnfinishedError(f"{path.name}: was not written ({first_line(error)}); try again") from None
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return int(pq.read_metadata(path).num_rows)
