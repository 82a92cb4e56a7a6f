"""One row at a time from outside: the same kernels, with everything prepared once.

`Online` is for rows that arrive one by one. The law, the losses and the guard are those of the linear engine; what is
saved is the preparation, so that a call costs microseconds.
"""

from __future__ import annotations

from ctypes import ArgumentError
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.engines.linear.labels import Labels
from fallline.engines.linear.named import Named, named
from fallline.engines.linear.one_row import OneRow
from fallline.engines.linear.safe import SafeOnline, safe_online
from fallline.engines.linear.scalar import SOFTMAX
from fallline.errors import Diverged, InvalidValue
from fallline.lengths import Clock
from fallline.rows import INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fallline.rules import Rule

_HORIZON = 1 << 12
"""Rows of a schedule written at a time; a stream has no end, so its plan has no total."""


class Online:
    """A linear model that learns from one row at a time.

    Law: `rows.update` with the rule's row of each step, batch size 1. Made by `online`.

    Attributes:
        step: rows learnt so far.
        coef: (features,) or (features, outputs), float64 or float32.
        intercept: () or (outputs,).
        classes: the labels, where `classes=` was given.
    """

    def __init__(self, loss, features: Named, outputs: int, rule: Rule, dtype: np.dtype, classes: Sequence[Any] | None = None):
        from fallline.rules import Group

        self.step, self._rule, self._loss, self._features = 0, rule, loss, features
        self._labels = Labels(loss, outputs, classes)
        outputs = self._labels.outputs
        groups = (Group(), Group(weight_decay=0, l1=0))
        self._rows = lambda a, b: rule.rows(Clock(2**62), groups, a, b)
        first = self._rows(0, _HORIZON)
        needs = first.registers
        self._w = np.zeros((outputs, features.count), dtype)
        start = rule.start()
        self._v = np.zeros_like(self._w) if needs.v else None
        self._s = np.full_like(self._w, start.s) if needs.s else None
        self._a = np.zeros_like(self._w) if needs.a else None
        self._l1 = 1.0 if needs.threshold else None
        self._s0 = start.s
        self._b = np.zeros((4, outputs), dtype)
        self._b[2] = start.s
        self._take(first, 0)

    def _take(self, rows, begin: int) -> None:
        self._row = np.ascontiguousarray(rows.constants)
        self._names = np.array([INDEX[n] for n in rows.names], np.int64)
        self._varying, self._begin = np.ascontiguousarray(rows.varying), begin
        self._furnish()

    def _furnish(self) -> None:
        """Room for one row, and where everything lies."""
        targets = 1 if self._loss.classifies else len(self._w)
        self._room = room = OneRow(self._loss, targets, self._row, self._names, self._w, self._v, self._s, self._a, self._l1, self._b, True)
        self._x, self._one, self._address, self._width = room.x, room.call, room.address, len(room.x)
        alone = len(self._w) == 1 and self._loss.code == SOFTMAX
        self._known = self._labels.places if targets == 1 and len(self._w) and not alone else {}

    def _resize(self, outputs: int) -> None:
        """Room for classes that have appeared: their registers are as at the start. Or for fewer again."""
        more = max(outputs - len(self._w), 0)
        for name, start in (("_w", 0.0), ("_v", 0.0), ("_s", self._s0), ("_a", 0.0)):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, np.vstack([held[:outputs], np.full((more, held.shape[1]), start, held.dtype)]))
        new = np.zeros((4, more), self._b.dtype)
        new[2] = self._s0
        self._b = np.hstack([self._b[:, :outputs], new])
        self._furnish()

    @property
    def classes(self) -> list[Any] | None:
        return self._labels.classes

    @property
    def coef(self) -> np.ndarray:
        return self._w[0] if len(self._w) == 1 and self._loss.code != SOFTMAX else self._w.T

    @property
    def intercept(self) -> np.ndarray:
        return self._b[0, 0] if len(self._w) == 1 and self._loss.code != SOFTMAX else self._b[0]

    def score(self, x) -> float | np.ndarray:
        """The model's score of one row: x.coef + intercept.

        Args:
            x: (features,) numbers, or a dict of them by name.
        """
        x = self._features.row(x, self.step) if type(x) is dict else x
        z = self._w @ np.asarray(x, self._w.dtype) + self._b[0]
        return z if len(z) > 1 else z[0]

    def learn(self, x, y) -> float:
        """Learn from one row; returns its loss before the update.

        Args:
            x: (features,) numbers, or a dict of them by name.
            y: the label: one of `classes` or a new one; where none were given, 0 or 1 (logistic, hinge), a class index (softmax),
                or a number.

        Raises:
            Diverged: the loss or the gradient was not finite; nothing was applied.
            InvalidValue: a row of another length, or a label that is none.

        >>> from fallline import SGD
        >>> model = online("logistic", features=2, optimizer=SGD(lr=0.5))
        >>> round(model.learn([1.0, 0.0], 1), 4), round(model.learn([1.0, 0.0], 1), 4)
        (0.6931, 0.4741)
        """
        if type(x) is dict:
            x = self._features.row(x, self.step)
        if len(self._names):
            if self.step - self._begin == len(self._varying):
                self._take(self._rows(self.step, self.step + _HORIZON), self.step)
            self._room.varies(self._varying[self.step - self._begin])
        try:  # all that is usual, in one call of compiled code; what is odd is told below
            if len(x) == self._width:
                known = self._known
                self._x[:] = x
                loss = self._one(self._address, y if known is None else known[y])
                if loss == loss:
                    self.step += 1
                    return loss
        except (KeyError, ValueError, TypeError, ArgumentError):
            pass
        return self._learn(x, y)

    def _learn(self, x, y) -> float:
        before, index = self._labels.outputs, self._labels.index(y, self.step)
        if self._labels.outputs != len(self._w):
            self._resize(self._labels.outputs)
        room = self._room
        if len(self._names):
            room.varies(self._varying[self.step - self._begin])
        try:
            if len(x) != self._width:  # one number would be spread over all features
                raise ValueError
            room.x[:], room.y[:] = x, index
        except (ValueError, TypeError):
            self._forget(before)
            raise InvalidValue(f"row {self.step}: expected {self._width} numbers and one target, got x of shape {np.shape(x)} and y={y!r}") from None
        if len(self._w) == 1 and self._loss.code == SOFTMAX:  # of one class there is nothing to learn: every register stays as it was
            loss = 0.0 if np.isfinite(room.x).all() else np.nan
        else:
            loss = self._one(self._address, room.y[0])
        if loss != loss:
            self._forget(before)
            raise self._broken(room.x)
        self.step += 1
        return loss

    def _broken(self, x: np.ndarray) -> Diverged:
        message = f"Diverged: row {self.step} has a loss or gradient that is not finite; check its values (largest {np.abs(x).max():g}) or lower lr"
        return Diverged(message, step=self.step, rows=(self.step,))

    def _forget(self, outputs: int) -> None:
        """A class that came with a row that was refused is none."""
        if outputs != self._labels.outputs:
            self._labels.forget(outputs)
            self._resize(outputs)


def online(
    loss: str, *, features: int | Sequence[str], outputs: int = 1, optimizer: Rule | None = None, dtype: str | None = None,
    classes: Sequence[Any] | None = None, sparse: int = 0, rate: float = 1.0, weight_decay: float = 0.0, l1: float = 0.0,
    parameter: float | None = None,
) -> Online | SafeOnline:  # fmt: skip
    """A linear model that learns from one row at a time: by safe steps, or by an optimizer's own law where one is given.

    Args:
        loss: a loss's name, as in `fallline.problems.losses`: "logistic", "softmax", "hinge", "least_squares", "quantile" ...
        features: numbers in a row; or their names, and rows may be dicts. By safe steps a name that a row lacks is a missing number.
        outputs: classes of a softmax, or of a hinge of three or more, where `classes` is left out; else 1.
        optimizer: any rule whose rows do not need the plan's length (a constant lr, or a schedule in steps). Left out, steps are
            safe: no learning rate, any scale of the columns; see `SafeOnline`.
        dtype: "float32" (left out) or "float64" of an optimizer's law; safe steps are made in float64.
        classes: labels of any type, perhaps none yet: those that appear later are added, with weights 0.
        sparse: how many sparse features a row may have beside its numbers (safe steps only).
        rate: multiplies the safe rate.
        weight_decay, l1: the penalty weight_decay/2 ||w||^2 + l1 ||w||_1 of safe steps, on the weights of the standardised columns; an
            optimizer has its own.
        parameter: the Huber loss's delta, an insensitive loss's epsilon, a quantile's level; left out, as in `fallline.problems.losses`.

    Raises:
        InvalidValue: a softmax of fewer than two outputs, or arguments that do not go together.
        UnknownName: a loss that does not exist.

    >>> model = online("softmax", features=1, classes=[])
    >>> for x, label in (([1.0], "low"), ([9.0], "high"), ([5.0], "middle")):
    ...     loss = model.learn(x, label)
    >>> model.classes
    ['low', 'high', 'middle']
    """
    from fallline.problems.losses import loss_by_name

    which = loss_by_name(loss, parameter)
    for name, value, least in (("sparse", sparse, 0), ("outputs", outputs, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InvalidValue(f"online({name}={value!r}): expected a whole number of at least {least}")
    columns = named(features, 0 if sparse else 1, np.nan if optimizer is None else None)
    if optimizer is None:
        if dtype not in (None, "float64"):
            raise InvalidValue(f"online(dtype={dtype!r}): safe steps are made in float64; give optimizer= for {dtype}")
        return safe_online(which, columns, outputs, sparse, classes, rate=rate, weight_decay=weight_decay, l1=l1)
    if sparse or rate != 1 or weight_decay or l1:
        raise InvalidValue("online(sparse=, rate=, weight_decay=, l1=): for safe steps only; leave optimizer= out, or give the optimizer its penalty")
    return Online(which, columns, outputs, optimizer, np.dtype(dtype or "float32"), classes)
