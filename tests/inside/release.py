"""Release: whole or without a trace. Run by `test_inside.py` with the environment of a generated project."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.release import (
    image,
    release,
)
from flight_delays.ops.release.contract import (
    Contract,
    Output,
    Promised,
)
from flight_delays.ops.scorer import (
    Input,
    Signature,
)

SIGNATURE = Signature("toy", "0.1.0", "regression", "y", None, (Input("x", "number"),), ("x",), ())
CONTRACT = Contract(
    name="toy",
    owner="me",
    decision="none",
    inputs={"x": Promised(type="number")},
    output=Output(target="y", type="number"),
)
FILES = {
    "pyproject.toml": """\
[project]
name = "toy"
version = "0.1.0"
[build-system]
requires = ["uv_build>=0.9,<1"]
build-backend = "uv_build"
""",
    "uv.lock": '[[package]]\nname = "toy"\nversion = "0.1.0"\nsource = { editable = "." }\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n- A toy.\n\n## [0.0.1] - 2020-01-01\n\n- A start.\n",
    "src/toy/__init__.py": "",
    "config/contract.yaml": CONTRACT.model_dump_json(),
    ".gitignore": "/models/\n/dist/\n",
    "models/model.onnx": "a model",
}


class ToyScorer:
    """A model file that is not looked into."""

    signature = SIGNATURE


def git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), check=True, capture_output=True, text=True).stdout.strip()


def code(text: str) -> tuple[str, ...]:
    """A command that stands for `make check`."""
    return sys.executable, "-c", text


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with one commit, no container engine, and the current folder."""
    monkeypatch.setattr(sys.modules[release.__module__], "Scorer", ToyScorer)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@example.org")
    folder = tmp_path / "toy"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    git("init", "--quiet", "--initial-branch=main")
    commit()
    return folder


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "change")


def traces() -> tuple[str, ...]:
    """What a release would change."""
    files = sorted(str(path) for path in Path().rglob("*") if ".git" not in path.parts and path.is_file())
    return git("rev-parse", "HEAD"), git("tag"), git("status", "--porcelain"), *files


def test_a_dry_run_tells_the_plan_and_leaves_no_trace() -> None:
    before, said = traces(), list[str]()
    release("", "", said.append, code(""))
    assert traces() == before
    for word in ("toy 0.1.0", "toy-0.1.0-py3", "sha256", "v0.1.0", "no container engine", "dry run"):
        assert word in "\n".join(said)


def test_a_release_is_a_commit_a_tag_a_section_and_a_wheel() -> None:
    release("0.2.0", "yes", list[str]().append, code(""))
    assert git("describe") == "v0.2.0"
    assert git("cat-file", "-t", "v0.2.0") == "tag"
    assert git("status", "--porcelain") == ""
    assert 'version = "0.2.0"' in Path("pyproject.toml").read_text(encoding="utf-8")
    assert 'version = "0.2.0"' in Path("uv.lock").read_text(encoding="utf-8")
    headings = [line.split(" - ")[0] for line in Path("CHANGELOG.md").read_text(encoding="utf-8").splitlines()]
    assert [line for line in headings if line.startswith("## ")] == ["## [Unreleased]", "## [0.2.0]", "## [0.0.1]"]
    assert "toy/__init__.py" in zipfile.ZipFile("dist/toy-0.2.0-py3-none-any.whl").namelist()
    with pytest.raises(ProjectError, match="nothing stands under"):
        release("0.3.0", "", print, code(""))
    with pytest.raises(ProjectError, match=r"v0\.2\.0 exists"):
        release("0.2.0", "", print, code(""))


@pytest.mark.parametrize(
    ("version", "confirm", "told"),
    [
        ("0.0.9", "", "not higher than 0.1.0"),
        ("1.0", "", "three numbers"),
        ("01.0.0", "", "three numbers"),
        ("v1.0.0", "", "three numbers"),
        ("", "yes", "say which version"),
        ("0.2.0", "y", "CONFIRM"),
    ],
)
def test_a_wrong_version_is_refused(version: str, confirm: str, told: str) -> None:
    before = traces()
    with pytest.raises(ProjectError, match=told):
        release(version, confirm, print, code(""))
    assert traces() == before


def remove(name: str) -> Callable[[], None]:
    def plant() -> None:
        Path(name).unlink()
        commit()

    return plant


def dirty() -> None:
    Path("new.txt").touch()


def other_contract() -> None:
    text = Path("config/contract.yaml").read_text(encoding="utf-8")
    Path("config/contract.yaml").write_text(text.replace('"x"', '"z"'), encoding="utf-8")
    commit()


def detached() -> None:
    git("checkout", "--quiet", "--detach")


def broken_build() -> None:
    Path("src/toy/__init__.py").rename("src/other.py")
    commit()


FAULTS: dict[str, tuple[Callable[[], None], tuple[str, ...], str]] = {
    "uncommitted changes": (dirty, code(""), r"new\.txt not committed"),
    "no branch": (detached, code(""), "no branch"),
    "no changelog": (remove("CHANGELOG.md"), code(""), "CHANGELOG"),
    "no lock": (remove("uv.lock"), code(""), r"uv\.lock"),
    "another contract": (other_contract, code(""), "'z' is not an input"),
    "failing check": (lambda: None, code("raise SystemExit(1)"), "nothing is released"),
    "no such check": (lambda: None, ("no-such-command",), "no-such-command"),
    "a check that writes": (lambda: None, code("open('made.txt', 'w')"), r"made\.txt not committed"),
    "a broken build": (broken_build, code(""), "wheel could not be built"),
    "a late failure": (lambda: None, code("open('.git/index.lock', 'w')"), "git merge failed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_releases_nothing(fault: str) -> None:
    plant, check, told = FAULTS[fault]
    plant()
    before = traces()
    with pytest.raises(ProjectError, match=told):
        release("0.2.0", "yes", print, check)
    Path("made.txt").unlink(missing_ok=True)
    assert traces() == before


def test_without_a_repository_or_an_engine_it_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProjectError, match="no container engine"):
        image()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match="no git repository"):
        release("", "", print, code(""))
