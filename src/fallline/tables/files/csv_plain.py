"""The readable twin of `csv_fast`: Python's own csv module, strict, for small files; it is what the fast reader must equal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.errors import TableError
from fallline.tables.files.text_bytes import chunks
from fallline.tables.sources import need

if TYPE_CHECKING:
    from fallline.tables.files.csv_head import Head

LIMIT = 1 << 24
"""The longest cell of a CSV file, in bytes; a longer one is an unclosed quote nearly always."""


@dataclass(frozen=True)
class PlainBlock:
    """Some records as Python's csv module gives them; see `csv_file.Block`."""

    records: list[list[str]]
    lines: np.ndarray

    def text(self, column: int, rows: np.ndarray | None = None) -> Any:
        pa = need("pyarrow")
        chosen = self.records if rows is None else [self.records[i] for i in rows]
        return pa.array([r[column] or None for r in chosen], pa.string())

    def numbers(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        shape = len(columns), len(self.records)
        return np.full(shape, np.nan), np.ones(shape, bool)


def plain_blocks(path: Path, head: Head) -> Iterator[PlainBlock]:
    """The records of a file below its header, as one block.

    Raises:
        TableError: a row too long or too short, quotes that do not pair; with the line.
    """
    data = b"".join(chunks(path))[head.size :].decode()
    records, lines = [], []
    at, width = head.line, len(head.names)
    with wide_cells():
        reader = csv.reader(io.StringIO(data, newline=""), delimiter=head.delimiter, strict=True)
        try:
            for record in reader:
                if record or width == 1:
                    if len(record or [""]) != width:
                        raise TableError(miscount(len(record), width, head.delimiter), file=str(path), line=at)
                    records.append(record or [""])
                    lines.append(at)
                at = head.line + reader.line_num
        except csv.Error as error:
            raise TableError(reason(str(error)), file=str(path), line=at) from None
    yield PlainBlock(records, np.array(lines, np.int64))


@contextmanager
def wide_cells() -> Iterator[None]:
    """Within: the csv module takes cells of `LIMIT` characters; its own limit belongs to the whole process."""
    before = csv.field_size_limit(LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def miscount(cells: int, width: int, delimiter: str) -> str:
    """What is wrong with a row of `cells` cells under a header of `width`."""
    columns = "1 column" if width == 1 else f"{width} columns"
    return f"{cells} cell{'' if cells == 1 else 's'} where the header has {columns}: quote cells that hold {delimiter!r}, or complete the row"


def reason(said: str) -> str:
    """What the csv module said, as a reader of tables understands it."""
    if "unexpected end" in said:
        return "a quote is opened and never closed"
    if "field larger" in said:
        return f"a cell is longer than {LIMIT:,} bytes: is a quote left open?"
    if "expected after" in said:
        return "text follows a closing quote: double the quotes inside a quoted cell"
    return said
