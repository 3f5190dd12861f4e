"""From one prediction back to the source data, every hash verified again; and why it is what it is."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from ..collect.sources import MANIFEST, RAW
from ..collect.versions import version as current
from ..config import ANSWERS
from ..contract import Array, Columns, ProjectError, to_columns
from ..features import from_records
from ..files import sha256
from ..register import run
from ..register.run import LOCK, RUNS, Run
from ..release.bundle import CODE, MODEL, SOURCES, Bundle
from ..release.policy import Policy
from ..release.store import Store, opened
from ..scorer import Packed
from . import PREDICTIONS
from .truth import packed, predictions, raw

CACHE = Path(".dvc/cache/files/md5")
REFERENCE, RECORD = "reference.parquet", "run.json"
TYPICAL = 200
"""Rows of the reference sample whose values stand for an input that is taken away."""
Row = dict[str, Any]


def traced(policy: Policy, prediction: str) -> Table:
    """Follow a prediction to its source data; raises ProjectError naming the first thing that is not what it was."""
    table = Table(*(Column(name, overflow="fold") for name in ("step", "what", "verified")), box=None)
    for step, what, shown in _steps(policy, prediction):
        table.add_row(step, escape(what), f"[green]{escape(shown)}[/]")
    return table


def _steps(policy: Policy, prediction: str) -> Iterator[tuple[str, str, str]]:
    """Yield every step of the way: its name, what it is, and what was verified about it."""
    row, store = found(prediction), opened(policy)
    moment = datetime.fromtimestamp(row["time"], UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    told = f"{row['prediction']} by version {row['version']} ({row['variant']}), {moment} UTC"
    bundle = _opened(store, row)
    again(bundle, row, policy.parity.tolerance)
    yield ("prediction", told, f"in {PREDICTIONS}; features and answer are the same when computed again")
    manifest, count = bundle.manifest, len(store.entries())
    signed = f"signature, {len(manifest.files)} files, {count} lines of the ledger"
    yield ("bundle", f"{bundle.digest[:12]}, version {manifest.version}", signed)
    record = _record(bundle)
    yield ("run", record.id, f"{record.path} is the bundle's record; its model {record.model[:12]} is the bundle's")
    yield ("commit", record.commit[:12], f"in git, with the code of the bundle ({_code(bundle, record)})")
    yield ("lock", record.lock[:12], f"SHA-256 of {LOCK} {_lock(record)}")
    if record.labels is not None:
        refuse_other(f"{ANSWERS}", record.labels, _as_of(record.commit, ANSWERS), f"commit {record.commit[:12]}")
        yield ("labels", record.labels[:12], f"SHA-256 of {ANSWERS} as of the commit")
    version, places = record.data["version"], _places(record)
    yield ("data", version[:12], f"DVC's MD5 of the list of files ({', '.join(place for place, _ in places)})")
    for name, source in record.data["sources"].items():
        for _, folder in places:
            refuse_other(f"{folder[name]}", source["sha256"], folder[name].read_bytes(), f"run {record.id}")
        yield (f"source {name}", f"{source['rows']} rows, {source['sha256'][:12]}", _origin(name, source))


def explained(policy: Policy, prediction: str) -> Group:
    """Show inputs, features and answer of a logged prediction, computed again, and what each input contributed.

    The contribution of an input is the answer minus the mean answer with that input replaced by the values of TYPICAL
    rows of the bundle's reference sample (Robnik-Sikonja and Kononenko, Explaining Classifications for Individual
    Instances, 2008): in the unit of the answer, or a difference in probability. Inputs are replaced one at a time, so
    what two say together counts for both, and the contributions do not add up to the answer.
    """
    row = found(prediction)
    bundle = _opened(opened(policy), row)
    columns, features, answer = again(bundle, row, policy.parity.tolerance)
    signature, (name, of) = bundle.scorer.signature, _answer(bundle, answer)
    told = f"{prediction}: {row['prediction']} by version {row['version']}; {name} {of(answer)[0]:.4g}"
    limit = "" if signature.threshold is None else f", yes from {signature.threshold:.4g}"
    inputs = Table("input", "value", "unit", "typical", "contribution", title=f"{name}: what each input contributed")
    parts = contributions(bundle, columns, answer)
    typical = {known.name: _typical(reference(bundle)[known.name]) for known in signature.inputs}
    units = {known.name: known.unit or "" for known in signature.inputs}
    for column in sorted(parts, key=lambda one: -abs(parts[one])):
        words = _words(columns[column][0]), units[column], typical[column], f"{parts[column]:+.4g}"
        inputs.add_row(*map(escape, (column, *words)))
    made = Table("feature", "value", title="features, as the model took them")
    values = (*features.numbers[0], *features.text[0])
    for feature, value in zip((*signature.numbers, *signature.text), values, strict=True):
        made.add_row(*map(escape, (feature, _words(value))))
    for table in (inputs, made):
        table.title_justify = "left"
    return Group(escape(f"{told}{limit} (the log has the same)"), inputs, made)


def contributions(bundle: Bundle, columns: Columns, answer: NDArray[np.float32]) -> dict[str, float]:
    """Return what each input contributed to the answer to one row; see `explained`."""
    _, of = _answer(bundle, answer)
    sample = reference(bundle)
    rows = len(next(iter(sample.values())))
    names = [column.name for column in bundle.scorer.signature.inputs]
    parts = {}
    for replaced in names:
        tried = {name: sample[name] if name == replaced else np.repeat(columns[name], rows) for name in names}
        parts[replaced] = float(of(answer)[0] - of(bundle.scorer.run(bundle.prepare(tried))).mean())
    return parts


def reference(bundle: Bundle) -> dict[str, Array]:
    """Return rows of the bundle's reference sample, evenly spread over it."""
    names = [column.name for column in bundle.scorer.signature.inputs]
    table = pq.read_table(bundle.folder / REFERENCE, columns=names)
    return to_columns(table.take(np.unique(np.linspace(0, table.num_rows - 1, TYPICAL).astype(int))))


def found(prediction: str) -> Row:
    """Return the line of the log with an id; that of a shadow only where it is the only one.

    Raises ProjectError where there is none.
    """
    table = predictions()
    rows = table.filter(table.id == prediction).order_by(table.variant == "shadow").limit(1).to_pyarrow().to_pylist()
    if not rows:
        raise ProjectError(
            f"ID={prediction}: is not in {PREDICTIONS}; an id is an answer's X-Request-Id, a hyphen and the row's "
            "number from 1, or a file's prediction_id, and config/policy.yaml says how long the log is kept"
        )
    return dict(rows[0])


def again(bundle: Bundle, row: Row, tolerance: float) -> tuple[dict[str, Array], Packed, NDArray[np.float32]]:
    """Compute a logged answer again; returns inputs, features and raw answer.

    Raises ProjectError naming the feature or the answer that is another one in the log.
    """
    signature = bundle.scorer.signature
    columns = from_records([msgspec.json.decode(row["inputs"])], signature.inputs, signature.csv)
    made, logged = bundle.prepare(columns), packed([row])
    answer, where = bundle.scorer.run(made), f"{row['id']} in {PREDICTIONS}"
    for names, now, then in (
        (signature.numbers, made.numbers, logged.numbers),
        (signature.text, made.text, logged.text),
    ):
        for name, ours, theirs in zip(names, now[0], then[0], strict=True):
            same = ours == theirs or (names is signature.numbers and _close(ours, theirs, tolerance))
            if not same:
                raise ProjectError(f"{where}: feature '{name}' is {theirs} in the log, and {ours} computed again")
    if not _close(answer, raw([row]), tolerance):
        raise ProjectError(
            f"{where}: the answer is {raw([row]).tolist()[0]} in the log, and {answer.tolist()[0]} again"
        )
    said = str(bundle.scorer.answers(answer).tolist()[0])
    if signature.classes and said.lower() != row["prediction"].lower():
        raise ProjectError(f"{where}: the prediction is {row['prediction']} in the log, and {said} computed again")
    return columns, made, answer


def _close(some: Any, other: Any, tolerance: float) -> bool:
    return np.shape(some) == np.shape(other) and bool(
        np.allclose(some, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    )


def _answer(bundle: Bundle, answer: NDArray[np.float32]) -> tuple[str, Any]:
    """Return the name of the number that is explained, and how to take it from raw answers."""
    signature = bundle.scorer.signature
    if not signature.classes:
        return signature.target, lambda given: given
    place = 1 if len(signature.classes) == 2 else int(answer[0].argmax())
    return f"probability of {signature.classes[place]}", lambda given: given[:, place]


def _typical(values: Array) -> str:
    """The middle number or time, the most frequent text."""
    known = values[values != ""] if values.dtype == object else values[~np.isnan(values)]
    if not len(known):
        return ""
    if values.dtype == object:
        distinct, counts = np.unique(known.astype(str), return_counts=True)
        return str(distinct[counts.argmax()])
    return _words(np.sort(known)[len(known) // 2])


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[s]"))
    return "" if np.isnan(value) else f"{value:.6g}"


def _opened(store: Store, row: Row) -> Bundle:
    bundle = store.bundle(row["model"])
    if bundle.manifest.version != row["version"]:
        told = f"version {row['version']} in the log, and version {bundle.manifest.version} in its bundle"
        raise ProjectError(f"{row['id']} in {PREDICTIONS}: the model is {told}")
    return bundle


def _record(bundle: Bundle) -> Run:
    """Return the record of the run, which is the same in the bundle and in the project."""
    manifest, record = bundle.manifest, run.read(bundle.folder / RECORD)
    kept = run.read(RUNS / f"{manifest.run}.json")
    for name, value in asdict(record).items():
        if asdict(kept)[name] != value:
            raise ProjectError(f"{kept.path}: `{name}` is not what the bundle's record says; bring it back from git")
    bound = (record.commit, record.lock, record.data["version"], record.model, record.prediction)
    if bound != (manifest.commit, manifest.lock, manifest.data, manifest.files[MODEL], manifest.prediction):
        raise ProjectError(f"{bundle.folder / RECORD}: is not the record of this bundle's model")
    return record


def _code(bundle: Bundle, record: Run) -> str:
    """Compare the bundle's modules with those of the commit; returns their names."""
    names = [name.removeprefix(f"{CODE}/") for name in bundle.manifest.files if name.startswith(f"{CODE}/")]
    for name in names:
        content, own = _as_of(record.commit, Path(SOURCES) / name), bundle.manifest.files[f"{CODE}/{name}"]
        refuse_other(f"{SOURCES}/{name} of commit {record.commit[:12]}", own, content, "the bundle")
    return ", ".join(names)


def _lock(record: Run) -> str:
    """Say where the lock of the run is; raises ProjectError where it is nowhere."""
    try:
        if hashlib.sha256(_as_of(record.commit, LOCK)).hexdigest() == record.lock:
            return "as of the commit"
    except ProjectError:
        pass  # whoever trained had not committed it
    if LOCK.is_file() and sha256(LOCK) == record.lock:
        return "as it is here"
    raise ProjectError(
        f"{LOCK}: is not what run {record.id} was made with ({record.lock[:12]}), in its commit nor here"
    )


def _places(record: Run) -> list[tuple[str, dict[str, Path]]]:
    """Return where the files of the run's data are, by source, after verifying their list.

    Those are DVC's cache, and data/raw where it holds this version. Raises ProjectError where they are nowhere.
    """
    version, places = record.data["version"], []
    listing = CACHE / version[:2] / f"{version[2:]}.dir"
    if listing.is_file():
        content = listing.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != version:
            raise ProjectError(f"{listing}: was altered, it is not the list of version {version[:12]} of the data")
        files = {entry["relpath"]: CACHE / entry["md5"][:2] / entry["md5"][2:] for entry in json.loads(content)}
        places.append(("DVC's cache", {name: files[f"{name}.parquet"] for name in record.data["sources"]}))
    if current() == version:
        places.append((f"{RAW}", {name: RAW / f"{name}.parquet" for name in record.data["sources"]}))
    missing = next((f"{path}" for _, folder in places for path in folder.values() if not path.is_file()), None)
    if missing or not places:
        told = f"{missing} is missing" if missing else "it is neither in DVC's cache nor in data/raw"
        raise ProjectError(f"version {version[:12]} of the data: {told}; `make data VERSION={version}` fetches it")
    return places


def _origin(name: str, source: dict[str, Any]) -> str:
    """Verify the file that a source was collected from, as long as it was not collected anew; returns what was."""
    try:
        entry = json.loads((RAW / MANIFEST).read_bytes())[name]
    except (OSError, ValueError, LookupError):
        entry = {}
    if entry.get("sha256") != source["sha256"]:
        return "SHA-256 of the collected file (collected anew since)"
    if entry["source"] is None:
        return f"SHA-256 of the collected file (from {entry['uri']})"
    path = Path(entry["uri"])
    refuse_other(f"{path}", entry["source"], path.read_bytes() if path.is_file() else b"", f"{RAW / MANIFEST}")
    return f"SHA-256 of the collected file, and of {path}, {entry['source'][:12]}"


def _as_of(commit: str, path: Path) -> bytes:
    """Return a file as a commit has it; raises ProjectError where git has neither."""
    command = ["git", "show", f"{commit}:./{path.as_posix()}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise ProjectError(f"{path}: is not in git as of commit {commit[:12]}; `git fetch`, or it was never committed")
    return done.stdout


def refuse_other(what: str, wanted: str, content: bytes, by: str) -> None:
    """Raise ProjectError for a content that is not what something says of it by its SHA-256."""
    if (own := hashlib.sha256(content).hexdigest()) != wanted:
        raise ProjectError(f"{what}: its SHA-256 is {own[:12]}, and {wanted[:12]} is what {by} says; it was altered")
