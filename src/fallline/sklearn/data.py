"""What a fit is given, as the engine reads it: labels by number, weights, held-out rows, the problem."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from fallline.problems import LinearModel, LinearProblem, Loss
from fallline.problems.arrays import is_sparse, matrix
from fallline.problems.losses import POISSON

SMALL = 1 << 20
"""Whole numbers that lie within so much of each other are numbered by a table, not by sorting."""


def numbered(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, sorted, and the class index of each label: `np.unique`, a few times faster for whole numbers.

    >>> numbered(np.array([7, 3, 7]))
    (array([3, 7]), array([1, 0, 1]))
    """
    if y.dtype.kind in "iu" and len(y) > 1000:
        low, high = int(y.min()), int(y.max())
        if high - low < SMALL:
            away = (y - low).astype(np.intp, copy=False)
            there = np.bincount(away, minlength=high - low + 1) > 0
            return (np.flatnonzero(there) + low).astype(y.dtype), (np.cumsum(there) - 1)[away]
    classes, index = np.unique(y, return_inverse=True)
    return classes, index


def rows_of(X: Any) -> Any:
    """Checked rows as kernels read them: dense as they are, sparse in canonical CSR with wide row starts."""
    return matrix(X).X if is_sparse(X) else X


def with_weight(X: Any, y: np.ndarray, weight: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """The rows of a weight above 0, their targets and weights: a row of weight 0 is no row.

    Raises:
        ValueError: negative weights, or all of them zero.
    """
    weight = _check_sample_weight(weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("Sample weights must contain at least one non-zero number: every weight is zero.")
    kept = np.flatnonzero(weight)
    return (X, y, weight) if len(kept) == len(weight) else (X[kept], y[kept], weight[kept])


def with_class_weight(weight: np.ndarray | None, class_weight: Any, classes: np.ndarray, index: np.ndarray, seen: bool = True) -> np.ndarray | None:
    """Sample weights times those of the classes; None where all are 1.

    Raises:
        ValueError: no class has a weight above 0.
    """
    if class_weight is None:
        return weight
    if class_weight == "balanced":
        own = len(index) / (len(classes) * np.bincount(index, minlength=len(classes)))
    else:
        own = compute_class_weight(class_weight, classes=classes, y=classes[index] if seen else classes)
    each = np.asarray(own)[index]
    weight = each if weight is None else weight * each
    if not np.any(weight):
        raise ValueError(f"class_weight={class_weight!r} leaves every row a weight of zero: expected at least one class above 0")
    return weight


def held_apart(fraction: float, rows: int, index: np.ndarray | None, random_state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows held out; of classes, the same share of each."""
    kind = ShuffleSplit if index is None else StratifiedShuffleSplit
    split = kind(n_splits=1, test_size=fraction, random_state=random_state).split(np.zeros((rows, 1)), index)
    return next(split)


def problem_of(loss: Loss, X: Any, y: np.ndarray, weight: np.ndarray | None, outputs: int, intercept: bool) -> LinearProblem:
    """Rows as a problem; `y` as the loss takes it, [rows] or [rows, outputs]."""
    if weight is not None:
        weight = np.ascontiguousarray(weight / weight.mean(), X.dtype)
    return LinearProblem(X, np.ascontiguousarray(y, X.dtype), weight, LinearModel(loss, X.shape[1], outputs, intercept))


def best_constant(loss: Loss, y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float, float]:
    """The intercept that has the least mean loss by itself (nearly), from which a regression starts; how far that loss is
    above the least that there could be; and that least."""
    share = np.full(len(y), 1 / len(y)) if weight is None else weight / weight.sum()
    y = y.astype(np.float64)
    if loss.code == POISSON:
        best = float(np.log(max(share @ y, 1e-8)))
    elif loss.name in ("least_squares", "squared_epsilon_insensitive"):
        best = float(share @ y)
    else:
        order = np.argsort(y, kind="stable")
        level = loss.parameter if loss.name == "quantile" else 0.5
        best = float(y[order][min(np.searchsorted(np.cumsum(share[order]), level), len(y) - 1)])
    floor = 0.0
    if loss.code == POISSON:  # e^z - y z is least, and below 0, where e^z = y
        floor = float(share @ (y - y * np.log(np.where(y > 0, y, 1.0))))
    return best, float(share @ loss.value(np.full(len(y), best), y)) - floor, floor


