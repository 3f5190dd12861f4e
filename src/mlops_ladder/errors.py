"""What a command says when it does not do what it was asked for, and the exit codes with which it ends."""

from __future__ import annotations

CLEAN, REFUSED, CONFLICTS, STOPPED = 0, 1, 2, 130


class RefusedError(Exception):
    """Nothing was changed; the text is one sentence that says why and what to do."""
