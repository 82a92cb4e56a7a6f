"""How one column becomes numbers: learnt from its training rows, then a frozen value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fallline.tables.cells import Cells, Kind
from fallline.tables.text import grams, hashed

LEVELS = 64
"""More levels than this are hashed."""
ROOM, FEWEST, MOST = 4, 1 << 8, 1 << 18
"""A hashed category gets the power of two from `ROOM` columns a level on, within these ends: one level in five shares its column then."""
NAMED, NAMED_BYTES, TOGETHER = 20_000, 1 << 20, 3
"""Levels of a hashed category up to which their names are kept, the letters of all of them, and how many a column's name shows."""
WORDS = 1 << 14
"""Columns of a hashed text."""
_PARTS = ("year", "month", "weekday", "days")
_HUGE = 1e100
"""Numbers from here on are scaled before they are squared."""


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers.

    Args:
        name: the table's column.
        kind: what its cells are.
        numbers: means and scales (numbers, dates), or idf (text): float64.
        levels: levels of a category in order; of a hashed one for the names of its columns alone, and empty where they are many.
        marks_missing: whether an indicator column follows.
        width: hashed columns, or 0.
        form: how its numbers or dates are written; see `forms`.
    """

    name: str
    kind: Kind
    numbers: np.ndarray
    levels: tuple[str, ...] = ()
    marks_missing: bool = False
    width: int = 0
    form: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns that it gives."""
        if self.kind == "number":
            out = (self.name,)
        elif self.kind == "date":
            out = tuple(f"{self.name}: {part}" for part in _PARTS)
        elif self.width:
            out = self._hashed_names
        else:
            out = tuple(f"{self.name}={level}" for level in self.levels)
        return (*out, f"{self.name} is missing") if self.marks_missing else out

    @property
    def count(self) -> int:
        """How many columns it gives."""
        return self.width + self.marks_missing if self.width else len(self.outputs)

    @property
    def _hashed_names(self) -> tuple[str, ...]:
        """Names of hashed columns: the levels that fall into each, where they are kept; else its number."""
        out = [f"{self.name} #{i}" for i in range(self.width)]
        inside: dict[int, list[str]] = {}
        if self.levels:
            for level, place in zip(self.levels, hashed(self.levels, self.width)[0].tolist(), strict=True):
                inside.setdefault(place, []).append(level)
        for place, levels in inside.items():
            out[place] = f"{self.name}={'|'.join(levels[:TOGETHER])}" + (f"|... ({len(levels)} levels)" if len(levels) > TOGETHER else "")
        return tuple(out)

    @property
    def treatment(self) -> str:
        """In words."""
        what = {
            "number": "standardised",
            "date": "year, month, weekday, days; standardised",
            "text": f"hashed 1-2-grams with tf-idf, {self.width} columns",
            "category": f"hashed to {self.width} columns" if self.width else f"one-hot, {len(self.levels)} levels",
        }[self.kind]
        filled = "imputed" if self.kind in ("number", "date") else "left empty"
        return what + (f", missing {filled} and marked" if self.marks_missing else "")

    def dense(self, column: Cells, rows: np.ndarray) -> np.ndarray:
        """Its numbers in some rows, float32 [outputs, rows]; for columns that are not hashed."""
        out = np.zeros((len(self.outputs), len(rows)), np.float32)
        if self.kind == "category":
            places = {level: i for i, level in enumerate(self.levels)}
            place = np.array([*(places.get(level, -1) for level in column.levels), -1])[column.values[rows]]
            seen = np.flatnonzero(place >= 0)
            out[place[seen], seen] = 1
        else:
            for to, values, mean, scale in zip(out, parts_of(column, rows), *self.numbers, strict=False):
                to[:] = (values - mean) / scale
            out[np.isnan(out)] = 0  # the mean
        if self.marks_missing:
            out[-1] = column.missing[rows]
        return out

    def sparse(self, column: Cells, rows: np.ndarray) -> sparse.csr_matrix:
        """Its numbers in some rows, float32 [rows, outputs]; for columns that are hashed."""
        if self.kind == "text":
            body = _tfidf(grams(column.values.take(rows), self.width), self.numbers)
        else:
            places, signs = hashed(column.levels, self.width)
            codes = column.values[rows]
            there = codes >= 0
            starts = np.concatenate([[0], np.cumsum(there)])
            body = sparse.csr_matrix((signs[codes[there]], places[codes[there]], starts), shape=(len(rows), self.width))
        if not self.marks_missing:
            return body
        return sparse.hstack([body, column.missing[rows][:, None].astype(np.float32)], format="csr")


def fit_column(column: Cells, rows: np.ndarray, width: int = 0) -> Column:
    """Learn a column's encoder from its training rows; `width` hashes a category to so many columns, however few its levels."""
    marks = bool(column.missing[rows].any())
    if column.kind in ("number", "date"):
        numbers = np.array([_mean_and_scale(v) for v in parts_of(column, rows)]).T
        return Column(column.name, column.kind, numbers, marks_missing=marks, form=column.form)
    if column.kind == "text":
        return of_words(column.name, np.bincount(grams(column.values.take(rows), WORDS).indices, minlength=WORDS), len(rows), marks)
    return of_levels(column.name, [column.levels[i] for i in np.flatnonzero(column.counts(rows))], marks, width)


def of_words(name: str, frequency: np.ndarray, rows: int, marks: bool) -> Column:
    """The encoder of text; `frequency` says in how many of the rows each hashed word stands."""
    return Column(name, "text", np.log((1 + rows) / (1 + frequency)) + 1, marks_missing=marks, width=WORDS)


def of_levels(name: str, levels: Sequence[str], marks: bool, width: int = 0) -> Column:
    """The encoder of a category with these levels in its training rows; those of a hashed one are kept for its columns' names alone."""
    if width or len(levels) > LEVELS:
        kept = tuple(sorted(levels)) if len(levels) <= NAMED and sum(map(len, levels)) <= NAMED_BYTES else ()
        return Column(name, "category", np.empty(0), kept, marks, width or width_for(len(levels)))
    return Column(name, "category", np.empty(0), tuple(sorted(levels)), marks)


def width_for(levels: int) -> int:
    """Columns to which so many levels are hashed.

    >>> width_for(65), width_for(400), width_for(10**6)
    (512, 2048, 262144)
    """
    return min(max(1 << (ROOM * levels - 1).bit_length(), FEWEST), MOST)


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Of the values that are not missing; 0 of none."""
    present = values[~np.isnan(values)]
    unit = np.abs(present).max(initial=0)
    unit = unit if unit > _HUGE else 1.0
    present = present if unit == 1 else present / unit
    return (float(present.mean()) * unit, float(present.std()) * unit) if len(present) else (0.0, 0.0)


def scale_of(mean: float, deviation: float) -> float:
    """What numbers are divided by: 1 where they do not vary."""
    return deviation if deviation > 1e-12 * abs(mean) else 1.0


def _mean_and_scale(values: np.ndarray) -> tuple[float, float]:
    mean, deviation = mean_and_deviation(values)
    return mean, scale_of(mean, deviation)


def parts_of(column: Cells, rows: np.ndarray) -> np.ndarray:
    """The numbers themselves, or year, month, weekday and days since 1970: float64 [parts, rows], NaN where missing."""
    if column.kind == "number":
        return column.floats(rows)[None]
    values = column.values[rows]
    days, months = values.astype("datetime64[D]"), values.astype("datetime64[M]").astype(np.int64)
    since = (values - np.datetime64(0, "us")).astype(np.float64) / 86_400e6
    weekday = (days.astype(np.int64) + 3) % 7  # 1970 began with a Thursday
    out = np.array([months // 12 + 1970, months % 12 + 1, weekday, since], np.float64)
    out[:, np.isnat(values)] = np.nan
    return out


def _tfidf(counts: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """(1 + log count) * idf, each row of length 1."""
    counts.data = ((1 + np.log(counts.data)) * idf[counts.indices]).astype(np.float32)
    squares = np.concatenate([[0], np.cumsum(counts.data.astype(np.float64) ** 2)])
    norms = np.sqrt(np.diff(squares[counts.indptr]))
    counts.data = (counts.data / np.repeat(np.where(norms > 0, norms, 1), np.diff(counts.indptr))).astype(np.float32)
    return counts
