"""Another batch size for a plan: what is rescaled with it, what is not, and the sentences that say so.

    k = new size / old size
    lr       times k for SGD and its momentum forms, times sqrt(k) for adaptive rules: the peak and every absolute rate
    lengths  in epochs and fractions stay; in steps they change so that they cover the same rows
    average  d -> d^(updates of the old plan for each of the new): it forgets over the same rows
    momentum, betas, eps, weight decay, clip and the groups' multipliers stay
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.batches import Batches
from fallline.errors import InvalidValue
from fallline.lengths import Clock, Length
from fallline.plan.ramp import RAMP, ramped, snap, unramped
from fallline.rules import Auto, Group
from fallline.schedules import Chain, Held, Leg, Scaled, Schedule, _make

if TYPE_CHECKING:
    from fallline.plan import Plan

LARGE = 512
"""The textbook's limit: beyond it the learning rate has to be tuned with care."""
_COUNTS_UPDATES = ("custom", "inverse_scaling", "optimal")
"""Shapes whose formula counts updates and cannot be stretched."""


@dataclass(frozen=True)
class Pace:
    """How many updates of the new plan stand for how many of the old one, as two whole numbers."""

    new: int
    old: int

    @property
    def stretch(self) -> float:
        """Updates of the old plan for each of the new."""
        return self.old / self.new

    def steps(self, count: int) -> int:
        """A number of updates in the new plan, to the nearest whole one (halves up)."""
        return (2 * count * self.new + self.old) // (2 * self.old)

    def length(self, length: Length) -> Length:
        """A length in steps over the same rows, at least one update where it was above zero; other units stay."""
        if length.unit != "steps":
            return length
        return Length(max(min(1, int(length.value)), self.steps(int(length.value))), "steps")


def rescaled(plan: Plan, size: int | Batches) -> Plan:
    """The plan of `plan.with_batch_size(size)`."""
    if isinstance(size, Batches):
        batches = size
    else:
        batches = Batches(size) if plan.batch_size.is_full else replace(plan.batch_size, size=size)
    old, new, pace = _paces(plan, batches)
    steps, rounded = _steps(plan, pace, old, new)
    rule, notes = refitted_rule(plan, batches)
    return plan._with(batch_size=batches, steps=steps, optimizer=rule, notes=(*plan.notes, *notes, *rounded))


def refitted_rule(plan: Plan, batches: Batches) -> tuple[Any, list[str]]:
    """The plan's optimizer for other batches over the same rows, and what was done to it in sentences."""
    old, new, pace = _paces(plan, batches)
    if old == new and pace.old == pace.new:
        return plan.optimizer, []
    clock = Clock(_steps(plan, pace, old, new)[0], None if plan.rows is None else pace.new)
    rule, said = _paced_rule(plan.optimizer, pace)
    change = f"batch size {old:,} -> {new:,}"
    if plan.lr_is_auto:
        return rule, [f"{change}: lr is auto, so it is found for the new size", *said]
    if old == new:
        return rule, said
    adaptive = bool(plan.optimizer.rows(plan.clock, (Group(),), 0, 1).registers.s)
    factor = math.sqrt(new / old) if adaptive else new / old
    rule, told = _rescaled_rule(rule, factor)
    first = f"{change}: lr was multiplied by {factor:.4g} ({'square root rule); betas and eps stay' if adaptive else 'linear rule)'}"
    rule, warm = _warmed(plan, rule, factor, clock)
    return rule, [first, *told, *warm, *said, *_warning(new)]


# ---- sizes and lengths


def _paces(plan: Plan, batches: Batches) -> tuple[int, int, Pace]:
    """The rows of an old and of a new batch, and how their updates correspond."""
    old, new = _rows_of(plan, plan.batch_size), _rows_of(plan, batches)
    if plan.rows is None:
        return old, new, Pace(old, new)
    return old, new, Pace(batches.steps_per_epoch(plan.rows), plan.batch_size.steps_per_epoch(plan.rows))


def _rows_of(plan: Plan, batches: Batches) -> int:
    rows = batches.size or plan.rows
    if rows is None:
        raise InvalidValue(f"with_batch_size({batches!r}): a stream's plan does not know its rows; expected a number of rows for a batch")
    return int(rows)


def _steps(plan: Plan, pace: Pace, old: int, new: int) -> tuple[int, list[str]]:
    """Updates over the same rows, and a sentence where they are not exactly the same."""
    steps = pace.steps(plan.steps)
    if steps == 0:
        raise InvalidValue(
            f"with_batch_size({new}): the plan's {plan.steps:,} updates of {old:,} rows are less than half an update of {new:,}; "
            "take a smaller batch, or make a longer plan"
        )
    if steps * pace.old == plan.steps * pace.new:
        return steps, []
    if plan.rows is None:
        return steps, [f"the plan's length was rounded from {plan.steps * old:,} rows to {steps * new:,}"]
    return steps, [f"the plan's length was rounded from {plan.steps / pace.old:.6g} epochs to {steps / pace.new:.6g}"]


def _warning(new: int) -> list[str]:
    if new <= LARGE:
        return []
    return [f"a batch of {new:,} rows is above {LARGE}: there the rule is not enough, tune the learning rate with care, e.g. find_lr(problem, plan)"]


# ---- time: lengths in steps, decays by update


def _paced_rule(rule: Any, pace: Pace) -> tuple[Any, list[str]]:
    """The rule with every length in steps, every decay by update and every freeze over the same rows."""
    notes: list[str] = []
    changes: dict[str, Any] = {}
    for f in fields(rule):
        value = getattr(rule, f.name)
        if isinstance(value, Schedule):
            changes[f.name] = paced = _paced(value, pace)
            if paced != value and f.name != "average":
                notes.append(f"{f.name} counts steps: {value} became {paced}, over the same rows to the nearest update")
            if counting := [leg.kind for leg in _all_legs(value) if leg.kind in _COUNTS_UPDATES]:
                notes.append(f"{f.name}: {' and '.join(counting)} counts updates by its own formula, which was left as it is")
    changes["groups"] = tuple((pattern, _paced_group(group, pace)) for pattern, group in rule.groups)
    if changes["groups"] != rule.groups:
        notes.append("groups frozen for a number of steps are frozen over the same rows")
    average = rule.average
    if average is not None:
        changes["average"] = _paced(average, pace) if isinstance(average, Schedule) else _intake(average, pace)
        if changes["average"] != average:
            notes.append(f"average {average} became {changes['average']}: it forgets over the same rows")
    return replace(rule, **changes), notes


def _intake(weight: float, pace: Pace) -> float:
    return 1.0 if weight == 1 else snap(-math.expm1(pace.stretch * math.log1p(-weight)))


def _paced_group(group: Group, pace: Pace) -> Group:
    return group if group.frozen is None else replace(group, frozen=pace.length(group.frozen))


def _paced(one: Schedule, pace: Pace) -> Schedule:
    if isinstance(one, Chain):
        return Chain(tuple(_paced(leg, pace) for leg in one.legs))
    if isinstance(one, Scaled):
        return Scaled(one.factor, _paced(one.inner, pace))
    if isinstance(one, Held):
        return Held(_paced(one.inner, pace), pace.length(one.length))
    assert isinstance(one, Leg)
    given = dict(one.arguments) | ({"factor": one.get("factor")} if one.kind == "step_decay" else {})  # its default may change too
    return _make(one.kind, **{name: _paced_argument(one, name, value, pace) for name, value in given.items()})


def _paced_argument(leg: Leg, name: str, value: Any, pace: Pace) -> Any:
    if leg.kind == "exponential" and name in ("gamma", "rate", "per"):
        if leg.get("per").unit != "steps" or name == "per":
            return value  # the decay of one update changes instead of its length, which would have to be rounded
        return snap(value**pace.stretch if name == "gamma" else value * pace.stretch)
    if leg.kind == "step_decay" and name == "factor" and _several_drops(leg, pace):
        return snap(value ** (pace.stretch / leg.get("every").value))
    if leg.kind == "ema":
        return snap(value**pace.stretch)
    if isinstance(value, tuple):
        return [pace.length(each) for each in value]
    return pace.length(value) if isinstance(value, Length) else value


def _several_drops(leg: Leg, pace: Pace) -> bool:
    """Whether one update of the new plan stands for several drops of a step decay, which are then one larger drop."""
    every = leg.get("every")
    return every is not None and every.unit == "steps" and every.value * pace.new < pace.old


def _all_legs(one: Schedule) -> Iterator[Leg]:
    if isinstance(one, Chain):
        for leg in one.legs:
            yield from _all_legs(leg)
    elif isinstance(one, (Scaled, Held)):
        yield from _all_legs(one.inner)
    elif isinstance(one, Leg):
        yield one


# ---- the rate


def with_rate_times(rule: Any, factor: float) -> Any:
    """The rule with every learning rate times `factor`, whatever its schedule is made of; weight averages and decays stay.

    Raises:
        InvalidValue: lr is still auto.
    """
    if isinstance(rule.lr, Auto):
        raise InvalidValue(f"with_lr(times({factor:g})): the learning rate is auto, so there is nothing to multiply; find it first")
    shape = rule.schedule
    if shape is not None and any(leg.kind == "custom" for leg in _all_legs(shape)):  # absolute rates or shares: only the outside is safe
        return replace(rule, schedule=_times(shape, factor, has_peak=False) if isinstance(shape, Scaled) else Scaled(factor, shape))
    return _rescaled_rule(rule, factor)[0]


def _rescaled_rule(rule: Any, factor: float) -> tuple[Any, list[str]]:
    """The rule with its peak and every absolute rate times `factor`."""
    if factor == 1:
        return rule, []
    if isinstance(rule.lr, Schedule):
        return replace(rule, lr=_times(rule.lr, factor, has_peak=False)), []
    peak = snap(rule.lr * factor)
    if rule.schedule is None:
        return replace(rule, lr=peak), []
    shape = _times(rule.schedule, factor, has_peak=True)
    custom = any(leg.kind == "custom" for leg in _all_legs(shape))
    said = ["schedule: absolute rates that custom returns were not multiplied; shares of the peak follow it"] if custom else []
    if shape != rule.schedule:
        said.append(f"schedule: its absolute rates were multiplied too: {shape}")
    return replace(rule, lr=peak, schedule=shape), said


def _times(one: Schedule, factor: float, has_peak: bool) -> Schedule:
    """A schedule with its absolute rates times `factor`; shares of the peak follow the peak."""
    if isinstance(one, Chain):
        return Chain(tuple(_times(leg, factor, has_peak) for leg in one.legs))
    if isinstance(one, Held):
        return Held(_times(one.inner, factor, has_peak), one.length)
    if isinstance(one, Scaled):
        if not _opaque(one.inner, has_peak):
            return Scaled(one.factor, _times(one.inner, factor, has_peak))
        both = snap(one.factor * factor)
        return one.inner if both == 1 else Scaled(both, one.inner)
    assert isinstance(one, Leg)
    if _opaque(one, has_peak):
        return Scaled(factor, one)
    named = {n: snap(v * factor) if n in ("start", "to", "peak", "end") and isinstance(v, float) else v for n, v in one.arguments}
    return _make(one.kind, **named)


def _opaque(one: Schedule, has_peak: bool) -> bool:
    """Whether a leg's values are absolute and can only be multiplied from outside."""
    return isinstance(one, Leg) and (one.kind == "optimal" or (one.kind == "custom" and not has_peak))


def _warmed(plan: Plan, rule: Any, factor: float, clock: Clock) -> tuple[Any, list[str]]:
    """The rule with a warmup where a larger rate needs one and has none; without the one that had been added, going back."""
    has_peak = not isinstance(rule.lr, Schedule)
    name = "schedule" if has_peak else "lr"
    shape = getattr(rule, name)
    if factor < 1:
        there, without = unramped(shape, factor, clock)
        return (replace(rule, **{name: without}), ["the warmup from the smaller rate was taken away"]) if there else (rule, [])
    if factor <= 1 or _rises(plan):
        return rule, []
    made = ramped(shape, factor, clock, has_peak)
    if made is None:
        return rule, ["no warmup was added, because the schedule's beginning has no place for one: start with a warmup, or test the rate"]
    return replace(rule, **{name: made}), [f"a warmup over the first {RAMP.value:.0%} of the plan was added, from the rate before"]


def _rises(plan: Plan) -> bool:
    """Whether the learning rate already begins below its peak: a warmup by any name."""
    lr = plan.lr_at(np.unique(np.linspace(0, plan.steps - 1, min(plan.steps, 20_000)).astype(np.int64)))
    return bool(lr[0] < lr.max() * (1 - 1e-9)) or lr.max() == 0
