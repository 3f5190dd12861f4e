"""A user as no author imagines one: odd places and settings, empty answers, a closed pipe, a finger on Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Done, commit, git, run
from tiny import ANSWERS, project_of, state, tiny

COMMAND = [sys.executable, "-c", "from mlops_ladder.cli import main; main()"]
MINE = "# mine\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny") / "template")


@pytest.fixture(scope="module")
def pattern(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a committed project, to be copied."""
    return project_of(template, tmp_path_factory.mktemp("pattern") / "project")


@pytest.fixture
def project(pattern: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pattern, tmp_path / "project", symlinks=True))


def ladder(folder: Path, *words: str | Path, **environment: str) -> Done:
    return run([*COMMAND, *words], folder, MLOPS_LADDER_CACHE=str(folder / ".git/cache"), **environment)


def refused(done: Done, sentence: str) -> None:
    """Make sure that a command did nothing but say one sentence."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("mlops-ladder: ")
    assert "Traceback" not in done.stderr


def detached(project: Path, _: Path) -> Path:
    git(project, "checkout", "--quiet", "--detach")
    return project


def shallow(project: Path, folder: Path) -> Path:
    commit(project, "Another")
    git(folder, "clone", "--quiet", "--depth=1", f"file://{project}", "shallow")
    assert git(folder / "shallow", "rev-list", "--count", "HEAD").strip() == "1"
    return folder / "shallow"


def submodule(project: Path, folder: Path) -> Path:
    commit(folder / "top")
    git(folder / "top", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "inner")
    commit(folder / "top")
    return folder / "top/inner"


def with_submodule(project: Path, folder: Path) -> Path:
    commit(folder / "other")
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(folder / "other"), "vendor")
    commit(project)
    return project


def of_windows(project: Path, folder: Path) -> Path:
    git(project, "rm", "--quiet", "windows.bat")
    commit(project)
    git(folder, "-c", "core.autocrlf=true", "clone", "--quiet", str(project), "windows")
    git(folder / "windows", "config", "core.autocrlf", "true")
    assert b"line 1\r\n" in (folder / "windows/list.txt").read_bytes()
    return folder / "windows"


def spaces(project: Path, folder: Path) -> Path:
    (folder / "été à la plage").mkdir()
    return project.rename(folder / "été à la plage" / "ma démo [1]")


def read_only(project: Path, _: Path) -> Path:
    (project / "list.txt").chmod(0o444)
    return project


@pytest.mark.parametrize(
    "place", [detached, shallow, submodule, with_submodule, of_windows, spaces, read_only], ids=lambda one: one.__name__
)
def test_odd_places_are_updated(place: Callable[[Path, Path], Path], project: Path, tmp_path: Path) -> None:
    for name in ("top", "other"):
        (tmp_path / name).mkdir()
    found = place(project, tmp_path)
    assert git(found, "status", "--porcelain") == ""
    done = ladder(tmp_path, "update", found)
    assert done.returncode == 0, done.stderr
    assert str(found) in done.stdout
    text = (found / "list.txt").read_bytes()
    assert (b"line three" in text, b"\r\n" in text) == (True, place is of_windows)
    commit(found)
    told = json.loads(ladder(tmp_path, "drift", found, "--json").stdout)
    assert {file["path"] for file in told["files"]} <= {"local.env", "windows.bat"}, "ignored, or deleted before"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["update", "--branch", ""], "'' is not a usable name of a branch."),
        (["update", "--branch", "a..b"], "'a..b' is not a usable name of a branch."),
        (["climb", "--branch", "taken"], "There is a branch taken already"),
        (["climb", "--data", "maturity_level=2"], "The level to climb to is given with --to"),
        (["new", "list.txt/inside", "--template", "TEMPLATE"], "list.txt is a file, and no folder can be made in it"),
        (["new", "core/a.py/b/c", "--template", "TEMPLATE"], "core/a.py is a file"),
        (["new", "x", "--template", "core"], "cannot be reached"),
        (["fleet", "status", "logo.bin"], "logo.bin: is no list of repositories, for it is not text"),
        (["fleet", "status", "~no-such-user/x"], "~no-such-user/x: is no folder, no file and no address of git"),
        (["fleet", "update", ".", "--canary", "~no-such-user/x"], "no repository of these"),
        (["new", "x", "--template", "~no-such-user/x"], "cannot be reached"),
        (["adopt-repo", ".", "--template", "TEMPLATE"], "is a project of a template already"),
    ],
)
def test_refused_before_anything_is_done(project: Path, template: Path, words: list[str], sentence: str) -> None:
    (project / "logo.bin").write_bytes(b"\xff\xfe\x00")
    commit(project)
    git(project, "branch", "taken")
    before = state(project)
    done = ladder(project, *(word.replace("TEMPLATE", str(template)) for word in words))
    refused(done, sentence)
    assert "Rendering" not in done.stderr, "nobody waits for a plan that cannot be kept"
    assert state(project) == before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a: [", "is not valid YAML"),
        ("- a list", "does not say _src_path and _commit"),
        ("_src_path: [1]\n_commit: v1", "does not say _src_path:"),
        ("_src_path: /x\n_commit: v1\nmaturity_level: high", "has maturity_level: high, which is no number"),
        ("_src_path: /x\n_commit: v1\nmaturity_level:", "has maturity_level: None, which is no number"),
        ("_src_path: /x\n_commit: v1\nmaturity_level: true", "has maturity_level: True, which is no number"),
    ],
)
def test_answers_that_say_nothing(project: Path, line: str, sentence: str) -> None:
    """Every command says the same of the same file."""
    (project / ANSWERS).write_text(f"{line}\n")
    commit(project)
    for words in (["update"], ["climb", "--to", "1"], ["drift"]):
        refused(ladder(project, *words), sentence)
    rows = json.loads(ladder(project, "fleet", "status", project, "--json").stdout)
    assert sentence in rows[0]["problem"]
    done = ladder(project, "fleet", "update", project, "--json")
    assert (done.returncode, sentence in json.loads(done.stdout)[0]["said"]) == (1, True)


def test_json_stands_alone_on_standard_output(project: Path) -> None:
    (project / "list.txt").write_text(MINE)
    commit(project)
    for words, code in (
        (["climb", "--to", "1", "--dry-run"], 0),
        (["update"], 2),
        (["drift"], 0),
        (["fleet", "status", project], 0),
        (["fleet", "update", project], 2),
    ):
        done = ladder(project, *words, "--json")
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)


@pytest.mark.parametrize("words", [["update"], ["update", "--json"], ["fleet", "update", "."]])
def test_nobody_reads_to_the_end(project: Path, words: list[str]) -> None:
    """As after `| head -1`: the exit code is the command's own."""
    (project / "list.txt").write_text(MINE)
    commit(project)
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "MLOPS_LADDER_CACHE": str(project / ".git/cache")}
    try:
        done = subprocess.run(
            [*COMMAND, *words], cwd=project, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


STOPPED = """
import sys
class Finger:
    def find_spec(self, name, *_):
        if name == {name!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finger())
from mlops_ladder.cli import main
assert not {{"copier", "pydantic", "rich", "typer"}} & sys.modules.keys(), "what takes a second is imported later"
main()
"""


@pytest.mark.parametrize("name", ["typer", "mlops_ladder.app", "rich.table", "copier"])
def test_ctrl_c_while_it_starts(project: Path, name: str) -> None:
    before = state(project)
    done = run([sys.executable, "-c", STOPPED.format(name=name), "update"], project)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert state(project) == before


def test_what_looks_like_markup_and_what_cannot_be_shown(project: Path) -> None:
    (project / "old_name.py").write_text("[/b] [red] é\n")
    commit(project)
    for words in (["update"], ["fleet", "update", project]):
        done = ladder(project, *words, PYTHONIOENCODING="ascii")
        assert "Traceback" not in done.stderr
        assert "[/b] [red] \\xe9" in done.stdout


def test_lists_of_repositories(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    (tmp_path / "team.txt").write_text("team.txt  # itself\nnowhere\nempty\n~/project\n", encoding="utf-8")
    done = ladder(project, "fleet", "status", tmp_path / "team.txt", "--json", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    problems = {Path(row["folder"]).name: row["problem"] for row in json.loads(done.stdout)}
    assert problems == {
        "team.txt": "team.txt: is no folder and no address of git",
        "nowhere": "nowhere: is no folder and no address of git",
        "empty": "it has no commit yet",
        "project": "",
    }


def test_a_template_with_a_mistake_makes_no_project(template: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(template, tmp_path / "broken", symlinks=True))
    (broken / "template/README.md.jinja").write_text("{% if %}\n")
    commit(broken, "Broken", "v3")
    refused(ladder(broken, "new", tmp_path / "made", "--template", broken), "No project was made: ")
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(shutil.which("script") is None or sys.platform != "linux", reason="no terminal to play with")
def test_a_narrow_terminal_without_colours(project: Path) -> None:
    words = " ".join(f"'{word}'" for word in [*COMMAND, "update", "--dry-run"])
    for colours in ("", "NO_COLOR=1"):
        typed = f"stty cols 40; {colours} TERM=xterm exec {words}"
        shown = run(["script", "--quiet", "--return", "--command", typed, "/dev/null"], project)
        assert shown.returncode == 0, shown.stdout
        assert ("\x1b[36m" in shown.stdout) == (not colours)
        assert "Nothing was changed." in shown.stdout
        table = shown.stdout.partition("6 updated")[0]
        assert "swers.yml" in table.replace("\r", "").replace(" ", ""), "a long path is folded, not cut"
