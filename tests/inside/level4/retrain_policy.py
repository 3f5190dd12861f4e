"""The decision to retrain, on a clock that the test holds: which alarm counts, and what stands against acting on it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flight_delays.ops.monitor import Record, Retrain, Verdict
from flight_delays.ops.register import events
from flight_delays.ops.retrain.autopilot import _note
from flight_delays.ops.retrain.policy import DAY, ENDS, HOUR, WORDS, Decision, Situation, decide, unfinished

START = datetime(2026, 3, 2, tzinfo=UTC).timestamp()


def said(signal: Any, state: Any = "alarm", subject: str = "all answers") -> Verdict:
    return Verdict(signal, subject, state, 0.6, 0.65, f"{signal} of {subject} is {state}.")


def window(number: int, *verdicts: Verdict, model: str = "m3", version: int = 3) -> Record:
    begin = START + number * HOUR
    ids = {"first": f"{number}-1", "last": f"{number}-500", "rows": 500, "known": 400, "truths": 400 * number}
    when = {"begin": begin, "end": begin + HOUR, "looked": begin + HOUR}
    return Record(
        window=number, environment="prod", model=model, version=version, verdicts=list(verdicts), **ids, **when
    )


def event(kind: str, time: float, **about: Any) -> dict[str, Any]:
    return {"kind": kind, "time": datetime.fromtimestamp(time, UTC).isoformat(), "who": "Zoë <z@localhost>", **about}


def begun(time: float, attempt: str = "a", **about: Any) -> dict[str, Any]:
    return event("retrain", time, attempt=attempt, outcome="begun", **about)


def decided(records: list[Record], events: list[dict[str, Any]] | None = None, **more: Any) -> Decision:
    settings = Retrain(**{name: more.pop(name) for name in list(more) if name in Retrain.model_fields})
    usual: dict[str, Any] = {"live": "m3", "fresh": lambda: 1000, "changed": [], "now": START + 100 * DAY}
    return decide(Situation(records=records, events=events or [], **{**usual, **more}), settings)


def test_an_alarm_is_a_cause_and_its_first_window_says_since_when() -> None:
    quiet, alarm = said("data drift", "quiet", "temp"), said("data drift", "alarm", "temp")
    records = [window(1, quiet), window(2, said("data drift", "suspected", "temp")), window(3, alarm), window(4, alarm)]
    decision = decided(records)
    assert decision.act
    assert decision.cause is not None
    assert (decision.cause.since, decision.cause.window) == (START + 2 * HOUR, 2)
    assert decision.cause.name == "data drift since window 2 of version 3"
    assert "temp is alarm" in decision.sentence


@pytest.mark.parametrize("state", ["quiet", "suspected", "unknown"])
def test_only_an_alarm_is_a_cause(state: str) -> None:
    decision = decided([window(1, said("quality", state), said("data drift", state, "temp"))])
    assert (decision.act, decision.reason, decision.cause) == (False, "quiet", None)


def test_what_when_does_not_name_is_no_cause() -> None:
    assert decided([window(1, said("skew"))]).reason == "quiet"
    assert decided([window(1, said("data drift"))], when=["quality"]).reason == "quiet"


def test_quality_from_truth_goes_first() -> None:
    decision = decided([window(1, said("data drift", subject="temp"), said("quality"))])
    assert decision.cause is not None
    assert decision.cause.signal == "quality"


def test_what_was_said_of_another_version_is_no_cause() -> None:
    assert decided([window(1, said("quality"), model="m2", version=2)]).reason == "quiet"
    assert decided([window(1, said("quality"))], live=None).reason == "quiet"


def test_a_look_between_two_windows_leaves_the_drift_as_it_was() -> None:
    between = window(1, said("quality", "quiet"))
    decision = decided([window(1, said("data drift", subject="temp")), between])
    assert decision.cause is not None
    assert decision.cause.signal == "data drift"


def test_a_freeze_lets_nothing_happen() -> None:
    freeze = event("freeze", START, why="an audit")
    decision = decided([window(1, said("quality"))], frost=freeze)
    assert (decision.act, decision.reason) == (False, "frozen")
    assert decision.cause is not None
    assert "Zoë" in decision.sentence
    assert "an audit" in decision.sentence
    assert "make thaw" in decision.sentence


@pytest.mark.parametrize("subject", ["answers", "truth"])
def test_stale_data_teach_nothing(subject: str) -> None:
    decision = decided([window(1, said("quality"), said("freshness", "alarm", subject))])
    assert (decision.act, decision.reason) == (False, "stale")
    assert "the data are stale" in decision.sentence


def test_an_old_model_is_no_reason_against_another() -> None:
    assert decided([window(1, said("quality"), said("freshness", "alarm", "model"))]).act
    assert decided([window(1, said("freshness", "alarm", "model"))], when=["freshness"]).act


def test_the_cooldown() -> None:
    alarm, last = [window(1, said("quality"))], [begun(START)]
    early = decided(alarm, last, now=START + 23.9 * HOUR)
    assert (early.act, early.reason) == (False, "cooldown")
    assert "2026-03-03 00:00 UTC" in early.sentence
    assert decided(alarm, last, now=START + 24 * HOUR).act


def test_the_budget_of_a_week() -> None:
    alarm, three = [window(1, said("quality"))], [begun(START + day * DAY, f"{day}") for day in (0, 1, 2)]
    over = decided(alarm, three, now=START + 6 * DAY)
    assert (over.act, over.reason) == (False, "budget")
    assert "3 of 3" in over.sentence
    assert decided(alarm, three, now=START + 7.01 * DAY).act
    assert not decided(alarm, a_week=0).act


def test_few_rows_of_truth_teach_too_little() -> None:
    few = decided([window(1, said("quality"))], fresh=lambda: 199)
    assert (few.act, few.reason) == (False, "few rows")
    assert "199" in few.sentence
    assert decided([window(1, said("quality"))], fresh=lambda: 200).act


def test_changed_files_are_told_before_anything_is_trained() -> None:
    decision = decided([window(1, said("quality"))], changed=["src/flight_delays/features.py"])
    assert (decision.act, decision.reason) == (False, "changed files")
    assert "features.py" in decision.sentence


def test_a_drift_that_a_version_learned_from_is_no_cause_until_it_was_quiet() -> None:
    drift = said("data drift", "alarm", "temp")
    old, new = window(2, drift), window(9, drift, model="m4", version=4)
    told = [
        begun(START + 3 * HOUR, signal="data drift", subjects=["temp"]),
        event("retrain", START + 4 * HOUR, attempt="a", outcome="deployed", version=4),
    ]
    decision = decided([old, new], told, live="m4")
    assert (decision.act, decision.reason) == (False, "answered")
    assert "Version 4 has learned from it" in decision.sentence
    quiet = window(5, said("data drift", "quiet", "temp"), model="m4", version=4)
    assert decided([old, quiet, new], told, live="m4").act
    other = window(9, drift, said("data drift", "alarm", "humid"), model="m4", version=4)
    assert decided([old, other], told, live="m4").act
    worse = window(9, drift, said("quality"), model="m4", version=4)
    assert decided([old, worse], told, live="m4").act
    refused = [told[0], {**told[1], "outcome": "refused"}]
    assert decided([old], refused).act


def test_a_storm_of_alarms_keeps_to_the_budget() -> None:
    """Four weeks of alarms from every monitor in every hour; what is retrained each time is refused."""
    events: list[dict[str, Any]] = []
    records, reasons = [], []
    for hour in range(4 * 7 * 24):
        records.append(window(hour, said("quality"), said("data drift", subject=f"column {hour % 7}")))
        decision = decided(records[-50:], events, now=START + hour * HOUR)
        reasons.append(decision.reason)
        if decision.act:
            events.append(begun(START + hour * HOUR, f"{hour}"))
    times = [datetime.fromisoformat(one["time"]).timestamp() for one in events]
    assert len(times) == 12
    assert max(sum(time <= other < time + 7 * DAY for other in times) for time in times) == 3
    assert min(later - time for time, later in pairwise(times)) >= 24 * HOUR
    assert set(reasons) == {"act", "cooldown", "budget"}


def told(*outcomes: str) -> list[dict[str, Any]]:
    """Return the events of attempts, each begun by its first outcome."""
    events: list[dict[str, Any]] = []
    for place, outcome in enumerate(outcomes):
        attempt = f"{outcomes[: place + 1].count('begun')}"
        version = {} if outcome == "begun" else {"version": 4}
        events.append(event("retrain", START + place, attempt=attempt, outcome=outcome, cause="quality", **version))
    return events


@pytest.mark.parametrize("end", ["deployed", "refused", "failed", "overtaken"])
def test_what_has_an_end_is_not_gone_on_with(end: str) -> None:
    assert unfinished(told("begun", "trained", end)) is None
    assert unfinished([]) is None


def test_what_has_no_end_is_gone_on_with_where_it_was() -> None:
    begun_only = unfinished(told("begun", "trained", "refused", "begun"))
    assert begun_only is not None
    assert (begun_only.id, begun_only.version, begun_only.last) == ("2", None, "begun")
    waiting = unfinished(told("begun", "trained", "waits"))
    assert waiting is not None
    assert (waiting.id, waiting.version, waiting.last) == ("1", 4, "waits")
    assert waiting.why == "retrained because of quality"


def test_what_stands_against_it_is_noted_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again and again as long as it stays."""
    monkeypatch.chdir(tmp_path)
    cause = decided([window(1, said("quality"))]).cause
    for reason in ("cooldown", "cooldown", "frozen", "frozen", "cooldown"):
        _note(Decision(reason, cause, f"It is {reason}."))
    assert [one["reason"] for one in events.read("trigger")] == ["cooldown", "frozen", "cooldown"]


def test_every_outcome_has_words_in_both_languages() -> None:
    assert set(WORDS["en"]) == set(WORDS["fr"]) == {*ENDS, "waits"}
