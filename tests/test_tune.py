"""Tuning in a project that is set up, by its command: it goes on, applies what is better, and names mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make, well

pytestmark = pytest.mark.life


@pytest.fixture(scope="module")
def home(lived: Callable[[int, str], Path]) -> Path:
    return lived(2, "classification")


def test_the_command_tunes_goes_on_and_applies(home: Path) -> None:
    page, model = home / "config/tuning.yaml", home / "config/model.yaml"
    before = page.read_text(encoding="utf-8"), model.read_text(encoding="utf-8")
    try:
        page.write_text(before[0].replace("trials: 12", "trials: 3").replace("15000", "2000"), encoding="utf-8")
        assert "all 3 trials are done" in well(make(home, "tune"))
        found = json.loads((home / "reports/tuning.json").read_text(encoding="utf-8"))
        assert len(found["trials"]) == 3
        assert found["trials"][0] == found["default"]
        well(make(home, "tune", "APPLY=yes"))
        assert json.loads((home / "reports/tuning.json").read_text(encoding="utf-8")) == found
        changed = model.read_text(encoding="utf-8") != before[1]
        assert changed == (found["gain"][1] > 0)
        assert (home / "reports/tuning.html").read_text(encoding="utf-8").count("<svg") == 4
        page.write_text(before[0].replace("max_depth", "max_dept"), encoding="utf-8")
        done = make(home, "tune")
        assert done.returncode != 0
        assert "config/tuning.yaml, space.max_dept" in done.stderr
        assert "did you mean 'max_depth'" in done.stderr
    finally:
        page.write_text(before[0], encoding="utf-8")
        model.write_text(before[1], encoding="utf-8")
