"""How rules write rows: hyperparameters over time, the columns that every rule shares, and the columns laid together.

Which columns vary is a property of the rule and the plan, never of the stretch that is asked for: a schedule that
changes anywhere makes its columns vary everywhere. So every segment of a plan needs the same registers, and a cut changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Clock
from fallline.rows import COLUMNS, FROZEN, INDEX, NEUTRAL, Rows
from fallline.rules.groups import Group
from fallline.schedules import Schedule, curve_of

Column = float | np.ndarray
"""A constant, or one value an update: float64 (updates,)."""


class Auto:
    """A learning rate still to be found: by `find_lr`, by `train`, or by `fit`."""

    def __repr__(self) -> str:
        return "auto"

    def __reduce__(self) -> str:
        return "auto"  # copies and pickles are the one object, so that `is auto` holds


auto = Auto()


def over_time(name: str, value: float | Schedule, clock: Clock, t: np.ndarray, peak: float | None = None) -> Column:
    """The hyperparameter `name` at the updates `t`: a float where it is constant.

    Raises:
        InvalidValue: a schedule leaves the range in which the hyperparameter means something; names the update.
    """
    curve = curve_of(value, clock, peak)
    if isinstance(curve, (int, float)):
        return curve
    values = curve(t)
    low, high, says = RANGES.get(name, (0.0, math.inf, "at least 0"))
    if len(t) and not (values.min() >= low and values.max() < high):  # NaN fails too
        at = int(np.argmin((values >= low) & (values < high)))
        raise InvalidValue(f"{name}={value!r} is {values[at]:g} at update {t[at]:,}: expected {says} at every update")
    return values


RANGES = {
    "momentum": (0.0, 1.0, "a number of at least 0 and below 1"),
    "clip": (math.nextafter(0.0, 1.0), math.inf, "a number above 0"),
    "average": (0.0, math.nextafter(1.0, 2.0), "a number from 0 to 1"),
}
"""Ranges [low, high) of hyperparameters over time; for all others, finite and at least 0."""


def learning_rate(rule: Any, clock: Clock, t: np.ndarray) -> Column:
    """The rule's lr at the updates `t`: its schedule with `lr` as the peak, or `lr` itself.

    Raises:
        InvalidValue: lr is still `auto`.
    """
    if isinstance(rule.lr, Auto):
        raise InvalidValue("lr is auto: find it first, with plan.with_lr(find_lr(problem, plan)), or let train or fit do so")
    if rule.schedule is None:
        return over_time("lr", rule.lr, clock, t)
    return over_time("lr", rule.schedule, clock, t, rule.lr)


def check_hyper(
    where: str, name: str, value: Any, *,
    below: float = math.inf, most: float = math.inf, above: float | None = None, scheduled: bool = True,
) -> None:  # fmt: skip
    """Refuse a hyperparameter that is neither a schedule nor a number in its range; at least 0 unless `above` is given."""
    if scheduled and isinstance(value, Schedule):
        return
    number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    floor = number and (value >= 0 if above is None else value > above)
    if floor and value < below and value <= most and value < math.inf:
        return
    bottom = "of at least 0" if above is None else f"above {above:g}"
    top = f" and below {below:g}" if below < math.inf else f" and at most {most:g}" if most < math.inf else ""
    ways = ", or a schedule" if scheduled else ""
    ways += ", or auto" if name == "lr" else ""
    hint = f"; a schedule in words is read by schedule({value!r})" if scheduled and isinstance(value, str) else ""
    raise InvalidValue(f"{where}({name}={value!r}): expected a number {bottom}{top}{ways}{hint}")


def shared(rule: Any, lr: Column, clock: Clock, t: np.ndarray, group: Group) -> dict[str, Column]:
    """Columns that any rule may have: decay, l1, clip, average."""
    out: dict[str, Column] = {}
    decay = over_time("weight_decay", rule.weight_decay, clock, t)
    if _present(rule.weight_decay) and group.weight_decay:
        decay = decay * group.weight_decay
        out |= {"shrink": 1.0 - lr * decay} if getattr(rule, "decoupled", False) else {"l2": decay}
    if _present(rule.l1) and group.l1:
        out["threshold"] = lr * (over_time("l1", rule.l1, clock, t) * group.l1)
    if rule.clip is not None:
        out["clip"] = over_time("clip", rule.clip, clock, t)
    if rule.average is not None:
        out["average"] = over_time("average", rule.average, clock, t)
    return out


def _present(hyper: Any) -> bool:
    return isinstance(hyper, Schedule) or hyper != 0


def lay(columns: Sequence[Mapping[str, Column]], groups: Sequence[Group], clock: Clock, t: np.ndarray) -> Rows:
    """Lay the groups' columns together as `Rows`; frozen groups keep still until their length is over."""
    per_group = [_thaw(c, g, clock, t) for c, g in zip(columns, groups, strict=True)]
    names = tuple(n for n in COLUMNS if any(isinstance(c.get(n), np.ndarray) for c in per_group))
    constants = np.empty((len(groups), len(COLUMNS)))
    varying = np.empty((len(t), len(groups), len(names)))
    for g, given in enumerate(per_group):
        for name in COLUMNS:
            value = given.get(name, NEUTRAL[name])
            if name in names:
                varying[:, g, names.index(name)] = value
                value = NEUTRAL[name]
            constants[g, INDEX[name]] = value
    return Rows(constants, names, varying)


def age_of(group: Group, clock: Clock, t: np.ndarray) -> np.ndarray:
    """Updates since the group's parameters began to move: `t`, less the length they were frozen; 0 until then."""
    return t if group.frozen is None else np.maximum(t - group.frozen.in_steps(clock), 0)


def _thaw(columns: Mapping[str, Column], group: Group, clock: Clock, t: np.ndarray) -> Mapping[str, Column]:
    if group.frozen is None:
        return columns
    still = t < group.frozen.in_steps(clock)
    full = NEUTRAL | dict(columns)
    skipped = {"clip"}  # one clip for all groups
    if not any(_moves(full[n], n) for n in ("momentum", "through", "look")):
        skipped |= {"momentum", "intake"}  # no velocity to keep
    if not _moves(full["second_intake"], "second_intake"):
        skipped |= {"second_keep", "eps"}
    stay = {n: v for n, v in full.items() if n in skipped or (not isinstance(v, np.ndarray) and v == FROZEN[n])}
    return stay | {n: np.where(still, FROZEN[n], v) for n, v in full.items() if n not in stay}


def _moves(column: Column, name: str) -> bool:
    return isinstance(column, np.ndarray) or column != NEUTRAL[name]
