"""Parquet, Arrow and .npz files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import TableError
from fallline.tables.sources import Source, need

_ROWS, _CELLS = 1 << 15, 1 << 20
"""Rows that are streamed together at most, and about so many cells of them."""


_AHEAD = 1 << 25
"""Bytes of a Parquet file that are read ahead, of all columns together."""


def _parquet(path: Path) -> Any:
    pa, parquet = need("pyarrow"), need("pyarrow.parquet")
    try:
        columns = parquet.read_metadata(path).num_columns
        # what is read ahead as a whole ("pre-buffered") stays in memory until the file is closed; a buffer for each column does not
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=max(min(_AHEAD // max(columns, 1), 1 << 20), 1 << 14))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from None


def _unreadable(path: Path, kind: str, error: Exception) -> TableError:
    return TableError(f"cannot be read as {kind}: {str(error).splitlines()[0]}", file=str(path))


def read_parquet(path: Path) -> Source:
    """Read a Parquet file."""
    pa = need("pyarrow")
    with _parquet(path) as file:
        try:
            return Source(file.read(), str(path))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, "Parquet", error) from None


def _together(columns: int) -> int:
    return max(min(_CELLS // max(columns, 1), _ROWS), 256)


def stream_parquet(path: Path) -> Iterator[Source]:
    """A Parquet file as sources of some thousand rows each."""
    pa = need("pyarrow")
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(_together(len(file.schema_arrow))):
                yield Source(pa.Table.from_batches([batch]), str(path))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, "Parquet", error) from None


def read_arrow(path: Path) -> Source:
    """Read an Arrow file (feather) or stream."""
    pa = need("pyarrow")
    data = path.read_bytes()
    try:
        return Source(need("pyarrow.feather").read_table(pa.BufferReader(data)), str(path))
    except (pa.ArrowException, OSError):
        try:
            return Source(pa.ipc.open_stream(data).read_all(), str(path))
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"not an Arrow file ({str(error).splitlines()[0]})", file=str(path)) from None


def stream_arrow(path: Path) -> Iterator[Source]:
    """An Arrow file or stream as sources of some thousand rows each; the file is mapped, never read whole."""
    pa = need("pyarrow")
    with pa.memory_map(str(path)) as file:
        try:
            try:
                opened = pa.ipc.open_file(file)
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
            except pa.ArrowInvalid:
                file.seek(0)
                batches = iter(pa.ipc.open_stream(file))
            for batch in batches:
                many = _together(batch.num_columns)
                for at in range(0, batch.num_rows, many):
                    yield Source(pa.Table.from_batches([batch.slice(at, many)]), str(path))
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"not an Arrow file ({str(error).splitlines()[0]})", file=str(path)) from None


def read_npy(path: Path) -> Source:
    """Read a .npy file of numbers, rows x columns: columns x0, x1, ..."""
    array = _mapped(path)
    return Source(need("pyarrow").table(array_columns(np.asarray(array))), str(path))


def stream_npy(path: Path) -> Iterator[Source]:
    """The same as sources of some thousand rows each."""
    array = _mapped(path)
    many = _together(array.shape[1])
    for at in range(0, len(array), many):
        yield Source(need("pyarrow").table(array_columns(np.asarray(array[at : at + many]))), str(path))


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise TableError(f"not a readable .npy of plain numbers ({error})", file=str(path)) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub":
        shown = f"{getattr(array, 'dtype', '')} {getattr(array, 'shape', '')}"
        raise TableError(f"expected an array of numbers, rows x columns, found {shown}", file=str(path))
    return array


def read_npz(path: Path) -> Source:
    """Read arrays `X` (rows x features) and `y` of a .npz file."""
    pa = need("pyarrow")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise TableError(f"not a readable .npz of plain arrays ({error})", file=str(path)) from None
    if "X" not in arrays or arrays["X"].ndim < 2:
        shown = ", ".join(f"{k!r} {v.shape}" for k, v in arrays.items())
        raise TableError(f"expected arrays 'X' (rows x features) and 'y', found {shown or 'none'}", file=str(path))
    columns = array_columns(arrays["X"])
    if "y" in arrays:
        if arrays["y"].shape != (len(arrays["X"]),):
            raise TableError(f"'X' has {len(arrays['X'])} rows and 'y' has shape {arrays['y'].shape}: expected one label for each row", file=str(path))
        columns |= {"target": arrays["y"]}
    return Source(pa.table({k: pa.array(v) for k, v in columns.items()}), str(path))


def array_columns(X: np.ndarray) -> dict[str, Any]:
    """The features of an array as columns x0, x1, ...; each contiguous, so that Arrow need not copy it."""
    flat = X.reshape(len(X), -1)
    return {f"x{i}": column for i, column in enumerate(np.ascontiguousarray(flat.T))}
