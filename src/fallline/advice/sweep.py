"""The range test: one descent along which the learning rate rises exponentially.

Law (the chapter's): lr_i = low*(high/low)^(i/(n-1)), with the plan's own rule, groups, batches and decay.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.engines import choose
from fallline.plan import Plan
from fallline.schedules import custom

EXPLODED = 1e3
"""A loss this many times the first one ends the test."""
STRETCH = 8
"""Rates between two looks at the loss."""


def sweep(problem: Any, plan: Plan, rates: np.ndarray, each: int = 1, start: Any = None, batches: Batches | None = None) -> tuple[np.ndarray, int]:
    """One descent along rising rates, on a copy.

    Args:
        rates: (n,) above 0, rising.
        each: updates at every rate.
        start: initial weights, or None.
        batches: other batches than the plan's.

    Returns:
        (n,) the mean batch loss at every rate, NaN from where it broke off; and the updates made.
    """
    last = len(rates) - 1
    rule = replace(plan.optimizer, lr=custom(lambda x, length: float(rates[min(x // each, last)])), schedule=None)
    trial = Plan(rows=plan.rows, steps=len(rates) * each, batch_size=batches or plan.batch_size, optimizer=rule, seed=plan.seed)
    with getattr(problem, "untouched", nullcontext)():  # a module is trained where it lies, and put back
        return _descent(problem, trial, len(rates), each, start)


def _descent(problem: Any, trial: Plan, count: int, each: int, start: Any) -> tuple[np.ndarray, int]:
    engine = choose(problem)
    state: Any = engine.begin(start, trial.optimizer.start())
    out, first, done = np.full(count, np.nan), math.nan, 0
    for i in range(0, count, STRETCH):  # in short stretches, so that a sweep that has exploded stops
        b = min(i + STRETCH, count)
        result = engine.advance(state, trial.segment(i * each, b * each, problem.layout))
        state, loss = result.state, result.trace.loss
        done += len(loss)
        whole = len(loss) // each
        out[i : i + whole] = loss[: whole * each].reshape(whole, each).mean(axis=1)
        first = out[0] if math.isnan(first) else first
        if result.stopped_at is not None or (whole and out[i + whole - 1] > EXPLODED * max(abs(first), 1e-12)):
            break
    return out, done
