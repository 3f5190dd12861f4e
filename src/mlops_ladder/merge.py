"""What becomes of each path: old render, new render and the user's file decide, and no line of the user is dropped."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .repository import LINK, SUBMODULE, Blob, Repository, Tree, names

SHOWN = 5
"""Lines of an edit that a sentence quotes."""


@dataclass(frozen=True)
class Change:
    """What an update does to one path, or what it does not do and why."""

    path: str
    kind: str
    """added, updated, merged, conflict, deleted, lost (the update would lose an edit), kept (the user's stays)."""
    reason: str
    diff: str
    """What changes; where nothing does, the edit that would be lost or the change that does not arrive."""


@dataclass(frozen=True)
class Verdict:
    """A path's kind and reason, and what it holds afterwards."""

    kind: str
    reason: str
    result: Blob | None


def merged(repository: Repository, old: Tree, new: Tree, version: str) -> dict[str, Verdict]:
    """Return a verdict for each path that the template changed, or that stands in its way.

    `old` and `new` are renders kept in the repository; the user's files are those of the last commit.
    """
    mine = repository.files
    judge = _Judge(repository, old, new, version)
    verdicts = {}
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path) and mine.get(path) != new.get(path):
            verdicts[path] = judge(path)
    _mind_folders(verdicts, mine)
    _mind_disk(verdicts, repository)
    return verdicts


class _Judge:
    def __init__(self, repository: Repository, old: Tree, new: Tree, version: str) -> None:
        self.repository, self.old, self.new, self.version = repository, old, new, version
        self.mine = repository.files
        self.arrived = {blob: path for path, blob in new.items() if path not in old}
        self.moved = {blob: path for path, blob in self.mine.items() if path not in old and path not in new}

    def __call__(self, path: str) -> Verdict:
        old, new, mine = self.old.get(path), self.new.get(path), self.mine.get(path)
        if mine is None and old is not None:
            return self._gone(path, old)
        if mine == old:
            return self._untouched(old, new)
        assert mine is not None, "a path that nobody has is in no tree"
        if new is None:
            assert old is not None, "a path that only the user has is not judged"
            return self._orphaned(old, mine)
        return self._both(old, new, mine)

    def _untouched(self, old: Blob | None, new: Blob | None) -> Verdict:
        if new is None:
            return Verdict("deleted", "the template no longer has it, and you did not edit it", None)
        if old is None:
            return Verdict("added", "new in the template", new)
        return Verdict("updated", "the template changed it, you did not", new)

    def _gone(self, path: str, old: Blob) -> Verdict:
        if os.path.lexists(self.repository.project / path):
            return Verdict("kept", "git does not know your file; it stays as it is", None)
        where = self.moved.get(old)
        if where:
            return Verdict("kept", f"you moved it to {where}; the template's change does not follow", None)
        return Verdict("kept", "you deleted it, and it stays deleted", None)

    def _orphaned(self, old: Blob, mine: Blob) -> Verdict:
        target = self.arrived.get(old)
        gone = f"the template renamed it to {target}" if target else "the template no longer has it"
        return Verdict("lost", f"{gone}; {self._edit(old, mine)} would go with it", mine)

    def _both(self, old: Blob | None, new: Blob, mine: Blob) -> Verdict:
        kinds = {blob[0] for blob in (old, new, mine) if blob}
        if kinds & {LINK, SUBMODULE}:
            return Verdict("lost", "you and the template both changed it, and a link cannot be merged", mine)
        mode = new[0] if old is None or mine[0] == old[0] else mine[0]
        if old is not None and new[1] == old[1]:
            return Verdict("merged", "the template changed its mode, you its content", (mode, mine[1]))
        if mine[1] == new[1] or (old is not None and mine[1] == old[1]):
            return Verdict("merged", "the template changed its content, you its mode", (mode, new[1]))
        return self._lines(old, new, mine, mode)

    def _lines(self, old: Blob | None, new: Blob, mine: Blob, mode: str) -> Verdict:
        read = self.repository.content
        contents = [read(mine), read(old) if old else b"", read(new)]
        if any(b"\0" in content for content in contents):
            return Verdict("lost", "you and the template both changed it, and a binary file cannot be merged", mine)
        text, conflicts = self._three_way(contents)
        result = (mode, self.repository.stored(text))
        if conflicts:
            return Verdict("conflict", _clash(conflicts, contents, old is None), result)
        return Verdict("merged", "you and the template changed different lines", result)

    def _three_way(self, contents: list[bytes]) -> tuple[bytes, int]:
        labels = ("yours", "last update", f"template {self.version}")
        with tempfile.TemporaryDirectory(prefix="mlops-ladder-") as folder:
            paths = [Path(folder, name) for name in ("mine", "old", "new")]
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
            words = [word for label in labels for word in ("-L", label)]
            text = self.repository.git("merge-file", "-p", *words, *paths, accepted=range(128))
        return text, text.count(b"<<<<<<< yours") - contents[0].count(b"<<<<<<< yours")

    def _edit(self, old: Blob, mine: Blob) -> str:
        if old[1] == mine[1]:
            return "your change of its mode"
        before, after = self.repository.content(old), self.repository.content(mine)
        if LINK in (old[0], mine[0]):
            return "your link" if mine[0] == LINK else "your file in place of a link"
        if b"\0" in before + after:
            return f"your version ({len(after):,} bytes)"
        return f"your edit ({quoted(before, after)})"


def quoted(before: bytes, after: bytes) -> str:
    """Return the lines that were added to (or removed from) a text, as many as a sentence can carry."""
    lines = _changed(before, after)
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return ", ".join(lines[:SHOWN]) + more if lines else "blanks or line endings"


def _changed(before: bytes, after: bytes) -> list[str]:
    old, new = (text.decode(errors="replace").splitlines() for text in (before, after))
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    blocks = [block for block in matcher.get_opcodes() if block[0] != "equal"]
    added = [f"line {at + 1}: {new[at].strip()!r}" for *_, low, high in blocks for at in range(low, high)]
    removed = [f"without {old[at].strip()!r}" for _, low, high, *_ in blocks for at in range(low, high)]
    return added or removed


def unified(path: str, before: bytes, after: bytes) -> str:
    """Return the difference of two contents of a path, as git would show it."""
    if b"\0" in before + after:
        return f"Binary files a/{path} and b/{path} differ\n"
    old, new = (text.decode(errors="replace").splitlines(keepends=True) for text in (before, after))
    lines = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _clash(conflicts: int, contents: list[bytes], both_new: bool) -> str:
    if both_new:
        return "you and the template both added a file of this name"
    mine, old, new = (b"\r\n" in content for content in contents)
    if mine and not old and not new:
        return "your file ends its lines as Windows does (CRLF), the template's does not, so every line differs"
    return f"you and the template changed the same lines in {conflicts} place{'s' * (conflicts > 1)}"


def _mind_folders(verdicts: dict[str, Verdict], mine: Tree) -> None:
    """A file cannot stand where a folder is: what the user has stays."""
    after = {path for path in mine if path not in verdicts} | {path for path, what in verdicts.items() if what.result}
    folders = {str(parent) for path in after for parent in Path(path).parents}
    for path, verdict in verdicts.items():
        if verdict.result is None or path in mine:
            continue
        above = [str(parent) for parent in Path(path).parents if str(parent) in after]
        below = path in folders
        if above or below:
            what = f"{above[0]} is a file of yours" if above else "you have a folder of this name"
            verdicts[path] = Verdict("lost", f"the template adds this file, but {what}", None)


def _mind_disk(verdicts: dict[str, Verdict], repository: Repository) -> None:
    """A file that the user has and git does not know stands where the template wants to write: it stays."""
    for path, verdict in verdicts.items():
        if verdict.result is None or path in repository.files:
            continue
        present = blocking(repository.project, path)
        if present is None or any(_goes(verdicts, gone, present) for gone in verdicts):
            continue
        what = "the file" if present == path else present
        content = read(repository.project / present)
        if present == path and content == repository.content(verdict.result):
            verdicts[path] = Verdict("kept", "it is there already, and git does not know it", None)
            continue
        quote = "" if content is None or b"\0" in content else f" ({quoted(b'', content)})"
        reason = f"the template adds it, and git does not know {what} that you have there{quote}"
        verdicts[path] = Verdict("lost", reason, None)


def _goes(verdicts: Mapping[str, Verdict], gone: str, present: str) -> bool:
    """Say whether a path is deleted, and is what stands somewhere or lies in the folder that does."""
    return verdicts[gone].kind == "deleted" and (gone == present or gone.startswith(f"{present}/"))


def blocking(project: Path, path: str) -> str | None:
    """Return what stands on the disk where a file would be written: the path itself, or a file in place of a folder."""
    for parent in [*reversed(Path(path).parents)][1:]:
        if (project / parent).is_symlink() or (os.path.lexists(project / parent) and not (project / parent).is_dir()):
            return parent.as_posix()
    return path if os.path.lexists(project / path) else None


def read(path: Path) -> bytes | None:
    """Return a file's bytes, or where a link points to; None for a folder or where nothing is."""
    if path.is_symlink():
        return os.fsencode(path.readlink())
    return path.read_bytes() if path.is_file() else None


def diffs(repository: Repository, commit: str) -> Callable[[str], str]:
    """Return a function that gives the difference of each path between the present commit and another."""
    words = ("-r", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", repository.head, commit)
    within = ("--", repository.inside) if repository.inside else ()
    changed = names(repository.git("diff-tree", "-z", "--name-status", *words, *within))
    text = repository.git("diff-tree", "-p", *words, *within).decode(errors="replace")
    patches = iter(f"diff --git {part}\n" for part in f"\n{text}".rstrip("\n").split("\ndiff --git ")[1:])
    found = {
        path.removeprefix(repository.inside): "".join(islice(patches, 2 if status == "T" else 1))
        for status, path in zip(changed[::2], changed[1::2], strict=True)
    }  # a link that becomes a file has two patches
    return lambda path: found.get(path, "")
