"""CSV files as sources: whole, or in a stream. Numbers are kept as numbers, everything else as the text that stands there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fallline.errors import TableError
from fallline.tables.files.csv_head import Head, head
from fallline.tables.files.csv_plain import plain_blocks
from fallline.tables.files.gather import Gathering
from fallline.tables.files.text_bytes import packed
from fallline.tables.files.watch import stamp, unchanged
from fallline.tables.sources import Source

SMALL = 1 << 20
"""Bytes up to which a file is read without compiled kernels, which take longer to load than such a file to read."""
_PACKED = 16
"""A packed file counts this many times its size."""


class Block(Protocol):
    """Some records of a file, cells still where they were found."""

    @property
    def lines(self) -> np.ndarray:
        """The file's line (1-based) of each record, int64 (rows,)."""
        ...

    def text(self, column: int, rows: np.ndarray | None = None) -> Any:
        """A column's cells (of some rows) as an Arrow array of strings, null where empty."""
        ...

    def numbers(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Columns as float64 (columns, rows), NaN where empty; and which cells are still to be read, bool."""
        ...


def blocks(path: Path, start: Head) -> Iterator[Block]:
    """The records below a file's header, strictly read."""
    size = path.stat().st_size * (_PACKED if packed(path) else 1)
    if size <= SMALL:
        return plain_blocks(path, start)
    from fallline.tables.files.csv_fast import fast_blocks

    return fast_blocks(path, start)


def read_csv(path: Path) -> Source:
    """Read a CSV file (or .csv.gz).

    Raises:
        TableError: malformed content, with its line.
    """
    seen = stamp(path)
    start = head(path)

    def again(names: Sequence[str]) -> Any:
        unchanged(path, seen)
        text = Gathering([start.names.index(n) for n in names], numbers=False)
        for block in blocks(path, start):
            text.add(block)
        unchanged(path, seen)
        return text.table(names)

    whole = Gathering(range(len(start.names)))
    for block in blocks(path, start):
        whole.add(block)
    if not whole.rows:
        raise _no_rows(path, start)
    source = Source(whole.table(start.names), str(path), text=True, lines=whole.lines, again=again, notes=start.notes)
    return source.as_text([start.names[i] for i in whole.mixed])


def stream_csv(path: Path) -> Iterator[Source]:
    """A CSV file as sources of some thousand rows each; each is good until the next one is asked for."""
    start, rows = head(path), 0
    for block in blocks(path, start):
        rows += len(block.lines)
        part = Gathering(range(len(start.names)))
        part.add(block)

        def again(names: Sequence[str], block: Block = block) -> Any:
            text = Gathering([start.names.index(n) for n in names], numbers=False)
            text.add(block)
            return text.table(names)

        yield Source(part.table(start.names), str(path), text=True, lines=block.lines, again=again, notes=start.notes)
    if not rows:
        raise _no_rows(path, start)


def _no_rows(path: Path, start: Head) -> TableError:
    return TableError("a header and no rows: expected at least one row below it", file=str(path), line=start.line - 1)
