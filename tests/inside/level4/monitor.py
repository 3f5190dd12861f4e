"""Monitors that are killed at any moment judge each window once, and quiet answers stay quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from flight_delays.ops import guards_4
from flight_delays.ops.config import Case, Data, Model, load
from flight_delays.ops.contract import ProjectError, to_columns
from flight_delays.ops.guards import ROWS
from flight_delays.ops.guards import Scene as Stage
from flight_delays.ops.guards_3 import alone
from flight_delays.ops.log import FEEDBACK, SERVICES, Notes, Writer
from flight_delays.ops.log.compact import compact
from flight_delays.ops.monitor import (
    RECORDS,
    Age,
    Aging,
    Monitor,
    Record,
    State,
    Verdict,
    dump,
    health,
    quality,
    read,
    scene,
    windows,
)
from flight_delays.ops.monitor.alerts import alarming_now, alerts, begun, expose
from flight_delays.ops.monitor.cells import counted, summarise
from flight_delays.ops.monitor.drift import judge
from flight_delays.ops.monitor.windows import look, look_into
from flight_delays.ops.process.schema import drawn
from flight_delays.ops.register.events import add, append
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import opened
from flight_delays.ops.scorer import Packed
from flight_delays.ops.serve import Answered, Measure, watched
from flight_delays.ops.serve import live as serve_live
from flight_delays.ops.serve.live import Live
from flight_delays.ops.serve.metrics import BOUNDS, Counts
from flight_delays.ops.serve.protocols import plain
from flight_delays.ops.serve.score import complete
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter

SIZE, WINDOWS, LEAST_KILLS = 200, 40, 8
START = 3e9
WATCH = """
import os, random, signal
from itertools import count
from threading import Timer
from flight_delays.ops.monitor import Alerts, Monitor
from flight_delays.ops.monitor.alerts import tell
from flight_delays.ops.monitor.windows import look
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import opened

draw = random.Random(0)
for number in count():
    wait = draw.uniform(0.1, 0.5) * (1 + number / 4)  # on a slow machine a look takes long
    if os.fork() == 0:
        Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while look("dev", Monitor(window=200), Policy(), 4e9) + tell("dev", Alerts(), lambda _: None):
            pass
        os._exit(0)
    if os.wait()[1] == 0:
        break
print(number)
"""
"""Looks and tells until nothing is left, killed again and again; says how often."""


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[scene.Scene]:
    """A small release in use in dev, seen from inside of its folder."""
    data, model = load(Data), load(Model)
    stage = Stage(data, load(Case), model, tmp_path, drawn(data, model.task, ROWS))
    found = guards_4.quiet(stage)
    (tmp_path / "config").symlink_to(Path("config").resolve())
    with alone(stage):
        own = tuple(name for name in scene.groupable(data) if name in data.inputs)
        kept = scene.KEPT / f"{found.bundle.digest[:16]}.json"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(TypeAdapter(scene.Promise).dump_json(replace(found.promise, by=own)))
        yield found


def test_killed_monitors_judge_each_window_once(seen: scene.Scene) -> None:
    """The first half of the log is compacted, the second is lines."""
    rows, writer, model = seen.known, Writer(Policy().log), seen.bundle
    inputs = plain(rows.columns, model.scorer.signature.inputs)
    silent = np.zeros_like(rows.raw[[0]])  # no probabilities, so that there is something to tell
    for number in range(SIZE * WINDOWS):
        place = [number % ROWS]
        packed, raw = Packed(rows.packed.numbers[place], rows.packed.text[place]), rows.raw[place]
        raw = silent if number // SIZE % 10 == 5 else raw
        about = (f"r{number:06}", START + number, model.digest, 1)
        if number == SIZE * WINDOWS // 2:
            writer._segments._until = 0.0  # another segment begins
        writer([Answered(*about, "champion", None, [inputs[place[0]]], packed, raw, [True])])
    assert compact(Policy().log).rows == SIZE * WINDOWS // 2
    done = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, check=True, env=os.environ)
    judged = [record for record in read("dev") if record.rows]
    assert [record.window for record in judged] == list(range(1, WINDOWS + 1))
    starts = range(0, SIZE * WINDOWS, SIZE)
    assert [record.first for record in judged] == [f"r{start:06}-1" for start in starts]
    assert [record.last for record in judged] == [f"r{start + SIZE - 1:06}-1" for start in starts]
    told = Counter(alert["id"] for alert in alerts())
    assert told == Counter(alert["id"] for alert in begun(read("dev"), "en"))
    assert sum("numbers" in name for name in told) == WINDOWS // 10
    assert int(done.stdout) >= LEAST_KILLS


def test_a_truth_that_the_model_cannot_say_is_left_out(seen: scene.Scene) -> None:
    """Another version may know more classes; what it was told is no truth for the answers of this one."""
    rows, writer, model = seen.known, Writer(Policy().log), seen.bundle
    inputs = plain(rows.columns, model.scorer.signature.inputs)
    for place in range(2 * SIZE):
        packed, raw = Packed(rows.packed.numbers[[place]], rows.packed.text[[place]]), rows.raw[[place]]
        about = (f"r{place:06}", START + place, model.digest, 1)
        writer([Answered(*about, "champion", None, [inputs[place]], packed, raw, [True])])
    FEEDBACK.mkdir(parents=True)
    with (FEEDBACK / "20260303T120000-abc-000001.jsonl").open("w") as told:
        for place in range(2 * SIZE):
            said = "maybe" if place % 4 == 0 else bool(rows.truth[place])
            line = {"id": f"r{place:06}-1", "truth": said, "observed": None, "arrived": START + place}
            told.write(json.dumps(line) + "\n")
    found = look("dev", Monitor(window=2 * SIZE), Policy(), START + SIZE * 4)
    assert [record.known for record in found if record.rows] == [2 * SIZE * 3 // 4]
    assert states(found[0].verdicts)["all answers"] == "quiet"


def test_what_a_look_does_not_name_among_all_that_is_wrong_is_over(seen: scene.Scene) -> None:
    """Packages and features have names where something is wrong, and one for all where nothing is."""
    bad = [
        Verdict("packages", "numpy", "alarm", 1.0, 0.0, "It is another."),
        Verdict("skew", "hour", "alarm", 1.0, 0.0, ""),
    ]
    well = [Verdict("packages", "versions", "quiet", 0.0, 0.0, ""), Verdict("skew", "features", "quiet", 0.0, 0.0, "")]
    looks = (bad, bad, well, bad)
    about = ("1-1", "500-1", 0.0, 1.0, 500, 0, 0, seen.bundle.digest, 1, 2.0)
    records = [Record(number, "prod", *about, verdicts) for number, verdicts in enumerate(looks, 1)]
    assert [(one["window"], one["signal"]) for one in begun(records, "en")] == [
        (1, "packages"),
        (1, "skew"),
        (4, "packages"),
        (4, "skew"),
    ]
    assert alarming_now(records[:3]) == set()
    assert alarming_now(records) == {("packages", "numpy"), ("skew", "hour")}


def test_large_windows_are_read_one_by_one_and_each_once(seen: scene.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one moment are told apart by their ids, also where one window ends and the next begins."""
    rows, model = seen.known, seen.bundle
    inputs = plain(rows.columns, model.scorer.signature.inputs)
    packed, raw = Packed(rows.packed.numbers[:ROWS], rows.packed.text[:ROWS]), rows.raw[:ROWS]
    Writer(Policy().log)([Answered("r", START, model.digest, 1, "champion", None, inputs, packed, raw, [True] * ROWS)])
    monkeypatch.setattr(windows, "AT_ONCE", 1)
    read_at_once = []
    whole = windows.rows_of
    monkeypatch.setattr(windows, "rows_of", lambda *of: read_at_once.append(len(found := whole(*of))) or found)
    records = windows.look("dev", Monitor(window=SIZE), Policy(), 4e9)
    ids = sorted(f"r-{row}" for row in range(1, ROWS + 1))
    assert [(one.first, one.last) for one in records] == [*zip(ids[::SIZE], ids[SIZE - 1 :: SIZE], strict=False)]
    assert max(read_at_once) == 2 * SIZE


def test_a_slice_that_the_mean_hides_is_named(seen: scene.Scene) -> None:
    """One carrier of nine gets answers that mean nothing; over all rows that is less than the margin."""
    rows, raw = np.arange(0, ROWS, 9), seen.known.raw.copy()
    carriers = np.where(np.arange(ROWS) % 9, "AA", "UA").astype(object)
    raw[rows] = raw[np.random.default_rng(0).permutation(rows)]
    hidden = replace(seen, known=replace(seen.known, columns={**seen.known.columns, "carrier": carriers}, raw=raw))
    assert {verdict.state for verdict in quality.quality(hidden)} == {"quiet"}
    alarms = [verdict.subject for verdict in quality.slices(hidden) if verdict.state == "alarm"]
    assert alarms == ["carrier UA"]
    assert [one.subject for one in quality.bias(hidden) if one.state == "alarm"] == ["carrier UA"]


def scored(seen: scene.Scene, name: str, shift: float = 0.0, suffix: str = "parquet") -> Path:
    """Score 5,000 rows drawn from the quiet ones, of which one number is shifted, into a file."""
    columns = seen.known.columns
    rows = np.random.default_rng(len(name)).integers(0, ROWS, 5_000)
    number = next(column for column, cells in seen.promise.inputs.columns.items() if cells.kind == "number")
    drawn_rows = {column: values[rows] for column, values in columns.items()}
    drawn_rows[number] = drawn_rows[number] + shift
    table = pa.table({column: pa.array(values, from_pandas=True) for column, values in drawn_rows.items()})
    source, output = Path(f"{name}-in.{suffix}"), Path(f"{name}.parquet")
    if suffix == "csv":
        pa.csv.write_csv(table, source)
    else:
        pq.write_table(table, source)
    complete(seen.bundle, source, output, lambda *_: None)
    return output


def test_a_scored_file_is_judged_where_it_lies(seen: scene.Scene) -> None:
    """Once, with the verdicts that its rows would get if they were read, and a shift is an alarm."""
    quiet, shifted = scored(seen, "quiet"), scored(seen, "shifted", 1000.0)
    (first,) = look_into(quiet, Policy(), START)
    assert {verdict.state for verdict in first.verdicts} == {"quiet"}
    assert {verdict.signal for verdict in first.verdicts} == {"data drift", "prediction drift"}
    assert (first.environment, first.rows, first.window) == ("files", 5_000, 1)
    assert look_into(quiet, Policy(), START) == []
    (second,) = look_into(shifted, Policy(), START)
    alarms = [verdict.signal for verdict in second.verdicts if verdict.state == "alarm"]
    assert alarms[0] == "data drift"
    assert [record.rows for record in read("files")] == [5_000, 5_000]
    assert read("dev") == []
    for path, record in ((quiet, first), (shifted, second)):
        columns = to_columns(pq.read_table(path, columns=[*seen.known.columns]))
        halves = [{name: values[part] for name, values in columns.items()} for part in np.array_split(range(5_000), 2)]
        wanted = judge(seen.promise.inputs, *(counted(seen.promise.inputs, half) for half in halves)).findings
        judged = [verdict.figure for verdict in record.verdicts if verdict.signal == "data drift"]
        assert judged == [finding.figure for finding in wanted]


def test_a_file_that_cannot_be_judged_says_why(seen: scene.Scene) -> None:
    with pytest.raises(ProjectError, match="numbers are text, since a CSV file was scored"):
        look_into(scored(seen, "text", suffix="csv"), Policy(), START)
    scored(seen, "quiet")
    with pytest.raises(ProjectError, match="does not say which version gave its answers"):
        look_into(Path("quiet-in.parquet"), Policy(), START)
    few = pq.read_table("quiet.parquet").slice(0, 300)
    pq.write_table(few, "few.parquet")
    with pytest.raises(ProjectError, match="has 300 rows, and a verdict takes 400"):
        look_into(Path("few.parquet"), Policy(), START)
    assert read() == []


def test_answers_are_told_beside_those_that_they_are_nearer_to(seen: scene.Scene) -> None:
    """The rows learned from were answered quite otherwise than those of the test, or alike."""

    def surer(rows: scene.Rows) -> scene.Rows:
        raw = rows.raw * np.float32(0.85)
        raw[:, -1] += np.float32(0.15)
        return replace(rows, raw=raw)

    changed = guards_4._window(surer)(seen)
    far = {name: np.linspace(-2, -1, ROWS) for name in seen.promise.learned.columns}
    for learned, named, other in (
        (summarise(far), "the test", "training"),
        (seen.promise.learned, "training", "the test"),
    ):
        beside = replace(changed, promise=replace(seen.promise, learned=learned))
        said = [one.sentence for one in health.prediction_drift(beside) if one.state == "alarm"]
        assert said
        assert [(named in sentence, other in sentence) for sentence in said] == [(True, False)] * len(said)


def fares(seen: scene.Scene, **facts: Sequence[Any]) -> scene.Scene:
    """Let a service fare otherwise: facts of its measures, in a row."""
    made = [
        Measure(ROWS + 60.0 * place, "one", seen.bundle.digest, [0, 100, *[0] * (len(BOUNDS) - 1)], 200.0)
        for place in range(max(map(len, facts.values())))
    ]
    for name, values in facts.items():
        made = [replace(one, **{name: value}) for one, value in zip(made, values, strict=True)]
    return replace(seen, measures=made)


def states(verdicts: Iterable[Verdict]) -> dict[str, str]:
    return {verdict.subject: verdict.state for verdict in verdicts}


def test_a_leak_is_no_cache_that_fills(seen: scene.Scene) -> None:
    """Memory that rises for a while and stays, or goes up and down, is none; one that rises for ever is."""
    random, count = np.random.default_rng(0), 200
    noise = random.normal(0, 3, count)
    filling = 200 + 80 * np.minimum(np.arange(count) / 40, 1) + noise
    saw = 200 + 40 * (np.arange(count) % 20) / 20 + noise
    leaking = 200 + 0.4 * np.arange(count) + noise
    said = [states(health.memory(fares(seen, memory_mb=held.tolist())))["growth"] for held in (filling, saw, leaking)]
    assert said == ["quiet", "quiet", "alarm"]


def test_memory_of_a_process_that_is_over_does_not_count(seen: scene.Scene) -> None:
    found = fares(seen, memory_mb=[900.0] * 40 + [100.0] * 2, service=["one"] * 40 + ["two"] * 2)
    assert states(health.memory(found)) == {"level": "quiet"}


def test_slow_requests_have_to_be_surely_too_many(seen: scene.Scene) -> None:
    """Two of a hundred may be chance, of ten thousand they are not."""
    few, many = ([0, count, *[0] * (len(BOUNDS) - 2), count // 50] for count in (200, 10_000))
    said = [states(health.latency(fares(seen, seconds=[counts]))) for counts in (few, many)]
    assert said == [{"requests": "quiet"}, {"requests": "alarm"}]


def test_only_packages_of_both_sides_are_compared(seen: scene.Scene) -> None:
    """And a package may have a version for each version of Python."""
    parts = [("Some_Package", "1"), ("some-package", "1.1"), ("windows-only", "1")]
    listed = {"components": [{"name": name, "version": version} for name, version in parts]}
    (seen.bundle.folder / "sbom.json").write_text(json.dumps(listed))
    for version, state in (
        ("1", {"versions": "quiet"}),
        ("1.1", {"versions": "quiet"}),
        ("2", {"some-package": "alarm"}),
    ):
        found = fares(seen, packages=[{"some.package": version, "another": "3"}, None])
        assert states(health.packages(found)) == state


def test_age_costs_what_the_rehearsal_says(seen: scene.Scene) -> None:
    """Younger than the age that cost too much is well; older than all that was rehearsed is unknown."""
    costly = Aging([Age(10, 0.01, -0.1, 0.1), Age(20, 0.3, 0.2, 0.4)], lead=0.4)
    harmless = Aging([Age(10, 0.0, -0.1, 0.1)], lead=0.4)
    said = []
    for aging, days in ((costly, 15), (costly, 25), (harmless, 5), (harmless, 15)):
        clock = replace(seen.clock, made=0.0, now=86_400.0 * days)
        said.append(states(health.staleness(replace(seen, aging=aging, clock=clock)))["model"])
    assert said == ["quiet", "alarm", "quiet", "unknown"]
    assert list(health.staleness(replace(seen, aging=None))) == []


def test_a_service_notes_how_it_fares(seen: scene.Scene) -> None:
    """What it took, what it holds and what it runs with are in its log; what is cut off is left out."""
    counts, settings = Counts(), Policy()
    live = Live(opened(settings), "dev", counts, lambda *_, **__: None)
    counts.took(0.002)
    live.follow(Notes(settings.log))
    for _ in range(100):
        if health.noted(0.0):
            break
        time.sleep(0.1)
    live.stop()
    (segment,) = SERVICES.iterdir()
    segment.write_bytes(segment.read_bytes() + b'{"time": 4')
    (measure,) = health.noted(0.0)
    assert measure.digest == seen.bundle.digest
    assert sum(measure.seconds) == measure.seconds[2] == 1
    assert measure.memory_mb is None or measure.memory_mb > 10
    assert measure.packages is not None
    assert measure.packages["numpy"] == np.__version__
    assert health.noted(time.time() + 60) == []


@pytest.mark.usefixtures("seen")
def test_a_service_tells_its_packages_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors look back on a few days alone, and a service runs for longer."""
    monkeypatch.setattr(serve_live, "MINUTE", 0.0)
    monkeypatch.setattr(serve_live, "DAY", 1.0)
    service = Live(opened(Policy()), "dev", Counts(), lambda *_, **__: None)
    service.follow(Notes(Policy().log))
    end = time.monotonic() + 30
    while sum(one.packages is not None for one in health.noted(0.0)) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    service.stop()
    told = [one.packages is not None for one in health.noted(0.0)]
    assert told[0]
    assert 2 <= sum(told) < len(told)


def exposed() -> dict[str, float]:
    """Return the series that Prometheus reads, but for when they were begun."""
    expose("prod", 5e9)
    found = [
        (sample.name, *sample.labels.values(), sample.value)
        for family in text_string_to_metric_families(watched("prod").read_text(encoding="utf-8"))
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    return {" ".join(map(str, names)): value for *names, value in found}


def test_prometheus_is_told_what_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alarms until they are quiet, of the model that answers; as many series whatever the columns are called."""
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    nothing = exposed()
    assert (nothing["monitor_windows"], nothing["monitor_alarms data drift"]) == (0.0, 0.0)

    def judged(number: int, model: str, *verdicts: Verdict) -> None:
        at = (f"{number}-1", f"{number}-500", 1e9, 2e9, 500, 0, 0)
        add(RECORDS, dump(Record(number, "prod", *at, model, 1, 3e9, list(verdicts))))

    def drift(column: str, state: State, figure: float) -> Verdict:
        return Verdict("data drift", column, state, figure, 4.0, "It drifts.")

    judged(1, "a", drift("x", "alarm", 8.0), drift("y", "alarm", 6.0))
    quality = Verdict("quality", "all answers", "quiet", 0.7, 0.6, "Good.", 0.65, 0.75)
    judged(2, "a", drift("x", "alarm", 12.0), drift("y", "quiet", 1.0), quality)
    old = Verdict("freshness", "answers", "alarm", 25.0, 24.0, "It is old.")
    judged(3, "a", drift("x", "suspected", 5.0), old)
    append("retrain", outcome="begun", attempt="1")
    append("retrain", outcome="refused", attempt="1")
    append("freeze", why="a test")
    found = exposed()
    wanted = {
        "monitor_windows": 3.0,
        "monitor_frozen": 1.0,
        "monitor_looked_timestamp_seconds": 5e9,
        "monitor_alarms data drift": 1.0,
        "monitor_alarms freshness": 1.0,
        "monitor_alarms quality": 0.0,
        "monitor_drift_ratio data drift": 1.25,
        "monitor_quality figure": 0.7,
        "monitor_quality low": 0.65,
        "monitor_quality limit": 0.6,
        "monitor_last_timestamp_seconds answers": 3e9 - 25 * 3600,
        "monitor_retrainings_total refused": 1.0,
        "monitor_retrainings_total deployed": 0.0,
    }
    assert {name: found[name] for name in wanted} == wanted
    judged(4, "b", *(drift(f"another {number}", "alarm", 5.0) for number in range(50)))
    other = exposed()
    assert other["monitor_alarms data drift"] == 50.0, "those of the model before are over"
    assert other.keys() <= found.keys()


def test_promises_are_empty_only_where_they_say_too_much(seen: scene.Scene) -> None:
    """Right nine times in ten: it may say less of it than happens, not more; and the whole has to be right."""
    random, wrong = np.random.default_rng(0), np.random.default_rng(1).random(ROWS) < 0.1
    truth = (random.random(ROWS) < 0.3).astype(float)
    said = np.where(wrong, 1 - truth, truth)
    for low, high, rows, state in ((0.13, 0.75, 0, "quiet"), (0.0, 1.0, 2, "alarm"), (0.4, 1.0, 0, "alarm")):
        sure = np.where(said > 0, high, low)
        raw = np.stack([1 - sure, sure], axis=1).astype(np.float32)
        known = replace(
            seen.known, raw=raw, truth=np.where(np.arange(ROWS) % 4 < rows, random.permutation(truth), truth)
        )
        assert states(quality.calibration(replace(seen, known=known))) == {"all answers": state}
