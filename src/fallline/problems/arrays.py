"""Whatever people hold their data in, checked and turned into what kernels read.

Dense rows become a C-contiguous float32 or float64 array, sparse rows a canonical CSR with int64 `indptr`. What is
already so is never copied (read-only arrays and memory maps too). Whatever was converted is said in a note.
Exactness decides the type: float16, bool and integers of 8 or 16 bits fit float32; wider integers become float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.errors import InvalidValue

CHUNK_BYTES = 1 << 23
"""Working memory of one chunk where data are read in pieces."""
_HALF = frozenset("?bBhHe")
EXACT = 2**53
"""Whole numbers up to this size are exact in float64."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """Checked rows: `X`, the features' names (or None) and notes on what was converted."""

    X: Any
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


def matrix(X: Any, names: tuple[str, ...] | None = None) -> Matrix:
    """Check and convert rows x features.

    Raises:
        InvalidValue: not two-dimensional, empty, not numbers, or not finite (first row and column named).
    """
    if is_sparse(X):
        return _sparse(X, names)
    own, notes = None, []
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        own = tuple(str(c) for c in X.columns)
        X = _frame(X, own)
    _unmasked(X, "X")
    array = np.asarray(X)
    names = names or own
    if array.ndim != 2:
        hint = "; for one feature write X.reshape(-1, 1), for one row X.reshape(1, -1)" if array.ndim == 1 else ""
        raise InvalidValue(f"X has shape {array.shape}: expected two dimensions, rows x features{hint}")
    _not_empty(array.shape)
    array = _numbers(array, "X", names, notes)
    if not array.flags.c_contiguous:
        notes.append("X was copied to row-major (C) order")
        array = np.ascontiguousarray(array)
    _all_finite(array, names)
    return Matrix(array, _named(names, array.shape[1]), tuple(notes))


def is_sparse(X: Any) -> bool:
    """Whether this is a SciPy sparse matrix or array (without importing SciPy)."""
    return type(X).__module__.startswith("scipy.sparse") and hasattr(X, "tocsr")


def vector(values: Any, rows: int, name: str) -> np.ndarray:
    """Labels, targets or weights as an array with one entry (or one row) per data row.

    Raises:
        InvalidValue: its length is not that of X.
    """
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    _unmasked(values, name)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidValue(f"{name} is ragged: expected one entry per row") from error
    if array.ndim == 0 or array.shape[0] != rows:
        given = "a single value" if array.ndim == 0 else f"{array.shape[0]:,} entries"
        raise InvalidValue(f"{name} has {given} and X has {rows:,} rows: expected one entry per row")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def numbers(values: Any, rows: int, name: str, dtype: Any) -> np.ndarray:
    """A finite numeric vector [rows], or [rows, outputs], in `dtype`.

    Raises:
        InvalidValue: text, missing or infinite values (first row named).
    """
    array = vector(values, rows, name)
    array = _numbers(array, name, None, [])
    bad = ~np.isfinite(array)
    if bad.any():
        at = np.argwhere(bad)[0]
        where = f"row {at[0]}" + (f", output {at[1]}" if array.ndim > 1 else "")
        raise InvalidValue(f"{name} is {array[tuple(at)]} at {where}: expected finite numbers; remove or fill such rows")
    with np.errstate(over="ignore"):
        out = array.astype(dtype, copy=False)
    if not np.isfinite(out).all():
        raise InvalidValue(f"{name} exceeds the range of {np.dtype(dtype)}, the type of X: scale it, or give X as float64")
    return np.ascontiguousarray(out)


def sample_weights(weights: Any, rows: int, dtype: Any) -> np.ndarray | None:
    """Sample weights scaled to mean 1 over the data, so that a batch's gradient stays unbiased.

    Raises:
        InvalidValue: negative, all zero, not finite, or not one per row.
    """
    if weights is None:
        return None
    w = numbers(weights, rows, "weights", np.float64)
    if w.ndim != 1:
        raise InvalidValue(f"weights has shape {w.shape}: expected one number per row")
    if (w < 0).any():
        row = int(np.argmax(w < 0))
        raise InvalidValue(f"weights is {w[row]:g} at row {row}: expected numbers that are not negative")
    top = w.max()
    if top == 0:
        raise InvalidValue("every sample weight is zero: expected at least one weight above 0")
    w = w / top
    return np.ascontiguousarray(w / w.mean(), dtype)


def labels(y: Any, rows: int, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Classes (sorted) and the class index of every row; with `classes` given, no other label may occur.

    Raises:
        InvalidValue: missing labels, labels that are fractions, mixed types, or a label not among `classes`.
    """
    array = vector(y, rows, "y")
    if array.ndim != 1:
        raise InvalidValue(f"y has shape {array.shape}: expected one label per row")
    _no_missing(array)
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        row = int(np.argmax(array != np.floor(array)))
        raise InvalidValue(f"y is {array[row]:g} at row {row}: expected classes; for numbers use fl.least_squares(X, y)")
    if classes is None:
        try:
            found, index = np.unique(array, return_inverse=True)
        except TypeError as error:
            kinds = ", ".join(sorted({type(v).__name__ for v in array.tolist()}))
            raise InvalidValue(f"y mixes labels of different types ({kinds}): make them one type, e.g. all strings") from error
        if found.dtype.kind == "O" and all(isinstance(v, str) for v in found.tolist()):
            found = found.astype(np.str_)
        return found, index.reshape(-1)
    lookup = {c: i for i, c in enumerate(classes.tolist())}
    index = np.array([lookup.get(v, -1) for v in array.tolist()], np.int64)
    if (index < 0).any():
        row = int(np.argmax(index < 0))
        known = shown(classes)
        raise InvalidValue(f"y is {array.tolist()[row]!r} at row {row}: not among the classes of the training data ({known})")
    return classes, index


def shown(values: np.ndarray, most: int = 6) -> str:
    """The first values in words.

    >>> shown(np.array(["a", "b"]))
    "'a', 'b'"
    """
    items = [repr(v) for v in values[:most].tolist()]
    return ", ".join(items) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def column_name(names: tuple[str, ...] | None, column: int) -> str:
    """A feature's name for messages: `'income'`, or `column 3` where features have no names."""
    return f"'{names[column]}'" if names else f"column {column}"


def _no_missing(array: np.ndarray) -> None:
    kind = array.dtype.kind
    if kind == "O":
        bad = np.array(
            [v is None or type(v).__name__ in ("NAType", "NaTType") or (isinstance(v, float) and math.isnan(v)) for v in array.tolist()], bool
        )
    else:
        bad = ~np.isfinite(array) if kind in "fc" else np.isnat(array) if kind in "mM" else np.zeros(len(array), bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidValue(f"y is {array[row]} at row {row}: expected a label in every row; remove or fill such rows")


def _frame(X: Any, names: tuple[str, ...]) -> np.ndarray:
    """A frame's numbers; mixed numeric types are joined column by column."""
    array = X.to_numpy()
    if array.dtype != object:
        return array
    columns = []
    for name, column in zip(names, array.T, strict=True):
        try:
            if any(isinstance(v, (str, bytes)) for v in column):
                raise TypeError
            columns.append(column.astype(np.float64))
        except (TypeError, ValueError):
            example = next((v for v in column if isinstance(v, (str, bytes)) or not isinstance(v, (int, float))), column[0])
            raise InvalidValue(
                f"column {name!r} is not numeric (it holds {example!r}): encode it, or use fl.table(frame, target=...), which does"
            ) from None
    return np.column_stack(columns)


def _numbers(array: np.ndarray, name: str, names: tuple[str, ...] | None, notes: list[str]) -> np.ndarray:
    """Native float32 or float64, or an error that says why not."""
    dtype = array.dtype
    if dtype.kind == "c":
        raise InvalidValue(f"{name} is complex ({dtype}): expected real numbers; take .real or split it in two")
    if dtype.kind == "O":
        try:
            if any(isinstance(v, (str, bytes)) for v in array.reshape(-1)):
                raise TypeError
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            bad = next((i for i, v in enumerate(array.reshape(-1)) if not isinstance(v, (int, float, np.number))), 0)
            value, width = array.reshape(-1)[bad], array.shape[1] if array.ndim > 1 else 1
            where = f"row {bad // width}" + (f", {column_name(names, bad % width)}" if array.ndim > 1 else "")
            raise InvalidValue(f"{name} is {value!r} at {where}: expected numbers") from None
    elif dtype.kind not in "fiub":
        hint = "; encode text and dates, or use fl.table(..., target=...), which does" if name == "X" else ""
        raise InvalidValue(f"{name} has type {dtype}: expected numbers{hint}")
    target = np.dtype(np.float32 if dtype.char in _HALF or dtype.newbyteorder("=") == np.float32 else np.float64)
    if dtype == target and dtype.isnative:
        return array
    exact = dtype.kind not in "iu" or dtype.itemsize < 8 or not array.size or max(abs(int(array.min())), int(array.max())) <= EXACT
    notes.append(f"{name} was converted from {dtype} to {target}" + ("" if exact else "; whole numbers beyond 2**53 were rounded"))
    return array.astype(target, copy=False)


def _unmasked(values: Any, name: str) -> None:
    """Refuse masked entries: an array made of them would hold the numbers that the mask hides."""
    mask = values.mask if isinstance(values, np.ma.MaskedArray) else False
    if np.any(mask):
        row = int(np.argwhere(mask)[0][0])
        raise InvalidValue(
            f"{name} is a masked array with {int(np.sum(mask)):,} masked entries, the first in row {row}: fill them (X.filled(...)), drop their "
            "rows, or give fl.table a frame, which imputes missing cells and says so"
        )


def _sparse(X: Any, names: tuple[str, ...] | None) -> Matrix:
    notes = []
    if X.ndim != 2:
        raise InvalidValue(f"X has shape {X.shape}: expected two dimensions, rows x features")
    _not_empty(X.shape)
    if X.format != "csr":
        notes.append(f"X was converted from sparse {X.format.upper()} to CSR")
    m = X.tocsr()
    if not m.has_canonical_format:
        notes.append("X was copied with sorted column indices and duplicates summed")
        m = m.copy()
        m.sum_duplicates()
    data = np.ascontiguousarray(_numbers(m.data, "X", None, notes))
    _finite_values(m, data, names)
    fits = m.shape[1] < 2**31
    out = csr(data, np.ascontiguousarray(m.indices, np.int32 if fits else np.int64), np.ascontiguousarray(m.indptr, np.int64), m.shape[1])
    out.has_sorted_indices = out.has_canonical_format = True
    return Matrix(out, _named(names, m.shape[1]), tuple(notes))


def csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, features: int) -> Any:
    """Sparse rows of these arrays themselves: SciPy's constructor would narrow `indptr` to the type of `indices`."""
    from scipy.sparse import csr_array

    out = csr_array((len(indptr) - 1, features), dtype=data.dtype)
    out.data, out.indices, out.indptr = data, indices, indptr
    return out


def _finite_values(m: Any, data: np.ndarray, names: tuple[str, ...] | None) -> None:
    bad = ~np.isfinite(data)
    if bad.any():
        at = int(np.argmax(bad))
        row = int(np.searchsorted(m.indptr, at, side="right")) - 1
        _not_finite(data[at], row, int(m.indices[at]), names)


def _all_finite(X: np.ndarray, names: tuple[str, ...] | None) -> None:
    """Raise at the first value that is not finite; a sum tells a whole chunk at the speed of memory."""
    chunk = max(1, CHUNK_BYTES // (X.itemsize * X.shape[1]))
    for start in range(0, len(X), chunk):
        block = X[start : start + chunk]
        with np.errstate(all="ignore"):
            if math.isfinite(block.sum()):
                continue
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            _not_finite(block[row, column], start + row, column, names)


def _not_finite(value: Any, row: int, column: int, names: tuple[str, ...] | None) -> None:
    raise InvalidValue(
        f"X is {value} at row {row}, {column_name(names, column)}: expected finite numbers; remove or fill such values "
        "(fl.table does it and says how)"
    )


def _not_empty(shape: tuple[int, ...]) -> None:
    if shape[0] == 0:
        raise InvalidValue(f"X has 0 rows (shape {shape}): expected at least one")
    if shape[1] == 0:
        raise InvalidValue(f"X has 0 features (shape {shape}): expected at least one")


def _named(names: tuple[str, ...] | None, features: int) -> tuple[str, ...] | None:
    if names is not None and len(names) != features:
        raise InvalidValue(f"feature_names has {len(names)} names and X has {features} features: expected one name each")
    return names
