"""Columns brought to a common size for the descent, and coefficients brought back to the user's units.

    x' = (x - shift) / scale        shift: the mean of a column whose mean is more than 3 times its standard deviation, else 0
                                    scale: the column's spread where that is above 2, else 1

A descent cannot bear a column of N(100, 1) beside one of N(0, 1): the intercept and its coefficient pull against each
other. Moving such a column changes no prediction, since the intercept takes up the rest, and no penalty. Dividing a wide
column does change what the penalty asks of its coefficient: as if it had been divided before, as the manuals ask for.
Columns of one size (standardised ones, pixels in [0, 1], tf-idf) are left alone, and then nothing is copied.

The law reads the numbers, not how they are stored: sparse and dense rows get the same columns. A sparse column that
is moved has few zeros (its mean is more than 3 standard deviations from 0), so filling it in costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.problems import LinearProblem
from fallline.problems.arrays import csr, is_sparse, matrix
from fallline.problems.view import row_squares

FAR, WIDE = 3.0, 2.0
"""Standard deviations from 0 at which a column's mean is taken off; the spread at which it is divided."""
LOOKED_AT = 1 << 19
"""Numbers that are looked at, in rows evenly spread over the data."""


@dataclass(frozen=True)
class Columns:
    """How columns are moved and divided.

    Args:
        shift, scale: float64 [features], or None where no column is moved, or divided.
        square: the mean squared length of a row x', the intercept's 1 included.
    """

    shift: np.ndarray | None
    scale: np.ndarray | None
    square: float

    @classmethod
    def of(cls, X: Any, weight: np.ndarray | None, intercept: bool, wanted: bool = True) -> Columns:
        """What rows of these weights need; with `wanted` False, nothing but the length of a row."""
        columns, mean, var, length = _moments(*_some(X, weight))
        far = (np.abs(mean) > FAR * np.sqrt(var)) & (wanted and intercept)
        spread = np.sqrt(np.where(far, var, var + mean * mean))
        wide = (spread > WIDE) & wanted
        if not (far.any() or wide.any()):
            return cls(None, None, length + intercept)
        shift, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        shift[columns], scale[columns] = np.where(far, mean, 0.0), np.where(wide, spread, 1.0)
        lost = float((var + mean * mean - (spread / scale[columns]) ** 2).sum())
        return cls(shift if far.any() else None, scale if wide.any() else None, max(length - lost, 0.0) + intercept)

    @classmethod
    def standard(cls, problem: LinearProblem) -> tuple[LinearProblem, Columns]:
        """A problem seen standardized (only divided where no intercept could take up the means), and its columns so."""
        seen = problem.standardized(center=problem.intercept)
        assert seen.view is not None
        length = sum(float(row_squares(X).sum() if weight is None else row_squares(X) @ weight) for X, _, weight in seen._chunks(None, None))
        return seen, cls(seen.view.mean if problem.intercept else None, seen.view.scale, length / seen.rows + problem.intercept)

    def view(self, X: Any) -> Any:
        """The rows as the descent sees them, in X's type; X itself where nothing is to be done."""
        if self.shift is None and self.scale is None:
            return X
        if is_sparse(X):
            return self._sparse(X)
        kind = X.dtype
        out = X - self.shift.astype(kind) if self.shift is not None else X.copy()
        if self.scale is not None:
            out *= (1 / self.scale).astype(kind)
        return np.ascontiguousarray(out)

    def _sparse(self, X: Any) -> Any:
        if self.shift is not None:
            from scipy.sparse import csr_array

            moved = np.flatnonzero(self.shift)
            rows = X.shape[0]
            off = csr_array((np.tile(self.shift[moved].astype(X.dtype), rows), np.tile(moved, rows), np.arange(rows + 1) * len(moved)), shape=X.shape)
            X = matrix(X - off).X
        if self.scale is None:
            return X
        scaled = csr(X.data * (1 / self.scale).astype(X.dtype)[X.indices], X.indices, X.indptr, X.shape[1])
        scaled.has_sorted_indices = X.has_sorted_indices
        return scaled

    def inside(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [features, outputs] and intercepts [outputs] for x', from those for x."""
        if self.shift is not None:
            intercept = intercept + self.shift @ coef
        return (coef if self.scale is None else coef * self.scale[:, None]), intercept

    def outside(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and intercepts for x, from those for x'."""
        coef = coef if self.scale is None else coef / self.scale[:, None]
        return coef, (intercept if self.shift is None else intercept - self.shift @ coef)


def _some(X: Any, weight: np.ndarray | None) -> tuple[Any, np.ndarray]:
    """Rows evenly spread over the data, so many that their numbers are about LOOKED_AT, and their shares of the whole weight."""
    rows = X.shape[0]
    width = max(1.0, X.nnz / rows if is_sparse(X) else X.shape[1])
    most = int(max(LOOKED_AT / width, 256))
    at = np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.int64)
    share = np.ones(len(at)) if weight is None else weight[at].astype(np.float64)
    return (X if rows <= most else X[at]), share / max(share.sum(), 1e-300)


def _moments(X: Any, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The columns that may be far or wide, their mean and variance, in two passes, so that a large mean leaves the variance its
    digits; and the mean |x|^2. Of a million sparse columns these are few.
    """
    features = X.shape[1]
    if not is_sparse(X):
        mean = share @ X
        off = X - mean
        var = np.einsum("i,ij,ij->j", share, off, off)
        return np.arange(features), mean, var, float((var + mean * mean).sum())
    of_entry = np.repeat(share, np.diff(X.indptr))
    squares = of_entry * np.square(X.data, dtype=np.float64)
    sums, stored = (np.bincount(X.indices, weights=w, minlength=features) for w in (squares, of_entry))
    asked = np.flatnonzero((sums > WIDE) | (stored > 0.5))  # far from 0 needs nine rows of ten
    part = X[:, asked].tocsr() if len(asked) else X[:0, :0]
    of_entry = np.repeat(share[: part.shape[0]], np.diff(part.indptr))
    mean = np.bincount(part.indices, weights=of_entry * part.data, minlength=len(asked))
    off = part.data - mean[part.indices]
    gaps = 1 - np.bincount(part.indices, weights=of_entry, minlength=len(asked))
    var = np.bincount(part.indices, weights=of_entry * off * off, minlength=len(asked)) + gaps * mean**2
    return asked, mean, var, float(squares.sum())
