"""Versions of the collected data: DVC names data/raw by its content, keeps the bytes, and brings old ones back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import yaml

from ..config import UnfinishedError
from ..contract import ProjectError
from ..files import atomic
from .sources import MANIFEST, RAW

POINTER = RAW.with_suffix(".dvc")
LOCK, STAGES = Path("dvc.lock"), Path("dvc.yaml")
BUSY = Path(".dvc/tmp/rwlock")
OUTSIDE = {"__pycache__", MANIFEST}
"""What .dvcignore keeps out of versions."""
MISTAKE, FAILED = "error: ", "ERROR: "
"""How a sentence of a stage begins, and one of DVC itself."""
CACHED = re.compile(r"Stage '(.+)' is cached")
CHATTER = re.compile(
    r"$|> |Running stage|(Stage )?'.+' didn't change|Verifying data sources|(Generat|Updat)ing lock file"
    r"|Data and pipelines|To track the changes|\tgit add|To enable auto staging|\tdvc config|Use `dvc"
    r"|WARNING: Process '.+RWLock-file"  # a killed one had locked what this one needs
)


def version() -> str | None:
    """Return the version that data/raw.dvc names; None before the first one."""
    try:
        return str(yaml.safe_load(POINTER.read_text(encoding="utf-8"))["outs"][0]["md5"]).removesuffix(".dir")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        raise ProjectError(f"{POINTER}: is not as DVC writes it; bring it back with `git checkout {POINTER}`") from None


def keep() -> str:
    """Give data/raw as it is now a version, keep its bytes, and return the version."""
    dvc("add", str(RAW))
    return str(version())


def restore(wanted: str, known: set[str]) -> str:
    """Bring back the data of an earlier version, named whole or by the beginning of a known one; return it whole.

    They come from the cache, or else from the remote. Raises ProjectError for a version that is nowhere; the data then
    stay as they are.
    """
    whole = named(wanted, known)
    before = POINTER.read_bytes() if POINTER.is_file() else None
    try:
        _point_to(whole)
        _checkout()
        if digest(RAW) != f"{whole}.dir":
            raise ProjectError(f"VERSION={wanted}: the kept bytes are not those of this version any more")
    except ProjectError:
        if before is None:
            POINTER.unlink()
        else:
            with atomic(POINTER) as path:
                path.write_bytes(before)
            _checkout()
        raise
    _point_to(whole)
    return whole


def named(wanted: str, known: set[str]) -> str:
    """Return the whole name of a version; raises ProjectError for one that is unknown, or the beginning of several."""
    found = [one for one in sorted(known | {wanted}) if one.startswith(wanted) and re.fullmatch("[0-9a-f]{32}", one)]
    if len(found) != 1:
        what = f"begins {len(found)} versions ({', '.join(found)}); give more of it" if found else "is no known version"
        raise ProjectError(f"VERSION={wanted}: {what} of the data; `make runs` shows that of every run")
    return found[0]


def unchanged() -> bool:
    """Whether all that dvc.lock says of every stage of dvc.yaml still holds; DVC itself takes seconds to say so.

    Where this is not sure it answers no, and DVC decides.
    """
    try:
        stages, locked = (yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] for path in (STAGES, LOCK))
        return f"{version()}.dir" == digest(RAW) and all(_holds(stage, locked[name]) for name, stage in stages.items())
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError, ProjectError):
        return False


def repeat(say: Callable[[str], None]) -> None:
    """Let DVC run the stages whose input has changed; only for a command that lets no other one at the pipeline.

    What a kill left behind is cleared away first: DVC's locks, whose process numbers may be somebody else's by now, and
    files of its that were cut off while they were written.
    """
    BUSY.unlink(missing_ok=True)
    for path, whole in ((POINTER, _is_pointer), (LOCK, _is_lock)):
        try:
            whole(yaml.safe_load(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
            say(f"{path} is damaged and is written anew")
            path.unlink()
    if not POINTER.exists():
        keep()
    dvc("repro", say=say)


def _is_pointer(page: Any) -> None:
    page["outs"][0]["md5"].removesuffix(".dir")


def _is_lock(page: Any) -> None:
    for stage in page["stages"].values():
        for entry in (*stage["deps"], *stage["outs"]):
            (entry["path"] + entry["md5"] + stage["cmd"]).encode()


def _holds(stage: dict[str, Any], locked: dict[str, Any]) -> bool:
    named = {"deps": stage["deps"], "outs": [*stage["outs"], *stage.get("metrics", [])]}
    if stage["cmd"] != locked["cmd"] or any({e["path"] for e in locked[k]} != set(v) for k, v in named.items()):
        return False
    for entry in stage["params"]:
        for path, keys in entry.items():
            page = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            if locked["params"][path] != (page if keys is None else {key: page[key] for key in keys}):
                return False
    return all(digest(Path(entry["path"])) == entry["md5"] for kind in named for entry in locked[kind])


def digest(path: Path) -> str:
    """Return a file's or folder's name in DVC: the MD5 of the bytes, or of the list of what is inside and `.dir`."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    inside = {found.relative_to(path): found for found in path.rglob("*") if found.is_file()}
    listed = {place.as_posix(): digest(found) for place, found in inside.items() if OUTSIDE.isdisjoint(place.parts)}
    entries = [{"md5": listed[place], "relpath": place} for place in sorted(listed)]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def dvc(*words: str, say: Callable[[str], None] = lambda _: None, folder: Path = Path()) -> None:
    """Run a command of DVC; what its stages print is said line by line, DVC's own chatter is not.

    Raises ProjectError with the sentence that a stage ended with; UnfinishedError where that stage may end well later,
    and with a sentence of DVC's own.
    """
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    state = str((folder / ".dvc/tmp/site").resolve())  # else DVC would write outside of the project
    environment = {**os.environ, "PATH": paths, "PYTHONUNBUFFERED": "1", "DVC_SITE_CACHE_DIR": state}
    command, sentence, own = [sys.executable, "-m", "dvc", *words], "", ""
    with Popen(
        command, cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as process:
        for line in process.stdout or ():
            if line.startswith(FAILED):
                own = own or line
            elif own or CHATTER.match(line):
                continue
            elif sentence or line.startswith(MISTAKE):
                sentence += line
            elif cached := CACHED.match(line):
                say(f"{cached[1]}: brought back from an earlier run")
            else:
                say(line.rstrip())
    if process.returncode != 0:
        own = own.removeprefix(FAILED).strip()
        if f"exited with {UnfinishedError.code}" in own:
            raise UnfinishedError(sentence.removeprefix(MISTAKE).strip())
        if sentence or re.search(r"exited with [1-9]", own):
            raise ProjectError(sentence.removeprefix(MISTAKE).strip() or f"{own}; why stands above")
        raise UnfinishedError(f"DVC ended with: {own or process.returncode}")


def _point_to(wanted: str) -> None:
    """Write data/raw.dvc as DVC would."""
    files = [path for path in RAW.glob("*") if path.name not in OUTSIDE]
    size = sum(path.stat().st_size for path in files)
    entry = {"md5": f"{wanted}.dir", "size": size, "nfiles": len(files), "hash": "md5", "path": RAW.name}
    with atomic(POINTER) as path:
        path.write_text(yaml.safe_dump({"outs": [entry]}, sort_keys=False), encoding="utf-8")


def _checkout() -> None:
    """Put the bytes of the version that data/raw.dvc names into data/raw."""
    words = (str(POINTER), "--force")
    try:
        dvc("checkout", *words)
    except ProjectError:
        said: list[str] = []
        try:
            dvc("pull", *words, say=said.append)
        except ProjectError as error:
            reason = "the remote does not have it" if "Checkout failed" in str(error) else str(error)
            reason = "there is no remote" if any("no default remote" in line for line in said) else reason
            raise ProjectError(
                f"version {version()} of the data is not in this project's cache, and was not fetched: {reason}; see "
                "docs/using.md about remotes"
            ) from None
