"""A team's answers in new projects and old ones, a repository that is adopted, an update that is proposed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import copier
import pytest
import yaml
from conftest import VERSION, Render, commit, copied_tree, git
from typer.testing import CliRunner

from mlops_ladder import proposal, team
from mlops_ladder.app import app
from mlops_ladder.errors import RefusedError
from mlops_ladder.merge import Change
from mlops_ladder.plan import Plan

AGREED = """\
version: 1
defaults:
  author: The platform team
locked:
  license: Apache-2.0
  maturity_level: 1
"""


@pytest.fixture
def agreed(tmp_path: Path, template: Path) -> Path:
    """Return the team's file."""
    path = tmp_path / "team.yml"
    path.write_text(f"template: {template}\n{AGREED}")
    return path


def said(*words: object) -> str:
    """Run a command that ends well, and return what it printed."""
    done = CliRunner().invoke(app, [str(word) for word in words], standalone_mode=False)
    if done.exception:
        raise done.exception
    assert done.return_value == 0, done.output
    return done.output


def answers(folder: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((folder / ".copier-answers.yml").read_text())
    return found


def test_new_project_has_the_teams_answers(agreed: Path, tmp_path: Path, template: Path) -> None:
    plain = said("new", tmp_path / "plain", "--team", agreed)
    assert "differs" not in plain
    found = answers(tmp_path / "plain")
    assert (found["author"], found["license"], found["maturity_level"]) == ("The platform team", "Apache-2.0", 1)
    assert (found["_src_path"], found["_commit"]) == (str(template), VERSION)
    own = said("new", tmp_path / "own", "--team", agreed, "--data", "author=Me", "--data", "license=Apache-2.0")
    assert "It differs from the team: author is Me, the team's default is The platform team." in own


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("license=MIT", "license: the team has locked it to Apache-2.0, and you ask for MIT: leave it out"),
        ("maturity_level=3", "maturity_level: the team has locked it to 1, and you ask for 3"),
        ("licence=MIT", "--data: the template does not ask for licence; it asks for project_name,"),
        ("maturity_level=high", "--data: maturity_level is 'high', and must be a number"),
        ("task=poetry", "--data: task is 'poetry', and may be classification, regression"),
        ("plain_name=x", "--data: the template does not ask for plain_name"),
        ("project_slug=A B", "No project was made: "),
        ("project_slug", "--data project_slug is not of the form NAME=VALUE"),
    ],
)
def test_new_refuses(pair: str, sentence: str, agreed: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        said("new", tmp_path / "new", "--team", agreed, "--data", pair)
    assert not (tmp_path / "new").exists()


def test_new_refuses_a_place_and_a_template(agreed: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is there already, and not empty"):
        said("new", tmp_path, "--team", agreed)
    with pytest.raises(RefusedError, match="Which template"):
        said("new", tmp_path / "new")
    with pytest.raises(RefusedError, match="cannot be reached"):
        said("new", tmp_path / "new", "--template", "file:///nowhere/at/all.git")
    agreed.write_text(agreed.read_text() + "  framework: X\n")
    with pytest.raises(RefusedError, match="the team's locked: the template does not ask for framework"):
        said("new", tmp_path / "new", "--team", agreed)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lokced: {}", "lokced: no such key; there are version, template, to, defaults, locked, canaries"),
        ("locked: {license: [MIT]}", "locked.license: Input should be a valid string"),
        ("defaults: {author: X}\nlocked: {author: Y}", "author: stands under defaults and under locked"),
        ("version: 2", "version: Input should be less than or equal to 1"),
        ("- a", "has no keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_team_file_that_is_wrong(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "team.yml"
    path.write_text(text)
    with pytest.raises(RefusedError, match=f"^{re.escape(str(path))}: {re.escape(sentence)}"):
        team.read(path)


def test_team_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"nowhere.yml: cannot be read"):
        team.read(tmp_path / "nowhere.yml")


@pytest.fixture
def project(render: Render) -> Path:
    """Return a committed project of level 0."""
    folder = render(maturity_level=0)
    commit(folder, "Start the project")
    return folder


def test_climb_with_the_team(project: Path, agreed: Path) -> None:
    with pytest.raises(RefusedError, match="maturity_level: the team has locked it to 1, and you ask for 2"):
        said("climb", project, "--to", "2", "--team", agreed)
    assert git(project, "status", "--porcelain") == ""
    said("climb", project, "--to", "1", "--team", agreed)
    found = answers(project)
    assert (found["maturity_level"], found["license"], found["author"]) == (1, "Apache-2.0", "The team")


STRANGER = {
    "README.md": "mine\n",
    "pyproject.toml": "[project]\nname = 'mine'\n",
    "Src/main.py": "print()\n",
    "train.py": "import pandas as pd\nX = pd.read_csv('churn.csv')\nmodel.fit(X)\n",
    "helpers.py": "def f(): ...\n",
    "test_train.py": "def test_it(): ...\n",
    "analysis.ipynb": "{}\n",
    "requirements.txt": "pandas\n",
    "churn.csv": "a,b\n1,2\n",
    "model.pkl": "x",
    ".env": "KEY=1\n",
    ".env.example": "KEY=\n",
    "docs": "a file where the template has a folder\n",
}


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """Return a repository that was not generated."""
    folder = tmp_path / "churn-model"
    for name, text in STRANGER.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    commit(folder, "Mine")
    return folder


def test_adoption_overwrites_nothing(stranger: Path, template: Path) -> None:
    head = git(stranger, "rev-parse", "HEAD")
    output = said("adopt-repo", stranger, "--template", template, "--data", "maturity_level=1")
    assert (git(stranger, "rev-parse", "HEAD"), git(stranger, "status", "--porcelain")) == (head, "")
    git(stranger, "switch", "--quiet", "mlops-ladder/adopt")
    assert {name: (stranger / name).read_text() for name in STRANGER} == STRANGER
    assert git(stranger, "diff", "--diff-filter=a", "--name-only", head.strip()) == ""
    assert (stranger / "Makefile").is_file()
    assert answers(stranger)["project_name"] == "Churn model"
    for aside in ("README.md", "pyproject.toml", "docs/using.md"):
        assert (stranger / "adopt" / aside).is_file()
        assert re.search(rf"^{re.escape(aside)} +yours stays; the template's is adopt/", output, re.M)
    page = (stranger / "adopt/MOVE.md").read_text()
    advice = dict(re.findall(r"- \[ \] `([^`]+)`: (.+)", page))
    assert "src/churn_model/collect.py" in advice["train.py"]
    assert "src/churn_model/model.py" in advice["train.py"]
    assert "notebooks/" in advice["analysis.ipynb"]
    assert "pyproject.toml" in advice["requirements.txt"]
    assert "make adopt DATA=churn.csv" in advice["churn.csv"]
    assert "make train" in advice["model.pkl"]
    assert "tests/" in advice["test_train.py"]
    assert "secret" in advice[".env"]
    assert {"helpers.py", ".env.example", "Src/main.py"}.isdisjoint(advice)


def test_adoption_is_refused(stranger: Path, template: Path, project: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is a project of a template already"):
        said("adopt-repo", project, "--template", template)
    with pytest.raises(RefusedError, match="Which template"):
        said("adopt-repo", stranger)
    with pytest.raises(RefusedError, match="does not ask for level"):
        said("adopt-repo", stranger, "--template", template, "--data", "level=1")
    with pytest.raises(RefusedError, match="is in no git repository"):
        said("adopt-repo", tmp_path, "--template", template)
    said("adopt-repo", stranger, "--template", template)
    with pytest.raises(RefusedError, match="There is a branch mlops-ladder/adopt already"):
        said("adopt-repo", stranger, "--template", template)


@pytest.fixture
def behind(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a project with an origin, one release behind its template."""
    source = copied_tree(tmp_path / "template")
    commit(source, "Release", "v0.0.1")

    def _behind(level: int = 0, page: str = "Makefile.jinja", old: str = "open the", new: str = "open the |") -> Path:
        folder, origin = tmp_path / "project", tmp_path / "origin.git"
        copier.run_copy(str(source), folder, data={"maturity_level": level}, defaults=True, quiet=True)
        commit(folder, "Start the project")
        git(tmp_path, "clone", "--quiet", "--bare", str(folder), str(origin))
        git(folder, "remote", "add", "origin", str(origin))
        changed = source / "template" / page
        text = changed.read_text()
        assert old in text
        changed.write_text(text.replace(old, new))
        commit(source, "Release", "v0.0.2")
        return folder

    return _behind


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a gh on the PATH that notes what it was told; return its notes."""
    tool, notes = tmp_path / "bin" / "gh", tmp_path / "gh.txt"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ -e "{tmp_path}/refuse" ] && {{ echo "not allowed" >&2; exit 1; }}\n')
    with tool.open("a") as file:
        file.write(f'echo "$@" >> "{notes}"\ncat >> "{notes}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    return notes


def test_proposal_is_a_branch_and_a_request(behind: Callable[..., Path], gh: Path, tmp_path: Path) -> None:
    folder = behind()
    assert "Opened a pull request from mlops-ladder/v0.0.2." in said("propose", folder)
    assert "mlops-ladder/v0.0.2" in git(tmp_path / "origin.git", "branch", "--list")
    text = gh.read_text()
    assert "pr create --head mlops-ladder/v0.0.2 --title Take the template's update to v0.0.2 --body-file -" in text
    assert "| `Makefile` | updated |" in text
    assert "```diff\ndiff --git a/Makefile b/Makefile" in text
    assert "is open already" in said("propose", folder)
    assert gh.read_text() == text
    git(folder, "merge", "--quiet", "mlops-ladder/v0.0.2")
    assert "Nothing to propose: the project has v0.0.2." in said("propose", folder)
    assert git(folder, "status", "--porcelain") == ""


def test_proposal_that_a_person_must_take(
    behind: Callable[..., Path], gh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = behind()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (folder / "Makefile").write_text((folder / "Makefile").read_text().replace("open the notebooks", "open mine"))
    commit(folder, "Edit")
    with pytest.raises(RefusedError, match=r"A person must take the update to v0.0.2 \(`make update`\): Makefile: "):
        said("propose", folder)
    assert "needs a person" in (tmp_path / "summary.md").read_text()
    assert not gh.exists()
    assert git(tmp_path / "origin.git", "branch", "--list", "mlops-ladder/*") == ""


def test_proposal_that_cannot_be_opened(behind: Callable[..., Path], gh: Path, tmp_path: Path) -> None:
    folder = behind()
    (tmp_path / "refuse").touch()
    with pytest.raises(RefusedError, match="is pushed, but no pull request was opened: not allowed"):
        said("propose", folder)
    assert not gh.exists()
    git(folder, "push", "--quiet", "origin", "--delete", "mlops-ladder/v0.0.2")
    (tmp_path / "bin/gh").unlink()
    with pytest.raises(RefusedError, match="gh is not on this machine"):
        said("propose", folder)


@pytest.mark.usefixtures("gh")
def test_proposal_that_cannot_be_pushed(behind: Callable[..., Path], tmp_path: Path) -> None:
    folder = behind(1, ".github/workflows/check.yml", "name: Check out", "name: Check it out")
    hook = tmp_path / "origin.git/hooks/pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(
        RefusedError, match=r"cannot be pushed \(it changes a workflow, .*TEMPLATE_TOKEN\): git push failed"
    ):
        said("propose", folder)


def test_text_of_a_long_plan_is_cut() -> None:
    changes = [Change(f"f{number}", "updated", "a | b", "x" * 30_000) for number in range(4)]
    plan = Plan(Path(), "v1", "v2", {"maturity_level": 2}, changes, "", {"maturity_level": 1}, {})
    text = proposal.text(plan)
    assert len(text) < 65_536, "what GitHub takes"
    assert "level 1 to 2" in text
    assert "too long for this page" in text
    assert "| `f3` | updated | a / b |" in text
