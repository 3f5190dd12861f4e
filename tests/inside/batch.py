"""Batch scoring of files of many batches: every row in its place, in constant memory. Run by `test_inside.py`."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    load,
)
from flight_delays.ops.contract import (
    Array,
    ProjectError,
)
from flight_delays.ops.process.schema import (
    drawn,
)
from flight_delays.ops.scorer import (
    Dialect,
)
from flight_delays.ops.serve import (
    batch,
)
from flight_delays.ops.train import (
    examples,
    fit,
    split,
    unfitted,
)

DATA, CASE = load(Data).model_copy(update={"csv": Dialect()}), load(Case)
MODEL = load(Model).model_copy(update={"estimator": "LogisticRegression", "parameters": {}})
ROWS = 40_000
PEAK = """
import re, sys
from pathlib import Path
from flight_delays.ops.serve.batch import ModelFile, predict
predict(ModelFile(Path("model.onnx")), Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None)
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model."""
    made = tmp_path_factory.mktemp("scoring")
    rows, signature = examples(drawn(DATA, MODEL.task, 400), DATA, CASE, MODEL)
    learn, test = split(rows, DATA, MODEL)
    (made / "model.onnx").write_bytes(fit(learn, test, signature, unfitted(MODEL)).content)
    return made


def columns(rows: int) -> dict[str, Array]:
    return {name: values for name, values in drawn(DATA, MODEL.task, rows, seed=1).items() if name in DATA.inputs}


def inputs(rows: int) -> pa.Table:
    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns(rows).items()})


def written(table: pa.Table, path: Path) -> Path:
    (pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_row_of_many_batches_keeps_its_place(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH", 6_000)
    model, shares, table = batch.ModelFile(folder / "model.onnx"), list[float](), inputs(ROWS)
    source = written(table, tmp_path / f"rows.{kind}")
    assert batch.predict(model, source, tmp_path / "out.csv", shares.append) == ROWS
    assert len(shares) > 3, "one batch only: this test shows nothing"
    assert shares == sorted(shares)
    assert shares[-1] == 1
    at_once = model.scorer.run(model.prepare(columns(ROWS)))
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        found = np.array([float(row["probability_true"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(found, at_once[:, 1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_mistake_in_a_late_batch_is_told_by_its_row(folder: Path, tmp_path: Path, kind: str) -> None:
    table = inputs(3 * batch.BATCH)
    name = next(name for name, column in DATA.inputs.items() if column.type in ("number", "integer"))
    words = table[name].cast(pa.string()).to_pylist()
    words[-1] = "far"
    odd = table.set_column(table.column_names.index(name), name, pa.array(words))
    source = written(odd, tmp_path / f"rows.{kind}")
    with pytest.raises(ProjectError, match=rf"rows\.{kind}: row {len(words)}, column '{name}': 'far'"):
        batch.predict(batch.ModelFile(folder / "model.onnx"), source, tmp_path / "out.csv", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what a process needed")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_file(folder: Path, tmp_path: Path, kind: str) -> None:
    few = inputs(2 * batch.BATCH)
    peaks = []
    for times in (1, 4):
        source = written(pa.concat_tables([few] * times), tmp_path / f"{times}.{kind}")
        command = [sys.executable, "-c", PEAK, source, tmp_path / f"out.{kind}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.25 * peaks[0], f"kB at the most: {peaks}"
