"""Every pair of answers renders, and what is rendered is clean by every tool that reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import copier
import covertable
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import OFFERED, copied_tree, must, run, tree

LONG = "Which of the many customers of our little shop by the sea will come back in 2027"
ANSWERS: dict[str, list[Any]] = {
    "project_name": ["Flight delays", LONG, 'Prévision "n° 1" d\'été \\ 机器', "3D", "class", "🚀"],
    "description": ["Plain.", 'She said "it\'s" C:\\new {{ x }} {% y %} # $(z) <b>\nsecond: line\n', ""],
    "author": ["The team", 'Zoë O\'Neil "Z" <zoe@localhost> \\ {{ z }}\nand others'],
    "license": ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"],
    "maturity_level": OFFERED,
    "task": ["classification", "regression"],
}
PLAIN = [{"maturity_level": level, "task": task} for level in ANSWERS["maturity_level"] for task in ANSWERS["task"]]
LIMITS = {0: 35, 1: 60, 2: 90, 3: 120, 4: 150}
STRAY = re.compile(r"(?<!\$)\{\{|\{%|\{#|%\}")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")


class Tree(NamedTuple):
    """One rendered project."""

    answers: dict[str, Any]
    folder: Path
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> list[Tree]:
    """Return a covering array: every pair of answers stands in one tree at least, and the plain projects too."""
    source = copied_tree(tmp_path_factory.mktemp("source"))
    return [_rendered(source, row, tmp_path_factory) for row in [*PLAIN, *covertable.make(ANSWERS)]]


@pytest.fixture(scope="module")
def plain(trees: list[Tree]) -> list[Tree]:
    """Return every level of both tasks, with default answers otherwise."""
    return trees[: len(PLAIN)]


def _rendered(source: Path, answers: dict[str, Any], factory: pytest.TempPathFactory) -> Tree:
    folder = factory.mktemp("tree")
    copier.run_copy(str(source), folder, data=answers, defaults=True, quiet=True)
    return Tree(answers, folder, tree(folder))


def distinct(trees: list[Tree], pattern: str) -> list[Path]:
    """Return one file for each content that files of this name have in all trees."""
    found = {path.read_bytes(): path for project in trees for path in project.folder.glob(pattern)}
    assert found, f"no project has {pattern}"
    return list(found.values())


def texts(trees: list[Tree]) -> Iterator[tuple[Tree, str, str]]:
    """Give every text file of every tree with its name."""
    for project in trees:
        for name, content in project.files.items():
            if not name.endswith(".parquet"):
                yield project, name, content.decode("utf-8")


def clean(trees: list[Tree], *command: str) -> None:
    """Run a command in every tree, with the tree's own settings."""
    for project in trees:
        done = run([*command, "--no-cache"], project.folder)
        assert done.returncode == 0, f"{project.answers}\n{done.stdout}{done.stderr}"


def test_lint(trees: list[Tree]) -> None:
    clean(trees, "ruff", "check", "--output-format=concise")


def test_format(trees: list[Tree]) -> None:
    clean(trees, "ruff", "format", "--check", "--diff")


@pytest.mark.life
def test_types(trees: list[Tree], plain: list[Tree], lived: Callable[[int, str], Path]) -> None:
    """The libraries' types are needed: a project of the highest level that is set up lends its environment."""
    home = lived(max(OFFERED), "classification")
    odd = next(
        project for project in trees if project.answers.get("project_name") == LONG and "mk/1.mk" in project.files
    )
    for project in [*plain, odd]:
        command: list[str | Path] = [
            home / ".venv/bin/mypy",
            "--config-file",
            home / "pyproject.toml",
            "--cache-dir",
            home / ".mypy_cache",
        ]
        folders = [name for name in ("src", "tests") if (project.folder / name).is_dir()]
        done = run([*command, *folders], project.folder, MYPYPATH="src")
        assert done.returncode == 0, f"{project.answers}\n{done.stdout}{done.stderr}"


def test_workflows(trees: list[Tree], tmp_path: Path) -> None:
    workflows = distinct(trees, ".github/workflows/*.yml")
    must(["actionlint", *map(str, workflows)], tmp_path)
    must(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows], tmp_path)
    must(["zizmor", "--offline", "--pedantic", "--no-progress", *workflows], tmp_path)


def test_a_careless_workflow_is_found(trees: list[Tree], tmp_path: Path) -> None:
    workflow = distinct(trees, ".github/workflows/check.yml")[0].read_text(encoding="utf-8")
    careless = tmp_path / "check.yml"
    careless.write_text(workflow.replace("permissions: {}\n", ""))
    assert run(["zizmor", "--offline", "--pedantic", "--no-progress", careless], tmp_path).returncode != 0
    careless.write_text(workflow.replace("runs-on:", "run-on:"))
    assert run(["actionlint", careless], tmp_path).returncode != 0


def test_workflows_call_make(trees: list[Tree]) -> None:
    for path in distinct(trees, ".github/workflows/*.yml"):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for command in (step["run"] for job in jobs for step in job["steps"] if "run" in step):
            assert re.match(r"make ([a-z-]+)", command), f"{path.name}: {command}"
            assert set(re.findall(r"make ([a-z-]+)", command)) <= {*targets(path.parents[2])}


def test_container_file(trees: list[Tree], tmp_path: Path) -> None:
    must(["hadolint", *distinct(trees, "Dockerfile")], tmp_path)


def targets(project: Path) -> list[str]:
    """Return the targets that `make help` lists."""
    pages = [project / "Makefile", *sorted(project.glob("mk/*.mk"))]
    return re.findall(r"(?m)^([a-z-]+):.*## ", "".join(page.read_text(encoding="utf-8") for page in pages))


def test_help_lists_each_command_once_and_none_of_the_inner_ones(plain: list[Tree]) -> None:
    for project in plain:
        listed = targets(project.folder)
        assert len(listed) == len(set(listed))
        assert "ready" not in listed


def test_recipes_of_make(plain: list[Tree], tmp_path: Path) -> None:
    for number, project in enumerate(plain):
        folder = tmp_path / str(number)
        shutil.copytree(project.folder, folder)
        (folder / ".venv/lib/python3/site-packages/flight_delays-0.1.0.dist-info").mkdir(parents=True)
        assert {"setup", "train", "predict"} <= set(targets(folder))
        for target in targets(folder):
            script = folder / "recipe.sh"
            script.write_text(must(["make", "--dry-run", "--always-make", "--no-print-directory", target], folder))
            must(["shellcheck", "--shell=sh", script], folder)


def test_a_broken_recipe_is_found(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("a:\n\t@cd $$X; rm -rf $$Y/*\n")
    (tmp_path / "a.sh").write_text(must(["make", "--dry-run", "a"], tmp_path))
    assert run(["shellcheck", "--shell=sh", "a.sh"], tmp_path).returncode != 0


def test_every_file_is_what_its_name_says(trees: list[Tree]) -> None:
    for project, name, text in texts(trees):
        if name.endswith((".yaml", ".yml")):
            list(yaml.safe_load_all(text))
        elif name.endswith(".toml"):
            tomllib.loads(text)
        elif name.endswith((".json", ".ipynb")):
            json.loads(text)
        elif name.endswith(".py"):
            compile(text, str(project.folder / name), "exec")
    for path in distinct(trees, "data/*.parquet"):
        assert pq.read_table(path).num_rows > 1000


def odd_scalars(text: str) -> list[str]:
    """Return the values of a YAML page that are probably not of the type that was meant."""

    def walk(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
        if isinstance(node, yaml.ScalarNode):
            yield node
        for child in node.value if isinstance(node.value, list) else []:
            for part in child if isinstance(child, tuple) else (child,):
                yield from walk(part)

    odd = []
    for page in yaml.compose_all(text):
        for node in walk(page) if page is not None else ():
            kind = node.tag.rsplit(":", 1)[-1]
            number = kind == "float" and re.fullmatch(r"\d+\.\d*0", node.value)
            word = kind == "bool" and node.value not in ("true", "false")
            base = kind == "int" and not re.fullmatch(r"-?(0|[1-9]\d*)", node.value)
            odd += [node.value] * bool(number or word or base)
    return odd


def test_yaml_types_are_what_was_meant(trees: list[Tree]) -> None:
    pages = ((name, text) for _, name, text in texts(trees) if name.endswith((".yaml", ".yml")))
    odd = {name: found for name, text in pages if (found := odd_scalars(text))}
    assert {name: found for name, found in odd.items() if not (name.startswith(".github/") and found == ["on"])} == {}


def test_an_odd_type_is_found() -> None:
    assert odd_scalars("python: 3.10\nstate: [NO, yes]\nmode: 0644\nat: 12:30\n") == [
        "3.10",
        "NO",
        "yes",
        "0644",
        "12:30",
    ]
    assert odd_scalars('python: "3.10"\nshare: 0.25\nall: true\nmany: 20\n') == []


def test_no_template_language_is_left(trees: list[Tree]) -> None:
    for project, name, text in texts(trees):
        if name.endswith(".py") or name.startswith("monitoring/"):
            continue  # braces are Python's there, or those of Prometheus and Grafana
        if any("{" in str(answer) for answer in project.answers.values()):
            continue  # the user's own
        found = STRAY.search(text)
        assert not found, f"{name}: {text[found.start() - 40 : found.end() + 40]!r}"


def test_nothing_is_unfinished(trees: list[Tree]) -> None:
    assert [name for _, name, text in texts(trees) if UNFINISHED.search(text)] == []


def test_files_are_whole_and_safely_named(trees: list[Tree]) -> None:
    for project, name, text in texts(trees):
        assert not re.search(r'[<>:"|?*\\{}]|[ .]$', name), name
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), f"{name} of {project.answers}"
        assert "\r" not in text, name
        assert name.endswith((".ipynb", "LICENSE")) or not re.search(r"[ \t]+$", text, re.M), (
            f"{name}: space at a line's end"
        )


def test_no_folder_is_empty(trees: list[Tree]) -> None:
    for project in trees:
        assert [folder for folder, folders, files in os.walk(project.folder) if not folders and not files] == []


def test_projects_stay_small(plain: list[Tree]) -> None:
    for project in plain:
        assert len(project.files) <= LIMITS[project.answers["maturity_level"]]
