"""Curves: schedules bound to a plan, piece by piece, read at any update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fallline.errors import InvalidValue, PlanEnded
from fallline.lengths import Clock, Length
from fallline.schedules.values import Times, Value

Values = NDArray[np.float64]
Formula = Callable[[Values], Values]

_BLOCK = 8192  # steps evaluated at a time: their temporaries stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Span:
    """Where a schedule is placed: the plan's clock, its own length in steps, the peak, and the value before it."""

    clock: Clock
    length: int
    peak: float | None
    begin: float | None

    def value(self, given: Value | None, name: str) -> float:
        """`given` as an absolute number; left out, it is the value where the leg before ended."""
        if given is None:
            if self.begin is None:
                raise InvalidValue(f"{name} has no start= and there is no peak to start from; write {name}(..., start=0.1)")
            return self.begin
        if isinstance(given, Times):
            return given.share * self.top(f"{given!r} in {name}")
        return given

    def top(self, why: str) -> float:
        """The peak."""
        if self.peak is None:
            raise InvalidValue(f"{why} refers to the peak, and there is none here; give an absolute number")
        return self.peak

    def count(self, length: Length) -> int:
        """A length inside this leg, at least one step; a fraction is a share of the leg."""
        return max(1, length.in_steps(Clock(self.length, self.clock.steps_per_epoch)))


@dataclass(frozen=True, slots=True)
class Piece:
    """A formula over local steps first, first+1, ...; `constant` where its value never changes."""

    first: int
    formula: Formula
    constant: float | None = None

    def at(self, x: float) -> float:
        """The value at one local step."""
        return float(self.formula(np.array([x], dtype=np.float64))[0])


def flat(level: float, first: int = 0) -> Piece:
    """The same number from local step `first` on."""
    return Piece(first, lambda x: np.full(x.shape, level), level)


class Curve:
    """A schedule bound to a plan: call it with an update index, or an array of them.

    Attributes:
        steps: number of updates T; indices 0 .. T can be read.
        constant: the value where it never changes, else None.
    """

    __slots__ = ("_firsts", "_pieces", "constant", "steps")

    def __init__(self, steps: int, pieces: tuple[Piece, ...]):
        self.steps, self._pieces = steps, pieces
        self._firsts = np.array([p.first for p in pieces], dtype=np.int64)
        levels = {p.constant for p in pieces}
        self.constant = levels.pop() if len(levels) == 1 else None

    @overload
    def __call__(self, t: int) -> float: ...
    @overload
    def __call__(self, t: NDArray[Any]) -> Values: ...
    def __call__(self, t: Any) -> float | Values:
        """The value used by update `t`; t may equal T.

        Args:
            t: an int, or an integer array of any shape.

        Raises:
            PlanEnded: an index past T.
            InvalidValue: a negative index, or one that is not whole.
        """
        index = np.asarray(t)
        if index.dtype.kind not in "iu":
            raise InvalidValue(f"a schedule was read at {t!r}: expected the whole number of an update")
        if index.size and index.max() > self.steps:
            raise PlanEnded(f"a schedule of {self.steps} updates was read at t={int(index.max())}; the last readable one is t={self.steps}")
        if index.size and index.min() < 0:
            raise InvalidValue(f"a schedule was read at t={int(index.min())}: updates count from 0")
        flat = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
        out = np.empty(flat.size, dtype=np.float64)
        for at in range(0, flat.size, _BLOCK):
            self._fill(out[at : at + _BLOCK], flat[at : at + _BLOCK])
        return float(out[0]) if index.ndim == 0 else out.reshape(index.shape)

    def _fill(self, out: Values, t: NDArray[np.int64]) -> None:
        low, high = np.searchsorted(self._firsts, (t.min(), t.max()), side="right") - 1
        if low == high:
            piece = self._pieces[low]
            out[:] = piece.formula((t - piece.first).astype(np.float64))
            return
        which = np.searchsorted(self._firsts, t, side="right") - 1
        for k in range(low, high + 1):
            here = which == k
            out[here] = self._pieces[k].formula((t[here] - self._pieces[k].first).astype(np.float64))

    def __repr__(self) -> str:
        return f"<curve over {self.steps} updates, from {self(0):g} to {self(self.steps):g}>"
