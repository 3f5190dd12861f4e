"""The guards of level 3 in the gates and in the log: what each must refuse, a version or what is told of an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import chdir
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np

from .config import Data
from .contract import ProjectError
from .features import from_records
from .files import sha256
from .guards import ROWS, Guard, Planted, Scene
from .guards_3 import alone, released
from .log import Segments, lines, trace, truth
from .release import bundle, contract, deploy, evidence, experiment, gates, ledger, sign
from .release.policy import Policy
from .release.store import opened
from .serve import Answered, score


def _gate(ask: Callable[[Scene, bool], gates.Result], *names: str) -> Callable[[Scene], Planted]:
    """Ask a gate about what is in order and about what is not; the refusal must name rule, figure and limit."""

    def planted(scene: Scene) -> Planted:
        def judge(faulty: bool) -> None:
            with alone(scene):
                result = ask(scene, faulty)
            if not result.passed:
                raise ProjectError(f"{result.rule}: {result.sentence}")

        return Planted(partial(judge, False), partial(judge, True), names)

    return planted


def _report(scene: Scene, faulty: bool) -> gates.Result:
    report, counts = scene.folder / bundle.TESTS, {"passed": 9, "failed": 0, "skipped": 0}
    report.write_text(json.dumps({"commit": "c0ffee", "model": "5e1f", **counts}), encoding="utf-8")
    content = {field.name: "" for field in fields(bundle.Manifest)} | {"commit": "c0ffee", "tests": sha256(report)}
    if faulty:
        report.unlink()
    return gates.tests(bundle.Manifest(**content | {"files": {bundle.MODEL: "5e1f"}}), scene.folder)  # type: ignore[arg-type]


def _entries(*events: tuple[str, dict[str, Any]]) -> list[ledger.Entry]:
    content = b""
    for kind, facts in events:
        content += ledger.line(ledger.read(content), kind, "Ann <ann@localhost>", {"environment": "staging", **facts})
    return ledger.read(content)


def _signed(_: Scene, faulty: bool) -> gates.Result:
    line = {"digest": "5e1f", "signature": sign.signature("5e1e" if faulty else "5e1f")}
    return gates.signed(_entries(("bundle", line)), "5e1f")


def _order(_: Scene, faulty: bool) -> gates.Result:
    back = [("rollback", {"digest": "0dd", "previous": "5e1f"})] if faulty else []
    return gates.order(_entries(("deploy", {"digest": "5e1f", "previous": "0dd"}), *back), "5e1f", "prod")


def _approvals(_: Scene, faulty: bool) -> gates.Result:
    entries = _entries(("approve", {"digest": "5e1f"}))
    return gates.approvals(entries, "5e1f", "staging", 1, {f"A <{'ANN' if faulty else 'bob'}@localhost>"})


def _person(_: Scene, faulty: bool) -> gates.Result:
    said = [(kind, {"digest": "5e1f", "why": "it forgets the winter"}) for kind in ("refuse", "approve")]
    return gates.approvals(_entries(*said[: 1 if faulty else 2]), "5e1f", "staging", 0, ())


def _renamed(scene: Scene, faulty: bool) -> gates.Result:
    inputs = {name: {"type": column.type} for name, column in scene.data.inputs.items()}
    output = {"target": scene.data.target, "type": scene.data.columns[scene.data.target].type}
    page = {"name": "-", "owner": "-", "decision": "-", "inputs": inputs, "output": output}
    live = contract.Contract.model_validate(page)
    inputs = {f"{name}{'_2' * faulty}": column for name, column in inputs.items()}
    return gates.contract(contract.Contract.model_validate({**page, "inputs": inputs}), live)


def _trial(scene: Scene, shuffled: slice) -> tuple[evidence.Trial, Data]:
    """Return rows that champion and candidate answer well, but the candidate's answers to some of them are shuffled."""
    rng, rows = np.random.default_rng(0), np.arange(ROWS)
    target: Any = rng.normal(size=ROWS) if scene.model.task == "regression" else rng.integers(0, 2, ROWS)
    good = np.clip(0.3 + 0.4 * target + rng.normal(size=ROWS) / 8, 0.01, 0.99)
    if scene.model.task == "regression":
        good = target + rng.normal(size=ROWS) / 2
    champion = good if scene.model.task == "regression" else np.column_stack([1 - good, good])
    candidate = champion.copy()
    candidate[shuffled] = rng.permutation(candidate[shuffled])
    columns = {scene.data.target: np.where(rows < ROWS // 2, "a", "b").astype(object)}
    same, fair = np.full_like(champion, 0.5), np.ones(ROWS, dtype=bool)
    data = scene.data.model_copy(update={"slices": [scene.data.target]})
    return evidence.Trial(scene.model, columns, target, candidate, same, champion, fair, None), data


def _shuffled(scene: Scene, faulty: bool) -> gates.Result:
    return gates.quality(_trial(scene, slice(ROWS * faulty))[0], Policy())


def _worse(scene: Scene, faulty: bool) -> gates.Result:
    return gates.against(_trial(scene, slice(ROWS // 2 * faulty))[0], Policy())


def _slice(scene: Scene, faulty: bool) -> gates.Result:
    return gates.slices(*_trial(scene, slice(ROWS // 2 * faulty)), Policy())


def _parity(scene: Scene, faulty: bool) -> gates.Result:
    release = released(replace(scene, folder=scene.folder / f"{faulty}"))
    model = release.store.bundle(release.digest)
    rows = json.loads((model.folder / bundle.FIXTURE).read_bytes())["dataframe_records"]
    packed = model.prepare(from_records(rows, model.scorer.signature.inputs))
    raw = model.scorer.run(packed)
    log = evidence.Logged(release.digest, rows, packed, (raw + faulty * (1 + np.abs(raw)) / 100).astype(np.float32))
    return gates.parity(model, scene.rows, [log], [evidence.again(model, log, 1e-5)], Policy())


def _load(faulty: bool) -> evidence.Load:
    return evidence.Load(1 + 50 * faulty, 2 + 50 * faulty, 100 + 500 * faulty, 1000)


def _experiment(_: Scene) -> Planted:
    ask = partial(deploy.refuse_experiment, "prod")
    free, busy = (ledger.Pointer("5e1f", experiment=name) for name in (None, "1"))
    return Planted(partial(ask, free), partial(ask, busy), ("prod", "DECIDE=yes"))


def _full_disk(scene: Scene) -> Planted:
    (scene.folder / "full").write_text("no folder", encoding="utf-8")
    write = {name: Segments(Policy().log, scene.folder / name) for name in ("logs", "full")}
    return Planted(
        partial(write["logs"].add, b"{}\n"), partial(write["full"].add, b"{}\n"), ("full", "cannot be written")
    )


def _truth(scene: Scene) -> Planted:
    """Tell an answer that the model gives, and one that it never does."""
    name = scene.data.target
    output = contract.Output(target=name, type=scene.data.columns[name].type)
    plain = truth.answers(scene.rows[name][:1], output)[0]
    if scene.model.task == "classification":
        output = output.model_copy(update={"classes": [plain]})

    def tell(value: Any) -> None:
        with chdir(scene.folder), patch.object(truth, "_segments", lambda: Segments(Policy().log, Path("logs"))):
            truth.told([("guard-1", value)], output)

    return Planted(partial(tell, plain), partial(tell, "no such answer"), ("row 1", "'no such answer'"))


def _too_early(scene: Scene) -> Planted:
    """Ask how an experiment is, and to decide it before enough is known."""
    rule = {"experiment": "guard", "challenger": "b", "share": 0.5, "rows": 100, "level": 0.025, "metric": ""}
    with alone(scene):
        store = opened(Policy(), "releases")
        store.move("experiment", "dev", "a", None, version=1, **rule)

    def decide(settle: str) -> None:
        with alone(scene):
            nothing = experiment.Known([], [], np.zeros(0, dtype=bool), [], [])
            experiment.decide(Policy(), "dev", settle, lambda *_: nothing, lambda _: None)

    return Planted(partial(decide, ""), partial(decide, "yes"), ("0 of 100", "dev"))


def _other_answer(scene: Scene) -> Planted:
    """Compute a logged answer again, and one that was altered in the log."""
    with alone(scene):
        release = released(scene)
        model = release.store.load("dev")
    fixture = json.loads((model.folder / bundle.FIXTURE).read_bytes())
    asked, answers = fixture["dataframe_records"][:1], np.array(fixture["answers"], dtype=np.float32)[:1]
    columns = from_records(asked, model.scorer.signature.inputs)
    said = model.scorer.answers(answers).tolist()
    line = next(
        lines(Answered("guard", 0, model.digest, 1, "champion", None, asked, model.prepare(columns), answers, said))
    )
    row = msgspec.to_builtins(line) | {"inputs": msgspec.json.encode(asked[0]), "prediction": f"{said[0]}"}
    shares = row["probabilities"]
    altered = {"probabilities": shares[::-1]} if shares else {"prediction": f"{said[0] + 1 + abs(said[0])}"}
    replay = partial(trace.again, model, tolerance=1e-5)
    return Planted(partial(replay, row), partial(replay, row | altered), ("guard-1", "the answer is"))


def _altered_lineage(_: Scene) -> Planted:
    own = hashlib.sha256(b"as it was").hexdigest()
    refuse = partial(trace.refuse_other, "data/rows.csv", own, by="run guard")
    return Planted(partial(refuse, b"as it was"), partial(refuse, b"as it is"), ("data/rows.csv", "run guard"))


def _small_log(_: Scene) -> Planted:
    """Log a file whose lines take what the log keeps, and one whose lines take a byte more."""
    refuse = partial(score.refuse_more, Path("rows.csv"), most=2**20)
    return Planted(partial(refuse, 2**20), partial(refuse, 2**20 + 1), ("rows.csv", "max_mb"))


TABLE: tuple[Guard, ...] = (
    Guard("missing report", "release", "a version without its test report", _gate(_report, "tests.json", "report")),
    Guard(
        "dirty release",
        "release",
        "a version that no commit holds",
        _gate(lambda _, faulty: gates.committed("c0ffee", faulty), "committed", "c0ffee"),
    ),
    Guard("other signature", "release", "a version with another's signature", _gate(_signed, "signed", "5e1f")),
    Guard("rolled back before", "release", "what was rolled back one environment before", _gate(_order, "staging")),
    Guard("own approval", "release", "an approval by whoever made the version", _gate(_approvals, "0 of 1", "staging")),
    Guard("refused by a person", "release", "a version that a person refused", _gate(_person, "forgets the winter")),
    Guard("renamed column", "release", "a contract that breaks a client", _gate(_renamed, "_2", "0 are allowed")),
    Guard("shuffled labels", "release", "a model no better than a constant", _gate(_shuffled, "quality", "constant")),
    Guard("worse model", "release", "a model worse than the champion", _gate(_worse, "champion", "of the lead")),
    Guard("broken slice", "release", "a model that is bad for some", _gate(_slice, "slices", "(1000 rows)")),
    Guard("other answer", "release", "a logged row with another answer", _gate(_parity, "32 of 32", "answers")),
    Guard(
        "slow model",
        "release",
        "a model that answers too late",
        _gate(lambda _, faulty: gates.latency(_load(faulty), Policy().service), "median 51.0 ms", "10 ms"),
    ),
    Guard(
        "large model",
        "release",
        "a model that takes too much memory",
        _gate(lambda _, faulty: gates.memory(_load(faulty), Policy().service), "600 MB", "400 MB"),
    ),
    Guard("second move", "release", "a deploy while an experiment runs", _experiment),
    Guard("small log", "serve", "a file of which the log would not keep all rows", _small_log),
    Guard("full disk", "log", "lines that cannot be written", _full_disk),
    Guard("unknown truth", "log", "a truth that is no answer of the model", _truth),
    Guard("early decision", "log", "to decide an experiment before its horizon", _too_early),
    Guard("altered answer", "log", "a logged answer that the model does not give", _other_answer),
    Guard("altered lineage", "log", "a trace through a file that was altered", _altered_lineage),
)
