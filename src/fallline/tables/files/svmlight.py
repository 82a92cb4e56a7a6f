"""svmlight files: `label index:value ...` a line, `# ...` a comment; the features stay sparse."""

from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fallline.errors import TableError
from fallline.tables.files.text_bytes import open_bytes
from fallline.tables.sources import Source, need

_ROWS = 1 << 13
"""Rows that are streamed together."""


def read_svmlight(path: Path) -> Source:
    """Read an svmlight (libsvm) file; indices are kept as they stand, from 0 or from 1.

    Raises:
        TableError: a line that is none of these, an index that is negative or stands twice; with the line.
    """
    return _source(path, _Rows(path))


def stream_svmlight(path: Path) -> Iterator[Source]:
    """The same as sources of some thousand rows each; each is as wide as its own largest index."""
    rows = _Rows(path)
    while not rows.ended:
        yield _source(path, rows, _ROWS)


class _Rows:
    """The rows of a file, one after another."""

    def __init__(self, path: Path):
        self.ended = False
        self._rows = self._read(path)

    def _read(self, path: Path) -> Iterator[tuple[int, float, list[int], list[float]]]:
        with open_bytes(path) as file:
            for n, raw in enumerate(file, 1):
                parts = raw.split(b"#", 1)[0].split()
                if parts:
                    yield n, *_row(parts, path, n)
        self.ended = True

    def __iter__(self) -> Iterator[tuple[int, float, list[int], list[float]]]:
        return self._rows


def _source(path: Path, rows: _Rows, most: int | None = None) -> Source:
    """The next rows, at most so many."""
    from scipy import sparse

    labels, data, columns = array.array("d"), array.array("d"), array.array("q")
    starts, lines = array.array("q", [0]), array.array("q")
    for n, label, indices, values in rows:
        labels.append(label)
        columns.extend(indices)
        data.extend(values)
        starts.append(len(data))
        lines.append(n)
        if len(lines) == most:
            break
    index = np.frombuffer(columns, np.int64) if columns else np.empty(0, np.int64)
    width = int(index.max()) + 1 if len(index) else 0
    values = np.frombuffer(data, np.float64).astype(np.float32) if data else np.empty(0, np.float32)
    csr = sparse.csr_matrix((values, index, np.frombuffer(starts, np.int64)), shape=(len(labels), width))
    table = need("pyarrow").table({"target": np.frombuffer(labels) if labels else np.empty(0)})
    return Source(table, str(path), lines=np.array(lines, np.int64), csr=csr)


def parsed_row(line: bytes, path: Path, number: int) -> tuple[float, list[int], list[float]]:
    """One line that is no comment: label, indices, values.

    Raises:
        TableError: as `read_svmlight`; with the line.
    """
    return _row(line.split(b"#", 1)[0].split(), path, number)


def _row(parts: list[bytes], path: Path, line: int) -> tuple[float, list[int], list[float]]:
    try:
        label, pairs = float(parts[0]), [p.split(b":") for p in parts[1:] if not p.startswith(b"qid:")]
        indices, values = [int(i) for i, _ in pairs], [float(v) for _, v in pairs]
    except ValueError:
        shown = b" ".join(parts)[:60].decode(errors="replace")
        raise TableError(f"expected 'label index:value ...', found {shown!r}", file=str(path), line=line) from None
    if indices and min(indices) < 0:
        raise TableError(f"the index {min(indices)} is negative", file=str(path), line=line)
    if len(set(indices)) < len(indices):
        twice = next(i for n, i in enumerate(indices) if i in indices[:n])
        raise TableError(f"the index {twice} stands twice in one row: keep one", file=str(path), line=line)
    if not all(abs(v) <= np.finfo(np.float32).max for v in (*values, label)):
        raise TableError("a value is not finite, or too large for a number: correct it", file=str(path), line=line)
    return label, indices, values
