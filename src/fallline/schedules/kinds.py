"""The four kinds of schedule: a leg, a chain of legs, a schedule times a number, a schedule held for a length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fallline.errors import InvalidValue
from fallline.lengths import Clock, Length
from fallline.schedules.curves import Curve, Span
from fallline.schedules.formulas import SHAPES
from fallline.schedules.values import length_of, real, real_or_times


class Schedule:
    """A value that changes with the update index; see the constructors of `fallline.schedules`. Abstract."""

    __slots__ = ()

    def bind(self, clock: Clock, peak: float | None = None) -> Curve:
        """This schedule over the T updates of `clock`.

        Args:
            clock: how many updates there are, and how many make an epoch.
            peak: the value that left-out starts and `times(...)` refer to (the optimizer's lr), or None.

        Raises:
            InvalidValue: legs that do not fit in the plan, or a peak that is needed and not there.
        """
        from fallline.schedules.placing import place

        peak = None if peak is None else real("bind", "peak", peak)
        return Curve(clock.steps, place(self, Span(clock, clock.steps, peak, peak)))

    def then(self, other: Schedule) -> Schedule:
        """This schedule, and after it `other`, which starts at the value where this one ended.

        >>> from fallline import cosine, fraction, warmup
        >>> warmup(fraction(0.05)).then(cosine(to=1e-6))
        warmup(over=fraction(0.05)).then(cosine(to=1e-6))
        """
        if not isinstance(other, Schedule):
            raise InvalidValue(f".then({other!r}): expected a schedule; a constant value is written constant({other!r})")
        return Chain(legs_of(self) + legs_of(other))

    def per(self, length: Length) -> Schedule:
        """This schedule read only once every `length`: `.per(epochs(1))` holds the value within an epoch."""
        return Held(self, length_of("per", "length", length))

    def __mul__(self, factor: float) -> Schedule:
        return Scaled(real("*", "factor", factor), self)

    __rmul__ = __mul__

    def __gt__(self, other: object) -> Any:
        # Python reads a > b > c as (a > b) and (b > c), which would silently lose a.
        raise InvalidValue("'>' joins schedules in strings only; in Python write first.then(second)")

    __lt__ = __gt__

    def to_json(self) -> str:
        """A JSON value: the schedule's text. `Schedule.from_json` takes it back.

        Raises:
            InvalidValue: a custom function that cannot be found again by its name.
        """
        from fallline.schedules.text import write

        return write(self, exact=True)

    @staticmethod
    def from_json(data: str) -> Schedule:
        """The schedule that `to_json` wrote."""
        return schedule(data)

    def __str__(self) -> str:
        from fallline.schedules.text import write

        return write(self)

    def __repr__(self) -> str:
        from fallline.schedules.text import code

        return code(self)


@dataclass(frozen=True, slots=True, repr=False)
class Leg(Schedule):
    """One formula. `arguments` are those that differ from the shape's defaults, in the shape's order."""

    kind: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str) -> Any:
        """An argument, given or default."""
        return dict(self.arguments).get(name, SHAPES[self.kind].defaults.get(name))


@dataclass(frozen=True, slots=True, repr=False)
class Chain(Schedule):
    """Legs one after the other."""

    legs: tuple[Schedule, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Scaled(Schedule):
    """A schedule times a number."""

    factor: float
    inner: Schedule


@dataclass(frozen=True, slots=True, repr=False)
class Held(Schedule):
    """A schedule read once every `length`, the value held in between."""

    inner: Schedule
    length: Length


def legs_of(one: Schedule) -> tuple[Schedule, ...]:
    """The legs of a chain; any other schedule is one leg."""
    return one.legs if isinstance(one, Chain) else (one,)


Hyper = float | Schedule


def schedule(text: str | Schedule) -> Schedule:
    """The schedule that a text describes; a schedule stands for itself.

    >>> schedule("warmup(5%) > cosine(to=1e-6)")
    warmup(over=fraction(0.05)).then(cosine(to=1e-6))
    """
    if isinstance(text, Schedule):
        return text
    from fallline.schedules.text import read

    return read(text)


def curve_of(hyper: Hyper, clock: Clock, peak: float | None = None) -> float | Curve:
    """A hyperparameter over the updates of a plan: a float where it never changes, else a `Curve`.

    >>> from fallline.schedules import linear
    >>> curve_of(0.9, Clock(steps=10)), curve_of(linear(to=0), Clock(steps=10), peak=1.0)(5)
    (0.9, 0.5)
    """
    if not isinstance(hyper, Schedule):
        return float(hyper)
    curve = hyper.bind(clock, peak)
    return curve if curve.constant is None else curve.constant


def make_leg(kind: str, **given: Any) -> Schedule:
    """A leg from checked arguments: those equal to the defaults are left out, so equal schedules compare equal."""
    shape, kept = SHAPES[kind], []
    for name, value in given.items():
        if value is None:
            continue
        if name in ("start", "to", "peak", "end") and kind != "polyak":
            value = real_or_times(kind, name, value)
        elif name in ("over", "every", "per", "up", "start"):
            value = length_of(kind, name, value)
        elif name == "at":
            value = _milestones(kind, value)
        elif name in ("factor", "rate", "gamma", "power", "alpha", "decay"):
            value = real(kind, name, value)
        if value != shape.defaults.get(name):
            kept.append((name, value))
    return Leg(kind, tuple(kept))


def _milestones(kind: str, given: Any) -> tuple[Length, ...]:
    if isinstance(given, Length) or not isinstance(given, (list, tuple)) or not given:
        raise InvalidValue(f"{kind}(at={given!r}): expected a list of lengths, such as at=[epochs(30), epochs(60)]")
    return tuple(length_of(kind, "at", one) for one in given)
