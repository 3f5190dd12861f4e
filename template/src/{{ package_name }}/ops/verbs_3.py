"""The verbs that level 3 adds or extends: releases through gates, rollback, the service, its log, experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .config import load
from .contract import ProjectError
from .release.policy import Policy
from .scorer import MODEL
from .verbs_1 import Host, Port
from .verbs_2 import Environment

if TYPE_CHECKING:
    from .serve.batch import Model

app = typer.Typer()
Version = Annotated[str, typer.Option(help="Number of a registered version; the newest if not given")]
Why = Annotated[str, typer.Option(help="Reason, for the ledger")]
Id = Annotated[str, typer.Option("--id", help="Id of a prediction: the answer's X-Request-Id, a hyphen, the row")]


@app.command("key")
def key() -> None:
    """Make the key that signs releases, if there is none."""
    from .release.sign import make_key

    if made := make_key():
        typer.echo(f"made {made}, the key that signs releases; it stays on this machine")


@app.command("promote")
@app.command("deploy")
def deploy(
    version: Version = "",
    environment: Environment = "",
    why: Why = "",
    margin: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Instead of `quality.margin` of config/policy.yaml; below 0 wants a gain"),
    ] = None,
) -> None:
    """Let an environment use a version, if every gate lets it."""
    from .log.truth import logged
    from .release.deploy import deploy as move

    policy = load(Policy)
    if margin is not None:
        policy = policy.model_copy(update={"quality": policy.quality.model_copy(update={"margin": margin})})
    move(policy, version, environment, why, logged, typer.echo)


@app.command("rollback")
def rollback(environment: Environment = "", why: Why = "") -> None:
    """Let an environment use what it used before."""
    from .release.deploy import rollback as back

    back(load(Policy), environment, why, typer.echo)


@app.command("approve")
def approve(version: Version = "", environment: Environment = "", why: Why = "") -> None:
    """Say that a version may go to an environment."""
    from .release.deploy import approve as say_so

    say_so(load(Policy), version, environment, why, typer.echo)


@app.command("refuse")
def refuse(version: Version = "", environment: Environment = "", why: Why = "") -> None:
    """Say that a version may not go to an environment, until somebody approves of it."""
    from .release.deploy import refuse as say_no

    say_no(load(Policy), version, environment, why, typer.echo)


@app.command("releases")
def releases() -> None:
    """Verify the ledger, and show what each environment uses and how it came to it."""
    from .register.views import console
    from .release.deploy import overview

    tables = overview(load(Policy))
    if not tables:
        typer.echo("nothing is released yet; `make deploy ENV=dev` releases the newest version, and lets dev use it")
    for table in tables:
        console().print(table)


@app.command("ship")
def ship(version: Version = "") -> None:
    """Take a version all the way: dev, staging, a smoke test of the service that no client sees, prod."""
    from .log.truth import logged
    from .release.deploy import ship as all_the_way

    all_the_way(load(Policy), version, logged, typer.echo)


@app.command("canary")
def canary(
    version: Version = "",
    environment: Environment = "",
    share: Annotated[str, typer.Option(help="Share of the requests, else that of config/policy.yaml")] = "",
    shadow: Annotated[str, typer.Option(help="yes: the challenger answers too, but nobody sees it")] = "",
    decide: Annotated[str, typer.Option(help="yes: decide by the rule on logged truth; stop: end it undecided")] = "",
) -> None:
    """Let a challenger answer a share of the requests, see how it does, or decide."""
    from .log.truth import compared, logged
    from .release.experiment import decide as settle
    from .release.experiment import start

    if decide not in ("", "yes", "stop") or shadow not in ("", "yes"):
        raise ProjectError("SHADOW is yes or not given, DECIDE is yes, stop or not given")
    if version:
        start(load(Policy), version, environment, share, bool(shadow), logged, typer.echo)
    else:
        settle(load(Policy), environment, decide, compared, typer.echo)


@app.command("trace")
def trace(prediction: Id = "") -> None:
    """Follow a prediction back to its source data, and verify every hash on the way."""
    from rich.console import Console

    from .log.trace import traced

    Console().print(traced(load(Policy), prediction))


@app.command("explain")
def explain(prediction: Id = "") -> None:
    """Show why a prediction is what it is."""
    from rich.console import Console

    from .log.trace import explained

    Console().print(explained(load(Policy), prediction))


@app.command("feedback")
def feedback(file: Annotated[str, typer.Option(help="CSV or Parquet file with id and truth")] = "") -> None:
    """Take in what became of predictions."""
    from .log.truth import take_in

    if not file:
        raise ProjectError("say which file: make feedback FILE=truth.csv, with the columns id and truth")
    take_in(Path(file), typer.echo)


@app.command("predict")
def predict(
    source: Annotated[str, typer.Option("--input", help="CSV or Parquet file with the model's input columns")] = "",
    output: Annotated[str, typer.Option("--output", help="CSV or Parquet file to write")] = "",
    environment: Environment = "",
) -> None:
    """Score a file, with the model in models/ or with what an environment uses."""
    from .release.store import opened
    from .serve.batch import ModelFile
    from .serve.batch import score as all_rows

    def model() -> Model:
        return opened(load(Policy)).load(environment) if environment else ModelFile(MODEL)

    all_rows(model, source, output, typer.echo)


@app.command("score")
def score(
    source: Annotated[str, typer.Option("--input", help="CSV or Parquet file of any size")] = "",
    output: Annotated[str, typer.Option("--output", help="Parquet file to write")] = "",
    environment: Environment = "prod",
    log: Annotated[str, typer.Option(help="yes: the rows come into the prediction log, too")] = "",
) -> None:
    """Score a file larger than memory with what an environment uses; after a kill it goes on."""
    from .log import Pieces
    from .release.store import opened
    from .serve.score import score as all_of_it

    if log not in ("", "yes"):
        raise ProjectError(f"LOG={log}: say LOG=yes to log every row, or leave it out")
    policy = load(Policy)
    all_of_it(opened(policy).load(environment), source, output, typer.echo, Pieces(policy) if log else None)


@app.command("image")
def image(output: Annotated[str, typer.Option(help="File to save the image to")] = "") -> None:
    """Build the container image of the service, which holds no model: it follows an environment."""
    from .release import image as build

    typer.echo(f"built {build(output, tuple)}" + (f" -> {output}" if output else ""))


@app.command("release")
def release(
    version: Annotated[str, typer.Option(help="The new version, such as 0.2.0")] = "",
    confirm: Annotated[str, typer.Option(help="yes to release; otherwise nothing is kept")] = "",
) -> None:
    """Show what a release of the application would do, or do it; models are deployed on their own."""
    from .release import release as publish

    publish(version, confirm, typer.echo, baked=tuple)


@app.command("serve")
def serve(port: Port = "8080", host: Host = "127.0.0.1", environment: Environment = "") -> None:
    """Answer requests with what an environment uses, and follow it when it changes."""
    from .log import Notes, Writer
    from .log.truth import told
    from .serve.fast import serve as answer

    policy = load(Policy)
    answer(host, port, environment or "prod", policy, Writer(policy.log), told, Notes(policy.log))
