"""The loop lived through: a changed world is learned and served by itself, harm is refused, kills change nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import commit, must, run, share_environment, well

pytestmark = pytest.mark.life
ROWS, PART = 4000, 50
PATIENCE = 1200
"""Seconds until a round has to have come to its end."""
KILLS = 8
EVERYWHERE, EACH = 100, 15
"""Kills of whatever runs, in one test, and how many of them at least hit each of HIT."""
TOGETHER, LONGEST = 3, 3600
"""Kinds of processes that are killed at one moment at most, and seconds that all kills take at most."""
KINDS = {"serve": "service", "monitor": "monitor", "autopilot": "autopilot", "deploy": "deployment"}
KINDS |= dict.fromkeys(("pipeline", "stage"), "trainer")
"""What a process is, by its verb."""
HIT = ("service", "monitor", "trainer", "autopilot")
CALLERS, WINDOW = 3, 500
ENDS = ("deployed", "refused", "failed", "overtaken")
"""Outcomes of a retraining that has come to its end."""
COUNTED = """
import json, sys
from flight_delays.ops.log.truth import predictions, truths
rows = predictions().order_by(["time", "id"]).select("id", "model").to_pyarrow().to_pydict()
told = truths().select("id", "truth", "times").to_pyarrow().to_pydict()
json.dump([[*zip(*rows.values())], [*zip(*told.values())]], sys.stdout)
"""
"""What a project's own reader finds in the logs: who answered each id, in order, and the truth of each."""
CHANGES = {
    "config/model.yaml": ("n_estimators: 100", "n_estimators: 5"),
    "config/monitor.yaml": ("margin: 0.25}", "margin: 0.1}"),
    "config/policy.yaml": ("median_ms: 10, p99_ms: 100", "median_ms: 1000, p99_ms: 10000"),
}
"""Little to fit, a sharper eye, and no haste: other tests keep the machine busy."""
Truth = Callable[[dict[str, Any], random.Random], bool]


class World:
    """A project in use: its service, what is asked of it, and what becomes of that."""

    def __init__(self, folder: Path) -> None:
        """Prepare to use a project."""
        self.folder, self.port, self.seed = folder, 0, 0
        self.service: subprocess.Popen[str]
        self.command = [str(folder / ".venv/bin/python"), "-m", "flight_delays.ops"]
        page = yaml.safe_load((folder / "config/data.yaml").read_text(encoding="utf-8"))
        self.inputs = [name for name, column in page["columns"].items() if column.get("role", "input") == "input"]
        self.rows: list[dict[str, Any]] = []

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the project."""
        return run([*self.command, *words], self.folder)

    def lines(self, path: str, kind: str = "") -> list[dict[str, Any]]:
        """Return what a log holds, or one kind of it."""
        content = (self.folder / path).read_text(encoding="utf-8") if (self.folder / path).exists() else ""
        return [line for line in map(json.loads, content.splitlines()) if kind in ("", line.get("kind"))]

    def outcomes(self) -> list[str]:
        """Return the outcomes of all retrainings, in order."""
        return [event["outcome"] for event in self.lines("logs/events.jsonl", "retrain")]

    def deployed(self, environment: str = "prod") -> list[int]:
        """Return the versions that an environment came to use, in order."""
        moves = self.lines("releases/ledger.jsonl", "deploy")
        return [move["facts"]["version"] for move in moves if move["facts"]["environment"] == environment]

    def ask(self, path: str, content: Any = None) -> tuple[Any, Any]:
        """Return what the service answers, and its headers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = None if content is None else json.dumps(content)
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        return json.loads(said), answer.headers

    def live(self, count: int, truth: Truth) -> float:
        """Ask for rows, tell what became of them, and return how well the service ranked them (ROC AUC)."""
        self.seed += 1
        draw, known = random.Random(self.seed), []
        for _ in range(count // PART):
            rows = draw.choices(self.rows, k=PART)
            answers, headers = self.ask("/invocations", {"dataframe_records": [self.asked(row) for row in rows]})
            true = [truth(row, draw) for row in rows]
            self.ask("/feedback", [{"id": f"{headers['X-Request-Id']}-{n}", "truth": t} for n, t in enumerate(true, 1)])
            known += [(list(given.values())[1], t) for given, t in zip(answers["probabilities"], true, strict=True)]
        return area(known)

    def score(self, rows: list[dict[str, Any]], truth: Truth, name: str) -> float:
        """Score a file of rows, hand it back with what became of them, and return how well they were ranked."""
        draw, place = random.Random(len(name)), self.folder / "outputs"
        asked = [{column: row[column] for column in self.inputs} for row in rows]
        pq.write_table(pa.Table.from_pylist(asked), place / f"{name}.parquet")
        words = ("--input", f"outputs/{name}.parquet", "--output", f"outputs/{name}-scored.parquet", "--log", "yes")
        said = well(self.verb("score", *words))
        assert said.endswith(f"; {len(rows)} rows logged, 0 were before\n")
        scored, true = pq.read_table(place / f"{name}-scored.parquet"), [truth(row, draw) for row in rows]
        pq.write_table(scored.append_column("truth", pa.array(true)), place / f"{name}-truth.parquet")
        said = well(self.verb("feedback", "--file", f"outputs/{name}-truth.parquet"))
        assert said.splitlines()[1:] == [], "no id is unknown"
        return area(list(zip(scored["probability_true"].to_pylist(), true, strict=True)))

    def asked(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a row as a request carries them."""
        asked = {name: row[name] for name in self.inputs}
        return {n: v.isoformat() if hasattr(v, "isoformat") else None if v != v else v for n, v in asked.items()}

    @contextmanager
    def flying(self) -> Iterator[subprocess.Popen[str]]:
        """Run the autopilot; what is done with it begins when it is the one that holds the place."""
        number, end = self.folder / "logs" / "autopilot.pid", time.monotonic() + PATIENCE
        with subprocess.Popen(
            [*self.command, "autopilot", "--every", "1"], cwd=self.folder, stdout=subprocess.DEVNULL, text=True
        ) as process:
            while not number.exists() or number.read_text(encoding="utf-8") != f"{process.pid}\n":
                assert time.monotonic() < end
                time.sleep(0.1)
            yield process

    def wait_for(self, version: int) -> None:
        """Wait until the service answers with a version."""
        end = time.monotonic() + 30
        while self.ask("/version")[0]["model_version"] != f"{version}" and time.monotonic() < end:
            time.sleep(0.1)
        assert self.ask("/version")[0]["model_version"] == f"{version}"


def unfinished(world: World) -> bool:
    """Whether a retraining has begun and has not come to its end."""
    return bool(world.outcomes()) and world.outcomes()[-1] not in ENDS


def area(known: list[tuple[float, bool]]) -> float:
    """Return how often a row that is true ranks above one that is not (Mann and Whitney 1947)."""
    ranks = {value: place for place, value in enumerate(sorted({value for value, _ in known}))}
    yes, no = ([ranks[value] for value, true in known if true == wanted] for wanted in (True, False))
    above = sum((one > other) + (one == other) / 2 for one in yes for other in no)
    return above / (len(yes) * len(no))


def usual(row: dict[str, Any], _: random.Random) -> bool:
    """What became of the flight."""
    return bool(row["late"])


def far(row: dict[str, Any], draw: random.Random) -> bool:
    """The world changed: far flights are late, and little else counts."""
    return bool(row["distance"] > 900) != (draw.random() < 0.1)


def near(row: dict[str, Any], draw: random.Random) -> bool:
    """The world turned round."""
    return not far(row, draw)


def poisoned(row: dict[str, Any], draw: random.Random) -> bool:
    """Every fifth truth is told the wrong way round."""
    return far(row, draw) != (draw.random() < 0.2)


@pytest.fixture(scope="module")
def born(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small project whose first version is in prod."""
    source, folder = lived(4, "classification"), tmp_path_factory.mktemp("flown") / "project"
    left = (".venv", "releases", ".keys", "logs", "mlflow.db", "mlartifacts", "runs", "dvc.lock")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*left), symlinks=True)
    share_environment(source, folder)
    (folder / ".git" / "info" / "exclude").write_text(".venv\n")
    for name, (old, new) in CHANGES.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        text = text.replace(old, new).replace("cooldown_hours: 24", "cooldown_hours: 0")
        (folder / name).write_text(text.replace("a_week: 3", "a_week: 100"), "utf-8")
    flights = pq.read_table(folder / "data" / "flights.parquet")
    few = sorted(random.Random(0).sample(range(flights.num_rows), ROWS))
    pq.write_table(flights.take(few), folder / "data" / "flights.parquet")
    shutil.rmtree(folder / "tests" / "ops")  # a release runs the project's tests; these are run elsewhere
    commit(folder, "Small")
    made = World(folder)
    for words in (("key",), ("pipeline",), *(("deploy", "--env", where) for where in ("dev", "staging", "prod"))):
        well(made.verb(*words))
    return folder


def grown(born: Path, folder: Path, *parts: str) -> World:
    """Copy the project, and know the rows from which the first version learned, or that tested it."""
    shutil.copytree(born, folder, ignore=shutil.ignore_patterns(".venv"), symlinks=True)
    share_environment(born, folder)
    made = World(folder)
    tables = [pq.read_table(folder / "build" / "evaluation" / f"{name}.parquet") for name in parts]
    made.rows = [row for table in tables for row in table.to_pylist()]
    return made


@pytest.fixture
def unserved(born: Path, tmp_path: Path) -> World:
    """Give a project that nobody has asked anything."""
    return grown(born, tmp_path / "project", "reference")


def test_scored_files_close_the_loop_without_any_service(unserved: World) -> None:
    draw, world = random.Random(3), unserved
    before = world.score(draw.choices(world.rows, k=1000), usual, "quiet")
    said = well(world.verb("monitor", "--env", "prod"))
    assert "window 2, 500 answers, 500 with known truth" in said
    assert "alarm" not in said, said
    lost = world.score(draw.choices(world.rows, k=2500), far, "changed")
    assert lost < before - 0.1
    said = well(world.verb("autopilot", "--once", "yes"))
    assert world.outcomes() == ["begun", "trained", "deployed"], said
    assert world.lines("logs/events.jsonl", "retrain")[0]["cause"].startswith("quality since window ")
    assert [world.deployed(where) for where in ("dev", "staging", "prod")] == [[1, 2]] * 3
    rows = pq.read_metadata(world.folder / "data/raw/production.parquet").num_rows
    assert 1000 < rows <= 3500
    after = world.score(draw.choices(world.rows, k=1000), far, "learned")
    print(f"ROC AUC {before:.3f}, after the change {lost:.3f}, after the retraining {after:.3f}")
    assert after - lost >= 0.9 * (before - lost)
    well(world.verb("monitor", "--env", "prod"))
    service = {"latency", "memory"}
    judged = {verdict["signal"] for record in world.lines("logs/monitor.jsonl") for verdict in record["verdicts"]}
    assert {"quality", "data drift", "prediction drift", "skew", "freshness"} <= judged
    assert judged.isdisjoint(service), "nobody knows how a service fares that is not there"
    assert not (world.folder / "logs/services").exists()
    well(world.verb("status"))


@pytest.fixture(scope="module")
def world(born: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a project that answers."""
    made = grown(born, tmp_path_factory.mktemp("served") / "project", "reference", "test")
    serve = [*made.command, "serve", "--port", "0", "--env", "prod"]
    with subprocess.Popen(serve, cwd=made.folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            made.service = process
            made.port = int(process.stdout.readline().partition("http://127.0.0.1:")[2].partition("/")[0])
            yield made
        finally:
            process.kill()


def test_a_changed_world_is_learned_and_served_by_itself(world: World) -> None:
    before = world.live(1000, usual)
    lost = world.live(2500, far)
    assert lost < before - 0.1
    said = well(world.verb("autopilot", "--once", "yes"))
    assert "since the change, alone" in said, said
    assert world.outcomes() == ["begun", "trained", "deployed"]
    begun, trained, _ = world.lines("logs/events.jsonl", "retrain")
    assert begun["cause"].startswith("quality since window ")
    assert trained["version"] == 2
    assert [world.deployed(where) for where in ("dev", "staging", "prod")] == [[1, 2]] * 3
    why = world.lines("releases/ledger.jsonl", "deploy")[-1]["facts"]["why"]
    assert why == f"retrained because of {begun['cause']}"
    world.wait_for(2)
    after = world.live(1000, far)
    print(f"ROC AUC {before:.3f}, after the change {lost:.3f}, after the retraining {after:.3f}")
    assert after - lost >= 0.9 * (before - lost)
    sentences = [alert["sentence"] for alert in world.lines("logs/alerts.jsonl") if alert["signal"] == "retrain"]
    assert sentences == [f"Version 2 is in prod, retrained because of {begun['cause']}."]


def test_what_was_learned_in_production_is_reproduced(world: World) -> None:
    run_of = world.lines("logs/events.jsonl", "register")[-1]["run"]
    said = well(world.verb("reproduce", "--run", run_of))
    assert f"run {run_of} is reproduced" in said


def test_poison_is_learned_and_refused(world: World) -> None:
    kept = (world.folder / "data/raw/production.parquet").read_bytes()
    world.live(2000, poisoned)
    said = well(world.verb("autopilot", "--once", "yes"))
    assert world.outcomes()[3:] == ["begun", "trained", "refused"], said
    *_, refused = world.lines("logs/events.jsonl", "retrain")
    assert "champion" in refused["gates"]
    assert world.deployed() == [1, 2]
    assert world.ask("/version")[0]["model_version"] == "2"
    told = world.lines("logs/alerts.jsonl")[-1]["sentence"]
    assert told.startswith("Version 3, retrained because of quality since window ")
    assert told.endswith("the champion stays.")
    assert (world.folder / "data/raw/production.parquet").read_bytes() == kept


def test_a_freeze_and_a_changed_file_are_told_and_nothing_happens(world: World) -> None:
    world.live(2500, near)
    outcomes, moves = world.outcomes(), world.lines("releases/ledger.jsonl")
    well(world.verb("freeze", "--why", "an audit"))
    assert "an audit" in well(world.verb("autopilot", "--once", "yes"))
    well(world.verb("thaw", "--why", "it is over"))
    features = world.folder / "src/flight_delays/features.py"
    whole = features.read_bytes()
    features.write_bytes(whole + b"\n")
    assert "features.py differ from the last commit" in well(world.verb("autopilot", "--once", "yes"))
    features.write_bytes(whole)
    assert [event["reason"] for event in world.lines("logs/events.jsonl", "trigger")] == ["frozen", "changed files"]
    assert (world.outcomes(), world.lines("releases/ledger.jsonl")) == (outcomes, moves)


def test_killed_again_and_again_it_comes_to_the_same_end_once(world: World) -> None:
    """The autopilot alone is killed, whatever it started goes on; then a person ends it, and all of it ends."""
    draw, known = random.Random(0), world.outcomes()
    for _ in range(KILLS):
        with world.flying() as process:
            end = time.monotonic() + PATIENCE
            while len(world.outcomes()) == len(known) and time.monotonic() < end:
                time.sleep(0.1)
            time.sleep(draw.uniform(0, 10))
            process.send_signal(signal.SIGKILL)
    with world.flying() as process:
        second = world.verb("autopilot", "--once", "yes")
        assert second.returncode == 1
        assert f"another autopilot is running here (process {process.pid})" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    end = time.monotonic() + PATIENCE
    while unfinished(world):
        assert time.monotonic() < end
        well(world.verb("autopilot", "--once", "yes"))
    assert world.outcomes()[len(known) :] == ["begun", "trained", "deployed"]
    assert world.deployed() == [1, 2, 4]
    assert [event["version"] for event in world.lines("logs/events.jsonl", "register")] == [1, 2, 3, 4]
    world.wait_for(4)
    assert world.live(500, near) > 0.8
    assert must(["git", "status", "--porcelain", "--", "src", "config"], world.folder) == ""


class Callers:
    """Ask for rows and tell what became of them, again and again, and note what was acknowledged.

    A truth is told until it is acknowledged, as careful callers do.
    """

    def __init__(self, world: World) -> None:
        """Begin, in threads."""
        self.world, self.truth, self.over = world, far, threading.Event()
        self.known: dict[str, bool] = {}
        """What was answered, with what became of it."""
        self.told: dict[str, bool] = {}
        """Of these, what the service said it has noted."""
        self.refused: list[AssertionError] = []
        self.threads = [threading.Thread(target=self._go, args=(seed,)) for seed in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def _go(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.over.is_set():
            row = draw.choice(self.world.rows)
            if (answered := self._asked("/invocations", {"dataframe_records": [self.world.asked(row)]})) is not None:
                name, truth = f"{answered['X-Request-Id']}-1", self.truth(row, draw)
                self.known[name] = truth
                end = time.monotonic() + PATIENCE
                while self._asked("/feedback", [{"id": name, "truth": truth}]) is None and time.monotonic() < end:
                    time.sleep(0.1)
                self.told[name] = truth
            time.sleep(0.05)

    def _asked(self, path: str, content: Any) -> Any:
        """Return the headers of the answer; None where the service is away."""
        try:
            return self.world.ask(path, content)[1]
        except AssertionError as refused:
            self.refused.append(refused)
        except (OSError, HTTPException):
            pass
        return None

    def end(self) -> None:
        """Ask no more; what was answered by now is told."""
        self.over.set()
        for thread in self.threads:
            thread.join()


def running(world: World) -> dict[str, list[int]]:
    """Return the numbers of a project's processes, by what they are."""
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_here = (folder / "cwd").resolve() == world.folder.resolve()
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has just ended
        if is_here and "-m" in words:
            module, verb = [*words[words.index("-m") + 1 :], ""][:2]
            kind = "trainer" if module == "dvc" else KINDS.get(verb, "others")
            found.setdefault(kind, []).append(int(folder.name))
    return found


@contextmanager
def kept_alive(world: World) -> Iterator[None]:
    """Run service, autopilot and monitor, each started again when it has ended."""
    over, words = threading.Event(), dict[str, tuple[str, ...]]()
    words |= {"serve": ("--port", f"{world.port}", "--env", "prod"), "autopilot": ("--every", "1"), "monitor": ()}

    def keep(verb: str) -> None:
        while not over.wait(5 if verb == "monitor" else 0.5):
            command = [*world.command, verb, *words[verb]]
            with subprocess.Popen(
                command, cwd=world.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                while process.poll() is None and not over.wait(0.1):
                    pass
                process.send_signal(signal.SIGINT)

    threads = [threading.Thread(target=keep, args=(verb,)) for verb in words]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def learned(world: World) -> int:
    """Return how many retrainings ended with a version in prod."""
    return world.outcomes().count("deployed")


def killed(world: World, callers: Callers, pace: float) -> Counter[str]:
    """Kill whatever runs, at any moment, until each kind was hit often and two versions came to prod; return how often.

    The pauses are of every size between a tenth of `pace`, in seconds, and fifteen times as much: on any machine each
    step is hit at any moment of its own, and comes to an end in some long pause.
    """
    draw, hits, before, end = random.Random(1), Counter[str](), learned(world), time.monotonic() + LONGEST
    while hits.total() < EVERYWHERE or min(hits[kind] for kind in HIT) < EACH or learned(world) < before + 2:
        assert time.monotonic() < end, f"killed {dict(hits)}, {world.outcomes()}"
        time.sleep(0.1 * pace * 150 ** draw.random())
        callers.truth = (far, near)[(learned(world) - before) % 2]  # what was learned is wrong again
        alive = running(world)
        for kind in draw.sample(sorted(alive), min(len(alive), draw.randint(1, TOGETHER))):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(draw.choice(alive[kind]), signal.SIGKILL)
                hits[kind] += 1
    return hits


@pytest.mark.thorough
def test_whatever_is_killed_nothing_that_was_acknowledged_is_lost_or_counted_twice(world: World) -> None:
    """Service, monitor, autopilot, and what these started, such as a training, over 100 times at any moment.

    Meanwhile the world turns round whenever it was learned, so that there is always something to learn.
    """
    world.service.kill()
    world.service.wait()
    counts = [world.command[0], "-c", COUNTED]
    earlier = json.loads(must(counts, world.folder)) if (world.folder / "logs/predictions").exists() else [[], []]
    begun, moves = len(world.outcomes()), len(world.deployed())
    start = time.monotonic()
    well(world.verb("monitor"))
    pace = time.monotonic() - start
    with kept_alive(world):
        callers = Callers(world)
        try:
            hits = killed(world, callers, pace)
        finally:
            callers.end()
    print(f"killed {hits.total()} times: {dict(hits)}; {len(callers.known)} answers; {world.outcomes()[begun:]}")
    end = time.monotonic() + PATIENCE
    while running(world):
        assert time.monotonic() < end, "what a killed process had started comes to its end"
        time.sleep(0.5)
    while unfinished(world):
        assert time.monotonic() < end, "the autopilot goes on where the killed one was"
        well(world.verb("autopilot", "--once", "yes"))
    well(world.verb("monitor"))

    answers, truths = json.loads(must(counts, world.folder))
    ids = [name for name, _ in answers]
    new, told = set(ids) - {name for name, _ in earlier[0]}, {name: said for name, said, _ in truths}
    assert callers.refused == []
    assert callers.told == callers.known
    assert len(set(ids)) == len(ids), "no prediction is counted twice"
    assert callers.known.keys() <= new, "no acknowledged prediction is lost"
    in_flight = CALLERS * hits["service"]
    assert len(new) - len(callers.known) <= in_flight, "nobody asked for more than what was under way at a kill"
    assert {name: told.get(name) for name in callers.told} == {n: f"{t}".lower() for n, t in callers.told.items()}
    assert len(truths) - len(earlier[1]) == len(callers.told), "the truth of what nobody knows of was told by nobody"
    assert sum(times - 1 for *_, times in truths) <= in_flight, "only what was not acknowledged was told again"

    lives: dict[str, list[str]] = {}
    for event in world.lines("logs/events.jsonl", "retrain"):
        lives.setdefault(event["attempt"], []).append(event["outcome"])
    assert {(life[0], life[-1] in ENDS, len(set(life)) == len(life)) for life in lives.values()} == {
        ("begun", True, True)
    }, "every retraining begins once, and ends once"
    deployed = world.outcomes()[begun:].count("deployed")
    assert deployed > 0
    assert len(world.deployed()) == moves + deployed, "each was promoted"
    for where in ("dev", "staging", "prod"):
        assert len(set(world.deployed(where))) == len(world.deployed(where)), "and none twice"
    versions = [event["version"] for event in world.lines("logs/events.jsonl", "register")]
    assert versions == list(range(1, len(versions) + 1)), "no version is registered twice"
    assert "each as it was written" in " ".join(well(world.verb("releases")).split())
    alerts = [alert["id"] for alert in world.lines("logs/alerts.jsonl")]
    assert len(set(alerts)) == len(alerts), "nothing is told twice"

    records = [record for record in world.lines("logs/monitor.jsonl") if record["rows"]]
    assert [record["window"] for record in records] == list(range(1, len(records) + 1))
    assert len(records) > len(callers.known) // (2 * WINDOW)
    for model in {record["model"] for record in records}:
        own = [name for name, by in answers if by == model]
        windows = [(record["first"], record["last"]) for record in records if record["model"] == model]
        wanted = list(zip(own[::WINDOW], own[WINDOW - 1 :: WINDOW], strict=False))
        assert windows == wanted[: len(windows)], "each answer is judged in one window"
