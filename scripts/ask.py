"""Start a project's service, send it the first rows of a file, print its answers as JSON, and stop it.

python scripts/ask.py PROJECT ROWS.csv [number of rows]
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

PATIENCE = 60.0
"""Seconds that a service may take to start."""
OWN = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""Variables that change how a project's Python and make run, and that its user has not set."""
direct = build_opener(ProxyHandler({}))


def user_environment() -> dict[str, str]:
    """Return the environment of somebody who has not entered this repository's own environment."""
    own = os.environ.get("VIRTUAL_ENV", str(Path(sys.prefix)))
    path = [part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(own)]
    others = {name: value for name, value in os.environ.items() if name not in OWN}
    return {**others, "PATH": os.pathsep.join(path)}


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def service(project: Path) -> Iterator[str]:
    """Run `make serve` in a project and give the service's address once it answers; it is stopped at the end.

    Raises RuntimeError with what the service said where it does not come up.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["make", "--no-print-directory", "serve", f"PORT={port}"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=project, env=user_environment(), stdout=said, stderr=said, start_new_session=True
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not _answers(f"{address}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"make serve did not come up:\n{said.read()}")
                time.sleep(0.05)
            yield address
        finally:
            _stop(process)


def _answers(address: str) -> bool:
    try:
        with direct.open(address, timeout=2) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the service and what it started: first as Ctrl-C does, then for good."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ask(address: str, records: list[dict[str, Any]]) -> Any:
    """Send rows to the service and return its answer, read from JSON."""
    return send(address, records)[0]


def send(address: str, records: list[dict[str, Any]]) -> tuple[Any, str]:
    """Send rows to the service and return its answer, read from JSON, and the id under which it is logged."""
    body = json.dumps({"dataframe_records": records}).encode()
    request = Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with direct.open(request, timeout=30) as reply:
        return json.load(reply), reply.headers.get("X-Request-Id", "")


def first_rows(path: Path, number: int) -> list[dict[str, Any]]:
    """Return the first rows of a CSV file as a client would send them: numbers as numbers, nothing where empty."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for _, row in zip(range(number), csv.DictReader(file), strict=False)]
    return [{name: _typed(value) for name, value in row.items()} for row in rows]


def _typed(value: str) -> Any:
    if value == "":
        return None
    try:
        return float(value)
    except ValueError:
        return value


def main() -> None:
    """Print the answers to the first rows."""
    project, rows = Path(sys.argv[1]), Path(sys.argv[2])
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    with service(project) as address:
        print(json.dumps(ask(address, first_rows(rows, number))))


if __name__ == "__main__":
    main()
