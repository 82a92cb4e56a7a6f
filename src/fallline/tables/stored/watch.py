"""One column under way: what its cells are is decided from all of them, as of a column in memory, and counted meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.tables.cells import Cells, cells, level
from fallline.tables.choice import NAMED
from fallline.tables.columns import WORDS
from fallline.tables.sources import Source, is_text, need
from fallline.tables.stored.tallies import LevelTally, NumberTally, Tally, TextTally
from fallline.tables.strings import FIRST, TEXT_LENGTH, Levels, decided, plain, wordy


class Again(Exception):
    """The pass must be made again: a column turned out to be what it did not look like at first."""

    def __init__(self, name: str, how: str):
        super().__init__(name)
        self.name, self.how = name, how


class Watch:
    """A column under way.

    Args:
        name: the column.
        wanted: its kind where the user has said it, else None.
        how: "strings" where numbers of it are to be taken as the strings that stand there, "words" where it may be text,
            "" as long as nothing is known.
    """

    def __init__(self, name: str, wanted: str | None, how: str = ""):
        self.name, self.wanted, self.how = name, wanted, how
        self.tally: Any = None
        self.levels: LevelTally | None = None
        self._text = TextTally(name, WORDS) if "words" in how else None
        self._length = self._spaced = 0.0
        self._first: list[str] = []
        self._unseen = Tally(name)
        self._form: str | None = None

    # ------------------------------------------------------------------------------------------------ the pass

    def add(self, source: Source, train: np.ndarray) -> None:
        """The next rows; `train` says which of them train."""
        column = source.column(self.name)
        types = need("pyarrow").types
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if types.is_null(column.type) and self.tally is None and self.levels is None:
            return self._unseen.count(np.ones(source.rows, bool), train)
        if self.tally is not None and self.tally.kind != "number" and (is_text(column) or types.is_null(column.type)):
            return self._typed(source, train)
        if self.wanted in ("category", "text"):
            return self._typed(source, train)
        if is_text(column) or self.levels is not None or "strings" in self.how:
            if self.tally is not None and not self._decided_as_number:
                if types.is_null(column.type):
                    return self.tally.count(np.ones(source.rows, bool), train)
                raise Again(self.name, self.how + " strings")
            return self._strings(source, train) if self.tally is None else self._typed(source, train)
        return self._typed(source, train)

    @property
    def is_strings(self) -> bool:
        """Whether the column is taken as the strings that stand in a file of text."""
        return self.levels is not None or self._form is not None or "strings" in self.how

    @property
    def _decided_as_number(self) -> bool:
        """Whether it is numbers though its cells are strings: then every further cell must be one."""
        return self._form is not None

    def _typed(self, source: Source, train: np.ndarray) -> None:
        kind = self.wanted if self.tally is None else self.tally.kind
        found = cells(source, self.name, kind, self._form)
        if self.tally is None:
            self.tally = _tally(found, NAMED.search(self.name) is not None)
        if isinstance(self.tally, LevelTally):
            self.tally.add(found, train, source)
        else:
            self.tally.add(found, train)

    def _strings(self, source: Source, train: np.ndarray) -> None:
        """Strings: their different cells are counted, until it is clear what they are."""
        compute = need("pyarrow.compute")
        column = plain(source, _as_strings(source.as_text([self.name]).column(self.name)))
        found = Levels.of(source, self.name, column)
        if self.levels is None:
            self.levels = LevelTally(self.name)
        self.levels.add_codes(found.words, found.codes, train, source)
        if self.wanted is not None:
            return self._close() if self.levels.full else None
        first_rows = self._length == 0 and not self._first
        self._length += compute.sum(compute.utf8_length(column)).as_py() or 0
        self._spaced += compute.sum(compute.match_substring(column, " ")).as_py() or 0
        if len(self._first) < FIRST:
            self._first += compute.drop_null(column).slice(0, FIRST - len(self._first)).to_pylist()
        if first_rows and self._text is None and self._looks_like_words:
            self._text = TextTally(self.name, WORDS)
        if self._text is not None:
            self._text.add(Cells(self.name, "text", column.combine_chunks()), train)
        if self.levels.full:
            self._close()

    @property
    def _looks_like_words(self) -> bool:
        present = max(self.levels.present if self.levels is not None else 0, 1)
        return self._length / present >= TEXT_LENGTH and self._spaced / present > 0.5

    def _close(self) -> None:
        """Decide what the strings are: after the last, or where more of them are different than can be kept."""
        levels = self.levels
        assert levels is not None
        distinct = len(levels.words) / max(levels.present, 1)
        why = wordy(self._length / max(levels.present, 1), self._first, lambda: distinct) if self.wanted is None and self._looks_like_words else ""
        if why:
            if self._text is None:
                raise Again(self.name, self.how + " words")
            self.tally, self._text.why = self._text, why
            self.tally.missing, self.tally.train_missing = levels.missing, levels.train_missing
            self.levels = None
            return
        self._text = None
        words = Levels(levels.places, self.name, list(levels.words), np.arange(len(levels.words), dtype=np.int32), levels.often)  # type: ignore[arg-type]
        kind, values, why, *rest = decided(words, self.wanted, self._form)
        if kind == "category":
            levels.why, levels.note = why, rest[3] if len(rest) > 3 else ""
            self.tally = levels
        else:
            self.tally = NumberTally(self.name, kind, NAMED.search(self.name) is not None)
            self.tally.add_levels(values, levels.often, levels.training)
            self.tally.missing, self.tally.train_missing = levels.missing, levels.train_missing
            self.tally.train += levels.train_missing
            self.tally.form = self._form = rest[1] if len(rest) > 1 else ""
            self.tally.why, self.tally.note = why, rest[3] if len(rest) > 3 else ""
            self.by_level = values, levels.training, levels.often
        self.levels = None

    by_level: tuple[Any, np.ndarray, np.ndarray] | None = None
    """Of strings that are numbers or dates: the value of each, how often in training rows, and in all."""

    def finish(self) -> Any:
        """The column's tally, once all rows were seen."""
        if self.tally is None and self.levels is not None:
            self._close()
        if self.tally is None:
            self.tally = LevelTally(self.name)
            self.tally.why = "every cell is missing"
        unseen = self._unseen
        for what in ("missing", "train", "train_missing"):
            setattr(self.tally, what, getattr(self.tally, what) + getattr(unseen, what))
        return self.tally


def _tally(found: Cells, named: bool) -> Any:
    if found.kind == "category":
        return LevelTally(found.name)
    if found.kind == "text":
        return TextTally(found.name, WORDS)
    return NumberTally(found.name, found.kind, named)


def _as_strings(column: Any) -> Any:
    """A column that came with a type as strings; those that are strings as they are."""
    pa = need("pyarrow")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column):
        return column
    return pa.chunked_array([pa.array([None if v is None or v != v else level(v) for v in column.to_pylist()], pa.string())])
