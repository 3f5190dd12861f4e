"""The command as somebody types it: exit codes, one sentence for each mistake, and a kill at every moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Done, commit, git, run
from tiny import ANSWERS, State, project_of, state, tiny

from mlops_ladder.plan import RefusedError, applied, planned, recovered

COMMAND = [sys.executable, "-c", "from mlops_ladder.cli import main; main()"]
MINE = "# mine\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny") / "template")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return project_of(template, tmp_path / "project")


def ladder(project: Path, *words: str) -> Done:
    return run([*COMMAND, *words], project)


def test_climb_says_what_is_new_and_what_to_do(project: Path) -> None:
    done = ladder(project, "climb", "--to", "2")
    assert done.returncode == 0, done.stderr
    for part in (
        "level 0 to 2",
        "added",
        "ops/two.py",
        "new in the template",
        "Level 1, one: adds a folder",
        "make setup",
    ):
        assert part in done.stdout
    assert "It asks of the team" in done.stdout
    assert "make pipeline    the first command at level 2" in done.stdout
    assert "Rendering v1" in done.stderr
    assert (project / "ops/two.py").exists()
    commit(project)
    again = ladder(project, "climb")
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    down = ladder(project, "climb", "--to", "0")
    assert down.returncode == 0
    assert "config/one.yaml" in down.stdout
    assert "it stays" in down.stdout
    assert "deleted" in down.stdout
    assert "It asks of the team" not in down.stdout


def test_dry_run_diff_and_branch(project: Path) -> None:
    before = state(project)
    seen = ladder(project, "update", "--dry-run", "--diff")
    assert seen.returncode == 0
    assert "+line three\n" in seen.stdout
    assert "Nothing was changed." in seen.stdout
    made = ladder(project, "update", "--branch", "newer")
    assert made.returncode == 0
    assert "git merge newer" in made.stdout
    assert state(project) == before
    assert git(project, "show", "newer:fresh.py") == "fresh = 1\n"


def test_exit_codes_and_json(project: Path) -> None:
    (project / "list.txt").write_text(MINE)
    commit(project)
    before = state(project)
    done = ladder(project, "update", "--json", "--diff")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["old"], found["new"], found["clean"], found["applied"]) == ("v1", "v2", False, False)
    (conflict,) = (change for change in found["changes"] if change["kind"] == "conflict")
    assert conflict["path"] == "list.txt"
    assert "<<<<<<< yours" in conflict["diff"]
    assert state(project) == before
    told = ladder(project, "update")
    assert told.returncode == 2
    assert "--conflicts writes them into the file" in told.stdout
    (project / "old_name.py").write_text(MINE)
    commit(project)
    lost = ladder(project, "update")
    assert lost.returncode == 1
    assert "would lose an edit" in lost.stdout
    assert "--keep-mine" in lost.stdout
    written = ladder(project, "update", "--conflicts", "--keep-mine")
    assert written.returncode == 2
    assert "git checkout --ours list.txt" in written.stdout
    assert "when the files above are resolved" in written.stdout
    assert (project / "old_name.py").read_text() == MINE
    assert "UU list.txt" in git(project, "status", "--porcelain")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["climb", "--tp", "2"], "No such option: --tp"),
        (["climb", "--to", "high"], "Invalid value for '--to'"),
        (["climb", "--to", "7"], "There is no level 7 in the template at v1: it has 0, 1, 2."),
        (["lcimb"], "No such command 'lcimb'"),
        (["update", "--data", "flavor=lemon"], "did you mean flavour?"),
        (["update", "--data", "flavour"], "is not of the form NAME=VALUE"),
        (["update", "--data", "flavour=lime"], "'lime' is no answer to flavour: vanilla, lemon are."),
        (["update", "--data", "task=regression"], "fixed when the project was born"),
        (["update", "--to", "v77"], "has no revision 'v77'"),
        (["update", "--branch", "x", "--conflicts"], "--branch takes a clean plan only"),
        (["update", "/nowhere"], "/nowhere is not a folder"),
        (["drift", "/"], "is in no git repository"),
    ],
)
def test_a_mistake_is_one_sentence(project: Path, words: list[str], sentence: str) -> None:
    before = state(project)
    done = ladder(project, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.splitlines()[-1].startswith("mlops-ladder: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout == ""
    assert state(project) == before


def test_drift(project: Path) -> None:
    (project / "list.txt").write_text(MINE)
    git(project, "add", "--force", "--all")
    commit(project)
    done = ladder(project, "drift")
    assert done.returncode == 0
    assert "1 of 13 files of the template differ from v1" in done.stdout
    found = json.loads(ladder(project, "drift", "--json").stdout)
    assert found["files"] == [{"path": "list.txt", "kind": "edited", "added": 1, "removed": 30}]
    (project / ANSWERS).write_text((project / ANSWERS).read_text().replace("level: 0", "level: 2"))
    commit(project)
    lie = ladder(project, "drift")
    assert lie.returncode == 1
    assert "says level 2, and none of the" in lie.stdout
    for words in (["update"], ["climb", "--to", "1"]):
        done = ladder(project, *words)
        assert done.returncode == 1
        assert "says level 2, and none of the" in done.stderr


KILLED = """
import os, pathlib, signal, sys
from mlops_ladder.plan import applied, planned
from mlops_ladder import apply
left = int(sys.argv[2])

def counted(step):
    def _counted(*words, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*words, **more)
    return _counted

plan = planned(pathlib.Path(sys.argv[1]))
for owner, name in ((pathlib.Path, "replace"), (pathlib.Path, "unlink"), (pathlib.Path, "rmdir"), (apply, "git")):
    setattr(owner, name, counted(getattr(owner, name)))
applied(plan, conflicts=True)
"""
"""Applies a plan, and kills itself before the n-th step that changes something."""


def killed(project: Path, step: str) -> subprocess.CompletedProcess[str]:
    """Run KILLED, with what it leaves in the system's temporary folder beside the project."""
    return run([sys.executable, "-c", KILLED, project, step], project, TMPDIR=str(project.parent))


@pytest.fixture
def worked(project: Path) -> Path:
    """A project with a conflict, a deletion and additions before it."""
    (project / "list.txt").write_text(MINE)
    (project / "local.env").write_text("SECRET=1\n")
    (project / "notes.txt").write_text(MINE)
    git(project, "add", "list.txt")
    git(project, "commit", "--quiet", "--message", "Work")
    return project


def git_state(project: Path) -> tuple[str, str, str]:
    """Return what git says of index, working tree and branches."""
    return (
        git(project, "status", "--porcelain", "--ignored", "--untracked-files=all"),
        git(project, "ls-files", "--stage"),
        git(project, "show-ref", "--head"),
    )


def test_a_kill_before_each_step_leaves_the_project_as_it_was(worked: Path, tmp_path: Path) -> None:
    before: tuple[State, tuple[str, str, str]] = state(worked), git_state(worked)
    kills = undone = 0
    for step in range(1, 100):
        copy = Path(shutil.copytree(worked, tmp_path / f"copy-{step}", symlinks=True))
        done = killed(copy, str(step))
        if done.returncode == 0:
            assert state(copy) != before[0]
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        undone += recovered(copy)
        after = state(copy), git_state(copy)
        if (copy / "fresh.py").exists():
            assert "UU list.txt" in after[1][0], "the journal is gone: the change is whole"
        else:
            assert after == before
            applied(planned(copy), conflicts=True)
        assert "line three" in (copy / "list.txt").read_text()
        assert not list(copy.rglob("*.mlops-ladder"))
        shutil.rmtree(copy)
    else:
        pytest.fail("it never came to its end")
    assert kills > 10
    assert undone > 5


def test_a_kill_at_any_time(worked: Path) -> None:
    """The command, killed after random times: the next run finds the project as it was, or finished."""
    before = state(worked), git_state(worked)
    chance = random.Random(6)
    for _ in range(8):
        process = subprocess.Popen(
            [*COMMAND, "update", "--conflicts"],
            cwd=worked,
            env={**os.environ, "TMPDIR": str(worked.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.3, 3))
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        process.wait(timeout=60)
        recovered(worked)
        if state(worked) != before[0]:
            assert "UU list.txt" in git(worked, "status", "--porcelain")
            git(worked, "reset", "--quiet", "--hard")
            git(worked, "clean", "--quiet", "--force", "fresh.py", "core", "new_name.py")
        assert (state(worked), git_state(worked)) == before


def test_an_edit_after_a_kill_is_not_undone(worked: Path) -> None:
    process = killed(worked, "9")
    assert process.returncode == -signal.SIGKILL
    git(worked, "status")
    changed = next(path for path in ("gone.py", "old_name.py") if not (worked / path).exists())
    (worked / changed).write_text("since then\n")
    with pytest.raises(RefusedError, match=rf"{changed} was edited since"):
        planned(worked)
    assert (worked / changed).read_text() == "since then\n"
    (worked / changed).unlink()
    assert recovered(worked)
    assert (worked / changed).exists()


def test_a_project_that_moved_after_a_kill(worked: Path, tmp_path: Path) -> None:
    before = state(worked)
    process = killed(worked, "9")
    assert process.returncode == -signal.SIGKILL
    moved = worked.rename(tmp_path / "elsewhere")
    assert state(moved) != before
    assert recovered(moved)
    assert state(moved) == before


def test_a_second_working_tree(worked: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    git(worked, "worktree", "add", "--quiet", "-b", "second", str(second))
    before = state(worked)
    assert ladder(second, "update", "--conflicts").returncode == 2
    assert "UU list.txt" in git(second, "status", "--porcelain")
    assert state(worked) == before
    assert not git(worked, "status", "--porcelain", "--untracked-files=no")


def test_a_full_disk_is_undone(worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(worked), git_state(worked)
    plan = planned(worked)
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if Path(target).name == "list.txt" and path.name == "list.txt":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        applied(plan, conflicts=True)
    monkeypatch.undo()
    assert (state(worked), git_state(worked)) == before


def test_two_runs_at_once_wait_for_each_other(worked: Path) -> None:
    processes = [
        subprocess.Popen(
            [*COMMAND, "update", "--conflicts"], cwd=worked, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        process.communicate(timeout=120)
    codes = sorted(process.returncode for process in processes)
    assert codes in ([1, 2], [2, 2])
    assert "line three" in (worked / "list.txt").read_text()
    assert not (worked / ".git" / "mlops-ladder" / "journal.json").exists()
