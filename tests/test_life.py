"""Projects lived in as their user does, without a network after set-up: every command, every level, both tasks."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ask
import pyarrow.parquet as pq
import pytest
from conftest import OFFLINE, ROOT, TIMES, Render, commit, git, make, must, run, well

pytestmark = pytest.mark.life

TASKS = ("classification", "regression")
THOROUGH = pytest.mark.thorough
BOTH = [
    *((level, task) for level in (0, 1) for task in TASKS),
    (3, "classification"),
    pytest.param(2, "classification", marks=THOROUGH),
    pytest.param(3, "regression", marks=THOROUGH),
]
CROSSED = [
    (0, "regression"),
    (1, "classification"),
    pytest.param(0, "classification", marks=THOROUGH),
    pytest.param(1, "regression", marks=THOROUGH),
]
"""Every level and every task in `make test`; every pair of them in `make test-all`."""
LEFT = [
    pytest.param(1, "classification", marks=THOROUGH),
    pytest.param(2, "classification", marks=THOROUGH),
    pytest.param(3, "regression", marks=THOROUGH),
]
HEAVY = ("sklearn", "skl2onnx", "onnx", "ibis", "duckdb", "pandas", "pandera", "matplotlib", "pyarrow", "sqlalchemy")
PYTHONS = ("3.11", "3.12", "3.13")
Lived = Callable[[int, str], Path]


def trained(project: Path, threads: int) -> str:
    """Train anew, in a process of its own with a number of threads, and return a hash of what the model predicts."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
    well(make(project, "train", environment=dict.fromkeys(pools, str(threads))))
    well(make(project, "predict", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/hashed.csv"))
    return hashlib.sha256((project / "outputs" / "hashed.csv").read_bytes()).hexdigest()


def a_copy(project: Path, folder: Path) -> Path:
    """Copy a project that is set up; the copy gets an environment of its own from the lock, without a network."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".venv"), symlinks=True)
    well(make(folder, "setup"))
    return folder


def scored(path: Path) -> list[dict[str, str]]:
    """Read a CSV file of predictions."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("level", "task"), BOTH)
def test_set_up_starts_the_history(lived: Lived, level: int, task: str) -> None:
    project = lived(level, task)
    assert git(project, "log", "--format=%s", "--reverse").splitlines()[0] == "Start the project"
    assert "uv.lock" in git(project, "ls-files", "--cached", "--others", "--exclude-standard").split()
    assert (project / "models" / "model.onnx").stat().st_size > 1000


@pytest.mark.parametrize(("level", "task"), [(1, "regression"), (3, "classification"), (4, "regression"), *LEFT])
def test_check_passes_and_leaves_nothing(lived: Lived, level: int, task: str) -> None:
    project = lived(level, task)
    commit(project, "Set up")
    start = time.monotonic()
    well(make(project, "check"))
    TIMES[f"make check, level {level}, {task}"] = time.monotonic() - start
    assert git(project, "status", "--short") == ""


@pytest.mark.thorough
@pytest.mark.parametrize("version", [name for name in PYTHONS if not sys.version.startswith(f"{name}.")])
def test_check_passes_under_another_python(render: Render, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine: `uv python install {version}` gets one")
    project = render(maturity_level=1)
    for step in ("setup", "check"):
        well(make(project, step, offline=step != "setup", environment={"UV_PYTHON": python}))
    assert must([project / ".venv/bin/python", "-V"], project).startswith(f"Python {version}.")


def interpreter(version: str) -> str | None:
    """Return a Python of this version: of PATH, of pyenv or of uv; a shim of pyenv that leads nowhere is none."""
    kept = [
        str(path)
        for place in (".pyenv/versions", ".local/share/uv/python")
        for path in Path.home().glob(f"{place}/*/bin")
    ]
    for folder in (*os.environ["PATH"].split(os.pathsep), *kept):
        found = shutil.which(f"python{version}", path=folder)
        if found and run([found, "-c", "import venv, ssl"], ROOT).returncode == 0:
            return found
    return None


@pytest.mark.parametrize(("level", "task"), CROSSED)
def test_training_is_reproducible(lived: Lived, tmp_path: Path, level: int, task: str) -> None:
    project = a_copy(lived(level, task), tmp_path / "project")
    one = trained(project, threads=1)
    assert trained(project, threads=2) == one
    settings = project / "config" / "model.yaml"
    text = settings.read_text(encoding="utf-8")
    assert "seed: 0" in text
    settings.write_text(text.replace("seed: 0", "seed: 1"), encoding="utf-8")
    assert trained(project, threads=2) != one


@pytest.mark.parametrize(("level", "task"), BOTH)
def test_both_formats_are_scored_alike(lived: Lived, level: int, task: str) -> None:
    project = lived(level, task)
    outputs = project / "outputs"
    must([project / ".venv/bin/python", "-c", TO_PARQUET], outputs)
    for source, kind in (("unseen.csv", "parquet"), ("unseen.parquet", "csv")):
        well(make(project, "predict", f"INPUT=outputs/{source}", f"OUTPUT=outputs/scored.{kind}"))
    text, typed = scored(outputs / "scored.csv"), pq.read_table(outputs / "scored.parquet")
    assert len(text) == len(scored(outputs / "unseen.csv")) == typed.num_rows > 1000
    column = next((name for name in typed.column_names if name.startswith("probability_")), "prediction")
    assert [float(row[column]) for row in text] == pytest.approx(typed[column].to_pylist(), abs=1e-6)
    assert len({row["prediction"] for row in text}) > 1


TO_PARQUET = """
import pyarrow.csv, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.csv.read_csv("unseen.csv"), "unseen.parquet")
"""


@pytest.mark.parametrize("task", TASKS)
def test_service_answers_like_batch_scoring(lived: Lived, task: str) -> None:
    project = lived(1, task)
    rows = project / "outputs" / "unseen.csv"
    well(make(project, "predict", f"INPUT={rows}", "OUTPUT=outputs/batch.csv"))
    said = must([*OFFLINE, sys.executable, ROOT / "scripts" / "ask.py", project, rows, "5"], project)
    answers, batch = json.loads(said)["predictions"], scored(project / "outputs" / "batch.csv")[:5]
    wanted = [row["prediction"] for row in batch]
    if task == "regression":
        assert [float(answer) for answer in answers] == pytest.approx([float(value) for value in wanted], abs=1e-3)
    else:
        assert [str(answer).lower() for answer in answers] == [value.lower() for value in wanted]


def test_service_has_its_pages(home: Path) -> None:
    with ask.service(home) as address:
        for page in ("/ping", "/health", "/version", "/docs", "/openapi.json"):
            with ask.direct.open(f"{address}{page}", timeout=10) as reply:
                assert reply.status == 200


def test_scoring_needs_no_training_library(home: Path) -> None:
    """What the image installs is enough: every training library is hidden while the service's modules are imported."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    asked = "from flight_delays.ops.serve import app; from flight_delays.ops.scorer import Scorer; Scorer()"
    must([home / ".venv/bin/python", "-c", f"{hidden}; {asked}"], home)
    assert run([home / ".venv/bin/python", "-c", f"{hidden}; import flight_delays.ops.train"], home).returncode != 0


@pytest.mark.parametrize(("level", "task"), [*CROSSED, (3, "classification")])
def test_readme_says_what_works(lived: Lived, level: int, task: str) -> None:
    """Every command of the README is executed, blocks first, then what stands inside sentences."""
    project = lived(level, task)
    text = (project / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    inline = [command for command in re.findall(r"`(make [^`]+)`", text) if command not in "".join(blocks)]
    assert blocks
    for script in [*blocks, *inline]:
        must([*OFFLINE, "env", "-u", "VIRTUAL_ENV", "bash", "-euo", "pipefail", "-c", script], project)


@pytest.mark.parametrize(("level", "task"), BOTH)
def test_pages_name_targets_that_exist(lived: Lived, level: int, task: str) -> None:
    project = lived(level, task)
    listed = set(re.findall(r"make ([a-z-]+)", well(make(project, "help"))))
    for page in [project / "README.md", project / "AGENTS.md", *project.glob("docs/*.md")]:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named - listed == set(), page.name


@pytest.mark.parametrize(("level", "task"), CROSSED)
def test_notebook_runs_from_top_to_bottom(lived: Lived, tmp_path: Path, level: int, task: str) -> None:
    project = lived(level, task)
    jupyter = project / ".venv/bin/jupyter"
    options = ("--to=notebook", "--execute", f"--output-dir={tmp_path}")
    must(
        [*OFFLINE, jupyter, "nbconvert", *options, "notebooks/explore.ipynb"],
        project,
        JUPYTER_RUNTIME_DIR=str(tmp_path),
    )
    cells = json.loads((tmp_path / "explore.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["execution_count"] for cell in code)
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])


def test_the_hooks_hold_back_what_check_would_refuse(home: Path, tmp_path: Path) -> None:
    project = a_copy(home, tmp_path / "project")
    commit(project, "So far")
    hooks: list[str | Path] = [*OFFLINE, project / ".venv/bin/pre-commit", "run", "--all-files"]
    must(hooks, project, PRE_COMMIT_HOME=str(tmp_path / "hooks"))
    (project / "src/flight_delays/more.py").write_text('"""Odd."""\nx: int =  "1" \n', encoding="utf-8")
    git(project, "add", "--all")
    done = run(hooks, project, PRE_COMMIT_HOME=str(tmp_path / "hooks"))
    assert done.returncode != 0
    assert len(re.findall(r"Failed$", done.stdout, re.M)) == 4, done.stdout


@pytest.mark.parametrize("verb", ["data", "contract", "release VERSION=0.2.0"])
def test_the_other_commands_of_level_1(home: Path, verb: str) -> None:
    commit(home, "So far")
    assert well(make(home, *verb.split()))
    assert git(home, "status", "--short") == ""
    assert git(home, "tag") == ""


def test_every_guard_of_the_default_project_is_tried(home: Path) -> None:
    """A guard whose fault cannot be planted is passed over elsewhere; with the default answers none may be."""
    said = well(make(home, "guards", environment={"COLUMNS": "200"}))
    states = re.findall(r"(caught|missed|noisy|not applicable)\s*│$", said, re.M)
    assert states == ["caught"] * len(states)
    assert len(states) >= 30


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 4), *(pytest.param(low, low + 1, marks=THOROUGH) for low in range(4))],
)
def test_raised_project_passes_its_checks(lived: Lived, tmp_path: Path, low: int, high: int) -> None:
    project = a_copy(lived(low, "classification"), tmp_path / "project")
    commit(project, "Set up")
    must(["copier", "update", "--defaults", "--data", f"maturity_level={high}"], project)
    for step in ("setup", "train", "check"):
        well(make(project, step, offline=step != "setup"))


@pytest.mark.parametrize(
    ("high", "low"),
    [
        (4, 1),
        *(pytest.param(high, low, marks=THOROUGH) for high in range(5) for low in range(high) if (high, low) != (4, 1)),
    ],
)
def test_lowered_project_passes_its_checks(lived: Lived, tmp_path: Path, high: int, low: int) -> None:
    """Level 0 has no check: there the model is trained and asked."""
    project = a_copy(lived(high, "classification"), tmp_path / "project")
    commit(project, "So far")
    must(["copier", "update", "--defaults", "--data", f"maturity_level={low}"], project)
    commit(project, "Lowered")
    for step in ("setup", "train", *(("check",) if low else ())):
        well(make(project, step, offline=step != "setup"))
    well(make(project, "predict", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/predictions.csv"))
    if not low:
        assert make(project, "check").returncode != 0, "the verb of level 1 is gone"
