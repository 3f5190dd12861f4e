"""The pipeline lived through: it runs what has changed and no more, remembers, brings back, repeats, and survives."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request

import ask
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TIMES, Done, clone_at_start, commit, git, make, must, run, share_environment, well
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.life
ROWS = 1500
FORMATS = {"double": "<d", "int16": "<h"}
STAGES = ["process", "train", "evaluate"]
RAN = re.compile(r"^(process|train|evaluate): (?!brought back)", re.MULTILINE)
BACK = re.compile(r"^(process|train|evaluate): brought back", re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """A level-2 project of few rows and a quick model."""

    folder: Path

    def pipeline(self, *words: str) -> str:
        """Run the pipeline to a good end."""
        return well(make(self.folder, "pipeline", *words))

    def python(self, code: str) -> str:
        """Run a line of Python in the project."""
        return must([self.folder / ".venv/bin/python", "-c", code], self.folder)

    def dvc(self, *words: str, **environment: str) -> None:
        """Run a command of DVC."""
        must([self.folder / ".venv/bin/python", "-m", "dvc", *words], self.folder, **environment)

    def would_run(self) -> list[str]:
        """Return the stages that DVC would run now."""
        self.python("from flight_delays.ops.stages import write_inputs; write_inputs()")
        said = must([self.folder / ".venv/bin/python", "-m", "dvc", "repro", "--dry"], self.folder)
        return re.findall(r"Running stage '(\w+)'", said)

    def runs(self) -> list[dict[str, Any]]:
        """Return every record, oldest first."""
        return [json.loads(path.read_text()) for path in sorted((self.folder / "runs").glob("*.json"))]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind, oldest first."""
        lines = (self.folder / "logs/events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def replace(self, name: str, old: str, new: str) -> None:
        """Change one place of a file."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def lived_in(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the project after its first run, all of it committed."""
    source, folder = lived(2, "classification"), tmp_path_factory.mktemp("pipeline") / "project"
    clone_at_start(source, folder)
    share_environment(source, folder)
    project = Project(folder)
    flights = folder / "data/flights.parquet"
    pq.write_table(pq.read_table(flights).take(list(range(0, 33_000, 33_000 // ROWS))), flights)
    model = folder / "config/model.yaml"
    text = re.sub(r"estimator: .*", "estimator: LogisticRegression", model.read_text())
    model.write_text(re.sub(r"parameters: .*", "parameters: {C: 0.5}", text))
    commit(folder, "Few rows")
    first = project.pipeline()
    assert RAN.findall(first) == STAGES
    commit(folder, "First run")
    return project


@pytest.fixture
def project(lived_in: Project) -> Iterator[Project]:
    """Return the project; what the test leaves uncommitted is put back afterwards."""
    before = git(lived_in.folder, "rev-parse", "HEAD").strip()
    yield lived_in
    git(lived_in.folder, "add", "--all")
    git(lived_in.folder, "reset", "--quiet", "--hard", before)
    lived_in.pipeline()
    git(lived_in.folder, "reset", "--quiet", "--hard", before)


def refused(done: Done, *names: str) -> None:
    """Make sure that a command ended in one error that names something, and in no traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert [name for name in names if name not in done.stderr] == [], done.stderr


def test_first_run(lived_in: Project) -> None:
    (record,) = lived_in.runs()
    pointer = (lived_in.folder / "data/raw.dvc").read_text()
    assert record["dirty"] == []
    assert f"md5: {record['data']['version']}.dir" in pointer
    assert record["commit"] == git(lived_in.folder, "rev-parse", "HEAD~1").strip()
    assert record["parameters"]["model"]["parameters"] == {"C": 0.5}
    assert record["environment"]["libraries"]["scikit-learn"]
    assert 0.5 < record["metrics"]["roc_auc"]["value"] < 1
    assert (lived_in.folder / "models/model.onnx").stat().st_size > 1000
    for kind in ("data", "train", "register"):
        assert len(lived_in.events(kind)) == 1
    assert git(lived_in.folder, "status", "--short") == ""


def test_no_change_does_nothing_and_says_so(project: Project) -> None:
    start = time.monotonic()
    said = project.pipeline()
    TIMES["make pipeline without a change (promised: 5 s on an idle machine)"] = time.monotonic() - start
    assert said.startswith(f"nothing changed: run {project.runs()[-1]['id']}, version 1 stands")
    imported = project.python(
        "import sys; sys.argv = ['ops', 'pipeline']; from flight_delays.ops.__main__ import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    assert {"sklearn", "mlflow", "dvc"}.isdisjoint(imported.split())
    assert git(project.folder, "status", "--short") == ""


def test_what_published_files_lack_is_put_back(project: Project) -> None:
    model, report = project.folder / "models/model.onnx", project.folder / "reports/report.html"
    content = model.read_bytes()
    model.unlink()
    report.write_text("torn")
    assert "nothing changed" in project.pipeline()
    assert model.read_bytes() == content
    assert report.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "old", "new", "stages"),
    [
        ("config/case.yaml", "owner: ", "owner: not ", ["evaluate"]),
        ("config/case.yaml", "miss: ", "miss: 1", ["train", "evaluate"]),
        ("src/flight_delays/features.py", "import numpy as np", "import numpy as np  # .", ["train", "evaluate"]),
        ("src/flight_delays/process.py", "LATE_AFTER = 15", "LATE_AFTER = 30", ["process"]),
        ("src/flight_delays/ops/evaluate/report.py", "from __future__", "# .\nfrom __future__", ["evaluate"]),
        ("src/flight_delays/ops/verbs_2.py", "from __future__", "# .\nfrom __future__", []),
        ("config/model.yaml", "seed: 0", "seed: 1", ["train", "evaluate"]),
        ("config/model.yaml", "# What is trained.", "# What is trained!", []),
    ],
)
def test_what_a_change_runs_again(project: Project, name: str, old: str, new: str, stages: list[str]) -> None:
    """A change of the data goes on to later stages only where rows differ, so `process` alone is known to run."""
    project.replace(name, old, new)
    assert project.would_run()[: len(stages) or None] == stages


def test_a_module_of_your_own_runs_all_again(project: Project) -> None:
    module = project.folder / "src/flight_delays/helpers.py"
    module.write_text('"""Mine."""\n')
    assert project.would_run() == STAGES


def test_one_byte_of_data_and_back(project: Project) -> None:
    """Exactly the stages run that depend on it: all of them on that of a flight, one on that of weather without one."""
    before = project.runs()[-1]
    flip(project.folder / "data/weather.parquet", "temp")
    said = project.pipeline()
    assert RAN.findall(said) == ["process"]
    unseen = project.runs()[-1]
    assert unseen["data"]["version"] != before["data"]["version"]
    assert unseen["prediction"] == before["prediction"]

    flip(project.folder / "data/flights.parquet", "arr_delay")
    said = project.pipeline()
    changed = project.runs()[-1]
    assert RAN.findall(said) == STAGES
    assert changed["data"]["version"] not in (before["data"]["version"], unseen["data"]["version"])
    assert changed["dirty"] == [], "data are bound by their hash"
    assert len(project.runs()) == len({one["key"] for one in project.runs()}) == 3

    said = project.pipeline(f"VERSION={before['data']['version'][:8]}")
    assert RAN.findall(said) == []
    assert set(BACK.findall(said)) <= set(STAGES)
    assert f"run {before['id']}, version 1 stands again" in said
    assert git(project.folder, "diff", "--name-only", "HEAD", "--", "dvc.lock", "data/raw.dvc") == ""
    assert hash_of(project) == before["prediction"]
    refused(make(project.folder, "pipeline", "VERSION=0000"), "VERSION=0000", "no known version")
    refused(make(project.folder, "pipeline", f"VERSION={'0' * 32}"), "0" * 32, "no remote")
    assert git(project.folder, "diff", "--name-only", "HEAD", "--", "dvc.lock", "data/raw.dvc") == ""
    assert well(make(project.folder, "data")).rstrip().endswith(changed["data"]["version"])


def flip(path: Path, name: str) -> None:
    """Flip one bit of one byte: of the first number in a column."""
    table = pq.read_table(path)
    place, field, cells = table.schema.get_field_index(name), table.schema.field(name), table[name].to_pylist()
    row, layout = next(row for row, cell in enumerate(cells) if cell is not None), FORMATS[str(field.type)]
    first, *others = struct.pack(layout, cells[row])
    (cells[row],) = struct.unpack(layout, bytes([first ^ 1, *others]))
    pq.write_table(table.set_column(place, field, pa.array(cells, field.type)), path)


def hash_of(project: Project) -> str:
    """Return the hash of what the published model predicts."""
    return str(json.loads((project.folder / "reports/metrics.json").read_text())["predictions"])


def test_a_dirty_tree_is_marked_until_it_is_committed(project: Project) -> None:
    project.replace("config/case.yaml", "owner: ", "owner: not ")
    (project.folder / "config/mine.yaml").touch()
    said = project.pipeline()
    assert "marked dirty: config/case.yaml, config/mine.yaml; commit" in said
    dirty = project.runs()[-1]
    assert dirty["dirty"] == ["config/case.yaml", "config/mine.yaml"]
    refused(make(project.folder, "reproduce", f"RUN={dirty['id']}"), dirty["id"], "config/mine.yaml", "commit")
    commit(project.folder, "Mine")
    said = project.pipeline()
    assert RAN.findall(said) == []
    clean = project.runs()[-1]
    assert clean["dirty"] == []
    assert clean["prediction"] == dirty["prediction"]
    assert clean["key"] != dirty["key"]


def test_a_run_whose_tests_failed_gives_way_at_a_later_commit(project: Project) -> None:
    """Once for each mended commit, and nothing is trained a second time."""
    first, event = project.runs()[-1], 'from flight_delays.ops.register import events\nevents.append("unfit", run="{}")'
    project.python(event.format(first["id"]))
    assert "nothing changed: run" in project.pipeline(), "of a commit that fails, there is no other version to be had"
    (project.folder / "tests/test_mine.py").write_text('"""Mended."""\n')
    commit(project.folder, "Mend the test")
    said = project.pipeline()
    second = project.runs()[-1]
    assert (RAN.findall(said), f"run {second['id']} is version" in said) == ([], True)
    assert (second["commit"], second["prediction"]) == (
        git(project.folder, "rev-parse", "HEAD").strip(),
        first["prediction"],
    )
    commit(project.folder, "Record")
    assert f"nothing changed: run {second['id']}" in project.pipeline(), "the mended one stands, whatever comes after"
    project.python(event.format(second["id"]))
    assert f"nothing changed: run {second['id']}" in project.pipeline(), "its record alone mends nothing"
    (project.folder / "tests/test_mine.py").write_text('"""Mended otherwise."""\n')
    commit(project.folder, "Mend it otherwise")
    assert "nothing changed" not in project.pipeline()
    assert len({run["key"] for run in project.runs()}) == len(project.runs())


def test_a_failing_stage_leaves_all_as_it_was(project: Project) -> None:
    model, count = (project.folder / "models/model.onnx").read_bytes(), len(project.runs())
    project.replace("src/flight_delays/features.py", "return {", "return {}[0] or {")
    refused(make(project.folder, "pipeline"), "features.py, line", "KeyError")
    assert (project.folder / "models/model.onnx").read_bytes() == model
    assert len(project.runs()) == count


@pytest.fixture(params=["a folder", "S3"])
def remote(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the project a remote of DVC, and return the environment in which it opens."""
    if request.param == "a folder":
        project.dvc("remote", "add", "--default", "store", str(tmp_path / "remote"))
        yield {}
        return
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    ask.direct.open(Request(f"{address}/bucket", method="PUT"), timeout=30).close()
    project.dvc("remote", "add", "--default", "store", "s3://bucket/project")
    project.dvc("remote", "modify", "store", "endpointurl", address)
    yield {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    server.stop()


def test_reproduced_in_a_fresh_clone(project: Project, remote: dict[str, str], tmp_path: Path) -> None:
    """The data come through a remote; another number of threads gives the same predictions."""
    project.dvc("push", "data/raw.dvc", **remote)
    commit(project.folder, "Remote")
    clone = Project(tmp_path / "clone")
    git(tmp_path, "clone", "--quiet", str(project.folder), str(clone.folder))
    share_environment(project.folder, clone.folder)
    record = clone.runs()[-1]
    words = ("reproduce", f"RUN={record['id']}", "THREADS=1")
    said = well(make(clone.folder, *words, offline=not remote, environment=remote))
    assert f"is reproduced: predictions {record['prediction'][:12]}" in said
    assert git(clone.folder, "status", "--short") == ""


def test_what_differs_from_a_record_is_named(project: Project, tmp_path: Path) -> None:
    record = project.runs()[-1]

    def told(facts: dict[str, Any], *names: str) -> None:
        path = tmp_path / "record.json"
        path.write_text(json.dumps(record | facts))
        refused(make(project.folder, "reproduce", f"RUN={path}"), *names)

    source = record["data"]["sources"]["flights"]
    told({"seed": 7}, "seed: 7 in the record, 0 in")
    told({"lock": "0" * 64}, "lock: uv.lock", "0" * 12)
    told({"data": record["data"] | {"version": "0" * 32}}, "0" * 32, "cache")
    told({"data": record["data"] | {"sources": {"flights": source | {"sha256": "0" * 64}}}}, "data: source 'flights'")
    told({"commit": "0" * 40}, "0" * 12, "git fetch")
    digest = json.loads(next(iter(cached(project, f"{record['data']['version']}.dir"))).read_text())[0]["md5"]
    (file,) = cached(project, digest)
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    file.chmod(0o444)
    told({}, record["data"]["version"][:12], "bytes")
    file.chmod(0o644)
    file.write_bytes(content)
    refused(make(project.folder, "reproduce", "RUN=nothing"), "RUN=nothing")


def test_another_lock_in_this_project_is_named(project: Project) -> None:
    lock = project.folder / "uv.lock"
    lock.write_text(lock.read_text() + "\n# another\n")
    refused(make(project.folder, "reproduce", f"RUN={project.runs()[-1]['id']}"), "lock: uv.lock", "this project")


def cached(project: Project, name: str) -> list[Path]:
    """Return the file of DVC's cache with a name."""
    return list((project.folder / ".dvc/cache/files/md5" / name[:2]).glob(name[2:]))


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.thorough)])
def test_killed_at_any_moment(project: Project, kills: int) -> None:
    """Nothing is lost, nothing is half-written, and every model that is asked for is registered once."""
    command = [str(project.folder / ".venv/bin/python"), "-m", "flight_delays.ops", "pipeline"]
    before, whole, draw = len(project.runs()), project.runs()[-1]["duration"], random.Random(kills)
    strength, changes, ended, killed = 0.5, 0, True, 0
    while killed < kills:
        if ended:  # something to do is asked for, so that each kill meets a pipeline at work
            changes += 1
            project.replace("config/model.yaml", f"C: {strength}", f"C: {(strength := kills + changes / 100)}")
            commit(project.folder, "Another model")
        process = subprocess.Popen(command, cwd=project.folder, start_new_session=True, stdout=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, whole))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        ended = process.wait() == 0
        killed += not ended
        assert (project.folder / "models/model.onnx").stat().st_size > 1000
    project.pipeline()
    runs, registered = project.runs(), project.events("register")
    assert len(runs) == before + changes
    assert len({one["key"] for one in runs}) == len(runs)
    assert [event["version"] for event in registered] == list(range(1, len(registered) + 1))
    ids = [one["id"] for one in runs]
    assert sorted(event["run"] for event in registered if event["run"] in ids) == ids
    assert [path for path in project.folder.rglob("*.part*") if ".venv" not in path.parts] == []


def test_torn_files_of_dvc_are_mended(project: Project) -> None:
    lock, pointer = project.folder / "dvc.lock", project.folder / "data/raw.dvc"
    whole = lock.read_bytes(), pointer.read_bytes()
    lock.write_bytes(whole[0][:200])
    pointer.write_bytes(b"outs:\n- md")
    (project.folder / ".dvc/tmp/rwlock").write_text('{"write": {"build')
    said = project.pipeline()
    assert "dvc.lock is damaged" in said
    assert "stands again" in said
    assert (lock.read_bytes(), pointer.read_bytes()) == whole


def test_two_at_once_end_in_one_run(project: Project) -> None:
    project.replace("config/model.yaml", "C: 0.5", "C: 0.75")
    commit(project.folder, "Another model")
    command = [str(project.folder / ".venv/bin/python"), "-m", "flight_delays.ops", "pipeline"]
    both = [
        subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("nothing changed" in one for one in said) == 1


def test_without_a_history(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".venv", ".git", ".dvc", "build"))
    share_environment(project.folder, folder)
    done = run([folder / ".venv/bin/python", "-m", "flight_delays.ops", "pipeline"], folder)
    refused(done, "no commit", "make setup")
