"""The prediction log: what was told is there, whatever ends the process, and no more than may be is kept."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from flight_delays.ops import log
from flight_delays.ops.config import UnfinishedError
from flight_delays.ops.log import SEGMENT, Segments, Writer, tidy
from flight_delays.ops.release.policy import Log
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered

WAVES, WRITERS = 6, 4
WRITES = """
import os, random, signal
from itertools import count
from threading import Timer
import numpy as np
from flight_delays.ops import log
from flight_delays.ops.log import Writer
from flight_delays.ops.release.policy import Log
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered

def write(name):
    Timer(random.Random(name).uniform(0, 0.3), os.kill, (os.getpid(), signal.SIGKILL)).start()
    say, writer = os.open(f"told-{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), Writer(Log())
    for number in count():
        rows = number % 5 + 1
        packed = Packed(np.ones((rows, 30), dtype=np.float32), np.full((rows, 2), "some text", dtype=object))
        raw, inputs = np.full((rows, 2), 0.5, dtype=np.float32), [{"a": 1}] * rows
        writer([Answered(f"{name}x{number}", 1.0, "d", 1, "champion", None, inputs, packed, raw, [True] * rows)])
        os.write(say, b"%d " % number)

log.AGE = 0.02  # another segment is begun all the time
for wave in range(WAVES):
    for name in range(WRITERS):
        if os.fork() == 0:
            write(f"{wave}w{name}")
    for _ in range(WRITERS):
        os.wait()
"""
"""Says the number of each request after it is logged, as a service answers it, until it is killed."""
HEAVY = {"duckdb", "dvc", "filelock", "ibis", "mlflow", "onnx", "pandas", "pandera", "pyarrow", "scipy", "sklearn"}


def answered(request: str = "r", rows: int = 1, text: str = "x", **more: Any) -> Answered:
    packed = Packed(np.full((rows, 2), [0.1, np.nan], dtype=np.float32), np.full((rows, 1), text, dtype=object))
    raw = np.full((rows, 2), [0.25, 0.75], dtype=np.float32)
    about: dict[str, Any] = {
        "entities": None,
        "inputs": [{"size": 1.5}] * rows,
        "raw": raw,
        "predictions": [True] * rows,
    }
    return Answered(request, 12.5, "d" * 64, 3, "champion", packed=packed, **{**about, **more})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_bytes().splitlines()]


def test_a_row_is_a_line(tmp_path: Path) -> None:
    write = Writer(Log(), tmp_path / "deep")
    write(
        [answered("r", 2, entities=["ann", "bob"]), answered("s", raw=np.array([2.5], np.float32), predictions=[2.5])]
    )
    first, second, third = lines(tmp_path / "deep")
    assert first == {
        "id": "r-1",
        "time": 12.5,
        "model": "d" * 64,
        "version": 3,
        "variant": "champion",
        "entity": "ann",
        "inputs": {"size": 1.5},
        "numbers": [float(np.float32(0.1)), None],
        "text": ["x"],
        "prediction": True,
        "probabilities": [0.25, 0.75],
    }
    assert (second["id"], second["entity"]) == ("r-2", "bob")
    assert (third["id"], third["entity"], third["prediction"], third["probabilities"]) == ("s-1", None, 2.5, None)


def test_whatever_was_told_outlives_kills_at_random_moments(tmp_path: Path) -> None:
    """Processes that write at once are killed, 24 in all: everything that they told is in the log, once."""
    code = f"WAVES, WRITERS = {WAVES}, {WRITERS}\n{WRITES}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
    found = Counter(ids(tmp_path / "logs/predictions"))
    assert set(found.values()) == {1}
    rows, told = Counter(key.split("-")[0] for key in found), list(tmp_path.glob("told-*"))
    for path in told:
        name, numbers = path.name.removeprefix("told-"), [int(line) for line in path.read_bytes().split()]
        assert [rows[f"{name}x{number}"] for number in numbers] == [number % 5 + 1 for number in numbers]
        assert sum(key.startswith(f"{name}x") for key in rows) <= len(numbers) + 1, "one request was at work"
    assert len(told) > WAVES * WRITERS / 2
    assert len(rows) > 1000


def ids(folder: Path) -> list[str]:
    """Return the id of every whole line."""
    found = []
    for path in folder.iterdir():
        *whole, _ = path.read_bytes().split(b"\n")
        found += [json.loads(line)["id"] for line in whole]
    return found


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    write = Writer(Log(), tmp_path)
    threads = [
        Thread(target=lambda name=name: [write([answered(f"{name}x{n}", 3)]) for n in range(50)]) for name in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({line["id"] for line in lines(tmp_path)}) == 8 * 50 * 3


def test_what_cannot_be_written_is_taken_back(tmp_path: Path) -> None:
    """A full disk cuts a write short: nothing of it stays, and the next one that fits is whole."""
    write = Writer(Log(), tmp_path)
    write([answered("before")])
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    old, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, old[1]))
    try:
        with pytest.raises(UnfinishedError, match=r"\.jsonl: cannot be written"):
            write([answered("long", 50)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
    write([answered("after")])
    assert [line["id"] for line in lines(tmp_path)] == ["before-1", "after-1"]


@pytest.mark.skipif(os.name != "posix", reason="needs a device that is full")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = Segments(Log(), tmp_path)
    segments.add(b"{}\n")
    monkeypatch.setattr(segments, "_file", os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(UnfinishedError, match="No space left on device"):
        segments.add(b"{}\n")
    segments.add(b"{}\n")  # the device cannot be cut, so another segment is begun
    assert len(lines(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UnfinishedError, match=r"logs.*cannot be written"):
        Writer(Log(), tmp_path / "logs")([answered()])


def test_a_segment_that_somebody_removed_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOOK", 0.0)
    write = Writer(Log(), tmp_path / "logs")
    write([answered("one")])
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    (tmp_path / "logs").rmdir()
    write([answered("two")])
    assert [line["id"] for line in lines(tmp_path / "logs")] == ["two-1"]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    write, most = Writer(Log(max_mb=1), tmp_path), 2**20
    for number in range(100):
        write([answered(f"{number:03}", 100)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < most
    kept = [line["id"].split("-")[0] for line in lines(tmp_path)]
    assert kept == sorted(kept)
    assert kept[-1] == "099"
    assert len(set(kept)) > 20


def test_a_segment_ends_with_its_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, now = Writer(Log(), tmp_path), time.monotonic()
    for later in (0, 3000, 4000):
        monkeypatch.setattr(time, "monotonic", lambda later=later: now + later)
        write([answered()])
    assert sorted(len(path.read_bytes().splitlines()) for path in tmp_path.iterdir()) == [1, 2]


def test_the_oldest_go_and_those_that_are_written_to_stay(tmp_path: Path) -> None:
    def put(hours: float, who: str, number: int) -> str:
        begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 3600 * hours))
        path = tmp_path / f"{begun}-{who}-{number:06}.jsonl"
        path.write_bytes(b"x" * 100)
        assert SEGMENT.fullmatch(path.name)
        return path.name

    (tmp_path / "notes.txt").write_text("no segment")
    put(80, "a", 1)
    old, closed = put(40, "a", 2), put(1.5, "b", 1)
    second, written = put(0.6, "b", 2), put(0.5, "c", 1)
    names = {"notes.txt", second, written}
    tidy(tmp_path, days=2, most=1000)
    assert {path.name for path in tmp_path.iterdir()} == names | {old, closed}
    tidy(tmp_path, days=2, most=300)
    assert {path.name for path in tmp_path.iterdir()} == names | {closed}
    tidy(tmp_path, days=2, most=0)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_who_writes_needs_no_library_that_reads() -> None:
    code = "import sys, flight_delays.ops.log.truth, flight_delays.ops.release.experiment; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & {name.partition(".")[0] for name in done.stdout.split()} == set()
