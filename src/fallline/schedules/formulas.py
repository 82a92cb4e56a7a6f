"""The formulas of the legs, by kind: x is the local step, L the length of the leg (at least 1 in divisions).

Both ends are exact. `SHAPES` says of each kind what its arguments are where they are left out, and how it prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Clock, fraction, steps
from fallline.schedules.curves import Formula, Piece, Span, Values, flat
from fallline.schedules.values import Times, real_or_times


class Given(Protocol):
    """A leg as its formula sees it."""

    @property
    def kind(self) -> str: ...

    def get(self, name: str) -> Any: ...


def _between(span: Span, start: float, end: float, weight: Formula) -> Piece:
    """`start * r + end * (1 - r)` with r = weight(x) from 1 down to 0: exact at both ends, unlike end + r*(start - end)."""
    if end == 0:
        return Piece(0, lambda x: start * weight(x))

    def formula(x: Values) -> Values:
        r = weight(x)
        return start * r + end * (1 - r)

    return Piece(0, formula)


def _constant(leg: Given, span: Span) -> Piece:
    return flat(span.value(leg.get("start"), leg.kind))


def _step_decay(leg: Given, span: Span) -> Piece:
    start, factor = span.value(leg.get("start"), leg.kind), leg.get("factor")
    if leg.get("at") is not None:
        inside = Clock(span.length, span.clock.steps_per_epoch)
        at = np.sort(np.array([one.in_steps(inside) for one in leg.get("at")], dtype=np.float64))
        powers = start * np.power(factor, np.arange(at.size + 1.0))
        return Piece(0, lambda x: powers[np.searchsorted(at, x, side="right")])
    every = span.count(leg.get("every"))
    return Piece(0, lambda x: start * np.power(factor, np.floor(x / every)))


def _exponential(leg: Given, span: Span) -> Piece:
    start, every = span.value(leg.get("start"), leg.kind), span.count(leg.get("per"))
    gamma, rate = leg.get("gamma"), leg.get("rate")
    if gamma is not None:
        return Piece(0, lambda x: start * np.power(gamma, x / every))
    return Piece(0, lambda x: start * np.exp(-rate * (x / every)))


def _cosine(leg: Given, span: Span) -> Piece:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("to"), leg.kind)
    length, cycles = max(1, span.length), leg.get("cycles")
    if cycles == 1:
        return _between(span, start, end, lambda x: 0.5 * (1.0 + np.cos(np.pi * (x / length))))
    if cycles > length:
        raise InvalidValue(f"cosine(cycles={cycles}): the leg has only {span.length} updates; give at most as many cycles")

    def weight(x: Values) -> Values:
        turns = x * cycles / length
        turns = np.where(x >= length, 1.0, turns - np.floor(turns))  # the very end is an end, not a restart
        return 0.5 * (1.0 + np.cos(np.pi * turns))

    return _between(span, start, end, weight)


def _linear(leg: Given, span: Span) -> Piece:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    return _between(span, start, end, lambda x: (length - x) / length)


def _one_minus_sqrt(leg: Given, span: Span) -> Piece:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    return _between(span, start, end, lambda x: 1.0 - np.sqrt(x / length))


def _one_cycle(leg: Given, span: Span) -> tuple[Piece, ...]:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("end"), leg.kind)
    top = span.top(leg.kind) if leg.get("peak") is None else span.value(leg.get("peak"), leg.kind)
    if leg.get("up").value == 0 or (span.length > 1 and span.count(leg.get("up")) >= span.length) or span.length < 2:
        raise InvalidValue(
            f"{leg!r} over {span.length} update{'s' * (span.length != 1)}: a one-cycle needs at least one update up and one down; "
            "train longer, or change up="
        )
    rise = span.count(leg.get("up"))
    up = _between(span, start, top, lambda x: 0.5 * (1.0 + np.cos(np.pi * (x / rise))))
    fall = span.length - rise
    down = _between(span, top, end, lambda x: 0.5 * (1.0 + np.cos(np.pi * (x / fall))))
    return up, Piece(rise, down.formula)


def _warmup(leg: Given, span: Span) -> Piece:
    start = span.value(leg.get("start"), leg.kind)
    top = span.top(leg.kind) if leg.get("to") is None else span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    if start == 0:
        return Piece(0, lambda x: top * (x / length))
    return _between(span, start, top, lambda x: (length - x) / length)


def _custom(leg: Given, span: Span) -> Piece:
    function, length = leg.get("function"), span.length
    many = getattr(function, "many", None)

    def formula(x: Values) -> Values:
        if many is not None:  # a function of the library's own that knows all its values
            return many(x)
        return np.array([one(int(k)) for k in x], dtype=np.float64)

    def one(step: int) -> float:
        return span.value(real_or_times("custom", "returned value", function(step, length)), "custom")

    return Piece(0, formula)


def _inverse_scaling(leg: Given, span: Span) -> Piece:
    start, power = span.value(leg.get("start"), leg.kind), leg.get("power")
    return Piece(0, lambda x: start / np.power(x + 1.0, power))


def _optimal(leg: Given, span: Span) -> Piece:
    alpha = leg.get("alpha")
    # scikit-learn: typical weight sqrt(1/sqrt(alpha)), first rate = that weight, for each of its losses.
    t0 = 1.0 / (math.sqrt(1.0 / math.sqrt(alpha)) * alpha)
    return Piece(0, lambda x: 1.0 / (alpha * (t0 + x)))


def _polyak(leg: Given, span: Span) -> Piece:
    first = leg.get("start").in_steps(Clock(span.length, span.clock.steps_per_epoch))
    return Piece(0, lambda x: 1.0 / (np.maximum(x - first, 0.0) + 1.0))


def _ema(leg: Given, span: Span) -> Piece:
    return flat(1.0 - leg.get("decay"))


@dataclass(frozen=True, slots=True)
class Shape:
    """What the library knows of one kind of leg: formula, defaults, and how it prints. Its constructor has its name.

    Args:
        piece: the formula, bound to a place.
        defaults: every argument that need not be given, with its default.
        first: the argument that may stand without its name, or "".
        shown: arguments printed even where they equal the default.
    """

    piece: Callable[[Given, Span], Piece | tuple[Piece, ...]]
    defaults: dict[str, Any]
    first: str = ""
    shown: tuple[str, ...] = ()


_OPEN: dict[str, Any] = {"start": None, "over": None}
SHAPES: dict[str, Shape] = {
    "constant": Shape(_constant, _OPEN, first="start"),
    "step_decay": Shape(_step_decay, {"factor": 0.1, "every": None, "at": None} | _OPEN, first="factor", shown=("factor",)),
    "exponential": Shape(_exponential, {"rate": None, "gamma": None, "per": steps(1)} | _OPEN),
    "cosine": Shape(_cosine, {"to": 0.0, "cycles": 1} | _OPEN, shown=("to",)),
    "linear": Shape(_linear, {"to": 0.0} | _OPEN, shown=("to",)),
    "one_minus_sqrt": Shape(_one_minus_sqrt, {"to": 0.0} | _OPEN, shown=("to",)),
    "one_cycle": Shape(_one_cycle, {"start": Times(0.04), "end": Times(4e-6), "up": fraction(0.5), "peak": None, "over": None}),
    "warmup": Shape(_warmup, {"over": fraction(0.05), "start": 0.0, "to": None}, first="over", shown=("over",)),
    "custom": Shape(_custom, {"over": None}, first="function"),
    "inverse_scaling": Shape(_inverse_scaling, {"power": None} | _OPEN, first="power"),
    "optimal": Shape(_optimal, {"alpha": None, "over": None}, first="alpha"),
    "polyak": Shape(_polyak, {"start": steps(0)}, first="start"),
    "ema": Shape(_ema, {"decay": None}, first="decay"),
}
