"""The registry: versions never change, environments move one at a time, and nothing is lost or registered twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.register import (
    current,
    events,
    measured,
    promote,
    promotion,
    register,
    store,
    versions,
    views,
)
from flight_delays.ops.register.run import (
    Run,
    write,
)
from rich.console import Console

MODEL = Path("models/model.onnx")


def recorded(number: int, **facts: Any) -> Run:
    """Write a model and the record of its run, in the working folder."""
    content = f"model {number}".encode()
    MODEL.parent.mkdir(exist_ok=True)
    MODEL.write_bytes(content)
    key = hashlib.sha256(content).hexdigest()
    run = Run(
        id=f"20261123-2314{number:02}-{key[:8]}",
        key=key,
        commit="c0ffee" * 6,
        dirty=[],
        data={"version": "da7a" * 8, "sources": {}},
        labels=None,
        lock="10c" * 21,
        parameters={"model": {"estimator": "Tree", "parameters": {"depth": number, "a b/c": None}}},
        seed=0,
        environment={},
        threads=1,
        duration=12.5,
        metrics={"quality": {"value": 0.7, "low": 0.6, "high": None}, "other": {"value": None}},
        kept="candidate",
        model=hashlib.sha256(content).hexdigest(),
        prediction="",
    )
    run = replace(run, **facts)
    write(run)
    return run


def registered(number: int, **facts: Any) -> int:
    run = recorded(number, **facts)
    return register(run, MODEL, {"run.json": run.path}, print)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with three versions, the second of them from uncommitted files."""
    folder = tmp_path_factory.mktemp("registry")
    with chdir(folder):
        for number in (1, 2, 3):
            assert registered(number, dirty=["src/a.py"] if number == 2 else []) == number
    return folder


@pytest.fixture
def project(registry: Path, tmp_path: Path) -> Iterator[Path]:
    """The same in a folder of its own: it has moved, and the test may do to it what it wants."""
    folder = tmp_path / "project"
    shutil.copytree(registry, folder)
    with chdir(folder):
        yield folder


@pytest.mark.usefixtures("project")
def test_versions_say_where_they_come_from() -> None:
    newest, dirty, first = versions()
    assert (newest.number, newest.aliases, newest.dirty) == (3, frozenset({"challenger"}), False)
    assert (dirty.number, dirty.dirty) == (2, True)
    assert first.digest == hashlib.sha256(b"model 1").hexdigest()
    assert measured()[first.tracked] == {"quality": 0.7, "quality_low": 0.6}
    with store.opened() as client:
        run = client.get_run(first.tracked)
    assert run.data.params == {"estimator": "Tree", "parameters.depth": "1", "parameters.a b_c": "None"}
    assert run.info.end_time - run.info.start_time == 12_500
    assert run.info.status == "FINISHED"


@pytest.mark.usefixtures("project")
def test_what_is_registered_stays_as_it_is() -> None:
    assert registered(1) == 1
    other = recorded(1)
    MODEL.write_bytes(b"other bytes")
    with pytest.raises(ProjectError, match="not the model of run"):
        register(other, MODEL, {})
    with pytest.raises(ProjectError, match="version 1 holds other bytes"):
        register(replace(other, model=hashlib.sha256(b"other bytes").hexdigest()), MODEL, {})
    assert len(versions()) == 3
    assert len(events.read("register")) == 3


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("step", ["log_batch", "set_terminated", "create_model_version", "set_registered_model_alias"])
def test_a_killed_registration_is_finished(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            registered(4)
    assert registered(4) == 4
    assert [version.number for version in versions() if "challenger" in version.aliases] == [4]
    assert len([event for event in events.read("register") if event["version"] == 4]) == 1
    with store.opened() as client:
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


@pytest.mark.usefixtures("project")
def test_a_promotion_moves_the_environment_and_is_logged() -> None:
    assert promote(1, "staging", None, "looks good") is not None
    assert promote(3, "prod", None) is not None
    assert promote(3, "prod", promotion("prod")) is None
    event = promote(1, "prod", promotion("prod"))
    assert event is not None
    assert (event["version"], event["previous"], event["environment"]) == (1, 3, "prod")
    assert event["who"]
    assert [entry.get("why") for entry in events.read("promote")] == ["looks good", None, None]
    assert {version.number: version.aliases for version in versions()} == {
        1: {"staging", "prod", "champion"},
        2: set(),
        3: set(),
    }


@pytest.mark.usefixtures("project")
def test_a_promotion_without_its_event_is_logged_afterwards() -> None:
    """Whoever moved it: a command that was killed, or a person in MLflow's own pages."""
    with store.opened() as client:
        client.set_registered_model_alias(store.NAME, "dev", "3")
    assert promote(3, "dev", promotion("dev")) is not None
    assert len(events.read("promote")) == 1


@pytest.mark.usefixtures("project")
def test_promotions_that_are_refused() -> None:
    with pytest.raises(ProjectError, match="version 2 was trained from changes that are not committed"):
        promote(2, "prod", None)
    with pytest.raises(ProjectError, match="VERSION is 7: there is no such version; registered: 1, 2, 3"):
        promote(7, "prod", None)
    with pytest.raises(ProjectError, match="choose dev, staging or prod"):
        promotion("production")
    promote(1, "prod", None)
    with pytest.raises(ProjectError, match="prod was moved to version 1 by"):
        promote(3, "prod", None)
    file = versions()[0].local
    assert file is not None
    file.write_bytes(b"altered")
    with pytest.raises(ProjectError, match="not the file that was registered as version 3"):
        promote(3, "prod", promotion("prod"))
    file.unlink()
    with pytest.raises(ProjectError, match="the model of version 3 is missing"):
        promote(3, "prod", promotion("prod"))
    assert len(events.read("promote")) == 1


def test_an_environment_gives_its_model(project: Path) -> None:
    with pytest.raises(ProjectError, match="nothing is in prod yet"):
        current("prod")
    promote(1, "prod", None)
    version, file = current("prod")
    assert (version.number, file.read_bytes()) == (1, b"model 1")
    assert file.resolve().is_relative_to(project.resolve())
    file.write_bytes(b"altered")
    with pytest.raises(ProjectError, match="was altered"):
        current("prod")


def test_nothing_is_registered_yet(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert versions() == []
        for ask in (lambda: current("prod"), lambda: promote(1, "prod", None)):
            with pytest.raises(ProjectError, match="nothing is registered yet"):
                ask()
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ProjectError, match=r"^MLFLOW_TRACKING_URI: http://me:\*\*\*@127.0.0.1:9 does not answer"):
        versions()
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("width", "shown"), [(80, "20261123-231402 "), (200, "20261123-231402-")])
def test_tables_fit_the_terminal(width: int, shown: str) -> None:
    promote(1, "prod", None)
    file = versions()[0].local
    assert file is not None
    file.write_bytes(b"altered")
    console = Console(width=width, file=StringIO())
    console.print(views.models(versions(), measured(), "quality", console), views.runs("quality", console))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for word in ("challenger", "champion", "altered", "changed", "0.700", "candidate", shown):
        assert word in text
    assert "…" not in text


def test_events_are_kept_whole(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert events.read() == []
        events.append("data", version="é" * 5000)
        events.append("train", run="a")
        with events.EVENTS.open("ab") as log:
            log.write(b'{"id": "torn' + b"x" * 9000)
        assert [event["kind"] for event in events.read()] == ["data", "train"]
        events.append("train", run="b")
        assert [event["kind"] for event in events.read()] == ["data", "train", "train"]
        assert events.last("train") == events.read()[-1]
        assert events.last("train", run="a") == events.read()[1]
        lines = events.EVENTS.read_text(encoding="utf-8").splitlines()
        assert {"id", "time", "kind", "who"} < json.loads(lines[0]).keys()
        events.EVENTS.write_text("\n".join(["nonsense", *lines]) + "\n", encoding="utf-8")
        with pytest.raises(ProjectError, match="line 1: is not an event"):
            events.read()
