"""What can go wrong in production, planted in rows that are sent to a service: each fault is a pure function.

The same seed plants the same, so that what watches the service can be seen to notice each fault, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..contract import Array, Columns, ProjectError
from ..process import missing
from ..scorer import Signature
from ..serve.app import class_names

SHARE, SIGMAS, FACTOR = 0.3, 1.0, 100
"""Share of values that go missing, standard deviations of a shift, factor of a unit that is another one."""
POISONED = 0.2
"""Share of truths that are told wrong."""
LEAP = 2.0
"""Standard deviations by which values of the target leap where what they depend on is turned round."""
LANES = 8
"""Connections of a spike."""


@dataclass(frozen=True)
class Traffic:
    """Rows to send, in their order."""

    columns: Columns
    """The inputs, each of shape (rows,)."""
    truth: NDArray[Any]
    """What becomes of each: the place of the true class, or the true value. Shape (rows,)."""
    told: NDArray[Any]
    """What the service is told of it."""
    planted: str = "nothing is planted"
    late: bool = False
    """Whether the truth is told when everything was sent, not soon after each answer."""
    lanes: int = 1
    """Connections."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.truth)

    def take(self, rows: NDArray[np.int64]) -> Traffic:
        """Return some of the rows, in that order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, truth=self.truth[rows], told=self.told[rows])


@dataclass(frozen=True)
class World:
    """What a fault is planted in."""

    rows: Traffic
    """All rows that there are; those to send are drawn from them."""
    signature: Signature
    seen: frozenset[str]
    """Inputs that the model's features depend on."""

    @property
    def numbers(self) -> list[str]:
        """The inputs that are numbers of several values: first what the model sees, and what is seldom missing."""
        of_kind = {one.name for one in self.signature.inputs if one.type in ("number", "integer")}
        known = {name: self.rows.columns[name] for name in self.rows.columns if name in of_kind}
        several = [name for name, values in known.items() if len(np.unique(values[~np.isnan(values)])) > 1]
        return sorted(several, key=lambda name: (name not in self.seen, round(float(np.isnan(known[name]).mean()), 1)))

    def number(self, fault: str) -> str:
        """Return the first of them; raises ProjectError where there is none."""
        if not self.numbers:
            raise ProjectError(f"FAULT={fault} needs an input that is a number, and the model takes none")
        return self.numbers[0]


Rng: TypeAlias = np.random.Generator
Fault: TypeAlias = Callable[[Traffic, World, Rng], Traffic]
"""Plants a fault in the rows that were drawn to be sent."""


def none(drawn: Traffic, _: World, __: Rng) -> Traffic:
    """Leave the rows as they are."""
    return drawn


def covariate(drawn: Traffic, world: World, _: Rng) -> Traffic:
    """Shift a number among the inputs; what becomes of a row stays."""
    name = world.number("covariate")
    by = SIGMAS * float(np.nanstd(world.rows.columns[name]))
    by = max(round(by), 1) if _kind(world, name) == "integer" else by
    return _changed(drawn, name, drawn.columns[name] + by, f"{name} is larger by {by:.4g}")


def label(drawn: Traffic, world: World, rng: Rng) -> Traffic:
    """Draw other rows: half of those that are not of the rarest class, or in the upper half, are drawn among these."""
    truth = world.rows.truth
    if world.signature.classes:
        rarest = int(np.argmin(np.bincount(truth, minlength=len(world.signature.classes))))
        group, name = truth == rarest, f"{world.signature.target} {class_names(world.signature)[rarest]}"
    else:
        middle = float(np.median(truth))
        group, name = truth > middle, f"{world.signature.target} above {middle:.4g}"
    if not group.any() or group.all():
        raise ProjectError(f"FAULT=label needs rows of two kinds, and {world.signature.target} is the same in all")
    share = (1 + float(group.mean())) / 2
    inside, outside = (rng.choice(np.flatnonzero(part), len(drawn)) for part in (group, ~group))
    rows = np.where(rng.random(len(drawn)) < share, inside, outside)
    return replace(world.rows.take(rows), planted=f"{share:.0%} of the rows, not {group.mean():.0%}, have {name}")


def concept(drawn: Traffic, world: World, _: Rng) -> Traffic:
    """Turn what becomes of a row round where one input is high: another class, or the opposite value and a leap."""
    name, is_high, where = _parted(world)
    rows, truth = is_high(drawn.columns[name]), drawn.truth.copy()
    if world.signature.classes:
        truth[rows] = (truth[rows] + 1) % len(world.signature.classes)
        told = "the answer is another one"
    else:
        order, values = np.argsort(truth[rows], kind="stable"), world.rows.truth
        turned = np.empty(len(order))
        turned[order] = truth[rows][order][::-1]
        leapt = np.minimum(turned + LEAP * values.std(), values.max())
        truth[rows] = np.round(leapt) if (values == np.round(values)).all() else leapt
        told = f"the value is turned round and larger by {LEAP * values.std():.4g}"
    return replace(drawn, truth=truth, told=truth, planted=f"where {where}, {told}")


def unit(drawn: Traffic, world: World, _: Rng) -> Traffic:
    """Send one number in another unit."""
    name = world.number("unit")
    return _changed(drawn, name, drawn.columns[name] * FACTOR, f"{name} is {FACTOR} times as large")


def nulls(drawn: Traffic, world: World, rng: Rng) -> Traffic:
    """Leave values of a column out, of one that may be missing if there is one; else the service refuses the rows."""
    allowed = [one.name for one in world.signature.inputs if one.nulls]
    every = allowed or [one.name for one in world.signature.inputs]
    name = next((name for name in (*world.numbers, *every) if name in every), every[0])
    values = drawn.columns[name].copy()
    values[rng.random(len(drawn)) < SHARE] = {"M": np.datetime64("NaT"), "O": ""}.get(values.dtype.kind, np.nan)
    refused = "" if allowed else ", which no column may be: such rows should be refused"
    return _changed(drawn, name, values, f"{SHARE:.0%} of {name} are missing{refused}")


def late(drawn: Traffic, _: World, __: Rng) -> Traffic:
    """Tell the truth when everything was answered."""
    return replace(drawn, late=True, planted="the truth comes late")


def poison(drawn: Traffic, world: World, rng: Rng) -> Traffic:
    """Tell another truth than there is."""
    wrong, told = rng.random(len(drawn)) < POISONED, drawn.told.copy()
    if classes := len(world.signature.classes):
        told[wrong] = (told[wrong] + rng.integers(1, classes, int(wrong.sum()))) % classes
    else:
        told[wrong] = world.rows.truth.max() + world.rows.truth.min() - told[wrong]
    return replace(drawn, told=told, planted=f"{POISONED:.0%} of the truths are told wrong")


def spike(drawn: Traffic, _: World, __: Rng) -> Traffic:
    """Send everything at once."""
    return replace(drawn, lanes=LANES, planted=f"rows come one by one over {LANES} connections, as fast as they can")


def dead(drawn: Traffic, _: World, __: Rng) -> Traffic:
    """Stop halfway."""
    half = (len(drawn) + 1) // 2
    return replace(drawn.take(np.arange(half)), planted=f"nothing comes any more after {half} of {len(drawn)} rows")


FAULTS: dict[str, Fault] = {
    made.__name__: made for made in (none, covariate, label, concept, unit, nulls, late, poison, spike, dead)
}


def planted(fault: str, rows: int, world: World, seed: int) -> Traffic:
    """Draw rows, each once as long as there are enough, and plant a fault in them."""
    rng = np.random.default_rng(seed)
    drawn = world.rows.take(np.resize(rng.permutation(len(world.rows)), rows))
    return FAULTS[fault](drawn, world, rng)


def _kind(world: World, name: str) -> str:
    return next(one.type for one in world.signature.inputs if one.name == name)


def _changed(drawn: Traffic, name: str, values: Array, told: str) -> Traffic:
    return replace(drawn, columns={**drawn.columns, name: values}, planted=told)


def _parted(world: World) -> tuple[str, Callable[[Array], NDArray[np.bool_]], str]:
    """Return the input by which rows fall into halves most evenly, how to tell its high values, and this in words."""
    numbers, parts = world.numbers, []
    for name in numbers or [one.name for one in world.signature.inputs]:
        values = world.rows.columns[name]
        distinct, counts = np.unique(values[~missing(values)], return_counts=True)
        if len(distinct) > 1:
            off = np.abs(counts.cumsum() / counts.sum() - 0.5)[:-1]
            parts.append((name not in world.seen, round(float(off.min()), 1), name, distinct[int(off.argmin())]))
    if not parts:
        raise ProjectError("FAULT=concept needs an input that is not the same in all rows")
    *_, name, middle = min(parts, key=lambda part: part[:2])
    return name, partial(np.less, middle), f"{name} is above {middle:.6g}" if numbers else f"{name} is above {middle}"
