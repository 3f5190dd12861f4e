"""Tests that run with a generated project's environment: of the machinery, and the project's own on other columns."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import must

pytestmark = pytest.mark.life
INSIDE = Path(__file__).parent / "inside"
FEATURES = '''"""Features: the inputs as they are, times left out."""

from .ops.contract import Array, Columns


def features(columns: Columns) -> dict[str, Array]:
    """Return every input that is a number or text."""
    return {name: values for name, values in columns.items() if values.dtype.kind != "M"}
'''
COMMAS = {"type": "text", "values": ["a, b", 'c "d"', "e; f", "gé"]}
OTHERS: dict[str, dict[str, Any]] = {
    "commas in values": {"kind, of": COMMAS, "size": {"type": "number"}, "y": {"type": "boolean"}},
    "text alone": {"colour": {"type": "text"}, "kind": COMMAS, "y": {"type": "text", "values": ["late, very", "ok"]}},
    "numbers alone": {
        "size": {"type": "number", "nulls": True},
        "count": {"type": "integer"},
        "y": {"type": "integer"},
    },
    "a free text alone": {"note": {"type": "text"}, "y": {"type": "boolean"}},
    "a number that may be missing": {"size": {"type": "number", "nulls": True}, "y": {"type": "boolean"}},
    "one truth": {"flag": {"type": "boolean"}, "y": {"type": "text"}},
    "a key and commas in classes": {
        "n°": {"type": "text", "role": "ignore"},
        "size": {"type": "number"},
        "y": {"type": "text", "values": ["bill", "end, other", 'a "fault"']},
    },
    "many classes and names that guards use": {
        "n°": {"type": "integer", "role": "ignore", "min": 1, "max": 100},
        "unknown": {"type": "number", "max": 2e18},
        "size": {"type": "number", "role": "outcome"},
        "said": {"type": "text"},
        "y": {"type": "text", "values": [f"class {number}" for number in range(60)]},
    },
    "a time and three classes": {
        "opened": {"type": "time"},
        "size": {"type": "number"},
        "y": {"type": "text", "values": ["a", "b", "c"]},
    },
}
"""Columns of other data; the last one is the target."""


@pytest.mark.parametrize("module", sorted(path.relative_to(INSIDE).as_posix() for path in INSIDE.rglob("*.py")))
def test_inside(lived: Callable[[int, str], Path], module: str) -> None:
    folder = re.match(r"level(\d)/", module)
    project = lived(int(folder[1]) if folder else 1, "classification")
    python, settings = project / ".venv/bin/python", project / "pyproject.toml"
    said = must([python, "-m", "pytest", "-q", "--noconftest", "-c", settings, INSIDE / module], project)
    assert " passed" in said


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["drift", "compact", "faults"])
def test_promises_are_kept_as_often_as_they_say(lived: Callable[[int, str], Path], module: str) -> None:
    """Drift: 10,000 quiet windows, 5,000 repeats of a small shift, each fault 100 times. Compaction: 100 kills."""
    project = lived(4, "classification")
    options = ("-m", "pytest", "-q", "--noconftest", "-c", project / "pyproject.toml")
    must([project / ".venv/bin/python", *options, INSIDE / "level4" / f"{module}.py"], project, THOROUGH="1")


@pytest.mark.parametrize("name", OTHERS)
def test_the_managed_tests_follow_other_columns(lived: Callable[[int, str], Path], tmp_path: Path, name: str) -> None:
    """What a project tests by itself stays green when its columns, features and estimator become others."""
    home, project, columns = lived(4, "classification"), tmp_path / "project", OTHERS[name]
    shutil.copytree(home, project, ignore=shutil.ignore_patterns(".venv", "models", "outputs", "reports"))
    *_, target = columns
    page = {"source": {"rows": "rows.csv"}, "target": target, "columns": columns}
    columns = {**columns, target: {**columns[target], "role": "outcome"}}
    if "n°" in columns:
        page["key"] = "n°"
    if columns[target].get("values") == ["late, very", "ok"]:
        page["positive"] = "late, very"
    (project / "config" / "data.yaml").write_text(yaml.safe_dump(page | {"columns": columns}), encoding="utf-8")
    (project / "src" / "flight_delays" / "features.py").write_text(FEATURES, encoding="utf-8")
    model = project / "config" / "model.yaml"
    text = model.read_text(encoding="utf-8").replace("RandomForestClassifier", "LogisticRegression")
    model.write_text("\n".join(line for line in text.splitlines() if not line.startswith("parameters")) + "\n")
    python, path = home / ".venv/bin/python", os.pathsep.join([str(project / "src"), os.environ.get("PYTHONPATH", "")])
    must([python, "-m", "pytest", "-q", project / "tests" / "ops" / "test_train.py"], project, PYTHONPATH=path)
