"""Scored files in the prediction log: every row once, as a service would have logged it. Run by `test_inside.py`."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from flight_delays.ops.config import UnfinishedError
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.features import from_records
from flight_delays.ops.log import BEGUN, PREDICTIONS, SEGMENT, Pieces, Writer, put, replaced, tidy, truth
from flight_delays.ops.log.truth import compared, predictions, take_in, told, truths
from flight_delays.ops.release.contract import Output
from flight_delays.ops.release.policy import Experiment, Log, Policy
from flight_delays.ops.scorer import MODEL, UNSEEN
from flight_delays.ops.serve import Answered
from flight_delays.ops.serve import score as module
from flight_delays.ops.serve.batch import ModelFile, batches, taken
from flight_delays.ops.serve.protocols import plain
from flight_delays.ops.serve.score import ID, Done, complete, score

HOME = Path.cwd()
ROWS, PARTS, KILLS = 250, 4, 6
ALL = PARTS * ROWS + 7
CHILD = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from flight_delays.ops.log import Pieces
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.serve import score
from flight_delays.ops.serve.batch import ModelFile
score.BATCH = {ROWS}
bundle = ModelFile(Path("{HOME / MODEL}"))
bundle.digest, bundle.manifest = "d1" * 32, SimpleNamespace(version=1)
print("begun", flush=True)
score.score(bundle, "rows.csv", "scored.parquet", print, Pieces(Policy()))
"""


class Bundle(ModelFile):
    """The project's model, as if it had been released."""

    def __init__(self, digest: str = "d1" * 32, version: int = 1) -> None:
        """Open it under a digest and a version."""
        super().__init__(HOME / MODEL)
        self.digest, self.manifest = digest, SimpleNamespace(version=version)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, with a file of some parts, some of whose values are missing."""
    monkeypatch.setattr(module, "BATCH", ROWS)
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    for name in ("data", "contract"):
        Path(f"config/{name}.yaml").write_bytes((HOME / f"config/{name}.yaml").read_bytes())
    Path("config/policy.yaml").write_text("{}", encoding="utf-8")
    written(Path("rows.csv"), ALL)


def written(path: Path, rows: int) -> Path:
    head, *lines = (HOME / UNSEEN).read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(head + "".join((lines * (rows // len(lines) + 1))[:rows]), encoding="utf-8")
    return path


def quiet(_: str, __: float) -> None:
    """Tell nobody."""


def logged(output: str = "scored.parquet", bundle: Any = None, policy: Policy | None = None) -> Done:
    return complete(bundle or Bundle(), Path("rows.csv"), Path(output), quiet, Pieces(policy or Policy()))


def read() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = predictions().order_by(["time", "id"]).to_pyarrow().to_pylist()
    return rows


def test_a_row_is_logged_as_a_service_would_have_logged_it() -> None:
    """All of it: what was asked, the features, the answer, and of whom it is."""
    assert logged(policy=Policy(experiment=Experiment(entity="carrier"))) == (ALL, 0, ALL)
    ours, schema, bundle = read(), predictions().schema(), Bundle()
    signature = bundle.scorer.signature
    with ExitStack() as stack:
        (batch,) = (batch for _, batch in batches(Path("rows.csv"), signature.csv, stack))
    columns, packed, raw = taken(bundle, batch, Path("rows.csv"), 1)
    asked = plain(dict(columns), signature.inputs)
    about: dict[str, Any] = {"packed": packed, "raw": raw, "predictions": bundle.scorer.answers(raw).tolist()}
    who = [row["carrier"] for row in asked]
    for path in PREDICTIONS.iterdir():
        path.unlink()
    Writer(Log())([Answered("r", 1.0, "d1" * 32, 1, "champion", who, asked, **about)])
    theirs = sorted(predictions().to_pyarrow().to_pylist(), key=lambda row: int(row["id"].rpartition("-")[2]))
    assert predictions().schema() == schema
    kept = ("model", "version", "variant", "entity", "prediction", "numbers", "text")
    assert [[row[name] for name in kept] for row in ours] == [[row[name] for name in kept] for row in theirs]
    np.testing.assert_allclose(truth.raw(ours), truth.raw(theirs), atol=1e-6)
    given = [[msgspec.json.decode(row["inputs"]) for row in rows] for rows in (ours, theirs)]
    assert any(None in row.values() for row in given[0]), "some value is missing"
    said = [from_records(rows, signature.inputs) for rows in given]
    for name in said[0]:
        np.testing.assert_array_equal(said[0][name], said[1][name])


def test_the_log_has_the_rows_of_the_output_in_their_order() -> None:
    before = time.time()
    logged()
    rows, output = read(), pq.read_table("scored.parquet")
    assert output.column_names[-1] == ID
    assert output[ID].to_pylist() == [row["id"] for row in rows]
    assert [str(value).lower() for value in output["prediction"].to_pylist()] == [row["prediction"] for row in rows]
    assert output["probability_true"].to_pylist() == [np.float32(row["probabilities"][1]) for row in rows]
    key, _, last = rows[-1]["id"].partition("-")
    assert (len(key), last) == (12, f"{ALL:010}")
    assert np.diff([row["time"] for row in rows]).min() > 0
    assert before < rows[0]["time"] < rows[-1]["time"] < time.time()
    names = sorted(path.name for path in PREDICTIONS.iterdir())
    assert [SEGMENT.fullmatch(name)[2] for name in names] == [key] * (PARTS + 1)  # type: ignore[index]
    assert {replaced(PREDICTIONS / name) for name in names} == {frozenset()}


def test_without_a_journal_nothing_is_logged() -> None:
    said: list[str] = []
    score(Bundle(), "rows.csv", "scored.parquet", said.append)
    assert said == [f"{ALL} rows scored with version 1 -> scored.parquet"]
    assert ID not in pq.read_schema("scored.parquet").names
    assert not PREDICTIONS.exists()


def test_the_same_file_again_is_the_same_rows_and_another_version_others() -> None:
    assert logged() == (ALL, 0, ALL)
    wanted = read()
    assert logged("again.parquet") == (ALL, 0, 0)
    assert read() == wanted
    assert Path("again.parquet").read_bytes() == Path("scored.parquet").read_bytes()
    one, *_ = sorted(PREDICTIONS.iterdir())
    one.unlink()  # it grew too old
    assert logged("again.parquet") == (ALL, 0, ROWS)
    assert {row["id"] for row in read()} == {row["id"] for row in wanted}
    assert logged("other.parquet", Bundle("d2" * 32, 2)) == (ALL, 0, ALL)
    assert len({row["id"] for row in read()}) == 2 * ALL


def test_rows_are_known_again_in_whatever_file_they_are() -> None:
    """A compaction has put all rows of a day into one file under another name."""
    logged()
    wanted = read()
    table, made = predictions(), PREDICTIONS / f"{datetime.now(UTC):{BEGUN}}-abc-000001.parquet"
    put(table, Path("all.parquet"), table.get_backend())
    tidy(PREDICTIONS, 1, 0)
    Path("all.parquet").rename(made)
    assert logged("again.parquet") == (ALL, 0, 0)
    assert read() == wanted


def test_killed_at_any_moment_every_row_is_logged_once() -> None:
    """6 kills: until the first end, the log has whole parts in their order; then all rows, as the output has them."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True)
    takes, draw, killed, partly = time.monotonic() - start, random.Random(5), 0, 0
    wanted = [row["id"] for row in read()]
    while killed < KILLS:
        tidy(PREDICTIONS, 1, 0)
        Path("scored.parquet").unlink(missing_ok=True)
        ended = False
        while not ended:
            with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                process.stdout.readline()
                try:
                    process.wait(draw.uniform(0, takes / 2) if killed < KILLS else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            ended = process.returncode == 0
            there = [row["id"] for row in read()] if any(PREDICTIONS.glob("*.parquet")) else []
            assert there == wanted[: len(there)]
            partly += 0 < len(there) < ALL
        assert there == wanted == pq.read_table("scored.parquet")[ID].to_pylist()
        assert list(Path.cwd().glob(".scored*")) == []
    print(f"{killed} kills, {partly} of them between two parts of the log")


def refused(change: Callable[[], object], policy: Policy, match: str) -> None:
    change()
    with pytest.raises(ProjectError, match=match):
        logged(policy=policy)
    assert not any(PREDICTIONS.glob("*")), "nothing is logged"
    assert not Path("scored.parquet").exists()


def test_a_file_of_which_the_log_would_not_keep_all_is_refused() -> None:
    told = r"rows\.csv: to log its rows takes about \S+ MB, and max_mb .*keeps \S+; raise it, or score without LOG=yes"
    refused(lambda: None, Policy(log=Log(max_mb=0.01)), told)
    logged(policy=Policy(log=Log(max_mb=1)))
    assert len(read()) == ALL


def test_a_wrong_row_late_in_a_file_logs_nothing() -> None:
    def spoil() -> None:
        lines = Path("rows.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        lines[3 * ROWS + 2] = lines[3 * ROWS + 2].replace("2013-", "soon-", 1)
        Path("rows.csv").write_text("".join(lines), encoding="utf-8")

    refused(spoil, Policy(), rf"row {3 * ROWS + 2}, column 'scheduled'")


def test_a_log_that_cannot_be_written_is_one_sentence_and_the_next_run_goes_on() -> None:
    PREDICTIONS.parent.mkdir()
    PREDICTIONS.write_text("a file")
    with pytest.raises(ProjectError, match=r"logs/predictions: cannot be written"):
        logged()
    assert not Path("scored.parquet").exists()
    PREDICTIONS.unlink()
    assert logged().logged == ALL


def test_a_full_disk_leaves_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(range(2))

    def full(*given: Any) -> int:
        if next(left, None) is None:
            raise UnfinishedError("x.parquet: was not written (the disk is full); try again")
        return put(*given)

    journal = Pieces(Policy())
    complete(Bundle(), Path("rows.csv"), Path("whole.parquet"), quiet)
    monkeypatch.setattr("flight_delays.ops.log.put", full)
    with pytest.raises(UnfinishedError, match=r"the disk is full.*\.parts keeps what is done"):
        complete(Bundle(), Path("rows.csv"), Path("scored.parquet"), quiet, journal)
    monkeypatch.undo()


def test_a_scored_file_comes_back_with_its_truth() -> None:
    """Rows that have an id and a time of their own: neither is the prediction's."""
    logged()
    output = pq.read_table("scored.parquet")
    truth = [True, None, *[False] * (ALL - 2)]
    own = {"id": [f"customer {row}" for row in range(ALL)], "time": ["noon"] * ALL, "truth": truth}
    for name, values in own.items():
        output = output.append_column(name, [values])
    pq.write_table(output, "truth.parquet")
    said: list[str] = []
    take_in(Path("truth.parquet"), said.append)
    assert said == [
        f"{ALL - 1} truths taken in from truth.parquet: {ALL - 1} new, 0 told before",
        "1 rows have no truth yet and say nothing",
    ]
    known = {row["id"]: row["truth"] for row in truths().to_pyarrow().to_pylist()}
    ids = output[ID].to_pylist()
    assert known == {ids[0]: "true"} | dict.fromkeys(ids[2:], "false")
    pq.write_table(output.drop_columns(["truth"]), "none.parquet")
    with pytest.raises(ProjectError, match=r"none\.parquet: column 'truth' is missing"):
        take_in(Path("none.parquet"), said.append)


def test_rows_of_a_file_take_no_part_in_an_experiment() -> None:
    """Nobody assigned them to a model."""
    logged()
    first, *_ = read()
    told([(first["id"], True)], Output(target="y", type="boolean", classes=[False, True]))
    assert compared(("d1" * 32, "d2" * 32), 0.0, shadow=False).ids == []
