"""Two sources as one: a table and the file of its validation or test rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.tables.sources import Source, is_text, need


def joined(first: Source, second: Source) -> Source:
    """The rows of two sources, one after the other.

    A column that is numbers in one file of text and text in the other is text in both.

    Args:
        second: has all columns of `first`; others are left out.

    Raises:
        UnknownName: it lacks one.
        TableError: a column that is of one type here and of another there.
    """
    missing = next((n for n in first.names if n not in second.names), None)
    if missing is not None:
        raise UnknownName.among(f"column of {second.name}", missing, second.names)
    apart = [n for n in first.names if is_text(first.column(n)) != is_text(second.column(n))]
    first, second = first.as_text(apart), second.as_text(apart)
    again, more = first.again, second.again
    return Source(
        need("pyarrow").table([_both(n, first, second) for n in first.names], names=first.names),
        first.name,
        first.text or second.text,
        None if first.lines is None and second.lines is None else np.concatenate([_lines(first), _lines(second)]),
        _stacked(first, second),
        None if again is None or more is None else lambda names: need("pyarrow").concat_tables([again(names), more(names)]),
        first.notes + tuple(n for n in second.notes if n not in first.notes),
        (*(first.parts or ((0, first.name),)), *((first.rows + at, name) for at, name in second.parts or ((0, second.name),))),
    )


def _both(name: str, first: Source, second: Source) -> Any:
    pa = need("pyarrow")
    columns = [pa.table({"c": s.column(name)}) for s in (first, second)]
    try:
        return pa.concat_tables(columns, promote_options="permissive").column(0)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise TableError(f"column {name!r} is of type {columns[1].schema[0].type}, and in {first.name} of type {columns[0].schema[0].type}: make them one type", file=second.name) from None


def _lines(source: Source) -> np.ndarray:
    return np.zeros(source.rows, np.int64) if source.lines is None else source.lines


def _stacked(first: Source, second: Source) -> Any:
    """The features of two sparse files; the wider one says how many."""
    if first.csr is None and second.csr is None:
        return None
    if first.csr is None or second.csr is None:
        raise InvalidValue(f"{first.name} and {second.name}: expected both to be sparse (svmlight), or neither")
    from scipy import sparse

    width = max(first.csr.shape[1], second.csr.shape[1])
    wide = [s.csr.copy() for s in (first, second)]
    for part in wide:
        part.resize(part.shape[0], width)
    return sparse.vstack(wide, format="csr")
