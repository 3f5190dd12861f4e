"""Champion and challenger: who is answered by which, and the one decision, which is rarely wrong and often right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flight_delays.ops.config import UnfinishedError
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.release import deploy, experiment
from flight_delays.ops.release import ledger as history
from flight_delays.ops.release.bundle import Manifest
from flight_delays.ops.release.contract import Output
from flight_delays.ops.release.experiment import (
    Draw,
    Known,
    Verdict,
    assigned,
    decide,
    losses,
    paired,
    start,
    variant,
)
from flight_delays.ops.release.policy import Policy

REPEATS, LEVEL, WRONG = 200, 0.025, 10
"""At most so many wrong promotions in so many repeats: the issue's bound for this level."""
CLASSES = Output(target="y", type="boolean", classes=[False, True])


# --- Assignment ---


def test_an_assignment_sticks_across_processes() -> None:
    names = [f"user {number}" for number in range(300)]
    code = (
        f"from flight_delays.ops.release.experiment import variant\nfor name in {names}: print(variant(name, 'e', 0.3))"
    )
    here = "".join(f"{variant(name, 'e', 0.3)}\n" for name in names)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout == here


def test_shares_are_met_and_experiments_draw_anew() -> None:
    drawn = {e: np.array([variant(f"{n}", e, 0.1) for n in range(20_000)]) for e in ("one", "two")}
    for chosen in drawn.values():
        assert abs(chosen.mean() - 0.1) < 0.01
    assert abs((drawn["one"] & drawn["two"]).mean() - 0.01) < 0.005, "two experiments are independent"
    wider = np.array([variant(f"{n}", "one", 0.2) for n in range(20_000)])
    assert not (drawn["one"] & ~wider).any(), "a larger share keeps those who have the challenger"
    assert all(variant(name, "e", 1.0) for name in ("", "\ud800", "é"))


# --- The rule ---


def met(seed: int, entities: int, each: int, share: float, better: float, together: float) -> Verdict:
    """Judge one simulated experiment: losses of entities whose rows are alike, assigned as the service does it."""
    draw, name = np.random.default_rng(seed), f"simulated {seed}"
    who = np.array([variant(f"{number}", name, share) for number in range(entities)])
    of = np.repeat(np.arange(entities), draw.integers(1, 2 * each, entities))
    loss = (1 - together) * draw.gamma(1, 1, len(of)) + together * draw.gamma(1, 1, entities)[of]
    keys = [f"{number}" for number in of]
    return assigned(loss - better * who[of], keys, who[of], Draw(name, share, LEVEL))


def beside(seed: int, better: float) -> Verdict:
    """Judge one simulated shadow experiment."""
    draw = np.random.default_rng(seed)
    both, keys = draw.gamma(1, 1, 1000), [f"{number // 4}" for number in range(1000)]
    champion, challenger = (both + draw.normal(0, 0.3, 250).repeat(4) for _ in range(2))
    return paired(champion, challenger - better, keys, Draw(f"simulated {seed}", 1.0, LEVEL))


EQUAL: dict[str, Callable[[int], Verdict]] = {
    "rows alone": partial(met, entities=300, each=1, share=0.1, better=0, together=0),
    "rows of one entity are alike": partial(met, entities=150, each=10, share=0.3, better=0, together=0.9),
    "few entities": partial(met, entities=40, each=20, share=0.3, better=0, together=0.5),
    "shadow": partial(beside, better=0),
}


@pytest.mark.parametrize("name", EQUAL)
def test_of_two_equals_none_is_promoted(name: str) -> None:
    """The A/A test, 200 times."""
    assert sum(EQUAL[name](seed).p <= LEVEL for seed in range(REPEATS)) <= WRONG


def test_comparing_rows_would_be_wrong() -> None:
    """The control of the A/A test: where rows of one entity are alike, taking each for itself promotes too often."""

    def naive(seed: int) -> float:
        draw, name = np.random.default_rng(seed), f"simulated {seed}"
        who = np.array([variant(f"{number}", name, 0.3) for number in range(50)]).repeat(10)
        loss = draw.gamma(1, 1, 50).repeat(10)
        return assigned(loss, [f"{row}" for row in range(500)], who, Draw(name, 0.3, LEVEL)).p

    assert sum(naive(seed) <= LEVEL for seed in range(50)) > WRONG


def test_a_better_one_is_promoted_and_a_worse_one_is_not() -> None:
    better = [met(seed, 500, 2, 0.3, 0.25, 0.3).p for seed in range(50)]
    assert sum(p <= LEVEL for p in better) >= 40
    worse = [met(seed, 500, 2, 0.3, -0.25, 0.3).p for seed in range(50)]
    assert min(worse) > 0.5
    assert sum(beside(seed, 0.1).p <= LEVEL for seed in range(50)) >= 45


def test_the_same_log_gives_the_same_decision() -> None:
    assert met(7, 100, 3, 0.2, 0.1, 0.5) == met(7, 100, 3, 0.2, 0.1, 0.5)


def test_what_cannot_be_told_apart_is_no_better() -> None:
    draw, who = Draw("e", 0.5, LEVEL), np.array([True, False] * 10)
    keys = [f"{number}" for number in range(20)]
    assert assigned(np.ones(20), keys, who, draw).p == 1.0
    assert paired(np.ones(20), np.ones(20), keys, draw).p == 1.0
    assert assigned(np.where(who, 0.0, 1.0), ["a", "b"] * 10, who, draw).p > LEVEL, "two entities prove nothing"


def test_losses() -> None:
    given, truths = [[0.9, 0.1], [0.4, 0.6], [1.0, 0.0]], ["true", "true", "true"]
    assert losses("accuracy", CLASSES, truths, given).tolist() == [1, 0, 1]
    log_loss = losses("roc_auc", CLASSES, truths, given)
    assert np.allclose(log_loss[:2], -np.log([0.1, 0.6]))
    assert np.isfinite(log_loss).all()
    assert losses("log_loss", CLASSES, ["other"], [[0.9, 0.1]])[0] > 10, "a class that the model does not know"
    value = Output(target="y", type="number")
    assert losses("mae", value, ["1.5", "2"], [[1.0], [4.0]]).tolist() == [0.5, 2.0]
    assert losses("rmse", value, ["1.5", "2"], [[1.0], [4.0]]).tolist() == [0.25, 4.0]


# --- From start to decision ---


class Store:
    """A store that keeps the ledger in a list."""

    def __init__(self, folder: Path) -> None:
        """Put two versions in, and let prod use the first."""
        self.lines: list[Any] = []
        self.place = folder
        for version, digest in ((1, "a"), (2, "b")):
            (folder / digest).mkdir()
            page = {"name": "n", "owner": "o", "decision": "d", "inputs": {"size": {"type": "number"}}}
            content = yaml.safe_dump(page | {"output": CLASSES.model_dump()})
            (folder / digest / "contract.yaml").write_text(content, encoding="utf-8")
            self.add("bundle", version=version, digest=digest)
        self.move("deploy", "prod", "a", None, version=1)

    def add(self, kind: str, **facts: Any) -> None:
        """Add a line."""
        now, number = datetime.now(UTC).isoformat(timespec="milliseconds"), len(self.lines) + 1
        self.lines.append(history.Entry(number, now, "ann", kind, facts, "", f"hash {number}"))

    def entries(self) -> list[Any]:
        """Return all lines."""
        return self.lines

    def move(self, kind: str, environment: str, digest: str, noted: Any, **facts: Any) -> Any:
        """Add a line that moves an environment from where it was noted to be."""
        assert noted == self.settle(environment)
        self.add(kind, environment=environment, digest=digest, **facts)
        return self.settle(environment)

    def settle(self, environment: str) -> Any:
        """Return what the last move says."""
        moves = [e for e in self.lines if e.kind in history.MOVES and e.facts["environment"] == environment]
        return history.Pointer.of(moves[-1]) if moves else None

    def folder(self, digest: str) -> Path:
        """Return where a bundle is."""
        return self.place / digest


POLICY = Policy.model_validate({"experiment": {"rows": 100, "share": 0.5}})


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path)
    monkeypatch.setattr(experiment, "opened", lambda _: made)
    monkeypatch.setattr(experiment, "verified", lambda folder, _: replace(VERIFIED, version=" ab".index(folder.name)))
    monkeypatch.setattr(deploy, "judged", lambda *_: None)
    monkeypatch.setattr(deploy, "follow", lambda *_: None)
    return made


VERIFIED = Manifest("n", 0, "r", "c", False, "d", "l", {}, "p", "f", "t", {})


def begin(ledger: Store, shadow: bool = False, **more: str) -> Any:
    start(POLICY, more.get("version", "2"), more.get("environment", ""), more.get("share", ""), shadow, no_rows, print)
    return ledger.settle("prod")


def no_rows(*_: Any) -> list[Any]:
    return []


def answers(pointer: Any, rows: int, gain: float, failed: int = 0) -> Callable[..., Known]:
    """Return what both answered: right answers get a probability of 0.5, and the challenger's `gain` more."""

    def compared(models: tuple[str, str], since: float, shadow: bool) -> Known:
        assert (models, shadow) == (("a", "b"), pointer.shadow)
        assert abs(since - datetime.now(UTC).timestamp()) < 60
        keys: list[Any] = [f"user {number}" for number in range(rows)]
        who = np.array([variant(key, pointer.experiment, pointer.share) for key in keys], dtype=bool)
        who[:failed] = False
        ids = [f"{key}-1" for key in keys]
        if shadow:
            who, keys, ids = np.repeat([False, True], rows), keys * 2, ids * 2
        draw = np.random.default_rng(0).uniform(-0.1, 0.1, len(ids))
        share = 0.5 + gain * who + draw
        return Known(ids, keys, who, ["true"] * len(ids), np.stack([1 - share, share], axis=1).tolist())

    return compared


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize(("gain", "outcome", "champion"), [(0.2, "promote", "b"), (0.0, "keep", "a")])
def test_an_experiment_ends_with_one_decision(
    ledger: Store, shadow: bool, gain: float, outcome: str, champion: str
) -> None:
    pointer = begin(ledger, shadow)
    assert (pointer.champion, pointer.challenger, pointer.shadow) == ("a", "b", shadow)
    assert pointer.share == (1.0 if shadow else 0.5)
    said: list[str] = []
    for rows in (0, 10, 99):
        decide(POLICY, "prod", "", answers(pointer, rows, gain), said.append)
        assert said[-1].startswith(f"{rows} of 100 answers")
    with pytest.raises(UnfinishedError, match="99 of 100 answers in prod have a known truth"):
        decide(POLICY, "prod", "yes", answers(pointer, 99, gain), said.append)
    decide(POLICY, "prod", "", answers(pointer, 150, gain), said.append)
    assert "DECIDE=yes" in said[-1]
    assert ledger.settle("prod") == pointer, "looking decides nothing"
    assert not any("loss" in line or "p =" in line for line in said), "nobody is told how either does"
    decide(POLICY, "prod", "yes", answers(pointer, 150, gain), said.append)
    entry, after = ledger.lines[-1], ledger.settle("prod")
    assert (entry.kind, entry.facts["outcome"], entry.facts["id"]) == ("decision", outcome, pointer.experiment)
    assert (after.champion, after.challenger, after.experiment) == (champion, None, None)
    assert entry.facts["figures"]["rows"] == 150
    assert said[-1].startswith(f"version {' ab'.index(champion)}")
    with pytest.raises(ProjectError, match="no experiment is under way in prod"):
        decide(POLICY, "prod", "yes", answers(pointer, 150, gain), said.append)


def test_an_experiment_can_be_stopped_at_any_time(ledger: Store) -> None:
    pointer = begin(ledger)
    said: list[str] = []
    decide(POLICY, "prod", "stop", answers(pointer, 3, 0.0), said.append)
    assert (ledger.settle("prod").champion, ledger.settle("prod").experiment) == ("a", None)
    assert (ledger.lines[-1].kind, ledger.lines[-1].facts["outcome"]) == ("decision", "stop")


def test_the_rule_is_that_of_the_start(ledger: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = begin(ledger)
    softer = Policy.model_validate({"experiment": {"rows": 100, "level": 0.4}})
    monkeypatch.setitem(ledger.lines[-1].facts, "rows", 200)
    with pytest.raises(UnfinishedError, match="150 of 200"):
        decide(softer, "prod", "yes", answers(pointer, 150, 0.2), print)


def test_answers_count_for_whom_their_entity_was_assigned_to(ledger: Store) -> None:
    """A challenger that fails is answered for by the champion: those rows count for it, whatever they say."""
    pointer = begin(ledger)
    decide(POLICY, "", "yes", answers(pointer, 400, 0.3, failed=400), print)
    figures = ledger.lines[-1].facts["figures"]
    assert (figures["entities"], ledger.lines[-1].facts["outcome"]) == (400, "keep")
    assert abs(figures["champion"] - figures["challenger"]) < 0.05


def test_requests_without_an_entity_are_drawn_one_by_one(ledger: Store) -> None:
    pointer = begin(ledger)

    def compared(*asked: Any) -> Known:
        return replace(answers(pointer, 300, 0.3)(*asked), entities=[None] * 300)

    decide(POLICY, "", "yes", compared, print)
    assert (ledger.lines[-1].facts["outcome"], ledger.lines[-1].facts["figures"]["entities"]) == ("promote", 300)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"version": "3"}, ("VERSION is '3'", "released: 1, 2")),
        ({"version": "1"}, ("version 1 is the champion in prod",)),
        ({"share": "1.5"}, ("SHARE is '1.5'", "between 0 and 1")),
        ({"share": "half"}, ("SHARE is 'half'",)),
        ({"environment": "dev"}, ("nothing is in dev yet",)),
    ],
)
def test_what_is_no_experiment_is_not_started(ledger: Store, given: dict[str, str], names: tuple[str, ...]) -> None:
    before = list(ledger.lines)
    with pytest.raises(ProjectError) as refused:
        begin(ledger, **given)
    assert [name for name in names if name not in str(refused.value)] == []
    assert ledger.lines == before


def test_one_experiment_at_a_time(ledger: Store) -> None:
    begin(ledger)
    with pytest.raises(ProjectError, match="an experiment runs in prod"):
        begin(ledger)
