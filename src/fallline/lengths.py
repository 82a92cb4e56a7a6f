"""Lengths with units, and the clock that turns them into update counts.

A length always says what it counts: `epochs(12)`, `steps(500)`, `fraction(0.05)`. A `Clock` is what a plan
knows about time: how many updates there are, and how many of them make an epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fallline.errors import InvalidValue

Unit = Literal["epochs", "steps", "fraction"]


@dataclass(frozen=True, slots=True)
class Clock:
    """What a plan knows about time.

    Args:
        steps: number of updates T in the whole plan; updates are t = 0 .. T-1.
        steps_per_epoch: updates in one pass over the rows, or None where the rows are unknown (a stream).
    """

    steps: int
    steps_per_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Length:
    """An amount of training with its unit; made by `epochs`, `steps` or `fraction`."""

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        number = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if not number or not math.isfinite(self.value) or self.value < 0:
            raise InvalidValue(f"{self.unit}({self.value!r}): expected a finite number that is not negative")
        if self.unit == "steps" and self.value != int(self.value):
            raise InvalidValue(f"steps({self.value!r}): expected a whole number of updates; use fraction() or epochs() for shares")
        if self.unit == "fraction" and self.value > 1:
            raise InvalidValue(f"fraction({self.value!r}): expected a share between 0 and 1; for {self.value:g} % write fraction({self.value / 100:g})")

    def in_steps(self, clock: Clock) -> int:
        """This length in updates, rounded to the nearest whole one (halves up).

        >>> fraction(0.05).in_steps(Clock(steps=1000)), epochs(1.5).in_steps(Clock(100, steps_per_epoch=10))
        (50, 15)
        """
        if self.unit == "steps":
            return int(self.value)
        if self.unit == "fraction":
            return math.floor(self.value * clock.steps + 0.5)
        if clock.steps_per_epoch is None:
            raise InvalidValue(f"{self!r} cannot be counted in updates: this plan does not know its rows; use steps(...)")
        return math.floor(self.value * clock.steps_per_epoch + 0.5)

    def __repr__(self) -> str:
        return f"{self.unit}({int(self.value) if self.value == int(self.value) else float(self.value)!r})"


def epochs(count: float) -> Length:
    """`count` passes over the data rows; 0.5 is half a pass.

    >>> epochs(12)
    epochs(12)
    """
    return Length(count, "epochs")


def steps(count: int) -> Length:
    """`count` updates of the parameters.

    >>> steps(500)
    steps(500)
    """
    return Length(count, "steps")


def fraction(share: float) -> Length:
    """A share of the whole plan, between 0 and 1.

    >>> fraction(0.05)
    fraction(0.05)
    """
    return Length(share, "fraction")
