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
        InvalidValue: a task that does not exist or does not fit, or a log of values below 0.
        TableError: one class only, as many classes as rows, or nothing but missing values.
    """
    if task not in (None, "classification", "regression"):
        raise InvalidValue(f"task={task!r}: expected 'classification' or 'regression'")
    if column.missing.all():
        raise TableError(f"the target {column.name!r} is missing in every row")
    why = "given"
    if task is None:
        task, why = _guess(column)
    if task == "classification":
        if log:
            raise InvalidValue("log_target is for a regression; this target is of classes")
        return Target(column.name, task, why, _classes(column))
    if column.kind != "number":
        raise InvalidValue(f"task='regression' needs numbers; the target {column.name!r} is of kind {column.kind}, as {example(column)}")
    return _regression(column, why, log, train)


def _classes(column: Cells) -> tuple[Any, ...]:
    _, found = numbered(column)
    many, rows = len(found), int((~column.missing).sum())
    if many < 2:
        raise TableError(f"the target {column.name!r} holds one class only ({found[0]!r}): nothing can be learnt")
    if many > max(rows // 2, 2):
        raise TableError(f"the target {column.name!r} holds {many:,} different values in {rows:,} rows, as {example(column)}: these are no classes; choose another target")
    return tuple(sorted(found, key=lambda c: (isinstance(c, str), c)))


def _regression(column: Cells, why: str, log: bool, train: np.ndarray) -> Target:
    present = column.values[~column.missing]
    if log and present.min() <= -1:
        raise InvalidValue(f"log_target: the target {column.name!r} goes down to {present.min():g}; log(1 + y) needs values above -1")
    y = column.floats(train)
    y = np.log1p(y) if log else y
    scale = float(y.std())
    if present.min() == present.max():
        raise TableError(f"the target {column.name!r} is {present[0]:g} in every row: nothing can be learnt")
    return Target(column.name, "regression", why, (), log, float(y.mean()), scale if scale > 0 else 1.0)


def _guess(column: Cells) -> tuple[Task, str]:
    if column.kind == "date":
        raise TableError(f"the target {column.name!r} holds dates, as {example(column)}: expected classes or numbers; to take them as classes: --type {column.name}=category")
    if column.kind != "number":
        return "classification", "its values are true and false" if column.boolean else "its values are names"
    present = column.values[~column.missing]
    whole = (present == np.round(present)).all()
    distinct = len(np.unique(present))
    if whole and distinct <= CLASSES and distinct <= max(2, len(present) // 5):
        return "classification", f"{distinct} distinct whole number{'s' if distinct > 1 else ''}"
    return "regression", f"numbers, {distinct} distinct"


def example(column: Cells) -> str:
    """A cell that is not missing, as a message shows it."""
    row = int(np.argmin(column.missing))
    value = column.values[row]
    value = column.levels[value] if column.kind == "category" else value.as_py() if column.kind == "text" else value
    return repr(str(value)[:60])


def numbered(column: Cells) -> tuple[np.ndarray, list[Any]]:
    """Each cell as the number of its label, int64 (-1 where missing), and the labels in their plainest type.

    3.0 is 3, and a truth value is one again.
    """
    if column.kind == "category":
        return column.values.astype(np.int64), [v == "true" for v in column.levels] if column.boolean else list(column.levels)
    there = ~column.missing
    found, index = np.unique(column.values[there], return_inverse=True)
    codes = np.full(len(there), -1)
    codes[there] = index
    return codes, [int(v) if float(v).is_integer() else v for v in found.tolist()]


def labels(column: Cells) -> np.ndarray:
    """The cells as labels, object; None where missing."""
    codes, found = numbered(column)
    return np.array([*found, None], dtype=object)[codes]
