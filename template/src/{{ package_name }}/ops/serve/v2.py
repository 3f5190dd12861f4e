"""The Open Inference Protocol, version 2, with its extension for binary tensors: one input tensor for each column.

The protocol: https://github.com/kserve/open-inference-protocol; the extension: Triton's `extension_binary_data.md`.
What a value means is the same as in MLflow's protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ..contract import Array, ProjectError
from ..pages import hint
from ..release.bundle import Bundle
from ..scorer import Dialect, Input, Signature
from . import Answered
from .guard import Headers, Refusal
from .protocols import Reader, plain

SERVER = {"extensions": ["binary_tensor_data"]}
LENGTH = b"inference-header-content-length"
"""Header: bytes of the body that are JSON; binary tensors follow them."""
TYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}").type for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
COLUMNS = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "text": "BYTES", "time": "BYTES"}
"""What the metadata propose for a column; a request may use any type whose values read as the column's."""
SIZE = struct.Struct("<I")
"""What stands before each string of a binary tensor: its bytes' number."""


class Tensor(msgspec.Struct):
    """One input of a request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | UnsetType = UNSET


class Wanted(msgspec.Struct):
    """One output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class Request(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[Tensor]
    outputs: list[Wanted] = []
    id: str = ""
    parameters: dict[str, Any] = {}


_DECODE = msgspec.json.Decoder(Request).decode


class Question:
    """A request of the protocol."""

    def __init__(self, headers: Headers, signature: Signature) -> None:
        """Prepare to read a body for a model; raises Refusal for one that is compressed."""
        self._outputs = {name: (kind, shape) for name, kind, shape in outputs(signature)}
        if b"content-encoding" in headers:
            raise Refusal(415, "send the body as it is, without a Content-Encoding")
        length = headers.get(LENGTH, b"")
        if length and not (length.isascii() and length.isdigit()):
            raise Refusal(400, "the header Inference-Header-Content-Length should be a number of bytes")
        self._length = int(length[:20]) if length else None
        self._request = Request([])
        self._values: dict[str, Any] = {}

    def rows(self, body: bytes, names: Sequence[str], _: Dialect) -> list[dict[str, Any]]:
        """Return the rows of a request as plain values.

        Raises Refusal (400) for what is not JSON, ProjectError naming the input that is missing, too much or misshapen.
        """
        self._take(body, names)
        values = [part.tolist() if isinstance(part, np.ndarray) else part for part in self._values.values()]
        return [dict(zip(self._values, row, strict=True)) for row in zip(*values, strict=True)]

    def columns(self, body: bytes, reader: Reader) -> tuple[dict[str, Array], list[Any]] | None:
        """Return typed columns and plain rows of a request; None if a value is for the exact path to judge."""
        self._take(body, reader.names)
        if not all(_suits(self._values[column.name], column) for column in reader.inputs):
            return None
        columns = reader.checked([self._values[name] for name in reader.names])
        return None if columns is None else (columns, plain(columns, reader.inputs))

    def _take(self, body: bytes, names: Sequence[str]) -> None:
        """Find the values of every column in a body."""
        length = len(body) if self._length is None else self._length
        if length > len(body):
            raise Refusal(400, f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes")
        try:
            self._request = _DECODE(body[:length])
        except msgspec.ValidationError as error:
            raise ProjectError(f"the body is no request of protocol v2: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        for one in self._request.outputs:
            if one.name not in self._outputs:
                raise ProjectError(f"output '{one.name}' is not one of the model{hint(one.name, self._outputs)}")
        found: dict[str, Any] = {}
        rest = memoryview(body)[length:]
        for tensor in self._request.inputs:
            if tensor.name not in names:
                raise ProjectError(f"input '{tensor.name}' is not one of the model{hint(tensor.name, names)}")
            if tensor.name in found:
                raise ProjectError(f"input '{tensor.name}' is given twice")
            found[tensor.name], rest = _values(tensor, rest)
        if rest:
            raise ProjectError(f"{len(rest)} bytes follow the last binary tensor")
        self._values = _level(found, names)

    def reply(self, bundle: Bundle, answered: Answered) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        """Return the body of an answer, its media type, and the headers that it needs."""
        wanted = self._request.outputs or [Wanted(name) for name in self._outputs]
        default = self._request.parameters.get("binary_data_output", False) is True
        told, parts = [], []
        for one in wanted:
            kind, shape = self._outputs[one.name]
            values = answered.predictions if one.name == "prediction" else answered.raw
            page: dict[str, Any] = {"name": one.name, "datatype": kind, "shape": [len(values), *shape[1:]]}
            if one.name == "probabilities":
                page["parameters"] = {"classes": list(bundle.scorer.signature.classes)}
            if one.parameters.get("binary_data", default) is True:
                parts.append(_bytes(values, kind))
                page["parameters"] = {**page.get("parameters", {}), "binary_data_size": len(parts[-1])}
            else:
                page["data"] = np.asarray(values, dtype=object if kind == "BYTES" else TYPES[kind]).ravel().tolist()
            told.append(page)
        about = {"id": self._request.id} if self._request.id else {}
        whole = {"model_name": bundle.contract.name, "model_version": f"{answered.version}", **about, "outputs": told}
        text = msgspec.json.encode(whole)
        if not parts:
            return text, b"application/json", []
        return b"".join([text, *parts]), b"application/octet-stream", [(LENGTH, b"%d" % len(text))]


def _level(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the values of every column; raises ProjectError naming one that is missing or of another length."""
    first = names[0]
    for name in names:
        if name not in found:
            raise ProjectError(f"input '{name}' is missing; the model needs it")
        if len(found[name]) != len(found[first]):
            raise ProjectError(f"input '{name}' has {len(found[name])} rows, and '{first}' has {len(found[first])}")
    if not len(found[first]):
        raise ProjectError("there is no row to score")
    return {name: found[name] for name in names}


def _suits(values: Any, column: Input) -> bool:
    """Whether the fast path may read the values of a tensor as a column's."""
    if not isinstance(values, np.ndarray):
        return column.type in ("text", "time") and all(isinstance(word, str) for word in values)
    if (values.dtype == np.bool_) != (column.type == "boolean") or column.type in ("text", "time"):
        return False
    return column.nulls or not np.isnan(values).any()


def _values(tensor: Tensor, rest: memoryview) -> tuple[Any, memoryview]:
    """Return the values of a tensor, and the binary part of the body that follows its own."""
    rows, size = _rows(tensor), tensor.parameters.get("binary_data_size")
    where = f"input '{tensor.name}'"
    if size is None:
        if tensor.data is UNSET:
            raise ProjectError(f"{where}: data is missing")
        nested = tensor.data and all(isinstance(part, list) for part in tensor.data)
        values: list[Any] = list(chain.from_iterable(tensor.data)) if nested else tensor.data
        if len(values) != rows:
            raise ProjectError(f"{where}: {len(values)} values do not fill the shape {tensor.shape}")
        return values, rest
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise ProjectError(f"{where}: binary_data_size is {size!r}, and {len(rest)} bytes are left")
    content, rest = rest[:size], rest[size:]
    if tensor.datatype == "BYTES":
        words = _words(content, where)
        if len(words) != rows:
            raise ProjectError(f"{where}: {len(words)} strings do not fill the shape {tensor.shape}")
        return words, rest
    kind = np.dtype(TYPES[tensor.datatype]).newbyteorder("<")
    if size != rows * kind.itemsize:
        raise ProjectError(f"{where}: {size} bytes do not fill the shape {tensor.shape}")
    return np.frombuffer(content, kind), rest


def _words(content: memoryview, where: str) -> list[str]:
    """Return the strings of a binary tensor, each of which follows its length."""
    words, place = [], 0
    while place + SIZE.size <= len(content):
        (size,) = SIZE.unpack_from(content, place)
        place += SIZE.size + size
        words.append(bytes(content[place - size : place]))
    if place != len(content):
        raise ProjectError(f"{where}: the bytes end within a string")
    try:
        return [word.decode() for word in words]
    except UnicodeDecodeError:
        raise ProjectError(f"{where}: holds text that is not UTF-8") from None


def _rows(tensor: Tensor) -> int:
    """Return the rows that a shape means; raises ProjectError for another shape or type than a column has."""
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]) or not 0 <= tensor.shape[0] < 2**31:
        raise ProjectError(f"input '{tensor.name}': the shape is {tensor.shape}, and [rows] or [rows, 1] is wanted")
    if tensor.datatype != "BYTES" and tensor.datatype not in TYPES:
        raise ProjectError(f"input '{tensor.name}': datatype '{tensor.datatype}' is none of BYTES, {', '.join(TYPES)}")
    return tensor.shape[0]


def _bytes(values: Any, kind: str) -> bytes:
    if kind == "BYTES":
        return b"".join(SIZE.pack(len(word)) + word for word in (str(value).encode() for value in values))
    return np.asarray(values).astype(np.dtype(TYPES[kind]).newbyteorder("<")).tobytes()


def outputs(signature: Signature) -> list[tuple[str, str, list[int]]]:
    """Return name, datatype and shape of what a model gives."""
    if not signature.classes:
        return [("prediction", "FP32", [-1])]
    first = signature.classes[0]
    kind = "BOOL" if isinstance(first, bool) else "BYTES" if isinstance(first, str) else "FP64"
    kind = "INT64" if kind == "FP64" and all(isinstance(name, int) for name in signature.classes) else kind
    return [("prediction", kind, [-1]), ("probabilities", "FP32", [-1, len(signature.classes)])]


def metadata(bundle: Bundle) -> dict[str, Any]:
    """Return what `/v2/models/{name}` says."""
    signature = bundle.scorer.signature
    return {
        "name": bundle.contract.name,
        "versions": [f"{bundle.manifest.version}"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": c.name, "datatype": COLUMNS[c.type], "shape": [-1]} for c in signature.inputs],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in outputs(signature)],
    }


def route(path: str, bundle: Bundle) -> str:
    """Return what a path such as /v2/models/{name}[/versions/{version}]/infer asks of a model: infer, ready or "".

    Raises Refusal (404) for a model or a version that is not served, or another path.
    """
    name, *more = path.removeprefix("/v2/models/").split("/")
    if name != bundle.contract.name:
        raise Refusal(404, f"model '{name[:100]}' is not served here; '{bundle.contract.name}' is")
    if more[:1] == ["versions"] and len(more) > 1:
        if more[1] != f"{bundle.manifest.version}":
            raise Refusal(404, f"version '{more[1][:100]}' is not served here; {bundle.manifest.version} is")
        more = more[2:]
    if more not in ([], ["ready"], ["infer"]):
        raise Refusal(404, "there is no such route: see /docs")
    return more[0] if more else ""
