"""The fast service under real clients, a fuzzer and constant load, while models take over from one another."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from conftest import TIMES, must, run

pytestmark = pytest.mark.life
RELEASE = """
import json
from pathlib import Path
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.guards import ROWS, Scene
from flight_delays.ops.guards_3 import RECORD, alone, released
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.release import build, bundle
import sys

data, model = load(Data), load(Model)
scene = Scene(data, load(Case), model, Path(sys.argv[1]), drawn(data, model.task, ROWS))
with alone(scene):
    release = released(scene)
    code = release.made / bundle.CODE / "features.py"
    code.write_text(code.read_text() + "\\nANOTHER = 1\\n")
    release.put(build.finished(release.made, 2, RECORD), signed=True)
    fixture = json.loads((release.made / bundle.FIXTURE).read_bytes())
print(json.dumps(fixture["dataframe_records"]))
"""
"""Two bundles with different code, of which dev uses the second."""
SERVE = """
from flight_delays.ops.log import Writer
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.serve.fast import serve
serve("127.0.0.1", "0", "dev", Policy(), Writer(Policy().log), lambda *_: None)
"""
MOVE = """
import json
import sys
import time
from urllib.request import urlopen
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import opened

port, times, pause, kind = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
store, seconds = opened(Policy()), []
digests = [entry.facts["digest"] for entry in store.entries() if entry.kind == "bundle"]
for _ in range(times):
    pointer = store.pointer("dev")
    digest = digests[pointer.champion == digests[0]]
    store.move(kind, "dev", digest, pointer, version=1, previous=pointer.champion, why="")
    started = time.monotonic()
    while json.load(urlopen(f"http://127.0.0.1:{port}/version"))["bundle"] != digest:
        time.sleep(0.01)
    seconds.append(time.monotonic() - started)
    time.sleep(pause)
print(json.dumps(seconds))
"""
TRITON = """
import json
import sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

port, rows = sys.argv[1], json.loads(sys.argv[2])
client = triton.InferenceServerClient(f"127.0.0.1:{port}")
assert client.is_server_live() and client.is_server_ready()
model = client.get_server_metadata()["name"]
assert client.is_model_ready(model)
about = client.get_model_metadata(model)
kinds = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


def inputs(shape=None, first=None):
    made = []
    for one in about["inputs"]:
        kind, name = one["datatype"], one["name"]
        empty = "" if kind == "BYTES" else np.nan
        values = [empty if row[name] is None else row[name] for row in rows]
        tensor = triton.InferInput(name, [len(rows)], kind)
        tensor.set_data_from_numpy(np.array(values, dtype=kinds[kind]))
        made.append(tensor)
    if shape:
        made[0]._shape = shape
    if first:
        made[0]._name = first
    return made


def refused(**changes):
    try:
        client.infer(model, inputs(**changes))
    except InferenceServerException as error:
        return error.message()
    raise AssertionError("it was not refused")


told = client.infer(model, inputs())
assert told.as_numpy("probabilities").shape[0] == len(rows)
assert "is wanted" in refused(shape=[len(rows), 2])
assert "did you mean" in refused(first=about["inputs"][0]["name"] + "_")
print(json.dumps(told.as_numpy("prediction").tolist()))
"""


@dataclass
class Served:
    """A project with two bundles, and rows that its service can score."""

    python: Path
    folder: Path
    rows: list[dict[str, Any]]

    @contextmanager
    def service(self) -> Iterator[int]:
        """Run the service, and give its port."""
        command = [f"{self.python}", "-c", SERVE]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as process:
            found = re.search(r"http://127.0.0.1:(\d+)", process.stdout.readline() if process.stdout else "")
            assert found
            yield int(found[1])
            process.terminate()
            assert process.wait(10) == 0

    def move(self, port: int, times: int, pause: float = 0.0, kind: str = "deploy") -> list[float]:
        """Let dev use the one and the other bundle in turns; returns the seconds until the service did."""
        said = must([self.python, "-c", MOVE, str(port), str(times), str(pause), kind], self.folder)
        seconds: list[float] = json.loads(said)
        return seconds


@dataclass
class Load:
    """Constant load on a service: so many requests a second, over some connections that stay open."""

    port: int
    body: bytes
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    is_over: bool = False

    async def __call__(self, connections: int = 4, rate: float = 200) -> None:
        """Ask until it is over."""
        await asyncio.gather(*(self._ask(connections / rate) for _ in range(connections)))

    async def _ask(self, pace: float) -> None:
        head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(self.body)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while not self.is_over:
            started = time.monotonic()
            writer.write(f"{head}\r\n\r\n".encode() + self.body)
            try:
                answer = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", answer)
                await reader.readexactly(int(found[1]) if found else 0)
            except (OSError, EOFError) as error:
                self.failed.append(repr(error))
                return
            self.seconds.append(time.monotonic() - started)
            if not answer.startswith(b"HTTP/1.1 200"):
                self.failed.append(answer.decode())
            await asyncio.sleep(max(0, pace - self.seconds[-1]))
        writer.close()

    @property
    def p99(self) -> float:
        """Seconds within which 99 of 100 answers came."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


def under_load(served: Served, port: int, change: Callable[[], Any]) -> Load:
    """Do something while the service is asked constantly."""

    async def both() -> Load:
        load = Load(port, json.dumps({"instances": served.rows[:1]}).encode())
        asking = asyncio.create_task(load())
        await asyncio.to_thread(change)
        load.is_over = True
        await asking
        return load

    return asyncio.run(both())


@pytest.fixture(scope="module")
def served(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Served:
    project, folder = lived(3, "classification"), tmp_path_factory.mktemp("served")
    python = project / ".venv/bin/python"
    return Served(python, folder, json.loads(must([python, "-c", RELEASE, folder], project)))


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with clients that nobody here wrote."""
    folder = tmp_path_factory.mktemp("clients")
    must([sys.executable, "-m", "venv", folder], folder)
    must([folder / "bin/python", "-m", "pip", "install", "--quiet", "tritonclient[http]", "schemathesis"], folder)
    return folder / "bin"


def test_triton_s_client(served: Served, clients: Path) -> None:
    with served.service() as port:
        said = must([clients / "python", "-c", TRITON, str(port), json.dumps(served.rows[:3])], served.folder)
    assert len(json.loads(said)) == 3


def test_the_fuzzer_finds_what_openapi_says(served: Served, clients: Path) -> None:
    """A schema cannot say that values fill a shape, or what a CSV table is: those two checks are left out."""
    left_out = "positive_data_acceptance,negative_data_rejection"
    with served.service() as port:
        page = f"http://127.0.0.1:{port}/openapi.json"
        options = ["--exclude-checks", left_out, "--max-examples", "40", "--seed", "1", "--no-color"]
        done = run([clients / "schemathesis", "run", page, *options], served.folder)
        assert done.returncode == 0, done.stdout[-5000:]
        metrics = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert not re.search(r'status="5\d\d"', metrics)


@pytest.mark.parametrize(("swaps", "rollbacks"), [(20, 5), pytest.param(1000, 100, marks=pytest.mark.thorough)])
def test_nobody_notices_that_models_take_over(served: Served, swaps: int, rollbacks: int) -> None:
    with served.service() as port:
        seconds: list[float] = []

        def change() -> None:
            served.move(port, swaps)
            seconds.extend(served.move(port, rollbacks, kind="rollback"))

        load = under_load(served, port, change)
    assert load.failed == []
    assert len(load.seconds) > swaps
    assert sorted(seconds)[len(seconds) // 2] < 1, "a rollback is visible within a second"
    lines = [json.loads(line) for path in (served.folder / "logs").rglob("*.jsonl") for line in path.open()]
    assert len({line["id"] for line in lines}) == len(lines) >= len(load.seconds), "what was answered is logged, once"
    TIMES[f"worst answer over {swaps + rollbacks} swaps"] = max(load.seconds)


@pytest.mark.thorough
def test_a_swap_stalls_nobody_for_long(served: Served) -> None:
    with served.service() as port:
        quiet = under_load(served, port, lambda: time.sleep(30))
        load = under_load(served, port, lambda: served.move(port, 20, pause=5))
    TIMES["p99 in quiet"], TIMES["p99 over 20 swaps"], TIMES["worst answer"] = quiet.p99, load.p99, max(load.seconds)
    assert load.failed == []
    assert load.p99 < 2 * quiet.p99
    assert max(load.seconds) < max(0.05, 2 * max(quiet.seconds)), "a machine that is busy stalls by itself"
