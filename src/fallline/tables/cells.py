"""What a column's cells are: numbers, dates, categories or text, told from all of them and never from a sample."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fallline.errors import InvalidValue, TableError
from fallline.tables.sources import Source

Kind = Literal["number", "category", "text", "date"]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "nil", "#n/a", "missing"})
"""Cells of a text file, folded to small letters, that stand for a missing value."""
STRAY = 0.05
"""A column with at most this share of cells that are not numbers is a column of numbers with mistakes in it."""
TEXT_LENGTH = 20
"""Mean length from which long, mostly distinct strings count as text."""


@dataclass(frozen=True)
class Cells:
    """A column's cells, cleaned.

    Args:
        name: the column.
        kind: what they are.
        values: float64 (numbers; NaN where missing), or object (None where missing; datetime for dates).
        why: how the kind was decided.
        boolean: whether the levels "true" and "false" were truth values.
    """

    name: str
    kind: Kind
    values: np.ndarray
    why: str
    boolean: bool = False

    @property
    def missing(self) -> np.ndarray:
        """Which cells are missing, bool (rows,)."""
        if self.kind == "number":
            return np.isnan(self.values)
        return np.array([v is None for v in self.values], bool)


def cells(source: Source, name: str, wanted: Kind | None = None) -> Cells:
    """Read a column's cells as what they are, or as what the user says they are.

    Raises:
        TableError: a cell that does not fit, by file and line.
        InvalidValue: a kind that does not exist.
    """
    if wanted is not None and wanted not in ("number", "category", "text", "date"):
        raise InvalidValue(f"type {wanted!r} of column {name!r}: expected number, category, text or date")
    fast = source.floats(name) if wanted in (None, "number") else None
    if fast is not None:
        if np.isinf(fast).any():
            row = int(np.argmax(np.isinf(fast)))
            raise TableError(f"column {name!r} is infinite at row {row}: correct the cell", file=source.name, line=source.line(row))
        return Cells(name, "number", fast, "every cell is a number" if wanted is None else "given")
    raw = source.values(name)
    if source.text:
        raw = np.array([None if v is None or v.strip().casefold() in MISSING else v.strip() for v in raw], dtype=object)
    present = [v for v in raw if v is not None]
    if wanted is not None:
        return Cells(name, wanted, _AS[wanted](source, name, raw), "given")
    if not present:
        return Cells(name, "category", raw, "every cell is missing")
    if all(isinstance(v, (bool, np.bool_)) for v in present):
        return Cells(name, "category", np.array([None if v is None else str(v).lower() for v in raw], dtype=object), "true or false", True)
    if all(isinstance(v, (int, float, np.number)) or _decimal(v) for v in present):
        return Cells(name, "number", _numbers(source, name, raw), "every cell is a number")
    if all(isinstance(v, (dt.date, dt.datetime)) for v in present):
        return Cells(name, "date", _dates(source, name, raw), "every cell is a date")
    if not all(isinstance(v, str) for v in present):
        raise TableError(f"column {name!r} holds {type(present[0]).__name__} values: expected numbers, text or dates; use --drop {name}", file=source.name)
    return _of_strings(source, name, raw, present)


def _of_strings(source: Source, name: str, raw: np.ndarray, present: list[str]) -> Cells:
    odd = [v for v in present if _number(v) is None]
    if not odd:
        return Cells(name, "number", _numbers(source, name, raw), "every cell is a number")
    if len(odd) <= max(1, STRAY * len(present)) and len(present) > 5 and len(present) > 2 * len(odd):
        return Cells(name, "number", _numbers(source, name, raw), "numbers")  # raises, by line
    if all(_date(v) is not None for v in present):
        return Cells(name, "date", _dates(source, name, raw), "every cell is a date")
    distinct = len(set(present)) / len(present)
    length = sum(map(len, present)) / len(present)
    if length >= TEXT_LENGTH and distinct > 0.5 and sum(" " in v for v in present) > 0.5 * len(present):
        return Cells(name, "text", raw, f"long strings (mean length {length:.0f}), {distinct:.0%} distinct")
    return Cells(name, "category", raw, f"{len(set(present))} levels")


def _decimal(value: Any) -> bool:
    return type(value).__name__ == "Decimal"


def _number(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _numbers(source: Source, name: str, raw: np.ndarray) -> np.ndarray:
    out = np.full(len(raw), np.nan)
    for row, value in enumerate(raw):
        if value is None:
            continue
        number = _number(value) if isinstance(value, str) else float(value)
        if number is None:
            comma = isinstance(value, str) and _number(value.replace(",", ".", 1)) is not None
            hint = "write decimals with a point" if comma else f"correct the cell, or read the column as categories: --type {name}=category"
            raise TableError(f"column {name!r} holds numbers, but here {value!r}: {hint}", file=source.name, line=source.line(row))
        if math.isinf(number):
            raise TableError(f"column {name!r}: {value!r} is too large for a number, or infinite: correct the cell", file=source.name, line=source.line(row))
        out[row] = number
    return out


def _date(text: str) -> dt.datetime | None:
    if len(text) < 8 or not text[:4].isdigit():
        return None
    try:
        return dt.datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None


def _dates(source: Source, name: str, raw: np.ndarray) -> np.ndarray:
    out = np.empty(len(raw), dtype=object)
    for row, value in enumerate(raw):
        if isinstance(value, dt.datetime):
            out[row] = value.replace(tzinfo=None)
        elif isinstance(value, dt.date):
            out[row] = dt.datetime(value.year, value.month, value.day)
        elif value is not None:
            out[row] = _date(str(value))
            if out[row] is None:
                raise TableError(f"column {name!r} holds dates, but here {value!r}: expected ISO dates such as 2024-03-31", file=source.name, line=source.line(row))
    return out


def _strings(source: Source, name: str, raw: np.ndarray) -> np.ndarray:
    return np.array([None if v is None else _level(v) for v in raw], dtype=object)


def _level(value: Any) -> str:
    """A category's level as text: 3 and 3.0 are the same level."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


_AS = {"number": _numbers, "date": _dates, "category": _strings, "text": _strings}
