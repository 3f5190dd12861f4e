"""Check Cookiecutter's answers before it makes a folder: Copier judges them, and a wrong one ends in one sentence."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

COPIER = "copier>=9.6,<10"


class Door(Extension):
    """Gives cookiecutter.json the filter `checked`."""

    def __init__(self, environment: Environment) -> None:
        """Add the filter."""
        super().__init__(environment)
        environment.filters["checked"] = checked


def checked(cookiecutter: dict[str, Any]) -> str:
    """Return, as JSON, what the hook needs: the command that runs Copier here, and the folder of this template.

    Raises Cookiecutter's exception with Copier's reason for a bad answer, which Cookiecutter prints before it ends.
    """
    answers = {name: value for name, value in cookiecutter.items() if not name.startswith("_")}
    command = copier()
    template = str(Path(sys.path[-1]).resolve())  # Cookiecutter puts the template's folder last while it asks
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "answers.json")
        data.write_text(json.dumps(answers), encoding="utf-8")
        options = ["--pretend", "--quiet", "--defaults", "--vcs-ref=HEAD", "--exclude=*", f"--data-file={data}"]
        done = subprocess.run(
            [*command, "copy", *options, template, folder], stderr=subprocess.PIPE, text=True, check=False
        )
    if done.returncode:
        raise FailedHookException(f"error: {sentence(done.stderr)}")
    return json.dumps({"copier": command, "template": template})


def copier() -> list[str]:
    """Return the command that runs Copier on this machine."""
    if importlib.util.find_spec("copier"):
        return [sys.executable, "-m", "copier"]
    if shutil.which("copier"):
        return ["copier"]
    if shutil.which("uv"):
        return ["uv", "tool", "run", "--quiet", "--from", COPIER, "copier"]
    if shutil.which("pipx"):
        return ["pipx", "run", "--quiet", "--spec", COPIER, "copier"]
    raise FailedHookException(
        "error: Copier makes the project and is not on this machine: install uv, pipx or Copier, then try again"
    )


def sentence(said: str) -> str:
    """Return the one line of Copier's traceback that a person wants."""
    last = (said.strip().splitlines() or ["Copier failed without a word."])[-1]
    reason = last.removeprefix("ValueError: ").removeprefix("Validation error for question ")
    return reason.replace("invalid literal for int() with base 10:", "maturity_level must be a whole number, not")
