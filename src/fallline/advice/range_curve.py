"""What a range test's curve says: arrays in, an answer or a verdict out.

While the learning rate rises from update to update, the loss first stands still, then falls, then turns and explodes.
The fall is measured against the loss of the *same batch* at the start weights, so that batches of unlike difficulty
cancel; it is smoothed by a centred window, which has no lag, and read against the logarithm of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHARE = 0.9
"""The rate is taken where this share of the fall is done: the upper end of the steep part, before the turn.

The steepest point itself lies 0.5 to 1.5 decades lower and moves with the length of the sweep; on digits,
breast-cancer and diabetes it cost 0.2 nats of validation loss on average, this point 0.03 (docs/learning-rate.md)."""
SAFE = 0.25
"""The rate is at most this share of the rate at which the sweep diverged."""
SIGNIFICANT = 4.0
"""A fall counts from this many standard errors on."""
ROUNDING = 1e-6
"""A fall below this share of the loss is rounding (of float32 sums)."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A range test's curve.

    Attributes:
        lr: (n,) learning rates, rising geometrically.
        loss: (n,) batch loss before the update at each rate, median over the sweeps; inf where most had ended.
        smooth: (n,) the loss that the start weights have, plus the smoothed change.
        steepest: the rate at which the loss falls fastest per decade, or None without a fall.
        bottom: the rate of the smallest smoothed loss, or None without a fall.
        diverged: the rate at which the loss was above its start again, or not finite; None where it never was.
    """

    lr: np.ndarray
    loss: np.ndarray
    smooth: np.ndarray
    steepest: float | None = None
    bottom: float | None = None
    diverged: float | None = None

    def __repr__(self) -> str:
        span = f"{self.lr[0]:.3g} .. {self.lr[-1]:.3g}" if len(self.lr) else "empty"
        return f"<range test curve: {len(self.lr)} rates, {span}>"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        lists = {name: getattr(self, name).tolist() for name in ("lr", "loss", "smooth")}
        return lists | {"steepest": self.steepest, "bottom": self.bottom, "diverged": self.diverged}


@dataclass(frozen=True, eq=False)
class Reading:
    """What a curve says.

    Attributes:
        lr: the suggestion, or None where the curve gives no answer.
        interval: the smallest and the largest suggestion of the single sweeps (three or more), or None.
        verdict: a sentence.
        curve: the curve.
        remedy: "lower" or "higher" where the sweep should be run over other rates, else "".
    """

    lr: float | None
    interval: tuple[float, float] | None
    verdict: str
    curve: Curve
    remedy: str = field(default="")


def smoothed(values: np.ndarray, half: int) -> np.ndarray:
    """A centred average with weights falling to both sides (a Hann window of 2*half - 1 points): no lag.

    At the edges the window is cut and its weights are scaled up.

    Args:
        values: (n,) or (sweeps, n), finite.
        half: points to each side, 1 leaves the values as they are.

    >>> smoothed(np.array([0.0, 0.0, 4.0, 0.0, 0.0]), 2)
    array([0., 1., 2., 1., 0.])
    """
    kernel = np.hanning(2 * half + 1)[1:-1]
    n = values.shape[-1]
    inside = np.convolve(np.ones(n), kernel)[half - 1 : half - 1 + n]
    rows = [np.convolve(row, kernel)[half - 1 : half - 1 + n] / inside for row in np.atleast_2d(values)]
    return np.array(rows).reshape(values.shape)


def read(lr: np.ndarray, losses: np.ndarray, control: np.ndarray | None = None) -> Reading:
    """Read a learning rate off the losses of one or several sweeps over the same rates.

    Args:
        lr: (n,) rising rates, a geometric ladder.
        losses: (n,) or (sweeps, n) mean batch losses before each update; NaN or inf from where a sweep ended on.
        control: the losses of the same batches at the start weights, of the same shape; left out, the mean of the
            first tenth stands for all of them.

    Returns:
        the reading; `lr` is None, with a verdict, where the curve is flat, only rises, or leaves the range.

    >>> x = np.linspace(-7, 1, 161)
    >>> reading = read(10**x, 1 - 1 / (1 + 10 ** (-2 * (x + 2))) + 10 ** (3 * x))
    >>> round(reading.curve.steepest, 3)
    0.01
    """
    lr, losses = np.asarray(lr, np.float64), np.atleast_2d(np.asarray(losses, np.float64))
    known = np.isfinite(losses)
    known &= np.logical_and.accumulate(known, axis=1)
    if lr.size == 0 or not known[:, 0].any():
        return _refused("the loss of the very first batch is not finite, at the start weights: check the data and the start", lr, losses)
    change, level = _change(losses, known, control)
    window = _window(change, lr)
    single = smoothed(change, window)
    smooth = np.median(single, axis=0)
    shape = _Shape.of(lr, smooth, _error(change, single, window))
    loss = np.median(np.where(known, losses, np.inf), axis=0)
    curve = Curve(lr, loss, level + smooth, shape.steepest, shape.bottom, _diverged(lr, smooth, shape, known))
    refusal, remedy = _refusal(lr, shape, curve, level)
    if refusal:
        return Reading(None, None, refusal, curve, remedy)
    chosen, capped = _chosen(lr, smooth, shape.low, curve.diverged)
    return Reading(chosen, _interval(lr, single, chosen, curve.diverged), _sentence(chosen, capped, curve, level, shape), curve)


@dataclass(frozen=True)
class _Shape:
    """Where the smoothed change falls, and how far: `fall` >= 0 in units of the loss, `error` its standard error."""

    low: int
    fall: float
    error: float
    steepest: float | None
    bottom: float | None

    @classmethod
    def of(cls, lr: np.ndarray, smooth: np.ndarray, error: np.ndarray) -> _Shape:
        low = int(np.argmin(smooth))
        fall = max(0.0, -float(smooth[low]))
        if fall == 0 or low == 0:
            return cls(low, fall, float(error[low]), None, None)
        slope = np.gradient(smooth[: low + 1], np.log(lr[: low + 1]))
        return cls(low, fall, float(error[low]), float(lr[np.argmin(slope)]), float(lr[low]))


def _change(losses: np.ndarray, known: np.ndarray, control: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Loss minus that of the same batch at the start, cut off above, and the mean loss at the start."""
    if control is None:
        first = np.where(known, losses, np.nan)[:, : max(1, losses.shape[1] // 10)]
        control = np.full_like(losses, np.nanmean(first))
    control = np.atleast_2d(np.asarray(control, np.float64))
    usable = known & np.isfinite(control)
    level = float(np.mean(control[np.isfinite(control)]))
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.where(usable, losses - control, np.inf)
    # An explosion must not leak back through the window: a loss twice as large says as much as one of 1e30.
    deepest = -float(change[usable].min()) if usable.any() else 0.0
    top = max(abs(level), deepest) or 1.0
    return np.minimum(change, top), level


def _window(change: np.ndarray, lr: np.ndarray) -> int:
    """Half the window: an eighth of a decade, up to half a decade where the batches' noise asks for it."""
    per_decade = (len(lr) - 1) / max(np.log10(lr[-1] / lr[0]), 1e-9) if len(lr) > 1 else 1.0
    least, most = max(2, round(per_decade / 7)), max(2, round(per_decade / 2))
    top = change.max()
    quiet = np.where(change < top, change, np.nan)
    steps = np.diff(quiet, axis=1)
    steps = steps[np.isfinite(steps)]
    depth = -float(np.median(smoothed(change, most), axis=0).min())
    if steps.size < 4 or depth <= 0:
        return least
    noise = float(np.sqrt(np.mean(steps**2) / 2)) / np.sqrt(len(change))
    wanted = (noise / (0.03 * depth)) ** 2 / 1.5  # a Hann window of half-width h averages about 1.5 h points
    return int(np.clip(round(min(wanted, 1e6)), least, most))


def _error(change: np.ndarray, single: np.ndarray, window: int) -> np.ndarray:
    """Standard error of the smoothed median, from the scatter around each sweep's own smooth line; (n,)."""
    scatter = smoothed(np.mean((change - single) ** 2, axis=0), max(window, 3))
    return np.sqrt(scatter / (1.5 * window * len(change)))


def _diverged(lr: np.ndarray, smooth: np.ndarray, shape: _Shape, known: np.ndarray) -> float | None:
    """The first rate beyond the bottom at which the loss is above its start, or at which most sweeps had left the numbers."""
    after = np.arange(len(lr)) > shape.low
    bad = (smooth > max(0.0, 0.05 * shape.fall)) & after
    ended = np.mean(~known, axis=0) > 0.5
    at = np.flatnonzero(bad | ended)
    return float(lr[at[0]]) if len(at) else None


def _chosen(lr: np.ndarray, smooth: np.ndarray, low: int, diverged: float | None) -> tuple[float, bool]:
    """The rate at SHARE of the fall, between grid points by interpolation in log lr; and whether SAFE cut it."""
    wanted = SHARE * smooth[low]
    i = int(np.flatnonzero(smooth[: low + 1] <= wanted)[0])
    x = np.log(lr)
    at = x[i]
    if i > 0:
        part = (wanted - smooth[i - 1]) / (smooth[i] - smooth[i - 1])
        at = x[i - 1] + part * (x[i] - x[i - 1])
    rate = float(np.exp(at))
    if diverged is not None and rate > SAFE * diverged:
        return SAFE * diverged, True
    return rate, False


def _interval(lr: np.ndarray, single: np.ndarray, chosen: float, diverged: float | None) -> tuple[float, float] | None:
    if len(single) < 3:
        return None
    answers = [_chosen(lr, s, int(np.argmin(s)), diverged)[0] for s in single if s.min() < 0 and np.argmin(s) > 0]
    return (min(chosen, *answers), max(chosen, *answers)) if len(answers) >= 3 else None


def _refusal(lr: np.ndarray, shape: _Shape, curve: Curve, level: float) -> tuple[str, str]:
    """Why there is no answer, and which rates might hold one; two empty strings where there is one."""
    per_decade = max(1, int((len(lr) - 1) / max(np.log10(lr[-1] / lr[0]), 1e-9)))
    start = curve.smooth - level
    if len(lr) < 8:
        return f"the descent diverged after {len(lr)} updates, at the lowest learning rates (from {lr[0]:.3g}): scale the data's columns, or set low lower", "lower"
    if shape.fall <= max(SIGNIFICANT * shape.error, ROUNDING * abs(level)) or shape.bottom is None:
        if curve.diverged is not None:
            return f"no learning rate from {lr[0]:.3g} to {lr[-1]:.3g} lowered the loss beyond its noise, and at {curve.diverged:.3g} it diverged", "lower"
        return f"the curve is flat: no learning rate from {lr[0]:.3g} to {lr[-1]:.3g} changed the loss {level:.4g} beyond its noise", "higher"
    if start[: max(1, per_decade // 4)].min() < -0.5 * shape.fall:
        return f"the loss fell at once at the lowest learning rate {lr[0]:.3g}: set low lower", "lower"
    reached = int(np.flatnonzero(start <= -SHARE * shape.fall)[0])
    if curve.diverged is None and reached > len(lr) - 1 - per_decade // 2:
        return f"the loss was still falling at the highest learning rate {lr[-1]:.3g}: set high higher", "higher"
    return "", ""


def _sentence(chosen: float, capped: bool, curve: Curve, level: float, shape: _Shape) -> str:
    end = f"diverged at {curve.diverged:.3g}" if curve.diverged is not None else "did not diverge in the range"
    why = f"{SAFE:g} of the diverging rate" if capped else f"{SHARE:.0%} of the fall is done there"
    return (
        f"lr {chosen:.3g}: the loss fell from {level:.4g} to {level - shape.fall:.4g}, fastest at {curve.steepest:.3g}, lowest at {curve.bottom:.3g}, "
        f"and {end}; {why}"
    )


def _refused(verdict: str, lr: np.ndarray, losses: np.ndarray) -> Reading:
    loss = np.median(losses, axis=0) if losses.size else np.empty(0)
    return Reading(None, None, verdict, Curve(lr, loss, np.full_like(loss, np.nan)))
