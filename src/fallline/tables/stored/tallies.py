"""What one pass over a column leaves: counts, means and levels, in memory that does not grow with the rows."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.tables.cells import Cells
from fallline.tables.columns import mean_and_deviation, parts_of, scale_of

LEVELS_KEPT = 1 << 16
"""Different cells of a column that are told apart; with more it is numbers, dates or text by the first of them, or hashed."""
_SAMPLED = 1 << 15
"""Different numbers that are kept to see whether any comes twice."""


@dataclass
class Moments:
    """Mean and spread of numbers, part by part (Chan, Golub, LeVeque 1979), in extended precision."""

    count: float = 0.0
    mean: Any = field(default_factory=lambda: np.longdouble(0))
    squares: Any = field(default_factory=lambda: np.longdouble(0))

    def add(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        """More numbers, float64, NaN where missing; `weights` says how often each occurs."""
        there = ~np.isnan(values)
        there = there if weights is None else there & (weights > 0)
        values = values if there.all() else values[there]
        if not len(values):
            return
        if weights is None:
            many, mean, scale = float(len(values)), *mean_and_deviation(values)
            self._join(many, np.longdouble(mean), many * np.longdouble(scale) ** 2)
            return
        often = weights[there].astype(np.longdouble)
        mean = (often * values).sum() / often.sum()
        self._join(float(often.sum()), mean, (often * (values - mean) ** 2).sum())

    def _join(self, count: float, mean: Any, squares: Any) -> None:
        whole = self.count + count
        apart = mean - self.mean
        self.squares += squares + apart * apart * (self.count * count / whole)
        self.mean += apart * (count / whole)
        self.count = whole

    @property
    def deviation(self) -> float:
        """The standard deviation, 0 of nothing."""
        return float(np.sqrt(self.squares / self.count)) if self.count else 0.0

    @property
    def mean_and_scale(self) -> tuple[float, float]:
        """As a column is standardised: a scale of 1 where its numbers do not vary."""
        mean = float(self.mean)
        return mean, scale_of(mean, self.deviation)


class Different:
    """Whether all numbers are different: of those whose hash is small, each must come once (others are not kept)."""

    def __init__(self) -> None:
        self.so_far, self._kept, self._mask = True, np.empty(0, np.uint64), np.uint64(0)

    def add(self, values: np.ndarray) -> None:
        if not self.so_far:
            return
        hashes = mixed(np.ascontiguousarray(values, np.float64).view(np.uint64))
        kept = np.concatenate([self._kept, hashes[hashes & self._mask == 0]])
        unique = np.unique(kept)
        self.so_far = len(unique) == len(kept)
        while len(unique) > _SAMPLED:
            self._mask = self._mask << np.uint64(1) | np.uint64(1)
            unique = unique[unique & self._mask == 0]
        self._kept = unique


def mixed(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, element by element: see `fallline.shuffle.mix`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Tally:
    """What every column's tally has: how many cells there are, in all and in training rows."""

    def __init__(self, name: str):
        self.name = name
        self.present = self.missing = self.train = self.train_missing = 0
        self.form = ""
        self.note = self.why = ""

    def count(self, missing: np.ndarray, train: np.ndarray) -> None:
        gone = int(np.count_nonzero(missing))
        self.missing += gone
        self.present += len(missing) - gone
        self.train += int(np.count_nonzero(train))
        self.train_missing += int(np.count_nonzero(missing & train)) if gone else 0

    @property
    def train_present(self) -> int:
        return self.train - self.train_missing


class NumberTally(Tally):
    """A column of numbers or dates (then `moments` are those of its parts)."""

    def __init__(self, name: str, kind: str, named: bool = False):
        super().__init__(name)
        self.kind = kind
        self.moments = [Moments() for _ in range(1 if kind == "number" else 4)]
        self.low, self.high = np.inf, -np.inf
        self.constant, self.steps = True, True
        self.whole = True
        self._first: Any = None
        self._last: float | None = None
        self.different = Different() if named else None

    def add(self, cells: Cells, train: np.ndarray) -> None:
        missing = cells.missing
        self.count(missing, train)
        self.form, self.note, self.why = cells.form, cells.note or self.note, self.why or cells.why
        for moments, values in zip(self.moments, parts_of(cells, np.flatnonzero(train)), strict=True):
            moments.add(values)
        values = cells.values[~missing] if missing.any() else cells.values
        values = values.astype(np.float64) if cells.kind == "number" else values.view(np.int64).astype(np.float64)
        self.look(values, cells.values[train & ~missing])

    def look(self, values: np.ndarray, training: np.ndarray) -> None:
        """The cells that are there (float64), and those of training rows."""
        if len(training) and self.constant:
            self._first = training[0] if self._first is None else self._first
            self.constant = bool((training == self._first).all())
        if not len(values):
            return
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        if self.steps:
            before = values[0] - 1 if self._last is None else self._last
            self.steps = bool((np.diff(values, prepend=before) == 1).all())
            self._last = float(values[-1])
        if self.different is not None:
            self.whole = self.whole and bool((values == np.round(values)).all())
            self.different.add(values)

    def add_levels(self, values: np.ndarray, often: np.ndarray, training: np.ndarray) -> None:
        """Numbers or dates that were counted level by level."""
        cells = Cells(self.name, self.kind, values)  # type: ignore[arg-type]
        every = np.arange(len(values))
        for moments, part in zip(self.moments, parts_of(cells, every), strict=True):
            moments.add(part, training)
        self.steps = self.constant = False
        self.present += int(often.sum())
        self.train += int(training.sum())
        if self.kind == "number":
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.constant = bool(np.count_nonzero(training) == 1)


class Places:
    """Where each level of a column was first seen, as a source says where a row stands."""

    def __init__(self) -> None:
        self._file, self._word, self._numbers = "", "row", array("q")

    def add(self, places: Sequence[Mapping[str, Any]]) -> None:
        self._file, self._word = places[0]["file"], next(w for w in ("line", "row") if w in places[0])
        self._numbers.extend(p[self._word] for p in places)

    def where(self, row: int) -> dict[str, Any]:
        """Where the level of this number was seen first."""
        return {"file": self._file, self._word: self._numbers[row]}


class LevelTally(Tally):
    """A column of different cells: how often each occurs, in all and in training rows, and where it was first seen."""

    kind = "category"

    def __init__(self, name: str):
        super().__init__(name)
        self.words: dict[str, int] = {}
        self.places = Places()
        self._often, self._training = np.zeros(1024, np.int64), np.zeros(1024, np.int64)
        self.full = False
        self.boolean = False

    @property
    def often(self) -> np.ndarray:
        """int64 by level: cells."""
        return self._often[: len(self.words)]

    @property
    def training(self) -> np.ndarray:
        """int64 by level: cells of training rows."""
        return self._training[: len(self.words)]

    def add(self, cells: Cells, train: np.ndarray, where: Any = None) -> None:
        """The cells of a category."""
        self.boolean = cells.boolean
        self.why = self.why or cells.why
        self.add_codes(cells.levels, cells.values, train, where)

    def add_codes(self, words: Sequence[str], codes: np.ndarray, train: np.ndarray, where: Any = None) -> None:
        """Cells as places in `words`, -1 where missing; `where` is the source that they stand in."""
        self.count(codes < 0, train)
        if self.full:
            return
        place = np.empty(len(words), np.int64)
        known, fresh = self.words, []
        for i, word in enumerate(words):
            at = known.get(word)
            if at is None:
                at = known[word] = len(known)
                fresh.append(i)
            place[i] = at
        while len(self._often) < len(known):
            self._often, self._training = (np.concatenate([a, np.zeros_like(a)]) for a in (self._often, self._training))
        self._often[place] += np.bincount(codes + 1, minlength=len(words) + 1)[1:]
        self._training[place] += np.bincount(codes[train] + 1, minlength=len(words) + 1)[1:]
        if fresh and where is not None:
            rows = dict(zip(*(v.tolist() for v in np.unique(codes, return_index=True)), strict=True))
            self.places.add([where.where(rows[i]) for i in fresh])
        self.full = len(known) > LEVELS_KEPT


class TextTally(Tally):
    """A column of text: in how many training rows each hashed word stands."""

    kind = "text"

    def __init__(self, name: str, width: int):
        super().__init__(name)
        self.frequency = np.zeros(width, np.int64)

    def add(self, cells: Cells, train: np.ndarray) -> None:
        from fallline.tables.text import grams

        self.count(cells.missing, train)
        self.why = self.why or cells.why
        found = grams(cells.values.take(np.flatnonzero(train)), len(self.frequency))
        self.frequency += np.bincount(found.indices, minlength=len(self.frequency))
