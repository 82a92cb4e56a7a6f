"""Successive halving: all combinations for a while, the best third for three times as long, until few run to the end.

Runs go on, they do not start anew: the cost of a rung is that of the updates it adds. Every run keeps the schedule of its
whole plan, so an early score favours rates that settle early; that is the price of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue

THIRD = 3
"""Combinations that go on at each rung: one in so many."""


@dataclass(frozen=True)
class Rung:
    """So many combinations go on to this share of their updates."""

    share: float
    cells: int


def rungs(cells: int, seeds: int, budget: float | None, steps: int) -> list[Rung]:
    """The rungs that fit a budget; one, of all combinations to the end, where the budget is none or enough for the grid.

    Args:
        cells, seeds: combinations, and runs of each.
        budget: full runs that may be spent, or None.
        steps: of the shortest plan: the first rung must be at least one update.

    Raises:
        InvalidValue: no number of rungs fits; the message says what would.

    >>> [(rung.cells, round(rung.share, 3)) for rung in rungs(27, 1, 9, 1000)]
    [(27, 0.111), (9, 0.333), (3, 1.0)]
    """
    if budget is None or budget >= cells * seeds:
        return [Rung(1.0, cells)]
    ladders = [made for count in range(2, 40) if (made := _ladder(cells, count))[0].share * steps >= 1]
    for made in ladders:
        if cost(made, seeds) <= budget:
            return made
    least = min((cost(made, seeds) for made in ladders), default=float(cells * seeds))
    raise InvalidValue(
        f"budget={budget:g} full runs is too little for {cells:,} combinations{'' if seeds == 1 else f' x {seeds} seeds'}: expected at least {math.ceil(least * 100) / 100:g}, or fewer values"
    )


def cost(made: Sequence[Rung], seeds: int) -> float:
    """Full runs that rungs cost."""
    shares = [0.0, *(rung.share for rung in made)]
    return seeds * sum(rung.cells * (b - a) for rung, a, b in zip(made, shares, shares[1:], strict=False))


def _ladder(cells: int, count: int) -> list[Rung]:
    return [Rung(float(THIRD) ** -(count - 1 - i), max(1, math.ceil(cells / THIRD**i))) for i in range(count)]


def best_of(scores: np.ndarray, count: int) -> list[int]:
    """The combinations with the best (lowest) mean over seeds, in the grid's order; what is not a number comes last.

    Args:
        scores: float64 [cells, seeds].
    """
    with np.errstate(invalid="ignore"):
        mean = scores.mean(axis=1)
    order = np.argsort(np.where(np.isnan(mean), np.inf, mean), kind="stable")
    return sorted(order[:count].tolist())
