"""Schedule-Free SGD: an average that is part of the iteration, in place of a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fallline.errors import InvalidValue, NotARow
from fallline.lengths import Clock
from fallline.rows import Answer, Start
from fallline.rules.rule import Rule
from fallline.rules.writing import Column, learning_rate

_BLOCK = 4096
"""Updates between two remembered sums, so that a segment far into a plan need not add from the plan's start."""


@dataclass(frozen=True, repr=False)
class ScheduleFree(Rule):
    """Schedule-Free SGD (Defazio et al. 2024): no schedule to choose; the answer is an average kept in the registers.

    Law: z = z - lr*d;  x = (1-c)*x + c*z;  y = (1-m)*z + m*x, with the gradient taken at y; c = weight / sum of weights,
    weight = (largest lr so far)^2, so 1/(t+1) at a constant lr. Here w is y and v is z; the answer is x = (w-(1-m)*v)/m.

    Args:
        momentum: m in (0, 1]; 0 is refused: the answer could not be read.

    Raises:
        InvalidValue: momentum outside (0, 1], or average=.
        NotARow: l1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        self._check()
        if self.average is not None:
            raise InvalidValue("ScheduleFree(average=...): it averages already; leave average out")
        if self.l1 != 0:
            raise NotARow(f"ScheduleFree(l1={self.l1!r}): the threshold belongs to z, and a row has it for w only; use SGD for l1")
        number = isinstance(self.momentum, (int, float)) and not isinstance(self.momentum, bool)
        if not number or not 0 < self.momentum <= 1:
            raise InvalidValue(f"ScheduleFree(momentum={self.momentum!r}): expected a number above 0 and at most 1; at 0 the answer cannot be read")

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        c = _weights(self, clock, t) if isinstance(lr, np.ndarray) else 1.0 / (t + 1.0)
        m = self.momentum
        return {
            "momentum": 1.0, "intake": -lr, "shrink": 1.0 - c, "lr": 1.0,
            "direct": lr * (1.0 - c) * (1.0 - m), "through": -c,
        }  # fmt: skip

    def answer(self) -> Answer:
        return Answer(w=1.0 / self.momentum, v=-(1.0 - self.momentum) / self.momentum)

    def start(self) -> Start:
        return Start(v_from_w=True)

    def typical_lr(self) -> tuple[float, float]:
        """10 to 50 times SGD's, its authors' advice."""
        return 0.1, 5.0

    def _law(self) -> list[str]:
        m = f"{self.momentum:g}"
        decay = self._decay().replace("w", "y")
        return [
            "g = gradient at y",
            f"z = z - lr*{f'(g{decay})' if decay else 'g'}",
            "x = (1 - c)*x + c*z        c = 1/(t+1) at a constant lr",
            f"y = (1 - {m})*z + {m}*x        the answer is x",
        ]


def _weights(rule: ScheduleFree, clock: Clock, t: np.ndarray) -> np.ndarray:
    """c at consecutive updates `t`: weight / sum of weights, and 0 until an lr was above 0; float64."""
    if not len(t):
        return np.empty(0)
    sums = _sums(rule, clock)
    first = int(t[0]) // _BLOCK
    known = max(k for k in sums if k <= first)
    parts = list(_blocks(rule, clock, known, int(t[-1]) // _BLOCK, sums))[first - known :]
    offset = first * _BLOCK
    return np.concatenate(parts)[t[0] - offset : t[-1] + 1 - offset]


@lru_cache(maxsize=8)
def _sums(rule: ScheduleFree, clock: Clock) -> dict[int, tuple[float, float]]:
    """For the blocks reached so far: the largest lr and the sum of weights before the block."""
    return {0: (0.0, 0.0)}


def _blocks(rule: ScheduleFree, clock: Clock, first: int, last: int, sums: dict[int, tuple[float, float]]) -> Iterator[np.ndarray]:
    # Each sum goes on from the one before, addition by addition, so where a segment is cut changes no bit.
    for k in range(first, last + 1):
        largest, total = sums[k]
        at = np.arange(k * _BLOCK, min((k + 1) * _BLOCK, clock.steps), dtype=np.int64)
        rates = np.broadcast_to(learning_rate(rule, clock, at), at.shape)
        tops = np.maximum.accumulate(np.concatenate([[largest], rates]))
        totals = np.cumsum(np.concatenate([[total], tops[1:] ** 2]))
        sums[k + 1] = float(tops[-1]), float(totals[-1])
        yield np.divide(tops[1:] ** 2, totals[1:], out=np.zeros(len(at)), where=totals[1:] > 0)
