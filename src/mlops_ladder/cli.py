"""The command `mlops-ladder` from its first moment on: nothing heavy is imported before its end is settled."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper
from types import FrameType

from .errors import CLEAN, REFUSED, STOPPED, RefusedError


def main() -> None:
    """Run the command; whatever goes wrong ends in one sentence, and never in exit code 0."""
    signal.signal(signal.SIGTERM, _stopped)
    try:
        code = _ran(sys.argv[1:] or ["--help"])
    except KeyboardInterrupt:
        code = STOPPED
    sys.exit(code)


def _ran(words: list[str]) -> int:
    from typer import Abort
    from typer.exceptions import TyperException

    from .app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    try:
        return app(words, standalone_mode=False) or 0
    except RefusedError as error:
        return _refused(str(error))
    except TyperException as error:
        return _refused(error.format_message())
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on; what was asked for is done
        return CLEAN
    except OSError as error:
        return _refused(f"{error.filename or 'the disk'}: {error.strerror or error}.")
    except Abort:
        return STOPPED


def _refused(sentence: str) -> int:
    print(f"mlops-ladder: {sentence}", file=sys.stderr)
    return REFUSED


def _stopped(number: int, _: FrameType | None) -> None:
    """End as an exception does, so that what was begun is put back."""
    sys.exit(128 + number)
