"""The noise scale at several moments of a short run: it grows while the loss falls, so one number alone would mislead.

A problem may say itself how gradients of chosen rows are gathered in blocks, `gradient_blocks(w, blocks)`; what says
nothing is asked for the gradient of one unit after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.advice.batch_size.noise import Blocks, NoiseScale, noise_scale
from fallline.engines.population.serial import Pace
from fallline.plan import Plan
from fallline.shuffle import permutation, stream_key

BLOCKS = 8
"""Blocks of units: seven degrees of freedom for the interval, and no more than eight gradients in memory."""
CHUNK = 8
"""Rows of a unit where a gradient by the row is not to be had: the fewer, the better the estimate, and the slower."""
FIRST = 0.04
"""The first stretch, as a share of the short run: the noise scale changes fastest at the beginning."""
_DRAW = 0x5CA1E
"""Keeps the draws of rows apart from the plan's own orders."""


@dataclass(frozen=True)
class Moment:
    """The noise at one moment.

    Args:
        update: of the short run.
        noise: what was measured there; its `loss` says where that is.
    """

    update: int
    noise: NoiseScale


@dataclass(frozen=True, eq=False)
class Walk:
    """A short run that stopped to look.

    Args:
        moments: in order; at least the one at the start where the gradients are finite there.
        middle: the weights halfway, flat, for branches; None where the run broke off before.
        halfway: their update.
        made: updates made.
        rows: rows whose gradient was taken to measure noise.
        broke: whether the run diverged on its way.
    """

    moments: tuple[Moment, ...]
    middle: np.ndarray | None
    halfway: int
    made: int
    rows: int
    broke: bool


def walk(problem: Any, engine: Any, plan: Plan, *, count: int, rows: int) -> Walk:
    """Carry out a (short) plan and measure the noise at some of its updates.

    Args:
        plan: with a learning rate.
        count: moments, the first before update 0 and the last at the end.
        rows: rows whose gradients are taken at each moment, at most all.
    """
    halfway = max(1, plan.steps // 2)
    ends = np.linspace(FIRST, 1, max(count - 1, 1)) * plan.steps
    looks = set(np.clip(ends.round().astype(int), 1, plan.steps).tolist())
    state = engine.begin(None, plan.optimizer.start())
    draw, pace = draws_of(problem, rows, plan.seed), Pace()
    moments, seen, middle, broke = [], 0, None, False

    def look(update: int) -> None:
        nonlocal seen
        blocks = gradient_blocks(problem, state, draw(len(moments)))
        if np.isfinite(blocks.gram).all():
            moments.append(Moment(update, noise_scale(blocks)))
        seen += blocks.drawn

    def advance(a: int, b: int) -> bool:
        nonlocal state, broke
        result = engine.advance(state, plan.segment(a, b, problem.layout))
        state, broke = result.state, result.stopped_at is not None
        return not broke

    look(0)
    for stop in sorted(looks | {halfway}):
        pace.segments(state.step, stop, advance)
        if broke:
            break
        if stop == halfway:
            middle = np.array(state.registers().answer(plan.optimizer.answer()), np.float64)
        if stop in looks:
            look(stop)
    return Walk(tuple(moments), middle, halfway, state.step, seen, broke)


def draws_of(problem: Any, rows: int, seed: int) -> Callable[[int], list[np.ndarray]]:
    """From a moment's number to its rows: blocks of units, each [units, rows of a unit], drawn without replacement."""
    total = problem.rows
    unit = 1 if exact(problem) else max(2, min(CHUNK, total // (3 * BLOCKS)))  # batch normalisation needs two rows
    wanted = max(min(rows, total), min(total, 3 * BLOCKS * unit))
    units = max(wanted // unit, 1)

    def draw(number: int) -> list[np.ndarray]:
        order = permutation(total, stream_key(seed, number, _DRAW))[: units * unit]
        parts = np.array_split(order.reshape(units, unit), min(BLOCKS, max(units // 3, 1)))
        return [np.ascontiguousarray(part) for part in parts]

    return draw


def exact(problem: Any) -> bool:
    """Whether the gradient of each single row is to be had at the price of a batch's."""
    return getattr(problem, "gradients_by_row", False)


def enough(problem: Any) -> bool:
    """Whether there are rows enough to tell a noise scale: three units in each of two blocks."""
    return problem.rows >= (6 if exact(problem) else 12)


def gradient_blocks(problem: Any, state: Any, blocks: Sequence[np.ndarray]) -> Blocks:
    """Gradients at the state's weights, in blocks.

    Args:
        blocks: row numbers, each [units, rows of a unit].
    """
    w = state.registers().w if not hasattr(problem, "put") else None
    if hasattr(problem, "gradient_blocks"):
        gram, squares, loss = problem.gradient_blocks(w, blocks)
    else:
        gram, squares, loss = _one_by_one(problem, w, blocks)
    counts = np.array([len(b) for b in blocks], np.float64)
    return Blocks(gram, squares, counts, blocks[0].shape[1], problem.rows, loss)


def _one_by_one(problem: Any, w: np.ndarray, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    sums, squares, loss, count = [], [], 0.0, 0
    for block in blocks:
        total, square = np.zeros(problem.layout.size), 0.0
        for unit in block:
            value, g = problem.gradient(w, unit)
            total += g
            square += float(g @ g)
            loss, count = loss + value, count + 1
        sums.append(total)
        squares.append(square)
    stacked = np.array(sums)
    return stacked @ stacked.T, np.array(squares), loss / count
