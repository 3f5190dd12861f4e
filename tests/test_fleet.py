"""A team's repositories in view, and an update for each: nothing is done twice, nobody stops the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import copier
import pytest
from conftest import commit, copied_tree, git
from typer.testing import CliRunner
from working import work

from mlops_ladder import cli_fleet, crew, fleet, fleet_page, plan, standing, versions
from mlops_ladder.crew import shared
from mlops_ladder.errors import RefusedError
from mlops_ladder.places import Place, found
from mlops_ladder.team import Team

OLD, NEW = "v0.0.1", "v0.0.2"
TEAM = Team(version=1)
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a template with two releases: the second has another sentence in the Makefile."""
    folder = copied_tree(tmp_path_factory.mktemp("template"))
    commit(folder, "Release", OLD)
    page = folder / "template/Makefile.jinja"
    text = page.read_text()
    assert "open the notebooks" in text
    page.write_text(text.replace("open the notebooks", "open the notebooks in the browser"))
    commit(folder, "Release", NEW)
    return folder


@pytest.fixture(scope="module")
def pattern(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of level 0 at the first release, to be copied."""
    folder = tmp_path_factory.mktemp("pattern")
    data = {"maturity_level": 0}
    copier.run_copy(str(released), folder, vcs_ref=OLD, data=data, defaults=True, quiet=True)
    commit(folder, "Start the project")
    return folder


@pytest.fixture
def member(pattern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that adds a repository to the team's folder, with some files edited and committed."""
    monkeypatch.setenv("MLOPS_LADDER_CACHE", str(tmp_path / "cache"))
    for known in (versions.history, versions.newest, versions.commit, versions.behind, versions.name):
        known.cache_clear()

    def _member(name: str, **edits: tuple[str, str]) -> Path:
        folder = tmp_path / "team" / name
        shutil.copytree(pattern, folder)
        for path, (before, after) in edits.items():
            text = (folder / path).read_text()
            assert before in text
            (folder / path).write_text(text.replace(before, after))
        if edits:
            commit(folder, "Edit")
        return folder

    return _member


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of a fleet run in this process, where they need no second to start."""
    monkeypatch.setattr(crew, "shared", lambda task, jobs, *_, **__: map(task, jobs))


MEETING = ("open the notebooks", "open my own notebooks")
"""An edit of the line that the second release changes."""
BESIDE = ("Every target is one line", "Each target is one line")
"""An edit of another line of the same file."""


def said(*words: str) -> tuple[int, str]:
    """Run a command of the fleet; return its exit code and what it printed."""
    done = CliRunner().invoke(cli_fleet.app, list(words), standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.return_value, done.stdout


def states(folder: Path, team: Team = TEAM, **more: Any) -> dict[str, str]:
    return {one.name: one.state for one in fleet.update(found([str(folder)]), team, workers=1, **more)}


def branches(folder: Path) -> list[str]:
    return git(folder, "branch", "--list", "mlops-ladder/*", "--format=%(refname:short)").split()


def test_status_tells_how_each_stands(member: Make, tmp_path: Path) -> None:
    plain, edited = member("plain"), member("edited", Makefile=MEETING)
    shutil.copytree(plain, tmp_path / "team" / "trained")
    record = tmp_path / "team" / "trained" / "runs" / "1.json"
    record.parent.mkdir()
    record.write_text("{}")
    commit(record.parents[1], "Train")
    git(plain, "branch", "mlops-ladder/x", git(plain, "commit-tree", "-m", "x", "-p", "HEAD", "HEAD^{tree}").strip())
    (tmp_path / "team" / "other").mkdir()
    commit(tmp_path / "team" / "other", "Start")
    rows = {row.name: row for row in standing.status([str(tmp_path / "team")], TEAM, drift=True)}
    assert list(rows) == ["edited", "other", "plain", "trained"]
    assert (rows["plain"].version, rows["plain"].to, rows["plain"].level) == (OLD, NEW, 0)
    assert rows["plain"].behind == {"releases": 1, "commits": 1}
    assert rows["plain"].late == "1 release"
    assert {name: row.drift for name, row in rows.items()} == {"edited": 1, "other": None, "plain": 0, "trained": 0}
    assert (rows["plain"].branches, rows["edited"].branches) == (("mlops-ladder/x",), ())
    assert (rows["trained"].proved, rows["plain"].proved) == (2, None)
    assert rows["other"].problem.startswith("no template project")
    assert rows["plain"].updated == int(git(edited, "log", "--reverse", "--format=%ct").split()[0])
    (plain / "Makefile").unlink()
    commit(plain, "Remove")
    again = {row.name: row.drift for row in standing.status([str(tmp_path / "team")], TEAM)}
    assert again["plain"] == 1, "the render is kept, and the project read anew"


def test_status_as_table_json_and_page(member: Make, tmp_path: Path) -> None:
    member("<b>odd & name")
    team, page = tmp_path / "team", tmp_path / "pages" / "fleet.html"
    code, table = said("status", str(team), "--html", str(page))
    assert code == 0
    assert "1 release" in table
    (row,) = json.loads(said("status", str(team), "--json")[1])
    assert (row["version"], row["drift"], row["late"]) == (OLD, None, "1 release")
    text = page.read_text()
    assert "&lt;b&gt;odd &amp; name" in text
    assert not re.search(r"<script|<link|src=|https?://", text), "the page needs nothing but itself"
    assert "1 repository, 0 up to date, 1 behind" in text


def test_page_of_everything_that_can_be_said() -> None:
    row = standing.Row(
        "a", "/a", "v1", "v2", {"releases": 2, "commits": 9}, "2 releases", 1, 2, 1, 3, ("b",), ("c",), ""
    )
    cells = fleet_page.cells(row)
    assert cells == ("a", "v1", "2 releases", "1", "2", "1970-01-01", "3 files", "b", "c")
    broken = standing.Row("z", "/z", problem="no template project")
    page = fleet_page.page([row, broken], datetime(2026, 1, 2, tzinfo=UTC))
    assert all(f">{cell}</td>" in page or cell in page for cell in cells)
    assert "1 not as the team agreed, 1 with a problem" in page


def test_update_makes_what_copier_makes(member: Make, tmp_path: Path) -> None:
    folders = [member("plain"), member("beside", Makefile=BESIDE)]
    heads = [git(folder, "rev-parse", "HEAD") for folder in folders]
    (folders[0] / "notes.txt").write_text("not committed")
    assert states(tmp_path / "team") == {"plain": "branch", "beside": "branch"}
    for folder, head in zip(folders, heads, strict=True):
        assert (git(folder, "rev-parse", "HEAD"), git(folder, "branch", "--show-current").strip()) == (head, "main")
        assert git(folder, "rev-parse", f"mlops-ladder/{NEW}^") == head
        git(folder, "clean", "-fdq")
        copier.run_update(folder, defaults=True, overwrite=True, quiet=True)
        git(folder, "add", "--all")
        assert git(folder, "write-tree").strip() == git(folder, "rev-parse", f"mlops-ladder/{NEW}^{{tree}}").strip()


def test_left_for_a_person_with_the_reason(member: Make, tmp_path: Path) -> None:
    member("plain")
    meeting = member("meeting", Makefile=MEETING)
    code, table = said("update", str(tmp_path / "team"))
    assert code == 2
    assert re.search(r"meeting +left +a person must decide: Makefile: ", table)
    assert re.search(rf"plain +branch .* mlops-ladder/{NEW}", table)
    assert branches(meeting) == []
    assert git(meeting, "status", "--porcelain") == ""


def test_one_that_fails_stops_nobody(member: Make, tmp_path: Path) -> None:
    first, second = member("a-broken"), member("b-plain")
    (first / ".copier-answers.yml").write_text("_commit: v0.0.1\n")
    commit(first, "Break")
    third = member("c-gone")
    answers = third / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace(f"_commit: {OLD}", "_commit: v9.9.9"))
    commit(third, "Break")
    code, table = said("update", str(tmp_path / "team"))
    assert code == 1
    assert re.search(r"a-broken +failed +\.copier-answers\.yml does not say _src_path", table)
    assert re.search(r"c-gone +failed +.*has no version v9\.9\.9", table)
    assert branches(second) == [f"mlops-ladder/{NEW}"]


def test_what_is_done_is_not_done_again(member: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, meeting = member("plain"), member("meeting", Makefile=MEETING)
    places = found([str(tmp_path / "team")])
    jobs = [fleet.Job(place, TEAM) for place in places]
    first = fleet.update(places, TEAM, workers=1)
    made = git(plain, "rev-parse", f"mlops-ladder/{NEW}")
    with monkeypatch.context() as patched:
        patched.setattr(plan, "planned", lambda *_, **__: pytest.fail("it was planned again"))
        again = [fleet.updated(job)[1] for job in jobs]
    assert [one.state for one in again] == [one.state for one in first] == ["left", "branch"]
    assert again[0].said == first[0].said
    assert git(plain, "rev-parse", f"mlops-ladder/{NEW}") == made
    (meeting / "Makefile").write_text((meeting / "Makefile").read_text().replace(MEETING[1], MEETING[0]))
    commit(meeting, "Give way")
    assert states(tmp_path / "team")["meeting"] == "branch", "a new commit is looked at anew"
    commit(plain, "Go on")
    outcome = {one.name: one for one in fleet.update(places, TEAM, workers=1)}["plain"]
    assert (outcome.state, "begins at an older commit" in outcome.said) == ("left", True)


def test_killed_and_resumed(member: Make, tmp_path: Path) -> None:
    folders = [member(f"p{number}") for number in range(4)]
    command = [sys.executable, "-c", "from mlops_ladder.cli import main; main()"]
    words = ["fleet", "update", str(tmp_path / "team"), "--workers", "1"]
    process = subprocess.Popen(
        [*command, *words], env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not any(branches(folder) for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {folder.name: git(folder, "rev-parse", f"mlops-ladder/{NEW}") for folder in folders if branches(folder)}
    assert done, "it was killed at work"
    outcomes = fleet.update(found([str(tmp_path / "team")]), TEAM, workers=1)
    assert [one.state for one in outcomes] == ["branch"] * 4
    assert {one.name for one in outcomes if one.said == "its branch was made before"} >= done.keys()
    assert all(git(tmp_path / "team" / name, "rev-parse", f"mlops-ladder/{NEW}") == made for name, made in done.items())
    assert all(
        git(folder, "fsck", "--strict") == "" and git(folder, "status", "--porcelain") == "" for folder in folders
    )


def test_canary_first(member: Make, tmp_path: Path) -> None:
    member("a"), member("bird", Makefile=MEETING)
    outcomes = fleet.update(found([str(tmp_path / "team")]), TEAM, canaries=["bird"], workers=1)
    assert {one.name: one.state for one in outcomes} == {"a": "untried", "bird": "left"}
    assert "the canary bird did not get on: a person must decide: Makefile" in outcomes[0].said
    assert branches(tmp_path / "team" / "a") == []
    with pytest.raises(RefusedError, match="nobody: no repository of these"):
        states(tmp_path / "team", canaries=["nobody"])
    shutil.rmtree(tmp_path / "team" / "bird")
    member("bird")
    told: list[str] = []
    agreed = Team(version=1, canaries=["bird"])
    fleet.update(found([str(tmp_path / "team")]), agreed, workers=1, told=lambda one: told.append(one.name))
    assert told == ["bird", "a"]


def test_up_to_date_needs_nothing(member: Make, tmp_path: Path) -> None:
    folder = member("plain")
    assert states(tmp_path / "team", Team(version=1, to=OLD)) == {"plain": "current"}
    states(tmp_path / "team")
    git(folder, "merge", "--quiet", f"mlops-ladder/{NEW}")
    assert states(tmp_path / "team") == {"plain": "current"}
    (row,) = standing.status([str(tmp_path / "team")], TEAM)
    assert (row.late, row.branches) == ("up to date", ())


def test_locked_answers_arrive(member: Make, tmp_path: Path) -> None:
    folder = member("plain")
    agreed = Team(version=1, to=OLD, defaults={"license": "Proprietary"}, locked={"author": "The platform team"})
    (row,) = standing.status([str(tmp_path / "team")], agreed)
    assert row.deviations == (
        "author is The team, the team's locked is The platform team",
        "license is MIT, the team's default is Proprietary",
    )
    (outcome,) = fleet.update(found([str(tmp_path / "team")]), agreed, workers=1)
    assert outcome.state == "branch"
    assert outcome.deviations == ("license is MIT, the team's default is Proprietary",)
    assert "author: The platform team" in git(folder, "show", f"{outcome.branch}:.copier-answers.yml")


def test_answer_of_birth_is_left_alone(member: Make, tmp_path: Path) -> None:
    folder = member("plain")
    (outcome,) = fleet.update(
        found([str(tmp_path / "team")]), Team(version=1, locked={"task": "regression"}), workers=1
    )
    assert (outcome.state, "was fixed when the project was born" in outcome.said) == ("left", True)
    assert branches(folder) == []


def test_uncommitted_work_is_left_alone(member: Make, tmp_path: Path) -> None:
    folder = member("plain")
    (folder / "Makefile").write_text("mine\n")
    (outcome,) = fleet.update(found([str(tmp_path / "team")]), TEAM, workers=1)
    assert (outcome.state, "has uncommitted work in Makefile" in outcome.said) == ("left", True)
    assert ((folder / "Makefile").read_text(), branches(folder)) == ("mine\n", [])
    git(folder, "restore", "Makefile")
    assert states(tmp_path / "team") == {"plain": "branch"}, "it was not remembered"


def test_addresses_and_lists(member: Make, tmp_path: Path) -> None:
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(member("plain")), str(bare))
    address = bare.as_uri()
    listing = tmp_path / "repositories.txt"
    listing.write_text(f"# ours\nteam/plain  # the first\n{address}\nnowhere\nfile:///nowhere/at/all.git\n")
    places = found([str(listing)])
    assert [(place.name, place.problem[:10]) for place in places[:2]] == [("plain", ""), ("origin", "")]
    assert "is no folder" in places[2].problem
    assert "file:///nowhere/at/all.git: git clone failed" in places[3].problem
    (outcome,) = fleet.update(found([address]), TEAM, workers=1)
    assert (outcome.state, "--push sends it" in outcome.said, branches(bare)) == ("branch", True, [])
    (outcome,) = fleet.update(found([address]), TEAM, push=True, workers=1)
    assert outcome.state == "branch", "what an earlier run made is sent"
    assert branches(bare) == [f"mlops-ladder/{NEW}"]
    (row,) = standing.status([address], TEAM)
    assert row.branches == (f"mlops-ladder/{NEW}",)


def test_template_at_an_address_is_copied_once(member: Make, released: Path, tmp_path: Path) -> None:
    folder, template = member("plain"), tmp_path / "template"
    git(tmp_path, "clone", "--quiet", str(released), str(template))
    answers = folder / ".copier-answers.yml"
    answers.write_text(re.sub("(?m)^_src_path: .*$", f"_src_path: git+file://{template}", answers.read_text()))
    commit(folder, "Move")
    (row,) = standing.status([str(folder)], TEAM)
    assert (row.problem, row.late) == ("", "1 release")
    template.rename(tmp_path / "gone")
    for known in (versions.history, versions.newest, versions.commit, versions.behind, versions.name):
        known.cache_clear()
    assert states(folder) == {"plain": "branch"}, "without a network, what was known the last time serves"
    shutil.rmtree(tmp_path / "cache")
    versions.history.cache_clear()
    with pytest.raises(RefusedError, match="git clone failed"):
        versions.history(f"git+file://{template}")
    with pytest.raises(RefusedError, match=r"the template \.\./x is not on this machine, and is no address"):
        versions.history("../x")


def test_projects_in_folders_of_one_repository(member: Make, tmp_path: Path) -> None:
    top = tmp_path / "mono"
    for name in ("one", "two"):
        shutil.move(member(name), top / "models" / name)
        shutil.rmtree(top / "models" / name / ".git")
    commit(top, "Start")
    outcomes = fleet.update(found([str(top)]), TEAM, workers=1)
    assert [(one.name, one.state) for one in outcomes] == [("mono/models/one", "branch"), ("mono/models/two", "branch")]
    for name, other in (("one", "two"), ("two", "one")):
        changed = git(top, "diff", "--name-only", "main", f"mlops-ladder/models-{name}/{NEW}").split()
        assert f"models/{name}/Makefile" in changed
        assert not any(path.startswith(f"models/{other}/") for path in changed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["status", "/nowhere"], "/nowhere: is no folder, no file and no address of git"),
        (["status", "."], "holds no repository"),
        (["update", "empty.txt"], "no repository is named"),
        (["update", "plain", "--to", "v7"], ""),
    ],
)
def test_refusals(
    words: list[str], sentence: str, member: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team").mkdir()
    monkeypatch.chdir(tmp_path / "team")
    (tmp_path / "team" / "empty.txt").write_text("# nothing\n")
    if sentence:
        with pytest.raises(RefusedError, match=re.escape(sentence)):
            said(*words)
        return
    member("plain")
    code, table = said(*words)
    assert (code, "has no version v7" in table) == (1, True)


def test_worker_that_dies_or_hangs_costs_its_own_job() -> None:
    jobs = ["a", "die", "b", "hang", "c"]
    said = set(shared(work, jobs, lambda job, why: f"{job}: {why}", workers=2, patience=5))
    assert said == {
        "a done",
        "b done",
        "c done",
        "die: its worker process died (exit code -9)",
        "hang: it did not end within 5 seconds",
    }


def test_place_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    row = standing._row(Place("x", tmp_path, problem="gone"), "gone", TEAM)
    assert (row.problem, row.version, fleet_page.cells(row)[2]) == ("gone", "", "-")
