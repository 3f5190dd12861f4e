"""The command `mlops-ladder`: its parts are listed here, one a line."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer
from typer.exceptions import TyperException

from . import cli_fleet, commands
from .errors import RefusedError

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


def main() -> None:
    """Run the command; whatever goes wrong ends in one sentence, and never in exit code 0."""
    signal.signal(signal.SIGTERM, _stopped)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except RefusedError as error:
        code = _refused(str(error))
    except TyperException as error:
        code = _refused(error.format_message())
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on; what was asked for is done
        code = commands.CLEAN
    except OSError as error:
        code = _refused(f"{error.filename or 'the disk'}: {error.strerror or error}.")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    sys.exit(code or 0)


def _refused(sentence: str) -> int:
    typer.echo(f"mlops-ladder: {sentence}", err=True)
    return commands.REFUSED


def _stopped(number: int, _: FrameType | None) -> None:
    """End as an exception does, so that what was begun is put back."""
    sys.exit(128 + number)
