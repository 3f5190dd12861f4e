"""The gates: what a version must show before an environment uses it. Each answers with rule, figure and limit.

All gates are asked, and all refusals told at once. What takes long is not measured where a quick rule refuses already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Data, Model
from ..contract import Columns, ProjectError
from ..evaluate.compare import spare, sure
from ..evaluate.metrics import METRICS, Floats
from ..features import from_records, in_words
from ..files import sha256
from ..train import refuse_dependent
from . import ledger
from .bundle import FIXTURE, MODEL, TESTS, Bundle, Manifest, load
from .contract import SHOWN, Contract, breaking
from .evidence import Load, Logged, Trial, again, serving, suiting, tried
from .ledger import Entry, approvers, refusal, refuse_unreleased, stands
from .policy import Budget, Policy

BEFORE: dict[str, str | None] = {"dev": None, "staging": "dev", "prod": "staging"}
"""Where a version has to be before it enters an environment."""
SLOW = ("quality", "champion", "slices", "parity", "latency", "memory")
ALONE = 800
"""Rows whose features are computed a second time, a quarter of them each alone."""
Ask = Callable[[Collection[str], int], Sequence[Logged]]
"""Gives the latest logged rows, at most so many, that some bundles answered."""


@dataclass(frozen=True)
class Result:
    """What a gate says."""

    rule: str
    passed: bool
    figure: str
    limit: str
    sentence: str
    """Why it refuses; empty where it does not."""


@dataclass(frozen=True)
class Question:
    """Whether a bundle may enter an environment."""

    policy: Policy
    data: Data
    model: Model
    environment: str
    digest: str
    folder: Path
    """Where the bundle lies."""
    address: str
    """Of the store, for the service that is measured."""
    entries: Sequence[Entry]
    """The ledger."""
    champion: Bundle | None
    """What the environment uses."""
    trainers: frozenset[str]
    """Who made the version, as git knows them."""


def judge(asked: Question, logged: Ask, say: Callable[[str], None]) -> list[Result]:
    """Ask every gate; the slow ones are left out where a quick one, other than the people's, refuses."""
    results = [signed(asked.entries, asked.digest), order(asked.entries, asked.digest, asked.environment)]
    wanted = asked.policy.wanted(asked.environment)
    people = approvals(asked.entries, asked.digest, asked.environment, wanted, asked.trainers)
    try:
        candidate = load(asked.folder, asked.digest)
    except ProjectError as error:
        return [_refused("complete", "not whole", "the files of its manifest", f"{error}"), *results, people]
    manifest = candidate.manifest
    results = [Result("complete", True, f"{len(manifest.files)} files", "the files of its manifest", ""), *results]
    results += [tests(manifest, asked.folder), committed(manifest.commit, manifest.dirty)]
    if asked.champion is not None:
        results.append(contract(candidate.contract, asked.champion.contract, asked.policy.breaking))
    if all(result.passed for result in results):
        say("measuring: test rows, slices, logged rows, and the service as a process")
        results += measured(asked, candidate, logged)
    return [*results, people]


def measured(asked: Question, candidate: Bundle, logged: Ask) -> Iterator[Result]:
    """Ask the gates that need answers of the model."""
    policy, champion = asked.policy, asked.champion
    try:
        trial = tried(candidate, champion, asked.model, policy.slices.rows)
        yield quality(trial, policy)
        if champion is not None:
            yield against(trial, policy)
        yield slices(trial, asked.data, policy)
        rows = list(logged((champion.digest,), policy.parity.rows)) if champion is not None else []
        redone = [again(champion, one, policy.parity.tolerance) for one in rows if champion is not None]
        yield parity(candidate, trial.columns, rows, redone, policy)
    except ProjectError as error:  # features.py may refuse a row
        yield _refused("answers", "none", "an answer for every row", f"{error}")
    try:
        with serving(asked.digest, asked.address) as service:
            taken = service.load(json.loads((asked.folder / FIXTURE).read_bytes())["dataframe_records"])
        yield latency(taken, policy.service)
        yield memory(taken, policy.service)
    except ProjectError as error:
        yield _refused("latency", "no answer", "a service that answers", f"{error}")


def tests(manifest: Manifest, folder: Path) -> Result:
    """Want the report of tests that ran on this very model and commit, and passed."""
    limit, path = "a report on this very version, 0 failed", folder / TESTS
    if not path.is_file() or sha256(path) != manifest.tests:
        return _refused("tests", "no report", limit, f"{TESTS} is not the report that was released with it")
    report = json.loads(path.read_bytes())
    for what, own in (("model", manifest.files.get(MODEL)), ("commit", manifest.commit)):
        if report.get(what) != own:
            told = f"the report is of {what} {str(report.get(what))[:12]}, not of its own ({str(own)[:12]})"
            return _refused("tests", f"another {what}", limit, told)
    figure = f"{report['passed']} passed, {report['failed']} failed"
    if report["failed"] or not report["passed"]:
        return _refused("tests", figure, limit, f"{figure}; 0 may fail and at least 1 must pass")
    return Result("tests", True, figure, limit, "")


def committed(commit: str, dirty: bool) -> Result:
    """Want a run from files that a commit holds."""
    limit = "every file committed"
    if dirty:
        told = f"it was trained from changes that commit {commit[:12]} does not hold; commit them, then `make train`"
        return _refused("committed", "changed files", limit, told)
    return Result("committed", True, f"commit {commit[:12]}", limit, "")


def signed(entries: Sequence[Entry], digest: str) -> Result:
    """Want digest and signature in the ledger, by a key that is trusted here."""
    limit = "a trusted signature in the ledger"
    try:
        refuse_unreleased(entries, digest)
    except ProjectError as error:
        return _refused("signed", "none", limit, f"{error}")
    return Result("signed", True, "signed", limit, "")


def order(entries: Sequence[Entry], digest: str, environment: str) -> Result:
    """Want the same digest to have entered the environment before, and not to have been rolled back there."""
    before = BEFORE[environment]
    if before is None:
        return Result("order", True, "the first", "dev, staging, prod", "")
    if not stands(entries, digest, before):
        told = f"{digest[:12]} has not been in {before}, or was rolled back there; {environment} comes after {before}"
        return _refused("order", f"not in {before}", f"first in {before}", told)
    return Result("order", True, f"was in {before}", f"first in {before}", "")


def contract(new: Contract, live: Contract, allowed: Collection[str] = ()) -> Result:
    """Want every request that is answered today to be answered still, in the same terms."""
    found = [told for name, told in breaking(new, live) if name not in allowed]
    limit, more = "no change that breaks a client", f" and {len(found) - SHOWN} more" if found[SHOWN:] else ""
    if found:
        advice = "if every client is ready, name it under `breaking` in config/policy.yaml"
        told = f"{len(found)} breaking changes, 0 are allowed: {'; '.join(found[:SHOWN])}{more}; {advice}"
        return _refused("contract", f"{len(found)} breaking", limit, told)
    return Result("contract", True, "0 breaking", limit, "")


def approvals(
    entries: Sequence[Entry], digest: str, environment: str, wanted: int, trainers: Collection[str]
) -> Result:
    """Want this version not refused here, but approved of by so many people, those who made it not counted."""
    limit = f"{wanted} people, none of whom made it"
    if told := refusal(entries, digest, environment):
        return _refused("person", "refused", "refused by nobody", told)
    count = ledger.approvals(entries, digest, environment, trainers)
    if count < wanted:
        own = " (whoever made it does not count)" if approvers(entries, digest, environment) else ""
        told = f"{count} of {wanted} people have approved of it for {environment}{own}: `make approve` says so"
        return _refused("approvals", f"{count}", limit, told)
    return Result("approvals", True, f"{count}", limit if wanted else "none wanted", "")


def quality(trial: Trial, policy: Policy) -> Result:
    """Want the model to be surely no worse than the limit, or surely better than answering every row alike."""
    facts, drawn, limit = METRICS[trial.model.metric], trial.draws(), policy.quality.limit
    reached = drawn["constant"] if limit is None else np.full_like(drawn["candidate"], limit)
    figure = facts.write(sure(drawn["candidate"], policy.confidence), trial.unit)
    wanted = facts.write(sure(reached, policy.confidence), trial.unit, span=False)
    wanted = f"{'above' if facts.higher else 'below'} {wanted}{' of a constant answer' if limit is None else ''}"
    low = sure(facts.gain(drawn["candidate"], reached), policy.confidence).low
    if low > 0 or (limit is not None and low == 0):
        return Result("quality", True, figure, wanted, "")
    told = f"{facts.label} on {len(trial.target)} test rows is {figure}; surely {wanted} is wanted"
    return _refused("quality", figure, wanted, told)


def against(trial: Trial, policy: Policy) -> Result:
    """Want the model to be surely no worse than the champion, but for a share of the champion's lead."""
    if trial.champion is None:
        return Result("champion", True, "not comparable", "the same inputs and answers", "")
    drawn, label = trial.draws(trial.fair), METRICS[trial.model.metric].label
    figure, limit = _gain(drawn, trial, policy.quality.margin, policy.confidence)
    if sure(spare(drawn, trial.model, policy.quality.margin), policy.confidence).low >= 0:
        return Result("champion", True, figure, limit, "")
    told = f"on {int(trial.fair.sum())} of {len(trial.fair)} test rows {label} {figure} over the champion"
    return _refused("champion", figure, limit, f"{told}; surely {limit} is wanted")


def slices(trial: Trial, data: Data, policy: Policy) -> Result:
    """Want no slice of `slices` in config/data.yaml to be surely worse than its margin allows (Bonferroni)."""
    parts = list(_parts(trial, data, policy.slices.rows))
    limit, found = "no slice surely worse", []
    confidence = 1 - (1 - policy.confidence) / max(1, len(parts))
    for name, rows in parts:
        drawn = trial.draws(rows)
        if trial.champion is None:
            facts = METRICS[trial.model.metric]
            value = sure(facts.gain(drawn["candidate"], drawn["constant"]), confidence)
            told = f"gains {facts.gains.write(value, trial.unit)} over a constant answer, at least 0 is wanted"
        else:
            value = sure(spare(drawn, trial.model, policy.slices.margin), confidence)
            told = " over the champion, ".join(_gain(drawn, trial, policy.slices.margin, confidence))
        if value.high < 0:
            found.append(f"{name} ({int(rows.sum())} rows) {told}")
    if found:
        return _refused("slices", f"{len(found)} of {len(parts)} worse", limit, "; ".join(found))
    return Result("slices", True, f"0 of {len(parts)} worse", limit, "")


def parity(
    candidate: Bundle, columns: Columns, logged: Sequence[Logged], redone: Iterable[tuple[int, int]], policy: Policy
) -> Result:
    """Want logged rows to be answered again as they were, and features that do not depend on the other rows.

    `redone` are the counts of `again`, one for each part of the log.
    """
    limit, rows = f"0 rows off by more than {policy.parity.tolerance:g}", sum(len(one.inputs) for one in logged)
    off = [
        f"{count} of {rows} logged rows have other {what} when computed again"
        for counts in redone
        for what, count in zip(("features", "answers"), counts, strict=True)
        if count
    ]
    signature = candidate.scorer.signature
    parts = [from_records(one.inputs, signature.inputs, signature.csv) for one in suiting(logged, candidate)]
    for part in (columns, *parts):
        inputs = {column.name: part[column.name] for column in signature.inputs}
        try:
            refuse_dependent(candidate.features(inputs), inputs, candidate.features, ALONE)
        except ProjectError as error:
            off.append(f"{error}")
    if off:
        return _refused("parity", f"{len(off)} differences", limit, f"{'; '.join(off)}; {limit} is wanted")
    return Result("parity", True, f"{rows} logged rows as before", limit, "")


def latency(taken: Load, budget: Budget) -> Result:
    """Want one-row requests to be answered in time."""
    figure = f"median {taken.median_ms:.1f} ms, p99 {taken.p99_ms:.1f} ms"
    limit = f"median {budget.median_ms:g} ms, p99 {budget.p99_ms:g} ms"
    if taken.median_ms <= budget.median_ms and taken.p99_ms <= budget.p99_ms:
        return Result("latency", True, figure, limit, "")
    return _refused("latency", figure, limit, f"one-row requests to the service took {figure}; {limit} are allowed")


def memory(taken: Load, budget: Budget) -> Result:
    """Want the service to stay within its memory."""
    figure, limit = f"{taken.memory_mb:.0f} MB", f"{budget.memory_mb:g} MB"
    if taken.memory_mb <= budget.memory_mb:
        return Result("memory", True, figure, limit, "")
    return _refused("memory", figure, limit, f"the service holds {figure} with this model; {limit} are allowed")


def _refused(rule: str, figure: str, limit: str, sentence: str) -> Result:
    return Result(rule, False, figure, limit, sentence)


def _gain(drawn: Mapping[str, Floats], trial: Trial, margin: float, confidence: float) -> tuple[str, str]:
    """Say what a candidate gains over the champion, and how little would do."""
    facts = METRICS[trial.model.metric]
    gain = sure(facts.gain(drawn["candidate"], drawn["champion"]), confidence)
    lead = sure(facts.gain(drawn["champion"], drawn["constant"]), confidence)
    allowed = facts.gains.write(replace(lead, value=-margin * lead.value), trial.unit, span=False)
    return f"gains {facts.gains.write(gain, trial.unit)}", f"at least {allowed} ({100 * abs(margin):g} % of the lead)"


def _parts(trial: Trial, data: Data, fewest: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the slices with enough rows, by name; with a champion, of the rows that it did not learn from."""
    for column in data.slices:
        if column not in trial.columns:
            raise ProjectError(f"config/data.yaml, slices: the test rows have no column '{column}'; train again")
        values = trial.columns[column]
        distinct, place = np.unique(values, return_inverse=True)
        for position, value in enumerate(distinct):
            rows = (place == position) & trial.fair
            if rows.sum() >= fewest:
                yield f"{column} {in_words(value, data.columns[column].type)}", rows
