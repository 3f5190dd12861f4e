"""The room of serving: answers from the model file. What a service imports needs no training library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..scorer import Packed

Variant: TypeAlias = Literal["champion", "challenger", "shadow"]


def watched(environment: str) -> Path:
    """Return where what watches an environment writes for Prometheus; its service passes that on at `/metrics`."""
    return Path(f"logs/metrics/{environment}.prom")


@dataclass(slots=True)
class Answered:
    """Rows of one request as one model answered them."""

    request: str
    """Unique, and sortable by time; the id of row i, from 1, is `<request>-<i>`."""
    time: float
    """Seconds since 1970, UTC."""
    digest: str
    """Of the model's bundle."""
    version: int
    variant: Variant
    """A shadow's answer is only logged: the champion's to the same request went out."""
    entities: list[str] | None
    """What each row keeps to one variant by: given, or drawn in an experiment; else None."""
    inputs: list[Any]
    """A row each, as JSON knows it: an object of the contract's columns."""
    packed: Packed
    raw: NDArray[np.float32]
    """As `Scorer.run` gives it."""
    predictions: list[Any]
    """As `Scorer.answers` gives it."""


@dataclass(slots=True)
class Measure:
    """How a service fared since its last measure."""

    time: float
    """Seconds since 1970, UTC."""
    service: str
    """One process, from its start to its end."""
    digest: str
    """Of the champion's bundle."""
    seconds: list[int]
    """Scored requests by the time that they took: up to each of `metrics.BOUNDS`, and longer."""
    memory_mb: float | None
    """What the process holds; None where the system does not tell."""
    packages: dict[str, str] | None = None
    """What is installed, with its versions; told once by each process."""
