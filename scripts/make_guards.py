"""Write docs/reference/guards.md: the table of guards, read from the generated project's own code.

python scripts/make_guards.py
"""

from __future__ import annotations

import ast
from pathlib import Path

from make_questions import questions

ROOT = Path(__file__).parents[1]
OPS = ROOT / "template" / "src" / "{{ package_name }}" / "ops"
PAGE = ROOT / "docs" / "reference" / "guards.md"
INTRODUCTION = """\
# The guards

Made from `ops/guards_N*.py` by `scripts/make_guards.py`; do not edit. Each guard stands beside a fault that it must
catch: `make check` in a generated project plants every fault and fails if one passes, or if the same without the fault
is refused. `make guards` prints the table. Faults are planted in rows drawn from the project's own `config/`, so they
follow when the data change.

| level | room | guard | refuses |
|---|---|---|---|
"""


def rows(level: int, source: str) -> list[str]:
    """Return a line of the page for each `Guard(name, room, refuses, ...)` of a module."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    guards = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Guard")
    return [
        f"| {level} | {room} | {name} | {refuses} |\n"
        for name, room, refuses in ([ast.literal_eval(word) for word in guard.args[:3]] for guard in guards)
    ]


def page() -> str:
    """Return the whole page."""
    offered = questions()["maturity_level"]["choices"].values()
    modules = [(int(path.stem.split("_")[1]), path) for path in sorted(OPS.glob("guards_*.py"))]
    of_these = (rows(level, path.read_text(encoding="utf-8")) for level, path in modules if level in offered)
    lines = (line for found in of_these for line in found)
    return INTRODUCTION + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
