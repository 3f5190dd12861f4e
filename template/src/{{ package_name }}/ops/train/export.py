"""Export: preprocessing and estimator in one ONNX graph, checked against what the training library answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

from ..config import PACKAGE, first_line
from ..contract import Preprocessing, ProjectError, Transformer
from ..scorer import KEY, Packed, Signature

TOLERANCE = 1e-5
"""Largest difference of a probability between library and file; of a value, as a share of it or of the usual spread."""
TINY = float(np.finfo(np.float32).tiny)
OPSET = {"": 21, "ai.onnx.ml": 3}
NO_HISTOGRAM = "skl2onnx has no exact conversion for trees on histograms"
REFUSED = {
    "HistGradientBoostingClassifier": (NO_HISTOGRAM, "GradientBoostingClassifier"),
    "HistGradientBoostingRegressor": (NO_HISTOGRAM, "GradientBoostingRegressor"),
    "CalibratedClassifierCV": ("its nested models convert with other probabilities", "LogisticRegression"),
    "SVC": ("its probabilities are drawn at random by another fit", "LogisticRegression"),
}


def refuse_unexportable(estimator: str) -> None:
    """Raise ProjectError, with the reason and an alternative, for an estimator that is known not to convert."""
    if estimator in REFUSED:
        reason, instead = REFUSED[estimator]
        raise ProjectError(
            f"config/model.yaml, estimator: {estimator} cannot be exported to the model file ({reason}); use {instead}"
        )


def preprocessing_graph(parts: Preprocessing, learn: Packed) -> onnx.ModelProto:
    """Fit both parts of the preprocessing; join them into one graph whose output `rows` is float32 (rows, columns).

    Raises ProjectError where one of them cannot be fitted, or skl2onnx cannot convert it.
    """
    graphs = []
    if learn.numbers.shape[1]:
        graphs.append(_fitted("numbers", parts.numbers, learn.numbers, FloatTensorType))
    if learn.text.shape[1]:
        graphs.append(_fitted("text", parts.text, learn.text, StringTensorType))
    joined = graphs[0] if len(graphs) == 1 else onnx.compose.merge_models(graphs[0], graphs[1], io_map=[])
    outputs = [node.name for node in joined.graph.output]
    joined.graph.node.append(helper.make_node("Concat", outputs, ["rows"], axis=1))
    del joined.graph.output[:]
    joined.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, None]))
    return joined


def model_file(prepared: onnx.ModelProto, estimator: Any, signature: Signature) -> bytes:
    """Append the fitted estimator to the preprocessing's graph and return the file, signature inside.

    Its one output is float32: probabilities (rows, classes), or values (rows, 1). Raises ProjectError where skl2onnx
    cannot convert.
    """
    options = {id(estimator): {"zipmap": False}} if signature.task == "classification" else None
    try:
        converted = _convert(estimator, "rows_in", FloatTensorType([None, int(estimator.n_features_in_)]), options)
    except Exception as error:  # skl2onnx raises many classes
        name = type(estimator).__name__
        raise ProjectError(f"{name} cannot be exported to the model file: {first_line(error)}") from error
    answer = converted.graph.output[-1].name
    model = onnx.compose.merge_models(prepared, converted, io_map=[("rows", "rows_in")], outputs=[answer])
    model.producer_name = signature.name
    helper.set_model_props(model, {KEY: signature.dump()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def refuse_disparity(native: NDArray[Any], exported: NDArray[np.float32], name: str) -> None:
    """Raise ProjectError where the file's answers differ from the library's by more than TOLERANCE in any row."""
    expected = native.reshape(exported.shape)
    is_value = exported.ndim == 1 or exported.shape[1] == 1
    # a value near 0 is a sum of large parts, and as exact as these are
    scale = np.maximum(np.abs(expected), max(float(expected.std()), TINY)) if is_value else 1.0
    apart = (np.abs(expected - exported) / scale).reshape(len(exported), -1).max(axis=1)
    worst = float(apart.max())
    if not worst <= TOLERANCE:
        row = int(apart.argmax()) + 1
        raise ProjectError(
            f"{name}: the exported model answers test row {row} differently from the library (by {worst:.2g}, allowed "
            f"{TOLERANCE:g}); no model file was written, choose another estimator"
        )


def _fitted(name: str, part: Transformer, rows: NDArray[Any], kind: Any) -> onnx.ModelProto:
    try:
        part.fit(rows)
        return _convert(part, name, kind([None, rows.shape[1]]))
    except Exception as error:  # your code may raise anything, and skl2onnx raises many classes
        where = f"src/{PACKAGE.name}/model.py, preprocessing of {name}"
        raise ProjectError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def _convert(part: Any, name: str, kind: Any, options: Any = None) -> onnx.ModelProto:
    converted = convert_sklearn(part, initial_types=[(name, kind)], target_opset=OPSET, options=options)
    # skl2onnx declares the oldest versions that would do; graphs must declare equal ones to be joined
    del converted.opset_import[:]
    converted.opset_import.extend(helper.make_opsetid(domain, number) for domain, number in OPSET.items())
    return onnx.compose.add_prefix(converted, f"{name}_", rename_inputs=False, rename_outputs=True)
