"""The questions and the manifest keep the rules that make updates safe, and what is made from them is fresh."""

from __future__ import annotations

import re

import make_guards
import make_questions
import pytest
from manifest import PACKAGE, covered, entries, settings, template_files

BELOW = r"maturity_level < \d"
KEPT = r"_copier_operation == 'update' and unlocked \| default\(-1\) >= \d"
LINE = re.compile(rf"{{% if ({BELOW}|{KEPT}|{BELOW} or \({KEPT}\)) %}}/[^%]+{{% endif %}}")
FIRST_RELEASE = {"maturity_level", "_copier_operation", "package_name", "if", "endif", "or", "and", "update", "default"}
STARTERS_OF_THE_TREE = ("config/", "data", "notebooks", "README.md", "CHANGELOG.md", "LICENSE")


def mistakes(line: str) -> list[str]:
    """Return what is wrong with a line of the manifest."""
    found = [] if LINE.fullmatch(line) else ["is not one of the three forms of the manifest"]
    found += ["is not anchored"] * ("%}/" not in line)
    found += ["excludes the content of a folder and leaves the folder"] * bool(re.search(r"/\*", line))
    found += ["includes or imports"] * bool(re.search(r"\b(include|import|macro)\b", line))
    bare = re.sub(r"\| default\([^)]*\)|'[^']*'|%}/.*?{%", "", line)
    unguarded = set(re.findall(r"[a-z_]{2,}", bare)) - FIRST_RELEASE - {"unlocked"}
    found += [f"uses {unguarded} without a default"] * bool(unguarded)
    found += ["uses unlocked without a default"] * bool(re.search(r"unlocked(?! \| default)", line))
    return found


def test_every_line_keeps_the_rules() -> None:
    assert {line: mistakes(line) for line in settings()["_exclude"] if mistakes(line)} == {}


@pytest.mark.parametrize(
    "line",
    [
        "{% if maturity_level < 1 %}tests{% endif %}",
        "{% if maturity_level < 1 %}/tests/*{% endif %}",
        "{% if maturity_level < 1 and ci == 'gitlab' %}/.github{% endif %}",
        "{% if maturity_level < 1 or (_copier_operation == 'update' and unlocked >= 1) %}/CHANGELOG.md{% endif %}",
        "{% include 'more.txt' %}",
        "{% if maturity_level < 1 %}/one{% endif %}{% if maturity_level < 1 %}/two{% endif %}",
    ],
)
def test_a_line_that_breaks_a_rule_is_found(line: str) -> None:
    assert mistakes(line)


def test_every_path_of_the_manifest_exists() -> None:
    assert [entry.path for entry in entries() if not any(covered(name, entry) for name in template_files())] == []


def test_no_path_is_listed_twice() -> None:
    paths = [entry.path for entry in entries()]
    assert sorted(set(paths)) == sorted(paths)


def test_a_starter_is_what_the_tree_says() -> None:
    """The path alone tells the owner (DESIGN section 2): yours is what stands in these folders, and nothing else."""

    def yours(name: str) -> bool:
        modules = re.fullmatch(rf"src/{re.escape(PACKAGE)}/[a-z_]+\.py|tests/[a-z_]+\.py", name)
        return name.startswith(STARTERS_OF_THE_TREE) or modules is not None

    starters = [entry for entry in entries() if entry.starter]
    listed = {name for name in template_files() if any(covered(name, entry) for entry in starters)}
    assert listed == {name for name in template_files() if yours(name)}


def test_levels_of_starters_agree() -> None:
    for line in settings()["_exclude"]:
        levels = re.findall(r"maturity_level < (\d)|>= (\d)", line)
        assert len({left or right for left, right in levels}) == 1, line


def test_managed_files_are_listed_once_a_level() -> None:
    """A folder that comes with a level may hold files of higher ones; within a level nothing is said twice."""
    managed = [entry for entry in entries() if not entry.starter]
    for name in template_files():
        levels = [entry.level for entry in managed if covered(name, entry)]
        assert sorted(set(levels)) == sorted(levels), name


def test_no_trust_is_ever_needed() -> None:
    assert {"_tasks", "_jinja_extensions", "_migrations", "_external_data", "_skip_if_exists"} & set(
        settings()
    ) == set()


def test_questions_are_few_and_have_defaults() -> None:
    questions = make_questions.questions()
    asked = [name for name, question in questions.items() if question.get("when", True) is not False]
    assert len(asked) <= 14
    assert [name for name, question in questions.items() if "default" not in question] == []
    assert [name for name in asked if not questions[name].get("help")] == []
    assert [name for name, question in questions.items() if question.get("secret")] == []


def test_what_is_made_from_the_questions_is_fresh() -> None:
    assert make_questions.COOKIECUTTER.read_text(encoding="utf-8") == make_questions.cookiecutter(
        make_questions.questions()
    ), "run make docs"
    assert make_questions.PAGE.read_text(encoding="utf-8") == make_questions.page(
        make_questions.questions(), make_questions.default_answers()
    ), "run make docs"


def test_the_page_of_guards_is_fresh() -> None:
    assert make_guards.PAGE.read_text(encoding="utf-8") == make_guards.page(), "run make docs"
