"""The verbs that level 4 adds: what watches the model, and what it does about it."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from .config import Case, Data, Model, load
from .contract import Columns, ProjectError
from .monitor import Monitor
from .release.policy import Policy
from .verbs_2 import Environment
from .verbs_3 import Why

app = typer.Typer()
URL = "http://127.0.0.1:8080"
"""Where `make serve` answers."""


@app.command("monitor")
def monitor(
    environment: Environment = "",
    file: Annotated[str, typer.Option(help="A file that `make score` wrote, in place of the log")] = "",
) -> None:
    """Judge what an environment answered since the last look, or a scored file; an alarm is no error."""
    from .monitor.alerts import expose, tell
    from .monitor.windows import FILES, look, look_into, overview

    settings, policy, where = load(Monitor), load(Policy), FILES if file else environment or "prod"
    if file and environment:
        raise ProjectError("a file has answers of one version, whatever the environment: give FILE or ENV")
    found = look_into(Path(file), policy, time.time()) if file else look(where, settings, policy, time.time())
    told = overview(found, where, settings) if found or not file else [f"{file} was judged already; nothing is changed"]
    for line in told:
        typer.echo(line)
    tell(where, settings.alerts, typer.echo)
    if not file:
        expose(where, time.time())


@app.command("compact")
def compact() -> None:
    """Turn closed segments of the prediction log into Parquet, and keep it within its bounds."""
    from .log.compact import compact as squeeze

    done = squeeze(load(Policy).log)
    made, were = done.after / 2**20, done.before / 2**20
    told = f"{done.segments} files, {done.rows} rows, {were:.1f} MB: now {made:.1f} MB of Parquet"
    typer.echo(told if done.segments else "nothing new is closed, so nothing is compacted")
    if done.removed:
        typer.echo(f"{done.removed} files removed that were replaced over an hour ago")


@app.command("freeze")
def freeze(why: Why = "") -> None:
    """Stop what changes by itself; watching and logging go on."""
    from .register import events

    events.freeze(why)
    typer.echo("frozen: nothing is retrained or deployed by itself until make thaw WHY=reason; watching goes on")


@app.command("thaw")
def thaw(why: Why = "") -> None:
    """Let it change by itself again."""
    from .register import events

    events.thaw(why)
    typer.echo("thawed: the autopilot may retrain and deploy again, as config/monitor.yaml lets it")


@app.command("selftest")
def selftest() -> None:
    """Plant the fault of every guard, and show whether each is caught."""
    from .verbs_1 import guards

    start = time.monotonic()
    guards()
    typer.echo(f"every planted fault was caught, in {time.monotonic() - start:.0f} s")


@app.command("autopilot")
def autopilot(
    every: Annotated[str, typer.Option(help="Seconds between two rounds")] = "60",
    once: Annotated[str, typer.Option(help="yes for a single round")] = "",
) -> None:
    """Look, decide, retrain and deploy through the gates, for as long as it runs."""
    from .retrain import seconds
    from .retrain.autopilot import Pilot
    from .retrain.autopilot import autopilot as fly

    if once not in ("", "yes"):
        raise ProjectError(f"ONCE={once}: say ONCE=yes for a single round")
    load(Monitor)  # a typo is told before the first round

    def older() -> Columns:
        return _older(load(Data), load(Model))

    with suppress(KeyboardInterrupt):
        fly(seconds(every), bool(once), Pilot((sys.executable, "-m", f"{__package__}"), older, typer.echo))
        return
    typer.echo("the autopilot is off")


@app.command("status")
def status(environment: Environment = "") -> None:
    """Write the status page, for people who run nothing."""
    from .release.store import known
    from .status import write
    from .status.facts import gather

    found = gather(known(environment or "prod"), time.time())
    typer.echo(f"wrote {write(found, load(Monitor).alerts.language)}")


@app.command("rehearse")
def rehearse() -> None:
    """Live through the project's own past with the whole loop, before it goes live."""
    from .retrain.past import World
    from .retrain.rehearse import rehearse as live_through

    data, model = load(Data), load(Model)
    world = World(_older(data, model), data, load(Case), model, load(Policy), load(Monitor))
    typer.echo(f"wrote {live_through(world, typer.echo)}")


@app.command("console")
def console(
    environment: Environment = "",
    port: Annotated[str, typer.Option(help="Port to answer on, on this machine; 0 takes any free one")] = "8090",
    url: Annotated[str, typer.Option(help="The running service's address, on this machine")] = URL,
) -> None:
    """Serve the status page, and a page to try cases and to decide."""
    from .release.store import known
    from .status.console import serve

    with suppress(KeyboardInterrupt):
        serve(port, known(environment or "prod"), url, typer.echo)
    typer.echo("the console is off")


@app.command("simulate")
def simulate(
    fault: Annotated[str, typer.Option(help="What goes wrong")] = "none",
    rows: Annotated[str, typer.Option(help="How many rows")] = "1000",
    url: Annotated[str, typer.Option(help="The service's address, on this machine")] = URL,
    seed: Annotated[str, typer.Option(help="Another one draws other rows")] = "0",
) -> None:
    """Send a running service rows with their truth, with a fault planted in them."""
    from .retrain.simulate import simulate as send

    if not rows.isdecimal() or int(rows) == 0:
        raise ProjectError(f"ROWS={rows}: should be a whole number above 0")
    if not seed.isdecimal():
        raise ProjectError(f"SEED={seed}: should be a whole number from 0")
    send(fault, int(rows), url, int(seed), typer.echo)


def _older(data: Data, model: Model) -> Columns:
    """Collect the sources as they are now, and return their rows, checked."""
    from .pipeline import bring
    from .stages import gathered

    bring(data, "")
    return gathered(data, model)
