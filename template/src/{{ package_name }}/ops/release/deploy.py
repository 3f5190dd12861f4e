"""Moves of the environments: a version enters through the gates, and goes back in a second. Only the ledger decides.

The ledger's line comes first, the pointer that services follow second, MLflow's alias last. Whatever a kill left
between them is finished by the next move.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, get_args

from ..config import Data, Model, UnfinishedError, load
from ..contract import ProjectError
from . import ledger
from .bundle import verified
from .ledger import Entry, Pointer, refuse_unreleased
from .policy import Environment, Policy
from .store import ADDRESS, Store, opened

if TYPE_CHECKING:
    from rich.table import Table

    from .gates import Ask, Result

Say = Callable[[str], None]
SHOWN = 20  # lines of the ledger


def deploy(policy: Policy, version: str, environment: str, why: str, logged: Ask, say: Say) -> int:
    """Let an environment use a version, if every gate lets it; returns the version.

    An empty version stands for the newest. Raises ProjectError telling every refusal with rule, figure and limit.
    """
    store = opened(policy)
    noted = store.settle(environment)  # at once: whoever moves the environment from now on wins
    refuse_experiment(environment, noted)
    number, digest = _bundle(policy, store, environment, version, say)
    if noted is not None and noted.champion == digest:
        say(f"{environment} uses version {number} already; nothing is changed")
    else:
        judged(policy, store, digest, environment, logged, say)
        before = None if noted is None else noted.champion
        store.move("deploy", environment, digest, noted, previous=before, version=number, why=why)
        say(f"{environment} uses version {number}{_instead(store.entries(), before)} (bundle {digest[:12]})")
    follow(store, say)
    return number


def judged(policy: Policy, store: Store, digest: str, environment: str, logged: Ask, say: Say) -> None:
    """Ask every gate whether a bundle may enter an environment, note what they say in the ledger, and show it.

    Raises ProjectError telling every refusal; UnfinishedError where only people have not approved yet.
    """
    from ..register.views import console
    from .gates import Question, judge

    pointer, entries = store.settle(environment), store.entries()
    champion = None if pointer is None else store.bundle(pointer.champion)
    made, address = makers(store, entries, digest), os.environ.get(ADDRESS) or policy.store
    pages = policy, load(Data), load(Model)
    asked = Question(*pages, environment, digest, store.folder(digest), address, entries, champion, made)
    results = judge(asked, logged, say)
    console().print(_table(results))
    _note(store, environment, ledger.version(entries, digest), digest, results)


def _note(store: Store, environment: str, version: int | None, digest: str | None, results: Sequence[Result]) -> None:
    """Write what the gates say into the ledger, and raise where one refuses."""
    from .gates import SLOW

    refused = [result for result in results if not result.passed]
    told = [asdict(result) for result in results]
    store.append("gates", environment=environment, version=version, digest=digest, results=told, passed=not refused)
    if refused:
        lines = [f"{result.rule}: {result.sentence}" for result in refused]
        if not any(result.rule in SLOW for result in results):
            lines.append(f"not measured because of this: {', '.join(SLOW)}")
        kind = UnfinishedError if [result.rule for result in refused] == ["approvals"] else ProjectError
        raise kind(f"version {version} may not enter {environment}:\n  " + "\n  ".join(lines))


def rollback(policy: Policy, environment: str, why: str, say: Say) -> None:
    """Let an environment use what it used before, at once; a running experiment ends.

    Raises ProjectError where it used nothing before, or what it used is damaged.
    """
    store = opened(policy)
    noted, entries = store.settle(environment), store.entries()
    used = ledger.history(entries, environment)
    if len(used) < 2:
        raise ProjectError(f"{environment} has used nothing else before; there is nothing to go back to")
    before = used[-2]
    refuse_unreleased(entries, before)
    number = verified(store.folder(before), before).version
    store.move("rollback", environment, before, noted, previous=used[-1], version=number, why=why)
    say(f"{environment} uses version {number} again{_instead(entries, used[-1])} (bundle {before[:12]})")
    follow(store, say)


def approve(policy: Policy, version: str, environment: str, why: str, say: Say) -> None:
    """Note in the ledger that whoever asks approves of a version for an environment."""
    store, entry = _noted("approve", policy, version, environment, why)
    made = makers(store, store.entries(), entry.facts["digest"])
    own = " (whoever made it does not count)" if ledger.person(entry.who) in map(ledger.person, made) else ""
    say(f"{entry.who} approves of version {version} for {environment}{own}")


def refuse(policy: Policy, version: str, environment: str, why: str, say: Say) -> None:
    """Note in the ledger that a version may not go to an environment; raises ProjectError without a reason."""
    if not why:
        raise ProjectError(f"say why: make refuse VERSION={version} ENV={environment} WHY=reason")
    _, entry = _noted("refuse", policy, version, environment, why)
    say(f"{entry.who} refuses version {version} for {environment}: it does not go there until somebody approves of it")


def _noted(kind: str, policy: Policy, version: str, environment: str, why: str) -> tuple[Store, Entry]:
    """Write what a person says of a version into the ledger; raises ProjectError where it is not released."""
    (store := opened(policy)).settle(environment)
    digest = ledger.released(store.entries(), _number(version))
    if digest is None:
        raise ProjectError(f"version {version} is not released; first `make deploy VERSION={version} ENV=dev`")
    return store, store.append(kind, version=int(version), environment=environment, digest=digest, why=why)


def overview(policy: Policy) -> list[Table]:
    """Return what each environment uses, and the last lines of the ledger; nothing where it has none."""
    from rich.markup import escape
    from rich.table import Table

    store = opened(policy)
    entries = store.entries()
    if not entries:
        return []
    uses = Table("environment", "version", "bundle", "since", "by", "why", title="Environments", title_justify="left")
    for environment in get_args(Environment):
        move = ledger.last_move(entries, environment)
        if move is not None:
            uses.add_row(environment, *map(escape, _told(store, entries, move)))
    lines = Table("line", "time", "by", "what", title=f"Ledger: {len(entries)} lines, each as it was written")
    lines.title_justify = "left"
    for entry in entries[-SHOWN:]:
        lines.add_row(*map(escape, (str(entry.seq), _when(entry.time), _name(entry), _event(entries, entry))))
    return [uses, lines]


def ship(policy: Policy, version: str, logged: Ask, say: Say) -> None:
    """Take a version all the way: dev, staging, the smoke test in the image, a replay of what is logged, prod."""
    number = deploy(policy, version, "dev", "shipped", logged, say)
    deploy(policy, f"{number}", "staging", "shipped", logged, say)
    store = opened(policy)
    digest = ledger.released(store.entries(), number) or ""
    used = store.settle("prod")
    if used is not None and used.champion == digest:
        say(f"prod uses version {number} already; nothing is changed")
        return
    shown = smoke(policy, store, digest, used, logged, say)
    deploy(policy, f"{number}", "prod", f"shipped; {shown}", logged, say)


def smoke(policy: Policy, store: Store, digest: str, used: Pointer | None, logged: Ask, say: Say) -> str:
    """Ask the service, in its image where a container engine answers, for the fixture and for what is logged last.

    A canary that no client sees: its answers are compared with the bundle's own and with the champion's. Returns what
    was found, in words.
    """
    from . import engine, image
    from .evidence import contained, replayed, serving

    rows = [] if used is None else list(logged((used.champion,), policy.parity.rows))
    champion = store.bundle(used.champion) if used is not None and rows else None
    folder, address = store.folder(digest), os.environ.get(ADDRESS) or policy.store
    in_image = engine() and "://" not in address
    if not in_image:
        say("no container engine answers here, or the store is no folder: the service is tried as a process")
    with contained(image(baked=tuple), digest, folder.parents[1]) if in_image else serving(digest, address) as service:
        found = replayed(service, store.bundle(digest), champion, rows)
    told = f"the service {'in its image' if in_image else 'as a process'} answers {found}"
    say(f"smoke test: {told}")
    return told


def refuse_experiment(environment: str, pointer: Pointer | None) -> None:
    """Raise ProjectError where a challenger still meets the champion: its figures would be of another champion."""
    if pointer is not None and pointer.experiment is not None:
        raise ProjectError(
            f"an experiment runs in {environment}: decide it with `make canary ENV={environment} DECIDE=yes`, "
            "or end it with DECIDE=stop"
        )


def _bundle(policy: Policy, store: Store, environment: str, version: str, say: Say) -> tuple[int, str]:
    """Return a version's number and its bundle's digest; it is made if there is none, or none any more."""
    from .. import register
    from .build import bundled, gone
    from .gates import Result, committed

    known, entries = {found.number: found for found in register.versions()}, store.entries()
    listed = sorted({*known, *(entry.facts["version"] for entry in entries if entry.kind == "bundle")})
    number = _number(version) if version else max(listed, default=0)
    digest = ledger.released(entries, number, known[number].run if number in known else None)
    if digest is not None and (number not in known or not gone(store, digest)):
        return number, digest
    if number not in known:
        told = ", ".join(map(str, listed)) or "none yet; `make train` registers what it makes"
        raise ProjectError(f"VERSION is {version or 'not given'}: there is no such version; registered: {told}")
    result = committed(known[number].commit, known[number].dirty)
    try:
        if result.passed:
            return number, bundled(known[number], policy, say)
    except UnfinishedError:
        raise
    except ProjectError as error:
        result = Result("released", False, "no bundle", "a bundle of the version", f"{error}")
    _note(store, environment, number, None, [result])
    return number, ""


def _number(version: str) -> int:
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise ProjectError(f"VERSION is '{version}': give the number of a version, as `make models` lists them")
    return int(version)


def makers(store: Store, entries: Sequence[Entry], digest: str) -> frozenset[str]:
    """Return who ran the training, if this machine knows, and who wrote the commit that was trained."""
    from ..register import events
    from ..register.run import git, read

    runs = {entry.facts["run"] for entry in entries if entry.kind == "bundle" and entry.facts["digest"] == digest}
    made = {event["who"] for event in events.read("train") if event.get("run") in runs}
    with suppress(ProjectError):  # a clone may lack the commit
        commit = read(store.folder(digest) / "run.json").commit
        made.add(git("log", "-1", "--format=%an <%ae>", commit).strip())
    return frozenset(made)


def _instead(entries: Sequence[Entry], before: str | None) -> str:
    return "" if before is None else f" instead of version {ledger.version(entries, before)}"


def follow(store: Store, say: Say) -> None:
    """Let MLflow's aliases say what the pointers say, in every environment."""
    from .. import register

    try:
        known = {version.number: version for version in register.versions()}
        entries = store.entries()
        for where in get_args(Environment):
            pointer = store.pointer(where)
            version = known.get(ledger.version(entries, pointer.champion) or 0) if pointer is not None else None
            if version is not None and where not in version.aliases:
                register.promote(version.number, where, register.promotion(where), "followed the release")
    except ProjectError as error:
        say(f"warning: MLflow's aliases did not follow: {error}; the next move tries again")


def _table(results: Sequence[Result]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("gate", "", "figure", "limit", box=None, padding=(0, 2, 0, 0))
    for one in results:
        said = "[green]passed[/]" if one.passed else "[red]refused[/]"
        table.add_row(one.rule, said, *map(escape, (one.figure, one.limit)))
    return table


def _told(store: Store, entries: Sequence[Entry], move: Entry) -> tuple[str, ...]:
    pointer = Pointer.of(move)
    version, why = f"{ledger.version(entries, pointer.champion)}", str(move.facts.get("why", ""))
    if pointer.challenger is not None:
        share = "in the shadow" if pointer.shadow else f"for {100 * pointer.share:g} %"
        version += f", and {ledger.version(entries, pointer.challenger)} {share}"
    try:
        store.admitted(move.facts["environment"])
    except ProjectError as error:
        why = f"refused: {error}"
    return version, pointer.champion[:12], _when(move.time), _name(move), why


def _name(entry: Entry) -> str:
    return entry.who.partition(" <")[0]


def _when(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


def _event(entries: Sequence[Entry], entry: Entry) -> str:
    facts = entry.facts
    version = facts.get("version") or ledger.version(entries, facts.get("digest"))
    said = f"{entry.kind} version {version}" + (f" in {facts['environment']}" if "environment" in facts else "")
    if entry.kind == "gates":
        refused = [result["rule"] for result in facts["results"] if not result["passed"]]
        said += f": refused by {', '.join(refused)}" if refused else ": passed"
    return said + (f" ({facts['why']})" if facts.get("why") else "")
