"""In a project: `make update`, `make climb` and `make propose` run the template's command, or say what is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import copier
import pytest
import yaml
from conftest import OFFERED, Done, Render, commit, copied_tree, git, make, well


def path_with(folder: Path, **tools: str) -> str:
    """Return a PATH of everyday tools and of some scripts, by their name; an empty script is no tool."""
    folder.mkdir()
    for name in ("sh", "sed", "grep", "cat", "make", "git", "expand", "env"):
        if name not in tools:
            (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in tools.items():
        if script:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
    return str(folder)


@pytest.fixture
def project(render: Render) -> Path:
    return render(maturity_level=0)


def ran(project: Path, path: str, *words: str) -> Done:
    return make(project, *words, offline=False, environment={"PATH": path})


@pytest.mark.parametrize(
    ("recorded", "address"),
    [
        ("gh:team/mlops-ladder", "git+https://github.com/team/mlops-ladder"),
        ("gl:team/mlops-ladder", "git+https://gitlab.com/team/mlops-ladder"),
        ("https://host/team/mlops-ladder.git", "git+https://host/team/mlops-ladder.git"),
        ("git+https://host/team/mlops-ladder.git", "git+https://host/team/mlops-ladder.git"),
        ("git@host:team/mlops-ladder.git", "git+ssh://git@host/team/mlops-ladder.git"),
        ("ssh://git@host/team/mlops-ladder.git", "git+ssh://git@host/team/mlops-ladder.git"),
        ("/srv/mlops ladder", "/srv/mlops ladder"),
    ],
)
def test_command_is_run_from_where_the_project_came(recorded: str, address: str, project: Path, tmp_path: Path) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^_src_path: .*$", f"_src_path: {recorded}", answers.read_text()))
    path = path_with(tmp_path / "bin", uv=f'echo "$6" >>{tmp_path}/started; for word in "$@"; do echo "[$word]"; done')
    said = well(ran(project, path, "climb", "LEVEL=3", "BRANCH=up"))
    wanted = ["tool", "run", "--quiet", "--from", address, "mlops-ladder", "climb", "--to=3", "--branch=up"]
    assert re.findall(r"\[(.*)\]", said) == wanted
    assert (tmp_path / "started").read_text() == "mlops-ladder\n", "one start, which takes a second"
    update = re.findall(r"\[(.*)\]", well(ran(project, path, "update")))
    assert update == [*wanted[:6], "update", "lock", "--quiet", "--upgrade"]
    branched = re.findall(r"\[(.*)\]", well(ran(project, path, "update", "BRANCH=newer")))
    assert branched == [*wanted[:6], "update", "--branch=newer"], "a branch leaves the lock as it is"


def test_what_is_missing_is_said(project: Path, tmp_path: Path) -> None:
    for target in ("update", "climb"):
        done = ran(project, path_with(tmp_path / f"no-git-{target}", git="", uv="exit 0"), target)
        assert done.returncode != 0
        assert "error: git is not on this machine: install it" in done.stderr
        done = ran(project, path_with(tmp_path / f"no-network-{target}", uv="echo no route >&2; exit 2"), target)
        assert done.returncode != 0
        assert re.search(r"error: the template at /.* cannot be reached: look at the network", done.stderr)
    done = ran(project, path_with(tmp_path / "refused", uv='[ "$7" = --help ] || exit 1'), "update")
    assert done.returncode != 0
    assert "cannot be reached" not in done.stderr, "the command itself has said why"


def test_template_on_a_disk_is_not_proposed(project: Path, tmp_path: Path) -> None:
    said = well(ran(project, path_with(tmp_path / "bin", uv="exit 9"), "propose"))
    assert said == "the template stands on a disk, which no schedule reaches: nothing to propose\n"


@pytest.mark.parametrize("level", [level for level in OFFERED if level >= 1])
def test_schedule_proposes_with_rights_of_its_own(render: Render, level: int) -> None:
    workflow = yaml.safe_load((render(maturity_level=level) / ".github/workflows/check.yml").read_text())
    job = workflow["jobs"]["template"]
    assert job["if"] == "github.event_name == 'schedule'"
    assert job["permissions"] == {"contents": "write", "pull-requests": "write"}
    assert workflow["jobs"]["check"]["permissions"] == {"contents": "read"}
    assert job["steps"][-1]["run"] == "make propose"


@pytest.mark.life
def test_update_and_climb_for_real(tmp_path: Path) -> None:
    source, folder = copied_tree(tmp_path / "template"), tmp_path / "project"
    commit(source, "Release", "v0.0.1")
    copier.run_copy(str(source), folder, data={"maturity_level": 0}, defaults=True, quiet=True)
    commit(folder, "Start the project")
    page = source / "template/Makefile.jinja"
    page.write_text(page.read_text().replace("open the notebooks", "open the notebooks in the browser"))
    commit(source, "Release", "v0.0.2")
    well(make(folder, "update", offline=False))
    assert "_commit: v0.0.2" in (folder / ".copier-answers.yml").read_text()
    assert "in the browser" in (folder / "Makefile").read_text()
    assert (folder / "uv.lock").is_file()
    commit(folder, "Update")
    well(make(folder, "climb", "LEVEL=1", "BRANCH=up", offline=False))
    assert git(folder, "status", "--porcelain") == ""
    assert "maturity_level: 1" in git(folder, "show", "up:.copier-answers.yml")
    done = make(folder, "climb", "LEVEL=9", offline=False)
    assert (done.returncode != 0, "There is no level 9" in done.stderr) == (True, True)
