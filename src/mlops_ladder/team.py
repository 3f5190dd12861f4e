"""A team's defaults and locked answers, in one file that the team keeps under version control."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import RefusedError
from .places import at_home


class Team(BaseModel):
    """What a team has agreed on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(1, ge=1, le=1)
    """Of the format of this file."""
    template: str = ""
    """Where new projects come from; a path is meant from this file's folder."""
    to: str = ""
    """The template's version that the team follows; the newest if empty."""
    defaults: dict[str, str | int | float | bool] = {}
    """Answers that new projects have unless somebody says otherwise."""
    locked: dict[str, str | int | float | bool] = {}
    """Answers that every project has."""
    canaries: list[str] = []
    """Repositories that take an update first."""

    @model_validator(mode="after")
    def _once(self) -> Team:
        if both := sorted(self.defaults.keys() & self.locked.keys()):
            raise ValueError(f"{', '.join(both)}: stands under defaults and under locked; leave it in one of them")
        return self

    def deviations(self, answers: Mapping[str, Any]) -> list[str]:
        """Say for every answer that is not the team's what it is; the locked ones first."""
        told = []
        for rule, agreed in (("locked", self.locked), ("default", self.defaults)):
            different = ((key, value) for key, value in agreed.items() if key in answers and answers[key] != value)
            told += [f"{key} is {answers[key]}, the team's {rule} is {value}" for key, value in different]
        return told

    def wanted(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the locked answers that a project does not have yet."""
        return {key: value for key, value in self.locked.items() if key in answers and answers[key] != value}

    def agreed(self, answers: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what somebody asks for, with the locked answers that a project does not have yet.

        Raises RefusedError where the two contradict each other.
        """
        for key, value in asked.items():
            if key in self.locked and str(self.locked[key]).lower() != str(value).lower():
                raise RefusedError(
                    f"{key}: the team has locked it to {self.locked[key]}, and you ask for {value}: "
                    "leave it out, or have the team's file changed."
                )
        return {**asked, **self.wanted(answers)}


def read(path: Path | None) -> Team:
    """Return the team of a file, or one that agreed on nothing where there is no path.

    Raises RefusedError that names the file, the key and what is wrong with it.
    """
    if path is None:
        return Team(version=1)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read ({error.strerror}): give the path of the team's file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RefusedError(f"{path}: has no keys; it may have {', '.join(Team.model_fields)}")
    try:
        team = Team.model_validate(content)
    except ValidationError as error:
        raise RefusedError(f"{path}: {_said(error)}") from None
    local = path.parent / at_home(team.template)
    return team.model_copy(update={"template": str(local.resolve())}) if team.template and local.exists() else team


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:2])
    if first["type"] == "extra_forbidden":
        return f"{where}: no such key; there are {', '.join(Team.model_fields)}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what} (it is {first['input']!r})" if where else what
