"""The scoring service: MLflow's scoring protocol on the model file, as the written contract describes it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from numpy.typing import NDArray

from ... import __version__
from ..config import YourCodeError
from ..contract import Columns, ProjectError
from ..features import from_request, prepare
from ..release.contract import CONTRACT, Contract, read_contract, refuse_mismatch
from ..scorer import MODEL, Dialect, Packed, Scorer, Signature
from .page import ERRORS, page, request_body, response_schema

LIMIT = 10 * 2**20
"""Largest body of a request, bytes."""
SENTENCE = 500
"""Longest sentence of an error, characters: a refused value may be as long as the body."""
Rows: TypeAlias = Sequence[Mapping[str, Any]]


class TooLargeError(ProjectError):
    """A request whose body is above the limit."""


def service(model: Path = MODEL, contract: Path = CONTRACT) -> FastAPI:
    """Load the model file and the contract, and return the service.

    Raises ProjectError where one is missing, or where they do not describe the same columns.
    """
    scorer, promised = Scorer(model), read_contract(contract)
    refuse_mismatch(promised, scorer.signature)
    return create_app(scorer, promised, hashlib.sha256(model.read_bytes()).hexdigest())


def create_app(scorer: Scorer, contract: Contract, digest: str) -> FastAPI:
    """Return the service of a loaded model; `digest` is the SHA-256 of its file, as `/version` tells it.

    Raises ProjectError where the contract's own example cannot be scored.
    """
    signature, names = scorer.signature, list(contract.inputs)
    try:
        score(scorer, [contract.example])
    except ProjectError as error:
        raise ProjectError(f"{CONTRACT}: the examples of the inputs cannot be scored: {error}") from None

    app = FastAPI(
        title=contract.name,
        version=__version__,
        description=contract.decision,
        docs_url=None,  # FastAPI's own pages load scripts from other hosts
        redoc_url=None,
    )

    @app.post(
        "/invocations",
        summary="Score rows",
        openapi_extra={"requestBody": request_body(contract)},
        responses={200: {"content": {"application/json": {"schema": response_schema(contract)}}}, **ERRORS},
    )
    async def invocations(request: Request) -> Response:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in READERS:
            raise HTTPException(415, f"send the header Content-Type: {' or '.join(READERS)}, not '{media[:SENTENCE]}'")
        body = await _limited(request)
        return await run_in_threadpool(_answer, scorer, READERS[media], body, names)

    @app.get("/ping", summary="Is the service up?")
    @app.get("/health", summary="Is the service ready?")
    def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/version", summary="Which model answers?")
    def version() -> dict[str, str]:
        return {
            "name": signature.name,
            "version": __version__,
            "model_version": signature.version,
            "sha256": digest,
            "task": signature.task,
            "target": signature.target,
        }

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(contract, __version__, app.openapi()))

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.exception_handler(ProjectError)
    async def refused(_: Request, error: ProjectError) -> JSONResponse:
        return _refusal(error)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the service failed on this request; its log says why"}, 500)

    return app


def score(scorer: Scorer, rows: Rows) -> dict[str, Any]:
    """Return `predictions`, one a row, and for classes `probabilities`, one object a row.

    Columns beyond the contract are ignored. Raises ProjectError naming row and column of a value that does not fit, or
    the row that has no finite answer.
    """
    signature = scorer.signature
    _, raw = answered(scorer, from_request(rows, signature), partial(prepare, signature=signature))
    answers: dict[str, Any] = {"predictions": scorer.answers(raw).tolist()}
    if signature.task == "classification":
        names = class_names(signature)
        answers["probabilities"] = [dict(zip(names, row, strict=True)) for row in raw.tolist()]
    return answers


def answered(scorer: Scorer, columns: Columns, pack: Callable[[Columns], Packed]) -> tuple[Packed, NDArray[np.float32]]:
    """Return typed columns as the model takes them, and what it says to each row.

    Raises ProjectError naming the first row that has no finite answer.
    """
    with np.errstate(all="ignore"):  # an overflow becomes a sentence below, not a warning in the log
        packed = pack(columns)
        raw = scorer.run(packed)
    finite = np.isfinite(raw)
    if not finite.all():
        row = int(finite.reshape(len(raw), -1).all(axis=1).argmin()) + 1
        raise ProjectError(f"row {row}: the model has no finite answer for these values")
    return packed, raw


def class_names(signature: Signature) -> list[str]:
    """Return the classes as the keys of an object."""
    return [str(name).lower() if isinstance(name, bool) else str(name) for name in signature.classes]


def read_json(body: bytes, names: Sequence[str], _: Dialect) -> Rows:
    """Return the rows of a JSON request in one of MLflow's four forms; values without names have the order of `names`.

    Raises HTTPException (400) for what is not JSON, ProjectError for another form.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}"[:SENTENCE]) from None
    given = [key for key in FORMS if isinstance(content, dict) and key in content]
    if len(given) != 1:
        raise ProjectError(f"the body should be an object with one of {', '.join(FORMS)}")
    return _some(FORMS[given[0]](content[given[0]], given[0], names))


def read_csv(body: bytes, _: Sequence[str], dialect: Dialect) -> Rows:
    """Return the rows of a CSV request in the dialect of the training's files; its first line names the columns.

    Raises HTTPException (400) for what is not CSV, ProjectError naming a row of another length.
    """
    try:
        text = io.StringIO(body.decode("utf-8-sig" if dialect.is_utf8 else dialect.encoding), newline="")
        lines = [line for line in csv.reader(text, strict=True, delimiter=dialect.separator) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise HTTPException(400, f"the body is not CSV in {dialect.encoding.upper()}: {error}") from None
    return _some(_table([name.strip() for name in lines[0]], lines[1:]) if lines else [])


def _list(value: Any, key: str, names: Sequence[str]) -> Rows:
    if not isinstance(value, list):
        raise ProjectError(f"{key}: should be a list of rows")
    rows: list[Mapping[str, Any]] = []
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict | list):
            raise ProjectError(f"{key}, row {number}: should be an object of columns, or a list of {len(names)} values")
        rows.append(row if isinstance(row, dict) else _table(names, [row], number)[0])
    return rows


def _split(value: Any, key: str, _: Sequence[str]) -> Rows:
    table = value if isinstance(value, dict) else {}
    columns, data = table.get("columns"), table.get("data")
    if not (isinstance(columns, list) and isinstance(data, list) and all(isinstance(name, str) for name in columns)):
        raise ProjectError(f"{key}: should hold columns, a list of names, and data, a list of rows")
    return _table(columns, data)


def _inputs(value: Any, key: str, names: Sequence[str]) -> Rows:
    if not isinstance(value, dict):
        return _list(value, key, names)
    columns = {name: value[name] for name in names if name in value}
    lengths = {name: len(values) if isinstance(values, list) else None for name, values in columns.items()}
    for name, length in lengths.items():
        if length is None or length != next(iter(lengths.values())):
            raise ProjectError(f"{key}, column '{name}': should be a list of values, as many as in every other column")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _table(columns: Sequence[str], rows: Sequence[Any], first: int = 1) -> Rows:
    if len(set(columns)) < len(columns):
        raise ProjectError(f"column '{max(columns, key=columns.count)}' is given twice")
    for number, row in enumerate(rows, start=first):
        if not isinstance(row, list) or len(row) != len(columns):
            found = f"{len(row)} values" if isinstance(row, list) else "no list"
            raise ProjectError(f"row {number}: {len(columns)} values are wanted ({', '.join(columns)}), found {found}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _some(rows: Rows) -> Rows:
    if not rows:
        raise ProjectError("there is no row to score")
    return rows


async def _limited(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        refuse_larger(len(body))
    return bytes(body)


def refuse_larger(size: int) -> None:
    """Raise TooLargeError for a body of more than LIMIT bytes."""
    if size > LIMIT:
        raise TooLargeError(f"the body has more than {LIMIT // 2**20} MB: send fewer rows at a time")


Reader: TypeAlias = Callable[[bytes, Sequence[str], Dialect], Rows]
READERS: dict[str, Reader] = {"application/json": read_json, "text/csv": read_csv}
FORMS: dict[str, Callable[[Any, str, Sequence[str]], Rows]] = {
    "dataframe_records": _list,
    "dataframe_split": _split,
    "instances": _list,
    "inputs": _inputs,
}


def _answer(scorer: Scorer, read: Reader, body: bytes, names: Sequence[str]) -> Response:
    answers = score(scorer, read(body, names, scorer.signature.csv))
    return Response(json.dumps(answers, ensure_ascii=False), media_type="application/json")


def _refusal(error: ProjectError) -> JSONResponse:
    if isinstance(error, YourCodeError):
        raise error  # a fault of features.py is not the caller's: the answer is 500, and the log tells why
    return JSONResponse({"detail": str(error)[:SENTENCE]}, 413 if isinstance(error, TooLargeError) else 422)


def serve(host: str, port: str, model: Path = MODEL) -> None:
    """Answer requests until SIGTERM or Ctrl-C, and return once the last one is answered.

    Raises ProjectError for a port that cannot be had, or a model and a contract that cannot be served.
    """
    with listening(host, port) as listener:
        app = service(model)
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
        # uvicorn raises the signal anew when it has stopped, and meets this handler
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        announce(app.title, listener, host)
        server.run([listener])


def announce(name: str, listener: socket.socket, host: str) -> None:
    """Say where the service answers."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"{name} {__version__} answers on {address}/invocations; {address}/docs says how", flush=True)


def listening(host: str, port: str) -> socket.socket:
    """Return a socket that listens; raises ProjectError for a port that cannot be had."""
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16):
        raise ProjectError(f"PORT is '{port}': give a whole number from 0 (any free port) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=2048)
    except OSError as error:
        reason = f"cannot listen on {host}, port {port} ({error.strerror})"
        raise ProjectError(f"{reason}; choose another, PORT=0 takes any free one") from None
