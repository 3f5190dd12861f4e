"""Any project name works or is refused in one sentence, and no text of the user breaks a file."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from conftest import ROOT, Render, run
from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config
from make_questions import questions
from make_reserved import reserved

NAMES = {
    "Flight delays": "flight-delays",
    "  Spaces   around  ": "spaces-around",
    "Prévision des départs": "prevision-des-departs",
    "Pre\u0301vision": "prevision",
    "ÜBER Øre Łódź": "uber-ore-lodz",
    "SHOUTING": "shouting",
    "3D printing": "project-3d-printing",
    "2024": "project-2024",
    "class": "class-project",
    "import": "import-project",
    "None": "none-project",
    "numpy": "numpy-project",
    "Click": "click-project",
    "scikit-learn": "scikit-learn-project",
    "tests": "tests-project",
    "Google": "google-project",
    "MLflow": "mlflow-project",
    "a": "a",
    "x" * 80: "x" * 80,
    "9" * 80: "project-" + "9" * 80,
    "机器学习": "ml-project",
    "🚀": "ml-project",
    "🚀 Rocket_Science!": "rocket-science",
    'Bob\'s "best" \\ model': "bob-s-best-model",
    "yes": "yes",
    "null": "null",
    "a: b # c": "a-b-c",
    "{{ 7 * 7 }} {% raw %}": "project-7-7-raw",
    "$(HOME) `id` $HOME %s": "home-id-home-s",
    "<b>bold</b> & more": "b-bold-b-more",
    "../../etc/passwd": "etc-passwd",
    "- dash": "dash",
    "é" * 80: "e" * 80,
}
REFUSED = {
    "": "Give the project a name",
    "   ": "Give the project a name",
    "x" * 81: "81 characters; 80 is the most",
    "two\nlines": "one line",
    "nul\x00": "one line",
    "tab\there": "one line",
}
SLUGS_REFUSED = (
    "Upper",
    "under_score",
    "9lives",
    "-a",
    "a-",
    "a--b",
    "a b",
    "a/b",
    "..",
    "é",
    "numpy",
    "class",
    "x" * 101,
    "",
)
PACKAGES_REFUSED = ("Upper", "a-b", "9lives", "_a", "a.b", "class", "numpy", "os", "x" * 101, "")
TEXTS = {
    "quotes": 'She said "it\'s" \'\'\'fine\'\'\' """really"""',
    "backslashes": "C:\\new\\table \\u0041 \\",
    "newlines": "first line\nsecond line\r\n\n  third: line # not a comment\n",
    "signs": "- [x] {a: 1} & * ! | > % @ ` {{ 7 * 7 }} {% if %} {# #} $HOME $(id) <b> </script>",
    "words": "yes",
    "number": "3.10",
    "world": "Ünïcödé 机器 🚀 \u200f",
}


def answers_of(project: Path) -> dict[str, Any]:
    answers: dict[str, Any] = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    return answers


def check_everything_parses(project: Path) -> None:
    """Read every file of a project as what its name says it is."""
    for path in (path for path in project.rglob("*") if path.is_file() and path.suffix != ".parquet"):
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            list(yaml.safe_load_all(text))
        elif path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix in (".json", ".ipynb"):
            json.loads(text)
        elif path.suffix == ".py":
            with warnings.catch_warnings(action="error"):
                compile(text, str(path), "exec")


@pytest.fixture(scope="module")
def quick(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that renders the answers file alone, or raises Copier's refusal."""

    def _quick(**answers: Any) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("answers")
        only = ["*", "!.copier-answers.yml"]
        copier.run_copy(str(template), folder, data=answers, exclude=only, defaults=True, quiet=True)
        return answers_of(folder)

    return _quick


def package(slug: str) -> str:
    """Return the package that a slug gives: import lines with longer names would not fit into a line of code."""
    return slug.replace("-", "_")[:70]


@pytest.mark.parametrize("name", NAMES)
def test_slug_of_a_name(quick: Any, name: str) -> None:
    answers = quick(project_name=name)
    assert answers["project_name"] == name
    assert answers["project_slug"] == NAMES[name]
    assert answers["package_name"] == package(NAMES[name])


def test_cookiecutter_derives_the_same(template: Path) -> None:
    """Both doors give a name the same slug (braces are out: Cookiecutter renders what it is given)."""
    for name, slug in NAMES.items():
        if "{" in name:
            continue
        context = generate_context(str(template / "cookiecutter.json"), extra_context={"project_name": name})
        del context["cookiecutter"]["__door"], context["cookiecutter"]["_extensions"]
        derived = prompt_for_config(context, no_input=True)
        assert (derived["project_slug"], derived["package_name"]) == (slug, package(slug))


@pytest.mark.parametrize("name", REFUSED)
def test_name_is_refused(quick: Any, name: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[name]) as refusal:
        quick(project_name=name)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("question", "value"),
    [("project_slug", slug) for slug in SLUGS_REFUSED] + [("package_name", name) for name in PACKAGES_REFUSED],
)
def test_unusable_slug_is_refused(quick: Any, question: str, value: str) -> None:
    with pytest.raises(ValueError, match=question) as refusal:
        quick(**{question: value})
    assert len(str(refusal.value).splitlines()) == 1


def test_author_is_needed(quick: Any) -> None:
    with pytest.raises(ValueError, match="Name the person or the team"):
        quick(author=" ")


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_arrive_as_they_were_given(render: Render, kind: str) -> None:
    text = TEXTS[kind]
    line = " ".join(text.splitlines())
    name = line.strip()[:80]
    project = render(project_name=name, description=text, author=text)
    check_everything_parses(project)
    told = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    case = yaml.safe_load((project / "config" / "case.yaml").read_text(encoding="utf-8"))
    squeezed = " ".join(text.split())
    assert " ".join(told["description"].split()) == squeezed
    assert " ".join(told["authors"][0]["name"].split()) == squeezed
    assert "\n" not in told["description"] + told["authors"][0]["name"]
    assert case["owner"] == text
    assert name in (project / "README.md").read_text(encoding="utf-8")
    assert squeezed in " ".join((project / "LICENSE").read_text(encoding="utf-8").split())
    assert answers_of(project)["description"] == text


@pytest.mark.parametrize(
    "name", ["Prévision des départs", "机器学习", 'Bob\'s "best" \\ model', "{{ 7 * 7 }} {% raw %}"]
)
def test_every_file_parses_whatever_the_name(render: Render, name: str) -> None:
    project = render(project_name=name)
    check_everything_parses(project)
    assert (project / "src" / NAMES[name].replace("-", "_") / "__init__.py").is_file()


@pytest.mark.life
def test_every_name_that_a_project_can_import_is_reserved(lived: Callable[[int, str], Path]) -> None:
    project = lived(max(questions()["maturity_level"]["choices"].values()), "classification")
    listed = yaml.safe_load((ROOT / "reserved.yml").read_text(encoding="utf-8"))["reserved_names"]["default"].split()
    assert sorted(set(reserved(project)) - set(listed)) == [], "see docs/how-to/develop.md"


def test_refusal_on_the_command_line(template: Path, tmp_path: Path) -> None:
    done = run(["copier", "copy", "--defaults", "--data", "project_slug=numpy", template, tmp_path / "made"], tmp_path)
    assert done.returncode != 0
    assert "try numpy-project" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "made").exists()
