"""The image for real: built by the project's own command, it runs locked down and answers as the service does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from ask import user_environment
from conftest import ROOT, Render, git, make, must, run, share_environment, well

SCRIPT = ROOT.parent / "shared/tools/container-engine"
PACKAGES = ("docker.io", "runc", "mmdebstrap", "jq", "unzip", "iptables")
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
TRAINING = ("duckdb", "ibis", "onnx", "pandas", "pyarrow", "sklearn")

pytestmark = pytest.mark.life


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    """What the environment needs for a container engine: the machine's own, or else one started for these tests."""
    if shutil.which("docker") and run(["docker", "info"], ROOT).returncode == 0:
        yield {}
        return
    if not SCRIPT.is_file() or os.geteuid() != 0:
        pytest.skip("no container engine answers; install one: apt-get install docker.io docker-buildx")
    if not shutil.which("dockerd"):
        must(["apt-get", "update", "-qq"], ROOT)
        must(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], ROOT)
    folder = ROOT / "build/engine"
    # the script needs the machine's own Python, which has pip
    exports = must([SCRIPT, "start", folder], ROOT, PATH=user_environment()["PATH"])
    try:
        yield {**dict(re.findall(r"(\w+)=(\S+)", exports)), "UV_IMAGE": "ghcr.io/astral-sh/uv:latest"}
    finally:
        must([SCRIPT, "stop", folder], ROOT)


@pytest.fixture(scope="module", params=["classification", "regression"])
def project(render: Render, engine: dict[str, str], request: pytest.FixtureRequest) -> Path:
    """A project that is set up and has a model; none is made where no engine answers."""
    folder = render(maturity_level=1, task=request.param)
    for step in ("setup", "train"):
        well(make(folder, step, offline=False, environment=engine))
    return folder


@pytest.fixture
def local(project: Path) -> Iterator[str]:
    """The address of the project's service, started without a container."""
    command = [f"{project}/.venv/bin/python", "-m", "flight_delays.ops", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as service:
        found = re.search(r"http://[0-9.:]+", service.stdout.readline() if service.stdout else "")
        assert found, "the service did not start"
        yield found[0]
        service.terminate()


def answers(address: str, project: Path) -> list[bytes]:
    """Return the bodies of every route, with a request of each media type."""
    page = urlopen(f"{address}/openapi.json").read()
    example = json.loads(page)["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["example"]
    rows = "".join((project / "outputs/unseen.csv").read_text(encoding="utf-8").splitlines(keepends=True)[:200])
    bodies = {"application/json": json.dumps(example), "text/csv": rows}
    sent = [Request(f"{address}/invocations", body.encode(), {"Content-Type": kind}) for kind, body in bodies.items()]
    asked = (*sent, Request(f"{address}/version"), Request(f"{address}/docs"))
    return [page, *(urlopen(request).read() for request in asked)]


def test_the_image_runs_locked_down_and_answers_like_the_local_service(
    project: Path, engine: dict[str, str], local: str
) -> None:
    tag = well(make(project, "image", offline=False, environment=engine)).split()[-1]
    started = must(["docker", "run", "--detach", *LOCKED, "--publish", "127.0.0.1::8080", tag], project, **engine)
    container = started.strip()
    try:
        state = ""
        for _ in range(60):
            state = must(["docker", "inspect", "-f", "{{.State.Health.Status}}", container], project, **engine).strip()
            if state == "healthy":
                break
            time.sleep(1)
        assert state == "healthy", run(["docker", "logs", container], project, **engine)
        address = "http://" + must(["docker", "port", container, "8080"], project, **engine).split()[0]
        assert answers(address, project) == answers(local, project)

        def inside(*command: str) -> int:
            return run(["docker", "exec", container, *command], project, **engine).returncode

        assert must(["docker", "exec", container, "id", "-u"], project, **engine).strip() not in ("", "0")
        assert inside("python", "-c", "import onnxruntime") == 0
        assert [library for library in TRAINING if inside("python", "-c", f"import {library}") == 0] == []
        must(["docker", "stop", container], project, **engine)
        assert must(["docker", "inspect", "-f", "{{.State.ExitCode}}", container], project, **engine).strip() == "0"
    finally:
        run(["docker", "rm", "--force", container], project, **engine)
        run(["docker", "image", "rm", tag], project, **engine)


def test_no_image_is_built_of_a_model_that_differs_from_its_contract(project: Path, engine: dict[str, str]) -> None:
    contract = project / "config/contract.yaml"
    text = contract.read_text(encoding="utf-8")
    try:
        contract.write_text(text.replace("degrees Fahrenheit", "degrees Celsius"), encoding="utf-8")
        refused = make(project, "image", offline=False, environment=engine)
    finally:
        contract.write_text(text, encoding="utf-8")
    assert refused.returncode != 0
    assert "column 'temp': unit is 'degrees Celsius'" in " ".join(refused.stderr.split())
    assert must(["docker", "image", "ls", "--quiet", "flight-delays:0.1.0"], project, **engine) == ""


def test_a_release_names_its_image_and_leaves_no_other(project: Path, engine: dict[str, str], tmp_path: Path) -> None:
    clone, tag = tmp_path / "clone", "flight-delays:0.2.0"
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    for key in ("name", "email"):
        git(clone, "config", f"user.{key}", "somebody")
    shutil.copytree(project / "models", clone / "models")
    share_environment(project, clone)
    command = "from flight_delays.ops.release import release; release('0.2.0', 'yes', check=('true',))"
    try:
        said = must([clone / ".venv/bin/python", "-c", command], clone, **engine)
        made = must(["docker", "image", "ls", "--format", "{{.Tag}}", "flight-delays"], clone, **engine)
    finally:
        run(["docker", "image", "rm", tag], clone, **engine)
    assert f"image      {tag}" in said
    assert made.split() == ["0.2.0"]
    assert git(clone, "tag").split() == ["v0.2.0"]
