"""The search: a few rates over short horizons, then fewer over longer ones, and from there to the plan's own length.

Law: the best rate of m updates is that of T updates times (T/m)^a, with a between 0 (a rate limited by stability) and 1 (a
rate limited by how far the descent should go at all); what it is in between was measured. So a short probe is never read
as if it were the run: its best rate is the upper end of the interval, times m/T the lower one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fallline.advice.probe import Rung

DRIFT, CONVEX_DRIFT = 0.7, 0.3
"""The power of m/T that the best rate of m updates is multiplied by; measured (benchmarks/advice), on half of the cells. Where
the loss is convex, its curvature does not grow on the way down, as a network's does, and the edge of stability stays."""
TOLERANCE = 0.02
"""Rates whose score is within this share of what the best one gained are the flat region."""
WIDE, FINE = 1.0, 0.3
"""Distances of neighbouring rates in the first rung and the last, in decades; the first is filled in halfway around its best."""
FIRST_SHARE = 0.4
"""Share of the budget for the first rung, where there are two."""
TWO_RUNGS = 0.2
"""From this budget on, in runs, a second rung pays."""
LONGER = 1.5
"""A second rung must be this many times as long as the first."""
EXTENSIONS = 12
"""Rates that a rung may be extended by, towards the side where its best one lies."""
SATURATED, STILL = 0.9, 0.1
"""The drift where four times the length gains nothing more that is beyond a standard error; from a gain of STILL on, as a
share of all gained, the drift is that of the problem's kind."""
CAUTION = 0.5
"""Decades above its low end where a wide flat region is entered at most."""
ERRORS = 2.0
"""Standard errors of a paired difference within which a rate still belongs to the interval."""
STIRRED = 1e-4
"""A score nearer than this to that of the start, as a share of it, says that the rate is too low to do anything."""
RESOLUTION = 0.25
"""A step of a grid of four rates to the decade: no interval is finer. With half of it, intervals held the best rate as seldom as
88 times in 100 (benchmarks/advice/coverage.py)."""


class Trials(Protocol):
    """What tries rates, scores them, and counts what that costs: `probe.Probe`, or one's own loader and optimizer."""

    spent: float

    @property
    def pass_cost(self) -> float: ...

    @property
    def start_score(self) -> float: ...

    @property
    def told(self) -> str: ...

    @property
    def exact(self) -> bool: ...

    @property
    def convex(self) -> bool: ...

    def try_rates(self, rates: Sequence[float], steps: int) -> Rung: ...

    def falls(self, rung: Rung, k: int) -> bool: ...


@dataclass(frozen=True)
class Flat:
    """Where a rung's scores are as good as its best, log10 of rates.

    Args:
        low, high: its ends.
        best: the rate with the lowest score.
        open_low, open_high: whether it reaches past the lowest or the highest rate tried.
    """

    low: float
    high: float
    best: float
    open_low: bool
    open_high: bool

    @property
    def middle(self) -> float:
        """Its middle, but in a wide one not far above its low end: too high costs far more than too low."""
        return min((self.low + self.high) / 2, self.low + CAUTION)


def flat_region(rung: Rung, first: float, tolerance: float = TOLERANCE, errors: float = 0.0) -> Flat:
    """The rates around the best whose score is within tolerance of it, read off the line between neighbours.

    Args:
        rung: at least one finite score.
        first: the score before any update.
        tolerance: as a share of what the best one gained.
        errors: and so many standard errors of the difference to it.
    """
    x, y = np.log10(rung.lr), rung.score
    k = int(np.argmin(y))
    level = y[k] + tolerance * max(first - y[k], 0.0)
    if errors:
        y = y - errors * rung.errors(k)

    def end(step: int) -> tuple[float, bool]:
        i = k
        while 0 <= i + step < len(x):
            if not y[i + step] <= level:
                rise = y[i + step] - y[i]
                reach = (level - y[i]) / rise if math.isfinite(rise) and rise > 0 else 0.0
                return float(x[i] + (x[i + step] - x[i]) * reach), False
            i += step
        return float(x[i]), True

    (low, open_low), (high, open_high) = end(-1), end(1)
    return Flat(low, high, float(x[k]), open_low, open_high)


def climb(probe: Trials, rates: list[float], steps: int, spacing: float, most: float) -> Rung:
    """Try rates, and more of them on the side where the best one lies, until it has a neighbour on both.

    Args:
        most: updates that all of it may cost.
    """
    stop = probe.spent + most
    rung = probe.try_rates(rates, steps)
    for _ in range(EXTENSIONS):
        one = steps + probe.pass_cost
        if probe.spent + one > stop:
            break
        if not np.isfinite(rung.score).any():
            more = rung.lr[0] * 10.0 ** (-2 * spacing)
        else:
            k = int(np.argmin(rung.score))
            if 0 < k < len(rung.lr) - 1:
                break
            if k == 0 and abs(rung.score[0] - probe.start_score) <= STIRRED * abs(probe.start_score):
                break
            if len(rung.lr) == 1 or k == len(rung.lr) - 1:
                more = rung.lr[k] * 10.0**spacing
            else:
                more = rung.lr[k] * 10.0**-spacing
        rung = rung.joined(probe.try_rates([float(more)], steps))
    return rung


def rungs(probe: Trials, guess: float, updates: float, total: int) -> list[Rung]:
    """The rungs of the search: one where the budget is small, else a wide one and a longer one.

    Args:
        guess: where to begin.
        updates: what may be spent.
        total: the plan's updates T.
    """
    begin = probe.spent
    two = updates >= TWO_RUNGS * total
    steps = _horizon(probe, (FIRST_SHARE if two else 1.0) * updates, 5, total if probe.exact or not two else max(total // 4, 1))
    first = climb(probe, _around(guess, WIDE), steps, WIDE, updates)
    if not np.isfinite(first.score).any():
        return [first]
    if updates - (probe.spent - begin) >= 2 * (steps + probe.pass_cost):
        best = float(first.lr[np.argmin(first.score)])
        first = first.joined(probe.try_rates([best * 10 ** (-WIDE / 2), best * 10 ** (WIDE / 2)], steps))
    left = updates - (probe.spent - begin)
    longer = _horizon(probe, left, 4, total)
    if not two or longer < min(LONGER * steps, total):
        return [first]
    center = 10 ** flat_region(first, probe.start_score).middle * (steps / longer) ** usual_drift(probe)
    if probe.exact:
        center = float(first.lr[np.argmin(first.score)])
    last = climb(probe, _around(center, FINE), longer, FINE, left)
    left = updates - (probe.spent - begin)
    if longer == total and left >= 2 * (longer + probe.pass_cost) and np.isfinite(last.score).any():
        best = float(last.lr[np.argmin(last.score)])
        last = last.joined(probe.try_rates([best * 10 ** (-FINE / 2), best * 10 ** (FINE / 2)], longer))
    return [first, last]


def _around(center: float, spacing: float) -> list[float]:
    return [center * 10 ** (spacing * i) for i in (-1, 0, 1)]


def _horizon(probe: Trials, updates: float, count: int, total: int) -> int:
    """Updates each of `count` rates may have, their scoring paid."""
    return int(min(max(updates / count - probe.pass_cost, 1), total))


@dataclass(frozen=True)
class Answer:
    """The search read: a rate with its interval and its flat region, or None and why."""

    lr: float | None
    interval: tuple[float, float] | None
    flat: tuple[float, float] | None
    verdict: str


def answer(made: list[Rung], probe: Trials, total: int) -> Answer:
    """Read the rungs.

    Args:
        made: at least one rung; the last is the longest.
        total: the plan's updates T.
    """
    first, last = probe.start_score, next((r for r in reversed(made) if np.isfinite(r.score).any()), made[-1])
    span = f"{last.lr[0]:.2g} to {last.lr[-1]:.2g}"
    if not np.isfinite(last.score).any():
        return Answer(None, None, None, f"every rate tried, {span}, diverged within {last.steps:,} updates; no answer")
    k = int(np.argmin(last.score))
    moved = f"from {first:.4g} to {last.score[k]:.4g} at {last.lr[k]:.2g}, over {last.steps:,} updates"
    if not any(probe.falls(last, i) for i in range(len(last.lr))):
        return Answer(None, None, None, f"no rate from {span} lowers {probe.told} clearly: {moved}; no answer")
    region = flat_region(last, first)
    if last is made[0] and k in (0, len(last.lr) - 1):
        side = "lowest" if k == 0 else "highest"
        return Answer(None, None, None, f"the best rate tried is the {side} one ({moved}), and the budget ended there; no answer")
    clear, ratio = probe.falls(last, k), math.log10(total / last.steps)
    power = 0.0 if probe.exact or (probe.convex and not clear) else _drift(made, first, usual_drift(probe))
    middle = region.best if probe.exact else region.middle
    low, high = _ends(made, last, first)
    low = low - (0.0 if probe.exact else ratio)
    lr = 10 ** (middle - power * ratio)
    shorter = "" if last.steps == total else f", and the plan's {total:,} updates want {10 ** (power * ratio):.2g} times less"
    doubtful = "" if clear else " (lower rates do so clearly, this one on the mean alone)"
    verdict = f"lr {lr:.2g}, between {10**low:.2g} and {10**high:.2g}: {probe.told} falls {moved}{doubtful}{shorter}"
    return Answer(lr, (10**low, 10**high), (10**region.low, 10**region.high), verdict)


def _ends(made: list[Rung], last: Rung, first: float) -> tuple[float, float]:
    """The interval at the last rung's horizon, log10: what is as good within tolerance and error. Where that rung ends before
    it, the one before says how far it goes, its lower end moved by the whole ratio of the lengths."""
    region = flat_region(last, first, errors=ERRORS)
    low = region.low - (FINE if region.open_low else RESOLUTION)
    high = region.high + (FINE if region.open_high else RESOLUTION)
    if last is not made[0] and np.isfinite(made[0].score).any():
        before = flat_region(made[0], first, errors=ERRORS)
        low = min(low, before.low - math.log10(last.steps / made[0].steps)) if region.open_low else low
        high = max(high, before.high) if region.open_high else high
    return low, high


def usual_drift(probe: Trials) -> float:
    """The drift where nothing else is known."""
    return CONVEX_DRIFT if probe.convex else DRIFT


def _drift(made: list[Rung], first: float, usual: float) -> float:
    """How the best rate falls with the length: as usual, and towards 1 where a longer probe gained nothing more.

    Then the rate is limited by how far the descent should go, and not by how fast it may.
    """
    if len(made) < 2 or made[-1].steps <= made[0].steps or not np.isfinite(made[-1].score).any():
        return usual  # a plan of one update has rungs of one length
    short, long = made[0], made[-1]
    i, k = int(short.score.argmin()), int(long.score.argmin())
    a, b = float(short.score[i]), float(long.score[k])
    apart = short.folds[i] - long.folds[k]
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    gain = (a - b - error) / max(first - b, 1e-300) * math.log(4) / math.log(long.steps / short.steps)
    return usual + (SATURATED - usual) * (1 - min(max(gain / STILL, 0.0), 1.0))
