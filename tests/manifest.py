"""The manifest of copier.yml, read as a list of lines for the tests to judge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from conftest import ROOT, working_files

TEMPLATE = ROOT / "template"
PACKAGE = "{{ package_name }}"
STARTER = re.compile(r"_copier_operation == 'update' and unlocked \| default\(-1\) >= (\d)")
LEVEL = re.compile(r"maturity_level < (\d)")
PATH = re.compile(r"%}(/.*?){% endif %}$")


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    text: str
    path: str
    """Path of the generated project, with `{{ package_name }}` as it stands in the template."""
    level: int
    """The level from which the path is there."""
    starter: bool


def settings() -> dict[str, Any]:
    """Return copier.yml (without the page that it includes) as one mapping."""
    text = (ROOT / "copier.yml").read_text(encoding="utf-8")
    pages = [yaml.safe_load(page) for page in re.split(r"(?m)^---$", text) if not page.strip().startswith("!include")]
    return {key: value for page in pages for key, value in page.items()}


def entries() -> list[Entry]:
    """Return the manifest's lines in order; a line that is written otherwise is refused."""
    found = []
    for text in settings()["_exclude"]:
        path, starter, level = PATH.search(text), STARTER.search(text), LEVEL.search(text)
        assert path, f"not of the form '{{% if ... %}}/path{{% endif %}}': {text}"
        at = int((level or starter or ["", "0"])[1])
        found.append(Entry(text, path[1].removeprefix("/"), at, starter is not None))
    return found


def template_files() -> dict[str, str]:
    """Return the path in a project (package folder unrendered) of every template file, and its path in the template."""
    files = (name.removeprefix("template/") for name in working_files() if name.startswith("template/"))
    return {name.removesuffix(".jinja"): name for name in files}


def covered(name: str, entry: Entry) -> bool:
    """Say whether a manifest line names this path or a folder above it."""
    return name == entry.path or name.startswith(f"{entry.path}/")
