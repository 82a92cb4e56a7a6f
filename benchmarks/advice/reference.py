"""What each learning rate leads to: the final validation loss of a cell over a grid of rates, four a decade, and seeds.

The grid runs from where the loss is still more than half unlearnt to past divergence, whose edge is bisected. Between two
rates the curve is linear in log lr; above the edge a rate counts as diverged.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np

from benchmarks.advice.cells import SEEDS, Cell, plan_of, problem_of
from fallline.engines import choose

PER_DECADE = 4
RUINED = 0.5
"""A regret share above this is a ruined run."""


def final_loss(cell: Cell, lr: float, seed: int, steps: int | None = None) -> tuple[float, float]:
    """The validation loss before and after a full run; +inf where it diverged. `steps`: the plan compressed to so many."""
    from fallline.advice.compressed import compressed

    problem, valid = problem_of(cell, seed)
    plan = plan_of(cell, problem, seed)
    plan = plan.with_lr(lr) if steps is None else compressed(plan, lr, steps)
    engine, rule = choose(problem), plan.optimizer
    with getattr(problem, "untouched", nullcontext)():
        state: Any = engine.begin(None, rule.start())
        before = valid.measure(engine.answer(state, rule.answer()), ())[0]
        result = engine.advance(state, plan.segment(0, plan.steps, problem.layout))
        if result.stopped_at is not None:
            return before, math.inf
        after = valid.measure(engine.answer(result.state, rule.answer()), ())[0]
    return before, after if math.isfinite(after) else math.inf


def measure(cell: Cell, seeds: tuple[int, ...] = SEEDS, bisections: int = 4) -> dict[str, Any]:
    """The reference curve as plain values: rates, losses [rate][seed], the edge, the loss before training."""
    found: dict[int, list[float]] = {}
    initial: list[float] = []

    def at(k: int) -> list[float]:
        if k not in found:
            pairs = [final_loss(cell, 10 ** (k / PER_DECADE), s) for s in seeds]
            initial[:] = [b for b, _ in pairs]
            found[k] = [a for _, a in pairs]
        return found[k]

    def share(k: int) -> float:
        best, before = min(np.mean(v) for v in found.values()), float(np.mean(initial))
        return (float(np.mean(at(k))) - best) / (before - best) if best < before else math.inf

    k = -8
    while k > -48 and not np.mean(at(k)) < np.mean(initial):
        k -= 2
    top = k
    while top < 24:  # up until everything is lost twice in a row
        at(top)
        if share(top) > 1 and share(top - 1) > 1 and min(found) < top - 1:
            break
        top += 1
    low = min(found)
    while low > -44 and (share(low) < 0.6 or share(low + 1) < 0.6):
        low -= 1
        at(low)
    safe = max((k for k in found if np.mean(found[k]) < np.mean(initial) and all(k2 > k or share(k2) < 1 for k2 in found if k2 > k - 2)), default=low)
    return {"seeds": list(seeds), "initial": initial, **_curve(cell, found, initial, safe, seeds, bisections)}


def _curve(cell: Cell, found: dict[int, list[float]], initial: list[float], safe: int, seeds: tuple[int, ...], bisections: int) -> dict[str, Any]:
    """The grid in order, with the edge between `safe` and the next rate bisected."""
    rates = {10 ** (k / PER_DECADE): v for k, v in found.items()}
    a, b = 10 ** (safe / PER_DECADE), 10 ** ((safe + 1) / PER_DECADE)
    for _ in range(bisections):
        middle = math.sqrt(a * b)
        rates[middle] = values = [final_loss(cell, middle, s)[1] for s in seeds]
        lost = not np.mean(values) < np.mean(initial)
        a, b = (a, middle) if lost else (middle, b)
    order = sorted(rates)
    return {"lr": order, "loss": [rates[r] for r in order], "edge": math.sqrt(a * b)}


class Reference:
    """A measured curve, asked about rates."""

    def __init__(self, data: dict[str, Any]):
        self.lr = np.array(data["lr"])
        self.by_seed = np.array(data["loss"], float)
        self.mean = self.by_seed.mean(axis=1)
        self.initial = float(np.mean(data["initial"]))
        k = int(np.argmin(self.mean))
        self.best, self.best_lr, self.edge = float(self.mean[k]), float(self.lr[k]), float(data["edge"])
        spread = self.by_seed[np.isfinite(self.mean)]
        count = self.by_seed.shape[1]
        self.error = float(np.median(spread.std(axis=1, ddof=1))) / math.sqrt(count) / (self.initial - self.best) if count > 1 else 0.0

    def loss(self, lr: float | None) -> float:
        """The mean final loss at a rate; +inf where it diverges. No rate at all: the loss before training."""
        if lr is None or not math.isfinite(lr) or lr <= 0:
            return self.initial
        x = math.log(lr)
        grid, good = np.log(self.lr), np.isfinite(self.mean)
        if lr < self.lr[0]:
            return float(self.initial if lr < self.lr[0] / 100 else np.interp(x, [math.log(self.lr[0] / 100), grid[0]], [self.initial, self.mean[0]]))
        if lr > self.lr[-1]:
            return math.inf
        k = int(np.searchsorted(self.lr, lr))
        if self.lr[k] == lr:
            return float(self.mean[k])
        if not (good[k] and good[k - 1]):
            return math.inf
        return float(np.interp(x, grid, self.mean))

    def regret(self, lr: float | None) -> tuple[float, float]:
        """Regret in nats and as a share of (initial - best), at most 1: a diverged run has gained nothing."""
        loss = self.loss(lr)
        span = self.initial - self.best
        share = min((loss - self.best) / span, 1.0)
        return share * span, share
