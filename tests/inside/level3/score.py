"""Batch scoring of large files: killed, it goes on, and gives the same bytes. Run by `test_inside.py`."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from flight_delays.ops.config import (
    UnfinishedError,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.files import (
    sha256,
)
from flight_delays.ops.scorer import (
    MODEL,
    UNSEEN,
    Scorer,
)
from flight_delays.ops.serve import (
    score as module,
)
from flight_delays.ops.serve.batch import (
    ModelFile,
    predict,
)
from flight_delays.ops.serve.score import (
    complete,
    cut,
    score,
)

ROWS = 250
"""Rows of a part in these tests."""
KILLS = 20
CHILD = f"""
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from flight_delays.ops.serve import score
from flight_delays.ops.serve.batch import ModelFile
score.BATCH = int(sys.argv[1]) or score.BATCH
bundle = ModelFile(Path("{MODEL}"))
bundle.digest, bundle.manifest = "d1" * 32, SimpleNamespace(version=1)
print("begun", flush=True)
score.score(bundle, sys.argv[2], sys.argv[3], print)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


class Bundle(ModelFile):
    """The project's model, as if it had been released."""

    def __init__(self, digest: str = "d1" * 32, version: int = 1) -> None:
        """Open it under a digest and a version."""
        super().__init__(MODEL)
        self.digest, self.manifest = digest, SimpleNamespace(version=version)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", ROWS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of some parts, the last one shorter."""
    return written(tmp_path / "rows.csv", 10 * ROWS + 7)


def written(path: Path, rows: int) -> Path:
    head, *lines = UNSEEN.read_text(encoding="utf-8").splitlines(keepends=True)
    while len(lines) < rows:
        lines += lines
    path.write_text(head + "".join(lines[:rows]), encoding="utf-8")
    return path


def quiet(_: str, __: float) -> None:
    """Tell nobody."""


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(after: int) -> Callable[[str, float], None]:
    """Return what stops a run, as Ctrl-C does, after some steps."""
    told = iter(range(after))

    def tell(_: str, __: float) -> None:
        if next(told, None) is None:
            raise KeyboardInterrupt

    return tell


def test_every_row_is_there_once_in_order_with_its_prediction(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "scored.parquet"
    said: list[str] = []
    score(Bundle(), str(source), str(output), said.append)
    assert said == [f"{10 * ROWS + 7} rows scored with version 1 -> {output}"]
    predict(ModelFile(MODEL), source, tmp_path / "predicted.parquet", lambda _: None)
    scored, predicted = pq.read_table(output), pq.read_table(tmp_path / "predicted.parquet")
    assert scored.column_names == predicted.column_names
    probabilities = [name for name in scored.column_names if name.startswith("probability_")]
    assert scored.drop_columns(probabilities).equals(predicted.drop_columns(probabilities))
    for name in probabilities:
        np.testing.assert_allclose(scored[name].to_numpy(), predicted[name].to_numpy(), atol=1e-6)
    told = pq.read_metadata(output)
    assert told.num_row_groups == 11
    assert told.metadata[b"bundle"] == b"d1" * 32
    assert told.metadata[b"version"] == b"1"
    assert told.metadata[b"source"] == sha256(source).encode()
    assert listed(output.parent) == ["scored.parquet"]


def test_parquet_is_scored_like_csv_and_keeps_its_types(source: Path, tmp_path: Path) -> None:
    table = pyarrow.csv.read_csv(source)
    inputs = {column.name for column in Scorer().signature.inputs if column.type == "text"}
    for name in inputs:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].dictionary_encode())
    tags = pa.array([[str(row), "a"] for row in range(len(table))])
    pq.write_table(table.append_column("tags", tags), tmp_path / "rows.parquet", row_group_size=333)
    for kind in ("csv", "parquet"):
        complete(Bundle(), tmp_path / f"rows.{kind}", tmp_path / f"{kind}.parquet", quiet)
    text, typed = (pq.read_table(tmp_path / f"{kind}.parquet") for kind in ("csv", "parquet"))
    assert typed["prediction"].equals(text["prediction"])
    assert typed["tags"].combine_chunks().equals(tags)
    assert {name for name in typed.column_names if pa.types.is_dictionary(typed.schema.field(name).type)} == inputs


def child(rows: int, source: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(rows), str(source), str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_any_moment_it_goes_on_and_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    written(source, 40 * ROWS + 7)
    whole, output, before = tmp_path / "whole.parquet", tmp_path / "scored.parquet", b"what stood there"
    start = time.monotonic()
    complete(Bundle(), source, whole, quiet)
    takes = time.monotonic() - start
    wanted, draw, killed, went_on = whole.read_bytes(), random.Random(7), 0, 0
    output.write_bytes(before)
    while killed < KILLS or output.read_bytes() != wanted:
        with child(ROWS, source, output) as process:
            assert process.stdout
            begun = process.stdout.readline()
            if killed < KILLS:
                try:
                    process.wait(draw.uniform(0, takes))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            said, wrong = process.communicate()
        assert begun, wrong
        assert process.returncode in (0, -signal.SIGKILL), wrong
        assert output.read_bytes() in (before, wanted)
        went_on += "by an earlier run" in said
        if process.returncode == 0:
            assert output.read_bytes() == wanted
            assert listed(tmp_path) == ["rows.csv", "scored.parquet", "whole.parquet"]
            if killed < KILLS:
                output.write_bytes(before)
    assert went_on


def test_another_source_or_bundle_begins_anew(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "scored.parquet"
    for bundle, rows in ((Bundle(), 10 * ROWS), (Bundle("d2" * 32, 2), 10 * ROWS), (Bundle(), 10 * ROWS + 1)):
        with pytest.raises(KeyboardInterrupt):
            complete(Bundle(), written(source, 10 * ROWS), output, interrupted(5))
        assert len(list((tmp_path / ".scored.parquet.parts").glob("0*.parquet"))) == 5
        same = bundle.digest == "d1" * 32 and rows == 10 * ROWS
        assert complete(bundle, written(source, rows), output, quiet) == (rows, 5 * ROWS if same else 0, 0)
        assert pq.read_metadata(output).metadata[b"bundle"] == bundle.digest.encode()
        assert pq.read_metadata(output).num_rows == rows
        assert listed(tmp_path) == ["rows.csv", "scored.parquet"]


def test_a_killed_clean_up_leaves_no_wrong_parts(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, unlink, left = tmp_path / "scored.parquet", Path.unlink, iter(range(3))
    complete(Bundle(), source, tmp_path / "whole.parquet", quiet)
    with pytest.raises(KeyboardInterrupt):
        complete(Bundle(), source, output, interrupted(5))

    def killed(path: Path, missing_ok: bool = False) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(Bundle("d2" * 32), source, output, quiet)
    monkeypatch.undo()
    monkeypatch.setattr(module, "BATCH", ROWS)
    assert complete(Bundle(), source, output, quiet) == (10 * ROWS + 7, 0, 0)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_full_disk_changes_nothing_and_the_next_run_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, write, left = tmp_path / "scored.parquet", pq.write_table, iter(range(4))
    output.write_bytes(b"what stood there")

    def full(table: Any, path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, path)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(
        UnfinishedError, match=r"cannot be written \(No space left on device\); .*\.parts keeps"
    ) as error:
        complete(Bundle(), source, output, quiet)
    assert len(str(error.value).splitlines()) == 1
    assert output.read_bytes() == b"what stood there"
    monkeypatch.setattr(pq, "write_table", write)
    assert complete(Bundle(), source, output, quiet) == (10 * ROWS + 7, 4 * ROWS, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_really_full_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "write_table", lambda table, _: _write_to(Path("/dev/full"), table))
    with pytest.raises(UnfinishedError, match="No space left"):
        complete(Bundle(), source, tmp_path / "scored.parquet", quiet)


def _write_to(path: Path, table: Any) -> None:
    with path.open("wb", buffering=0) as file, pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)


def test_an_unwritable_output_is_told_before_anything_is_scored(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output, told in (("file/scored.parquet", "cannot be written"), ("folder.parquet", "is a folder")):
        (tmp_path / "folder.parquet").mkdir(exist_ok=True)
        before = listed(tmp_path)
        with pytest.raises(ProjectError, match=told):
            complete(Bundle(), source, tmp_path / output, quiet)
        assert listed(tmp_path) == before


def test_a_second_run_on_the_same_output_is_refused(source: Path, tmp_path: Path) -> None:
    parts = tmp_path / ".scored.parquet.parts"
    parts.mkdir()
    with FileLock(parts / "lock"), pytest.raises(UnfinishedError, match="another `make score` is writing it"):
        complete(Bundle(), source, tmp_path / "scored.parquet", quiet)


def test_a_source_that_changes_meanwhile_is_refused(source: Path, tmp_path: Path) -> None:
    def tell(what: str, share: float) -> None:
        if what == "scoring" and share == 1.0:
            os.utime(source, ns=(0, 0))

    with pytest.raises(ProjectError, match=r"rows\.csv: changed while it was scored"):
        complete(Bundle(), source, tmp_path / "scored.parquet", tell)
    assert listed(tmp_path) == ["rows.csv"]


def replaced(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8") and None


def late(path: Path) -> None:
    """Put a wrong value into a row of the ninth part."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[8 * ROWS + 3] = lines[8 * ROWS + 3].replace("2013-", "soon-", 1)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Path.unlink, r"rows\.csv: not found"),
        (lambda path: path.write_bytes(b""), r"rows\.csv: the file is empty"),
        (lambda path: path.write_text("distance,origin\n"), r"rows\.csv: no row to score|'scheduled' is missing"),
        (replaced('"distance"', '"miles"'), r"rows\.csv: column 'distance' is missing"),
        (late, rf"rows\.csv: row {8 * ROWS + 3}, column 'scheduled': 'soon-.*' is not a time"),
    ],
)
def test_a_wrong_input_is_one_sentence_and_leaves_nothing(
    source: Path, tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    change(source)
    before = listed(tmp_path)
    with pytest.raises(ProjectError, match=told) as error:
        complete(Bundle(), source, tmp_path / "scored.parquet", quiet)
    assert len(str(error.value).splitlines()) == 1
    assert listed(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "output", "told"),
    [
        ("", "out.parquet", "make score INPUT="),
        ("rows.csv", "", "make score INPUT="),
        ("rows.csv", "out.csv", r"out\.csv: should end with \.parquet"),
        ("rows.txt", "out.parquet", r"rows\.txt: should end with \.csv or \.parquet"),
    ],
)
def test_wrong_paths_are_told(source: str, output: str, told: str) -> None:
    with pytest.raises(ProjectError, match=told):
        score(Bundle(), source, output, print)


def test_the_reader_decides_nothing() -> None:
    table, draw = pa.table({"row": range(1000)}), random.Random(3)
    for rows in (1, 7, 999, 1000, 1001):
        ends = sorted({0, 1000, *(draw.randrange(1000) for _ in range(20))})
        read = [(to / 1000, table.to_batches()[0].slice(start, to - start)) for start, to in pairwise(ends)]
        made = [part for _, part in cut(read, rows)]
        assert {len(part) for part in made[:-1]} <= {rows}
        assert pa.concat_tables(made).equals(table)


def test_memory_stays_as_it_is_when_files_grow(tmp_path: Path) -> None:
    peaks = []
    for size in (2, 8):
        with child(0, written(tmp_path / "rows.csv", size * 65_536), tmp_path / "scored.parquet") as process:
            said, wrong = process.communicate()
        assert process.returncode == 0, wrong
        peaks.append(int(said.split()[-1]))
    assert peaks[1] < peaks[0] * 1.15, peaks
