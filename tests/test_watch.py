"""The watch lived through: new data become registered runs, once, whatever is killed meanwhile; and the model card."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import OFFLINE, clone_at_start, commit, make, well

pytestmark = pytest.mark.life
ROWS = 1500
PATIENCE = 600
"""Seconds until a training has to have come to its end."""


@pytest.fixture(scope="module")
def project(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of few rows and a small forest, so that a training is quick."""
    folder = tmp_path_factory.mktemp("watched") / "project"
    clone_at_start(lived(2, "classification"), folder)
    model = folder / "config" / "model.yaml"
    model.write_text(model.read_text(encoding="utf-8").replace("n_estimators: 100", "n_estimators: 5"), "utf-8")
    well(make(folder, "setup"))
    commit(folder, "Small")
    return folder


@pytest.fixture(scope="module")
def flights(project: Path) -> pa.Table:
    """Return all of the data."""
    return pq.read_table(project / "data" / "flights.parquet")


class Watch:
    """A watch over a project, which may be killed and started again."""

    def __init__(self, project: Path) -> None:
        """Prepare to watch `data/flights.parquet` of a project."""
        self.project, self.file = project, project / "data" / "flights.parquet"
        self.said = project.with_name("said.txt")
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> int:
        """Start it if it does not run, and return its process."""
        if self.process is None or self.process.poll() is not None:
            command = [
                *OFFLINE,
                str(self.project / ".venv/bin/python"),
                "-m",
                "flight_delays.ops",
                "watch",
                "--every=0.3",
            ]
            with self.said.open("a", encoding="utf-8") as said:
                self.process = subprocess.Popen(command, cwd=self.project, stdout=said, stderr=said, text=True)
        return self.process.pid

    def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        assert self.process is not None
        return self.process.wait(30)

    def events(self, kind: str) -> list[dict[str, str]]:
        """Return what the event log holds of a kind."""
        path = self.project / "logs" / "events.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def drop(self, content: bytes) -> None:
        """Put a new file in place in one step."""
        made = self.file.with_name(".new")
        made.write_bytes(content)
        made.replace(self.file)

    def outcome(self) -> str:
        """Wait until the file as it is now was handled, and return how that ended."""
        wanted, end = hashlib.sha256(self.file.read_bytes()).hexdigest(), time.monotonic() + PATIENCE
        while not (seen := self.events("watch")) or seen[-1]["files"]["data/flights.parquet"] != wanted:  # type: ignore[index]
            assert time.monotonic() < end, self.said.read_text(encoding="utf-8")
            time.sleep(0.2)
        return seen[-1]["outcome"]

    def is_whole(self) -> int:
        """Check that every record is registered, and nothing twice; return how many there are."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in (self.project / "runs").glob("*.json")]
        registered = self.events("register")
        ids = {record["id"] for record in records}
        assert len({record["key"] for record in records}) == len(records) == len(registered)
        assert {event["run"] for event in registered} == ids
        assert {int(event["version"]) for event in registered} == set(range(1, len(records) + 1))
        return len(records)


@pytest.fixture
def watch(project: Path) -> Iterator[Watch]:
    """Return a watch that is ended after the test."""
    one = Watch(project)
    yield one
    if one.process is not None:
        one.process.send_signal(signal.SIGTERM)
        assert one.ended() == 0, "a signal ends it well"


def some(flights: pa.Table, seed: int) -> bytes:
    """Return a Parquet file with some of the rows."""
    chosen = sorted(random.Random(seed).sample(range(flights.num_rows), ROWS))
    buffer = pa.BufferOutputStream()
    pq.write_table(flights.take(chosen), buffer)
    return bytes(buffer.getvalue())


def started_by(process: int) -> list[int]:
    """Return every process that a process started, and those that they started."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text(encoding="utf-8").split()):
                found += [child, *started_by(child)]
    return found


def test_a_dropped_file_becomes_a_registered_run(watch: Watch, flights: pa.Table) -> None:
    """Once, and a corrupt one is refused by name and leaves everything as it was."""
    watch.drop(some(flights, 1))
    watch.start()
    assert watch.outcome() == "handled"
    before = watch.is_whole()
    watch.drop(some(flights, 2)[:20_000])
    assert watch.outcome() == "refused"
    assert "data/flights.parquet: refused (data/flights.parquet: " in watch.said.read_text(encoding="utf-8")
    assert watch.is_whole() == before
    watch.drop(some(flights, 2))
    assert watch.outcome() == "handled"
    assert watch.is_whole() == before + 1
    assert [event["outcome"] for event in watch.events("watch")] == ["handled", "refused", "handled"]


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.thorough)])
def test_kills_lose_nothing_and_register_nothing_twice(watch: Watch, flights: pa.Table, kills: int) -> None:
    """The watch, the pipeline, or something that it started is killed at some moment; the last content is handled."""
    chance, before = random.Random(kills), watch.is_whole()
    for number in range(kills):
        if number % 2 == 0:
            watch.drop(some(flights, 10 * kills + number))
        process = watch.start()
        time.sleep(chance.uniform(0.5, 15))
        family = [process, *started_by(process)]
        victims = chance.choice([family[:1], family[-1:], family, [chance.choice(family)]])
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if process in victims:
            watch.ended()
    watch.start()
    assert watch.outcome() == "handled"
    assert watch.is_whole() > before
    newest = json.loads(max((watch.project / "runs").glob("*.json")).read_text(encoding="utf-8"))
    pointer = (watch.project / "data" / "raw.dvc").read_text(encoding="utf-8")
    assert f"md5: {newest['data']['version']}.dir" in pointer, "the last content has its run"


def test_the_model_card(lived: Callable[[int, str], Path]) -> None:
    home = lived(2, "classification")
    assert "pipeline_tag: tabular-classification" in (home / "reports" / "card.md").read_text(encoding="utf-8")
    assert (home / "reports" / "card.html").is_file()
