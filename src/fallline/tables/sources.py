"""Any table as one Arrow table: files through DuckDB, frames as they are. Nothing is dropped in silence.

A CSV file is read twice: an audit record by record, strict, that knows lines; then DuckDB without its sniffer, every
column as text. The two counts must agree. Types are decided later, over whole columns.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, MissingExtra, TableError, UnknownName, did_you_mean

FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".gz": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".npz": "npz", ".svm": "svmlight", ".svmlight": "svmlight", ".libsvm": "svmlight",
}  # fmt: skip
"""Formats by suffix."""
DELIMITERS = ",;\t|"
FIELD_LIMIT = 1 << 24
"""The longest cell of a CSV file, in characters; a longer one is an unclosed quote nearly always."""


@dataclass(frozen=True)
class Source:
    """A table as it was read.

    Args:
        table: a pyarrow Table.
        name: the file as the user named it, or a word for a frame.
        text: True where every cell came as text (CSV), so that numbers are still to be told.
        lines: line (1-based) of each row in its file, int64 (rows,), or None.
        csr: the features as a sparse matrix where the format is sparse (then `table` holds the target alone).
    """

    table: Any
    name: str
    text: bool = False
    lines: np.ndarray | None = None
    csr: Any = None

    @property
    def rows(self) -> int:
        return self.table.num_rows

    @property
    def names(self) -> list[str]:
        return list(self.table.column_names)

    def line(self, row: int) -> int | None:
        """The file's line of a row, where it has one."""
        return None if self.lines is None else int(self.lines[row])

    def floats(self, column: str) -> np.ndarray | None:
        """A numeric column as float64 with NaN where missing; None for a column of another type."""
        if column not in self.names:
            raise UnknownName.among("column", column, self.names)
        pa = need("pyarrow")
        data = self.table.column(column)
        if not (pa.types.is_floating(data.type) or pa.types.is_integer(data.type)):
            return None
        return data.cast(pa.float64()).to_numpy().astype(np.float64)

    def values(self, column: str) -> np.ndarray:
        """A column as an object array; missing cells are None."""
        if column not in self.names:
            raise UnknownName.among("column", column, self.names)
        return np.array(self.table.column(column).to_pylist(), dtype=object)


def need(package: str) -> Any:
    """Import a package of the extra `tables`."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, "tables", "reading tables") from None


def read(source: Any) -> Source:
    """Read a path, a frame (pandas, Polars, Arrow), a mapping of columns, or a pair (X, y).

    Raises:
        TableError: malformed content, with file and line.
        InvalidValue: a source of another kind, or a file that is not there.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, Path)):
        return _file(Path(source))
    pa = need("pyarrow")
    if isinstance(source, pa.Table):
        return _checked(Source(source, "the Arrow table"))
    if isinstance(source, Mapping):
        return _checked(Source(pa.table({str(k): _arrow(v) for k, v in source.items()}), "the columns"))
    if hasattr(source, "to_arrow"):
        return _checked(Source(source.to_arrow(), "the frame"))
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        names = [str(c) for c in source.columns]
        _unique(names, "the frame", None)
        return _checked(Source(pa.table({n: _arrow(source.iloc[:, i]) for i, n in enumerate(names)}), "the frame"))
    if isinstance(source, np.ndarray) and source.ndim == 2:
        return Source(pa.table({f"x{i}": source[:, i] for i in range(source.shape[1])}), "the array")
    raise InvalidValue(f"cannot read a table from {type(source).__name__}: expected a path, a frame (pandas, Polars, Arrow), a mapping of columns or a 2-D array")


def _arrow(values: Any) -> Any:
    pa = need("pyarrow")
    if hasattr(values, "dtype") and str(values.dtype) == "category":
        values = values.astype(object)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None or v != v else str(v) for v in values])


def _file(path: Path) -> Source:
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) if near else ""
        raise InvalidValue(f"no file {str(path)!r};{hint or ' expected a path, or the name of a built-in data set'}")
    if path.is_dir():
        raise InvalidValue(f"{str(path)!r} is a folder: expected a file")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InvalidValue(f"{path.name}: the suffix {path.suffix!r} is not known; expected one of {', '.join(sorted(FORMATS))}")
    before = path.stat()
    source = {"csv": _csv, "parquet": _parquet, "arrow": _arrow_file, "json": _json, "npz": _npz, "svmlight": _svmlight}[kind](path)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise TableError("the file changed while it was read: copy it, and read the copy", file=str(path))
    return _checked(source)


def _checked(source: Source) -> Source:
    _unique(source.names, source.name, 1 if source.text else None)
    if source.rows == 0:
        raise TableError("no rows: expected a header and at least one row below it", file=source.name)
    return source


def _unique(names: list[str], file: str, line: int | None) -> None:
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise TableError(f"two columns are called {twice!r}: rename one", file=file, line=line)


# --------------------------------------------------------------------------------------------------------- CSV


def _csv(path: Path) -> Source:
    duckdb, pa = need("duckdb"), need("pyarrow")
    text = _decoded(path)
    header, lines, delimiter = _audit(text, str(path))
    names = [h.strip() for h in header]
    _unique(names, str(path), 1)
    if any(not n for n in names):
        raise TableError(f"column {names.index('') + 1} has no name: give it one in the header", file=str(path), line=1)
    columns = {f"c{i}": "VARCHAR" for i in range(len(names))}
    try:
        table = duckdb.sql(
            "SELECT * FROM read_csv($path, auto_detect=false, columns=$columns, header=false, skip=1, delim=$delim, "
            "quote='\"', escape='\"', null_padding=false, strict_mode=true, parallel=false, max_line_size=$limit, "
            "nullstr='')".replace("$path", _quoted(str(path))).replace("$columns", str(columns)).replace("$delim", _quoted(delimiter))
            .replace("$limit", str(FIELD_LIMIT))
        ).to_arrow_table()  # fmt: skip
    except duckdb.Error:
        table = None
    if table is None or table.num_rows != len(lines):  # dialects that DuckDB reads otherwise: the audit's own reading stands
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        kept = [r for r in records[1:] if r]
        table = pa.table({f"c{i}": [r[i] or None for r in kept] for i in range(len(names))})
    if table.num_rows != len(lines):
        raise TableError(f"the file holds {len(lines)} records and {table.num_rows} were read: please report this file's dialect", file=str(path))
    return Source(table.rename_columns(names), str(path), text=True, lines=lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise TableError(f"the gzip data is damaged or cut off ({error}): fetch the file again", file=str(path)) from None
    if not data.strip():
        raise TableError("the file is empty: expected a header and rows", file=str(path))
    zero = data.find(b"\0")
    if zero >= 0:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        hint = "it looks like UTF-16; save it as UTF-8" if utf16 else "remove the byte, or export the table again"
        raise TableError(f"a NUL byte at offset {zero}: {hint}", file=str(path), line=data.count(b"\n", 0, zero) + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8", file=str(path), line=line) from None


def _audit(text: str, file: str) -> tuple[list[str], np.ndarray, str]:
    """The header, the line of every record, and the delimiter; strict about quotes and about the number of cells."""
    csv.field_size_limit(FIELD_LIMIT)
    first = text.splitlines()[0]
    delimiter = max(DELIMITERS, key=first.count) if any(d in first for d in DELIMITERS) else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[int] = []
    header: list[str] = []
    at = 1
    try:
        for record in reader:
            if not header:
                header = record
            elif record:
                if len(record) != len(header):
                    raise TableError(f"{len(record)} cells where the header has {len(header)} columns: quote cells that hold {delimiter!r}, or complete the row", file=file, line=at)
                lines.append(at)
            elif len(header) == 1:
                lines.append(at)
            at = reader.line_num + 1
    except csv.Error as error:
        reason = str(error)
        if "unexpected end" in reason:
            reason = "a quote is opened and never closed"
        elif "field larger" in reason:
            reason = f"a cell is longer than {FIELD_LIMIT:,} characters: is a quote left open?"
        raise TableError(reason, file=file, line=at) from None
    if not lines:
        raise TableError("a header and no rows: expected at least one row below it", file=file, line=1)
    return header, np.array(lines, np.int64), delimiter


# ----------------------------------------------------------------------------------------------- other formats


def _duck(path: Path, call: str) -> Any:
    duckdb = need("duckdb")
    try:
        return duckdb.sql(f"SELECT * FROM {call}({_quoted(str(path))})").to_arrow_table()
    except duckdb.Error as error:
        raise TableError(f"cannot be read: {str(error).splitlines()[0]}", file=str(path)) from None


def _parquet(path: Path) -> Source:
    return Source(_duck(path, "read_parquet"), str(path))


def _json(path: Path) -> Source:
    import json

    with open(path, encoding="utf-8-sig", errors="strict") as file:
        count = 0
        try:
            head = file.read(1)
            file.seek(0)
            if head != "[":
                for n, line in enumerate(file, 1):
                    if line.strip():
                        count += 1
                        try:
                            if not isinstance(json.loads(line), dict):
                                raise TableError("expected one JSON object a line", file=str(path), line=n)
                        except json.JSONDecodeError as error:
                            raise TableError(f"not JSON ({error.msg})", file=str(path), line=n) from None
        except UnicodeDecodeError:
            raise TableError("the file is not UTF-8: save it as UTF-8", file=str(path)) from None
    table = _duck(path, "read_json_auto")
    if head != "[" and table.num_rows != count:
        raise TableError(f"the file holds {count} records and {table.num_rows} were read", file=str(path))
    return Source(table, str(path))


def _arrow_file(path: Path) -> Source:
    pa = need("pyarrow")
    from pyarrow import feather

    try:
        return Source(feather.read_table(str(path)), str(path))
    except (pa.ArrowInvalid, OSError):
        try:
            with pa.memory_map(str(path)) as mapped:
                return Source(pa.ipc.open_stream(mapped).read_all(), str(path))
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"not an Arrow file ({error})", file=str(path)) from None


def _npz(path: Path) -> Source:
    pa = need("pyarrow")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files}
    except (ValueError, OSError) as error:
        raise TableError(f"not a readable .npz of plain arrays ({error})", file=str(path)) from None
    if "X" not in arrays:
        raise TableError(f"expected arrays 'X' (rows x features) and 'y', found {', '.join(arrays) or 'none'}", file=str(path))
    X = arrays["X"].reshape(len(arrays["X"]), -1)
    columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    columns |= {"target": arrays["y"]} if "y" in arrays else {}
    return Source(pa.table(columns), str(path))


def _svmlight(path: Path) -> Source:
    """`label index:value ...` per line, indices from 1 (or 0); `# ...` is a comment."""
    from scipy import sparse

    pa = need("pyarrow")
    labels, data, columns, starts, lines = [], [], [], [0], []
    for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        parts = line.split("#", 1)[0].split()
        if not parts:
            continue
        try:
            labels.append(float(parts[0]))
            for pair in parts[1:]:
                index, value = pair.split(":")
                if index == "qid":
                    continue
                columns.append(int(index))
                data.append(float(value))
        except ValueError:
            raise TableError(f"expected 'label index:value ...', found {line[:60]!r}", file=str(path), line=n) from None
        starts.append(len(data))
        lines.append(n)
    if columns and min(columns) < 0:
        raise TableError("an index is negative", file=str(path))
    base = 1 if columns and min(columns) >= 1 else 0
    index = np.array(columns, np.int64) - base
    width = int(index.max()) + 1 if len(index) else 0
    csr = sparse.csr_matrix((np.array(data, np.float32), index, np.array(starts)), shape=(len(labels), width))
    return Source(pa.table({"target": np.array(labels)}), str(path), lines=np.array(lines), csr=csr)
