"""What a command says when it does not do what it was asked for."""

from __future__ import annotations


class RefusedError(Exception):
    """Nothing was changed; the text is one sentence that says why and what to do."""
