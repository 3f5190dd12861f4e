"""Hand over to Copier: the stub holds the answers that `hooks/answers.py` has checked, Copier puts the project there.

The result is what `copier copy` gives with the same answers, and `copier update` works on it.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

STUB = Path("answers.json")
GIT = ("git@", "git+", "git:", "https://github.com/", "https://gitlab.com/")
"""Beginnings of addresses that Copier takes for git's without being told."""


def source(cookiecutter: dict[str, Any], template: str) -> str:
    """Return where Copier finds the template, now and at every update: the clone's address, or an absolute path."""
    if cookiecutter["_template"].lower().endswith(".zip"):
        raise SystemExit(
            "error: a project made from a zip archive could never be updated; give the template's git address"
        )
    if cookiecutter["_template"] == cookiecutter["_repo_dir"]:
        return template
    command = ["git", "-C", template, "remote", "get-url", "origin"]
    origin = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    known = origin.endswith(".git") or origin.startswith(GIT)
    return (origin if known else f"git+{origin}") if origin else template


def main() -> None:
    """Replace the stub by the project; where Copier fails, Cookiecutter removes the folder."""
    cookiecutter = json.loads(STUB.read_text(encoding="utf-8"))
    door = json.loads(cookiecutter["__door"])
    answers = {name: value for name, value in cookiecutter.items() if not name.startswith("_")}
    version = ["--vcs-ref", cookiecutter["_checkout"]] if cookiecutter["_checkout"] else []
    STUB.unlink()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "answers.json")
        data.write_text(json.dumps(answers), encoding="utf-8")
        command = [*door["copier"], "copy", "--quiet", "--defaults", "--overwrite", *version, "--data-file", str(data)]
        done = subprocess.run([*command, source(cookiecutter, door["template"]), "."], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    print(f"{answers['project_name']} stands in {Path.cwd()}. Next: go there, then make setup, make train.")


main()
