"""The learning-rate range test: an exponential sweep on a copy, read on the log axis.

Law (the chapter's): lr_i = low*(high/low)^(i/(n-1)), one rate after the other along one descent, with the plan's own
rule, groups, batches and decay; the choice is the steepest descent before the loss explodes. The problem, the plan and
every generator are left as they were, because nothing is shared: orders are functions of (seed, epoch).
"""

from __future__ import annotations

import html
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.advice.reading import decades, read
from fallline.engines import choose
from fallline.errors import InvalidValue, NoLearningRate, PlanMismatch
from fallline.plan import Plan
from fallline.rules import typical_lr
from fallline.schedules import custom

PER_DECADE = 12
ROWS_PER_RATE = 64
"""Rows behind each point of the curve: with smaller batches, a rate is kept for several updates."""
SWEEPS = 3
"""Sweeps with other orders; the curve is their median."""
CEILING = 1e4
"""A sweep that has not turned up at `high` goes on by decades as far as this."""


@dataclass(frozen=True)
class Curve:
    """A range test's curve: lr, loss and smoothed loss, (n,) each."""

    lr: np.ndarray
    loss: np.ndarray
    smooth: np.ndarray


@dataclass(frozen=True, repr=False)
class Found:
    """What a range test found.

    Attributes:
        interval: (low, high) of rates that would do as well, or None where none was estimated.
        verdict: a sentence.
        curve: what was measured.
        cost: updates spent.
        edge: the rate at which the loss exploded, or None.
    """

    rate: float | None
    interval: tuple[float, float] | None
    verdict: str
    curve: Curve
    cost: int
    edge: float | None = None

    @property
    def lr(self) -> float:
        """The learning rate.

        Raises:
            NoLearningRate: there is no answer; the verdict says why.
        """
        if self.rate is None:
            raise NoLearningRate(self.verdict)
        return self.rate

    def plot(self) -> Any:
        """The curve on a log axis, with the choice marked."""
        from fallline import charts

        return charts.range_test(self.curve.lr, self.curve.loss, self.curve.smooth, chosen=self.rate, diverged=self.edge)

    def __repr__(self) -> str:
        return f"Found(lr={'none' if self.rate is None else format(self.rate, '.3g')}, cost={self.cost}, verdict={self.verdict!r})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)} ({self.cost:,} updates)</p>{self.plot()._repr_html_()}"


def find_lr(problem: Any, plan: Plan, *, low: float = 1e-7, high: float = 1.0, sweeps: int = SWEEPS) -> Found:
    """Find the learning rate for a plan by the range test.

    Args:
        problem: what the plan descends.
        plan: its optimizer, groups, batches and decay are tested; its lr and schedule are not used.
        low, high: the rates of the sweep, both above 0; where the loss has not turned up at `high`, it goes on.
        sweeps: descents with other orders of the rows; the curve is their median.

    Returns:
        Found: `lr`, `verdict`, `curve`, `cost`, `plot()`.

    Raises:
        InvalidValue: rates that are not 0 < low < high.
        PlanMismatch: the plan's rows are not the problem's.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 10.0], start=[1.0, 1.0])
    >>> found = find_lr(problem, fl.Plan(problem, steps=100, optimizer=fl.SGD()))
    >>> 0.01 < found.lr < 0.2
    True

    Source: Smith 2015, arXiv 1506.01186, in the exponential form in common use.
    """
    if not (0 < low < high < math.inf):
        raise InvalidValue(f"find_lr(low={low!r}, high={high!r}): expected 0 < low < high")
    if plan.rows is not None and plan.rows != problem.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}; make it with Plan(problem, ...)")
    if sweeps < 1:
        raise InvalidValue(f"find_lr(sweeps={sweeps!r}): expected at least 1")
    engine, noisy = choose(problem), not plan.batch_size.is_full and problem.rows != 1
    top, cost = high, 0
    while True:
        rates = decades(low, top, PER_DECADE)
        curves = []
        for sweep in range(sweeps if noisy else 1):
            with getattr(problem, "untouched", nullcontext)():  # a module is trained where it lies, and put back
                loss, spent = _sweep(problem, engine, plan, rates, sweep)
            curves.append(loss)
            cost += spent
        broke = np.isnan(np.array(curves)).sum(axis=0) * 2 >= len(curves)  # NaN, or broken off, in half of the sweeps
        with np.errstate(all="ignore"):
            median = np.where(broke, np.nan, _median(np.array(curves)))
        reading = read(rates, median)
        unfinished = reading.edge is None and (reading.turn is None or reading.turn > top / 3)
        if not unfinished or top >= CEILING:
            break
        top *= 10
    return Found(reading.lr, None, reading.verdict + _unusual(plan, reading.lr), Curve(rates, median, reading.smooth), cost, reading.edge)


def _sweep(problem: Any, engine: Any, plan: Plan, rates: np.ndarray, sweep: int) -> tuple[np.ndarray, int]:
    """One descent along the rates; NaN from where it broke off. Returns the losses and the updates made."""
    size = plan.batch_size.size or problem.rows or ROWS_PER_RATE
    each = 1 if plan.batch_size.is_full else max(1, math.ceil(min(ROWS_PER_RATE, problem.rows or size) / size))
    rule = replace(plan.optimizer, lr=custom(lambda x, length: float(rates[min(x // each, len(rates) - 1)])), schedule=None)
    seed = plan.seed + sweep * 0x9E3779B9 & (2**63 - 1)  # other orders of the rows, the same for the same plan
    trial = Plan(rows=problem.rows, steps=len(rates) * each, batch_size=plan.batch_size, optimizer=rule, seed=seed)
    state: Any = engine.begin(None, rule.start())
    out = np.full(len(rates), np.nan)
    first = math.nan
    done = 0
    for i in range(0, len(rates), 8):  # in short stretches, so that a sweep that has exploded stops
        a, b = i * each, min(i + 8, len(rates)) * each
        result = engine.advance(state, trial.segment(a, b, problem.layout))
        state = result.state
        loss = result.trace.loss
        done += len(loss)
        whole = len(loss) // each
        out[i : i + whole] = loss[: whole * each].reshape(whole, each).mean(axis=1)
        first = out[0] if math.isnan(first) else first
        if result.stopped_at is not None or (whole and out[i + whole - 1] > 1e3 * max(abs(first), 1e-12)):
            break
    return out, done


def _median(curves: np.ndarray) -> np.ndarray:
    """The median over sweeps at each rate, of those that got so far."""
    out = np.full(curves.shape[1], np.nan)
    reached = ~np.isnan(curves).all(axis=0)
    out[reached] = np.nanmedian(curves[:, reached], axis=0)
    return out


def _unusual(plan: Plan, lr: float | None) -> str:
    """A remark where the choice lies far from the textbook's typical rates."""
    low, high = typical_lr(plan.optimizer)
    if lr is None or low / 10 <= lr <= high * 10:
        return ""
    return f"; typical rates for {type(plan.optimizer).__name__} are {low:g} to {high:g}, so look at the scale of the columns"
