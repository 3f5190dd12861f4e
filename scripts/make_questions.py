"""Write what follows from the questions of copier.yml: cookiecutter.json and docs/reference/questions.md.

python scripts/make_questions.py
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import copier
import yaml

ROOT = Path(__file__).parents[1]
COOKIECUTTER = ROOT / "cookiecutter.json"
PAGE = ROOT / "docs" / "reference" / "questions.md"
INTRODUCTION = """\
# The questions

Made from `copier.yml` by `scripts/make_questions.py`; do not edit. Every question has a default, so that
`copier copy --defaults` works. Answer on the command line with `--data name=value`, for
instance `--data maturity_level=0`.
"""


def questions() -> dict[str, dict[str, Any]]:
    """Return every question of copier.yml in order, the computed ones that are never asked included."""
    text = (ROOT / "copier.yml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^---\n!include (\S+)\n---\n", lambda page: (ROOT / page[1]).read_text(encoding="utf-8"), text)
    return {name: question for name, question in yaml.safe_load(text).items() if not name.startswith("_")}


def default_answers() -> dict[str, Any]:
    """Return what every asked question is answered with by default, as Copier computes it."""
    only = ["*", "!.copier-answers.yml"]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        copier.run_copy(str(ROOT), folder, exclude=only, defaults=True, quiet=True, vcs_ref="HEAD")
        answers: dict[str, Any] = yaml.safe_load(Path(folder, ".copier-answers.yml").read_text(encoding="utf-8"))
    return answers


def cookiecutter(asked: dict[str, dict[str, Any]]) -> str:
    """Return cookiecutter.json: the same questions, order, defaults and words.

    Choices are typed, not picked: Copier refuses a wrong one in a sentence, where Cookiecutter shows a traceback.
    The last variable has the answers checked before Cookiecutter makes a folder.
    """
    names = {name: name if question.get("when", True) else _hidden(name, question) for name, question in asked.items()}
    content: dict[str, Any] = {
        names[name]: _foreign(str(question["default"]), names) for name, question in asked.items()
    }
    content["__door"] = "{{ cookiecutter | checked }}"
    content["_extensions"] = ["hooks.answers.Door"]
    content["__prompts__"] = {name: _prompt(question) for name, question in asked.items() if names[name] == name}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _hidden(name: str, question: dict[str, Any]) -> str:
    """Cookiecutter leaves `_name` as it is, renders `__name`, and asks for neither."""
    return f"__{name}" if "{" in question["default"] else f"_{name}"


def _foreign(text: str, names: dict[str, str]) -> str:
    def renamed(code: re.Match[str]) -> str:
        return re.sub(rf"\b({'|'.join(names)})\b", lambda name: f"cookiecutter.{names[name[0]]}", code[0])

    return re.sub(r"{[{%].*?[%}]}", renamed, text, flags=re.DOTALL)


def _prompt(question: dict[str, Any]) -> str:
    return "\n      ".join([question["help"], *(f"{value}: {means}" for value, means in _choices(question).items())])


def _choices(question: dict[str, Any]) -> dict[Any, str]:
    """Return what each choice means, without the value that its label may begin with."""
    choices = question.get("choices", {}).items()
    return {value: label.removeprefix(str(value)).strip(" :()") or label for label, value in choices}


def page(asked: dict[str, dict[str, Any]], answers: dict[str, Any]) -> str:
    """Return the reference page: one section a question."""
    return INTRODUCTION + "".join(
        _section(name, question, answers[name]) for name, question in asked.items() if question.get("when", True)
    )


def _section(name: str, question: dict[str, Any], default: Any) -> str:
    derived = " (follows from the answers before it)" if "{" in str(question["default"]) else ""
    lines = [f"\n## `{name}`\n", f"{question['help']}\n", f"- Default: `{default}`{derived}"]
    lines += [f"- `{value}`: {means}" for value, means in _choices(question).items()]
    lines += [f"- Refused: {reason}" for reason in _refusals(question.get("validator", ""))]
    return "\n".join(lines) + "\n"


def _refusals(validator: str) -> list[str]:
    plain = re.sub(r"{{.*?}}", "...", validator)
    return [text.strip() for text in re.split(r"{%.*?%}", plain) if text.strip()]


def main() -> None:
    """Write both files."""
    asked = questions()
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    COOKIECUTTER.write_text(cookiecutter(asked), encoding="utf-8")
    PAGE.write_text(page(asked, default_answers()), encoding="utf-8")
    print(f"wrote {COOKIECUTTER.name} and {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
