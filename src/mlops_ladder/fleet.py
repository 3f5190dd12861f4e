"""An update for all repositories of a team: a branch in each that takes it without a person's decision."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import crew, versions
from .errors import RefusedError
from .places import Place, at_home, branches_of, cache, facts, said
from .repository import git
from .team import Team

if TYPE_CHECKING:
    from .plan import Change

PATIENCE = 900.0
"""Seconds that one repository may take."""
SHOWN = 3
"""Reasons that a sentence names."""
DONE = ("branch", "current")


@dataclass(frozen=True)
class Job:
    """One repository to update."""

    place: Place
    team: Team
    push: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one repository."""

    name: str
    folder: str
    state: str
    """branch (there is one to look at), current, left (a person must do something), failed, or untried."""
    said: str
    branch: str = ""
    changes: tuple[dict[str, str], ...] = ()
    """Path, kind and reason of what the branch changes, or of what stands in its way."""
    deviations: tuple[str, ...] = ()
    key: str = field(default="", repr=False)
    """Names the commit, the version and the answers that the outcome holds for."""


def update(
    places: Sequence[Place],
    team: Team,
    *,
    canaries: Sequence[str] = (),
    push: bool = False,
    workers: int | None = None,
    told: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Make a branch with the update in every repository where nobody has to decide; return what became of each.

    The canaries go first, and the others are not tried unless all of them get on. What an earlier run did is not done
    again: a branch is found, and what was left for a person at the same commit is known.
    Raises RefusedError for a canary that is no repository of these.
    """
    early = [one for one in places if _named(one, [*canaries, *team.canaries])]
    for name in canaries:
        if not any(_named(one, [name]) for one in places):
            raise RefusedError(f"{name}: no repository of these; a canary is given by its name or its folder")
    ended: dict[str, Outcome] = {}
    late = [one for one in places if one not in early]
    for group in (early, late):
        stopped = next((one for one in ended.values() if one.state not in DONE), None)
        if stopped:
            for one in group:
                said = f"not tried, because the canary {stopped.name} did not get on: {stopped.said}"
                ended[str(one.folder)] = Outcome(one.name, one.url or str(one.folder), "untried", said)
            continue
        jobs = [Job(one, team, push) for one in group]
        for job, outcome in _done(jobs, workers or os.cpu_count() or 1):
            ended[str(job.place.folder)] = outcome
            told(outcome)
    return [ended[str(one.folder)] for one in places]


def _named(place: Place, names: Iterable[str]) -> bool:
    own = {place.name, place.url, str(place.folder)}
    return any(name in own or str(at_home(name).resolve()) in own for name in names)


def _done(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Outcome]]:
    by_folder = {str(job.place.folder): job for job in jobs}
    for folder, outcome in crew.shared(updated, jobs, _lost, workers=workers, patience=PATIENCE):
        if outcome.state == "left" and outcome.key:
            _remember(outcome)
        yield by_folder[folder], outcome


def _lost(job: Job, said: str) -> tuple[str, Outcome]:
    return str(job.place.folder), _outcome(job, "failed", said)


def _outcome(job: Job, state: str, said: str, **more: Any) -> Outcome:
    return Outcome(job.place.name, job.place.url or str(job.place.folder), state, said, **more)


def updated(job: Job) -> tuple[str, Outcome]:
    """Make one repository's branch; whatever happens, it is told."""
    try:
        outcome = _updated(job)
    except RefusedError as error:
        outcome = _outcome(job, "failed", str(error))
    except Exception as error:  # one repository never stops the rest
        outcome = _outcome(job, "failed", f"{type(error).__name__}: {error}")
    return str(job.place.folder), outcome


def _updated(job: Job) -> Outcome:
    from . import plan  # takes a second, for Copier

    folder, team = job.place.folder, job.team
    if job.place.problem:
        raise RefusedError(job.place.problem)
    known = facts(folder)
    url, version = known.answers["_src_path"], known.answers["_commit"]
    to, wanted = team.to or versions.newest(url), team.wanted(known.answers)
    more: dict[str, Any] = {"deviations": tuple(team.deviations({**known.answers, **wanted}))}
    if not versions.behind(url, version, to).commits and not wanted:
        return _outcome(job, "current", f"it has {version}", **more)
    name = branches_of(folder) + versions.name(url, to) + (f"-{_digest(wanted)[:6]}" if wanted else "")
    if said(folder, "for-each-ref", f"refs/heads/{name}"):
        state, what = _earlier(folder, name, known.head)
        if state == "branch" and job.push:  # a run may have been killed before it did
            _push(folder, name)
        return _outcome(job, state, what, branch=name, **more)
    more["key"] = _digest([str(folder), known.head, versions.commit(url, to), wanted])
    if before := _remembered().get(more["key"]):
        return _outcome(job, "left", before["said"], changes=tuple(before["changes"]), **more)
    try:
        planned = plan.planned(folder, to=to, answers=wanted, template=versions.history(url))
    except RefusedError as error:  # uncommitted work, for one: no commit says when that ends
        return _outcome(job, "left", str(error), deviations=more["deviations"])
    hard = _told(planned.of("conflict", "lost"))
    if hard:
        reasons = [f"{one['path']}: {one['reason']}" for one in hard[:SHOWN]]
        reasons += [f"and {len(hard) - SHOWN} more"] if len(hard) > SHOWN else []
        return _outcome(job, "left", f"a person must decide: {'; '.join(reasons)}", changes=hard, **more)
    plan.branched(planned, name)
    if job.push:
        _push(folder, name)
    changes = _told(planned.changes)
    where = " (in this machine's copy only: --push sends it)" if job.place.url and not job.push else ""
    return _outcome(job, "branch", f"{_counted(changes)}{where}", branch=name, changes=changes, **more)


def _push(folder: Path, name: str) -> None:
    git("push", "--quiet", "origin", f"refs/heads/{name}", cwd=folder)


def _told(changes: Iterable[Change]) -> tuple[dict[str, str], ...]:
    return tuple({"path": one.path, "kind": one.kind, "reason": one.reason} for one in changes)


def _earlier(folder: Path, name: str, head: str) -> tuple[str, str]:
    if said(folder, "rev-parse", f"{name}^") == head:
        return "branch", "its branch was made before"
    return "left", f"the branch {name} begins at an older commit: merge it, or delete it to have it made again"


def _counted(changes: Iterable[Mapping[str, str]]) -> str:
    kinds = [one["kind"] for one in changes]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "the answers only"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}


def _journal() -> Path:
    return cache() / "left.jsonl"


def _remember(outcome: Outcome) -> None:
    """Keep what a person must decide, so that it is not planned again before something changes."""
    _journal().parent.mkdir(parents=True, exist_ok=True)
    with _journal().open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": int(time.time()), **_plain(outcome)}) + "\n")


def _remembered() -> dict[str, dict[str, Any]]:
    if not _journal().is_file():
        return {}
    kept = {}
    for line in _journal().read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            entry.pop("at")
            kept[entry["key"]] = entry
        except (ValueError, KeyError):
            continue  # the last line of a run that was killed
    return kept
