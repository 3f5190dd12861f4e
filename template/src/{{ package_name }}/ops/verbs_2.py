"""The verbs that level 2 adds or extends: a cached pipeline, versions of data and models, tuning, labels, triggers."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from .config import ANSWERS, Case, Data, Model, load
from .contract import ProjectError
from .scorer import MODEL, Scorer
from .verbs_1 import Host, Port, warn_of_mismatch

app = typer.Typer()
DataVersion = Annotated[str, typer.Option(envvar="DATA_VERSION", help="Version of the data, or its beginning")]
Environment = Annotated[str, typer.Option("--env", envvar="MODEL_ENV", help="dev, staging or prod")]
SHOWN = 20
"""Disagreements that one table shows."""


@app.command("stage", hidden=True)
def stage(name: str) -> None:
    """Run one stage of dvc.yaml, as DVC does."""
    from .stages import STAGES

    if name not in STAGES:
        raise ProjectError(f"stage '{name}' is not one of {', '.join(STAGES)}")
    typer.echo(f"{name}: {STAGES[name]()}")


@app.command("train")
@app.command("pipeline")
def pipeline(version: DataVersion = "") -> None:
    """Run the stages whose input has changed, record the run, and register its model."""
    data, _, _ = load(Data), load(Case), load(Model)  # a typo is told before heavy libraries are loaded

    from .pipeline import pipeline as run

    if run(data, version, typer.echo):
        warn_of_mismatch()


@app.command("data")
def collect_data(version: DataVersion = "") -> None:
    """Collect every source again, check it and give it a version; or bring an earlier version back."""
    data, model = load(Data), load(Model)

    from .pipeline import collect

    collect(data, model, version, typer.echo)


@app.command("reproduce")
def reproduce(
    name: Annotated[str, typer.Option("--run", help="Id of a run, its beginning, or the path of its record")] = "",
    threads: Annotated[str, typer.Option(help="Threads to use; as many as there are if not given")] = "",
) -> None:
    """Do a recorded run again, and compare what comes out with its record."""
    from .register.reproduce import reproduce as again
    from .register.run import found

    again(found(name), threads, typer.echo)


@app.command("queue")
def queue(
    count: Annotated[str, typer.Option(help="How many rows")] = "50",
    source: Annotated[str, typer.Option("--input", help="CSV or Parquet file with the keys to ask about")] = "",
) -> None:
    """Write the rows whose answers are most uncertain, for people to label."""
    data, case, model, scorer = load(Data), load(Case), load(Model), Scorer()

    from .collect import collected
    from .collect.sources import snapshot
    from .features import prepare
    from .label import asked, doubt, expected_error, labelled, most_uncertain, queue_rows
    from .label.answers import Labels
    from .label.formats import INTERFACE, QUEUE, TASKS
    from .train import examples, split

    if not count.isdigit() or int(count) == 0:
        raise ProjectError(f"N={count}: should be a whole number above 0")
    settings, table = load(Labels), collected(snapshot(data), data)
    rows, left_out = asked(table, data, Path(source) if source else None)
    packed = prepare({name: rows[name] for name in data.inputs}, scorer.signature)
    raw = scorer.run(packed)
    if model.task == "classification":
        uncertainty = doubt(raw, model.metric)
    else:
        test = split(examples(labelled(table, data, settings), data, case, model)[0], data, model)[1]
        uncertainty = expected_error(packed, test.packed, test.target - scorer.run(test.packed))
    chosen = most_uncertain(rows, uncertainty, int(count), data)
    queue_rows(rows, chosen, scorer.answers(raw), uncertainty, scorer.signature, data, settings.guide)
    if left_out:
        typer.echo(f"{left_out} rows lack an input that the model needs, and are left out")
    typer.echo(f"{len(chosen)} of {len(uncertainty)} rows queued, the most uncertain first -> {QUEUE}")
    typer.echo(f"fill in label and annotator, then `make labels FILE={QUEUE}`; for Label Studio: {TASKS}, {INTERFACE}")


@app.command("labels")
def labels(
    file: Annotated[str, typer.Option(help="CSV with key, label and annotator, or JSON export of Label Studio")] = "",
    by: Annotated[str, typer.Option(help="Annotator of the answers that name none")] = "",
) -> None:
    """Take in the answers of people, and show where they disagree."""
    from rich.console import Console
    from rich.table import Table

    from .collect import collected
    from .collect.sources import snapshot
    from .label import answerable
    from .label.answers import Labels, agreement, standing, take_in
    from .label.formats import read_answers, version
    from .register import events

    data, task, settings = load(Data), load(Model).task, load(Labels)
    if not file:
        raise ProjectError("say which file: make labels FILE=answers.csv BY=name, or FILE=export.json")
    with events.locked("labels"):
        taken = take_in(Path(file), by, data, *answerable(collected(snapshot(data), data), data, task))
    if taken.added:
        events.append("labels", labels=version(), file=Path(file).name, added=taken.added)
    known = f", {taken.known} were taken in before" if taken.known else ""
    empty = f", {taken.empty} rows have none" if taken.empty else ""
    typer.echo(f"{taken.added} answers taken in{known}{empty}")
    weighed = standing(read_answers(), data, settings)
    alpha = agreement(weighed.shared, task)
    if weighed.conflicts:
        shown = Table(str(data.key), "answers", title="Where people disagree", title_justify="left")
        for key, said in list(weighed.conflicts.items())[:SHOWN]:
            shown.add_row(key, ", ".join(f"{who}: {what}" for who, what in said.items()))
        Console().print(shown)
    if alpha is not None:
        typer.echo(f"{len(weighed.shared)} rows have several answers; agreement (Krippendorff's alpha) {alpha:.2f}")
    typer.echo(
        f"{len(weighed.accepted)} rows are labelled, {len(weighed.conflicts)} wait for agreement or for the judge of "
        f"config/labels.yaml; commit {ANSWERS}, and `make train` learns from it"
    )


@app.command("tune")
def tune(
    apply: Annotated[str, typer.Option(help="yes to write the best parameters into config/model.yaml")] = "",
    version: DataVersion = "",
) -> None:
    """Search for better parameters on the rows to learn from; run again, it goes on with the trials that are left."""
    data, case, model = load(Data), load(Case), load(Model)  # a typo is told before heavy libraries are loaded
    if apply not in ("", "yes"):
        raise ProjectError(f"APPLY={apply}: say APPLY=yes to write the best parameters into config/model.yaml")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .evaluate import compare
    from .pipeline import bring
    from .register import events
    from .stages import checked, parted
    from .train.space import Trial, Tuning, write_parameters
    from .train.tune import tune as searched

    tuning = load(Tuning)
    with events.locked("pipeline"):
        bring(data, version)
        learn, _, _ = parted(checked(data, model), data, case, model)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("tuning", total=tuning.trials)

        def tell(known: int, best: Trial) -> None:
            progress.update(bar, completed=known, description=f"tuning, best {model.metric} {best.quality:.4g}")

        outcome = searched(learn, data, model, tuning, tell)
    compare.write_tuning(outcome)
    Console().print(compare.overview(outcome))
    for warning in outcome.warnings:
        typer.secho(f"warning: {warning}", fg="yellow", err=True)
    applied = bool(apply) and outcome.beaten
    if applied:
        write_parameters(outcome.best.parameters)
    events.append("tune", study=outcome.study, data=outcome.data, best=outcome.best.parameters, applied=applied)
    typer.echo(f"{outcome.sentence}\nwrote {compare.TUNING}")
    if apply:
        typer.echo(f"config/model.yaml {'has the best parameters; next: make train' if applied else 'stays as it is'}")


@app.command("watch")
def watch(every: Annotated[str, typer.Option(help="Seconds between two looks at the files")] = "10") -> None:
    """Run the pipeline whenever a source on this machine, or labels/answers.csv, has a new content."""
    from .retrain import seconds
    from .retrain import watch as begin

    with suppress(KeyboardInterrupt):
        begin(seconds(every), (sys.executable, "-m", f"{__package__}", "pipeline"), typer.echo)
    typer.echo("watching no more")


@app.command("models")
def models() -> None:
    """List the registered versions of the model, and what each environment uses."""
    metric = load(Model).metric

    from .register import measured, versions, views

    found = versions()
    if not found:
        typer.echo("no version yet; `make train` registers the model that it makes")
        return
    console = views.console()
    console.print(views.models(found, measured(), metric, console))


@app.command("runs")
def runs() -> None:
    """List the runs side by side."""
    from .register import views

    console = views.console()
    shown = views.runs(load(Model).metric, console)
    if shown.row_count:
        console.print(shown)
    else:
        typer.echo("no run yet; `make train` makes one")


@app.command("promote")
def promote(
    version: Annotated[str, typer.Option(help="Number of a registered version")] = "",
    environment: Environment = "",
    why: Annotated[str, typer.Option(help="Reason, for the log")] = "",
) -> None:
    """Point an environment to a registered version."""
    from .register import promote as move
    from .register import promotion

    if not version or not environment:
        raise ProjectError("say what goes where: make promote VERSION=3 ENV=prod (WHY=reason)")
    noted = promotion(environment)  # at once: whoever moves the environment from now on wins
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise ProjectError(f"VERSION is '{version}': give the number of a version, as `make models` lists them")
    event = move(int(version), environment, noted, why)
    if event is None:
        typer.echo(f"{environment} uses version {version} already; nothing is changed")
        return
    before = f" instead of version {event['previous']}" if event["previous"] else ""
    typer.echo(f"{environment} uses version {version}{before} (run {event['run']}), promoted by {event['who']}")


@app.command("ui")
def ui(port: Port = "5000") -> None:
    """Show runs, files and versions in MLflow's own pages."""
    from .register.views import show

    show(port, typer.echo)


@app.command("predict")
def predict(
    source: Annotated[str, typer.Option("--input", help="CSV or Parquet file with the model's input columns")] = "",
    output: Annotated[str, typer.Option("--output", help="CSV or Parquet file to write")] = "",
    environment: Environment = "",
) -> None:
    """Score a file, with the model in models/ or with the version that an environment uses."""
    from .serve.batch import ModelFile, score

    score(lambda: ModelFile(_model(environment)), source, output, typer.echo)


@app.command("serve")
def serve(
    port: Port = "8080",
    host: Host = "127.0.0.1",
    environment: Environment = "",
) -> None:
    """Answer requests with the model in models/ or the version that an environment uses, if it is as promised."""
    from .serve.app import serve as answer

    answer(host, port, _model(environment))


def _model(environment: str) -> Path:
    if not environment:
        return MODEL

    from .register import current

    version, file = current(environment)
    typer.echo(f"{environment} uses version {version.number} (run {version.run})")
    return file
