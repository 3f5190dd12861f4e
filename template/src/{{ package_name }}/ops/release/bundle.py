"""The release bundle: a folder that never changes, named by its manifest's digest, and opened with its own code."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import traceback
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import PACKAGE, YourCodeError, first_line, parse
from ..contract import Columns, ProjectError
from ..features import Features, from_records, prepare
from ..files import scratch, sha256
from ..scorer import Packed, Scorer
from .contract import Contract
from .ledger import canonical

MANIFEST, MODEL, CONTRACT, FIXTURE, TESTS = "manifest.json", "model.onnx", "contract.yaml", "fixture.json", "tests.json"
CODE = "code"
SOURCES = f"src/{PACKAGE.name}"
TOLERANCE = 1e-5
"""How far the fixture's answers may be off: another processor may round otherwise."""
NUMBERS = count()


@dataclass(frozen=True)
class Manifest:
    """What a bundle is and what it was made from; the SHA-256 of its canonical JSON is the bundle's digest."""

    name: str
    version: int
    """Of the registry."""
    run: str
    """Id of the run record, which is run.json."""
    commit: str
    dirty: bool
    data: str
    """Version of the data."""
    lock: str
    """SHA-256 of the uv.lock that the run was made with."""
    metrics: dict[str, dict[str, float | None]]
    """Metric: `value`, `low` and `high` on the test rows."""
    prediction: str
    """Hash of the predictions on the test rows."""
    fixture: str
    """Hash of the predictions on the fixture."""
    tests: str
    """SHA-256 of tests.json."""
    files: dict[str, str]
    """SHA-256 of every other file, by its path."""

    def dump(self) -> bytes:
        """Return the content of manifest.json."""
        return canonical(asdict(self))

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Read a manifest back; raises ValueError, TypeError or LookupError for what is none."""
        page = json.loads(content)
        return cls(**{field.name: page[field.name] for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that is verified, opened and warm."""

    digest: str
    manifest: Manifest
    folder: Path
    contract: Contract
    scorer: Scorer
    features: Features

    def prepare(self, columns: Columns) -> Packed:
        """Turn typed input columns into what the model takes, with the bundle's own features.py."""
        return prepare(columns, self.scorer.signature, self.features)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a bundle's folder but the manifest, by its path."""
    names = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir()}
    return {name: sha256(path) for path, name in names.items() if name != MANIFEST}


def parsed(content: bytes, digest: str, where: str) -> Manifest:
    """Return the manifest of a bundle; raises ProjectError where its bytes are not those of the digest."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ProjectError(f"{where}/{MANIFEST}: was altered, it is not that of bundle {digest[:12]}")
    try:
        return Manifest.parse(content)
    except (ValueError, TypeError, LookupError):
        raise ProjectError(f"{where}/{MANIFEST}: another version of the template wrote it; release anew") from None


def verified(folder: Path, digest: str) -> Manifest:
    """Return a bundle's manifest after comparing every byte with its digest.

    Raises ProjectError naming the file that was altered, is missing, or does not belong to the bundle.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        found = hashes(folder)
    except OSError as error:
        told = "`make deploy` of its version makes it again where nothing of it is left; or put it back from a copy"
        raise ProjectError(f"{folder}: is no whole bundle ({error.strerror}: {error.filename}); {told}") from None
    manifest = parsed(content, digest, f"{folder}")
    for name in sorted(found.keys() | manifest.files.keys()):
        if name not in found:
            raise ProjectError(f"{folder / name}: is missing in bundle {digest[:12]}")
        if name not in manifest.files:
            raise ProjectError(f"{folder / name}: does not belong to bundle {digest[:12]}; take it out")
        if found[name] != manifest.files[name]:
            raise ProjectError(f"{folder / name}: was altered, it is not the file of bundle {digest[:12]}")
    return manifest


def transfer(read: Callable[[str], bytes], digest: str, kept: Path) -> None:
    """Copy a bundle to a folder, file by file as `read` gives them; whole or not at all, on disk when this returns.

    Raises ProjectError where the bytes are not those of the digest; where another process was quicker, its copy stays.
    """
    with scratch(kept.parent) as place:
        made = place / digest
        for name in (*parsed(read(MANIFEST), digest, f"the source of {kept}").files, MANIFEST):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            with (made / name).open("xb") as file:
                file.write(read(name))
                file.flush()
                os.fsync(file.fileno())
        verified(made, digest)
        try:
            made.rename(kept)
        except OSError:
            if not kept.is_dir():
                raise


def load(folder: Path, digest: str, threads: int = 1) -> Bundle:
    """Verify a bundle and open it: its own code, its model with some threads a request, warmed on its fixture.

    Whether it may be used at all is for the store to say. Raises ProjectError where it is not what it was, where its
    code fails, or where it answers its fixture otherwise than when it was made.
    """
    manifest = verified(folder, digest)
    contract, scorer = parse(Contract, folder / CONTRACT), Scorer(folder / MODEL, threads)
    code = {name: (folder / name).read_bytes() for name in manifest.files if name.startswith(f"{CODE}/")}
    features, names = opened_code(code, folder)
    bundle = Bundle(digest, manifest, folder, contract, scorer, features)
    weakref.finalize(bundle, _forget, names)
    _warm(bundle)
    return bundle


def answered(scorer: Scorer, features: Features | None, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Return a model's raw answers to rows of plain values, as a request carries them; see `prepare` for `features`."""
    typed = from_records(rows, scorer.signature.inputs, scorer.signature.csv)
    with np.errstate(all="ignore"):
        return scorer.run(prepare(typed, scorer.signature, features))


def modules(show: Callable[[str], bytes], known: Collection[str]) -> dict[str, bytes]:
    """Return your features.py and every module of yours that it imports, by their path in a bundle.

    `show` gives a module by its path in your package, `known` are those paths. Raises ProjectError naming the line of
    an import that a bundle cannot follow.
    """
    found: dict[str, bytes] = {}
    waiting = ["features.py"]
    while waiting:
        path = waiting.pop()
        if f"{CODE}/{path}" not in found:
            found[f"{CODE}/{path}"] = source = show(path)
            for name in imported(path, source):
                parts = name.replace(".", "/")
                waiting += [file for file in (f"{parts}.py", f"{parts}/__init__.py") if file in known]
    return found


def imported(path: str, source: bytes) -> Iterator[str]:
    """Yield the dotted names, within your package, that may be modules of yours which a module of yours imports.

    Raises ProjectError naming the line of an import that a bundle cannot follow.
    """
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        where, names = f"{SOURCES}/{path}, line {node.lineno}", [alias.name for alias in node.names]
        if isinstance(node, ast.Import) or not node.level:
            absolute = names if isinstance(node, ast.Import) else [node.module or ""]
            if any(name.partition(".")[0] == PACKAGE.name for name in absolute):
                raise ProjectError(
                    f"{where}: imports {PACKAGE.name} by its name, so a release would run today's code, not its "
                    "own; write a relative import: `from .module import name`"
                )
            continue
        start = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ())]
        parents = [start[:depth] for depth in range(1, len(start) + 1)]
        for target in (".".join(parts) for parts in (*parents, *([*start, name] for name in names))):
            if target.startswith("ops.") and not f"{target}.".startswith("ops.contract."):
                raise ProjectError(f"{where}: imports {target}; of ops your modules may import the contract alone")
            if not f"{target}.".startswith("ops."):
                yield target


def opened_code(code: Mapping[str, bytes], folder: Path) -> tuple[Features, Sequence[str]]:
    """Import a bundle's modules, by their paths such as code/features.py, as a package of its own name.

    Returns the function `features` and the modules' names: two bundles with different code live side by side, and a
    module that is imported inside of a function is there already. Raises ProjectError naming the line that fails.
    """
    package = f"_release_{next(NUMBERS)}"
    finder = _Code(package, code, folder)
    own = import_module(f"{PACKAGE.name}.ops")
    shared = {f"{package}.ops": own, f"{package}.ops.contract": import_module(f"{own.__name__}.contract")}
    sys.modules.update(shared)
    sys.meta_path.insert(0, finder)
    names = [*finder.modules, *shared]
    try:
        for name in finder.modules:
            import_module(name)
        return sys.modules[f"{package}.features"].features, names
    except Exception as error:  # your code may raise anything
        _forget(names)
        every = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in every if frame.filename.startswith(f"{folder}")]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else f"{folder / CODE}"
        raise YourCodeError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.meta_path.remove(finder)


class _Code(MetaPathFinder, Loader):
    """Imports modules from sources in memory: from the very bytes that were verified, and without a cache on disk."""

    def __init__(self, package: str, code: Mapping[str, bytes], folder: Path) -> None:
        self.folder = folder
        self.modules: dict[str, tuple[str, bytes] | None] = {package: None}
        """Name: path and source; None for a folder without an __init__.py."""
        for path, source in code.items():
            *parents, last = path.removeprefix(f"{CODE}/").removesuffix(".py").split("/")
            for depth in range(1, len(parents) + 1):
                self.modules.setdefault(".".join([package, *parents[:depth]]), None)
            parts = parents if last == "__init__" else [*parents, last]
            self.modules[".".join([package, *parts])] = (path, source)

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if name not in self.modules:
            return None
        found = self.modules[name]
        is_package = found is None or found[0].endswith("/__init__.py")
        origin = None if found is None else str(self.folder / found[0])
        spec = spec_from_loader(name, self, origin=origin, is_package=is_package)
        if spec is not None and origin is not None:
            spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        found = self.modules[module.__name__]
        if found is not None:
            code = compile(found[1], str(self.folder / found[0]), "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102


def _warm(bundle: Bundle) -> None:
    fixture = json.loads((bundle.folder / FIXTURE).read_bytes())
    raw = answered(bundle.scorer, bundle.features, fixture["dataframe_records"])
    expected = np.array(fixture["answers"], dtype=np.float32)
    if raw.shape != expected.shape or not np.allclose(raw, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        raise ProjectError(
            f"bundle {bundle.digest[:12]} answers its fixture otherwise than when it was made: "
            "its code does not suit the libraries that are installed here; run `make setup`"
        )


def _forget(names: Iterable[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)
