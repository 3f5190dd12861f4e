"""Which models answer: what the environment's pointer says, loaded beside what answers, swapped in between requests."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import UnfinishedError, first_line
from ..contract import Columns, ProjectError
from ..features import from_request
from ..release.bundle import FIXTURE, Bundle
from ..release.experiment import variant
from ..release.ledger import Pointer
from ..release.store import Store
from ..scorer import Packed
from . import Answered, Measure, Variant
from .app import answered
from .guard import Pairs, tell, told_of
from .metrics import Counts
from .protocols import Quick, Read, Reader, Replies
from .wire import ROUTE, Turn

Reply: TypeAlias = tuple[Answered, bytes]
Note: TypeAlias = Callable[[Measure], object]
MINUTE, DAY = 60.0, 86_400.0
"""Seconds between two measures of how the service fares, and between two that tell its packages, too."""
MEASURED_BY = "SERVE_MEASURED_BY"
"""The environment variable with the number of the process that started a service to measure it."""
POLL = 0.2
"""Seconds between two looks at the pointer."""
QUEUE = 32
"""Requests that may wait for a thread."""
AGAIN = 5.0
"""Seconds until a store that did not answer is asked again."""
MOST = 256
"""Rows that are scored between other requests at most."""
BRIEF = 0.004
"""Seconds that a request may keep all others waiting; a longer one is scored in a thread."""


class Model:
    """A bundle, ready to answer."""

    def __init__(self, bundle: Bundle) -> None:
        """Measure how long a bundle takes for the rows of its fixture; raises ProjectError where it has no answer."""
        self.bundle, self.digest, self.version = bundle, bundle.digest, bundle.manifest.version
        self.signature = bundle.scorer.signature
        self.reader, self.replies = Reader(self.signature), Replies(self.signature)
        self.waiting: list[Asked] = []
        """Requests of this turn of the event loop, which one run of the model answers."""
        rows = json.loads((bundle.folder / FIXTURE).read_bytes())["dataframe_records"]
        one, many = self._seconds(rows[:1]), self._seconds(rows)
        a_row = max(many - one, 1e-9) / max(len(rows) - 1, 1)
        self.inline = min(int((BRIEF - one) / a_row), MOST) if one < BRIEF else 0
        """Rows of a request up to which it is scored between others."""

    def _seconds(self, rows: Sequence[Mapping[str, Any]]) -> float:
        columns = from_request(rows, self.signature)
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            self.answer(columns)
            best = min(best, time.perf_counter() - started)
        return best

    def answer(self, columns: Columns) -> tuple[Packed, NDArray[np.float32], list[Any]]:
        """Return typed columns as the model takes them, what it says, and its answers.

        Raises ProjectError naming the first row that has none.
        """
        packed, raw = answered(self.bundle.scorer, columns, self.bundle.prepare)
        return packed, raw, self.bundle.scorer.answers(raw).tolist()


@dataclass(frozen=True)
class State:
    """Which models answer what; replaced as a whole, so that a request sees one or the other."""

    champion: Model
    challenger: Model | None = None
    share: float = 0.0
    shadow: bool = False
    experiment: str = ""

    def of(self, entity: str) -> tuple[Model, Variant]:
        """Return which model answers an entity."""
        if self.challenger is not None and not self.shadow and variant(entity, self.experiment, self.share):
            return self.challenger, "challenger"
        return self.champion, "champion"

    @property
    def models(self) -> Iterator[tuple[Variant, Model]]:
        """The models with their variants."""
        yield "champion", self.champion
        if self.challenger is not None:
            yield ("shadow" if self.shadow else "challenger"), self.challenger


class Asked:
    """One request to score."""

    __slots__ = (
        *("state", "body", "read", "quick", "who", "started"),
        *("model", "variant", "entities", "rows", "reply", "is_late"),
    )

    def __init__(self, state: State, body: bytes, read: Read, quick: Quick | None, who: bytes | None) -> None:
        """Note what is asked of which models, how it is read exactly or quickly, and the caller's word for who asks."""
        self.started = time.perf_counter()
        self.state, self.body, self.read, self.quick, self.who = state, body, read, quick, who
        self.model: Model = state.champion
        self.variant: Variant = "champion"
        self.entities: list[str] | None = None
        self.rows: list[Any] = []
        self.reply: asyncio.Future[Reply] | None = None
        self.is_late = False

    def awaited(self) -> asyncio.Future[Reply]:
        """Return what the answer is awaited by."""
        self.reply = asyncio.get_running_loop().create_future()
        return self.reply

    def answer(self, reply: Reply) -> None:
        """Give the answer to whoever waits, if there still is somebody."""
        if self.reply and not self.reply.done():
            self.reply.set_result(reply)

    def refuse(self, error: Exception) -> None:
        """Say to whoever waits, if there still is somebody, why there is no answer."""
        if self.reply and not self.reply.done():
            self.reply.set_exception(error)


class Taken(Asked):
    """A request to `/invocations` that its connection answers."""

    __slots__ = ("_counts", "_headers", "_turn")

    def __init__(self, turn: Turn, headers: Callable[..., Pairs], counts: Counts, *asked: Any) -> None:
        """Note what to answer by; `headers` gives those of an answer: a route, status, media type, body, and more."""
        super().__init__(*asked)
        self._turn, self._headers, self._counts = turn, headers, counts

    def answer(self, reply: Reply) -> None:
        """Write the answer."""
        self._counts.took(time.perf_counter() - self.started)
        said, body = reply
        self._end(200, body, [(b"x-request-id", said.request.encode())])

    def refuse(self, error: Exception) -> None:
        """Write why there is no answer."""
        self._end(*told_of(error))

    def _end(self, status: int, body: bytes, more: Pairs) -> None:
        self._turn.end(status, self._headers(ROUTE, status, b"application/json", body, more), body)


class Shadows:
    """What challengers answer for the log alone: in a thread, one after the other."""

    def __init__(self, counts: Counts) -> None:
        """Begin with none."""
        self._counts, self._pool, self._waiting = counts, ThreadPoolExecutor(1, "shadow"), 0

    def cast(self, model: Model, answer: Callable[[], None]) -> None:
        """Let a model answer when it can, unless too many wait for that already."""
        if self._waiting >= QUEUE:
            self._counts.events["service_dropped_shadows"] += 1
            return
        self._waiting += 1
        self._pool.submit(self._answer, model, answer)

    def _answer(self, model: Model, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Exception as error:  # nobody waits for this answer
            tell("shadow failed", digest=model.digest, reason=first_line(error))
        finally:
            self._waiting -= 1


class Live:
    """The state of an environment, which follows its pointer."""

    def __init__(self, store: Store, environment: str, counts: Counts, tell: Callable[..., None]) -> None:
        """Load what the environment uses; raises ProjectError where that may not or cannot be used."""
        self._store, self.environment, self.counts, self._tell = store, environment, counts, tell
        self._stamp, self._at = store.stamp(environment), 0.0
        self.state = self._loaded(store.admitted(environment))
        self._over = threading.Event()

    def _loaded(self, pointer: Pointer) -> State:
        known = {model.digest: model for _, model in self.state.models} if hasattr(self, "state") else {}
        models = [known.get(digest) or Model(self._store.bundle(digest)) for digest in pointer.digests]
        challenger = models[1] if len(models) > 1 else None
        return State(models[0], challenger, pointer.share, pointer.shadow, pointer.experiment or "")

    def look(self) -> None:
        """Look at the pointer, and swap in what it says if it has moved; what cannot be used changes nothing."""
        started = time.monotonic()
        stamp = None
        try:
            stamp = self._store.stamp(self.environment)
            if stamp == self._stamp or started < self._at:
                return
            new = self._loaded(self._store.admitted(self.environment))
        except Exception as error:  # whatever is wrong with it, the one before keeps serving
            self.counts.events["service_refused_bundles"] += 1
            serving = self.state.champion.digest
            self._tell("refused", environment=self.environment, reason=first_line(error), serving=serving)
            if isinstance(error, UnfinishedError | OSError):
                self._at = started + AGAIN
            else:
                self._stamp = stamp
            return
        old, self.state, self._stamp = self.state, new, stamp
        give_back()
        self.counts.events["service_swaps"] += 1
        facts = {name: model.digest for name, model in new.models}
        seconds = round(time.monotonic() - started, 3)
        self._tell("swapped", environment=self.environment, previous=old.champion.digest, seconds=seconds, **facts)

    def follow(self, note: Note) -> None:
        """Look at the pointer five times a second, in a thread of its own, until `stop`; note how it fares."""
        packages = {package.name: package.version for package in distributions()}
        gc.freeze()  # what is loaded by now stays, and need not be looked through again and again
        threading.Thread(target=self._follow, args=(note, packages), name="follow", daemon=True).start()

    def _follow(self, note: Note, packages: dict[str, str]) -> None:
        due = told = 0.0
        while not self._over.wait(POLL):
            self.look()
            if time.monotonic() >= due:
                due = time.monotonic() + MINUTE
                try:
                    is_due = due >= told
                    note(self.counts.measure(self.state.champion.digest, packages if is_due else None))
                    told = due + DAY if is_due else told
                except ProjectError as error:
                    self._tell("unnoted", reason=first_line(error))

    def stop(self) -> None:
        """Follow no more."""
        self._over.set()


class Only:
    """A single bundle that the ledger vouches for, whatever the environments use: it is served to be measured."""

    def __init__(self, store: Store, digest: str, counts: Counts) -> None:
        """Load the bundle; raises ProjectError where that may not or cannot be used."""
        self.environment, self.counts = "", counts
        self.state = State(Model(store.bundle(digest)))

    def follow(self, _: Note) -> None:
        """Nothing moves, and nobody asks later how it fared; it ends with the process that measures it."""
        gc.freeze()
        if process := os.environ.get(MEASURED_BY):
            threading.Thread(target=_end_with, args=(int(process),), name="end", daemon=True).start()

    def stop(self) -> None:
        """Nothing moves."""


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)


def give_back() -> None:
    """Return to the system what a loading took and no longer needs; glibc keeps it unless it is asked."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
