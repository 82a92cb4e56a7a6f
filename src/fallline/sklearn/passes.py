"""A linear problem descended pass by pass over its rows, with a learning rate for each pass.

`train` carries out a plan whose length is known, and looks at it from all sides; a fit that ends when a pass no longer gains,
on data that may be sixty rows, wants the engine and little else. A pass costs the kernel's time and some fifty microseconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.engines.linear import LinearEngine
from fallline.history import Advance, State
from fallline.lengths import Clock
from fallline.plan.segment import Segment, Stream
from fallline.problems import LinearProblem
from fallline.rows import Rows
from fallline.rules import SGD, resolve_groups


@dataclass
class Passes:
    """The passes over a problem's rows.

    Args:
        problem: what is descended.
        rule: the rule; its learning rate is replaced by that of each pass, unless it has a schedule.
        batches: how rows are drawn.
        seed: of the order of rows.
        length: passes in all, which a schedule is laid over.
        threads: cores for large batches.
    """

    problem: LinearProblem
    rule: SGD
    batches: Batches
    seed: int
    length: int
    threads: int | None = None

    def __post_init__(self) -> None:
        self.engine = LinearEngine(self.problem, self.threads)
        self.per = self.batches.steps_per_epoch(self.problem.rows)
        self._groups, self._group_of = resolve_groups(self.rule, self.problem.layout)
        size = self.batches.size
        self._stream = None if size is None else Stream(min(self.problem.rows, self.per * size), size, self.per)
        self._same: dict[float, Rows] = {}

    def begin(self, start: np.ndarray) -> Any:
        """The state before the first pass, from flat weights."""
        return State.begin(start, self.rule.start(), start.dtype)

    def run(self, state: Any, number: int, lr: float) -> Advance:
        """Pass `number` (from 0) at a learning rate; the state is consumed."""
        return self.engine.advance(state, self.segment(number * self.per, (number + 1) * self.per, lr))

    def segment(self, a: int, b: int, lr: float) -> Segment:
        """Updates a .. b-1 at a learning rate; `a` is the first of a pass."""
        rows, n = self._rows(a, b, lr), self.problem.rows
        if self._stream is None:
            return Segment(a, b, rows, self._group_of, None, None, None, self.batches.chunk, None, self.seed)
        orders = [self.batches.order.indices(n, self.seed, k) for k in range(a // self.per, -(-b // self.per))]
        order = orders[0] if len(orders) == 1 else np.concatenate([o[: self._stream.rows] for o in orders])
        used = int(self._stream.position(b) - self._stream.position(a))
        return Segment(a, b, rows, self._group_of, order[:used], self._stream.batch, None, self.batches.chunk, self._stream, self.seed)

    def _rows(self, a: int, b: int, lr: float) -> Rows:
        clock = Clock(self.length * self.per, self.per)
        if self.rule.average is not None or self.rule.schedule is not None:
            return self.rule.with_lr(lr).rows(clock, self._groups, a, b)
        if lr not in self._same:  # the same numbers in every update
            self._same[lr] = self.rule.with_lr(lr).rows(clock, self._groups, 0, 1)
        one = self._same[lr]
        made = Rows(one.constants, (), np.empty((b - a, one.groups, 0)))
        made.__dict__["registers"] = one.registers
        return made

    @property
    def decay(self) -> float:
        """By how much of itself, times the rate, an update lowers the rate where a fit lowers it: as the penalties would a weight."""
        return float(self.rule.weight_decay) + float(self.rule.l1)

    def penalty(self, state: Any) -> float:
        """weight_decay/2 ||w||^2 + l1 ||w||_1 of the coefficients there are."""
        square, size = self.engine.norms(state)
        return float(self.rule.weight_decay) / 2 * square + float(self.rule.l1) * size

    def weights(self, state: Any) -> tuple[np.ndarray, np.ndarray]:
        """The answer's coefficients [features, outputs] and intercepts [outputs]."""
        flat = self.engine.answer(state, self.rule.answer())
        size = self.problem.layout.parameters[0].size
        coef = flat[:size].reshape(self.problem.features, -1)
        return coef, flat[size:] if self.problem.intercept else np.zeros(coef.shape[1])


def flat(problem: LinearProblem, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Coefficients [features, outputs] and intercepts [outputs] as the problem's flat weights, in its rows' type."""
    out = np.empty(problem.layout.size, problem.X.dtype)
    out[: coef.size] = coef.reshape(-1)
    out[coef.size :] = intercept[: out.size - coef.size]
    return out


def threads_for(n_jobs: int | None) -> int | None:
    """Cores that a fit may use: one inside a worker of joblib or another process's child, else `n_jobs`, or all where it is None."""
    import multiprocessing

    from joblib.parallel import get_active_backend

    if multiprocessing.parent_process() is not None or (getattr(get_active_backend()[0], "nesting_level", 0) or 0) > 0:
        return 1
    if n_jobs is None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, n_jobs if n_jobs > 0 else cores + 1 + n_jobs)
