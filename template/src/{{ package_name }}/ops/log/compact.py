"""Compact the prediction log while it is written: closed segments become Parquet files of a day, and go an hour later.

A Parquet file is written in a hidden folder, counted, and moved into place whole: it is valid under the name of a piece
and replaces the files that its footer names. A kill before leaves the hidden folder, which the next run sweeps; a kill
after leaves files that are replaced, which readers leave out and the next run removes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from secrets import token_hex

from ..config import UnfinishedError, first_line
from ..files import scratch
from ..register.events import locked
from ..release.policy import Log
from . import AGE, BEGUN, PREDICTIONS, Piece, largest, pieces, put, replaced, tidy, whole

GRACE = AGE
"""Seconds that replaced files stay for who listed them before: longer than anybody reads."""
SMALLER = 10
"""By how many times about a Parquet file is smaller than the lines that it replaces."""


@dataclass
class Done:
    """What a run did."""

    rows: int = 0
    """Compacted."""
    segments: int = 0
    before: int = 0
    """Bytes of what was compacted."""
    after: int = 0
    removed: int = 0
    """Replaced files whose hour is over."""


def compact(settings: Log, folder: Path = PREDICTIONS) -> Done:
    """Compact what is closed, remove what is replaced, and keep the log within its bounds.

    One process does so at a time; writers and readers go on meanwhile. Raises ProjectError where the folder cannot be
    written to or a Parquet file was damaged, UnfinishedError where the disk is full or another process compacts.
    """
    done = Done()
    with locked("compact"):
        for batch in _batches(settings, folder):
            _replace(batch, folder, done)
        for path in _overdue(folder):
            path.unlink(missing_ok=True)
            done.removed += 1
        tidy(folder, settings.days, int(settings.max_mb * 2**20) - largest(settings))
    return done


def due(settings: Log, folder: Path = PREDICTIONS) -> bool:
    """Whether there is anything to compact or to remove."""
    return bool(_batches(settings, folder) or _overdue(folder))


def _batches(settings: Log, folder: Path) -> list[list[Piece]]:
    """Return what becomes one file each: pieces of one day, up to the size of a segment, small Parquet files again."""
    most, batches = largest(settings), []
    closed = [piece for piece in whole(folder) if piece.is_closed]
    for _, of_day in groupby(closed, key=lambda piece: datetime.fromtimestamp(piece.begun, UTC).date()):
        batch: list[Piece] = []
        for piece in of_day:
            if batch and sum(map(_lines, [*batch, piece])) > most:
                batches.append(batch)
                batch = []
            batch.append(piece)
        batches.append(batch)
    return [batch for batch in batches if len(batch) > 1 or batch[0].path.suffix == ".jsonl"]


def _lines(piece: Piece) -> int:
    """Return how many bytes of lines a piece is, or about was."""
    return piece.size * (SMALLER if piece.path.suffix == ".parquet" else 1)


def _replace(batch: list[Piece], folder: Path, done: Done) -> None:
    """Put a Parquet file beside the pieces whose rows it has."""
    import duckdb

    known, names = {piece.path.name for piece in pieces(folder)}, {piece.path.name for piece in batch}
    earlier = {name for piece in batch if piece.path.suffix == ".parquet" for name in replaced(piece.path)}
    begun = datetime.fromtimestamp(max(piece.begun for piece in batch), UTC)
    final = folder / f"{begun:{BEGUN}}-{token_hex(6)}-000001.parquet"
    with scratch(folder) as hidden:
        made = hidden / final.name
        try:
            count = _written(batch, made, names | (earlier & known))
        except duckdb.Error as error:  # a writer made room meanwhile, or the disk is full
            raise UnfinishedError(f"{folder}: not compacted now ({first_line(error)}); try again") from None
        if {piece.path: piece.size for piece in batch}.items() - {one.path: one.size for one in pieces(folder)}.items():
            raise UnfinishedError(f"{folder}: a segment changed while it was compacted; try again")
        made.replace(final)
    done.rows, done.segments = done.rows + count, done.segments + len(batch)
    done.before, done.after = done.before + sum(piece.size for piece in batch), done.after + final.stat().st_size


def _written(batch: list[Piece], made: Path, names: set[str]) -> int:
    """Write the rows of pieces to a file whose footer says what it replaces; returns how many it has.

    Raises UnfinishedError where those are not all.
    """
    import ibis

    from .truth import PREDICTED, rows

    engine = ibis.duckdb.connect()
    table = rows([piece.path for piece in batch], PREDICTED, engine).order_by(["time", "id"])
    count = put(table, made, engine, names)
    wanted = table.count().to_pyarrow().as_py()
    if count != wanted:
        raise UnfinishedError(f"{made.parent.parent}: {count} of {wanted} rows were compacted; try again")
    return count


def _overdue(folder: Path) -> list[Path]:
    """Return the files that are replaced for longer than GRACE."""
    found = pieces(folder)
    there, now = {piece.path.name: piece.path for piece in found}, time.time()
    return sorted({there[name] for piece in found for name in _gone(piece, now) if name in there})


def _gone(piece: Piece, now: float) -> Iterator[str]:
    if piece.path.suffix == ".parquet" and now - piece.path.stat().st_mtime > GRACE:
        yield from replaced(piece.path)
