"""The release store: bundles, a pointer for each environment, and the ledger; a folder, or any address of fsspec.

Every move is a line of the ledger first and a pointer second. Only what a line of the ledger vouches for is opened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from ..config import UnfinishedError, first_line, masked
from ..contract import ProjectError
from ..files import atomic, unwritable
from . import ledger
from .bundle import MANIFEST, Bundle, hashes, load, transfer, verified
from .ledger import Entry, Pointer, last_move, refuse_unknown, refuse_unreleased
from .policy import Environment, Policy

ADDRESS = "RELEASE_STORE"
BUNDLES, ENVIRONMENTS, LINES = "bundles", "environments", "ledger"
CACHE = Path("models/bundles")
"""Where bundles of a store that is no folder are copied to."""
PATIENCE = 120
"""Seconds that a command waits for another one that writes to the ledger."""
POLL = 0.5
"""Seconds between two questions to a store that is no folder whether a pointer moved."""


class Store:
    """The store; every method raises ProjectError in a sentence, UnfinishedError where it may end well later."""

    def __init__(self, place: _Folder | _Remote) -> None:
        """Use a place, see `opened`."""
        self.place = place

    def entries(self) -> list[Entry]:
        """Return every entry of the ledger, oldest first, after verifying their chain."""
        return ledger.read(self.place.lines())

    def append(self, kind: str, **facts: Any) -> Entry:
        """Add an entry, which is on disk when this returns; nothing is changed where that is refused."""
        return self._add(kind, facts, lambda _: None)

    def move(self, kind: str, environment: str, digest: str, noted: Pointer | None, **facts: Any) -> Pointer:
        """Let an environment use a bundle as its champion: an entry of a kind of MOVES, then the pointer.

        Of `facts`, challenger, share, shadow and experiment go into the pointer. `noted` is the environment's pointer
        when the move was decided; refuses if it has moved since.
        """

        def unmoved(entries: Sequence[Entry]) -> None:
            last = last_move(entries, environment)
            if last is not None and (noted is None or last.hash != noted.entry):
                raise ProjectError(
                    f"{environment} was moved by {last.who} ({last.kind}, {last.time}) while this command was at work: "
                    "nothing is changed; look at `make releases`, and try again if you still want to"
                )

        entry = self._add(kind, {**facts, "environment": known(environment), "digest": digest}, unmoved)
        return self.settle(environment) or Pointer.of(entry)

    def settle(self, environment: str) -> Pointer | None:
        """Let the pointer say what the environment's last move in the ledger says, which a kill may have prevented."""
        while True:
            last = last_move(self.entries(), known(environment))
            wanted = None if last is None else Pointer.of(last)
            if wanted is None or self.place.read(_file(environment)) == _dump(wanted):
                return wanted
            self.point(environment, wanted)  # then look again: two moves at once may write in the other order

    def pointer(self, environment: str) -> Pointer | None:
        """Return where an environment points, unchecked; None where nothing is in it yet."""
        content = self.place.read(_file(environment))
        if content is None:
            return None
        try:
            return Pointer(**json.loads(content))
        except (ValueError, TypeError):
            where = f"{self.place.name}/{_file(environment)}"
            raise ProjectError(f"{where}: is no pointer; take it away, and `make rollback` writes it anew") from None

    def point(self, environment: str, pointer: Pointer) -> None:
        """Write a pointer, whole or not at all."""
        self.place.write(_file(environment), _dump(pointer))

    def stamp(self, environment: str) -> object:
        """Return something that changes when the pointer changes; cheap enough to be asked all the time."""
        return self.place.stamp(_file(environment))

    def put(self, folder: Path, digest: str) -> None:
        """Take a bundle in, whole or not at all; the same bundle again changes nothing."""
        verified(folder, digest)
        self.place.put(folder, digest)

    def folder(self, digest: str) -> Path:
        """Return a local folder with a bundle's files; verified if it was copied from elsewhere."""
        return self.place.folder(digest)

    def admitted(self, environment: str) -> Pointer:
        """Return an environment's pointer after checking that the ledger says the same, and admitting its bundles."""
        pointer = self.pointer(environment)
        if pointer is None:
            raise ProjectError(f"nothing is in {environment} yet: `make train` makes a version, `make ship` ships it")
        entries = self.entries()
        refuse_unknown(entries, environment, pointer)
        for digest in pointer.digests:
            refuse_unreleased(entries, digest)
            verified(self.folder(digest), digest)
        return pointer

    def bundle(self, digest: str, threads: int = 1) -> Bundle:
        """Open a bundle that the ledger vouches for, after verifying its signature and every file."""
        refuse_unreleased(self.entries(), digest)
        return load(self.folder(digest), digest, threads)

    def load(self, environment: str, threads: int = 1) -> Bundle:
        """Open the champion of an environment."""
        pointer = self.admitted(environment)
        return load(self.folder(pointer.champion), pointer.champion, threads)

    def _add(self, kind: str, facts: dict[str, Any], check: Callable[[Sequence[Entry]], None]) -> Entry:
        """Add an entry, unless `check` raises on those so far."""
        from ..register.events import who

        author = who()

        def line(content: bytes) -> bytes:
            entries = ledger.read(content)
            check(entries)
            return ledger.line(entries, kind, author, facts)

        return ledger.read(self.place.add(line))[-1]


def opened(policy: Policy, address: str | None = None) -> Store:
    """Return the store at an address, or else that of RELEASE_STORE, or else that of config/policy.yaml."""
    where = address or os.environ.get(ADDRESS) or policy.store
    return Store(_Remote(where) if "://" in where else _Folder(Path(where)))


class _Folder:
    """A store in a folder, which several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"{path}"

    def lines(self) -> bytes:
        return self.read(ledger.NAME) or b""

    def add(self, line: Callable[[bytes], bytes]) -> bytes:
        """Add the line that is made from the content so far, and return all of it; nobody else writes in between."""
        path = self.path / ledger.NAME
        try:
            with self._locked(), path.open("ab", buffering=0) as file:
                content = path.read_bytes()
                whole = content[: content.rfind(b"\n") + 1]
                added = line(whole)
                try:
                    file.truncate(len(whole))  # a killed process may have left half a line
                    left = memoryview(added)
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(len(whole))
                    raise
        except OSError as error:
            raise unwritable(path, error) from None
        return whole + added

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProjectError(f"{self.path / name}: cannot be read ({error.strerror})") from None

    def write(self, name: str, content: bytes) -> None:
        with atomic(self.path / name) as path:
            path.write_bytes(content)

    def stamp(self, name: str) -> object:
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def put(self, folder: Path, digest: str) -> None:
        if not self.folder(digest).is_dir():
            transfer(lambda name: (folder / name).read_bytes(), digest, self.folder(digest))
        verified(self.folder(digest), digest)

    def folder(self, digest: str) -> Path:
        return self.path / BUNDLES / digest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=PATIENCE):
                yield
        except Timeout:
            raise UnfinishedError(f"another command has held the ledger for {PATIENCE} s; try again later") from None


class _Remote:
    """A store at an address of fsspec; each line of the ledger is a file, since only creating one is atomic there."""

    def __init__(self, address: str) -> None:
        import fsspec

        self.name = masked(address)
        try:
            self.system, self.root = fsspec.url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ProjectError(f"{self.name}: cannot be opened ({first_line(error)})") from None
        self.stamps: dict[str, tuple[float, object]] = {}

    def lines(self) -> bytes:
        with self._answering():
            found = self.system.find(f"{self.root}/{LINES}")
            content = self.system.cat(found) if found else {}
            return b"".join(content[name] for name in sorted(content))

    def add(self, line: Callable[[bytes], bytes]) -> bytes:
        """Add a line; where another process was quicker, look at what it wrote and try again."""
        while True:
            content = self.lines()
            added, number = line(content), content.count(b"\n") + 1
            name = f"{self.root}/{LINES}/{number:08}.json"
            with self._answering():
                try:
                    self.system.pipe_file(name, added, mode="create")
                except Exception:  # each file system has its own way to say that the file is there
                    if not self.system.exists(name):
                        raise
                if self.system.cat_file(name) == added:
                    return content + added

    def read(self, name: str) -> bytes | None:
        with self._answering():
            path = f"{self.root}/{name}"
            return bytes(self.system.cat_file(path)) if self.system.exists(path) else None

    def write(self, name: str, content: bytes) -> None:
        with self._answering():
            self.system.pipe_file(f"{self.root}/{name}", content)

    def stamp(self, name: str) -> object:
        asked, stamp = self.stamps.get(name, (-POLL, None))
        if time.monotonic() - asked >= POLL:
            with self._answering():
                path = f"{self.root}/{name}"
                stamp = self.system.ukey(path) if self.system.exists(path) else None
            self.stamps[name] = (time.monotonic(), stamp)
        return stamp

    def put(self, folder: Path, digest: str) -> None:
        for name in (*hashes(folder), MANIFEST):  # without its manifest it is none
            self.write(f"{BUNDLES}/{digest}/{name}", (folder / name).read_bytes())

    def folder(self, digest: str) -> Path:
        if not (CACHE / digest).is_dir():
            transfer(lambda name: self.read(f"{BUNDLES}/{digest}/{name}") or b"", digest, CACHE / digest)
        return CACHE / digest

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise ProjectError(f"{self.name}: access is refused ({first_line(error)})") from None
        except Exception as error:  # each file system has exceptions of its own
            raise UnfinishedError(f"{self.name}: does not answer as it should ({first_line(error)})") from None


def _file(environment: str) -> str:
    return f"{ENVIRONMENTS}/{known(environment)}.json"


def known(environment: str) -> str:
    """Return the name of an environment; raises ProjectError for one that does not exist."""
    if environment not in get_args(Environment):
        raise ProjectError(f"ENV is '{environment}': choose {', '.join(get_args(Environment))}")
    return environment


def _dump(pointer: Pointer) -> bytes:
    return json.dumps(asdict(pointer), indent=2).encode() + b"\n"
