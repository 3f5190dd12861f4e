"""The service's door: who may ask, how much and for how long, what a refusal says, and the service's own log."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeAlias

import msgspec
from fastapi import HTTPException

from ..config import UnfinishedError, YourCodeError, first_line
from ..contract import ProjectError
from ..release.policy import Limits
from .app import SENTENCE, TooLargeError

KEY, OPEN = "SERVICE_KEY", "SERVICE_OPEN"
"""Environment variables: the key that callers send, and whether the service may do without one."""
HEADER, BEARER = b"x-api-key", b"Bearer "
"""The header of a key; Prometheus, for one, sends it as `Authorization: Bearer` instead."""
HELD = 64 * 2**20
"""Bytes of unfinished bodies that all callers together may have sent, beside one of the largest size."""
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers: TypeAlias = Mapping[bytes, bytes]
Pairs: TypeAlias = list[tuple[bytes, bytes]]
_TELLING = threading.Lock()


class Refusal(ProjectError):  # noqa: N818 - an answer rather than an error
    """A request that is answered with another status than 200."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        """Say why, in a sentence; underscores of the headers' names become hyphens."""
        super().__init__(sentence)
        self.status = status
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class Gone(Exception):  # noqa: N818
    """The caller hung up before the request was whole."""


def refusal(error: Exception) -> Refusal:
    """Return what a caller is told of an error; what is not the caller's fault goes to the service's log."""
    if isinstance(error, Refusal):
        return error
    sentence = str(error)[:SENTENCE]
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, str(error.detail)[:SENTENCE])
    if isinstance(error, TooLargeError):
        return Refusal(413, sentence)
    if isinstance(error, UnfinishedError | OSError):
        return Refusal(503, sentence, retry_after="1")
    if isinstance(error, ProjectError) and not isinstance(error, YourCodeError):
        return Refusal(422, sentence)
    where = traceback.format_exception(error)[-1 if isinstance(error, YourCodeError) else 0 :]
    tell("failed", reason=first_line(error), trace="".join(where))
    return Refusal(500, "the service failed on this request; its log says why")


def told_of(error: Exception, key: str = "detail") -> tuple[int, bytes, Pairs]:
    """Return the status, body and headers by which a caller is told of an error."""
    refused = refusal(error)
    return refused.status, msgspec.json.encode({key: str(refused)}), refused.headers


def tell(event: str, **facts: Any) -> None:
    """Write one line of JSON to stderr."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    with _TELLING:
        print(json.dumps(line, ensure_ascii=False, default=str), file=sys.stderr, flush=True)


def wanted_key(host: str) -> bytes | None:
    """Return the key that callers must send, or None where no one has to.

    Raises ProjectError for an address that other machines reach, if there is no key, nor the word that none is wanted.
    """
    key = os.environ.get(KEY, "")
    if key:
        return key.encode()
    if not is_loopback(host) and os.environ.get(OPEN) != "yes":
        reason = f"{host} can be reached from other machines, and {KEY} is not set"
        raise ProjectError(f"{reason}: set it to the key that callers send as X-API-Key, or set {OPEN}=yes for none")
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Door:
    """Lets requests in."""

    def __init__(self, key: bytes | None, limits: Limits) -> None:
        """Ask for a key, unless it is None, and hold everybody to the limits."""
        self.limits = limits
        self.largest = int(limits.body_mb * 2**20)
        self.is_stopping = False
        self._key, self._held = key, 0
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._cut: set[asyncio.Task[Any]] = set()

    def refuse_strangers(self, headers: Headers) -> None:
        """Raise Refusal (401) for a request without the key; the comparison takes as long for any other key."""
        sent = headers.get(HEADER) or headers.get(b"authorization", b"").removeprefix(BEARER)
        if self._key is not None and not hmac.compare_digest(sent, self._key):
            raise Refusal(401, "send the service's key in the header X-API-Key", www_authenticate="ApiKey")

    def state(self) -> str:
        """Return the word for a service that takes requests; raises Refusal (503) once it is about to stop."""
        if self.is_stopping:
            raise Refusal(503, "the service is stopping")
        return "healthy"

    def refuse_larger(self, size: int) -> None:
        """Raise TooLargeError for a body above the limit."""
        if size > self.largest:
            raise TooLargeError(f"the body has more than {self.limits.body_mb:g} MB: send fewer rows at a time")

    def refuse_more_rows(self, rows: int) -> None:
        """Raise TooLargeError for more rows than the limit."""
        if rows > self.limits.rows:
            most = self.limits.rows
            raise TooLargeError(f"the request has {rows} rows, and {most} are the most: send fewer at a time")

    async def body(self, receive: Receive, headers: Headers) -> bytes:
        """Return a request's body; raises Refusal (408) if it does not come, TooLargeError, or Gone."""
        self.refuse_larger(int(headers.get(b"content-length", b"0")))
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server runs each request as a task
        self._reading[task] = time.monotonic()
        try:
            message = await receive()
            if message.get("more_body"):
                return await self._parts(receive, message)
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            self._cut.discard(task)
            task.uncancel()
            sentence = f"the body did not arrive within {self.limits.seconds:g} s"
            raise Refusal(408, sentence, connection="close") from None
        finally:
            del self._reading[task]
        if message["type"] != "http.request":
            raise Gone
        body: bytes = message.get("body", b"")
        if len(body) > self.largest:
            self.refuse_larger(len(body))
        return body

    async def _parts(self, receive: Receive, message: MutableMapping[str, Any]) -> bytes:
        parts, size = [], 0
        try:
            while True:
                if message["type"] != "http.request":
                    raise Gone
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                self._held += len(part)
                self.refuse_larger(size)
                if self._held > HELD + self.largest:
                    sentence = "too many large requests at once: try again"
                    raise Refusal(503, sentence, retry_after="1", connection="close")
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
        finally:
            self._held -= size

    def sweep(self) -> None:
        """Cut off callers whose bodies do not arrive in time; called every second."""
        late = time.monotonic() - self.limits.seconds
        for task, started in list(self._reading.items()):
            if started < late and task not in self._cut:
                self._cut.add(task)
                task.cancel()
