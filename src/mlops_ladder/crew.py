"""Worker processes, one project each at a time: one that dies or hangs costs its own project, and no other."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

GRACE = 10.0
"""Seconds that a worker may take to end."""
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class _Worker(Generic[Job]):
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None
    until: float = 0.0


def shared(
    task: Callable[[Job], Result],
    jobs: Iterable[Job],
    lost: Callable[[Job, str], Result],
    *,
    workers: int,
    patience: float,
) -> Iterator[Result]:
    """Give the result of a task for every job, as they come, from so many processes.

    `task` must be a function of a module. Where its process dies, or takes more than `patience` seconds, `lost` makes
    the result from the job and a sentence. The processes end with the iterator, and when this process is killed.
    """
    waiting = deque(jobs)
    crew = [_hired(task) for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or any(one.job is not None for one in crew):
            for one in crew:
                if one.job is None and waiting:
                    one.job, one.until = waiting.popleft(), time.monotonic() + patience
                    one.pipe.send(one.job)
            busy = {one.pipe: one for one in crew if one.job is not None}
            ready = wait(list(busy), timeout=1.0)
            for one in busy.values():
                job = one.job
                assert job is not None
                if one.pipe in ready:
                    try:
                        result = one.pipe.recv()
                    except (EOFError, OSError):
                        one.process.join()
                        result = lost(job, f"its worker process died (exit code {one.process.exitcode})")
                        crew[crew.index(one)] = _hired(task)
                elif time.monotonic() > one.until:
                    one.process.kill()
                    result = lost(job, f"it did not end within {patience:.0f} seconds")
                    crew[crew.index(one)] = _hired(task)
                else:
                    continue
                one.job = None
                yield result
    finally:
        for one in crew:
            one.pipe.close()  # at which a worker ends, and takes its temporary files along
        for one in crew:
            one.process.join(GRACE)
            one.process.kill()
            one.process.join()


def _hired(task: Callable[[Job], Result]) -> _Worker[Job]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(task, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(task: Callable[[Job], Result], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    while True:
        try:
            pipe.send(task(pipe.recv()))
        except EOFError:
            return
