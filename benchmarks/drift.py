"""Measure the drift monitor on a window of a million rows beside Evidently, in an environment that is thrown away.

    <project>/.venv/bin/python benchmarks/drift.py <project>

The project is of level 4 and set up. Both read the same Parquet files, each in a process of its own, in turns within
one run. Writes docs/benchmarks-drift.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers import NEWLINE, environment

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks-drift.md"
ROUNDS, ROWS, SAMPLE, NUMBERS, TEXTS = 1, 1_000_000, 100_000, 25, 5
PACKAGES = ("evidently>=0.7,<0.8", "pandas<3", "pyarrow")
"""Evidently 0.7 breaks with pandas 3."""
MAKE = f"""
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

def table(seed, rows, shift=0.0):
    draw, letters = np.random.default_rng(seed), np.array([*"abcdefg"])
    made = {{f"x{{number:02}}": draw.normal(size=rows) for number in range({NUMBERS})}}
    made |= {{f"c{{number}}": draw.choice(letters, rows) for number in range({TEXTS})}}
    return pa.table(made | {{"x00": made["x00"] + shift}})

pq.write_table(table(0, {SAMPLE}), "reference.parquet")
pq.write_table(table(3, 1_000), "few.parquet")
pq.write_table(table(1, {ROWS}), "quiet.parquet")
pq.write_table(table(2, {ROWS}, shift=0.2), "shifted.parquet")
"""
MEASURE = """
import json, resource, sys, time

def told(judge, file):
    judge("few.parquet")
    started, worked = time.perf_counter(), time.process_time()
    drifting = judge(file)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "work": work, "mb": peak, "drifting": drifting}))
"""
REFERENCE = """
import sys
from importlib import import_module
from pathlib import Path
import pyarrow.parquet as pq

cells = import_module(f"{sys.argv[1]}.ops.monitor.cells")
to_columns = import_module(f"{sys.argv[1]}.ops.contract").to_columns
cells.summarise(to_columns(pq.read_table("reference.parquet"))).write(Path("reference.json"))
"""
OURS = f"""{MEASURE}
from importlib import import_module
from pathlib import Path
import ibis, ibis.backends.duckdb

cells, drift = (import_module(f"{{sys.argv[1]}}.ops.monitor.{{name}}") for name in ("cells", "drift"))
reference = cells.Reference.read(Path("reference.json"))

def judge(file):
    table = ibis.duckdb.connect().read_parquet(file, file_row_number=True)
    is_late = table.file_row_number >= table.count().to_pyarrow().as_py() // 2
    halves = [cells.counted_in(reference, table.filter(part)) for part in (~is_late, is_late)]
    return sum(found.state == "drift" for found in drift.judge(reference, *halves).findings)

told(judge, sys.argv[2])
"""
PEER = f"""{MEASURE}
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

reference = pd.read_parquet("reference.parquet")

def judge(file):
    found = Report([DataDriftPreset()]).run(pd.read_parquet(file), reference).dict()
    return next(int(one["value"]["count"]) for one in found["metrics"] if "DriftedColumnsCount" in str(one))

told(judge, sys.argv[2])
"""
Told = dict[str, Any]


def ended(*command: str | Path) -> str:
    """Run a command to its end, and return what it said."""
    quiet = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        sys.exit(f"error: {command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def measured(package: str) -> dict[str, dict[str, list[Told]]]:
    """Return what each said of each window, once for each round."""
    peer = environment(Path("peer").resolve(), *PACKAGES) / "python"
    ended(sys.executable, "-c", MAKE)
    ended(sys.executable, "-c", REFERENCE, package)
    commands = {"this project": (sys.executable, "-c", OURS), "Evidently": (peer, "-c", PEER)}
    found: dict[str, dict[str, list[Told]]] = {name: {"quiet": [], "shifted": []} for name in commands}
    for _ in range(ROUNDS):
        for window in ("quiet", "shifted"):
            for name, command in commands.items():
                *_, line = ended(*command, package, f"{window}.parquet").splitlines()
                found[name][window].append(json.loads(line))
    return found


def written(found: dict[str, dict[str, list[Told]]], peer: str) -> str:
    """Return the page."""
    lines = []
    for name, windows in found.items():
        both = [told for window in windows.values() for told in window]
        seconds, work, peak = (statistics.median(told[key] for told in both) for key in ("seconds", "work", "mb"))
        said = [f"{statistics.median(told['drifting'] for told in window):.0f}" for window in windows.values()]
        title = f"{name} {peer}" if name == "Evidently" else name
        lines.append(f"| {title} | {seconds:.1f} | {work:.1f} | {peak:,.0f} | {' | '.join(said)} |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    return f"""\
# How fast a large window is judged for drift

Written by `<project>/.venv/bin/python benchmarks/drift.py <project>` on {datetime.now(UTC):%d %B %Y}
({machine}; load {os.getloadavg()[1]:.1f}, so compare within the table).
A Parquet file of {ROWS:,} rows, {NUMBERS} numbers and {TEXTS} texts, beside {SAMPLE:,} rows of reference;
once drawn from the same distribution, once with one number shifted by 0.2 standard deviations. A process each, in
turns, medians of {2 * ROUNDS} runs; before the clock starts libraries are imported, the reference is read, and a
thousand rows are judged. Evidently with its own `DataDriftPreset` as it comes.

| | seconds | of processor time | peak MB | columns that drift, of none | of 1 |
|---|---|---|---|---|---|
{NEWLINE.join(lines)}

Memory is that of the whole process with its libraries.
"""


def main() -> None:
    """Measure, and write the page."""
    project = Path(sys.argv[1]).resolve()
    package = next(project.glob("src/*/ops/monitor")).parents[1].name
    with TemporaryDirectory() as folder, chdir(folder):
        found = measured(package)
        peer = ended("peer/bin/python", "-c", "from importlib.metadata import version; print(version('evidently'))")
    PAGE.write_text(written(found, peer.strip()), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
