"""The warmup that a larger batch asks for: put in front of a schedule whose lengths keep their meaning, and taken away again.

Law (Goyal et al. 2017): from the rate that was good before, lr/factor, on a straight line to lr. Its length, 5 % of the
plan, lies between theirs (5 of 90 epochs) and the textbook's 5 to 10 %.
"""

from __future__ import annotations

import math
from typing import Any

from fallline.lengths import Clock, Length, fraction
from fallline.schedules import Chain, Held, Leg, Schedule, Times, _make, constant, step_decay, times, warmup

RAMP = fraction(0.05)


def snap(value: float) -> float:
    """The number of at most 12 digits that `value` differs from by rounding alone, or `value`: 0.30000000000000004 is 0.3.

    >>> snap(0.1 * 3), snap(0.1 * 2**0.5 / 2**0.5), snap(2**0.5)
    (0.3, 0.1, 1.4142135623730951)
    """
    short = float(f"{value:.12g}")
    return short if abs(short - value) <= 4 * math.ulp(value) else value


def ramped(shape: Schedule | None, factor: float, clock: Clock, has_peak: bool = True) -> Schedule | None:
    """`shape` after a warmup from 1/factor of where it begins; None where its first leg has no place for one.

    >>> from fallline.lengths import epochs
    >>> ramped(step_decay(0.1, at=[epochs(30), epochs(60)]), 2.0, Clock(1000, steps_per_epoch=10))
    warmup(over=fraction(0.05), start=times(0.5)).then(step_decay(0.1, at=[epochs(25), epochs(55)]))
    """
    if clock.steps < 2:
        return None
    if shape is None:
        return _ramp(None, factor).then(constant())
    legs = shape.legs if isinstance(shape, Chain) else (shape,)
    first = legs[0].inner if isinstance(legs[0], Held) else legs[0]
    if not isinstance(first, Leg) or first.kind == "custom" or (first.get("start") is None and not has_peak):
        return None
    rest = _moved(legs[0], first, -1, clock, len(legs) == 1)
    return None if rest is None else Chain((_ramp(first.get("start"), factor), *rest, *legs[1:]))


def unramped(shape: Schedule | None, factor: float, clock: Clock) -> tuple[bool, Schedule | None]:
    """Whether `shape` begins with the warmup that `ramped` puts before a plan at 1/factor; and the schedule without it."""
    legs = shape.legs if isinstance(shape, Chain) else ()
    if len(legs) < 2 or not _is_ramp(legs[0], factor):
        return False, shape
    rest = legs[1:]
    if rest == (constant(),):
        return True, None
    if len(rest) > 1 and rest[1] == _restarted(rest[1]) and rest[0] == constant(over=_shifted(rest[1].get("every"), -1, clock)):
        joined: tuple[Schedule, ...] = (step_decay(rest[1].get("factor"), every=rest[1].get("every")), *rest[2:])
    else:
        first = rest[0].inner if isinstance(rest[0], Held) else rest[0]
        back = _moved(rest[0], first, +1, clock, len(rest) == 1) if isinstance(first, Leg) and first.get("every") is None else None
        if back is None:
            return False, shape
        joined = (*back, *rest[1:])
    return True, joined[0] if len(joined) == 1 else Chain(joined)


def _ramp(begin: Any, factor: float) -> Schedule:
    """The warmup to where a schedule begins (None: the peak), from 1/factor of it."""
    if begin is None:
        return warmup(RAMP, start=times(snap(1 / factor)))
    if isinstance(begin, Times):
        return warmup(RAMP, start=times(snap(begin.share / factor)), to=begin)
    return warmup(RAMP, start=snap(begin / factor), to=begin)


def _is_ramp(leg: Schedule, factor: float) -> bool:
    """Whether a leg is the warmup from `factor` of where it leads, as `_ramp` makes it (roundings of roots apart)."""
    if not isinstance(leg, Leg) or leg.kind != "warmup" or leg.get("over") != RAMP:
        return False
    start, to = leg.get("start"), leg.get("to")
    to = times(1) if to is None else to
    if isinstance(start, Times) and isinstance(to, Times):
        start, to = start.share, to.share
    return isinstance(start, float) and isinstance(to, float) and math.isclose(start, to * factor, rel_tol=1e-12)


def _moved(whole: Schedule, leg: Leg, sign: int, clock: Clock, alone: bool) -> tuple[Schedule, ...] | None:
    """The first leg with a warmup put before it (-1) or taken away (+1); None where it has no room."""
    over, at, every = leg.get("over"), leg.get("at"), leg.get("every")
    if every is not None:
        if over is not None or whole is not leg or leg.get("start") is not None:
            return None
        flat = _shifted(every, -1, clock)
        return None if flat is None else (constant(over=flat), step_decay(leg.get("factor"), every=every, start=times(leg.get("factor"))))
    if over is None and at is None:
        return (whole,)
    changes: dict[str, Any] = {}
    if over is not None:
        changes["over"] = _shifted(over, sign, clock)
    if at is not None:
        inside = over is None and alone
        if any(one.unit == "fraction" for one in at) and not inside:
            return None  # shares of a leg that is not the rest of the plan
        changes["at"] = [_inside(one, sign) if one.unit == "fraction" else _shifted(one, sign, clock) for one in at]
    if changes.get("over", RAMP) is None or None in changes.get("at", []):
        return None
    made = _make(leg.kind, **(dict(leg.arguments) | changes))
    return (Held(made, whole.length) if isinstance(whole, Held) else made,)


def _restarted(leg: Schedule) -> Schedule | None:
    """What `_moved` makes of a step decay by `every`, from any leg of that kind."""
    if not isinstance(leg, Leg) or leg.kind != "step_decay" or leg.get("every") is None:
        return None
    return step_decay(leg.get("factor"), every=leg.get("every"), start=times(leg.get("factor")))


def _shifted(length: Length, sign: int, clock: Clock) -> Length | None:
    """A length of the plan less (or with) the warmup's; None where nothing is left."""
    if length.unit == "steps":
        part: float = max(1, RAMP.in_steps(clock))
    elif length.unit == "epochs":
        part = RAMP.value * clock.steps / (clock.steps_per_epoch or 1)
    else:
        part = RAMP.value
    value = snap(round(length.value + sign * part, 12))
    return Length(value, length.unit) if value > 0 else None


def _inside(length: Length, sign: int) -> Length | None:
    """A share of the whole plan as a share of what is left after the warmup, or back."""
    value = (length.value - RAMP.value) / (1 - RAMP.value) if sign < 0 else length.value * (1 - RAMP.value) + RAMP.value
    return Length(snap(round(value, 12)), "fraction") if value > 0 else None
