"""The service on the wire: uvicorn's server, and a short way through it for requests that come in one piece.

An ASGI server runs a task for each request, and writes head and body apart: more work than scoring a row. What the
service takes is answered by the connection itself, and all else goes uvicorn's way.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .guard import Door, Pairs, tell

GRACE = 0.5
"""Seconds between the news that the service stops and the end of listening: whoever balances load may hear of it."""
KEEP = 75
"""Seconds that a connection without a request is kept."""
ROUTE = "/invocations"
_ROUTE = ROUTE.encode()
CLOSE = (b"connection", b"close")


class Taker(Protocol):
    """An ASGI callable that may take a whole request out of turn."""

    def take(self, headers: Pairs, body: bytes, turn: Turn) -> bool:
        """Whether it answers this request by `turn.end`; if not, nothing has been done."""
        ...


class Turn:
    """A request that its connection answers itself; to uvicorn it is a cycle of request and response like any other."""

    __slots__ = ("_wire", "disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, wire: Wire, keep_alive: bool) -> None:
        """Begin a turn of a connection."""
        self._wire, self.keep_alive = wire, keep_alive
        self.disconnected = self.response_complete = False
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for more of a request that is whole."""

    def end(self, status: int, headers: Pairs, body: bytes) -> None:
        """Answer, unless the caller has hung up or was answered."""
        if not self.disconnected and not self.response_complete:
            self.response_complete = True
            self._wire.answer(status, headers, body, keep_alive=self.keep_alive)


class Wire(HttpToolsProtocol):
    """One connection."""

    _parts: list[bytes] | None = None
    """The body as far as it is there, of a request that may be taken; its head stands in `headers`."""

    def data_received(self, data: bytes) -> None:
        """Read on; what has not come whole goes uvicorn's way."""
        super().data_received(data)
        if self._parts is not None:
            self._hand_over()

    def on_headers_complete(self) -> None:
        """Keep a request that may be taken until it is whole."""
        is_free = self.cycle is None or self.cycle.response_complete
        if is_free and self.url == _ROUTE and self.parser.get_method() == b"POST" and not self.expect_100_continue:
            self._parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a part of the body."""
        if self._parts is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Let the service take a whole request."""
        if self._parts is not None:
            app: Taker = self.app
            turn = Turn(self, self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive())
            before, self.cycle = self.cycle, turn  # type: ignore[assignment]
            if not self.flow.write_paused and app.take(self.headers, b"".join(self._parts), turn):
                self._parts = None
                return
            self.cycle = before
            self._hand_over()
        super().on_message_complete()

    def _hand_over(self) -> None:
        parts, self._parts = self._parts or [], None
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    def answer(self, status: int, headers: Pairs, body: bytes, *, keep_alive: bool) -> None:
        """Write an answer in one piece, and go on with the next request; the headers may end the connection."""
        is_last = not keep_alive or CLOSE in headers
        pairs = [*self.server_state.default_headers, *headers, *([CLOSE] if is_last and CLOSE not in headers else [])]
        lines = [b"%b: %b\r\n" % pair for pair in pairs]
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        if is_last:
            self.transport.close()
        self.on_response_complete()


class _Server(uvicorn.Server):
    """A server that tells before it stops, and looks after callers that dawdle."""

    def __init__(self, config: uvicorn.Config, door: Door, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._door, self._ready = door, ready
        self._idle: dict[Any, float] = {}
        config.callback_notify = self.sweep

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and only then say so: whoever hears it may already want to stop the service."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002
        """Say that the service is not ready, and stop soon; at once when told twice."""
        if self._door.is_stopping:
            self.should_exit = True
            return
        self._door.is_stopping = True
        tell("stopping", signal=sig)
        threading.Timer(GRACE, setattr, (self, "should_exit", True)).start()

    async def sweep(self) -> None:
        """Cut off bodies that do not arrive, and connections that send no whole request, in time."""
        self._door.sweep()
        now, late = time.monotonic(), time.monotonic() - self._door.limits.seconds
        idle = {c for c in self.server_state.connections if _is_idle(c)}
        self._idle = {connection: self._idle.get(connection, now) for connection in idle}
        for connection, since in self._idle.items():
            if since < late:
                connection.transport.close()


def _is_idle(connection: Any) -> bool:
    """Whether a connection has begun a request's headers, or nothing at all, and no timer of uvicorn's watches it."""
    is_over = connection.cycle is None or connection.cycle.response_complete
    return is_over and connection.timeout_keep_alive_task is None


class _Lines(logging.Handler):
    """Turns what the server has to say into lines of the service's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        tell("server", level=record.levelname.lower(), reason=record.getMessage())


def run(app: Any, listener: socket.socket, door: Door, ready: Callable[[], None]) -> None:
    """Serve an ASGI callable, or a Taker, until SIGTERM or Ctrl-C, and return once the last request is answered.

    `ready` is called when it answers.
    """
    logging.getLogger("uvicorn.error").addHandler(_Lines(logging.WARNING))
    config = uvicorn.Config(
        app,
        http=Wire if hasattr(app, "take") else HttpToolsProtocol,
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP,
        timeout_notify=0,
        timeout_graceful_shutdown=math.ceil(door.limits.seconds),
    )
    _Server(config, door, ready).run([listener])
