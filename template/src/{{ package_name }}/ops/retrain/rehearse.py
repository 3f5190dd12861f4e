"""The rehearsal of the loop in the project's own past, before it goes live: a page, and how fast the model ages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate import plots
from ..evaluate.metrics import METRICS, Interval
from ..evaluate.plots import Axis, Row, across, figure, interval_rows, section, square, up
from ..evaluate.report import as_json
from ..evaluate.words import named, sized
from ..files import atomic
from ..monitor import Age, Aging, Monitor
from ..monitor.health import DAY, REHEARSED
from . import Say
from .past import World
from .policy import Course, Retraining, replay

PAGE = REHEARSED.with_suffix(".html")
AGED = 6
"""Parts of the past, each answered by models of every age."""
PERIODS = 12
"""Points of a course."""
MONTH = 720
"""Hours of cooldown that are tried."""
SHOWN = 12
"""Retrainings that are drawn; a table has all of them."""


def rehearse(world: World, say: Say) -> Path:
    """Let the policy live through the past, then others; write reports/rehearsal.html, and beside it rehearsal.json."""
    tried: dict[str, Course] = {}
    for name, settings in policies(world.settings).items():
        say(f"trying: {name}")
        course = replay(world, settings, say if not tried else lambda _: None)
        tried[name] = replace(course, retrainings=world.measured(course))
    say("measuring how fast a model ages")
    found = ages(world)
    facts = {
        "windows": world.windows,
        "rows": world.size,
        "policies": {name: [asdict(one) for one in course.retrainings] for name, course in tried.items()},
        "ages": [asdict(age) for age in found],
        "lead": lead(world),
    }
    with atomic(PAGE) as page, atomic(REHEARSED) as beside:
        page.write_text(plots.document("Rehearsal", _page(world, tried, found)), encoding="utf-8")
        beside.write_text(as_json(facts), encoding="utf-8")
    return PAGE


def policies(settings: Monitor) -> dict[str, Monitor]:
    """Return the policy of config/monitor.yaml first, then others that differ from it in one line."""
    retrain, quality = settings.retrain, settings.quality
    lines: dict[str, dict[str, Any]] = {"never": {"when": []}}
    if len(retrain.when) > 1:
        lines |= {f"retrain.when: [{signal}]": {"when": [signal]} for signal in retrain.when}
    if retrain.window != "all":
        lines["retrain.window: all"] = {"window": "all"}
    if retrain.cooldown_hours < MONTH:
        lines[f"retrain.cooldown_hours: {MONTH}"] = {"cooldown_hours": MONTH}
    tried: dict[str, dict[str, Any]] = {
        name: {"retrain": retrain.model_copy(update=line)} for name, line in lines.items()
    }
    margin = min(2 * quality.margin, 1.0)
    if "quality" in retrain.when and margin > quality.margin:
        tried[f"quality.margin: {margin:g}"] = {"quality": quality.model_copy(update={"margin": margin})}
    others = {name: settings.model_copy(update=change) for name, change in tried.items()}
    return {"as config/monitor.yaml says": settings, **others}


def lead(world: World) -> float:
    """Return how much better the first model was than a constant answer, over all windows."""
    return world.gain((window, world.first, "") for window in range(world.windows)).value


def ages(world: World) -> list[Age]:
    """Return what a model lost by its age: the gain of a fresh one over it, on the same rows, at each age."""
    cuts = np.linspace(0, world.windows, AGED + 1).astype(int).tolist()
    made = [world.first]
    for cut in cuts[1:-1]:
        rows = np.arange(world.end(cut - 1))
        test = len(rows) - int(world.model.test_share * len(rows))
        made.append(world.learn(rows[:test], rows[test:]))
    found = []
    for age in range(1, AGED):
        pairs = [
            (window, made[part], made[part - age])
            for part in range(age, AGED)
            for window in range(cuts[part], cuts[part + 1])
        ]
        begun = [world.times[world.end(cuts[part] - 1) - 1] for part in range(AGED)]
        days = float(np.mean([begun[part] - begun[part - age] for part in range(age, AGED)])) / DAY
        lost = world.gain(pairs)
        found.append(Age(days, lost.value, lost.low, lost.high))
    return found


def _page(world: World, tried: Mapping[str, Course], found: Sequence[Age]) -> Iterator[str]:
    course, facts = next(iter(tried.values())), METRICS[world.model.metric]
    done = course.retrainings
    helped, refused = [one for one in done if one.helped], [one for one in done if one.refused]
    worse = [one for one in done if one.gain is not None and one.gain.high < 0]
    whole = _against(world, course, tried["never"])
    span = f"{_day(world, world.start)} to {_day(world, world.end(world.windows - 1) - 1)}"
    rows = f"{world.windows * world.size:,} rows in {world.windows} windows of {world.size:,}, {span}"
    title = f"This policy would have begun {_counted(len(done))}; {len(helped) or 'none'} surely helped."
    cards = {
        "retrainings begun": len(done),
        "surely helped": len(helped),
        "false alarms: nothing gained that is sure": len(done) - len(helped),
        "of these refused by a gate": len(refused),
        f"in {facts.label}, beside a model that is never retrained": _said(world, whole, "better", "worse"),
    }
    shown = "".join(f'<div class="card"><b>{escape(f"{big}")}</b>{escape(what)}</div>' for what, big in cards.items())
    yield f'<header><p class="eyebrow">Rehearsal · {escape(world.signature.name)}</p><h1>{escape(title)}</h1>'
    yield f"<p>Lived through once more: {escape(rows)}. The first model learned from the rows before.</p></header>"
    yield f'<section><div class="grid" style="--least: 9.5rem">{shown}</div></section>'
    yield section("How good would the answers have been?", "", _over_time(world, course))
    yield section("What did each retraining gain?", _cost(world, course, worse), _retrainings(world, done), GAINED)
    yield section("Which thresholds would have been better?", _advice(world, tried), _policies(world, tried), TRIED)
    yield section("How fast does a model age?", _aged(world, found), _ages(world, found), OLD)
    yield section("How this was found", HOW + (f" Of the past every {world.every}th row." * (world.every > 1)), "")


GAINED = (
    "How much better the new model was than the one before, on the same rows, until the next one took over: the mean "
    "over the windows, with its 95 % interval. A retraining that a gate refused changed nothing, so it gained nothing."
)
TRIED = (
    "Each differs from config/monitor.yaml in that line alone. Drawn is how much better its answers were on average, "
    "with the 95 % interval; a policy tried on one past may do otherwise in the next."
)
OLD = (
    "How much better a model was that had learned from all rows so far than one that is so many days older, on the "
    "same rows. The monitor `staleness` takes its limit from here."
)
HOW = (
    "The monitors, the policy and the gates for quality and slices are those that run in production; the clock is that "
    "of the rows. The estimator is that of config/model.yaml. The truth of a window is taken to be known when it ends; "
    "where it comes later, all happens later. Latency and memory of a model are not rehearsed. The same data, settings "
    "and code give the same page."
)


def _over_time(world: World, course: Course) -> str:
    """Draw the answers of the policy, and of the first model if it had stayed."""
    parts = np.array_split(np.arange(world.windows), min(PERIODS, world.windows))
    days = [(world.times[world.end(window) - 1] - world.times[world.start]) / DAY for window in range(world.windows)]
    lines: dict[str, list[tuple[float, Interval]]] = {"model": [], "reference": []}
    for part in parts:
        place = float(np.mean([days[window] for window in part]))
        for name, live in (("model", course.live), ("reference", [world.first] * world.windows)):
            values = [Interval.of(world.quality(live[window], window)).value for window in part]
            lines[name].append((place, Interval(float(np.nanmean(values)), 0, 0)))
    x_axis = Axis([0.0, *days])
    y_axis = Axis([one.value for course_ in lines.values() for _, one in course_])
    marks = ""
    for one in course.retrainings:
        if not one.refused:
            x = across(x_axis, days[one.window])
            marks += f'<line class="tick" x1="{x}" x2="{x}" y1="{plots.TOP}" y2="{plots.HEIGHT - plots.BOTTOM}" '
            marks += f'style="stroke: var(--worse)"><title>{escape(_label(world, one))}</title></line>'
    for name, points in lines.items():
        path = " L".join(f"{across(x_axis, place)} {up(y_axis, one.value)}" for place, one in points)
        look = 'stroke="var(--model)" stroke-width="2.5"' if name == "model" else 'class="reference" stroke-width="2"'
        marks += f'<path d="M{path}" fill="none" {look}/>'
    label, begun = named(world.model.metric, world.signature.unit), _day(world, world.start)
    drawn = square(x_axis, y_axis, f"days since {begun}", label, marks, f"{label} over time, with and without")
    return figure(
        drawn, "Solid: with this policy. Dashed: the first model, never retrained. Upright: a model took over."
    )


def _retrainings(world: World, done: Sequence[Retraining]) -> str:
    if not done:
        return ""
    measured = [one for one in done if one.gain is not None and np.isfinite(one.gain.low)]
    drawn = interval_rows([_row(world, one) for one in measured[:SHOWN]], 0.0) if measured else ""
    lines = []
    for one in done:
        end = f"refused: {', '.join(one.refused)}" if one.refused else "took over"
        gain = "" if one.gain is None else _told(world, one.gain)
        cells = (one.cause.sentence, one.told, end, f"{one.rows:,}" if one.gain else "", gain)
        named = f'<th scope="row">{escape(_label(world, one))}</th>'
        lines.append(named + "".join(f"<td>{escape(cell)}</td>" for cell in cells))
    table = plots.table("facts", ["when and why", "what alarmed", "learned from", "end", "on rows", "gain"], lines)
    return f"{drawn}<details><summary>All of them, with their reasons</summary>{table}</details>"


def _row(world: World, one: Retraining) -> Row:
    gain = one.gain or Interval(0, 0, 0)
    look = "model" if one.helped else "worse" if gain.high < 0 else "plain"
    return Row(_label(world, one), gain, _told(world, gain), f"on {one.rows:,} rows", look)


def _cost(world: World, course: Course, worse: Sequence[Retraining]) -> str:
    """Say what the false alarms cost."""
    done = course.retrainings
    vain = [one for one in done if not one.helped]
    if not vain:
        return "There was no false alarm."
    told = [f"{len(vain)} of {len(done)} were false alarms, each a training for nothing"]
    if kept := sum(bool(one.refused) for one in vain):
        told.append(f"{kept} of these did no harm, since the gates refused what came of them")
    rows = sum(one.rows for one in worse)
    lost = sum(one.rows * abs(one.gain.value) for one in worse if one.gain) / max(rows, 1)
    by = sized(world.model.metric, lost, world.signature.unit)
    told.append(f"the answers to {rows:,} rows surely became worse, by {by}" if worse else "none did harm surely")
    if course.held:
        told.append(f"{_times(course.held)} cooldown or budget held back a cause")
    return f"{'; '.join(told)}."


def _against(world: World, course: Course, base: Course) -> Interval:
    return world.gain(zip(range(world.windows), course.live, base.live, strict=True))


def _policies(world: World, tried: Mapping[str, Course]) -> str:
    base, rows = next(iter(tried.values())), []
    for name, course in tried.items():
        gain = _against(world, course, base)
        done = course.retrainings
        helped, refused = sum(one.helped for one in done), sum(bool(one.refused) for one in done)
        note = f"{_counted(len(done))}: {helped} helped, {refused} refused" if done else "no retraining"
        text = "what is compared with" if course is base else _told(world, gain)
        rows.append(Row(name, gain, text, note, "model" if gain.low > 0 else "worse" if gain.high < 0 else "plain"))
    return interval_rows(rows, 0.0)


def _advice(world: World, tried: Mapping[str, Course]) -> str:
    """Name the policy that was surely better, or else one that retrained less and surely lost little."""
    (_, base), *others = tried.items()
    was, margin = len(base.retrainings), world.policy.quality.margin
    gains = {name: _against(world, course, base) for name, course in others}
    better = [name for name, gain in gains.items() if gain.low > 0]
    count = {name: len(course.retrainings) for name, course in others}
    near = [name for name, gain in gains.items() if gain.low > -margin * lead(world) and gain.high >= 0]
    spared = [name for name in near if count[name] < was]
    if not better + spared:
        return "None of those tried was surely better, or about as good with fewer retrainings."
    best = max(better, key=lambda name: gains[name].value) if better else min(spared, key=lambda name: count[name])
    how = "surely better answers" if better else "answers about as good"
    said = f"“{best}” would have given {how}: {_told(world, gains[best])}"
    return f"{said}, with {_counted(count[best])} instead of {was}."


def _aged(world: World, found: Sequence[Age]) -> str:
    aging, margin = Aging(list(found), lead(world)), world.settings.quality.margin
    most = sized(world.model.metric, aging.much(margin), world.signature.unit)
    if (limit := aging.limit(margin)) is not None:
        return f"A model that is {limit.days:.0f} days older has surely lost more than may be lost ({most})."
    surely = next((age for age in found if age.low is not None and age.low > 0), None)
    told = f"Up to {found[-1].days:.0f} days no age surely costs more than may be lost ({most})"
    return f"{told}; from {surely.days:.0f} days on it surely costs something." if surely else f"{told}, nor anything."


def _ages(world: World, found: Sequence[Age]) -> str:
    rows = [
        Row(f"{age.days:.0f} days older", lost, _told(world, lost), "", "worse" if lost.low > 0 else "plain")
        for age in found
        for lost in [Interval(age.lost, age.low or 0.0, age.high or 0.0)]
    ]
    return interval_rows(rows, 0.0)


def _label(world: World, one: Retraining) -> str:
    return f"{_day(world, world.end(one.window) - 1)}: {one.cause.signal}"


def _day(world: World, row: int) -> str:
    when = datetime.fromtimestamp(float(world.times[row]), UTC)
    return f"{when.day} {when:%B %Y}"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _told(world: World, gain: Interval, span: bool = True) -> str:
    return METRICS[world.model.metric].gains.write(gain, world.signature.unit, span)


def _said(world: World, gain: Interval, better: str, worse: str) -> str:
    word = better if gain.low > 0 else worse if gain.high < 0 else ""
    return f"{_told(world, replace(gain, value=abs(gain.value)), span=False)} {word}" if word else "no difference"


def _counted(count: int) -> str:
    return "1 retraining" if count == 1 else f"{count or 'no'} retrainings"
