"""The room of training: rows are split, the preprocessing and the estimator fitted, and one model file comes out.

The estimator is fitted on the very floats that ONNX Runtime's preprocessing gives, so that training and serving agree:
scaled in float64 by scikit-learn, a forest would take other branches in 3 to 6 % of the rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from ... import __version__
from ...model import estimator as build_estimator
from ...model import preprocessing
from .. import scorer
from ..collect import stored
from ..config import Case, Data, Model, first_line
from ..contract import Array, Columns, Estimator, ProjectError
from ..features import compute, is_text, pack
from ..scorer import Dialect, Input, Packed, Signature
from . import export

ROWS_AGAIN = 32
"""Rows whose features are computed a second time, in another order."""


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to be tested on."""

    columns: Columns
    """The processed table's declared columns, each of shape (rows,)."""
    packed: Packed
    target: NDArray[Any]
    """Position of the class (int64) or value (float64), shape (rows,)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.target)

    def take(self, rows: NDArray[Any]) -> Examples:
        """Return the rows of a mask or of positions."""
        packed = Packed(self.packed.numbers[rows], self.packed.text[rows])
        return Examples({name: values[rows] for name, values in self.columns.items()}, packed, self.target[rows])


@dataclass(frozen=True)
class Fitted:
    """A trained model, as the file to keep and as the objects that made it."""

    content: bytes
    """The ONNX file: preprocessing and estimator in one graph, with its signature."""
    signature: Signature
    native: Callable[[Packed], NDArray[Any]]
    """What the training library itself answers, to compare the exported file with."""
    exported: NDArray[np.float32]
    """What the file answers for the test rows: probabilities of shape (rows, classes), or values of shape (rows,)."""

    @property
    def hash(self) -> str:
        """Hash of the predictions on the test rows."""
        return scorer.prediction_hash(self.exported)


def examples(columns: Columns, data: Data, case: Case, model: Model) -> tuple[Examples, Signature]:
    """Compute the features and the target of every row, and the signature of a model trained on them.

    Raises ProjectError where the target cannot be learned: one class only, missing values, text for a regression.
    """
    inputs = {name: columns[name] for name in data.inputs}
    made = compute(inputs)
    refuse_dependent(made, inputs, compute)
    numbers = tuple(name for name, values in made.items() if not is_text(values))
    text = tuple(name for name, values in made.items() if is_text(values))
    target, classes = _target(columns[data.target], data, case, model)
    signature = Signature(
        name=__package__.split(".")[0],
        version=__version__,
        task=model.task,
        target=data.target,
        unit=data.columns[data.target].unit,
        inputs=tuple(column.as_input(name) for name, column in data.inputs.items()),
        numbers=numbers,
        text=text,
        classes=classes,
        threshold=case.threshold if len(classes) == 2 else None,
        csv=data.csv,
    )
    return Examples(columns, pack(made, numbers, text), target), signature


def refuse_dependent(
    made: Columns, inputs: Columns, again: Callable[[Columns], Columns], count: int = ROWS_AGAIN
) -> None:
    """Raise ProjectError naming a feature that is another one for some rows alone or in another order.

    `made` are the features of all rows, `again` computes them for `count` rows once more, a quarter of these each
    alone: the service will ask for one row at a time.
    """
    rows = np.unique(np.linspace(0, len(next(iter(made.values()))) - 1, count).astype(int))[::-1]
    for part in (rows, *rows[: count // 4, None]):
        alone = again({name: values[part] for name, values in inputs.items()})
        for name in sorted(made.keys() ^ alone.keys()):
            raise ProjectError(f"features.py: '{name}' is made of some rows only; make the same features of any rows")
        for name, values in made.items():
            odd = np.flatnonzero(~_equal(values[part], alone[name]))
            if len(odd):
                row, among_few = int(part[odd[0]]), alone[name][odd[0]]
                raise ProjectError(
                    f"features.py: '{name}' of row {row + 1} is {values[row]} among all rows, but {among_few} among "
                    f"{len(part)}: a feature may look at its own row only, not at other rows or at chance"
                )


def _equal(some: Array, others: Array) -> NDArray[np.bool_]:
    if is_text(some) or is_text(others):
        return np.asarray(some.astype(str) == others.astype(str))
    return np.isclose(some, others, rtol=1e-6, atol=1e-9, equal_nan=True)  # vector units may round otherwise


def split(
    rows: Examples, data: Data, model: Model, tested: NDArray[np.bool_] | None = None
) -> tuple[Examples, Examples]:
    """Part the rows into those to learn from and those to test on: the latest ones, or a random share without a time.

    Rows of one moment stay together, so that the test rows are strictly later. `tested` may say otherwise.
    """
    if tested is not None:
        chosen = tested
    elif data.time is None:
        chosen = np.random.default_rng(model.seed).permutation(len(rows)) < model.test_share * len(rows)
    else:
        times = rows.columns[data.time]
        chosen = times > np.sort(times)[min(int((1 - model.test_share) * len(rows)), len(rows) - 1)]
    learn, test = rows.take(~chosen), rows.take(chosen)
    for part, name in ((learn, "learn from"), (test, "test on")):
        if len(part) == 0 or (model.task == "classification" and len(np.unique(part.target)) < 2):
            raise ProjectError(
                f"too few rows: those to {name} ({len(part)} of {len(rows)}) need at least two values of "
                f"'{data.target}'; give more data or change test_share in config/model.yaml"
            )
    if model.task == "classification" and len(np.unique(learn.target)) < len(np.unique(rows.target)):
        position = min(set(rows.target.tolist()) - set(learn.target.tolist()))
        row = int(np.flatnonzero(rows.target == position)[0]) + 1
        raise ProjectError(
            f"the value of '{data.target}' in row {row} is in none of the rows to learn from, only in later ones; "
            "give more data or drop such rows in process.py"
        )
    return learn, test


def unfitted(model: Model) -> Estimator:
    """Build the estimator that `config/model.yaml` names.

    Raises ProjectError for an estimator or a parameter that does not exist, or that cannot be exported.
    """
    export.refuse_unexportable(model.estimator)
    try:
        return build_estimator(model.estimator, dict(model.parameters), model.seed)
    except ProjectError:
        raise
    except Exception as error:  # your code may raise anything
        raise ProjectError(f"config/model.yaml, parameters of {model.estimator}: {error}") from None


def fit(learn: Examples, test: Examples, signature: Signature, estimator: Estimator) -> Fitted:
    """Fit preprocessing and estimator, export both, and check on the test rows that the file agrees with the library.

    Raises ProjectError for a parameter value that the estimator refuses, or an estimator that has no exact export.
    """
    graph, native = learned(learn, estimator)
    content = export.model_file(graph, estimator, signature)
    exported = scorer.run(scorer.session(content, "the exported model"), test.packed)
    export.refuse_disparity(native(test.packed), exported, type(estimator).__name__)
    return Fitted(content, signature, native, exported if signature.classes else exported.reshape(-1))


def learned(
    learn: Examples, estimator: Estimator, graph: onnx.ModelProto | None = None
) -> tuple[onnx.ModelProto, Callable[[Packed], NDArray[Any]]]:
    """Fit preprocessing and estimator; return the preprocessing's graph, and what the library answers for any rows.

    A `graph` that was fitted on the same rows before spares fitting it again.

    Raises ProjectError for a parameter value that the estimator refuses.
    """
    # one thread for linear algebra: the order of a sum changes its last bit, and the predictions' hash with it
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        graph = graph or export.preprocessing_graph(preprocessing(), learn.packed)
        prepared = scorer.session(graph.SerializeToString(), "the preprocessing's graph")
        try:
            estimator.fit(scorer.run(prepared, learn.packed), learn.target)
        except Exception as error:  # each estimator has ways of its own to refuse a parameter
            raise ProjectError(f"config/model.yaml, {type(estimator).__name__}: {first_line(error)}") from error

    def native(packed: Packed) -> NDArray[Any]:
        rows = scorer.run(prepared, packed)
        answer = estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else estimator.predict(rows)
        return np.asarray(answer)

    return graph, native


def quality(metric: str, target: NDArray[Any], raw: NDArray[Any]) -> float:
    """Return one of the metrics that `config/model.yaml` may name, for what `Scorer.run` answered."""
    measures: dict[str, Callable[[], float]] = {
        "roc_auc": lambda: np.mean([metrics.roc_auc_score(target == c, raw[:, c]) for c in np.unique(target)]),
        "log_loss": lambda: metrics.log_loss(target, raw, labels=range(raw.shape[1])),
        "accuracy": lambda: metrics.accuracy_score(target, raw.argmax(axis=1)),
        "rmse": lambda: metrics.root_mean_squared_error(target, raw),
        "mae": lambda: metrics.mean_absolute_error(target, raw),
        "r2": lambda: metrics.r2_score(target, raw),
    }
    return float(measures[metric]())


def write_unseen(test: Examples, data: Data, path: Path) -> None:
    """Write the key and the inputs of the test rows as CSV, to a path from `atomic`: rows to try the model on.

    They are written in the dialect of `config/data.yaml`, so that they are read back as the very same values.
    """
    names = [*([data.key] if data.key and data.key not in data.inputs else []), *data.inputs]
    table = pa.table({n: _written(data.columns[n].as_input(n), test.columns[n], data.csv) for n in names})
    pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter=data.csv.separator))
    if not data.csv.is_utf8:
        path.write_text(path.read_text(encoding="utf-8"), encoding=data.csv.encoding, errors="replace")


def _written(column: Input, values: Array, csv: Dialect) -> pa.Array:
    made = stored(column, values)
    if column.type == "number" and csv.decimal == ",":
        return pc.replace_substring(made.cast(pa.string()), ".", ",")
    if column.type == "time" and column.format is not None:
        moments = values.tolist()
        return pa.array([None if moment is None else moment.strftime(column.format) for moment in moments], pa.string())
    return made


def _target(values: Array, data: Data, case: Case, model: Model) -> tuple[NDArray[Any], tuple[Any, ...]]:
    kind = data.columns[data.target].type
    missing = values == "" if is_text(values) else np.isnan(values.astype(np.float64))
    if missing.any():
        row = int(np.flatnonzero(missing)[0]) + 1
        raise ProjectError(f"row {row}: the target '{data.target}' is missing; drop such rows in process.py")
    if model.task == "regression":
        if kind not in ("number", "integer"):
            raise ProjectError(
                f"config/model.yaml, metric: {model.metric} needs a number, but the target '{data.target}' is {kind}"
            )
        if data.positive is not None:
            raise ProjectError(f"config/data.yaml, positive: '{data.target}' is a quantity here; remove the line")
        return values.astype(np.float64), ()
    classes, positions = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise ProjectError(f"the target '{data.target}' has one value only ({classes[0]}): there is nothing to learn")
    if len(classes) > 100:
        raise ProjectError(
            f"the target '{data.target}' has {len(classes)} values: too many classes; "
            "for a quantity choose a regression metric in config/model.yaml"
        )
    convert: Callable[[Any], Any] = {"boolean": bool, "integer": int}.get(kind, lambda value: value)
    named = tuple(convert(value) for value in classes.tolist())
    if _first_is_yes(named, data, case):
        return 1 - positions.astype(np.int64), named[::-1]
    return positions.astype(np.int64), named


def _first_is_yes(classes: tuple[Any, ...], data: Data, case: Case) -> bool:
    """Whether the first of two classes in order counts as yes: the second is what costs and probabilities speak of."""
    told = f"config/data.yaml, positive: the target '{data.target}' has the classes {_either(classes)}"
    if data.positive is not None and (data.positive not in classes or len(classes) > 2):
        what = "no class of more than two counts as yes; remove the line" if len(classes) > 2 else "name one of them"
        raise ProjectError(f"{told}, {data.positive!r} is given; {what}")
    if data.positive is None and case.cost_of_errors and len(classes) == 2 and isinstance(classes[0], str):
        yes = f"`positive: {json.dumps(classes[1], ensure_ascii=False)}`"
        raise ProjectError(
            f"{told}, and cost_of_errors of config/case.yaml needs to know which one counts as yes; "
            f"write {yes} (or the other one) below `target`"
        )
    return data.positive is not None and data.positive == classes[0]


def _either(classes: tuple[Any, ...]) -> str:
    shown = [repr(value) for value in classes[:10]] + (["..."] if len(classes) > 10 else [])
    return " and ".join(", ".join(shown).rsplit(", ", 1))
