"""The answers of a project: what its file says, and which new ones may be given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .errors import RefusedError
from .places import ANSWERS, LEVEL
from .renders import Release
from .repository import Repository

FIXED = ("task", "framework", "package_name")
"""Answers that shape the user's own files, which no update may touch."""


def answers_text(repository: Repository) -> str:
    """Return the text of the project's committed answers file; raises RefusedError where there is none."""
    blob = repository.files.get(ANSWERS)
    if blob is None:
        there = (repository.project / ANSWERS).is_file()
        reason = f"{ANSWERS} is not committed: commit it first" if there else f"it has no {ANSWERS}"
        if there:
            raise RefusedError(f"{repository.project}: {reason}.")
        raise RefusedError(
            f"{repository.project} is no project of this template ({reason}): give the folder of one, or bring the "
            "repository in with `mlops-ladder adopt-repo`."
        )
    return repository.content(blob).decode(errors="replace")


def known(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers without what Copier notes of the template."""
    return {key: value for key, value in answers.items() if not key.startswith("_")}


def insist_on_askable(
    questions: Mapping[str, Mapping[str, Any]], new: Release, before: Mapping[str, Any], answers: Mapping[str, Any]
) -> None:
    """Raise RefusedError for an answer to no question, to one fixed at birth, or that is no choice."""
    asked = [name for name, question in questions.items() if question.get("when", True) is not False]
    for name, value in answers.items():
        if name not in asked:
            near = difflib.get_close_matches(name, asked, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(asked)}."
            raise RefusedError(f"The template at {new.name} has no question {name!r}: {hint}")
        had = before.get(name, questions[name].get("default"))
        if name in FIXED and str(value) != str(had):
            raise RefusedError(
                f"{name} is {had} and was fixed when the project was born, because it shapes your own files: generate "
                f"a second project (`uvx copier copy --data {name}={value} {before['_src_path']} ../other`), move your "
                "config/, data/ and src/<package>/*.py into it, and compare them there."
            )
        choices = choices_of(questions[name])
        if choices and str(value) not in map(str, choices.values()):
            allowed = ", ".join(map(str, choices.values()))
            if name == LEVEL:
                raise RefusedError(f"There is no level {value} in the template at {new.name}: it has {allowed}.")
            raise RefusedError(f"{value!r} is no answer to {name}: {allowed} are.")


def choices_of(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices of a question by their label; empty if anything may be answered."""
    choices = question.get("choices") or {}
    return dict(choices) if isinstance(choices, Mapping) else {str(choice): choice for choice in choices}


def insist_on_same(
    questions: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    answers: Mapping[str, Any],
    new: Release,
) -> None:
    """Raise RefusedError where an answer is no longer valid: Copier takes the default then, without a word."""
    for name in questions:
        if name in before and name in after and name not in answers and before[name] != after[name]:
            choices = ", ".join(map(str, choices_of(questions[name]).values()))
            allowed = f" ({choices})" if choices else ""
            raise RefusedError(
                f"The answer {name}: {before[name]} is no longer valid in the template at {new.name}{allowed}, and "
                f"would become {after[name]} unasked: choose with `--data {name}=...`."
            )
