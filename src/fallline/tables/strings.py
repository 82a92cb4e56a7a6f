"""Columns of strings: what their cells are, looked at level by level (each different cell once)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.errors import TableError
from fallline.tables import forms
from fallline.tables.arrow import array_of
from fallline.tables.files.gather import cleared
from fallline.tables.sources import Source, need

STRAY = 0.05
"""A column with at most this share of cells that are not numbers is a column of numbers with mistakes in it; so with dates."""
TEXT_LENGTH = 20
"""Mean length from which long, mostly distinct strings count as text."""
FIRST = 5
"""Cells that are looked at for dates before strings count as text."""
Found = tuple[Any, ...]
"""Kind, values, why, levels, form, boolean, note: as `Cells` takes them."""


def of_strings(source: Source, name: str, column: Any, wanted: str | None, form: str | None) -> Found:
    """The cells of a column of strings, as `Cells` takes them.

    Raises:
        TableError: a cell that does not fit the others, or the wanted kind; with the line.
    """
    column = plain(source, column)
    if wanted == "text":
        return "text", column.combine_chunks(), "given"
    if wanted is None:
        why = _text_like(column)
        if why:
            return "text", column.combine_chunks(), why
    return decided(Levels.of(source, name, column), wanted, form)


def plain(source: Source, column: Any) -> Any:
    """A column of strings as one type; of a file of text without blanks around cells, null where they stand for a missing value."""
    pa = need("pyarrow")
    column = column.cast(pa.large_string())
    return pa.chunked_array([cleared(c) for c in column.chunks], pa.large_string()) if source.text else column


def decided(levels: Levels, wanted: str | None, form: str | None) -> Found:
    """Different cells as what they are, or as what they are said to be."""
    if wanted == "category":
        return levels.category("given")
    if wanted == "number":
        return levels.numbers(forms.number_form(levels.words) if form is None else form, "given")
    if wanted == "date":
        return levels.dates(forms.date_form(levels.words, levels.counts)[0] if form is None else form, "given")
    return _told(levels)


def _told(levels: Levels) -> Found:
    """What the cells are by themselves."""
    words, present = levels.words, int(levels.counts.sum())
    if not present:
        return levels.category("every cell is missing")
    form = forms.number_form(words)
    odd = int(levels.counts[[forms.number(v, form) is None for v in words]].sum())
    if odd == 0 or _few(odd, present) or forms.ambiguous(words):
        return levels.numbers(form, "every cell is a number")  # raises where one is not
    form, odd, second = forms.date_form(words, levels.counts)
    if odd == 0 or _few(odd, present):
        note = f"dates such as {words[0]!r} could be {forms.shown(form)} or {forms.shown(second)}: read as {forms.shown(form)}; write them as 2024-03-31" if second else ""
        return (*levels.dates(form, "every cell is a date"), False, note)
    unit = forms.with_unit(words) if len(words) > 2 else None
    note = f"is read as categories, though its cells look like numbers, as {unit!r}: write plain numbers (12.5) to use it as one" if unit else ""
    return (*levels.category(f"{len(words)} levels"), note)


def _few(odd: int, present: int) -> bool:
    return odd <= max(1, STRAY * present) and present > 5 and present > 2 * odd


def _text_like(column: Any) -> str:
    """Why a column is text, or nothing: long strings of several words, mostly distinct, that are no dates."""
    compute = need("pyarrow.compute")
    length = compute.mean(compute.utf8_length(column)).as_py() or 0
    present = len(column) - column.null_count
    if length < TEXT_LENGTH or compute.mean(compute.match_substring(column, " ")).as_py() <= 0.5:
        return ""
    first = compute.drop_null(column).slice(0, FIRST).to_pylist()
    return wordy(length, first, lambda: compute.count_distinct(column, mode="only_valid").as_py() / present)


def wordy(length: float, first: list[str], distinct: Callable[[], float]) -> str:
    """Why strings of several words are text, or nothing.

    Args:
        length: their mean length.
        first: the first of them.
        distinct: gives the share of them that are different.
    """
    if length < TEXT_LENGTH or any(forms.date(v, f) is not None for v in first for f in forms.DATES):
        return ""
    share = distinct()
    return f"long strings (mean length {length:.0f}), {share:.0%} distinct" if share > 0.5 else ""


@dataclass(frozen=True)
class Levels:
    """A column as its different cells.

    Args:
        words: each once, in the order in which they appear.
        codes: int32 (rows,): which one; -1 where missing.
        counts: int64: how often each occurs.
    """

    source: Source
    name: str
    words: list[str]
    codes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, source: Source, name: str, column: Any) -> Levels:
        encoded = column.combine_chunks().dictionary_encode()
        codes = array_of(encoded.indices, -1).astype(np.int32)
        words = encoded.dictionary.to_pylist()
        return cls(source, name, words, codes, np.bincount(codes + 1, minlength=len(words) + 1)[1:])

    def category(self, why: str) -> Found:
        return "category", self.codes, why, tuple(self.words), "", False

    def numbers(self, form: str, why: str) -> Found:
        values = np.empty(len(self.words) + 1)
        for i, word in enumerate(self.words):
            found = forms.number(word, form)
            if found is None:
                self._refuse(i, f" holds numbers, but here {word!r}: {_hint(word, self.name)}")
            if abs(found) == np.inf:
                self._refuse(i, f": {word!r} is too large for a number, or infinite: correct the cell")
            values[i] = found
        values[-1] = np.nan
        commas = next((w for w in self.words if "," in w), "")
        note = f"is written with commas: {commas!r} is read as {forms.number(commas, form):g}" if form else ""
        return "number", values[self.codes], why, (), form, False, note

    def dates(self, form: str, why: str) -> Found:
        found = [forms.date(w, form) for w in self.words]
        if None in found:
            i = found.index(None)
            expected = f"dates such as {forms.date('2024-03-31').strftime(form or '%Y-%m-%d')}"  # type: ignore[union-attr]
            self._refuse(i, f" holds dates, but here {self.words[i]!r}: expected {expected}, or read the column as categories: --type {self.name}=category")
        values = np.array([*found, None], "datetime64[us]")
        return "date", values[self.codes], why, (), form

    def _refuse(self, level: int, what: str) -> None:
        row = int(np.argmax(self.codes == level))
        raise TableError(f"column {self.name!r}{what}", **self.source.where(row))


def _hint(word: str, name: str) -> str:
    if forms.ambiguous([word]):
        return f"it could be {word.replace(',', '')} or {word.replace(',', '.')}; write decimals with a point, and nothing between thousands"
    if forms.number(word.replace(",", ".", 1)) is not None or forms.number(word.replace(",", "")) is not None:
        return "write decimals with a point, and nothing between thousands"
    return f"correct the cell, or read the column as categories: --type {name}=category"
