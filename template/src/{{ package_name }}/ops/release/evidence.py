"""The evidence that gates weigh: answers to the same rows, logged rows answered again, the real service at work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Model
from ..contract import Array, Columns, ProjectError, to_columns
from ..evaluate.metrics import Floats, paired
from ..features import from_records
from ..scorer import Packed, Signature
from .bundle import FIXTURE, TOLERANCE, Bundle
from .sign import CHECKS, KEYS

WARM, REQUESTS, ROUNDS, SECONDS = 50, 200, 5, 2
"""Requests that do not count, then those of each round; fewer where they do not fit into so many seconds."""
START, PART = 60, 50
"""Seconds in which the service has to stand, and rows that one request of a replay carries."""
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/app/logs:mode=1777")
MEMORY = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Logged:
    """Rows of the prediction log that one bundle answered, the latest last."""

    digest: str
    inputs: list[dict[str, Any]]
    """What was asked, by the contract's columns."""
    packed: Packed
    """The features that the service made of it."""
    raw: NDArray[np.float32]
    """What it answered, as `Scorer.run` gives it."""


@dataclass(frozen=True)
class Trial:
    """Test rows with their truth, and what each model answers for them."""

    model: Model
    columns: Columns
    target: NDArray[Any]
    candidate: NDArray[np.float32]
    constant: NDArray[Any]
    """What answers every row alike: the shares of the classes, or the mean, among the rows learned from."""
    champion: NDArray[np.float32] | None
    """None where there is none, or one that takes or gives something else."""
    fair: NDArray[np.bool_]
    """Rows on which candidate and champion are compared: those from which the champion did not learn."""
    unit: str | None

    def draws(self, rows: NDArray[np.bool_] | None = None) -> dict[str, Floats]:
        """Return the metric of every model on some rows, see `paired`: each draw has the same rows."""
        part = np.ones(len(self.target), dtype=bool) if rows is None else rows
        answers = {"candidate": self.candidate, "constant": self.constant, "champion": self.champion}
        known = {name: raw[part] for name, raw in answers.items() if raw is not None}
        return paired(self.model, self.target[part], known)


def tried(candidate: Bundle, champion: Bundle | None, model: Model, fewest: int) -> Trial:
    """Let candidate and champion answer the candidate's test rows, each with its own features.

    Of rows that the champion learned from it would know the answer: the two are compared on the others, if those are at
    least `fewest`. Raises ProjectError where the truth is no class of the model.
    """
    columns, learned = (_table(candidate.folder / name) for name in ("test.parquet", "reference.parquet"))
    signature = candidate.scorer.signature
    target, known = _target(columns, signature), _target(learned, signature)
    shares = np.bincount(known, minlength=len(signature.classes)) / len(known) if signature.classes else known.mean()
    comparable = champion is not None and alike(candidate.scorer.signature, champion.scorer.signature)
    other = answered(champion, columns, signature) if champion is not None and comparable else None
    fair = np.ones(len(target), dtype=bool)
    if champion is not None and other is not None:
        unseen = _unseen(columns, _table(champion.folder / "reference.parquet"))
        fair = unseen if unseen.sum() >= fewest else fair
    constant = np.broadcast_to(shares, (len(target), *np.shape(shares)))
    return Trial(model, columns, target, answered(candidate, columns, signature), constant, other, fair, signature.unit)


def alike(own: Signature, other: Signature) -> bool:
    """Whether two models can be compared: they take the same columns and give the same answers."""
    takes = [{column.name: column.type for column in signature.inputs} for signature in (own, other)]
    gives = [(signature.task, signature.target, set(signature.classes)) for signature in (own, other)]
    return takes[0].items() >= takes[1].items() and gives[0] == gives[1]


def answered(bundle: Bundle, columns: Columns, signature: Signature) -> NDArray[np.float32]:
    """Return a bundle's raw answers, its classes in the order of a signature."""
    theirs = bundle.scorer.signature
    raw = bundle.scorer.run(bundle.prepare({column.name: columns[column.name] for column in theirs.inputs}))
    return raw[:, [theirs.classes.index(name) for name in signature.classes]] if signature.classes else raw


def suiting(logged: Sequence[Logged], bundle: Bundle) -> list[Logged]:
    """Return the parts of the log that have every column which a bundle takes."""
    names = [column.name for column in bundle.scorer.signature.inputs]
    return [one for one in logged if one.inputs and all(name in one.inputs[0] for name in names)]


def again(bundle: Bundle, logged: Logged, tolerance: float) -> tuple[int, int]:
    """Answer logged rows again, all at once; returns how many have other features, and how many another answer."""
    signature = bundle.scorer.signature
    packed = bundle.prepare(from_records(logged.inputs, signature.inputs, signature.csv))
    numbers = np.isclose(packed.numbers, logged.packed.numbers, rtol=tolerance, atol=tolerance, equal_nan=True)
    features = numbers.all(axis=1) & (packed.text == logged.packed.text).all(axis=1)
    answers = np.isclose(bundle.scorer.run(packed), logged.raw, rtol=tolerance, atol=tolerance)
    return int((~features).sum()), int((~answers.reshape(len(features), -1).all(axis=1)).sum())


class Service:
    """A running service, asked over one connection to its address."""

    def __init__(self, address: str) -> None:
        """Connect when it is first asked."""
        self.connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
        self.close = self.connection.close

    def ask(self, path: str, content: Any = None) -> bytes:
        """Return the answer; raises ProjectError where it is not 200, or there is none."""
        body = None if content is None else json.dumps(content).encode()
        try:
            self.connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            told = answer.read()
        except (OSError, HTTPException) as error:
            raise ProjectError(f"the service does not answer {path} ({error or type(error).__name__})") from None
        if answer.status != 200:
            said = told[:300].decode(errors="replace")
            raise ProjectError(f"the service answers {path} with {answer.status}: {said}")
        return told

    def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what `/invocations` answers for rows."""
        answer: dict[str, Any] = json.loads(self.ask("/invocations", {"dataframe_records": list(rows)}))
        return answer

    def load(self, rows: Sequence[Mapping[str, Any]]) -> Load:
        """Send one row a request, one request after the other; of several rounds the quietest one counts.

        What else the machine does only adds to what the service takes.
        """
        rounds = [self._round(rows, WARM), *(self._round(rows, REQUESTS) for _ in range(ROUNDS))]
        median, p99 = min(np.percentile(times, [50, 99]).tolist() for times in rounds[1:])
        memory = MEMORY.search(self.ask("/metrics").decode())
        return Load(median, p99, float(memory[1]) / 2**20 if memory else float("inf"), sum(map(len, rounds[1:])))

    def _round(self, rows: Sequence[Mapping[str, Any]], most: int) -> list[float]:
        times: list[float] = []
        end = perf_counter() + SECONDS
        while len(times) < most and (perf_counter() < end or not times):
            start = perf_counter()
            self.score([rows[len(times) % len(rows)]])
            times.append(1000 * (perf_counter() - start))
        return times


@dataclass(frozen=True)
class Load:
    """What a service takes for requests of one row."""

    median_ms: float
    p99_ms: float
    memory_mb: float
    requests: int


@contextmanager
def serving(digest: str, address: str) -> Iterator[Service]:
    """Start the real service on exactly this bundle of a store, in a passing folder: nobody wants its log.

    Raises ProjectError where it does not come up.
    """
    package = __package__.rpartition(".")[0]
    store = address if "://" in address else str(Path(address).resolve())
    own = {name: value for name, value in os.environ.items() if name != "SERVICE_KEY"}
    with TemporaryDirectory() as folder:
        for name in ("config", ".keys"):
            (Path(folder) / name).symlink_to(Path(name).resolve())
        command = (sys.executable, "-m", package, "serve", "--port", "0")
        about = {"SERVE_BUNDLE": digest, "RELEASE_STORE": store, "SERVE_MEASURED_BY": f"{os.getpid()}"}
        with _running(command, folder, {**own, **about}) as found, closing(Service(found)) as service:
            yield service


@contextmanager
def contained(tag: str, digest: str, store: Path) -> Iterator[Service]:
    """Start the service's image on exactly this bundle of a store that it may only read, locked down.

    Raises ProjectError where it does not come up.
    """
    keys = "\n".join(path.read_text(encoding="utf-8") for path in sorted(KEYS.glob("*.pub")))
    given = {"SERVE_BUNDLE": digest, "SERVICE_OPEN": "yes", CHECKS: os.environ.get(CHECKS) or keys}
    given["RELEASE_STORE"] = "/app/releases"
    words = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
    name = f"smoke-{digest[:12]}-{os.getpid()}"
    volume = ("--volume", f"{store.resolve()}:/app/releases:ro", "--publish", "127.0.0.1::8080", "--name", name)
    with _running(("docker", "run", "--rm", *LOCKED, *words, *volume, tag), ".", os.environ):
        port = subprocess.run(("docker", "port", name, "8080"), capture_output=True, text=True, check=True).stdout
        with closing(Service(port.split()[0])) as service:
            yield service


def replayed(service: Service, bundle: Bundle, champion: Bundle | None, logged: Sequence[Logged]) -> str:
    """Ask a service for the fixture and for logged rows, compare its answers with the bundle's own, and say so.

    Of the logged rows it also says how many would get another answer than the champion gave. Raises ProjectError where
    the service answers a row otherwise than the bundle does.
    """
    signature = bundle.scorer.signature
    usable = suiting(logged, bundle)
    fixture = json.loads((bundle.folder / FIXTURE).read_bytes())["dataframe_records"]
    rows = [*fixture, *(row for one in usable for row in one.inputs)]
    raw = bundle.scorer.run(bundle.prepare(from_records(rows, signature.inputs, signature.csv)))
    told = [service.score(rows[start : start + PART]) for start in range(0, len(rows), PART)]
    answers = np.array([answer for part in told for answer in part["predictions"]], dtype=object)
    given = [list(row.values()) for part in told for row in part["probabilities"]] if signature.classes else answers
    other = ~np.isclose(np.array(given, dtype=np.float64), raw, rtol=TOLERANCE, atol=TOLERANCE)
    if other.any():
        count = int(other.reshape(len(rows), -1).any(axis=1).sum())
        raise ProjectError(f"the service answers {count} of {len(rows)} rows otherwise than the bundle; 0 may differ")
    said = f"{len(fixture)} rows of the fixture and {len(rows) - len(fixture)} logged ones as the bundle answers them"
    if champion is None or not usable:
        return said
    before = champion.scorer.answers(np.concatenate([one.raw for one in usable]))
    if signature.classes:
        changed = float(np.mean(answers[len(fixture) :] != before))
        return f"{said}; {100 * changed:.1f} % of the logged ones get another answer than from the champion"
    moved = float(np.mean(np.abs(answers[len(fixture) :].astype(np.float64) - before)))
    return f"{said}; on average {moved:.3g} {signature.unit or ''} from the champion's answers".rstrip()


@contextmanager
def _running(command: Sequence[str], folder: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a service while the block lasts, and give the address that it tells."""
    with (
        NamedTemporaryFile() as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            found, end = None, perf_counter() + START
            while found is None:
                ended = process.poll() is not None or perf_counter() > end
                told = Path(log.name).read_text(encoding="utf-8", errors="replace")
                found = re.search(r"http://[^\s/]+:\d+", told)
                if found is None and ended:
                    why = " ".join(told.split())[-300:].removeprefix("error: ") or f"not in {START} s"
                    raise ProjectError(f"the service does not start: {why}")
                sleep(0.02)
            yield found[0]
        finally:
            process.terminate()
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()


def _table(path: Path) -> dict[str, Array]:
    import pyarrow.parquet as pq

    return to_columns(pq.read_table(path))


def _target(columns: Columns, signature: Signature) -> NDArray[Any]:
    values = columns[signature.target]
    if not signature.classes:
        return values.astype(np.float64)
    places = {name: place for place, name in enumerate(signature.classes)}
    unknown = next((value for value in values.tolist() if value not in places), None)
    if unknown is not None:
        raise ProjectError(f"test.parquet: {signature.target} is {unknown!r}, which is no class of the model")
    return np.array([places[value] for value in values.tolist()], dtype=np.int64)


def _unseen(columns: Columns, learned: Columns) -> NDArray[np.bool_]:
    """Return which rows are not among those learned from: by every column that both have, the key among them."""
    names = [name for name in columns if name in learned]
    known = set(zip(*(learned[name].astype(str).tolist() for name in names), strict=True))
    rows = zip(*(columns[name].astype(str).tolist() for name in names), strict=True)
    return np.array([row not in known for row in rows])
