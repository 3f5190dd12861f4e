"""The gates: how sure they are, whom they refuse, and what they leave alone. Run with a project's environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from flight_delays.ops.config import METRICS, Case, Data, Model, load
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.evaluate.compare import sure
from flight_delays.ops.features import from_records
from flight_delays.ops.guards import ROWS, Scene
from flight_delays.ops.guards_3 import Release, alone, released
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.release import evidence, gates, ledger
from flight_delays.ops.release.bundle import Bundle
from flight_delays.ops.release.contract import Contract, breaking
from flight_delays.ops.release.evidence import Logged, Service, Trial
from flight_delays.ops.release.policy import Policy, Slices
from flight_delays.ops.scorer import Packed

DATA, CASE, TRAINED = load(Data), load(Case), load(Model)
POLICY = Policy()
LIVE: dict[str, Any] = {
    "name": "delays",
    "owner": "me",
    "decision": "warn",
    "inputs": {"temp": {"type": "number", "unit": "F", "nulls": True}, "origin": {"type": "text"}},
    "output": {"target": "late", "type": "boolean", "classes": [False, True]},
}


def trial(metric: str = "roc_auc", seed: int = 0, noise: float = 0.5, champion: float | None = 0.5) -> Trial:
    """Return made-up rows that candidate and champion answer with some noise."""
    model = Model.model_validate({"estimator": "Tree", "metric": metric, "seed": seed})
    rng, regression = np.random.default_rng(seed), METRICS[metric] == "regression"
    target: Any = rng.normal(size=ROWS) if regression else rng.integers(0, 2, ROWS)

    def answers(spread: float) -> Any:
        said = target + spread * rng.normal(size=ROWS)
        share = np.clip(0.3 + 0.4 * said, 0.01, 0.99)
        return said if regression else np.column_stack([1 - share, share])

    columns = {"group": np.array(list("abcdefgh"), dtype=object)[rng.integers(0, 8, ROWS)]}
    own, other = answers(noise), None if champion is None else answers(champion)
    same = np.full_like(own, 0.0 if regression else 0.5)
    return Trial(model, columns, target, own, same, other, np.ones(ROWS, dtype=bool), None)


def sliced(shown: Trial, data: Data = DATA) -> gates.Result:
    """Ask the gate of slices by group."""
    page = data.model_copy(update={"slices": ["group"], "columns": {"group": data.columns["origin"]}})
    return gates.slices(shown, page, POLICY)


@pytest.mark.parametrize("metric", METRICS)
def test_equals_pass_and_the_worse_do_not_whatever_the_metric(metric: str) -> None:
    same, worse = trial(metric), trial(metric, noise=1.5)
    for ask in (lambda one: gates.quality(one, POLICY), lambda one: gates.against(one, POLICY), sliced):
        assert ask(same).passed, ask(same)
    refused = gates.against(worse, POLICY)
    assert not refused.passed
    assert all(part in refused.sentence for part in (refused.figure, refused.limit))
    useless = replace(same, candidate=np.random.default_rng(1).permutation(same.candidate))
    assert not gates.quality(useless, POLICY).passed
    assert "constant answer" in gates.quality(useless, POLICY).sentence


@pytest.mark.parametrize(("metric", "good", "bad"), [("roc_auc", 0.6, 0.999), ("rmse", 0.6, 0.3)])
def test_a_limit_takes_the_place_of_the_constant_answer(metric: str, good: float, bad: float) -> None:
    shown = trial(metric)
    for limit, passed in ((good, True), (bad, False)):
        policy = POLICY.model_copy(update={"quality": POLICY.quality.model_copy(update={"limit": limit})})
        result = gates.quality(shown, policy)
        assert result.passed is passed
        assert f"{limit}"[:3] in result.limit
        assert "constant" not in result.limit


def test_the_margin_is_a_share_of_the_lead() -> None:
    shown = trial(noise=0.65)
    asked = {margin: POLICY.quality.model_copy(update={"margin": margin}) for margin in (0.0, 0.5)}
    passed = {m: gates.against(shown, POLICY.model_copy(update={"quality": q})).passed for m, q in asked.items()}
    assert passed == {0.0: False, 0.5: True}


def test_quiet_slices_are_left_alone_and_a_broken_one_is_named() -> None:
    """Eight slices, a candidate that is as good as the champion: at most the policy's 5 % of releases are stopped."""
    policy = POLICY.model_copy(update={"slices": Slices(rows=100, margin=0)})
    page = DATA.model_copy(update={"slices": ["group"], "columns": {"group": DATA.columns["origin"]}})
    quiet = [gates.slices(trial(seed=seed), page, policy).passed for seed in range(60)]
    assert quiet.count(False) <= 8  # P(more) = .001 at 5 %
    shown = trial()
    broken = shown.candidate.copy()
    rows = shown.columns["group"] == "c"
    broken[rows] = broken[rows][:, ::-1]
    result = sliced(replace(shown, candidate=broken))
    assert result.figure == "1 of 8 worse"
    assert "group c (" in result.sentence
    assert "group a" not in result.sentence


def test_slices_without_a_champion_are_compared_with_the_constant_answer() -> None:
    shown = trial(champion=None)
    assert sliced(shown).passed
    assert not sliced(replace(shown, candidate=shown.candidate[:, ::-1])).passed
    assert gates.against(shown, POLICY).figure == "not comparable"


def test_small_slices_and_unknown_columns() -> None:
    shown = trial()
    few = replace(shown, fair=np.arange(ROWS) < 200)
    assert sliced(few).figure == "0 of 0 worse"
    with pytest.raises(ProjectError, match="no column 'origin'"):
        gates.slices(shown, DATA.model_copy(update={"slices": ["origin"]}), POLICY)


def test_bounds_are_those_of_the_normal_and_nothing_is_sure_of_what_cannot_be_measured() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate([[1.0], rng.normal(1, 0.1, 100_000)])
    found = sure(drawn, 0.975)
    assert (found.low, found.high) == pytest.approx((1 - 0.196, 1 + 0.196), abs=1e-3)
    assert np.isnan(sure(np.full(501, np.nan), 0.95).low)
    one = trial()
    same = replace(one, target=np.zeros(ROWS, dtype=np.int64))
    assert not gates.quality(same, POLICY).passed
    assert gates.quality(same, POLICY).figure == "n/a"


def test_rows_that_the_champion_learned_from_are_known() -> None:
    columns = {
        "id": np.arange(6.0),
        "at": np.arange(6).astype("datetime64[us]"),
        "text": np.array(list("abcdef"), object),
    }
    learned = {"text": columns["text"][2:4], "id": columns["id"][2:4], "more": np.zeros(2)}
    assert evidence._unseen(columns, learned).tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"temp": None}, ["column 'temp' is taken no more"]),
        ({"temp": None, "temps": {"type": "number"}}, ["did you mean 'temps'", "column 'temps' is newly wanted"]),
        (
            {"temp": {"type": "text", "unit": "F", "nulls": True}},
            ["column 'temp': its type was 'number'"],
        ),
        ({"temp": {"type": "number", "unit": "C", "nulls": True}}, ["column 'temp': its unit was 'F' and is 'C'"]),
        ({"temp": {"type": "number", "unit": "F"}}, ["column 'temp': a value is newly wanted in every row"]),
        ({"origin": {"type": "text", "nulls": True}}, []),
        ({"output": {**LIVE["output"], "classes": [True, False]}}, ["the output's classes was [False, True]"]),
    ],
)
def test_what_breaks_a_client_is_named(change: dict[str, Any], told: list[str]) -> None:
    inputs = {name: column for name, column in {**LIVE["inputs"], **change}.items() if column and name != "output"}
    new = Contract.model_validate({**LIVE, "inputs": inputs, "output": change.get("output", LIVE["output"])})
    found = dict(breaking(new, Contract.model_validate(LIVE)))
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found.values(), strict=True))
    assert gates.contract(new, Contract.model_validate(LIVE)).passed is not bool(told)
    assert gates.contract(new, Contract.model_validate(LIVE), list(found)).passed


def entries(*events: tuple[str, dict[str, Any]], who: str = "Ann <ann@localhost>") -> list[ledger.Entry]:
    """Return a ledger of some events."""
    content = b""
    for kind, facts in events:
        content += ledger.line(ledger.read(content), kind, str(facts.get("who", who)), facts)
    return ledger.read(content)


def moved(*moves: str, environment: str = "dev") -> list[ledger.Entry]:
    """Return a ledger of moves: the name of a bundle, or < for a way back."""
    used: list[str] = []
    events = []
    for move in moves:
        before = used[-1] if used else None
        used = used[:-1] if move == "<" else [*used, move]
        kind = "rollback" if move == "<" else "deploy"
        events.append((kind, {"environment": environment, "digest": used[-1], "previous": before}))
    return entries(*events)


@pytest.mark.parametrize(
    ("moves", "used"),
    [("", ""), ("a", "a"), ("ab", "ab"), ("ab<", "a"), ("abc<<", "a"), ("ab<c", "ac"), ("ab<c<", "a"), ("aab", "ab")],
)
def test_going_back_takes_the_last_move_off(moves: str, used: str) -> None:
    assert "".join(ledger.history(moved(*moves), "dev")) == used


def test_what_was_rolled_back_goes_no_further_until_it_comes_again() -> None:
    for moves, stands in (("", False), ("a", True), ("ab", True), ("ba<", False), ("ba<a", True), ("ab<", True)):
        assert gates.order(moved(*moves), "a", "staging").passed is stands, moves
    assert not gates.order(moved("a"), "a", "prod").passed
    assert gates.order([], "a", "dev").passed


def test_a_refusal_by_a_person_holds_until_somebody_approves() -> None:
    def about(kind: str, who: str, environment: str = "prod") -> tuple[str, dict[str, Any]]:
        return kind, {"digest": "a", "environment": environment, "who": who, "why": "it forgets the winter"}

    ann, bob, no = about("approve", "Ann <ann@x>"), about("approve", "Bob <bob@x>"), about("refuse", "Eve <eve@x>")
    for said, wanted, rule in (
        ([no], 0, "person"),
        ([ann, bob, no], 2, "person"),
        ([no, ann], 1, ""),
        ([ann, no, bob], 2, "approvals"),
        ([about("refuse", "Eve <eve@x>", "dev")], 0, ""),
    ):
        found = gates.approvals(entries(*said), "a", "prod", wanted, set())
        assert (found.passed, found.rule) == (not rule, rule or "approvals")
        assert ("Eve <eve@x> refused it for prod (it forgets the winter)" in found.sentence) is (rule == "person")
    assert gates.approvals(entries(no), "b", "prod", 0, set()).passed


def test_before_anything_was_made_each_command_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree("config", tmp_path / "config")
    for words, code, told in (
        ("releases", 0, "nothing is released yet; `make deploy ENV=dev` releases the newest version"),
        ("deploy --env dev", 1, "registered: none yet; `make train` registers what it makes"),
        ("serve --port 0", 1, "nothing is in prod yet: `make train` makes a version, `make ship` ships it"),
    ):
        command = [sys.executable, "-m", "flight_delays.ops", *words.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, len((done.stdout + done.stderr).splitlines())) == (code, 1)
        assert told in done.stdout + done.stderr


def test_people_are_counted_once_and_makers_not_at_all() -> None:
    said = [
        ("approve", {"digest": "a", "environment": "prod", "who": who})
        for who in ("Ann <ann@x>", "A. <ANN@x>", "Bob <bob@x>", "carol")
    ]
    said.append(("approve", {"digest": "a", "environment": "dev", "who": "Dan <dan@x>"}))
    said.append(("approve", {"digest": "b", "environment": "prod", "who": "Eve <eve@x>"}))
    asked = [(3, set(), True), (4, set(), False), (2, {"Bob B. <bob@X>"}, True), (3, {"carol"}, False)]
    for wanted, makers, passed in asked:
        assert gates.approvals(entries(*said), "a", "prod", wanted, makers).passed is passed
    assert "1 of 2 people" in gates.approvals(entries(said[2]), "a", "prod", 2, set()).sentence


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"model": "0" * 64}, "of model 000000000000, not of its own"),
        ({"commit": "0" * 40}, "of commit 000000000000, not of its own"),
        ({"failed": 2}, "9 passed, 2 failed; 0 may fail"),
        ({"passed": 0}, "0 passed, 0 failed; 0 may fail and at least 1 must pass"),
    ],
)
def test_the_report_is_of_this_very_version(release: Release, change: dict[str, Any], told: str) -> None:
    manifest = release.store.bundle(release.digest).manifest
    own = {"model": manifest.files["model.onnx"], "commit": manifest.commit, "passed": 9, "failed": 0}
    path = Path("reports") / gates.TESTS
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(own | change), encoding="utf-8")
    result = gates.tests(replace(manifest, tests=gates.sha256(path)), path.parent)
    assert (result.passed, told in result.sentence) == (not told, True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Release]:
    """One release of a small tree, in a folder of its own."""
    scene = Scene(DATA, CASE, TRAINED, tmp_path_factory.mktemp("release"), drawn(DATA, TRAINED.task, ROWS))
    with alone(scene):
        return scene, released(scene)


@pytest.fixture
def release(made: tuple[Scene, Release]) -> Iterator[Release]:
    """The release, from inside of its folder."""
    with alone(made[0]):
        yield made[1]


def logged(bundle: Bundle) -> Logged:
    """Return the fixture as the log would have it."""
    rows = json.loads((bundle.folder / "fixture.json").read_bytes())["dataframe_records"]
    packed = bundle.prepare(from_records(rows, bundle.scorer.signature.inputs))
    return Logged(bundle.digest, rows, packed, bundle.scorer.run(packed))


def test_logged_rows_are_answered_again(release: Release, made: tuple[Scene, Release]) -> None:
    bundle = release.store.bundle(release.digest)
    log, columns = logged(bundle), made[0].rows

    def ask(one: Logged) -> gates.Result:
        return gates.parity(bundle, columns, [one], [evidence.again(bundle, one, 1e-5)], POLICY)

    assert ask(log).figure == "32 logged rows as before"
    numbers = log.packed.numbers.copy()
    numbers[3] *= 100
    assert (
        "1 of 32 logged rows have other features" in ask(replace(log, packed=Packed(numbers, log.packed.text))).sentence
    )
    assert "32 of 32 logged rows have other answers" in ask(replace(log, raw=log.raw + np.float32(0.01))).sentence
    dependent = replace(bundle, features=lambda asked: {"size": np.full(len(asked["temp"]), float(len(asked["temp"])))})
    assert "may look at its own row only" in gates.parity(dependent, columns, [], [], POLICY).sentence


def test_nothing_is_measured_where_a_quick_gate_refuses(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "measured", lambda *_: [gates.Result("quality", True, "", "", "")])
    store, policy = release.store, Policy(approvals={"dev": 1})
    where = (store.folder(release.digest), store.place.name, store.entries())

    def ask(environment: str, digest: str = release.digest) -> dict[str, bool]:
        asked = gates.Question(policy, DATA, TRAINED, environment, digest, *where, None, frozenset())
        return {result.rule: result.passed for result in gates.judge(asked, lambda *_: [], lambda _: None)}

    monkeypatch.setattr(gates, "tests", lambda *_: gates.Result("tests", True, "", "", ""))
    found = ask("dev")
    assert found["quality"]
    assert [rule for rule, passed in found.items() if not passed] == ["approvals"]
    found = ask("prod")
    assert not found["order"]
    assert "quality" not in found
    found = ask("dev", "0" * 64)
    assert not found["signed"]
    assert not found["complete"]


class Answering(BaseHTTPRequestHandler):
    """A service that takes its time, and answers what it is told to."""

    protocol_version = "HTTP/1.1"
    status, seconds, answer = 200, 0.0, b"{}"

    def do_POST(self) -> None:
        """Answer rows."""
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        self._say(self.answer)

    def do_GET(self) -> None:
        """Answer how much memory is held."""
        self._say(b"# HELP x\nprocess_resident_memory_bytes 1.048576e+08\n")

    def _say(self, body: bytes) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Run the service, and give its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_service_is_measured(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "SECONDS", 0.2)
    monkeypatch.setattr(Answering, "seconds", 0.02)
    with closing(Service(address)) as service:
        taken = service.load([{"x": 1}])
    assert taken.median_ms > 20
    assert taken.p99_ms >= taken.median_ms
    assert taken.memory_mb == 100
    assert not gates.latency(taken, POLICY.service).passed
    assert gates.memory(taken, POLICY.service).passed
    monkeypatch.setattr(Answering, "status", 503)
    with closing(Service(address)) as service, pytest.raises(ProjectError, match="answers /invocations with 503"):
        service.score([{"x": 1}])


def test_a_service_that_answers_otherwise_is_found(
    release: Release, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = release.store.bundle(release.digest)
    log = logged(bundle)

    def say(raw: Any) -> None:
        named = [dict(zip(("no", "yes"), row, strict=True)) for row in raw[:32].tolist()]
        told: Mapping[str, Any] = {"predictions": bundle.scorer.answers(raw[:32]).tolist(), "probabilities": named}
        monkeypatch.setattr(Answering, "answer", json.dumps(told).encode())

    monkeypatch.setattr(evidence, "PART", 32)
    with closing(Service(address)) as service:
        say(log.raw)
        said = evidence.replayed(service, bundle, bundle, [log])
        assert said.startswith("32 rows of the fixture and 32 logged ones as the bundle answers them; 0.0 % of the")
        say(log.raw[:, ::-1])
        with pytest.raises(ProjectError, match="rows otherwise than the bundle; 0 may differ"):
            evidence.replayed(service, bundle, None, [])
