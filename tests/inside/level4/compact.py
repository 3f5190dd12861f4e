"""Compaction of the prediction log: each row once for whoever reads, also beside writers, and whatever is killed.

With THOROUGH in the environment compaction is killed a hundred times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flight_delays.ops import log
from flight_delays.ops.config import UnfinishedError
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.log import PREDICTIONS, REPLACES, Writer, compact, pieces, replaced, truth, whole
from flight_delays.ops.log.compact import due
from flight_delays.ops.log.truth import predictions, told
from flight_delays.ops.release.contract import Output
from flight_delays.ops.release.policy import Log
from flight_delays.ops.retrain import autopilot
from flight_delays.ops.retrain.autopilot import Pilot
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered

KILLS = 100 if os.environ.get("THOROUGH") else 12
WRITES = """
import os, sys, time
import numpy as np
from itertools import count
from flight_delays.ops.log import Writer
from flight_delays.ops.release.policy import Log
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered

writer, say = Writer(Log()), os.open("told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
writer._segments.largest = 40_000
for number in count():
    name, rows = f"{sys.argv[1]}x{number}", number % 5 + 1
    packed = Packed(np.ones((rows, 30), dtype=np.float32), np.full((rows, 2), "some text", dtype=object))
    raw, inputs = np.full((rows, 2), 0.5, dtype=np.float32), [{"a": 1}] * rows
    writer([Answered(name, 1.0, "d", 1, "champion", None, inputs, packed, raw, [True] * rows)])
    os.write(say, "".join(f"{name}-{row}\\n" for row in range(1, rows + 1)).encode())
    time.sleep(0.001)
"""
COMPACTS = """
import gc, os, random, signal, sys, time
from flight_delays.ops.log import compact
from flight_delays.ops.release.policy import Log

while not compact.compact(Log()).rows:
    pass
gc.collect()  # all is imported, and DuckDB's threads are gone: a child starts to work at once
compact.GRACE, draw = 3.0, random.Random(0)
for kill in range(int(sys.argv[1])):
    child = os.fork()
    while not child:
        compact.compact(Log())
    time.sleep(draw.uniform(0, 1))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it ended by itself"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    truth._segments.cache_clear()
    Path("config").mkdir()
    Path("config/policy.yaml").write_text("{}", encoding="utf-8")


def answer(request: str, rows: int = 1, model: str = "a" * 64, **more: Any) -> Answered:
    packed = Packed(np.full((rows, 1), [0.1], dtype=np.float32), np.full((rows, 1), 'é "x"', dtype=object))
    about: dict[str, Any] = {"entities": None, "inputs": [{"size": "1,5", "n": None}] * rows, "packed": packed}
    about |= {"raw": np.full((rows, 2), [0.25, 0.75], dtype=np.float32), "predictions": [True] * rows, **more}
    return Answered(request, 1.7e9 + len(request), model, 1, "champion", **about)


def closed(*answers: Answered) -> Path:
    """Write a segment of its own, from a process that has begun another one since."""
    write = Writer(Log())
    write(list(answers))
    (path,) = {piece.path for piece in pieces(PREDICTIONS)} - {piece.path for piece in before(write)}
    write._segments._until = 0.0
    write([answer("n", 0)])
    return path


def before(write: Writer) -> list[log.Piece]:
    return [piece for piece in pieces(PREDICTIONS) if piece.who != write._segments._who]


def aged(path: Path, seconds: float) -> Path:
    """Let a segment be begun that long ago."""
    begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - seconds))
    return path.rename(path.with_name(f"{begun}{path.name[15:]}"))


def read() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = predictions().order_by("id").to_pyarrow().to_pylist()
    return rows


def test_a_compacted_row_is_the_row_that_was_logged() -> None:
    closed(answer("r", 3), answer("s", entities=["ann"]))
    closed(answer("t", model="b" * 64, raw=np.array([2.5], np.float32), predictions=[2.5]))
    rows, table = read(), predictions().schema()
    done = compact.compact(Log())
    assert (done.rows, done.segments, done.removed) == (5, 2, 0)
    assert read() == rows
    assert predictions().schema() == table
    Writer(Log())([answer("u")])
    assert [row["id"] for row in read()] == [*(row["id"] for row in rows), "u-1"]
    assert truth.logged(["a" * 64], 10)[0].inputs[0] == {"size": "1,5", "n": None}
    assert truth.logged(["b" * 64], 10)[0].raw.tolist() == [2.5]
    told([("r-2", True)], Output(target="y", type="boolean", classes=[False, True]))
    assert truth.joined().to_pyarrow()["id"].to_pylist() == ["r-2"]


def test_what_is_written_to_stays_and_a_line_that_is_cut_off_is_nobodys() -> None:
    path = closed(answer("r", 2))
    with path.open("ab") as file:
        file.write(b'{"id":"t-1","time":1.0,"mod')
    Writer(Log())([answer("s")])
    assert due(Log())
    assert compact.compact(Log()).rows == 2
    assert [row["id"] for row in read()] == ["r-1", "r-2", "s-1"]
    assert not due(Log())
    assert compact.compact(Log()).segments == 0


def test_what_is_replaced_goes_an_hour_later() -> None:
    path = closed(answer("r", 2))
    compact.compact(Log())
    (made,) = PREDICTIONS.glob("*.parquet")
    assert path.exists()
    for age, is_there in ((3500, True), (3700, False)):
        os.utime(made, (time.time() - age,) * 2)
        assert due(Log()) is not is_there
        compact.compact(Log())
        assert path.exists() is is_there
        assert len(read()) == 2


def test_the_autopilot_compacts_what_is_due() -> None:
    def pilot(*command: str) -> Pilot:
        return Pilot((sys.executable, *command), dict, print)

    closed(answer("r", 2))
    broken = pilot("-c", "print('error: the disk is tired'); raise SystemExit(1)")
    assert autopilot.compacted(broken) == "; warning: the log was not compacted (the disk is tired)"
    assert autopilot.compacted(pilot("-m", "flight_delays.ops")) == ""
    assert len([*PREDICTIONS.glob("*.parquet")]) == 1
    assert autopilot.compacted(broken) == "", "nothing is due, so nothing is run"


def test_small_files_of_a_day_become_one_and_those_of_two_days_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "rstu":
        closed(answer(name))
        compact.compact(Log())
    assert len(whole(PREDICTIONS)) == 1 + sum(not piece.is_closed for piece in pieces(PREDICTIONS))
    for name in "vw":
        old = aged(closed(answer(name)), 3 * 86_400)
    monkeypatch.setattr(compact, "GRACE", -1.0)
    compact.compact(Log())
    found = [piece.path for piece in pieces(PREDICTIONS) if piece.path.suffix == ".parquet"]
    assert [path.name[:8] for path in found] == [old.name[:8], time.strftime("%Y%m%d", time.gmtime())]
    assert [pq.read_table(path)["id"].to_pylist() for path in found] == [["v-1", "w-1"], ["r-1", "s-1", "t-1", "u-1"]]
    assert len(read()) == 6


def test_the_log_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files go by their age, then the oldest by size, those of Parquet like the others."""
    aged(closed(answer("r")), 31 * 86_400)
    aged(closed(answer("s")), 7200)
    compact.compact(Log())
    assert [row["id"] for row in read()] == ["s-1"], "it is older than 30 days"
    monkeypatch.setattr(compact, "GRACE", -1.0)
    settings, draw = Log(max_mb=0.2), np.random.default_rng(0)
    for number in range(20):
        noise = [{"x": draw.bytes(20_000).hex()}]
        aged(closed(answer(f"{number:03}", inputs=noise)), 3600 - 60 * number)
        compact.compact(settings)
        assert sum(piece.size for piece in pieces(PREDICTIONS)) <= 0.2 * 2**20
    kept = [row["id"] for row in read()]
    assert (kept[-1], "s-1" in kept, len(kept) > 5) == ("019-1", False, True)


@pytest.mark.parametrize("damage", ["cut", "strange"])
def test_a_damaged_file_is_named(damage: str) -> None:
    closed(answer("r"))
    compact.compact(Log())
    (path,) = PREDICTIONS.glob("*.parquet")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        pq.write_table(pa.table({"id": ["x"]}), path)
    replaced.cache_clear()
    with pytest.raises(ProjectError, match=rf"{path.name}: is not as `make compact` wrote it"):
        predictions()


def test_a_segment_that_grows_meanwhile_is_left_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = closed(answer("r")), compact._written

    def slow(*words: Any) -> int:
        count = written(*words)
        with path.open("ab") as file:
            file.write(path.read_bytes().replace(b"r-1", b"q-1"))
        return count

    monkeypatch.setattr(compact, "_written", slow)
    with pytest.raises(UnfinishedError, match="changed while it was compacted"):
        compact.compact(Log())
    monkeypatch.setattr(compact, "_written", written)
    assert list(PREDICTIONS.glob("*.parquet")) == []
    assert [row["id"] for row in read()] == ["q-1", "r-1"]
    assert compact.compact(Log()).rows == 2


def test_a_process_that_slept_begins_another_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that counts the seconds of a process stands still while the machine sleeps; the segment is old."""
    write, now = Writer(Log()), time.time()
    write([answer("r")])
    monkeypatch.setattr(time, "time", lambda: now + 3 * 3600)
    assert compact.compact(Log()).rows == 1
    write([answer("s")])
    assert [row["id"] for row in read()] == ["r-1", "s-1"]


def acknowledged() -> set[str]:
    *lines, _ = Path("told").read_text().split("\n") if Path("told").exists() else [""]
    return set(lines)


def started(code: str, word: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, word], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def writers() -> Iterator[None]:
    running = [started(WRITES, name) for name in "ab"]
    try:
        yield
        assert [one.poll() for one in running] == [None, None]
    finally:
        for one in running:
            one.kill()
            one.communicate()


@pytest.mark.usefixtures("writers")
def test_each_row_is_there_once_beside_writers_and_whatever_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction is killed at random; a reader looks all the while, and the counts are the writers'."""
    looks = 0
    with started(COMPACTS, f"{KILLS}") as killing:
        while killing.poll() is None:
            looks += all_there()
    assert killing.returncode == 0
    assert looks > 1
    compact.compact(Log())
    assert {piece.path.suffix for piece in pieces(PREDICTIONS)} == {".jsonl", ".parquet"}
    assert all_there()
    monkeypatch.setattr(compact, "GRACE", -1.0)
    compact.compact(Log())
    assert pieces(PREDICTIONS)[0].path in [piece.path for piece in whole(PREDICTIONS)], "what was replaced is gone"
    assert all_there()


@pytest.mark.parametrize(("moment", "is_in_place"), [("_written", False), ("_overdue", True), ("tidy", True)])
def test_what_a_kill_leaves_is_swept(moment: str, is_in_place: bool) -> None:
    """Killed while it writes, it leaves a hidden folder; killed after the move, a file that is whole."""
    closed(answer("r", 2))
    kill = f"compact.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    code = f"import os, signal\nfrom flight_delays.ops.log import compact\n{kill}\n"
    code += "from flight_delays.ops.release.policy import Log\ncompact.compact(Log())"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    hidden = [path for path in PREDICTIONS.iterdir() if path.name.startswith(".")]
    assert (len(hidden), len([*PREDICTIONS.glob("*.parquet")])) == ((0, 1) if is_in_place else (1, 0))
    assert [row["id"] for row in read()] == ["r-1", "r-2"]
    assert compact.compact(Log()).rows == (0 if is_in_place else 2)
    assert [path for path in PREDICTIONS.iterdir() if path.name.startswith(".")] == []
    assert [row["id"] for row in read()] == ["r-1", "r-2"]


def all_there() -> bool:
    """Read all that was acknowledged by now; False before anything was."""
    wanted = acknowledged()
    if not wanted:
        return False
    found = Counter(predictions().to_pyarrow()["id"].to_pylist())
    assert max(found.values()) == 1
    assert wanted <= found.keys()
    return True


def test_who_reads_by_other_means_sees_what_a_file_replaces() -> None:
    path = closed(answer("r"))
    compact.compact(Log())
    (made,) = PREDICTIONS.glob("*.parquet")
    assert json.loads(pq.read_metadata(made).metadata[REPLACES]) == [path.name]
    assert ibis.duckdb.connect().read_parquet(made).count().to_pyarrow().as_py() == 1


def test_without_leaving_out_what_is_replaced_rows_are_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(answer("r"))
    compact.compact(Log())
    monkeypatch.setattr(truth, "whole", pieces)
    assert [row["id"] for row in read()] == ["r-1", "r-1"]
