"""Collection: each source of `config/data.yaml` (file, address, query) becomes Parquet in `data/raw`, or none does.

The manifest beside them is written last. A file that it does not describe to the byte is collected again, so a run that
was cut short mends itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import fsspec
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from aiohttp import ClientTimeout
from fsspec.callbacks import Callback
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TextColumn

from ..config import Data, Query, first_line, masked
from ..contract import ProjectError
from ..files import atomic, scratch, sha256
from . import SUFFIXES, opened

RAW = Path("data/raw")
MANIFEST = "manifest.json"
CHUNK = 50_000
"""Rows of a query that are held in memory at a time."""
WAIT = ClientTimeout(total=None, sock_connect=30, sock_read=60)
REFUSED = {"PermissionError", "NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError"}
UNREACHABLE = {"ConnectionError", "ClientConnectionError", "TimeoutError", "gaierror"}


@dataclass(frozen=True)
class Record:
    """What the manifest keeps of one source."""

    uri: str
    """Where it came from, without passwords."""
    asked: str
    """SHA-256 of what config/data.yaml says of the source and of how its columns are read."""
    source: str | None
    """SHA-256 of the local file that it was read from."""
    sha256: str
    """SHA-256 of the collected Parquet file."""
    rows: int
    bytes: int
    collected: str
    """When, in UTC."""


def snapshot(data: Data, refresh: bool = False, folder: Path = RAW) -> dict[str, Path]:
    """Collect every source into `<folder>/<name>.parquet` and return these paths.

    A local file is collected again when its content changed, anything else when it is missing, when its address, its
    query or the declared types of its columns changed, or on `refresh`. Raises ProjectError naming the source and the
    reason; the earlier snapshot is kept.
    """
    _refuse_names(data, folder)
    earlier = _records(folder)
    paths = places(data, folder)
    known = {} if refresh else {name: record for name, record in earlier.items() if name in paths}
    kept = {name: record for name, record in known.items() if _is_current(name, record, paths[name], data)}
    if kept.keys() == paths.keys() == earlier.keys():
        return paths
    with scratch(folder) as staging:
        with _progress() as progress:
            fresh = {name: _collect(name, data, staging, progress) for name in paths if name not in kept}
        for name in fresh:
            (staging / f"{name}.parquet").replace(paths[name])
        for name in earlier.keys() - paths.keys():
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        records = {name: asdict((fresh | kept)[name]) for name in paths}
        with atomic(folder / MANIFEST) as path:
            path.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def places(data: Data, folder: Path = RAW) -> dict[str, Path]:
    """Return where each source lies once it is collected."""
    return {name: folder / f"{name}.parquet" for name in data.source}


def _refuse_names(data: Data, folder: Path) -> None:
    for name, source in data.source.items():
        where = f"config/data.yaml, source.{name}"
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ProjectError(f"{where}: use letters, digits, _ and - only: the name becomes a file's")
        if isinstance(source, str) and "://" not in source and Path(source).resolve().parent == folder.resolve():
            raise ProjectError(f"{where}: {folder} holds what is collected; keep {source} elsewhere")


def _records(folder: Path) -> dict[str, Record]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {name: Record(**entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none yet, or damaged: everything is collected again


def _is_current(name: str, record: Record, path: Path, data: Data) -> bool:
    source = data.source[name]
    if not path.is_file() or sha256(path) != record.sha256 or record.asked != _asked(name, path, data):
        return False
    if isinstance(source, Query) or "://" in source:
        return True
    return Path(source).is_file() and sha256(Path(source)) == record.source


def _progress() -> Progress:
    shown = (TextColumn("{task.description}"), *Progress.get_default_columns()[1:], DownloadColumn())
    console = Console(stderr=True)
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


def _collect(name: str, data: Data, staging: Path, progress: Progress) -> Record:
    source, target = data.source[name], staging / f"{name}.parquet"
    local = None
    if isinstance(source, Query):
        fetched = staging / f"{name}.fetched.parquet"
        _query(name, source, fetched)
        _convert(name, fetched, target, data, f"source '{name}' ({masked(source.database)})")
    elif "://" in source:
        fetched = _download(name, source, staging, progress)
        _convert(name, fetched, target, data, masked(source))
    else:
        _convert(name, Path(source), target, data, source)
        local = sha256(Path(source))
    rows = pq.read_metadata(target).num_rows
    where = masked(source.database if isinstance(source, Query) else source)
    if rows == 0:
        raise ProjectError(f"{where}: source '{name}' has no row")
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(where, _asked(name, target, data), local, sha256(target), rows, target.stat().st_size, moment)


def _convert(name: str, path: Path, target: Path, data: Data, shown: str) -> None:
    """Stream a file to Parquet; one thread, because several would write its bytes differently from run to run."""
    engine = ibis.duckdb.connect(threads=1)
    try:
        with (
            opened(name, path, data, engine) as (_, schema, batches),
            pq.ParquetWriter(target, schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
    except ProjectError as error:
        raise ProjectError(str(error).replace(str(path), shown)) from None
    finally:
        engine.disconnect()


def _download(name: str, uri: str, staging: Path, progress: Progress) -> Path:
    address, secrets = _expanded(name, uri)
    where = f"source '{name}' ({masked(uri)})"
    suffix = PurePosixPath(urlsplit(address).path).suffix
    if suffix not in SUFFIXES:
        raise ProjectError(f"{where}: the address should end with {' or '.join(SUFFIXES)}")
    path = staging / f"{name}.fetched{suffix}"
    task = progress.add_task(name, total=None)
    bar = Callback(hooks={"bar": lambda size, value, **_: progress.update(task, total=size, completed=value)})
    options = {"client_kwargs": {"timeout": WAIT}} if address.startswith(("http://", "https://")) else {}
    with _reached(where, secrets):
        system, remote = fsspec.url_to_fs(address, **options)
        system.get_file(remote, str(path), callback=bar)
    return path


def _query(name: str, source: Query, target: Path) -> None:
    """Stream a query's rows to Parquet in chunks, then join the chunks under the types that fit all of them."""
    url, secrets = _expanded(name, source.database)
    where = f"source '{name}' ({masked(source.database)})"
    parts: list[Path] = []
    with _reached(where, secrets):
        _refuse_no_file(sa.make_url(url), where)
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            streamed = connection.execution_options(stream_results=True, no_parameters=True)
            answer = streamed.exec_driver_sql(source.sql)
            names = list(answer.keys())
            if len(set(names)) < len(names):
                twice = next(column for column in names if names.count(column) > 1)
                raise ProjectError(f"{where}: the query returns two columns named '{twice}'; rename one with AS")
            for rows in answer.partitions(CHUNK):
                parts.append(target.with_suffix(f".{len(parts)}.part"))
                pq.write_table(_table(where, names, rows), parts[-1])
    if not parts:
        raise ProjectError(f"{where}: the query returns no row")
    _join(where, parts, target)


@contextmanager
def _reached(where: str, secrets: set[str]) -> Iterator[None]:
    """Turn what a driver or a file system raises into a sentence that holds no secret."""
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:  # every driver and every file system has its own classes
        raise ProjectError(f"{where}: {_reason(error, secrets)}") from None


def _reason(error: Exception, secrets: set[str]) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = first_line(getattr(error, "orig", None) or error) if str(error) else type(error).__name__
    for secret in sorted(secrets, key=len, reverse=True):
        said = said.replace(secret, "***")
    if isinstance(error, ImportError):
        return f"{said}; add what is missing with `uv add --group validate <its name>`"
    if isinstance(error, sa.exc.ArgumentError) and not isinstance(error, sa.exc.NoSuchModuleError):
        return "the address should look like postgresql+psycopg://user:${PASSWORD}@host/name"
    if isinstance(error, sa.exc.ResourceClosedError):
        return "the query returns no rows; it should be a SELECT"
    status = getattr(error, "status", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or kinds & REFUSED:
        return f"access is refused, check the credentials ({said})"
    if kinds & UNREACHABLE:
        return f"the host cannot be reached ({said})"
    return "nothing is at this address" if "FileNotFoundError" in kinds else said


def _refuse_no_file(url: sa.URL, where: str) -> None:
    # SQLite would make an empty database
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise ProjectError(f"{where}: the database {url.database} is not found")


def _table(where: str, names: list[str], rows: Sequence[Sequence[object]]) -> pa.Table:
    arrays = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            reason = f"column '{name}' mixes kinds ({first_line(error)}); CAST it in the query"
            raise ProjectError(f"{where}: {reason}") from None
    return pa.table(arrays, names)


def _join(where: str, parts: list[Path], target: Path) -> None:
    try:
        schema = pa.unify_schemas([pq.read_schema(part) for part in parts], promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise ProjectError(f"{where}: a column changes its kind ({first_line(error)}); CAST it in the query") from None
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).cast(schema))


def _expanded(name: str, text: str) -> tuple[str, set[str]]:
    """Replace each ${NAME} by the environment variable; return the result and what must never be shown."""
    secrets = set(re.findall(r"://[^:/]*:([^@]+)@", text))
    for variable in re.findall(r"\$\{(\w+)\}", text):
        if variable not in os.environ:
            raise ProjectError(f"config/data.yaml, source.{name}: the environment variable {variable} is not set")
        secrets.add(os.environ[variable])
        text = text.replace(f"${{{variable}}}", os.environ[variable])
    return text, {form for secret in secrets if secret for form in (secret, unquote(secret))}


def _asked(name: str, collected: Path, data: Data) -> str:
    source = data.source[name]
    held = {column: data.columns[column] for column in pq.read_schema(collected).names if column in data.columns}
    read_as = {column: [declared.type, declared.format] for column, declared in held.items()}
    where = source if isinstance(source, str) else [source.database, source.sql]
    return hashlib.sha256(json.dumps([where, asdict(data.csv), read_as]).encode()).hexdigest()
