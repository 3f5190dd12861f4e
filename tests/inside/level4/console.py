"""What the console does without a browser: its door, its forms, and what waits after somebody decided.

Run as a program, it gives the working folder, which has the project's config and model, versions in production and one
that waits.
"""

from __future__ import annotations

import asyncio
import html
import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from flight_delays.ops import guards_3
from flight_delays.ops.config import PACKAGE, load
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.log import PREDICTIONS
from flight_delays.ops.register import events
from flight_delays.ops.release import build, bundle, deploy, sign
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import Store, opened
from flight_delays.ops.retrain import Ended, autopilot
from flight_delays.ops.retrain.policy import Attempt
from flight_delays.ops.status.console import Console
from flight_delays.ops.status.happened import Happening, approvals

TOKEN, PORT = "a token of the tests", 8090
OWN = {"host": f"127.0.0.1:{PORT}", "origin": f"http://127.0.0.1:{PORT}"}
LIVE, WAITING = 2, 3


def release(store: Store, made: Path, number: int) -> str:
    """Release a version; return its bundle's digest."""
    digest = build.finished(made, number, guards_3.RECORD)
    store.put(made, digest)
    store.append("bundle", digest=digest, signature=sign.signature(digest), version=number, run=f"r{number}")
    return digest


def history() -> None:
    """Bring two versions into production, and let a third wait for people."""
    sign.make_key()
    made, store = Path("made"), opened(load(Policy))
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    files = bundle.modules(lambda path: (PACKAGE / path).read_bytes(), modules)
    files |= {bundle.MODEL: Path("models/model.onnx").read_bytes(), bundle.TESTS: b"{}"}
    files[bundle.CONTRACT] = Path("config/contract.yaml").read_bytes()
    for name, content in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    pq.write_table(pyarrow.csv.read_csv("outputs/unseen.csv").slice(0, 200), made / "test.parquet")
    before = None
    for number, why in ((1, "the first one"), (LIVE, "better on winter mornings")):
        before = release(store, made, number)
        noted = store.pointer("prod")
        of = {"previous": noted.champion if noted else None, "version": number, "why": why}
        store.move("deploy", "prod", before, noted, **of)
    digest = release(store, made, WAITING)
    result = {"rule": "approvals", "passed": False, "figure": "0", "limit": "1 people, none of whom made it"}
    results = [{**result, "sentence": "0 of 1 people have approved of it for prod: `make approve` says so"}]
    store.append("gates", environment="prod", version=WAITING, digest=digest, results=results, passed=False)
    shutil.rmtree(made)


def awaited() -> list[Happening]:
    """Return what waits for people, or for the autopilot after them."""
    store = opened(load(Policy))
    return list(approvals(store, store.entries(), events.read(), load(Policy)))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a history."""
    for name in ("config", "models/model.onnx", "outputs/unseen.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if Path(name).is_dir() else shutil.copyfile)(name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELEASE_STORE", raising=False)
    history()
    return tmp_path


def asked(method: str, path: str, body: bytes = b"", query: str = "", **headers: str) -> tuple[int, str]:
    """Ask the console as a server would; return status and page."""
    sent: list[Any] = []
    given = {"content-type": "application/x-www-form-urlencoded", **OWN, **headers}
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "http_version": "1.1"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items() if value]
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Console("prod", "http://127.0.0.1:9", TOKEN, PORT)(scope, receive, send))
    page = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], page.decode("utf-8", "replace")


def form(action: str, **fields: str) -> bytes:
    """Return what the page of a consequence sends."""
    _, page = asked("GET", "/confirm", query="&".join(f"{k}={v}" for k, v in {"action": action, **fields}.items()))
    seen = page.partition('name="seen" value="')[2].partition('"')[0]
    told = {"action": action, "why": "a test", "token": TOKEN.replace(" ", "+"), "seen": seen, **fields}
    return "&".join(f"{name}={value}" for name, value in told.items()).encode()


def kinds(kind: str) -> list[str]:
    return [entry.kind for entry in opened(load(Policy)).entries() if entry.kind == kind]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        ((b"", b""), {}, 200),
        ((b"token=a", b"token=b"), {}, 403),
        ((b"token=a+token+of+the+tests", b"token="), {}, 403),
        ((b"why=a test", b"why=+"), {}, 422),
        ((b"", b""), {"origin": "http://evil.example"}, 403),
        ((b"", b""), {"origin": "null"}, 403),
        ((b"", b""), {"origin": ""}, 403),
        ((b"", b""), {"host": f"evil.example:{PORT}", "origin": f"http://evil.example:{PORT}"}, 403),
        ((b"seen=", b"seen=0"), {}, 409),
    ],
)
def test_only_a_confirmed_form_with_the_token_changes_something(
    change: tuple[bytes, bytes], headers: dict[str, str], status: int
) -> None:
    body = form("freeze").replace(*change)
    assert asked("POST", "/do", body, **headers)[0] == status
    assert bool(events.frozen()) is (status == 200)
    assert len(events.read("console")) == (status == 200)


@pytest.mark.usefixtures("place")
def test_nothing_is_changed_by_looking() -> None:
    before = Path("releases/ledger.jsonl").read_bytes()
    query = f"action=freeze&why=x&token={TOKEN.replace(' ', '+')}"
    for path in ("/do", "/try", "/score"):
        assert asked("GET", path, query=query)[0] == 404
    for path in ("/", "/reports/status.html", "/console", "/confirm", "/nowhere", "/docs/../config/data.yaml"):
        asked("GET", path, query=query)
    assert (Path("releases/ledger.jsonl").read_bytes(), events.read()) == (before, [])


@pytest.mark.usefixtures("place")
def test_a_confirmation_counts_once() -> None:
    body = form("approve", version=f"{WAITING}", environment="prod")
    assert asked("POST", "/do", body)[0] == 200
    status, page = asked("POST", "/do", body)
    assert (status, kinds("approve")) == (409, ["approve"])
    assert "read anew what it leads to" in page


@pytest.mark.usefixtures("place")
def test_too_large_a_body_is_told_in_a_sentence() -> None:
    status, page = asked("POST", "/score", b"x" * (10 * 2**20 + 1))
    assert status == 413
    assert "more than 10 MB" in page


@pytest.mark.usefixtures("place")
def test_a_case_is_answered_here_and_nothing_is_logged() -> None:
    asking = b"input-scheduled=2013-10-24T21:00&input-carrier=EV&input-origin=LGA&input-dest=LAX&input-distance=866"
    status, page = asked("POST", "/try", asking)
    assert status == 200
    assert "late: " in page
    assert not PREDICTIONS.exists()
    status, page = asked("POST", "/try", asking.replace(b"866", b"far"))
    assert status == 422
    assert "distance" in page
    assert "&#x27;far&#x27; is not a finite number" in page
    assert asked("POST", "/try", asking + b"&by=service")[0] == 403


@pytest.mark.usefixtures("place")
def test_what_was_refused_waits_no_more_until_it_is_approved() -> None:
    def waiting() -> list[str]:
        return [one.kind for one in awaited()]

    about = {"version": f"{WAITING}", "environment": "prod"}
    assert waiting() == ["approval"]
    assert asked("POST", "/do", form("refuse", **about))[0] == 200
    assert (waiting(), kinds("refuse")) == ([], ["refuse"])
    assert asked("POST", "/do", form("approve", **about))[0] == 200
    assert waiting() == []
    assert [event["action"] for event in events.read("console")] == ["refuse", "approve"]


@pytest.mark.usefixtures("place")
def test_what_is_approved_is_still_awaited() -> None:
    deploy.approve(load(Policy), f"{WAITING}", "prod", "read its card", lambda _: None)
    (one,) = awaited()
    assert (one.kind, one.about["version"]) == ("approved", WAITING)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("language", "said"), [("en", "1 of 2 have approved"), ("fr", "1 sur 2 l'ont approuvée")])
def test_one_approval_of_two_is_told_as_one(language: str, said: str) -> None:
    """The policy wants two by now; the console says neither there nor after the approval that it is enough."""
    page = Path("config/policy.yaml")
    wanted = yaml.safe_load(page.read_text(encoding="utf-8")) | {"approvals": {"prod": 2}}
    page.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    about = {"version": f"{WAITING}", "environment": "prod", "lang": language}
    status, outcome = asked("POST", "/do", form("approve", **about))
    assert status == 200
    assert {"en": "Your approval of version 3", "fr": "Votre approbation de la version 3"}[language] in outcome
    (one,) = awaited()
    assert (one.kind, one.about["figure"], one.about["limit"]) == ("approval", "1", "2")
    shown = html.unescape(asked("GET", "/console", query=f"lang={language}")[1])
    assert said in shown.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.usefixtures("place")
def test_a_refusal_wants_a_reason_and_a_released_version() -> None:
    for version, why, said in (("3", "", "say why"), ("9", "x", "version 9 is not released"), ("x", "x", "VERSION")):
        with pytest.raises(ProjectError, match=said):
            deploy.refuse(load(Policy), version, "prod", why, lambda _: None)
    assert kinds("refuse") == []


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("word", ["refuse", "approve", ""])
def test_the_autopilot_ends_what_a_person_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(load(Policy))
    settings = Path("config/monitor.yaml")
    settings.write_text(settings.read_text(encoding="utf-8").replace("approve: false", "approve: true"), "utf-8")
    live = store.pointer("prod")
    assert live is not None
    begun = {"attempt": "a", "cause": "quality", "signal": "quality", "model": live.champion}
    events.append("retrain", outcome="begun", **begun)
    attempt = Attempt("a", events.read("retrain")[-1], WAITING, "trained")
    if word:
        getattr(deploy, word)(load(Policy), f"{WAITING}", "prod", "it forgets the winter", lambda _: None)
    digest = next(entry.facts["digest"] for entry in reversed(store.entries()) if entry.kind == "bundle")
    asking: list[tuple[str, ...]] = []

    def run(_: Any, *words: str) -> Ended:
        from flight_delays.ops.release import gates

        asking.append(words)
        found = gates.approvals(store.entries(), digest, "prod", 0, ())
        told = {"rule": found.rule, "passed": found.passed, "figure": "", "limit": "", "sentence": found.sentence}
        store.append("gates", environment="prod", version=WAITING, digest=digest, results=[told], passed=found.passed)
        if found.passed:
            store.move("deploy", "prod", digest, live, previous=live.champion, version=WAITING, why="")
        return Ended(0 if found.passed else 1, found.sentence)

    monkeypatch.setattr(autopilot.Pilot, "run", run)
    pilot = autopilot.Pilot((), dict, lambda _: None)
    if word == "approve":
        autopilot._enter("prod", attempt, WAITING, pilot, store)
        return
    with pytest.raises(autopilot._StopError):
        autopilot._enter("prod", attempt, WAITING, pilot, store)
    last = events.read("retrain")[-1]
    assert (last["outcome"], len(asking)) == (("refused", 1) if word else ("waits", 0))
    if word:
        assert last["gates"] == ["person"]
        assert "forgets the winter" in last["by"]
        assert store.pointer("prod") == live


if __name__ == "__main__":
    history()
