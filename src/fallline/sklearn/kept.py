"""Of sparse rows with many columns the descent sees those that occur, the most frequent ones first.

    z = sum over the columns j of a row of x_j * w_j        is the same sum, number by number, whatever place w_j stands at

Words hashed to a million columns are some hundred thousand, and a few thousand of them make most of a text. In the order of the
columns' numbers each of those has a line of the cache to itself, and every look at all weights is one at four times too many; by
frequency the weights that every row asks for lie together in the nearest cache. A column that does not occur keeps a weight of 0;
one that starts with another weight is kept too, since the penalty moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.compiled import announced, kernel
from fallline.problems.arrays import csr, is_sparse

WORTH = 1 << 18
"""Bytes of weights from which it is worth a look at the columns: half a second cache."""


def _octave(count):
    """The power of 2 of a count, as the exponent of a float has it (0 where there is none): no loop, no branch."""
    return np.int64(np.float32(count).view(np.uint32) >> np.uint32(23))


octave = kernel(_octave, forceinline=True)


@kernel
def _frequent_first(columns_, held, place, column, to):
    """Number the columns that occur (or are held) by how often they do, to a power of 2, the most frequent first; returns how many.

    Args:
        columns_: the column of each number, [numbers].
        held: whether a column is kept in any case, [columns] or empty.
        place, column: work, [columns]; afterwards the first entries of `column` are the columns by their new numbers.
        to: the new numbers are written here, [numbers].
    """
    place[:] = 0
    for q in range(columns_.shape[0]):
        place[columns_[q]] += 1
    found = 0
    for j in range(place.shape[0]):  # most do not occur: every one is written, and the next one over it
        column[found] = j
        found += place[j] > 0 or (held.shape[0] > 0 and held[j])
    met, starts = column[:found].copy(), np.zeros(256, np.int64)
    for j in met:
        starts[octave(place[j])] += 1
    at = 0
    for size in range(255, -1, -1):
        at, starts[size] = at + starts[size], at
    for j in met:
        size = octave(place[j])
        place[j] = starts[size]
        column[starts[size]] = j
        starts[size] += 1
    for q in range(columns_.shape[0]):
        to[q] = place[columns_[q]]
    return found


@dataclass(frozen=True)
class Kept:
    """Which columns the descent sees.

    Args:
        columns: their numbers among the user's, [kept]; None where the descent sees all of them, as they are.
        features: the user's columns.
    """

    columns: np.ndarray | None
    features: int

    @classmethod
    def of(cls, X: Any, start: np.ndarray) -> tuple[Kept, Any]:
        """What a descent on checked rows sees, and the rows with their columns renumbered.

        Args:
            X: rows; CSR with each column at most once a row.
            start: coefficients that the descent begins with, [features, outputs].
        """
        features = X.shape[1]
        if not is_sparse(X) or start.size * X.dtype.itemsize <= WORTH:
            return cls(None, features), X
        indices = X.indices.view(f"u{X.indices.itemsize}")
        kind = np.int32 if max(features, len(indices)) < 2**31 else np.int64
        place, column, renumbered = np.empty(features, kind), np.empty(features, kind), np.empty(len(indices), kind)
        held = start.any(axis=1) if start.any() else np.empty(0, bool)
        with announced():
            kept = _frequent_first(indices, held, place, column, renumbered)
        seen = csr(X.data, renumbered, X.indptr, kept)
        seen.has_sorted_indices = False
        return cls(column[:kept].copy(), features), seen

    def inside(self, coef: np.ndarray) -> np.ndarray:
        """Coefficients [features, outputs] as the descent holds them."""
        return coef if self.columns is None else coef[self.columns]

    def outside(self, coef: np.ndarray) -> np.ndarray:
        """The user's coefficients, from those of the descent."""
        if self.columns is None:
            return coef
        out = np.zeros((self.features, coef.shape[1]), coef.dtype)
        out[self.columns] = coef
        return out


__all__ = ["Kept"]
