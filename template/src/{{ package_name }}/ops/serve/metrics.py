"""What the service tells of itself: its routes that are asked rarely, and its counters as Prometheus reads them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ... import __version__
from ..contract import ProjectError
from ..release.bundle import MODEL, Bundle
from ..release.contract import Output
from . import Measure, v2, watched
from .app import SENTENCE
from .guard import Door, Receive, Refusal
from .page import page
from .protocols import JSON, described

if TYPE_CHECKING:
    from .live import Live, Only

PROBES = {"/ping", "/health", "/v2/health/live", "/v2/health/ready"}
"""Routes that never ask for a key."""
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of the seconds that an answer took."""
HELP = {
    "service_requests": "Requests, by route and status of their answers",
    "service_rows": "Rows answered, by variant",
    "service_batches": "Runs of the model for requests that were there at the same time",
    "service_exact": "Requests that the exact path read, since the fast one would not",
    "service_swaps": "Times that another model took over",
    "service_refused_bundles": "Bundles that were refused while the one before kept serving",
    "service_unlogged": "Requests that were refused since the log could not be written",
    "service_dropped_shadows": "Requests that the challenger in the shadow did not see, being too slow",
}


class Counts:
    """Plain counters; each is only added to."""

    def __init__(self) -> None:
        """Start at nought."""
        self.answers: Counter[tuple[str, int]] = Counter()
        self.rows: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._seconds = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._told, self._service = list(self._seconds), token_hex(6)

    def took(self, seconds: float) -> None:
        """Count the time of one scored request."""
        self._seconds[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def measure(self, digest: str, packages: dict[str, str] | None) -> Measure:
        """Return how the service fared since this was asked last."""
        seconds = list(self._seconds)
        new = [now - before for now, before in zip(seconds, self._told, strict=True)]
        self._told = seconds
        return Measure(time.time(), self._service, digest, new, resident(), packages)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many requests took at most each of BOUNDS, and the sum of all seconds."""
        total, found = 0, []
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], self._seconds, strict=True):
            total += count
            found.append((bound, float(total)))
        return found, self._sum


def resident() -> float | None:
    """Return the memory that this process holds, in MB; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _Collector(Collector):
    def __init__(self, counts: Counts, models: Callable[[], Iterable[Sequence[str]]]) -> None:
        self._counts, self._models = counts, models

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        by_route = {(route, str(status)): number for (route, status), number in counts.answers.items()}
        yield _counter("service_requests", ("route", "status"), by_route)
        yield _counter("service_rows", ("variant",), {(variant,): number for variant, number in counts.rows.items()})
        for name in HELP:
            if name not in ("service_requests", "service_rows"):
                yield _counter(name, (), {(): counts.events[name]})
        buckets, total = counts.buckets()
        seconds = HistogramMetricFamily("service_seconds", "Time from a request's headers to its answer")
        seconds.add_metric([], buckets, total)
        yield seconds
        models = GaugeMetricFamily("service_model", "The models that answer", labels=("variant", "version", "digest"))
        for labels in self._models():
            models.add_metric(labels, 1)
        yield models


def _counter(name: str, labels: Sequence[str], values: Mapping[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, HELP[name], labels=labels)
    for given, number in values.items():
        family.add_metric(given, number)
    return family


Answer: TypeAlias = tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]
Told: TypeAlias = Callable[[Sequence[tuple[str, Any]], Output], object]


class Pages:
    """The routes that are asked rarely."""

    def __init__(self, live: Live | Only, door: Door, told: Told) -> None:
        """Show what is live; `told` is given every feedback before its sender is thanked."""
        self._live, self._door, self._told = live, door, told
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(live.counts, self._models))
        ProcessCollector(registry=self._registry)
        self._made: dict[str, Callable[[], tuple[str, Any]]] = {
            "/ping": lambda: (JSON, {"status": "healthy"}),
            "/health": lambda: (JSON, {"status": self._door.state()}),
            "/version": lambda: (JSON, self._version()),
            "/metrics": lambda: (CONTENT_TYPE_LATEST, generate_latest(self._registry) + self._watched()),
            "/docs": lambda: ("text/html; charset=utf-8", self._page()),
            "/openapi.json": lambda: (JSON, self._described()),
            "/v2": lambda: (JSON, {**v2.SERVER, "name": self._bundle.contract.name, "version": __version__}),
            "/v2/health/live": lambda: (JSON, {"live": True}),
            "/v2/health/ready": lambda: (JSON, {"ready": bool(self._door.state())}),
        }

    @property
    def _bundle(self) -> Bundle:
        return self._live.state.champion.bundle

    def _watched(self) -> bytes:
        """Return what the monitors say of the environment; nothing where nobody looked."""
        try:
            return watched(self._live.environment).read_bytes()
        except OSError:
            return b""

    def _models(self) -> Iterator[Sequence[str]]:
        return ((variant, f"{model.version}", model.digest) for variant, model in self._live.state.models)

    async def answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        """Return status, body, media type and further headers of an answer; raises Refusal where there is none."""
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        if path not in PROBES:
            self._door.refuse_strangers(headers)
        if path == "/":
            return 307, b"", b"text/plain", [(b"location", b"docs")]
        if path == "/feedback":
            refuse_other(method, "POST")
            body = await self._door.body(receive, headers)
            return 200, await asyncio.to_thread(self._feedback, body), JSON.encode(), []
        if path in self._made:
            media, page = self._made[path]()
        elif path.startswith("/v2/models/"):
            asked = v2.route(path, self._bundle)
            media, page = JSON, {"ready": bool(self._door.state())} if asked == "ready" else v2.metadata(self._bundle)
            if asked == "infer":
                refuse_other(method, "POST")
        elif path == "/invocations":
            refuse_other(method, "POST")
        else:
            raise Refusal(404, "there is no such route: see /docs")
        refuse_other(method, "GET")
        return 200, page if isinstance(page, bytes) else msgspec.json.encode(page), media.encode(), []

    def _version(self) -> dict[str, Any]:
        bundle, signature = self._bundle, self._bundle.scorer.signature
        return {
            "name": signature.name,
            "version": __version__,
            "model_version": f"{bundle.manifest.version}",
            "sha256": bundle.manifest.files[MODEL],
            "task": signature.task,
            "target": signature.target,
            "bundle": bundle.digest,
            "run": bundle.manifest.run,
            "commit": bundle.manifest.commit,
        }

    def _feedback(self, body: bytes) -> bytes:
        """Hand on what became of predictions; raises ProjectError naming the row that says nothing."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}"[:SENTENCE]) from None
        rows = given if isinstance(given, list) else [given]
        self._door.refuse_more_rows(len(rows))
        if not rows:
            raise ProjectError("there is no row with the id of a prediction and its truth")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not {"id", "truth"} <= row.keys():
                raise ProjectError(f"row {number}: should be an object with the id of a prediction and its truth")
        self._told([(row["id"], row["truth"]) for row in rows], self._bundle.contract.output)
        return msgspec.json.encode({"accepted": len(rows)})

    def _page(self) -> bytes:
        return page(self._bundle.contract, __version__, self._described()).encode()

    def _described(self) -> dict[str, Any]:
        return described(self._bundle.contract, __version__)


def refuse_other(method: str, allowed: str) -> None:
    """Raise Refusal (405) for another method than the allowed one."""
    if method != allowed:
        raise Refusal(405, f"send {allowed}, not {method[:20]}", allow=allowed)
