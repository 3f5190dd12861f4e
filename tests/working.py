"""A task for worker processes that does what its job says; a module of its own, for a worker to load it quickly."""

from __future__ import annotations

import os
import signal
import time


def work(job: str) -> str:
    """Do what a job says."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "hang":
        time.sleep(60)
    return f"{job} done"
