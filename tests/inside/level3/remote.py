"""The release store at an address of fsspec: in memory, and at the address that STORE names, such as a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from flight_delays.ops.config import (
    Case,
    Data,
    Model,
    UnfinishedError,
    load,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.guards import (
    ROWS,
    Scene,
)
from flight_delays.ops.guards_3 import (
    Release,
    alone,
    released,
)
from flight_delays.ops.process.schema import (
    drawn,
)
from flight_delays.ops.release import (
    bundle,
    sign,
    store,
)
from flight_delays.ops.release.policy import (
    Policy,
)
from flight_delays.ops.release.store import (
    Store,
    opened,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    data, model = load(Data), load(Model)
    folder = tmp_path_factory.mktemp("release")
    with alone(scene := Scene(data, load(Case), model, folder, drawn(data, model.task, ROWS))):
        yield released(scene)


@pytest.fixture(params=["memory://store", *([os.environ["STORE"]] if os.environ.get("STORE") else [])])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}/{tmp_path.name}"


@pytest.fixture
def remote(made: Release, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with a release in use in prod; copies of its bundles go to a folder of the test's own."""
    monkeypatch.setattr(store, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("RELEASE_STORE", address)
    found = opened(Policy())
    assert (found.entries(), found.pointer("prod"), found.stamp("prod"), found.settle("prod")) == ([], None, None, None)
    found.put(made.made, made.digest)
    found.append("bundle", digest=made.digest, signature=sign.signature(made.digest), version=1, run="guard")
    found.move("deploy", "prod", made.digest, None, version=1, why="é")
    return found


def system(remote: Store) -> tuple[Any, str]:
    """Return the file system and the store's place in it."""
    return fsspec.url_to_fs(remote.place.name, use_listings_cache=False)


def test_a_release_comes_back_from_there(made: Release, remote: Store, tmp_path: Path) -> None:
    assert remote.load("prod").digest == made.digest
    assert [entry.kind for entry in remote.entries()] == ["bundle", "deploy"]
    assert bundle.verified(tmp_path / "cache" / made.digest, made.digest) == bundle.verified(made.made, made.digest)
    remote.put(made.made, made.digest)
    assert opened(Policy()).bundle(made.digest).digest == made.digest


def test_a_stamp_tells_of_a_move(made: Release, remote: Store) -> None:
    other = opened(Policy())
    before = other.stamp("prod")
    assert other.stamp("prod") == before is not None
    remote.move("rollback", "prod", made.digest, remote.pointer("prod"), version=1)
    time.sleep(store.POLL)
    assert other.stamp("prod") != before


def test_writers_at_once_lose_no_line(remote: Store) -> None:
    def write(writer: int) -> None:
        own = opened(Policy())
        for number in range(5):
            own.append("gates", writer=writer, number=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = [entry.facts for entry in remote.entries() if entry.kind == "gates"]
    assert len({(line["writer"], line["number"]) for line in lines}) == len(lines) == 20


def test_of_two_moves_at_once_the_pointer_says_the_last(made: Release, remote: Store) -> None:
    noted = remote.pointer("prod")
    remote.move("deploy", "prod", made.digest, noted, version=2)
    with pytest.raises(ProjectError, match="prod was moved by"):
        remote.move("deploy", "prod", made.digest, noted, version=3)
    entry = remote.append("deploy", environment="prod", digest=made.digest, version=4)
    settled = remote.settle("prod")
    assert settled is not None
    assert (settled.entry, remote.pointer("prod")) == (entry.hash, settled)


def test_what_was_changed_there_is_refused(made: Release, remote: Store, tmp_path: Path) -> None:
    files, root = system(remote)
    card, line = f"{root}/bundles/{made.digest}/{bundle.MODEL}", f"{root}/ledger/00000002.json"
    kept = files.cat_file(card)
    files.pipe_file(card, kept[:-1] + b"?")
    with pytest.raises(ProjectError, match=f"{bundle.MODEL}: was altered"):
        remote.load("prod")
    files.pipe_file(card, kept)
    assert remote.load("prod").digest == made.digest
    files.pipe_file(line, files.cat_file(line).replace(b'"version":1', b'"version":9'))
    with pytest.raises(ProjectError, match="line 2: is not as it was written"):
        remote.load("prod")
    files.rm(f"{root}/ledger/00000001.json")
    with pytest.raises(ProjectError, match="line 1"):
        remote.load("prod")
    files.rm(f"{root}/bundles/{made.digest}/{bundle.MANIFEST}")
    other = tmp_path / "other"
    with pytest.raises(ProjectError, match=bundle.MANIFEST):
        bundle.transfer(lambda name: remote.place.read(f"bundles/{made.digest}/{name}") or b"", made.digest, other)
    assert not other.exists()


@pytest.mark.parametrize("told", ["nowhere://me:secret@host/store", "gs://bucket/store"])
def test_an_address_that_cannot_be_opened_is_named_without_its_password(told: str) -> None:
    with pytest.raises(ProjectError, match="cannot be opened") as refusal:
        opened(Policy(), told)
    assert "secret" not in str(refusal.value)


def test_a_store_that_does_not_answer_may_answer_later(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it keeps what it knows of another server
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "guard")
    away = opened(Policy(), "s3://away/store")
    for ask in (away.entries, lambda: away.stamp("prod")):
        with pytest.raises(UnfinishedError, match=r"^s3://away/store: does not answer"):
            ask()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
