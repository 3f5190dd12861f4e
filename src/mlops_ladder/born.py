"""A new project with the team's answers: `copier copy`, which is told nothing that it would ignore or fail on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import copier
import yaml

from .answers import choices_of
from .errors import RefusedError
from .places import in_full
from .renders import source, spoken
from .team import Team


def born(
    folder: Path, team: Team, asked: Mapping[str, str], *, template: str = "", to: str = "", ask: bool = False
) -> dict[str, Any]:
    """Generate a project into an empty folder and return its answers.

    Locked answers are given, the team's defaults stand where nobody says otherwise; `ask` lets Copier ask for the rest.
    Raises RefusedError, and leaves no project behind, for a name that is no question, a value that is none of its
    choices, an answer that the team has locked to another, or a template that cannot be had.
    """
    address = template or team.template
    if not address:
        raise RefusedError("Which template? Give --template, or `template:` in the team's file.")
    above = next(up for up in folder.absolute().parents if up.exists())
    if not above.is_dir():
        raise RefusedError(f"{above} is a file, and no folder can be made in it: give another path.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedError(f"{folder} is there already, and not empty: give the path of a new folder.")
    address = in_full(address)
    origin = source(address)
    release = origin.release(to or team.to) if to or team.to else origin.newest()
    questions = origin.questions(release)
    told = {name: typed(name, value, questions, "--data") for name, value in asked.items()}
    locked = {name: typed(name, value, questions, "the team's locked") for name, value in team.locked.items()}
    defaults = {name: typed(name, value, questions, "the team's defaults") for name, value in team.defaults.items()}
    team.agreed({}, told)
    with spoken("No project was made"):
        copier.run_copy(
            address,
            folder,
            data={**told, **locked},
            user_defaults=defaults,
            vcs_ref=release.name,
            defaults=not ask,
            quiet=not ask,
        )
    answers: dict[str, Any] = yaml.safe_load((folder / ".copier-answers.yml").read_text(encoding="utf-8"))
    return answers


def typed(name: str, value: Any, questions: Mapping[str, Mapping[str, Any]], whose: str) -> Any:
    """Return an answer as its question takes it; Copier would ignore a name that it does not know.

    Raises RefusedError for such a name, and for a value of another type or outside the choices.
    """
    asked = {key: question for key, question in questions.items() if question.get("when", True) is not False}
    if name not in asked:
        raise RefusedError(f"{whose}: the template does not ask for {name}; it asks for {', '.join(asked)}.")
    question = asked[name]
    if question.get("type") == "int":
        try:
            value = int(value)
        except ValueError:
            raise RefusedError(f"{whose}: {name} is {value!r}, and must be a number.") from None
    choices = list(choices_of(question).values())
    if choices and value not in choices:
        raise RefusedError(f"{whose}: {name} is {value!r}, and may be {', '.join(map(str, choices))}.")
    return value
