"""Finding the learning rate: a range test to look, a curvature bracket to know where, a probe to decide.

The problem, the plan and every generator are left as they were: orders of rows are functions of (seed, epoch), and runs are
made on copies. All costs are counted in updates of the plan's own batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.advice.bracket import ITERATIONS, Bracket, bracket
from fallline.advice.found import Curve, Found
from fallline.advice.probe import Probe, Rung
from fallline.advice.reading import read, smooth
from fallline.advice.search import Answer, answer, rungs
from fallline.advice.sweep import sweep
from fallline.divergence import check_start
from fallline.errors import InvalidValue, PlanMismatch
from fallline.plan import Plan
from fallline.rules import default_lr, typical_lr

PER_DECADE = 12
ROWS_PER_RATE = 64
"""Rows behind each point of the range test, where the budget allows: with smaller batches, a rate is kept for several updates."""
SWEEPS = 3
"""Sweeps of `fl.torch.find_lr`, whose curve is their median."""
CEILING = 1e4
"""A sweep of `fl.torch.find_lr` that has not turned up at `high` goes on by decades as far as this."""
BUDGET, BUDGET_OF_FUNCTIONS = 0.5, 10.0
"""What a search may cost where that is left open: half a run; a function without data costs next to nothing."""
LEAST, LEAST_ROWS = 40, 300
"""The least a search takes, in updates and in rows, however short the plan: less says nothing."""
LEAST_FREE = 240
"""The least where the budget is left open: a short plan is over in no time, and probes of a few updates tell nothing of it."""
SWEEP_SHARE, LEAST_SWEEP = 0.12, 12
LOOK_SHARE, LOOK_ROWS = 0.05, 256
"""The curvature is looked at on at most so many rows, for at most this share of the budget."""
BELOW, ABOVE = 1e-3, 30.0
"""The range test runs from here to there, in units of the critical rate."""


def find_lr(
    problem: Any, plan: Plan, *, valid: Any = None, budget: float | None = None, seed: int | None = None, start: Any = None,
    low: float | None = None, high: float | None = None,
) -> Found:  # fmt: skip
    """Find the learning rate for a plan, with an interval, or say why there is none.

    Law: several rates from the same weights, on the same batches, with the plan's schedule compressed to m updates, are scored
    on held-out rows; the best rate of m updates, times (m/T)^a, is that of the plan's T.

    Args:
        problem: what the plan descends.
        plan: its optimizer, groups, batches, decay and schedule are tested; its lr is not looked at.
        valid: rows that score, as for `train`; left out, rows held out of the training data: no probe trains on them.
            `advice.probe.OutOfFold()`: every training row scores, out of its fold, which costs five times as much.
        budget: the most it may cost, as a share of the plan's own updates (but at least 40 updates, and 300
            rows); left out, 0.5 (but at least 240 updates), and 10 for a function without data.
        seed: which rows are held out; left out, the plan's.
        start: initial weights, as for `train`.
        low, high: ends of the range test; left out, they follow from the curvature at the start.

    Returns:
        Found: `lr`, `interval`, `verdict`, `cost`, `curve`, `rungs`, `edge`, `plot()`.

    Raises:
        InvalidValue: a budget that is not above 0, or rates that are not 0 < low < high.
        PlanMismatch: the plan's rows are not the problem's.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 10.0], start=[1.0, 1.0])
    >>> found = find_lr(problem, fl.Plan(problem, steps=100, optimizer=fl.SGD()))
    >>> 0.05 < found.lr < 0.2
    True

    Source: Smith 2015, arXiv 1506.01186 (the range test, in the exponential form in common use); benchmarks/advice (the rest).
    """
    fewest = LEAST_FREE if budget is None else LEAST
    if hasattr(problem, "in_memory"):  # rows in files: a sample of them says as much
        _check(problem, plan, 1.0 if budget is None else budget, low, high)
        problem, plan, budget = problem.in_memory(plan, budget)
    budget = (BUDGET if hasattr(problem, "part") else BUDGET_OF_FUNCTIONS) if budget is None else budget
    _check(problem, plan, budget, low, high)
    if start is None:
        check_start(problem)
    least = max(fewest, LEAST_ROWS / (plan.batch_size.size or plan.rows or LEAST_ROWS))
    return _Search(problem, plan, valid, max(budget * plan.steps, least), plan.seed if seed is None else seed, start).run(low, high)


@dataclass
class _Search:
    """One search: what was spent so far, and what is known."""

    problem: Any
    plan: Plan
    valid: Any
    total: float
    seed: int
    start: Any
    spent: float = 0.0

    def run(self, low: float | None, high: float | None) -> Found:
        problem, plan = self.problem, self.plan
        looked, training, scoring = self._look(), problem, self.valid
        if problem.rows is None and hasattr(problem, "apart"):
            training, scoring = problem.apart() if scoring is None else (problem, scoring)
        anchor = looked.critical or math.sqrt(low * high if low and high else 100 * default_lr(plan.optimizer) ** 2)
        curve = self._sweep(training, anchor, low, high)
        if looked.why:
            return self._none(looked.why, curve)
        left = self.total - self.spent
        probe = Probe.of(training, plan, scoring, self.seed, self.start, left)
        first, lanes = probe.begin(), len(probe.lanes)
        made = rungs(probe, guess(curve, anchor), left / lanes - probe.spent, plan.steps)
        self.spent += probe.spent * lanes
        said = answer(made, probe, plan.steps)
        return self._found(said, made, probe, first, curve, looked)

    def _look(self) -> Bracket:
        """The curvature at the start, on some rows, for a small share of the budget."""
        problem = self.problem
        if problem.rows is None or not hasattr(problem, "gradient"):
            return Bracket(None, None, None, 0.0)
        batch = self.plan.batch_size.size or problem.rows
        affordable = LOOK_SHARE * self.total * batch / 3
        rows = max(min(batch, LOOK_ROWS), min(LOOK_ROWS, int(affordable)))
        order = np.random.default_rng([self.seed, 0xC0DE]).permutation(problem.rows)[:rows] if rows < problem.rows else None
        products = min(ITERATIONS, int(affordable / rows) - 1)
        looked = bracket(problem, self.plan, order, max(products, 0), self.start)
        self.spent += looked.spent / batch
        return looked

    def _sweep(self, training: Any, anchor: float, low: float | None, high: float | None) -> Curve:
        """The range test, as fine as its share of the budget allows."""
        low, high = low or min(anchor * BELOW, high / 10 if high else math.inf), high or max(anchor * ABOVE, low * 10 if low else 0.0)
        updates = max(SWEEP_SHARE * self.total, LEAST_SWEEP)
        count = int(min(updates, max(PER_DECADE * math.log10(high / low) + 1, LEAST_SWEEP)))
        batch = self.plan.batch_size.size or self.problem.rows or ROWS_PER_RATE
        each = int(min(max(updates // count, 1), math.ceil(ROWS_PER_RATE / batch)))
        rates = low * (high / low) ** (np.arange(count) / (count - 1))
        loss, made = sweep(training, self.plan, rates, each, self.start)
        self.spent += made
        return Curve(rates, loss, np.where(np.isfinite(loss), smooth(rates, loss), np.nan))

    def _none(self, why: str, curve: Curve) -> Found:
        return Found(None, None, f"{why}; no answer", curve, math.ceil(self.spent), share=self.spent / self.plan.steps)

    def _found(self, said: Answer, made: list[Rung], probe: Probe, first: float, curve: Curve, looked: Bracket) -> Found:
        edge = _edge(said, made, curve, first)
        cost, share = math.ceil(self.spent), self.spent / self.plan.steps
        verdict = said.verdict + _edges(edge, looked) + f"; it cost {share:.2g} of a run"
        if said.lr is None:
            return Found(None, None, verdict, curve, cost, edge, None, tuple(made), share, first)
        verdict += _bought(made[-1].steps, self.plan.steps) + _unusual(self.plan, said.lr)
        return Found(said.lr, said.interval, verdict, curve, cost, edge, said.flat, tuple(made), share, first)


def guess(curve: Curve, anchor: float) -> float:
    """Where to begin: the middle one of what the range test's turn, its explosion and the curvature suggest."""
    seen = np.isfinite(curve.smooth)
    if seen.sum() < 3:
        return anchor / 8
    turn = float(curve.lr[int(np.nanargmin(curve.smooth))])
    high = np.flatnonzero(~np.isfinite(curve.loss) | (curve.loss > curve.loss[0] + 0.5 * abs(curve.loss[0])))
    explosion = float(curve.lr[high[0]]) if len(high) else 2 * float(curve.lr[-1])
    return sorted([turn, anchor / 8, explosion / 6])[1]


def _edge(said: Answer, made: list[Rung], curve: Curve, first: float) -> float | None:
    """The lowest rate above the choice that was seen to diverge: by the longest probe, or else by the range test."""
    floor = said.lr or 0.0
    lost = [float(lr) for rung in made for lr, score in zip(rung.lr, rung.score, strict=True) if lr > floor and not score <= first]
    if lost:
        return min(lost)
    swept = read(curve.lr, curve.loss).edge
    return swept if swept is not None and swept > floor else None


def _edges(edge: float | None, looked: Bracket) -> str:
    seen = "; nothing tried diverged" if edge is None else f"; it diverges at {edge:.2g}"
    return seen + ("" if looked.edge is None else f" (the curvature at the start, {looked.curvature:.2g}, puts the edge at {looked.edge:.2g})")


def _bought(steps: int, total: int) -> str:
    if steps >= total:
        return ""
    return f"; twice the budget would probe {min(2 * steps, total):,} updates long in place of {steps:,}"


def _unusual(plan: Plan, lr: float) -> str:
    """A remark where the choice lies far from the textbook's typical rates."""
    low, high = typical_lr(plan.optimizer)
    if low / 10 <= lr <= high * 10:
        return ""
    return f"; typical rates for {type(plan.optimizer).__name__} are {low:g} to {high:g}, so look at the scale of the columns"


def _check(problem: Any, plan: Plan, budget: float, low: float | None, high: float | None) -> None:
    for value in (low, high):
        if value is not None and not 0 < value < math.inf:
            raise InvalidValue(f"find_lr(low={low!r}, high={high!r}): expected 0 < low < high")
    if low is not None and high is not None and not low < high:
        raise InvalidValue(f"find_lr(low={low!r}, high={high!r}): expected 0 < low < high")
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < math.inf:
        raise InvalidValue(f"find_lr(budget={budget!r}): expected a number above 0, a share of the full run: 0.5 is half a run")
    if plan.rows is not None and plan.rows != problem.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}; make it with Plan(problem, ...)")


__all__ = ["Curve", "Found", "find_lr"]
