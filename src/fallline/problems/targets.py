"""Targets as kernels read them: numbers, or the index of a class."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.problems import arrays
from fallline.problems.losses import LOGISTIC, Loss


def target_of(loss: Loss, y: Any, rows: int, dtype: Any, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The targets as kernels read them, and the classes."""
    if loss.classifies:
        found, index = arrays.labels(y, rows, classes)
        if classes is None:
            _enough_classes(loss, found)
        return np.ascontiguousarray(index, dtype), found
    target = arrays.numbers(y, rows, "y", dtype)
    if target.ndim > 2 or (target.ndim == 2 and loss.name != "least_squares"):
        raise InvalidValue(f"y has shape {target.shape}: expected one number per row (only least_squares takes several outputs)")
    if loss.name == "poisson" and (target < 0).any():
        row = int(np.argmax(target < 0))
        raise InvalidValue(f"y is {target[row]:g} at row {row}: expected counts or rates of at least 0 for poisson")
    return target, None


def _enough_classes(loss: Loss, classes: np.ndarray) -> None:
    if len(classes) == 1:
        raise InvalidValue(f"y holds one class only ({arrays.shown(classes)}): expected at least two; nothing can be learnt")
    if len(classes) > 2 and loss.code == LOGISTIC:
        raise InvalidValue(f"y holds {len(classes)} classes ({arrays.shown(classes)}): {loss.name} takes two; use fl.softmax(X, y)")
