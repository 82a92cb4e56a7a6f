"""Schedules: frozen values that are closed-form functions of the update index.

Update t, t = 0 .. T-1, uses `schedule(t)`; reading t = T is legal and gives the end value. A schedule is made of
legs that follow each other (`.then()`), each with its own formula in the leg's local step x = 0 .. L. Nothing is
carried from one step to the next, so any cut of a run, and any order of reading, gives the same bits.
The formulas live in `_SHAPES` at the end of the file; strings are read and printed by `schedule_text`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fallline.errors import InvalidValue, PlanEnded
from fallline.lengths import Clock, Length, fraction, steps

Values = NDArray[np.float64]
Formula = Callable[[Values], Values]

_BLOCK = 8192  # steps evaluated at a time: their temporaries stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Times:
    """A share of the peak; made by `times`."""

    share: float

    def __repr__(self) -> str:
        return f"times({_number(self.share)})"


def times(share: float) -> Times:
    """`share` of the peak (the optimizer's `lr`), where a plain number would be absolute.

    >>> curve_of(linear(to=times(0.1)), Clock(steps=10), peak=2.0)(10)
    0.2
    """
    return Times(_real("times", "share", share))


Value = float | Times


class Schedule:
    """A value that changes with the update index; see the constructors of this module. Abstract."""

    __slots__ = ()

    def bind(self, clock: Clock, peak: float | None = None) -> Curve:
        """This schedule over the T updates of `clock`.

        Args:
            clock: how many updates there are, and how many make an epoch.
            peak: the value that left-out starts and `times(...)` refer to (the optimizer's lr), or None.

        Raises:
            InvalidValue: legs that do not fit in the plan, or a peak that is needed and not there.
        """
        peak = None if peak is None else _real("bind", "peak", peak)
        return Curve(clock.steps, _place(self, Span(clock, clock.steps, peak, peak)))

    def then(self, other: Schedule) -> Schedule:
        """This schedule, and after it `other`, which starts at the value where this one ended.

        >>> warmup(fraction(0.05)).then(cosine(to=1e-6))
        warmup(over=fraction(0.05)).then(cosine(to=1e-6))
        """
        if not isinstance(other, Schedule):
            raise InvalidValue(f".then({other!r}): expected a schedule; a constant value is written constant({other!r})")
        return Chain(_legs(self) + _legs(other))

    def per(self, length: Length) -> Schedule:
        """This schedule read only once every `length`: `.per(epochs(1))` holds the value within an epoch."""
        return Held(self, _length("per", "length", length))

    def __mul__(self, factor: float) -> Schedule:
        return Scaled(_real("*", "factor", factor), self)

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
        from fallline.schedule_text import write

        return write(self, exact=True)

    @staticmethod
    def from_json(data: str) -> Schedule:
        """The schedule that `to_json` wrote."""
        return schedule(data)

    def __str__(self) -> str:
        from fallline.schedule_text import write

        return write(self)

    def __repr__(self) -> str:
        from fallline.schedule_text import code

        return code(self)


Hyper = float | Schedule


def schedule(text: str | Schedule) -> Schedule:
    """The schedule that a text describes; a schedule stands for itself.

    >>> schedule("warmup(5%) > cosine(to=1e-6)")
    warmup(over=fraction(0.05)).then(cosine(to=1e-6))
    """
    if isinstance(text, Schedule):
        return text
    from fallline.schedule_text import read

    return read(text)


def curve_of(hyper: Hyper, clock: Clock, peak: float | None = None) -> float | Curve:
    """A hyperparameter over the updates of a plan: a float where it never changes, else a `Curve`.

    >>> curve_of(0.9, Clock(steps=10)), curve_of(linear(to=0), Clock(steps=10), peak=1.0)(5)
    (0.9, 0.5)
    """
    if not isinstance(hyper, Schedule):
        return float(hyper)
    curve = hyper.bind(clock, peak)
    return curve if curve.constant is None else curve.constant


# ---- curves: schedules bound to a plan


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


# ---- the four kinds of schedule


@dataclass(frozen=True, slots=True, repr=False)
class Leg(Schedule):
    """One formula. `arguments` are those that differ from the shape's defaults, in the shape's order."""

    kind: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str) -> Any:
        """An argument, given or default."""
        return dict(self.arguments).get(name, _SHAPES[self.kind].defaults.get(name))


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


def _legs(one: Schedule) -> tuple[Schedule, ...]:
    return one.legs if isinstance(one, Chain) else (one,)


def _place(one: Schedule, span: Span) -> tuple[Piece, ...]:
    """The pieces of `one` from the local step 0 of `span` on."""
    if isinstance(one, Scaled):
        pieces = _place(one.inner, span)
        return tuple(_scaled(p, one.factor) for p in pieces)
    if isinstance(one, Held):
        inner = Curve(span.length, _place(one.inner, span))
        every = span.count(one.length)
        # The step index is exact in float64, so flooring it there loses nothing.
        return (Piece(0, lambda x: inner((np.floor(x / every) * every).astype(np.int64)), inner.constant),)
    return _chained(_legs(one), span)


def _scaled(piece: Piece, factor: float) -> Piece:
    constant = None if piece.constant is None else factor * piece.constant
    return Piece(piece.first, lambda x: factor * piece.formula(x), constant)


def _chained(legs: tuple[Schedule, ...], span: Span) -> tuple[Piece, ...]:
    placed: list[Piece] = []
    first, begin = 0, span.begin
    sizes = _sizes(legs, span)
    lived = [k for k, size in enumerate(sizes) if size > 0] or [0]  # legs of no length leave no trace
    for k in lived:
        leg, inner = legs[k], Span(span.clock, sizes[k], span.peak, begin)
        made = _SHAPES[leg.kind].piece(leg, inner) if isinstance(leg, Leg) else _place(leg, inner)
        pieces = made if isinstance(made, tuple) else (made,)
        placed += [Piece(first + p.first, p.formula, p.constant) for p in pieces]
        begin = pieces[-1].at(sizes[k] - pieces[-1].first)
        first += sizes[k]
    if first < span.length:  # explicit lengths that end early: the end value is held
        placed.append(_flat(begin if begin is not None else 0.0, first))
    return tuple(placed)


def _over(one: Schedule) -> Length | None:
    """The length a leg asks for, or None for the rest of the plan."""
    if isinstance(one, Leg):
        return one.get("over")
    return _over(one.inner) if isinstance(one, (Scaled, Held)) else None


def _sizes(legs: tuple[Schedule, ...], span: Span) -> list[int]:
    """Steps of each leg: lengths that are above zero get at least one; the one left out gets the rest."""
    lengths = [_over(leg) for leg in legs]
    open_legs = [k for k, length in enumerate(lengths) if length is None]
    if len(open_legs) > 1:
        named = " and ".join(repr(legs[k]) for k in open_legs)
        raise InvalidValue(f"{named} both lack a length, and only one leg can take the rest of the plan; give over= to the others")
    least = min(1, span.length)
    sizes = [0 if length is None or length.value == 0 else max(least, length.in_steps(span.clock)) for length in lengths]
    rest = span.length - sum(sizes)
    shares = [length.value for length in lengths if length is not None and length.unit == "fraction"]
    if rest < 0 and len(shares) == len(lengths) - len(open_legs) and sum(shares) <= 1 + 1e-12:
        sizes[sizes.index(max(sizes))] += rest  # only the rounding of the shares overran
        rest = 0
    if rest < 0:
        shown = " + ".join(f"{size} ({length!r})" for size, length in zip(sizes, lengths, strict=True) if length is not None)
        raise InvalidValue(
            f"the legs of the schedule take {shown} = {sum(sizes)} updates, but the plan has {span.length}; "
            "shorten them, use fraction(...), or train longer"
        )
    if open_legs:
        sizes[open_legs[0]] = rest
    return sizes


# ---- checks shared by the constructors


def _number(value: float) -> str:
    """The shortest text that reads back as the same float: 1e-6, 0.1, 30."""
    text = repr(int(value)) if value == int(value) and abs(value) < 1e15 and str(value) != "-0.0" else repr(float(value))
    return text.replace("e-0", "e-").replace("e+", "e")


def _real(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, np.floating, np.integer)) or not math.isfinite(value):
        raise InvalidValue(f"{where}({name}={value!r}): expected a finite number")
    return float(value)


def _value(where: str, name: str, value: Any) -> Value:
    return value if isinstance(value, Times) else _real(where, name, value)


def _length(where: str, name: str, value: Any) -> Length:
    if not isinstance(value, Length):
        hint = f"steps({value}) or epochs({value})" if isinstance(value, (int, float)) else "epochs(2)"
        raise InvalidValue(f"{where}({name}={value!r}): expected a length with its unit, such as {hint}")
    return value


def _positive(where: str, name: str, length: Length) -> None:
    if length.value == 0:
        raise InvalidValue(f"{where}({name}={length!r}): expected a length above zero")


def _make(kind: str, **given: Any) -> Schedule:
    """A leg from checked arguments: those equal to the defaults are left out, so equal schedules compare equal."""
    shape, kept = _SHAPES[kind], []
    for name, value in given.items():
        if value is None:
            continue
        if name in ("start", "to", "peak", "end") and kind != "polyak":
            value = _value(kind, name, value)
        elif name in ("over", "every", "per", "up", "start"):
            value = _length(kind, name, value)
        elif name == "at":
            value = _milestones(kind, value)
        elif name in ("factor", "rate", "gamma", "power", "alpha", "decay"):
            value = _real(kind, name, value)
        if value != shape.defaults.get(name):
            kept.append((name, value))
    return Leg(kind, tuple(kept))


def _milestones(kind: str, given: Any) -> tuple[Length, ...]:
    if isinstance(given, Length) or not isinstance(given, (list, tuple)) or not given:
        raise InvalidValue(f"{kind}(at={given!r}): expected a list of lengths, such as at=[epochs(30), epochs(60)]")
    return tuple(_length(kind, "at", one) for one in given)


# ---- constructors

_HALF, _TWENTIETH, _NOW = fraction(0.5), fraction(0.05), steps(0)


def constant(start: Value | None = None, *, over: Length | None = None) -> Schedule:
    """`start`, at every step; left out, the value where the leg before ended.

    >>> constant(0.1)
    constant(0.1)
    """
    return _make("constant", start=start, over=over)


def step_decay(
    factor: float = 0.1,
    *,
    every: Length | None = None,
    at: list[Length] | tuple[Length, ...] | None = None,
    start: Value | None = None,
    over: Length | None = None,
) -> Schedule:
    """Step decay: `start * factor**floor(x/N)`, N = `every`; or once more by `factor` at each milestone of `at`.

    A milestone given twice multiplies twice, as in PyTorch's MultiStepLR. Lengths count from the leg's beginning.

    >>> from fallline.lengths import epochs
    >>> curve = step_decay(0.1, every=epochs(30)).bind(Clock(900, steps_per_epoch=10), peak=1.0)
    >>> curve(299), curve(300)
    (1.0, 0.1)

    Raises:
        InvalidValue: both or neither of `every` and `at`; a negative factor.
    """
    if (every is None) == (at is None):
        both = "neither" if every is None else "both"
        raise InvalidValue(f"step_decay got {both} of every= and at=; give one, such as every=epochs(30) or at=[epochs(30), epochs(60)]")
    if _real("step_decay", "factor", factor) < 0:
        raise InvalidValue(f"step_decay(factor={factor!r}): expected a number that is not negative, such as 0.1")
    if isinstance(every, Length):
        _positive("step_decay", "every", every)
    return _make("step_decay", factor=factor, every=every, at=at, start=start, over=over)


def exponential(
    *,
    rate: float | None = None,
    gamma: float | None = None,
    per: Length | None = None,
    start: Value | None = None,
    over: Length | None = None,
) -> Schedule:
    """Exponential decay: `start * exp(-rate * x/N)` or `start * gamma**(x/N)`, N = `per` (left out: one step).

    >>> f"{exponential(rate=0.01).bind(Clock(1000), peak=1.0)(100):.6f}"
    '0.367879'

    Raises:
        InvalidValue: both or neither of `rate` and `gamma`; a gamma that is not above zero.
    """
    if (rate is None) == (gamma is None):
        both = "neither" if rate is None else "both"
        raise InvalidValue(f"exponential got {both} of rate= and gamma=; give one, such as gamma=0.95")
    if gamma is not None and _real("exponential", "gamma", gamma) <= 0:
        raise InvalidValue(f"exponential(gamma={gamma!r}): expected a number above zero, such as 0.95")
    if isinstance(per, Length):
        _positive("exponential", "per", per)
    return _make("exponential", rate=rate, gamma=gamma, per=per, start=start, over=over)


def cosine(*, to: Value = 0.0, cycles: int = 1, start: Value | None = None, over: Length | None = None) -> Schedule:
    """Cosine annealing: `to + (start - to)/2 * (1 + cos(pi*x/L))`; with `cycles` that often, restarting at `start`.

    Source: Loshchilov, Hutter, SGDR, 2017.

    >>> cosine(to=0).bind(Clock(100), peak=1.0)(100)
    0.0
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise InvalidValue(f"cosine(cycles={cycles!r}): expected a whole number, 1 or more")
    return _make("cosine", to=to, cycles=cycles, start=start, over=over)


def linear(*, to: Value = 0.0, start: Value | None = None, over: Length | None = None) -> Schedule:
    """A straight line from `start` to `to`: to zero it is `start * (L-x)/L`, so the last update still works.

    >>> linear(to=0).bind(Clock(4), peak=1.0)(3)
    0.25
    """
    return _make("linear", to=to, start=start, over=over)


def one_minus_sqrt(*, to: Value = 0.0, start: Value | None = None, over: Length | None = None) -> Schedule:
    """The cooldown `to + (start - to) * (1 - sqrt(x/L))`. Source: Haegele et al., 2024.

    >>> one_minus_sqrt(to=0).bind(Clock(4), peak=1.0)(1)
    0.5
    """
    return _make("one_minus_sqrt", to=to, start=start, over=over)


def one_cycle(
    *,
    start: Value = Times(0.04),
    end: Value = Times(4e-6),
    up: Length = _HALF,
    peak: Value | None = None,
    over: Length | None = None,
) -> Schedule:
    """One cycle: half a cosine from `start` up to `peak` over `up`, then another down to `end`.

    A fraction in `up` is a share of the leg. Source: Smith, Topin, Super-Convergence, 2018.

    >>> curve = one_cycle(start=0.0, end=0.0).bind(Clock(10), peak=1.0)
    >>> curve(0), curve(5), curve(10)
    (0.0, 1.0, 0.0)

    Raises:
        InvalidValue: on binding, when there is not at least one update up and one down.
    """
    return _make("one_cycle", start=start, end=end, up=up, peak=peak, over=over)


def one_cycle_momentum(
    *, high: float = 0.95, low: float = 0.85, up: Length = _HALF, over: Length | None = None
) -> Schedule:
    """The twin of `one_cycle` for momentum: from `high` down to `low` where the rate peaks, and back.

    >>> one_cycle_momentum().bind(Clock(10))(5)
    0.85
    """
    return one_cycle(start=high, peak=low, end=high, up=up, over=over)


def warmup(over: Length = _TWENTIETH, *, start: Value = 0.0, to: Value | None = None) -> Schedule:
    """A straight line from `start` up to `to` (left out: the peak): with start 0, `peak * x/N`, N = `over`.

    The first update of a warmup from zero has rate 0 and changes nothing; a `start` above zero avoids that.

    >>> warmup(steps(5)).bind(Clock(100), peak=1.0)(1)
    0.2
    """
    return _make("warmup", over=over, start=start, to=to)


def custom(function: Callable[[int, int], Value], *, over: Length | None = None) -> Schedule:
    """`function(x, L)` at each local step x of a leg of L steps; it returns a number, or `times(share)` of the peak.

    It is called once per step in Python (about 0.3 us each), always with the same two ints, so any cut agrees. Only
    a function that its module's name leads to can be written to JSON, and reading it back never imports a module.

    >>> custom(lambda x, L: 1 / (1 + x)).bind(Clock(10))(3)
    0.25
    """
    if not callable(function):
        raise InvalidValue(f"custom({function!r}): expected a function f(step, steps) that returns a number")
    return _make("custom", function=function, over=over)


def inverse_scaling(power: float, *, start: Value | None = None, over: Length | None = None) -> Schedule:
    """`start / (x+1)**power`: scikit-learn's "invscaling", whose count starts at 1.

    >>> inverse_scaling(0.5).bind(Clock(10), peak=1.0)(3)
    0.5
    """
    return _make("inverse_scaling", power=power, start=start, over=over)


def optimal(alpha: float, *, over: Length | None = None) -> Schedule:
    """`1 / (alpha * (t0 + x))`, t0 = alpha**-0.75: scikit-learn's "optimal" (Bottou), an absolute rate without a peak.

    >>> optimal(1e-4).bind(Clock(10))(0)
    10.0
    """
    if _real("optimal", "alpha", alpha) <= 0:
        raise InvalidValue(f"optimal(alpha={alpha!r}): expected the strength of an l2 penalty above zero, such as 1e-4")
    return _make("optimal", alpha=alpha, over=over)


def polyak(start: Length = _NOW) -> Schedule:
    """The weight 1/(k+1) of an equal average of all iterates since `start`; 1 before it, where the average follows.

    >>> polyak().bind(Clock(10))(3)
    0.25
    """
    return _make("polyak", start=start)


def ema(decay: float) -> Schedule:
    """The weight 1 - decay of an exponential moving average.

    >>> curve_of(ema(0.75), Clock(10))
    0.25
    """
    if not 0 <= _real("ema", "decay", decay) < 1:
        raise InvalidValue(f"ema(decay={decay!r}): expected a number from 0 up to but not 1, such as 0.999")
    return _make("ema", decay=decay)


# ---- formulas: x is the local step, L the length of the leg (at least 1 in divisions). Both ends are exact.


def _flat(level: float, first: int = 0) -> Piece:
    return Piece(first, lambda x: np.full(x.shape, level), level)


def _between(span: Span, start: float, end: float, weight: Formula) -> Piece:
    """`start * r + end * (1 - r)` with r = weight(x) from 1 down to 0: exact at both ends, unlike end + r*(start - end)."""
    if end == 0:
        return Piece(0, lambda x: start * weight(x))

    def formula(x: Values) -> Values:
        r = weight(x)
        return start * r + end * (1 - r)

    return Piece(0, formula)


def _constant(leg: Leg, span: Span) -> Piece:
    return _flat(span.value(leg.get("start"), leg.kind))


def _step_decay(leg: Leg, span: Span) -> Piece:
    start, factor = span.value(leg.get("start"), leg.kind), leg.get("factor")
    if leg.get("at") is not None:
        inside = Clock(span.length, span.clock.steps_per_epoch)
        at = np.sort(np.array([one.in_steps(inside) for one in leg.get("at")], dtype=np.float64))
        powers = start * np.power(factor, np.arange(at.size + 1.0))
        return Piece(0, lambda x: powers[np.searchsorted(at, x, side="right")])
    every = span.count(leg.get("every"))
    return Piece(0, lambda x: start * np.power(factor, np.floor(x / every)))


def _exponential(leg: Leg, span: Span) -> Piece:
    start, every = span.value(leg.get("start"), leg.kind), span.count(leg.get("per"))
    gamma, rate = leg.get("gamma"), leg.get("rate")
    if gamma is not None:
        return Piece(0, lambda x: start * np.power(gamma, x / every))
    return Piece(0, lambda x: start * np.exp(-rate * (x / every)))



def _cosine(leg: Leg, span: Span) -> Piece:
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


def _linear(leg: Leg, span: Span) -> Piece:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    return _between(span, start, end, lambda x: (length - x) / length)


def _one_minus_sqrt(leg: Leg, span: Span) -> Piece:
    start, end = span.value(leg.get("start"), leg.kind), span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    return _between(span, start, end, lambda x: 1.0 - np.sqrt(x / length))


def _one_cycle(leg: Leg, span: Span) -> tuple[Piece, ...]:
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


def _warmup(leg: Leg, span: Span) -> Piece:
    start = span.value(leg.get("start"), leg.kind)
    top = span.top(leg.kind) if leg.get("to") is None else span.value(leg.get("to"), leg.kind)
    length = max(1, span.length)
    if start == 0:
        return Piece(0, lambda x: top * (x / length))
    return _between(span, start, top, lambda x: (length - x) / length)


def _custom(leg: Leg, span: Span) -> Piece:
    function, length = leg.get("function"), span.length

    def formula(x: Values) -> Values:
        return np.array([one(int(k)) for k in x], dtype=np.float64)

    def one(step: int) -> float:
        return span.value(_value("custom", "returned value", function(step, length)), "custom")

    return Piece(0, formula)


def _inverse_scaling(leg: Leg, span: Span) -> Piece:
    start, power = span.value(leg.get("start"), leg.kind), leg.get("power")
    return Piece(0, lambda x: start / np.power(x + 1.0, power))


def _optimal(leg: Leg, span: Span) -> Piece:
    alpha = leg.get("alpha")
    # scikit-learn: typical weight sqrt(1/sqrt(alpha)), first rate = that weight, for each of its losses.
    t0 = 1.0 / (math.sqrt(1.0 / math.sqrt(alpha)) * alpha)
    return Piece(0, lambda x: 1.0 / (alpha * (t0 + x)))


def _polyak(leg: Leg, span: Span) -> Piece:
    first = leg.get("start").in_steps(Clock(span.length, span.clock.steps_per_epoch))
    return Piece(0, lambda x: 1.0 / (np.maximum(x - first, 0.0) + 1.0))


def _ema(leg: Leg, span: Span) -> Piece:
    return _flat(1.0 - leg.get("decay"))


@dataclass(frozen=True, slots=True)
class Shape:
    """What the library knows of one kind of leg: constructor, formula, defaults, and how it prints.

    Args:
        make: the public constructor.
        piece: the formula, bound to a place.
        defaults: every argument that need not be given, with its default.
        first: the argument that may stand without its name, or "".
        shown: arguments printed even where they equal the default.
    """

    make: Callable[..., Schedule]
    piece: Callable[[Leg, Span], Piece | tuple[Piece, ...]]
    defaults: dict[str, Any]
    first: str = ""
    shown: tuple[str, ...] = ()


_OPEN: dict[str, Any] = {"start": None, "over": None}
_SHAPES: dict[str, Shape] = {
    "constant": Shape(constant, _constant, _OPEN, first="start"),
    "step_decay": Shape(
        step_decay, _step_decay, {"factor": 0.1, "every": None, "at": None} | _OPEN, first="factor", shown=("factor",)
    ),
    "exponential": Shape(exponential, _exponential, {"rate": None, "gamma": None, "per": steps(1)} | _OPEN),
    "cosine": Shape(cosine, _cosine, {"to": 0.0, "cycles": 1} | _OPEN, shown=("to",)),
    "linear": Shape(linear, _linear, {"to": 0.0} | _OPEN, shown=("to",)),
    "one_minus_sqrt": Shape(one_minus_sqrt, _one_minus_sqrt, {"to": 0.0} | _OPEN, shown=("to",)),
    "one_cycle": Shape(
        one_cycle,
        _one_cycle,
        {"start": Times(0.04), "end": Times(4e-6), "up": fraction(0.5), "peak": None, "over": None},
    ),
    "warmup": Shape(
        warmup, _warmup, {"over": fraction(0.05), "start": 0.0, "to": None}, first="over", shown=("over",)
    ),
    "custom": Shape(custom, _custom, {"over": None}, first="function"),
    "inverse_scaling": Shape(inverse_scaling, _inverse_scaling, {"power": None} | _OPEN, first="power"),
    "optimal": Shape(optimal, _optimal, {"alpha": None, "over": None}, first="alpha"),
    "polyak": Shape(polyak, _polyak, {"start": steps(0)}, first="start"),
    "ema": Shape(ema, _ema, {"decay": None}, first="decay"),
}
