"""The rooms of `ops/` import one way, the user's modules import the contract alone, every module stays readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import OFFERED, Render
from manifest import TEMPLATE, template_files

ROOMS = ["collect", "process", "label", "features", "train", "evaluate", "register", "release", "serve", "log"]
ROOMS += ["monitor", "retrain", "status"]
"""From left to right, as the data flow."""
BESIDE = {"contract", "config", "files", "pages", "scorer"}
LONGEST = 300
Module = tuple[str, ...]


@pytest.fixture(scope="module")
def modules(render: Render) -> dict[Module, str]:
    """Return the text of every module of the highest level, for both tasks, by its place in the package.

    src/flight_delays/ops/train/export.py is ("ops", "train", "export"); the task does not change what a module imports.
    """
    tasks = ("classification", "regression")
    return {place: text for task in tasks for place, text in _modules(render(maturity_level=max(OFFERED), task=task))}


def _modules(project: Path) -> Iterator[tuple[Module, str]]:
    package = project / "src" / "flight_delays"
    for path in package.rglob("*.py"):
        yield path.relative_to(package).with_suffix("").parts, path.read_text(encoding="utf-8")


def full_imports(text: str, module: Module) -> set[Module]:
    """Return every place in its own package that a module may import, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = module[: len(module) - node.level]
            place = (*start, *(node.module.split(".") if node.module else ()))
            named = {(*place, alias.name) for alias in node.names}
            found |= {place, (*place, "__init__"), *named, *((*name, "__init__") for name in named)}
    return found


def imports(text: str, module: Module) -> set[Module]:
    """Return what a module imports from its own package: ("ops", "train") for all of a room, or ("features",)."""
    found = {place[:2] if place[0] == "ops" else place[:1] for place in full_imports(text, module) if place}
    return {place for place in found if place not in {("ops",), ("ops", "__init__"), ("__init__",)}}


def against_the_flow(text: str, module: Module) -> set[str]:
    """Return what a module of `ops/` imports that is not to its left; a room may call the user's modules."""
    own = module[1]
    if own in ("__main__", "pipeline", "stages") or own.startswith(("verbs_", "guards")):
        return set()  # these compose the rooms, and no room may import them
    left = set(ROOMS[: ROOMS.index(own) + 1]) if own in ROOMS else set()
    allowed = {("ops", name) for name in left | BESIDE}
    return {".".join(place) for place in imports(text, module) - allowed if place[0] == "ops" or own not in ROOMS}


def of_the_machinery(text: str, module: Module) -> set[str]:
    """Return what a module of the user imports from `ops` beside the contract."""
    return {".".join(place) for place in imports(text, module) - {("ops", "contract")} if place[0] == "ops"}


def test_imports_go_one_way(modules: dict[Module, str]) -> None:
    machinery = {module: text for module, text in modules.items() if module[0] == "ops" and len(module) > 1}
    assert len(machinery) > 20
    assert {module: wrong for module, text in machinery.items() if (wrong := against_the_flow(text, module))} == {}


def test_an_import_to_the_right_is_found() -> None:
    module = ("ops", "train", "export")
    assert against_the_flow("def f():\n    from ..serve.batch import predict", module) == {"ops.serve"}
    assert against_the_flow("if True:\n    from .. import serve", module) == {"ops.serve"}
    assert against_the_flow("from ..verbs_1 import app", module) == {"ops.verbs_1"}
    assert against_the_flow("from .train import fit", ("ops", "config")) == {"ops.train"}
    assert against_the_flow("from ..model import build", ("ops", "config")) == {"model"}
    right = (
        "from ..features import prepare\nfrom ..contract import Array\nfrom . import tune\nfrom ...model import build"
    )
    assert against_the_flow(right, module) == set()


def test_your_modules_import_the_contract_alone(modules: dict[Module, str]) -> None:
    yours = {module: text for module, text in modules.items() if module[0] != "ops"}
    assert set(yours) == {("__init__",), ("collect",), ("process",), ("label",), ("features",), ("model",)}
    assert {module: wrong for module, text in yours.items() if (wrong := of_the_machinery(text, module))} == {}


def test_a_starter_that_imports_more_is_found() -> None:
    assert of_the_machinery("from .ops.config import load", ("features",)) == {"ops.config"}
    assert of_the_machinery("def f():\n    from .ops import scorer", ("features",)) == {"ops.scorer"}
    assert of_the_machinery("from .ops.contract import Array\nfrom .model import build", ("features",)) == set()


def test_your_tests_import_the_contract_alone(render: Render) -> None:
    tests = list((render() / "tests").glob("*.py"))
    assert tests
    for path in tests:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert [name for name in named if ".ops" in name and not name.endswith(".ops.contract")] == [], path.name


@pytest.mark.parametrize("level", OFFERED)
def test_every_module_is_used(render: Render, level: int) -> None:
    """What the command of a level cannot reach belongs to a higher one, and its line is missing in the manifest."""
    present = dict(_modules(render(maturity_level=level)))
    named = tuple(f"{kind}_{number}" for kind in ("verbs", "guards") for number in range(1, level + 1))
    found_by_name = [module for module in present if module[0] == "ops" and module[-1].startswith(named)]
    waiting: list[Module] = [("ops", "__main__"), *found_by_name]
    reached: set[Module] = set()
    while waiting:
        module = waiting.pop()
        if module in present and module not in reached:
            reached.add(module)
            waiting += full_imports(present[module], module)
            waiting += [(*module[:depth], "__init__") for depth in range(len(module))]
    assert set(present) - reached == set()


def test_modules_stay_readable(modules: dict[Module, str]) -> None:
    assert {module: count for module, text in modules.items() if (count := len(text.splitlines())) > LONGEST} == {}


def test_verbatim_files_have_no_jinja() -> None:
    """A file without `.jinja` is copied as it is: what looks like Jinja in it would reach the user."""
    verbatim = (name for name in template_files().values() if not name.endswith((".jinja", ".parquet")))
    assert [name for name in verbatim if "{%" in (TEMPLATE / name).read_text(encoding="utf-8")] == []
