"""Short runs in several batch sizes from one state, over the same rows: the measurement behind the estimate.

Each branch starts from the same weights with its registers at rest, takes W rows in batches of its size, its learning rate
rescaled by the rule of `Plan.with_batch_size`, and is scored on the same training rows. A branch's efficiency is the share of
the rows that the smallest size needs for the loss that the branch reached with all of them; the noise scale predicts
(B_0 + B_noise)/(B + B_noise).

Source: Merrill et al. 2025, Critical Batch Size Revisited, who branch at a checkpoint and look for the largest size that loses
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.advice.batch_size.law import BatchLaw
from fallline.engines.population.serial import Pace
from fallline.plan import Plan
from fallline.shuffle import permutation, stream_key

ORDERS = 3
"""Orders of the rows that each branch is run in; losses are their means."""
SCORED = 2048
"""Training rows that a branch is scored on, at most."""
SHORTEST = 12
"""Updates that the largest branch makes at least."""
LONG = 100
"""Updates that the largest branch makes where the budget allows: what it loses while its velocity builds up is little then."""
LOOKS = 6
"""Times at which the smallest branch is looked at."""
_SCORE, _ORDER = 0xB8A9C4, 1_000_003


@dataclass(frozen=True)
class Branch:
    """One branch.

    Args:
        size: rows of a batch.
        lr: learning rate.
        loss: mean over the orders after all rows; inf where it diverged.
        spread: standard error over the orders.
        efficiency: rows that the smallest size needs for the same loss, as a share; above 1 where the branch got further;
            None where the loss of the smallest did not fall clearly, or had come to its lowest before the end.
        predicted: the same by the noise scale.
    """

    size: int
    lr: float
    loss: float
    spread: float
    efficiency: float | None
    predicted: float


def sizes_around(size: int, least: int, largest: int) -> list[int]:
    """A quarter of a size, itself and four times it, within `least` and `largest`.

    >>> sizes_around(8, 1, 100), sizes_around(8, 8, 16), sizes_around(3, 8, 3)
    ([2, 8, 32], [8, 16], [3])
    """
    quarter = [size // 4] if size // 4 >= least else []
    return sorted({*quarter, size, min(4 * size, largest)})


def branched(
    problem: Any, engine: Any, plan: Plan, point: np.ndarray, lr: float, sizes: Sequence[int], rows: int, scale: float
) -> tuple[float, tuple[Branch, ...], int]:
    """Run the branches.

    Args:
        plan: its optimizer, batches and seed; its schedule is not used.
        point: the weights that all start from, flat.
        lr: the plan's rate there, for batches of the plan's size.
        sizes: rising.
        rows: W, rows that each takes in each order.
        scale: the noise scale there, in rows.

    Returns:
        the loss at the start, the branches, and the rows whose gradients were taken.
    """
    runner = _Runner(problem, engine, plan, point, lr, rows)
    begin = runner.score(point)
    made = [runner.run(size, looks=LOOKS if size == sizes[0] else 1) for size in sizes]
    yardstick = np.concatenate([[begin], made[0][1].mean(axis=0)])
    at = np.concatenate([[0], made[0][2]]) / max(made[0][2][-1], 1)
    error = float(made[0][1][:, -1].std(ddof=1) / np.sqrt(ORDERS)) if np.isfinite(made[0][1]).all() else np.inf
    law = BatchLaw(1.0, scale)
    out = []
    for size, (rate, losses, _) in zip(sizes, made, strict=True):
        last = losses[:, -1]
        loss = float(last.mean()) if np.isfinite(last).all() else float("inf")
        spread = float(last.std(ddof=1) / np.sqrt(ORDERS)) if np.isfinite(loss) else float("nan")
        told = _efficiency(yardstick, at, loss, error)
        predicted = float(law.rows_seen(sizes[0]) / law.rows_seen(size)) if np.isfinite(scale) else 1.0
        out.append(Branch(size, rate, loss, spread, told, predicted))
    return begin, tuple(out), runner.taken


def _efficiency(yardstick: np.ndarray, at: np.ndarray, loss: float, error: float) -> float | None:
    """Where on the smallest branch's curve a loss lies, as a share of its rows."""
    if not _still_falling(yardstick, error):
        return None
    falling = np.minimum.accumulate(yardstick)
    if not loss < falling[0]:
        return 0.0
    if loss <= falling[-1]:
        slope = (falling[-2] - falling[-1]) / (at[-1] - at[-2])
        return float(min(1 + (falling[-1] - loss) / slope, 2.0)) if slope > 0 else 1.0
    keep = np.concatenate([[True], np.diff(falling) < 0])
    return float(np.interp(-loss, -falling[keep], at[keep]))


def _still_falling(yardstick: np.ndarray, error: float) -> bool:
    """Whether the smallest branch's loss fell clearly and to its end; where it was clearly lower before, its rows do not measure progress."""
    return bool(np.isfinite(yardstick).all() and yardstick[0] - yardstick[-1] > 2 * error and yardstick[-1] - yardstick.min() <= 2 * error)


class _Runner:
    """Starts branches at one point and scores them on one set of rows."""

    def __init__(self, problem: Any, engine: Any, plan: Plan, point: np.ndarray, lr: float, rows: int):
        self.problem, self.engine, self.point, self.taken = problem, engine, point, 0
        size = plan.batch_size.size or problem.rows
        rule = replace(plan.optimizer, lr=lr, schedule=None)
        self.base = Plan(rows=problem.rows, steps=max(2, round(rows / size)), batch_size=plan.batch_size, optimizer=rule, seed=plan.seed)
        order = permutation(problem.rows, stream_key(plan.seed, 0, _SCORE))[:SCORED]
        self.scored = [np.sort(part) for part in np.array_split(order, max(1, len(order) // 256))]

    def run(self, size: int, looks: int) -> tuple[float, np.ndarray, np.ndarray]:
        """The rate, losses [orders, looks], and the updates at which they were taken."""
        plan = self.base if size == (self.base.batch_size.size or self.base.rows) else self.base.with_batch_size(size)
        at = np.unique(np.linspace(0, plan.steps, looks + 1).round().astype(int)[1:])
        losses = np.full((ORDERS, len(at)), np.inf)
        for k in range(ORDERS):
            self._one(plan._with(seed=plan.seed + _ORDER * k), at, losses[k])
        return float(plan.lr_at([plan.steps - 1])[0]), losses, at

    def _one(self, plan: Plan, at: np.ndarray, out: np.ndarray) -> None:
        state, pace, alive = self.engine.begin(self.point, plan.optimizer.start()), Pace(), True

        def advance(a: int, b: int) -> bool:
            nonlocal state, alive
            result = self.engine.advance(state, plan.segment(a, b, self.problem.layout))
            state, alive = result.state, result.stopped_at is None
            return alive

        for i, stop in enumerate(at.tolist()):
            pace.segments(state.step, stop, advance)
            if not alive:
                break
            out[i] = self.score(state.registers().answer(plan.optimizer.answer()))
        self.taken += state.step * (plan.batch_size.size or self.problem.rows)

    def score(self, w: np.ndarray) -> float:
        """The mean loss of the scored rows."""
        with np.errstate(all="ignore"):
            losses = [self.problem.loss(w, part) * len(part) for part in self.scored]
        value = float(np.sum(losses) / sum(map(len, self.scored)))
        return value if np.isfinite(value) else float("inf")
