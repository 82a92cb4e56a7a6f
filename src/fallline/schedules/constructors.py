"""The constructors: one function for each kind of leg, with its law."""

from __future__ import annotations

from collections.abc import Callable

from fallline.errors import InvalidValue
from fallline.lengths import Length, fraction, steps
from fallline.schedules.kinds import Schedule, make_leg
from fallline.schedules.values import Times, Value, positive, real

_HALF, _TWENTIETH, _NOW = fraction(0.5), fraction(0.05), steps(0)
_LOW, _LAST = Times(0.04), Times(4e-6)


def constant(start: Value | None = None, *, over: Length | None = None) -> Schedule:
    """`start`, at every step; left out, the value where the leg before ended.

    >>> constant(0.1)
    constant(0.1)
    """
    return make_leg("constant", start=start, over=over)


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

    >>> from fallline.lengths import Clock, epochs
    >>> curve = step_decay(0.1, every=epochs(30)).bind(Clock(900, steps_per_epoch=10), peak=1.0)
    >>> curve(299), curve(300)
    (1.0, 0.1)

    Raises:
        InvalidValue: both or neither of `every` and `at`; a negative factor.
    """
    if (every is None) == (at is None):
        both = "neither" if every is None else "both"
        raise InvalidValue(f"step_decay got {both} of every= and at=; give one, such as every=epochs(30) or at=[epochs(30), epochs(60)]")
    if real("step_decay", "factor", factor) < 0:
        raise InvalidValue(f"step_decay(factor={factor!r}): expected a number that is not negative, such as 0.1")
    if isinstance(every, Length):
        positive("step_decay", "every", every)
    return make_leg("step_decay", factor=factor, every=every, at=at, start=start, over=over)


def exponential(
    *,
    rate: float | None = None,
    gamma: float | None = None,
    per: Length | None = None,
    start: Value | None = None,
    over: Length | None = None,
) -> Schedule:
    """Exponential decay: `start * exp(-rate * x/N)` or `start * gamma**(x/N)`, N = `per` (left out: one step).

    >>> from fallline.lengths import Clock
    >>> f"{exponential(rate=0.01).bind(Clock(1000), peak=1.0)(100):.6f}"
    '0.367879'

    Raises:
        InvalidValue: both or neither of `rate` and `gamma`; a gamma that is not above zero.
    """
    if (rate is None) == (gamma is None):
        both = "neither" if rate is None else "both"
        raise InvalidValue(f"exponential got {both} of rate= and gamma=; give one, such as gamma=0.95")
    if gamma is not None and real("exponential", "gamma", gamma) <= 0:
        raise InvalidValue(f"exponential(gamma={gamma!r}): expected a number above zero, such as 0.95")
    if isinstance(per, Length):
        positive("exponential", "per", per)
    return make_leg("exponential", rate=rate, gamma=gamma, per=per, start=start, over=over)


def cosine(*, to: Value = 0.0, cycles: int = 1, start: Value | None = None, over: Length | None = None) -> Schedule:
    """Cosine annealing: `to + (start - to)/2 * (1 + cos(pi*x/L))`; with `cycles` that often, restarting at `start`.

    Source: Loshchilov, Hutter, SGDR, 2017.

    >>> from fallline.lengths import Clock
    >>> cosine(to=0).bind(Clock(100), peak=1.0)(100)
    0.0
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise InvalidValue(f"cosine(cycles={cycles!r}): expected a whole number, 1 or more")
    return make_leg("cosine", to=to, cycles=cycles, start=start, over=over)


def linear(*, to: Value = 0.0, start: Value | None = None, over: Length | None = None) -> Schedule:
    """A straight line from `start` to `to`: to zero it is `start * (L-x)/L`, so the last update still works.

    >>> from fallline.lengths import Clock
    >>> linear(to=0).bind(Clock(4), peak=1.0)(3)
    0.25
    """
    return make_leg("linear", to=to, start=start, over=over)


def one_minus_sqrt(*, to: Value = 0.0, start: Value | None = None, over: Length | None = None) -> Schedule:
    """The cooldown `to + (start - to) * (1 - sqrt(x/L))`. Source: Haegele et al., 2024.

    >>> from fallline.lengths import Clock
    >>> one_minus_sqrt(to=0).bind(Clock(4), peak=1.0)(1)
    0.5
    """
    return make_leg("one_minus_sqrt", to=to, start=start, over=over)


def one_cycle(
    *,
    start: Value = _LOW,
    end: Value = _LAST,
    up: Length = _HALF,
    peak: Value | None = None,
    over: Length | None = None,
) -> Schedule:
    """One cycle: half a cosine from `start` up to `peak` over `up`, then another down to `end`.

    A fraction in `up` is a share of the leg. Source: Smith, Topin, Super-Convergence, 2018.

    >>> from fallline.lengths import Clock
    >>> curve = one_cycle(start=0.0, end=0.0).bind(Clock(10), peak=1.0)
    >>> curve(0), curve(5), curve(10)
    (0.0, 1.0, 0.0)

    Raises:
        InvalidValue: on binding, when there is not at least one update up and one down.
    """
    return make_leg("one_cycle", start=start, end=end, up=up, peak=peak, over=over)


def one_cycle_momentum(
    *, high: float = 0.95, low: float = 0.85, up: Length = _HALF, over: Length | None = None
) -> Schedule:
    """The twin of `one_cycle` for momentum: from `high` down to `low` where the rate peaks, and back.

    >>> from fallline.lengths import Clock
    >>> one_cycle_momentum().bind(Clock(10))(5)
    0.85
    """
    return one_cycle(start=high, peak=low, end=high, up=up, over=over)


def warmup(over: Length = _TWENTIETH, *, start: Value = 0.0, to: Value | None = None) -> Schedule:
    """A straight line from `start` up to `to` (left out: the peak): with start 0, `peak * x/N`, N = `over`.

    The first update of a warmup from zero has rate 0 and changes nothing; a `start` above zero avoids that.

    >>> from fallline.lengths import Clock
    >>> warmup(steps(5)).bind(Clock(100), peak=1.0)(1)
    0.2
    """
    return make_leg("warmup", over=over, start=start, to=to)


def custom(function: Callable[[int, int], Value], *, over: Length | None = None) -> Schedule:
    """`function(x, L)` at each local step x of a leg of L steps; it returns a number, or `times(share)` of the peak.

    It is called once per step in Python (about 0.3 us each), always with the same two ints, so any cut agrees. Only
    a function that its module's name leads to can be written to JSON, and reading it back never imports a module.

    >>> from fallline.lengths import Clock
    >>> custom(lambda x, L: 1 / (1 + x)).bind(Clock(10))(3)
    0.25
    """
    if not callable(function):
        raise InvalidValue(f"custom({function!r}): expected a function f(step, steps) that returns a number")
    return make_leg("custom", function=function, over=over)


def inverse_scaling(power: float, *, start: Value | None = None, over: Length | None = None) -> Schedule:
    """`start / (x+1)**power`: scikit-learn's "invscaling", whose count starts at 1.

    >>> from fallline.lengths import Clock
    >>> inverse_scaling(0.5).bind(Clock(10), peak=1.0)(3)
    0.5
    """
    return make_leg("inverse_scaling", power=power, start=start, over=over)


def optimal(alpha: float, *, over: Length | None = None) -> Schedule:
    """`1 / (alpha * (t0 + x))`, t0 = alpha**-0.75: scikit-learn's "optimal" (Bottou), an absolute rate without a peak.

    >>> from fallline.lengths import Clock
    >>> optimal(1e-4).bind(Clock(10))(0)
    10.0
    """
    if real("optimal", "alpha", alpha) <= 0:
        raise InvalidValue(f"optimal(alpha={alpha!r}): expected the strength of an l2 penalty above zero, such as 1e-4")
    return make_leg("optimal", alpha=alpha, over=over)


def polyak(start: Length = _NOW) -> Schedule:
    """The weight 1/(k+1) of an equal average of all iterates since `start`; 1 before it, where the average follows.

    >>> from fallline.lengths import Clock
    >>> polyak().bind(Clock(10))(3)
    0.25
    """
    return make_leg("polyak", start=start)


def ema(decay: float) -> Schedule:
    """The weight 1 - decay of an exponential moving average.

    >>> from fallline.lengths import Clock
    >>> from fallline.schedules import curve_of
    >>> curve_of(ema(0.75), Clock(10))
    0.25
    """
    if not 0 <= real("ema", "decay", decay) < 1:
        raise InvalidValue(f"ema(decay={decay!r}): expected a number from 0 up to but not 1, such as 0.999")
    return make_leg("ema", decay=decay)
