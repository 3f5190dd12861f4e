"""Batch scoring of files larger than memory: parts beside the output, so that a killed run goes on where it was.

A part holds `BATCH` rows in the order of the source. At the end the parts become the row groups of one Parquet file. If
the rows are logged, each part has its lines beside it; the log gets them when every row is scored.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from ..config import UnfinishedError
from ..contract import Columns, ProjectError
from ..files import LONGEST, atomic, sha256, unwritable
from ..release.bundle import Bundle
from ..scorer import Packed
from .batch import BATCH, batches, put_last, refuse_other_files, taken, with_answers
from .protocols import plain

BOUND = "bound.json"
"""What the parts were made from; it is written first and removed first."""
LIBRARIES = ("numpy", "onnxruntime", "pyarrow")
"""Other versions of these may give other bytes."""
ID = "prediction_id"
"""Column of the output by which a logged row is known: `<12 digits of file and bundle>-<number of the row>`."""
LOGGED = r"^[0-9a-f]{12}-\d{10}$"
"""Such an id, as a pattern."""
TICK = 1e-6
"""Seconds between two rows in the log."""
Tell = Callable[[str, float], None]
"""Is told what is being done and which share of it is done."""


class Journal(Protocol):
    """A prediction log that takes in files, see `log.Pieces`."""

    entity: str | None
    """Input column that says of whom a row is."""
    most: int
    """Bytes of Parquet that are kept."""

    def keep(self, lines: pa.Table, path: Path) -> None:
        """Write lines to a Parquet file for `place`."""
        ...

    def place(self, made: Sequence[Path]) -> int:
        """Log the lines of files, each file once; returns how many are new."""
        ...


class Done(NamedTuple):
    """What was done with the rows of a file."""

    rows: int
    kept: int
    """Rows that an earlier run had scored."""
    logged: int
    """Rows that the log did not have before."""


def score(bundle: Bundle, source: str, output: str, say: Callable[[str], None], journal: Journal | None = None) -> None:
    """Score a file with a bundle, show how far it is, and say what was written; see `complete`."""
    if not source or not output:
        raise ProjectError("say which files: make score INPUT=rows.csv OUTPUT=scored.parquet")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=1.0)
        tell: Tell = lambda what, share: progress.update(bar, description=what, completed=share)  # noqa: E731
        done = complete(bundle, Path(source), Path(output), tell, journal)
    before = f", {done.kept} of them by an earlier run" if done.kept else ""
    logged = f"; {done.logged} rows logged, {done.rows - done.logged} were before" if journal else ""
    say(f"{done.rows} rows scored with version {bundle.manifest.version}{before} -> {output}{logged}")


def complete(bundle: Bundle, source: Path, output: Path, tell: Tell, journal: Journal | None = None) -> Done:
    """Score every row of `source` into `output`, and into the journal if there is one, each row once.

    The Parquet file holds the source's columns with what `make predict` adds and the ID of a logged row, and in its
    metadata `bundle` (digest), `version` and `source` (SHA-256). Killed or on a full disk, the next run with the same
    bundle and source goes on. Raises ProjectError naming file, row and column of a value that does not fit, or the
    limit that the log would exceed; nothing is left then, and nothing logged.
    """
    refuse_other_files(source, output, (".parquet",))
    if output.is_dir():
        raise ProjectError(f"{output}: is a folder; give the name of a file")
    tell("looking at the file", 0.0)
    stood = _state(source)
    origin = {"bundle": bundle.digest, "version": str(bundle.manifest.version), "source": sha256(source)}
    with _parts(output, origin | ({"journal": f"{journal.entity}"} if journal else {})) as folder:
        work = _Work(bundle, source, _key(origin), journal)
        parts, rows, kept = _score_parts(work, folder, tell)
        if _state(source) != stood:
            raise ProjectError(f"{source}: changed while it was scored; run the same again when it is whole")
        if not rows:
            raise ProjectError(f"{source}: no row to score")
        tell("logging", 0.0)
        logged = journal.place([_lines_of(part) for part in parts]) if journal else 0
        _join(parts, output, origin, tell)
    return Done(rows, kept, logged)


def cut(batches: Iterable[tuple[float, pa.RecordBatch]], rows: int) -> Iterator[tuple[float, pa.Table]]:
    """Cut batches into tables of `rows` rows, the last one of what is left: the reader's batches decide nothing."""
    waiting: list[pa.RecordBatch] = []
    share = 0.0
    for share, batch in batches:
        while (wanted := rows - sum(map(len, waiting))) <= len(batch):
            yield share, pa.Table.from_batches([*waiting, batch.slice(0, wanted)])
            waiting, batch = [], batch.slice(wanted)  # noqa: PLW2901
        waiting += [batch] if len(batch) else []
    if waiting:
        yield share, pa.Table.from_batches(waiting)


class _Work(NamedTuple):
    """What the parts of a file are made with."""

    bundle: Bundle
    source: Path
    key: str
    journal: Journal | None


def _key(origin: dict[str, str]) -> str:
    """Return what the ids of a file's rows begin with: the same file with the same bundle has the same ones."""
    return hashlib.sha256(f"{origin['source']} {origin['bundle']}".encode()).hexdigest()[:12]


def _score_parts(work: _Work, folder: Path, tell: Tell) -> tuple[list[Path], int, int]:
    """Score what has no part yet; return the parts, the number of their rows, and of those that had one."""
    parts: list[Path] = []
    rows = kept = size = 0
    with ExitStack() as stack:
        for share, table in cut(batches(work.source, work.bundle.scorer.signature.csv, stack), BATCH):
            parts.append(folder / f"{len(parts):08}.parquet")
            if parts[-1].exists():  # reading once more takes a small part of the time
                kept += len(table)
            else:
                _score_part(work, table, rows + 1, parts[-1])
            rows += len(table)
            if work.journal:
                size += _lines_of(parts[-1]).stat().st_size
                refuse_more(work.source, size / share, work.journal.most)
            tell("scoring", share)
    return parts, rows, kept


def _score_part(work: _Work, table: pa.Table, first_row: int, part: Path) -> None:
    """Write the answers to some rows to a part, and before it their lines, if they are logged."""
    made, lines = [], []
    for batch in table.combine_chunks().to_batches():  # one, unless its text has more than 2 GB
        columns, packed, raw = taken(work.bundle, batch, work.source, first_row)
        made.append(with_answers(work.bundle, batch, raw))
        if work.journal:
            ids = pa.array([f"{work.key}-{row:010}" for row in range(first_row, first_row + len(batch))])
            made[-1] = put_last(made[-1], ID, ids)
            lines.append(_lines(work, ids, first_row, columns, packed, raw))
        first_row += len(batch)
    if work.journal:
        with atomic(_lines_of(part)) as temporary:
            work.journal.keep(pa.concat_tables(lines), temporary)
    with atomic(part) as temporary:
        pyarrow.parquet.write_table(pa.concat_tables(made), temporary)


def refuse_more(source: Path, size: float, most: int) -> None:
    """Raise ProjectError for a file whose lines take more bytes than are kept: its first rows would go at once."""
    if size > most:
        raise ProjectError(
            f"{source}: to log its rows takes about {size / 2**20:.3g} MB, and max_mb under log in config/policy.yaml "
            f"keeps {most / 2**20:.3g}; raise it, or score without LOG=yes"
        )


def _lines_of(part: Path) -> Path:
    return part.with_suffix(".lines.parquet")


def _lines(work: _Work, ids: pa.Array, first_row: int, columns: Columns, packed: Packed, raw: Any) -> pa.Table:
    """Return answered rows as `log.Line` has them, but for `inputs`, which become JSON in the log.

    `raw` has the shape (rows,), or (rows, classes); a row's time is how long after the first one it is.
    """
    bundle, entity, rows = work.bundle, work.journal and work.journal.entity, len(ids)
    signature = bundle.scorer.signature
    inputs = {one.name: _plain(columns[one.name], one.type) for one in signature.inputs}
    who = [one for one in signature.inputs if one.name == entity]
    of = [str(row[one.name]) for one in who for row in plain(dict(columns), [one])]
    said = [str(one).lower() if isinstance(one, bool) else str(one) for one in bundle.scorer.answers(raw).tolist()]
    about = {"model": bundle.digest, "version": bundle.manifest.version, "variant": "champion"}
    made = {
        "id": ids,
        "time": pa.array((np.arange(rows) + first_row) * TICK),
        **{name: pa.repeat(value, rows) for name, value in about.items()},
        "entity": pa.array(of) if of else pa.nulls(rows, pa.string()),
        "inputs": pa.StructArray.from_arrays(list(inputs.values()), list(inputs)),
        "numbers": _listed(packed.numbers, pa.float64()),
        "text": _listed(packed.text, pa.string()),
        "prediction": pa.array(said),
        "probabilities": _listed(raw, pa.float64()) if raw.ndim > 1 else pa.nulls(rows, pa.list_(pa.float64())),
    }
    return pa.table(made)


def _plain(values: Any, kind: str) -> pa.Array:
    """Return a typed column as a request carries it, see `protocols.plain`; the conversion is the same, but fast."""
    if kind == "time":
        words = np.datetime_as_string(values, "us").astype(object)
        return pa.array(np.where(np.isnat(values), None, words), pa.string())
    made = pa.array(values, from_pandas=kind != "text")
    return made.cast({"integer": pa.int64(), "boolean": pa.bool_()}.get(kind, made.type))


def _listed(values: Any, kind: pa.DataType) -> pa.Array:
    """Return an array of shape (rows, n) as lists, with null for what is no number."""
    rows, width = values.shape
    flat = pa.array(values.reshape(-1), from_pandas=True).cast(kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), flat)


def _join(parts: list[Path], output: Path, origin: dict[str, str], tell: Tell) -> None:
    """Write the parts as the row groups of one file, one in memory at a time."""
    schema = pyarrow.parquet.read_schema(parts[0])
    told = schema.with_metadata({**(schema.metadata or {}), **origin})
    with atomic(output) as temporary, pyarrow.parquet.ParquetWriter(temporary, told) as writer:
        for number, part in enumerate(parts, start=1):
            with pyarrow.parquet.ParquetFile(part) as file:
                writer.write_table(file.read())
            tell("joining the parts", number / len(parts))


@contextmanager
def _parts(output: Path, origin: dict[str, str]) -> Iterator[Path]:
    """Give the hidden folder beside the output with the parts of this very work; parts of other work are removed.

    The folder stays only where the work may go on: the process was killed, or the disk is full.
    Raises UnfinishedError while another process works on the same output.
    """
    folder = output.with_name(f".{output.name[:LONGEST]}.parts")
    bound = {"output": output.name, "rows": BATCH, **origin, **{name: version(name) for name in LIBRARIES}}
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / "lock", timeout=0))
            _begin(folder, json.dumps(bound, indent=1))
        except Timeout:
            raise UnfinishedError(f"{output}: another `make score` is writing it; wait for its end") from None
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            yield folder
        except UnfinishedError as error:
            raise UnfinishedError(f"{error}; {folder} keeps what is done, the same command goes on there") from None
        except ProjectError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, text: str) -> None:
    page = folder / BOUND
    if page.is_file() and page.read_text(encoding="utf-8") == text:
        return
    page.unlink(missing_ok=True)
    for part in folder.glob("*.parquet"):
        part.unlink()
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _state(source: Path) -> tuple[int, int]:
    """Return what changes with the file: its size, and when it was written (ns)."""
    found = source.stat()
    return found.st_size, found.st_mtime_ns
