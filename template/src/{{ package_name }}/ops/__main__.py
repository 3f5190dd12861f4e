"""The project's command. Here are the verbs of level 0; a higher level adds or extends some in its `verbs_N.py`.

`make help` lists the same verbs as `make` targets; `python -m <package>.ops <verb> --help` explains one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from .config import Case, Data, Model, Task, UnfinishedError, first_line, load, place_in_your_code
from .contract import ProjectError
from .files import FULL, atomic, put_in_place, refuse_uncommitted
from .scorer import MODEL, UNSEEN

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
LEVELS = range(1, 5)


@app.callback()
def project() -> None:
    """Train, use and look after this project's model."""


@app.command("train")
def train() -> None:
    """Train the model that config/ describes, and write models/model.onnx."""
    data, case, model = load(Data), load(Case), load(Model)  # a typo is told before heavy libraries are loaded

    from .collect import collected, local_paths
    from .process import processed, refuse_missing
    from .train import examples, fit, quality, split, unfitted, write_unseen

    columns = processed(collected(local_paths(data), data), data)
    refuse_missing(columns, data)
    rows, signature = examples(columns, data, case, model)
    learn, test = split(rows, data, model)
    fitted = fit(learn, test, signature, unfitted(model))
    measured = quality(model.metric, test.target, fitted.exported)
    with atomic(MODEL) as path, atomic(UNSEEN) as table:  # moved into place together, the model last
        path.write_bytes(fitted.content)
        write_unseen(test, data, table)
    typer.echo(f"{model.estimator} learned from {len(learn)} rows")
    typer.echo(f"{model.metric} on {len(test)} unseen rows: {measured:.3f} (predictions {fitted.hash[:12]})")
    typer.echo(f"wrote {MODEL} and {UNSEEN}; next: make predict INPUT={UNSEEN} OUTPUT=outputs/predictions.csv")


@app.command("predict")
def predict(
    source: Annotated[str, typer.Option("--input", help="CSV or Parquet file with the model's input columns")] = "",
    output: Annotated[str, typer.Option("--output", help="CSV or Parquet file to write")] = "",
) -> None:
    """Score a file: the same rows come out with their predictions."""
    from .serve.batch import ModelFile, score

    score(lambda: ModelFile(MODEL), source, output, typer.echo)


@app.command("adopt")
def adopt(
    data: Annotated[str, typer.Option("--data", help="CSV or Parquet file")] = "",
    target: Annotated[str, typer.Option("--target", help="Its column that the model learns")] = "",
    task: Annotated[str, typer.Option("--task", help="classification or regression; else the file tells")] = "",
) -> None:
    """Make another file the project's data: config/ and the starters are written for it."""
    from .collect.adopt import look
    from .process import described, given_away, settle_time, starters

    if not data or not target:
        raise ProjectError("say which file and which of its columns: make adopt DATA=file.csv TARGET=column")
    asked = next((known for known in get_args(Task) if known == task), None)
    if task and asked is None:
        raise ProjectError(f"TASK: '{task}' is neither classification nor regression")
    case, model, console = load(Case), load(Model), Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=1.0)
        found = look(Path(data), target, asked, model.task, lambda share: progress.update(bar, completed=share))
        settle_time(found, model.test_share)
        settings = Data.model_validate(described(found))
        found.refuse_inputs(given_away(found.sample(), settings, found.task))
    made = starters(found, case)
    refuse_uncommitted(path for path in made if path.exists())
    put_in_place(made)
    shown = Table("column", "type", "role", "why")
    for one in found.columns.values():
        role = one.keys.get("role", "input") if one.keys else "left out"
        shown.add_row(*map(escape, (one.name, one.keys.get("type", "-"), role, "; ".join(one.reasons))))
    Console().print(shown)
    for sentence in found.said:
        typer.echo(f"- {sentence}")
    typer.echo(f"{found.task} of '{target}' from {found.rows} rows; wrote {', '.join(map(str, made))}")
    typer.echo("yours to bring up to date: README.md, config/case.yaml, and the earlier files in data/")
    then = "; then make contract, and make check" if Path("config/contract.yaml").exists() else ""
    typer.echo(f"next: commit these, if they are right, and make train{then}")


def main() -> None:
    """Run the verb of the highest level that has it.

    A person's mistake, also one in your modules, or a file that the system refuses, ends in one sentence and exit code
    1; Ctrl-C in 130; what may end well later (another command is in the way, a disk full, a server away) in 75.
    """
    for level in LEVELS:
        if find_spec(f"{__package__}.verbs_{level}") is not None:
            higher = import_module(f"{__package__}.verbs_{level}").app.registered_commands
            replaced = {verb.name for verb in higher}
            app.registered_commands = [verb for verb in app.registered_commands if verb.name not in replaced] + higher
    try:
        app()
    except ProjectError as mistake:
        _refuse(str(mistake), UnfinishedError.code if isinstance(mistake, UnfinishedError) else 1)
    except OSError as error:
        told = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        _refuse(told, UnfinishedError.code if error.errno in FULL else 1)
    except Exception as error:  # your modules may raise anything, already when they are imported
        place = place_in_your_code(error)
        if place is None:
            raise
        _refuse(f"{place}: {type(error).__name__}: {first_line(error)}")


def _refuse(sentence: str, code: int = 1) -> None:
    typer.secho(f"error: {sentence}", fg="red", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
