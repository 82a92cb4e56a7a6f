"""JSON files: one object a line, or one list of objects; read by Python's json, so that every error has its line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from fallline.errors import TableError
from fallline.tables.files.text_bytes import open_bytes
from fallline.tables.sources import Source, need

_ROWS = 1 << 15
"""Objects that are read together."""


def read_json(path: Path) -> Source:
    """Read a file of JSON objects.

    Raises:
        TableError: what is no object, with its line.
    """
    parts = list(stream_json(path))
    if not parts:
        raise TableError("no rows: expected one JSON object a line", file=str(path))
    names = list(dict.fromkeys(n for p in parts for n in p.names))
    table = need("pyarrow").table([_one([_column(p, n) for p in parts]) for n in names], names=names)
    lines = None if parts[0].lines is None else np.concatenate([p.lines for p in parts])
    return Source(table, str(path), lines=lines)


def stream_json(path: Path) -> Iterator[Source]:
    """A file of JSON objects as sources of some thousand rows each; a key that an object lacks is a missing cell."""
    with open_bytes(path) as file:
        start = file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()  # type: ignore[attr-defined]
        found = ((0, o) for o in _list(file, path)) if start.startswith(b"[") else _objects(file, path)
        while part := list(islice(found, _ROWS)):
            rows = [o for _, o in part]
            lines = np.array([line for line, _ in part], np.int64)
            yield Source(rows_table(rows), str(path), lines=lines if lines.any() else None)


def rows_table(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows by name as an Arrow table: columns in the order in which they appear."""
    names = list(dict.fromkeys(n for r in rows for n in r))
    return need("pyarrow").table([_array([r.get(n) for r in rows]) for n in names], names=names)


def _objects(file: IO[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for n, raw in enumerate(file, 1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if n == 1 else raw
        if line.strip():
            yield n, _object(_parsed(line, path, n), path, n)


def parsed_object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """One line of JSON as an object.

    Raises:
        TableError: it is none; with the line.
    """
    return _object(_parsed(line, path, number), path, number)


def _list(file: IO[bytes], path: Path) -> Iterable[dict[str, Any]]:
    for n, value in enumerate(_parsed(file.read().removeprefix(b"\xef\xbb\xbf"), path, None)):
        if not isinstance(value, dict):
            raise TableError(f"expected a list of objects, found {type(value).__name__}", file=str(path), row=n)
        yield value


def _parsed(data: bytes, path: Path, line: int | None) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        at = line or 1 + data.count(b"\n", 0, error.start)
        raise TableError(f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8", file=str(path), line=at) from None
    except json.JSONDecodeError as error:
        raise TableError(f"not JSON ({error.msg}): expected one object a line, or one list of objects", file=str(path), line=line or error.lineno) from None
    except _Twice as error:
        raise TableError(f"an object has two values of {error.args[0]!r}: keep one", file=str(path), line=line) from None


def _object(value: Any, path: Path, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TableError("expected one JSON object a line", file=str(path), line=line)
    return value


class _Twice(Exception):
    """A key that an object has twice; Python's json would keep the last."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [k for k, _ in pairs]
        raise _Twice(next(k for i, k in enumerate(names) if k in names[:i]))
    return made


def _array(values: list[Any]) -> Any:
    """Values as an Arrow array: numbers, truth values or strings; strings where they are mixed; else as Arrow holds them."""
    pa = need("pyarrow")
    types = {type(v) for v in values} - {type(None)}
    if not types:
        return pa.nulls(len(values))
    if types <= {int, float}:
        return pa.array(np.array(values, np.float64))
    if types in ({bool}, {str}):
        return pa.array(values)
    if types & {dict, list}:  # no cells; a column of them is refused where it is used
        return pa.array([None if v is None else json.dumps(v).encode() for v in values], pa.binary())
    if types <= {int, float, bool, str}:
        return pa.array([_text(v) for v in values], pa.string())
    return pa.array(values, from_pandas=True)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _column(part: Source, name: str) -> Any:
    return part.column(name) if name in part.names else need("pyarrow").nulls(part.rows)


def _one(chunks: list[Any]) -> Any:
    """Chunks of one column; all strings where their types differ."""
    pa = need("pyarrow")
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in chunks]
    types = {a.type for a in arrays} - {pa.null()}
    if len(types) > 1:
        wanted = pa.binary() if pa.binary() in types else pa.string()
        arrays = [a if a.type == wanted else pa.array([_text(_plain(v)) for v in a.to_pylist()], pa.string()).cast(wanted) for a in arrays]
        types = {wanted}
    kind = types.pop() if types else pa.null()
    return pa.chunked_array([a.cast(kind) if a.type == pa.null() else a for a in arrays], kind)


def _plain(value: Any) -> Any:
    """A whole number without its point, as it stood in the file; NaN for a missing one is none."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value
