"""The stages of dvc.yaml: each reads files, writes files, and returns one sentence about what it did.

The command composes them with DVC, which runs a stage only when something that it reads has changed. What they make
lies in build/; the command moves it to its place once all of it is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .config import ANSWERS, PACKAGE, Case, Data, Model, load
from .contract import Array, Columns, to_columns
from .files import atomic, put_in_place, sha256
from .scorer import MODEL, UNSEEN, Signature

if TYPE_CHECKING:
    from .train import Examples

BUILD = Path("build")
INPUTS = BUILD / "inputs.json"
PROCESSED = BUILD / "processed.parquet"
ENTRANTS = BUILD / "entrants"
EVALUATION = BUILD / "evaluation"
CHAMPION = BUILD / "champion.onnx"
"""The model in production, put there by the command; the report compares with it, nothing else depends on it."""
REPORT, METRICS, CARD = Path("reports/report.html"), Path("reports/metrics.json"), Path("reports/card.md")
PUBLISHED = {path.name: path for path in (MODEL, UNSEEN, REPORT, METRICS, CARD, CARD.with_suffix(".html"))}
"""Where what a run made is found, by its name in build/evaluation; moved into place together, the model last."""
TEST, REFERENCE = EVALUATION / "test.parquet", EVALUATION / "reference.parquet"
"""Rows that tested the model, with their answers, and rows of those that it learned from; kept with each version."""
REFERENCE_ROWS = 100_000
TESTED = "tests a model"
"""Column of the processed rows: 1 where a row tests the model, where it is not the time that says so."""
NAMED = {"__init__.py", "collect.py", "features.py", "label.py", "model.py", "process.py"}
"""Your modules that dvc.yaml names."""


def process() -> str:
    """Collected files to checked rows."""
    data, model = load(Data), load(Model)
    columns = checked(data, model)
    write_columns(columns, PROCESSED)
    return f"{len(columns[data.target])} rows are as config/data.yaml allows"


def checked(data: Data, model: Model) -> dict[str, Array]:
    """Return the processed columns of what is collected, and the rows from production where there are any.

    Of these, the column TESTED then says which rows test a model.
    """
    columns, production = gathered(data, model), f"{__package__}.retrain.production"  # from level 4 on
    if find_spec(production) is not None:
        columns, tested = import_module(production).taken_in(columns, data, model.test_share)
        columns |= {} if tested is None else {TESTED: tested.astype(np.float64)}
    return columns


def gathered(data: Data, model: Model) -> dict[str, Array]:
    """Return the processed columns of what is collected, after making sure that `config/data.yaml` allows them."""
    from .collect import collected
    from .collect.sources import places
    from .label import labelled
    from .label.answers import Labels
    from .process.schema import refuse_invalid

    columns = labelled(collected(places(data), data), data, load(Labels))
    refuse_invalid(columns, data, model.task)
    return columns


def parted(columns: dict[str, Array], data: Data, case: Case, model: Model) -> tuple[Examples, Examples, Signature]:
    """Return the rows of `checked` to learn from, those to test on, and the signature of a model that knows them."""
    from .train import examples, split

    tested = columns.get(TESTED)
    rows, signature = examples({name: columns[name] for name in data.columns}, data, case, model)
    learn, test = split(rows, data, model, None if tested is None else tested > 0)
    return learn, test, signature


def train() -> str:
    """Rows to the model files of the constant answer, the linear model and the candidate."""
    from .evaluate import line_up
    from .label import refuse_answers
    from .train import fit, unfitted

    data, case, model = load(Data), load(Case), load(Model)
    candidate = unfitted(model)
    learn, test, signature = parted(read_columns(PROCESSED), data, case, model)
    refuse_answers((*signature.numbers, *signature.text), data, "features.py: the feature")
    started = line_up(model, candidate, len(learn))
    for role, estimator in started.items():
        with atomic(ENTRANTS / f"{role}.onnx") as path:
            path.write_bytes(fit(learn, test, signature, estimator).content)
    return f"{model.estimator} and {len(started) - 1} simpler models learned from {len(learn)} rows"


def evaluate() -> str:
    """Model files to the one that earned its place, measured from every side."""
    from .evaluate import card, compare, compete, line_up, report
    from .evaluate import evaluate as measured
    from .train import unfitted, write_unseen

    data, case, model = load(Data), load(Case), load(Model)
    learn, test, signature = parted(read_columns(PROCESSED), data, case, model)
    started = line_up(model, unfitted(model), len(learn))
    files = {role: (ENTRANTS / f"{role}.onnx").read_bytes() for role in started}
    outcome = compete(started, files, test, signature, model)
    evaluation = measured(outcome, learn, test, data, case, model)
    more = compare.additions(evaluation, outcome, learn, test, data, model, CHAMPION if CHAMPION.is_file() else None)
    report.write(evaluation, EVALUATION / REPORT.name, more)
    card.write(evaluation, data, hashlib.sha256(outcome.kept.content).hexdigest(), EVALUATION / CARD.name)
    drawn = np.random.default_rng(model.seed).permutation(len(learn))[:REFERENCE_ROWS]
    for path, part in ((TEST, test), (REFERENCE, learn.take(np.sort(drawn)))):
        write_columns({name: part.columns[name] for name in data.judged}, path)
    with atomic(EVALUATION / UNSEEN.name) as table, atomic(EVALUATION / MODEL.name) as path:
        write_unseen(test, data, table)
        path.write_bytes(outcome.kept.content)
    return outcome.sentence


STAGES: dict[str, Callable[[], str]] = {"process": process, "train": train, "evaluate": evaluate}


def write_inputs() -> None:
    """Write what stages read beside the files that dvc.yaml can name: whatever is not there is written as null."""
    case, model = load(Case), load(Model)
    yours = [path for path in sorted(PACKAGE.rglob("*.py")) if "ops" not in path.relative_to(PACKAGE).parts]
    content = {
        "costs": case.cost_of_errors,
        "labels": sha256(ANSWERS) if ANSWERS.is_file() else None,
        "modules": {path.stem: sha256(path) for path in yours if path.parent != PACKAGE or path.name not in NAMED},
        "task": model.task,
    }
    with atomic(INPUTS) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_columns(columns: Columns, path: Path) -> None:
    """Write columns so that `read_columns` gives the very same values in the very same order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with atomic(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_columns(path: Path) -> dict[str, Array]:
    """Read what `write_columns` wrote."""
    import pyarrow.parquet as pq

    return to_columns(pq.read_table(path))


def publish() -> None:
    """Copy what the run made to where people and commands look for it."""
    made: dict[Path, str | Path] = {path: EVALUATION / name for name, path in PUBLISHED.items()}
    if not all(path.is_file() and sha256(path) == sha256(EVALUATION / path.name) for path in made):
        put_in_place(made)
