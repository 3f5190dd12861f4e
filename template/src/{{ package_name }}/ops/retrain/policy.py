"""The decision to retrain: a pure function of what the monitors said, of what was done before, and of the time.

It answers with a sentence either way. Only an alarm is a cause; what is merely suspected is none. What a policy would
have done in a past is found by asking it again at the end of each window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

from ..evaluate.metrics import Interval
from ..monitor import Monitor, Record, Retrain, Signal, Verdict

DAY, HOUR = 86_400.0, 3600.0
Event: TypeAlias = Mapping[str, Any]
Reason: TypeAlias = Literal[
    "quiet", "answered", "frozen", "stale", "cooldown", "budget", "few rows", "changed files", "act"
]
WORDS = {
    "en": {
        "deployed": "Version {version} is in prod, retrained because of {cause}.",
        "refused": "Version {version}, retrained because of {cause}, was refused ({why}); the champion stays.",
        "failed": "The retraining because of {cause} failed ({why}); the champion stays.",
        "overtaken": "The retraining because of {cause} is given up: somebody moved prod meanwhile.",
        "waits": "Version {version}, retrained because of {cause}, waits for a person: {why}.",
    },
    "fr": {
        "deployed": "La version {version}, réentraînée ({cause}), est en production.",
        "refused": "La version {version}, réentraînée ({cause}), est refusée ({why}) ; le champion reste.",
        "failed": "Le réentraînement ({cause}) a échoué ({why}) ; le champion reste.",
        "overtaken": "Le réentraînement ({cause}) est abandonné : la production a changé entre-temps.",
        "waits": "La version {version}, réentraînée ({cause}), attend une personne : {why}.",
    },
}
"""How people are told of an outcome."""
ENDS = ("deployed", "refused", "failed", "overtaken")
"""Outcomes after which nothing is left to do."""
FEEDS = ("answers", "truth")
"""Subjects of the freshness monitor without which there is nothing new to learn from; the model's age is none."""


@dataclass(frozen=True)
class Cause:
    """Why the model should learn again."""

    signal: Signal
    subjects: tuple[str, ...]
    since: float
    """When the first window began in which it showed, seconds since 1970."""
    window: int
    """The first window in which it showed."""
    model: str
    """Digest of the bundle that answered."""
    version: int
    sentence: str

    @property
    def name(self) -> str:
        """What it is called in events: one episode of one signal has one name."""
        return f"{self.signal} since window {self.window} of version {self.version}"


@dataclass(frozen=True)
class Decision:
    """Whether to retrain, and why."""

    reason: Reason
    cause: Cause | None
    sentence: str

    @property
    def act(self) -> bool:
        """Whether to retrain."""
        return self.reason == "act"


@dataclass(frozen=True)
class Situation:
    """What a decision is made of, beside the settings."""

    records: Sequence[Record]
    """What the monitors said, oldest first."""
    events: Sequence[Event]
    """Of the kind retrain, oldest first."""
    live: str | None
    """Digest of the bundle that prod uses."""
    fresh: Callable[[], int]
    """Counts the answers whose truth has come in since the last retraining began; asked last, the log may be long."""
    changed: Sequence[str]
    """Files that are not as the commit has them: what is trained from them may not be promoted."""
    now: float
    """Seconds since 1970."""
    frost: Event | None = None
    """The event that froze all that changes by itself, as long as it is not thawed."""


@dataclass(frozen=True)
class Attempt:
    """One retraining, as its events tell it."""

    id: str
    begun: Event
    """Its first event."""
    version: int | None
    last: str
    """The outcome that was told last."""

    @property
    def why(self) -> str:
        """The reason, for the ledger."""
        return f"retrained because of {self.begun['cause']}"


def decide(found: Situation, settings: Retrain) -> Decision:
    """Return whether to retrain. Quality measured on truth is asked first, then the signals in the order of `when`."""
    seen = [record for record in found.records if record.model == found.live]
    if not seen:
        return Decision("quiet", None, "nothing that the version in prod answered has been judged yet")
    causes = [cause for signal in settings.when if (cause := _cause(seen, found.records, signal)) is not None]
    if not causes:
        return Decision("quiet", None, f"window {seen[-1].window}: no alarm that asks for a retraining")
    cause = next((one for one in causes if answered(one, found.events) is None), None)
    if cause is None:
        told = (
            f"Version {answered(causes[0], found.events)} has learned from it; it is a cause again once it was quiet."
        )
        return Decision("answered", causes[0], f"{causes[0].sentence} {told}")
    for reason, sentence in _obstacles(found, seen[-1], settings):
        return Decision(reason, cause, f"{cause.sentence} No retraining: {sentence}.")
    return Decision("act", cause, f"{cause.sentence} The model learns again, because of {cause.name}.")


def unfinished(events: Sequence[Event]) -> Attempt | None:
    """Return the retraining that was begun last, of the events of this kind, if it has not come to its end."""
    if not events or events[-1]["outcome"] in ENDS:
        return None
    own = [event for event in events if event["attempt"] == events[-1]["attempt"]]
    version = next((int(event["version"]) for event in own if event.get("version") is not None), None)
    return Attempt(own[0]["attempt"], own[0], version, own[-1]["outcome"])


def answered(cause: Cause, events: Sequence[Event]) -> int | None:
    """Return the version that was deployed because of a drift that is still there; a loss of quality is always new."""
    if cause.signal == "quality":
        return None
    begun = {event["attempt"]: event for event in events if event.get("outcome") == "begun"}
    for event in reversed(events):
        if event.get("outcome") == "deployed" and _time(event) >= cause.since:
            first = begun.get(event["attempt"], {})
            if first.get("signal") == cause.signal and set(cause.subjects) <= set(first.get("subjects", ())):
                return int(event["version"])
    return None


def _cause(seen: Sequence[Record], records: Sequence[Record], signal: Signal) -> Cause | None:
    """Return what a signal alarms about at last; it began where it, be it suspected, showed first, in whatever version.

    A record may be without the signal: between two windows only some of them are looked at.
    """
    latest = next((record for record in reversed(seen) if _said(record, signal)), None)
    alarms = [] if latest is None else _said(latest, signal, "alarm")
    if latest is None or not alarms:
        return None
    subjects, first = tuple(verdict.subject for verdict in alarms), latest
    for record in reversed(records[: records.index(latest)]):
        if _said(record, signal):
            if not any(verdict.subject in subjects for verdict in _said(record, signal, "alarm", "suspected")):
                break
            first = record
    return Cause(signal, subjects, first.begin, first.window, latest.model, latest.version, alarms[0].sentence)


def _said(record: Record, signal: Signal, *states: str) -> list[Verdict]:
    return [said for said in record.verdicts if said.signal == signal and (not states or said.state in states)]


def _obstacles(found: Situation, latest: Record, settings: Retrain) -> Iterator[tuple[Reason, str]]:
    """Yield what stands against a retraining, the first of which is told."""
    if (frost := found.frost) is not None:
        told = f"{frost['who']} froze what changes by itself on {_day(_time(frost))} ({frost['why']})"
        yield "frozen", f"{told}; `make thaw` lets it go on"
    for verdict in _said(latest, "freshness", "alarm"):
        if verdict.subject in FEEDS:
            yield "stale", f"the data are stale ({verdict.sentence.rstrip('.')})"
    begun = [_time(event) for event in found.events if event.get("outcome") == "begun"]
    if begun and found.now < (free := begun[-1] + settings.cooldown_hours * HOUR):
        yield "cooldown", f"the last one began on {_day(begun[-1])}, the next may on {_day(free)} (cooldown_hours)"
    week = [time for time in begun if time > found.now - 7 * DAY]
    if len(week) >= settings.a_week:
        yield "budget", f"{len(week)} of {settings.a_week} have begun within a week (a_week)"
    if (fresh := found.fresh()) < settings.least_rows:
        told = f"the truth of {fresh} answers has come in since the last one, {settings.least_rows} are wanted"
        yield "few rows", f"{told} (least_rows)"
    if found.changed:
        told = f"{', '.join(found.changed)} differ from the last commit"
        yield "changed files", f"{told}, and what is trained from them cannot be promoted; commit them"


def _time(event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _day(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Retraining:
    """One retraining in a past."""

    window: int
    """The window, from 0, after which it began."""
    cause: Cause
    told: str
    """The rows that it learned from, in words."""
    refused: tuple[str, ...]
    """The gates that refused it."""
    gain: Interval | None = None
    """What its model gained over the one before, on the rows until the next one took over; None without such rows."""
    rows: int = 0

    @property
    def helped(self) -> bool:
        """Whether it surely gained something; else it was a false alarm."""
        return self.gain is not None and self.gain.low > 0


@dataclass
class Course:
    """What a policy would have done in a past."""

    settings: Monitor
    live: list[str] = field(default_factory=list)
    """Digest of the model that answered each window."""
    retrainings: list[Retraining] = field(default_factory=list)
    held: int = 0
    """Windows in which a cause led to nothing because of cooldown or budget."""


class Past(Protocol):
    """Windows that were answered, and what could be learned from them."""

    windows: int
    size: int
    """Rows of a window; the truth of each is known at its end."""
    first: str
    """Digest of the model that was there before."""

    def judged(self, course: Course, version: int) -> Record:
        """Return what the monitors say of the last window."""

    def learned(self, course: Course, cause: Cause) -> tuple[str, str, tuple[str, ...]]:
        """Return the digest of a new model, what it learned from, and the gates that refuse it."""


def replay(past: Past, settings: Monitor, say: Callable[[str], None]) -> Course:
    """Ask a policy at the end of every window of a past, and do what it says."""
    course, records, events = Course(settings), list[Record](), list[dict[str, Any]]()
    live, version, begun = past.first, 1, -1
    for window in range(past.windows):
        course.live.append(live)
        records.append(past.judged(course, version))
        now, fresh = records[-1].end, partial(int, (window - begun) * past.size)
        decision = decide(Situation(records, events, live, fresh, [], now), settings.retrain)
        course.held += decision.reason in ("cooldown", "budget")
        if decision.cause is None or not decision.act:
            continue
        begun, cause = window, decision.cause
        digest, told, refused = past.learned(course, cause)
        about = {"attempt": f"{window}", "time": datetime.fromtimestamp(now, UTC).isoformat()}
        events.append({**about, "outcome": "begun", "signal": cause.signal, "subjects": cause.subjects})
        if not refused:
            live, version = digest, version + 1
        events.append({**about, "outcome": "refused" if refused else "deployed", "version": version})
        course.retrainings.append(Retraining(window, cause, told, refused))
        end = f"refused by {', '.join(refused)}" if refused else f"version {version}"
        say(f"window {window + 1} of {past.windows}: {cause.signal}, {end}")
    return course
