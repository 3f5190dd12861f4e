"""Tuning: a search for better parameters, on the rows to learn from alone; killed, it goes on where it was.

Parameters are chosen on some splits of these rows, and compared with those of config/model.yaml on the last split,
which chose nothing: the best of many tries always looks better than it is.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import optuna
import sklearn
from numpy.typing import NDArray
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sklearn.exceptions import UndefinedMetricWarning

from ..config import PACKAGE, Data, Model, first_line
from ..contract import ProjectError
from ..files import sha256
from ..pages import hint
from ..scorer import Packed
from . import Examples, learned, quality, unfitted
from .space import Outcome, Trial, Tuning, fingerprint

STORE = Path("build/tuning.db")
LOWER = ("log_loss", "rmse", "mae")
"""Metrics of which less is better."""
RANDOM_TRIALS = 5  # before the sampler learns from what it has seen
RESAMPLES = 100
CODE = ("model.py", "ops/train/__init__.py", "ops/train/export.py", "ops/train/tune.py", "features.py")

Parts = list[tuple[Examples, Examples]]


def tune(
    learn: Examples, data: Data, model: Model, tuning: Tuning, tell: Callable[[int, Trial], None], store: Path = STORE
) -> Outcome:
    """Search until the budget is used or the user interrupts; `tell` is called with the trials known and the best one.

    Raises ProjectError for a parameter that the estimator does not have, and where the rows are too few to be split.
    """
    start = defaults(model, tuning)
    parts = splits(learn, data, model, tuning)
    of_data = fingerprint(learn, data)
    search = _Search(_study(of_data, model, tuning, store), parts, model, tuning)
    end = time.monotonic() + 60 * tuning.minutes
    try:
        search.try_default(start)
        while search.left and time.monotonic() < end:
            tell(len(search.trials), search.best)
            search.try_next()
    except KeyboardInterrupt:
        if not search.usable:
            raise
    tell(len(search.trials), search.best)
    return search.outcome(start, of_data, len(learn))


def splits(learn: Examples, data: Data, model: Model, tuning: Tuning) -> Parts:
    """Part the rows to learn from, a sample if there are many, into pairs to fit on and to measure on.

    With a time each pair fits on all rows before those that it measures on; without one the pairs are folds. The last
    pair chooses nothing: it compares the best with the default.
    """
    drawn = np.random.default_rng(model.seed).permutation(len(learn))[: tuning.rows]
    if data.time is None:
        *folds, last = np.array_split(drawn, tuning.splits + 1)
        pairs = [(np.setdiff1d(drawn, [*fold, *last]), np.sort(fold)) for fold in folds]
        pairs.append((np.sort(np.concatenate(folds)), np.sort(last)))
    else:
        drawn = np.sort(drawn)
        times = learn.columns[data.time][drawn]
        known = np.sort(times[~np.isnat(times)])
        cuts = [known[place] for place in np.linspace(0, len(known), tuning.splits + 3)[1:-1].astype(int)]
        cuts.append(np.datetime64("9999", "us"))
        pairs = [(drawn[times < low], drawn[(times >= low) & (times < high)]) for low, high in pairwise(cuts)]
    small = Examples({}, learn.packed, learn.target)
    least = 2 if model.task == "classification" else 1
    if any(len(np.unique(learn.target[part])) < least for pair in pairs for part in pair):
        raise ProjectError(
            f"{len(drawn)} rows to learn from are too few for {tuning.splits + 1} splits that each have at least "
            f"{least} values of '{data.target}'; give more data, or change splits or rows in config/tuning.yaml"
        )
    return [(small.take(fit_on), small.take(measure_on)) for fit_on, measure_on in pairs]


def answered(
    learn: Examples, packed: Packed, estimator: Any, classes: int, graph: onnx.ModelProto | None = None
) -> tuple[onnx.ModelProto, NDArray[Any]]:
    """Fit as training does; return the preprocessing's graph (see `learned`), and what `Scorer.run` would answer.

    That is probabilities (rows, classes), 0 for a class that was not among the rows, or without classes values (rows,).
    """
    graph, native = learned(learn, estimator, graph)
    # threads add up their parts in any order, which changes the last bit
    estimator.set_params(**{name: 1 for name in estimator.get_params() if name.endswith("n_jobs")})
    answer = native(packed)
    if not np.isfinite(answer).all():
        raise ProjectError(f"{type(estimator).__name__} answers with something that is no number")
    if not classes:
        return graph, answer.reshape(-1)
    every = np.zeros((len(answer), classes))
    every[:, estimator.classes_] = answer
    return graph, every


class _Search:
    """A study, with what it needs to try parameters."""

    def __init__(self, study: optuna.Study, parts: Parts, model: Model, tuning: Tuning) -> None:
        self.study, self.model, self.tuning = study, model, tuning
        self.choosing, self.last = parts[:-1], parts[-1]
        self.graphs: dict[int, onnx.ModelProto] = {}  # the preprocessing of each split is fitted once
        self.space = {name: part.distribution for name, part in tuning.space.items()}

    @property
    def trials(self) -> list[Trial]:
        """What was tried; a trial that a kill or an interrupt cut short does not count."""
        beyond = [Trial(**trial) for trial in self.study.user_attrs.get("beyond", [])]
        tried = [trial for trial in self.study.get_trials(deepcopy=False) if "scores" in trial.user_attrs]
        return beyond + [Trial(t.params, t.user_attrs["scores"], t.user_attrs.get("refused", "")) for t in tried]

    @property
    def usable(self) -> list[Trial]:
        """The trials that could be measured."""
        return [trial for trial in self.trials if trial.scores]

    @property
    def best(self) -> Trial:
        """The best trial, the earliest of equals."""
        sign = 1 if self.model.metric in LOWER else -1
        return min(self.usable, key=lambda trial: sign * trial.quality)

    @property
    def left(self) -> int:
        """Number of trials that the budget still has."""
        return max(0, self.tuning.trials - len(self.trials))

    def known(self, parameters: dict[str, Any]) -> Trial | None:
        """The trial that tried these parameters."""
        return next((trial for trial in self.trials if trial.parameters == parameters), None)

    def try_default(self, parameters: dict[str, Any]) -> None:
        """Measure the parameters of config/model.yaml; the sampler sees them if they lie in the space."""
        if self.known(parameters):
            return
        scores = self.scores(parameters)
        if all(self.tuning.space[name].holds(value) for name, value in parameters.items()):
            value, known_by = float(np.mean(scores)), {"scores": scores}
            self.study.add_trial(
                create_trial(params=parameters, distributions=self.space, value=value, user_attrs=known_by)
            )
        else:
            known = self.study.user_attrs.get("beyond", [])
            self.study.set_user_attr("beyond", [*known, {"parameters": parameters, "scores": scores}])

    def try_next(self) -> None:
        """Let the sampler propose parameters, and measure them."""
        # seeded by what is known: a search that was killed goes on as if nothing had happened
        seed = int(np.random.SeedSequence([self.model.seed, len(self.trials)]).generate_state(1)[0])
        self.study.sampler = TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS, constant_liar=False)
        trial = self.study.ask(self.space)
        known, scores = self.known(trial.params), list[float]()
        try:
            scores = known.scores if known else self.scores(trial.params)
        except ProjectError as reason:  # the estimator refuses this combination
            trial.set_user_attr("refused", str(reason))
        trial.set_user_attr("scores", scores)
        _close(self.study, trial.number, scores)

    def scores(self, parameters: dict[str, Any]) -> list[float]:
        """Return the metric on each split that chooses."""
        return [
            _quality(self.model.metric, rows.target, self.raw(fit_on, rows, parameters))
            for fit_on, rows in self.choosing
        ]

    def raw(self, fit_on: Examples, rows: Examples, parameters: dict[str, Any]) -> NDArray[Any]:
        """Fit as training does, and answer as `Scorer.run` does: probabilities (rows, classes), or values (rows,)."""
        estimator: Any = unfitted(self.model.model_copy(update={"parameters": self.model.parameters | parameters}))
        classes = 1 + max(int(part.target.max()) for part in self.last) if self.model.task == "classification" else 0
        known = self.graphs.get(id(fit_on))
        self.graphs[id(fit_on)], answer = answered(fit_on, rows.packed, estimator, classes, known)
        return answer

    def gain(self, of: Trial, over: Trial) -> tuple[float, float, float]:
        """Compare two trials on the last split: the gain, and the interval that it has on resampled rows."""
        if of == over:
            return (0.0, 0.0, 0.0)
        fit_on, rows = self.last
        answers = [self.raw(fit_on, rows, trial.parameters) for trial in (of, over)]
        rng, sign = np.random.default_rng(self.model.seed), -1 if self.model.metric in LOWER else 1
        samples = [np.arange(len(rows)), *(rng.integers(0, len(rows), len(rows)) for _ in range(RESAMPLES))]
        gains = []
        for sample in samples:
            better, worse = (_quality(self.model.metric, rows.target[sample], raw[sample]) for raw in answers)
            gains.append(sign * (better - worse))
        low, high = np.nanpercentile(gains[1:], [2.5, 97.5])
        return (gains[0], float(low), float(high))

    def importance(self) -> dict[str, float]:
        """Share of the variation of quality that each parameter explains; empty where there are too few trials."""
        values = [trial.value for trial in self.study.get_trials(states=(TrialState.COMPLETE,))]
        if len(values) < 4 or np.ptp(np.array(values, dtype=float)) == 0:
            return {}
        shares = get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=self.model.seed))
        return {name: float(share) for name, share in shares.items()}

    def outcome(self, parameters: dict[str, Any], data: str, of_rows: int) -> Outcome:
        """Sum up what the search found so far; `parameters` are the default."""
        best, default = self.best, self.known(parameters) or self.best
        gain, tried = self.gain(best, default), self.trials
        return Outcome(
            study=self.study.study_name,
            data=data,
            estimator=self.model.estimator,
            metric=self.model.metric,
            rows=min(of_rows, self.tuning.rows),
            of_rows=of_rows,
            trials=tried,
            left=self.left,
            default=default,
            best=best,
            gain=gain,
            importance=self.importance(),
            space={name: part.model_dump(exclude_defaults=True) for name, part in self.tuning.space.items()},
            warnings=self.warnings(best, gain),
        )

    def warnings(self, best: Trial, gain: tuple[float, float, float]) -> list[str]:
        """What a reader of the outcome should beware of, as sentences."""
        said = self.tuning.at_bounds(best.parameters)
        if gain[1] <= 0:
            why = "no others did better" if gain == (0, 0, 0) else "the gain is within the noise of the last split"
            said.append(f"the default is not beaten: {why}")
        refused = [trial for trial in self.trials if trial.refused]
        if refused:
            said.append(
                f"{len(refused)} of {len(self.trials)} trials were refused, the first because: {refused[0].refused}"
            )
        return said


def _study(data: str, model: Model, tuning: Tuning, store: Path) -> optuna.Study:
    """Open the study of these data, settings and code; what a kill left unfinished in it is closed."""
    package = {name: sha256(PACKAGE / name) for name in CODE}
    fixed = {
        name: value for name, value in model.parameters.items() if name not in tuning.space and "n_jobs" not in name
    }
    asked = tuning.model_dump(include={"splits", "rows", "space"}), model.model_dump(exclude={"parameters"}), fixed
    libraries = sklearn.__version__, optuna.__version__
    name = hashlib.sha256(json.dumps([data, asked, package, libraries], default=str).encode()).hexdigest()[:16]
    direction = StudyDirection.MINIMIZE if model.metric in LOWER else StudyDirection.MAXIMIZE
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    store.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{store}", study_name=name, direction=direction, load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy, SQLite and Optuna each have their own
        raise ProjectError(
            f"{store}: cannot be used ({first_line(error)}); delete it to start the search over"
        ) from None
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        _close(study, trial.number, trial.user_attrs.get("scores", []))
    return study


def _close(study: optuna.Study, number: int, scores: list[float]) -> None:
    study.tell(number, float(np.mean(scores)) if scores else None, None if scores else TrialState.FAIL)


def defaults(model: Model, tuning: Tuning) -> dict[str, Any]:
    """Return what the parameters of the space are without tuning; raises ProjectError for one that does not exist."""
    estimator: Any = unfitted(model)
    known = estimator.get_params()
    for name in tuning.space:
        if name not in known:
            raise ProjectError(
                f"config/tuning.yaml, space.{name}: {model.estimator} has no such parameter{hint(name, known)}"
            )
    return {name: known[name] for name in tuning.space}


def _quality(metric: str, target: NDArray[Any], raw: NDArray[Any]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # a resample of few rows may hold one class only
        return quality(metric, target, raw)
