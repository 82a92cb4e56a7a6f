"""Timing side by side on a machine that others may use too, and what a record says of where it was made."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

USUAL = ("torch", "numpy", "numba")
DISTURBED = 0.04
"""Share of the cores that other processes may take in a round that counts."""
PATIENCE = 4
"""Rounds that are tried for each that is wanted."""

_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Times:
    """What rounds gave, in seconds a call: of each contender, round by round.

    Args:
        rounds: by contender.
        disturbed: rounds that were repeated, because other processes took more than `DISTURBED` of the cores meanwhile.
        others: the largest such share in a round that counts; 0 where the system does not tell.
    """

    rounds: Mapping[str, list[float]]
    disturbed: int
    others: float

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """The ratio of the medians."""
        return self.median(slow) / self.median(fast)

    def spread(self, slow: str, fast: str) -> float:
        """The distance between the quartiles of the rounds' own ratios."""
        ratios = [a / b for a, b in zip(self.rounds[slow], self.rounds[fast], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (0, 0, 0)
        return high - low


def alternating(contenders: Mapping[str, Callable[[], Any]], rounds: int, *, block: int = 1, seconds: float = 0.0) -> Times:
    """Time contenders in turn: a round is `block` calls of each, over and over for `seconds`; the first round does not count.

    A call that returns a float has timed itself. Rounds in which other processes were busy are made again, up to `PATIENCE` times
    as many as wanted; after that, the least disturbed ones count.
    """
    _round(contenders, block, 0.0)
    made: list[tuple[float, dict[str, float]]] = []
    while sum(others <= DISTURBED for others, _ in made) < rounds and len(made) < PATIENCE * rounds:
        before, began = _busy(), time.perf_counter()
        times = _round(contenders, block, seconds)
        made.append(((_busy() - before) / (time.perf_counter() - began) / (os.cpu_count() or 1), times))
    kept = sorted(made, key=lambda m: m[0] > DISTURBED and m[0])[:rounds]  # stable: undisturbed ones first, as they came
    return Times({n: [t[n] for _, t in kept] for n in contenders}, len(made) - len(kept), max(others for others, _ in kept))


def _round(contenders: Mapping[str, Callable[[], Any]], block: int, seconds: float) -> dict[str, float]:
    sums, turns, until = dict.fromkeys(contenders, 0.0), 0, time.perf_counter() + seconds
    while turns == 0 or time.perf_counter() < until:
        turns += 1
        for name, call in contenders.items():
            began, said = time.perf_counter(), None
            for _ in range(block):
                said = call()
            sums[name] += said if isinstance(said, float) else (time.perf_counter() - began) / block
    return {name: total / turns for name, total in sums.items()}


def _busy() -> float:
    """Seconds that all cores together were busy with other processes than this one and its children; 0 where unknown."""
    if not _STAT.exists():
        return 0.0
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, _STAT.read_text().split(None, 11)[1:11])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def about(*also: str) -> dict[str, Any]:
    """The processor, its cores, Python, and the versions of what is installed of `USUAL` and `also`."""
    versions = {}
    for name in (*USUAL, *also):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(), **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
