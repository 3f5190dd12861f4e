"""The scoring service: typed decoding, one packed tensor, and one run of the model for all who ask at the same time.

Requests that are ready in the same turn of the event loop are scored together; nobody waits for others to come. What
takes long is scored in a thread. Whatever is odd is answered alone, the exact way.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import first_line
from ..contract import ProjectError
from ..features import from_request
from ..release.policy import Policy
from ..release.store import opened
from ..scorer import Packed
from . import Answered, v2
from .app import READERS, announce, listening, read_json
from .guard import Door, Gone, Pairs, Receive, Refusal, tell, told_of, wanted_key
from .live import QUEUE, Asked, Live, Model, Note, Only, Reply, Shadows, Taken, give_back
from .metrics import Counts, Pages, Told
from .protocols import READ, Columns, plain
from .wire import CLOSE, ROUTE, Turn, run

BUNDLE = "SERVE_BUNDLE"
"""Environment variable: digest of a bundle to serve, whatever the environments use."""
SHORT, BRIEF = 8_192, 65_536
"""Bytes of a body up to which the exact path, and the fast one, read it between other requests."""
Record: TypeAlias = Callable[[Sequence[Answered]], object]
Scored: TypeAlias = tuple[Packed, NDArray[np.float32], list[Any]]
Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Any]


class Service:
    """The ASGI callable."""

    def __init__(self, live: Live | Only, policy: Policy, record: Record, told: Told, door: Door) -> None:
        """Answer with what is live; `record` and `told` are given every answer and every feedback before the caller."""
        self.live, self.counts, self.door = live, live.counts, door
        self._record, self._seconds, self._entity = record, policy.limits.seconds, policy.experiment.entity
        self._threads, self._shadows, self._long = ThreadPoolExecutor(2, "score"), Shadows(self.counts), 0
        self._number, self._token = count(), token_hex(3)
        self._pages = Pages(live, door, told)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path, media, more = scope["path"], b"application/json", []
        try:
            if path == ROUTE and scope["method"] == "POST":
                status, (answered, body) = 200, await self._invocations(scope, receive)
                more = [(b"x-request-id", answered.request.encode())]
            elif path.startswith("/v2/") and path.endswith("/infer") and scope["method"] == "POST":
                status, (body, media, more) = 200, await self._infer(scope, receive)
            else:
                status, body, media, more = await self._pages.answer(scope, receive)
        except Gone:
            return
        except Exception as error:
            status, body, more = told_of(error, "error" if path.startswith("/v2") else "detail")
        headers = self.headers(path, status, media, body, more)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def take(self, headers: Pairs, body: bytes, turn: Turn) -> bool:
        """Whether a whole request is answered between two others: one that the fast path reads and nobody refuses."""
        named = dict(headers)
        read = READ.get(named.get(b"content-type", b""))
        if read is None:
            return False
        asked = self.live.state, body, *read, named.get(b"x-entity")
        try:
            self.door.refuse_strangers(named)
            return self._queued(Taken(turn, self.headers, self.counts, *asked))
        except Exception:  # whatever is wrong with it, the long way finds it again and says it
            return False

    def headers(self, path: str, status: int, media: bytes, body: bytes, more: Pairs) -> Pairs:
        """Count an answer, and return its headers."""
        self.counts.answers[path if status not in (404, 405) else "other", status] += 1
        headers = [(b"content-type", media), (b"content-length", b"%d" % len(body)), *more]
        if self.door.is_stopping:
            headers.append(CLOSE)
        return headers

    async def _invocations(self, scope: Scope, receive: Receive) -> tuple[Answered, bytes]:
        headers = dict(scope["headers"])
        self.door.refuse_strangers(headers)
        media = headers.get(b"content-type", b"")
        read = READ.get(media) or READ.get(media.partition(b";")[0].strip().lower())
        if read is None:
            named = media.decode("latin-1")[:100]
            raise Refusal(415, f"send the header Content-Type: {' or '.join(READERS)}, not '{named}'")
        body = await self.door.body(receive, headers)
        return await self.scored(Asked(self.live.state, body, *read, headers.get(b"x-entity")))

    async def scored(self, one: Asked) -> Reply:
        """Return the answer to a request, which the log has by then."""
        reply = one.awaited()
        if not self._queued(one):
            return await self._unhurried(one)
        await reply
        self.counts.took(time.perf_counter() - one.started)
        return reply.result()

    def _queued(self, one: Asked) -> bool:
        """Whether a request waits to be scored with others in this turn of the event loop; raises TooLargeError."""
        is_brief = one.read is read_json and len(one.body) <= BRIEF
        rows = one.model.reader.rows(one.body) if is_brief else None
        if rows is None or not self._suits(one, rows):
            return False
        if not one.model.waiting:
            asyncio.get_running_loop().call_soon(self._flush, one.model)
        one.model.waiting.append(one)
        return True

    async def _infer(self, scope: Scope, receive: Receive) -> tuple[bytes, bytes, Pairs]:
        headers = dict(scope["headers"])
        self.door.refuse_strangers(headers)
        state = self.live.state
        v2.route(scope["path"], state.champion.bundle)
        asked = v2.Question(headers, state.champion.signature)
        body = await self.door.body(receive, headers)
        one = Asked(state, body, asked.rows, asked.columns, headers.get(b"x-entity"))
        answered, _ = await self.scored(one)
        body, media, more = asked.reply(one.model.bundle, answered)
        return body, media, [*more, (b"x-request-id", answered.request.encode())]

    def _suits(self, one: Asked, rows: list[Any]) -> bool:
        """Whether the rows of the fast path can be scored together with those of others."""
        self.door.refuse_more_rows(len(rows))
        if len(rows) > one.state.champion.inline:
            return False
        one.rows = rows
        self._choose(one, rows)
        return one.model is one.state.champion or one.model.signature.inputs == one.state.champion.signature.inputs

    async def _unhurried(self, one: Asked) -> tuple[Answered, bytes]:
        """Return the answer to a request that is scored alone, in a thread unless it is short."""
        if len(one.body) <= SHORT and one.model.inline:
            reply = self._alone(one)
        else:
            if self._long >= QUEUE:
                raise Refusal(503, "too many long requests at once: try again", retry_after="1")
            self._long += 1
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._alone, one)
            work.add_done_callback(self._done)
            try:
                reply = await asyncio.wait_for(asyncio.shield(work), self._seconds)
            except TimeoutError:
                one.is_late = True
                sentence = f"the answer took longer than {self._seconds:g} s: send fewer rows at a time"
                raise Refusal(504, sentence) from None
        self.counts.took(time.perf_counter() - one.started)
        return reply

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._long -= 1
        if not work.cancelled():
            work.exception()  # looked at, or asyncio would complain of one that nobody waits for

    def _flush(self, model: Model) -> None:
        """Score all requests that wait for a model in one run."""
        asked, model.waiting = model.waiting, []
        try:
            columns = model.reader.columns([row for one in asked for row in one.rows])
            scored = None if columns is None else model.answer(columns)
        except Exception:  # whose fault it is, and what to say of it, is found out one by one
            scored = None
        if scored is None:
            for one in asked:
                try:
                    one.answer(self._alone(one))
                except Exception as error:
                    one.refuse(error)
            return
        packed, raw, predictions = scored
        numbers, text, now = packed.numbers, packed.text, time.time()
        answered, start = [], 0
        for one in asked:
            end = start + len(one.rows)
            part = Packed(numbers[start:end], text[start:end]), raw[start:end], predictions[start:end]
            answered.append(self._answered(one, model, now, one.rows, part))
            start = end
        self.counts.events["service_batches"] += 1
        try:
            self._recorded(answered)
        except Refusal as refused:
            for one in asked:
                one.refuse(refused)
            return
        is_shadowed = asked[0].state.shadow
        for one, said in zip(asked, answered, strict=True):
            one.answer((said, model.replies.body(said.predictions, said.raw.tolist())))
            if is_shadowed:
                self._cast_shadow(one, said.request)

    def _alone(self, one: Asked) -> tuple[Answered, bytes]:
        """Return the answer to one request: the fast path's where it can read it, else the exact one's."""
        one.model, one.variant = one.state.champion, "champion"
        columns, rows = self._read(one, one.model)
        self._choose(one, rows)
        if one.model.signature.inputs != one.state.champion.signature.inputs:
            columns, rows = self._read(one, one.model)
        try:
            scored = one.model.answer(columns)
        except Exception as error:
            if one.variant == "champion":
                raise
            tell("challenger failed", digest=one.model.digest, reason=first_line(error))
            one.model, one.variant = one.state.champion, "champion"
            columns, rows = self._read(one, one.model)
            scored = one.model.answer(columns)
        if one.is_late:
            raise Refusal(504, "too late")
        answered = self._answered(one, one.model, time.time(), rows, scored)
        self._recorded([answered])
        self._cast_shadow(one, answered.request)
        return answered, one.model.replies.body(answered.predictions, answered.raw.tolist())

    def _read(self, one: Asked, model: Model) -> tuple[Columns, list[Any]]:
        quick = one.quick and one.quick(one.body, model.reader)
        if quick:
            self.door.refuse_more_rows(len(quick[1]))
            return quick
        self.counts.events["service_exact"] += 1
        given = one.read(one.body, model.reader.names, model.signature.csv)
        self.door.refuse_more_rows(len(given))
        columns = from_request(given, model.signature)
        return columns, plain(columns, model.signature.inputs)

    def _choose(self, one: Asked, rows: Sequence[Any]) -> None:
        """Note who asks, and which model therefore answers; rows of both are all the champion's."""
        state = one.state
        if self._entity is not None:
            one.entities = state.champion.reader.values(rows, self._entity)
        elif one.who is not None:
            one.entities = [one.who.decode("latin-1")] * len(rows)
        if state.challenger is not None:
            one.entities = one.entities or [token_hex(8)] * len(rows)  # logged: a row counts for whom it was drawn for
            chosen = {state.of(entity) for entity in set(one.entities)}
            one.model, one.variant = chosen.pop() if len(chosen) == 1 else (state.champion, "champion")

    def _answered(self, one: Asked, model: Model, now: float, rows: list[Any], scored: Scored) -> Answered:
        request = f"{int(now * 1000):011x}{next(self._number) & 0xFFFFF:05x}{self._token}"
        return Answered(request, now, model.digest, model.version, one.variant, one.entities, rows, *scored)

    def _recorded(self, answered: Sequence[Answered]) -> None:
        """Give answers to the log before anybody else; raises Refusal where it cannot take them."""
        try:
            self._record(answered)
        except (OSError, ProjectError) as error:
            self.counts.events["service_unlogged"] += len(answered)
            tell("unlogged", reason=first_line(error))
            sentence = "the prediction log cannot be written, so nothing is answered: try again"
            raise Refusal(503, sentence, retry_after="1") from None
        rows = self.counts.rows
        for said in answered:
            rows[said.variant] += len(said.predictions)

    def _cast_shadow(self, one: Asked, request: str) -> None:
        if one.state.shadow and one.state.challenger is not None:
            self._shadows.cast(one.state.challenger, partial(self._shadow, one, one.state.challenger, request))

    def _shadow(self, one: Asked, model: Model, request: str) -> None:
        """Let the challenger answer for the log alone."""
        columns, rows = self._read(one, model)
        said = self._answered(one, model, time.time(), rows, model.answer(columns))
        said.request, said.variant = request, "shadow"
        self._recorded([said])


def serve(
    host: str, port: str, environment: str, policy: Policy, record: Record, told: Told, note: Note = bool
) -> None:
    """Answer requests with what an environment uses until SIGTERM or Ctrl-C, and return once the last one is answered.

    Raises ProjectError for a port that cannot be had, a key that is missing, or an environment that cannot be served.
    """
    door = Door(wanted_key(host), policy.limits)
    with listening(host, port) as listener:
        counts, store, digest = Counts(), opened(policy), os.environ.get(BUNDLE)
        live = Only(store, digest, counts) if digest else Live(store, environment, counts, tell)
        service = Service(live, policy, record, told, door)
        give_back()
        live.follow(note)
        run(service, listener, door, partial(announce, live.state.champion.bundle.contract.name, listener, host))
        live.stop()
