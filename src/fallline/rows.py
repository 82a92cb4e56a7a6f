"""The row: the columns, the neutral row, and the law that every engine runs.

A step is a row. A rule writes one row of numbers per update and parameter group; the law below is all that an
engine does with it. Registers, one of each per parameter: `w` the parameter, `v` the velocity, `s` the second
moment, `a` the average; `v`, `s` and `a` exist only where a rule's rows need them.

    g = gradient at (w - look*v)                      look > 0 only for look-ahead Nesterov
    g = g * min(1, clip / ||g||)                      norm over all groups; inf means off
    d = g + l2 * w
    v = momentum * v + intake * d
    u = direct * d + through * v
    if second_intake > 0:
        s = second_keep * s + second_intake * d*d
        u = u / (sqrt(s * unbias) + eps)
    w = shrink * w - lr * u
    w = sign(w) * max(|w| - threshold, 0)
    a = a + average * (w - a)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

VERSION = 1
"""Version of the set of columns; it stands in saved plans."""

NEUTRAL: dict[str, float] = {
    "look": 0.0,
    "clip": float("inf"),
    "l2": 0.0,
    "momentum": 0.0,
    "intake": 1.0,
    "direct": 1.0,
    "through": 0.0,
    "second_keep": 0.0,
    "second_intake": 0.0,
    "unbias": 1.0,
    "eps": 0.0,
    "shrink": 1.0,
    "lr": 0.0,
    "threshold": 0.0,
    "average": 0.0,
}
"""The row that changes nothing. Order of the keys = order of the columns."""

COLUMNS: tuple[str, ...] = tuple(NEUTRAL)
INDEX: dict[str, int] = {name: i for i, name in enumerate(COLUMNS)}
FROZEN: dict[str, float] = NEUTRAL | {"momentum": 1.0, "intake": 0.0, "second_keep": 1.0, "eps": 1.0}
"""The row of a frozen group: every register keeps its value."""


@dataclass(frozen=True)
class Registers:
    """Which registers some rows need beside `w`, and whether gradients are taken away from `w` or clipped."""

    v: bool
    s: bool
    a: bool
    look: bool
    clip: bool
    l2: bool
    threshold: bool


@dataclass(frozen=True)
class Answer:
    """The answer is `w*w + v*v + a*a`: a linear reading of the registers, by coefficients."""

    w: float = 1.0
    v: float = 0.0
    a: float = 0.0


@dataclass(frozen=True)
class Start:
    """How the registers start: `v` at zero or as a copy of `w`; `s` at a number; `a` always as a copy of `w`."""

    v_from_w: bool = False
    s: float = 0.0


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a stretch of updates: constants plus the few columns that vary.

    Args:
        constants: float64 [groups, columns], every column of COLUMNS (a varying column's entry is ignored).
        names: names of the columns that vary.
        varying: float64 [steps, groups, len(names)].
    """

    constants: np.ndarray
    names: tuple[str, ...]
    varying: np.ndarray

    @property
    def steps(self) -> int:
        return self.varying.shape[0]

    @property
    def groups(self) -> int:
        return self.constants.shape[0]

    def dense(self) -> np.ndarray:
        """float64 [steps, groups, columns]: for the reference engine and for tables."""
        full = np.repeat(self.constants[None], self.steps, axis=0)
        for k, name in enumerate(self.names):
            full[:, :, INDEX[name]] = self.varying[:, :, k]
        return full

    def column(self, name: str) -> np.ndarray:
        """float64 [steps, groups] of one column."""
        if name in self.names:
            return self.varying[:, :, self.names.index(name)]
        return np.broadcast_to(self.constants[:, INDEX[name]], (self.steps, self.groups))

    @cached_property
    def registers(self) -> Registers:
        """What these rows need: a column that is not neutral somewhere needs its register."""

        def used(name: str) -> bool:
            if name in self.names:
                return True
            return bool((self.constants[:, INDEX[name]] != NEUTRAL[name]).any())

        return Registers(
            v=used("momentum") or used("through") or used("look"),
            s=used("second_intake"),
            a=used("average"),
            look=used("look"),
            clip=used("clip"),
            l2=used("l2"),
            threshold=used("threshold"),
        )


def update(row: Mapping[str, float] | np.ndarray, g: np.ndarray, w: np.ndarray, v: np.ndarray, s: np.ndarray, a: np.ndarray) -> None:
    """Apply one row to one group's registers in place, given its gradient `g` (already clipped).

    All arrays have the same shape; `v`, `s` and `a` may be arrays of zeros where unused. This is the law of the
    module's head, stated once; `engines/reference.py` runs it, and every other engine is tested against that.
    """
    r = dict(zip(COLUMNS, row, strict=True)) if isinstance(row, np.ndarray) else row
    d = g + r["l2"] * w
    v[:] = r["momentum"] * v + r["intake"] * d
    u = r["direct"] * d + r["through"] * v
    if r["second_intake"] > 0:
        s[:] = r["second_keep"] * s + r["second_intake"] * d * d
        u = u / (np.sqrt(s * r["unbias"]) + r["eps"])
    w[:] = r["shrink"] * w - r["lr"] * u
    if r["threshold"] > 0:
        w[:] = np.sign(w) * np.maximum(np.abs(w) - r["threshold"], 0.0)
    a[:] = a + r["average"] * (w - a)
