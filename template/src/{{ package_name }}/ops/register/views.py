"""What people look at: tables of runs and versions, as detailed as the terminal is wide, and MLflow's own pages."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from ..config import masked
from ..contract import ProjectError
from . import events
from .run import digest, records
from .store import ARTIFACTS, DATABASE, Version, exists

BEGINNING = len("20261123-231455")
"""Characters of a run's id that a narrow table shows; with them a run can be named."""
SHORT = 7
"""Characters of a commit or of a version of the data."""
PAGES = "http://127.0.0.1:{}/#/experiments?workflowType=machine_learning"
ENDS = ("low", "high")


def console() -> Console:
    """Return where tables are shown; what is not a terminal is as wide as it takes."""
    shown = Console()
    return shown if shown.is_terminal else Console(width=200)


def models(versions: list[Version], metrics: Mapping[str, Mapping[str, float]], metric: str, console: Console) -> Table:
    """Return the table of the registered versions; `metrics` are by MLflow's id of a run."""
    measured = {version.number: _intervals(metrics.get(version.tracked, {})) for version in versions}

    def build(wide: bool, others: list[str]) -> Table:
        table = _table("version", "in", "run", *(["made"] if wide else []), metric, *others, "data", "commit")
        for version in versions:
            found = measured[version.number]
            table.add_row(
                str(version.number) + _marked(_fault(version), "red", wide),
                (", " if wide else "\n").join(sorted(version.aliases, key=_importance)),
                *_when(version.run, wide),
                _told(found.get(metric), wide),
                *(_told(found.get(other), short=True) for other in others),
                version.data[:SHORT],
                version.commit[:SHORT] + _marked("changed" if version.dirty else "", "yellow", wide),
            )
        return table

    return _fitting(build, _others(measured.values(), metric), console)


def runs(metric: str, console: Console) -> Table:
    """Return the table of the run records."""
    known = records()
    registered = {event["run"]: event["version"] for event in events.read("register")}

    def build(wide: bool, others: list[str]) -> Table:
        table = _table("run", *(["made"] if wide else []), "kept", metric, *others, "data", "seed", "commit", "version")
        for run in known:
            table.add_row(
                *_when(run.id, wide),
                run.kept,
                _told(run.metrics.get(metric), wide),
                *(_told(run.metrics.get(other), short=True) for other in others),
                run.data["version"][:SHORT],
                str(run.seed),
                run.commit[:SHORT] + _marked("changed" if run.dirty else "", "yellow", wide),
                str(registered.get(run.id, "")),
            )
        return table

    return _fitting(build, _others((run.metrics for run in known), metric), console)


def show(port: str, say: Callable[[str], None]) -> None:
    """Show the store in MLflow's own pages, to this machine alone, until Ctrl-C or SIGTERM.

    Raises ProjectError where there is nothing to show yet, or for a port that cannot be had.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE.as_posix()}"
    if urlsplit(address).scheme in ("http", "https"):
        say(f"MLFLOW_TRACKING_URI names a server, which has the pages: {masked(address)}")
        return
    if not exists():
        raise ProjectError("nothing to show yet; `make train` makes the first run")
    number = _free_port(port)
    say(f"open {PAGES.format(number)} in a minute; Ctrl-C ends it")
    store = ["--backend-store-uri", address, "--artifacts-destination", ARTIFACTS.as_posix()]
    command = ["mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(number), "--workers", "1"]
    sys.stdout.flush()
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", *command])  # noqa: S606 - a command without a shell


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _fitting(build: Callable[[bool, list[str]], Table], others: list[str], console: Console) -> Table:
    """Return the widest table that fits: with as many other metrics as there is room for, or else the narrow one."""
    for count in range(len(others), -1, -1):
        table = build(True, others[:count])
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            return table
    return build(False, [])


def _when(run: str, wide: bool) -> tuple[str, ...]:
    """Return a run's id, or its beginning, which is a time too."""
    if not wide:
        return (run[:BEGINNING],)
    made = datetime.strptime(f"{run[:BEGINNING]}+0000", "%Y%m%d-%H%M%S%z").astimezone()
    return run, made.strftime("%Y-%m-%d %H:%M")


def _marked(word: str, colour: str, wide: bool) -> str:
    return f"{' ' if wide else chr(10)}[{colour}]{word}[/]" if word else ""


def _intervals(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Put MLflow's flat metrics together again."""
    names = [name for name in metrics if not name.endswith(tuple(f"_{end}" for end in ENDS))]
    ends = {name: {end: metrics[f"{name}_{end}"] for end in ENDS if f"{name}_{end}" in metrics} for name in names}
    return {name: {"value": metrics[name], **ends[name]} for name in names}


def _others(measured: Iterable[Mapping[str, object]], metric: str) -> list[str]:
    return list(dict.fromkeys(name for metrics in measured for name in metrics if name != metric))


def _told(interval: Mapping[str, float | None] | None, wide: bool = True, short: bool = False) -> str:
    value, low, high = ((interval or {}).get(key) for key in ("value", *ENDS))
    if value is None:
        return "-"
    if short or low is None or high is None:
        return _number(value)
    return f"{_number(value)}{' ' if wide else chr(10)}({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def _importance(alias: str) -> int:
    order = ("prod", "champion", "staging", "dev", "challenger")
    return order.index(alias) if alias in order else len(order)


def _fault(version: Version) -> str:
    """Return what is wrong with the model file, if it lies in the project."""
    if version.local is None or (version.local.is_file() and digest(version.local) == version.digest):
        return ""
    return "altered" if version.local.is_file() else "missing"


def _free_port(port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16):
        raise ProjectError(f"PORT is '{port}': give a whole number from 0 (any free port) to 65535")
    try:
        with socket.create_server(("127.0.0.1", int(port))) as tried:
            return int(tried.getsockname()[1])
    except OSError as error:
        reason = f"cannot listen on port {port} ({error.strerror})"
        raise ProjectError(f"{reason}; choose another: make ui PORT=5001") from None
