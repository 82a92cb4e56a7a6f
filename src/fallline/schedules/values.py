"""Shares of the peak, and the checks of numbers and lengths that every constructor shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Length


@dataclass(frozen=True, slots=True)
class Times:
    """A share of the peak; made by `times`."""

    share: float

    def __repr__(self) -> str:
        return f"times({number_text(self.share)})"


def times(share: float) -> Times:
    """`share` of the peak (the optimizer's `lr`), where a plain number would be absolute.

    >>> from fallline.lengths import Clock
    >>> from fallline.schedules import linear
    >>> linear(to=times(0.1)).bind(Clock(steps=10), peak=2.0)(10)
    0.2
    """
    return Times(real("times", "share", share))


Value = float | Times


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float: 1e-6, 0.1, 30."""
    text = repr(int(value)) if value == int(value) and abs(value) < 1e15 and str(value) != "-0.0" else repr(float(value))
    return text.replace("e-0", "e-").replace("e+", "e")


def real(where: str, name: str, value: Any) -> float:
    """A finite number as a float; anything else is refused by its name."""
    if isinstance(value, bool) or not isinstance(value, (Real, np.floating, np.integer)) or not math.isfinite(value):
        raise InvalidValue(f"{where}({name}={value!r}): expected a finite number")
    return float(value)


def real_or_times(where: str, name: str, value: Any) -> Value:
    """A finite number, or a share of the peak."""
    return value if isinstance(value, Times) else real(where, name, value)


def length_of(where: str, name: str, value: Any) -> Length:
    """A length with its unit; a bare number is refused."""
    if not isinstance(value, Length):
        hint = f"steps({value}) or epochs({value})" if isinstance(value, (int, float)) else "epochs(2)"
        raise InvalidValue(f"{where}({name}={value!r}): expected a length with its unit, such as {hint}")
    return value


def positive(where: str, name: str, length: Length) -> None:
    """Refuse a length of zero."""
    if length.value == 0:
        raise InvalidValue(f"{where}({name}={length!r}): expected a length above zero")
