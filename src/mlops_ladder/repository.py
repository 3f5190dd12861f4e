"""The project's repository through git's plumbing: whatever its user configured, the working tree untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from .errors import RefusedError

NEUTRAL = {
    "color.ui": "false",
    "commit.gpgSign": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "core.sparseCheckout": "false",
    "diff.mnemonicPrefix": "false",
    "diff.noprefix": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "merge.conflictStyle": "merge",
}
"""Settings that would change what git answers, or what it does besides."""
NOBODY = {
    "GIT_AUTHOR_NAME": "mlops-ladder",
    "GIT_AUTHOR_EMAIL": "mlops-ladder@localhost",
    "GIT_COMMITTER_NAME": "mlops-ladder",
    "GIT_COMMITTER_EMAIL": "mlops-ladder@localhost",
}
"""Who commits where git knows no user."""
KEPT_VARIABLES = {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_NO_VERIFY", "GIT_SSL_CAINFO", "GIT_ASKPASS", "GIT_EXEC_PATH"}
"""What git's environment may say; the rest would point a command that runs inside a hook at another repository."""

Blob: TypeAlias = tuple[str, str]
"""Mode (as git writes it, in octal digits) and object id of a file."""
Tree: TypeAlias = dict[str, Blob]
"""Files by path, with `/` between folders."""
LINK, SUBMODULE = "120000", "160000"


def git(
    *words: str | Path,
    cwd: Path | None = None,
    stdin: bytes = b"",
    settings: Mapping[str, str] = {},
    accepted: Container[int] = (0,),
    **environment: Any,
) -> bytes:
    """Run git and return what it said; raises RefusedError with git's own reason where it fails."""
    options = [part for key, value in {**NEUTRAL, **settings}.items() for part in ("-c", f"{key}={value}")]
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("GIT_")
        or key in KEPT_VARIABLES
        or key.startswith(("GIT_AUTHOR", "GIT_COMMITTER", "GIT_CONFIG"))
    }
    neutral = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *options, *map(str, words)],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            env={**kept, **neutral, **{key: str(value) for key, value in environment.items()}},
            check=False,
        )
    except FileNotFoundError:
        raise RefusedError("git is not on this machine, or not on the PATH: install it.") from None
    if done.returncode not in accepted:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in said if line.startswith(("fatal:", "error:"))), said[-1] if said else "")
        raise RefusedError(f"git {words[0]} failed: {reason.removeprefix('fatal: ').removeprefix('error: ')}")
    return done.stdout


def names(output: bytes) -> list[str]:
    """Return the parts of an answer of git that end with a zero byte."""
    return [os.fsdecode(part) for part in output.split(b"\0") if part]


def listed(output: bytes) -> Tree:
    """Return the files that `git ls-tree -r -z` or `git ls-files --stage -z` names."""
    found: Tree = {}
    for line in names(output):
        facts, path = line.split("\t", 1)
        words = facts.split(" ")
        mode, blob = (words[0], words[2]) if words[1] in ("blob", "commit") else (words[0], words[1])
        found[path] = (mode, blob)
    return found


@dataclass(frozen=True)
class Repository:
    """A project inside a repository; the project may be a folder of it."""

    top: Path
    """The repository's own folder."""
    folder: Path
    """Where git keeps what belongs to this working tree."""
    inside: str
    """The project's path in the repository with `/` at its end; empty if it is the repository."""
    head: str
    """The commit that the working tree stands on."""

    @classmethod
    def of(cls, project: Path) -> Repository:
        """Return the repository around a project; raises RefusedError where there is none or no commit."""
        project = project.resolve()
        if not project.is_dir():
            raise RefusedError(f"{project} is not a folder.")
        words = ("rev-parse", "--path-format=absolute", "--show-toplevel", "--git-dir")
        try:
            top, folder = git(*words, cwd=project).decode().splitlines()
        except RefusedError as error:
            if "not a git repository" not in str(error):
                raise
            raise RefusedError(f"{project} is in no git repository: run `git init`, commit, and try again.") from None
        head = git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", cwd=project, accepted=(0, 1)).decode().strip()
        if not head:
            raise RefusedError(f"{top} has no commit yet: commit the project first.")
        relative = project.relative_to(Path(top).resolve()).as_posix()
        return cls(Path(top), Path(folder), "" if relative == "." else f"{relative}/", head)

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.top / self.inside

    def git(self, *words: str | Path, **more: Any) -> bytes:
        """Run git in the repository's own folder."""
        return git(*words, cwd=self.top, **more)

    @cached_property
    def files(self) -> Tree:
        """The project's files as they are committed, by their path in the project."""
        words = ("ls-tree", "-r", "-z", self.head, *([self.inside] if self.inside else []))
        return {path.removeprefix(self.inside): blob for path, blob in listed(self.git(*words)).items()}

    def content(self, blob: Blob) -> bytes:
        """Return a file's bytes as git keeps them."""
        return self.git("cat-file", "blob", blob[1])

    def stored(self, content: bytes) -> str:
        """Keep bytes in the repository and return their object id."""
        return self.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()

    def uncommitted(self) -> list[str]:
        """Return the paths in the project whose content or state in the index is not committed."""
        words = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=none")
        found = names(self.git(*words, "--", self.inside or "."))
        return [line[3:].removeprefix(self.inside) for line in found]

    @contextmanager
    def index(self) -> Iterator[Path]:
        """Give the path of an index of one's own, which is gone when the block ends."""
        with tempfile.TemporaryDirectory(prefix="mlops-ladder-") as folder:
            yield Path(folder, "index")

    def tree_of(self, folder: Path) -> Tree:
        """Keep the files of a folder in the repository, as `git add` would in the project, and return them.

        What git's settings and the attributes around the project do to line endings is done here too.
        """
        with tempfile.TemporaryDirectory(prefix="mlops-ladder-") as temporary, self.index() as index:
            work = folder
            if self.inside:
                work = Path(temporary)
                shutil.copytree(folder, work / self.inside, symlinks=True)
                self._write_attributes_around(work)
            where: dict[str, Any] = {"GIT_DIR": self.folder, "GIT_WORK_TREE": work, "GIT_INDEX_FILE": index}
            git(
                "add",
                "--all",
                "--force",
                "--",
                self.inside or ".",
                cwd=work,
                settings={"core.fileMode": "true"},
                **where,
            )
            found = listed(git("ls-files", "--stage", "-z", "--", self.inside or ".", cwd=work, **where))
        return {path.removeprefix(self.inside): blob for path, blob in found.items()}

    def _write_attributes_around(self, work: Path) -> None:
        parts = self.inside.rstrip("/").split("/")
        paths = ["/".join([*parts[:depth], ".gitattributes"]) for depth in range(len(parts))]
        for path, blob in listed(self.git("ls-tree", "-z", self.head, *paths)).items():
            (work / path).write_bytes(self.content(blob))

    def committed(self, changes: Mapping[str, Blob | None], message: str) -> str:
        """Return a new commit on the present one, in which some files of the project are others or gone.

        No branch points to it, and neither index nor working tree follow.
        """
        lines = [
            b"%s %s\t%s\0" % (mode.encode(), blob.encode(), os.fsencode(self.inside + path))
            for path, (mode, blob) in ((path, blob or ("0", "0" * len(self.head))) for path, blob in changes.items())
        ]
        with self.index() as index:
            self.git("read-tree", self.head, GIT_INDEX_FILE=index)
            self.git("update-index", "-z", "--index-info", stdin=b"".join(lines), GIT_INDEX_FILE=index)
            tree = self.git("write-tree", GIT_INDEX_FILE=index).decode().strip()
        words = ("commit-tree", "--no-gpg-sign", "-p", self.head, tree)
        return self.git(*words, stdin=message.encode(), **self._identity).decode().strip()

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What git needs to be told of who commits: nothing where it knows a user."""
        try:
            self.git("var", "GIT_AUTHOR_IDENT", settings={"user.useConfigOnly": "true"})
            self.git("var", "GIT_COMMITTER_IDENT", settings={"user.useConfigOnly": "true"})
        except RefusedError:
            return NOBODY
        return {}
