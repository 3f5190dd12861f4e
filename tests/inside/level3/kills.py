"""The release store under kills, several writers, a full disk and a folder that cannot be written to."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

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
from flight_delays.ops.files import (
    sha256,
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
    ledger,
    sign,
)
from flight_delays.ops.release.evidence import (
    START,
)
from flight_delays.ops.release.ledger import (
    Pointer,
    last_move,
    refuse_unknown,
    refuse_unreleased,
)
from flight_delays.ops.release.policy import (
    Policy,
)
from flight_delays.ops.release.store import (
    Store,
    opened,
)

KILLS = 100
CONFIG = Path("config").resolve()
ENVIRONMENTS = ("dev", "staging", "prod")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Where a small tree is released; the tests work from inside of its folder, with its key."""
    data, model = load(Data), load(Model)
    return Scene(data, load(Case), model, tmp_path_factory.mktemp("release"), drawn(data, model.task, ROWS))


@pytest.fixture(scope="module")
def made(scene: Scene) -> Release:
    with alone(scene):
        return released(scene)


@pytest.fixture(autouse=True)
def inside(scene: Scene) -> Iterator[None]:
    with alone(scene):
        yield


def another(made: Release, number: int, folder: Path) -> str:
    """Make another bundle that differs from the first by its card, and return its digest."""
    files = {path: path.read_bytes() for path in made.made.rglob("*") if path.is_file()}
    for path, content in files.items():
        copy = folder / path.relative_to(made.made)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    (folder / "card.md").write_text(f"{number}" * 50_000, encoding="utf-8")
    manifest = bundle.Manifest.parse((folder / bundle.MANIFEST).read_bytes())
    changed = replace(manifest, version=number, files=bundle.hashes(folder))
    (folder / bundle.MANIFEST).write_bytes(changed.dump())
    return sha256(folder / bundle.MANIFEST)


def work(store: Store, bundles: dict[str, Path], told: int, chance: random.Random) -> None:
    """Release and move for ever, and tell of each step when it is done."""
    while True:
        digest, folder = chance.choice(list(bundles.items()))
        environment = chance.choice(ENVIRONMENTS)
        store.put(folder, digest)
        entry = store.append("bundle", digest=digest, signature=sign.signature(digest), version=1, run="guard")
        os.write(told, f"{entry.hash}\n".encode())
        with suppress(ProjectError):  # another process moved the environment meanwhile
            moved = store.move("deploy", environment, digest, store.settle(environment), version=1)
            os.write(told, f"{moved.entry}\n".encode())


def forked(task: Callable[[], object]) -> int:
    """Do something in a process of its own, and return its number."""
    number = os.fork()
    if number == 0:
        try:
            task()
        finally:
            os._exit(1)
    return number


def test_kills_leave_ledger_pointers_and_bundles_valid(made: Release, tmp_path: Path) -> None:
    """Two writers at a time are killed at random; what they told of is there, and what is there is valid."""
    chance = random.Random(0)
    bundles = {another(made, number, tmp_path / f"made{number}"): tmp_path / f"made{number}" for number in range(2, 6)}
    store = opened(Policy(), f"{tmp_path / 'store'}")
    read, write = os.pipe()
    os.set_blocking(read, False)
    said = b""
    for number in range(KILLS // 2):
        writers = [
            forked(lambda seed=2 * number + n: work(store, bundles, write, random.Random(seed))) for n in range(2)
        ]
        time.sleep(chance.uniform(0, 0.3))
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.02))
        for writer in writers:
            os.waitpid(writer, 0)
        with suppress(BlockingIOError):
            said += os.read(read, 2**20)
        refuse_invalid(store)
    entries = store.entries()
    told = set(said.decode().split())
    assert len(told) > KILLS // 2
    assert told <= {entry.hash for entry in entries}, "what was told is not in the ledger"
    for environment in ENVIRONMENTS:
        last = last_move(entries, environment)
        assert last is not None
        assert store.settle(environment) == store.pointer(environment) == Pointer.of(last)
        assert store.admitted(environment) == store.pointer(environment)
    store.put(next(iter(bundles.values())), next(iter(bundles)))
    assert {path.name for path in (tmp_path / "store/bundles").iterdir() if path.suffix != ".part"} == bundles.keys()


def refuse_invalid(store: Store) -> None:
    """Raise ProjectError unless all that the store holds is valid."""
    entries = store.entries()
    for environment in ENVIRONMENTS:
        pointer = store.pointer(environment)
        if pointer is not None:
            refuse_unknown(entries, environment, pointer)
            refuse_unreleased(entries, pointer.champion)
    for folder in Path(store.place.name, "bundles").glob("[0-9a-f]*"):
        bundle.verified(folder, folder.name)


def test_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    store = opened(Policy(), f"{tmp_path / 'store'}")

    def write(writer: int) -> None:
        for number in range(25):
            store.append("gates", writer=writer, number=number)
        os._exit(0)

    writers = [forked(lambda writer=writer: write(writer)) for writer in range(4)]
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0] * 4
    entries = store.entries()
    assert [entry.seq for entry in entries] == list(range(1, 101))
    assert len({(entry.facts["writer"], entry.facts["number"]) for entry in entries}) == 100


@contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[None]:
    """Let a folder be a disk of its own; skips the test where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {f"{path}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_changes_nothing(made: Release, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", "512k"):
        store = opened(Policy(), f"{tmp_path / 'disk' / 'store'}")
        first = store.move("deploy", "dev", "a", None)
        with (tmp_path / "disk" / "filling").open("wb", buffering=0) as filling, suppress(OSError):
            while True:
                filling.write(b"x" * 4096)
        while True:  # up to the last page of the ledger's file
            before = contents(tmp_path / "disk" / "store")
            try:
                store.append("gates", filling="x" * 500)
            except UnfinishedError as error:
                assert "ledger.jsonl: cannot be written (No space left" in str(error)  # noqa: PT017
                break
        writes = (
            lambda: store.append("gates", filling="x" * 5000),
            lambda: store.move("deploy", "dev", "b", first, filling="x" * 5000),
            lambda: store.point("prod", first),
            lambda: store.put(made.made, made.digest),
        )
        for write in writes:
            with pytest.raises(UnfinishedError, match="cannot be written"):
                write()
        assert contents(tmp_path / "disk" / "store") == before
        assert store.pointer("dev") == store.settle("dev") == first
        (tmp_path / "disk" / "filling").unlink()
        assert store.move("deploy", "dev", "b", first) == store.pointer("dev")


def test_a_limit_on_files_changes_nothing(tmp_path: Path) -> None:
    """As a quota stops a write in the middle of a line."""
    store = opened(Policy(), f"{tmp_path / 'store'}")
    first = store.move("deploy", "dev", "a", None)
    path = tmp_path / "store" / ledger.NAME
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(ProjectError, match=r"ledger\.jsonl: cannot be written \(File too large\)"):
            store.move("deploy", "dev", "b", first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert store.pointer("dev") == store.settle("dev") == first


def test_a_store_that_is_read_only_still_serves(made: Release, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with tiny_disk(place, "20m"):
        store = opened(Policy(), f"{place / 'store'}")
        store.put(made.made, made.digest)
        store.append("bundle", digest=made.digest, signature=sign.signature(made.digest), version=1, run="guard")
        first = store.move("deploy", "prod", made.digest, None)
        before = contents(place)
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert store.load("prod").digest == made.digest
        for write in (
            lambda: store.append("gates"),
            lambda: store.move("deploy", "prod", made.digest, first),
            lambda: store.point("dev", first),
        ):
            with pytest.raises(ProjectError, match="cannot be written"):
                write()
        assert contents(place) == before


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_a_measured_service_ends_with_the_killed_process_that_started_it(made: Release) -> None:
    """A deployment that is killed leaves no service behind."""
    Path("config").symlink_to(CONFIG)
    measuring = f"""
import time
from flight_delays.ops.release.evidence import serving
with serving({made.digest!r}, "releases") as service:
    print(service.connection.port, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", measuring], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert answers(port)
        process.kill()
    end = time.monotonic() + START
    while answers(port) and time.monotonic() < end:
        time.sleep(0.1)
    assert not answers(port)
