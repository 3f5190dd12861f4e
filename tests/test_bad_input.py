"""Every mistake that a user can make ends in one clear sentence and exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import csv
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Render, commit, git, make, must, share_environment, tree, well

pytestmark = pytest.mark.life

Change = Callable[[Path], object]
Lived = Callable[[int, str], Path]
MAKE = re.compile(r"^make(\[\d+\])?: \*\*\* ")
PREDICT = ("predict", "INPUT=rows.csv", "OUTPUT=outputs/scored.csv")
COLLECTED = "data/raw/"
"""What `train` may have collected, whole, before it refused the rest."""


@pytest.fixture
def project(lived: Lived, tmp_path: Path, level: int) -> Path:
    """Return a copy of a trained project that uses the same environment, with a few good rows to score."""
    folder, source = tmp_path / "project", lived(level, "classification")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".venv", ".git", "raw"), symlinks=True)
    share_environment(source, folder)
    git(folder, "init", "--quiet")
    (folder / ".git" / "info" / "exclude").write_text(".venv\nrows.csv\n")
    commit(folder, "Start the project")
    rows = (folder / "outputs" / "unseen.csv").read_text(encoding="utf-8").splitlines()[:4]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def refused(project: Path, *words: str, told: str) -> None:
    """Run a target that has to refuse, and judge what it said and left."""
    before = kept(project)
    done = make(project, *words)
    assert done.returncode != 0, f"not refused:\n{done.stdout}"
    said = [line for line in done.stderr.splitlines() if line.strip() and not MAKE.match(line)]
    sentence = "\n".join(said)
    assert said, f"no word on standard error:\n{done.stdout}"
    assert said[0].startswith("error: "), sentence
    assert all(line.startswith("  ") for line in said[1:]), f"one sentence, and one line a broken rule:\n{sentence}"
    assert re.search(told, sentence), sentence
    assert "Traceback" not in done.stdout
    assert kept(project) == before


def kept(project: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(project).items() if not name.startswith(COLLECTED)}


def edit(name: str, old: str, new: str) -> Change:
    """Return a change of one file's text."""

    def change(project: Path) -> None:
        text = (project / name).read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        (project / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def gone(name: str) -> Change:
    return lambda project: (project / name).unlink()


def empty(name: str) -> Change:
    return lambda project: (project / name).write_bytes(b"")


def cut(name: str) -> Change:
    """Return a change that leaves the first half of a file."""
    return lambda project: (project / name).write_bytes(
        (project / name).read_bytes()[: (project / name).stat().st_size // 2]
    )


def foreign(name: str) -> Change:
    """Return a change that puts in place a graph that does nothing, made without this project."""
    # one node, Identity, from x to y
    graph = bytes.fromhex(
        "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a"
        "0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
    )
    return lambda project: (project / name).write_bytes(graph)


def blocked(name: str) -> Change:
    """Return a change that puts a file where a folder has to be: nobody can write there, root neither."""

    def change(project: Path) -> None:
        shutil.rmtree(project / name, ignore_errors=True)
        (project / name).write_text("in the way")

    return change


def nothing(project: Path) -> None:
    """Leave the project as it is: the words of the command are the mistake."""
    assert project.is_dir()


def rows(text: str) -> Change:
    return lambda project: (project / "rows.csv").write_text(text, encoding="utf-8")


def cell(column: str, value: str) -> Change:
    """Return a change of one value in the second row to score."""

    def change(project: Path) -> None:
        with (project / "rows.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        assert column in lines[1]
        lines[1][column] = value
        with (project / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)

    return change


TRAIN: dict[str, tuple[Change, str]] = {
    "missing file": (gone("data/weather.parquet"), r"data/weather\.parquet.*not found"),
    "empty file": (empty("data/flights.parquet"), r"data/flights\.parquet.*empty"),
    "truncated file": (cut("data/flights.parquet"), r"data/flights\.parquet.*parquet"),
    "unknown format": (edit("config/data.yaml", "data/weather.parquet", "data/weather.txt"), r"weather\.txt"),
    "unknown column": (edit("config/data.yaml", "  distance: {", "  distanse: {"), "'distanse'.*'distance'|'distanse'"),
    "unknown target": (edit("config/data.yaml", "target: late", "target: later"), "'later'.*'late'"),
    "unknown key": (edit("config/model.yaml", "seed:", "sead:"), r"config/model\.yaml.*sead.*seed"),
    "wrong type": (
        edit("config/model.yaml", "test_share: 0.2", "test_share: some"),
        r"config/model\.yaml.*test_share.*some",
    ),
    "unknown estimator": (edit("config/model.yaml", "RandomForestClassifier", "Oracle"), r"config/model\.yaml.*Oracle"),
    "estimator that is no word": (edit("config/model.yaml", "RandomForestClassifier", "[]"), r"model\.yaml, estimator"),
    "parameter out of range": (
        edit("config/model.yaml", "n_estimators: 100", "n_estimators: -1"),
        r"config/model\.yaml.*n_estimators",
    ),
    "parameter that overflows": (
        edit("config/model.yaml", "n_estimators: 100", "min_weight_fraction_leaf: .nan"),
        r"config/model\.yaml.*min_weight_fraction_leaf",
    ),
    "seed below zero": (edit("config/model.yaml", "seed: 0", "seed: -1"), r"config/model\.yaml, seed"),
    "share that is no number": (
        edit("config/model.yaml", "test_share: 0.2", "test_share: .nan"),
        r"config/model\.yaml, test_share",
    ),
    "cost without end": (edit("config/case.yaml", "miss: 3", "miss: .inf"), r"config/case\.yaml, cost_of_errors\.miss"),
    "cost that is no number": (edit("config/case.yaml", "miss: 3", "miss: .nan"), r"config/case\.yaml, cost_of_errors"),
    "yes of another type": (
        edit("config/data.yaml", "target: late", "positive: late\ntarget: late"),
        r"config/data\.yaml, positive: 'late'",
    ),
    "fault in features.py": (
        edit("src/flight_delays/features.py", 'columns["wind_dir"]', 'columns["wind_direction"]'),
        r"src/flight_delays/features\.py, line \d+: KeyError: 'wind_direction'.*wind_dir",
    ),
    "module that is no Python": (
        edit("src/flight_delays/features.py", "def features(", "def features["),
        r"src/flight_delays/features\.py, line \d+: SyntaxError: \w+",
    ),
    "module of an unknown library": (
        edit("src/flight_delays/process.py", "import ibis", "import ibiss as ibis"),
        r"src/flight_delays/process\.py, line \d+: ModuleNotFoundError: No module named 'ibiss'",
    ),
    "module without its function": (
        edit("src/flight_delays/model.py", "def estimator(", "def estimater("),
        r"src/flight_delays/model\.py: ImportError: cannot import name 'estimator' from 'flight_delays.model'$",
    ),
    "fault in model.py": (
        edit("src/flight_delays/model.py", "    fill = ", "    1 / 0\n    fill = "),
        r"src/flight_delays/model\.py, line \d+: ZeroDivisionError",
    ),
    "feature of other rows": (
        edit("src/flight_delays/features.py", '"month": month(scheduled)', '"month": month(scheduled).cumsum()'),
        r"features\.py: 'month' of row \d+.*other rows",
    ),
    "metric of the other task": (edit("config/model.yaml", "metric: roc_auc", "metric: rmse"), "rmse"),
    "no settings": (gone("config/data.yaml"), r"config/data\.yaml.*not found"),
    "settings that are no YAML": (edit("config/case.yaml", "decision:", "decision: ["), r"config/case\.yaml.*YAML"),
    "unwritable folder": (blocked("models"), "models"),
}


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mistake", TRAIN)
def test_train(project: Path, mistake: str) -> None:
    change, told = TRAIN[mistake]
    change(project)
    refused(project, "train", told=told)


SCORE: dict[str, tuple[Change, str]] = {
    "missing file": (gone("rows.csv"), r"rows\.csv.*not found"),
    "empty file": (empty("rows.csv"), r"rows\.csv.*empty"),
    "no row": (rows("distance,origin\n"), r"rows\.csv"),
    "wrong column": (edit("rows.csv", "distance", "miles"), r"rows\.csv.*'distance'"),
    "wrong type": (cell("distance", "far"), r"rows\.csv.*(row 2.*distance|distance.*row 2).*far|far.*distance"),
    "wrong time": (cell("scheduled", "soon"), r"rows\.csv.*scheduled.*soon|soon.*scheduled"),
    "no model yet": (gone("models/model.onnx"), r"models/model\.onnx.*make train"),
    "truncated model": (cut("models/model.onnx"), r"models/model\.onnx.*make train"),
    "unwritable folder": (blocked("outputs"), "outputs"),
    "model of other features": (
        edit("src/flight_delays/features.py", '"month":', '"moon":'),
        r"'month', a number, and features\.py returns none; run `make train`",
    ),
    "model of another program": (foreign("models/model.onnx"), r"models/model\.onnx.*make train"),
}


@pytest.mark.parametrize(("level", "folder"), [(0, "outputs"), (1, "outputs"), (1, "reports")])
def test_a_model_is_never_newer_than_what_is_told_of_it(project: Path, folder: str) -> None:
    edit("config/model.yaml", "seed: 0", "seed: 1")(project)
    blocked(folder)(project)
    refused(project, "train", told=folder)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mistake", SCORE)
def test_predict(project: Path, mistake: str) -> None:
    change, told = SCORE[mistake]
    change(project)
    refused(project, *PREDICT, told=told)


@pytest.mark.parametrize("level", [0])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "INPUT=.*OUTPUT="),
        (("INPUT=rows.csv",), "INPUT=.*OUTPUT="),
        (("INPUT=rows.csv", "OUTPUT=rows.csv"), r"rows\.csv"),
        (("INPUT=rows.csv", "OUTPUT=scored.xlsx"), r"scored\.xlsx.*\.parquet"),
        (("INPUT=rows.csv", "OUTPUT=config"), "config"),
        (("INPUT=config", "OUTPUT=scored.csv"), "config"),
    ],
)
def test_predict_with_wrong_paths(project: Path, words: tuple[str, ...], told: str) -> None:
    refused(project, "predict", *words, told=told)


@pytest.mark.parametrize("level", [0])
def test_a_good_output_survives_a_bad_input(project: Path) -> None:
    scored = project / "outputs" / "scored.csv"
    assert make(project, *PREDICT).returncode == 0
    good = scored.read_bytes()
    cell("distance", "far")(project)
    refused(project, *PREDICT, told="far")
    assert scored.read_bytes() == good


@pytest.fixture
def taken() -> Iterator[str]:
    """Give a port that somebody else uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


SERVE: dict[str, tuple[Change, str, str]] = {
    "no model yet": (gone("models/model.onnx"), "0", r"models/model\.onnx.*make train"),
    "truncated model": (cut("models/model.onnx"), "0", r"models/model\.onnx.*make train"),
    "no contract": (gone("config/contract.yaml"), "0", r"config/contract\.yaml.*make contract"),
    "contract that is no page": (empty("config/contract.yaml"), "0", r"config/contract\.yaml.*key: value"),
    "model of other features": (
        edit("src/flight_delays/features.py", '"month":', '"moon":'),
        "0",
        r"'month', a number, and features\.py returns none; run `make train`",
    ),
    "no port": (nothing, "", "PORT is ''"),
    "another contract": (
        edit("config/contract.yaml", "distance", "length"),
        "0",
        r"(?s)config/contract\.yaml.*(length|distance).*make contract",
    ),
    "port that is no number": (nothing, "high", "high"),
    "port that does not exist": (nothing, "99999", "99999"),
}


@pytest.mark.parametrize("level", [1])
@pytest.mark.parametrize("mistake", SERVE)
def test_serve(project: Path, mistake: str) -> None:
    change, port, told = SERVE[mistake]
    change(project)
    refused(project, "serve", f"PORT={port}", told=told)


@pytest.mark.parametrize("level", [1])
def test_serve_on_a_port_in_use(project: Path, taken: str) -> None:
    done = make(project, "serve", f"PORT={taken}", offline=False)
    said = [line for line in done.stderr.splitlines() if not MAKE.match(line)]
    assert done.returncode != 0
    assert len(said) == 1, done.stderr
    assert re.search(rf"error: .*{taken}.*PORT=", said[0])


SOURCES: dict[str, tuple[Change, str]] = {
    "missing file": (gone("data/weather.parquet"), r"data/weather\.parquet.*not found"),
    "truncated file": (cut("data/flights.parquet"), r"data/flights\.parquet"),
    "address that does not answer": (
        edit("config/data.yaml", "data/weather.parquet", "http://127.0.0.1:9/weather.parquet"),
        r"http://127\.0\.0\.1:9/weather\.parquet",
    ),
    "database that is not there": (
        edit("config/data.yaml", "data/weather.parquet", "{sql: select 1, database: 'sqlite:///nowhere/at.db'}"),
        "source.weather|weather",
    ),
    "secret that is not set": (
        edit("config/data.yaml", "data/weather.parquet", "{sql: select 1, database: 'sqlite:///${NOT_SET}'}"),
        "NOT_SET",
    ),
    "broken rule": (edit("config/data.yaml", "min: 10, max: 6000", "min: 10, max: 100"), "distance.*row"),
}


@pytest.mark.parametrize("level", [1])
@pytest.mark.parametrize("mistake", SOURCES)
def test_data(project: Path, mistake: str) -> None:
    change, told = SOURCES[mistake]
    change(project)
    refused(project, "data", told=told)


OTHERS: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "contract, no model yet": (gone("models/model.onnx"), ("contract",), "make train"),
    "contract, unwritable": (blocked("config"), ("contract",), "config"),
    "image, no model yet": (gone("models/model.onnx"), ("image",), "make train"),
    "release, odd version": (nothing, ("release", "VERSION=next"), "next"),
}


@pytest.mark.parametrize("level", [1])
@pytest.mark.parametrize("mistake", OTHERS)
def test_other_commands(project: Path, mistake: str) -> None:
    change, words, told = OTHERS[mistake]
    change(project)
    refused(project, *words, told=told)


@pytest.mark.parametrize("level", [1])
def test_release_of_uncommitted_work(project: Path) -> None:
    edit("config/model.yaml", "seed: 0", "seed: 1")(project)
    refused(project, "release", "VERSION=0.2.0", "CONFIRM=yes", told="commit")


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("cut_short", [False, True])
def test_before_set_up(project: Path, level: int, cut_short: bool) -> None:
    shutil.rmtree(project / ".venv")
    if cut_short:
        must(["uv", "venv", "--quiet", project / ".venv"], project)
    targets = (
        ("train", "predict") if level == 0 else ("check", "data", "serve", "contract", "guards", "image", "release")
    )
    for target in targets:
        refused(project, target, told="make setup")


@pytest.mark.parametrize("level", [0])
def test_a_project_whose_uv_is_gone_wants_its_set_up_anew(project: Path, tmp_path: Path) -> None:
    """It was set up with a uv that is not on PATH any more, or not in this shell."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("make", "sh", "bash", "cat", "grep", "sed", "env", "python3", "git"):
        (programs / program).symlink_to(shutil.which(program) or program)
    shutil.rmtree(project / ".uv", ignore_errors=True)
    done = make(project, "train", environment={"PATH": f"{programs}"})
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "error: uv is gone from this machine: run 'make setup'"
    assert "not found" not in done.stderr


@pytest.mark.parametrize("level", [0])
def test_a_moved_folder_wants_its_set_up_anew(project: Path) -> None:
    moved = project.rename(project.with_name("moved to here"))
    for target in ("train", "notebook"):
        refused(moved, target, told=rf"\.venv belongs to {project}: run 'make setup'")
    assert make(moved, "setup").returncode == 0
    assert make(moved, *PREDICT).returncode == 0


def test_a_move_is_noticed_whatever_the_package_is_called(render: Render, tmp_path: Path) -> None:
    project = render(maturity_level=0, project_slug="one-name", package_name="another")
    well(make(project, "setup", offline=False))
    refused(project.rename(tmp_path / "moved"), "train", told=rf"\.venv belongs to {project}: run 'make setup'")


@pytest.mark.parametrize("level", [0])
def test_uv_in_a_folder_with_a_space(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my programs"
    folder.mkdir()
    (folder / "uv").symlink_to(shutil.which("uv") or "")
    path = f"{folder}:/usr/bin:/bin"
    for target in (("setup",), PREDICT):
        done = make(project, *target, environment={"PATH": path})
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("level", [1])
def test_what_format_can_mend_it_mends(project: Path) -> None:
    module = project / "src/flight_delays/features.py"
    good = module.read_text(encoding="utf-8")
    module.write_text(
        good.replace("from __future__ import annotations\n", "from __future__ import annotations\nimport os\n")
    )
    commit(project)
    done = make(project, "format")
    assert done.returncode == 0, done.stdout + done.stderr
    assert module.read_text(encoding="utf-8") == good
    module.write_text(f"{good}\n\nunknown_name\n", encoding="utf-8")
    done = make(project, "format")
    assert done.returncode != 0
    assert "error: not all could be mended" in done.stderr
