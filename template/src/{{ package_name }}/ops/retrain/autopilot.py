"""The autopilot: look, decide, learn again, and let the gates judge, for as long as it runs on this machine.

Each step is a process of the project's own command, and what is done stands in the event log and in the ledger. So a
kill at any moment leads to the same end: the next round goes on where the last one was. Nothing is decided here that a
person could not do by hand with the same commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..config import Case, Data, Model, UnfinishedError, load
from ..contract import Columns, ProjectError
from ..log.compact import due
from ..monitor import Monitor, read
from ..monitor.alerts import announce
from ..register import events
from ..register import run as record
from ..release.ledger import Entry, released, word
from ..release.policy import Policy
from ..release.store import Store, opened
from . import Ended, Say, ended_by_signals, only_one, run
from .policy import WORDS, Attempt, Cause, Decision, Situation, decide, unfinished

PROCESS = Path("logs/autopilot.pid")
WAY = ("dev", "staging", "prod")
CURE = 0.1
"""Share of the champion's lead that a version has to gain, where it was made because quality was lost."""


@dataclass(frozen=True)
class Pilot:
    """What a round needs."""

    command: Sequence[str]
    """The project's own."""
    older: Callable[[], Columns]
    """Gives the rows that the sources have, checked."""
    say: Say

    def run(self, *words: str) -> Ended:
        """Run a verb of the project's command to its end."""
        return run([*self.command, *words], self.say)


def autopilot(every: float, once: bool, pilot: Pilot) -> None:
    """Go round every `every` seconds, for ever, or once.

    Raises ProjectError where another autopilot is running, and KeyboardInterrupt when this one is ended, after it ended
    what it had started.
    """
    with only_one(PROCESS, "autopilot"), ended_by_signals():
        said = ""
        while True:
            try:
                told = f"{round_trip(pilot)}{compacted(pilot)}"
            except ProjectError as mistake:
                if once:
                    raise
                told = f"warning: {mistake}"
            if told != said:
                pilot.say(told)
            said = told
            if once:
                return
            time.sleep(every)


def round_trip(pilot: Pilot) -> str:
    """Look, decide, and do what is to be done; return how it stands, in a sentence."""
    looked = run([*pilot.command, "monitor", "--env", WAY[-1]], lambda line: _heard(line, pilot.say))
    if looked.code:
        kind = UnfinishedError if looked.unfinished else ProjectError
        raise kind(f"monitoring: {looked.told or 'killed'}")
    attempt = unfinished(events.read("retrain"))
    if attempt is None:
        decision = _decided()
        if decision.cause is None or not decision.act:
            _note(decision)
            return decision.sentence
        attempt = _begin(decision.cause)
    pilot.say(f"{attempt.begun['sentence']} Retraining.")
    return _go_on(attempt, pilot)


def compacted(pilot: Pilot) -> str:
    """Compact the prediction log where anything is to be done; return a warning where that fails, else nothing."""
    ended = run([*pilot.command, "compact"], lambda _: None) if due(load(Policy).log) else None
    return f"; warning: the log was not compacted ({ended.told or 'killed'})" if ended and ended.code else ""


def _heard(line: str, say: Say) -> None:
    """Pass on what is new to people; all that was seen stands in the records."""
    if line.startswith(("alarm: ", "warning: ")):
        say(line)


def _decided() -> Decision:
    from .production import fresh

    told = events.read("retrain")
    begun = [datetime.fromisoformat(event["time"]).timestamp() for event in told if event["outcome"] == "begun"]
    pointer = opened(load(Policy)).pointer(WAY[-1])
    found = Situation(
        records=read(WAY[-1]),
        events=told,
        live=None if pointer is None else pointer.champion,
        fresh=lambda: fresh(begun[-1] if begun else 0.0),
        changed=record.uncommitted(),
        now=time.time(),
        frost=events.frozen(),
    )
    return decide(found, load(Monitor).retrain)


def _note(decision: Decision) -> None:
    """Write an event about a cause that leads to nothing, once as long as the reason stays."""
    if decision.cause is None:
        return
    about = {"cause": decision.cause.name, "reason": decision.reason}
    if not about.items() <= (events.last("trigger") or {}).items():
        events.append("trigger", **about, sentence=decision.sentence)


def _begin(cause: Cause) -> Attempt:
    about = {"signal": cause.signal, "subjects": cause.subjects, "since": cause.since, "model": cause.model}
    begun = {"attempt": uuid4().hex[:12], "cause": cause.name, "sentence": cause.sentence, **about}
    events.append("retrain", outcome="begun", **begun)
    return Attempt(str(begun["attempt"]), events.last("retrain", attempt=begun["attempt"]) or begun, None, "begun")


class _StopError(Exception):
    """Nothing more can be done in this round; the text says how it stands."""


def _go_on(attempt: Attempt, pilot: Pilot) -> str:
    """Do what is left of a retraining; return how it stands."""
    store = opened(load(Policy))
    try:
        version = attempt.version or _trained(attempt, pilot, store)
        for environment in WAY:
            _enter(environment, replace(attempt, version=version), version, pilot, store)
    except _StopError as stopped:
        return str(stopped)
    return _end(replace(attempt, version=version), "deployed", "", pilot.say)


def _trained(attempt: Attempt, pilot: Pilot, store: Store) -> int:
    """Train, and return the version that was registered."""
    _stop_if_hindered(attempt, pilot, store)
    try:
        ended = _train(attempt, pilot)
    except UnfinishedError:
        raise
    except ProjectError as mistake:
        raise _StopError(_end(attempt, "failed", f"{mistake}", pilot.say)) from None
    if ended.unfinished:
        raise _StopError(f"the pipeline did not finish ({ended.told or 'killed'}); the next round goes on")
    if ended.code:
        raise _StopError(_end(attempt, "failed", ended.told, pilot.say))
    version = _registered()
    events.append("retrain", attempt=attempt.id, outcome="trained", version=version)
    return version


def _enter(environment: str, attempt: Attempt, version: int, pilot: Pilot, store: Store) -> None:
    """Let an environment use the version, if it has not yet and the gates let it."""
    _stop_if_hindered(attempt, pilot, store)
    if _entered(store, attempt, environment):
        return
    if environment == WAY[-1] and load(Monitor).retrain.approve and not _said(store, version):
        raise _StopError(_wait(attempt, environment, pilot.say))
    known = len(store.entries())
    words = "--env", environment, "--version", f"{version}", "--why", attempt.why
    cure = (f"--margin={-CURE:g}",) if attempt.begun["signal"] == "quality" else ()
    ended = pilot.run("deploy", *words, *cure)
    gates = _refusing(store.entries()[known:], environment)
    if ended.code == 0 or _entered(store, attempt, environment):
        return
    if gates == ["approvals"]:
        raise _StopError(_wait(attempt, environment, pilot.say))
    if gates:
        why = f"{environment}: {', '.join(gates)}"
        raise _StopError(_end(attempt, "refused", why, pilot.say, environment=environment, gates=gates, by=ended.told))
    if ended.unfinished:
        why = ended.told or "killed"
        raise _StopError(f"version {version} did not come into {environment} ({why}); the next round goes on")
    raise _StopError(_end(attempt, "failed", f"{environment}: {ended.told}", pilot.say, environment=environment))


def _stop_if_hindered(attempt: Attempt, pilot: Pilot, store: Store) -> None:
    """Stop where all is frozen, or where somebody else moved prod meanwhile."""
    if (frost := events.frozen()) is not None:
        on = f"`make thaw` lets the retraining because of {attempt.begun['cause']} go on"
        raise _StopError(f"{frost['who']} froze what changes by itself ({frost['why']}); {on}")
    pointer = store.settle(WAY[-1])
    if not _entered(store, attempt, WAY[-1]) and (pointer is None or pointer.champion != attempt.begun["model"]):
        raise _StopError(_end(attempt, "overtaken", "", pilot.say))


def _train(attempt: Attempt, pilot: Pilot) -> Ended:
    """Put the rows from production in place, and run the pipeline on them."""
    from . import production

    data, settings = load(Data), load(Monitor).retrain
    with events.locked("pipeline"):
        if not production.holds(attempt.id):
            rows, since = production.known(data), float(attempt.begun["since"])
            if attempt.begun["signal"] == "quality":
                since = production.began(rows, attempt.begun["model"])
            window, told = settings.window, "as config/monitor.yaml says"
            if window == "auto":
                window, told = production.better(rows, since, pilot.older(), data, load(Case), load(Model))
            chosen = rows.since(since) if window == "recent" else rows
            production.write(chosen, window, attempt.id, data)
            left = f"; {rows.left_out} more are not as config/data.yaml allows" if rows.left_out else ""
            pilot.say(f"{len(chosen)} rows from production: {production.FROM[window]} ({told}){left}")
    return pilot.run("pipeline")


def _registered() -> int:
    """Return the version of the run that the pipeline has just made or found again."""
    made = record.of(record.key(record.uncommitted()))
    event = None if made is None else events.last("register", run=made.id)
    if event is None:
        raise ProjectError("the pipeline has registered nothing; the next round runs it again")
    return int(event["version"])


def _entered(store: Store, attempt: Attempt, environment: str) -> bool:
    """Whether the ledger had an environment use the attempt's version since it began, be it for a moment."""
    for entry in reversed(store.entries()):
        if datetime.fromisoformat(entry.time) < datetime.fromisoformat(attempt.begun["time"]):
            return False
        about = (entry.kind, entry.facts.get("environment"), entry.facts.get("version"))
        if about == ("deploy", environment, attempt.version):
            return True
    return False


def _said(store: Store, version: int) -> bool:
    """Whether a person approved of a version or refused it; what a refusal means, the gates know."""
    entries = store.entries()
    return word(entries, released(entries, version) or "", WAY[-1]) is not None


def _refusing(entries: Sequence[Entry], environment: str) -> list[str]:
    """Return the gates that refused an environment, as the ledger has it."""
    for entry in reversed(entries):
        if entry.kind == "gates" and entry.facts["environment"] == environment:
            return [result["rule"] for result in entry.facts["results"] if not result["passed"]]
    return []


def _wait(attempt: Attempt, environment: str, say: Say) -> str:
    """Note once that a person is asked, and tell people."""
    how = f"`make approve VERSION={attempt.version} ENV={environment}`"
    if attempt.last != "waits":
        _tell(attempt, "waits", how, say)
        events.append("retrain", attempt=attempt.id, outcome="waits", version=attempt.version, told=how)
    return f"version {attempt.version} waits for a person who says {how}"


def _end(attempt: Attempt, outcome: str, why: str, say: Say, **about: Any) -> str:
    """Note how a retraining ended, and tell people; where it came to nothing, the rows that it learned from go."""
    from .production import put_back

    if outcome != "deployed":
        with events.locked("pipeline"):
            put_back(attempt.id)
    _tell(attempt, outcome, why, say)
    events.append("retrain", attempt=attempt.id, outcome=outcome, version=attempt.version, told=why, **about)
    return f"the retraining because of {attempt.begun['cause']} is over: {outcome}"


def _tell(attempt: Attempt, outcome: str, why: str, say: Say) -> None:
    """Tell people of an outcome, once."""
    settings = load(Monitor).alerts
    sentence = WORDS[settings.language][outcome].format(version=attempt.version, why=why, cause=attempt.begun["cause"])
    about = {"environment": WAY[-1], "version": attempt.version, "signal": "retrain", "subjects": [outcome]}
    announce([{"id": f"retrain-{attempt.id}-{outcome}", **about, "sentence": sentence}], settings, say)
