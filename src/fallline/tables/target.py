"""The target column: classification or regression, how its cells become training targets, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

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


class Facts(Protocol):
    """What decides about a target: of its cells that are not missing."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def boolean(self) -> bool:
        """Whether they are truth values."""
        ...

    @property
    def present(self) -> int:
        """How many there are."""
        ...

    @property
    def labels(self) -> list[Any]:
        """The different ones, in their plainest type."""
        ...

    @property
    def distinct(self) -> int: ...
    @property
    def whole(self) -> bool:
        """Whether all are whole numbers."""
        ...

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        ...

    @property
    def example(self) -> str:
        """One of them, as a message shows it."""
        ...

    def moments(self, log: bool) -> tuple[float, float]:
        """Mean and standard deviation of the training rows' numbers (of log(1 + y))."""
        ...


@dataclass(frozen=True)
class _OfCells:
    """The facts of a column in memory; see `Facts`."""

    column: Cells
    train: np.ndarray

    @property
    def name(self) -> str:
        return self.column.name

    @property
    def kind(self) -> str:
        return self.column.kind

    @property
    def boolean(self) -> bool:
        return self.column.boolean

    @cached_property
    def _there(self) -> np.ndarray:
        return self.column.values[~self.column.missing]

    @property
    def present(self) -> int:
        return int(np.count_nonzero(~self.column.missing))

    @cached_property
    def labels(self) -> list[Any]:
        return numbered(self.column)[1]

    @property
    def distinct(self) -> int:
        return len(np.unique(self._there))

    @property
    def whole(self) -> bool:
        return bool((self._there == np.round(self._there)).all())

    @property
    def ends(self) -> tuple[float, float]:
        return self._there.min(), self._there.max()

    @property
    def example(self) -> str:
        return example(self.column)

    def moments(self, log: bool) -> tuple[float, float]:
        y = self.column.floats(self.train)
        y = np.log1p(y) if log else y
        return float(y.mean()), float(y.std())


def infer(column: Cells, task: Task | None, log: bool, train: np.ndarray) -> Target:
    """What kind of target a column is; its numbers' mean and scale are those of the training rows; see `inferred`."""
    return inferred(_OfCells(column, train), task, log)


def inferred(facts: Facts, task: Task | None, log: bool) -> Target:
    """What kind of target it is.

    Raises:
        InvalidValue: a task that does not exist or does not fit, or a log of values below 0.
        TableError: one class only, as many classes as rows, or nothing but missing values.
    """
    if task not in (None, "classification", "regression"):
        raise InvalidValue(f"task={task!r}: expected 'classification' or 'regression'")
    if not facts.present:
        raise TableError(f"the target {facts.name!r} is missing in every row")
    why = "given"
    if task is None:
        task, why = _guess(facts)
    if task == "classification":
        if log:
            raise InvalidValue("log_target is for a regression; this target is of classes")
        return Target(facts.name, task, why, _classes(facts))
    if facts.kind != "number":
        raise InvalidValue(f"task='regression' needs numbers; the target {facts.name!r} is of kind {facts.kind}, as {facts.example}")
    return _regression(facts, why, log)


def _classes(facts: Facts) -> tuple[Any, ...]:
    found, rows = facts.labels, facts.present
    many = len(found)
    if many < 2:
        raise TableError(f"the target {facts.name!r} holds one class only ({found[0]!r}): nothing can be learnt")
    if many > max(rows // 2, 2):
        raise TableError(f"the target {facts.name!r} holds {many:,} different values in {rows:,} rows, as {facts.example}: these are no classes; choose another target")
    return tuple(sorted(found, key=lambda c: (isinstance(c, str), c)))


def _regression(facts: Facts, why: str, log: bool) -> Target:
    low, high = facts.ends
    if log and low <= -1:
        raise InvalidValue(f"log_target: the target {facts.name!r} goes down to {low:g}; log(1 + y) needs values above -1")
    if low == high:
        raise TableError(f"the target {facts.name!r} is {low:g} in every row: nothing can be learnt")
    mean, scale = facts.moments(log)
    return Target(facts.name, "regression", why, (), log, mean, scale if scale > 0 else 1.0)


def guess(column: Cells) -> tuple[Task, str]:
    """Classification or regression, told from a column's cells, and how."""
    return _guess(_OfCells(column, np.empty(0, np.int64)))


def _guess(facts: Facts) -> tuple[Task, str]:
    if facts.kind == "date":
        raise TableError(f"the target {facts.name!r} holds dates, as {facts.example}: expected classes or numbers; to take them as classes: --type {facts.name}=category")
    if facts.kind != "number":
        return "classification", "its values are true and false" if facts.boolean else "its values are names"
    distinct = facts.distinct
    if distinct <= CLASSES and facts.whole and distinct <= max(2, facts.present // 5):
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
