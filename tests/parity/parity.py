"""Parity: one small problem, a descent with every iterate recorded, and the comparison that all parity tests use.

`assert_parity` compares; `assert_canary` shows that the comparison would notice: it moves one column of the rows by
1e-6 and demands a failure, for each column that the rule uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.engines.reference import ReferenceEngine
from fallline.history import State
from fallline.layout import Layout, Parameter
from fallline.plan import Plan
from fallline.plan.segment import Segment
from fallline.rows import COLUMNS, INDEX, Rows
from fallline.rules import Rule

STEPS = 240
TOLERANCE = 1e-12
MOVED = 1e-6


class Toy:
    """Least squares in float64 with a weight (5,) and a bias (): loss = mean (x.coef + intercept - y)^2 / 2."""

    rows = 24
    layout = Layout((Parameter("coef", (5,)), Parameter("intercept", (), "bias")))

    def __init__(self, seed: int = 0):
        r = np.random.default_rng(seed)
        self.X, self.y = r.standard_normal((self.rows, 5)), r.standard_normal(self.rows) + 1.0
        self._start = r.standard_normal(6)

    def start(self) -> np.ndarray:
        return self._start.copy()

    def gradient(self, w: np.ndarray, batch: np.ndarray | None) -> tuple[float, np.ndarray]:
        X, y = (self.X, self.y) if batch is None else (self.X[batch], self.y[batch])
        error = X @ w[:5] + w[5] - y
        return float(error @ error / 2 / len(y)), np.append(X.T @ error, error.sum()) / len(y)


@dataclass(frozen=True)
class Descent:
    """A recorded descent: the gradient point's register w after each update (T, P), the answers (T, P), the last state."""

    w: np.ndarray
    answers: np.ndarray
    state: State


def plan_of(rule: Rule, *, steps: int = STEPS, batch_size: int = 5) -> Plan:
    """Batches of 5 of 24 rows: the last one of an epoch is short."""
    return Plan(rows=Toy.rows, steps=steps, batch_size=batch_size, optimizer=rule, seed=3)


def descend(rule: Rule, problem: Any = None, *, steps: int = STEPS, change: Callable[[Rows], Rows] | None = None) -> Descent:
    """The reference engine over a whole plan, one update at a time. `change` may alter the rows."""
    problem = problem or Toy()
    engine, plan = ReferenceEngine(problem), plan_of(rule, steps=steps)
    state = State.begin(problem.start(), rule.start())
    w, answers = [], []
    for segment in segments(plan, problem.layout):
        if change is not None:
            segment = replace(segment, rows=change(segment.rows))
        step = engine.advance(state, segment)
        assert step.stopped_at is None
        state = step.state
        w.append(state.w.copy())
        answers.append(state.answer(rule.answer()))
    return Descent(np.array(w), np.array(answers), state)


def segments(plan: Plan, layout: Layout, every: int = 1) -> Iterator[Segment]:
    """The plan in pieces of `every` updates."""
    for start in range(0, plan.steps, every):
        yield plan.segment(start, min(start + every, plan.steps), layout)


def gradients(plan: Plan, problem: Any) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Per update, the gradient of its batch as a function of the weights: what a peer's loop needs."""
    whole = plan.segment(0, plan.steps, problem.layout)
    return [_gradient_of(problem, whole.batch(t)) for t in range(plan.steps)]


def _gradient_of(problem: Any, batch: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    return lambda w: problem.gradient(w, batch)[1]


def assert_parity(ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Two records of the same descent agree, at every update, within `tolerance` of the largest value (at least 1)."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), "a record holds values that are not finite"
    error = np.abs(ours - theirs).max(axis=1) / max(1.0, float(np.abs(theirs).max()))
    worst = int(error.argmax())
    assert error[worst] <= tolerance, f"update {worst} differs by {error[worst]:.2e}, allowed {tolerance:.0e}"


def moved(name: str, by: float = MOVED) -> Callable[[Rows], Rows]:
    """A change of rows: one column times 1 + by."""

    def change(rows: Rows) -> Rows:
        constants, varying = rows.constants.copy(), rows.varying.copy()
        if name in rows.names:
            varying[:, :, rows.names.index(name)] *= 1.0 + by
        else:
            constants[:, INDEX[name]] *= 1.0 + by
        return Rows(constants, rows.names, varying)

    return change


def columns_that_matter(rule: Rule) -> list[str]:
    """Columns that are neither 0 nor infinite throughout, less those that the rule's law cannot feel."""
    dense = plan_of(rule).segment(0, STEPS, Toy.layout).rows.dense()
    second = dense[..., INDEX["second_intake"]].any()
    feels = []
    for name in COLUMNS:
        values = dense[..., INDEX[name]]
        idle = (name in ("unbias", "second_keep") and not second) or (name == "eps")  # eps: 1e-8 times 1e-6 is no news
        velocity = dense[..., INDEX["through"]].any() or dense[..., INDEX["look"]].any()
        idle = idle or (name in ("intake", "momentum") and not velocity)
        if not idle and np.isfinite(values).any() and (values != 0).any():
            feels.append(name)
    return feels


def assert_canary(rule: Rule, theirs: np.ndarray, *, answers: bool = False, tolerance: float = TOLERANCE) -> None:
    """`assert_parity` against the peer's record must fail when any one column is moved by 1e-6."""
    for name in columns_that_matter(rule):
        run = descend(rule, change=moved(name))
        try:
            assert_parity(run.answers if answers else run.w, theirs, tolerance)
        except AssertionError:
            continue
        raise AssertionError(f"{rule!r}: column {name!r} moved by {MOVED:g} and nothing was noticed")
