"""Whether what comes in and goes out looks as it did in training, and whether it comes at all."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from pydantic import TypeAdapter, ValidationError

from ..contract import Columns
from ..evaluate.words import sized
from ..log import SEGMENT, SERVICES
from ..release.build import SBOM
from ..scorer import Signature
from ..serve import Measure
from ..serve.metrics import BOUNDS
from . import Aging, Signal, State, Verdict
from .cells import Finding, Reference, Window, counted
from .drift import judge
from .scene import Promise, Rows, Scene, answers

STATES: dict[str, State] = {"quiet": "quiet", "suspected": "suspected", "drift": "alarm"}
SEVERITY = tuple(STATES)
HOUR, DAY = 3600, 86_400
REHEARSED = Path("reports/rehearsal.json")
"""Where `make rehearse` says how fast a model ages."""
SUM = 1e-3
"""How far probabilities may be from a sum of 1."""
SLOW, REQUESTS = 0.01, 200
"""Share of the requests that may take longer than `p99_ms` of config/policy.yaml, and how many a verdict takes."""
MEASURES, LEAK = 32, 0.1
"""Measures of a process that tell a leak, and how much it has to rise, as a share."""
Counts: TypeAlias = Callable[[Reference], tuple[Window | None, Window]]
"""Counts the window before, if there is one, and the window into the cells of a reference."""


def data_drift(scene: Scene) -> Iterator[Verdict]:
    """Judge every input column of the window, together with the window before, against the rows learned from."""
    signature = scene.bundle.scorer.signature
    if scene.rows is not None:
        yield from inputs_drift(scene.promise, signature, _counts(scene.before, scene.rows, lambda r: r.columns))


def prediction_drift(scene: Scene) -> Iterator[Verdict]:
    """Judge the answers: they drift if they look neither as to the rows learned from, nor as to those of the test.

    A model is surer of rows that it learned from than of any others, so that alone would drift for ever.
    """
    signature = scene.bundle.scorer.signature
    if scene.rows is not None:
        counts = _counts(scene.before, scene.rows, lambda rows: answers(rows.raw, signature))
        yield from answers_drift(scene.promise, signature, counts)


def inputs_drift(promise: Promise, signature: Signature, counts: Counts) -> Iterator[Verdict]:
    """Judge inputs by how many rows fall into each cell, wherever these were counted."""
    units = {one.name: one.unit for one in signature.inputs if one.unit}
    findings = judge(promise.inputs, *counts(promise.inputs), units).findings
    yield from (_verdict("data drift", found) for found in findings)


def answers_drift(promise: Promise, signature: Signature, counts: Counts) -> Iterator[Verdict]:
    """Judge answers in the same way."""
    units = {signature.target: signature.unit} if signature.unit else {}
    learned, tested = (
        {found.column: found for found in judge(reference, *counts(reference), units).findings}
        for reference in (promise.learned, promise.tested)
    )
    for name, found in learned.items():
        of_test = tested.get(name, found)
        other = replace(of_test, sentence=re.sub(r"\b(in|from|of) training\b", r"\1 the test", of_test.sentence))
        nearer = min(found, other, key=lambda one: (SEVERITY.index(one.state), one.figure))
        yield _verdict("prediction drift", nearer)


def skew(scene: Scene) -> Iterator[Verdict]:
    """Work the features of the window out again from its inputs: those that the model was given must be the same."""
    if scene.rows is None:
        return
    signature, given = scene.bundle.scorer.signature, scene.rows.packed
    again = scene.bundle.prepare(scene.rows.columns)
    near = scene.policy.parity.tolerance
    same = np.isclose(again.numbers, given.numbers, rtol=near, atol=near, equal_nan=True)
    other = np.concatenate([~same, again.text != given.text], axis=1)
    count, names = int(other.any(axis=1).sum()), [*signature.numbers, *signature.text]
    if not count:
        told = f"The features of {len(scene.rows)} answers, worked out again from their inputs, are the same."
        yield Verdict("skew", "features", "quiet", 0.0, 0.0, told)
    for place in np.flatnonzero(other.any(axis=0)):
        rows = int(other[:, place].sum())
        told = f"{names[place]} was another in {rows} of {len(scene.rows)} answers than its inputs give."
        yield Verdict("skew", names[place], "alarm", float(rows), 0.0, told)


def numbers(scene: Scene) -> Iterator[Verdict]:
    """Look at the answers as numbers: each is one, not all are the same, probabilities are shares of a whole."""
    if scene.rows is None:
        return
    raw, count = scene.rows.raw, len(scene.rows)
    shares = raw.reshape(count, -1)
    bad = ~np.isfinite(shares).all(axis=1)
    if scene.bundle.scorer.signature.classes:
        with np.errstate(invalid="ignore"):
            bad |= (shares < -SUM).any(axis=1) | (np.abs(shares.sum(axis=1) - 1) > SUM)
    what = "probabilities" if scene.bundle.scorer.signature.classes else "numbers"
    told = f"{int(bad.sum())} of {count} answers are no {what}." if bad.any() else f"All {count} answers are {what}."
    yield Verdict("numbers", "answers", "alarm" if bad.any() else "quiet", float(bad.sum()), 0.0, told)
    distinct = len(np.unique(shares, axis=0))
    told = f"All {count} answers are the same." if distinct == 1 else f"{count} answers have {distinct} values."
    yield Verdict("numbers", "variety", "alarm" if distinct == 1 else "quiet", float(distinct), 1.0, told)


def freshness(scene: Scene) -> Iterator[Verdict]:
    """Look at the clock: how long ago was the last answer, the last truth, the training of the model."""
    limits, clock = scene.settings.freshness, scene.clock
    if clock.answered is None or clock.asked is None:
        what = "No answer was given; the model came in"
        yield _aged("answers", what, clock.now - clock.deployed, limits.answer_hours * HOUR)
    else:
        since = max(clock.answered, clock.deployed)  # it may have answered long ago, and be back since
        yield _aged("answers", "The last answer was given", clock.now - since, limits.answer_hours * HOUR)
        what = "No truth was told; the first answer was given" if clock.told is None else "The last truth was told"
        yield _aged("truth", what, clock.now - (clock.told or clock.asked), limits.truth_days * DAY)
    yield _aged("model", "The model was made", clock.now - clock.made, limits.model_days * DAY)


def staleness(scene: Scene) -> Iterator[Verdict]:
    """Compare the model's age with what age costs, as the last rehearsal measured it; nothing without one."""
    if scene.aging is None or not scene.aging.ages:
        return
    margin, age = scene.settings.quality.margin, (scene.clock.now - scene.clock.made) / DAY
    most = sized(scene.model.metric, scene.aging.much(margin), scene.bundle.scorer.signature.unit)
    limit, last = scene.aging.limit(margin), scene.aging.ages[-1].days
    if limit is not None:
        state: State = "alarm" if age > limit.days else "quiet"
        told = f"a rehearsed one had surely lost more than may be lost ({most}) when it was {limit.days:.0f} days older"
    else:
        state = "unknown" if age > last else "quiet"
        told = f"up to {last:.0f} days, the most that was rehearsed, none surely lost more than may be lost ({most})"
    told = f"The model is {_span(age * DAY)} old; {told}."
    yield Verdict("staleness", "model", state, age, limit.days if limit else last, told)


def latency(scene: Scene) -> Iterator[Verdict]:
    """Count the requests of the window's time that took longer than config/policy.yaml allows one in a hundred."""
    from scipy.stats import beta

    if scene.rows is None:
        return
    place = min(bisect_left(BOUNDS, scene.policy.service.p99_ms / 1000), len(BOUNDS) - 1)
    lately = [one.seconds for one in _own(scene) if one.time >= scene.rows.times[0]]
    total, slow = (sum(sum(seconds[start:]) for seconds in lately) for start in (0, place + 1))
    if total < REQUESTS:
        return
    low = float(beta.ppf(1 - scene.settings.confidence, slow, total - slow + 1)) if slow else 0.0
    high = float(beta.ppf(scene.settings.confidence, slow + 1, total - slow)) if slow < total else 1.0
    told = f"{slow} of {total} requests took longer than {1000 * BOUNDS[place]:g} ms; surely at most 1 in 100 may."
    yield Verdict("latency", "requests", "alarm" if low > SLOW else "quiet", slow / total, SLOW, told, low, high)


def memory(scene: Scene) -> Iterator[Verdict]:
    """Look at what the newest service holds, and whether that keeps growing after it has warmed up."""
    from scipy.stats import theilslopes

    own = [one for one in _own(scene) if one.memory_mb is not None]
    held = np.array([one.memory_mb for one in own if one.service == own[-1].service], dtype=np.float64)
    if not len(held):
        return
    most = scene.policy.service.memory_mb
    told = f"The service holds {held[-1]:.0f} MB; at most {most:g} MB is wanted."
    yield Verdict("memory", "level", "alarm" if held[-1] > most else "quiet", float(held[-1]), most, told)
    if len(held) < MEASURES:
        return
    parts = np.array([part.mean() for part in np.array_split(held[len(held) // 4 :], MEASURES * 3 // 4)])
    slope, _, low, _ = theilslopes(parts, alpha=1 - (1 - scene.settings.confidence) / 50)
    rise = float(slope) * (len(parts) - 1) / parts[0]
    state: State = "alarm" if low > 0 and rise > LEAK else "quiet"
    told = f"What the service holds grew by {max(100 * rise, 0):.0f} % in its last {3 * len(held) // 4} measures"
    yield Verdict("memory", "growth", state, rise, LEAK, f"{told}; at most {100 * LEAK:g} % is wanted.")


def packages(scene: Scene) -> Iterator[Verdict]:
    """Compare what is installed where the service runs, or else here, with the parts list of the release."""
    path = scene.bundle.folder / SBOM
    if not path.is_file():
        return
    listed: dict[str, set[str]] = {}
    for part in json.loads(path.read_bytes())["components"]:  # one for each version of Python, where they differ
        listed.setdefault(_plain(part["name"]), set()).add(part["version"])
    said = next((one.packages for one in reversed(scene.measures) if one.packages is not None), None)
    here = said or {package.name: package.version for package in distributions()}
    found = {_plain(name): version for name, version in here.items()}
    both = sorted(listed.keys() & found.keys())  # others are for another system
    others = [name for name in both if found[name] not in listed[name]]
    if both and not others:
        told = f"{len(both)} packages have the versions of the release's parts list."
        yield Verdict("packages", "versions", "quiet", 0.0, 0.0, told)
    for name in others:
        wanted = " or ".join(sorted(listed[name]))
        told = f"{name} is {found[name]} where the service runs, {wanted} in the release's parts list."
        yield Verdict("packages", name, "alarm", 1.0, 0.0, told)


def noted(since: float, folder: Path = SERVICES) -> list[Measure]:
    """Return the measures since a time, seconds since 1970, oldest first; what is no whole line is left out."""
    found, decoder = list[Measure](), msgspec.json.Decoder(Measure)
    for path in sorted(folder.glob("*.jsonl")):
        if SEGMENT.fullmatch(path.name) and path.stat().st_mtime >= since:
            for line in path.read_bytes().splitlines():
                with suppress(msgspec.DecodeError):
                    found.append(decoder.decode(line))
    return sorted((one for one in found if one.time >= since), key=lambda one: one.time)


def aging() -> Aging | None:
    """Read what the last rehearsal found; None where there is none, or another version of the template wrote it."""
    with suppress(OSError, ValidationError):
        return TypeAdapter(Aging).validate_json(REHEARSED.read_bytes())
    return None


def _own(scene: Scene) -> list[Measure]:
    return [one for one in scene.measures if one.digest == scene.bundle.digest]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _aged(subject: str, what: str, age: float, limit: float) -> Verdict:
    state: State = "alarm" if age > limit else "quiet"
    told = f"{what} {_span(age)} ago; at most {_span(limit)} is wanted."
    return Verdict("freshness", subject, state, age / HOUR, limit / HOUR, told)


def _span(seconds: float) -> str:
    """Write a span of time in the unit that suits it."""
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", 60)):
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def _counts(before: Rows | None, now: Rows, columns: Callable[[Rows], Columns]) -> Counts:
    return lambda reference: (
        None if before is None else counted(reference, columns(before)),
        counted(reference, columns(now)),
    )


def _verdict(signal: Signal, found: Finding) -> Verdict:
    return Verdict(signal, found.column, STATES[found.state], found.figure, found.limit, found.sentence)
