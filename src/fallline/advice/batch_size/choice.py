"""From the evidence to one size, and the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fallline.advice.batch_size.branches import Branch
from fallline.advice.batch_size.capacity import Capacity
from fallline.advice.batch_size.law import BatchLaw, along
from fallline.advice.batch_size.moments import Moment
from fallline.advice.batch_size.throughput import Throughput
from fallline.charts.marks import short

CLOSE, IDLE = 1.1, 0.05
"""Sizes within this factor of the least predicted time, or within so many seconds, count as equal: the prediction is no better
than the first, and nobody waits for the second."""
LEAST = 8
"""The smallest size of the textbook's table; smaller ones are considered on sparse rows, where an update costs no more than its row."""
UPDATE_ROWS = 3.0
"""Without timings, an update is taken to cost as much as so many rows: it passes over the registers where a row passes over
its features twice."""
TOLERATED = 0.75
"""A branch may make this share of the progress that the noise scale predicts before the size is taken back."""
LINEAR_UPDATE, MODULE_UPDATE = 1e-6, 2e-4
"""Without timings, seconds of an update besides its rows: of a compiled kernel, and of PyTorch, which is asked for each layer."""
WORK_SECONDS = 3e-10
"""Without timings, seconds of a multiply-add."""


@dataclass(frozen=True)
class Price:
    """Seconds of a batch's rows: by the throughput that was measured, or else by the work of a row.

    Args:
        rate: what was measured, or None.
        work: multiply-adds of a row.
        update: without timings, seconds of an update besides its rows.
    """

    rate: Throughput | None
    work: float
    update: float = 0.0

    def row(self, size: int) -> float:
        """Seconds by the row, in batches of `size`."""
        return 1 / self.rate.at(size) if self.rate is not None else self.work * WORK_SECONDS * (1 + UPDATE_ROWS / size) + self.update / size


def doubling(most: int, least: int = 1) -> list[int]:
    """1, 2, 4, ... up to `most`, from `least` on where there are such.

    >>> doubling(20), doubling(40, 8), doubling(3, 8)
    ([1, 2, 4, 8, 16], [8, 16, 32], [2])
    """
    powers = [1 << k for k in range(int(math.log2(max(most, 1))) + 1)]
    return [p for p in powers if p >= least] or powers[-1:]


def smallest_good(seconds: Mapping[int, float]) -> int:
    """The smallest size whose time counts as equal to the least: it makes the most updates and asks least of the learning rate."""
    least = min(seconds.values())
    return min(size for size, s in seconds.items() if s <= max(CLOSE * least, least + IDLE))


def quickest(sizes: Sequence[int], law: BatchLaw, price: Price) -> int:
    """The size that the noise scale and the rates speak for."""
    return smallest_good({size: _rows_needed(law, size) * price.row(size) for size in sizes})


def reason(size: int, sizes: Sequence[int], law: BatchLaw, price: Price) -> str:
    """Why this size, by the time that is predicted for each: from timings, or by their work where there are none."""
    seconds = {s: _rows_needed(law, s) * price.row(s) for s in sizes}
    by = "by the work of a row, without timings," if price.rate is None else "by these rates"
    if len(seconds) == 1:
        return "there was no other size to choose"
    if size == min(seconds) and max(seconds.values()) - min(seconds.values()) <= IDLE:
        return f"{by} the sizes up to {max(seconds):,} need the same time within {IDLE:g} s, so the smallest, which makes the most updates"
    return f"{by} it needs {share(seconds[size] / min(seconds.values()))} of the least time of the sizes up to {max(seconds):,}"


def _rows_needed(law: BatchLaw, size: int) -> float:
    return float(law.rows_seen(size)) if law.known else 1.0


def checked(size: int, branches: Sequence[Branch], law: BatchLaw, price: Price, most: int) -> tuple[int, str]:
    """The size after the check, by the same rule with measured progress in place of the predicted; and a word where it moved."""
    made = {b.size: b.efficiency for b in branches if b.size <= most and b.efficiency is not None}
    if size not in made:
        return size, ""
    rows = _rows_needed(law, branches[0].size)
    seconds = {s: rows / efficiency * price.row(s) for s, efficiency in made.items() if efficiency > 0}
    best = smallest_good(seconds) if seconds else size
    predicted = next(b.predicted for b in branches if b.size == size)
    if best == size or (best < size and made[size] > TOLERATED * predicted):
        return size, ""
    if best < size:
        lost = f"short runs from one state made {share(made[size])} of the progress by the row there"
        return best, f"the noise scale alone would have said {size:,}, but {lost}"
    return best, f"the noise scale alone would have said {size:,}, but short runs from one state lost nothing at {best:,}"


def faster(law: BatchLaw, price: Price, chosen: int, most: int, top: int) -> int | None:
    """A size above `most` that is predicted to be clearly faster than the chosen one, or None."""
    if price.rate is None:
        return None
    seconds = {s: _rows_needed(law, s) * price.row(s) for s in (chosen, *doubling(min(top, int(price.rate.sizes[-1])), most + 1)) if s > most or s == chosen}
    best = smallest_good(seconds) if seconds[chosen] > max(CLOSE * min(seconds.values()), min(seconds.values()) + IDLE) else chosen
    return None if best == chosen else best


def verdict(
    size: int, law: BatchLaw, interval: tuple[float, float], moments: Sequence[Moment], rate: Throughput | None, capacity: Capacity,
    branches: Sequence[Branch], moved: str,
) -> str:  # fmt: skip
    """Why this size, in a sentence."""
    parts = [f"batch size {size:,}: {_noise(law, interval, moments)}"]
    if law.known and size > 1:
        more, fewer = float(law.rows_seen(size) / law.rows_seen(1)) - 1, float(law.steps(1) / law.steps(size))
        parts[0] += f", so it needs {share(max(more, 0.0))} more rows than single examples, in {short(fewer)} times fewer updates"
    if rate is not None:
        parts.append(f"{short(rate.at(size))} rows/s, {share(rate.at(size) / rate.smooth.max())} of the best (knee {rate.knee:,})")
    told = moved or _check(size, branches)
    return "; ".join([*parts, *([told] if told else []), capacity.why])


def _noise(law: BatchLaw, interval: tuple[float, float], moments: Sequence[Moment]) -> str:
    if not moments or not law.known:
        return "no noise scale could be measured"
    first, last = moments[0].noise, moments[-1].noise
    ends = f"{_rows(first.scale)} at loss {short(first.loss)}, {_rows(last.scale)} at {short(last.loss)}"
    span = "" if interval[1] <= 1.01 * interval[0] else f"{_rows(interval[0])} to {_rows(interval[1])}; "
    return f"the noise scale is {_rows(law.scale)} rows over the way ({span}{ends})"


def _check(size: int, branches: Sequence[Branch]) -> str:
    """What the branches say of the chosen size, beside the smallest."""
    own = next((b for b in branches if b.size == size), None)
    if own is None or own.efficiency is None or own is branches[0]:
        return ""
    return f"in short runs from one state it made {share(own.efficiency)} of the progress by the row of batches of {branches[0].size:,} (by the noise scale {share(own.predicted)})"


def _rows(value: float) -> str:
    return "without end" if not math.isfinite(value) else short(value)


def share(value: float | None) -> str:
    """A share in per cent."""
    return "none" if value is None else f"{100 * value:.0f} %" if value > 0.005 or value == 0 else "under 1 %"


def whole_way(moments: Sequence[Moment], updates: float, size: int) -> tuple[BatchLaw, tuple[float, float]]:
    """The law of the whole plan from moments along a short run, and the interval of its noise scale.

    Between two moments the scale is the geometric mean of both. Where a gradient is lost in its noise, so that the scale has
    no upper end, the lower one stands for it.

    Args:
        updates: of the plan for each of the short run.
        size: rows of its batches.
    """
    stretches = np.diff([m.update for m in moments]) * updates if len(moments) > 1 else np.array([1.0])
    low = np.array([m.noise.low for m in moments])
    scale = np.array([m.noise.scale for m in moments])
    known = np.where(np.isfinite(scale), scale, np.maximum.accumulate(low))
    high = np.array([m.noise.high for m in moments])
    law, least = (along(_between(ends), stretches, size) for ends in (known, low))
    most = along(_between(high), stretches, size).scale if np.isfinite(high).all() else math.inf
    return law, (min(least.scale, law.scale), max(most, law.scale))


def _between(ends: np.ndarray) -> np.ndarray:
    ends = np.maximum(ends, 1e-9)
    return np.sqrt(ends[:-1] * ends[1:]) if len(ends) > 1 else ends
