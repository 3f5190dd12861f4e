"""The room of retraining: new data start the pipeline by themselves, once for each content.

What was handled stands in the event log, written after the pipeline ended. So a kill at any moment leads to one more
run of the pipeline, which finishes what is unfinished and finds nothing to do otherwise.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout

from ..config import ANSWERS, Data, UnfinishedError, load
from ..contract import ProjectError
from ..files import atomic, sha256
from ..register import events

RULES = Path("config/data.yaml")
PROCESS = Path("logs/watch.pid")
ERROR = "error: "
LONGEST = 3600.0
"""Seconds between two tries at most, where the pipeline does not finish again and again."""
GRACE = 10
"""Seconds that the pipeline has to end by itself when the watch ends."""
Say: TypeAlias = Callable[[str], None]
Stamp: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Content:
    """What the pipeline would read."""

    files: dict[str, str]
    """Path of each watched file, and the SHA-256 of its content."""
    rules: str
    """SHA-256 of config/data.yaml."""


@dataclass(frozen=True)
class Ended:
    """How a run of the pipeline ended."""

    code: int
    told: str
    """Its error, in words."""

    @property
    def unfinished(self) -> bool:
        """Whether it was killed, or another command was in its way, so that nothing is known about the content."""
        return self.code < 0 or self.code > 128 or self.code == UnfinishedError.code


class Files:
    """The watched files. One is read anew only when something about it changed and it then held still."""

    def __init__(self, still: float) -> None:
        """Take a file as whole when it did not change for `still` seconds."""
        self.still = still
        self.seen: dict[Path, tuple[Stamp, float]] = {}
        self.digests: dict[Path, tuple[Stamp, str]] = {}

    def digest(self, path: Path) -> str | None:
        """Return the SHA-256 of a file's content; None while it changes. Raises OSError where it cannot be read."""
        stamp, now = _stamp(path), time.monotonic()
        if path not in self.seen or self.seen[path][0] != stamp:
            self.seen[path] = stamp, now
            return None
        if now - self.seen[path][1] < self.still:
            return None
        if path not in self.digests or self.digests[path][0] != stamp:
            self.digests[path] = stamp, sha256(path)
        return self.digests[path][1]

    def content(self, paths: Sequence[Path]) -> Content | None:
        """Return the content of all files; None while one of them changes or is gone.

        Raises ProjectError naming a file that is missing or cannot be read.
        """
        digests = {}
        for path in (RULES, *paths):
            try:
                digests[path.as_posix()] = self.digest(path)
            except OSError as error:
                self.seen.pop(path, None)
                raise ProjectError(f"{path}: {error.strerror or error}; waiting for it") from None
        if None in digests.values():
            return None
        whole = {name: digest for name, digest in digests.items() if digest is not None}
        return Content(whole, whole.pop(RULES.as_posix()))


def watch(every: float, command: Sequence[str], say: Say) -> None:
    """Run `command`, the pipeline, whenever a watched file has a new content; look every `every` seconds, for ever.

    Content that the pipeline refused is tried again when it or config/data.yaml changes. Raises ProjectError where
    another watch is running, and KeyboardInterrupt when this one is ended, after it ended the pipeline.
    """
    with only_one(PROCESS), ended_by_signals():
        paths, unwatched = watched(load(Data))
        say(f"watching {', '.join(map(str, paths))} every {every:g} s; Ctrl-C ends it")
        for name in unwatched:
            say(f"source '{name}' is not on this machine and is not watched; `make data` fetches it again")
        files, tries, pause_until, said = Files(every), 0, 0.0, ""
        while True:
            try:
                content = files.content(watched(load(Data))[0])
                said = ""
                if content is not None and due(content) and time.monotonic() >= pause_until:
                    tries = 0 if handle(content, command, say) else tries + 1
                    pause_until = time.monotonic() + (min(every * 2**tries, LONGEST) if tries else 0)
            except ProjectError as mistake:
                if str(mistake) != said:
                    say(f"warning: {mistake}")
                said = str(mistake)
            time.sleep(every)


def watched(data: Data) -> tuple[list[Path], list[str]]:
    """Return the files to watch, and the names of the sources that are not on this machine.

    Raises ProjectError where there is nothing to watch.
    """
    local = {name: source for name, source in data.source.items() if isinstance(source, str) and "://" not in source}
    if not local:
        raise ProjectError(f"{RULES}: no source is a file on this machine; let a schedule run `make pipeline` instead")
    answers = [ANSWERS] if ANSWERS.is_file() else []
    return [*map(Path, local.values()), *answers], [name for name in data.source if name not in local]


def due(content: Content) -> bool:
    """Whether the event log does not know the content as the last one handled."""
    last = events.last("watch")
    if last is None or last["files"] != content.files:
        return True
    return bool(last["outcome"] == "refused" and last["rules"] != content.rules)


def handle(content: Content, command: Sequence[str], say: Say) -> bool:
    """Run the pipeline on the content and log how it ended; return False, and log nothing, if it did not finish."""
    earlier: Mapping[str, str] = (events.last("watch") or {"files": {}})["files"]
    names = ", ".join(name for name, digest in content.files.items() if earlier.get(name) != digest) or str(RULES)
    say(f"{names}: new content, running the pipeline")
    ended = run(command, say)
    if ended.unfinished:
        say(f"warning: the pipeline did not finish ({ended.told or 'killed'}); it is tried again")
        return False
    outcome = "refused" if ended.code else "handled"
    events.append("watch", outcome=outcome, files=content.files, rules=content.rules, told=ended.told)
    say(f"{names}: refused ({ended.told}); watching for other content" if ended.code else f"{names}: handled; watching")
    return True


def run(command: Sequence[str], say: Say) -> Ended:
    """Run a command to its end, passing on what it says; it ends with this process, and whatever it started with it."""
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            for line in process.stdout or ():
                say(line.rstrip())
                said.append(line.strip())
            code = process.wait()
            if code < 0:  # what it started may go on without it
                _tell(process, "SIGKILL")
        except BaseException:
            _end(process)
            raise
    return Ended(code, _error(said) if code > 0 else "")


def seconds(every: str) -> float:
    """Return how long to wait between two looks; raises ProjectError for what is no such time."""
    try:
        wanted = float(every)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted <= 86_400:
        raise ProjectError(f"EVERY={every}: should be a number of seconds above 0, of at most a day")
    return wanted


@contextmanager
def only_one(path: Path, what: str = "watch") -> Iterator[None]:
    """Hold the place of the only watch or the like, and write this process's number to `path`; a kill frees the place.

    Raises ProjectError naming the process that holds it.
    """
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            with atomic(path) as number:
                number.write_text(f"{os.getpid()}\n", encoding="utf-8")
            yield
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() if path.is_file() else "unknown"
        raise ProjectError(f"another {what} is running here (process {holder}); end it first") from None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that ask a process to end do what Ctrl-C does."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    earlier = {name: signal.signal(getattr(signal, name), signal.default_int_handler) for name in names}
    try:
        yield
    finally:
        for name, handler in earlier.items():
            signal.signal(getattr(signal, name), handler)


def _error(said: Sequence[str]) -> str:
    """Return the last error that a command of this project told, which may have several lines, or its last words."""
    starts = [place for place, line in enumerate(said) if line.startswith(ERROR)]
    return " ".join(said[starts[-1] if starts else -1 :]).removeprefix(ERROR)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started: first it is asked to."""
    _tell(process, "SIGTERM")
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _tell(process, "SIGKILL")
        process.wait()


def _tell(process: subprocess.Popen[str], name: str) -> None:
    if os.name == "nt":
        process.terminate()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, getattr(signal, name))


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
