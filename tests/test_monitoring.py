"""Central metrics with the real parts: rules that fire and that stay quiet, a service that is scraped, a webhook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from conftest import ROOT, Render, must, run, share_environment
from test_log import RELEASED, ask, row, service

RULES = ROOT / "template/monitoring/alerts.yml"
DASHBOARD = ROOT / "template/monitoring/dashboard.json"
PARTS = ("promtool", "prometheus", "amtool", "prometheus-alertmanager")
MISSING = [part for part in PARTS if shutil.which(part) is None]
real_parts = pytest.mark.skipif(bool(MISSING), reason="apt-get install prometheus prometheus-alertmanager")
PATIENCE = 60
"""Seconds until an alert has to have come."""
OF = 'environment="prod"'
REQUESTS = f'service_requests_total{{{OF},status="%s"}}'
BUCKETS = [(f'service_seconds_bucket{{{OF},le="{bound}"}}', bound) for bound in ("0.05", "0.1", "0.25", "+Inf")]
MEMORY = f'process_resident_memory_bytes{{{OF},job="service"}}'
UP = f'up{{{OF},job="service"}}'
Series = dict[str, str]


def answers(*steps: str) -> Series:
    """Return what the histogram of answers counts, one series for each of its bounds."""
    return dict(zip((name for name, _ in BUCKETS), steps, strict=True))


def alarms(signal: str, values: str) -> Series:
    return {f'monitor_alarms{{{OF},signal="{signal}"}}': values}


def ended(outcome: str, values: str) -> Series:
    return {f'monitor_retrainings_total{{{OF},outcome="{outcome}"}}': values}


SLOWER = tuple(f"0+{then}x1440 {1440 * then}+{now}x200" for then, now in ((60, 0), (60, 0), (60, 60), (60, 60)))
CASES: dict[str, tuple[str, list[Series], list[Series]]] = {
    "ServiceDown": ("3m", [{UP: "1 0x10"}], [{UP: "1x10"}, {UP: "1 0 1x10"}]),
    "ErrorShare": (
        "15m",
        [{REQUESTS % 200: "0+95x20", REQUESTS % 503: "0+5x20"}],
        [{REQUESTS % 200: "0+1000x20", REQUESTS % 503: "0+1x20", REQUESTS % 422: "0+500x20"}, {REQUESTS % 200: "0x20"}],
    ),
    "SlowAnswers": (
        "20m",
        [answers("0+90x30", "0+90x30", "0+100x30", "0+100x30")],
        [answers("0+999x30", "0+999x30", "0+1000x30", "0+1000x30"), answers("0x30", "0x30", "0x30", "0x30")],
    ),
    "SlowerThanYesterday": (
        "26h",
        [answers(*SLOWER)],
        [answers(*["0+60x1640"] * 4), answers(*["_x1440 0+60x200"] * 4)],
    ),
    "MemoryGrows": ("8h", [{MEMORY: "2e8+200000x480"}], [{MEMORY: "2e8+1000x480"}, {MEMORY: "4e8-200000x480"}]),
    "LogUnwritten": (
        "4m",
        [{f"service_unlogged_total{{{OF}}}": "0 0 3 3 3"}],
        [{f"service_unlogged_total{{{OF}}}": "3x10"}],
    ),
    "BundleRefused": (
        "4m",
        [{f"service_refused_bundles_total{{{OF}}}": "0 0 1 1 1"}],
        [{f"service_refused_bundles_total{{{OF}}}": "1x10"}],
    ),
    "Drift": (
        "2m",
        [alarms("data drift", "0 2 2"), alarms("prediction drift", "0 1 1")],
        [alarms("data drift", "0x5"), alarms("quality", "1x5"), alarms("data drift", "2 2 0")],
    ),
    "QualityLost": (
        "2m",
        [alarms(one, "1x5") for one in ("quality", "slices", "bias", "calibration")],
        [alarms("skew", "1x5")],
    ),
    "StrangeAnswers": ("2m", [alarms(one, "1x5") for one in ("skew", "numbers")], [alarms("quality", "1x5")]),
    "StaleData": (
        "2m",
        [alarms("freshness", "1x5"), alarms("staleness", "1x5")],
        [alarms("freshness", "0x5"), alarms("numbers", "1x5")],
    ),
    "NotAsReleased": (
        "2m",
        [alarms(one, "1x5") for one in ("latency", "memory", "packages")],
        [alarms("latency", "0x5"), alarms("freshness", "1x5")],
    ),
    "NobodyLooks": (
        "40m",
        [{UP: "1x60"}, {UP: "1x60", f"monitor_looked_timestamp_seconds{{{OF}}}": "60x60"}],
        [{UP: "1x60", f"monitor_looked_timestamp_seconds{{{OF}}}": "0+60x60"}, {UP: "0x60"}],
    ),
    "Frozen": (
        "90m",
        [{f"monitor_frozen{{{OF}}}": "1x120"}],
        [{f"monitor_frozen{{{OF}}}": "0x120"}, {f"monitor_frozen{{{OF}}}": "1x40 0 1x120"}],
    ),
    "RetrainingNeedsPeople": (
        "10m",
        [ended(one, "0 0 1x10") for one in ("refused", "failed", "waits")],
        [ended("deployed", "0 0 1x10"), ended("refused", "1x20")],
    ),
}
"""For each alert a moment, series a minute apart with which it fires then, and series with which it does not."""


def rules() -> dict[str, dict[str, Any]]:
    page = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return {rule["alert"]: rule for group in page["groups"] for rule in group["rules"]}


def judged(name: str, folder: Path, content: str) -> subprocess.CompletedProcess[str]:
    """Let promtool judge the rules with the cases of an alert; who fires and who does not is seen by counting."""
    moment, loud, quiet = CASES[name]
    (folder / "alerts.yml").write_text(content, encoding="utf-8")
    tests = []
    for fires, cases in ((1, loud), (0, quiet)):
        for case in cases:
            series = [{"series": one, "values": values} for one, values in case.items()]
            count = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
            wanted = {"expr": count, "eval_time": moment, "exp_samples": [{"labels": "{}", "value": fires}]}
            tests.append({"interval": "1m", "input_series": series, "promql_expr_test": [wanted]})
    page = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(page), encoding="utf-8")
    return run(["promtool", "test", "rules", "tests.yml"], folder)


def test_every_alert_has_its_cases() -> None:
    assert {*CASES} == {*rules()}
    assert all(loud and quiet for _, loud, quiet in CASES.values())


def test_every_signal_of_the_monitors_has_its_alert() -> None:
    """Also one that is added later: what no rule passes on reaches nobody through Prometheus."""
    (module,) = (ROOT / "template/src").glob("*/ops/monitor/__init__.py")
    written = re.search(r"Signal: TypeAlias = Literal\[(.*?)\]", module.read_text(encoding="utf-8"), re.S)
    assert written
    signals = set(re.findall(r'"([a-z ]+)"', written[1]))
    parts = [re.findall(r'signal=~?"([^"]+)"', rule["expr"]) for rule in rules().values()]
    told = [name for part in parts for one in part for name in one.split("|")]
    assert len(signals) > 8
    assert sorted(told) == sorted(signals)


@real_parts
def test_the_rules_are_rules(tmp_path: Path) -> None:
    must(["promtool", "check", "rules", RULES], tmp_path)


@real_parts
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_and_stays_quiet(name: str, tmp_path: Path) -> None:
    content = RULES.read_text(encoding="utf-8")
    done = judged(name, tmp_path, content)
    assert done.returncode == 0, done.stdout + done.stderr


@real_parts
@pytest.mark.parametrize(("fault", "which"), [("vector(0) > 1", "fires"), ("vector(1)", "stays quiet")])
def test_a_rule_that_is_wrong_is_found(fault: str, which: str, tmp_path: Path) -> None:
    page = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in page["groups"]:
        for rule in group["rules"]:
            rule["expr"], rule["annotations"] = fault, {}
    assert judged("Drift", tmp_path, yaml.safe_dump(page)).returncode != 0, f"no case checks that it {which}"


@real_parts
def test_sentences_are_filled_in(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    told = {"summary": "prod: data drift, in 2 of what is watched; `make status` says where."}
    labels = {"environment": "prod", "signal": "data drift", "severity": "ticket"}
    wanted = {"eval_time": "2m", "alertname": "Drift", "exp_alerts": [{"exp_labels": labels, "exp_annotations": told}]}
    series = [{"series": one, "values": values} for one, values in alarms("data drift", "0 2 2").items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": [wanted]}]
    page = {"rule_files": ["alerts.yml"], "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(page), encoding="utf-8")
    must(["promtool", "test", "rules", "tests.yml"], tmp_path)


def test_the_dashboard_is_one() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert (board["title"], board["schemaVersion"]) == ("Model in production", 39)
    panels = board["panels"]
    assert [panel["id"] for panel in panels] == [*range(1, len(panels) + 1)]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in own) < 24
        assert cells.isdisjoint(own), f"{panel['title']} lies on another panel"
        cells |= own
        assert all(target["expr"].count("$environment") for target in panel["targets"])


@real_parts
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """They are read as rules, with the dashboard's variables filled in."""
    found = [{"record": f"panel:{place}", "expr": one} for place, one in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": found}]}))
    must(["promtool", "check", "rules", "rules.yml"], tmp_path)


def queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [one.replace("$__rate_interval", "5m").replace("$environment", "prod") for one in found]


def metrics(queries: list[str]) -> set[str]:
    """Return the names of the series that queries ask for."""
    return {name for one in queries for name in re.findall(r"\b(?:service|monitor|process)_[a-z_]+\b", one)}


def configured(project: Path, **environment: str) -> dict[str, str]:
    """Return what stands under `configs:` of compose.yaml, with the variables that compose fills in."""

    def value(found: re.Match[str]) -> str:
        given = environment.get(found["name"], "")
        return (given and found["text"]) if found["how"] == ":+" else given or found["text"]

    page = yaml.safe_load((project / "compose.yaml").read_text(encoding="utf-8"))
    form = r"\$\{(?P<name>\w+)(?P<how>:?[-+])(?P<text>[^}]*)\}"
    return {name: re.sub(form, value, content["content"]) for name, content in page["configs"].items()}


@pytest.mark.parametrize("webhook", ["", "http://localhost:1/hook"])
@real_parts
def test_the_configurations_are_valid(render: Render, tmp_path: Path, webhook: str) -> None:
    project = render(maturity_level=4)
    found = configured(project, ALERT_WEBHOOK=webhook, SERVICE_KEY=webhook and "secret")
    text = found["prometheus"].replace("/etc/prometheus/alerts.yml", f"{project / 'monitoring/alerts.yml'}")
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    assert f"{len(CASES)} rules found" in must(["promtool", "check", "config", "prometheus.yml"], tmp_path)
    (tmp_path / "alertmanager.yml").write_text(found["alertmanager"], encoding="utf-8")
    must(["amtool", "check-config", "alertmanager.yml"], tmp_path)
    services = yaml.safe_load((project / "compose.yaml").read_text(encoding="utf-8"))["services"]
    watching = [name for name, about in services.items() if about.get("profiles") == ["monitoring"]]
    assert watching == [name for name, about in services.items() if "configs" in about]
    assert not any(services[name].get("read_only") for name in watching), "compose could not copy the file into it"
    receiver = yaml.safe_load(found["alertmanager"])["route"]["receiver"]
    assert receiver == ("page-and-webhook" if webhook else "page")


class Hook(BaseHTTPRequestHandler):
    """Takes what Alertmanager posts."""

    told: list[dict[str, Any]]

    def do_POST(self) -> None:
        """Keep every alert."""
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told += content["alerts"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def free() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


@contextmanager
def watched(project: Path, folder: Path, port: int) -> Iterator[list[dict[str, Any]]]:
    """Run Prometheus and Alertmanager as compose.yaml configures them, in a hurry; gives what the webhook is told."""
    told: list[dict[str, Any]] = []
    with ExitStack() as stack:
        hook = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Hook,), {"told": told})))
        Thread(target=hook.serve_forever, daemon=True).start()
        stack.callback(hook.shutdown)
        address, (web, alerts) = f"http://127.0.0.1:{hook.server_address[1]}", (free(), free())
        found = configured(project, ALERT_WEBHOOK=address, SERVICE_KEY="secret")
        content = found["prometheus"].replace("15s", "1s").replace("service:8080", f"127.0.0.1:{port}")
        content = content.replace("/etc/prometheus", f"{folder}").replace("alertmanager:9093", f"127.0.0.1:{alerts}")
        (folder / "prometheus.yml").write_text(content, encoding="utf-8")
        hurried = RULES.read_text(encoding="utf-8").replace("for: 1m", "for: 1s")
        (folder / "alerts.yml").write_text(hurried, encoding="utf-8")
        route = found["alertmanager"].replace("group_wait: 30s", "group_wait: 1s, group_interval: 1s")
        (folder / "alertmanager.yml").write_text(route, encoding="utf-8")
        stack.enter_context(
            process(
                folder,
                "prometheus-alertmanager",
                "--config.file=alertmanager.yml",
                "--storage.path=alertmanager",
                f"--web.listen-address=127.0.0.1:{alerts}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            process(
                folder,
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{web}",
            )
        )
        yield told


def wait(told: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the first alert of a name that the webhook is told of."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := [one for one in told if one["labels"]["alertname"] == name and one["status"] == "firing"]:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"{name} was not told in {PATIENCE} s: {[one['labels'] for one in told]}")


@pytest.mark.life
@real_parts
def test_an_alarm_goes_from_the_log_to_the_webhook(
    lived: Callable[[int, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that drift are logged by the service, seen by the monitors, scraped and told; so is its end."""
    source, project = lived(4, "classification"), tmp_path / "project"
    shutil.copytree(source, project, ignore=shutil.ignore_patterns(".venv", "releases", ".keys", "logs"), symlinks=True)
    share_environment(source, project)
    (project / ".git/info/exclude").write_text(".venv\n")
    python: list[str | Path] = [project / ".venv/bin/python"]
    must([*python, "-c", RELEASED], project)
    monkeypatch.setenv("SERVICE_KEY", "secret")
    key = {"X-API-Key": "secret"}
    with service(project) as (running, port), watched(project, tmp_path, port) as told:
        for _ in range(2):
            status, request, _ = ask(port, "/invocations", {"dataframe_records": [row(project)] * 500}, **key)
            truth = [{"id": f"{request}-{number}", "truth": number % 2 == 0} for number in range(1, 501)]
            assert (status, ask(port, "/feedback", truth, **key)[0]) == (200, 200)
        assert "monitor_alarms" in missing(port), "nobody has looked yet"
        time.sleep(1.1)
        must([*python, "-m", "flight_delays.ops", "freeze", "--why", "a test"], project)
        assert "data drift" in must([*python, "-m", "flight_delays.ops", "monitor"], project)
        assert missing(port) == set()
        page = scraped(port)
        assert 'monitor_alarms{signal="data drift"} 0.0' not in page
        assert "monitor_frozen 1.0" in page
        assert "monitor_windows 2.0" in page
        drift = wait(told, "Drift")
        assert drift["labels"]["environment"] == "prod"
        assert drift["annotations"]["summary"].startswith("prod: ")
        running.kill()
        running.wait()
        assert "does not answer" in wait(told, "ServiceDown")["annotations"]["summary"]


def scraped(port: int) -> str:
    request = Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": "Bearer secret"})
    with urlopen(request) as answer:
        content: str = answer.read().decode()
        return content


def missing(port: int) -> set[str]:
    """Return the metrics that rules or dashboard ask for and the service does not have."""
    there = set(re.findall(r"(?m)^([a-z_]+)", scraped(port)))
    return metrics([*queries(), *(rule["expr"] for rule in rules().values())]) - there
