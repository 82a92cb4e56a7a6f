"""Reading a range test's curve: smoothing without lag, the slope on the log axis, where it explodes, and a verdict.

Pure arithmetic on arrays: no problem, no plan. Smoothing is centred, because an average of the past alone lags by
decades on an exponential sweep; the slope is taken with respect to log lr, because a slope with respect to lr on a
log-spaced grid amplifies the noise of the smallest rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WIDTH = 0.25
"""Standard deviation of the smoothing kernel, in decades of lr."""
NEED = 0.02
"""The least fall of the loss, as a share of its start, that counts as learning."""
SAFETY = 4.0
"""The choice stays this factor below the rate at which the loss turned up: too high costs far more than too low."""
LEAP = 10.0
"""And at most this factor above the steepest descent. One sweep mixes rate with time: early rates look weak only because
the descent had not begun, so the steepest point alone is low by about a decade (measured; see docs/learning-rate.md)."""


@dataclass(frozen=True)
class Reading:
    """What a curve says.

    Args:
        lr: the choice, or None.
        steepest: where the loss falls fastest per decade.
        turn: the rate at which the smoothed loss is lowest.
        edge: the rate at which it explodes, or None where the sweep did not reach it.
        smooth: the smoothed curve, (n,).
        verdict: a sentence.
    """

    lr: float | None
    steepest: float | None
    turn: float | None
    edge: float | None
    smooth: np.ndarray
    verdict: str


def smooth(lr: np.ndarray, loss: np.ndarray, width: float = WIDTH) -> np.ndarray:
    """Gaussian average over log10 lr, centred; values that are not finite are left out.

    >>> lr = np.logspace(-3, 0, 31)
    >>> np.allclose(smooth(lr, np.full(31, 2.0)), 2.0)
    True
    """
    x = np.log10(lr)
    good = np.isfinite(loss)
    weight = np.exp(-0.5 * ((x[:, None] - x[None, :]) / width) ** 2) * good[None, :]
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 1e-12, weight @ np.where(good, loss, 0.0) / total, np.nan)


def read(lr: np.ndarray, loss: np.ndarray) -> Reading:
    """Read a curve: loss at rising learning rates, NaN or inf where the sweep broke off.

    Args:
        lr: (n,) above 0, rising.
        loss: (n,) mean batch loss at each rate.
    """
    nothing = np.full(len(lr), np.nan)
    finite = np.isfinite(loss)
    if finite.sum() < 5:
        return Reading(None, None, None, float(lr[0]), nothing, f"the loss is finite at {int(finite.sum())} rates only: start lower, or look at the data (unscaled columns?)")
    stop = int(np.argmax(~finite)) if not finite.all() else len(lr)
    if stop < 5:
        return Reading(None, None, None, float(lr[stop]), nothing, f"the loss was not finite from lr {lr[stop]:.2g} on, at the beginning of the sweep: start lower, or standardise the columns")
    x, y = lr[:stop], loss[:stop]
    early = max(3, stop // 10)
    level = float(np.median(y[:early]))
    initial = min(level, float(np.median(y[:3])))  # the first three speak where the rest of the beginning has exploded
    noise = float(np.median(np.abs(y[:early] - level)))
    cut = _explosion(y, initial, noise)
    edge = float(lr[cut]) if cut < len(lr) else None
    curve = nothing.copy()
    if cut < 5:
        return Reading(None, None, None, edge, curve, f"the loss explodes from lr {edge:.2g} on, at the beginning of the sweep: start lower, or standardise the columns")
    curve[:cut] = smooth(x[:cut], y[:cut])
    low = int(np.nanargmin(curve[:cut]))
    fall = initial - curve[low]
    scatter = float(np.median(np.abs(y[:cut] - curve[:cut])))
    if not fall > max(NEED * abs(initial), 2.5 * scatter):
        return Reading(None, None, float(lr[low]), edge, curve, f"the loss never falls clearly: from {initial:.4g} to {curve[low]:.4g} at best; the sweep gives no answer")
    slope = np.gradient(curve[:cut], np.log10(x[:cut]))
    steepest = int(np.argmin(slope[: low + 1]))
    turn = float(lr[low])
    safe = turn / SAFETY if edge is None else min(turn, edge) / SAFETY
    turned = edge is not None or low < cut - 1
    choice = min(safe, LEAP * float(lr[steepest])) if turned else float(lr[steepest])
    where = f"explodes from {edge:.2g}" if edge is not None else "did not explode within the sweep"
    verdict = (
        f"lr {choice:.2g}: the loss falls fastest at {lr[steepest]:.2g}, from {initial:.4g} to {curve[low]:.4g} at {turn:.2g}, and "
        f"{where}; the choice lies between the two"
    )
    return Reading(choice, float(lr[steepest]), turn, edge, curve, verdict)


def _explosion(y: np.ndarray, initial: float, noise: float) -> int:
    """Index of the first rate from which the loss stays above where it began, by a margin; len(y) where it does not."""
    best = np.minimum.accumulate(y)
    margin = initial + np.maximum(0.5 * np.maximum(initial - best, 0.05 * abs(initial)), 6 * noise)
    high = y > margin
    for i in range(len(y)):
        if high[i] and np.median(y[i : i + 5]) > margin[i]:
            return i
    return len(y)


def decades(low: float, high: float, per_decade: int) -> np.ndarray:
    """Rates from low to high, evenly spaced on the log axis: lr_i = low*(high/low)^(i/(n-1)).

    >>> decades(1e-3, 1e-1, 2).round(4).tolist()
    [0.001, 0.0032, 0.01, 0.0316, 0.1]
    """
    count = max(2, math.ceil(round(math.log10(high / low) * per_decade, 9)) + 1)
    return low * (high / low) ** (np.arange(count) / (count - 1))
