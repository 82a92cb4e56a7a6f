"""`find_batch_size`: memory, throughput, noise and a check, put together to one size.

    seconds(B) = S(B) * B / rate(B)        S(B) = S_min (1 + B_noise/B)

The size with the least predicted seconds is sought among powers of two; of those within 10 % or 50 ms of it the smallest is
taken, for it makes the most updates and asks least of the learning rate. Branches then compare it with a quarter and four times of it.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fallline.advice.batch_size import branches as branching
from fallline.advice.batch_size import capacity as memories
from fallline.advice.batch_size import throughput as timings
from fallline.advice.batch_size.branches import Branch
from fallline.advice.batch_size.capacity import Capacity
from fallline.advice.batch_size.choice import (
    LEAST,
    LINEAR_UPDATE,
    MODULE_UPDATE,
    Price,
    checked,
    doubling,
    faster,
    quickest,
    reason,
    verdict,
    whole_way,
)
from fallline.advice.batch_size.found import FoundBatchSize
from fallline.advice.batch_size.law import BatchLaw
from fallline.advice.batch_size.moments import Moment, Walk, enough, exact, walk
from fallline.advice.batch_size.throughput import Throughput
from fallline.advice.compressed import peak, squeezed
from fallline.advice.lr import find_lr
from fallline.batches import Batches
from fallline.engines import choose
from fallline.errors import InvalidValue, NoLearningRate, PlanMismatch
from fallline.plan import Plan
from fallline.plan.scale import LARGE
from fallline.rules import default_lr

BUDGET = 0.5
FREE_WORK, FREE_RUNS = 200e6, 4.0
"""Multiply-adds that a search on a linear model may always cost, whatever the share (some tenths of a second), up to so many runs."""
RATE, WALK, NOISE, BRANCH = 0.2, 0.25, 0.2, 0.35
"""What finding a learning rate (where there is none), the short run, the noise and the branches may take of the budget."""
MOMENTS = 7
TIMED_BEYOND = 4
"""The throughput is measured up to this many times the largest size that may be chosen."""
SECONDS, SECONDS_SHARE = 1.0, 0.1
"""What the timings may take: the larger of so many seconds and this share of the plan's own."""


def find_batch_size(
    problem: Any, plan: Plan, *, most: int = LARGE, memory: int | float | str | None = None, budget: float = BUDGET, timing: bool = True,
) -> FoundBatchSize:  # fmt: skip
    """Find the batch size for a plan, with the evidence: memory, throughput, gradient noise, and a check by short runs.

    Law: B_noise = tr(S)/|G|^2 along a short run of the plan; S(B) = S_min (1 + B_noise/B) updates for the same loss;
    the size with the least S(B)*B/rate(B) is sought, and compared with a quarter and four times of it by branches from one state.

    Args:
        problem: what the plan descends. It, its module and all generators are left as they are, also after Ctrl-C.
        plan: its optimizer, schedule, length and seed count; where its lr is auto, one is found first.
        most: the largest size to recommend. The textbook: beyond 512 only with careful tuning of the learning rate.
        memory: bytes that a batch may take (or "2GB"); left out, what the device allows, on the CPU half of what is free.
        budget: the most it may cost in rows, as a share of the plan's own; a search of some tenths of a second is always made.
        timing: False leaves the throughput out; the same call then gives the same answer on any machine.

    Returns:
        FoundBatchSize: `batch_size`, `plan` (rescaled), `verdict`, `table()`, `plot()`, and all that it rests on.

    Raises:
        InvalidValue: a problem without rows to choose among (a stream, a function), or an argument that cannot stand.
        PlanMismatch: the plan's rows are not the problem's.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 0.5], noise=2.0, rows=4096)
    >>> found = find_batch_size(problem, fl.Plan(problem, epochs=2, batch_size=16, optimizer=fl.SGD(lr=0.1)), timing=False)
    >>> 1 < found.batch_size <= 512, found.plan.batch_size.size == found.batch_size
    (True, True)

    Source: McCandlish et al. 2018, arXiv 1812.06162; Merrill et al. 2025 (branches); the textbook's section 2.3.
    """
    _check(problem, plan, most, budget)
    allowed = None if memory is None else memories.read_bytes(memory)
    with getattr(problem, "untouched", nullcontext)():
        return _Search(problem, plan, int(most), allowed, budget, timing).run()


@dataclass
class _Search:
    """One search; `rows` counts what it has cost."""

    problem: Any
    plan: Plan
    most: int
    memory: int | None
    budget: float
    timing: bool
    rows: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def run(self) -> FoundBatchSize:
        began = time.perf_counter()
        problem, given = self.problem, self.plan
        self.engine = choose(problem)
        self.own = given.batch_size.size or problem.rows
        run, work = given.steps * self.own, max(work_of(problem), 1.0)
        self.allowance = max(self.budget * run, min(FREE_WORK / work, FREE_RUNS * run) if exact(problem) else 0.0)
        capacity = self._capacity()
        base = self._fitting(self._rated(), capacity)
        self.own = base.batch_size.size or problem.rows
        tried = walk(problem, self.engine, self._short(base), count=MOMENTS, rows=self._noise_rows()) if enough(problem) else None
        self.rows += 0 if tried is None else tried.made * self.own + tried.rows
        law, interval = self._law(tried, base)
        sizes = tuple(self._usable(doubling(min(problem.rows, self.most, capacity.largest or 1), self._least)))
        price = Price(self._throughput(base, capacity) if self.timing else None, work, LINEAR_UPDATE if exact(problem) else MODULE_UPDATE)
        sought = quickest(sizes, law, price)
        begin, made = self._branches(base, tried, sought, capacity)
        evidence = _Evidence(capacity, price, () if tried is None else tried.moments, law, interval, sizes, sought, begin, made)
        return self._found(evidence, time.perf_counter() - began)

    # ---- the pieces

    @property
    def _least(self) -> int:
        return 1 if getattr(self.problem, "sparse", False) else LEAST

    def _usable(self, sizes: list[int]) -> list[int]:
        """The sizes, without those whose last batch of an epoch is one row where layers normalise over the rows of a batch."""
        if not getattr(self.problem, "across_rows", "") or self.plan.batch_size.last == "drop":
            return sizes
        return [size for size in sizes if self.problem.rows % size != 1] or [min(self.own, sizes[-1])]

    def _rated(self) -> Plan:
        """The plan with a learning rate."""
        if not self.plan.lr_is_auto:
            return self.plan
        found = find_lr(self.problem, self.plan, budget=RATE * self.budget)
        self.rows += found.cost * self.own
        try:
            return self.plan.with_lr(found)
        except NoLearningRate:
            rate = default_lr(self.plan.optimizer)
            self.warnings.append(f"no learning rate was found, so the short run took the typical {rate:g}")
            return self.plan.with_lr(rate)

    def _capacity(self) -> Capacity:
        """The largest batch that fits: tried where the problem knows its memory, else all rows."""
        problem = self.problem
        if not hasattr(problem, "peak_bytes"):
            return Capacity(problem.rows, None, None, None, f"all {problem.rows:,} rows fit, computed in chunks")
        free = memories.free_memory() if self.memory is None and problem.device.type == "cpu" else None
        budget = self.memory if free is None else int(memories.FREE_SHARE * free)
        top = min(problem.rows, max((TIMED_BEYOND if self.timing else 1) * self.most, self.own))
        return memories.search(self._needed, min(self.own, top), top, budget, self.most, SECONDS)

    def _needed(self, size: int) -> int | None:
        """The bytes that one update of so many rows needs."""
        self.rows += size
        return self.problem.peak_bytes(timings.still(self.plan, size, 1))

    def _fitting(self, plan: Plan, capacity: Capacity) -> Plan:
        """The plan, in batches that fit."""
        if capacity.largest is None:
            raise InvalidValue(f"find_batch_size: {capacity.why} (memory {capacity.budget or 'of the device'}): give more memory, or a smaller model")
        if self.own <= capacity.largest:
            return plan
        size = 1 << int(math.log2(capacity.largest))
        self.warnings.append(f"the plan's own batch of {self.own:,} rows does not fit: {capacity.why}")
        return plan.with_batch_size(size)

    def _short(self, plan: Plan) -> Plan:
        """The plan squeezed into what the budget allows, its schedule whole."""
        steps = min(plan.steps, max(int(WALK * self.allowance / self.own), 2 * MOMENTS))
        return squeezed(plan, steps)

    def _noise_rows(self) -> int:
        return min(self.problem.rows, max(int(NOISE * self.allowance / MOMENTS), 64 if exact(self.problem) else 192))

    def _law(self, tried: Walk | None, plan: Plan) -> tuple[BatchLaw, tuple[float, float]]:
        if tried is None or not tried.moments:
            self.warnings.append("too few rows, or gradients that are not finite: no noise scale")
            return BatchLaw(0.0, math.inf), (0.0, math.inf)
        if tried.broke:
            self.warnings.append(f"the short run diverged after {tried.made:,} updates: the noise scale is that of the way until then")
        return whole_way(tried.moments, plan.steps / max(tried.moments[-1].update, 1), self.own)

    def _throughput(self, plan: Plan, capacity: Capacity) -> Throughput | None:
        timer = timings.engine_timer(self.problem, self.engine, plan)
        timer(self.own, 1)
        once = min(timer(self.own, 1) for _ in range(2))
        top = min(self.problem.rows, TIMED_BEYOND * self.most, capacity.largest or 1)
        ladder = self._usable(doubling(top, LEAST if hasattr(self.problem, "peak_bytes") else 1))
        return timings.measured(ladder, timer, max(SECONDS, SECONDS_SHARE * once * plan.steps))

    def _branches(self, plan: Plan, tried: Walk | None, size: int, capacity: Capacity) -> tuple[float | None, tuple[Branch, ...]]:
        if tried is None or tried.middle is None:
            return None, ()
        sizes = self._usable(branching.sizes_around(size, self._least, min(capacity.largest or 1, self.problem.rows, max(self.most, size))))
        if len(sizes) < 2:
            return None, ()
        each = BRANCH * self.allowance / branching.ORDERS
        while len(sizes) > 1 and each / len(sizes) < branching.SHORTEST * sizes[-1]:
            sizes = sizes[:-1]
        if len(sizes) < 2:
            self.warnings.append("the budget is too small to check the size by short runs")
            return None, ()
        rows = int(min(each / len(sizes), branching.LONG * sizes[-1]))
        short = self._short(plan)
        lr = float(short.lr_at(np.array([tried.halfway]))[0]) if tried.halfway < short.steps else float(short.lr_at().max())
        near = min(tried.moments, key=lambda m: abs(m.update - tried.halfway))
        begin, made, taken = branching.branched(self.problem, self.engine, plan, tried.middle, lr, sizes, rows, near.noise.scale)
        self.rows += taken
        return begin, made

    def _found(self, evidence: _Evidence, seconds: float) -> FoundBatchSize:
        given, e, own = self.plan, evidence, self.plan.batch_size.size or self.plan.rows
        size, moved = checked(e.sought, e.branches, e.law, e.price, self.most)
        if size > LARGE:
            self.warnings.append(f"a batch of {size:,} rows is above {LARGE}: there the rule for lr is not enough, tune it with find_lr(problem, plan)")
        larger = None if moved else faster(e.law, e.price, size, self.most, min(e.capacity.largest or 1, self.problem.rows))
        if larger is not None:
            self.warnings.append(f"{larger:,} rows are predicted to be faster still, but above {self.most} the learning rate needs careful tuning: give most={larger}")
        shown = tuple(sorted({*e.sizes, size, *(b.size for b in e.branches)}))
        resized = {s: given if s == own else given.with_batch_size(_batches(given, s)) for s in shown}
        rates = () if given.lr_is_auto else tuple(peak(resized[s]) for s in shown)
        told = verdict(size, e.law, e.interval, e.moments, e.price.rate, e.capacity, e.branches, moved)
        if not moved:
            told = f"{told}; {reason(size, shown, e.law, e.price)}"
        share = self.rows / (given.steps * own)
        return FoundBatchSize(
            size, resized[size], told, e.capacity, e.price.rate, e.moments, e.law, e.interval, e.begin, e.branches, tuple(self.warnings),
            shown, rates, int(self.rows), share, seconds,
        )  # fmt: skip


@dataclass(frozen=True)
class _Evidence:
    """What was measured, and the size that it speaks for before the check."""

    capacity: Capacity
    price: Price
    moments: tuple[Moment, ...]
    law: BatchLaw
    interval: tuple[float, float]
    sizes: tuple[int, ...]
    sought: int
    begin: float | None
    branches: tuple[Branch, ...]


def _batches(plan: Plan, size: int) -> Batches:
    """Batches of a size, drawn as the plan's own are where those are not full."""
    return Batches(size) if plan.batch_size.is_full else replace(plan.batch_size, size=size)


def work_of(problem: Any) -> float:
    """Multiply-adds of a row, about: features times outputs of a linear model, one for each parameter of a module."""
    if getattr(problem, "sparse", False):
        return problem.X.nnz / problem.rows * problem.outputs
    return float(problem.layout.size)


def _check(problem: Any, plan: Plan, most: int, budget: float) -> None:
    if getattr(problem, "rows", None) is None:
        raise InvalidValue("find_batch_size: the data comes in batches of its own, so there is no size to choose; give tensors or a Dataset")
    if problem.rows < 2:
        raise InvalidValue(f"find_batch_size: {problem!r} has one row: there is no batch size to choose")
    if plan.rows != problem.rows:
        given = "does not know its rows" if plan.rows is None else f"is for {plan.rows:,} rows"
        raise PlanMismatch(f"the plan {given} and the problem has {problem.rows:,}; make it with Plan(problem, ...)")
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 1:
        raise InvalidValue(f"find_batch_size(most={most!r}): expected a whole number of rows, 1 or more")
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < math.inf:
        raise InvalidValue(f"find_batch_size(budget={budget!r}): expected a number above 0, a share of the plan: 0.5 is half a run")


__all__ = ["FoundBatchSize", "find_batch_size"]
