"""Tell people of an alarm: once when it begins, and again only after all was quiet; to a log, a webhook, by e-mail.

And tell Prometheus how it stands, see `expose`.

Which alarms are new is worked out from the records and from the alerts told so far. So a kill in between loses none and
tells none twice. A sink that does not answer is written down, and stops nobody.
"""

from __future__ import annotations

import json
import os
import smtplib
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from ..config import first_line, masked
from ..contract import ProjectError
from ..files import atomic
from ..register import events
from ..register.events import add, append, locked
from ..serve import watched
from . import Alerts, Record, Signal, Verdict, read

ALERTS = Path("logs/alerts.jsonl")
PASSWORD = "SMTP_PASSWORD"  # noqa: S105
"""The environment variable with the password of the mail server, for the user in its address."""
PATIENCE = 10
"""Seconds in which a sink has to answer."""
SHOWN = 3
"""Sentences that one alert tells."""
FRAMES = {
    "en": "{environment}, version {version}: alarm, {signal}. {told}",
    "fr": "{environment}, version {version} : alarme, {signal}. {told}",
}
MORE = {"en": "{count} more: {names}.", "fr": "{count} de plus : {names}."}
FRENCH: dict[Signal, str] = {
    "data drift": "dérive des données",
    "prediction drift": "dérive des réponses",
    "quality": "qualité",
    "slices": "qualité par segment",
    "bias": "équité entre groupes",
    "calibration": "calibration",
    "freshness": "fraîcheur",
    "staleness": "vieillissement",
    "latency": "temps de réponse",
    "memory": "mémoire",
    "packages": "bibliothèques",
    "skew": "écart entre entraînement et service",
    "numbers": "nombres",
}
WHOLE: tuple[Signal, ...] = ("skew", "packages")
"""Signals of which a look names all that is wrong, and one subject for all where nothing is."""
OUTCOMES = ("deployed", "refused", "waits", "failed", "overtaken")
"""How a retraining ends, or what it waits for."""
Alert: TypeAlias = dict[str, Any]


def tell(environment: str, settings: Alerts, say: Callable[[str], None]) -> list[Alert]:
    """Tell what began since the last time, and return it; each alert is on disk before a sink hears of it."""
    return announce(begun(read(environment), settings.language), settings, say)


def announce(found: Iterable[Alert], settings: Alerts, say: Callable[[str], None]) -> list[Alert]:
    """Tell those of some alerts that were not told before, by their ids, and return them."""
    with locked("alerts"):
        told, now = {alert["id"] for alert in alerts()}, datetime.now(UTC).isoformat()
        new = [{"time": now, **alert} for alert in found if alert["id"] not in told]
        for alert in new:
            add(ALERTS, json.dumps(alert, ensure_ascii=False).encode())
    for alert in new:
        say(f"alarm: {alert['sentence']}")
        for name, send in (("webhook", _post), ("email", _mail)):
            if getattr(settings, name) is None:
                continue
            try:
                send(settings, alert)
            except (OSError, HTTPException, smtplib.SMTPException, ValueError) as error:
                where = masked(str(getattr(settings, name)))
                append("unsent", alert=alert["id"], to=where, told=first_line(error))
                say(f"warning: the alert did not reach {where} ({first_line(error)}); it stands in {ALERTS}")
    return new


def alerts() -> list[Alert]:
    """Return what was told so far, oldest first."""
    if not ALERTS.is_file():
        return []
    *lines, _ = ALERTS.read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise ProjectError(f"{ALERTS}: is not as it was written; move the file away to begin anew") from None


def begun(records: Sequence[Record], language: str) -> Iterator[Alert]:
    """Yield an alert for each signal of a record in which something is alarming that was quiet, or new, before."""
    alarming: set[tuple[str, str]] = set()
    for place, record in enumerate(records):
        alarming -= _over(record, alarming)
        new: dict[Signal, list[Verdict]] = {}
        for verdict in record.verdicts:
            key = (verdict.signal, verdict.subject)
            if verdict.state == "alarm" and key not in alarming:
                new.setdefault(verdict.signal, []).append(verdict)
                alarming.add(key)
        for signal, verdicts in new.items():
            yield _alert(record, place, signal, verdicts, language)


def expose(environment: str, now: float) -> None:
    """Write for Prometheus what was found of an environment by `now`; its service passes it on.

    As many figures whatever the data look like: no column, slice or version is a label.
    """
    from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

    book = CollectorRegistry()

    def gauge(name: str, about: str, *label: str) -> Gauge:
        return Gauge(f"monitor_{name}", about, label, registry=book)

    records = read(environment)
    own = [record for record in records if record.model == records[-1].model]
    latest = {(one.signal, one.subject): (record, one) for record in own for one in record.verdicts}
    gauge("looked_timestamp_seconds", "When the monitors looked last").set(now)
    gauge("windows", "Windows of answers judged").set(max((record.window for record in records), default=0))
    gauge("frozen", "1 while what changes by itself is frozen").set(events.frozen() is not None)
    alarms = gauge("alarms", "Columns, slices or what else is alarming, by signal", "signal")
    alarming = alarming_now(own)
    for signal in FRENCH:
        alarms.labels(signal).set(sum(one == signal for one, _ in alarming))
    drift = gauge("drift_ratio", "How far the furthest column drifted; above 1 is beyond the limit", "signal")
    ages = gauge("last_timestamp_seconds", "When the last answer and truth came, and the model was made", "what")
    quality = gauge("quality", "The metric on answers with known truth, its interval, what was promised", "what")
    for (signal, subject), (record, verdict) in latest.items():
        if signal == "freshness" and verdict.figure is not None:
            ages.labels(subject).set(record.looked - 3600 * verdict.figure)
        if signal == "quality" and verdict.figure is not None:
            for what in ("figure", "low", "high", "limit"):
                quality.labels(what).set(getattr(verdict, what))
    for signal in ("data drift", "prediction drift"):
        window = next((record for record in reversed(own) if record.rows), None)
        found = [one for one in (window.verdicts if window else ()) if one.signal == signal and one.figure is not None]
        drift.labels(signal).set(max((one.figure / one.limit for one in found if one.figure and one.limit), default=0))
    ended = Counter("monitor_retrainings", "Retrainings, by how they ended", ["outcome"], registry=book)
    counts = [event["outcome"] for event in events.read("retrain")]
    for outcome in OUTCOMES:
        ended.labels(outcome).inc(counts.count(outcome))
    with atomic(watched(environment)) as path:
        path.write_bytes(generate_latest(book))


def alarming_now(records: Sequence[Record]) -> set[tuple[str, str]]:
    """Return signal and subject of what is alarming and was not quiet since."""
    alarming: set[tuple[str, str]] = set()
    for record in records:
        alarming -= _over(record, alarming)
        alarming |= {(one.signal, one.subject) for one in record.verdicts if one.state == "alarm"}
    return alarming


def _over(record: Record, alarming: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return what a record finds quiet, or does not name among all that is wrong."""
    said: dict[tuple[str, str], str] = {(one.signal, one.subject): one.state for one in record.verdicts}
    named = {signal for signal, _ in said if signal in WHOLE}
    return {key for key in alarming if said.get(key, "quiet" if key[0] in named else "") == "quiet"}


def _alert(record: Record, place: int, signal: Signal, verdicts: Sequence[Verdict], language: str) -> Alert:
    said = [verdict.sentence for verdict in verdicts[:SHOWN]]
    if others := [verdict.subject for verdict in verdicts[SHOWN:]]:
        said.append(MORE[language].format(count=len(others), names=", ".join(others)))
    sentence = FRAMES[language].format(
        environment=record.environment,
        version=record.version,
        signal=FRENCH[signal] if language == "fr" else signal,
        told=" ".join(said),
    )
    return {
        "id": f"{record.environment}-{place + 1}-{signal.replace(' ', '-')}",
        "time": datetime.fromtimestamp(record.looked, UTC).isoformat(),
        "environment": record.environment,
        "version": record.version,
        "window": record.window,
        "signal": signal,
        "subjects": [verdict.subject for verdict in verdicts],
        "sentence": sentence,
    }


def _post(settings: Alerts, alert: Alert) -> None:
    """POST the alert as JSON, its sentence also as `text`, which chat services show."""
    body = json.dumps({**alert, "text": alert["sentence"]}).encode()
    request = urllib.request.Request(str(settings.webhook), body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=PATIENCE):  # noqa: S310
        pass


def _mail(settings: Alerts, alert: Alert) -> None:
    """Mail the alert through a server such as smtp://user@host:587, or smtps://user@host for TLS from the start."""
    server = urlsplit(str(settings.smtp))
    message = EmailMessage()
    message["Subject"], message["To"] = alert["sentence"].partition(". ")[0], settings.email
    message["From"] = settings.email
    message.set_content(alert["sentence"])
    kind = smtplib.SMTP_SSL if server.scheme == "smtps" else smtplib.SMTP
    with kind(server.hostname or "", server.port or 0, timeout=PATIENCE) as post:
        if server.username:
            if server.scheme != "smtps":
                post.starttls()
            post.login(unquote(server.username), os.environ.get(PASSWORD, ""))
        post.send_message(message)
