"""Rows a second against the batch size, measured on the engine that will do the work.

Sizes double; in each round every size is timed once, so that a slower minute of the machine touches them all; a size's
rate is the median over the rounds. Smoothing assumes that a larger batch is not slower by the row than a smaller one
(pooling of neighbours that say otherwise), which holds until a batch leaves the caches; the raw rates are kept beside it.
The knee is the smallest size within `SHARE` of the best smoothed rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.plan import Plan

SHARE = 0.8
"""Of the best rate: the knee is the smallest batch that reaches it."""
ROUNDS = 5
SHORT = 0.01
"""Seconds that one timing lasts at least, where the allowance permits."""

Timer = Callable[[int, int], float]
"""From a batch size and a number of updates to the seconds that they took."""


@dataclass(frozen=True, eq=False)
class Throughput:
    """Rates by batch size.

    Args:
        sizes: [n] rows of a batch, rising.
        rate: [n] rows a second, the medians of the timings.
        smooth: [n] the same, never falling.
        spread: [n] half the distance of the quartiles, as a share of the rate.
    """

    sizes: np.ndarray
    rate: np.ndarray
    smooth: np.ndarray
    spread: np.ndarray

    @property
    def knee(self) -> int:
        """The smallest size whose smoothed rate is within `SHARE` of the best."""
        return int(self.sizes[np.argmax(self.smooth >= SHARE * self.smooth.max())])

    def at(self, size: int) -> float:
        """Rows a second at a size: between measured ones on log axes, beyond them as at the nearest."""
        return float(np.exp(np.interp(np.log(size), np.log(self.sizes), np.log(self.smooth))))


def measured(sizes: Sequence[int], timer: Timer, allowance: float, rounds: int = ROUNDS) -> Throughput | None:
    """Time the sizes from the smallest up, as far as the allowance goes.

    Args:
        sizes: rows of a batch, rising.
        timer: runs so many updates of so many rows; the seconds that it took.
        allowance: seconds for all of it; where a larger batch would not fit into what is left, the ladder ends.

    Returns:
        Throughput, or None where not even the smallest could be timed.
    """
    left, updates, reached = allowance, [], []
    for size in sizes:
        timer(size, 1)  # the first of a size compiles and allocates
        began = time.perf_counter()
        once = max(min(timer(size, 1), timer(size, 1)), 1e-7)
        left -= time.perf_counter() - began
        reached.append(size)
        updates.append(max(1, round(SHORT / once)))
        left -= rounds * updates[-1] * once
        if left < 2 * rounds * max(SHORT, once):  # a size twice as large would not fit
            break
    if not reached:
        return None
    rates = np.array([[size * u / max(timer(size, u), 1e-9) for size, u in zip(reached, updates, strict=True)] for _ in range(rounds)])
    rate = np.median(rates, axis=0)
    low, high = np.percentile(rates, [25, 75], axis=0)
    return Throughput(np.array(reached), rate, rising(rate), (high - low) / 2 / rate)


def rising(values: np.ndarray) -> np.ndarray:
    """The nearest values, by squares, that never fall: neighbours out of order share their mean.

    >>> rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]

    Source: Ayer et al. 1955, pool adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (mean * count + before * many) / (count + many), count + many
        pools.append((mean, count))
    return np.repeat([mean for mean, _ in pools], [count for _, count in pools])


def engine_timer(problem: Any, engine: Any, plan: Plan) -> Timer:
    """A timer of a plan's own updates, at a learning rate of 0, so that the weights stay."""

    def timer(size: int, updates: int) -> float:
        trial = still(plan, size, updates)
        state, segment = engine.begin(None, trial.optimizer.start()), trial.segment(0, updates, problem.layout)
        began = time.perf_counter()
        result = engine.advance(state, segment)
        _ = result.trace.loss[-1:]  # on a device, the losses are there when the updates are
        return time.perf_counter() - began

    return timer


def still(plan: Plan, size: int, updates: int) -> Plan:
    """So many updates of a plan's rule in batches of a size, at a learning rate of 0."""
    batches = Batches(size) if plan.batch_size.is_full else replace(plan.batch_size, size=size)
    return Plan(rows=plan.rows, steps=updates, batch_size=batches, optimizer=replace(plan.optimizer, lr=0.0, schedule=None), seed=plan.seed)
