"""MLflow's scoring protocol on the fast path: a body becomes typed rows and columns without a detour.

What a value means, and every sentence of an error, is for the exact path to say, which is that of level 1
(`app.READERS`, `from_request`). The fast path takes what the exact one surely reads the same way, else it says None.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from types import NoneType
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType, defstruct
from numpy.typing import NDArray

from ..contract import Array, ProjectError
from ..release.contract import Contract
from ..scorer import EXACT, LARGEST, Dialect, Input, Signature, from_values
from .app import FORMS, class_names, read_csv, read_json
from .page import DETAIL, ERRORS, TYPES, object_of, request_body, response_schema

KINDS: dict[str, type] = {"number": float, "integer": float, "boolean": bool, "text": str, "time": str}
JSON, V2 = "application/json", "Protocol v2:"
REFUSALS = {
    **{int(status): str(error["description"]) for status, error in ERRORS.items()},
    401: "The key is missing or wrong",
    404: "This model is not served here",
    408: "The body did not arrive in time",
    503: "Not at present: the service stops, is full, or its log cannot be written",
    504: "The answer took too long",
}
Columns: TypeAlias = dict[str, Array]
Read: TypeAlias = Callable[[bytes, Sequence[str], Dialect], Sequence[Mapping[str, Any]]]
Quick: TypeAlias = Callable[[bytes, "Reader"], tuple[Columns, list[Any]] | None]
"""What reads a body exactly, and what reads it quickly or not at all."""
_TAKING = (400, 401, 408, 413, 422, 503)
_SCORING = (*_TAKING, 415, 504)
_TEXT, _WHOLE, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
ORDERS = 64
"""Orders of columns, of requests in the form `dataframe_split`, whose decoders are kept."""


class Split(msgspec.Struct):
    """A table: names of columns, and rows that are looked at once the names are known."""

    columns: tuple[str, ...]
    data: msgspec.Raw


class Reader:
    """Reads requests to one model."""

    def __init__(self, signature: Signature) -> None:
        """Prepare to read the columns of a signature."""
        self.inputs, self.csv = signature.inputs, signature.csv
        self.names = [column.name for column in self.inputs]
        self._missing = frozenset(signature.csv.missing)
        places = {kind: [i for i, c in enumerate(self.inputs) if c.type == kind] for kind in KINDS}
        self._numbers = sorted([*places["number"], *places["integer"], *places["boolean"]])
        self._whole = [self._numbers.index(place) for place in places["integer"]]
        self._text, self._times = places["text"], places["time"]
        self._orders: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._row, self._decode = self._decoder()

    def _decoder(self) -> tuple[Any, Any]:
        """Return the structure of a row, and what decodes a body; nothing if a column's name needs escapes in JSON."""
        kinds = [_kind(column) for column in self.inputs]
        fields = [f"c{place}" for place in range(len(kinds))]
        names = dict(zip(fields, self.names, strict=True))
        try:
            row: Any = defstruct("Row", list(zip(fields, kinds, strict=True)), rename=names, gc=False)
        except ValueError:
            return None, None
        rows: Any = list[row | tuple[*kinds]]  # type: ignore[valid-type]
        lists = [list.__class_getitem__(kind) for kind in kinds]
        columns: Any = defstruct("Columns", list(zip(fields, lists, strict=True)), rename=names)
        forms = {"dataframe_records": list[row], "dataframe_split": Split, "instances": rows, "inputs": columns | rows}
        body = defstruct("Body", [(form, forms[form] | UnsetType, UNSET) for form in FORMS])
        return row, msgspec.json.Decoder(body).decode

    def rows(self, body: bytes) -> list[Any] | None:
        """Return the rows of a JSON request, each a structure of the model's columns; None for the exact path."""
        if self._decode is None:
            return None
        try:
            if not body.isascii():
                body.decode()  # msgspec passes over text that it does not need, whatever its bytes
            asked = self._decode(body)
            given = [asked.dataframe_records, asked.dataframe_split, asked.instances, asked.inputs]
            if given.count(UNSET) != len(given) - 1:
                return None
            records, split, instances, inputs = given
            if records is not UNSET:
                return records or None
            if split is not UNSET:
                return self._split(split) or None
            return self._listed(inputs if instances is UNSET else instances) or None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _listed(self, given: Any) -> list[Any] | None:
        if not isinstance(given, list):
            columns = msgspec.structs.astuple(given)
            if len({len(column) for column in columns}) != 1:
                return None
            return list(map(self._row, *columns))
        row = self._row
        return [row(*one) if type(one) is tuple else one for one in given]

    def _split(self, given: Split) -> list[Any] | None:
        if given.columns not in self._orders:
            if len(set(given.columns)) < len(given.columns) or not set(self.names) <= set(given.columns):
                return None
            if len(self._orders) >= ORDERS:
                self._orders.clear()
            known = {column.name: _kind(column) for column in self.inputs}
            kinds = [known.get(name, Any) for name in given.columns]
            line: Any = tuple[*kinds]  # type: ignore[valid-type]
            places = [given.columns.index(name) for name in self.names]
            pick = operator.itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
            self._orders[given.columns] = msgspec.json.Decoder(list[line]).decode, pick
        decode, pick = self._orders[given.columns]
        return [self._row(*pick(values)) for values in decode(given.data)]

    def values(self, rows: Sequence[Any], name: str) -> list[str]:
        """Return what rows of either path hold in a column, as text."""
        place = self.names.index(name)
        found = (row[name] if isinstance(row, dict) else msgspec.structs.astuple(row)[place] for row in rows)
        return [str(value) for value in found]

    def columns(self, rows: Sequence[Any]) -> dict[str, Array] | None:
        """Return rows as typed columns; None if a value among them is for the exact path to judge."""
        lines = list(map(msgspec.structs.astuple, rows))
        if len(self._numbers) == len(self.names):  # the usual case, and so the quickest way
            return self._typed([], np.array(lines, dtype=np.float64).T)
        return self.checked(list(zip(*lines, strict=True)))

    def checked(self, given: Sequence[Any]) -> dict[str, Array] | None:
        """Return the values of each column, of its kind or None where they may be missing, as typed columns."""
        return self._typed(given, np.array([given[place] for place in self._numbers], dtype=np.float64))

    def _typed(self, given: Sequence[Any], matrix: NDArray[np.float64]) -> dict[str, Array] | None:
        if (np.abs(matrix) > LARGEST).any() or (self._whole and not _is_whole(matrix[self._whole])):
            return None
        typed: list[Any] = [None] * len(self.names)
        for place, values in zip(self._numbers, matrix, strict=True):
            typed[place] = values
        for place in self._text:
            words = ["" if word is None else word for word in given[place]]
            if any(word is not None and (not word or word.strip() in self._missing) for word in given[place]):
                return None
            typed[place] = np.array(words, dtype=object)
        for place in self._times:
            try:
                typed[place] = from_values(self.inputs[place], given[place], csv=self.csv)
            except ProjectError:
                return None
        return dict(zip(self.names, typed, strict=True))


def _in_json(body: bytes, reader: Reader) -> tuple[Columns, list[Any]] | None:
    """Return what the fast path makes of a JSON body; None where it leaves that to the exact one."""
    rows = reader.rows(body)
    columns = reader.columns(rows) if rows else None
    return None if rows is None or columns is None else (columns, rows)


READ: dict[bytes, tuple[Read, Quick | None]] = {
    b"application/json": (read_json, _in_json),
    b"text/csv": (read_csv, None),
}
"""How a body of each Content-Type is read, exactly and quickly."""


def _kind(column: Input) -> Any:
    kind = KINDS[column.type]
    return kind | NoneType if column.nulls else kind


def _is_whole(values: NDArray[np.float64]) -> bool:
    """Whether all are whole numbers that keep their last digit, or missing."""
    return bool(((np.floor(values) == values) & (np.abs(values) < EXACT) | np.isnan(values)).all())


def plain(columns: Columns, inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """Return typed columns as rows of values that JSON knows; a missing number or time is null."""
    made = {column.name: [_plain(value, column.type) for value in columns[column.name].tolist()] for column in inputs}
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


def _plain(value: Any, kind: str) -> Any:
    if value is None or value != value:  # noqa: PLR0124 - only NaN differs from itself
        return None
    if kind in ("text", "number"):
        return value
    return value.isoformat() if kind == "time" else bool(value) if kind == "boolean" else int(value)


class Answers(msgspec.Struct, omit_defaults=True):
    """The body of an answer."""

    predictions: list[Any]
    probabilities: list[Any] | UnsetType = UNSET


class Replies:
    """Writes the answers of one model."""

    def __init__(self, signature: Signature) -> None:
        """Prepare to write the classes of a signature, if it has any."""
        self._encode = msgspec.json.Encoder().encode
        self._chances = _object("Chances", class_names(signature), float) if signature.classes else None

    def body(self, predictions: list[Any], raw: list[Any]) -> bytes:
        """Return the body of an answer: a prediction a row, and of classes their probabilities, from `raw`."""
        if self._chances is None:
            return self._encode(Answers(predictions))
        return self._encode(Answers(predictions, [self._chances(*row) for row in raw]))


def _object(kind: str, names: Sequence[str], *types: Any) -> Callable[..., Any]:
    """Return what makes an object of values in the order of `names`; a structure, unless JSON must escape a name."""
    fields = [f"f{place}" for place in range(len(names))]
    renamed = dict(zip(fields, names, strict=True))
    try:
        return defstruct(kind, list(zip(fields, cycle(types))), rename=renamed, gc=False)
    except ValueError:
        return lambda *values: dict(zip(names, values, strict=True))


def described(contract: Contract, version: str) -> dict[str, Any]:
    """Return the OpenAPI page of the service: every route with every answer that it may give."""
    is_up = _route("get", "Is the service up?", object_of(status=_TEXT), ())
    truth = object_of(id={**_TEXT, "minLength": 1, "maxLength": 100}, truth=TYPES[contract.output.type])
    truths = {"oneOf": [truth, {"type": "array", "items": truth, "minItems": 1}]}
    feedback = {"required": True, "content": {JSON: {"schema": truths}}}
    tensor = object_of(name={"enum": [*contract.inputs]}, shape={"type": "array", "items": {"type": "integer"}})
    tensor["properties"] |= {"datatype": _TEXT, "data": {"type": "array"}}
    tensor["required"] += ["datatype", "data"]
    tensors = object_of(inputs={"type": "array", "items": tensor, "minItems": len(contract.inputs)})
    infer = {"required": True, "content": {JSON: {"schema": tensors}}}
    outputs = object_of(model_name=_TEXT, model_version=_TEXT, outputs={"type": "array", "items": {"type": "object"}})
    server = object_of(name=_TEXT, version=_TEXT, extensions={"type": "array", "items": _TEXT})
    model = f"/v2/models/{quote(contract.name)}"
    paths = {
        "/invocations": _route("post", "Score rows", response_schema(contract), _SCORING, request_body(contract)),
        "/feedback": _route("post", "Say what became of predictions", object_of(accepted=_WHOLE), _TAKING, feedback),
        "/ping": is_up,
        "/health": _route("get", "Is the service ready?", object_of(status=_TEXT), (503,)),
        "/version": _route("get", "Which model answers?", {"type": "object"}, (401,)),
        "/metrics": _route("get", "Counters for Prometheus", _TEXT, (401,), media="text/plain"),
        "/v2": _route("get", f"{V2} the server", server, (401,)),
        "/v2/health/live": _route("get", f"{V2} is the service up?", object_of(live=_TRUTH), ()),
        "/v2/health/ready": _route("get", f"{V2} is the service ready?", object_of(ready=_TRUTH), (503,)),
        model: _route("get", f"{V2} the model", object_of(name=_TEXT, platform=_TEXT), (401, 404)),
        f"{model}/ready": _route("get", f"{V2} is the model ready?", object_of(ready=_TRUTH), (401, 404, 503)),
        f"{model}/infer": _route("post", f"{V2} score rows", outputs, (404, *_SCORING), infer),
    }
    info = {"title": contract.name, "version": version, "description": contract.decision}
    key = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"securitySchemes": key}}


def _route(
    method: str, summary: str, answer: Any, refusals: Sequence[int], body: Any = None, media: str = JSON
) -> dict[str, Any]:
    """Return the OpenAPI description of a route; whether it wants a key is for who runs the service to say."""
    answers = {200: {"description": "Answered", "content": {media: {"schema": answer}}}}
    sentence = {JSON: {"schema": object_of(error=_TEXT)}} if summary.startswith(V2) else DETAIL
    answers |= {status: {"description": REFUSALS[status], "content": sentence} for status in refusals}
    more = {} if body is None else {"requestBody": body}
    security: dict[str, Any] = {"security": [{}, {"key": []}]} if 401 in refusals else {}
    return {method: {"summary": summary, **more, **security, "responses": answers}}
