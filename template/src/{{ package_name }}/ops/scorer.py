"""The model file: one ONNX graph with its signature inside, loaded and run. Needs NumPy and ONNX Runtime alone.

The one rule that turns a written value into a typed one is here too: training, `make predict` and the service obey it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from .contract import Array, ProjectError

MODEL = Path("models/model.onnx")
UNSEEN = Path("outputs/unseen.csv")
"""Rows that the model has not seen, to try it on."""
KEY = "signature"
LARGEST = float(np.finfo(np.float32).max)
EXACT = 2**53
"""From here on a number no longer keeps its last digit."""
TRUE = {"true", "t", "yes", "y", "1", "1.0", "on", "oui", "ja", "si", "sí"}
FALSE = {"false", "f", "no", "n", "0", "0.0", "off", "non", "nein"}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
MARKS = "[ .\u00a0\u202f]"
"""What sets thousands apart beside a decimal comma, the same in the whole number."""
DECIMAL_COMMA = re.compile(rf"[+-]?([0-9]{{1,3}}({MARKS})[0-9]{{3}}(\2[0-9]{{3}})*|[0-9]*)(,[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Dialect:
    """How CSV files write values: `csv` of `config/data.yaml`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    """Words that mean: no value. What is empty always means it."""

    def __post_init__(self) -> None:
        """Raise ValueError for a dialect that no file can have."""
        if len(self.separator) != 1 or self.separator.isalnum() or self.separator in '"\r\n.+-':
            raise ValueError(f"separator: one sign such as , or ; is wanted, not {self.separator!r}")
        if self.decimal not in (".", ","):
            raise ValueError(f"decimal: should be '.' or ',', not {self.decimal!r}")
        if self.decimal == self.separator:
            raise ValueError("separator and decimal cannot both be ','")
        try:
            "a".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding: {self.encoding!r} is unknown; utf-8, latin-1 and cp1252 are usual") from None

    @property
    def is_utf8(self) -> bool:
        """Whether the text is UTF-8, which a mark at its beginning may say."""
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")


@dataclass(frozen=True)
class Input:
    """One column that a request carries."""

    name: str
    type: str
    unit: str | None = None
    means: str | None = None
    nulls: bool = False
    format: str | None = None
    """How text writes a time, beside ISO 8601; signs as in Python's strptime."""


@dataclass(frozen=True)
class Signature:
    """What the model takes and gives; it travels inside the model file."""

    name: str
    version: str
    task: str
    target: str
    unit: str | None
    inputs: tuple[Input, ...]
    numbers: tuple[str, ...]
    """Names of the number features, in the order of the graph's input `numbers`."""
    text: tuple[str, ...]
    """Names of the text features, in the order of the graph's input `text`."""
    classes: tuple[Any, ...] = ()
    """The target's values, in the order of the graph's probabilities (classification)."""
    threshold: float | None = None
    """Probability of the second class from which it is the answer (two classes)."""
    csv: Dialect = Dialect()

    def dump(self) -> str:
        """Return the signature as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read a signature back from `dump`."""
        content = json.loads(text)
        content["inputs"] = tuple(Input(**column) for column in content["inputs"])
        for key in ("numbers", "text", "classes"):
            content[key] = tuple(content[key])
        csv = content.pop("csv", {})  # a file from before there were dialects has none
        return cls(**content, csv=Dialect(**{**csv, "missing": tuple(csv.get("missing", ()))}))


@dataclass(frozen=True)
class Packed:
    """Features as the graph takes them: float32 (rows, n) and strings (rows, m); either may have no column."""

    numbers: NDArray[np.float32]
    text: NDArray[np.object_]


class Scorer:
    """A loaded model file."""

    def __init__(self, path: Path = MODEL, threads: int = 1) -> None:
        """Load the file with the given number of threads a request.

        Raises ProjectError where the file is missing, damaged or was not made by this project.
        """
        if not path.is_file():
            raise ProjectError(f"{path}: no model yet; run `make train` first")
        self.session = session(path.read_bytes(), f"{path}", threads)
        described = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if described is None:
            raise ProjectError(f"{path}: has no signature; it was not made by this project, run `make train`")
        self.signature = Signature.parse(described)
        self._given = [node.name for node in self.session.get_inputs()]

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """Return probabilities of shape (rows, classes), or values of shape (rows,) for a regression."""
        given = {"numbers": packed.numbers, "text": packed.text}
        raw: NDArray[np.float32] = self.session.run(None, {name: given[name] for name in self._given})[0]
        return raw if self.signature.task == "classification" else raw.reshape(-1)

    def answers(self, raw: NDArray[np.float32]) -> Array:
        """Turn what `run` returned into answers of shape (rows,): values, or the target's classes."""
        classes = self.signature.classes
        if self.signature.task == "regression":
            return raw
        if len(classes) == 2 and self.signature.threshold is not None:
            chosen = (raw[:, 1] >= self.signature.threshold).astype(np.int64)
        else:
            chosen = raw.argmax(axis=1)
        return np.array(classes, dtype=object)[chosen]


def session(content: bytes, name: str, threads: int = 1) -> InferenceSession:
    """Open an ONNX graph; raises ProjectError naming the file where it is damaged."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has one exception class for each status code and no common base
        raise ProjectError(f"{name}: not a usable model file; run `make train` again ({str(error)[:120]})") from None


def run(graph: InferenceSession, packed: Packed) -> NDArray[np.float32]:
    """Feed a graph the inputs that it has, and return its one output."""
    given = {"numbers": packed.numbers, "text": packed.text}
    result: NDArray[np.float32] = graph.run(None, {node.name: given[node.name] for node in graph.get_inputs()})[0]
    return result


def prediction_hash(raw: NDArray[np.float32]) -> str:
    """SHA-256 of the predictions' float32 bytes: equal trainings give equal hashes."""
    return hashlib.sha256(np.ascontiguousarray(raw, dtype="<f4").tobytes()).hexdigest()


def from_values(column: Input, values: Sequence[Any], first_row: int = 1, csv: Dialect | None = None) -> Array:
    """Turn values of one column, as text or as JSON and Parquet give them, into an array of its type, shape (rows,).

    Raises ProjectError naming the row and the value that does not fit.
    """
    read, missing, dtype = READERS[column.type]
    csv = csv or Dialect()
    made = np.empty(len(values), dtype=dtype)
    for position, value in enumerate(values):
        where = f"row {first_row + position}, column '{column.name}'"
        if _is_missing(value, column, csv):
            if not column.nulls:
                raise ProjectError(f"{where}: no value, and a value is wanted in every row")
            made[position] = missing
            continue
        try:
            made[position] = read(value, column, csv)
        except OverflowError:
            advice = "declare a key or a code as `type: text`"
            raise ProjectError(f"{where}: {value!r} has more digits than a number keeps; {advice}") from None
        except (ValueError, TypeError):
            raise ProjectError(f"{where}: {value!r} is not {wanted(column)}") from None
    return made


def wanted(column: Input) -> str:
    """Say what a column's values should be."""
    return WANTED[column.type] + (f" or as {column.format}" if column.format else "")


def _is_missing(value: Any, column: Input, csv: Dialect) -> bool:
    if isinstance(value, str):
        word = value.strip()
        return word in csv.missing or not (value if column.type == "text" else word)
    return value is None or (isinstance(value, float) and np.isnan(value))


def _number(value: Any, _: Input, csv: Dialect) -> float:
    if isinstance(value, str):
        value = value.strip()
        if csv.decimal == ",":
            if not any(map(str.isdigit, value)) or not DECIMAL_COMMA.fullmatch(value):
                raise ValueError
            value = re.sub(MARKS, "", value).replace(",", ".")
        if not NUMBER.fullmatch(value):
            raise ValueError
    elif isinstance(value, bool | date | bytes):
        raise ValueError
    number = float(value)
    if not abs(number) <= LARGEST:
        raise ValueError
    return number


def _integer(value: Any, column: Input, csv: Dialect) -> float:
    number = _number(value, column, csv)
    if number != int(number):
        raise ValueError
    if abs(number) >= EXACT:
        raise OverflowError
    return number


def _boolean(value: Any, _: Input, __: Dialect) -> float:
    word = str(value).strip().lower()
    if word not in TRUE | FALSE:
        raise ValueError
    return float(word in TRUE)


def _text(value: Any, _: Input, __: Dialect) -> str:
    if isinstance(value, list | dict | bytes):
        raise ValueError
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time(value: Any, column: Input, _: Dialect) -> np.datetime64:
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    elif isinstance(value, str):
        moment = _moment(value.strip(), column.format)
    else:
        raise ValueError
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")


def _moment(text: str, form: str | None) -> datetime:
    if form is not None:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            pass  # the files that this project writes itself, and requests, have ISO 8601
    if not text.isascii():
        raise ValueError
    return datetime.fromisoformat(text)


Reader = Callable[[Any, Input, Dialect], Any]
READERS: dict[str, tuple[Reader, Any, Any]] = {
    "number": (_number, np.nan, np.float64),
    "integer": (_integer, np.nan, np.float64),
    "boolean": (_boolean, np.nan, np.float64),
    "text": (_text, "", object),
    "time": (_time, np.datetime64("NaT", "us"), "datetime64[us]"),
}
WANTED = {
    "number": "a finite number",
    "integer": "a whole number",
    "boolean": "true or false",
    "text": "text",
    "time": "a time such as 2013-01-31T17:45:00",
}
