"""The gradient noise scale: how many rows a batch needs before more of them bring little.

    B_noise = tr(S) / |G|^2          S the covariance of a row's gradient, G the gradient of all rows

Gradients of one set of weights, in units (a row, or a chunk of b rows), gathered in blocks. Over the n units that were
drawn, with m2 the mean of |g|^2 and P the mean of g_i . g_j over all pairs i != j,

    tr(S)  = b * (m2 - P)            each without bias: the estimator of two batch sizes, b rows and all n*b of them
    |G|^2  = P + tr(S)/N             the second term because N rows were drawn from without replacement

An estimate of |G|^2 may come out below zero where the noise is large; it is kept, for dropping it would bias the mean.
Numerators and denominators are averaged apart and divided once. The interval is Fieller's for a ratio, with variances
from a jackknife over the blocks: where |G|^2 cannot be told from zero it has no upper end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, two-sided 95 %, at 1 .. 15 degrees of freedom; beyond, nearly the normal's."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Gradients of one set of weights, summed in J blocks of units.

    Args:
        gram: [J, J] dot products of the blocks' sums of unit gradients.
        squares: [J] sums of the units' squared norms.
        counts: [J] units of each block.
        unit: rows of a unit.
        rows: rows of the data that were drawn from without replacement; None where they were drawn anew each time.
        loss: mean loss of the rows drawn.
    """

    gram: np.ndarray
    squares: np.ndarray
    counts: np.ndarray
    unit: int
    rows: int | None
    loss: float = math.nan

    @classmethod
    def of(cls, gradients: Sequence[np.ndarray], *, unit: int = 1, rows: int | None = None, loss: float = math.nan) -> Blocks:
        """From the gradients themselves.

        Args:
            gradients: J arrays [units, parameters], each unit's mean gradient over its rows.
        """
        sums = np.array([np.asarray(g, np.float64).sum(axis=0) for g in gradients])
        squares = np.array([float((np.asarray(g, np.float64) ** 2).sum()) for g in gradients])
        return cls(sums @ sums.T, squares, np.array([len(g) for g in gradients], np.float64), unit, rows, loss)

    @property
    def drawn(self) -> int:
        """Rows that were drawn."""
        return int(self.counts.sum()) * self.unit

    def moments(self, without: int | None = None) -> tuple[float, float]:
        """|G|^2 and tr(S), each without bias; of all blocks, or of all but one."""
        keep = np.ones(len(self.counts), bool)
        if without is not None:
            keep[without] = False
        n, q = float(self.counts[keep].sum()), float(self.squares[keep].sum())
        pairs = (float(self.gram[np.ix_(keep, keep)].sum()) - q) / (n * (n - 1))
        trace = self.unit * (q / n - pairs)
        return pairs + (trace / self.rows if self.rows else 0.0), trace


@dataclass(frozen=True)
class NoiseScale:
    """An estimate of the gradient noise scale.

    Args:
        square: |G|^2, which may be below zero.
        trace: tr(S).
        low, high: 95 % interval of tr(S)/|G|^2, in rows; high is inf where |G|^2 cannot be told from zero.
        rows: rows behind it.
        loss: mean loss where it was measured.
    """

    square: float
    trace: float
    low: float
    high: float
    rows: int
    loss: float = math.nan

    @property
    def scale(self) -> float:
        """tr(S)/|G|^2 in rows; inf where the gradient is lost in its noise."""
        return max(self.trace, 0.0) / self.square if self.square > 0 else math.inf


def noise_scale(blocks: Blocks | Sequence[Blocks]) -> NoiseScale:
    """The noise scale from blocks of gradients; of several sets of weights, pooled.

    Args:
        blocks: at least two blocks, three units; or several such.

    Raises:
        InvalidValue: fewer than two blocks or three units.

    >>> draw = np.random.default_rng(0)
    >>> gradients = [1.0 + 3.0 * draw.standard_normal((16, 100)) for _ in range(16)]  # |G|^2 = 100, tr(S) = 900
    >>> found = noise_scale(Blocks.of(gradients))
    >>> found.low < 9 < found.high, 8 < found.scale < 10
    (True, True)

    Source: McCandlish, Kaplan, Amodei et al. 2018, appendix A; Fieller 1954.
    """
    several = [blocks] if isinstance(blocks, Blocks) else list(blocks)
    if not several or any(len(b.counts) < 2 or b.counts.sum() - b.counts.max() < 2 for b in several):
        raise InvalidValue("noise_scale: expected at least two blocks of gradients and two units beside the largest, of each set of weights")
    square, trace = np.mean([b.moments() for b in several], axis=0)
    covariance = np.sum([_jackknife(b) for b in several], axis=0) / len(several) ** 2
    freedom = sum(len(b.counts) - 1 for b in several)
    t = _T95[freedom - 1] if freedom <= len(_T95) else 2.1
    low, high = _fieller(float(trace), float(square), covariance.tolist(), t)
    losses = float(np.mean([b.loss for b in several]))
    return NoiseScale(float(square), float(trace), low, high, sum(b.drawn for b in several), losses)


def _jackknife(blocks: Blocks) -> np.ndarray:
    """Covariance [2, 2] of (|G|^2, tr(S)), by leaving out one block at a time; 0 where every row was drawn."""
    count = len(blocks.counts)
    left = np.array([blocks.moments(without=j) for j in range(count)])
    share = 0.0 if blocks.rows is None else blocks.drawn / blocks.rows
    return (count - 1) / count * max(0.0, 1 - share) * (left - left.mean(axis=0)).T @ (left - left.mean(axis=0))


def _fieller(top: float, bottom: float, covariance: list[list[float]], t: float) -> tuple[float, float]:
    """The values r >= 0 for which top - r*bottom lies within t of its standard deviations from zero.

    (top - r*bottom)^2 <= t^2 (var_top - 2 r cov + r^2 var_bottom), so  a r^2 - 2 b r + c <= 0.
    """
    a = bottom**2 - t**2 * covariance[0][0]
    b = top * bottom - t**2 * covariance[0][1]
    c = top**2 - t**2 * covariance[1][1]
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        return (max(b - root, 0.0) / a, max(b + root, 0.0) / a) if bottom > 0 else (0.0, math.inf)
    if c <= 0 or a == 0:  # neither can be told from zero
        return 0.0, math.inf
    return max((b - root) / a, 0.0), math.inf
