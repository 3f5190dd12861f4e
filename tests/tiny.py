"""A small template with two releases and three levels: what the companion meets, in little time."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import copier
from conftest import commit

ANSWERS = ".copier-answers.yml"
KEPT = "_copier_operation == 'update' and unlocked | default(-1) >="
QUESTIONS = """\
_subdirectory: template
project_name: {type: str, default: Small}
maturity_level:
  type: int
  default: 0
  choices: {"0  bare: a start": 0, "1  one: adds a folder": 1, "2  two: adds a file": 2}
task: {type: str, default: classification, choices: [classification, regression]}
flavour: {type: str, default: vanilla, choices: [vanilla, lemon]}
_exclude:
  - "{% if KEPT 0 %}/mine.py{% endif %}"
  - "{% if maturity_level < 1 or (KEPT 1) %}/config/one.yaml{% endif %}"
  - "{% if maturity_level < 2 or (KEPT 2) %}/config/two.yaml{% endif %}"
  - "{% if maturity_level < 1 %}/ops/one{% endif %}"
  - "{% if maturity_level < 2 %}/ops/two.py{% endif %}"
""".replace("KEPT", KEPT)
NUMBERED = "".join(f"line {number}\n" for number in range(1, 31))
FIRST: dict[str, str | bytes] = {
    "copier.yml": QUESTIONS,
    "template/.copier-answers.yml.jinja": "# made\n{{ _copier_answers | to_nice_yaml -}}\n"
    "unlocked: {{ [maturity_level, unlocked | default(0)] | max }}\n",
    "template/.gitignore.jinja": "*.log\n/ignored/\n/local.env\n",
    "template/README.md.jinja": "# {{ project_name }}, level {{ maturity_level }}\n",
    "template/list.txt": NUMBERED,
    "template/core/a.py": NUMBERED,
    "template/core/b.py": NUMBERED.replace("line", "row"),
    "template/core/deep/c d.txt": "one\ntwo\nthree\n",
    "template/empty.txt": "",
    "template/gone.py": NUMBERED.replace("line", "gone"),
    "template/local.env": "KEY=template\n",
    "template/logo.bin": b"\0first logo",
    "template/mine.py": "# yours\n",
    "template/old_name.py": NUMBERED.replace("line", "name"),
    "template/tool.sh": "#!/bin/sh\necho one\n",
    "template/windows.bat": "echo one\r\necho two\r\n",
    "template/config/one.yaml": "one: 1\n",
    "template/config/two.yaml": "two: 2\n",
    "template/ops/one/a.py": NUMBERED.replace("line", "first"),
    "template/ops/one/b.py": "b = 1\n",
    "template/ops/two.py": NUMBERED.replace("line", "second"),
}
SECOND: dict[str, str | bytes | None] = {
    "template/list.txt": NUMBERED.replace("line 3\n", "line three\n").replace("line 30\n", "line 30\nline 31\n"),
    "template/core/a.py": NUMBERED.replace("line 15\n", "line fifteen\nline fifteen and a half\n"),
    "template/core/new/n.py": "new = 1\n",
    "template/fresh.py": "fresh = 1\n",
    "template/gone.py": None,
    "template/local.env": "KEY=newer\n",
    "template/logo.bin": b"\0second logo",
    "template/old_name.py": None,
    "template/new_name.py": NUMBERED.replace("line", "name"),
    "template/windows.bat": "echo one\r\necho second\r\n",
    "template/ops/one/a.py": NUMBERED.replace("line", "first").replace("first 7\n", ""),
}
State: TypeAlias = dict[str, tuple[str, bytes]]


def tiny(folder: Path) -> Path:
    """Make the template with its releases v1 and v2."""
    _write(folder, FIRST)
    (folder / "template/tool.sh").chmod(0o755)
    commit(folder, "First", "v1")
    _write(folder, SECOND)
    (folder / "template/core/b.py").chmod(0o755)
    commit(folder, "Second", "v2")
    return folder


def released(template: Path, version: str, files: Mapping[str, str | bytes | None]) -> None:
    """Release another version of the template, in which some files are others, or gone."""
    _write(template, files)
    commit(template, version, version)


def _write(folder: Path, files: Mapping[str, str | bytes | None]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def project_of(template: Path, folder: Path, version: str = "v1", **answers: Any) -> Path:
    """Generate a project with Copier, and commit it with all that git ignores left out."""
    copier.run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref=version)
    commit(folder, "Start")
    return folder


def state(folder: Path) -> State:
    """Return every file and link outside of .git, with its kind and content."""
    found: State = {}
    for root, folders, files in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
        for name in [*files, *(name for name in folders if Path(root, name).is_symlink())]:
            path = Path(root, name)
            known = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[known] = ("link", os.fsencode(path.readlink()))
            else:
                runs = bool(path.stat().st_mode & stat.S_IXUSR)
                found[known] = ("runs" if runs else "file", path.read_bytes())
    return found
