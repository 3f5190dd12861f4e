"""The watch: new content runs the pipeline once, whatever is killed meanwhile. The pipeline is a small command here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from flight_delays.ops import (
    retrain,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.register import (
    events,
)
from flight_delays.ops.retrain import (
    Files,
    only_one,
    run,
)

EVERY = 0.05
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
PIPELINE = """
import pathlib, sys, time
content = pathlib.Path("data/a.csv").read_text()
pathlib.Path("started").open("a").write(content + "\\n")
if "slow" in content:
    time.sleep(30)
if "bad" in content:
    sys.exit("error: data/a.csv: is damaged")
pathlib.Path("ended").open("a").write(content + "\\n")
"""
WATCH = f"""
import sys
from flight_delays.ops.retrain import watch
watch({EVERY}, (sys.executable, "-c", {PIPELINE!r}), lambda line: print(line, flush=True))
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with one source, as the current folder."""
    monkeypatch.chdir(tmp_path)
    column = {"type": "number"}
    columns = {"x": column, "y": {**column, "role": "outcome"}}
    page = {"source": {"a": "data/a.csv", "far": "https://host/far.csv"}, "target": "y", "columns": columns}
    for name, text in {"config/data.yaml": yaml.safe_dump(page), "data/a.csv": "one"}.items():
        Path(name).parent.mkdir()
        Path(name).write_text(text, encoding="utf-8")


@contextmanager
def watching() -> Iterator[subprocess.Popen[str]]:
    """A watch in a process of its own."""
    with Path("said").open("a", encoding="utf-8") as said:
        process = subprocess.Popen((sys.executable, "-c", WATCH), stdout=said, stderr=said, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def drop(content: str) -> None:
    """Put a file in place in one step."""
    Path("data/new").write_text(content, encoding="utf-8")
    Path("data/new").replace("data/a.csv")


def lines(name: str) -> list[str]:
    return Path(name).read_text(encoding="utf-8").splitlines() if Path(name).exists() else []


def until(holds: object, name: str) -> None:
    """Wait until the lines of a file are these."""
    end = time.monotonic() + 20
    while lines(name) != holds:
        assert time.monotonic() < end, f"{name}: {lines(name)}; {lines('said')}"
        time.sleep(0.01)


def outcomes(count: int) -> list[str]:
    """Wait for that many events of the watch, and return how each ended."""
    end = time.monotonic() + 20
    while len(found := events.read("watch")) < count:
        assert time.monotonic() < end, f"{found}; {lines('said')}"
        time.sleep(0.01)
    return [event["outcome"] for event in found]


def test_each_content_is_handled_once() -> None:
    """New content runs the pipeline, a touched file and a new start do not; what is refused does not end the watch."""
    with watching():
        until(["one"], "ended")
        drop("bad")
        assert outcomes(2) == ["handled", "refused"]
        Path("data/a.csv").touch()
        time.sleep(10 * EVERY)
        drop("two")
        until(["one", "two"], "ended")
        assert outcomes(3) == ["handled", "refused", "handled"]
    with watching() as process:
        time.sleep(0.5)
        drop("three")
        until(["one", "two", "three"], "ended")
        outcomes(4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) != 0
    assert lines("started") == ["one", "bad", "two", "three"]
    told = [line for line in lines("said") if "refused" in line]
    assert told == ["data/a.csv: refused (data/a.csv: is damaged); watching for other content"]
    assert any("source 'far' is not on this machine" in line for line in lines("said"))


def test_refused_content_is_tried_again_under_other_rules() -> None:
    drop("bad")
    with watching():
        outcomes(1)
        with Path("config/data.yaml").open("a", encoding="utf-8") as rules:
            rules.write("# another rule\n")
        assert outcomes(2) == ["refused", "refused"]


@LINUX
def test_what_is_killed_is_tried_again() -> None:
    """A kill of the watch or of the pipeline leaves the content to be handled; a signal ends both."""
    drop("slow")
    with watching() as process:
        until(["slow"], "started")
        child = children(process.pid)[0]
        os.kill(child, signal.SIGKILL)
        until(["slow", "slow"], "started")
        (child,) = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) != 0
        assert not Path(f"/proc/{child}").exists()
    with watching():
        until(["slow"] * 3, "started")
    assert events.read("watch") == []
    drop("quick")
    with watching():
        until(["quick"], "ended")


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@LINUX
def test_data_that_change_meanwhile_are_handled_afterwards() -> None:
    with watching() as process:
        until(["one"], "ended")
        drop("slow")
        until(["one", "slow"], "started")
        drop("two")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        until(["one", "two"], "ended")


def test_a_file_is_read_when_it_holds_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    path, files = Path("data/a.csv"), Files(2)
    for second in range(5):
        now += 1
        with path.open("a", encoding="utf-8") as growing:
            growing.write(str(second))
        assert files.digest(path) is None
    now += 1
    assert files.digest(path) is None
    now += 1
    assert files.digest(path) is not None
    path.unlink()
    with pytest.raises(ProjectError, match=r"data/a\.csv: No such file"):
        files.content([path])


def test_there_is_one_watch() -> None:
    with watching() as process:
        until(["one"], "ended")
        with pytest.raises(ProjectError, match=rf"process {process.pid}\)"), only_one(retrain.PROCESS):
            pass
    with only_one(retrain.PROCESS):
        pass


def test_nothing_to_watch_is_told() -> None:
    page = yaml.safe_load(Path("config/data.yaml").read_text(encoding="utf-8"))
    del page["source"]["a"]
    Path("config/data.yaml").write_text(yaml.safe_dump(page), encoding="utf-8")
    with pytest.raises(ProjectError, match="no source is a file on this machine"):
        retrain.watch(EVERY, (), print)


@pytest.mark.parametrize(
    ("code", "told"), [("exit(0)", ""), ("print('x'); exit('error: a\\n  b')", "a b"), ("1 / 0", "Zero")]
)
def test_the_last_error_is_told(code: str, told: str) -> None:
    ended = run((sys.executable, "-c", code), lambda _: None)
    assert ended.told.startswith(told)
    assert not ended.unfinished
