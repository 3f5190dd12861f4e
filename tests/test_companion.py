"""Each way in which Copier alone loses an edit without a word: shown to happen there, and stopped here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import copier
import pytest
from conftest import commit, git, must, run
from tiny import ANSWERS, NUMBERED, State, project_of, released, state, tiny

from mlops_ladder.plan import CURRENT, Plan, RefusedError, applied, branched, planned

MINE = "# mine, and nobody else's\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny") / "template")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return project_of(template, tmp_path / "project", maturity_level=1)


def edit(project: Path, name: str, old: str, new: str) -> None:
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))


def by_copier(project: Path, folder: Path, **options: Any) -> State:
    """Update a copy of the project with Copier alone, and return what became of it."""
    shutil.copytree(project, folder, symlinks=True)
    copier.run_update(folder, defaults=True, overwrite=True, quiet=True, **options)
    return state(folder)


def stopped(project: Path, plan: Plan, *paths: str) -> str:
    """Make sure that a plan names exactly these paths as losses and changes nothing; return what it says."""
    before = state(project)
    assert [change.path for change in plan.of("lost")] == sorted(paths)
    with pytest.raises(RefusedError) as refused:
        applied(plan)
    with pytest.raises(RefusedError):
        branched(plan, "update")
    assert state(project) == before
    assert not git(project, "branch", "--list", "update")
    assert str(refused.value).startswith(f"Nothing was changed: {sorted(paths)[0]}: ")
    return " ".join(change.reason for change in plan.of("lost"))


def test_edit_of_a_file_that_the_template_renames(project: Path, tmp_path: Path) -> None:
    edit(project, "old_name.py", "name 5\n", f"name 5\n{MINE}")
    commit(project)
    assert not any(MINE.encode() in content for _, content in by_copier(project, tmp_path / "c").values())
    plan = planned(project)
    said = stopped(project, plan, "old_name.py")
    assert "renamed it to new_name.py" in said
    assert f"line 6: {MINE.strip()!r}" in said
    applied(plan, keep=True)
    assert MINE in (project / "old_name.py").read_text()
    assert (project / "new_name.py").exists()


def test_edit_of_a_binary_file(project: Path, tmp_path: Path) -> None:
    (project / "logo.bin").write_bytes(b"\0my logo")
    commit(project)
    assert by_copier(project, tmp_path / "c")["logo.bin"][1] == b"\0second logo"
    plan = planned(project)
    assert "binary" in stopped(project, plan, "logo.bin")
    applied(plan, keep=True)
    assert (project / "logo.bin").read_bytes() == b"\0my logo"


def test_edit_of_a_file_of_a_higher_level(project: Path, tmp_path: Path) -> None:
    edit(project, "ops/one/a.py", "first 5\n", f"first 5\n{MINE}")
    commit(project)
    lower = {"maturity_level": 0}
    assert "ops/one/a.py" not in by_copier(project, tmp_path / "c", data=lower, vcs_ref=copier.VcsRef.CURRENT)
    plan = planned(project, to=CURRENT, answers=lower)
    assert repr(MINE.strip()) in stopped(project, plan, "ops/one/a.py")
    applied(plan, keep=True)
    assert MINE in (project / "ops/one/a.py").read_text()
    assert not (project / "ops/one/b.py").exists()


def test_conflict_that_git_is_told_not_to_show(project: Path, tmp_path: Path) -> None:
    edit(project, "list.txt", "line 3\n", f"line 3\n{MINE}")
    git(project, "config", "status.showUntrackedFiles", "no")
    commit(project)
    after = by_copier(project, tmp_path / "c")
    assert MINE.encode() not in after["list.txt"][1], "Copier leaves it in an invisible .rej"
    plan = planned(project)
    assert [change.path for change in plan.of("conflict")] == ["list.txt"]
    with pytest.raises(RefusedError, match=r"list\.txt"):
        applied(plan)
    applied(plan, conflicts=True)
    text = (project / "list.txt").read_text()
    assert MINE in text.split("<<<<<<< yours\n")[1].split("=======")[0]
    assert "line three\n" in text.split("=======\n")[1].split(">>>>>>> template v2")[0]
    assert "UU list.txt" in git(project, "status", "--porcelain")
    git(project, "checkout", "--theirs", "list.txt")
    assert MINE not in (project / "list.txt").read_text()


def test_file_that_git_ignores(project: Path, tmp_path: Path) -> None:
    (project / "local.env").write_text("KEY=my secret\n")
    assert by_copier(project, tmp_path / "c")["local.env"][1] == b"KEY=newer\n"
    plan = planned(project)
    applied(plan)
    assert (project / "local.env").read_text() == "KEY=my secret\n"
    reasons = {change.path: change.reason for change in plan.of("kept")}
    assert reasons["local.env"] == "git does not know your file; it stays as it is"


@pytest.mark.parametrize("name", ["fresh.py", "build.log"])
def test_file_that_git_does_not_know_where_the_template_adds_one(project: Path, template: Path, name: str) -> None:
    version = f"v2.1+{name.split('.')[0]}"
    clone = project.parent / "clone"
    git(template, "clone", "--quiet", str(template), str(clone))
    released(clone, version, {"template/build.log": "theirs\n"})
    (project / name).write_text(MINE)
    plan = planned(project, template=clone, to=version)
    assert repr(MINE.strip()) in stopped(project, plan, name)
    applied(plan, keep=True)
    assert (project / name).read_text() == MINE


def test_answer_that_is_no_longer_a_choice(template: Path, tmp_path: Path) -> None:
    project = project_of(template, tmp_path / "project", flavour="lemon")
    clone = tmp_path / "clone"
    git(template, "clone", "--quiet", str(template), str(clone))
    text = (clone / "copier.yml").read_text().replace("choices: [vanilla, lemon]", "choices: [vanilla, mint]")
    released(clone, "v3", {"copier.yml": text})
    edit(project, ANSWERS, str(template), str(clone))
    commit(project)
    assert b"flavour: vanilla" in by_copier(project, tmp_path / "c")[ANSWERS][1]
    with pytest.raises(RefusedError, match=r"flavour: lemon is no longer valid .*vanilla, mint.*--data flavour="):
        planned(project)
    assert planned(project, answers={"flavour": "mint"}).answers["flavour"] == "mint"


def test_name_of_an_answer_with_a_typo(project: Path, tmp_path: Path) -> None:
    assert b"flavour: vanilla" in by_copier(project, tmp_path / "c", data={"flavor": "lemon"})[ANSWERS][1]
    with pytest.raises(RefusedError, match="no question 'flavor': did you mean flavour"):
        planned(project, answers={"flavor": "lemon"})


def test_conflicts_have_a_reason(project: Path, tmp_path: Path) -> None:
    """Copier ends well with conflicts in the files; a plan says which, and why."""
    windows, both = project / "core" / "a.py", project / "fresh.py"
    windows.write_bytes(NUMBERED.replace("\n", "\r\n").encode())
    both.write_text(MINE)
    commit(project)
    assert b"<<<<<<<" in by_copier(project, tmp_path / "c")["core/a.py"][1]
    plan = planned(project)
    reasons = {change.path: change.reason for change in plan.of("conflict")}
    assert "CRLF" in reasons.pop("core/a.py")
    assert "both added" in reasons.pop("fresh.py")
    assert not reasons


def test_a_merge_is_as_copiers(project: Path, tmp_path: Path) -> None:
    edit(project, "list.txt", "line 20\n", f"line 20\n{MINE}")
    (project / "gone.py").unlink()
    (project / "core" / "b.py").unlink()
    (project / "ops" / "mine.py").write_text(MINE)
    (project / "mine.py").write_text(MINE)
    git(project, "mv", "core/a.py", "core/moved.py")
    commit(project)
    expected = by_copier(project, tmp_path / "c", data={"maturity_level": 2})
    plan = planned(project, answers={"maturity_level": 2})
    assert plan.clean
    assert [change.path for change in plan.of("merged")] == ["list.txt"]
    reasons = {change.path: change.reason for change in plan.of("kept")}
    assert "moved it to core/moved.py" in reasons["core/a.py"]
    assert "stays deleted" in reasons["core/b.py"]
    applied(plan)
    ours = state(project)
    assert ours.pop("local.env") == ("file", b"KEY=template\n"), "git ignores it, so it is nobody's to reset"
    expected.pop("local.env")
    assert ours == expected


def test_modes_and_links(project: Path) -> None:
    (project / "core" / "a.py").chmod(0o755)
    (project / "list.txt").unlink()
    (project / "list.txt").symlink_to("README.md")
    edit(project, "core/b.py", "row 5\n", f"row 5\n{MINE}")
    commit(project)
    plan = planned(project)
    assert "a link cannot be merged" in stopped(project, plan, "list.txt")
    applied(plan, keep=True)
    assert state(project)["core/a.py"][0] == "runs"
    assert "line fifteen" in (project / "core/a.py").read_text()
    assert state(project)["core/b.py"][0] == "runs", "the template made it so"
    assert MINE in (project / "core/b.py").read_text()
    assert (project / "list.txt").is_symlink()


def test_files_and_folders_in_each_others_place(template: Path, tmp_path: Path) -> None:
    project = project_of(template, tmp_path / "project", maturity_level=0)
    (project / "ops").rmdir()
    (project / "ops").write_text(MINE)
    (project / "fresh.py").mkdir()
    (project / "fresh.py" / "inside.txt").write_text(MINE)
    commit(project)
    plan = planned(project, answers={"maturity_level": 1})
    said = stopped(project, plan, "fresh.py", "ops/one/a.py", "ops/one/b.py")
    assert "ops is a file of yours" in said
    assert "a folder of this name" in said
    applied(plan, keep=True)
    assert (project / "ops").read_text() == MINE
    assert (project / "fresh.py" / "inside.txt").read_text() == MINE


def test_the_template_turns_files_into_folders_and_links(template: Path, tmp_path: Path) -> None:
    clone, files = tmp_path / "clone", {"template/list.txt": None, "template/core/deep/c d.txt": None}
    git(template, "clone", "--quiet", str(template), str(clone))
    released(clone, "v3", files)
    (clone / "template/core/deep").rmdir()
    (clone / "template/empty.txt").unlink()
    (clone / "template/empty.txt").symlink_to("README.md")
    text = (clone / "copier.yml").read_text()
    later: dict[str, str | bytes | None] = {"template/list.txt/inner.txt": "inner\n", "template/core/deep": "deep\n"}
    released(clone, "v4", {**later, "copier.yml": f"{text}_preserve_symlinks: true\n"})
    project = project_of(template, tmp_path / "project")
    (project / "fresh.py").write_text("fresh = 1\n")
    plan = planned(project, template=clone)
    assert plan.clean
    assert "new file mode 120000" in next(change.diff for change in plan.changes if change.path == "empty.txt")
    assert {change.path: change.kind for change in plan.changes}["fresh.py"] == "kept"
    applied(plan)
    assert (project / "list.txt/inner.txt").read_text() == "inner\n"
    assert (project / "core/deep").read_text() == "deep\n"
    assert (project / "empty.txt").is_symlink()
    assert (project / "fresh.py").read_text() == "fresh = 1\n"


def test_lines_that_the_user_added_to_the_answers(project: Path) -> None:
    (project / ANSWERS).write_text(f"{(project / ANSWERS).read_text()}{MINE}")
    commit(project)
    applied(planned(project))
    assert (project / ANSWERS).read_text().endswith(MINE)
    assert "_commit: v2" in (project / ANSWERS).read_text()


def test_uncommitted_work_is_named(project: Path) -> None:
    (project / "list.txt").write_text(MINE)
    with pytest.raises(RefusedError, match=r"uncommitted work in list\.txt"):
        planned(project)


def test_work_that_git_was_told_not_to_look_at(project: Path) -> None:
    (project / "list.txt").write_text(MINE)
    git(project, "update-index", "--assume-unchanged", "list.txt")
    plan = planned(project)
    before = state(project)
    with pytest.raises(RefusedError, match=r"list\.txt is not what git has committed"):
        applied(plan)
    assert state(project) == before


def test_plan_of_yesterday(project: Path) -> None:
    plan = planned(project)
    (project / "list.txt").write_text(MINE)
    commit(project)
    with pytest.raises(RefusedError, match="new commit since the plan was made"):
        applied(plan)


def test_a_branch_leaves_the_working_tree(project: Path) -> None:
    (project / "notes.txt").write_text(MINE)
    before = state(project)
    branched(planned(project), "ladder/update")
    assert state(project) == before
    must(["git", "merge", "--quiet", "ladder/update"], project)
    assert "line three" in (project / "list.txt").read_text()
    assert (project / "notes.txt").read_text() == MINE
    with pytest.raises(RefusedError, match="There is a branch"):
        branched(planned(project, answers={"flavour": "lemon"}), "ladder/update")
    with pytest.raises(RefusedError, match="usable name"):
        branched(planned(project, answers={"flavour": "lemon"}), "a..b")


def test_no_second_time(project: Path) -> None:
    applied(planned(project))
    commit(project)
    plan = planned(project)
    assert plan.empty
    before = state(project)
    applied(plan)
    assert state(project) == before


def test_inside_a_bigger_repository(template: Path, tmp_path: Path) -> None:
    alone = project_of(template, tmp_path / "alone", maturity_level=1)
    top = tmp_path / "many"
    (top / "teams").mkdir(parents=True)
    (top / ".gitattributes").write_text("*.bat text eol=crlf\n")
    (top / "README.md").write_text(MINE)
    inside = top / "teams" / "one"
    copier.run_copy(str(template), inside, data={"maturity_level": 1}, defaults=True, quiet=True, vcs_ref="v1")
    commit(top)
    (top / "README.md").write_text("work in progress\n")
    (top / "teams" / "notes.txt").write_text(MINE)
    plan = planned(inside)
    assert plan.clean
    assert not plan.of("merged")
    applied(plan)
    applied(planned(alone))
    assert state(inside) == state(alone)
    assert (top / "README.md").read_text() == "work in progress\n"
    assert git(top, "status", "--porcelain", "--", ":!teams/one").split() == ["M", "README.md", "??", "teams/notes.txt"]


STRANGE = """\
[core]
autocrlf = true
safecrlf = true
fileMode = false
hooksPath = {hooks}
excludesFile = {ignored}
whitespace = trailing-space,cr-at-eol
[commit]
gpgSign = true
[diff]
noprefix = true
external = false
renames = copies
[merge]
conflictStyle = diff3
[apply]
whitespace = error
[status]
showUntrackedFiles = no
[color]
ui = always
[user]
useConfigOnly = true
"""


def test_strange_settings_of_git(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that refuse, signatures without a key, line endings of Windows, no user: the plan is the same."""
    edit(project, "list.txt", "line 3\n", f"line 3\n{MINE}")
    commit(project)
    usual = planned(project)
    hooks, ignored = tmp_path / "hooks", tmp_path / "ignored"
    hooks.mkdir()
    for name in ("pre-commit", "post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\nexit 1\n")
        (hooks / name).chmod(0o755)
    ignored.write_text("fresh.py\nlist.txt\n")
    (tmp_path / "config").write_text(STRANGE.format(hooks=hooks, ignored=ignored))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    strange = planned(project)
    assert [(change.path, change.kind) for change in strange.changes if change.path != "windows.bat"] == [
        (change.path, change.kind) for change in usual.changes if change.path != "windows.bat"
    ]
    assert "|||||||" not in next(change.diff for change in strange.of("conflict"))
    branched(planned(project, answers={"flavour": "lemon"}, to=CURRENT), "lemon")
    applied(strange, conflicts=True)
    assert MINE.strip() in (project / "list.txt").read_text()
    assert not (tmp_path / "hooked").exists()
    monkeypatch.delenv("GIT_DIR")
    assert "mlops-ladder" in must(["git", "log", "-1", "--format=%an", "lemon"], project)


def test_a_template_that_needs_trust_is_refused(project: Path, template: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(template, "clone", "--quiet", str(template), str(clone))
    released(clone, "v3", {"copier.yml": f"{(clone / 'copier.yml').read_text()}_tasks: ['touch {tmp_path}/ran']\n"})
    with pytest.raises(RefusedError, match="tasks"):
        planned(project, template=clone)
    assert not (tmp_path / "ran").exists()


def test_versions(project: Path, template: Path, tmp_path: Path) -> None:
    assert planned(project).new == "v2"
    assert planned(project, to=CURRENT).new == "v1"
    clone = tmp_path / "clone"
    git(template, "clone", "--quiet", str(template), str(clone))
    released(clone, "v3rc1", {"template/fresh.py": "later = 1\n"})
    assert planned(project, template=clone).new == "v2", "a release candidate is taken by name only"
    applied(planned(project, template=clone, to="v3rc1"))
    commit(project)
    plan = planned(project, template=clone)
    assert plan.empty
    assert plan.new == "v3rc1"
    with pytest.raises(RefusedError, match="v1 is older than v3rc1"):
        planned(project, template=clone, to="v1")
    with pytest.raises(RefusedError, match="has no revision 'v9'"):
        planned(project, template=clone, to="v9")


def test_revision_that_vanished(project: Path) -> None:
    edit(project, ANSWERS, "_commit: v1", "_commit: v0.3-4-gabcdef0")
    commit(project)
    with pytest.raises(RefusedError, match=r"no revision 'v0\.3-4-gabcdef0'"):
        planned(project)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("/nowhere/at/all", "cannot be reached"),
        ("../template", "relative to some other folder"),
        ("http://127.0.0.1:9/template.git", "cannot be reached"),
    ],
)
def test_template_that_is_not_there(project: Path, template: Path, address: str, sentence: str) -> None:
    edit(project, ANSWERS, f"_src_path: {template}", f"_src_path: {address}")
    commit(project)
    with pytest.raises(RefusedError, match=sentence):
        planned(project)


def test_no_project(tmp_path: Path) -> None:
    for step, sentence in (
        (lambda: None, "is in no git repository"),
        (lambda: git(tmp_path, "init", "--quiet"), "has no commit yet"),
        (lambda: commit(tmp_path), "is no project of this template"),
        (lambda: (tmp_path / ANSWERS).write_text("{}"), "is not committed"),
        (lambda: commit(tmp_path), "does not say _src_path and _commit"),
    ):
        step()
        with pytest.raises(RefusedError, match=sentence):
            planned(tmp_path)


def test_copier_shows_a_traceback_where_we_have_a_sentence(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "c")
    done = run(["copier", "update", "--defaults", "--data", "maturity_level=7"], tmp_path / "c")
    assert "Traceback" in done.stderr
    with pytest.raises(RefusedError, match="no level 7 in the template at v2: it has 0, 1, 2"):
        planned(project, answers={"maturity_level": 7})
    with pytest.raises(RefusedError, match="task is classification and was fixed when the project was born"):
        planned(project, answers={"task": "regression"})
