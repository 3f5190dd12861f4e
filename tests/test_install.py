"""The command as its user installs it from the repository: with pip, with uv, with pipx."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ask import user_environment
from conftest import ROOT, VERSION, commit, well

UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
PYTHON = sys.executable
WAYS = {
    "uv": [[UV, "tool", "install", "--python", PYTHON]],
    "pip": [[PYTHON, "-m", "venv", "."], ["bin/python", "-m", "pip", "install"]],
    "pipx": [[UV, "tool", "run", "pipx", "install", "--python", PYTHON]],
}
"""The commands of each way; the last one is told the repository's address."""


@pytest.mark.parametrize(
    "way", ["uv", pytest.param("pip", marks=pytest.mark.thorough), pytest.param("pipx", marks=pytest.mark.thorough)]
)
def test_installed_command_works(template: Path, tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    places = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "tools", "PIPX_BIN_DIR": "bin"}
    environment = {**user_environment(), **{name: str(home / folder) for name, folder in places.items()}}

    def said(folder: Path, *words: str | Path) -> str:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return well(done)

    *before, install = WAYS[way]
    for words in before:
        said(home, *words)
    said(home, *install, template)
    (own,) = home.rglob("site-packages/mlops_ladder/cli.py")
    assert own.read_bytes() == (ROOT / "src/mlops_ladder/cli.py").read_bytes()
    command, project = home / "bin" / "mlops-ladder", tmp_path / "project"
    assert "Usage: mlops-ladder [OPTIONS] COMMAND" in said(tmp_path, command, "--help")
    said(tmp_path, command, "new", project, "--template", template, "--data", "maturity_level=0")
    assert f"_commit: {VERSION}" in (project / ".copier-answers.yml").read_text(encoding="utf-8")
    commit(project, "Start")
    assert f"files of the template differ from {VERSION}" in said(project, command, "drift")
    assert not (project / "tests").exists()
    said(project, command, "climb")
    assert "maturity_level: 1" in (project / ".copier-answers.yml").read_text(encoding="utf-8")
    assert (project / "tests").is_dir()
