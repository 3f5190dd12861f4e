"""Champion against challenger: who is answered by which, and one decision on logged truth, made once.

The rule is fixed before the first answer and stands in the ledger: at so many answers with known truth, one one-sided
test; nothing is told of how either does before. Answers to one entity are alike, so entities are compared, not rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import Model, UnfinishedError, load, parse
from ..contract import ProjectError
from .bundle import CONTRACT, verified
from .contract import Contract, Output
from .ledger import Pointer
from .policy import Policy
from .store import Store, opened

if TYPE_CHECKING:
    from .gates import Ask

Floats: TypeAlias = NDArray[np.float64]
Say: TypeAlias = Callable[[str], None]
DRAWS = 1_999
BEYOND = 20  # draws that lie beyond the limit, at least: a small level takes more of them
BLOCK = 2_000_000  # drawn numbers that are held in memory at a time
FEWEST = 2  # entities of either model without which nothing can be compared
LEAST = float(np.finfo(np.float32).eps)  # smallest probability, as the report clips them too
WORDS = {"accuracy": "share of wrong answers", "mae": "mean error", "rmse": "squared error", "r2": "squared error"}
"""What is compared, by the metric of config/model.yaml; log loss for the others."""


@dataclass(frozen=True)
class Known:
    """Answers whose truth is known; in shadow mode two for each id."""

    ids: list[str]
    entities: list[str | None]
    """None where nobody said who asks, and nothing was drawn."""
    is_challenger: NDArray[np.bool_]
    """Who answered."""
    truths: list[str]
    given: list[list[float]]
    """Probabilities of the classes, or the one value."""

    @property
    def keys(self) -> list[str]:
        """What was assigned: the entity, or else the request."""
        return [
            one if one is not None else of.rpartition("-")[0] for of, one in zip(self.ids, self.entities, strict=True)
        ]


Compared: TypeAlias = Callable[[tuple[str, str], float, bool], Known]
"""Gives what two bundles answered since a time (s since 1970), by their digests; the last: the second one in shadow."""


@dataclass(frozen=True)
class Verdict:
    """What the test found."""

    rows: int
    entities: int
    champion: float  # mean loss of a row
    challenger: float
    p: float  # share of the assignments that would favour the challenger as much if the two were equally good


def start(policy: Policy, version: str, environment: str, share: str, shadow: bool, logged: Ask, say: Say) -> None:
    """Let a challenger that passes the gates of an environment meet its champion there.

    An empty environment stands for prod, an empty share for that of config/policy.yaml. The ledger gets the rule of the
    decision. Raises ProjectError where there is no champion, or an experiment is under way.
    """
    from .deploy import judged, refuse_experiment

    where, store = environment or "prod", opened(policy)
    noted, entries = store.settle(where), store.entries()
    refuse_experiment(where, noted)
    known = {f"{e.facts['version']}": str(e.facts["digest"]) for e in entries if e.kind == "bundle"}
    if noted is None:
        raise ProjectError(f"nothing is in {where} yet, so no champion: make deploy VERSION={version} ENV={where}")
    if version not in known:
        raise ProjectError(
            f"VERSION is '{version}': was never released; `make deploy` does so (released: {', '.join(known)})"
        )
    if known[version] == noted.champion:
        raise ProjectError(
            f"version {version} is the champion in {where} already: choose another one as its challenger"
        )
    part, rule = _share(share, shadow, policy.experiment.share), policy.experiment
    judged(policy, store, known[version], where, logged, say)
    name = f"{datetime.now(UTC):%Y%m%d}-{token_hex(4)}"
    pointer = {"challenger": known[version], "share": part, "shadow": shadow, "experiment": name}
    fixed = {"rows": rule.rows, "level": rule.level, "metric": load(Model).metric}
    store.move("experiment", where, noted.champion, noted, version=int(version), **pointer, **fixed)
    does = "answers beside the champion, and nobody sees it" if shadow else f"answers {part:.0%} of the entities"
    say(f"version {version} {does} in {where}; the decision is made once, at {rule.rows} answers with known truth")


def decide(policy: Policy, environment: str, settle: str, compared: Compared, say: Say) -> None:
    """Say how far an environment's experiment is; with "yes" decide it by its rule, with "stop" end it undecided.

    The challenger becomes the champion if the test finds it better, else the champion stays. Raises ProjectError where
    there is no experiment, UnfinishedError where too few truths are known to decide.
    """
    where, store = environment or "prod", opened(policy)
    noted = store.settle(where)
    if noted is None or noted.challenger is None or noted.experiment is None:
        raise ProjectError(f"no experiment is under way in {where}; start one: make canary VERSION=4 ENV={where}")
    if settle == "stop":
        _end(store, where, noted, "stop", {}, say)
        return
    entry = next(entry for entry in store.entries() if entry.hash == noted.entry)
    models, rows, level = (noted.champion, noted.challenger), int(entry.facts["rows"]), float(entry.facts["level"])
    known = compared(models, datetime.fromisoformat(entry.time).timestamp(), noted.shadow)
    draw = Draw(noted.experiment, noted.share, level)
    mine, theirs = _split(known, draw, noted.shadow)
    count, keys = len(mine) if noted.shadow else len(mine) + len(theirs), known.keys
    met = [len({keys[i] for i in part}) for part in (mine, theirs)]
    if count < rows or min(met) < FEWEST:
        told = (
            f"{count} of {rows} answers in {where} have a known truth, to {met[0]} and {met[1]} entities; the decision "
        )
        told += f"is made once, when all have and both models have met {FEWEST} entities"
        if settle:
            raise UnfinishedError(told)
        say(told)
    elif not settle:
        say(f"{count} answers in {where} have a known truth, {rows} were wanted: make canary ENV={where} DECIDE=yes")
    else:
        outputs = [parse(Contract, store.folder(digest) / CONTRACT).output for digest in models]
        metric = str(entry.facts["metric"])
        verdict = _judged(outputs, metric, known, (mine, theirs), draw, noted.shadow)
        loss, (mean, other) = WORDS.get(metric, "log loss"), (verdict.champion, verdict.challenger)
        say(f"{loss}: {mean:.4g} with the champion, {other:.4g} with the challenger")
        say(f"{verdict.rows} answers to {verdict.entities} entities: p = {verdict.p:.3g}, at most {level:g} promotes")
        _end(store, where, noted, "promote" if verdict.p <= level else "keep", asdict(verdict), say)


def _end(store: Store, where: str, noted: Pointer, outcome: str, figures: dict[str, Any], say: Say) -> None:
    """Move an environment out of its experiment, to a model that was not altered since."""
    from .deploy import follow

    winner = str(noted.challenger) if outcome == "promote" else noted.champion
    number = verified(store.folder(winner), winner).version
    facts = {"id": noted.experiment, "outcome": outcome, "figures": figures, "version": number}
    store.move("decision", where, winner, noted, previous=noted.champion, **facts)
    say(f"version {number} {'is promoted' if outcome == 'promote' else 'stays'} in {where}; the experiment is over")
    follow(store, say)


def variant(entity: str, experiment: str, share: float) -> bool:
    """Whether the challenger answers an entity in an experiment; the same on every machine and after every restart.

    `share` of all entities get the challenger, drawn anew for each experiment: the hash of both is a uniform number.
    """
    number = blake2b(f"{experiment}\0{entity}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(number) < share * 2**64


def losses(metric: str, output: Output, truths: Sequence[str], given: Sequence[Sequence[float]]) -> Floats:
    """Return how wrong each answer was, shape (rows,): the metric's own loss, or the proper one of its kind.

    ROC AUC ranks rows and R2 compares with a mean, so neither has a value for one row: log loss and the squared error
    stand for them (Gneiting and Raftery 2007).
    """
    answers = np.array(given, dtype=np.float64)
    if not output.classes:
        error = np.array(truths, dtype=np.float64) - answers[:, 0]
        return np.abs(error) if metric == "mae" else error**2
    places = {_word(name): place for place, name in enumerate(output.classes)}
    true = np.array([places.get(word, -1) for word in truths])
    if metric == "accuracy":
        return np.asarray(answers.argmax(axis=1) != true, dtype=np.float64)
    shares = np.where(true < 0, 0.0, answers[np.arange(len(true)), true])
    return np.asarray(-np.log(np.clip(shares, LEAST, 1)))


def assigned(loss: Floats, keys: Sequence[str], is_challenger: NDArray[np.bool_], draw: Draw) -> Verdict:
    """Compare what two groups of entities were answered: shares of an experiment with sticky assignment.

    Randomisation test with the difference of the mean losses over its standard error, clustered by entity: exact where
    the two are equally good for everybody, right in large samples where they are so on average (Chung and Romano 2013).
    """
    entities, place = np.unique(np.array(keys, dtype=object).astype(str), return_inverse=True)
    rows, sums = np.bincount(place).astype(float), np.bincount(place, loss - loss.mean())
    met = np.zeros(len(entities))
    met[place[is_challenger]] = 1
    parts = np.stack([np.ones(len(entities)), rows, sums, sums**2, sums * rows, rows**2])
    total = parts.sum(axis=1, keepdims=True)

    def favour(chosen: Floats) -> Floats:
        """Return the statistic for assignments of shape (entities, draws)."""
        theirs = parts @ chosen
        (mean, error), (other, wrong) = _mean(total - theirs), _mean(theirs)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean == other, 0.0, (mean - other) / np.sqrt(error + wrong))

    seen = favour(met[:, None])
    drawn = draw.of(len(entities), lambda numbers: favour((numbers < draw.share).astype(float)))
    ours, theirs = float(loss[~is_challenger].mean()), float(loss[is_challenger].mean())
    return Verdict(len(loss), len(entities), ours, theirs, _p(float(seen[0]), drawn))


def paired(champion: Floats, challenger: Floats, keys: Sequence[str], draw: Draw) -> Verdict:
    """Compare two answers to each row, as shadow mode gives them: which is whose is drawn anew for each entity."""
    entities, place = np.unique(np.array(keys, dtype=object).astype(str), return_inverse=True)
    gains = np.bincount(place, champion - challenger)
    drawn = draw.of(len(entities), lambda numbers: np.asarray(gains @ np.where(numbers < 0.5, 1.0, -1.0)))
    p = _p(float(gains.sum()), drawn)
    return Verdict(len(champion), len(entities), float(champion.mean()), float(challenger.mean()), p)


@dataclass(frozen=True)
class Draw:
    """Assignments drawn as the experiment drew its own; the seed is the experiment's, so that all repeats agree."""

    experiment: str
    share: float
    level: float

    def of(self, entities: int, statistic: Callable[[Floats], Floats]) -> Floats:
        """Return the statistic of many draws; it gets uniform numbers of shape (entities, draws)."""
        from threadpoolctl import threadpool_limits

        wanted = max(DRAWS, round(BEYOND / self.level) - 1)
        seed = int.from_bytes(sha256(self.experiment.encode()).digest()[:8])
        rng, block = np.random.default_rng(seed), max(1, BLOCK // entities)
        sizes = [min(block, wanted - start) for start in range(0, wanted, block)]
        with threadpool_limits(limits=1):  # a few sums are no work for many threads
            return np.concatenate([statistic(rng.random((entities, size))) for size in sizes])


def _mean(parts: Floats) -> tuple[Floats, Floats]:
    """Return the mean of each draw's rows and its squared standard error, from the sums that `assigned` makes."""
    entities, rows, sums, squares, mixed, sizes = parts
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / rows
        spread = squares - 2 * mean * mixed + mean**2 * sizes
        return mean, np.maximum(spread, 0) / rows**2 * entities / (entities - 1)


def _p(seen: float, drawn: Floats) -> float:
    """Share of the draws that are as large, the one that was seen among them; what cannot be computed counts."""
    if not np.isfinite(seen):
        return 1.0
    return float((1 + np.sum(~(drawn < seen - 1e-12 * abs(seen)))) / (1 + len(drawn)))


def _share(given: str, shadow: bool, usual: float) -> float:
    try:
        share = float(given or usual)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ProjectError(f"SHARE is '{given}': give a number between 0 and 1, such as 0.1")
    return 1.0 if shadow and not given else share


def _split(known: Known, draw: Draw, shadow: bool) -> tuple[list[int], list[int]]:
    """Return which answers count for the champion and which for the challenger.

    An entity counts for the model that it was assigned to, also where the champion had to step in: else a challenger
    that fails on hard rows would look good. In shadow mode both answers to the same rows count, in one order.
    """
    places, who = range(len(known.ids)), known.is_challenger
    if shadow:
        of = [{known.ids[i]: i for i in places if who[i] == wanted} for wanted in (False, True)]
        both = [key for key in of[0] if key in of[1]]
        return [of[0][key] for key in both], [of[1][key] for key in both]
    drawn = {key: variant(key, draw.experiment, draw.share) for key in set(known.entities) if key is not None}
    arms = [who[i] if key is None else drawn[key] for i, key in enumerate(known.entities)]
    return [i for i in places if not arms[i]], [i for i in places if arms[i]]


def _judged(
    outputs: Sequence[Output], metric: str, known: Known, rows: Sequence[list[int]], draw: Draw, shadow: bool
) -> Verdict:
    keys, loss = known.keys, np.zeros(len(known.ids))
    for output, who in zip(outputs, (False, True), strict=True):
        by = np.flatnonzero(known.is_challenger == who)
        if len(by):  # none where the champion stepped in everywhere
            loss[by] = losses(metric, output, [known.truths[i] for i in by], [known.given[i] for i in by])
    if shadow:
        return paired(loss[rows[0]], loss[rows[1]], [keys[i] for i in rows[0]], draw)
    compared, is_challenger = [*rows[0], *rows[1]], np.repeat([False, True], [len(rows[0]), len(rows[1])])
    return assigned(loss[compared], [keys[i] for i in compared], is_challenger, draw)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
