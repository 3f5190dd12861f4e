"""Show what the template gives: generate its highest level into build/demo, and live in it as its user does.

python scripts/demo.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import copier
from ask import first_rows, send, service, user_environment
from make_questions import questions

ROOT = Path(__file__).parents[1]
TEMPLATE, DEMO = ROOT / "build" / "template", ROOT / "build" / "demo"
KEPT = {".venv", ".uv", "uv.lock"}
"""What a second run need not fetch again."""
ROWS, SCORED = "outputs/unseen.csv", "outputs/predictions.csv"
QUIET, CHANGED = 1000, 2000
"""Rows that are sent before the truth changes and after, of which a window of the monitors takes 500."""
WANTED = 0.9
"""Share of the quality lost that the loop has to bring back."""
PAUSE = 0.2
"""Seconds between two of the requests that go on all the time."""


class StepError(Exception):
    """A step that did not end well; the message is what it said."""


def generate() -> str:
    """Render the working tree, as it is at this moment, with default answers."""
    for folder, kept in ((TEMPLATE, set()), (DEMO, KEPT)):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (path for path in folder.iterdir() if path.name not in kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT).split("\0")
    for name in (name for name in names if (ROOT / name).is_file()):
        (TEMPLATE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TEMPLATE / name)
    run(["git", "init", "--quiet"], TEMPLATE)
    run(["git", "add", "--all"], TEMPLATE)
    identity = ["-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false"]
    run(["git", *identity, "commit", "--quiet", "--message", "As it is"], TEMPLATE)
    run(["git", *identity, "tag", "v0.0.1"], TEMPLATE)
    copier.run_copy(str(TEMPLATE), DEMO, data={"maturity_level": LEVEL}, defaults=True, quiet=True, overwrite=True)
    return f"level {LEVEL}"


def run(command: list[str], folder: Path) -> str:
    """Run a command to its end, with a dot every two seconds, and return what it said.

    Raises StepError with its output where it does not end well.
    """
    # The demo stands inside this repository; git must not find it from there, as it would not at a user's
    environment = {**user_environment(), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        while True:
            try:
                process.wait(timeout=2)
                break
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
        said.seek(0)
        output = re.sub(r"\x1b\[[0-9;]*m", "", said.read())
    if process.returncode:
        raise StepError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output


def make(*words: str) -> str:
    """Run make in the demo."""
    return run(["make", "--no-print-directory", *words], DEMO)


def deploy() -> str:
    """Take the newest version through the gates of every environment; return what the last one said."""
    return "\n".join(make("deploy", f"ENV={environment}") for environment in ("dev", "staging", "prod"))


@dataclass
class Loop:
    """The closed loop: a service that runs, traffic with truth, and the autopilot."""

    started: ExitStack = field(default_factory=ExitStack)
    """Ends the service."""
    address: str = ""
    before: float = 0.0
    """The metric of config/model.yaml on quiet traffic."""
    fallen: float = 0.0
    """The same after the truth has changed."""

    def serve(self) -> str:
        """Start the service, ask it about one flight, trace the answer, and return it in words."""
        (flight,) = first_rows(DEMO / ROWS, 1)
        try:
            self.address = self.started.enter_context(service(DEMO))
            answer, key = send(self.address, [flight])
        except (RuntimeError, OSError) as error:
            raise StepError(str(error)) from None
        make("trace", f"ID={key}-1")
        late, probability = answer["predictions"][0], answer["probabilities"][0]["true"]
        asked = "asked about flight {carrier} from {origin} to {dest} at {scheduled:.16}".format(**flight)
        said = f"it said: {'will' if late else 'will not'} be late (probability of being late {probability:.0%})"
        return f"{asked}, {said}; traced back to its data, every hash verified"

    def simulate(self, fault: str, rows: int, seed: int) -> str:
        """Send traffic; return what it came to, which is told last."""
        return last_line(make("simulate", f"FAULT={fault}", f"ROWS={rows}", f"SEED={seed}", f"URL={self.address}"))

    def quiet(self) -> str:
        """Let nothing happen, and see that nobody raises an alarm."""
        told = self.simulate("none", QUIET, 1)
        self.before = measured(told)
        alarms = [line.strip() for line in make("monitor").splitlines() if line.strip().startswith("alarm")]
        if alarms:
            raise StepError("an alarm where nothing happened:\n" + "\n".join(alarms))
        return f"{told}; no alarm"

    def change(self) -> str:
        """Let the truth depend on the inputs in another way."""
        told = self.simulate("concept", CHANGED, 2)
        self.fallen = measured(told)
        return told

    def repair(self) -> str:
        """Let the autopilot notice it and do what is needed, while requests go on."""
        with requests(self.address) as answered:
            told = make("autopilot", "ONCE=yes")
            if not last_line(told).endswith("deployed"):
                raise StepError(f"the autopilot did not bring a version into prod:\n{told}")
            time.sleep(2)  # the service follows within a second, and goes on to answer
        if bad := [one for one in answered if one]:
            raise StepError(f"{len(bad)} of {len(answered)} requests failed meanwhile, the first: {bad[0]}")
        return f"{last_line(told)} {len(answered)} requests were answered meanwhile, 0 failed"

    def recovered(self) -> str:
        """See that fresh rows are answered well again."""
        told = self.simulate("concept", QUIET, 3)
        share = (measured(told) - self.fallen) / (self.before - self.fallen)
        told = f"{share:.0%} of the loss is made good: from {self.before} to {self.fallen}, and back; {told}"
        if share < WANTED:
            raise StepError(f"{told}; at least {WANTED:.0%} was wanted")
        return told


@contextmanager
def requests(address: str) -> Iterator[list[str]]:
    """Ask for one row after the other all the time; give what was wrong with each answer, "" for nothing."""
    flights, ended, found = cycle(first_rows(DEMO / ROWS, 100)), threading.Event(), list[str]()

    def go_on() -> None:
        while not ended.wait(PAUSE):
            try:
                answer, _ = send(address, [next(flights)])
                found.append("" if len(answer["predictions"]) == 1 else f"an answer without a prediction: {answer}")
            except OSError as error:
                found.append(str(error) or type(error).__name__)

    asking = threading.Thread(target=go_on, daemon=True)
    asking.start()
    try:
        yield found
    finally:
        ended.set()
        asking.join()


def measured(told: str) -> float:
    """Return the figure that the last line of `make simulate` tells."""
    figure = re.search(r"by version \d+; \D+([\d.,]+)", told)
    if figure is None:
        raise StepError(f"no figure of quality in what was said: {told}")
    return float(figure[1].replace(",", ""))


loop = Loop()
STEPS: dict[str, Callable[[], str]] = {
    "generate the highest level with default answers": generate,
    "make setup: install what the project needs": lambda: make("setup"),
    "make check: lint, types, tests, guards": lambda: make("check"),
    "make tune: search for better parameters": lambda: make("tune"),
    "make train: check the data, train, measure, report, register": lambda: make("train"),
    "make deploy: through the gates to dev, staging and prod": deploy,
    "make predict: score a file with it": lambda: make("predict", f"INPUT={ROWS}", f"OUTPUT={SCORED}", "ENV=prod"),
    "make serve, make trace: answer a request, and follow the answer back": loop.serve,
}
LEVEL: int = max(questions()["maturity_level"]["choices"].values())
CLOSED: dict[str, Callable[[], str]] = {
    "make simulate, make monitor: quiet traffic, and no alarm": loop.quiet,
    "make simulate FAULT=concept: the truth changes, and quality falls": loop.change,
    "make autopilot: notice, retrain, and deploy through the gates, while requests go on": loop.repair,
    "make simulate FAULT=concept: fresh rows are answered well again": loop.recovered,
    "make status: the page that says how it is, for people": lambda: make("status"),
}


def main() -> int:
    """Take the steps one after the other, and end with what there is to see."""
    with loop.started:
        return taken()


def taken() -> int:
    """Take the steps one after the other; return 0 if all ended well."""
    began, said, closed = time.monotonic(), dict[str, str](), 0.0
    steps = STEPS | CLOSED
    for number, (name, step) in enumerate(steps.items(), 1):
        print(f"[{number}/{len(steps)}] {name} ", end="", flush=True)
        start = time.monotonic()
        try:
            said[name] = step()
        except StepError as failure:
            print(f" failed\n\n{failure}", flush=True)
            return 1
        seconds = time.monotonic() - start
        closed += seconds if name in CLOSED else 0
        print(f" {seconds:.1f} s", flush=True)
    print(summary(list(said.values()), time.monotonic() - began, closed))
    return 0


def summary(said: list[str], seconds: float, loop_seconds: float) -> str:
    """Return the story of the demo in plain words."""
    level, _, checked, tuned, trained, deployed, scored, served, *closed = said
    closing = zip(("quiet", "change", "autopilot", "recovery", "status"), map(last_line, closed), strict=False)
    more = "".join(f"\n  {name:<10} {told}" for name, told in closing)
    return f"""
Done in {seconds:.0f} seconds, of which the loop took {loop_seconds:.0f}.
A project of {level}, made with default answers, stands in build/demo.

  checks     {last_line(checked)}
  tuning     {sentence(tuned)}
  model      {sentence(trained)}
  release    {last_line(deployed)}
  scoring    {last_line(scored)}
  service    {served}{more}

The report, to open in a browser:  {DEMO / "reports" / "report.html"}
To go on:                          cd build/demo && make help"""


def last_line(output: str) -> str:
    """Return the last thing that a command said."""
    return [line for line in output.splitlines() if line.strip()][-1].strip()


def sentence(output: str) -> str:
    """Return what a command said about the model, without the steps before and the files after it."""
    lines = [line for line in output.splitlines() if line.strip()]
    told = next((line for line in lines if re.search(r" is kept| trials (are )?done", line)), lines[-1])
    return told.removeprefix("evaluate: ")


if __name__ == "__main__":
    sys.exit(main())
