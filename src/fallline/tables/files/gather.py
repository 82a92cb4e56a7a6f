"""Blocks of text cells gathered into columns: float64 where every cell is a number or missing, text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.tables.sources import need

if TYPE_CHECKING:
    from fallline.tables.files.csv_file import Block

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "nil", "#n/a", "missing"})
"""Cells of a text file, in small letters, that stand for a missing value."""
_FIRST = 1 << 12
"""Rows that a column has room for at first."""


class Gathering:
    """A table under way, block by block.

    Args:
        places: which columns of the blocks.
        numbers: whether columns of numbers become float64, NaN where missing.
    """

    def __init__(self, places: Sequence[int], *, numbers: bool = True):
        self.rows = 0
        self._columns = [_Column(place, numbers) for place in places]
        self._lines: list[np.ndarray] = []

    def add(self, block: Block) -> None:
        """The next rows."""
        numeric = [c for c in self._columns if c.numeric]
        values, hard = block.numbers([c.place for c in numeric]) if numeric else (np.empty((0, 0)), np.empty((0, 0), bool))
        difficult = hard.any(axis=1)
        for i, column in enumerate(numeric):
            if not difficult[i] or read_hard(block, column.place, values[i], hard[i]):
                column.add_numbers(values[i], self.rows)
            else:
                column.turn(self.rows)
        for column in self._columns:
            if not column.numeric and not column.mixed:
                column.text.append(block.text(column.place))
        self._lines.append(block.lines.copy())
        self.rows += len(block.lines)

    @property
    def lines(self) -> np.ndarray:
        """The file's line of each row."""
        return np.concatenate([np.empty(0, np.int64), *self._lines])

    @property
    def mixed(self) -> list[int]:
        """Columns that began with numbers only and showed other cells later: their text is still to be read."""
        return [c.place for c in self._columns if c.mixed]

    def table(self, names: Sequence[str]) -> Any:
        """What was gathered, as an Arrow table; a mixed column is null."""
        return need("pyarrow").table([c.arrow(self.rows) for c in self._columns], names=list(names))


class _Column:
    """One column under way: numbers as long as every block is of numbers, or text from the first block on."""

    def __init__(self, place: int, numeric: bool):
        self.place, self.numeric, self.mixed = place, numeric, False
        self.text: list[Any] = []
        self._values = np.empty(_FIRST if numeric else 0)
        self._filled = False

    def add_numbers(self, found: np.ndarray, at: int) -> None:
        """The next numbers; `at` is the row of the first."""
        end = at + len(found)
        if end > len(self._values):
            grown = np.empty(max(end, 2 * len(self._values)))
            grown[:at] = self._values[:at]
            self._values = grown
        self._values[at:end] = found
        self._filled = self._filled or not np.isnan(found).all()

    def turn(self, at: int) -> None:
        """It is no column of numbers; at row 0 it is still in time to gather text."""
        self.numeric, self.mixed, self._values = False, at > 0, np.empty(0)

    def arrow(self, rows: int) -> Any:
        pa = need("pyarrow")
        if self.mixed or (self.numeric and not self._filled):  # nothing but missing cells: whatever they are, not numbers
            return pa.nulls(rows)
        return pa.array(self._values[:rows]) if self.numeric else pa.chunked_array(self.text, pa.string())


def read_hard(block: Block, place: int, values: np.ndarray, hard: np.ndarray) -> bool:
    """Fill in the cells that the block's own reading left; False where one is no number."""
    rows = np.flatnonzero(hard)
    found = parsed(block.text(place, None if len(rows) == len(hard) else rows))
    if found is None:
        return False
    values[rows] = found
    return True


def parsed(cells: Any) -> np.ndarray | None:
    """Text cells as float64, NaN where missing; None where one is no number, or too large for one."""
    pa, compute = need("pyarrow"), need("pyarrow.compute")
    for cleaned in (lambda: cells, lambda: cleared(cells)):
        try:
            found = compute.cast(cleaned(), pa.float64())
        except pa.ArrowInvalid:
            continue
        values = found.to_numpy(zero_copy_only=False)
        if np.count_nonzero(np.isnan(values)) == found.null_count and not np.isinf(values).any():
            return values
    return None


def cleared(cells: Any) -> Any:
    """Text cells without blanks around them, null where they stand for a missing value."""
    pa, compute = need("pyarrow"), need("pyarrow.compute")
    trimmed = compute.utf8_trim_whitespace(cells)
    missing = compute.is_in(compute.ascii_lower(trimmed), value_set=pa.array(sorted(MISSING)))
    return compute.if_else(missing, None, trimmed)
