"""The runs of a population one after another, on the engine that would run each of them alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fallline.engines import Engine, choose
from fallline.interrupts import ended_by, watched
from fallline.plan import Plan

SEGMENT_SECONDS = 0.05
"""Aim for a segment's length, as in `train`: an interrupt is honoured between two. Cutting never changes a bit."""


class Pace:
    """How many updates a segment should have, to last SEGMENT_SECONDS."""

    def __init__(self) -> None:
        self.length = 64.0

    def segments(self, start: int, stop: int, run: Callable[[int, int], bool], most: int = 1 << 30) -> None:
        """Call run(a, b) over start .. stop until it gives False, with at most `most` updates; Ctrl-C is honoured between two calls."""
        with watched() as interrupt:
            a = start
            while a < stop:
                b, began = min(stop, a + max(1, min(int(self.length), most))), time.perf_counter()
                if not run(a, b):
                    break
                took = time.perf_counter() - began
                self.length = min(max((b - a) * SEGMENT_SECONDS / max(took, 1e-9), self.length / 8), self.length * 8)
                a = b
                if interrupt.received is not None:
                    break
        if interrupt.received is not None:
            raise ended_by(interrupt.received)


class OneByOne:
    """Runs of any problem, each to the end of the stretch before the next one begins.

    Args:
        problem: what they descend.
        plans: one for each run.
        start: initial weights of all, or None.
        why: why not together.
        engine: what runs each of them; left out, what would run it alone.
    """

    def __init__(self, problem: Any, plans: Sequence[Plan], start: Any, why: str, engine: Engine | None = None):
        self.problem, self.plans = problem, plans
        self.choice = f"one after another: {why}"
        self.engine = engine or choose(problem)
        self.states: list[Any] = [self.engine.begin(start, plan.optimizer.start()) for plan in plans]
        self.losses: list[list[np.ndarray]] = [[] for _ in plans]
        self.stopped_at: list[int | None] = [None for _ in plans]
        self._pace = Pace()

    def advance(self, stop: int) -> None:
        """All runs that have not diverged, up to update `stop`."""
        for k in range(len(self.plans)):
            if self.stopped_at[k] is None and self.states[k].step < stop:
                self._pace.segments(self.states[k].step, stop, lambda a, b, k=k: self._segment(k, a, b))

    def _segment(self, k: int, a: int, b: int) -> bool:
        result = self.engine.advance(self.states[k], self.plans[k].segment(a, b, self.problem.layout))
        self.states[k], self.stopped_at[k] = result.state, result.stopped_at
        self.losses[k].append(result.trace.loss)
        return result.stopped_at is None

    def answers(self) -> np.ndarray:
        """The answer of each run, flat float64 [runs, size]."""
        points = (self._point(k) for k in range(len(self.plans)))
        return np.array([p if isinstance(p, np.ndarray) else self.problem.layout.join(self.problem.named(p)) for p in points])

    def measure(self, held_out: Any, metrics: Sequence[Any]) -> np.ndarray:
        """The mean loss and the metrics of each run's answer, float64 [runs, 1 + metrics]."""
        rows = []
        for k in range(len(self.plans)):
            loss, values = held_out.measure(self._point(k), metrics)
            rows.append([loss, *values])
        return np.array(rows, np.float64)

    def _point(self, k: int) -> Any:
        return self.engine.answer(self.states[k], self.plans[k].optimizer.answer())

    def keep(self, indices: Sequence[int]) -> OneByOne:
        """Some of the runs, with states of their own."""
        some = object.__new__(OneByOne)
        some.problem, some.plans, some.choice, some.engine = self.problem, [self.plans[k] for k in indices], self.choice, self.engine
        some.states = [self.states[k].copy() for k in indices]
        some.losses = [list(self.losses[k]) for k in indices]
        some.stopped_at = [self.stopped_at[k] for k in indices]
        some._pace = self._pace
        return some
