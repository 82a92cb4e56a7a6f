"""Any table as one `Source`, or as a stream of them: files by their suffix, frames as they are. Nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.errors import InvalidValue, TableError, did_you_mean
from fallline.tables.files.csv_file import read_csv, stream_csv
from fallline.tables.files.formats import (
    read_arrow,
    read_npy,
    read_npz,
    read_parquet,
    stream_arrow,
    stream_npy,
    stream_parquet,
)
from fallline.tables.files.json_file import read_json, stream_json
from fallline.tables.files.svmlight import read_svmlight, stream_svmlight
from fallline.tables.files.watch import stamp, unchanged
from fallline.tables.frames import from_memory
from fallline.tables.sources import Source, checked, need, no_rows

FORMATS = {
    ".csv": read_csv, ".tsv": read_csv, ".txt": read_csv, ".parquet": read_parquet, ".pq": read_parquet,
    ".arrow": read_arrow, ".feather": read_arrow, ".jsonl": read_json, ".ndjson": read_json, ".json": read_json,
    ".npz": read_npz, ".npy": read_npy, ".svm": read_svmlight, ".svmlight": read_svmlight, ".libsvm": read_svmlight,
}  # fmt: skip
"""Readers by suffix."""
STREAMS = {
    read_csv: stream_csv, read_parquet: stream_parquet, read_json: stream_json, read_arrow: stream_arrow, read_npy: stream_npy,
    read_svmlight: stream_svmlight,
}  # fmt: skip
"""Readers that can go through a file without holding it."""
_PACKED = (read_csv, read_json, read_svmlight)
"""Readers of text, which may be packed: .csv.gz."""


def read(source: Any) -> Source:
    """Read a path, a frame (pandas, Polars, Arrow), a mapping of columns, a list of rows by name, or an array.

    Raises:
        TableError: malformed content, with file and line.
        InvalidValue: a source of another kind, or a file that is not there.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        reader = _reader(path)
        return checked(next(_watched(path, lambda: iter([reader(path)]))))
    return checked(from_memory(source))


def stream(source: Any) -> Iterator[Source]:
    """The same table in parts, so that a file need not fit into memory; each part is good until the next one is asked for."""
    reader = _reader(Path(source)) if isinstance(source, (str, Path)) else None
    if reader not in STREAMS:
        yield read(source)
        return
    rows, seen = 0, {}
    for part in _watched(Path(source), lambda: STREAMS[reader](Path(source))):
        if part.rows:
            part = _with_columns(part, seen)
            yield checked(part if part.lines is not None else replace(part, parts=((-rows, part.name),)))
        rows += part.rows
    if not rows:
        raise no_rows(str(source))


def _with_columns(part: Source, seen: dict[str, None]) -> Source:
    """A part with the columns of those before it: a JSON object may lack a key, and so may thousands of them."""
    before = tuple(seen)
    seen.update(dict.fromkeys(part.names))
    return filled(part, before)


def filled(part: Source, names: Iterable[str]) -> Source:
    """A part with all of these columns; one that it lacks is missing in each of its rows."""
    for name in names:
        if name not in part.names:
            part = replace(part, table=part.table.append_column(name, need("pyarrow").nulls(part.rows)))
    return part


def streams(source: str | Path) -> bool:
    """Whether `stream` goes through a file in parts; others are always read whole."""
    return _reader(Path(source)) in STREAMS


def _watched(path: Path, start: Any) -> Iterator[Source]:
    """What is read of a file, which must stay what it is until the end."""
    before = stamp(path)
    try:
        for part in start():
            unchanged(path, before)
            yield part
    except TableError:
        unchanged(path, before)  # then that is the reason
        raise
    except OSError as error:
        unchanged(path, before)
        raise TableError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    unchanged(path, before)


def _reader(path: Path) -> Any:
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) if near else ""
        raise InvalidValue(f"no file {str(path)!r};{hint or ' expected a path, or the name of a built-in data set'}")
    if path.is_dir():
        raise InvalidValue(f"{str(path)!r} is a folder: expected a file")
    *_, inner, suffix = ("", "", *(s.lower() for s in path.suffixes))
    reader = FORMATS.get(suffix)
    if suffix == ".gz":
        reader = FORMATS.get(inner, read_csv)
        if reader not in _PACKED:
            raise InvalidValue(f"{path.name}: a {inner} file cannot be read packed: unpack it first (gunzip {path.name})")
    if reader is None:
        raise InvalidValue(f"{path.name}: the suffix {suffix!r} is not known; expected one of {', '.join(sorted(FORMATS))}, or .csv.gz")
    return reader
