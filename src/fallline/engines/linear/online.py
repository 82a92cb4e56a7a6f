"""One row at a time from outside: the same kernels, with everything prepared once.

`Online` is for rows that arrive one by one. The law, the losses and the guard are those of the linear engine; what is
saved is the preparation, so that a call costs microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fallline.engines.linear import dense
from fallline.engines.linear.scalar import HINGE, LOGISTIC, SOFTMAX, SQUARED_HINGE
from fallline.errors import Diverged, InvalidValue
from fallline.lengths import Clock
from fallline.rows import INDEX

if TYPE_CHECKING:
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
    """

    def __init__(self, loss, features: int, outputs: int, rule: Rule, dtype: np.dtype):
        from fallline.rules import Group

        self.step, self._rule, self._loss = 0, rule, loss
        groups = (Group(), Group(weight_decay=0, l1=0))
        self._rows = lambda a, b: rule.rows(Clock(2**62), groups, a, b)
        first = self._rows(0, _HORIZON)
        needs = first.registers
        self._w = np.zeros((outputs, features), dtype)
        start = rule.start()
        self._v = np.zeros_like(self._w) if needs.v else None
        self._s = np.full_like(self._w, start.s) if needs.s else None
        self._a = np.zeros_like(self._w) if needs.a else None
        self._l1 = 1.0 if needs.threshold else None
        self._b = np.zeros((4, outputs), dtype)
        self._b[2] = start.s
        self._X = np.zeros((1, features), dtype)
        self._y = np.zeros((1, 1 if loss.code == SOFTMAX else outputs), dtype)
        self._weight, self._order, self._out = np.empty(0, dtype), np.zeros(1, np.int32), np.zeros(1)
        self._none = np.empty((1, 2, 0))
        # what a label may be: kernels index by a class without looking
        self._labels = range(outputs) if loss.code == SOFTMAX else range(2) if loss.code in (LOGISTIC, HINGE, SQUARED_HINGE) else None
        self._take(first, 0)

    def _take(self, rows, begin: int) -> None:
        self._row = np.ascontiguousarray(rows.constants)
        self._names = np.array([INDEX[n] for n in rows.names], np.int64)
        self._varying, self._begin = rows.varying, begin

    @property
    def coef(self) -> np.ndarray:
        return self._w[0] if len(self._w) == 1 else self._w.T

    @property
    def intercept(self) -> np.ndarray:
        return self._b[0, 0] if len(self._w) == 1 else self._b[0]

    def score(self, x) -> float | np.ndarray:
        """The model's score of one row: x.coef + intercept.

        Args:
            x: (features,) numbers.
        """
        z = self._w @ np.asarray(x, self._w.dtype) + self._b[0]
        return z if len(z) > 1 else z[0]

    def learn(self, x, y) -> float:
        """Learn from one row; returns its loss before the update.

        Args:
            x: (features,) numbers.
            y: the label: 0 or 1 (logistic, hinge), a class index (softmax), or a number.

        Raises:
            Diverged: the loss or the gradient was not finite; nothing was applied.
            InvalidValue: a row of another length, or a label that is none.

        >>> from fallline import SGD
        >>> model = online("logistic", features=2, optimizer=SGD(lr=0.5))
        >>> round(model.learn([1.0, 0.0], 1), 4), round(model.learn([1.0, 0.0], 1), 4)
        (0.6931, 0.4741)
        """
        t = self.step - self._begin
        varying = self._none
        if len(self._names):
            if t == len(self._varying):
                self._take(self._rows(self.step, self.step + _HORIZON), self.step)
                t = 0
            varying = self._varying[t : t + 1]
        if self._labels is not None and y not in self._labels:
            raise InvalidValue(f"y={y!r} at row {self.step}: expected a class index from 0 to {len(self._labels) - 1}")
        try:
            if len(x) != self._X.shape[1]:  # one number would be spread over all features
                raise ValueError
            self._X[0], self._y[0] = x, y
        except (ValueError, TypeError):
            raise InvalidValue(f"row {self.step}: expected {self._X.shape[1]} numbers and one target, got x of shape {np.shape(x)} and y={y!r}") from None
        done = dense.single(
            self._X, self._y, self._weight, self._order, self._loss.code, self._loss.parameter, self._row, self._names,
            varying, self._w, self._v, self._s, self._a, self._l1, self._b, True, self._out,
        )  # fmt: skip
        if not done:
            raise Diverged(
                f"Diverged: row {self.step} has a loss or gradient that is not finite; check its values (largest "
                f"{np.abs(self._X).max():g}) or lower lr",
                step=self.step,
                rows=(self.step,),
            )
        self.step += 1
        return float(self._out[0])


def online(loss: str, *, features: int, outputs: int = 1, optimizer: Rule, dtype: str = "float32") -> Online:
    """A linear model that learns from one row at a time.

    Args:
        loss: "least_squares", "logistic", "softmax", "huber", "hinge", "squared_hinge" or "poisson".
        features: numbers in a row.
        outputs: classes of a softmax; else 1.
        optimizer: any rule whose rows do not need the plan's length (a constant lr, or a schedule in steps).
        dtype: "float32" or "float64".

    Raises:
        InvalidValue: a softmax of fewer than two outputs.
        UnknownName: a loss that does not exist.
    """
    from fallline.problems.losses import loss_by_name

    which = loss_by_name(loss)
    if which.code == SOFTMAX and outputs < 2:
        raise InvalidValue(f"online('softmax', outputs={outputs}): expected at least 2 outputs, one for each class")
    return Online(which, features, outputs, optimizer, np.dtype(dtype))
