"""What a column's cells are: numbers, dates, categories or text, told from all of them and never from a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fallline.errors import InvalidValue, TableError
from fallline.tables.arrow import array_of
from fallline.tables.sources import Source, is_text, need
from fallline.tables.strings import of_strings

Kind = Literal["number", "category", "text", "date"]
KINDS = ("number", "category", "text", "date")


@dataclass(frozen=True)
class Cells:
    """A column's cells, cleaned.

    Args:
        name: the column.
        kind: what they are.
        values: by kind: numbers of any type, NaN where missing; datetime64[us] (dates; NaT where missing); int32 places in
            `levels` (categories; -1 where missing); an Arrow array of strings (text).
        why: how the kind was decided.
        levels: the different cells of a category, in the order in which they appear.
        form: how numbers or dates are written; see `forms`.
        boolean: whether the levels "true" and "false" were truth values.
        note: what a reader should know, or nothing.
    """

    name: str
    kind: Kind
    values: Any
    why: str = ""
    levels: tuple[str, ...] = ()
    form: str = ""
    boolean: bool = False
    note: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Which cells are missing, bool (rows,)."""
        if self.kind == "number":
            return np.isnan(self.values) if self.values.dtype.kind == "f" else np.zeros(len(self.values), bool)
        if self.kind == "date":
            return np.isnat(self.values)
        return self.values < 0 if self.kind == "category" else self.values.is_null().to_numpy(zero_copy_only=False)

    def floats(self, rows: np.ndarray) -> np.ndarray:
        """Numbers in some rows, float64, NaN where missing."""
        return self.values[rows].astype(np.float64, copy=False)

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """How often each level of a category occurs in some rows, int64 (levels,)."""
        return np.bincount(self.values[rows] + 1, minlength=len(self.levels) + 1)[1:]


def cells(source: Source, name: str, wanted: Kind | None = None, form: str | None = None) -> Cells:
    """Read a column's cells as what they are, or as what the user (or an encoder) says they are.

    Args:
        wanted: the kind, or None to tell it from the cells.
        form: how numbers or dates are written, or None to tell it from the cells.

    Raises:
        TableError: a cell that does not fit, by file and line.
        InvalidValue: a kind that does not exist.
    """
    if wanted is not None and wanted not in KINDS:
        raise InvalidValue(f"type {wanted!r} of column {name!r}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    column = source.column(name)
    types = need("pyarrow").types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_null(column.type):
        column = column.cast(need("pyarrow").string())
    if source.text and wanted not in (None, "number") and not is_text(column) and source.again is not None:
        column = source.as_text([name]).column(name)
    if is_text(column):
        return Cells(name, *of_strings(source, name, column, wanted, form))
    made = _typed(source, name, column, wanted)
    return made if wanted is None else Cells(made.name, made.kind, made.values, "given", made.levels, made.form, made.boolean)


def _typed(source: Source, name: str, column: Any, wanted: Kind | None) -> Cells:
    """Cells that came with a type."""
    types = need("pyarrow").types
    if types.is_boolean(column.type):
        if wanted == "number":
            return _numbers(source, name, column)
        if wanted in (None, "category"):
            return _category(name, column, boolean=True)
    elif _is_number(column):
        if wanted in (None, "number"):
            return _numbers(source, name, column)
        if wanted == "category":
            return _category(name, column)
    elif types.is_date(column.type) or types.is_timestamp(column.type):
        if wanted in (None, "date"):
            return _dates(name, column)
        if wanted == "category":
            return _category(name, column)
    else:
        raise TableError(f"column {name!r} holds {column.type} values: expected numbers, text or dates; use --drop {name}", file=source.name)
    raise TableError(f"column {name!r} holds {column.type} values, which cannot be read as {wanted}", file=source.name)


def _is_number(column: Any) -> bool:
    types = need("pyarrow").types
    return types.is_floating(column.type) or types.is_integer(column.type) or types.is_decimal(column.type)


def _numbers(source: Source, name: str, column: Any) -> Cells:
    pa = need("pyarrow")
    plain = column.null_count == 0 and not pa.types.is_decimal(column.type) and not pa.types.is_boolean(column.type)
    values = array_of(column if plain else column.cast(pa.float64(), safe=False), np.nan)
    if values.dtype.kind == "f" and not np.abs(values).max() < np.inf:  # infinite, or missing
        infinite = np.isinf(values)
        if infinite.any():
            raise TableError(f"column {name!r} is infinite: correct the cell", **source.where(int(np.argmax(infinite))))
    return Cells(name, "number", values, "every cell is a number")


def _category(name: str, column: Any, boolean: bool = False) -> Cells:
    encoded = column.dictionary_encode().unify_dictionaries()
    codes = np.concatenate([array_of(c.indices, -1) for c in encoded.chunks] or [np.empty(0)]).astype(np.int32)
    found = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    levels = tuple(level(v) for v in found)
    nan = next((i for i, v in enumerate(found) if v != v), None)
    if nan is not None:
        codes[codes == nan] = -1
    return Cells(name, "category", codes, "true or false" if boolean else f"{len(levels)} levels", levels, boolean=boolean)


def level(value: Any) -> str:
    """A category's level as text: 3 and 3.0 are the same level."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == value and value.is_integer():
        return str(int(value))
    return str(value)


def _dates(name: str, column: Any) -> Cells:
    pa = need("pyarrow")
    zoned = pa.types.is_timestamp(column.type) and column.type.tz
    naive = column.cast(pa.timestamp("us", "UTC" if zoned else None), safe=False).cast(pa.timestamp("us"))
    return Cells(name, "date", naive.to_numpy().astype("datetime64[us]"), "every cell is a date")
