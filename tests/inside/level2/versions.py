"""How DVC's words become ours: a mistake of a stage, what may end well later, and DVC's own failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from flight_delays.ops.collect.versions import (
    dvc,
)
from flight_delays.ops.config import (
    UnfinishedError,
)
from flight_delays.ops.contract import (
    ProjectError,
)

FAULT = "import sys; print('error: {}', file=sys.stderr); sys.exit({})"


def failing(folder: Path, command: str) -> Path:
    """Make a pipeline of one stage."""
    dvc("init", "--no-scm", "--quiet", folder=folder)
    page = {"stages": {"one": {"cmd": [command], "outs": ["made"]}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(page), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("code", "kind"), [(1, ProjectError), (75, UnfinishedError)])
def test_a_stage_says_whether_it_may_end_well_later(tmp_path: Path, code: int, kind: type[ProjectError]) -> None:
    script = tmp_path / "fault.py"
    script.write_text(FAULT.format("the disk is full", code), encoding="utf-8")
    with pytest.raises(ProjectError, match=r"^the disk is full$") as ended:
        dvc("repro", folder=failing(tmp_path, f"{sys.executable} {script}"))
    assert type(ended.value) is kind


def test_a_failure_of_dvc_may_end_well_later(tmp_path: Path) -> None:
    failing(tmp_path, "true")
    (tmp_path / "dvc.yaml").write_text("stages: [", encoding="utf-8")
    with pytest.raises(UnfinishedError, match="DVC ended with"):
        dvc("repro", folder=tmp_path)
