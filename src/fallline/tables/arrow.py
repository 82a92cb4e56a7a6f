"""Arrow's numbers as NumPy's and back, by their bytes: pyarrow's own ways import the whole of pandas (a third of a second) to ask
whether a frame was meant."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.tables.sources import need


def array_of(column: Any, missing: Any = None) -> np.ndarray:
    """The numbers of an Arrow column, with `missing` in place of nulls; a view of its bytes where it is one chunk without nulls.

    Args:
        column: an array or chunked array of integers or floats.
        missing: what stands for a null; needed where there is one.
    """
    chunks = [_chunk(c, missing) for c in (column.chunks if hasattr(column, "chunks") else [column])]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.empty(0, column.type.to_pandas_dtype())])


def _chunk(chunk: Any, missing: Any) -> np.ndarray:
    valid, data = chunk.buffers()
    if not len(chunk):
        return np.empty(0, chunk.type.to_pandas_dtype())
    values = np.frombuffer(data, chunk.type.to_pandas_dtype())[chunk.offset : chunk.offset + len(chunk)]
    if not chunk.null_count:
        return values
    there = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[chunk.offset : chunk.offset + len(chunk)]
    return np.where(there.astype(bool), values, missing)


def column_of(values: Any) -> Any:
    """An array of numbers, or a list of words, as an Arrow array; numbers share their bytes."""
    pa = need("pyarrow")
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)
        return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()
