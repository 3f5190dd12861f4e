"""The room of monitoring: windows of the prediction log are judged, and each judgement is a line of a record.

What was judged is known from the records alone: killed at any moment and started again, no window is judged twice or
left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from ..config import Settings
from ..contract import ProjectError

RECORDS = Path("logs/monitor.jsonl")
SERVER = re.compile(r"smtps?://([^@/\s]+@)?[^@/\s:]+(:\d{1,5})?")
Signal: TypeAlias = Literal[
    "data drift",
    "prediction drift",
    "quality",
    "slices",
    "bias",
    "calibration",
    "freshness",
    "staleness",
    "skew",
    "numbers",
    "latency",
    "memory",
    "packages",
]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
State: TypeAlias = Literal["quiet", "suspected", "alarm", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What one monitor says of a window, about one subject."""

    signal: Signal
    subject: str
    """A column, a slice, the answers, or what else was looked at."""
    state: State
    figure: float | None
    limit: float | None
    sentence: str
    """For people."""
    low: float | None = None
    """Where the figure lies surely (in 95 of 100 samples); None where it is not a sample's."""
    high: float | None = None


@dataclass(frozen=True)
class Record:
    """What was said of one window, or between two windows of what changes without new answers; a line of RECORDS."""

    window: int
    """Its number, from 1; between two windows that of the first one, 0 before any."""
    environment: str
    first: str
    """Id of its first answered row; empty between two windows."""
    last: str
    begin: float
    """Time of the first row, seconds since 1970; between two windows when it was looked at."""
    end: float
    rows: int
    """0 between two windows."""
    known: int
    """Rows whose truth was known when it was looked at."""
    truths: int
    """All answers of this model whose truth was known by then."""
    model: str
    """Digest of the bundle that answered."""
    version: int
    looked: float
    """When it was looked at, seconds since 1970."""
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Age:
    """What a model of an age lost, in the metric of config/model.yaml, beside a fresh one on the same rows."""

    days: float
    lost: float
    low: float | None
    """It surely lost as much, and at most `high` (in 95 of 100 samples); None where that is not known."""
    high: float | None


@dataclass(frozen=True)
class Aging:
    """What a rehearsal found; a part of reports/rehearsal.json."""

    ages: list[Age]
    lead: float
    """Of a model over a constant answer."""

    def much(self, margin: float) -> float:
        """Return how much may be lost."""
        return margin * max(self.lead, 0.0)

    def limit(self, margin: float) -> Age | None:
        """Return the least age at which a model surely lost more than the margin of its lead; None if it never did."""
        return next((age for age in self.ages if age.low is not None and age.low > self.much(margin)), None)


class Quality(Settings):
    """Of `quality`."""

    margin: float = Field(default=0.25, gt=0, le=1)


class Bias(Settings):
    """Of `bias`."""

    gap: float = Field(default=0.1, gt=0)
    rows: int = Field(default=200, ge=30)


class Calibration(Settings):
    """Of `calibration`."""

    gap: float = Field(default=0.1, gt=0)


class Freshness(Settings):
    """Of `freshness`."""

    answer_hours: float = Field(default=24, gt=0)
    truth_days: float = Field(default=30, gt=0)
    model_days: float = Field(default=90, gt=0)


class Retrain(Settings):
    """Of `retrain`."""

    when: list[Signal] = Field(default=["quality", "data drift", "prediction drift"])
    cooldown_hours: float = Field(default=24, ge=0)
    a_week: int = Field(default=3, ge=0)
    least_rows: int = Field(default=200, ge=1)
    window: Literal["auto", "all", "recent"] = "auto"
    approve: bool = False


class Alerts(Settings):
    """Of `alerts`."""

    language: Literal["en", "fr"] = "en"
    webhook: str | None = None
    """An address that takes JSON by POST."""
    email: str | None = None
    """Whom to write to."""
    smtp: str | None = None
    """The mail server, such as smtp://host:25 or smtps://user@host; the password is in SMTP_PASSWORD."""

    @field_validator("webhook")
    @classmethod
    def _of_the_web(cls, address: str | None) -> str | None:
        if address is not None and not (address.startswith(("http://", "https://")) and urlsplit(address).hostname):
            raise ValueError(f"webhook: '{address}' is no address of http or https")
        return address

    @model_validator(mode="after")
    def _has_a_server(self) -> Alerts:
        if self.email is not None and (self.smtp is None or not SERVER.fullmatch(self.smtp)):
            raise ValueError("smtp: to write to `email` a mail server is needed, such as smtp://host:25")
        return self


class Monitor(Settings):
    """`config/monitor.yaml`."""

    window: int = Field(default=500, ge=200, le=50_000)
    """Windows, and what is looked back on, are held in memory: of the largest ones together less than 1 GiB."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    quality: Quality = Quality()
    bias: Bias = Bias()
    calibration: Calibration = Calibration()
    freshness: Freshness = Freshness()
    retrain: Retrain = Retrain()
    alerts: Alerts = Alerts()


_RECORD = TypeAdapter(Record)


def dump(record: Record) -> bytes:
    """Return the line of a record."""
    return _RECORD.dump_json(record)


def read(environment: str | None = None) -> list[Record]:
    """Return the records of an environment, or all, oldest first; a last line that is being written is left out.

    Raises ProjectError naming the line where one is not a record.
    """
    if not RECORDS.is_file():
        return []
    *lines, _ = RECORDS.read_bytes().split(b"\n")
    records = [_parsed(line, number) for number, line in enumerate(lines, start=1)]
    return [record for record in records if environment in (None, record.environment)]


def _parsed(line: bytes, number: int) -> Record:
    try:
        return _RECORD.validate_json(line)
    except ValidationError:
        raise ProjectError(f"{RECORDS}, line {number}: is not a record; move the file away to begin anew") from None
