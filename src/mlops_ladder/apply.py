"""Bringing a result into the working tree, whole or not at all: a run that was stopped half-way is undone by the next.

Everything is made ready beside the project first. A journal in git's own folder then says what every path was and will
be, and each path changes in one step of the file system. While the journal is there the change is not done; when it is
gone, it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

from .errors import RefusedError
from .merge import blocking
from .repository import NOBODY, Blob, Repository, Tree, git, names

Sides: TypeAlias = tuple[Blob | None, Blob]
"""What the old and the new template have at a path in conflict."""
OWN = "mlops-ladder"
"""Our folder in git's own."""
PATIENCE = 10.0
"""Seconds to wait for another run in the same project."""


@dataclass(frozen=True)
class Step:
    """One path that changes: what it holds before and after, as `fingerprint` says it."""

    path: str
    """In the repository."""
    before: str
    after: str
    kept: str
    """Name of the file that holds what was there; empty where nothing was."""


def moved(repository: Repository, commit: str, conflicts: Mapping[str, Sides] = {}) -> None:
    """Give the files of the working tree that differ between the present commit and another the other's content.

    Index and branch stay, but for the paths of the project in `conflicts`, which git learns to be in conflict.
    Raises RefusedError, and changes nothing, where a file on the disk is not what the present commit has.
    """
    old, new = _differing(repository, commit)
    with _alone(repository.folder) as own:
        _undone(own, repository)
        _insist_on_disk(repository, old, new)
        steps = _ready(repository, own, commit, old, new)
        present = {path: repository.files[path] for path in conflicts}
        _write_journal(own, steps, {repository.inside + path: blob for path, blob in present.items()})
        try:
            for step in steps:
                _do(repository.top, own / "new" / step.path, step)
            if conflicts:
                sides = {path: (base, present[path], theirs) for path, (base, theirs) in conflicts.items()}
                _set_index(own, repository.folder, _unmerged(repository.inside, sides))
        except BaseException:
            _undone(own, repository)
            raise
        _finish(own)


def recovered(project: Path) -> bool:
    """Put a project back as it was before a run that was stopped half-way; say whether there was one.

    Raises RefusedError where somebody edited one of the files since.
    """
    repository = Repository.of(project)
    if not (repository.folder / OWN / "journal.json").exists():
        return False
    with _alone(repository.folder) as own:
        return _undone(own, repository)


def branch(repository: Repository, name: str, commit: str) -> None:
    """Make a branch that points to a commit; raises RefusedError where the name is taken or not usable."""
    insist_on_free(repository, name)
    repository.git("update-ref", f"refs/heads/{name}", commit, "0" * len(commit), **NOBODY)


def insist_on_free(repository: Repository, name: str) -> None:
    """Raise RefusedError where the name of a branch is taken or not usable."""
    try:
        repository.git("check-ref-format", "--branch", name)
    except RefusedError:
        raise RefusedError(f"{name!r} is not a usable name of a branch.") from None
    if repository.git("for-each-ref", f"refs/heads/{name}"):
        raise RefusedError(f"There is a branch {name} already: give another name, or delete it.")


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Give our folder inside git's, to one run at a time."""
    own = folder / OWN
    own.mkdir(exist_ok=True)
    try:
        with FileLock(own / "lock", timeout=PATIENCE):
            yield own
    except Timeout:
        raise RefusedError("Another run of mlops-ladder is at work in this project: wait for its end.") from None


def _differing(repository: Repository, commit: str) -> tuple[Tree, Tree]:
    words = ("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", repository.head, commit)
    parts = names(repository.git(*words))
    old: Tree = {}
    new: Tree = {}
    for facts, path in zip(parts[::2], parts[1::2], strict=True):
        before, after, one, other, _ = facts.removeprefix(":").split(" ")
        old.update({path: (before, one)} if before != "000000" else {})
        new.update({path: (after, other)} if after != "000000" else {})
    return old, new


def _insist_on_disk(repository: Repository, old: Tree, new: Tree) -> None:
    """What is on the disk must be what the commit has, whatever git was told not to look at."""
    lines = [b"%s %s\t%s\0" % (mode.encode(), blob.encode(), os.fsencode(path)) for path, (mode, blob) in old.items()]
    with repository.index() as index:
        repository.git("update-index", "-z", "--index-info", stdin=b"".join(lines), GIT_INDEX_FILE=index)
        repository.git("update-index", "-q", "--refresh", accepted=(0, 1), GIT_INDEX_FILE=index)
        changed = names(repository.git("diff-files", "-z", "--name-only", GIT_INDEX_FILE=index)) if lines else []
    present = [path for path in new.keys() - old.keys() if _in_the_way(repository.top, path, old)]
    if changed or present:
        what = "is not what git has committed" if changed else "is on the disk, and git does not know it"
        raise RefusedError(
            f"Nothing was changed: {sorted(changed or present)[0]} {what}; commit it, move it away or, if git was told "
            "not to look at it, to look again (`git update-index --no-assume-unchanged --no-skip-worktree PATH`)."
        )


def _in_the_way(top: Path, path: str, old: Tree) -> bool:
    found = blocking(top, path)
    if found is None or found in old:
        return False
    inside = [known for known in old if known.startswith(f"{found}/")]
    return not inside or not (top / found).is_dir()


def _ready(repository: Repository, own: Path, commit: str, old: Tree, new: Tree) -> list[Step]:
    """Write what will be there and keep what is there, both in our own folder."""
    for part in ("new", "old"):
        shutil.rmtree(own / part, ignore_errors=True)
        (own / part).mkdir()
    where: dict[str, Any] = {"GIT_DIR": repository.folder, "GIT_WORK_TREE": own / "new"}
    with repository.index() as index:
        repository.git("read-tree", commit, GIT_INDEX_FILE=index)
        wanted = b"".join(os.fsencode(path) + b"\0" for path in new)
        git("checkout-index", "-z", "--stdin", stdin=wanted, cwd=own / "new", GIT_INDEX_FILE=index, **where)
    steps = []
    for number, path in enumerate(sorted(old.keys() | new.keys(), key=lambda path: (path in new, path))):
        kept = str(number) if path in old else ""
        if kept:
            _copied(repository.top / path, own / "old" / kept)
        before, after = fingerprint(repository.top / path) if kept else "", fingerprint(own / "new" / path)
        steps.append(Step(path, before, after, kept))
    return steps


def fingerprint(path: Path) -> str:
    """Return what tells one state of a path from another: kind, right to execute, content; empty where nothing is."""
    if path.is_symlink():
        return f"link {path.readlink()}"
    if not path.is_file():
        return ""
    runs = bool(path.stat().st_mode & stat.S_IXUSR)
    return f"{'run' if runs else 'file'} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _copied(source: Path, target: Path) -> None:
    shutil.copy2(source, target, follow_symlinks=False)


def _write_journal(own: Path, steps: list[Step], unmerged: Mapping[str, object]) -> None:
    journal = {"steps": [asdict(step) for step in steps], "unmerged": dict(unmerged)}
    part = own / "journal.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(journal, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(own / "journal.json")


def _do(top: Path, ready: Path, step: Step) -> None:
    target = top / step.path
    if not step.after:
        target.unlink()
        _without_empty_folders(top, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    _replaced(ready, target)


def _replaced(ready: Path, target: Path) -> None:
    """Move a file into place in one step, from another disk too."""
    try:
        ready.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{OWN}")
        _copied(ready, beside)
        beside.replace(target)


def _without_empty_folders(top: Path, path: Path) -> None:
    with suppress(OSError):
        for folder in path.parents:
            if folder == top or not folder.is_relative_to(top):
                return
            folder.rmdir()


def _undone(own: Path, repository: Repository) -> bool:
    """Put every path of the journal back, if there is one; doing so twice does no harm."""
    if not (own / "journal.json").exists():
        return False
    journal = json.loads((own / "journal.json").read_text(encoding="utf-8"))
    top, steps = repository.top, [Step(**step) for step in journal["steps"]]
    now = {step.path: fingerprint(top / step.path) for step in steps}
    edited = [step for step in steps if now[step.path] not in (step.before, step.after)]
    if edited:
        raise RefusedError(
            f"The last run in {top} was stopped half-way, and {edited[0].path} was edited since, so it cannot be put "
            f"back: keep your edit elsewhere, restore the file from {own / 'old' / edited[0].kept}, and try again."
        )
    for step in reversed(steps):
        target = top / step.path
        if step.kept and now[step.path] != step.before:
            target.parent.mkdir(parents=True, exist_ok=True)
            again = own / "again"
            again.unlink(missing_ok=True)
            _copied(own / "old" / step.kept, again)
            _replaced(again, target)
        elif not step.kept:
            target.unlink(missing_ok=True)
            _without_empty_folders(top, target)
        target.with_name(f".{target.name}.{OWN}").unlink(missing_ok=True)
    if journal["unmerged"]:
        _set_index(own, repository.folder, _merged(journal["unmerged"]))
    _finish(own)
    return True


def _unmerged(inside: str, sides: Mapping[str, tuple[Blob | None, Blob, Blob]]) -> bytes:
    """Return what makes git see paths as in conflict: last update, yours, and the template's."""
    lines = []
    for path, blobs in sides.items():
        lines.append(_line("0", "0" * len(blobs[1][1]), 0, inside + path))
        lines += [_line(*blob, stage, inside + path) for stage, blob in enumerate(blobs, 1) if blob]
    return b"".join(lines)


def _merged(present: Mapping[str, Sequence[str]]) -> bytes:
    lines = [
        (_line("0", "0" * len(blob[1]), 0, path), _line(blob[0], blob[1], 0, path)) for path, blob in present.items()
    ]
    return b"".join(line for pair in lines for line in pair)


def _line(mode: str, blob: str, stage: int, path: str) -> bytes:
    return f"{mode} {blob} {stage}\t".encode() + os.fsencode(path) + b"\0"


def _set_index(own: Path, folder: Path, lines: bytes) -> None:
    """Change the index in one step of the file system."""
    copy = own / "index"
    _copied(folder / "index", copy)
    where: dict[str, Any] = {"GIT_DIR": folder, "GIT_INDEX_FILE": copy}
    git("update-index", "-z", "--index-info", stdin=lines, cwd=own, **where)
    copy.replace(folder / "index")


def _finish(own: Path) -> None:
    """The journal goes first: from then on the change is done, or undone."""
    (own / "journal.json").unlink()
    for part in ("new", "old"):
        shutil.rmtree(own / part, ignore_errors=True)
