"""Batch scoring of files larger than memory: parts beside the output, so that a killed run goes on where it was.

A part holds `BATCH` rows in the order of the source. At the end the parts become the row groups of one Parquet file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from ..config import UnfinishedError
from ..contract import ProjectError
from ..files import LONGEST, atomic, sha256, unwritable
from ..release.bundle import Bundle
from .batch import BATCH, batches, refuse_other_files, scored

BOUND = "bound.json"
"""What the parts were made from; it is written first and removed first."""
LIBRARIES = ("numpy", "onnxruntime", "pyarrow")
"""Other versions of these may give other bytes."""
Tell = Callable[[str, float], None]
"""Is told what is being done and which share of it is done."""


def score(bundle: Bundle, source: str, output: str, say: Callable[[str], None]) -> None:
    """Score a file with a bundle, show how far it is, and say what was written; see `complete`."""
    if not source or not output:
        raise ProjectError("say which files: make score INPUT=rows.csv OUTPUT=scored.parquet")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=1.0)
        tell: Tell = lambda what, share: progress.update(bar, description=what, completed=share)  # noqa: E731
        rows, kept = complete(bundle, Path(source), Path(output), tell)
    before = f", {kept} of them by an earlier run" if kept else ""
    say(f"{rows} rows scored with version {bundle.manifest.version}{before} -> {output}")


def complete(bundle: Bundle, source: Path, output: Path, tell: Tell) -> tuple[int, int]:
    """Score every row of `source` into `output`, and return their number and how many an earlier run had scored.

    The Parquet file holds the source's columns with what `make predict` adds, and in its metadata `bundle` (digest),
    `version` and `source` (SHA-256). Killed or on a full disk, the next run with the same bundle and source goes on.
    Raises ProjectError naming file, row and column of a value that does not fit; nothing is left then.
    """
    refuse_other_files(source, output, (".parquet",))
    if output.is_dir():
        raise ProjectError(f"{output}: is a folder; give the name of a file")
    tell("looking at the file", 0.0)
    stood = _state(source)
    origin = {"bundle": bundle.digest, "version": str(bundle.manifest.version), "source": sha256(source)}
    with _parts(output, origin) as folder:
        parts, rows, kept = _score_parts(bundle, source, folder, tell)
        if _state(source) != stood:
            raise ProjectError(f"{source}: changed while it was scored; run the same again when it is whole")
        if not rows:
            raise ProjectError(f"{source}: no row to score")
        _join(parts, output, origin, tell)
    return rows, kept


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


def _score_parts(bundle: Bundle, source: Path, folder: Path, tell: Tell) -> tuple[list[Path], int, int]:
    """Score what has no part yet; return the parts, the number of their rows, and of those that had one."""
    parts: list[Path] = []
    rows = kept = 0
    with ExitStack() as stack:
        for share, table in cut(batches(source, bundle.scorer.signature.csv, stack), BATCH):
            parts.append(folder / f"{len(parts):08}.parquet")
            if parts[-1].exists():  # reading once more takes a small part of the time
                kept += len(table)
            else:
                whole = table.combine_chunks().to_batches()
                made = pa.concat_tables(_numbered(bundle, whole, source, rows + 1))
                with atomic(parts[-1]) as temporary:
                    pyarrow.parquet.write_table(made, temporary)
            rows += len(table)
            tell("scoring", share)
    return parts, rows, kept


def _numbered(bundle: Bundle, whole: list[pa.RecordBatch], source: Path, first_row: int) -> Iterator[pa.Table]:
    for batch in whole:  # one, unless its text has more than 2 GB
        yield scored(bundle, batch, source, first_row)
        first_row += len(batch)


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
