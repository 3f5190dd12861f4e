"""Making a bundle: a registered version with its code as of its commit, its tests and its parts list, signed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from ..config import parse
from ..contract import ProjectError, to_columns
from ..files import put_in_place, sha256
from ..register import events, refuse_altered, refuse_dirty
from ..register import store as registry
from ..register.run import LOCK, Run, git, read
from ..register.store import Version
from ..scorer import Input, Scorer, prediction_hash
from . import bundle, uv
from .bundle import CODE, CONTRACT, FIXTURE, MANIFEST, MODEL, SOURCES, TESTS, Manifest, hashes
from .contract import CONTRACT as PROMISE
from .contract import Contract, refuse_mismatch
from .ledger import refuse_unreleased, released
from .policy import Policy
from .sign import signature
from .store import BUNDLES, Store, opened

DATA, RECORD, SBOM = "data.yaml", "run.json", "sbom.json"
ARTIFACTS = ("metrics.json", "card.md", "reference.parquet", "test.parquet")
"""What the registry keeps of a version beside its model and the record of its run."""
ROWS = 32
"""Of the fixture."""
OF_HERE = ("RELEASE_", "MLFLOW_", "PYTEST_", "MODEL_ENV", "DATA_VERSION")
"""Beginnings of environment variables that are not for the tests of a release."""
SHOWN = 3
"""Failed tests that a refusal names."""
SERVING = ("--no-default-groups", "--group", "serve", "--group", "deploy")
"""What the image of the service installs, in words of uv."""


def bundled(version: Version, policy: Policy, say: Callable[[str], None]) -> str:
    """Make the bundle of a registered version, put it into the store, and return its digest.

    The same version again gives the bundle that is there, and makes its files again where they are gone. Raises
    ProjectError for a version that no commit holds, whose files were altered, that is not what the contract says, that
    fails a test of its commit, or that gives other files than those that are gone; nothing is kept then.
    """
    refuse_dirty(version)
    store = opened(policy)
    with events.locked("bundle"):
        known = released(entries := store.entries(), version.number, version.run)
        if known is not None:
            refuse_unreleased(entries, known)
            if not gone(store, known):
                bundle.verified(store.folder(known), known)
                return known
            say(f"the files of bundle {known[:12]} are gone")
        say(f"making the bundle of version {version.number}")
        with TemporaryDirectory(prefix="bundle-") as scratch:
            folder = Path(scratch) / "bundle"
            digest = _made(version, folder, Path(scratch) / "clone", say)
            if known not in (None, digest):
                raise ProjectError(
                    f"version {version.number} was released as bundle {known[:12]}, whose files are gone, and would be "
                    f"{digest[:12]} now: put {BUNDLES}/{known} of {store.place.name} back from a copy, or release "
                    "another version, as `make train` makes it"
                )
            signed = signature(digest)
            store.put(folder, digest)
        if known is None:
            store.append("bundle", digest=digest, signature=signed, version=version.number, run=version.run)
    say(f"version {version.number} is bundle {digest[:12]} in {store.place.name}")
    return digest


def gone(store: Store, digest: str) -> bool:
    """Whether a bundle's manifest, without which it is none, is not in the store."""
    return store.place.stamp(f"{BUNDLES}/{digest}/{MANIFEST}") is None


def _made(version: Version, folder: Path, clone: Path, say: Callable[[str], None]) -> str:
    """Make a bundle's folder, and return its digest."""
    _fetch(version, folder)
    record, scorer = read(folder / RECORD), Scorer(folder / MODEL)
    refuse_other(version, record)
    _write(folder, bundle.modules(*committed(record.commit)))
    _write(folder, {DATA: _shown(record.commit, "config/data.yaml"), CONTRACT: _shown("HEAD", f"{PROMISE}")})
    refuse_mismatch(parse(Contract, folder / CONTRACT), scorer.signature)
    place = _cloned(record, clone)
    _write(folder, {SBOM: _parts(place), TESTS: _dump(tested(record, folder / MODEL, place, say))})
    return finished(folder, version.number, record)


def finished(folder: Path, number: int, record: Run) -> str:
    """Write fixture and manifest beside all else that is in a bundle's folder, open it, and return its digest."""
    scorer = Scorer(folder / MODEL)
    fixture = _fixture(folder, scorer)
    _write(folder, {FIXTURE: _dump(fixture)})
    files = hashes(folder)
    manifest = Manifest(
        name=scorer.signature.name,
        version=number,
        run=record.id,
        commit=record.commit,
        dirty=bool(record.dirty),
        data=record.data["version"],
        lock=record.lock,
        metrics=record.metrics,
        prediction=record.prediction,
        fixture=prediction_hash(np.array(fixture["answers"], dtype=np.float32)),
        tests=files[TESTS],
        files=files,
    )
    _write(folder, {MANIFEST: manifest.dump()})
    return bundle.load(folder, sha256(folder / MANIFEST)).digest


def refuse_other(version: Version, record: Run) -> None:
    """Raise ProjectError where the record that the registry keeps of a version is that of another run or model."""
    if (record.id, record.model) != (version.run, version.digest):
        raise ProjectError(
            f"the record {record.id} is not that of version {version.number}, which is of run {version.run}: "
            "it was altered in the registry; run `make train` again"
        )


def _fetch(version: Version, folder: Path) -> None:
    """Copy what the registry keeps of a version."""
    names = {RECORD: f"{version.run}.json", **{name: name for name in ARTIFACTS}}
    with registry.opened() as client:
        model = registry.model_file(client, version)
        refuse_altered(version, model)
        _write(folder, {MODEL: model.read_bytes()})
        for name, kept in names.items():
            try:
                local = version.local.with_name(kept) if version.local else None
                path = local or Path(client.download_artifacts(version.tracked, kept, f"{folder.parent}"))
                _write(folder, {name: path.read_bytes()})
            except Exception:  # MLflow has an exception for each kind of store
                raise ProjectError(
                    f"version {version.number} was registered without {kept}, or it is gone: run `make train` again, "
                    "and release the version that it registers"
                ) from None


def committed(commit: str) -> tuple[Callable[[str], bytes], set[str]]:
    """Return how to read a module of yours as of a commit by its path in your package, and the paths of all of them."""
    listed = git("ls-tree", "-r", "--name-only", "-z", commit, "--", SOURCES).split("\0")
    return lambda path: _shown(commit, f"{SOURCES}/{path}"), {path.removeprefix(f"{SOURCES}/") for path in listed}


def _shown(commit: str, path: str) -> bytes:
    return git("show", f"{commit}:./{path}").encode()


def _cloned(record: Run, folder: Path) -> Path:
    """Check the run's commit out into a folder, with the lock of the run; return the project in it."""
    git("clone", "--quiet", "--shared", "--no-checkout", git("rev-parse", "--show-toplevel").strip(), f"{folder}")
    git("checkout", "--quiet", "--detach", record.commit, folder=folder)
    place = folder / git("rev-parse", "--show-prefix").strip()
    lock = next((path for path in (place / LOCK, LOCK) if path.is_file() and sha256(path) == record.lock), None)
    if lock is None:
        raise ProjectError(f"{LOCK}: is not what run {record.id} was made with, neither here nor in its commit")
    if lock == LOCK:
        put_in_place({place / LOCK: LOCK})
    return place


def _parts(place: Path) -> bytes:
    """Return the parts list (CycloneDX 1.5) of what the service installs, without what differs from call to call."""
    command = ("export", "--quiet", "--format", "cyclonedx1.5", "--frozen", *SERVING)
    parts = json.loads(uv(command, place, "the parts of the release cannot be listed"))
    del parts["serialNumber"], parts["metadata"]["timestamp"]
    return _dump(parts)


def tested(record: Run, model: Path, place: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the tests of the run's commit beside the version's model, and return their report.

    Raises ProjectError where one fails, or where there is none.
    """
    say("running its tests")
    put_in_place({place / "models" / MODEL: model})
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_HERE)}
    report = place.parent / f"{place.name}-tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
    done = subprocess.run(
        [*command, f"--junit-xml={report}", "tests"],
        cwd=place,
        env={**environment, "PYTHONPATH": f"{place / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.is_file():
        told = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ProjectError(f"the tests of run {record.id} cannot be run: {told}")
    try:
        counts = judged(report, record)
    except ProjectError as mistake:
        events.append("unfit", run=record.id, told=f"{mistake}")
        raise ProjectError(f"{mistake}. Mend that, commit, and `make pipeline` makes another version") from None
    say(f"{counts['passed']} tests passed")
    return counts


def judged(report: Path, record: Run) -> dict[str, Any]:
    """Return how many tests passed and were skipped, in all and by file, and what they are about.

    Raises ProjectError where one failed, or where none passed.
    """
    files: dict[str, dict[str, int]] = {}
    failed = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('file')}: {case.get('name')}")
        counts = files.setdefault(case.get("file", ""), {"passed": 0, "skipped": 0})
        counts["skipped" if "skipped" in kinds else "passed"] += 1
    total = {name: sum(counts[name] for counts in files.values()) for name in ("passed", "skipped")}
    if failed or not total["passed"]:
        named = f"{', '.join(failed[:SHOWN])}{f' and {len(failed) - SHOWN} more' if failed[SHOWN:] else ''}"
        told = f"fail: {named}" if failed else "are none"
        raise ProjectError(f"the tests of run {record.id} (commit {record.commit[:12]}) {told}; nothing is released")
    return {"commit": record.commit, "model": record.model, **total, "failed": 0, "files": dict(sorted(files.items()))}


def _fixture(folder: Path, scorer: Scorer) -> dict[str, Any]:
    """Return some of the rows that tested the model, as a request carries them, and the model's raw answers."""
    import pyarrow.parquet as pq

    columns = to_columns(pq.read_table(folder / "test.parquet", columns=[one.name for one in scorer.signature.inputs]))
    count = len(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(ROWS, count)).astype(np.int64))
    plain = {one.name: [_plain(value, one) for value in columns[one.name][chosen]] for one in scorer.signature.inputs}
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    code = {name: (folder / name).read_bytes() for name in hashes(folder) if name.startswith(f"{CODE}/")}
    raw = bundle.answered(scorer, bundle.opened_code(code, folder)[0], rows)
    return {"dataframe_records": rows, "answers": raw.tolist()}


def _plain(value: Any, column: Input) -> Any:
    """Return a value as JSON carries it."""
    if column.type == "time":
        return None if np.isnat(value) else value.item().isoformat()
    if column.type == "text":
        return value or None
    if np.isnan(value):
        return None
    return {"boolean": bool, "integer": int}.get(column.type, float)(value)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
