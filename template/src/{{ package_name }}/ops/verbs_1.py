"""The verbs that level 1 adds or extends: checked data, a report, a contract, a service, an image, releases."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from .config import Case, Data, Model, load
from .contract import Array, ProjectError
from .files import atomic
from .scorer import MODEL, UNSEEN, Scorer

app = typer.Typer()
Port = Annotated[str, typer.Option(help="Port to answer on; 0 takes any free one")]
Host = Annotated[str, typer.Option(help="Address to answer on")]
REPORT = Path("reports/report.html")
CHECKS = {
    "lint": ("ruff", "check"),
    "format": ("ruff", "format", "--check"),
    "types": ("mypy",),
    "tests": ("pytest", "--quiet", "--cov=src", "--cov-report=term:skip-covered", "--cov-fail-under=80"),
}
MENDS = (("ruff", "check", "--fix"), ("ruff", "format"))


@app.command("check")
def check() -> None:
    """Run lint, format, types and tests with their coverage, side by side."""
    with ExitStack() as stack:
        running = {}
        for name, command in CHECKS.items():
            said = stack.enter_context(TemporaryFile())
            shown = None if name == "tests" else said  # the slowest shows its progress, the others speak when they end
            process = subprocess.Popen([sys.executable, "-m", *command], stdout=shown, stderr=shown)
            running[name] = process, said
        failed = [name for name, (process, _) in running.items() if process.wait() != 0]
        for name, (_, said) in running.items():
            said.seek(0)
            typer.echo(said.read().decode().rstrip())
            typer.secho(f"{name} {'failed' if name in failed else 'passed'}", bold=True)
    if failed:
        mended = "; `make format` mends most of lint and format" if {"lint", "format"} & set(failed) else ""
        raise ProjectError(f"{', '.join(failed)} failed; what is wrong stands above{mended}")


@app.command("format")
def layout() -> None:
    """Mend what lint and format find, where that can be done."""
    left = [subprocess.run([sys.executable, "-m", *command], check=False).returncode for command in MENDS]
    if any(left):
        raise ProjectError("not all could be mended; what is left stands above")


@app.command("guards")
def guards() -> None:
    """Plant the fault of every guard, and show whether it was caught."""
    from rich.console import Console
    from rich.table import Table

    from .guards import report

    outcomes = report()
    shown = Table("guard", "room", "refuses", "its planted fault")
    for outcome in outcomes:
        shown.add_row(outcome.guard.name, outcome.guard.room, outcome.guard.refuses, outcome.state)
    Console().print(shown)
    broken = [f"{outcome.guard.name}: {outcome.detail}" for outcome in outcomes if not outcome.works]
    if broken:
        raise ProjectError("\n".join(broken))


@app.command("data")
def collect_data() -> None:
    """Collect every source again and check it against config/data.yaml."""
    columns = checked(load(Data), load(Model), refresh=True)
    typer.echo(f"{len(next(iter(columns.values())))} rows collected and checked -> data/raw")


@app.command("train")
def train() -> None:
    """Train on checked data, keep the model that earns its place, and write model and report."""
    data, case, model = load(Data), load(Case), load(Model)  # a typo is told before heavy libraries are loaded

    from .evaluate import contest, evaluate, report
    from .train import examples, split, unfitted, write_unseen

    candidate = unfitted(model)
    typer.echo("collecting and checking the data")
    rows, signature = examples(checked(data, model), data, case, model)
    learn, test = split(rows, data, model)
    typer.echo(f"training {model.estimator} and the baselines on {len(learn)} rows, testing on {len(test)}")
    outcome = contest(learn, test, signature, model, candidate)
    typer.echo("measuring the model from every side")
    evaluation = evaluate(outcome, learn, test, data, case, model)
    with atomic(MODEL) as path, atomic(UNSEEN) as table:  # moved into place together, the model last
        path.write_bytes(outcome.kept.content)
        write_unseen(test, data, table)
        report.write(evaluation, REPORT)
    typer.echo(f"{outcome.sentence}\nwrote {MODEL} (predictions {evaluation.predictions[:12]}), {UNSEEN} and {REPORT}")
    warn_of_mismatch()


@app.command("contract")
def contract() -> None:
    """Write config/contract.yaml anew from the trained model."""
    from .release.contract import CONTRACT, write_contract

    write_contract(Scorer().signature, load(Case), UNSEEN)
    typer.echo(f"wrote {CONTRACT}; review it with `git diff {CONTRACT}` and commit it")


@app.command("serve")
def serve(
    port: Port = "8080",
    host: Host = "127.0.0.1",
) -> None:
    """Answer requests with the model, if it is what the contract promises."""
    from .serve.app import serve as answer

    answer(host, port)


@app.command("wheel")
def wheel() -> None:
    """Build the project's wheel into dist/."""
    from .release import DIST, build_wheel

    typer.echo(f"built {build_wheel(Path(), DIST)}")


@app.command("image")
def image(output: Annotated[str, typer.Option(help="File to save the image to")] = "") -> None:
    """Build the container image of the service."""
    from .release import image as build

    typer.echo(f"built {build(output)}" + (f" -> {output}" if output else ""))


@app.command("release")
def release(
    version: Annotated[str, typer.Option(help="The new version, such as 0.2.0")] = "",
    confirm: Annotated[str, typer.Option(help="yes to release; otherwise nothing is kept")] = "",
) -> None:
    """Show what a release would do, or do it."""
    from .release import release as publish

    publish(version, confirm, typer.echo)


def checked(data: Data, model: Model, refresh: bool = False) -> dict[str, Array]:
    """Collect, process and check the rows."""
    from .collect import collected
    from .collect.sources import snapshot
    from .process import processed
    from .process.schema import refuse_invalid

    columns = processed(collected(snapshot(data, refresh), data), data)
    refuse_invalid(columns, data, model.task)
    return columns


def warn_of_mismatch() -> None:
    """Say where the trained model is not what the contract promises."""
    from .release.contract import read_contract, refuse_mismatch

    try:
        refuse_mismatch(read_contract(), Scorer().signature)
    except ProjectError as mistake:
        typer.secho(f"warning: {mistake}", fg="yellow", err=True)
