"""The Cookiecutter door: its projects equal those of `copier copy`, can be updated; a bad answer leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Render, commit, copied_tree, git, must, run, tree

ANSWERS: list[dict[str, Any]] = [
    {},
    {
        "project_name": 'Prévision "n° 1" \\ 机器',
        "description": 'It\'s "odd" \\ here: #1',
        "author": "Zoë & Co <zoe@localhost>",
        "license": "Apache-2.0",
        "maturity_level": 0,
        "task": "regression",
    },
    {"project_name": "numpy", "package_name": "my_numbers", "license": "Proprietary"},
]
BAD = {
    "project_name= ": "Give the project a name.",
    "project_slug=numpy": "try numpy-project",
    "project_slug=a/b": "not a usable slug",
    "package_name=class": "try class_project",
    "maturity_level=7": "7 is not in [0, 1, 2",
    "maturity_level=high": "maturity_level must be a whole number, not 'high'",
    "license=GPL": "'GPL' is not in",
    "author=": "Name the person or the team",
}


def given(answers: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in answers.items()]


def project_in(folder: Path) -> Path:
    """Return the one thing in a folder."""
    (project,) = folder.iterdir()
    return project


@pytest.fixture
def settings(tmp_path: Path) -> list[str | Path]:
    """Return the real command, with its clones and replays in a folder of the test."""
    page = tmp_path / "settings.yaml"
    page.write_text(
        yaml.safe_dump({"cookiecutters_dir": str(tmp_path / "clones"), "replay_dir": str(tmp_path / "replays")})
    )
    return ["cookiecutter", "--no-input", "--config-file", page]


@pytest.mark.parametrize("answers", ANSWERS)
def test_equals_copier(
    cookies: Any, template: Path, render: Render, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-cookies asks the questions once more, outside Cookiecutter's own import path
    monkeypatch.setattr(sys, "path", [*sys.path, str(template)])
    baked = cookies.bake(template=str(template), extra_context={name: str(value) for name, value in answers.items()})
    assert baked.exception is None
    fresh = render(**answers)
    assert tree(baked.project_path) == tree(fresh)
    assert baked.project_path.name == yaml.safe_load((fresh / ".copier-answers.yml").read_text())["project_slug"]


def test_typed_at_the_prompts(settings: list[str | Path], template: Path, render: Render, tmp_path: Path) -> None:
    made = tmp_path / "made"
    typed = ["Weather", "", "", "Rain or not", "", "BSD-3-Clause", "0", ""]
    command = [word for word in settings if word != "--no-input"]
    done = subprocess.run(
        [*command, "--output-dir", made, template],
        input="\n".join(typed) + "\n",
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DevOps: adds tests" in done.stdout
    wanted = {"project_name": "Weather", "description": "Rain or not", "license": "BSD-3-Clause", "maturity_level": 0}
    assert tree(project_in(made)) == tree(render(**wanted))


def test_relative_path(settings: list[str | Path], template: Path, render: Render, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(template)
    made = tmp_path / "made"
    must([*settings, "--output-dir", made, "./here"], tmp_path)
    assert tree(project_in(made)) == tree(render())
    shutil.rmtree(made)
    made.mkdir()
    must([*settings, "../here"], made)
    assert tree(project_in(made)) == tree(render())


@pytest.mark.parametrize(("kind", "ending", "checkout"), [("", ".git", None), ("git+", "", "v0.0.1")])
def test_address_and_update(
    settings: list[str | Path], tmp_path: Path, kind: str, ending: str, checkout: str | None
) -> None:
    source, made = copied_tree(tmp_path / "source"), tmp_path / "made"
    commit(source, "Release", "v0.0.1")
    git(tmp_path, "clone", "--quiet", "--bare", str(source), f"mlops-ladder{ending}")
    address = f"{kind}file://{tmp_path}/mlops-ladder{ending}"
    chosen = ["--checkout", checkout] if checkout else []
    must([*settings, *chosen, "--output-dir", made, address], tmp_path)
    project = project_in(made)
    must(["copier", "copy", "--quiet", "--defaults", address, tmp_path / "fresh"], tmp_path)
    assert tree(project) == tree(tmp_path / "fresh")

    commit(project, "Start the project")
    page = source / "template/Makefile.jinja"
    page.write_text(page.read_text().replace("open the notebooks", "open the notebooks in the browser"))
    commit(source, "Release", "v0.0.2")
    git(source, "push", "--quiet", "--tags", str(tmp_path / f"mlops-ladder{ending}"), "main")
    must(["copier", "update", "--defaults"], project)
    assert "in the browser" in (project / "Makefile").read_text()
    assert git(project, "diff", "--name-only").split() == [".copier-answers.yml", "Makefile"]


@pytest.mark.parametrize("answer", BAD)
def test_bad_answer_leaves_nothing(settings: list[str | Path], template: Path, tmp_path: Path, answer: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    done = run([*settings, "--output-dir", made, template, answer], tmp_path)
    assert done.returncode != 0
    assert BAD[answer] in done.stdout
    said = (done.stdout + done.stderr).strip().splitlines()
    assert len(said) == 1, said
    assert list(made.iterdir()) == []


def test_zip_archive_is_refused(settings: list[str | Path], template: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    git(
        template,
        "archive",
        "--format=zip",
        "--prefix=mlops-ladder/",
        "--output",
        str(tmp_path / "template.zip"),
        "HEAD",
    )
    done = run([*settings, "--output-dir", made, tmp_path / "template.zip"], tmp_path)
    assert done.returncode != 0
    assert "give the template's git address" in done.stdout + done.stderr
    assert list(made.iterdir()) == []


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with Cookiecutter and pipx in it, and no Copier."""
    folder = tmp_path_factory.mktemp("bare")
    must(["uv", "venv", "--quiet", "--python", sys.executable, folder / "venv"], folder)
    must(["uv", "pip", "install", "--quiet", "--python", folder / "venv", "cookiecutter", "pipx"], folder)
    return folder


def reachable(folder: Path, *commands: Path | str) -> str:
    """Return a PATH that holds these commands, and of the others only what the system brings."""
    system = "/usr/bin:/bin"
    present = [name for name in ("copier", "uv", "pipx") if shutil.which(name, path=system)]
    if present:
        pytest.skip(f"{', '.join(present)} belongs to this system and cannot be hidden")
    folder.mkdir()
    for command in commands:
        found = shutil.which(str(command))
        assert found, f"{command} is not on this machine"
        (folder / Path(found).name).symlink_to(found)
    return f"{folder}:{system}"


@pytest.mark.parametrize("runner", ["uv", "pipx"])
def test_without_copier(bare: Path, template: Path, render: Render, tmp_path: Path, runner: str) -> None:
    made, commands = tmp_path / "made", tmp_path / "bin"
    needed = ("uv",) if runner == "uv" else (bare / "venv" / "bin" / "pipx",)
    path = reachable(commands, *needed)
    command: list[str | Path] = [bare / "venv" / "bin" / "cookiecutter", "--no-input", "--output-dir", made, template]
    must(command, tmp_path, PATH=path, PIPX_HOME=str(tmp_path / "pipx"))
    assert tree(project_in(made)) == tree(render())


def test_with_nothing_that_runs_copier(bare: Path, template: Path, tmp_path: Path) -> None:
    made, commands = tmp_path / "made", tmp_path / "bin"
    made.mkdir()
    command: list[str | Path] = [bare / "venv" / "bin" / "cookiecutter", "--no-input", "--output-dir", made, template]
    done = run(command, tmp_path, PATH=reachable(commands))
    assert done.returncode != 0
    assert (done.stdout + done.stderr).strip().splitlines() == [
        "error: Copier makes the project and is not on this machine: install uv, pipx or Copier, then try again"
    ]
    assert list(made.iterdir()) == []
