"""Inside a project of level 3: what the fast service answers to odd bodies, odd callers and several models."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.guards import ROWS, Scene
from flight_delays.ops.guards_3 import RECORD, Release, alone, released
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.release import build, bundle
from flight_delays.ops.release.policy import Experiment, Limits, Policy
from flight_delays.ops.serve import Answered
from flight_delays.ops.serve.fast import Service
from flight_delays.ops.serve.guard import Door
from flight_delays.ops.serve.live import Live
from flight_delays.ops.serve.metrics import Counts

JSON = "application/json"
HEAD = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = """
_at_once = features


def features(columns):
    import time

    time.sleep(0.05)
    return _at_once(columns)
"""
POLICY = "Policy(limits=Limits(body_mb=1, rows=10000, seconds=2))"
CODE = f"""
from flight_delays.ops.log import Writer
from flight_delays.ops.release.policy import Limits, Policy
from flight_delays.ops.serve.fast import serve
serve("127.0.0.1", "0", "dev", {POLICY}, Writer(Policy().log), print)
"""

CLIENT = """
import json
import sys
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient("127.0.0.1", int(sys.argv[1]))
client.wait_server_ready(timeout=10)
answers = client.invoke(pd.DataFrame(json.loads(sys.argv[2]))).get_predictions()
print(json.dumps(answers[0].tolist()))
"""


class Running:
    """A service inside this process, and what it logged."""

    def __init__(self, release: Release, policy: Policy | None = None) -> None:
        """Serve what dev uses."""
        self.logged: list[Answered] = []
        policy = policy or Policy()
        self.live = Live(release.store, "dev", Counts(), lambda *_, **__: None)
        self.service = Service(self.live, policy, self.record, print, Door(None, policy.limits))
        self.client = TestClient(self.service, raise_server_exceptions=False)

    def record(self, answered: Sequence[Answered]) -> None:
        """Log in memory."""
        self.logged += answered

    def ask(self, body: Any, **headers: str) -> tuple[int, Any]:
        """Return status and body of an answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.client.post("/invocations", content=content, headers={"Content-Type": JSON, **headers})
        return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release of a small tree, in use in dev, from inside of its folder."""
    data, model = load(Data), load(Model)
    scene = Scene(data, load(Case), model, tmp_path_factory.mktemp("service"), drawn(data, model.task, ROWS))
    with alone(scene):
        yield released(scene)


@pytest.fixture(scope="module")
def rows(release: Release) -> list[dict[str, Any]]:
    return json.loads((release.made / bundle.FIXTURE).read_bytes())["dataframe_records"]


@pytest.fixture(scope="module")
def pair(release: Release) -> tuple[Running, Running]:
    """Two services: one with its fast path, one that reads everything the exact way."""
    fast, exact = Running(release), Running(release)
    exact.live.state.champion.reader._decode = None
    return fast, exact


def another(release: Release, change: str) -> str:
    """Release the model once more, with other code, and return the digest."""
    code = release.made / bundle.CODE / "features.py"
    code.write_text(code.read_text(encoding="utf-8") + change, encoding="utf-8")
    digest = build.finished(release.made, 2, RECORD)
    release.put(digest, signed=True)
    return digest


def pointed(release: Release, **facts: Any) -> None:
    """Let dev use the first bundle again, with a challenger or without one."""
    store = release.store
    kind = "experiment" if facts else "rollback"
    store.move(kind, "dev", release.digest, store.pointer("dev"), version=1, previous=None, why="", **facts)


INSERTED = [b'"', b",", b"}", b"[", b"null", b"1e999", b"\xff", b"NaN", b"-0", b"01", b"\\ud800", b'{"a":', b"Infinity"]


def mutated(draw: random.Random, body: bytes) -> bytes:
    """Return a body with one to three bytes changed, taken out, put in or doubled."""
    made = bytearray(body)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(made))
        match draw.randrange(4):
            case 0:
                made[place] = draw.randrange(256)
            case 1:
                del made[place : place + draw.randint(1, 5)]
            case 2:
                made[place:place] = draw.choice(INSERTED)
            case _:
                made[place:place] = made[max(0, place - 20) : place]
        made = made or bytearray(b"{")
    return bytes(made)


def memory() -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def forms(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names, lists = list(rows[0]), [list(row.values()) for row in rows]
    return [
        {"dataframe_records": rows},
        {"dataframe_split": {"columns": names[::-1], "data": [row[::-1] for row in lists]}},
        {"instances": lists},
        {"inputs": {name: [row[name] for row in rows] for name in names}},
    ]


def test_10_000_mutated_bodies(pair: tuple[Running, Running], rows: list[dict[str, Any]]) -> None:
    """No 5xx, no crash, no memory that grows; every fourth is asked of the exact path too, which says the same."""
    draw = random.Random(4)
    bodies = [json.dumps(form, ensure_ascii=False).encode() for form in forms(rows[:2])]
    before, seen = 0, set()
    for number in range(10_000):
        body = mutated(draw, draw.choice(bodies))
        answer = pair[0].ask(body)
        seen.add(answer[0])
        assert answer[0] in (200, 400, 413, 422), body
        if number % 4 == 0:
            assert answer == pair[1].ask(body), body
        if number % 1000 == 0:
            for one in pair:
                one.logged.clear()
        if number == 2000:
            before = memory()
    assert seen >= {200, 400, 422}
    assert memory() - before < 20_000, "kB of resident memory"


DEEP = b'{"instances": ' + b"[" * 100_000


class Heard:
    """What `take` is given to answer by."""

    def __init__(self) -> None:
        """Wait for an answer."""
        self.answer: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()

    def end(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Hear the answer."""
        assert dict(headers)[b"content-length"] == b"%d" % len(body)
        self.answer.set_result((status, json.loads(body)))


def test_the_short_way_answers_as_the_long_one(release: Release, rows: list[dict[str, Any]]) -> None:
    short, long = Running(release), Running(release)
    draw = random.Random(3)
    bodies = [json.dumps(form).encode() for form in (*forms(rows), *forms(rows[:1]))]
    bodies += [mutated(draw, draw.choice(bodies)) for _ in range(2000)]

    async def taken() -> list[tuple[int, Any] | None]:
        heard = []
        for body in bodies:
            turn = Heard()
            is_taken = short.service.take([(b"content-type", JSON.encode())], body, turn)
            heard.append(await turn.answer if is_taken else None)
        return heard

    answers = asyncio.run(taken())
    assert sum(answer is not None for answer in answers) > 100
    assert sum(answer is None for answer in answers) > 100
    for body, answer in zip(bodies, answers, strict=True):
        if answer is not None:
            assert answer == long.ask(body), body
    assert {rows.digest for rows in short.logged} == {release.digest}
    assert len(short.logged) == sum(answer is not None and answer[0] == 200 for answer in answers)


def test_what_is_odd_has_its_answer(pair: tuple[Running, Running], rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    number = next(name for name, value in row.items() if isinstance(value, float))
    text = next(name for name, value in row.items() if isinstance(value, str))
    without = {name: value for name, value in row.items() if name != number}

    def put(value: str, name: str = number) -> bytes:
        return json.dumps({"instances": [row, {**row, name: "?here?"}]}).replace('"?here?"', value).encode()

    cases: list[tuple[int, str, bytes]] = [
        (422, f"row 2, column '{number}'", put("Infinity")),
        (422, f"row 2, column '{number}'", put("1e39")),
        (422, f"row 2, column '{number}'", put("1e999")),
        (422, f"row 2, column '{number}'", put("1" + "0" * 4000)),
        (422, f"row 2, column '{number}'", put("true")),
        (422, f"row 2, column '{number}'", put("[1]")),
        (422, f"row 2, column '{number}'", put('{"a": 1}')),
        (422, f"row 2, column '{number}'", put('"seven"')),
        (422, f"row 2, column '{text}'", put('"\\ud800"', text)),
        (422, f"row 2, column '{number}'", json.dumps({"instances": [row, without]}).encode()),
        (422, "no row", b'{"instances": []}'),
        (422, "one of", b"{}"),
        (400, "not JSON", put("9" * 5000)),
        (400, "not JSON", b""),
        (400, "not JSON", b"\xff\xfe"),
        (400, "not JSON", DEEP),
        (422, f"row 2, column '{number}'", put("[" * 300 + "]" * 300)),
        (200, "predictions", json.dumps({"instances": [{**row, "extra": [{"deep": [1]}]}], "params": {}}).encode()),
        (200, "predictions", put('" 7 "')),
        (200, "predictions", put("7")),
    ]
    for status, told, body in cases:
        answers = [one.ask(body) for one in pair]
        assert answers[0] == answers[1]
        assert (answers[0][0], told in json.dumps(answers[0][1])) == (status, True), (body[:200], answers[0])
    nothing = pair[0].ask(put("NaN"))
    assert nothing == pair[0].ask(put("null")), "NaN is no value"


@contextmanager
def process() -> Iterator[tuple[int, subprocess.Popen[str], Path]]:
    """The service as a process: its port, the process, and the file of its events."""
    events = Path("events.jsonl")
    with events.open("w") as file:
        command = [sys.executable, "-c", CODE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as service:
            found = re.search(r"http://127.0.0.1:(\d+)", service.stdout.readline() if service.stdout else "")
            assert found, events.read_text()
            try:
                yield int(found[1]), service, events
            finally:
                service.terminate()
            assert service.wait(10) == 0


def said(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts over a connection of their own, and return all that comes back until the service closes it."""
    back = b""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass  # refused while it was sending
        try:
            while part := connection.recv(65_536):
                back += part
        except (TimeoutError, ConnectionResetError):
            pass
    return back


@pytest.mark.usefixtures("release")
def test_odd_callers(rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"instances": rows[:1]})
    good = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    megabyte = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with process() as (port, service, _):
        cases: list[tuple[str, float, tuple[str | bytes, ...]]] = [
            ("200", 0, (HEAD + good,)),
            ("200", 0.3, (HEAD, good[:30], good[30:90], good[90:])),
            ("200", 0, (HEAD + chunked + f"{len(body):x}\r\n{body}\r\n0\r\n\r\n",)),
            ("408", 0, (HEAD + "Content-Length: 100\r\n\r\n{",)),
            ("408", 0.5, (HEAD + "Content-Length: 100\r\n\r\n", *"{{{{{{{{{{")),
            ("413", 0, (HEAD + "Content-Length: 999999999999\r\nConnection: close\r\n\r\n{}",)),
            ("413", 0, (HEAD + chunked, *[megabyte] * 3)),
            ("413", 0, (HEAD + f"Content-Length: {100 * 2**20}\r\nConnection: close\r\n\r\n", *[b" " * 2**20] * 100)),
            ("400", 0, (HEAD + f"Content-Length: 10\r\n\r\n{body}",)),
            ("400", 0, (HEAD + "Content-Length: -1\r\n\r\n",)),
            ("400", 0, (HEAD + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",)),
            ("400", 0, (b"\x16\x03\x01\x02\x00\x01\x00\x01",)),
        ]
        for status, pause, parts in cases:
            answer = said(port, *(part.encode() if isinstance(part, str) else part for part in parts), pause=pause)
            if status == "413" and len(parts) > 2 and not answer:
                continue  # the caller was cut off while it was sending, and its system threw the answer away
            assert answer.startswith(f"HTTP/1.1 {status}".encode()), (parts[0][-60:], answer[:300])
        started = time.monotonic()
        assert said(port, b"POST /invocations HT") == b""
        assert time.monotonic() - started < 7, "a caller that never ends its headers is cut off"
        status = Path(f"/proc/{service.pid}/status").read_text()
        assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) < 200_000, "kB, after 100 MB were sent"


@pytest.mark.usefixtures("release")
def test_requests_on_one_connection_are_answered_in_order(rows: list[dict[str, Any]]) -> None:
    """Those that the connection answers itself, and those that take a task, in every mixture."""

    def asked(body: str, more: str = "", version: str = "1.1") -> bytes:
        head = HEAD.replace("1.1", version)
        return f"{head}{more}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    one, many = (json.dumps({"instances": some}) for some in (rows[:1], rows * 40))
    ping, wrong = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", asked("{}")
    close = "Connection: close\r\n"
    with process() as (port, _, _):
        for requests, statuses in (
            ((asked(one), asked(one, close)), [200, 200]),
            ((asked(many), asked(one), ping, asked(one, close)), [200, 200, 200, 200]),
            ((asked(one), wrong, asked(many), asked(one, close), asked(one)), [200, 422, 200, 200]),
            ((asked(one, version="1.0"), asked(one)), [200]),
            ((asked(one, f"Expect: 100-continue\r\n{close}"),), [100, 200]),
        ):
            back = said(port, b"".join(requests))
            assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", back)] == statuses, back[:500]
            assert back.count(b"connection: close") == 1
            sizes = [len(part.split(b'"probabilities"')[0]) for part in back.split(b"HTTP/1.1 ")[1:]]
            expected = [asked(many) in (request,) for request in requests][: len(statuses)]
            if 100 not in statuses:
                assert [size > 1000 for size in sizes] == expected, "each request has its own answer"
        for _ in range(50):  # callers that hang up before they are answered
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(asked(one))
        assert said(port, asked(one, close)).startswith(b"HTTP/1.1 200")


def test_mlflow_s_own_client(release: Release, rows: list[dict[str, Any]]) -> None:
    with process() as (port, _, _):
        table = json.dumps(rows[:3])
        command = [sys.executable, "-W", "ignore", "-c", CLIENT, f"{port}", table]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == Running(release).ask({"instances": rows[:3]})[1]["predictions"]


@pytest.mark.usefixtures("release")
def test_what_was_asked_before_the_end_is_answered(rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"instances": rows[:1]})
    address = "127.0.0.1"
    with process() as (port, service, events), socket.create_connection((address, port), timeout=8) as connection:
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body[:50]}".encode())
        service.terminate()
        time.sleep(1)
        connection.sendall(body[50:].encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"connection: close" in answer
        assert answer.endswith(b"}")
        assert service.wait(10) == 0  # a second signal while it ends would end it at once
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["stopping"]


def test_a_challenger_answers_its_share_and_keeps_its_callers(release: Release, rows: list[dict[str, Any]]) -> None:
    challenger = another(release, "\nA = 1\n")
    pointed(release, challenger=challenger, share=0.3, shadow=False, experiment="one")
    running = Running(release)
    for _ in range(2):
        for number in range(300):
            assert running.ask({"instances": rows[:2]}, **{"X-Entity": f"caller {number}"})[0] == 200
    kept: dict[str, set[str]] = {}
    for answered in running.logged:
        assert answered.digest == (challenger if answered.variant == "challenger" else release.digest)
        kept.setdefault((answered.entities or [""])[0], set()).add(answered.variant)
    assert all(len(variants) == 1 for variants in kept.values()), "assignments are sticky"
    assert 50 < sum(variants == {"challenger"} for variants in kept.values()) < 130

    column = next(iter(rows[0]))
    by_column = Running(release, Policy(experiment=Experiment(entity=column)))
    by_column.ask({"instances": rows})
    assert [one.variant for one in by_column.logged] == ["champion"], "rows of both are the champion's"
    assert by_column.logged[0].entities == [str(row[column]) for row in rows]

    pointed(release, challenger=challenger, share=0.0, shadow=True, experiment="two")
    running.live.look()
    running.logged.clear()
    _, answer = running.ask({"instances": rows[:2]})
    running.service._shadows._pool.shutdown()
    assert sorted((one.variant, one.digest) for one in running.logged) == [
        ("champion", release.digest),
        ("shadow", challenger),
    ]
    assert len({one.request for one in running.logged}) == 1
    assert answer["predictions"] == next(one for one in running.logged if one.variant == "champion").predictions
    pointed(release)


def test_a_slow_model_does_not_block_and_is_cut_off(release: Release, rows: list[dict[str, Any]]) -> None:
    code = release.made / bundle.CODE / "features.py"
    written = code.read_text(encoding="utf-8")
    another(release, SLOW)
    running = Running(release, Policy(limits=Limits(seconds=0.01)))
    code.write_text(written, encoding="utf-8")
    assert running.live.state.champion.inline == 0
    status, told = running.ask({"instances": rows[:1]})
    assert (status, "longer than 0.01 s" in told["detail"]) == (504, True)
    time.sleep(0.2)
    assert running.logged == [], "what nobody was told is not logged"
    pointed(release)
