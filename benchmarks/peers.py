"""Measure the service of a level-3 project beside its peers, each in an environment of its own that is thrown away.

    <project>/.venv/bin/python benchmarks/peers.py <project>

The project is set up; wrk is not needed. All servers have one worker and the same model of 30 numbers, and are asked in
turns within one run. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

NEWLINE = "\n"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
MODEL = """
import numpy as np
from onnxruntime import InferenceSession, SessionOptions

options = SessionOptions()
options.intra_op_num_threads = 1
session = InferenceSession("model.onnx", options)


def scored(rows):
    return session.run(None, {"numbers": np.array(rows, dtype=np.float32)})[0].tolist()
"""
BENTO = """
import bentoml
from model import scored


@bentoml.service(workers=1)
class Peer:
    @bentoml.api
    def predict(self, rows: list[list[float]]) -> list:
        return scored(rows)
"""
LIT = """
import sys
import litserve
from model import scored


class Peer(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["rows"]

    def predict(self, rows):
        return scored(rows)

    def encode_response(self, answer):
        return {"answer": answer}


if __name__ == "__main__":
    server = litserve.LitServer(Peer(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
"""
MLFLOW = """
import mlflow.sklearn
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

draw = np.random.default_rng(0)
table = pd.DataFrame(draw.normal(size=(20_000, 30)).round(4), columns=[f"x{number:02}" for number in range(30)])
target = table.to_numpy() @ draw.normal(size=30) + draw.normal(size=len(table)) > 0
model = RandomForestClassifier(n_estimators=100, min_samples_leaf=20, n_jobs=-1, random_state=0).fit(table, target)
model.n_jobs = 1
mlflow.sklearn.save_model(model, "saved", input_example=table[:2], serialization_format="cloudpickle")
"""


def port() -> int:
    """Return a free port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


@contextmanager
def peer(command: list[str], number: int, path: str, body: bytes) -> Iterator[int]:
    """Run a server until the block ends; gives its port once it answers a request."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow looks for uvicorn there
    quiet = {"BENTOML_DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **quiet, "PATH": programs}
    with (
        open(f"{number}.log", "w") as log,  # noqa: PTH123
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True) as process,
    ):
        try:
            for _ in range(120):
                time.sleep(1)
                try:
                    urlopen(Request(f"http://127.0.0.1:{number}{path}", body, {"Content-Type": "application/json"}))
                    break
                except OSError:
                    continue
            else:
                sys.exit(f"error: {command} does not answer:\n{Path(f'{number}.log').read_text()[-2000:]}")
            yield number
        finally:
            os.killpg(process.pid, 15)


def environment(folder: Path, *packages: str) -> Path:
    """Make an environment with some packages, and return where its programs are."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return folder / "bin"


def measured(serve: Any, rows: Any) -> dict[str, list[float]]:
    """Return the requests a second of every server, once for each round."""
    for name, text in (("model", MODEL), ("bento", BENTO), ("lit", LIT)):
        Path(f"{name}.py").write_text(text)
    Path("model.onnx").write_bytes(Path("made/model.onnx").read_bytes())
    subprocess.run([sys.executable, "-W", "ignore", "-c", MLFLOW], check=True)
    peers = environment(Path("peers").resolve(), "bentoml", "litserve", "onnxruntime")
    records = json.dumps({"dataframe_records": rows[:1]}).encode()
    lists = json.dumps({"rows": [list(rows[0].values())]}).encode()
    bento, lit, mlflow = port(), port(), port()
    at = ["--port", f"{mlflow}", "--host", "127.0.0.1", "--workers", "1"]
    commands = {
        "LitServe": ([f"{peers}/python", "lit.py", f"{lit}"], lit, "/predict", lists),
        "BentoML": ([f"{peers}/bentoml", "serve", "bento:Peer", "--port", f"{bento}"], bento, "/predict", lists),
        "mlflow models serve": (
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", "saved", "--env-manager", "local", *at],
            mlflow,
            "/invocations",
            records,
        ),
    }
    with ExitStack() as stack:
        servers = {
            name: (stack.enter_context(serve.started(code))[0], records, "/invocations")
            for name, code in (
                ("a bare echo under the same server", serve.ECHO),
                ("this service, its log on", serve.SERVICE),
            )
        }
        for name, (command, number, path, body) in commands.items():
            servers[name] = (stack.enter_context(peer(command, number, path, body)), body, path)
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(serve.ROUNDS):
            for name, (number, body, path) in servers.items():
                rates[name].append(len(serve.called(number, body, path=path)) / serve.SECONDS)
    return rates


def written(rates: dict[str, list[float]], command: str) -> str:
    """Return the page."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    echo, own, *_ = medians.values()
    lines = [f"| {name} | {rate:,.0f} | {rate / echo:.3f} | {own / rate:.1f} |" for name, rate in medians.items()]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    return f"""\
# How fast the service is

Written by `{command}` on {datetime.now(UTC):%d %B %Y}
({machine}; load {os.getloadavg()[1]:.1f}, so compare ratios, not rates).
One worker, one row of 30 numbers a request, 8 connections on loopback, a forest of 100 trees, all in turns within one
run, median of 5 rounds. BentoML and LitServe run the same ONNX file with ONNX Runtime; MLflow serves the same kind of
forest by scikit-learn, as `mlflow models serve` does.

| server | requests/s | of the echo | this service is so many times as fast |
|---|---|---|---|
{NEWLINE.join(lines)}

`make bench` in a generated project measures the rest: p99 at half the rate, large requests, memory.
"""


def main() -> None:
    """Measure, and write the page."""
    project = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(project / "benchmarks"))
    import serve  # type: ignore[import-not-found]

    with TemporaryDirectory() as folder, chdir(folder):
        Path("config").symlink_to(project / "config")
        rates = measured(serve, serve.released(Path()))
    PAGE.write_text(written(rates, "<project>/.venv/bin/python benchmarks/peers.py <project>"), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
