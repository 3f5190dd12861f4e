"""The sentences about a model, in plain words: what it is worth, and what to beware of."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from .metrics import METRICS, SLICE_ROWS, Interval

if TYPE_CHECKING:
    from . import Contest, Evaluation

FEW_ROWS = 200  # below which the page warns that its intervals are rough
SUSPICIOUS = {"roc_auc": 0.99, "accuracy": 0.99, "r2": 0.99}  # quality that real data hardly ever allow
DOMINANT = 0.6  # share of the importance of all inputs from which one of them is said to decide


def headline(e: Evaluation) -> str:
    """Whether the model is worth having, in one sentence."""
    target, candidate, kept = e.signature["target"], e.names["candidate"], e.names[e.kept]
    if e.kept == "constant":
        return f"Not worth having yet: no model is shown to predict “{target}” better than guessing."
    if e.kept == "candidate":
        simple = f" and better than a {e.names['linear']}" if "linear" in e.names else ""
        return f"Worth having: the {candidate} predicts “{target}” better than guessing{simple}."
    better = f"predicts “{target}” better than guessing" if e.gains["linear"]["constant"].low > 0 else "is kept"
    return f"A simple model is enough: the {kept} {better}, and the {candidate} is not shown to do better."


def verdict(contest: Contest) -> str:
    """Which model is kept and why."""
    kept, facts, unit = contest.kept, METRICS[contest.metric], contest.kept.signature.unit
    said = f"The {kept.name} is kept: its {facts.label} is {facts.write(Interval.of(kept.draws), unit)}."
    simpler = True
    for other in contest.entrants:
        value = facts.write(Interval.of(other.draws), unit, span=False)
        if other is kept:
            simpler = False
        elif not simpler:
            gain = contest.gain(other, kept)
            how = "is worse" if gain.high < 0 else "does not beat it beyond doubt"
            said += f" The {other.name} ({value}) {how}: its gain is {facts.gains.write(gain, unit)}."
        elif (gain := contest.gain(kept, other)).low > 0:
            said += f" It beats the {other.name} ({value}) by {facts.gains.write(gain, unit)}."
        else:
            said += f" The {other.name} ({value}) is beaten by a more complex model."
    return said


def cautions(e: Evaluation) -> list[str]:
    """What a reader should beware of, as sentences in plain text."""
    own = e.metrics[e.model["metric"]][e.kept]
    leaking = e.kept != "constant" and own.value > SUSPICIOUS.get(e.model["metric"], math.inf)
    uncounted = len(e.confusion) == 2 and e.case["cost_of_errors"] is None
    unused = len(e.confusion) != 2 and e.case["cost_of_errors"] is not None
    unclassified = e.case["risk_class"] == "not classified"
    rarest = min(sum(row) for row in e.confusion) if e.confusion else e.rows["test"]
    worse = [f"{part.column} {part.value} ({written(e, part.measured)})" for part in e.slices if part.worse]
    useful = {column: loss.value for column, loss in e.importance.items() if loss.low > 0}
    rough = e.rows["test"] < FEW_ROWS or rarest < FEW_ROWS / 10
    one_sided = len(e.importance) > 2 and max(useful.values(), default=0) > DOMINANT * sum(useful.values())
    checks = {
        "This is suspiciously good: look for an input that is known only after the outcome (a leak).": leaking,
        f"Only {e.rows['test']:,} test rows, {rarest:,} of the rarest kind: the intervals are rough.": rough,
        f"It is clearly worse than overall ({written(e, own)}) for {listed(worse)}.": bool(worse),
        f"None of the {len(e.slices)} groups of rows looked at is clearly worse than the whole.": e.slices
        and not worse,
        _promised(e): True,
        _misjudged(e): True,
        f"Most of it hangs on one input, {next(iter(useful), '')}: guard its source.": one_sided,
        "config/case.yaml gives no cost_of_errors: a miss counts as much as a false alarm.": uncounted,
        "cost_of_errors of config/case.yaml is not used: only a choice between two classes can weigh it.": unused,
        "Intervals cover chance, not how the world changes after the last test row.": bool(e.periods),
        "Nobody has classified the risk of this use yet (risk_class in config/case.yaml).": unclassified,
        f"This measures {METRICS[e.model['metric']].label}, not whether the KPI moves.": True,
    }
    return [sentence for sentence, holds in checks.items() if sentence and holds]


def lesson(e: Evaluation) -> str:
    """What the two splits say of the candidate: whether random rows promise what later rows do not keep."""
    name = e.names["candidate"]
    random, later = (e.lesson["candidate"][split] for split in ("random", "later"))
    gains = f"({gained(e, random)} at random, {gained(e, later)} later)"
    if random.low > later.high:
        return f"So it is here: for the {name} random rows promise a gain that later rows do not keep {gains}."
    if random.high < later.low:
        return f"Here it is the other way round: the {name} gains more on the later rows {gains}."
    return f"Here that makes no difference that can be told from chance: {name} {gains}."


def _promised(e: Evaluation) -> str:
    promise = e.lesson.get("candidate")
    if promise is None or promise["random"].low <= promise["later"].high:
        return ""
    random, later = (gained(e, promise[split]) for split in ("random", "later"))
    return f"Rows split at random would promise a gain of {random} over guessing; later rows give {later}."


def _misjudged(e: Evaluation) -> str:
    judged = [part for part in e.calibration if part.rows >= SLICE_ROWS / 2]
    off = [part for part in judged if not part.observed.low <= part.predicted <= part.observed.high]
    if len(off) <= len(judged) / 4:
        return ""
    part = max(off, key=lambda part: abs(part.observed.value - part.predicted))
    kind, unit = METRICS["accuracy" if e.confusion else "mae"], e.signature["unit"]
    predicted = kind.write(replace(part.observed, value=part.predicted), unit, span=False)
    happened = kind.write(part.observed, unit, span=False)
    return f"Do not take predictions at their word: where it says {predicted}, {happened} is what happens."


def written(e: Evaluation, measured: Interval) -> str:
    """Write a value of the metric of config/model.yaml in its unit."""
    return METRICS[e.model["metric"]].write(measured, e.signature["unit"], span=False)


def gained(e: Evaluation, measured: Interval) -> str:
    """Write a gain in the metric of config/model.yaml."""
    return METRICS[e.model["metric"]].gains.write(measured, e.signature["unit"], span=False)


def sized(metric: str, gain: float, unit: str | None) -> str:
    """Write a gain in a metric that has no interval."""
    return METRICS[metric].gains.write(Interval(gain, 0, gain / 10), unit, span=False)


def label(e: Evaluation, metric: str = "") -> str:
    """Name a metric (that of config/model.yaml) with its unit."""
    return named(metric or e.model["metric"], e.signature["unit"])


def named(metric: str, unit: str | None) -> str:
    """Name a metric with the unit of the target, where it has that unit."""
    facts = METRICS[metric]
    return f"{facts.label} ({unit})" if facts.kind == "unit" and unit else facts.label


def rounded(e: Evaluation, value: float) -> str:
    """Write one value of the target in its unit."""
    return METRICS["mae"].write(Interval(value, 0, abs(value) / 10), e.signature["unit"], span=False)


def answers(e: Evaluation) -> list[str]:
    """Name the classes so that they can stand in a sentence."""
    target, classes = e.signature["target"], e.signature["classes"]
    if set(classes) == {False, True}:
        return [target if name else f"not {target}" for name in classes]
    return [f"{target} {name}" for name in classes]


def target(e: Evaluation, part: str) -> str:
    """Say how often each class occurs in the rows of a part, or the target's mean."""
    shares = [f"{100 * share:.1f} % {name}" for name, share in zip(answers(e), e.target[part].values(), strict=False)]
    return listed(shares) if shares else f"mean {rounded(e, e.target[part]['mean'])}"


def listed(parts: list[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join(", ".join(parts).rsplit(", ", 1))


def period(e: Evaluation, part: str) -> str:
    """Say from which day to which the rows of a part go; nothing without a time."""
    days = [datetime.fromisoformat(moment) for moment in e.periods.get(part, [])]
    return " to ".join(f"{day.day} {day:%B %Y}" for day in days)
