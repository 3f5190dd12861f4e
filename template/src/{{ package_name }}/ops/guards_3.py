"""The guards of level 3, each with the fault that it must catch."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from .config import PACKAGE, UnfinishedError
from .contract import ProjectError
from .files import sha256
from .guards import Guard, Planted, Scene
from .register.run import Run
from .register.store import Version
from .release import build, bundle, contract, ledger, sign
from .release.policy import Limits, Policy
from .release.store import Store, opened
from .serve.fast import Service
from .serve.guard import KEY, OPEN, Door, wanted_key
from .serve.live import Asked, Live, Only
from .serve.metrics import Counts
from .serve.protocols import READ
from .serve.score import complete

FACTS: dict[str, Any] = dict.fromkeys((field.name for field in fields(Run)), "")
RECORD = Run(**FACTS | {"id": "guard", "data": {"version": ""}, "dirty": [], "metrics": {}})
"""Of a run that nobody made."""


@dataclass(frozen=True)
class Release:
    """A store in a folder that is thrown away, with one bundle, which dev uses."""

    store: Store
    digest: str
    made: Path
    """Where the bundle was made."""

    def put(self, digest: str, *, signed: bool) -> None:
        """Take in what `made` holds by now, and let dev use it."""
        self.store.put(self.made, digest)
        if signed:
            self.store.append("bundle", digest=digest, signature=sign.signature(digest), version=2, run="")
        self.store.move("deploy", "dev", digest, self.store.pointer("dev"), version=2, previous=self.digest, why="")


@contextmanager
def alone(scene: Scene) -> Iterator[None]:
    """Work in the scene's folder, with a key of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RELEASE_")}
    with chdir(scene.folder), patch.dict(os.environ, own, clear=True):
        sign.make_key()
        yield


def released(scene: Scene) -> Release:
    """Release a small tree."""
    fitted, _ = scene.fitted()
    inputs = {one.name: {"type": one.type, "unit": one.unit, "nulls": one.nulls} for one in fitted.signature.inputs}
    output = contract.output(fitted.signature).model_dump()
    promise = {"name": "-", "owner": "-", "decision": "-", "inputs": inputs, "output": output}
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    files = {
        **bundle.modules(lambda path: (PACKAGE / path).read_bytes(), modules),
        bundle.MODEL: fitted.content,
        bundle.CONTRACT: yaml.safe_dump(promise, sort_keys=False).encode(),
        bundle.TESTS: b"{}",
        build.SBOM: b'{"components": [{"name": "part", "version": "1"}]}',
    }
    made = scene.folder / "made"
    for name, content in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    scene.write("made/test.parquet", {name: scene.rows[name] for name in scene.data.inputs})
    digest = build.finished(made, 1, RECORD)
    store = opened(Policy(), f"{scene.folder / 'releases'}")
    store.put(made, digest)
    store.append("bundle", digest=digest, signature=sign.signature(digest), version=1, run="")
    store.move("deploy", "dev", digest, None, version=1, previous=None, why="")
    return Release(store, digest, made)


def _in_use(fault: Callable[[Release], object], *names: str) -> Callable[[Scene], Planted]:
    """Plant a fault in what is released; who then opens what dev uses must be told."""

    def planted(scene: Scene) -> Planted:
        with alone(scene):
            release = released(scene)

        def use(change: Callable[[Release], object]) -> None:
            with alone(scene):
                change(release)
                release.store.load("dev")

        return Planted(partial(use, bool), partial(use, fault), names)

    return planted


def _flip(release: Release) -> None:
    model = release.store.folder(release.digest) / bundle.MODEL
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)


def _edit(release: Release) -> None:
    _rewrite(release, lambda content: content.replace(b'"version":1', b'"version":2', 1))


def _take_out(release: Release) -> None:
    _rewrite(release, lambda content: content.partition(b"\n")[2])


def _rewrite(release: Release, change: Callable[[bytes], bytes]) -> None:
    path = Path(release.store.place.name, ledger.NAME)
    path.write_bytes(change(path.read_bytes()))


def _point_by_hand(release: Release) -> None:
    pointer = release.store.pointer("dev")
    if pointer is not None:
        release.store.point("dev", replace(pointer, challenger=release.digest, share=0.5))


def _other_key(_: Release) -> None:
    shutil.rmtree(sign.KEYS)
    sign.make_key()


def _copied_in(release: Release) -> None:
    (release.made / "card.md").write_text("another", encoding="utf-8")
    release.put(build.finished(release.made, 2, RECORD), signed=False)


def _other_answers(release: Release) -> None:
    fixture, page = release.made / bundle.FIXTURE, release.made / bundle.MANIFEST
    content = json.loads(fixture.read_bytes())
    fixture.write_text(json.dumps(content | {"answers": content["answers"][::-1]}), encoding="utf-8")
    manifest = bundle.Manifest.parse(page.read_bytes())
    page.write_bytes(replace(manifest, files=manifest.files | {bundle.FIXTURE: sha256(fixture)}).dump())
    release.put(sha256(page), signed=True)


def _moved(scene: Scene) -> Planted:
    with alone(scene):
        store = opened(Policy(), "releases")
        noted = [store.move("deploy", "prod", digest, store.pointer("prod"), version=1) for digest in ("a", "b")]

    def move(number: int) -> None:
        with alone(scene):
            store.move("deploy", "prod", "c", noted[number], version=2)

    return Planted(partial(move, 1), partial(move, 0), ("prod was moved", "nothing is changed"))


def _failing_test(scene: Scene) -> Planted:
    def judge(outcome: str) -> None:
        report = scene.folder / "report.xml"
        case = f'<testcase file="tests/test_guard.py" name="test_that_holds">{outcome}</testcase>'
        report.write_text(f"<testsuite>{case}</testsuite>", encoding="utf-8")
        build.judged(report, RECORD)

    return Planted(partial(judge, ""), partial(judge, "<failure/>"), ("test_guard.py", "test_that_holds"))


def _import_by_name(_: Scene) -> Planted:
    def follow(module: str) -> None:
        bundle.modules(lambda _: f"from {module}contract import Array\n".encode(), {"features.py"})

    return Planted(partial(follow, ".ops."), partial(follow, f"{PACKAGE.name}.ops."), ("features.py, line 1",))


def _other_record(_: Scene) -> Planted:
    version = Version(1, "guard", "", "", "", "", False, frozenset(), "", "")
    refuse, other = partial(build.refuse_other, version), replace(RECORD, id="other")
    return Planted(partial(refuse, RECORD), partial(refuse, other), ("record other", "version 1"))


def _scoring(meanwhile: Callable[[Callable[[], object], Path], object], *names: str) -> Callable[[Scene], Planted]:
    """Let something happen while a large file is scored: it is given the same scoring, and the file."""

    def planted(scene: Scene) -> Planted:
        source = scene.write("rows.parquet", {name: scene.rows[name] for name in scene.data.inputs})
        with alone(scene):
            used = released(scene).store.load("dev")
        run = partial(complete, used, source, scene.folder / "scored.parquet")
        clean = partial(run, lambda *_: None)
        return Planted(clean, partial(run, lambda *_: meanwhile(clean, source)), names)

    return planted


def _at_the_door(pass_by: Callable[[Door, int], object], *names: str) -> Callable[[Scene], Planted]:
    """Plant a request that is one too large, or that comes with another key, at a door with small limits."""
    door = Door(b"key 0", Limits(body_mb=1, rows=1))
    return lambda _: Planted(partial(pass_by, door, 0), partial(pass_by, door, 1), names)


def _larger(door: Door, more: int) -> None:
    door.refuse_larger(2**20 + more)


def _longer(door: Door, more: int) -> None:
    door.refuse_more_rows(1 + more)


def _stranger(door: Door, other: int) -> None:
    door.refuse_strangers({b"x-api-key": b"key %d" % other})


def _open_to_all(_: Scene) -> Planted:
    with_key, without = ({**os.environ, KEY: key, OPEN: ""} for key in ("secret", ""))

    def start(environment: dict[str, str]) -> None:
        with patch.dict(os.environ, environment):
            wanted_key("192.0.2.1")

    return Planted(partial(start, with_key), partial(start, without), ("192.0.2.1", KEY))


def _taken_over(scene: Scene) -> Planted:
    """Plant a bundle that is broken when a running service looks at it: the one before must go on."""
    with alone(scene):
        release = released(scene)
        live = Live(release.store, "dev", Counts(), lambda _, **facts: said.append(facts))
    said: list[dict[str, Any]] = []

    def look(change: Callable[[Release], object]) -> None:
        before = live.state.champion.digest
        with alone(scene):
            (release.made / "card.md").write_text(f"{len(said)}", encoding="utf-8")
            release.put(build.finished(release.made, 2, RECORD), signed=True)
            change(release)
            live.look()
        if "reason" in said[-1] and live.state.champion.digest == before:
            raise ProjectError(said[-1]["reason"])

    def break_it(_: Release) -> None:
        pointer = release.store.pointer("dev")
        if pointer is not None:
            (release.store.folder(pointer.champion) / bundle.MODEL).write_bytes(b"")

    return Planted(partial(look, bool), partial(look, break_it), ("model.onnx: was altered",))


def _unlogged(scene: Scene) -> Planted:
    """Plant a log that cannot be written: the caller must not get an answer that nobody will ever find."""
    with alone(scene):
        release = released(scene)
        live = Only(release.store, release.digest, Counts())
        rows = json.loads((release.made / bundle.FIXTURE).read_bytes())["dataframe_records"][:1]
    body, door = json.dumps({"instances": rows}).encode(), Door(None, Limits())

    def refuse(_: object) -> None:
        raise UnfinishedError("the disk is full")

    async def asked(record: Callable[[object], object]) -> None:
        service = Service(live, Policy(), record, print, door)
        await service.scored(Asked(live.state, body, *READ[b"application/json"], None))

    def ask(record: Callable[[object], object]) -> None:
        asyncio.run(asked(record))

    return Planted(partial(ask, bool), partial(ask, refuse), ("log cannot be written", "nothing is answered"))


TABLE: tuple[Guard, ...] = (
    Guard("import by name", "release", "features that a bundle cannot hold", _import_by_name),
    Guard("other record", "release", "a version with the record of another run", _other_record),
    Guard("failing test", "release", "a bundle whose tests fail", _failing_test),
    Guard("flipped bit", "release", "a bundle of which one bit is another", _in_use(_flip, "model.onnx: was")),
    Guard("edited ledger", "release", "a line of the ledger that was edited", _in_use(_edit, "ledger.jsonl, line 1")),
    Guard("missing line", "release", "a ledger without one of its lines", _in_use(_take_out, "ledger.jsonl, line 1")),
    Guard("pointer by hand", "release", "a pointer that is not in the ledger", _in_use(_point_by_hand, "of dev")),
    Guard("unsigned bundle", "release", "a bundle that no trusted key signed", _in_use(_other_key, "not signed")),
    Guard("bundle copied in", "release", "a bundle that was never released", _in_use(_copied_in, "not in the")),
    Guard("other answers", "release", "a bundle that answers otherwise here", _in_use(_other_answers, "fixture")),
    Guard("moved meanwhile", "release", "a move from where an environment is no more", _moved),
    Guard("changing source", "serve", "to score a file that changes", _scoring(lambda _, at: at.touch(), "changed")),
    Guard("second scoring", "serve", "two scorings at once", _scoring(lambda run, _: run(), "another `make score`")),
    Guard("too large a body", "serve", "a body above the policy's limit", _at_the_door(_larger, "more than 1 MB")),
    Guard("too many rows", "serve", "more rows than the policy allows", _at_the_door(_longer, "2 rows", "1 are")),
    Guard("wrong key", "serve", "a request with another key", _at_the_door(_stranger, "X-API-Key")),
    Guard("open to all", "serve", "a service that others reach and that asks for no key", _open_to_all),
    Guard("broken successor", "serve", "a broken bundle while another one serves", _taken_over),
    Guard("unwritable log", "serve", "an answer that cannot be logged", _unlogged),
)
