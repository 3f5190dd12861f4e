"""The guards of level 2, each with the fault that it must catch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from . import register
from .collect import versions
from .config import Data, load, parse
from .guards import ODD, Guard, Planted, Scene
from .label import refuse_answers
from .label.answers import take_in
from .label.formats import as_csv, text, texts
from .register import events, reproduce, run
from .register.run import digest
from .register.store import Version
from .retrain import only_one
from .train import unfitted
from .train.space import Range, Tuning
from .train.tune import defaults


def _answer_among_inputs(scene: Scene) -> Planted:
    page = scene.data.model_dump(mode="json")
    page["columns"][scene.data.target]["role"] = "input"
    file = scene.folder / "data.yaml"
    file.write_text(yaml.safe_dump(page), encoding="utf-8")
    return Planted(lambda: load(Data), lambda: parse(Data, file), (f"'{scene.data.target}'", "role: outcome"))


def _answer_among_features(scene: Scene) -> Planted:
    def refuse(names: list[str]) -> None:
        refuse_answers(names, scene.data, "features.py: the feature")

    own = list(scene.data.inputs)
    return Planted(lambda: refuse(own), lambda: refuse([*own, scene.data.target]), (f"'{scene.data.target}'",))


def _answers(faulty: Sequence[str], *names: str) -> Callable[[Scene], Planted]:
    """Plant a faulty line of answers, {of} being a key that is known and {what} a label; none: an export cut off."""

    def planted(scene: Scene) -> Planted:
        key = scene.first("key", lambda name, _: name == scene.data.key)
        target, is_class = scene.data.target, scene.model.task == "classification"
        of, what = (text(scene.rows[name][ODD], scene.data.columns[name].type) for name in (key, target))
        allowed = texts(np.unique(scene.rows[target]), scene.data.columns[target].type) if is_class else None

        def take(name: str, content: str) -> None:
            with chdir(scene.folder):
                Path(name).write_text(content, encoding="utf-8")
                take_in(Path(name), "guard", scene.data, {of}, allowed)

        head, line = (key, "label"), [part.format(of=of, what=what) for part in faulty]
        wrong = as_csv([head, line]) if faulty else json.dumps([{"id": 1, "data": {key: of}}])[:-3]
        name, clean = f"faulty.{'csv' if faulty else 'json'}", as_csv([head, (of, what)])
        return Planted(lambda: take("clean.csv", clean), lambda: take(name, wrong), (name, *names))

    return planted


def _registered(scene: Scene, dirty: bool = False) -> tuple[Version, Path]:
    """Return a version as the registry has it, and its file."""
    file = scene.folder / "model.onnx"
    file.write_bytes(b"a model")
    return Version(1, "run", "key", digest(file), "data", "commit", dirty, frozenset(), "elsewhere", "1"), file


def _dirty_run(scene: Scene) -> Planted:
    clean, dirty = (_registered(scene, dirty=made)[0] for made in (False, True))
    return Planted(lambda: register.refuse_dirty(clean), lambda: register.refuse_dirty(dirty), ("version 1", "commit"))


def _other_bytes(scene: Scene) -> Planted:
    version, _ = _registered(scene)
    refuse = partial(register.refuse_other_bytes, [version])
    return Planted(lambda: refuse(version.digest), lambda: refuse("0" * 64), ("version 1", "0" * 12))


def _moved_environment(scene: Scene) -> Planted:
    with chdir(scene.folder):
        for number in (1, 2):
            events.append("promote", environment="prod", version=number)
        first, second = events.read("promote")
    refuse = partial(register.refuse_moved, "prod", now=second)
    return Planted(lambda: refuse(second), lambda: refuse(first), ("prod", "version 2", second["who"]))


def _altered_artifact(scene: Scene) -> Planted:
    version, file = _registered(scene)
    altered = scene.folder / "altered.onnx"
    altered.write_bytes(b"A model")
    refuse = partial(register.refuse_altered, version)
    return Planted(lambda: refuse(file), lambda: refuse(altered), ("altered.onnx", "version 1"))


def _second_watch(scene: Scene) -> Planted:
    number = scene.folder / "watch.pid"

    def hold() -> None:
        with only_one(number):
            pass

    def again() -> None:
        with only_one(number):
            hold()

    return Planted(hold, again, (f"process {os.getpid()}",))


def _unknown_version(_: Scene) -> Planted:
    known = "0123456789abcdef" * 2
    return Planted(lambda: versions.named("0123", {known}), lambda: versions.named("4567", {known}), ("VERSION=4567",))


def _run(scene: Scene, **facts: Any) -> run.Run:
    """Return the record of a run whose results lie in the scene's folder."""
    metrics = scene.folder / reproduce.METRICS
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text('{"predictions": "5ee5", "kept": "candidate"}', encoding="utf-8")
    given = {field.name: facts.get(field.name, "") for field in fields(run.Run)}
    return run.Run(**given | {"id": "guard", "prediction": "5ee5", "kept": "candidate"} | facts)


def _broken_record(scene: Scene) -> Planted:
    whole, half = scene.folder / "whole.json", scene.folder / "half.json"
    whole.write_text(json.dumps(asdict(_run(scene))), encoding="utf-8")
    half.write_bytes(whole.read_bytes()[:50])
    return Planted(lambda: run.read(whole), lambda: run.read(half), ("half.json",))


def _lost_run(scene: Scene) -> Planted:
    clean, dirty = (_run(scene, dirty=files, commit=run.commit()) for files in ([], ["features.py"]))
    return Planted(lambda: reproduce.refuse_lost(clean), lambda: reproduce.refuse_lost(dirty), ("guard", "features.py"))


def _other_predictions(scene: Scene) -> Planted:
    def compare(record: run.Run) -> None:
        reproduce.refuse_different(record, list(reproduce.results(record, scene.folder)))

    return Planted(lambda: compare(_run(scene)), lambda: compare(_run(scene, prediction="0dd")), ("predictions: 0dd",))


def _no_parameter(scene: Scene) -> Planted:
    estimator: Any = unfitted(scene.model)
    known, wrong = next(iter(estimator.get_params())), "not_a_parameter"
    space = {name: Tuning(space={name: Range(choices=[1, 2])}) for name in (known, wrong)}
    ask = partial(defaults, scene.model)
    return Planted(lambda: ask(space[known]), lambda: ask(space[wrong]), (f"space.{wrong}", scene.model.estimator))


def _empty_range(scene: Scene) -> Planted:
    file = scene.folder / "tuning.yaml"
    file.write_text("space: {depth: {low: 9, high: 2}}", encoding="utf-8")
    return Planted(lambda: load(Tuning), lambda: parse(Tuning, file), ("space.depth", "low (9)"))


TABLE: tuple[Guard, ...] = (
    Guard("answer among inputs", "config", "the target as an input", _answer_among_inputs),
    Guard("unknown data version", "collect", "a version of the data that is not known", _unknown_version),
    Guard("answer among features", "label", "a feature named like an outcome", _answer_among_features),
    Guard("unknown answer", "label", "an answer that the target cannot have", _answers(("{of}", "?"), "row 1", "'?'")),
    Guard("answer of no row", "label", "an answer for a key of no row", _answers(("-7", "{what}"), "row 1", "-7")),
    Guard("cut off export", "label", "an export of Label Studio that was cut off", _answers((), "cut off")),
    Guard("unknown parameter", "train", "to tune what the estimator does not have", _no_parameter),
    Guard("empty range", "train", "a range of tuning that holds no value", _empty_range),
    Guard("broken record", "register", "a record of a run that was cut off", _broken_record),
    Guard("lost run", "register", "to reproduce what no commit holds", _lost_run),
    Guard("other predictions", "register", "a reproduction with other predictions", _other_predictions),
    Guard("dirty run", "register", "a promotion of what no commit holds", _dirty_run),
    Guard("other bytes", "register", "another model under a version that exists", _other_bytes),
    Guard("moved environment", "register", "a promotion from where the environment is no more", _moved_environment),
    Guard("altered artifact", "register", "a registered model file that was altered", _altered_artifact),
    Guard("second watch", "retrain", "a second watch over the same project", _second_watch),
)
