"""A linear model that learns from rows as they come, through `partial_fit`: its registers between calls, and the rate of each row.

    rate of row t = (spread of y) * (1 - momentum) / (bend * length + alpha)
    length = max(mean over rows so far of |x|^2 + 1, times sqrt(1 + t/1000);  weight * (|x|^2 + 1) of this row)

so that no row moves its own score much beyond where it should be, and the noise of single rows fades. `bend` is the loss's largest second
derivative (1 where there is none, the mean of y for Poisson), the spread of y its root mean square so far for the absolute
losses of numbers (quantile, insensitive), whose steps have one size, else 1. A number given as `lr` is taken as it is.
Poisson's slope e^z - y has no bound: it is clipped to y's root mean square so far.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fallline.engines.linear import LinearEngine, dense
from fallline.engines.linear.state import LinearState
from fallline.errors import Diverged
from fallline.history import State
from fallline.lengths import Clock
from fallline.plan.segment import Segment, Stream
from fallline.problems import LinearModel, LinearProblem
from fallline.problems.losses import INSENSITIVE, POISSON, QUANTILE
from fallline.rows import INDEX, Rows
from fallline.rules import SGD, resolve_groups
from fallline.schedules import curve_of
from fallline.sklearn.data import rows_of

FADING = 1000.0
"""Rows after which a rate that was not given begins to fall, by the square root."""
LR, THRESHOLD = INDEX["lr"], INDEX["threshold"]
ENDLESS = Clock(2**62)


class Rates:
    """The rate of each row, from what was seen so far; see the module's head.

    Args:
        model: with its loss.
        rule: with its momentum and penalties; lr is that of a given rate.
        found: whether the rate is found here, or the rule's own.
    """

    def __init__(self, model: LinearModel, rule: SGD, found: bool):
        loss = self.loss = model.loss
        self.rule, self.found, self.own = rule, found, float(model.intercept)
        self.rows, self.length, self.sizes, self.sum = 0, 0.0, 0.0, 0.0
        self.has_unit = loss.code in (INSENSITIVE, QUANTILE) and model.classes is None
        self.bend, self.stiff = loss.curvature or 1.0, float(rule.weight_decay) + float(rule.l1)
        self.curve = None if found or rule.schedule is None else curve_of(rule.schedule, ENDLESS, rule.lr)

    @property
    def is_constant(self) -> bool:
        """Whether every row has the same rate, which was given."""
        return not self.found and not callable(self.curve)

    def one(self, square: float, y: float) -> float:
        """The rate of a row of this squared length and target, weight 1; the row is counted."""
        t, self.rows = self.rows, self.rows + 1
        if not self.found:
            return float(self.rule.lr if self.curve is None else self.curve(t) if callable(self.curve) else self.curve)
        square += self.own
        self.length += square
        spread = 1.0
        if self.has_unit:
            self.sizes += y * y
            spread = math.sqrt(self.sizes / self.rows)
        length = max(self.length / self.rows * math.sqrt(1 + t / FADING), square, 1e-12)
        return spread * (1 - self.rule.momentum) / (self.bend * length + self.stiff)

    def many(self, squares: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """`one` for rows one after the other, float64 (rows,); of any loss."""
        n = len(squares)
        t = np.arange(self.rows, self.rows + n)
        self.rows += n
        if not self.found:
            curve = self.rule.lr if self.curve is None else self.curve
            return np.broadcast_to(np.asarray(curve(t) if callable(curve) else curve, np.float64), (n,)).copy()
        squares = squares + self.own
        lengths = self.length + np.cumsum(squares)
        self.length = float(lengths[-1])
        spread, bend = np.ones(1), np.full(1, self.bend)
        if self.has_unit:
            spread = self.sizes_at(y)
        elif self.loss.code == POISSON:
            bend = np.maximum(self.means(y), 1e-3)
        length = np.maximum(lengths / (t + 1) * np.sqrt(1 + t / FADING), squares if weight is None else squares * np.maximum(weight, 1.0))
        return spread * (1 - self.rule.momentum) / (bend * np.maximum(length, 1e-12) + self.stiff)


    def sizes_at(self, y: np.ndarray) -> np.ndarray:
        """The root mean square of y at each of these rows, which were counted already."""
        sizes = self.sizes + np.cumsum(np.square(y, dtype=np.float64))
        self.sizes = float(sizes[-1])
        return np.sqrt(sizes / np.arange(self.rows - len(y) + 1, self.rows + 1))

    def means(self, y: np.ndarray) -> np.ndarray:
        """The mean of y at each of these rows, which were counted already."""
        sums = self.sum + np.cumsum(y, dtype=np.float64)
        self.sum = float(sums[-1])
        return sums / np.arange(self.rows - len(y) + 1, self.rows + 1)


class Learner:
    """A model's registers between calls, and what a call needs.

    Args:
        model: the loss, features and outputs.
        rule: the rule; its lr stands for that of each row.
        found: whether rates are found.
        sparse: how rows are stored, and so the weights.
        dtype: of rows and weights.
        coef: [outputs, features]; intercept: [outputs]. Both are copied.
    """

    def __init__(self, model: LinearModel, rule: SGD, found: bool, sparse: bool, dtype: Any, coef: np.ndarray, intercept: np.ndarray):
        self.model, self.rule, self.sparse, self.dtype = model, rule, sparse, np.dtype(dtype)
        self.rates = Rates(model, rule, found)
        self.groups, self.group_of = resolve_groups(rule, model.layout)
        flat = np.concatenate([np.asarray(coef, np.float64).T.reshape(-1), intercept] if model.intercept else [np.asarray(coef, np.float64).T.reshape(-1)])
        self.state = LinearState.of(State.begin(flat, rule.start()), model.layout, model.outputs, not sparse, self.dtype)
        self.room: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "room": None}

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Views of the answer: coefficients [outputs, features], intercepts [outputs]."""
        which, held = (3, self.state.a) if self.rule.average is not None and self.state.a is not None else (0, self.state.w)
        return (held.T if self.sparse else held), self.state.b[which]

    def learn(self, X: Any, y: np.ndarray, weight: np.ndarray | None, size: int) -> None:
        """Learn from rows in their order, `size` of them at a time; weights multiply as they are.

        Raises:
            Diverged: a loss or gradient that is not finite; what came before it is learnt.
        """
        X, n = rows_of(X), X.shape[0]
        at = self.rates.rows
        if self.rates.is_constant:
            self.rates.rows += n
            return self._advance(X, y, weight, size, self.rule.rows(ENDLESS, self.groups, at, at - (-n // size)))
        squares = np.asarray(X.multiply(X).sum(axis=1), np.float64).reshape(-1) if self.sparse else np.einsum("ij,ij->i", X, X, dtype=np.float64)
        rates = self.rates.many(squares, y, weight)
        first = np.arange(0, n, size)
        rates = np.minimum.reduceat(rates, first) if size > 1 else rates
        most = None
        if self.model.loss.code == POISSON:
            most = np.maximum(self.rates.sizes_at(y), 1.0) * np.sqrt(squares + self.rates.own)
            most = np.maximum.reduceat(most, first) if size > 1 else most
        self._advance(X, y, weight, size, self._rows(rates, most, at))

    def _advance(self, X: Any, y: np.ndarray, weight: np.ndarray | None, size: int, rows: Rows) -> None:
        n = X.shape[0]
        target = np.ascontiguousarray(y, self.dtype)
        problem = LinearProblem(X, target, None if weight is None else np.ascontiguousarray(weight, self.dtype), self.model)
        order = np.arange(n, dtype=np.int32)
        self.state.step = 0
        self.state.reordered()
        segment = Segment(0, rows.steps, rows, self.group_of, order, size, None, None, Stream(n, size, rows.steps))
        done = LinearEngine(problem, 1).advance(self.state, segment)
        self.state = done.state
        self.state.settle()
        if done.stopped_at is not None:
            raise self._diverged(done.stopped_at * size, float(rows.column("lr")[done.stopped_at, 0]))

    def _rows(self, rates: np.ndarray, most: np.ndarray | None, at: int) -> Rows:
        """The rows of updates with these rates, their gradients clipped to `most` where it is given."""
        base = self.rule.with_lr(1.0).rows(ENDLESS, self.groups, at, at + len(rates))
        names, n = ["lr"], len(rates)
        parts = [np.repeat(rates[:, None, None], base.groups, axis=1)]
        if self.rule.l1:
            names.append("threshold")
            parts.append(rates[:, None, None] * base.constants[None, :, THRESHOLD, None])
        if most is not None:
            names.append("clip")
            parts.append(np.repeat(most[:, None, None], base.groups, axis=1))
        kept = [k for k, name in enumerate(base.names) if name not in names]
        names += [base.names[k] for k in kept]
        return Rows(base.constants, tuple(names), np.ascontiguousarray(np.concatenate([*parts, base.varying[:, :, kept]], axis=2)) if n else base.varying)

    # ------------------------------------------------------------------------------------- one dense row, quickly

    @property
    def is_quick(self) -> bool:
        """Whether `learn_one` knows this model: all but averages and Poisson, whose rows have more that changes from one to the next."""
        return not self.sparse and self.rule.average is None and self.model.loss.code != POISSON

    def learn_one(self, x: np.ndarray, y: float, square: float) -> None:
        """`learn` for one dense row of finite numbers, weight 1, with everything prepared.

        Args:
            x: [features] of the learner's type.
            square: x . x.
        """
        if self.room is None:
            self.room = _Room(self)
        room, rate = self.room, self.rates.one(square, y)
        row = room.row
        row[0, LR] = row[1, LR] = rate
        if room.l1 is not None:
            row[0, THRESHOLD] = rate * room.strength
        room.x[0] = x
        room.y[0, 0] = y
        if not dense.single(*room.before, row, *room.after):
            raise self._diverged(0, rate)

    def _diverged(self, at: int, rate: float) -> Diverged:
        return Diverged(f"Diverged at row {at} of this call: a loss or gradient that is not finite at lr {rate:.3g}; give a smaller lr, or lr='auto'", step=at)


class _Room:
    """Everything that the kernel takes for one row, made once."""

    def __init__(self, learner: Learner):
        model, state, rule = learner.model, learner.state, learner.rule
        base = rule.with_lr(1.0).rows(ENDLESS, learner.groups, 0, 1)
        of = list(learner.group_of) if model.intercept else [0, 0]
        self.row, needs = np.ascontiguousarray(base.constants[of]), base.registers
        self.strength = float(rule.l1)
        v, s, a, self.l1 = state.present(needs)
        self.x, self.y = np.zeros((1, model.features), learner.dtype), np.zeros((1, 1), learner.dtype)
        shown, target, weight = (_read_only(k) for k in (self.x, self.y, np.empty(0, learner.dtype)))
        loss = model.loss
        self.before = (shown, target, weight, np.zeros(1, np.int32), int(loss.code), float(loss.parameter))
        self.after = (np.empty(0, np.int64), np.empty((1, 2, 0)), state.w, v, s, a, self.l1, state.b, model.intercept, np.empty(1))


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view through which kernels see the room, as they see all data: the same compiled code serves."""
    view = array[...]
    view.flags.writeable = False
    return view


__all__ = ["Learner", "Rates"]
