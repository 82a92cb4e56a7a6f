"""One pass over a table: what its columns are, what the training rows teach the encoders, and how the rows are split."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.shuffle import stream_key
from fallline.tables.account import ColumnNote
from fallline.tables.cells import cells
from fallline.tables.choice import FEW
from fallline.tables.columns import Column, of_levels, of_words
from fallline.tables.crosses import BETWEEN, crossed
from fallline.tables.encoders import Encoder
from fallline.tables.leaks import MOST, Leaks
from fallline.tables.options import TableOptions
from fallline.tables.reading import filled, stream
from fallline.tables.sources import Source, is_text, need
from fallline.tables.stored.tallies import LEVELS_KEPT, LevelTally, Moments, NumberTally, TextTally, mixed
from fallline.tables.stored.watch import Again, Watch
from fallline.tables.strings import plain
from fallline.tables.target import Target, inferred
from fallline.tables.weights import weights_of

TRAIN, VALID, TEST, UNUSED = range(4)


@dataclass(frozen=True)
class Shares:
    """Which part a row belongs to: by a hash of the seed and its number, or of its group.

    Args:
        valid, test: shares of all rows.
        sample: the share of rows that are kept in memory too, all of them training rows.
        key: of the draw.
    """

    valid: float
    test: float
    sample: float
    key: int

    @classmethod
    def of(cls, valid: float, test: float, sample: float, seed: int) -> Shares:
        return cls(valid, test, sample, stream_key(seed, 0, 17))

    def draw(self, rows: np.ndarray) -> np.ndarray:
        """A number from 0 to 1 for each row (or group), float64."""
        return mixed(rows.astype(np.uint64) ^ np.uint64(self.key)).astype(np.float64) / 2.0**64

    def parts(self, drawn: np.ndarray) -> np.ndarray:
        """TRAIN, VALID or TEST of each."""
        return np.where(drawn < self.test, TEST, np.where(drawn < self.test + self.valid, VALID, TRAIN)).astype(np.int8)

    def sampled(self, drawn: np.ndarray) -> np.ndarray:
        """Which of them are in the sample; those of other parts are left out by whoever asks."""
        return drawn >= 1 - self.sample


@dataclass
class Survey:
    """What the pass found.

    Attributes:
        encoder, target: as they are saved with a run.
        notes: a note on every column; warnings: what a reader should know.
        rows: in the file; missing: of those, without a target.
        counts: training, validation and test rows.
        by_class: training rows of each class; or None of numbers.
        weight_mean: of the training rows' weights, or None.
        kind, form: of the target's cells; mean: of its numbers in training rows.
        by_weight: the weight of each class, or None.
    """

    encoder: Encoder
    target: Target
    notes: tuple[ColumnNote, ...]
    warnings: tuple[str, ...]
    rows: int
    missing: int
    counts: tuple[int, int, int]
    by_class: dict[Any, int] | None
    by_weight: dict[Any, float] | None
    weight_mean: float | None
    kind: str
    form: str | None
    mean: float


def survey(path: Any, target: str, given: TableOptions, shares: Shares) -> Survey:
    """Make the pass; again where a column turned out to be another kind of thing than its first rows said."""
    how: dict[str, str] = {}
    while True:
        try:
            return _Pass(path, target, given, shares, how).run()
        except Again as again:
            how = how | {again.name: again.how}


def split_of(source: Source, at: int, given: TableOptions, shares: Shares) -> tuple[np.ndarray, np.ndarray]:
    """The part of each row of a piece of the table that begins with row `at`, target or no target, and whether it is in the sample."""
    numbers = np.arange(at, at + source.rows)
    if given.group is not None:
        found = cells(source, given.group, "category")
        if found.missing.any():
            raise TableError(f"the group column {given.group!r} is missing: fill the cell, or split without it", **source.where(int(np.argmax(found.missing))))
        codes = np.array([zlib.crc32(level.encode()) for level in found.levels], np.uint64)
        parts = shares.parts(shares.draw(codes[found.values]))
    else:
        parts = shares.parts(shares.draw(numbers))
    return parts, shares.sampled(shares.draw(numbers)) & (parts == TRAIN)


@dataclass
class _Pass:
    """The pass under way."""

    path: Any
    target: str
    given: TableOptions
    shares: Shares
    how: dict[str, str]
    rows: int = 0
    missing: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    looked: list[Any] = field(default_factory=list)
    width: int = 0
    first: int = -1
    notes: tuple[str, ...] = ()

    def run(self) -> Survey:
        self.goal = _Goal(self.target, self.given, self.how.get(self.target, ""))
        self.watches: dict[str, Watch] = {}
        self.weights = Moments()
        sparse = False
        for source in stream(self.path):
            if not self.rows:
                self._begin(source)
            source = crossed(self._with_known(source), self.given.crosses)
            sparse = sparse or source.csr is not None
            self._add(source)
        goal = self.goal.target()
        if not self.counts[TRAIN]:
            raise TableError(f"no row is left to train on ({self.rows:,} rows, {self.missing:,} without a target)", file=str(self.path))
        by_class = self.goal.by_class() if goal.task == "classification" else None
        tallies = [w.finish() for w in self.watches.values()]
        sample = need("pyarrow").concat_tables([t for t, _ in self.looked], promote_options="permissive") if self.looked and not sparse else None
        notes, warnings, columns = self._chosen(tallies, goal, sample)
        encoder = Encoder((), self.width - self.first, self.first) if sparse else Encoder(columns, crosses=self.given.crosses)
        by_weight, mean = self._weighting(by_class)
        return Survey(encoder, goal, notes, warnings, self.rows, self.missing, tuple(self.counts.tolist()), by_class, by_weight, mean, self.goal.kind, self.goal.form, self.goal.mean)  # type: ignore[arg-type]

    def _begin(self, source: Source) -> None:
        source.column(self.target)
        for name in self.given.columns():
            source.column(name)
        self.notes = source.notes
        names = [*source.names, *map(BETWEEN.join, self.given.crosses), *(n for n, how in self.how.items() if "late" in how)]
        apart = {self.target, self.given.group, self.given.sample_weight, *self.given.drop}
        for name in names:
            if name not in apart and (not self.given.only or name in self.given.only):
                self.watches[name] = Watch(name, self.given.kinds.get(name), self.how.get(name, ""))
        self.names, self.step = names, 1

    def _with_known(self, source: Source) -> Source:
        """A piece with every column of the table; one that comes up late (a key of JSON objects) has the pass made again."""
        late = next((n for n in source.names if n not in self.names), None)
        if late is not None:
            raise Again(late, "late")
        return filled(source, [n for n in self.names if "late" in self.how.get(n, "")])

    def _add(self, source: Source) -> None:
        parts, _ = split_of(source, self.rows, self.given, self.shares)
        there = self.goal.add(source, parts == TRAIN)
        parts[~there] = UNUSED
        self.rows += source.rows
        self.missing += int(np.count_nonzero(~there))
        self.counts += np.bincount(parts, minlength=4)[:3]
        train = parts == TRAIN
        for watch in self.watches.values():
            watch.add(source, train)
        if self.given.sample_weight is not None:
            self.weights.add(weights_of(source, self.given.sample_weight)[train])
        if source.csr is not None:
            self.width = max(self.width, source.csr.shape[1])
            if source.csr.nnz:
                low = int(source.csr.indices.min())
                self.first = low if self.first < 0 else min(self.first, low)
        else:
            self._look(source, train)

    def _look(self, source: Source, train: np.ndarray) -> None:
        """Keep every so many training rows as they are, for the look at leaks: at most twice as many as that takes."""
        numbers = self.rows - source.rows + np.arange(source.rows)
        rows = np.flatnonzero(train & (numbers % self.step == 0))
        names = [w.name for w in (self.goal.watch, *self.watches.values()) if w.is_strings]
        self.text = source.text
        self.looked.append((source.as_text(names).table.take(rows), numbers[rows]))
        while sum(len(n) for _, n in self.looked) > 2 * MOST:
            self.step *= 2
            self.looked = [(table.take(np.flatnonzero(n % self.step == 0)), n[n % self.step == 0]) for table, n in self.looked]

    # ------------------------------------------------------------------------------------------------ the end

    def _chosen(self, tallies: list[Any], goal: Target, sample: Any) -> tuple[tuple[ColumnNote, ...], tuple[str, ...], tuple[Column, ...]]:
        """A note on every column, warnings, and the encoders of those in use."""
        notes, warnings, columns = [], list(self.notes), []
        by_name, leaks, looked = {t.name: t for t in tallies}, *self._leaks(goal, sample)
        apart = {self.target: "the target", self.given.group: "the group column", self.given.sample_weight: "the weight column"}
        told = {*self.given.types, *self.given.only}
        for name in self.names:
            tally = by_name.get(name)
            if tally is None:
                why = apart.get(name) or ("dropped as asked" if name in self.given.drop else "not among the only ones")
                notes.append(ColumnNote(name, "", False, why, 0))
                continue
            why = _set_aside(tally, name in told)
            column = None if why else encoder_of(tally, self.given.widths.get(name, 0))
            notes.append(ColumnNote(name, tally.kind, not why, why if column is None else column.treatment, tally.missing, "" if why else tally.why))
            warnings += [f"column {name!r} {tally.note}"] if tally.note else []
            if column is None:
                continue
            columns.append(column)
            if leaks is not None and column.kind != "text" and leaks.has(cells(looked, name, column.kind, column.form)):
                warnings.append(f"column {name!r} alone nearly determines the target: a leak? leave it out with --drop {name}")
        if not columns and not self.width:
            reasons = "; ".join(f"{n.name}: {n.treatment}" for n in notes if n.name != self.target)
            raise TableError(f"no column is left to learn from beside the target {self.target!r}" + (f" ({reasons})" if reasons else ""), file=str(self.path))
        return tuple(notes), tuple(warnings), tuple(columns)

    def _leaks(self, goal: Target, sample: Any) -> tuple[Leaks | None, Any]:
        if sample is None or not sample.num_rows:
            return None, None
        looked = Source(sample, str(self.path), text=self.text)
        wanted = cells(looked, self.target, self.goal.kind, self.goal.form)
        return Leaks(wanted, goal, np.flatnonzero(~wanted.missing)), looked

    def _weighting(self, by_class: dict[Any, int] | None) -> tuple[dict[Any, float] | None, float | None]:
        """The weight of each class, and the mean weight of the training rows."""
        given = self.given.class_weight
        if given is None:
            return None, float(self.weights.mean) if self.given.sample_weight is not None else None
        if by_class is None:
            raise InvalidValue(f"class_weight is for classes; the target {self.target!r} is of numbers")
        if self.given.sample_weight is not None:
            raise InvalidValue("class_weight and sample_weight together: for a table larger than memory give one of them")
        total, seen = sum(by_class.values()), sum(n > 0 for n in by_class.values())
        if given == "balanced":
            by_weight = {c: total / (seen * max(n, 1)) for c, n in by_class.items()}
        else:
            unknown = next((str(k) for k in given if str(k) not in map(str, by_class)), None)
            if unknown is not None:
                raise UnknownName.among("class", unknown, [str(c) for c in by_class])
            by_name = {str(k): float(v) for k, v in given.items()}
            by_weight = {c: by_name.get(str(c), 1.0) for c in by_class}
        return by_weight, sum(by_weight[c] * n for c, n in by_class.items()) / total


def encoder_of(tally: Any, width: int = 0) -> Column:
    """A column's encoder by its tally; `width` hashes a category to so many columns."""
    marks = tally.train_missing > 0
    if isinstance(tally, NumberTally):
        numbers = np.array([m.mean_and_scale for m in tally.moments]).T
        return Column(tally.name, tally.kind, numbers, marks_missing=marks, form=tally.form)  # type: ignore[arg-type]
    if isinstance(tally, TextTally):
        return of_words(tally.name, tally.frequency, tally.train, marks)
    often = tally.training
    return of_levels(tally.name, [word for word, at in tally.words.items() if often[at]], marks, width)


def _set_aside(tally: Any, told: bool) -> str:
    """Why a column cannot help, or nothing; as `choice` has it of a column in memory."""
    if tally.train_present == 0:
        return "every value is missing" if tally.present == 0 else "every value in the training rows is missing"
    if told or isinstance(tally, TextTally):
        return ""
    alike = tally.train_missing == 0
    if isinstance(tally, LevelTally):
        distinct = int(np.count_nonzero(tally.training))
        if distinct == 1:
            return "constant" if alike else ""
        return "an identifier: different in every row" if int(tally.training.sum()) == distinct > FEW else ""
    if tally.constant:
        return "constant" if alike else ""
    if tally.kind == "number" and tally.present > FEW + 1:
        if tally.steps:
            return "an identifier: it counts the rows"
        if tally.different is not None and tally.whole and tally.different.so_far:
            return "an identifier: different in every row"
    return ""


class _Goal:
    """The target under way; in the end, the facts that decide about it (see `target.Facts`)."""

    def __init__(self, name: str, given: TableOptions, how: str):
        self.name, self.given = name, given
        self.watch = Watch(name, given.kinds.get(name) or ("number" if given.task == "regression" else None), how)
        self._values, self._often, self._training = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        self._logs = Moments()
        self.many = False

    def add(self, source: Source, train: np.ndarray) -> np.ndarray:
        """The next rows, of which `train` are of the training part; returns which of them have a target."""
        there = self._there(source)
        train = train & there
        self.watch.add(source, train)
        tally = self.watch.tally
        if isinstance(tally, NumberTally) and tally.kind == "number":
            values = cells(source, self.name, "number", tally.form).values.astype(np.float64)
            self._count(values[there], train[there])
            if self.given.log_target:
                with np.errstate(invalid="ignore", divide="ignore"):
                    self._logs.add(np.log1p(values[train]))
        return there

    def _there(self, source: Source) -> np.ndarray:
        column = source.column(self.name)
        types = need("pyarrow").types
        if types.is_null(column.type):
            return np.zeros(source.rows, bool)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if is_text(column):
            return ~plain(source, column).is_null().to_numpy(zero_copy_only=False)
        return ~cells(source, self.name).missing

    def _count(self, values: np.ndarray, train: np.ndarray) -> None:
        """Different numbers and how often each occurs, up to as many as are told apart."""
        if self.many:
            return
        found, index = np.unique(np.concatenate([self._values, values]), return_inverse=True)
        many = len(self._values)
        often, training = np.bincount(index[many:], minlength=len(found)), np.bincount(index[many:][train], minlength=len(found))
        often[index[:many]] += self._often
        training[index[:many]] += self._training
        self._values, self._often, self._training = found, often, training
        self.many = len(found) > LEVELS_KEPT

    # ------------------------------------------------------------------------------------- facts of the target

    def target(self) -> Target:
        """What kind of target it is."""
        self._tally = self.watch.finish()
        if self._tally.present and self._tally.kind == "text":
            raise TableError(f"the target {self.name!r} holds text, as {self.example}: expected classes or numbers; to take it as classes: --type {self.name}=category")
        self.many = self.many or (self.watch.by_level is not None and len(self.watch.by_level[0]) > LEVELS_KEPT)
        if self._tally.kind == "number" and self.watch.by_level is not None and not self.many:
            values, training, often = self.watch.by_level
            self._values, index = np.unique(values[: len(often)], return_inverse=True)
            self._often, self._training = (np.bincount(index, v, len(self._values)).astype(np.int64) for v in (often, training))
            if self.given.log_target:
                self._logs.add(np.log1p(self._values), self._training)
        return inferred(self, self.given.task, self.given.log_target)

    @property
    def kind(self) -> str:
        return self._tally.kind

    @property
    def form(self) -> str | None:
        return self._tally.form or None

    @property
    def boolean(self) -> bool:
        return getattr(self._tally, "boolean", False)

    @property
    def present(self) -> int:
        return self._tally.present

    @property
    def labels(self) -> list[Any]:
        if self.many or getattr(self._tally, "full", False):
            raise TableError(f"the target {self.name!r} holds more than {LEVELS_KEPT:,} different values, as {self.example}: these are no classes; choose another target")
        if isinstance(self._tally, LevelTally):
            return [v == "true" for v in self._tally.words] if self.boolean else list(self._tally.words)
        return [int(v) if float(v).is_integer() else v for v in self._values.tolist()]

    @property
    def distinct(self) -> int:
        return len(self._values)

    @property
    def whole(self) -> bool:
        return not self.many and bool((self._values == np.round(self._values)).all())

    @property
    def ends(self) -> tuple[float, float]:
        return float(self._tally.low), float(self._tally.high)

    @property
    def example(self) -> str:
        value = next(iter(self._tally.words), "") if isinstance(self._tally, LevelTally) else self._values[0] if len(self._values) else "dates"
        return repr(str(value)[:60])

    def moments(self, log: bool) -> tuple[float, float]:
        found = self._logs if log else self._tally.moments[0]
        return float(found.mean), found.deviation

    @property
    def mean(self) -> float:
        return float(self._tally.moments[0].mean) if self._tally.kind == "number" else 0.0

    def by_class(self) -> dict[Any, int]:
        """Training rows of each class."""
        often = self._tally.training if isinstance(self._tally, LevelTally) else self._training
        return dict(zip(self.labels, often.tolist(), strict=True))


def pieces(path: Any, given: TableOptions, shares: Shares, encoder: Encoder) -> Iterator[tuple[Source, int, np.ndarray, np.ndarray]]:
    """The table piece by piece: rows, the number of the first, and each row's part and whether it is in the sample."""
    at, made = 0, set(map(BETWEEN.join, encoder.crosses))
    for source in stream(path):
        source = filled(source, [c.name for c in encoder.columns if c.name not in made])
        yield source, at, *split_of(source, at, given, shares)
        at += source.rows


__all__ = ["Shares", "Survey", "pieces", "split_of", "survey"]
