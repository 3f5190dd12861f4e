"""The room of evaluation: simple models compete with the candidate, and what is kept is measured from every side.

A model earns its place: of the constant answer, the linear model and the candidate, in this order, the first one is
kept that no later one beats beyond doubt. All numbers are measured on the test rows with the exported file, and repeat.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from .. import scorer
from ..config import Case, Data, Model
from ..contract import Array, Estimator
from ..features import prepare
from ..process import missing
from ..scorer import Packed, Signature
from ..train import Examples, fit
from .metrics import (
    METRICS,
    Bin,
    Errors,
    Floats,
    Interval,
    Measure,
    Slice,
    calibration,
    confusion,
    draws,
    errors,
    measures,
    resampled,
    sampled,
    sliced,
)
from .words import verdict

LINEAR = ("LogisticRegression", "Ridge")
IMPORTANCE_ROWS = 3000
LESSON_ROWS = 50_000
INTACT = ""


@dataclass(frozen=True)
class Entrant:
    """A trained model in the contest, read back from its file."""

    role: str
    """constant, linear or candidate."""
    name: str
    """Its estimator, in words."""
    estimator: Estimator
    """What was fitted; here only its parameters count."""
    content: bytes
    """The model file."""
    signature: Signature
    score: Callable[[Packed], NDArray[np.float32]]
    """The model file: probabilities (rows, classes), or values (rows,)."""
    raw: NDArray[np.float32]
    """Its answers for the test rows."""
    draws: Floats
    """The metric of config/model.yaml on the test rows, see `resampled`."""


@dataclass(frozen=True)
class Contest:
    """The models that were compared, simplest first, and the one that earned its place."""

    metric: str
    entrants: tuple[Entrant, ...]
    kept: Entrant

    def gain(self, of: Entrant, over: Entrant) -> Interval:
        """How much better `of` is than `over` on the same test rows; above 0 is better whatever the metric."""
        return Interval.of(METRICS[self.metric].gain(of.draws, over.draws))

    @property
    def sentence(self) -> str:
        """Which model is kept and why, in plain words."""
        return verdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Everything that the report says, ready to be written as JSON."""

    case: dict[str, Any]
    model: dict[str, Any]
    """The settings of config/model.yaml."""
    signature: dict[str, Any]
    kept: str
    """Role of the model that is kept."""
    sentence: str
    predictions: str
    """Hash of its predictions on the test rows."""
    names: dict[str, str]
    """The models' names in words by role, simplest first."""
    rows: dict[str, int]
    periods: dict[str, list[str]]
    """First and last time of the rows learned from and tested on; empty without a time."""
    metrics: dict[str, dict[str, Interval]]
    """Metric, then role."""
    gains: dict[str, dict[str, Interval]]
    """Role, then simpler role: what the first gains over the second; above 0 is better, whatever the metric."""
    target: dict[str, dict[str, float]]
    """Share of each class, or mean, of the rows learned from and tested on."""
    confusion: list[list[int]]
    """Test rows by true class and answer (classification)."""
    calibration: list[Bin]
    errors: Errors | None
    importance: dict[str, Interval]
    """Input column: how much worse the metric gets when its values are shuffled; the most important first."""
    slices: list[Slice]
    unmeasured: dict[str, int]
    """Column of `slices` in data.yaml: how many of its values have too few test rows."""
    lesson: dict[str, dict[str, Interval]]
    """Role: gain over the constant answer on the later rows, and in a split at random; empty without a time."""
    missing: dict[str, dict[str, float]]
    """Input column: share of missing values in the rows learned from and tested on."""


def line_up(model: Model, estimator: Estimator, rows: int) -> dict[str, Estimator]:
    """Return who competes by role, unfitted and simplest first: the constant answer, the linear model, the candidate.

    `rows` is the number of rows to learn from.
    """
    linear = LogisticRegression(max_iter=1000) if model.task == "classification" else Ridge()
    between = {} if type(estimator).__name__ in LINEAR else {"linear": linear}
    return {"constant": _constant(model, rows), **between, "candidate": estimator}


def contest(learn: Examples, test: Examples, signature: Signature, model: Model, estimator: Estimator) -> Contest:
    """Fit the constant answer, the linear model and the candidate, and let them compete."""
    started = line_up(model, estimator, len(learn))
    files = {role: fit(learn, test, signature, unfitted).content for role, unfitted in started.items()}
    return compete(started, files, test, signature, model)


def compete(
    started: Mapping[str, Estimator], files: Mapping[str, bytes], test: Examples, signature: Signature, model: Model
) -> Contest:
    """Keep the first trained model, by its file, that no later one beats beyond doubt.

    Beyond doubt means: the whole 95 % interval of the gain, on the same resampled test rows, is above 0.
    """
    entrants = []
    for role, estimator in started.items():
        name = "constant answer" if role == "constant" else _in_words(estimator)
        raw = (score := _scored_by(files[role], signature))(test.packed)
        drawn = draws(model, test.target, raw)
        entrants.append(Entrant(role, name, estimator, files[role], signature, score, raw, drawn))
    compared = Contest(model.metric, tuple(entrants), entrants[-1])
    for position, entrant in enumerate(entrants):
        if not any(compared.gain(later, entrant).low > 0 for later in entrants[position + 1 :]):
            return Contest(model.metric, tuple(entrants), entrant)
    return compared


def evaluate(contest: Contest, learn: Examples, test: Examples, data: Data, case: Case, model: Model) -> Evaluation:
    """Measure the models of the contest, and the one that is kept from every side."""
    kept, parts = contest.kept, {"learn": learn, "test": test}
    signature, raw = kept.signature, kept.raw
    measured = {entrant.role: _measured(entrant, test, case, model) for entrant in contest.entrants}
    groups = {
        column: sliced(column, data.columns[column].type, test.columns[column], test.target, raw, model)
        for column in data.slices
    }
    return Evaluation(
        case={**case.model_dump(), "threshold": signature.threshold},
        model=model.model_dump(),
        signature=asdict(signature),
        kept=kept.role,
        sentence=contest.sentence,
        predictions=scorer.prediction_hash(raw),
        names={entrant.role: entrant.name for entrant in contest.entrants},
        rows={name: len(rows) for name, rows in parts.items()},
        periods={name: _period(rows.columns[data.time]) for name, rows in parts.items()} if data.time else {},
        metrics={metric: {role: measured[role][metric] for role in measured} for metric in measured[kept.role]},
        gains={
            entrant.role: {simpler.role: contest.gain(entrant, simpler) for simpler in contest.entrants[:place]}
            for place, entrant in enumerate(contest.entrants)
        },
        target={name: _target(rows.target, signature) for name, rows in parts.items()},
        confusion=confusion(raw, test.target, signature.threshold) if model.task == "classification" else [],
        calibration=calibration(raw, test.target, model.seed),
        errors=errors(raw, test.target, model.seed) if model.task == "regression" else None,
        importance=_importance(kept, test, model),
        slices=[part for found, _ in groups.values() for part in found],
        unmeasured={column: left for column, (_, left) in groups.items()},
        lesson=_lesson(contest, learn, test, model) if data.time else {},
        missing={
            c: {name: float(missing(rows.columns[c]).mean()) for name, rows in parts.items()} for c in data.inputs
        },
    )


def _constant(model: Model, rows: int) -> Estimator:
    """A tree that may never split answers each class's share, the mean, or the median (the best guess for mae)."""
    kind = DecisionTreeClassifier if model.task == "classification" else DecisionTreeRegressor
    criterion = {"criterion": "absolute_error"} if model.metric == "mae" else {}
    tree: Estimator = kind(min_samples_split=rows + 1, **criterion)
    return tree


def _in_words(estimator: Estimator) -> str:
    name = re.sub(r"(Classifier|Regressor)$", "", type(estimator).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower() + (" regression" if name == "Ridge" else "")


def _scored_by(content: bytes, signature: Signature) -> Callable[[Packed], NDArray[np.float32]]:
    session = scorer.session(content, "the exported model")
    if signature.task == "classification":
        return lambda packed: scorer.run(session, packed)
    return lambda packed: scorer.run(session, packed).reshape(-1)


def _measured(entrant: Entrant, test: Examples, case: Case, model: Model) -> dict[str, Interval]:
    def wanted(part: Array) -> dict[str, Measure]:
        return measures(model.task, test.target[part], entrant.raw[part], case)

    return {name: Interval.of(draws) for name, draws in sampled(wanted, len(test), model.seed).items()}


def _period(times: Array) -> list[str]:
    return [str(np.datetime_as_string(moment, unit="m")) for moment in (np.nanmin(times), np.nanmax(times))]


def _target(target: NDArray[Any], signature: Signature) -> dict[str, float]:
    if signature.task == "regression":
        return {"mean": float(target.mean())}
    shares = np.bincount(target, minlength=len(signature.classes)) / len(target)
    return {str(name): float(share) for name, share in zip(signature.classes, shares, strict=True)}


def _importance(kept: Entrant, test: Examples, model: Model) -> dict[str, Interval]:
    """Shuffle one input column at a time, compute the features again and score with the exported file."""
    rng = np.random.default_rng(model.seed)
    part = test.take(np.sort(rng.permutation(len(test))[:IMPORTANCE_ROWS]))
    signature = kept.signature
    columns = {column.name: part.columns[column.name] for column in signature.inputs}

    def measure(packed: Packed) -> Measure:
        return measures(model.task, part.target, kept.score(packed))[model.metric]

    wanted = {INTACT: measure(part.packed)}
    for name, values in columns.items():
        shuffles = [values[rng.permutation(len(part))] for _ in range(max(1, min(3, 90 // len(columns))))]
        tries = [measure(prepare({**columns, name: shuffled}, signature)) for shuffled in shuffles]
        wanted[name] = lambda weights, tries=tries: np.mean([one(weights) for one in tries], axis=0)  # type: ignore[misc]
    drawn = resampled(wanted, len(part), model.seed)
    losses = {name: Interval.of(METRICS[model.metric].gain(drawn[INTACT], drawn[name])) for name in columns}
    return dict(sorted(losses.items(), key=lambda loss: -loss[1].value))


def _lesson(contest: Contest, learn: Examples, test: Examples, model: Model) -> dict[str, dict[str, Interval]]:
    """Fit all again on as many rows drawn at random, which mixes the periods: what a careless split would promise.

    Of more than LESSON_ROWS some are drawn, and then all are fitted again on earlier ones too.
    """
    rows, rng = _joined(learn, test), np.random.default_rng(model.seed)
    share, orders = min(1.0, LESSON_ROWS / len(rows)), {"random": rng.permutation(len(rows))}
    if share < 1:
        orders["later"] = np.append(rng.permutation(len(learn)), len(learn) + rng.permutation(len(test)))
    found = {"later": {entrant.role: entrant.draws for entrant in contest.entrants}}
    for split, order in orders.items():
        known, unknown = (rows.take(np.sort(part[: int(share * len(part))])) for part in np.split(order, [len(learn)]))
        if model.task == "classification" and len(np.unique(known.target)) < len(np.unique(rows.target)):
            return {}
        found[split] = {
            one.role: draws(model, unknown.target, fit(known, unknown, one.signature, clone(one.estimator)).exported)
            for one in contest.entrants
        }
    constant, *others = [entrant.role for entrant in contest.entrants]
    gain = METRICS[model.metric].gain
    return {
        other: {split: Interval.of(gain(drawn[other], drawn[constant])) for split, drawn in found.items()}
        for other in others
    }


def _joined(learn: Examples, test: Examples) -> Examples:
    columns = {name: np.concatenate([values, test.columns[name]]) for name, values in learn.columns.items()}
    numbers = np.concatenate([learn.packed.numbers, test.packed.numbers])
    text = np.concatenate([learn.packed.text, test.packed.text])
    return Examples(columns, Packed(numbers, text), np.concatenate([learn.target, test.target]))
