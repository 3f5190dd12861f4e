"""What each feature is worth, asked in two ways, and what it costs.

Shuffled, a feature tells how much the model leans on it; left out of a new training, how much it would be missed. Two
features that say the same look needed in the first way, and needless in the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ...model import preprocessing
from .. import scorer
from ..config import Model
from ..features import compute
from ..scorer import Packed, Signature
from ..train import Examples, export
from ..train.tune import answered
from . import Entrant, Evaluation, plots
from .metrics import METRICS, RESAMPLES, Interval, measures, resampled
from .plots import Row
from .report import Addition
from .words import label, listed

LEARN_ROWS = 3_000  # of a training without one feature
TEST_ROWS = 3_000
LEFT_OUT = 20  # features that are left out, the most important first
TRIES = 3  # shuffles, and trainings on other rows, of each feature
SHOWN = 10
REPEATS = 9
INTACT = ""


@dataclass(frozen=True)
class Feature:
    """How much worse the metric gets without what a feature says; above 0: worse."""

    name: str
    shuffled: Interval
    """Its values shuffled among the test rows, the model as it is."""
    left_out: Interval | None
    """Trained anew without it; None for one of the least important, or the only one."""


@dataclass(frozen=True)
class Worth:
    """What was measured of the features of the model that is kept, the most important first."""

    features: list[Feature]
    learned: int
    """Rows that each training without a feature learned from."""
    tested: int


def worth(kept: Entrant, learn: Examples, test: Examples, model: Model) -> Worth:
    """Shuffle, and leave out, one feature after the other of the model that is kept."""
    rng = np.random.default_rng(model.seed)
    test, samples = _some(test, TEST_ROWS, rng), [_some(learn, LEARN_ROWS, rng) for _ in range(TRIES)]
    signature, names = kept.signature, [*kept.signature.numbers, *kept.signature.text]
    shuffled = {INTACT: [kept.score(test.packed)] * TRIES}
    for name in names:
        shuffled[name] = [kept.score(_shuffled(test.packed, signature, name, rng)) for _ in range(TRIES)]
    leans = _losses(shuffled, test, model)
    order = sorted(names, key=lambda name: -leans[name].value)
    answers = {
        name: [_trained_without(name, kept, sample, test) for sample in samples]
        for name in [INTACT, *(order[:LEFT_OUT] if len(order) > 1 else [])]
    }
    misses = _losses(answers, test, model)
    return Worth([Feature(name, leans[name], misses.get(name)) for name in order], len(samples[0]), len(test))


def section(e: Evaluation, measured: Worth) -> Addition:
    """Show both ways side by side."""
    facts, rows = METRICS[e.model["metric"]], []
    for feature in measured.features[:SHOWN]:
        for loss, how in ((feature.left_out, "trained without it"), (feature.shuffled, "shuffled")):
            if loss is not None:
                look = "model" if how != "shuffled" and loss.low > 0 else "plain"
                rows.append(Row(feature.name, loss, facts.gains.write(loss), how, look))
    tried = [feature for feature in measured.features if feature.left_out]
    missed = [feature.name for feature in tried if feature.left_out and feature.left_out.low > 0]
    better = [feature.name for feature in tried if feature.left_out and feature.left_out.high < 0]
    said = f"Missed: {listed(missed)}." if missed else "No feature is missed as long as the others are there."
    said += f" Better without: {listed(better)}." if better else ""
    rest = len(measured.features) - SHOWN
    shown = plots.section(
        "Which features would be missed?",
        said,
        plots.interval_rows(rows, 0.0),
        f"How much worse {label(e)} gets, with its 95 % interval: of a model trained anew without the feature "
        f"({TRIES} times on {measured.learned:,} rows drawn at random, against the same with all features), and of the "
        f"model that is kept, with the feature's values shuffled among {measured.tested:,} test rows. A feature "
        "that matters only when shuffled has a double among the others; leave out one such feature at a time."
        + (f" The {rest} least important features are not shown." if rest > 0 else "")
        + " What each feature costs was measured on this machine: costs.html, beside this page.",
    )
    return Addition(shown, {"features": [asdict(feature) for feature in measured.features]})


def costs(e: Evaluation, kept: Entrant, test: Examples) -> str:
    """Return a page with the microseconds a row that each feature costs; they differ from one run to the next."""
    part = test.take(np.arange(min(len(test), TEST_ROWS)))
    inputs = {column.name: part.columns[column.name] for column in kept.signature.inputs}
    jobs: dict[str, Callable[[], object]] = {
        name: _preparing(_only(part.packed, kept.signature, name))
        for name in (*kept.signature.numbers, *kept.signature.text)
    }
    spent = _fastest(
        {**jobs, "\0compute": lambda: compute(inputs), "\0score": lambda: kept.score(part.packed)}, len(part)
    )
    computing, scoring = spent.pop("\0compute"), spent.pop("\0score")
    lines = [
        f'<th scope="row">{escape(name)}</th><td>{cost:.3f}</td>'
        for name, cost in sorted(spent.items(), key=lambda item: -item[1])
    ]
    body = plots.section(
        "What each feature costs",
        f"All features together take {computing:.2f} µs per row to compute from the inputs; to score a row takes "
        f"{scoring:.2f} µs, of which the preparation of the features (filling, scaling, encoding) has the parts below.",
        plots.table("facts numbers", ["feature", "µs per row to prepare it"], lines),
        f"Processor time of the fastest of {REPEATS} runs over {len(part):,} rows at once, on one thread here. "
        "Another run gives other numbers: they are in no other report.",
    )
    title = f"{e.signature['name']}: cost of each feature"
    return plots.document(title, [f"<header><h1>{escape(title)}</h1></header>", body])


def _some(rows: Examples, most: int, rng: np.random.Generator) -> Examples:
    return rows.take(np.sort(rng.permutation(len(rows))[:most]))


def _losses(tries: dict[str, list[NDArray[Any]]], test: Examples, model: Model) -> dict[str, Interval]:
    """Return how much worse than intact each is; the intervals cover the choice of test rows and that of the tries."""
    wanted = {
        (name, place): measures(model.task, test.target, raw)[model.metric]
        for name, raws in tries.items()
        for place, raw in enumerate(raws)
    }
    keys = {key: f"{place}" for place, key in enumerate(wanted)}
    drawn = resampled({keys[key]: measure for key, measure in wanted.items()}, len(test), model.seed)
    picks = np.random.default_rng(model.seed).integers(0, TRIES, (TRIES, RESAMPLES + 1))
    picks[:, 0] = np.arange(TRIES)  # the value itself is the mean of all tries
    mean = {}
    for name in tries:
        every = np.stack([drawn[keys[name, place]] for place in range(TRIES)])
        mean[name] = np.take_along_axis(every, picks, axis=0).mean(axis=0)
    gain = METRICS[model.metric].gain
    return {name: Interval.of(gain(mean[INTACT], mean[name])) for name in tries if name != INTACT}


def _trained_without(name: str, kept: Entrant, learn: Examples, test: Examples) -> NDArray[Any]:
    estimator: Any = clone(kept.estimator)
    known = Examples({}, _without(learn.packed, kept.signature, name), learn.target)
    unknown = _without(test.packed, kept.signature, name)
    return answered(known, unknown, estimator, len(kept.signature.classes))[1].astype(np.float32)


def _shuffled(packed: Packed, signature: Signature, name: str, rng: np.random.Generator) -> Packed:
    numbers, text = packed.numbers.copy(), packed.text.copy()
    values = (
        numbers[:, signature.numbers.index(name)] if name in signature.numbers else text[:, signature.text.index(name)]
    )
    values[:] = values[rng.permutation(len(values))]
    return Packed(numbers, text)


def _without(packed: Packed, signature: Signature, name: str) -> Packed:
    return Packed(
        packed.numbers[:, [each != name for each in signature.numbers]],
        packed.text[:, [each != name for each in signature.text]],
    )


def _only(packed: Packed, signature: Signature, name: str) -> Packed:
    return Packed(
        packed.numbers[:, [each == name for each in signature.numbers]],
        packed.text[:, [each == name for each in signature.text]],
    )


def _preparing(packed: Packed) -> Callable[[], object]:
    graph = export.preprocessing_graph(preprocessing(), packed)
    session = scorer.session(graph.SerializeToString(), "the preprocessing's graph")
    return lambda: scorer.run(session, packed)


def _fastest(jobs: dict[str, Callable[[], object]], rows: int) -> dict[str, float]:
    """Run all jobs in turn, REPEATS times, and return the fewest microseconds a row that each took."""
    fewest = dict.fromkeys(jobs, np.inf)
    for _ in range(REPEATS):
        for name, job in jobs.items():
            start = time.thread_time()
            job()
            fewest[name] = min(fewest[name], 1e6 * (time.thread_time() - start) / rows)
    return fewest
