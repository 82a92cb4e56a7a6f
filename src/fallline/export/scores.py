"""A model as operators: features in, scores, and what the scores mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.export.graph import Graph
from fallline.problems import LinearModel
from fallline.problems.losses import LOGISTIC, POISSON, SOFTMAX
from fallline.problems.network import NetworkModel
from fallline.tables.target import Target

Weights = Mapping[str, np.ndarray]


def scores(graph: Graph, model: LinearModel | NetworkModel, weights: Weights, rows: str) -> str:
    """float64 [rows] or [rows, outputs], computed as the model itself does: a linear one in float64, a network in float32.

    Raises:
        InvalidValue: a network of one's own code.
    """
    if isinstance(model, LinearModel):
        coef, many = np.asarray(weights["coef"], np.float64), np.ndim(weights["coef"]) > 1
        z = graph.node("MatMul", graph.cast(rows, np.float64), graph.constant(coef.reshape(len(coef), -1)))
        if model.intercept:
            z = graph.node("Add", z, graph.constant(np.asarray(weights["intercept"], np.float64).reshape(1, -1)))
    else:
        z, many = graph.cast(_perceptron(graph, model, weights, graph.cast(rows, np.float32)), np.float64), bool(model._shape)
    return z if many else graph.node("Reshape", z, graph.constant(np.array([-1])))


def _perceptron(graph: Graph, model: NetworkModel, weights: Weights, rows: str) -> str:
    if model.spec.kind != "mlp":
        raise InvalidValue(f"the run cannot be exported: its model is {model.spec}, code of your own; use torch.onnx.export(run.model.module, ...)")
    layers = sorted({name.partition(".")[0] for name in weights}, key=int)
    for layer in layers:
        rows = graph.node("Gemm", rows, graph.constant(weights[f"{layer}.weight"]), graph.constant(weights[f"{layer}.bias"]), transB=1)
        if layer != layers[-1]:
            rows = graph.node("Relu", rows)
    return rows


def meaning(graph: Graph, model: LinearModel | NetworkModel, z: str, target: Target | None) -> None:
    """The outputs `prediction`, in the user's terms, and `probabilities` where the loss has them."""
    if model.classes is None:
        graph.output("prediction", _number(graph, model, z, target), np.float64)
        return
    labels = _labels(model.classes)
    many = model.outputs > 1 or model.loss.code == SOFTMAX
    chosen = graph.node("ArgMax", z, axis=1, keepdims=0) if many else graph.cast(graph.node("Greater", z, graph.constant(0.0)), np.int64)
    graph.output("prediction", graph.node("Gather", graph.constant(labels), chosen), object if labels.dtype.kind == "U" else labels.dtype)
    if model.loss.has_probabilities:
        graph.output("probabilities", _probabilities(graph, model, z, many), np.float64, len(labels))


def _number(graph: Graph, model: Any, z: str, target: Target | None) -> str:
    if model.outputs > 1:
        raise InvalidValue(f"the run cannot be exported: it predicts {model.outputs} numbers for each row, and one is expected")
    if model.loss.code == POISSON:
        z = graph.node("Exp", z)
    if target is not None:
        z = graph.node("Add", graph.node("Mul", z, graph.constant(float(target.scale))), graph.constant(float(target.mean)))
        if target.log:
            z = graph.node("Sub", graph.node("Exp", z), graph.constant(1.0))
    return z


def _probabilities(graph: Graph, model: Any, z: str, many: bool) -> str:
    """As `LinearModel.probabilities`; of several classes each against the rest, shares of the sum."""
    if model.loss.code == SOFTMAX:
        return graph.node("Softmax", z, axis=1)
    if not many:
        column = graph.node("Reshape", z, graph.constant(np.array([-1, 1])))
        return graph.node("Concat", _likely(graph, model, graph.node("Neg", column)), _likely(graph, model, column), axis=1)
    each = _likely(graph, model, z)
    total = graph.node("ReduceSum", each, graph.constant(np.array([1])), keepdims=1)
    some = graph.node("Greater", total, graph.constant(0.0))
    return graph.node("Div", graph.node("Where", some, each, graph.constant(1.0)), graph.node("Where", some, total, graph.constant(float(model.outputs))))


def _likely(graph: Graph, model: Any, z: str) -> str:
    """The probability of one class by its score."""
    if model.loss.code == LOGISTIC:
        return graph.node("Sigmoid", z)
    held = graph.node("Min", graph.node("Max", z, graph.constant(-1.0)), graph.constant(1.0))
    return graph.node("Mul", graph.node("Add", held, graph.constant(1.0)), graph.constant(0.5))


def _labels(classes: np.ndarray) -> np.ndarray:
    """Labels as ONNX has them: texts, whole numbers, float64, truth values; others as their texts."""
    kind = classes.dtype.kind
    if kind in "US":
        return classes.astype(str)
    return classes.astype(np.int64) if kind in "iu" else classes if kind == "b" else classes.astype(np.float64) if kind == "f" else classes.astype(str)
