"""What a bundle is made from: modules as git has them, what the registry kept, and the lock of the run."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.guards_3 import (
    RECORD,
)
from flight_delays.ops.register import (
    register,
    store,
    versions,
)
from flight_delays.ops.register.run import (
    Run,
    write,
)
from flight_delays.ops.release import (
    build,
    bundle,
)
from flight_delays.ops.release.policy import (
    Policy,
)

FEATURES = "from .ops.contract import Columns\nfrom .shared.words import longest\nfrom . import sizes\n"
MODULES = {
    "__init__.py": "",
    "features.py": FEATURES,
    "shared/__init__.py": "from .. import colours\n",
    "shared/words.py": "def longest(): return 'ü'\n",
    "colours.py": "",
    "sizes.py": "",
    "model.py": "",
    "ops/__init__.py": "",
}


def git(*words: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project in a folder of a bigger repository, with one commit; since then everything has changed."""
    folder = tmp_path / "repository" / "project"
    for name, text in MODULES.items():
        path = folder / build.SOURCES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "uv.lock").write_text("a lock", encoding="utf-8")
    with chdir(folder):
        git("init", "--quiet", "..")
        git("add", "--all")
        git("commit", "--quiet", "--message", "Start")
        for path in (folder / build.SOURCES).rglob("*.py"):
            path.write_text("another", encoding="utf-8")
        yield folder


@pytest.mark.usefixtures("project")
def test_the_modules_of_the_commit_are_followed() -> None:
    found = bundle.modules(*build.committed(git("rev-parse", "HEAD")))
    followed = ("colours.py", "features.py", "shared/__init__.py", "shared/words.py", "sizes.py")
    assert found == {f"code/{name}": MODULES[name].encode() for name in followed}


def test_the_lock_of_the_run_is_found_or_missed(project: Path, tmp_path: Path) -> None:
    def lock(text: str, clone: str) -> str:
        record = replace(RECORD, commit=git("rev-parse", "HEAD"), lock=hashlib.sha256(text.encode()).hexdigest())
        return (build._cloned(record, tmp_path / clone) / "uv.lock").read_text("utf-8")

    assert lock("a lock", "first") == "a lock"
    (project / "uv.lock").write_text("a newer lock", encoding="utf-8")
    assert (lock("a newer lock", "second"), lock("a lock", "third")) == ("a newer lock", "a lock")
    with pytest.raises(ProjectError, match=r"uv\.lock: is not what run guard was made with"):
        lock("an older lock", "fourth")


def recorded(**facts: object) -> Run:
    """Write a model and the record of its run, in the working folder."""
    Path("model.onnx").write_bytes(b"a model")
    facts = {"id": "20261123-231455-5eed", "key": "5eed", "seed": 0, "threads": 1, "duration": 1.0} | facts
    run = replace(RECORD, model=hashlib.sha256(b"a model").hexdigest(), parameters={"model": {}}, **facts)
    write(run)
    return run


def refused(*kept: str, **facts: object) -> str:
    """Register a version with some files, and return how its release is refused."""
    run = recorded(**facts)
    files = {name: Path(name) for name in kept}
    for path in files.values():
        path.write_text("{}", encoding="utf-8")
    register(run, Path("model.onnx"), {run.path.name: run.path, **files}, lambda _: None)
    with pytest.raises(ProjectError) as refusal:
        build.bundled(versions()[0], Policy(), lambda _: None)
    assert not Path("releases").exists(), "something was kept"
    return str(refusal.value)


def test_a_version_without_its_test_rows_is_refused(tmp_path: Path) -> None:
    with chdir(tmp_path):
        told = refused("metrics.json", "card.md")
    assert told.startswith("version 1 was registered without reference.parquet, or it is gone: run `make train` again")


def test_a_dirty_version_is_refused(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert "changes that are not committed" in refused(*build.ARTIFACTS, dirty=["src/a.py"])


def test_what_was_altered_in_the_registry_is_refused(tmp_path: Path) -> None:
    with chdir(tmp_path):
        run = recorded()
        files = {name: Path("model.onnx") for name in build.ARTIFACTS}
        register(run, Path("model.onnx"), {run.path.name: run.path, **files}, lambda _: None)
        kept = next(store.ARTIFACTS.rglob(run.path.name))
        with pytest.raises(ProjectError, match="not a usable model file"):
            build.bundled(versions()[0], Policy(), print)
        kept.write_text(json.dumps({**asdict(run), "model": "another"}), encoding="utf-8")
        with pytest.raises(ProjectError, match="is not that of version 1"):
            build.refuse_other(versions()[0], build.read(kept))
        next(store.ARTIFACTS.rglob("model.onnx")).write_bytes(b"another")
        with pytest.raises(ProjectError, match="it was altered"):
            build.bundled(versions()[0], Policy(), print)
