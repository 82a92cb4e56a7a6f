"""Columns that give the target away by themselves, which usually means that they were not known beforehand."""

from __future__ import annotations

import numpy as np

from fallline.tables.cells import Cells
from fallline.tables.target import Target, numbered

LEAK = 0.999
"""A column that accounts for this much of the target by itself is reported as a likely leak."""
MOST = 10_000
"""Training rows that are looked at, evenly spaced where there are more."""
_LEAST = 20
"""Fewer rows say nothing."""
_PER_BIN = 10
"""Rows for each value (or range of values) of a column whose part in the target is measured."""


class Leaks:
    """Tells whether a column alone nearly determines the target, in the training rows.

    A number determines another one if |correlation|, of values or of ranks, exceeds `LEAK`. Any column determines the
    target if its levels, or ranges of equal numbers of rows, leave less than 1 - `LEAK` of the target's variance (of the
    errors of always guessing the commonest class).
    """

    def __init__(self, wanted: Cells, goal: Target, train: np.ndarray):
        self._rows = train[:: -(-len(train) // MOST)]
        self._classes = goal.task == "classification"
        self._y = numbered(wanted)[0][self._rows] if self._classes else wanted.floats(self._rows)

    def has(self, column: Cells) -> bool:
        """Whether it does."""
        if column.kind == "text" or len(self._rows) < _LEAST:
            return False
        if column.kind == "category":
            return self._told(column.values[self._rows] + 1)
        x = column.floats(self._rows)
        if column.kind == "date":
            x[np.isnat(column.values[self._rows])] = np.nan
        if not self._classes and self._follows(x):
            return True
        return self._told(_ranges(x, self._most()))

    def _most(self) -> int:
        """The most levels that a column may have to be judged by them: rarer ones would fit anything."""
        if not self._classes:
            return len(self._y) // _PER_BIN
        return max(2, (len(self._y) - np.bincount(self._y).max()) // _PER_BIN)

    def _told(self, codes: np.ndarray) -> bool:
        """Whether levels (from 0) leave next to nothing of the target untold."""
        counts = np.bincount(codes)
        if not 2 <= np.count_nonzero(counts) <= self._most():
            return False
        if not self._classes:
            total = np.sum((self._y - self._y.mean()) ** 2)
            means = np.bincount(codes, self._y) / np.maximum(counts, 1)
            return bool(np.sum((self._y - means[codes]) ** 2) < (1 - LEAK) * total)
        many = int(self._y.max()) + 1
        pairs = np.bincount(codes * many + self._y, minlength=len(counts) * many).reshape(-1, many)
        wrong, guess = len(codes) - pairs.max(axis=1).sum(), len(codes) - pairs.sum(axis=0).max()
        return bool(wrong < (1 - LEAK) * guess) or (wrong == 0 and guess > 0)

    def _follows(self, x: np.ndarray) -> bool:
        """Whether a number rises or falls with the target, in values or in ranks."""
        good = ~np.isnan(x)
        if good.sum() < _LEAST:
            return False
        near = abs(_correlation(x[good], self._y[good]))
        if 0.7 < near <= LEAK:
            near = abs(_correlation(_ranks(x[good]), _ranks(self._y[good])))
        return near > LEAK


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    unit = [max(np.abs(v).max(), 1e-300) for v in (x, y)]
    x, y = x / unit[0], y / unit[1]
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, ties sharing theirs."""
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2)[index]


def _ranges(x: np.ndarray, most: int) -> np.ndarray:
    """Numbers as ranges of about equally many rows, from 1; 0 where missing."""
    present = np.sort(x[~np.isnan(x)])
    if not len(present) or present[0] == present[-1]:
        return np.where(np.isnan(x), 0, 1)
    bins = min(most - 1, 32)
    edges = np.unique(present[np.linspace(0, len(present) - 1, bins + 1)[1:-1].astype(np.int64)])
    return np.where(np.isnan(x), 0, 1 + np.searchsorted(edges, x))
