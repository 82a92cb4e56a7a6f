"""The target column: classification or regression, how its cells become training targets, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fallline.errors import InvalidValue, TableError
from fallline.tables.cells import Cells

Task = Literal["classification", "regression"]
CLASSES = 20
"""Whole numbers with at most this many distinct values are taken for classes."""


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        name: the column.
        task: classification or regression.
        why: how that was decided.
        classes: the labels, sorted; empty for a regression.
        log: whether log(1 + y) is learnt in place of y.
        mean, scale: a regression learns (y - mean)/scale.
    """

    name: str
    task: Task
    why: str
    classes: tuple[Any, ...] = ()
    log: bool = False
    mean: float = 0.0
    scale: float = 1.0

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Labels as they are; numbers standardised, after the log where asked for."""
        if self.task == "classification":
            return np.array(values.tolist())
        y = values.astype(np.float64)
        return ((np.log1p(y) if self.log else y) - self.mean) / self.scale

    def decode(self, prediction: np.ndarray) -> np.ndarray:
        """Predictions in the user's terms."""
        if self.task == "classification":
            return prediction
        y = np.asarray(prediction, np.float64) * self.scale + self.mean
        return np.expm1(y) if self.log else y

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "task": self.task, "why": self.why, "classes": list(self.classes), "log": self.log,
            "mean": self.mean, "scale": self.scale,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Target:
        return cls(**{**data, "classes": tuple(data["classes"])})


def infer(column: Cells, task: Task | None, log: bool, train: np.ndarray) -> Target:
    """What kind of target a column is; its numbers' mean and scale are those of the training rows.

    Raises:
        InvalidValue: a task that does not exist, or a log of values below 0.
        TableError: one class only, or nothing but missing values.
    """
    if task not in (None, "classification", "regression"):
        raise InvalidValue(f"task={task!r}: expected 'classification' or 'regression'")
    present = column.values[~column.missing]
    if len(present) == 0:
        raise TableError(f"the target {column.name!r} is missing in every row")
    why = "given"
    if task is None:
        task, why = _guess(column, present)
    if task == "classification":
        found = {_label(column, v) for v in present}
        if len(found) < 2:
            raise TableError(f"the target {column.name!r} holds one class only ({present[0]!r}): nothing can be learnt")
        classes = tuple(sorted(found, key=lambda c: (isinstance(c, str), c)))
        if log:
            raise InvalidValue("log_target is for a regression; this target is of classes")
        return Target(column.name, task, why, classes)
    if column.kind != "number":
        raise InvalidValue(f"task='regression' needs numbers; the target {column.name!r} holds {column.kind} values such as {present[0]!r}")
    if log and present.min() <= -1:
        raise InvalidValue(f"log_target: the target {column.name!r} goes down to {present.min():g}; log(1 + y) needs values above -1")
    y = column.values[train].astype(np.float64)
    y = np.log1p(y) if log else y
    scale = float(y.std())
    return Target(column.name, task, why, (), log, float(y.mean()), scale if scale > 0 else 1.0)


def _guess(column: Cells, present: np.ndarray) -> tuple[Task, str]:
    if column.kind != "number":
        return "classification", f"its values are {'dates' if column.kind == 'date' else 'names'}"
    distinct = len(np.unique(present))
    if np.all(present == np.round(present)) and distinct <= CLASSES and distinct <= max(2, len(present) // 5):
        return "classification", f"{distinct} distinct whole numbers"
    return "regression", f"numbers, {distinct} distinct"


def _label(column: Cells, value: Any) -> Any:
    """A label in the plainest type: 3.0 is 3, and a truth value is one again."""
    if column.boolean:
        return value == "true"
    return int(value) if isinstance(value, float) and value == int(value) else value


def labels(column: Cells) -> np.ndarray:
    """The cells as labels, object; None where missing."""
    return np.array([None if m else _label(column, v) for v, m in zip(column.values.tolist(), column.missing, strict=True)], dtype=object)
