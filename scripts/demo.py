"""Show what the template gives: generate its highest level into build/demo, and live in it as its user does.

python scripts/demo.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import copier
from ask import ask, first_rows, service, user_environment
from make_questions import questions

ROOT = Path(__file__).parents[1]
TEMPLATE, DEMO = ROOT / "build" / "template", ROOT / "build" / "demo"
KEPT = {".venv", ".uv", "uv.lock"}
"""What a second run need not fetch again."""
ROWS, SCORED = "outputs/unseen.csv", "outputs/predictions.csv"


class StepError(Exception):
    """A step that did not end well; the message is what it said."""


def generate() -> str:
    """Render the working tree, as it is at this moment, with default answers."""
    level = max(questions()["maturity_level"]["choices"].values())
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
    copier.run_copy(str(TEMPLATE), DEMO, data={"maturity_level": level}, defaults=True, quiet=True, overwrite=True)
    return f"level {level}"


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


def serve() -> str:
    """Start the service, ask it about one flight, stop it, and return its answer in words."""
    (flight,) = first_rows(DEMO / ROWS, 1)
    try:
        with service(DEMO) as address:
            answer = ask(address, [flight])
    except (RuntimeError, OSError) as error:
        raise StepError(str(error)) from None
    late, probability = answer["predictions"][0], answer["probabilities"][0]["true"]
    asked = "asked about flight {carrier} from {origin} to {dest} at {scheduled:.16}".format(**flight)
    return f"{asked}, it said: {'will' if late else 'will not'} be late (probability of being late {probability:.0%})"


STEPS: dict[str, Callable[[], str]] = {
    "generate the highest level with default answers": generate,
    "make setup: install what the project needs": lambda: make("setup"),
    "make check: lint, types, tests, guards": lambda: make("check"),
    "make tune: search for better parameters": lambda: make("tune"),
    "make train: check the data, train, measure, report, register": lambda: make("train"),
    "make promote: let production use the model": lambda: make("promote", "VERSION=1", "ENV=prod"),
    "make predict: score a file with it": lambda: make("predict", f"INPUT={ROWS}", f"OUTPUT={SCORED}", "ENV=prod"),
    "make serve: answer a request": serve,
}


def main() -> int:
    """Take the steps one after the other, and end with what there is to see."""
    began, said = time.monotonic(), dict[str, str]()
    for number, (name, step) in enumerate(STEPS.items(), 1):
        print(f"[{number}/{len(STEPS)}] {name} ", end="", flush=True)
        start = time.monotonic()
        try:
            said[name] = step()
        except StepError as failure:
            print(f" failed\n\n{failure}", flush=True)
            return 1
        print(f" {time.monotonic() - start:.1f} s", flush=True)
    print(summary(list(said.values()), time.monotonic() - began))
    return 0


def summary(said: list[str], seconds: float) -> str:
    """Return the story of the demo in plain words."""
    level, _, checked, tuned, trained, promoted, scored, served = said
    return f"""
Done in {seconds:.0f} seconds. A project of {level}, made with default answers, stands in build/demo.

  checks     {last_line(checked)}
  tuning     {sentence(tuned)}
  model      {sentence(trained)}
  registry   {last_line(promoted)}
  scoring    {last_line(scored)}
  service    {served}

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
