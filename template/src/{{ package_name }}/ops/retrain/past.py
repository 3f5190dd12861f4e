"""The project's own past, in which a policy can be tried: dated rows that come window by window, at their own time.

The first part of them teaches a first model. The monitors, the policy and the gates that judge are those of production;
only the clock is simulated, and models are fitted in memory. What was fitted and judged once is kept, so another policy
costs little to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from hashlib import sha256
from operator import add
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...features import features
from ..config import Case, Data, Model
from ..contract import Columns, ProjectError
from ..evaluate.metrics import METRICS, Floats, Interval, measures, resampled
from ..monitor import Monitor, Record, windows
from ..monitor.quality import HISTORY
from ..monitor.scene import Clock, Promise, Rows, Scene, groupable, promised
from ..process import missing
from ..release import gates
from ..release.bundle import Bundle, Manifest
from ..release.contract import Contract
from ..release.evidence import Trial
from ..release.policy import Policy
from ..scorer import Packed, Scorer, Signature
from ..train import examples, learned, split, unfitted
from . import production
from .autopilot import CURE
from .policy import Cause, Course, Retraining

FIRST = 0.25
"""Share of the rows that teach the first model."""
FEWEST, MOST, ROWS = 4, 50, 50_000
"""Windows that follow, at least and at most; and rows, of more every second, third, and so on."""
Raw: TypeAlias = NDArray[np.float32]
Places: TypeAlias = NDArray[np.int64]


class Native(Scorer):
    """A model in memory: what the training library answers."""

    def __init__(self, signature: Signature, answer: Callable[[Packed], NDArray[Any]]) -> None:
        """Keep what answers."""
        self.signature, self._answer = signature, answer

    def run(self, packed: Packed) -> Raw:
        """Return what `Scorer.run` does."""
        return np.asarray(self._answer(packed), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Pupil:
    """A model that learned from some rows of the past."""

    bundle: Bundle
    promise: Promise
    trial: Trial
    learned: Places
    answers: Rows
    """To all rows, in their order."""


class World:
    """The past as `policy.Past` wants it, with all that was learned and judged in it."""

    def __init__(
        self, columns: Columns, data: Data, case: Case, model: Model, policy: Policy, settings: Monitor
    ) -> None:
        """Put the rows in the order of their time; raises ProjectError where they have none, or are too few."""
        if data.time is None:
            told = "without the column that says when a row happened there is no past to rehearse"
            raise ProjectError(f"config/data.yaml, time: missing; {told}")
        order = np.argsort(columns[data.time], kind="stable")
        order = order[~missing(columns[data.time][order])]
        self.every = max(1, -(-len(order) // ROWS))
        order = order[:: self.every]
        self.rows, self.signature = examples({name: columns[name][order] for name in data.columns}, data, case, model)
        self.data, self.case, self.model, self.policy, self.settings = data, case, model, policy, settings
        self.times = self.rows.columns[data.time].astype("datetime64[us]").astype(np.int64) / 1e6
        self.start = int(FIRST * len(order))
        self.size = max(settings.window, -(-(len(order) - self.start) // MOST))
        self.windows = (len(order) - self.start) // self.size
        if self.windows < FEWEST:
            told = f"a quarter teaches a model, and {FEWEST} windows of {settings.window} have to follow"
            raise ProjectError(f"{len(order)} rows with a time are too few to rehearse: {told}")
        self.ids = np.array([f"{row:09}" for row in range(len(self.times))], dtype=object)
        self.inputs = {one.name: self.rows.columns[one.name] for one in self.signature.inputs}
        self.pupils: dict[str, Pupil] = {}
        self._records: dict[str, Record] = {}
        self._retrained: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        self._quality: dict[tuple[str, int], Floats] = {}
        self._chosen: dict[tuple[int, float], tuple[production.Window, str]] = {}
        places = np.arange(self.start)
        numbered = self.rows.take(places)
        _, test = split(replace(numbered, columns={**numbered.columns, "": places}), data, model)
        self.first = self.learn(np.setdiff1d(places, test.columns[""]), test.columns[""])

    def end(self, window: int) -> int:
        """Return the row after a window."""
        return self.start + (window + 1) * self.size

    def learn(self, learn: Places, test: Places) -> str:
        """Return the digest of a model that learned from some rows and was tested on others."""
        digest = sha256(learn.tobytes() + b"/" + test.tobytes()).hexdigest()
        if digest in self.pupils:
            return digest
        some, tested = self.rows.take(learn), self.rows.take(test)
        _, answer = learned(some, unfitted(self.model))
        classes, known = len(self.signature.classes), np.unique(some.target)
        scorer = Native(self.signature, partial(_widened, answer, known, classes) if classes else answer)
        raw = scorer.run(self.rows.packed)
        shares = np.bincount(some.target, minlength=classes) / len(some) if classes else some.target.mean()
        constant = np.broadcast_to(shares, (len(test), *np.shape(shares)))
        every = np.ones(len(test), dtype=bool)
        trial = Trial(self.model, tested.columns, tested.target, raw[test], constant, None, every, self.signature.unit)
        by = tuple(name for name in groupable(self.data) if name in self.data.inputs)
        manifest = Manifest("rehearsal", 1, "", "", False, "", "", {}, "", "", "", {})
        bundle = Bundle(digest, manifest, Path(), Contract.model_construct(), scorer, features)
        answers = Rows(self.times, self.ids, self.inputs, self.rows.packed, raw, self.rows.target.astype(np.float64))
        promise = promised(trial, self.signature, some.columns, raw[learn], by)
        self.pupils[digest] = Pupil(bundle, promise, trial, learn, answers)
        return digest

    def judged(self, course: Course, version: int) -> Record:
        """Return what the monitors say of the last window; the truth of its rows is known."""
        window, settings, live = len(course.live) - 1, course.settings, course.live[-1]
        since, end = self.end(course.live.index(live) - 1), self.end(window)
        judging = settings.model_dump(exclude={"retrain", "alerts"})
        name = f"{live} {since} {end} {settings.retrain.when} {judging}"
        if name not in self._records:
            pupil, begin, came, now = self.pupils[live], end - self.size, self.times[since], self.times[end - 1]
            clock = Clock(came, came, came, now, now, end - since, now)
            part = pupil.answers.part
            known = part(max(since, end - HISTORY * self.size), end)
            own, before = settings.model_copy(update={"window": self.size}), part(begin - self.size, begin)
            about = (own, self.policy, self.data, self.model, pupil.bundle, pupil.promise, clock, known)
            scene = Scene(*about, part(begin, end), before if begin > since else None)
            watches = [watch for watch in windows.WATCHES if watch.signal in settings.retrain.when]
            self._records[name] = windows.judged(scene, "prod", window + 1, watches)
        return replace(self._records[name], version=version)

    def learned(self, course: Course, cause: Cause) -> tuple[str, str, tuple[str, ...]]:
        """Learn again as the autopilot does, and let the gates of a release judge."""
        live, end, lost = self.pupils[course.live[-1]], self.end(len(course.live) - 1), cause.signal == "quality"
        name = f"{course.live} {cause.signal} {cause.since} {course.settings.retrain.window}"
        if name in self._retrained:
            return self._retrained[name]
        columns = {name: self.rows.columns[name] for name in self.data.judged}
        asked = {name: values[self.start : end] for name, values in columns.items()}
        digests = np.repeat(np.array(course.live, dtype=object), self.size)
        found = production.Rows(asked, self.times[self.start : end], digests, self._errors(course), 0)
        since = production.began(found, course.live[-1]) if lost else cause.since
        chosen, told = course.settings.retrain.window, "as config/monitor.yaml says"
        if chosen == "auto":
            if (end, since) not in self._chosen:
                older = {name: values[: self.start] for name, values in columns.items()}
                better = production.better(found, since, older, self.data, self.case, self.model)
                self._chosen[end, since] = better
            chosen, told = self._chosen[end, since]
        rows = np.arange(self.start, end)
        rows = rows[found.times >= since] if chosen == "recent" else rows
        cut = len(rows) - production.tested(len(rows), self.model.test_share)
        learn, test = np.append(np.arange(self.start * (chosen == "all")), rows[:cut]), rows[cut:]
        if self.signature.classes and len(np.unique(self.rows.target[learn])) < 2:
            self._retrained[name] = course.live[-1], f"{len(rows):,} rows of one class", ("training",)
            return self._retrained[name]
        digest, unseen = self.learn(learn, test), ~np.isin(test, live.learned)
        fair = unseen if unseen.sum() >= self.policy.slices.rows else np.ones_like(unseen)
        trial = replace(self.pupils[digest].trial, champion=live.answers.raw[test], fair=fair)
        margin = {"quality": self.policy.quality.model_copy(update={"margin": -CURE})} if lost else {}
        policy = self.policy.model_copy(update=margin)
        results = gates.quality(trial, policy), gates.against(trial, policy), gates.slices(trial, self.data, policy)
        refused = tuple(result.rule for result in results if not result.passed)
        self._retrained[name] = digest, f"{len(rows):,} rows {production.FROM[chosen]} ({told})", refused
        return self._retrained[name]

    def quality(self, live: str, window: int) -> Floats:
        """Return the metric of a model's answers to a window, as `resampled` does; "" is the constant answer."""
        if (live, window) not in self._quality:
            part = slice(self.end(window - 1), self.end(window))
            constant = self.pupils[self.first].promise.constant
            shape = (self.size, len(constant)) if self.signature.classes else (self.size,)
            raw = self.pupils[live].answers.raw[part] if live else np.broadcast_to(np.array(constant), shape)
            measure = measures(self.model.task, self.rows.target[part], raw)[self.model.metric]
            drawn = resampled({"": measure}, self.size, self.model.seed + window)
            self._quality[live, window] = drawn[""]
        return self._quality[live, window]

    def gain(self, pairs: Iterable[tuple[int, str, str]]) -> Interval:
        """Return how much better one model was than another in windows, on average; within each, on the same rows."""
        gain = METRICS[self.model.metric].gain
        found = [gain(self.quality(new, window), self.quality(old, window)) for window, new, old in pairs]
        usable = [drawn for drawn in found if np.isfinite(drawn[0])]  # one class alone has no ROC AUC
        return Interval.of(reduce(add, usable) / len(usable)) if usable else Interval(*[float("nan")] * 3)

    def measured(self, course: Course) -> list[Retraining]:
        """Return the retrainings with what each gained until the next model took over."""
        found = []
        for place, one in enumerate(course.retrainings):
            later = [other.window for other in course.retrainings[place + 1 :] if not other.refused]
            stint = range(one.window + 1, (later[0] if later else self.windows - 1) + 1)
            gain = None
            if stint and not one.refused:
                new, old = course.live[one.window + 1], course.live[one.window]
                gain = self.gain((window, new, old) for window in stint)
            found.append(replace(one, gain=gain, rows=len(stint) * self.size))
        return found

    def _errors(self, course: Course) -> Floats:
        parts = [slice(self.end(window - 1), self.end(window)) for window in range(len(course.live))]
        said = [self.pupils[live].answers.raw[part] for live, part in zip(course.live, parts, strict=True)]
        raw = np.concatenate(said)
        target = self.rows.target[self.start : self.start + len(raw)]
        if not self.signature.classes:
            return np.asarray(np.abs(raw - target), dtype=np.float64)
        truth = np.array(self.signature.classes, dtype=object)[target]
        return np.asarray(self.pupils[self.first].bundle.scorer.answers(raw) != truth, dtype=np.float64)


def _widened(answer: Callable[[Packed], NDArray[Any]], known: Places, classes: int, packed: Packed) -> Raw:
    """Return answers of shape (rows, classes) of a model that learned from rows of some classes alone."""
    made = np.zeros((len(packed.numbers), classes), dtype=np.float32)
    made[:, known] = answer(packed)
    return made
