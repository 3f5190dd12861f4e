"""The registry under several processes, kills, a move and a server; and MLflow's own pages on the project's store."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from conftest import Done, make, run, share_environment, well

pytestmark = pytest.mark.life
Lived = Callable[[int, str], Path]
KILLS = 6
REGISTER = """
import hashlib, sys
from pathlib import Path
from flight_delays.ops.register import register
from flight_delays.ops.register.run import Run

for name in sys.argv[1:]:
    model = Path(f"{name}.onnx")
    model.write_text(name)
    digest = hashlib.sha256(name.encode()).hexdigest()
    metrics = {"roc_auc": {"value": 0.7, "low": 0.6, "high": 0.8}}
    run = Run(f"20261123-231455-{digest[:8]}", digest, "c0ffee", [], {"version": "d1", "sources": {}}, None, "lock",
              {"model": {"estimator": "Tree"}}, 0, {}, 1, 2.5, metrics, "candidate", digest, "")
    Path(f"{name}.json").write_text("{}")
    print(register(run, model, {"run.json": Path(f"{name}.json")}, lambda _: None), flush=True)
"""
APPEND = """
import sys
from flight_delays.ops.register import events
for number in range(int(sys.argv[2])):
    events.append("data", writer=sys.argv[1], number=number, filling="x" * 500)
"""
ASK = """
import json
from flight_delays.ops.register import store, versions
with store.opened() as client:
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
found = [[version.number, sorted(version.aliases), version.digest] for version in versions()]
print(json.dumps({"versions": found, "runs": [run.info.status for run in runs]}))
"""


@pytest.fixture(scope="module")
def home(lived: Lived) -> Path:
    """Return the project of level 2, set up and trained."""
    return lived(2, "classification")


class Registry:
    """A registry in a folder of its own, used through the commands of a project that is set up."""

    def __init__(self, home: Path, folder: Path) -> None:
        """Start with nothing but the settings."""
        self.python, self.folder = home / ".venv" / "bin" / "python", folder
        shutil.copytree(home / "config", folder / "config")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start Python with some words."""
        command, pipe, own = [str(self.python), *words], subprocess.PIPE, {**os.environ, **environment}
        return subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True, env=own)

    def run(self, *words: str, **environment: str) -> Done:
        """Run Python with some words, to its end."""
        return run([self.python, *words], self.folder, **environment)

    def verb(self, *words: str, **environment: str) -> Done:
        """Run one of the project's commands."""
        return self.run("-m", "flight_delays.ops", *words, **environment)

    def register(self, *names: str) -> list[int]:
        """Register one model for each name, and return their versions."""
        return [int(line) for line in well(self.run("-c", REGISTER, *names)).split()]

    def state(self) -> dict[str, Any]:
        """Return what the registry holds."""
        found: dict[str, Any] = json.loads(well(self.run("-c", ASK)))
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        lines = (self.folder / "logs" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """Return an empty registry."""
    return Registry(home, tmp_path / "project")


def test_two_promotions_at_once_have_one_winner(registry: Registry) -> None:
    registry.register(*"abcdef")
    for pair in ("12", "34", "56"):
        words = [("-m", "flight_delays.ops", "promote", "--version", number, "--env", "prod") for number in pair]
        processes = [registry.start(*one) for one in words]
        ended = [(*process.communicate(timeout=600), process.returncode) for process in processes]
        [(refusal, said)] = [(refusal, said) for said, refusal, code in ended if code == 1]
        assert said == ""
        assert re.fullmatch(r"error: prod was moved to version \d by .* while this command was starting: .*\n", refusal)
        [won] = [said for said, _, code in ended if code == 0]
        assert won.startswith("prod uses version ")
    moves = [(event["previous"], event["version"]) for event in registry.events("promote")]
    assert len(moves) == 3
    assert all(before == now for (_, before), (now, _) in pairwise(moves))
    assert [number for number, aliases, _ in registry.state()["versions"] if "prod" in aliases] == [moves[-1][1]]


def test_registrations_at_once_are_each_done_once(registry: Registry) -> None:
    processes = [registry.start("-c", REGISTER, *names) for names in (("a", "b"), ("b", "c"))]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    state = registry.state()
    assert sorted(number for number, *_ in state["versions"]) == [1, 2, 3]
    assert len({digest for *_, digest in state["versions"]}) == 3
    assert state["runs"] == ["FINISHED"] * 3
    assert sorted(event["version"] for event in registry.events("register")) == [1, 2, 3]


def test_kills_lose_nothing_and_register_nothing_twice(registry: Registry) -> None:
    chance = random.Random(0)
    start = time.monotonic()
    registry.register("first")
    whole = time.monotonic() - start
    names = ["second", "third"]
    for _ in range(KILLS):
        process = registry.start("-c", REGISTER, *names)
        time.sleep(chance.uniform(0.3, 1) * whole)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert registry.register(*names) == [2, 3]
    state = registry.state()
    assert [number for number, *_ in state["versions"]] == [3, 2, 1]
    assert state["runs"] == ["FINISHED"] * 3
    assert [event["version"] for event in registry.events("register")] == [1, 2, 3]
    assert list(registry.folder.rglob("*.part*")) == []


def test_events_of_many_writers_are_all_there(registry: Registry) -> None:
    killed = registry.start("-c", APPEND, "killed", "100000")
    processes = [registry.start("-c", APPEND, writer, "200") for writer in "abcd"]
    log = registry.folder / "logs" / "events.jsonl"
    while not log.exists() or b"killed" not in log.read_bytes():
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert [process.communicate(timeout=600)[1] for process in processes] == [""] * 4
    with log.open("a", encoding="utf-8") as torn:
        torn.write('{"id": "torn')
    assert registry.run("-c", APPEND, "last", "1").returncode == 0
    events = [event for event in registry.events("data") if event["writer"] != "killed"]
    assert len({event["id"] for event in events}) == 801
    for writer in "abcd":
        assert [event["number"] for event in events if event["writer"] == writer] == list(range(200))


@contextmanager
def pages(registry: Registry) -> Iterator[str]:
    """Show a registry's pages, and give their address."""
    process = registry.start("-m", "flight_delays.ops", "ui", "--port", "0")
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        for _ in range(300):
            try:
                urlopen(f"{found[0]}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def asked(address: str, **question: Any) -> Any:
    """Ask MLflow's interface, with GET or with what is to be posted."""
    with urlopen(address, json.dumps(question).encode() if question else None, timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if content.startswith(b"{") else content.decode()


def test_the_pages_of_a_moved_project_and_a_shared_server(home: Path, registry: Registry, tmp_path: Path) -> None:
    registry.register("one", "two")
    well(registry.verb("promote", "--version", "1", "--env", "prod"))
    registry.folder = registry.folder.rename(tmp_path / "moved here")
    well(registry.verb("promote", "--version", "1", "--env", "staging"))
    with pages(registry) as address:
        api = f"{address}/api/2.0/mlflow"
        version = asked(f"{api}/registered-models/alias?name=flight-delays&alias=prod")["model_version"]
        assert version["version"] == "1"
        run_id = version["run_id"]
        seen = asked(f"{api}/runs/get?run_id={run_id}")["run"]
        assert {metric["key"]: metric["value"] for metric in seen["data"]["metrics"]}["roc_auc_low"] == 0.6
        assert seen["info"]["end_time"] - seen["info"]["start_time"] == 2500
        files = asked(f"{api}/artifacts/list?run_id={run_id}")["files"]
        assert [file["path"] for file in files] == ["model.onnx", "run.json"]
        assert asked(f"{address}/get-artifact?path=model.onnx&run_uuid={run_id}") == "one"

        other, server = Registry(home, tmp_path / "other"), {"MLFLOW_TRACKING_URI": address}
        assert "prod, champion" in well(other.verb("models", **server))
        assert well(other.run("-c", REGISTER, "two", "three", **server)).split() == ["2", "3"]
        well(other.verb("promote", "--version", "3", "--env", "dev", **server))
        script = "from flight_delays.ops.register import current; print(current('dev')[1].read_text())"
        assert well(other.run("-c", script, **server)) == "three\n"
        assert not (other.folder / "mlflow.db").exists()


def test_an_environment_scores_with_its_version(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(home, project, ignore=shutil.ignore_patterns(".venv"))
    share_environment(home, project)
    words = ("predict", "INPUT=outputs/unseen.csv")
    refused = make(project, *words, "OUTPUT=outputs/p.csv", "ENV=staging")
    assert refused.returncode != 0
    assert re.search(r"^error: nothing is in staging yet", refused.stderr, re.MULTILINE)
    assert "Traceback" not in refused.stderr
    log = (project / "logs" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    model = hashlib.sha256((project / "models" / "model.onnx").read_bytes()).hexdigest()
    number = next(event["version"] for event in map(json.loads, log) if event.get("digest") == model)
    well(make(project, "promote", f"VERSION={number}", "ENV=staging", "WHY=the first"))
    said = well(make(project, *words, "OUTPUT=outputs/staging.csv", "ENV=staging"))
    assert f"staging uses version {number} " in said
    well(make(project, *words, "OUTPUT=outputs/own.csv", environment={"ENV": "/home/me/.shrc"}))
    assert (project / "outputs" / "staging.csv").read_bytes() == (project / "outputs" / "own.csv").read_bytes()
    assert "choose dev, staging or prod" in make(project, *words, "OUTPUT=outputs/p.csv", "ENV=production").stderr
    shown = make(project, "models")
    assert "staging" in well(shown)
    assert shown.stderr == ""
