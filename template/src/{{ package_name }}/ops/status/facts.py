"""What the records on disk say of the model in an environment, as facts; nothing is asked of anybody.

A record that is missing is a fact too. One that is damaged is told among the troubles, and the rest is still shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from ..config import PACKAGE, Case, Data, Model, load
from ..contract import ProjectError
from ..evaluate.metrics import METRICS, Interval
from ..log import DAY, FEEDBACK, PREDICTIONS
from ..monitor import Monitor, Record, State, Verdict, read
from ..monitor.alerts import alerts
from ..register import events
from ..release.bundle import verified
from ..release.ledger import MOVES, Entry, Pointer, last_move, version
from ..release.policy import Policy
from ..release.store import opened
from .happened import Happening, approvals, event_of, experiment, happened, held_back, name_of, time_of

PAGE = Path("reports/status.html")
LINKED = ("report.html", "card.html", "costs.html", "rehearsal.html", "../docs/using.md")
"""What the page leads to where it is there, as seen from its own folder."""
SEVERITY: tuple[State, ...] = ("alarm", "suspected", "unknown", "quiet")
HOUR = 3600.0
BARS = 62
"""Most parts into which the traffic is divided."""
On: TypeAlias = Literal["nothing", "unasked", "silent", "on"]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Live:
    """What an environment uses, and how it came to it."""

    digest: str
    version: int | None
    since: float
    """Seconds since 1970, like every time here."""
    who: str
    why: str
    promised: Interval | None
    """The metric on the rows that tested it."""


@dataclass(frozen=True)
class Traffic:
    """What the prediction log counts of the versions that the environment used; nobody sees a shadow's answers."""

    answers: int
    known: int
    """Answers whose truth is known."""
    last: float
    step: float
    """Seconds that one of `counts` is about."""
    counts: list[tuple[float, int]]
    """When each part began, and its answers; parts without any are there too."""


@dataclass(frozen=True)
class Point:
    """What one look found, for a plot."""

    window: int
    version: int
    time: float
    """When its last answer was given, or when it was looked at."""
    rows: int
    """Answers of the window; 0 for a look between two windows."""
    said: Verdict


@dataclass(frozen=True)
class Facts:
    """All that the page tells."""

    name: str
    environment: str
    made: float
    case: Case
    metric: str
    unit: str | None
    is_grouped: bool = True
    """Whether config/data.yaml names groups to look at."""
    live: Live | None = None
    on: On = "nothing"
    traffic: Traffic | None = None
    frozen: Happening | None = None
    quality: list[Point] = field(default_factory=list)
    """Oldest first, of every version."""
    drift: list[Point] = field(default_factory=list)
    """The strongest of each window, as a share of its limit."""
    said: list[Verdict] = field(default_factory=list)
    """What each monitor said last of the version that is live, the gravest first."""
    happened: list[Happening] = field(default_factory=list)
    """Newest first."""
    waiting: list[Happening] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def verdicts(self, *signals: str) -> list[Verdict]:
        """Return what was said last of some signals, the gravest first."""
        return [verdict for verdict in self.said if verdict.signal in signals]

    @property
    def measured(self) -> Point | None:
        """The quality of the version that is live, as it was measured last; None as long as nobody could."""
        own = [point for point in self.quality if self.live is not None and point.version == self.live.version]
        return own[-1] if own and own[-1].said.state != "unknown" else None

    def spare(self, said: Verdict) -> float:
        """How far the metric of a group is on the good side of its limit."""
        far = (said.figure or 0.0) - (said.limit or 0.0)
        return far if METRICS[self.metric].higher else -far


def gather(environment: str, now: float) -> Facts:
    """Read every record; `now` is in seconds since 1970. Raises ProjectError only for a mistake in `config/`."""
    case, data, model, policy, settings = load(Case), load(Data), load(Model), load(Policy), load(Monitor)
    troubles: list[str] = []

    def tried(ask: Callable[[], Found]) -> Found | None:
        try:
            return ask()
        except (ProjectError, OSError) as error:
            troubles.append(f"{error}")
            return None

    store = opened(policy)
    entries, records = tried(store.entries) or [], tried(lambda: read(environment)) or []
    log, alerted = tried(events.read) or [], [one for one in tried(alerts) or [] if one["environment"] == environment]
    move = last_move(entries, environment)
    live = None if move is None else _live(move, entries)
    if live is not None:
        digest = live.digest
        promised = tried(lambda: verified(store.folder(digest), digest).metrics.get(model.metric))
        live = replace(live, promised=_interval(promised))
    traffic = tried(lambda: _traffic(_used(entries, environment)))
    freezes = [event for event in log if event["kind"] in ("freeze", "thaw")]
    frozen = event_of(freezes[-1]) if freezes and freezes[-1]["kind"] == "freeze" else None
    past = happened(environment, entries, log, alerted, records)
    asked = tried(lambda: list(approvals(store, entries, log, policy))) or []
    said = [] if live is None else _said([one for one in records if one.model == live.digest])
    held = held_back(log, {one.signal for one in said if one.state == "alarm"})
    waiting = [*asked, *(tried(lambda: list(experiment(move, entries))) or []), *held]
    return Facts(
        name=PACKAGE.name,
        environment=environment,
        made=now,
        case=case,
        metric=model.metric,
        unit=data.columns[data.target].unit,
        is_grouped=bool(data.slices) or any(column.sensitive for column in data.columns.values()),
        live=live,
        on=_on(live, traffic, settings.freshness.answer_hours * HOUR, now),
        traffic=traffic,
        frozen=frozen,
        quality=[point for record in records if (point := _quality(record)) is not None],
        drift=[point for record in records if (point := _drift(record)) is not None],
        said=said,
        happened=sorted(past, key=lambda one: one.time, reverse=True),
        waiting=waiting,
        troubles=troubles,
        links=[link for link in LINKED if (PAGE.parent / link).is_file()],
    )


def _live(move: Entry, entries: Sequence[Entry]) -> Live:
    pointer = Pointer.of(move)
    since = move
    for entry in reversed(entries):
        if entry.kind in MOVES and entry.facts["environment"] == move.facts["environment"]:
            if entry.facts["digest"] != pointer.champion:
                break
            since = entry
    number = version(entries, pointer.champion)
    return Live(
        pointer.champion, number, time_of(since.time), name_of(since.who), str(since.facts.get("why") or ""), None
    )


def _used(entries: Sequence[Entry], environment: str) -> set[str]:
    moves = (entry for entry in entries if entry.kind in MOVES and entry.facts["environment"] == environment)
    return {digest for entry in moves for digest in Pointer.of(entry).digests}


def _on(live: Live | None, traffic: Traffic | None, patience: float, now: float) -> On:
    if live is None:
        return "nothing"
    if traffic is None:
        return "unasked"
    return "silent" if now - traffic.last > patience else "on"


def _traffic(digests: set[str]) -> Traffic | None:
    """Count in the prediction log, which may be long; None where it has no answer of these versions."""
    import ibis

    from ..log.truth import predictions, truths

    if not any(PREDICTIONS.glob("*.*")):
        return None
    engine = ibis.duckdb.connect()
    log = predictions(engine)
    seen = log.filter(log.model.isin(sorted(digests)), log.variant != "shadow")
    (whole,) = seen.aggregate(first=seen.time.min(), last=seen.time.max(), rows=seen.count()).to_pyarrow().to_pylist()
    if not whole["rows"]:
        return None
    span = whole["last"] - whole["first"]
    step = next((size for size in (60.0, 600.0, HOUR, 6 * HOUR, DAY, 7.0 * DAY) if span / size <= BARS), 28.0 * DAY)
    known = seen.semi_join(truths(engine), "id").count().to_pyarrow().as_py() if any(FEEDBACK.glob("*.*")) else 0
    part = (seen.time / step).floor().cast("int64").name("part")
    counted = {row["part"]: row["rows"] for row in _rows(seen.group_by(part).aggregate(rows=seen.count()))}
    counts = [(place * step, counted.get(place, 0)) for place in range(min(counted), max(counted) + 1)]
    return Traffic(whole["rows"], int(known), whole["last"], step, counts)


def _rows(table: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_pyarrow().to_pylist()
    return found


def _quality(record: Record) -> Point | None:
    found = next((verdict for verdict in record.verdicts if verdict.signal == "quality"), None)
    return None if found is None else _point(record, found)


def _drift(record: Record) -> Point | None:
    """Return what drifted most in a window, its figure and limit divided by the limit."""
    kinds = [one for one in record.verdicts if one.signal in ("data drift", "prediction drift") and one.limit]
    shares = [(one.figure / one.limit, one) for one in kinds if one.figure is not None and one.limit]
    if not shares:
        return None
    share, found = min(shares, key=lambda pair: (SEVERITY.index(pair[1].state), -pair[0]))
    return _point(record, Verdict(found.signal, found.subject, found.state, share, 1.0, found.sentence))


def _point(record: Record, found: Verdict) -> Point:
    return Point(record.window, record.version, record.end, record.rows, found)


def _said(records: Sequence[Record]) -> list[Verdict]:
    """Return the newest verdicts of each signal: a look between two windows is not about all of them."""
    newest = {verdict.signal: record for record in records for verdict in record.verdicts}
    found = [verdict for signal, record in newest.items() for verdict in record.verdicts if verdict.signal == signal]
    return sorted(found, key=lambda verdict: SEVERITY.index(verdict.state))


def _interval(found: Mapping[str, float | None] | None) -> Interval | None:
    if found is None or found.get("value") is None:
        return None
    return Interval(*(nan if (part := found.get(name)) is None else part for name in ("value", "low", "high")))


def whole(said: Sequence[Verdict]) -> tuple[str, list[Verdict]]:
    """Return what a whole is by its gravest part, and the parts that are as grave."""
    for state in ("alarm", "suspected"):
        if grave := [one for one in said if one.state == state]:
            return state, grave
    return ("quiet" if any(one.state == "quiet" for one in said) else "unknown"), []
