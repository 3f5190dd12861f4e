"""A repository that was not generated: the template is laid around its files on a branch, and none is overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .apply import branch
from .born import typed
from .errors import RefusedError
from .places import ANSWERS, in_full
from .renders import source
from .repository import Blob, Repository

ASIDE = "adopt"
"""Folder for the template's files whose place is taken, and for the page of what to move."""
PAGE = f"{ASIDE}/MOVE.md"
TABLES = (".csv", ".tsv", ".parquet", ".feather", ".xlsx", ".xls", ".jsonl", ".db", ".sqlite")
MODELS = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".h5", ".keras", ".onnx", ".bst", ".cbm")
REQUIREMENTS = re.compile(r"(requirements.*\.(txt|in)|environment\.ya?ml|Pipfile|setup\.(py|cfg)|poetry\.lock)", re.I)
TRAINS = re.compile(r"\.fit\(|\bxgb\.train\(|\blgb\.train\(|\.backward\(\)")
READS = re.compile(r"\.read_(csv|parquet|sql|excel|json|table)\(")
SECRETS = re.compile(r"\.env(\..+)?|.*\.pem|id_(rsa|ed25519)|credentials(\.json)?", re.I)
LONGEST = 200_000
"""Bytes of a script that are read to see what it does."""


@dataclass(frozen=True)
class Move:
    """One of the user's files, and what to do with it."""

    path: str
    advice: str


@dataclass(frozen=True)
class Adoption:
    """What was laid where."""

    branch: str
    added: tuple[str, ...]
    aside: tuple[str, ...]
    """Files of the template whose place is taken; they stand under `adopt/`."""
    moves: tuple[Move, ...]
    version: str


def adopted(
    path: Path, template: str, answers: Mapping[str, Any], *, to: str = "", name: str = "mlops-ladder/adopt"
) -> Adoption:
    """Lay the template around a repository's files as one commit on a new branch, and say what to move where.

    Working tree, index and the present branch stay as they are. Raises RefusedError where there is no commit, where the
    repository is a project of a template already, or where the branch is there.
    """
    repository = Repository.of(path)
    if ANSWERS in repository.files:
        raise RefusedError(f"{path} is a project of a template already: `mlops-ladder update` takes it further.")
    address = in_full(template)
    origin = source(address)
    release = origin.release(to) if to else origin.newest()
    questions = origin.questions(release)
    asked = {key: typed(key, value, questions, "--data") for key, value in answers.items()}
    render = origin.render(release, {"project_name": _title(repository.project.name), **asked})
    package = str(render.answers.get("package_name") or re.sub(r"\W", "_", repository.project.name))
    laid = repository.tree_of(render.folder)
    aside = {place for place in laid if _taken(place, repository)}
    changes: dict[str, Blob | None] = {(f"{ASIDE}/{place}" if place in aside else place): laid[place] for place in laid}
    moves = tuple(_moves(repository, package))
    text = _page(release.name, sorted(aside), moves)
    changes[PAGE] = ("100644", repository.stored(text.encode()))
    commit = repository.committed(changes, f"Lay the template at {release.name} around the repository\n")
    branch(repository, name, commit)
    return Adoption(name, tuple(sorted(laid.keys() - aside)), tuple(sorted(aside)), moves, release.name)


def _title(name: str) -> str:
    return " ".join(re.split(r"[-_. ]+", name)).strip().capitalize() or "Project"


def _taken(place: str, repository: Repository) -> bool:
    """Say whether a place is a file or folder of the user's, on a system that does not tell A from a too."""
    files = {path.lower() for path in repository.files}
    folders = {str(parent).lower() for path in repository.files for parent in PurePosixPath(path).parents}
    above = {str(parent).lower() for parent in PurePosixPath(place).parents}
    return place.lower() in files | folders or bool(above & files)


def _moves(repository: Repository, package: str) -> Iterator[Move]:
    src = f"src/{package}"
    for path, blob in sorted(repository.files.items()):
        name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
        if SECRETS.fullmatch(name) and not name.endswith((".example", ".sample", ".template")):
            yield Move(
                path, "looks like a secret: take it out of git, change it, and give it as an environment variable"
            )
        elif suffix == ".ipynb":
            yield Move(path, f"git mv it to notebooks/; what it computes for every row belongs in {src}/features.py")
        elif REQUIREMENTS.fullmatch(name):
            yield Move(path, "write what is imported into the marked list of pyproject.toml, then remove it")
        elif suffix in TABLES:
            target = f"make adopt DATA={path} TARGET=<the column to predict>"
            yield Move(path, f"`{target}` makes it the project's data; then remove it here")
        elif suffix in MODELS:
            yield Move(path, "a trained model has no place in git: `make train` makes models/model.onnx; remove it")
        elif suffix == ".py" and blob[0] != "120000":
            advice = _of_script(path, repository.content(blob)[:LONGEST].decode(errors="replace"), src)
            yield from [Move(path, advice)] if advice else []


def _of_script(path: str, text: str, src: str) -> str:
    name = PurePosixPath(path).name
    if name.startswith("test_") or name.endswith("_test.py"):
        return "" if path.startswith("tests/") else "git mv it to tests/"
    roles = []
    if READS.search(text):
        roles.append(f"what reads data to {src}/collect.py, what joins and cleans to {src}/process.py")
    if TRAINS.search(text):
        roles.append(f"the estimator to {src}/model.py and its parameters to config/model.yaml")
    if roles:
        roles.insert(1, f"columns computed row by row to {src}/features.py")
    return f"move {'; '.join(roles)}" if roles else ""


def _page(version: str, aside: list[str], moves: tuple[Move, ...]) -> str:
    lines = [
        "# What to move where",
        "",
        f"The template at {version} stands around your files; none of them was changed. When this list is done, remove",
        f"`{ASIDE}/`, run `make setup` and `make train`, and merge the branch.",
        "",
        "## Your files",
        "",
        *([f"- [ ] `{one.path}`: {one.advice}" for one in moves] or ["Nothing was found that has to move."]),
        "",
        "## Files that you and the template both have",
        "",
        *(
            [f"- [ ] `{place}`: yours stays; take over what you need from `{ASIDE}/{place}`" for place in aside]
            or ["There are none."]
        ),
    ]
    return "\n".join(lines) + "\n"
