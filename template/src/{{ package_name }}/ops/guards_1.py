"""The guards of levels 0 and 1, each with the fault that it must catch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import yaml
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from . import scorer
from .config import Column, Data, load, parse
from .contract import Array, Columns, ProjectError
from .evaluate import contest
from .features import compute, from_records, prepare
from .guards import ODD, ROWS, Guard, Planted, Scene, UnsuitableError
from .process import missing, schema
from .release import contract, passed, planned
from .scorer import Input, Packed, Signature
from .serve import app
from .train import Examples, examples, export, refuse_dependent, unfitted


def _words(scene: Scene) -> tuple[str, Array]:
    """Return a column that is not text, written as text, with one word that is not of its type."""
    name = scene.first("column that is not text", lambda _, column: column.type != "text")
    words = np.where(missing(scene.rows[name]), "", scene.rows[name].astype(str)).astype(object)
    words[ODD] = "not known"
    return name, words


def _wrong_type(scene: Scene) -> Planted:
    name, words = _words(scene)
    return scene.put(name, words, "'not known'")


def _unreadable(scene: Scene) -> Planted:
    name, words = _words(scene)
    clean, faulty = scene.write("rows.csv", scene.rows), scene.write("odd.csv", {**scene.rows, name: words})
    told = (f"row {ODD + 1}", f"'{name}'", "'not known'")
    return Planted(lambda: scene.collect(clean), lambda: scene.collect(faulty), told)


def _out_of_range(scene: Scene) -> Planted:
    name = scene.first("column with min or max", lambda _, column: column.max is not None or column.min is not None)
    column = scene.data.columns[name]
    bound = schema.limit(column.min if column.max is None else column.max)
    step = np.timedelta64(1, "D") if column.type == "time" else max(1.0, abs(bound))  # 1e17 + 1 is 1e17
    if column.max is None:
        return scene.put(name, bound - step, "minimum")
    return scene.put(name, bound + step, "maximum")


def _forbidden_null(scene: Scene) -> Planted:
    name = scene.first("column without nulls", lambda name, column: not column.nulls or name == scene.data.target)
    return scene.put(name, None, "no value")


def _unseen(scene: Scene) -> Planted:
    name = scene.first("column with values", lambda _, column: column.values is not None)
    value = "never seen" if scene.data.columns[name].type == "text" else np.nanmax(scene.rows[name]) + 1
    return scene.put(name, value, "not one of the values")


def _duplicate_key(scene: Scene) -> Planted:
    key = scene.first("key", lambda name, _: name == scene.data.key)
    return scene.put(key, scene.rows[key][0], schema.show(scene.rows[key][0], scene.data.columns[key]))


def _infinite(scene: Scene) -> Planted:
    return scene.put(scene.first("number", lambda _, column: column.type in ("number", "integer")), np.inf, "inf")


def _future(scene: Scene) -> Planted:
    time = scene.first("time", lambda name, _: name == scene.data.time)
    return scene.put(time, np.datetime64("now", "us") + np.timedelta64(3, "D"), "future")


def _one_answer(scene: Scene) -> Planted:
    return scene.put(scene.data.target, scene.rows[scene.data.target][:1].repeat(ROWS), "nothing to learn")


def _leak(scene: Scene) -> Planted:
    kinds = {"number", "text"} if scene.model.task == "classification" else {"number"}
    name = scene.first("unlisted input", lambda _, c: c.role == "input" and c.type in kinds and not c.values)
    target = scene.rows[scene.data.target]
    if scene.data.columns[name].type == "text":
        return scene.put(name, np.array([f"it is {answer}" for answer in target], dtype=object), "role: outcome")
    low, high = schema.bounds(scene.data.columns[name])
    values = np.unique(target, return_inverse=True)[1]
    return scene.put(name, low + (high - low) * values / values.max(), "role: outcome")


def _renamed(scene: Scene) -> Planted:
    old = next(iter(scene.data.inputs))
    rows = {f"{old}_2" if name == old else name: values for name, values in scene.rows.items()}
    return scene.replace(rows, f"'{old}'", f"{old}_2")


def _file(name: str, corrupt: Callable[[bytes], bytes], *names: str) -> Callable[[Scene], Planted]:
    """Plant a fault in the bytes of a source."""

    def planted(scene: Scene) -> Planted:
        clean, faulty = scene.write(name, scene.rows), scene.folder / f"faulty_{name}"
        faulty.write_bytes(corrupt(clean.read_bytes()))
        return Planted(lambda: scene.collect(clean), lambda: scene.collect(faulty), (faulty.name, *names))

    return planted


def _doubled(content: bytes) -> bytes:
    return b"\n".join(line + b"," + line for line in content.splitlines())


def _page(line: str, told: str, scene: Scene) -> Planted:
    """Plant a fault as the last line of config/data.yaml."""
    file = scene.folder / "data.yaml"
    file.write_text(yaml.safe_dump(scene.data.model_dump(mode="json")) + line, encoding="utf-8")
    return Planted(lambda: load(Data), lambda: parse(Data, file), (told,))


def _other_features(scene: Scene) -> Planted:
    rows, signature = {name: scene.rows[name] for name in scene.data.inputs}, scene.fitted()[0].signature
    unknown = max((*signature.numbers, *signature.text), key=len) + "_2"
    other = replace(signature, numbers=(*signature.numbers, unknown))
    return Planted(lambda: prepare(rows, signature), lambda: prepare(rows, other), (f"'{unknown}'", "make train"))


def _bad_value(scene: Scene) -> Planted:
    inputs = [Input(name, column.type, nulls=column.nulls) for name, column in scene.data.inputs.items()]
    clean = {name: scene.rows[name][:1].tolist()[0] for name in scene.data.inputs}
    faulty = clean | {inputs[0].name: ["a", "list"]}
    ask = partial(from_records, inputs=inputs)
    return Planted(lambda: ask([clean]), lambda: ask([faulty]), ("row 1", f"'{inputs[0].name}'"))


def _dependent(scene: Scene) -> Planted:
    inputs = {name: scene.rows[name] for name in scene.data.inputs}

    def numbered(columns: Columns) -> Columns:
        return {**compute(columns), "position": np.arange(len(next(iter(columns.values()))), dtype=np.float64)}

    def check(features: Callable[[Columns], Columns]) -> None:
        refuse_dependent(features(inputs), inputs, features)

    return Planted(lambda: check(compute), lambda: check(numbered), ("'position'", "its own row"))


def _unnamed_yes(scene: Scene) -> Planted:
    if scene.model.task == "regression":
        raise UnsuitableError("config/model.yaml trains a regression, which has no classes")
    columns = scene.data.columns | {scene.data.target: Column(type="text", role="outcome")}
    data = scene.data.model_copy(update={"columns": columns})
    case = scene.case.model_copy(update={"cost_of_errors": {"false_alarm": 1.0, "miss": 3.0}})
    rows = scene.rows | {scene.data.target: np.where(np.arange(ROWS) % 2, "late", "on time").astype(object)}

    def learn(positive: str | None) -> None:
        examples(rows, data.model_copy(update={"positive": positive}), case, scene.model)

    return Planted(lambda: learn("late"), lambda: learn(None), ("'late' and 'on time'", "`positive:"))


def _unexportable(scene: Scene) -> Planted:
    name, (_, instead) = next(iter(export.REFUSED.items()))
    other = scene.model.model_copy(update={"estimator": name})
    return Planted(lambda: unfitted(scene.model), lambda: unfitted(other), (name, instead))


def _altered(scene: Scene) -> Planted:
    fitted, test = scene.fitted()
    native, altered = fitted.native(test.packed), onnx.load_from_string(fitted.content)
    for attribute in (attribute for node in altered.graph.node for attribute in node.attribute):
        attribute.floats[:] = [1.5 * weight + 1 for weight in attribute.floats]

    def compare(content: bytes) -> None:
        export.refuse_disparity(native, scorer.run(scorer.session(content, "the file"), test.packed), "The tree")

    return Planted(lambda: compare(fitted.content), lambda: compare(altered.SerializeToString()), ("The tree", "row"))


def _mismatch(scene: Scene) -> Planted:
    signature = scene.fitted()[0].signature
    inputs = {made.name: {"type": made.type, "unit": made.unit, "nulls": made.nulls} for made in signature.inputs}
    page = {"name": "-", "owner": "-", "decision": "-", "inputs": inputs, "output": contract.output(signature)}
    promised, other = contract.Contract.model_validate(page), replace(signature, target="another")
    refuse = partial(contract.refuse_mismatch, promised)
    return Planted(lambda: refuse(signature), lambda: refuse(other), (signature.target, "'another'"))


def _damaged(scene: Scene) -> Planted:
    whole, half = scene.folder / "model.onnx", scene.folder / "half.onnx"
    whole.write_bytes(scene.fitted()[0].content)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return Planted(lambda: scorer.Scorer(whole), lambda: scorer.Scorer(half), (half.name,))


def _no_better(scene: Scene) -> Planted:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(ROWS, 2)).astype(np.float32)
    is_class = scene.model.task == "classification"
    tree = (DecisionTreeClassifier if is_class else DecisionTreeRegressor)(max_depth=3, random_state=0)
    signature = Signature("guard", "0", scene.model.task, "y", None, (), ("a", "b"), (), (0, 1) if is_class else ())

    def compete(values: Array) -> None:
        target = (values > 0).astype(np.int64) if is_class else values.astype(np.float64)
        every = Examples({}, Packed(rows, np.empty((ROWS, 0), dtype=object)), target)
        learn, test = every.take(np.arange(ROWS) < ROWS // 2), every.take(np.arange(ROWS) >= ROWS // 2)
        outcome = contest(learn, test, signature, scene.model, tree)
        if outcome.kept.role == "constant":
            raise ProjectError(outcome.sentence)

    noise = draw.normal(size=ROWS).astype(np.float32)
    return Planted(lambda: compete(rows[:, 0]), lambda: compete(noise), ("constant answer is kept",))


def _repository(scene: Scene) -> None:
    """Make a small project under git in the scene's folder."""
    for name, text in {
        "pyproject.toml": '[project]\nname = "guard"\nversion = "0.1.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n- A change.\n",
        "uv.lock": '[[package]]\nname = "guard"\nversion = "0.1.0"\n',
    }.items():
        (scene.folder / name).write_text(text, encoding="utf-8")
    identity = ("-c", "user.name=guard", "-c", "user.email=guard@localhost", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet", "--initial-branch=main"), ("add", "--all"), ("commit", "--quiet", "-m", "start")):
        subprocess.run(("git", *identity, *words), cwd=scene.folder, check=True)
    for key in ("name", "email"):
        subprocess.run(("git", "config", f"user.{key}", "guard"), cwd=scene.folder, check=True)


def _plan(scene: Scene, version: str) -> None:
    with chdir(scene.folder):
        planned(version)


def _not_higher(scene: Scene) -> Planted:
    _repository(scene)
    return Planted(lambda: _plan(scene, "0.2.0"), lambda: _plan(scene, "0.0.1"), ("0.0.1", "not higher than 0.1.0"))


def _uncommitted(scene: Scene) -> Planted:
    _repository(scene)

    def change() -> None:
        (scene.folder / "new.txt").touch()
        _plan(scene, "0.2.0")

    return Planted(lambda: _plan(scene, "0.2.0"), change, ("new.txt",))


def _failing_check(_: Scene) -> Planted:
    good, bad = ((sys.executable, "-c", f"exit({code})") for code in (0, 1))
    return Planted(lambda: passed(good), lambda: passed(bad), ("nothing is released",))


def _too_large(_: Scene) -> Planted:
    return Planted(lambda: app.refuse_larger(app.LIMIT), lambda: app.refuse_larger(app.LIMIT + 1), ("10 MB",))


TABLE = (
    Guard("misspelt key", "config", "a key in config/ that does not exist", partial(_page, "slice: []", "'slices'?")),
    Guard("key given twice", "config", "a page with one key twice", partial(_page, "target: x", "'target' is given")),
    Guard("empty file", "collect", "a source without content", _file("rows.csv", lambda _: b"")),
    Guard("truncated Parquet", "collect", "a Parquet file cut off", _file("rows.parquet", lambda b: b[: len(b) // 2])),
    Guard("wrong delimiter", "collect", "other separators", _file("rows.csv", lambda b: b.replace(b",", b";"), "';'")),
    Guard("unreadable value", "collect", "a value in a CSV file that does not read as its type", _unreadable),
    Guard("column given twice", "collect", "two columns of one name", _file("rows.csv", _doubled, "twice")),
    Guard("renamed column", "process", "a declared column that is not there", _renamed),
    Guard("wrong type", "process", "a value that is not of its column's type", _wrong_type),
    Guard("out of range", "process", "a value below min or above max", _out_of_range),
    Guard("forbidden null", "process", "a missing value where none is allowed", _forbidden_null),
    Guard("unseen category", "process", "a value that is not listed under values", _unseen),
    Guard("duplicate key", "process", "two rows with one key", _duplicate_key),
    Guard("infinite value", "process", "a number that is not finite", _infinite),
    Guard("future date", "process", "a row from the future", _future),
    Guard("one answer", "process", "a target that is the same in every row", _one_answer),
    Guard("leaked target", "process", "an input that alone gives the target away", _leak),
    Guard("bad request value", "features", "a request's value that is not of its column's type", _bad_value),
    Guard("other features", "features", "a model that was trained on other features", _other_features),
    Guard("feature of other rows", "train", "a feature that looks at other rows or at chance", _dependent),
    Guard("unnamed yes", "train", "costs of two classes of which none is said to count as yes", _unnamed_yes),
    Guard("unexportable estimator", "train", "an estimator that the model file cannot hold", _unexportable),
    Guard("altered weights", "train", "a model file that answers otherwise than the trained model", _altered),
    Guard("no better than simple", "evaluate", "a model that gains nothing over a simpler one", _no_better),
    Guard("broken contract", "release", "a model that is not what the contract says", _mismatch),
    Guard("failing check", "release", "a release whose checks fail", _failing_check),
    Guard("uncommitted changes", "release", "a release of what git does not hold", _uncommitted),
    Guard("version not higher", "release", "a release that goes back", _not_higher),
    Guard("too large a request", "serve", "a body above the limit", _too_large),
    Guard("damaged model file", "serve", "a model file that was cut off", _damaged),
)
