"""A linear model without its data: what turns weights and rows into scores and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, UnknownName
from fallline.layout import Layout, Parameter
from fallline.problems.arrays import CHUNK_BYTES, is_sparse, matrix
from fallline.problems.losses import LOGISTIC, POISSON, SOFTMAX, Loss, sigmoid, soft

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class LinearModel:
    """score = x . coef + intercept, and what the score means.

    Args:
        loss: which loss it was trained with; it decides what a prediction is.
        features: numbers in a row.
        outputs: scores of a row (classes of a softmax; targets of a least squares; else 1).
        intercept: whether there is one.
        classes: labels by class index, or None for numbers.
        feature_names: names by column, or None.
    """

    loss: Loss
    features: int
    outputs: int = 1
    intercept: bool = True
    classes: np.ndarray | None = None
    feature_names: tuple[str, ...] | None = None

    @cached_property
    def layout(self) -> Layout:
        """coef (features,) or (features, outputs), then intercept () or (outputs,)."""
        many = () if self.outputs == 1 and self.loss.code != SOFTMAX else (self.outputs,)
        coef = Parameter("coef", (self.features, *many), "weight")
        return Layout((coef, Parameter("intercept", many, "bias")) if self.intercept else (coef,))

    def scores(self, weights: Weights, X: Any) -> np.ndarray:
        """x . coef + intercept of every row, float64 [rows] or [rows, outputs].

        Args:
            weights: coef (features,) or (features, outputs), intercept () or (outputs,).
            X: rows x features; a frame's columns are found by name.

        Raises:
            InvalidValue: the wrong number of features, or values that are not finite.
            UnknownName: a frame lacks a column.
        """
        X = self.rows(X)
        coef = np.asarray(weights["coef"], np.float64)
        intercept = np.asarray(weights["intercept"], np.float64) if self.intercept else 0.0
        if is_sparse(X):
            return X @ coef + intercept
        out = np.empty((len(X), *coef.shape[1:]))
        step = max(1, CHUNK_BYTES // (8 * X.shape[1]))
        for a in range(0, len(X), step):
            out[a : a + step] = X[a : a + step].astype(np.float64, copy=False) @ coef
        return out + intercept

    def predict(self, weights: Weights, X: Any) -> np.ndarray:
        """Labels of a classifier; numbers of a regression; the rate e^score of a Poisson model."""
        return self.predicted(self.scores(weights, X))

    def predicted(self, z: np.ndarray) -> np.ndarray:
        """What scores mean: labels, numbers or rates; see `predict`."""
        if self.classes is not None:
            return self.classes[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(np.intp)]
        if self.loss.code == POISSON:
            with np.errstate(over="ignore"):
                return np.exp(z)
        return z

    def predict_proba(self, weights: Weights, X: Any) -> np.ndarray:
        """Probability of each class, float64 [rows, classes].

        Raises:
            InvalidValue: the loss gives no probabilities (a hinge, or a regression).
        """
        return self.probabilities(self.scores(weights, X))

    def probabilities(self, z: np.ndarray) -> np.ndarray:
        """Probability of each class by scores; see `predict_proba`."""
        if not self.loss.has_probabilities:
            raise InvalidValue(f"a {self.loss.name} model has no probabilities: use predict or scores, or train with logistic or softmax")
        if self.loss.code == SOFTMAX:
            return soft(z)
        likely = sigmoid if self.loss.code == LOGISTIC else lambda z: (np.clip(z, -1, 1) + 1) / 2
        if z.ndim == 1:
            return np.stack([likely(-z), likely(z)], axis=1)
        each = likely(z)  # one against the rest: shares of the sum, and equal ones where every class is ruled out
        total = each.sum(axis=1, keepdims=True)
        return np.where(total > 0, each, 1.0) / np.where(total > 0, total, z.shape[1])

    def rows(self, X: Any) -> Any:
        """Checked rows with this model's features in their order."""
        names = self.feature_names
        if names and hasattr(X, "columns") and hasattr(X, "to_numpy"):
            own = [str(c) for c in X.columns]
            missing = [n for n in names if n not in own]
            if missing and len(own) == len(names) == len(missing):
                raise InvalidValue(f"no column of X is known: given {own[:6]}, expected {list(names[:6])}")
            if missing:
                raise UnknownName.among("column", missing[0], own)
            X = X[[X.columns[own.index(n)] for n in names]] if own != list(names) else X
        X = matrix(X).X
        if X.shape[1] != self.features:
            raise InvalidValue(f"X has {X.shape[1]} features and the model was trained with {self.features}: give the same columns")
        return X

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes this model again."""
        return {
            "loss": self.loss.name,
            "parameter": self.loss.parameter,
            "features": self.features,
            "outputs": self.outputs,
            "intercept": self.intercept,
            "classes": None if self.classes is None else _written(self.classes),
            "feature_names": None if self.feature_names is None else list(self.feature_names),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LinearModel:
        """The model of `to_json`."""
        classes, names = data["classes"], data["feature_names"]
        return cls(
            Loss(data["loss"], data["parameter"]), data["features"], data["outputs"], data["intercept"],
            None if classes is None else _read(classes), None if names is None else tuple(names),
        )  # fmt: skip


def _written(classes: np.ndarray) -> dict[str, Any]:
    """Labels as JSON has them, with their type: what is predicted after loading is what was predicted before."""
    kind = classes.dtype.kind
    if kind in "mM":
        values = classes.astype(np.int64).tolist()
    elif kind == "S":
        values = [label.decode("latin-1") for label in classes.tolist()]
    else:
        values = classes.tolist()
    return {"dtype": classes.dtype.str, "values": values}


def _read(written: Mapping[str, Any]) -> np.ndarray:
    dtype, values = np.dtype(written["dtype"]), written["values"]
    if dtype.itemsize > 64 and dtype.itemsize > 4 * max(map(len, values), default=0):  # a few bytes must not ask for gigabytes
        raise ValueError(f"labels of type {dtype} that are not so long")
    if dtype.kind in "mM":
        return np.array(values, np.int64).view(dtype)
    return np.array([v.encode("latin-1") for v in values] if dtype.kind == "S" else values, dtype)
