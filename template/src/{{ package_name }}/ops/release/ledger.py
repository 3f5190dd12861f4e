"""The ledger: one line an event, each with the hash of the line before it; and what it vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from ..contract import ProjectError
from .sign import refuse_unsigned

NAME = "ledger.jsonl"
START = "0" * 64
"""What stands for the hash of the line before the first."""
MOVES = ("deploy", "rollback", "experiment", "decision")
"""Kinds of entries that say what an environment uses from then on."""


@dataclass(frozen=True)
class Entry:
    """One event."""

    seq: int
    """Number of the line, from 1."""
    time: str
    """When it was written, UTC."""
    who: str
    kind: str
    facts: dict[str, Any]
    prev: str
    """`hash` of the line before."""
    hash: str
    """SHA-256 of all the rest in canonical JSON."""


@dataclass(frozen=True)
class Pointer:
    """What an environment uses."""

    champion: str
    """Digest of the bundle that answers."""
    challenger: str | None = None
    share: float = 0.0
    """Of the requests, that the challenger answers."""
    shadow: bool = False
    """Whether the challenger answers too, but nobody sees it."""
    experiment: str | None = None
    entry: str = ""
    """Hash of the ledger's entry that moved the environment here."""

    @classmethod
    def of(cls, entry: Entry) -> Pointer:
        """Return the pointer that an entry says."""
        told = {field.name: entry.facts[field.name] for field in fields(cls) if field.name in entry.facts}
        return cls(**{**told, "champion": entry.facts["digest"], "entry": entry.hash})

    @property
    def digests(self) -> tuple[str, ...]:
        """The champion's digest, and the challenger's if there is one."""
        return (self.champion, self.challenger) if self.challenger else (self.champion,)


def read(content: bytes) -> list[Entry]:
    """Return the entries of a ledger, oldest first; a last line that a killed process left half-written is left out.

    Raises ProjectError naming the first line that is not as it was written, or does not follow the line before it.
    """
    *lines, _ = content.split(b"\n")
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        entries.append(_read(line, number, entries[-1].hash if entries else START))
    return entries


def line(entries: Sequence[Entry], kind: str, who: str, facts: Mapping[str, Any]) -> bytes:
    """Return the line that adds an event to the entries so far, with its end of line; facts are what JSON can hold."""
    event = {
        "seq": len(entries) + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": who,
        "kind": kind,
        "facts": dict(facts),
        "prev": entries[-1].hash if entries else START,
    }
    return canonical({**event, "hash": _hash(event)}) + b"\n"


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one way in which an object is written as JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def last_move(entries: Sequence[Entry], environment: str) -> Entry | None:
    """Return the newest entry that moved an environment; None if nothing ever did."""
    moves = (one for one in reversed(entries) if one.kind in MOVES and one.facts.get("environment") == environment)
    return next(moves, None)


def history(entries: Sequence[Entry], environment: str) -> list[str]:
    """Return the digests that an environment uses and used, the present one last; going back takes that one off."""
    used: list[str] = []
    for entry in entries:
        if entry.kind in MOVES and entry.facts["environment"] == environment:
            if entry.kind == "rollback":
                used.pop()
            elif used[-1:] != [entry.facts["digest"]]:
                used.append(entry.facts["digest"])
    return used


def stands(entries: Sequence[Entry], digest: str, environment: str) -> bool:
    """Whether an environment used a bundle and was not rolled back from it since."""
    good = False
    for entry in entries:
        if entry.kind in MOVES and entry.facts["environment"] == environment:
            left = entry.kind == "rollback" and entry.facts["previous"] == digest
            good = entry.facts["digest"] == digest or (good and not left)
    return good


def word(entries: Sequence[Entry], digest: str, environment: str) -> Entry | None:
    """Return what a person said last of a bundle in an environment, an entry `approve` or `refuse`; None if nobody."""
    about = (one for one in reversed(entries) if one.kind in ("approve", "refuse") and one.facts["digest"] == digest)
    return next((one for one in about if one.facts["environment"] == environment), None)


def approvers(entries: Sequence[Entry], digest: str, environment: str) -> set[str]:
    """Return who approved of a bundle in an environment since it was refused, if it ever was."""
    people: set[str] = set()
    for entry in entries:
        if (entry.facts.get("digest"), entry.facts.get("environment")) == (digest, environment):
            people = set() if entry.kind == "refuse" else people | ({entry.who} if entry.kind == "approve" else set())
    return people


def approvals(entries: Sequence[Entry], digest: str, environment: str, makers: Collection[str]) -> int:
    """Return how many people approve of a bundle in an environment, those who made it not counted."""
    people = approvers(entries, digest, environment)
    return len({person(who) for who in people} - {person(who) for who in makers})


def refusal(entries: Sequence[Entry], digest: str, environment: str) -> str:
    """Return, in words, who refused a bundle in an environment; empty where nobody did, or somebody approved since."""
    said = word(entries, digest, environment)
    if said is None or said.kind == "approve":
        return ""
    return f"{said.who} refused it for {environment} ({said.facts['why']}); `make approve` takes that back"


def released(entries: Sequence[Entry], version: int, run: str | None = None) -> str | None:
    """Return the digest of the newest bundle of a version (of this run, if one is given); None where it has none."""
    for entry in reversed(entries):
        if entry.kind == "bundle" and entry.facts["version"] == version and run in (None, entry.facts["run"]):
            return str(entry.facts["digest"])
    return None


def version(entries: Sequence[Entry], digest: str | None) -> int | None:
    """Return the version that a bundle is of."""
    of = (entry.facts["version"] for entry in entries if entry.kind == "bundle" and entry.facts["digest"] == digest)
    return next(of, None)


def person(who: str) -> str:
    """Return what tells one person from another: the address, if there is one."""
    return who.rpartition("<")[2].rstrip(">").strip().lower()


def refuse_unknown(entries: Sequence[Entry], environment: str, pointer: Pointer) -> None:
    """Raise ProjectError for a pointer that is not what an entry about its environment says."""
    entry = next((entry for entry in entries if entry.hash == pointer.entry and entry.kind in MOVES), None)
    if entry is None or entry.facts.get("environment") != environment or Pointer.of(entry) != pointer:
        raise ProjectError(
            f"the pointer of {environment} ({pointer.champion!s:.12}) is not what the ledger says: somebody wrote it "
            "by hand; `make releases` shows what the ledger says, `make deploy` and `make rollback` mend it"
        )


def refuse_unreleased(entries: Sequence[Entry], digest: str) -> None:
    """Raise ProjectError for a bundle without an entry in the ledger, or whose signature no trusted key made."""
    lines = [entry for entry in entries if entry.kind == "bundle" and entry.facts.get("digest") == digest]
    if not lines:
        raise ProjectError(f"bundle {digest[:12]} is not in the ledger: it was not released; `make deploy` does so")
    refuse_unsigned(digest, str(lines[-1].facts.get("signature", "")))


def _read(written: bytes, number: int, prev: str) -> Entry:
    try:
        entry = Entry(**json.loads(written))
        event = asdict(entry)
        own = event.pop("hash")
        unchanged = canonical({**event, "hash": own}) == written and _hash(event) == own
    except (ValueError, TypeError):
        unchanged = False
    if not unchanged:
        raise ProjectError(f"{NAME}, line {number}: is not as it was written; nobody edits the ledger, put it back")
    if (entry.seq, entry.prev) != (number, prev):
        raise ProjectError(f"{NAME}, line {number}: does not follow the line before it; a line was taken out or put in")
    return entry


def _hash(event: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(event)).hexdigest()
