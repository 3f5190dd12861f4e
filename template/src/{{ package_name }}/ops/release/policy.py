"""`config/policy.yaml`: what a model must show before an environment uses it, and how the service behaves."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, FiniteFloat

from ..config import Settings

Environment: TypeAlias = Literal["dev", "staging", "prod"]


class Quality(Settings):
    """The metric of `config/model.yaml` on the test rows."""

    limit: FiniteFloat | None = None
    margin: float = Field(default=0.1, ge=0, le=1)
    """Share of the champion's lead over the constant answer that a candidate may lose."""


class Slices(Settings):
    """The same metric on the slices of `config/data.yaml`."""

    rows: int = Field(default=200, ge=10)
    margin: float = Field(default=0.5, ge=0, le=1)


class Budget(Settings):
    """What the real service may take with this model."""

    median_ms: float = Field(default=10, gt=0)
    p99_ms: float = Field(default=100, gt=0)
    memory_mb: float = Field(default=400, gt=0)


class Parity(Settings):
    """How logged requests are answered again."""

    rows: int = Field(default=1000, ge=1)
    tolerance: float = Field(default=1e-5, gt=0)


class Experiment(Settings):
    """How a challenger meets the champion."""

    entity: str | None = None
    """Input column whose values keep to one variant; else the header X-Entity, else each request draws anew."""
    share: float = Field(default=0.1, gt=0, lt=1)
    rows: int = Field(default=2000, ge=100)
    """Answers with known truth, of champion and challenger together, at which the decision is made, once."""
    level: float = Field(default=0.025, gt=0, lt=0.5)
    """Probability of promoting a challenger that is no better."""


class Log(Settings):
    """How much of the prediction log is kept."""

    days: float = Field(default=30, gt=0)
    max_mb: float = Field(default=1000, gt=0)


class Limits(Settings):
    """Of one request."""

    body_mb: float = Field(default=10, gt=0)
    rows: int = Field(default=10_000, ge=1)
    seconds: float = Field(default=30, gt=0)


class Policy(Settings):
    """The page."""

    store: str = "releases"
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    quality: Quality = Quality()
    slices: Slices = Slices()
    service: Budget = Budget()
    parity: Parity = Parity()
    breaking: list[str] = Field(default_factory=list)
    """Columns (or `output`) whose change every client is ready for."""
    approvals: dict[Environment, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    experiment: Experiment = Experiment()
    log: Log = Log()
    limits: Limits = Limits()

    def wanted(self, environment: str) -> int:
        """Return how many people have to approve of a version in an environment."""
        return next((count for name, count in self.approvals.items() if name == environment), 0)
