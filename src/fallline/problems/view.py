"""Columns seen at mean 0 and deviation 1, without a sparse matrix ever being made dense.

    x~ = (x - mean) / scale  =  e - base        e: what is stored; base = mean/scale

A zero of a sparse column is seen as -base, and nothing is stored for it: the scores of weights w are e.w - base.w, and the gradient is
E's less base times the sum of the slopes. Engines keep those few numbers beside their weights.

A column that is nonzero in almost every row is centred where it stands (its few zeros are filled in), so that its base is 0: a
column of N(10^6, 1) loses no digits then, and |base| <= 4 in all others, since a share p of zeros bounds mean^2/deviation^2 by 1/p.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fallline.problems.arrays import is_sparse, matrix

FULL = 15 / 16
"""A column that is stored in more than this share of the rows is stored in all of them."""
HUGE = 1e100
"""Numbers from here on are scaled before they are squared."""


@dataclass(frozen=True, eq=False)
class View:
    """How columns are seen: frozen arrays, one number a column.

    Args:
        mean, scale: float64 [features]; scale is 1 where a column does not vary, mean 0 where it is not centred.
        stands: bool [features]: columns that are centred where they stand.
    """

    mean: np.ndarray
    scale: np.ndarray
    stands: np.ndarray

    @classmethod
    def of(cls, X: Any, weight: np.ndarray | None, center: bool) -> View:
        """Mean and standard deviation of the columns of some rows, each row counted by its weight.

        Args:
            X: [rows, features], as `arrays.matrix` gives it.
            weight: [rows], or None.
            center: whether the mean is taken off.
        """
        sparse = is_sparse(X)
        share = np.full(X.shape[0], 1 / X.shape[0]) if weight is None else weight.astype(np.float64) / weight.sum(dtype=np.float64)
        peak, mean, deviation = _sparse_moments(X, share) if sparse else _dense_moments(X, share)
        varies = deviation > 1e-12 * np.abs(mean)  # as tables do: rounding is no deviation
        constant = ~varies & (np.abs(peak - np.abs(mean)) <= 1e-12 * peak)
        mean = np.where(constant, np.copysign(peak, mean), mean) if center else np.zeros_like(mean)  # a constant becomes 0, not nearly 0
        scale = np.where(varies, deviation, 1.0)
        stands = np.bincount(X.indices, minlength=X.shape[1]) > FULL * X.shape[0] if sparse else np.ones(X.shape[1], bool)
        return cls(mean, scale, stands)

    @cached_property
    def base(self) -> np.ndarray | None:
        """What a sparse column's zero is seen as, with the sign turned: float64 [features]; None where no zero has moved."""
        base = np.where(self.stands, 0.0, self.mean / self.scale)
        return base if base.any() else None

    def stored(self, X: Any) -> Any:
        """Rows as they are stored for this view, in X's type: `x~ + base`; X has this view's columns."""
        kind = X.dtype
        if not is_sparse(X):
            return np.ascontiguousarray(((X - self.mean) / self.scale).astype(kind, copy=False))
        out = X.copy()
        out.data = ((X.data - np.where(self.stands, self.mean, 0.0)[X.indices]) / self.scale[X.indices]).astype(kind, copy=False)
        filled = self._zeros_that_stand(X)
        return out if filled is None else matrix(out + filled.astype(kind)).X

    def _zeros_that_stand(self, X: Any) -> Any:
        """What the zeros of columns that are centred where they stand become, or None where there are none."""
        from scipy.sparse import csr_array

        columns = np.flatnonzero(self.stands & (self.mean != 0))
        if not len(columns):
            return None
        part = X[:, columns].tocsr()
        there = np.zeros(part.shape, bool)
        there[np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices] = True
        rows, at = np.nonzero(~there)
        if not len(rows):
            return None
        return csr_array((-(self.mean / self.scale)[columns[at]], (rows, columns[at])), shape=X.shape)

    def outside(self, coef: np.ndarray, intercept: Any) -> tuple[np.ndarray, Any]:
        """Coefficients [features, outputs] and intercepts [outputs] in the columns' own units, from those of the columns as seen."""
        coef = coef / self.scale[:, None]
        return coef, intercept - self.mean @ coef

    def inside(self, coef: np.ndarray, intercept: Any) -> tuple[np.ndarray, Any]:
        """Coefficients and intercepts of the columns as seen, from those in the columns' own units: the inverse of `outside`."""
        return coef * self.scale[:, None], intercept + self.mean @ coef

    def same_as(self, other: View | None) -> bool:
        """Whether another view sees the same."""
        return self is other or (other is not None and all(np.array_equal(a, b) for a, b in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> Iterator[np.ndarray]:
        yield from (self.mean, self.scale, self.stands)

    def tobytes(self) -> bytes:
        """The numbers, for a fingerprint."""
        return b"".join(part.tobytes() for part in self._parts())


class Seen:
    """Sparse rows less a base, `E - 1 base'`, as an operand of matrix products; nothing of it is made dense.

    Args:
        stored: CSR [rows, features].
        base: float64 [features].
    """

    def __init__(self, stored: Any, base: np.ndarray):
        self.stored, self.base = stored, base
        self.shape = stored.shape

    def __matmul__(self, w: np.ndarray) -> np.ndarray:
        return self.stored @ w - self.base @ w

    @property
    def T(self) -> _Turned:
        return _Turned(self)

    def __getitem__(self, at: tuple[slice, np.ndarray]) -> Seen:
        return Seen(self.stored[at], self.base[at[1]])

    def toarray(self) -> np.ndarray:
        """The rows, dense, in the stored numbers' type."""
        return self.stored.toarray() - self.base.astype(self.stored.dtype)


class _Turned:
    def __init__(self, rows: Seen):
        self.rows = rows

    def __matmul__(self, slope: np.ndarray) -> np.ndarray:
        return self.rows.stored.T @ slope - np.multiply.outer(self.rows.base, slope.sum(axis=0))


def row_squares(X: Any) -> np.ndarray:
    """The squared length of each row: array, CSR or `Seen`."""
    if isinstance(X, Seen):
        return row_squares(X.stored) - 2 * (X.stored @ X.base) + X.base @ X.base
    return np.asarray(X.multiply(X).sum(axis=1)).reshape(-1) if is_sparse(X) else np.einsum("ij,ij->i", X, X)


def column_squares(X: Any) -> np.ndarray:
    """The sum of squares of each column: array, CSR or `Seen`."""
    if isinstance(X, Seen):
        sums = np.asarray(X.stored.sum(axis=0)).reshape(-1)
        return np.maximum(column_squares(X.stored) - 2 * X.base * sums + X.shape[0] * X.base**2, 0.0)
    return np.bincount(X.indices, np.square(X.data), X.shape[1]) if is_sparse(X) else np.einsum("ij,ij->j", X, X)


def largest(X: Any) -> float:
    """The largest size of a number in array, CSR or `Seen`."""
    if isinstance(X, Seen):
        moved = np.abs(X.stored.data - X.base[X.stored.indices]).max(initial=0.0)
        return float(max(moved, np.abs(X.base).max()))
    return float(np.abs(X.data if is_sparse(X) else X).max(initial=0.0))


Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The largest size, the mean and the deviation of each column."""


def _dense_moments(X: np.ndarray, share: np.ndarray) -> Moments:
    """In two passes, so that a large mean leaves the deviation its digits."""
    peak = np.maximum(X.max(axis=0), -X.min(axis=0)).astype(np.float64)
    unit = _units(peak)
    step = max(1, (1 << 20) // X.shape[1])
    blocks = [(slice(a, a + step), share[a : a + step]) for a in range(0, X.shape[0], step)]
    mean = sum(part @ (X[at] / unit) for at, part in blocks)
    square = sum(part @ np.square(X[at] / unit - mean) for at, part in blocks)
    return peak, mean * unit, np.sqrt(square) * unit


def _sparse_moments(X: Any, share: np.ndarray) -> Moments:
    """As of dense rows: the zeros count, by their share."""
    features = X.shape[1]
    peak = np.zeros(features)
    np.maximum.at(peak, X.indices, np.abs(X.data).astype(np.float64))
    unit = _units(peak)
    data, of_entry = X.data / unit[X.indices], np.repeat(share, np.diff(X.indptr))
    mean = np.bincount(X.indices, of_entry * data, features)
    zeros = 1 - np.bincount(X.indices, of_entry, features)
    zeros[zeros < 1e-15 * X.shape[0]] = 0.0  # what rounding leaves of 1 is no zero
    square = np.bincount(X.indices, of_entry * np.square(data - mean[X.indices]), features) + zeros * np.square(mean)
    return peak, mean * unit, np.sqrt(square) * unit


def _units(peak: np.ndarray) -> np.ndarray:
    return np.where(peak > HUGE, peak, 1.0)
