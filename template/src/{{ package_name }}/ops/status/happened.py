"""What happened to the model, what waits for somebody, and what a person may do: told from ledger, events and logs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeAlias

from ..contract import ProjectError
from ..monitor import Record
from ..register.events import frozen
from ..release import ledger
from ..release.deploy import makers
from ..release.ledger import MOVES, Entry, Pointer, history, released, version
from ..release.policy import Policy
from ..release.store import Store

Told: TypeAlias = Mapping[str, Any]
NEAR = 1e-3
"""Seconds between two times that are written differently and mean the same."""


@dataclass(frozen=True)
class Happening:
    """What somebody or something did."""

    time: float
    kind: str
    """A key of `happened` in words.yaml."""
    who: str
    about: Told
    """What the words of its kind are filled with."""
    why: str = ""
    """The reason that was given."""
    told: list[str] = field(default_factory=list)
    """The sentences of the gates or of the monitors."""


@dataclass(frozen=True)
class Step:
    """Something that a person may do."""

    action: str
    """A key of `consequences` in words.yaml."""
    fields: Mapping[str, str]
    """What says it again when it is confirmed; of a move, also how things stood."""
    about: Told
    """What the words of its consequence are filled with; times in seconds since 1970."""


def happened(
    environment: str,
    entries: Sequence[Entry],
    log: Sequence[Told],
    alerted: Sequence[Told],
    records: Sequence[Record],
) -> Iterator[Happening]:
    """Yield what happened to an environment, and every refusal; not in the order of time."""
    for entry in entries:
        facts = {**entry.facts, "version": entry.facts.get("version") or version(entries, entry.facts.get("digest"))}
        refused = [result for result in facts.get("results", ()) if not result["passed"]]
        why = str(facts.get("why") or "")
        if entry.kind == "gates" and refused and [result["rule"] for result in refused] != ["approvals"]:
            about = {**facts, "rules": [result["rule"] for result in refused]}
            told = [_sentence(result) for result in refused]
            yield Happening(time_of(entry.time), "refused", name_of(entry.who), about, why, told)
        elif entry.kind in ("approve", "refuse") or (entry.kind in MOVES and facts["environment"] == environment):
            outcome = f"{entry.kind} {facts['outcome']}" if entry.kind == "decision" else entry.kind
            kind = f"{outcome} shadow" if entry.kind == "experiment" and facts["shadow"] else outcome
            yield Happening(time_of(entry.time), kind, name_of(entry.who), facts, why)
    for event in log:
        kind = f"{event['kind']} {event['outcome']}" if event["kind"] == "retrain" else event["kind"]
        if kind in ("freeze", "thaw", "trigger", "retrain begun", "retrain failed", "retrain overtaken"):
            yield event_of(event)
    for alert in alerted:
        if alert["signal"] == "retrain":  # its event stands above
            continue
        yield Happening(time_of(alert["time"]), "alarm", "", alert, told=_alarmed(alert, records))


def _alarmed(alert: Told, records: Sequence[Record]) -> list[str]:
    """Return the sentences of what an alert is about."""
    looked = time_of(alert["time"])
    records = [one for one in records if one.window == alert["window"] and abs(one.looked - looked) < NEAR]
    verdicts = [one for record in records for one in record.verdicts if one.state == "alarm"]
    about = [one for one in verdicts if one.signal == alert["signal"] and one.subject in alert["subjects"]]
    return [verdict.sentence for verdict in about]


def event_of(event: Told) -> Happening:
    """Return an event of the event log as what happened."""
    kind = f"{event['kind']} {event['outcome']}" if "outcome" in event else event["kind"]
    told = [event[name] for name in ("sentence", "told") if event.get(name)]
    return Happening(time_of(event["time"]), kind, name_of(event["who"]), event, str(event.get("why") or ""), told)


def approvals(store: Store, entries: Sequence[Entry], log: Sequence[Told], policy: Policy) -> Iterator[Happening]:
    """Yield the versions that nothing but people keep out of an environment, and how many have approved of them."""
    judged: dict[tuple[str, int], Happening] = {}
    for event in log:
        if event["kind"] == "retrain" and event["outcome"] == "waits":
            digest = released(entries, event["version"])
            about = {"version": event["version"], "environment": "prod", "digest": digest, "limit": "1"}
            judged["prod", event["version"]] = Happening(time_of(event["time"]), "approval", "", about)
        elif event["kind"] == "retrain":  # it went on, or came to its end
            judged.pop(("prod", event.get("version") or 0), None)
    for entry in entries:
        key = (str(entry.facts.get("environment")), entry.facts.get("version") or 0)
        refused = [result for result in entry.facts.get("results", ()) if not result["passed"]]
        if entry.kind == "gates" and [result["rule"] for result in refused] == ["approvals"]:
            about = {**entry.facts, "limit": refused[0]["limit"].partition(" ")[0]}
            judged[key] = Happening(time_of(entry.time), "approval", name_of(entry.who), about)
        elif entry.kind == "refuse":
            if key in judged and time_of(entry.time) > judged[key].time:
                del judged[key]
        elif entry.kind in MOVES:  # whatever was asked for before, the environment went on
            judged = {at: one for at, one in judged.items() if at[0] != key[0] or one.time > time_of(entry.time)}
    yield from (_counted(asked, store, entries, policy) for asked in judged.values())


def _counted(asked: Happening, store: Store, entries: Sequence[Entry], policy: Policy) -> Happening:
    """Return what waits for people, with how many have approved of it and how many have to."""
    digest, environment = asked.about["digest"], asked.about["environment"]
    wanted = policy.wanted(environment)
    made = makers(store, entries, digest) if wanted and digest else ()
    count, limit = ledger.approvals(entries, digest or "", environment, made), max(int(asked.about["limit"]), wanted)
    about = {**asked.about, "figure": f"{count}", "limit": f"{limit}"}
    return replace(asked, kind="approved" if count >= limit else "approval", about=about)


def experiment(move: Entry | None, entries: Sequence[Entry]) -> Iterator[Happening]:
    """Yield the experiment that is under way, with how many answers it still wants."""
    if move is None or move.kind != "experiment":
        return
    from ..log.truth import compared

    pointer, start = Pointer.of(move), time_of(move.time)
    known = compared((pointer.champion, str(pointer.challenger)), start, pointer.shadow)
    count = int(known.is_challenger.sum()) if pointer.shadow else len(known.ids)
    about = {**move.facts, "known": count, "champion": version(entries, pointer.champion)}
    yield Happening(start, "shadow" if pointer.shadow else "experiment", name_of(move.who), about)


def step(given: Mapping[str, str], environment: str, entries: Sequence[Entry]) -> Step:
    """Return what a person asks to do in an environment; raises ProjectError where that cannot be."""
    action, fields = given.get("action", ""), {"seen": _stamp(entries)}
    about: dict[str, Any] = {"environment": environment}
    if action == "feedback":
        fields = {name: given.get(name, "").strip() for name in ("id", "truth")}
        about = {**fields, **_answer(fields["id"])}
    elif action in ("approve", "refuse"):
        about = {name: given.get(name, "") for name in ("version", "environment")}
        fields |= about
    elif action == "rollback":
        about["now"], about["version"] = pair = before(entries, environment)
        if None in pair:
            raise ProjectError(f"{environment} has used nothing else before; there is nothing to go back to")
    elif action not in ("freeze", "thaw"):
        raise ProjectError("the console knows nothing of this kind to do")
    return Step(action, fields, about)


def before(entries: Sequence[Entry], environment: str) -> tuple[int | None, int | None]:
    """Return the version that an environment uses, and the one to which it would be rolled back."""
    used = [version(entries, digest) for digest in history(entries, environment)]
    return (used[-1] if used else None), (used[-2] if len(used) > 1 else None)


def _stamp(entries: Sequence[Entry]) -> str:
    """Return something that is another one once somebody moved, approved, refused, froze or thawed."""
    said = [entry.hash for entry in entries if entry.kind not in ("bundle", "gates")]
    frost = frozen() or {"id": ""}
    return sha256(f"{said[-1:]} {frost['id']}".encode()).hexdigest()[:16]


def _answer(key: str) -> Told:
    """Return what the service answered under an id, by which version, and when."""
    from ..log.truth import predictions

    log = predictions()
    rows = log.filter(log.id == key, log.variant != "shadow").to_pyarrow().to_pylist()
    if not rows:
        raise ProjectError(
            f"the prediction log has no answer '{key[:100]}'; its id is shown with the answer of the service"
        )
    return {"version": rows[0]["version"], "moment": rows[0]["time"], "said": rows[0]["prediction"]}


def held_back(log: Sequence[Told], alarming: Collection[str]) -> Iterator[Happening]:
    """Yield the cause for a retraining that waits for something, if it was noted last and its signal still alarms."""
    last = next((event for event in reversed(log) if event["kind"] in ("trigger", "retrain")), None)
    if last is None or last["kind"] != "trigger" or last["reason"] in ("answered", "running"):
        return
    if any(last["cause"].startswith(f"{signal} since ") for signal in alarming):
        yield event_of(last)


def _sentence(result: Told) -> str:
    said = str(result["sentence"])
    return f"{said[:1].upper()}{said[1:]}."


def name_of(who: str) -> str:
    """Return somebody's name without the address."""
    return who.partition(" <")[0]


def time_of(written: str) -> float:
    """Return a time of the ledger or of an event, in seconds since 1970."""
    return datetime.fromisoformat(written).timestamp()
