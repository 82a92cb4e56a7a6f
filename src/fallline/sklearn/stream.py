"""`partial_fit` at a learning rate that was given: a linear model's registers between calls, and the engine's own descent.

The rate is the number given, or where there is a schedule its value at the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.engines.linear import LinearEngine
from fallline.engines.linear.one_row import OneRow
from fallline.engines.linear.state import LinearState
from fallline.errors import Diverged
from fallline.history import State
from fallline.lengths import Clock
from fallline.plan.segment import Segment, Stream
from fallline.problems import LinearModel, LinearProblem
from fallline.rows import INDEX
from fallline.rules import SGD, resolve_groups
from fallline.schedules import curve_of
from fallline.sklearn.data import rows_of

LR, THRESHOLD = INDEX["lr"], INDEX["threshold"]
ENDLESS = Clock(2**62)


class Learner:
    """A model's registers between calls, and what a call needs.

    Args:
        model: the loss, features and outputs.
        rule: the rule.
        sparse: how rows are stored, and so the weights.
        dtype: of rows and weights.
        coef: [outputs, features]; intercept: [outputs]. Both are copied.
        updates: made before.
    """

    def __init__(self, model: LinearModel, rule: SGD, sparse: bool, dtype: Any, coef: np.ndarray, intercept: np.ndarray, updates: int = 0):
        self.model, self.rule, self.sparse, self.dtype, self.updates = model, rule, sparse, np.dtype(dtype), updates
        self.curve = rule.lr if rule.schedule is None else curve_of(rule.schedule, ENDLESS, rule.lr)  # type: ignore[arg-type]
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
        target = np.ascontiguousarray(y, self.dtype)
        problem = LinearProblem(X, target, None if weight is None else np.ascontiguousarray(weight, self.dtype), self.model)
        rows = self.rule.rows(ENDLESS, self.groups, self.updates, self.updates - (-n // size))
        self.state.step = 0
        self.state.reordered()
        order = np.arange(n, dtype=np.int32)
        segment = Segment(0, rows.steps, rows, self.group_of, order, size, None, None, Stream(n, size, rows.steps))
        done = LinearEngine(problem, 1).advance(self.state, segment)
        self.state = done.state
        self.state.settle()
        at, self.updates = self.updates, self.updates + rows.steps
        if done.stopped_at is not None:
            raise self._diverged(done.stopped_at * size, self.rate(at + done.stopped_at))

    def rate(self, update: int) -> float:
        """The learning rate of an update."""
        return float(self.curve(update) if callable(self.curve) else self.curve)  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------- one dense row, quickly

    @property
    def is_quick(self) -> bool:
        """Whether `learn_one` knows this model: all but averages, whose rows have more that changes from one to the next."""
        return not self.sparse and self.rule.average is None

    def learn_one(self, x: np.ndarray, y: float) -> bool:
        """`learn` for one dense row of finite numbers, weight 1, with everything prepared."""
        if self.room is None:
            self.room = _Room(self)
        room, rate = self.room, self.rate(self.updates)
        row = room.row
        row[0, LR] = row[1, LR] = rate
        if room.strength:
            row[0, THRESHOLD] = rate * room.strength
        room.x[:] = x
        loss = room.call(room.address, y)
        if loss != loss:
            raise self._diverged(0, rate)
        self.updates += 1
        return True

    def _diverged(self, at: int, rate: float) -> Diverged:
        return Diverged(f"Diverged at row {at} of this call: a loss or gradient that is not finite at lr {rate:.3g}; give a smaller lr, or lr='auto'", step=at)


class _Room(OneRow):
    """Everything that the kernel takes for one row, made once."""

    def __init__(self, learner: Learner):
        model, state, rule = learner.model, learner.state, learner.rule
        base = rule.with_lr(1.0).rows(ENDLESS, learner.groups, 0, 1)
        of = list(learner.group_of) if model.intercept else [0, 0]
        self.row, self.strength = np.ascontiguousarray(base.constants[of]), float(rule.l1)
        super().__init__(model.loss, 1, self.row, np.empty(0, np.int64), state.w, *state.present(base.registers), state.b, model.intercept)


__all__ = ["Learner"]
