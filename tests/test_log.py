"""The log of the real service: killed under load, split between two models, traced to the source, explained."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
import yaml
from conftest import must, run, share_environment

pytestmark = pytest.mark.life

KILLS, CLIENTS = 20, 4
RELEASED = """
from dataclasses import replace
from flight_delays.ops import register
from flight_delays.ops.config import load
from flight_delays.ops.release import build
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.sign import make_key
from flight_delays.ops.release.store import opened

make_key()
about = {"passed": 1, "skipped": 0, "failed": 0, "files": {}}
build.tested = lambda record, model, place, say: {"commit": record.commit, "model": record.model, **about}
policy, version = load(Policy), register.versions()[0]
store, digest = opened(policy), build.bundled(version, policy, print)
other = build.bundled(replace(version, number=version.number + 1), policy, print)
store.move("deploy", "prod", digest, None, previous=None, version=version.number)
print(digest, other)
"""
"""Makes two bundles of one version, whose tests other tests run, and lets prod use the first."""
CHALLENGED = """
import sys
from flight_delays.ops.config import load
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import opened

store, more = opened(load(Policy)), {"share": 0.5, "shadow": False, "experiment": "e", "rows": 100, "level": 0.025}
noted = store.settle("prod")
store.move("experiment", "prod", noted.champion, noted, challenger=sys.argv[1], version=2, metric="roc_auc", **more)
"""
ASSIGNED = """
from flight_delays.ops.release.experiment import variant

print(*(variant(f"user {number}", "e", 0.5) for number in range(40)))
"""


@pytest.fixture(scope="module")
def released(
    lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, str]]:
    """Return a project of level 3 whose prod uses a model, with the digests of that bundle and of another one."""
    source, project = lived(3, "classification"), tmp_path_factory.mktemp("released") / "project"
    shutil.copytree(source, project, ignore=shutil.ignore_patterns(".venv", "releases", ".keys"), symlinks=True)
    share_environment(source, project)
    (project / ".git" / "info" / "exclude").write_text(".venv\n")
    said = must([project / ".venv/bin/python", "-c", RELEASED], project)
    first, second = said.split()[-2:]
    return project, (first, second)


@contextmanager
def service(project: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the service, and give its process and port; it is killed in the end."""
    command = [project / ".venv/bin/python", "-m", "flight_delays.ops", "serve", "--port", "0", "--env", "prod"]
    with subprocess.Popen(list(map(str, command)), cwd=project, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().partition("http://127.0.0.1:")[2].partition("/")[0])
        finally:
            process.kill()


def row(project: Path) -> dict[str, Any]:
    page = yaml.safe_load((project / "config/contract.yaml").read_text(encoding="utf-8"))
    return {name: column["example"] for name, column in page["inputs"].items()}


def ask(port: int, path: str, content: Any, **headers: str) -> tuple[int, str, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, answer.headers.get("X-Request-Id", ""), answer.read()


def logged(project: Path) -> list[dict[str, Any]]:
    """Return every whole line of the log."""
    found = []
    for path in sorted((project / "logs/predictions").glob("*.jsonl")):
        *whole, _ = path.read_bytes().split(b"\n")
        found += [json.loads(line) for line in whole]
    return found


def load_until_killed(port: int, body: dict[str, Any], draw: random.Random, acknowledged: list[str]) -> None:
    """Ask over one connection until there is no answer any more, and note the id of every row that was answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    while True:
        rows = draw.randint(1, 3)
        content = json.dumps({"dataframe_records": [body] * rows})
        try:
            connection.request("POST", "/invocations", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            return
        if answer.status == 200:
            acknowledged += [f"{answer.headers['X-Request-Id']}-{number}" for number in range(1, rows + 1)]


def test_no_acknowledged_row_is_lost_or_counted_twice(released: tuple[Path, Any]) -> None:
    project, _ = released
    shutil.rmtree(project / "logs/predictions", ignore_errors=True)
    draw, acknowledged, body = random.Random(0), [], row(project)
    for kill in range(KILLS):
        with service(project) as (process, port):
            lists: list[list[str]] = [[] for _ in range(CLIENTS)]
            clients = [
                Thread(target=load_until_killed, args=(port, body, random.Random(f"{kill} {number}"), mine))
                for number, mine in enumerate(lists)
            ]
            for client in clients:
                client.start()
            sleep(draw.uniform(0.05, 0.5))
            process.send_signal(signal.SIGKILL)
            for client in clients:
                client.join()
        acknowledged += [key for mine in lists for key in mine]
    found = Counter(line["id"] for line in logged(project))
    assert len(acknowledged) > 10 * KILLS
    assert len(set(acknowledged)) == len(acknowledged)
    assert [key for key in acknowledged if found[key] != 1] == []
    assert max(found.values()) == 1
    assert len(found) - len(acknowledged) <= KILLS * CLIENTS * 3, (
        "beside them, only what was at work when it was killed"
    )


def test_a_prediction_is_traced_and_explained(released: tuple[Path, Any]) -> None:
    project, (digest, _) = released
    with service(project) as (_, port):
        status, request, body = ask(port, "/invocations", {"dataframe_records": [row(project), row(project)]})
        assert ask(port, "/feedback", [{"id": f"{request}-1", "truth": True}])[0] in (200, 202, 204)
    assert status == 200
    python: list[str | Path] = [project / ".venv/bin/python", "-m", "flight_delays.ops"]
    told = must([*python, "trace", "--id", f"{request}-2"], project, COLUMNS="200")
    (record,) = (project / "runs").glob("*.json")
    content = json.loads(record.read_text(encoding="utf-8"))
    for named in (digest[:12], content["id"], content["commit"][:12], content["lock"][:12], "data/flights.parquet"):
        assert named in told
    told = must([*python, "explain", "--id", f"{request}-2"], project, COLUMNS="200")
    assert f"{json.loads(body)['probabilities'][1]['true']:.4g}" in told
    assert all(name in told for name in row(project))

    segment = max((project / "logs/predictions").iterdir())
    listing = (
        project / ".dvc/cache/files/md5" / content["data"]["version"][:2] / f"{content['data']['version'][2:]}.dir"
    )
    origin = json.loads((record.parents[1] / "releases/bundles" / digest / "manifest.json").read_bytes())
    assert origin["run"] == content["id"]
    for edited, old, new in (
        (segment, b'"carrier":"', b'"carrier":"X'),
        (project / "releases/bundles" / digest / "code/features.py", b"month", b"m0nth"),
        (project / "releases/ledger.jsonl", b'"version":1', b'"version":7'),
        (record, b'"threads": ', b'"threads": 1'),
        (project / "data/raw/weather.parquet", b"PAR1", b"PAR2"),
        (project / "data/weather.parquet", b"PAR1", b"PAR2"),
        (listing, b"weather", b"w3ather"),
    ):
        before, mode = edited.read_bytes(), edited.stat().st_mode
        edited.chmod(0o644)
        edited.write_bytes(before.replace(old, new))
        done = run([*python, "trace", "--id", f"{request}-2"], project)
        edited.write_bytes(before)
        edited.chmod(mode)
        assert (done.returncode, done.stderr[:7], done.stderr.count("\n")) == (1, "error: ", 1), edited
        assert edited.name in done.stderr or f"{request}-2" in done.stderr, done.stderr
    must([*python, "trace", "--id", f"{request}-2"], project)
    done = run([*python, "trace", "--id", "nobody-1"], project)
    assert (done.returncode, "ID=nobody-1: is not in logs/predictions" in done.stderr) == (1, True)


def test_assignments_stick_across_restarts(released: tuple[Path, Any]) -> None:
    project, (_, challenger) = released
    python = project / ".venv/bin/python"
    must([python, "-c", CHALLENGED, challenger], project)
    shutil.rmtree(project / "logs/predictions", ignore_errors=True)
    for _ in range(2):
        with service(project) as (_, port):
            for number in range(40):
                body = {"dataframe_records": [row(project)]}
                assert ask(port, "/invocations", body, **{"X-Entity": f"user {number}"})[0] == 200
    wanted = [word == "True" for word in must([python, "-c", ASSIGNED], project).split()]
    lines = logged(project)
    assert len(lines) == 80
    for line in lines:
        is_challenger = wanted[int(line["entity"].removeprefix("user "))]
        assert line["variant"] == ("challenger" if is_challenger else "champion")
        assert (line["model"] == challenger) == is_challenger
    said = must([python, "-m", "flight_delays.ops", "canary", "--env", "prod"], project)
    assert "0 of 100 answers in prod have a known truth" in said
    truth = "id,truth\n" + "".join(f"{line['id']},{number % 2 == 0}\n" for number, line in enumerate(lines))
    (project / "truth.csv").write_text(truth, encoding="utf-8")
    assert "80 truths taken in" in must([python, "-m", "flight_delays.ops", "feedback", "--file", "truth.csv"], project)
    said = must([python, "-m", "flight_delays.ops", "canary", "--env", "prod"], project)
    assert "80 of 100 answers in prod have a known truth" in said
    assert (
        run([python, "-m", "flight_delays.ops", "canary", "--env", "prod", "--decide", "yes"], project).returncode == 75
    )
    said = must([python, "-m", "flight_delays.ops", "canary", "--env", "prod", "--decide", "stop"], project)
    assert "stays in prod; the experiment is over" in said
