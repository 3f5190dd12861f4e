"""Traffic for a service on this machine: rows of a release with their truth, and one fault planted in them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..config import Model, load
from ..contract import Columns, ProjectError, to_columns
from ..evaluate.metrics import METRICS, Interval, draws
from ..pages import hint
from ..register import events
from ..release.bundle import Bundle
from ..release.evidence import alike
from ..release.policy import Policy
from ..release.store import Store, opened
from ..scorer import Signature
from ..serve.app import class_names
from ..serve.guard import KEY, is_loopback
from ..serve.protocols import plain
from . import Say
from .faults import FAULTS, Traffic, World, planted

TOGETHER, TOLD = 5, 200
"""Rows of a request, and truths that are told at once; a spike asks for one row at a time."""
PARTS = 5
"""How often is said how far it is."""


def simulate(fault: str, rows: int, address: str, seed: int, say: Say) -> None:
    """Send rows with a fault planted to a running service, tell it the truth, and say how good its answers were.

    Raises ProjectError where the service is on another machine, does not answer, or fails on a row.
    """
    if fault not in FAULTS:
        raise ProjectError(f"FAULT={fault}: should be one of {', '.join(FAULTS)}{hint(fault, FAULTS)}")
    model = load(Model)
    with ExitStack() as stack:
        caller = stack.enter_context(closing(Caller(address)))
        world = found(opened(load(Policy)), caller.version()["bundle"])
        traffic = planted(fault, rows, world, seed)
        say(f"sending {len(traffic)} rows: {traffic.planted}")
        callers = [stack.enter_context(closing(Caller(address))) for _ in range(traffic.lanes)]
        lanes = [Lane(own, traffic, world.signature) for own in callers]
        threads = stack.enter_context(ThreadPoolExecutor(traffic.lanes))
        for part in np.array_split(np.arange(len(traffic)), min(PARTS, len(traffic))):
            list(threads.map(Lane.send, lanes, np.array_split(part, traffic.lanes)))
            say(f"{part[-1] + 1} of {len(traffic)} sent")
        list(threads.map(Lane.tell, lanes))
        version = caller.version()["model_version"]
    answers = {row: raw for lane in lanes for row, raw in lane.answers.items()}
    refused = [why for lane in lanes for why in lane.refused]
    told = f"{len(traffic)} rows sent, {len(answers)} answered, at last by version {version}"
    if answers:
        facts, truth = METRICS[model.metric], traffic.truth[list(answers)]
        measured = Interval.of(draws(model, truth, np.array(list(answers.values()))))
        told += f"; {facts.label} {facts.write(measured, world.signature.unit)}"
    say(told + (f"; {len(refused)} refused: {refused[0]}" if refused else ""))


class Caller:
    """One connection to a service on this machine."""

    def __init__(self, address: str) -> None:
        """Get ready to call; raises ProjectError for an address that another machine may answer."""
        try:
            parts = urlsplit(address)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port = "", "", None
        if scheme != "http" or not is_loopback(host):
            told = "simulated traffic goes to this machine alone, such as http://127.0.0.1:8080"
            raise ProjectError(f"URL={address}: {told}")
        self.address, self.connection = address, HTTPConnection(host, port, timeout=60)
        self.headers = {"Content-Type": "application/json", "X-API-Key": os.environ.get(KEY, "")}

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def ask(self, path: str, content: Any = None) -> tuple[int, str, Any]:
        """Return the answer's status, its id, and what it says; raises ProjectError where there is no answer."""
        body = None if content is None else json.dumps(content).encode()
        try:
            self.connection.request("GET" if body is None else "POST", path, body, self.headers)
            answer = self.connection.getresponse()
            return answer.status, answer.headers.get("X-Request-Id", ""), json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            why = f"{error}" or type(error).__name__
            told = f"{self.address} does not answer {path} ({why}); `make serve` starts a service"
            raise ProjectError(told) from None

    def version(self) -> dict[str, Any]:
        """Return what the service says that it is; raises ProjectError where it is none of this project's."""
        status, _, said = self.ask("/version")
        if status != 200 or not isinstance(said, dict) or "bundle" not in said:
            raise ProjectError(f"{self.address} is no service of this project: it does not say which release answers")
        return said


class Lane:
    """Sends rows over one connection, one request after the other."""

    def __init__(self, caller: Caller, traffic: Traffic, signature: Signature) -> None:
        """Get ready to send rows of the traffic."""
        self.caller, self.traffic, self.signature = caller, traffic, signature
        self.answers: dict[int, Any] = {}
        """The raw answer to each row."""
        self.refused: list[str] = []
        """Of each row that was refused, why."""
        self.truths: list[dict[str, Any]] = []
        """What there is to be told."""

    def send(self, rows: NDArray[np.int64]) -> None:
        """Send rows, and tell what became of them; raises ProjectError where the service fails."""
        records = plain(dict(self.traffic.take(rows).columns), self.signature.inputs)
        size = 1 if self.traffic.lanes > 1 else TOGETHER
        for start in range(0, len(rows), size):
            some = rows[start : start + size].tolist()
            status, name, said = self.caller.ask("/invocations", {"dataframe_records": records[start : start + size]})
            if status >= 500 or status == 401:
                raise ProjectError(f"{self.caller.address} answers with {status}: {said.get('detail')}")
            if status != 200:
                self.refused += [str(said.get("detail"))] * len(some)
                continue
            raw = said.get("predictions")
            if self.signature.classes:
                raw = [[one[name] for name in class_names(self.signature)] for one in said["probabilities"]]
            self.answers |= zip(some, raw, strict=True)
            for number, row in enumerate(some, start=1):
                self.truths.append({"id": f"{name}-{number}", "truth": self._truth(self.traffic.told[row].item())})
        if not self.traffic.late:
            self.tell()

    def tell(self) -> None:
        """Tell what became of the rows so far."""
        told, self.truths = self.truths, []
        for start in range(0, len(told), TOLD):
            status, _, said = self.caller.ask("/feedback", told[start : start + TOLD])
            if status != 200:
                raise ProjectError(f"{self.caller.address} does not take the truth ({status}): {said.get('detail')}")

    def _truth(self, value: Any) -> Any:
        return self.signature.classes[value] if self.signature.classes else value


def found(store: Store, digest: str) -> World:
    """Return the rows to draw from, for a service that answers with a release of the store.

    They are those from which the last release learned that was made before production taught any, if it takes the same
    columns: what a later one learned from was sent from here, with a fault in it.
    """
    champion, taught = store.bundle(digest), next((event["time"] for event in events.read("retrain")), None)
    made = [entry for entry in store.entries() if entry.kind == "bundle"]
    before = [entry.facts["digest"] for entry in made if taught is None or entry.time < taught]
    for name in reversed(before):
        base = store.bundle(name)
        if alike(base.scorer.signature, champion.scorer.signature):
            break
    else:
        base = champion
    columns, signature = to_columns(pq.read_table(base.folder / "reference.parquet")), champion.scorer.signature
    truth = columns[signature.target]
    if signature.classes:
        places = {name: place for place, name in enumerate(signature.classes)}
        truth = np.array([places[value] for value in truth.tolist()], dtype=np.int64)
    inputs = {one.name: columns[one.name] for one in signature.inputs}
    return World(Traffic(inputs, truth, truth), signature, frozenset(seen(champion, inputs)))


def seen(bundle: Bundle, columns: Columns) -> list[str]:
    """Return the inputs that change the features of a model if their values change."""
    some = {name: values[:200] for name, values in columns.items()}
    was = bundle.prepare(some)
    found = []
    for name, values in some.items():
        now = bundle.prepare({**some, name: np.roll(values, 1)})
        if not np.array_equal(was.numbers, now.numbers, equal_nan=True) or (was.text != now.text).any():
            found.append(name)
    return found
