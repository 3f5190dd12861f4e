"""A release lived through: a registered version becomes a bundle, in a folder and in a bucket, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT, TIMES, Command, git, must, run, share_environment, tree

pytestmark = pytest.mark.life
Lived = Callable[[int, str], Path]
KILLS = 3
BUNDLE = """
import json, sys, time
from unittest.mock import patch
from flight_delays.ops.config import load
from flight_delays.ops.register import versions
from flight_delays.ops.release import build
from flight_delays.ops.release.policy import Policy

counts = {"commit": "", "model": "", "passed": 1 + ("other" in sys.argv), "skipped": 0, "failed": 0, "files": {}}
untested = patch.object(build, "tested", lambda *_: counts)
start = time.monotonic()
if "untested" in sys.argv:
    untested.start()
print(build.bundled(versions()[0], load(Policy), lambda _: None), time.monotonic() - start)
"""
ASK = """
import json
from flight_delays.ops.config import load
from flight_delays.ops.release.policy import Policy
from flight_delays.ops.release.store import opened

store = opened(load(Policy))
entries = store.entries()
print(json.dumps([[entry.kind, entry.facts] for entry in entries]))
for entry in entries:
    store.bundle(entry.facts["digest"])
"""
FILES = {
    "card.md",
    "code/features.py",
    "contract.yaml",
    "data.yaml",
    "fixture.json",
    "metrics.json",
    "model.onnx",
    "reference.parquet",
    "run.json",
    "sbom.json",
    "test.parquet",
    "tests.json",
}


def bundling(home: Path, *words: str) -> Command:
    """Return the command that bundles the newest version of a project."""
    return [home / ".venv/bin/python", "-c", BUNDLE, *words]


@pytest.fixture(scope="module")
def home(lived: Lived) -> Path:
    """Return the project of level 3, set up and trained."""
    return lived(3, "classification")


@pytest.fixture(scope="module")
def released(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a store with the bundle of the newest version, and its digest."""
    folder = tmp_path_factory.mktemp("releases")
    digest, seconds = must(bundling(home), home, RELEASE_STORE=str(folder)).split()
    TIMES["a bundle with its tests"] = float(seconds)
    return folder, digest


def test_set_up_makes_a_key_that_git_does_not_see(home: Path) -> None:
    key = home / ".keys" / "release.pem"
    assert key.stat().st_mode & 0o77 == 0
    assert ".keys" not in git(home, "status", "--porcelain", "--untracked-files=all")


def test_a_bundle_holds_all_that_it_was_made_from(home: Path, released: tuple[Path, str]) -> None:
    folder = released[0] / "bundles" / released[1]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {
        "manifest.json"
    }
    assert set(manifest["files"]) == FILES
    record = json.loads((folder / "run.json").read_bytes())
    for name in ("commit", "lock", "prediction", "metrics"):
        assert manifest[name] == record[name], name
    features = "src/flight_delays/features.py"
    assert (folder / "code/features.py").read_text("utf-8") == git(home, "show", f"{record['commit']}:{features}")
    tests = json.loads((folder / "tests.json").read_bytes())
    assert (tests["commit"], tests["model"]) == (record["commit"], manifest["files"]["model.onnx"])
    assert tests["passed"] > 50
    assert {"tests/test_own.py", "tests/ops/test_release.py"} < set(tests["files"])
    assert tests["files"]["tests/ops/test_release.py"]["skipped"] == 0, "the model was not there when its tests ran"


def test_the_parts_list_names_what_serves_and_nothing_else(released: tuple[Path, str]) -> None:
    parts = json.loads((released[0] / "bundles" / released[1] / "sbom.json").read_bytes())
    assert (parts["bomFormat"], parts["specVersion"]) == ("CycloneDX", "1.5")
    names = {part["name"] for part in parts["components"]}
    assert {"numpy", "onnxruntime", "fastapi", "msgspec", "cryptography"} < names
    assert not {"scikit-learn", "pandas", "mlflow", "duckdb", "pytest"} & names


def test_the_same_version_again_is_the_bundle_that_is_there(home: Path, released: tuple[Path, str]) -> None:
    folder, digest = released
    before = (folder / "ledger.jsonl").read_bytes()
    again, seconds = must(bundling(home), home, RELEASE_STORE=str(folder)).split()
    assert (again, (folder / "ledger.jsonl").read_bytes()) == (digest, before)
    TIMES["the same bundle again"] = float(seconds)


def test_a_bundle_whose_files_are_gone_is_made_again_or_refused(home: Path, tmp_path: Path) -> None:
    """The same files make the same bundle; whatever would be another one is refused, and changes nothing."""
    where = {"RELEASE_STORE": str(tmp_path)}
    digest = must(bundling(home, "untested"), home, **where).split()[0]
    folder, ledger = tmp_path / "bundles" / digest, tmp_path / "ledger.jsonl"
    before, lines = tree(folder), ledger.read_bytes()
    shutil.rmtree(folder)
    done = run(bundling(home, "untested", "other"), home, **where)
    assert done.returncode != 0
    assert "from a copy" in done.stderr
    assert not any((tmp_path / "bundles").iterdir())
    assert ledger.read_bytes() == lines
    assert must(bundling(home, "untested"), home, **where).split()[0] == digest
    assert (tree(folder), ledger.read_bytes()) == (before, lines)
    (folder / "manifest.json").unlink()
    done = run(bundling(home, "untested"), home, **where)
    assert done.returncode != 0
    assert "is no whole bundle" in done.stderr


def test_kills_leave_no_half_of_a_bundle(home: Path, tmp_path: Path) -> None:
    store, chance = tmp_path / "store", random.Random(0)
    environment = {"RELEASE_STORE": str(store)}
    command = bundling(home, "untested")
    start = time.monotonic()
    digest = must(command, home, RELEASE_STORE=str(tmp_path / "first")).split()[0]
    whole = time.monotonic() - start
    for _ in range(KILLS):
        own = {**os.environ, **environment}
        with subprocess.Popen(command, cwd=home, env=own, stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(0.5, 1) * whole)
            process.send_signal(signal.SIGKILL)
        must([home / ".venv/bin/python", "-c", ASK], home, **environment)
    assert must(command, home, **environment).split()[0] == digest, "a bundle depends on more than its version"
    [[kind, facts]] = json.loads(must([home / ".venv/bin/python", "-c", ASK], home, **environment))
    assert (kind, facts["digest"]) == ("bundle", digest)


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """Start a server that speaks S3, and return the environment in which a store in one of its buckets is found."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            _answered(f"{address}/bucket", "PUT")
            keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
            yield {**keys, "AWS_ENDPOINT_URL": address, "STORE": "s3://bucket"}
        finally:
            server.kill()


def _answered(address: str, method: str) -> Any:
    for _ in range(300):
        try:
            return urlopen(Request(address, method=method)).status
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


def test_a_bucket_is_a_store(home: Path, bucket: dict[str, str]) -> None:
    settings, module = home / "pyproject.toml", ROOT / "tests/inside/level3/remote.py"
    python = home / ".venv/bin/python"
    said = must([python, "-m", "pytest", "-v", "--noconftest", "-c", settings, module], home, **bucket)
    assert "[s3://bucket] PASSED" in said


def test_a_bundle_goes_into_a_bucket(home: Path, bucket: dict[str, str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    git(home, "clone", "--quiet", str(home), str(project))
    share_environment(home, project)
    for name in (".keys", ".uv", "mlartifacts", "mlflow.db", "uv.lock"):
        if (home / name).exists() and not (project / name).exists():
            (project / name).symlink_to(home / name)
    environment = {**bucket, "RELEASE_STORE": "s3://bucket/releases"}
    digest = must(bundling(project, "untested"), project, **environment).split()[0]
    [[kind, facts]] = json.loads(must([project / ".venv/bin/python", "-c", ASK], project, **environment))
    assert (kind, facts["digest"]) == ("bundle", digest)
