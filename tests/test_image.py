"""The image for real: built by the project's own command, it runs locked down and answers as the service does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from ask import user_environment
from conftest import ROOT, Render, git, make, must, run, share_environment, well
from test_log import RELEASED, row

SCRIPT = ROOT.parent / "shared/tools/container-engine"
PACKAGES = ("docker.io", "runc", "mmdebstrap", "jq", "unzip", "iptables")
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
TRAINING = ("duckdb", "ibis", "mlflow", "onnx", "pandas", "pyarrow", "sklearn")
LARGEST = 350
"""Of the image with its base, MB as the engine counts them."""
MOUNTED = ("releases", ".keys/release.pub")
SERVING = ("--frozen", "--no-default-groups", "--group", "serve", "--group", "deploy")
STAND_IN = """
FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends {package} && \\
    ([ -e /bin/{name} ] || ln -s /usr/bin/{package} /bin/{name}) && mkdir -p /etc/{name} /{name} && \\
    chown -R nobody:nogroup /etc/{name} /{name}
USER nobody
VOLUME /{name}
WORKDIR /{name}
ENTRYPOINT ["/bin/{name}"]
CMD ["--config.file=/etc/{name}/{name}.yml", "--storage{store}.path=/{name}"]
"""
"""Debian's program where no registry answers: an older release, with user, paths and options of the real image."""
WATCHERS = {"prometheus": ("prometheus", ".tsdb"), "alertmanager": ("prometheus-alertmanager", "")}
HOOK = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()

HTTPServer(("", 8000), Hook).serve_forever()
"""
"""Takes what Alertmanager posts, and writes it to its log."""
HURRY = {
    "compose.yaml": (("15s", "1s"), ("group_wait: 30s", "group_wait: 1s, group_interval: 1s")),
    "monitoring/alerts.yml": (("for: 1m", "for: 1s"),),
}
Engine = dict[str, str]

pytestmark = pytest.mark.life


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
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
def project(render: Render, engine: Engine, request: pytest.FixtureRequest) -> Path:
    """A project that is set up and has a model; none is made where no engine answers."""
    folder = render(maturity_level=1, task=request.param)
    for step in ("setup", "train"):
        well(make(folder, step, offline=False, environment=engine))
    return folder


@pytest.fixture(scope="module")
def released(render: Render) -> Path:
    """A project of level 3 whose model is in production."""
    folder = render(maturity_level=3)
    for step in ("setup", "train"):
        well(make(folder, step, offline=False))
    for environment in ("dev", "staging", "prod"):
        well(make(folder, "deploy", f"ENV={environment}"))
    return folder


@contextmanager
def local(project: Path, environment: Path | None = None) -> Iterator[str]:
    """Start the project's service without a container, in its own environment or another, and give its address."""
    python = (environment or project / ".venv") / "bin/python"
    command = [str(python), "-m", "flight_delays.ops", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as service:
        try:
            found = re.search(r"http://[0-9.:]+", service.stdout.readline() if service.stdout else "")
            assert found, "the service did not start"
            yield found[0]
        finally:
            service.terminate()


@contextmanager
def container(project: Path, engine: Engine, *words: str) -> Iterator[tuple[str, str]]:
    """Run an image locked down; give the container's id and its address once the engine finds it healthy."""
    started = must(["docker", "run", "--detach", *LOCKED, "--publish", "127.0.0.1::8080", *words], project, **engine)
    name = started.strip()
    try:
        for _ in range(60):
            if inspected(name, "State.Health.Status", project, engine) == "healthy":
                break
            time.sleep(1)
        else:
            pytest.fail(f"never healthy: {run(['docker', 'logs', name], project, **engine)}")
        yield name, "http://" + must(["docker", "port", name, "8080"], project, **engine).split()[0]
    finally:
        run(["docker", "rm", "--force", "--volumes", name], project, **engine)


def inspected(name: str, what: str, project: Path, engine: Engine) -> str:
    """Return what the engine knows of a container or an image."""
    return must(["docker", "inspect", "-f", f"{{{{.{what}}}}}", name], project, **engine).strip()


def refuse_too_much_inside(name: str, project: Path, engine: Engine) -> None:
    """Assert that a container runs without rights and holds no library of training."""

    def inside(*command: str) -> int:
        return run(["docker", "exec", name, *command], project, **engine).returncode

    assert must(["docker", "exec", name, "id", "-u"], project, **engine).strip() not in ("", "0")
    assert inside("python", "-c", "import onnxruntime") == 0
    assert [library for library in TRAINING if inside("python", "-c", f"import {library}") == 0] == []


def answers(address: str, project: Path, more: Sequence[Request] = ()) -> list[bytes]:
    """Return the bodies of every route, with a request of each media type."""
    page = urlopen(f"{address}/openapi.json").read()
    example = json.loads(page)["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]["example"]
    rows = "".join((project / "outputs/unseen.csv").read_text(encoding="utf-8").splitlines(keepends=True)[:200])
    bodies = {"application/json": json.dumps(example), "text/csv": rows}
    sent = [Request(f"{address}/invocations", body.encode(), {"Content-Type": kind}) for kind, body in bodies.items()]
    asked = (*sent, Request(f"{address}/version"), Request(f"{address}/docs"), *more)
    return [page, *(urlopen(request).read() for request in asked)]


def test_the_image_runs_locked_down_and_answers_like_the_local_service(project: Path, engine: Engine) -> None:
    tag = well(make(project, "image", offline=False, environment=engine)).split()[-1]
    try:
        with container(project, engine, tag) as (name, address), local(project) as there:
            assert answers(address, project) == answers(there, project)
            refuse_too_much_inside(name, project, engine)
            must(["docker", "stop", name], project, **engine)
            assert inspected(name, "State.ExitCode", project, engine) == "0"
    finally:
        run(["docker", "image", "rm", tag], project, **engine)


def test_no_image_is_built_of_a_model_that_differs_from_its_contract(project: Path, engine: Engine) -> None:
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


def test_a_release_names_its_image_and_leaves_no_other(project: Path, engine: Engine, tmp_path: Path) -> None:
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


@pytest.fixture(scope="module")
def image(released: Path, engine: Engine) -> Iterator[str]:
    """The image of level 3, built without a model in models/."""
    model = released / "models/model.onnx"
    model.rename(model.with_suffix(".kept"))
    try:
        tag = well(make(released, "image", offline=False, environment=engine)).split()[-1]
    finally:
        model.with_suffix(".kept").rename(model)
    yield tag
    run(["docker", "image", "rm", "--force", tag], released, **engine)


def test_the_image_follows_an_environment_and_answers_like_the_local_service(
    released: Path, engine: Engine, image: str
) -> None:
    assert int(inspected(image, "Size", released, engine)) < LARGEST * 10**6
    store = [word for name in MOUNTED for word in ("--volume", f"{released / name}:/app/{name}:ro")]
    page = {"inputs": [{"name": "distance", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]}
    with (
        container(released, engine, *store, "--env", "SERVICE_OPEN=yes", image) as (name, address),
        local(released) as there,
    ):
        asked = [[Request(f"{one}/{route}") for route in ("ping", "v2")] for one in (address, there)]
        assert answers(address, released, asked[0]) == answers(there, released, asked[1])
        assert refused(f"{address}/v2/models/none/infer", page) == refused(f"{there}/v2/models/none/infer", page)
        refuse_too_much_inside(name, released, engine)
        assert run(["docker", "exec", name, "test", "-e", "models/model.onnx"], released, **engine).returncode != 0
        assert run(["docker", "exec", name, "sh", "-c", "echo > releases/x"], released, **engine).returncode != 0
        logged = must(["docker", "exec", name, "sh", "-c", "cat logs/predictions/*"], released, **engine)
        assert len(logged.splitlines()) >= 200
        must(["docker", "stop", name], released, **engine)
        assert inspected(name, "State.ExitCode", released, engine) == "0"


def refused(address: str, body: Any) -> tuple[int, bytes]:
    """Return the status and the body of a refusal."""
    with pytest.raises(HTTPError) as error:
        urlopen(Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"}))
    return error.value.code, error.value.read()


def test_compose_brings_the_service_up_healthy_with_its_key(released: Path, engine: Engine) -> None:
    def compose(*words: str, **environment: str) -> Any:
        return run(["docker", "compose", *words], released, **engine, SERVICE_PORT="0", **environment)

    undecided = compose("config")
    assert undecided.returncode != 0
    assert "SERVICE_KEY" in undecided.stderr
    assert "SERVICE_OPEN=yes" in undecided.stderr
    try:
        well(compose("up", "--build", "--wait", SERVICE_KEY="secret"))
        address = "http://" + well(compose("port", "service", "8080", SERVICE_KEY="secret")).strip()
        assert refused(f"{address}/invocations", {})[0] == 401
        row = (released / "outputs/unseen.csv").read_text(encoding="utf-8").splitlines(keepends=True)[:2]
        headers = {"Content-Type": "text/csv", "X-API-Key": "secret"}
        told = json.loads(urlopen(Request(f"{address}/invocations", "".join(row).encode(), headers)).read())
        assert len(told["predictions"]) == 1
        name = well(compose("ps", "--quiet", SERVICE_KEY="secret")).strip()
        assert inspected(name, "HostConfig.ReadonlyRootfs", released, engine) == "true"
        assert inspected(name, "HostConfig.CapDrop", released, engine) == "[ALL]"
        mounts = json.loads(must(["docker", "inspect", "-f", "{{json .Mounts}}", name], released, **engine))
        writable = {mount["Destination"] for mount in mounts if mount["RW"]}
        assert writable == {"/app/logs"}
        assert not any(mount["Source"].endswith((".keys", "release.pem")) for mount in mounts)
    finally:
        compose("down", "--volumes", "--rmi", "all", SERVICE_KEY="secret")


@pytest.fixture
def watched(lived: Callable[[int, str], Path], engine: Engine, tmp_path: Path) -> Iterator[tuple[Path, Engine]]:
    """A project of level 4 whose model is in production and whose alerts do not wait, and what compose is told."""
    source, project = lived(4, "classification"), tmp_path / "project"
    kept = shutil.ignore_patterns(".venv", "releases", ".keys", "logs")
    shutil.copytree(source, project, ignore=kept, symlinks=True)
    share_environment(source, project)
    (project / ".git/info/exclude").write_text(".venv\n", encoding="utf-8")
    for name, words in HURRY.items():
        text = (project / name).read_text(encoding="utf-8")
        for old, new in words:
            assert old in text
            text = text.replace(old, new)
        (project / name).write_text(text, encoding="utf-8")
    must([project / ".venv/bin/python", "-c", RELEASED], project)
    services = yaml.safe_load((project / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name, (package, store) in WATCHERS.items():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", services[name]["image"])
        if run(["docker", "pull", "--quiet", image], project, **engine).returncode != 0:
            (tmp_path / name).mkdir()
            text = STAND_IN.format(name=name, package=package, store=store)
            (tmp_path / name / "Dockerfile").write_text(text, encoding="utf-8")
            must(["docker", "build", "--quiet", "--tag", image, tmp_path / name], project, **engine)
    ports = dict.fromkeys(("SERVICE_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT"), "0")
    told = {"SERVICE_KEY": "secret", "SERVICE_LOGS": "./logs", "SERVICE_USER": f"{os.getuid()}:{os.getgid()}"}
    told |= {"COMPOSE_PROJECT_NAME": "watched", "COMPOSE_PROFILES": "monitoring", "ALERT_WEBHOOK": "http://hook:8000"}
    everything = {**engine, **ports, **told}
    try:
        yield project, everything
    finally:
        run(["docker", "rm", "--force", "watched-hook"], project, **everything)
        run(["docker", "compose", "down", "--volumes", "--rmi", "all"], project, **everything)


def soon(what: str, ask: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(120):
        if ask():
            return
        time.sleep(0.5)
    pytest.fail(f"in a minute not so: {what}")


@pytest.mark.thorough
def test_compose_watches_the_service_and_tells_the_webhook(watched: tuple[Path, Engine]) -> None:
    """Drift that the service logs and `make monitor` sees is scraped and told, and so is the service's end."""
    project, environment = watched

    def compose(*words: str, **more: str) -> Any:
        return run(["docker", "compose", *words], project, **{**environment, **more})

    def at(service: str, port: int, path: str) -> str:
        return f"http://{well(compose('port', service, str(port))).strip()}{path}"

    well(compose("up", "--build", "--wait"))
    hook = ("--detach", "--name", "watched-hook", "--network", "watched_default", "--network-alias", "hook")
    must(["docker", "run", *hook, "python:3.11-slim", "python", "-c", HOOK], project, **environment)
    prometheus = at("prometheus", 9090, "/api/v1/")

    def asked(path: str) -> Any:
        return json.loads(urlopen(prometheus + path).read())["data"]

    def told() -> set[str]:
        logged = must(["docker", "logs", "watched-hook"], project, **environment).splitlines()
        alerts = [alert for line in logged if line for alert in json.loads(line)["alerts"]]
        assert {alert["labels"]["environment"] for alert in alerts} <= {"prod"}
        return {alert["labels"]["alertname"] for alert in alerts if alert["status"] == "firing"}

    soon("the service is scraped", lambda: [one["health"] for one in asked("targets")["activeTargets"]] == ["up"])
    rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    for name in ("prometheus", "alertmanager"):
        assert well(compose("exec", name, "id", "-un")).strip() == "nobody"
        assert inspected(f"watched-{name}-1", "HostConfig.CapDrop", project, environment) == "[ALL]"
    headers = {"Content-Type": "application/json", "X-API-Key": "secret"}
    body = json.dumps({"dataframe_records": [row(project)] * 1000}).encode()
    urlopen(Request(at("service", 8080, "/invocations"), body, headers)).read()
    python: list[str | Path] = [project / ".venv/bin/python", "-m", "flight_delays.ops"]
    must([*python, "freeze", "--why", "a test"], project)
    time.sleep(1.1)  # the window ends with a whole second
    assert "data drift" in must([*python, "monitor"], project)
    soon("the webhook hears of the drift", lambda: "Drift" in told())
    assert "ServiceDown" not in told()
    well(compose("stop", "service"))
    soon("the webhook hears that the service is gone", lambda: "ServiceDown" in told())
    nonsense = compose("up", "--wait", "alertmanager", ALERT_WEBHOOK="nowhere")
    assert nonsense.returncode != 0, "an Alertmanager that refuses its configuration has to be seen"
    assert "alertmanager" in nonsense.stderr


def test_the_service_needs_no_library_of_training(released: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    uv = shutil.which("uv") or str(released / ".uv/bin/uv")
    must([uv, "sync", "--quiet", *SERVING], released, UV_PROJECT_ENVIRONMENT=str(environment))
    python = environment / "bin/python"
    assert [library for library in TRAINING if run([python, "-c", f"import {library}"], tmp_path).returncode == 0] == []
    with local(released, environment) as there, local(released) as here:
        assert answers(there, released) == answers(here, released)
