"""How long a team's repositories take: `fleet status` and `fleet update`, beside a shell loop over `copier update`.

python benchmarks/fleet.py [number of repositories] [how many of them the loop is measured on]

All of it in one run on the same machine, so that the ratio says something where the times do not. Writes
docs/benchmarks-fleet.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import copier

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks-fleet.md"
OLD, NEW = "v0.0.1", "v0.0.2"
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
BIN = Path(sys.executable).parent
LEVELS = 5


def git(folder: Path, *words: str) -> str:
    """Run git with an identity of its own."""
    done = subprocess.run(["git", *IDENTITY, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def released(folder: Path) -> None:
    """Make a template with two releases: the second changes a file of each level."""
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    for tag in (OLD, NEW):
        if tag == NEW:
            for page in (folder / "template/Makefile.jinja", *sorted((folder / "template/mk").glob("*.mk"))):
                page.write_text(page.read_text() + "\n# of the second release\n")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", tag)
        git(folder, "tag", tag)


def team(folder: Path, template: Path, number: int) -> None:
    """Make repositories of all levels at the first release; every tenth has an edit that meets the second's."""
    patterns = []
    for level in range(LEVELS):
        pattern = folder.parent / f"pattern-{level}"
        data = {"maturity_level": level}
        copier.run_copy(str(template), pattern, vcs_ref=OLD, data=data, defaults=True, quiet=True)
        patterns.append(pattern)
    for index in range(number):
        project = folder / f"project-{index:03}"
        shutil.copytree(patterns[index % LEVELS], project)
        answers = project / ".copier-answers.yml"
        answers.write_text(answers.read_text().replace("author: The team", f"author: Team {index}"))
        if index % 10 == 3:
            (project / "Makefile").write_text((project / "Makefile").read_text() + "\nmine:\n\t@echo mine\n")
        git(project, "init", "--quiet")
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "--message", "Start the project")


def timed(command: list[str], **environment: str) -> tuple[float, float, str]:
    """Run a command; return its seconds, the most MiB that it and its processes had together, and its output."""
    most = [0.0]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        watching = threading.Thread(target=_watch, args=(process, most), daemon=True)
        watching.start()
        process.wait()
        seconds = time.monotonic() - start
        watching.join()
        said.seek(0)
        return seconds, most[0], said.read()


def _watch(process: subprocess.Popen[bytes], most: list[float]) -> None:
    while process.poll() is None:
        most[0] = max(most[0], sum(map(_resident, _with_children(process.pid))))
        time.sleep(0.1)


def _with_children(parent: int) -> list[int]:
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [parent, *(one for child in children for one in _with_children(int(child)))]


def _resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def main() -> None:
    """Measure, print, and write the page."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    sample = min(int(sys.argv[2]) if len(sys.argv) > 2 else 20, number)
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as temporary:
        folder = Path(temporary)
        own = {"MLOPS_LADDER_CACHE": str(folder / "cache")}
        released(folder / "template")
        team(folder / "team", folder / "template", number)
        for project in sorted((folder / "team").iterdir())[:sample]:
            shutil.copytree(project, folder / "loop" / project.name)
        ladder = [str(BIN / "mlops-ladder"), "fleet"]
        looked, light, _ = timed([*ladder, "status", str(folder / "team"), "--json"], **own)
        took, memory, said = timed([*ladder, "update", str(folder / "team"), "--json"], **own)
        states = [one["state"] for one in json.loads(said[said.index("[\n") :])]
        again, _, _ = timed([*ladder, "update", str(folder / "team"), "--json"], **own)
        drift, _, _ = timed([*ladder, "status", str(folder / "team"), "--drift", "--json"], **own)
        kept, _, _ = timed([*ladder, "status", str(folder / "team"), "--json"], **own)
        projects = sorted(path for path in (folder / "loop").iterdir())
        loop = "".join(f"cd '{project}' && '{BIN / 'copier'}' update --defaults --quiet\n" for project in projects)
        looped, _, _ = timed(["sh", "-c", loop])
    each, one = looped / len(projects), took / number
    ended = f"{states.count('branch')} branches, {states.count('left')} left to a person"
    cores, load = os.cpu_count(), os.getloadavg()[1]
    versions = f"Python {platform.python_version()}, Copier {copier.__version__}"
    page = f"""# A fleet of repositories, measured

`python benchmarks/fleet.py {number} {sample}`: {number} local repositories of all levels, one release behind; every
tenth has an edit that meets the template's. {cores} cores, {versions}, load {load:.1f} when it ended.
The shell loop ran over {len(projects)} of the repositories, in the same run.

| what | seconds | goal |
|---|---|---|
| `fleet status` of {number} repositories | {looked:.1f} | at most 5 for 100 |
| the same with drift counted for the first time (`--drift`) | {drift:.1f} | - |
| the same with drift known | {kept:.1f} | at most 5 for 100 |
| `fleet update` of {number} repositories ({ended}) | {took:.1f} | - |
| the same again: nothing is done twice | {again:.1f} | - |
| a repository in `fleet update` | {one:.2f} | - |
| a repository in a shell loop over `copier update` | {each:.2f} | - |
| times as fast as the loop | **{each / one:.1f}** | at least 4 |

Most memory of `fleet update` and its processes together: {memory:.0f} MiB (goal: under 1,024; pages that processes
share count for each); of `fleet status`: {light:.0f} MiB.
"""
    PAGE.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
