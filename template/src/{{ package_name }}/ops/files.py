"""Safe writing: a file is whole or not there, every room writes through here. And how a CSV file looks."""

from __future__ import annotations

import codecs
import csv
import errno
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import StringIO
from itertools import islice
from pathlib import Path

from .config import UnfinishedError
from .contract import ProjectError
from .scorer import Dialect

START = 1_000_000
"""Bytes of a CSV file that are looked at; the first line has to end in them."""
MARKS = ",;\t|"
"""What may separate columns, the most usual first."""
PART = ".part"
LONGEST = 40
"""Characters of a target's name that its temporary name keeps: file systems allow 255 bytes."""


FULL = {errno.ENOSPC, errno.EDQUOT}
"""How the system says that a disk or a user's part of it is full."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and move it into place only when the block ends well.

    Raises ProjectError where the folder cannot be written to, UnfinishedError where the disk is full; `path` then stays
    as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ProjectError(f"{path}: is a folder; give the name of a file")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=swept(path), suffix=f"{PART}{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if _of_another(error, temporary):
            raise
        raise unwritable(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder inside `folder`, which is gone when the block ends.

    Raises ProjectError where `folder` cannot be written to, UnfinishedError where the disk is full.
    """
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=swept(folder / "scratch"), suffix=PART) as name:
            temporary = Path(name)
            yield temporary
    except OSError as error:
        if _of_another(error, temporary):
            raise
        raise unwritable(folder, error) from None


def swept(path: Path) -> str:
    """Return how a temporary name beside `path` begins, and remove what killed processes left under such names."""
    start = f".{path.name[:LONGEST]}."
    for left in path.parent.glob(f"{glob.escape(start)}*"):
        owner = re.match(rf"([1-9][0-9]{{0,8}})\.\w+{re.escape(PART)}", left.name.removeprefix(start))
        if owner and not _runs(int(owner[1])):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return f"{start}{os.getpid()}."


def _of_another(error: OSError, temporary: Path | None) -> bool:
    """Whether the block met another file than the one that it writes."""
    return temporary is not None and error.filename is not None and temporary.name not in str(error)


def unwritable(path: Path, error: OSError) -> ProjectError:
    """Return what to raise where the system refuses to write: UnfinishedError for a full disk, else ProjectError."""
    kind = UnfinishedError if error.errno in FULL else ProjectError
    return kind(f"{path}: cannot be written ({error.strerror or error})")


def _runs(process: int) -> bool:
    if os.name == "nt":  # no signal asks there, each of them ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is somebody else's
    try:  # in a container nobody may look after what has ended: on Linux it then stays as a zombie
        return b") Z " not in Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return True


def put_in_place(made: Mapping[Path, str | Path]) -> None:
    """Write several files, each a text or the copy of a file; all are whole before the first one is moved into place.

    Raises ProjectError where one of them cannot be written.
    """
    with ExitStack() as stack:
        for path, content in made.items():
            temporary = stack.enter_context(atomic(path))
            if isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_text(content, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_uncommitted(paths: Iterable[Path]) -> None:
    """Raise ProjectError naming the files that git does not hold as they are, so that no work is ever replaced."""
    status = ("git", "status", "--porcelain", "--ignored", "--untracked-files=all", "--", *map(str, paths))
    try:
        done = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise ProjectError("git keeps no history here, and files would be replaced; run `make setup` first") from None
    names = ", ".join(line[3:] for line in done.stdout.splitlines())
    if names:
        raise ProjectError(f"{names}: not committed, and would be replaced; run `git add --all && git commit` first")


def refuse_empty(path: Path) -> None:
    """Raise ProjectError for a file without content, or one that may not be read."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ProjectError(f"{path}: the file is empty")
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror or error})") from None


def header(path: Path, dialect: Dialect) -> list[str]:
    """Return the names in the first line of a CSV file, without the blanks around them: DuckDB drops those too.

    Raises ProjectError where it cannot be read, or shows another encoding, separator or format than the dialect says.
    """
    refuse_empty(path)
    with path.open("rb") as file:
        start = file.read(START)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig" if dialect.is_utf8 else dialect.encoding)().decode(start)
    except UnicodeError as error:
        line = start[: getattr(error, "start", 0)].count(b"\n") + 1
        advice = "save it as CSV UTF-8, or name its encoding in config/data.yaml: `csv: {encoding: latin-1}`"
        raise ProjectError(f"{path}: line {line} is not {dialect.encoding} text; {advice}") from None
    if text.lstrip().startswith("<"):
        raise ProjectError(f"{path}: a web page or XML, not CSV: it begins with {text.strip()[:40]!r}")
    if "\0" in text:
        raise ProjectError(f"{path}: not text, so not CSV")
    try:
        names = [name.strip() for name in next(_records(text, dialect.separator), [])]
    except csv.Error as error:
        raise ProjectError(f"{path}: not a readable csv file ({error})") from None
    other = next((mark for mark in MARKS if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise ProjectError(
            f"{path}: the columns are separated by {other!r}, not by {dialect.separator!r} (line 1: {text[:60]!r}); "
            f"if all files are, say so in config/data.yaml: `csv: {{separator: {other!r}}}`"
        )
    refuse_twice(path, names)
    return names


def refuse_twice(path: Path, names: Iterable[str]) -> None:
    """Raise ProjectError where two columns have one name, be it in capitals: DuckDB does not tell them apart."""
    known: dict[str, str] = {}
    for name in names:
        if name.lower() in known:
            before = known[name.lower()]
            raise ProjectError(f"{path}: column '{name}' is given twice (first as '{before}'); rename one")
        known[name.lower()] = name


@contextmanager
def in_utf8(path: Path, dialect: Dialect) -> Iterator[Path]:
    """Give the file itself, or a passing copy in UTF-8 of a CSV file that is written in another encoding."""
    if dialect.is_utf8 or path.suffix == ".parquet":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            with path.open(encoding=dialect.encoding, newline="") as old, copy.open("x", -1, "utf-8", newline="") as to:
                shutil.copyfileobj(old, to)
        except (OSError, UnicodeError) as error:
            raise ProjectError(f"{path}: cannot be read as {dialect.encoding} ({error})") from None
        yield copy


def sniffed(path: Path) -> Dialect:
    """Return the separator and the encoding of a CSV file, told by its bytes and by its first rows.

    Raises ProjectError for a file that is not text.
    """
    encoding = _encoding(path)
    with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
        sample = file.read(START)
    fitness = {mark: _fitness(sample, mark) for mark in MARKS}
    best = max(fitness, key=lambda mark: fitness[mark])
    return Dialect(best if fitness[best] > (0, 0) else ",", encoding=encoding)


def _fitness(sample: str, mark: str) -> tuple[float, int]:
    """Return which share of the rows is as wide as the first, and how wide that is; nothing for a single column."""
    try:
        rows = [row for row in islice(_records(sample, mark), 200) if row]
    except csv.Error:
        return (0, 0)
    alike = sum(len(row) == len(rows[0]) for row in rows) / len(rows) if rows else 0
    return (round(alike, 1), len(rows[0])) if rows and len(rows[0]) > 1 else (0, 0)


def _records(text: str, mark: str) -> Iterator[list[str]]:
    return csv.reader(StringIO(text, newline=""), delimiter=mark)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(START)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in start:
            raise ProjectError(f"{path}: is not text, so not CSV")
    try:
        with path.open(encoding="utf-8") as text:
            while text.read(START):
                pass
    except UnicodeDecodeError:
        with path.open("rb") as file:  # bytes that only the encoding of Windows has signs for
            return "cp1252" if any(re.search(rb"[\x80-\x9f]", line) for line in file) else "latin-1"
    return "utf-8"
