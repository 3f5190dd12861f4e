"""The drift rule by simulation: quiet where nothing drifts, sharp where one column does. Run by `test_inside.py`.

With THOROUGH in the environment the numbers of windows are those that the rule promises for; else a tenth of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pytest
from flight_delays.ops.contract import (
    Array,
    Columns,
)
from flight_delays.ops.monitor.cells import (
    Cells,
    Reference,
    Window,
    counted,
    counted_in,
    sentence,
    summarise,
)
from flight_delays.ops.monitor.drift import (
    FALSE_ALARMS,
    Verdict,
    judge,
    saddlepoint,
    weigh,
)
from numpy.random import Generator
from scipy.stats import binom, norm

THOROUGH = bool(os.environ.get("THOROUGH"))
WINDOWS, REPEATS, REFERENCES = (10_000, 5_000, 10) if THOROUGH else (500, 1_000, 2)
ALLOWED = 5 if THOROUGH else 1
COLUMNS, ROWS, SAMPLE = 30, 500, 100_000
LETTERS, SHARES = np.array([*"abcdefg"], dtype=object), [0.02, 0.08, 0.2, 0.3, 0.2, 0.1, 0.1]
NAMES = np.array([f"name {number}" for number in range(20_001)], dtype=object)
Draw = Callable[[Generator, int], Array]


def letters(shares: list[float]) -> Draw:
    """Draw letters with these shares, scaled to 1."""
    return lambda random, rows: random.choice(LETTERS, rows, p=np.array(shares) / sum(shares))


def holed(draw: Draw, share: float) -> Draw:
    """Draw numbers of which a share is missing."""
    return lambda random, rows: np.where(random.random(rows) < share, np.nan, draw(random, rows))


def normal(random: Generator, rows: int) -> Array:
    """Draw from the standard normal distribution."""
    return random.normal(size=rows)


def rain(random: Generator, rows: int) -> Array:
    """Draw zeros, and one number in fourteen."""
    return np.where(random.random(rows) < 13 / 14, 0, random.exponential(size=rows))


KINDS: dict[str, Draw] = {
    "normal": normal,
    "heavy tails": lambda random, rows: random.standard_t(2, rows),
    "skewed": lambda random, rows: random.lognormal(size=rows),
    "rain": rain,
    "counts": lambda random, rows: random.poisson(0.5, rows).astype(float),
    "rarely true": lambda random, rows: (random.random(rows) < 0.004).astype(float),
    "missing": holed(normal, 0.3),
    "categories": letters(SHARES),
    "many categories": lambda random, rows: NAMES[np.minimum(random.zipf(1.5, rows), 20_000)],
    "names": lambda random, rows: NAMES[random.integers(0, 3_000, rows)],
}


def made(values: Array) -> Cells:
    """Return the cells of one column."""
    return summarise({"x": values}).columns["x"]


def tally(cells: Cells, values: Array) -> Array:
    """Count windows of shape (windows, rows) at once; what `Cells.count` does with each."""
    if cells.kind == "text":
        return np.stack([cells.count(window) for window in values])
    many = len(cells.edges) + 2
    places = np.where(np.isnan(values), many - 1, np.searchsorted(np.array(cells.edges), values))
    places += np.arange(len(values))[:, None] * many
    return np.bincount(places.ravel(), minlength=many * len(values)).reshape(len(values), many)


def drifts(cells: Cells, before: Array, now: Array, columns: int = COLUMNS) -> Array:
    """Return which pairs of windows drift, where the column is one of so many."""
    found = [evidence.drifts for evidence in weigh(cells, before, now, FALSE_ALARMS / columns)]
    return np.any(found, axis=0)


def alarms(columns: list[Draw], windows: int, seed: int, sample: int) -> int:
    """Count the windows, in a row and drawn like the reference, of which one column is said to drift."""
    random, alarmed = np.random.default_rng(seed), np.zeros(windows, dtype=bool)
    for draw in columns:
        cells = made(draw(random, sample))
        counts = tally(cells, draw(random, windows * ROWS).reshape(windows, ROWS))
        alarmed[1:] |= drifts(cells, counts[:-1], counts[1:], len(columns))
    return int(alarmed.sum())


def caught(usual: Draw, other: Draw, repeats: int, sample: int = SAMPLE, columns: int = COLUMNS) -> float:
    """Return the share of the repeats in which a change is seen in its first or second window."""
    random = np.random.default_rng(0)
    seen = []
    for _ in range(REFERENCES):
        cells, rows = made(usual(random, sample)), (repeats // REFERENCES, ROWS)
        drawn = (draw(random, rows[0] * ROWS).reshape(rows) for draw in (usual, other, other))
        quiet, *changed = (tally(cells, values) for values in drawn)
        seen.append(drifts(cells, quiet, changed[0], columns) | drifts(cells, *changed, columns))
    return float(np.mean(seen))


def test_quiet_windows_stay_quiet() -> None:
    """The promise: at most 5 false alarms in 10,000 windows of 500 rows and 30 columns."""
    assert alarms([normal] * COLUMNS, WINDOWS, 0, SAMPLE) <= ALLOWED


@pytest.mark.parametrize("sample", [1_000, 10_000, SAMPLE])
def test_any_columns_stay_quiet(sample: int) -> None:
    """The same of columns of every kind, and where the reference is small."""
    found = [alarms([*KINDS.values()] * 3, WINDOWS // 10, seed, sample) for seed in range(REFERENCES)]
    assert sum(found) <= ALLOWED


@pytest.mark.parametrize("columns", [3, 300])
def test_few_and_many_columns_stay_quiet(columns: int) -> None:
    """They share the same false alarms, normal ones and those of every kind."""
    windows, kinds = WINDOWS // (1 if columns < COLUMNS else 20), [*KINDS.values()]
    assert alarms([normal] * columns, windows, 0, 10_000) <= ALLOWED
    assert alarms([kinds[place % len(kinds)] for place in range(columns)], windows // 5, 0, 10_000) <= ALLOWED


@pytest.mark.parametrize(("columns", "least"), [(3, 0.985), (300, 0.9)])
def test_a_small_shift_among_few_and_many_columns_is_caught(columns: int, least: float) -> None:
    """The more columns share the false alarms, the farther out is the limit of each."""
    assert caught(normal, lambda random, rows: random.normal(0.2, size=rows), REPEATS, columns=columns) >= least


def test_correlated_columns_stay_quiet() -> None:
    """One cause behind all columns makes alarms come together, not more often."""
    random, alarmed = np.random.default_rng(0), np.zeros(WINDOWS, dtype=bool)
    causes = random.normal(size=SAMPLE), random.normal(size=(WINDOWS, ROWS))
    for _ in range(COLUMNS):
        sample, windows = (0.9 * cause + np.sqrt(0.19) * random.normal(size=cause.shape) for cause in causes)
        counts = tally(made(sample), windows)
        alarmed[1:] |= drifts(made(sample), counts[:-1], counts[1:])
    assert alarmed.sum() <= ALLOWED


def test_a_small_shift_of_one_column_is_caught() -> None:
    """The promise: 0.2 standard deviations of one of 30 columns, within two windows, in 95 of 100 cases."""
    least = 0.95 if THOROUGH else 0.94
    assert caught(normal, lambda random, rows: random.normal(0.2, size=rows), REPEATS) >= least


CHANGES: dict[str, tuple[Draw, Draw, float]] = {
    "spread x 1.5": (normal, lambda random, rows: random.normal(0, 1.5, rows), 0.999),
    "spread x 1.2": (normal, lambda random, rows: random.normal(0, 1.2, rows), 0.98),
    "3 % missing": (normal, holed(normal, 0.03), 0.99),
    "both tails": (
        normal,
        lambda random, rows: random.normal(size=rows) + 3 * random.choice([-1, 0, 1], rows, p=[0.03, 0.94, 0.03]),
        0.95,
    ),
    "stuck": (normal, lambda random, rows: np.where(random.random(rows) < 0.1, 0.3, random.normal(size=rows)), 0.99),
    "heavy tails": (KINDS["heavy tails"], lambda random, rows: 0.35 + random.standard_t(2, rows), 0.95),
    "skewed": (KINDS["skewed"], lambda random, rows: np.exp(0.2) * random.lognormal(size=rows), 0.94),
    "counts": (KINDS["counts"], lambda random, rows: random.poisson(0.7, rows).astype(float), 0.98),
    "rain": (rain, lambda random, rows: np.where(random.random(rows) < 0.86, 0, random.exponential(size=rows)), 0.98),
    "a category vanishes": (letters(SHARES), letters([0, *SHARES[1:]]), 0.98),
    "3 % unknown": (
        letters(SHARES),
        lambda random, rows: np.where(random.random(rows) < 0.03, "new", letters(SHARES)(random, rows)).astype(object),
        0.99,
    ),
}
"""What a column was like, what it becomes, and in which share of the cases that is caught at least."""


@pytest.mark.parametrize("name", CHANGES)
def test_other_changes_are_caught(name: str) -> None:
    usual, other, least = CHANGES[name]
    assert caught(usual, other, REPEATS // 5) >= least


@pytest.mark.parametrize("sample", [1_000, 10_000])
def test_a_small_reference_tells_less(sample: int) -> None:
    """What it cannot know by itself is no drift, so a shift has to be larger."""
    assert caught(normal, lambda random, rows: random.normal(0.3, size=rows), REPEATS // 5, sample) >= 0.9


def test_tails_are_exact() -> None:
    """The figure of a rare truth has the tail of the binomial law, halfway between its steps."""
    known, found = np.array([996_000.0, 4_000.0]) * 1_000, np.arange(10, 25)
    window = np.stack([1_000 - found, found], axis=1).astype(float)
    shares = np.broadcast_to(known / known.sum(), window.shape)
    tail = norm.sf(saddlepoint(np.array([0.0, 1.0]), known, window, shares))
    law = binom(1_000, 0.004)
    assert np.all((law.sf(found) < tail) & (tail < law.sf(found - 1)))


def shifted(seed: int, rows: int = ROWS, by: float = 0) -> Columns:
    """Draw three columns, of which temp may be shifted."""
    random = np.random.default_rng(seed)
    wet = random.choice(np.array(["no", "yes"], dtype=object), rows)
    return {"temp": random.normal(50 + by, 10, rows), "rain": rain(random, rows), "wet": wet}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return summarise(shifted(0, 20_000))


def verdicts(reference: Reference, *windows: Columns) -> list[Verdict]:
    """Judge windows in a row."""
    counts: list[Window] = [counted(reference, window) for window in windows]
    units = {"temp": "degrees"}
    return [judge(reference, before, now, units) for before, now in zip([None, *counts], counts, strict=False)]


def test_a_drift_is_told(reference: Reference) -> None:
    """It takes two windows, and a sentence, a figure and a limit say what happened."""
    quiet, first, second = verdicts(reference, shifted(1), shifted(2, by=-5), shifted(3, by=-5))
    assert (quiet.state, first.state, second.state) == ("quiet", "suspected", "drift")
    assert quiet.sentence == "No drift in 3 columns of 500 rows."
    finding = second.findings[0]
    assert (finding.column, finding.aspect, finding.state) == ("temp", "level", "drift")
    assert finding.figure > finding.limit > 3
    assert re.fullmatch(r"temp is [456] degrees lower than in training \(median 4\d instead of 50\)\.", second.sentence)


def test_one_bad_window_is_no_drift(reference: Reference) -> None:
    """A single bad window carries the figure alone; its neighbours would have to share it."""
    states = []
    for seed in range(0, 60, 3):
        told = verdicts(reference, shifted(seed + 1), shifted(seed + 2, by=8), shifted(seed + 3))
        states += [verdict.state for verdict in told[1:]]
    assert states.count("drift") <= 1
    assert states.count("suspected") >= 39


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temp": np.full(ROWS, np.nan)}, "temp is missing in 100 % of the rows, in training in 0 %."),
        ({"temp": np.full(ROWS, 5e3)}, "temp is above "),
        ({"rain": np.full(ROWS, -1.0)}, "rain is below \N{MINUS SIGN}"),
        ({"wet": np.full(ROWS, "maybe", dtype=object)}, "wet has a value that training did not know in 100 %"),
        ({"wet": np.full(ROWS, "", dtype=object)}, "wet is missing in 100 %"),
        ({"wet": np.full(ROWS, "no", dtype=object)}, "wet is '"),
        (
            {"rain": np.random.default_rng(5).exponential(size=ROWS) * (np.arange(ROWS) % 6 == 0)},
            "rain is 0 in 83.2 % of the rows, in training in 92.8 %.",
        ),
        ({"temp": np.random.default_rng(5).normal(50, 20, ROWS)}, "temp varies more than in training: 80 % of"),
    ],
)
def test_every_change_has_its_sentence(reference: Reference, change: Columns, said: str) -> None:
    *_, last = verdicts(reference, {**shifted(1), **change}, {**shifted(2), **change})
    assert last.state == "drift"
    assert last.sentence.startswith(said)


def test_a_shift_that_ties_hide_has_its_sentence(reference: Reference) -> None:
    """Most of it is zero before and after, so the medians say nothing."""
    cells = reference.columns["rain"]
    rows = cells.count(np.where(np.arange(ROWS) % 6 == 0, 1.0, 0.0))
    told = sentence("rain", cells, rows, "level", 0, "mm")
    assert told.startswith("rain tends to be higher than in training: above ")
    assert " mm in 16.8 % of the rows, was in " in told


def test_few_rows_get_no_verdict(reference: Reference) -> None:
    (few,) = verdicts(reference, shifted(1, 199, by=50))
    assert (few.state, few.sentence) == ("no verdict", "No verdict: the window has 199 rows, it takes 200.")
    _, alone = verdicts(reference, shifted(1, 199, by=50), shifted(2, 200, by=50))
    assert alone.state == "suspected"


def test_a_trifle_in_many_rows_does_not_matter(reference: Reference) -> None:
    """A shift of 0.05 standard deviations is beyond doubt in 200,000 rows, and no reason to retrain; 0.2 is one."""
    *_, trifle = verdicts(reference, *(shifted(seed, 200_000, by=0.5) for seed in (1, 2)))
    assert trifle.findings[0].figure > trifle.findings[0].limit
    assert trifle.state == "quiet"
    *_, shift = verdicts(reference, *(shifted(seed, 200_000, by=2) for seed in (1, 2)))
    assert shift.state == "drift"


def test_a_reference_is_kept(reference: Reference, tmp_path: Path) -> None:
    reference.write(tmp_path / "reference.json")
    assert Reference.read(tmp_path / "reference.json") == reference


def test_what_float32_rounds_stays_in_its_cell() -> None:
    values = np.random.default_rng(0).choice([0.1, 0.2, 0.7, 1e6 / 3], 5_000)
    cells = made(values)
    assert cells.count(values.astype(np.float32)).tolist() == list(cells.counts)
    assert sum(count > 0 for count in cells.counts) == 4


def test_columns_without_anything_to_compare_are_left_out() -> None:
    times = np.array(["2024-01-01"] * 300, dtype="datetime64[us]")
    columns = {"at": times, "void": np.full(300, np.nan), "blank": np.full(300, "", dtype=object), "one": np.ones(300)}
    reference = summarise(columns)
    assert set(reference.columns) == {"one"}
    window = counted(reference, columns)
    assert judge(reference, window, window).state == "quiet"


@pytest.mark.parametrize("rows", [0, 700])
def test_duckdb_counts_the_same(rows: int) -> None:
    """Missing values, values never seen and booleans too; in a table of any size, without its rows leaving it."""
    random = np.random.default_rng(0)
    columns = {name: draw(random, 2_000) for name, draw in KINDS.items()}
    reference = summarise(columns)
    window = {name: draw(random, rows) for name, draw in KINDS.items()}
    if rows:
        window["normal"][:3], window["categories"][:2] = (np.nan, np.inf, -9), ("", "never")
    void = [None if value == "" else value for value in window["categories"]]
    table = pa.table(window | {"categories": pa.array(void, pa.string()), "rarely true": window["rarely true"] > 0})
    assert counted_in(reference, ibis.memtable(table)) == counted(reference, window)
