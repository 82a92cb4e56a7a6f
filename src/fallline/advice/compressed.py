"""A plan squeezed into fewer updates, and batches without the rows that are held out: what a probe trains on.

Law: update x of m takes its hyperparameters from update floor((x + 1/2) * T/m) of the plan's T. So a probe sees the plan's
whole schedule, warmup and decay, however short it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fallline.batches import Batches, InFile, Order
from fallline.lengths import Length
from fallline.plan import Plan
from fallline.schedules import Schedule, curve_of, custom

PEAK_READ = 4096


@dataclass(frozen=True)
class Without:
    """An order of rows without those that are held out; what that leaves free at an epoch's end is filled from its beginning.

    Args:
        order: the plan's own.
        held: bool [rows], True for rows held out.
    """

    order: Order
    held: np.ndarray

    def indices(self, rows: int, seed: int, epoch: int) -> np.ndarray:
        """As many row numbers as there are rows, none of them held out."""
        own = self.order.indices(rows, seed, epoch)
        kept = own[~self.held[own]]
        return np.ascontiguousarray(np.resize(kept, len(own)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Without) and self.order == other.order and np.array_equal(self.held, other.held)

    def __hash__(self) -> int:
        return hash(self.order)


def without(batches: Batches, rows: int, held: np.ndarray | None) -> Batches:
    """The batches without the rows `held` (row numbers), or the same where nothing is held out."""
    if held is None or not len(held):
        return batches
    mask = np.zeros(rows, bool)
    mask[held] = True
    if batches.is_full:
        return Batches(rows, order=Without(InFile(), mask), chunk=batches.chunk)
    return replace(batches, order=Without(batches.order, mask))


def compressed(plan: Plan, lr: float, steps: int, batches: Batches | None = None) -> Plan:
    """The plan at a learning rate, its schedules squeezed into `steps` updates.

    Args:
        plan: its lr is not looked at.
        lr: the learning rate, the schedule's peak.
        steps: updates, at least 1.
        batches: other batches; left out, the plan's own.
    """
    plan = plan.with_lr(lr)
    rule = plan.optimizer
    at = (2 * np.arange(steps, dtype=np.int64) + 1) * plan.steps // (2 * steps)
    changes: dict[str, Any] = {"schedule": None} if rule.schedule is not None else {}
    if rule.schedule is not None:
        changes["lr"] = _held(plan.lr_at(at))
    for f in fields(rule):
        value = getattr(rule, f.name)
        if isinstance(value, Schedule) and f.name not in ("lr", "schedule", "average"):
            curve = curve_of(value, plan.clock)
            changes[f.name] = _held(np.asarray(curve(at), np.float64)) if callable(curve) else curve
    if rule.average is not None:
        changes["average"] = _forgets(rule.average, plan, steps)
    if any(group.frozen for _, group in rule.groups):
        changes["groups"] = tuple((p, _thawed(group, plan, steps)) for p, group in rule.groups)
    rule = replace(rule, **changes)
    return Plan(rows=plan.rows, steps=steps, batch_size=batches or plan.batch_size, optimizer=rule, seed=plan.seed)


def squeezed(plan: Plan, steps: int) -> Plan:
    """The plan at its own learning rate, squeezed into `steps` updates; itself where it has so many."""
    if steps == plan.steps:
        return plan
    if not isinstance(plan.optimizer.lr, Schedule):
        return compressed(plan, plan.optimizer.lr, steps)
    short = compressed(plan, 1.0, steps)
    rates = plan.lr_at((2 * np.arange(steps, dtype=np.int64) + 1) * plan.steps // (2 * steps))
    return short._with(optimizer=replace(short.optimizer, lr=_held(rates)))


def peak(plan: Plan) -> float:
    """The highest learning rate of a plan, read at PEAK_READ of its updates at most: a plan may have millions."""
    return float(plan.lr_at(np.unique(np.linspace(0, plan.steps - 1, min(plan.steps, PEAK_READ)).astype(np.int64))).max())


def _held(values: np.ndarray) -> Any:
    """Values by update as a schedule, or the number where they are all alike."""
    return float(values[0]) if (values == values[0]).all() else custom(_Listed(values))


@dataclass(frozen=True, eq=False)
class _Listed:
    """A function of the step that knows all its values; the last one stands past the end."""

    values: np.ndarray

    def __call__(self, step: int, length: int) -> float:
        return float(self.values[min(step, len(self.values) - 1)])

    def many(self, steps: np.ndarray) -> np.ndarray:
        """The values of several steps."""
        return self.values[np.minimum(steps.astype(np.int64), len(self.values) - 1)]


def _forgets(average: Any, plan: Plan, steps: int) -> Any:
    """An average that forgets over the same share of the plan: a weight c of each update becomes 1 - (1-c)^(T/m)."""
    if not isinstance(average, Schedule):
        return 1.0 if average == 1 else -math.expm1(plan.steps / steps * math.log1p(-average))
    curve = curve_of(average, replace_steps(plan, steps))
    return average if callable(curve) else _forgets(curve, plan, steps)


def replace_steps(plan: Plan, steps: int) -> Any:
    """The plan's clock with fewer updates, an epoch as short in proportion."""
    per = plan.steps_per_epoch
    return replace(plan.clock, steps=steps, steps_per_epoch=None if per is None else max(1, round(per * steps / plan.steps)))


def _thawed(group: Any, plan: Plan, steps: int) -> Any:
    """A group frozen for the same share of the plan."""
    if group.frozen is None:
        return group
    return replace(group, frozen=Length(int(group.frozen.in_steps(plan.clock) * steps // plan.steps), "steps"))
