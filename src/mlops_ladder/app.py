"""The parts of the command `mlops-ladder`, one a line."""

from __future__ import annotations

import typer

from . import cli_fleet, commands

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Look after projects of the mlops-ladder template: climb, update, and nothing lost.",
)
app.command()(commands.climb)
app.command()(commands.update)
app.command()(commands.drift)
app.command()(cli_fleet.new)
app.command()(cli_fleet.adopt_repo)
app.command()(cli_fleet.propose)
app.add_typer(cli_fleet.app, name="fleet")
