"""Frames and arrays as Arrow tables: pandas, Polars, Arrow, mappings of columns, rows by name, NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.tables.files.formats import array_columns
from fallline.tables.files.json_file import rows_table
from fallline.tables.sources import Source, check_unique, need


def from_memory(source: Any) -> Source:
    """A table that is in memory already.

    Raises:
        InvalidValue: something that is no table.
    """
    pa = need("pyarrow")
    if isinstance(source, pa.Table):
        return Source(source, "the Arrow table")
    if isinstance(source, pa.RecordBatch):
        return Source(pa.Table.from_batches([source]), "the Arrow table")
    if isinstance(source, Mapping):
        return Source(_table({str(k): v for k, v in source.items()}), "the columns")
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        names = [str(c) for c in source.columns]
        check_unique(names, "the frame", None)
        return Source(_table({n: source.iloc[:, i] for i, n in enumerate(names)}), "the frame")
    if hasattr(source, "to_arrow"):
        return Source(source.to_arrow(), "the frame")
    if isinstance(source, np.ndarray) and source.ndim == 2:
        return Source(pa.table(array_columns(source)), "the array")
    if type(source).__module__.startswith("scipy.sparse") and hasattr(source, "tocsr"):
        return Source(pa.table({}), "the matrix", csr=source.tocsr())
    if isinstance(source, Sequence) and not isinstance(source, str) and source and all(isinstance(r, Mapping) for r in source):
        return Source(rows_table([{str(k): v for k, v in r.items()} for r in source]), "the rows")
    raise InvalidValue(
        f"cannot read a table from {_kind(source)}: expected a path, a frame (pandas, Polars, Arrow), a mapping of columns, a list of rows by name, or a 2-D array"
    )


def _kind(source: Any) -> str:
    return f"an array of {source.ndim} dimensions" if isinstance(source, np.ndarray) else type(source).__name__


def _table(columns: Mapping[str, Any]) -> Any:
    lengths = {n: len(v) if hasattr(v, "__len__") else None for n, v in columns.items()}
    odd = next((n for n, k in lengths.items() if k is None or k != next(iter(lengths.values()))), None)
    if odd is not None:
        first = next(iter(lengths))
        given = "a single value" if lengths[odd] is None else f"{lengths[odd]} cells"
        raise InvalidValue(f"column {odd!r} has {given} and {first!r} {lengths[first]}: expected one cell for each row")
    return need("pyarrow").table([_array(v) for v in columns.values()], names=list(columns))


def _array(values: Any) -> Any:
    """A column as Arrow holds it; as strings where it holds values of several types."""
    pa = need("pyarrow")
    if str(getattr(values, "dtype", "")) == "category":
        values = values.astype(object)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if v is None or v != v else str(v) for v in values])
