"""The report: one HTML page that needs nothing else, with the answer first, and the same numbers as JSON beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ..files import atomic
from . import LESSON_ROWS, Evaluation, plots
from .metrics import METRICS, Interval
from .plots import Row, section
from .words import answers, cautions, gained, headline, label, lesson, listed, period, rounded, target, written

KEPT = ' class="kept"'


@dataclass(frozen=True)
class Addition:
    """What a higher level adds to the report."""

    shown: str
    """A section of the page."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What metrics.json gets; nothing that two runs on the same inputs would find different."""


def write(evaluation: Evaluation, path: Path, more: Sequence[Addition] = ()) -> None:
    """Write the page to `path`, and metrics.json beside it."""
    measured = asdict(evaluation)
    for addition in more:
        measured |= addition.facts
    facts = as_json(measured)
    with atomic(path) as document, atomic(path.with_name("metrics.json")) as numbers:
        document.write_text(page(evaluation, more), encoding="utf-8")
        numbers.write_text(facts, encoding="utf-8")


def as_json(facts: dict[str, Any]) -> str:
    """Write facts as JSON, with null where something could not be measured."""
    return json.dumps(_finite(facts), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def page(e: Evaluation, more: Sequence[Addition] = ()) -> str:
    """Return the whole HTML document."""
    shown = [part(e) for part in (_answer, _comparison, _lesson, _decisions, _errors, _importance, _slices)]
    shown += [addition.shown for addition in more]
    return plots.document(f"{e.signature['name']}: model report", [*shown, _numbers(e), _data(e)])


def _answer(e: Evaluation) -> str:
    metric = e.model["metric"]
    cards = [(written(e, e.metrics[metric][e.kept]), f"{METRICS[metric].label}: {METRICS[metric].means}")]
    gains = [(over, gain) for over, gain in e.gains[e.kept].items() if gain.low > 0]
    cards += [(gained(e, gain), f"better than the {e.names[over]}") for over, gain in gains]
    if "recall" in e.metrics:
        yes, caught, right = answers(e)[1], e.metrics["recall"][e.kept].value, e.metrics["precision"][e.kept].value
        alarms = f"{100 * right:.0f} of 100 alarms are right" if math.isfinite(right) else "there is no alarm"
        cards.append((f"{100 * caught:.0f} of 100", f"cases of “{yes}” are caught; {alarms}"))
    if "cost" in e.metrics:
        cost, constant = (e.metrics["cost"][role].value for role in (e.kept, "constant"))
        change = f"{100 * (cost / constant - 1):+.0f} %".replace("-", "\N{MINUS SIGN}") if constant else f"{cost:.2f}"
        instead = f"cost of errors per row: {cost:.2f} instead of {constant:.2f} for the constant answer"
        cards.append((f"{cost:.2f}", "cost of errors per row") if e.kept == "constant" else (change, instead))
    if e.errors is not None:
        half, most = (rounded(e, size) for size in (e.errors.half_within, e.errors.nine_tenths_within))
        cards.append((f"± {half}", f"holds half of the errors; nine in ten are within ± {most}"))
    purpose = {"Decision": "decision", "KPI": "kpi", "Owner": "owner", "Risk class": "risk_class"}
    described = "".join(f"<dt>{name}</dt><dd>{escape(e.case[key])}</dd>" for name, key in purpose.items())
    warned = "".join(f"<li>{escape(caution)}</li>" for caution in cautions(e))
    shown = "".join(f'<section class="card"><b>{escape(big)}</b>{escape(small)}</section>' for big, small in cards)
    split = f"{period(e, 'test')}; learned from the {e.rows['learn']:,} rows before" if e.periods else "drawn at random"
    return (
        f'<header><p class="eyebrow">Model report · {escape(e.signature["name"])} {escape(e.signature["version"])}</p>'
        f"<h1>{escape(headline(e))}</h1><p>Tested on {e.rows['test']:,} rows, {split}.</p></header>"
        f'<div class="grid" style="--least: 9.5rem">{shown}</div>'
        f'<div class="grid" style="--least: 20rem">{section("What it is for", "", f"<dl>{described}</dl>")}'
        f"{section('What to beware of', '', f'<ul>{warned}</ul>')}</div>"
    )


def _comparison(e: Evaluation) -> str:
    facts, notes = METRICS[e.model["metric"]], {"constant": "guessing", "linear": "simple model"}
    rows = [
        _row(e, e.names[role], one, notes.get(role, ""), "model" if role == e.kept else "plain")
        for role, one in e.metrics[e.model["metric"]].items()
    ]
    return section(
        "Is it better than guessing, and than a simple model?",
        e.sentence,
        plots.interval_rows(rows),
        f"{label(e)}: {facts.means}; {'more' if facts.higher else 'less'} is better. The dot is what the test rows "
        "give; the line is the 95 % interval, where the value would fall in 95 of 100 other samples of as many rows. "
        "A more complex model is kept only if its gain, measured on the same samples, is above zero in all of its "
        "interval; that is sharper than asking whether two lines overlap.",
    )


def _lesson(e: Evaluation) -> str:
    if not e.lesson:
        return ""
    rows = []
    for role, gains in e.lesson.items():
        rows.append(_row(e, e.names[role], gains["later"], "later rows, as in use", "model"))
        rows.append(_row(e, e.names[role], gains["random"], "rows split at random"))
    return section(
        "The lesson of time",
        "A test on rows drawn at random lets a model peek: it has learned from the same days. Here the same models, "
        f"fitted on as many rows (at most {LESSON_ROWS:,}), are tested on later rows, as they will be used, and on "
        f"rows drawn at random. {lesson(e)}",
        plots.interval_rows(rows, 0.0),
        f"Gain in {label(e)} over the constant answer of the same split; dashed: guessing.",
    )


def _decisions(e: Evaluation) -> str:
    if not e.confusion:
        return ""
    names, threshold, costs = answers(e), e.case["threshold"], e.case["cost_of_errors"]
    rule = "The answer is the most probable one."
    if threshold is not None:
        why = f": a miss costs {costs['miss']:g}, a false alarm {costs['false_alarm']:g}" if costs else ""
        rule = f"The answer is “{names[1]}” from a probability of {100 * threshold:.3g} %{why}."
    what, happened = ("probability of the answer", "share of right answers")
    if len(names) == 2:
        what, happened = f"probability of {names[1]}", f"share that is {names[1]}"
    drawn = plots.matrix(names, e.confusion) + plots.calibration(e.calibration, what, happened, percent=True)
    return section(
        "What does it decide, and do its probabilities hold?",
        rule,
        f'<div class="grid" style="--least: 20rem">{drawn}</div>',
    )


def _errors(e: Evaluation) -> str:
    if e.errors is None:
        return ""
    unit = f", {e.signature['unit']}" if e.signature["unit"] else ""
    predicted, actual = f"predicted {e.signature['target']}{unit}", f"actual {e.signature['target']}{unit}"
    drawn = (
        plots.pairs(e.errors, predicted, actual)
        + plots.calibration(e.calibration, predicted, f"mean {actual}", percent=False)
        + plots.histogram(e.errors, f"actual minus predicted{unit}")
    )
    return section("How far off is it?", "", f'<div class="grid" style="--least: 17rem">{drawn}</div>')


def _importance(e: Evaluation) -> str:
    if e.kept == "constant":
        return section("What does it look at?", "At nothing: it is the constant answer.", "")
    means = {column["name"]: column["means"] or "" for column in e.signature["inputs"]}
    rows = [
        _row(e, name, loss, means[name], "model" if loss.low > 0 else "plain") for name, loss in e.importance.items()
    ]
    useless = [row.label for row in rows if row.look == "plain"]
    return section(
        "What does it look at?",
        f"Not shown to be of use: {listed(useless)}." if useless else "Every input is shown to be of use.",
        plots.interval_rows(rows, 0.0, bars=True),
        f"How much worse {label(e)} gets when the values of one input column are shuffled "
        "among the rows. Two inputs that say the same hide each other.",
    )


def _slices(e: Evaluation) -> str:
    if not e.slices:
        return ""
    overall = e.metrics[e.model["metric"]][e.kept]
    rows = [_row(e, "all test rows", overall, f"{e.rows['test']:,} rows", "model")]
    for part in e.slices:
        look = "worse" if part.worse else "plain"
        rows.append(_row(e, f"{part.column} {part.value}", part.measured, f"{part.rows:,} rows", look))
    worse = [row.label for row in rows if row.look == "worse"]
    left = [f"{count} of {column}" for column, count in e.unmeasured.items() if count]
    return section(
        "For whom is it worse?",
        f"Clearly worse for {listed(worse)}." if worse else f"For none of these {len(e.slices)} groups clearly.",
        plots.interval_rows(rows, overall.value),
        f"{label(e)} for each value of the slices of config/data.yaml; dashed: all test rows. "
        "A diamond marks a group whose whole interval is worse; chance alone does that to one group in 40."
        + (f" Values with too few rows: {listed(left)}." if left else ""),
    )


def _numbers(e: Evaluation) -> str:
    lines = []
    for metric, measured in e.metrics.items():
        facts = METRICS[metric]
        note = f"{facts.means} ({'higher' if facts.higher else 'lower'} is better)"
        line = f'<th scope="row">{escape(label(e, metric))}<small>{escape(note)}</small></th>'
        for role, one in measured.items():
            line += f"<td{KEPT if role == e.kept else ''}>{escape(facts.write(one))}</td>"
        lines.append(line)
    settings = ", ".join(f"{key}={value}" for key, value in e.model["parameters"].items())
    how = f"Candidate: {e.model['estimator']}({settings}), seed {e.model['seed']}."
    table = plots.table("facts numbers", ["", *e.names.values()], lines)
    return section("All numbers", "", table, f"With 95 % intervals; the model in colour is kept. {how}")


def _data(e: Evaluation) -> str:
    lines = []
    for column in e.signature["inputs"]:
        shares = [f"{100 * e.missing[column['name']][part]:.1f} %" for part in ("learn", "test")]
        cells = (column["means"] or "", column["type"], column["unit"] or "", *shares)
        named = f'<th scope="row">{escape(column["name"])}</th>'
        lines.append(named + "".join(f"<td>{escape(cell)}</td>" for cell in cells))
    described = ""
    for part, title in (("learn", "Learned from"), ("test", "Tested on")):
        told = f"{e.rows[part]:,} rows <small>{period(e, part)}</small><small>{escape(target(e, part))}</small>"
        described += f"<dt>{title}</dt><dd>{told}</dd>"
    head = ["input", "meaning", "type", "unit", "missing in rows learned from", "and tested on"]
    return section("The data", "", f"<dl>{described}</dl>{plots.table('facts', head, lines)}")


def _row(e: Evaluation, label: str, measured: Interval, note: str = "", look: str = "plain") -> Row:
    return Row(label, measured, METRICS[e.model["metric"]].write(measured), note, look)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
