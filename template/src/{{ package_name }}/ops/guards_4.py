"""The guards of level 4: each monitor, with the fault in the answers that it must see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from . import log
from .contract import Columns, ProjectError
from .evaluate.metrics import METRICS
from .guards import ROWS, Guard, Planted, Scene, UnsuitableError
from .guards_3 import alone, released
from .log.compact import compact
from .monitor import Age, Aging, Monitor, Record, Verdict, health, quality, scene
from .monitor.cells import summarise
from .monitor.health import MEASURES
from .release.policy import Log, Policy
from .retrain import policy
from .retrain.simulate import Caller
from .scorer import Packed, Signature
from .serve import Measure
from .serve.metrics import BOUNDS
from .status.console import refuse_others, refuse_without

DAY, HALF, QUARTER = 86_400.0, ROWS // 2, ROWS // 4
Seen = scene.Scene
Change = Callable[[Seen], Seen]


def _watch(look: Callable[[Seen], Iterable[Verdict]], fault: Change, *names: str) -> Callable[[Scene], Planted]:
    """Let a monitor look at quiet answers, and at the same with a fault; its alarm must name it."""

    def planted(stage: Scene) -> Planted:
        still = quiet(stage)
        changed = fault(still)

        def judge(seen: Seen) -> None:
            alarms = [verdict for verdict in look(seen) if verdict.state == "alarm"]
            if alarms:
                raise ProjectError("; ".join(f"{one.signal}, {one.subject}: {one.sentence}" for one in alarms))

        return Planted(partial(judge, still), partial(judge, changed), names)

    return planted


def quiet(stage: Scene) -> Seen:
    """Return two windows that look like what the release learned from, and answers that are usually right."""
    with alone(stage):
        release = released(stage)
        model = release.store.bundle(release.digest)
    signature = model.scorer.signature
    columns = {one.name: stage.rows[one.name] for one in signature.inputs}
    packed = model.prepare(columns)
    raw = model.scorer.run(packed)
    parts = [_rows(columns, packed, raw, slice(start, start + QUARTER)) for start in (HALF, HALF + QUARTER)]
    answers = summarise(scene.answers(raw[:HALF], signature))
    known = _known(columns, packed, signature)
    by = tuple(name for name in columns if stage.data.columns[name].type in ("text", "boolean"))
    data = stage.data.model_copy(update={"slices": list(by), "columns": _sensitive(stage, by)})
    constant = np.full(len(signature.classes) or 1, 1 / len(signature.classes) if signature.classes else 0.0)
    told: dict[str, Any] = {"learned": answers, "tested": answers, "constant": constant.tolist(), "lead": 0.0}
    inputs = summarise({name: values[:HALF] for name, values in columns.items()})
    promise = scene.Promise(stage.model.metric, by, inputs, leads={}, edges=dict.fromkeys(by, ()), **told)
    clock = scene.Clock(0.0, 0.0, asked=0.0, answered=DAY, told=DAY, truths=ROWS, now=DAY + 60)
    calm = [0, 100, *[0] * (len(BOUNDS) - 1)]
    measures = [Measure(ROWS + 60.0 * minute, "one", model.digest, calm, 200.0) for minute in range(MEASURES)]
    about = (Monitor(), Policy(), data, stage.model, model, promise, clock, known, parts[1], parts[0])
    seen = Seen(*about, measures, Aging([Age(30, 0.0, -0.1, 0.1)], lead=0.5))
    drawn, facts = seen.trial(known.known), METRICS[stage.model.metric]
    lead = float(facts.gain(drawn["model"], drawn["constant"])[0])
    return replace(seen, promise=replace(promise, lead=lead, leads=dict.fromkeys(_values(seen), lead)))


def _sensitive(stage: Scene, by: Iterable[str]) -> dict[str, Any]:
    marked = {name: stage.data.columns[name].model_copy(update={"sensitive": True}) for name in by}
    return {**stage.data.columns, **marked}


def _rows(columns: Columns, packed: Packed, raw: Any, part: slice) -> scene.Rows:
    times = np.arange(part.start, part.stop, dtype=np.float64)
    ids = np.array([f"{row}-1" for row in range(part.start, part.stop)], dtype=object)
    inputs = {name: values[part] for name, values in columns.items()}
    features = Packed(packed.numbers[part], packed.text[part])
    return scene.Rows(times, ids, inputs, features, raw[part], np.full(len(times), np.nan))


def _known(columns: Columns, packed: Packed, signature: Signature) -> scene.Rows:
    """Return rows with a truth that most answers meet."""
    rng, classes = np.random.default_rng(1), len(signature.classes)  # 0 drew the rows: the truth would depend on them
    raw: Any
    if not classes:
        raw = rng.normal(size=ROWS)
        truth = raw + rng.normal(size=ROWS) / 2
    else:
        truth = rng.integers(0, classes, ROWS).astype(np.float64)
        said = np.where(rng.random(ROWS) < 0.8, truth, rng.integers(0, classes, ROWS)).astype(np.int64)
        raw = np.full((ROWS, classes), 0.2 / classes) + 0.8 * np.eye(classes)[said]
        raw += rng.normal(size=raw.shape) / 1e3
        raw /= raw.sum(axis=1, keepdims=True)
    return replace(_rows(columns, packed, raw.astype(np.float32), slice(0, ROWS)), truth=truth)


def _values(seen: Seen) -> list[str]:
    """Return the name of each group that could be judged."""
    signature, columns = seen.bundle.scorer.signature, seen.known.columns
    return [name for column in seen.promise.by for name, _ in scene.groups(column, columns[column], signature, ())]


def _shuffled(seen: Seen, rows: Any) -> Seen:
    """Let some answers be those to others."""
    raw = seen.known.raw.copy()
    raw[rows] = raw[np.random.default_rng(0).permutation(rows)]
    return replace(seen, known=replace(seen.known, raw=raw))


def _one_slice(seen: Seen) -> Seen:
    """Shuffle the answers to the largest group of rows with one value: over all rows it hardly shows."""
    signature, columns = seen.bundle.scorer.signature, seen.known.columns
    groups = [rows for name in seen.promise.by for _, rows in scene.groups(name, columns[name], signature, ())]
    large = [rows for rows in groups if quality.LEAST <= rows.sum() <= ROWS - quality.LEAST]
    if not large:
        raise UnsuitableError("config/data.yaml has no text or boolean input with few values")
    return _shuffled(seen, np.flatnonzero(max(large, key=np.sum)))


def _shifted(seen: Seen) -> Seen:
    """Let each number of an input be another by the same; an input that is no number is always its rarest value."""
    kinds = {one.name: one.type for one in seen.bundle.scorer.signature.inputs}
    found = {name: np.unique(seen.known.columns[name], return_counts=True) for name in seen.promise.inputs.columns}
    numbers = [name for name in found if kinds[name] in ("number", "integer")]
    name = next(iter([*numbers, *(name for name, (values, _) in found.items() if len(values) > 1)]), None)
    if name is None:
        raise UnsuitableError("config/data.yaml has no input that could be unlike those of training, but times")
    (values, counts), edges = found[name], seen.promise.inputs.columns[name].edges

    def moved(rows: scene.Rows) -> scene.Rows:
        own, is_number = rows.columns[name], name in numbers
        other = own + max(np.ceil(edges[-1] - edges[0]), 1) if is_number else np.full_like(own, values[counts.argmin()])
        return replace(rows, columns={**rows.columns, name: other})

    return _window(moved)(seen)


def _window(change: Callable[[scene.Rows], scene.Rows]) -> Change:
    """Plant a fault in both windows."""

    def changed(seen: Seen) -> Seen:
        rows, before = (None if part is None else change(part) for part in (seen.rows, seen.before))
        return replace(seen, rows=rows, before=before)

    return changed


def _stuck(rows: scene.Rows) -> scene.Rows:
    """Let every answer be the highest one."""
    top = rows.raw.reshape(len(rows), -1)[:, -1].argmax()
    return replace(rows, raw=np.broadcast_to(rows.raw[top], rows.raw.shape))


def _holed(rows: scene.Rows) -> scene.Rows:
    raw = rows.raw.copy()
    raw[::10] = np.nan
    return replace(rows, raw=raw)


def _hundredfold(rows: scene.Rows) -> scene.Rows:
    """Log the features in another unit than the model was trained on."""
    if not rows.packed.numbers.shape[1]:
        raise UnsuitableError("features.py returns no number")
    return replace(rows, packed=Packed(100 * np.nan_to_num(rows.packed.numbers) + 1, rows.packed.text))


def _silent(seen: Seen) -> Seen:
    return replace(seen, clock=replace(seen.clock, now=DAY + 3600 * (seen.settings.freshness.answer_hours + 1)))


def _boastful(seen: Seen) -> Seen:
    """Let answers say what does not happen."""
    known = seen.known
    raw = known.raw[:, ::-1] if known.raw.ndim == 2 else known.raw + np.float32(known.truth.std())
    return replace(seen, known=replace(known, raw=np.ascontiguousarray(raw)))


def _fared(**fault: Callable[[int, Measure], Any]) -> Change:
    """Plant a fault in how a service fares, measure by measure."""

    def changed(seen: Seen) -> Seen:
        own = enumerate(seen.measures)
        made = [replace(one, **{name: value(number, one) for name, value in fault.items()}) for number, one in own]
        return replace(seen, measures=made)

    return changed


FLIPPED: Change = partial(_shuffled, rows=np.arange(ROWS))
STUCK = _window(_stuck)
SLOW = _fared(seconds=lambda _, one: one.seconds[::-1])
HEAVY = _fared(memory_mb=lambda _, __: 4000.0)
LEAKING = _fared(memory_mb=lambda number, _: 200.0 + 2 * number)
OTHER = _fared(packages=lambda _, __: {"part": "2"})
STRANGE = Planted(partial(Caller, "http://127.0.0.1:8080"), partial(Caller, "http://192.0.2.1:8080"), ("this machine",))
OLD: Change = partial(replace, aging=Aging([Age(0.5, 0.4, 0.3, 0.5)], lead=0.5))


def _restrained(*names: str, **fault: Any) -> Callable[[Scene], Planted]:
    """Ask for a retraining when quality was lost, and ask the same with something that stands against it."""

    def planted(_: Scene) -> Planted:
        lost = Verdict("quality", "all answers", "alarm", 0.5, 0.6, "The model got worse.")
        old = Verdict("freshness", "answers", "alarm", 25.0, 24.0, "The last answer was given 25 hours ago.")

        def decided(stale: bool = False, **more: Any) -> None:
            said = [lost, old] if stale else [lost]
            record = Record(1, "prod", "1-1", "500-1", 0.0, DAY, ROWS, ROWS, ROWS, "live", 1, DAY, said)
            usual = policy.Situation([record], [], "live", lambda: ROWS, [], 2 * DAY)
            decision = policy.decide(replace(usual, **more), Monitor().retrain)
            if not decision.act:
                raise ProjectError(decision.sentence)

        return Planted(decided, partial(decided, **fault), names)

    return planted


def _begun(day: float) -> dict[str, Any]:
    time = datetime.fromtimestamp(day * DAY, UTC).isoformat()
    return {"kind": "retrain", "attempt": f"{day}", "outcome": "begun", "time": time}


FROST = {**_begun(1), "kind": "freeze", "who": "somebody", "why": "an audit"}
STORM = {"now": 6 * DAY, "events": [_begun(day) for day in (1, 2, 3)]}


def _compacted(stage: Scene) -> Planted:
    """Compact a segment, and read the log; the fault cuts off the end of what was made."""
    old = datetime.now(UTC) - timedelta(hours=3)

    def read(part: str, kept: int | None) -> None:
        with alone(stage):
            (folder := Path(part)).mkdir(exist_ok=True)
            said = log.Line("1-1", 0.0, "live", 1, "champion", None, {}, [], [], 1.0, None)
            (folder / f"{old:{log.BEGUN}}-guard-000001.jsonl").write_bytes(msgspec.json.encode(said) + b"\n")
            compact(Log(), folder)
            (made,) = folder.glob("*.parquet")
            made.write_bytes(made.read_bytes()[:kept])
            log.whole(folder)

    return Planted(partial(read, "whole", None), partial(read, "cut", -10), ("parquet", "move it away"))


def _asked(name: str, **fault: str) -> Callable[[Scene], Planted]:
    """Send the console a form from a page of its own, and the same with something else in its place."""

    def sent(given: str = "known", **other: str) -> None:
        refuse_others("POST", {"host": "127.0.0.1:8090", "origin": "http://127.0.0.1:8090", **other}, 8090)
        refuse_without("known", given)

    return lambda _: Planted(sent, partial(sent, **fault), (name,))


TABLE: tuple[Guard, ...] = (
    Guard("shifted column", "monitor", "inputs unlike those of training", _watch(health.data_drift, _shifted, "drift")),
    Guard("stuck answers", "monitor", "answers unlike the release's", _watch(health.prediction_drift, STUCK, "drift")),
    Guard("flipped concept", "monitor", "answers that are wrong", _watch(quality.quality, FLIPPED, "quality")),
    Guard("one bad slice", "monitor", "answers that are wrong for some", _watch(quality.slices, _one_slice, "slices")),
    Guard("unfair answers", "monitor", "worse answers to one group", _watch(quality.bias, _one_slice, "bias")),
    Guard("another unit", "monitor", "features that differ", _watch(health.skew, _window(_hundredfold), "500 of 500")),
    Guard("no number", "monitor", "answers that are no numbers", _watch(health.numbers, _window(_holed), "50 of 500")),
    Guard("one answer", "monitor", "the same answer to everybody", _watch(health.numbers, STUCK, "the same")),
    Guard("empty promises", "monitor", "odds that do not hold", _watch(quality.calibration, _boastful, "says")),
    Guard("slow service", "monitor", "requests that take too long", _watch(health.latency, SLOW, "3200 of 3200")),
    Guard("full memory", "monitor", "more memory than is allowed", _watch(health.memory, HEAVY, "4000 MB")),
    Guard("leak", "monitor", "memory that keeps growing", _watch(health.memory, LEAKING, "grew by")),
    Guard("other package", "monitor", "other packages than the release's", _watch(health.packages, OTHER, "part is 2")),
    Guard("old model", "monitor", "a model older than its kind may get", _watch(health.staleness, OLD, "older")),
    Guard("cut log", "log", "a compacted file of the log that is not as it was written", _compacted),
    Guard("strange address", "retrain", "simulated traffic for another machine", lambda _: STRANGE),
    Guard("wrong token", "status", "to change something without the token", _asked("not the token", given="")),
    Guard("foreign form", "status", "a form of another site", _asked("a page of", origin="http://192.0.2.1")),
    Guard("foreign name", "status", "the console under another name", _asked("192.0.2.1", host="192.0.2.1:8090")),
    Guard("stopped feed", "monitor", "silence", _watch(health.freshness, _silent, "25 hours ago")),
    Guard("frozen", "retrain", "a retraining while all is frozen", _restrained("an audit", frost=FROST)),
    Guard("stale data", "retrain", "a retraining on stale data", _restrained("the data are stale", stale=True)),
    Guard("too soon", "retrain", "a retraining within the cooldown", _restrained("cooldown", events=[_begun(1.5)])),
    Guard("storm of alarms", "retrain", "more retrainings than the week allows", _restrained("a_week", **STORM)),
    Guard("few truths", "retrain", "a retraining on few rows", _restrained("least_rows", fresh=lambda: 10)),
    Guard("changed code", "retrain", "changed files", _restrained("features.py", changed=["features.py"])),
)
