"""Where the command writes to: pages on standard output, progress and mistakes on standard error."""

from __future__ import annotations

import sys
from contextlib import suppress

from rich.console import Console

WIDE = 240
"""Columns of a table in a file or a pipe."""


class Page(Console):
    """Standard output; where nobody reads on, as after `| head`, the command still ends with its own exit code."""

    def on_broken_pipe(self) -> None:
        """Write the rest to nowhere."""
        with suppress(SystemExit):
            super().on_broken_pipe()


def out() -> Page:
    """Return the console of standard output: as wide as its tables where nobody looks at a terminal."""
    return Page(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def errors() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
