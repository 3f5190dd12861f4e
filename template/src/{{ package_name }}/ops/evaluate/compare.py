"""Comparisons that level 2 adds to the report: with the champion, with fewer rows, and of parameters that were tried.

The champion and the tuning are as they are when the model is evaluated; they are shown on the page and kept out of
metrics.json, which holds only what the data, the settings and the code make of themselves. How sure a comparison is,
which the gates of a release ask, stands here too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from sklearn.base import clone

from ..config import Data, Model
from ..contract import ProjectError
from ..features import prepare
from ..files import atomic
from ..scorer import Scorer
from ..train import Examples
from ..train.space import OUTCOME, Outcome, fingerprint
from ..train.tune import answered
from . import Contest, Evaluation, importance, plots
from .metrics import METRICS, Floats, Interval, draws
from .plots import Axis, Row, across, figure, section, square, up
from .report import Addition
from .words import label

COSTS = Path("reports/costs.html")
TUNING = OUTCOME.with_suffix(".html")
LEAST_ROWS, MOST_ROWS = 200, 50_000  # of a training for the learning curve
POINTS = 4
SAMPLES = 3  # of the rows, where they are at most a quarter


def additions(
    e: Evaluation, contest: Contest, learn: Examples, test: Examples, data: Data, model: Model, champion: Path | None
) -> list[Addition]:
    """Measure what level 2 adds to the report, and write what each feature costs to reports/costs.html.

    `champion` is the file of the model in production; None where there is none yet.
    """
    worth = importance.worth(contest.kept, learn, test, model)
    with atomic(COSTS) as page:
        page.write_text(importance.costs(e, contest.kept, test), encoding="utf-8")
    added = [against(e, contest, test, data, model, champion), curve(e, contest, learn, test, model)]
    added.append(importance.section(e, worth))
    found = read_tuning(OUTCOME)
    if found and (found["data"], found["estimator"], found["metric"]) == (
        fingerprint(learn, data),
        model.estimator,
        model.metric,
    ):
        added.append(Addition(tried(found)))
    return added


def against(
    e: Evaluation, contest: Contest, test: Examples, data: Data, model: Model, champion: Path | None
) -> Addition:
    """Score the model in production on the same test rows, and compare."""
    title = "Is it better than the champion?"
    if champion is None:
        return Addition(section(title, "No champion yet: no model has been promoted to production.", ""))
    if champion.read_bytes() == contest.kept.content:
        return Addition(section(title, "This model is the champion: its file is the same, byte for byte.", ""))
    try:
        raw = _answers(Scorer(champion), contest, test, data)
    except ProjectError as reason:
        return Addition(section(title, f"It cannot be compared with the champion: {reason}.", ""))
    facts, theirs = METRICS[model.metric], draws(model, test.target, raw)
    gain = Interval.of(facts.gain(contest.kept.draws, theirs))
    own, other = Interval.of(contest.kept.draws), Interval.of(theirs)
    verdict = "is better than" if gain.low > 0 else "is worse than" if gain.high < 0 else "is not shown to differ from"
    rows = [
        Row("this model", own, facts.write(own), contest.kept.name, "model"),
        Row("champion", other, facts.write(other), "in production"),
    ]
    return Addition(
        section(
            title,
            f"This model {verdict} the champion: its gain is {facts.gains.write(gain, e.signature['unit'])}.",
            plots.interval_rows(rows),
            f"{label(e)} of both on the same test rows, with the champion of the day of this evaluation. "
            "A champion that learned from some of these rows looks better than it is.",
        )
    )


def curve(e: Evaluation, contest: Contest, learn: Examples, test: Examples, model: Model) -> Addition:
    """Train the kept model on fewer and fewer rows, drawn at random, and show what that costs."""
    facts, kept, rng = METRICS[model.metric], contest.kept, np.random.default_rng(model.seed)
    sizes = [len(learn) // 2**halvings for halvings in range(1, 20)]
    sizes = sorted(size for size in sizes if LEAST_ROWS <= size <= MOST_ROWS)[-POINTS:]
    drawn = {}
    for size in sizes:
        samples = SAMPLES if size <= len(learn) / 4 else 1
        drawn[size] = np.mean([_trained_on(learn, size, test, contest, model, rng) for _ in range(samples)], axis=0)
    drawn[len(learn)] = kept.draws
    points = {size: Interval.of(one) for size, one in drawn.items()}
    said = "Too few rows for a curve."
    if sizes:
        gain = Interval.of(facts.gain(kept.draws, drawn[sizes[-1]]))
        more = "More rows would probably help" if gain.low > 0 else "More rows of the same kind are not shown to help"
        times = "twice" if sizes[-1] == len(learn) // 2 else f"{len(learn) / sizes[-1]:.0f} times"
        said = f"{more}: the last step, to {times} as many, gained {facts.gains.write(gain, e.signature['unit'])}."
    table = [Row(f"{size:,} rows", one, facts.write(one)) for size, one in points.items()]
    table[-1] = Row(f"{len(learn):,} rows", points[len(learn)], facts.write(points[len(learn)]), "all", "model")
    note = (
        f"{label(e)} on the test rows, with its 95 % interval, of a {kept.name} that learned from so many rows drawn "
        f"at random (the mean of {SAMPLES} draws up to a quarter of the rows)."
    )
    facts_of_it = {"learning_curve": {str(size): asdict(one) for size, one in points.items()}}
    return Addition(section("Would more rows help?", said, plots.interval_rows(table), note), facts_of_it)


def tried(found: dict[str, Any]) -> str:
    """Show the trials of a tuning: how they went, which parameters matter, and which values did well."""
    facts, trials = METRICS[found["metric"]], [trial for trial in found["trials"] if trial["scores"]]
    best, gain = found["best"], Interval(*found["gain"])
    beaten = f"The best of {len(trials)} trials gains {facts.gains.write(gain)} over the default."
    said = beaten if gain.low > 0 else f"None of {len(trials)} trials beats the default beyond doubt."
    rows = [[escape(cell) for cell in row] for row in _parameters(found)]
    lines = [f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) for name, *cells in rows]
    head = ["parameter", "default", "best", "looked in", "importance"]
    table = plots.table("facts", head, lines)
    drawn = _trials(found, trials, "trial", range(1, len(trials) + 1))
    for name in best["parameters"]:
        drawn += _trials(found, trials, name, [trial["parameters"][name] for trial in trials])
    warned = "".join(f"<li>{escape(warning)}</li>" for warning in found["warnings"])
    return section(
        "Which parameters were tried?",
        said,
        f'{table}<ul class="note">{warned}</ul><div class="grid" style="--least: 20rem">{drawn}</div>',
        f"{facts.label}, the mean over the splits of {found['rows']:,} of the {found['of_rows']:,} rows to learn from; "
        f"test rows are never looked at. {found['estimator']}; the gain is measured on a split that chose nothing. "
        "Importance: share of the variation between the trials (fANOVA), rough where they are few.",
    )


def write_tuning(outcome: Outcome) -> None:
    """Write reports/tuning.json, and the same as a page beside it."""
    found = json.loads(json.dumps(asdict(outcome)))
    title = f"Tuning of {outcome.estimator}"
    body = plots.document(title, [f"<header><h1>{escape(title)}</h1></header>", tried(found)])
    with atomic(OUTCOME) as facts, atomic(TUNING) as page:
        facts.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        page.write_text(body, encoding="utf-8")


def overview(outcome: Outcome) -> Table:
    """Return the parameters as a table for the terminal."""
    table = Table("parameter", "default", "best", "looked in", "importance")
    for row in _parameters(asdict(outcome)):
        table.add_row(*row)
    return table


def read_tuning(path: Path) -> dict[str, Any] | None:
    """Return what `write_tuning` wrote; None if nothing was tuned yet, or another version wrote it."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(found) == set(Outcome.__dataclass_fields__) else None


def sure(drawn: Floats, confidence: float) -> Interval:
    """Return a value with the bounds that it keeps to, each with this confidence; NaN where it cannot be measured.

    The normal interval with the bootstrap's standard error (Efron and Tibshirani 1993, chapter 13): it holds for bounds
    so far out that percentiles of a few hundred draws do not reach them.
    """
    usable = drawn[1:][np.isfinite(drawn[1:])]
    if not np.isfinite(drawn[0]) or len(usable) < len(drawn) / 2:
        return Interval(float(drawn[0]), float("nan"), float("nan"))
    reach = NormalDist().inv_cdf(confidence) * float(usable.std(ddof=1))
    return Interval(float(drawn[0]), float(drawn[0]) - reach, float(drawn[0]) + reach)


def spare(drawn: Mapping[str, Floats], model: Model, margin: float) -> Floats:
    """Return how far a candidate stays above what it must reach: below 0 it lost more than the margin allows.

    It may lose a share, `margin`, of the champion's lead over the constant answer; draw by draw, so that the doubt
    about the lead counts as well.
    """
    gain = METRICS[model.metric].gain
    lead = gain(drawn["champion"], drawn["constant"])
    return gain(drawn["candidate"], drawn["champion"]) + margin * lead


class _LogAxis(Axis):
    """An axis of powers of ten."""

    def name(self, tick: float) -> str:
        return f"{10**tick:,.0f}" if tick >= 1 else f"{10**tick:.2g}"


class _Choices(Axis):
    """An axis of named values."""

    def __init__(self, names: Sequence[Any]) -> None:
        super().__init__([0, max(1, len(names) - 1)])
        self.names, self.ticks = names, [float(place) for place in range(max(2, len(names)))]

    def name(self, tick: float) -> str:
        return _shown(self.names[int(tick)]) if tick < len(self.names) else ""


def _trained_on(
    learn: Examples, size: int, test: Examples, contest: Contest, model: Model, rng: np.random.Generator
) -> NDArray[np.float64]:
    part = learn.take(np.sort(rng.permutation(len(learn))[:size]))
    estimator: Any = clone(contest.kept.estimator)
    _, raw = answered(part, test.packed, estimator, len(contest.kept.signature.classes))
    return draws(model, test.target, raw.astype(np.float32))


def _answers(champion: Scorer, contest: Contest, test: Examples, data: Data) -> NDArray[Any]:
    """Return what the champion answers for the test rows, its classes in this model's order."""
    theirs, own = champion.signature, contest.kept.signature
    if (theirs.task, theirs.target, set(theirs.classes)) != (own.task, own.target, set(own.classes)):
        raise ProjectError(f"it predicts '{theirs.target}' with other answers")
    try:
        raw = champion.run(prepare({name: test.columns[name] for name in data.inputs}, theirs))
    except (KeyError, ValueError) as missing:
        raise ProjectError(f"features.py no longer makes what it takes ({missing})") from None
    return raw[:, [theirs.classes.index(name) for name in own.classes]] if own.classes else raw


def _trials(found: dict[str, Any], trials: Sequence[dict[str, Any]], name: str, values: Sequence[Any]) -> str:
    """Draw the quality of each trial by its number, or by the value of one parameter."""
    means = [float(np.mean(trial["scores"])) for trial in trials]
    axis, places = _axis(found["space"].get(name, {}), values)
    height, title = Axis(means), METRICS[found["metric"]].label
    marks = ""
    for trial, place, mean in sorted(zip(trials, places, means, strict=True), key=lambda one: _rank(found, one[0])):
        role = ("trial", "default", "best")[_rank(found, trial)]
        look, size = {"trial": ("faint", 5), "default": ("dot", 6), "best": ("dot", 7)}[role]
        at = f'cx="{across(axis, place)}" cy="{up(height, mean)}" r="{size}"'
        tried_here = ", ".join(f"{key} {_shown(part)}" for key, part in trial["parameters"].items())
        mark = f'<circle class="{look}" {at}><title>{role}: {escape(tried_here)}</title></circle>'
        marks += f'<g class="worse">{mark}</g>' if role == "default" else mark
    drawing = square(axis, height, name, title, marks, f"{title} of {len(trials)} trials by {name}")
    return figure(drawing, "The best is dark, the default orange." if name == "trial" else "")


def _rank(found: dict[str, Any], trial: dict[str, Any]) -> int:
    return 2 if trial == found["best"] else 1 if trial == found["default"] else 0


def _axis(space: dict[str, Any], values: Sequence[Any]) -> tuple[Axis, list[float]]:
    """Return an axis for the values of a parameter, and their places on it."""
    if "choices" in space or not all(isinstance(value, int | float) for value in values):
        names = list(dict.fromkeys([*space.get("choices", []), *values]))
        return _Choices(names), [float(names.index(value)) for value in values]
    ends = [space[key] for key in ("low", "high") if key in space]
    if space.get("log") and min(values) > 0:
        places = [math.log10(value) for value in values]
        return _LogAxis([*places, *(math.log10(end) for end in ends)]), places
    return Axis([*values, *ends]), list(values)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parameters(found: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    for name, value in found["best"]["parameters"].items():
        share = f"{100 * found['importance'][name]:.0f} %" if name in found["importance"] else ""
        default = found["default"]["parameters"][name]
        yield name, _shown(default), _shown(value), _range(found["space"][name]), share


def _range(space: dict[str, Any]) -> str:
    if "choices" in space:
        return ", ".join(map(_shown, space["choices"]))
    return f"{_shown(space['low'])} to {_shown(space['high'])}" + (", log" if space.get("log") else "")
