"""Write reserved.yml: the names that a project cannot have, since Python or a library that it uses has them.

    python scripts/make_reserved.py build/demo

The folder is that of a generated project of the highest level, after `make setup`. Its lock names the distributions of
every platform; its environment knows under which names they are imported.
"""

from __future__ import annotations

import json
import keyword
import re
import subprocess
import sys
import tomllib
from pathlib import Path

TARGET = Path(__file__).parents[1] / "reserved.yml"
LATER = ["annotationlib", "compression"]
"""Modules of Python versions after the oldest that a project may have."""
OWN = ["mlops_ladder", "ops", "template", "tests"]
HEADER = "# Names of Python modules and of the libraries that a project uses; made by scripts/make_reserved.py."
IMPORTABLE = "import importlib.metadata as m, json; print(json.dumps(sorted(m.packages_distributions())))"


def reserved(project: Path) -> list[str]:
    """Return the sorted names that would meet a module of this project: of Python, its libraries, or their imports."""
    locked = tomllib.loads((project / "uv.lock").read_text(encoding="utf-8"))["package"]
    distributions = {
        re.sub(r"[-_.]+", "_", package["name"]) for package in locked if "editable" not in package["source"]
    }
    keywords = {*map(str.lower, keyword.kwlist), *keyword.softkwlist}
    names = {*sys.stdlib_module_names, *keywords, *distributions, *importable(project), *LATER, *OWN}
    return sorted(name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name))


def importable(project: Path) -> list[str]:
    """Return the top-level names that can be imported from the libraries in a project's environment."""
    said = subprocess.run([project / ".venv/bin/python", "-c", IMPORTABLE], check=True, capture_output=True, text=True)
    names: list[str] = json.loads(said.stdout)
    return names


def main() -> None:
    """Write the names as one hidden question."""
    names = reserved(Path(sys.argv[1]))
    lines = "".join(f"    {name}\n" for name in names)
    question = "reserved_names:\n  type: str\n  when: false\n  default: |-\n"
    TARGET.write_text(f"{HEADER}\n{question}{lines}", encoding="utf-8")
    print(f"{TARGET.name}: {len(names)} names")


if __name__ == "__main__":
    main()
