"""See whether the newest versions of everything work, and if so move the day of the time capsule to today.

python scripts/freshen.py [--day 2026-11-25] [--loop] [--propose]

Renders the default answers at the highest level with the newer day, and lives in it: set-up, check, train; with --loop
the whole demo too. If all is well, `exclude-newer` of the template moves and the changelog says so. If not, the package
and version that broke is searched by halves (each trial keeps some of the changed packages at what they were), and the
day stays.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import copier
from ask import user_environment
from make_questions import questions
from packaging.version import Version

from mlops_ladder.errors import RefusedError
from mlops_ladder.proposal import opened, pushed

ROOT = Path(__file__).parents[1]
CAPSULE = Path("template/pyproject.toml.jinja")
DAY = re.compile(r'(?m)^(exclude-newer = ")(\d{4}-\d\d-\d\d)(T00:00:00Z")(.*)$')
STEPS = ("setup", "check", "train")
LISTED = 8
"""Packages that a line of the changelog names."""
TAIL = 15
"""Lines of a failed step that are shown."""


@dataclass(frozen=True)
class Change:
    """A package whose version differs between two days; "" where it is not there."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.name} {self.after or 'removed'}" + (f" (was {self.before})" if self.before else " (new)")


class FailureError(Exception):
    """A step that did not end well; the text is the end of what it said."""

    def __init__(self, step: str, said: str) -> None:
        """Keep the step's name."""
        super().__init__("\n".join(said.strip().splitlines()[-TAIL:]))
        self.step = step


def moved(text: str, day: str, kept: Sequence[Change] = ()) -> str:
    """Return the template's pyproject with another day, and some packages kept at their former versions."""
    pins = ", ".join(f'"{one.name}<={one.before}"' for one in kept if one.before)
    line = rf"\g<1>{day}\g<3>\g<4>" + (f"\nconstraint-dependencies = [{pins}]" if pins else "")
    return DAY.sub(line, text, count=1)


def day_of(text: str) -> str:
    """Return the day of the time capsule."""
    found = DAY.search(text)
    if found is None:
        raise RefusedError(f"{CAPSULE}: has no line exclude-newer with a day")
    return found[2]


def versions(lock: Path) -> dict[str, str]:
    """Return the version of every package of a lock but the project's own; the newest where there are several."""
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    found: dict[str, str] = {}
    for one in (one for one in packages if "registry" in one.get("source", {})):
        found[one["name"]] = max(one["version"], found.get(one["name"], one["version"]), key=Version)
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    """Return what differs between two locks, by name."""
    names = sorted(before.keys() | after.keys())
    pairs = ((name, before.get(name, ""), after.get(name, "")) for name in names)
    return [Change(*one) for one in pairs if one[1] != one[2]]


def culprit(found: Sequence[Change], breaks: Callable[[Sequence[Change]], bool]) -> Change:
    """Return the change that breaks, in log2(n) trials; `breaks` says whether it goes wrong with some kept back.

    All of them together are known to break, none of them not to.
    """
    good, bad = 0, len(found)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if breaks(found[middle:]) else (middle, bad)
    return found[bad - 1]


@dataclass(frozen=True)
class Trial:
    """The template in a folder of its own, with another day."""

    root: Path
    folder: Path
    uv: str

    def rendered(self, day: str, kept: Sequence[Change] = ()) -> Path:
        """Return a new project with default answers at the highest level."""
        template, project = self.folder / "template", self.folder / "project"
        for folder in (template, project):
            shutil.rmtree(folder, ignore_errors=True)
        names = self.ran(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], self.root).split("\0")
        for name in (name for name in names if name and (self.root / name).is_file()):
            (template / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / name, template / name)
        capsule = template / CAPSULE
        capsule.write_text(moved(capsule.read_text(encoding="utf-8"), day, kept), encoding="utf-8")
        level = max(questions()["maturity_level"]["choices"].values())
        copier.run_copy(str(template), project, data={"maturity_level": level}, defaults=True, quiet=True)
        return project

    def locked(self, day: str) -> dict[str, str]:
        """Return the versions of a day, of which nothing is installed."""
        project = self.rendered(day)
        self.ran([self.uv, "lock", "--quiet"], project, "setup")
        return versions(project / "uv.lock")

    def lived(self, project: Path, steps: Sequence[str]) -> None:
        """Take steps in a project; raises FailureError for the first that does not end well."""
        for step in steps:
            print(f"make {step} ...", flush=True)
            if step == "demo":
                for words in (["init", "--quiet"], ["add", "--all"]):  # it renders what git knows
                    self.ran(["git", *words], self.folder / "template")
                self.ran([sys.executable, "scripts/demo.py"], self.folder / "template", step)
            else:
                self.ran(["make", "--no-print-directory", step], project, step)

    def ran(self, command: Sequence[str], folder: Path, step: str = "") -> str:
        """Run a command and return what it said; raises FailureError where it fails."""
        outside = {"GIT_CEILING_DIRECTORIES": str(self.folder)} if folder != self.root else {}
        path = f"{Path(self.uv).parent}{os.pathsep}{user_environment()['PATH']}"
        done = subprocess.run(
            command,
            cwd=folder,
            env={**user_environment(), **outside, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FailureError(step or command[0], done.stdout + done.stderr)
        return done.stdout


def freshened(root: Path, folder: Path, day: str, uv: str, *, loop: bool = False) -> str:
    """Move the time capsule to a day on which everything works, and return what was done in a sentence.

    Raises FailureError with the package that broke, or RefusedError where nobody can say which; the day then stays.
    """
    trial, capsule = Trial(root, folder, uv), root / CAPSULE
    old = day_of(capsule.read_text(encoding="utf-8"))
    newer = changes(trial.locked(old), _of_new_day(trial, day))
    if not newer:
        return f"Nothing is newer on {day} than on {old}: the day stays."
    print(f"{counted(newer)} different between {old} and {day}: {', '.join(map(str, newer))}", flush=True)
    steps = (*STEPS, "demo") if loop else STEPS
    try:
        trial.lived(trial.rendered(day), steps)
    except FailureError as failure:
        raise FailureError(failure.step, _blamed(trial, day, newer, failure)) from None
    capsule.write_text(moved(capsule.read_text(encoding="utf-8"), day), encoding="utf-8")
    log = root / "CHANGELOG.md"
    log.write_text(noted(log.read_text(encoding="utf-8"), old, day, newer), encoding="utf-8")
    return f"The time capsule moves from {old} to {day}: {counted(newer)} newer, and everything works."


def counted(newer: Sequence[Change]) -> str:
    """Say how many packages there are."""
    return "1 package is" if len(newer) == 1 else f"{len(newer)} packages are"


def _of_new_day(trial: Trial, day: str) -> dict[str, str]:
    try:
        return trial.locked(day)
    except FailureError as failure:
        raise FailureError("setup", f"The versions of {day} do not fit together:\n{failure}") from None


def _blamed(trial: Trial, day: str, newer: Sequence[Change], failure: FailureError) -> str:
    """Search the package that broke a step, and return it with what the step said."""

    def breaks(kept: Sequence[Change]) -> bool:
        print(f"make {failure.step} with {len(kept)} of {len(newer)} packages as they were:", flush=True)
        try:
            trial.lived(trial.rendered(day, kept), list(dict.fromkeys(("setup", failure.step))))
        except FailureError:
            return True
        return False

    if breaks(newer):
        return f"make {failure.step} fails with the former versions too, so no package is to blame:\n{failure}"
    return f"{culprit(newer, breaks)} breaks make {failure.step}:\n{failure}"


def noted(log: str, old: str, day: str, newer: Sequence[Change]) -> str:
    """Return the changelog with a line for the new day at the end of what is unreleased."""
    names = ", ".join(map(str, newer[:LISTED])) + (f" and {len(newer) - LISTED} more" if len(newer) > LISTED else "")
    line = f"- Versions as of {day} (were as of {old}): {names}.\n"
    head, mark, rest = log.partition("## Unreleased\n")
    if not mark:
        raise RefusedError("CHANGELOG.md: has no heading `## Unreleased`")
    section, heading, later = rest.partition("\n## ")
    return f"{head}{mark}{section.rstrip()}\n{line}{heading}{later}"


def proposed(root: Path, day: str, said: str) -> None:
    """Commit the new day on a branch, push it and open a pull request."""
    name = f"freshen/{day}"
    who = ("-c", "user.name=mlops-ladder", "-c", "user.email=mlops-ladder@localhost")
    for words in (["switch", "--quiet", "--create", name], ["commit", "--quiet", "--all", "--message", said]):
        subprocess.run(["git", *who, *words], cwd=root, check=True)
    pushed(root, name)
    opened(root, name, f"Versions as of {day}", said)


def main() -> int:
    """Return 0 if the day moved or nothing is newer, 1 with the reason if not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--day", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the day to move to; today by default")
    parser.add_argument("--loop", action="store_true", help="live through the whole demo as well")
    parser.add_argument("--propose", action="store_true", help="push the result as a branch and open a pull request")
    asked = parser.parse_args()
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    folder = ROOT / "build" / "freshen"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        said = freshened(ROOT, folder, asked.day, str(Path(uv).absolute()), loop=asked.loop)
        print(said)
        if asked.propose and "moves" in said:
            proposed(ROOT, asked.day, said)
    except (FailureError, RefusedError) as error:
        print(f"The day stays: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
