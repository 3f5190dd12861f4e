"""Batch scoring: a CSV or Parquet file of any size in, the same rows with their predictions out, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from ..collect import SUFFIXES, typed
from ..config import first_line
from ..contract import Array, Columns, ProjectError
from ..features import prepare
from ..files import atomic, header, in_utf8, refuse_empty, refuse_twice
from ..scorer import Dialect, Input, Packed, Scorer

BATCH = 65_536
"""Rows scored at a time."""
BUFFER = 2**20
"""Bytes of each column of a Parquet file that are read at a time: a row group may be larger than memory."""


class Model(Protocol):
    """What answers rows: a model file, and the features that it was trained with."""

    @property
    def scorer(self) -> Scorer:
        """Return the loaded model file."""
        ...

    def prepare(self, columns: Columns) -> Packed:
        """Turn typed input columns into what the model file takes."""
        ...


class ModelFile:
    """A model file, with the `features.py` that stands in the project."""

    def __init__(self, path: Path) -> None:
        """Load the file; raises ProjectError where it is none."""
        self.scorer = Scorer(path)

    def prepare(self, columns: Columns) -> Packed:
        """Turn typed input columns into what the model file takes."""
        return prepare(columns, self.scorer.signature)


def score(opened: Callable[[], Model], source: str, output: str, say: Callable[[str], None]) -> None:
    """Score a file with a model, show how far it is, and say what was written; see `predict`."""
    if not source or not output:
        raise ProjectError("say which files: make predict INPUT=rows.csv OUTPUT=predictions.csv")
    model, console = opened(), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("scoring", total=1.0)
        rows = predict(model, Path(source), Path(output), lambda share: progress.update(bar, completed=share))
    say(f"{rows} rows scored -> {output}")


def predict(model: Model, source: Path, output: Path, progress: Callable[[float], None]) -> int:
    """Score every row of `source` into `output` and return their number; `progress` is told the share that is done.

    The output holds the input's columns, then `prediction` and, for classes, one `probability_<class>` each.
    Raises ProjectError naming file, row and column of a value that does not fit; `output` is then not written.
    """
    refuse_other_files(source, output, SUFFIXES)
    rows = 0
    with ExitStack() as stack, atomic(output) as temporary:
        writer: Any = None
        for share, batch in batches(source, model.scorer.signature.csv, stack):
            table = scored(model, batch, source, rows + 1)
            if writer is None:
                writer = stack.enter_context(_writer(output, temporary, table.schema))
            writer.write_table(table)
            rows += batch.num_rows
            progress(share)
        if writer is None:
            raise ProjectError(f"{source}: no row to score")
        writer.close()
    return rows


def refuse_other_files(source: Path, output: Path, suffixes: Sequence[str]) -> None:
    """Raise ProjectError for an input that is no CSV or Parquet file, or an output that does not end as it should."""
    for path, allowed in ((source, SUFFIXES), (output, suffixes)):
        if path.suffix not in allowed:
            raise ProjectError(f"{path}: should end with {' or '.join(allowed)}")
    if not source.is_file():
        raise ProjectError(f"{source}: not found")
    refuse_empty(source)
    if output.exists() and source.samefile(output):
        raise ProjectError(f"{output}: is the input itself; give another OUTPUT")


def batches(source: Path, csv: Dialect, stack: ExitStack) -> Iterator[tuple[float, pa.RecordBatch]]:
    """Yield the share of the file that is read, and each batch of rows; CSV values stay text until they are typed.

    Raises ProjectError for a file that cannot be read.
    """
    try:
        if source.suffix == ".parquet":
            parquet = stack.enter_context(pyarrow.parquet.ParquetFile(source, buffer_size=BUFFER))
            refuse_twice(source, parquet.schema_arrow.names)
            total, done = max(parquet.metadata.num_rows, 1), 0
            for batch in parquet.iter_batches(batch_size=BATCH):
                done += batch.num_rows
                yield done / total, batch
        else:
            names = header(source, csv)
            file = stack.enter_context(in_utf8(source, csv))
            # Arrow's own file: its threads read ahead, and abort a process that ends while they wait for Python
            opened = stack.enter_context(pa.OSFile(str(file)))
            as_text = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            )
            form = pyarrow.csv.ParseOptions(delimiter=csv.separator, newlines_in_values=True)
            begin = pyarrow.csv.ReadOptions(column_names=names, skip_rows_after_names=1)
            for batch in stack.enter_context(pyarrow.csv.open_csv(opened, begin, form, as_text)):
                yield min(opened.tell() / file.stat().st_size, 1.0) if not opened.closed else 1.0, batch
    except pa.ArrowInvalid as error:
        raise ProjectError(f"{source}: not a readable {source.suffix[1:]} file ({first_line(error)})") from None
    except OSError as error:
        raise ProjectError(f"{source}: cannot be read ({error.strerror or error})") from None


def scored(model: Model, batch: pa.RecordBatch, source: Path, first_row: int) -> pa.Table:
    """Return a batch with its predictions; see `taken`."""
    _, _, raw = taken(model, batch, source, first_row)
    return with_answers(model, batch, raw)


def taken(
    model: Model, batch: pa.RecordBatch, source: Path, first_row: int
) -> tuple[Columns, Packed, NDArray[np.float32]]:
    """Return a batch as typed columns, as features, and what the model says; `first_row` is its place in the source.

    Raises ProjectError naming file, row and column of a value that does not fit.
    """
    signature = model.scorer.signature
    try:
        columns = {column.name: _typed(column, batch, first_row, signature.csv) for column in signature.inputs}
    except ProjectError as error:
        raise ProjectError(f"{source}: {error}") from None
    packed = model.prepare(columns)
    return columns, packed, model.scorer.run(packed)


def with_answers(model: Model, batch: pa.RecordBatch, raw: NDArray[np.float32]) -> pa.Table:
    """Return a batch with what the model says of it."""
    table = pa.table(batch)
    for name, values in _answers(model.scorer, raw).items():
        table = put_last(table, name, pa.array(values))
    return table


def put_last(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return a table with another last column, in place of one of the same name."""
    table = table.drop_columns([name]) if name in table.column_names else table
    return table.append_column(name, values)


def _typed(column: Input, batch: pa.RecordBatch, first_row: int, csv: Dialect) -> Array:
    if column.name not in batch.schema.names:
        raise ProjectError(f"column '{column.name}' is missing (found: {', '.join(batch.schema.names)})")
    return typed(column, batch.column(column.name), first_row, csv)


def _answers(scorer: Scorer, raw: NDArray[np.float32]) -> dict[str, Any]:
    answers = {"prediction": scorer.answers(raw).tolist()}
    for position, name in enumerate(scorer.signature.classes):
        answers[f"probability_{str(name).lower() if isinstance(name, bool) else name}"] = raw[:, position]
    return answers


def _writer(output: Path, temporary: Path, schema: pa.Schema) -> Any:
    if output.suffix == ".parquet":
        return pyarrow.parquet.ParquetWriter(temporary, schema)
    nested = next((field for field in schema if pa.types.is_nested(field.type)), None)
    if nested is not None:
        reason = f"column '{nested.name}' holds {nested.type}, which CSV cannot"
        raise ProjectError(f"{output}: {reason}; give an OUTPUT that ends with .parquet")
    return pyarrow.csv.CSVWriter(temporary, schema)
