"""How many updates a batch size needs for the same loss, from the noise scale; and the textbook's bands.

    S(B) = S_min * (1 + B_noise/B)      updates; S_min those without any noise
    E(B) = S_min * (B + B_noise)        rows; the fewest, S_min * B_noise, are those of the smallest batches

B = B_noise takes twice the fewest updates and twice the fewest rows. The law is that of the best learning rate for each size,
on a quadratic whose Hessian is a multiple of the identity; how far it holds on data is measured in benchmarks/batch_size.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue

BANDS = ((8, "below the textbook's table"), (24, "very limited memory"), (96, "standard for research"), (512, "production, large models"), (1025, "distributed training"))
"""Sizes below each number, and what the textbook's table says of them: 8-16, 32-64, 128-256, 512-1024."""


def band(size: int) -> str:
    """The use that the textbook's table gives a batch size; a size between two bands counts to the nearer one.

    >>> [band(size) for size in (1, 16, 64, 256, 512, 4096)][:3]
    ["below the textbook's table", 'very limited memory', 'standard for research']
    """
    return next((words for limit, words in BANDS if size < limit), "beyond the textbook's table")


@dataclass(frozen=True)
class BatchLaw:
    """S(B) = fewest * (1 + scale/B).

    Args:
        fewest: S_min, updates without noise.
        scale: the noise scale over the whole way, in rows.
    """

    fewest: float
    scale: float

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return math.isfinite(self.scale) and self.fewest > 0

    def steps(self, size: float | np.ndarray) -> np.ndarray:
        """Updates for the same loss in batches of `size` rows."""
        return self.fewest * (1 + self.scale / np.asarray(size, np.float64))

    def rows_seen(self, size: float | np.ndarray) -> np.ndarray:
        """Rows for the same loss in batches of `size` rows."""
        return np.asarray(size) * self.steps(size)


def along(scales: Sequence[float], updates: Sequence[float], size: int) -> BatchLaw:
    """The law of a way whose stretches have different noise scales.

    Args:
        scales: of each stretch, in rows, finite.
        updates: that each stretch took, in batches of `size` rows.

    A stretch's own S_min is its updates divided by its 1 + scale/size; they add up, so B_noise of the whole way is the mean
    of the stretches' weighted by their S_min.
    """
    b, n = np.asarray(scales, np.float64), np.asarray(updates, np.float64)
    least = n / (1 + b / size)
    return BatchLaw(float(least.sum()), float(least @ b / least.sum()) if least.sum() > 0 else 0.0)


def fitted(sizes: Sequence[float], steps: Sequence[float]) -> tuple[BatchLaw, float]:
    """The law through measured numbers of updates, by least squares of relative errors; and R^2 of the logarithms.

    Args:
        sizes: at least three batch sizes.
        steps: updates that each took to the same loss.

    Raises:
        InvalidValue: fewer than three sizes, or steps that are not positive numbers.

    >>> law, r2 = fitted([1, 4, 16, 64], [1100.0, 350.0, 162.5, 115.625])
    >>> round(law.fewest), round(law.scale), r2 > 0.999
    (100, 10, True)
    """
    x, y = 1 / np.asarray(sizes, np.float64), np.asarray(steps, np.float64)
    if len(y) < 3 or len(x) != len(y) or not (np.isfinite(y).all() and (y > 0).all()):
        raise InvalidValue(f"fitted({list(sizes)}, {list(steps)}): expected at least three sizes, each with a positive number of updates")
    design = np.stack([1 / y, x / y], axis=1)
    (least, slope), *_ = np.linalg.lstsq(design, np.ones(len(y)), rcond=None)
    least, slope = max(float(least), 1e-12), max(float(slope), 0.0)
    law = BatchLaw(least, slope / least)
    log = np.log(y)
    rest = log - np.log(law.steps(np.asarray(sizes, np.float64)))
    return law, 1 - float(rest @ rest) / max(float(((log - log.mean()) ** 2).sum()), 1e-300)
