"""`make score` and `make predict ENV=` with what an environment uses: the command for real, killed and run again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ask import user_environment
from conftest import Done, make, must, share_environment, well

pytestmark = pytest.mark.life
KILLS = 5
PUT = """
from flight_delays.ops import register
from flight_delays.ops.config import load
from flight_delays.ops.release import build, store
from flight_delays.ops.release.policy import Policy

policy = load(Policy)
version = max(register.versions(), key=lambda known: known.number)
digest = build.bundled(version, policy, lambda _: None)
store.opened(policy).move("deploy", "prod", digest, None, version=version.number, previous=None, why="a test")
print(digest)
"""
"""Gates have tests of their own."""


@pytest.fixture(scope="module")
def project(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a bundle in production and a file of several parts."""
    home = lived(3, "classification")
    folder = tmp_path_factory.mktemp("score") / "project"
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns(".venv", "releases"), symlinks=True)
    share_environment(home, folder)
    must([folder / ".venv/bin/python", "-c", PUT], folder)
    head, *rows = (folder / "outputs/unseen.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rows.csv").write_text(head + "".join(rows * 32), encoding="utf-8")
    return folder


def killed(project: Path, after: float, *words: str) -> bool:
    """Run make and kill it with all that it started after some seconds, unless it has ended; say whether it was."""
    command, quiet = ["make", "--no-print-directory", *words], subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=project, env=user_environment(), stdout=quiet, stderr=quiet, start_new_session=True
    ) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def test_killed_again_and_again_the_command_gives_the_same_file(project: Path) -> None:
    words = ("score", "INPUT=rows.csv")
    start = time.monotonic()
    said = well(make(project, *words, "OUTPUT=outputs/whole.parquet"))
    takes = time.monotonic() - start
    whole, output = project / "outputs/whole.parquet", project / "outputs/again.parquet"
    rows = len((project / "rows.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert said == f"{rows} rows scored with version 1 -> outputs/whole.parquet\n"
    draw, kills = random.Random(11), 0
    while kills < KILLS:
        if killed(project, draw.uniform(0.4 * takes, takes), *words, "OUTPUT=outputs/again.parquet"):
            kills += 1
            assert not output.exists() or output.read_bytes() == whole.read_bytes()
        else:
            output.unlink()
    well(make(project, *words, "OUTPUT=outputs/again.parquet"))
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in output.parent.glob(".*")] == []
    table = pq.read_table(whole)
    wanted = [line.partition(",")[0] for line in (project / "rows.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert table.column(0).to_pylist() == wanted


def test_predict_and_score_use_the_code_of_the_bundle(project: Path) -> None:
    features = project / "src/flight_delays/features.py"
    text = features.read_text(encoding="utf-8")
    well(make(project, "predict", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/here.parquet"))
    try:
        features.write_text(text.replace('"month":', '"moon":'), encoding="utf-8")
        told(make(project, "predict", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/x.parquet"), "'month'")
        for verb in ("predict", "score"):
            words = (verb, "ENV=prod", "INPUT=outputs/unseen.csv", f"OUTPUT=outputs/{verb}.parquet")
            well(make(project, *words))
    finally:
        features.write_text(text, encoding="utf-8")
    here, *others = (pq.read_table(project / f"outputs/{name}.parquet") for name in ("here", "predict", "score"))
    assert all(here.equals(other) for other in others)


LOGGED = """
import json, sys
from flight_delays.ops.log.truth import joined, predictions
json.dump([sorted(predictions().to_pyarrow()["id"].to_pylist()), joined().count().to_pyarrow().as_py()], sys.stdout)
"""


def test_rows_are_logged_if_asked_for_and_come_back_with_their_truth(project: Path) -> None:
    """LOG of somebody else's environment asks for nothing."""
    words = ("score", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/logged.parquet")
    assert well(make(project, *words, environment={"LOG": "debug"})).endswith(" -> outputs/logged.parquet\n")
    assert not (project / "logs/predictions").exists()
    rows = pq.read_metadata(project / "outputs/logged.parquet").num_rows
    for new in (rows, 0):
        said = well(make(project, *words, "LOG=yes"))
        assert said.endswith(f"-> outputs/logged.parquet; {new} rows logged, {rows - new} were before\n")
    scored = pq.read_table(project / "outputs/logged.parquet")
    truth = scored.append_column("truth", scored["prediction"]).slice(0, 100)
    pq.write_table(truth, project / "outputs/truth.parquet")
    said = well(make(project, "feedback", "FILE=outputs/truth.parquet"))
    assert said == "100 truths taken in from outputs/truth.parquet: 100 new, 0 told before\n"
    ids, known = json.loads(must([project / ".venv/bin/python", "-c", LOGGED], project))
    assert (ids, known) == (sorted(scored["prediction_id"].to_pylist()), 100)
    one = scored["prediction_id"][rows // 2].as_py()
    assert one in well(make(project, "explain", f"ID={one}"))


def told(done: Done, words: str) -> None:
    """Assert that a command was refused in one sentence with these words."""
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    assert re.search(words, said[0]), done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("INPUT=rows.csv", "OUTPUT=outputs/x.csv"), r"outputs/x\.csv: should end with \.parquet"),
        (("INPUT=none.csv", "OUTPUT=outputs/x.parquet"), r"none\.csv: not found"),
        (("INPUT=rows.csv", "OUTPUT=outputs/x.parquet", "ENV=staging"), "nothing is in staging yet"),
        (("INPUT=rows.csv", "OUTPUT=outputs/x.parquet", "ENV=moon"), "ENV is 'moon'"),
        (("INPUT=rows.csv", "OUTPUT=outputs/x.parquet", "LOG=true"), "LOG=true: say LOG=yes"),
        (("INPUT=rows.csv", "OUTPUT=Makefile/x.parquet"), "Makefile"),
        ((), "INPUT=.*OUTPUT="),
    ],
)
def test_wrong_words_are_one_sentence(project: Path, words: tuple[str, ...], says: str) -> None:
    told(make(project, "score", *words), says)
    assert [path.name for path in (project / "outputs").glob("*x.*")] == []


def test_an_altered_bundle_scores_nothing(project: Path) -> None:
    (model,) = project.glob("releases/bundles/*/model.onnx")
    content = model.read_bytes()
    try:
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        told(make(project, "score", "INPUT=rows.csv", "OUTPUT=outputs/x.parquet"), r"model\.onnx: was altered")
    finally:
        model.write_bytes(content)
