"""CSV files of any size, a few megabytes at a time, by compiled kernels. `csv_plain` is the readable twin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline.compiled import announced
from fallline.errors import TableError
from fallline.tables.files.csv_head import Head
from fallline.tables.files.csv_kernels import AFTER_QUOTE, EXACT, MISCOUNT, TOO_LONG, UNCLOSED, WHOLE, kernels
from fallline.tables.files.csv_plain import LIMIT, miscount, reason
from fallline.tables.files.text_bytes import CHUNK, chunks
from fallline.tables.sources import need

POWERS = 10.0 ** np.arange(EXACT + 1)
MOST = 1 << 30
"""The longest record, in bytes."""


@dataclass(frozen=True)
class FastBlock:
    """Some records as places in a buffer, which the next block of the same file writes over; see `csv_file.Block`."""

    buffer: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    width: int

    def text(self, column: int, rows: np.ndarray | None = None) -> Any:
        pa = need("pyarrow")
        cells = np.arange(column, len(self.lines) * self.width, self.width) if rows is None else rows * self.width + column
        start, end = self.starts[cells], self.ends[cells]
        lengths = np.where(end < 0, -1 - end, end) - start
        offsets, data = np.empty(len(cells) + 1, np.int32), np.empty(int(lengths.sum()), np.uint8)
        with announced():
            kernels()[2](self.buffer, self.starts, self.ends, cells, offsets, data)
        present = np.packbits(lengths > 0, bitorder="little")
        return pa.Array.from_buffers(pa.string(), len(cells), [pa.py_buffer(present), pa.py_buffer(offsets), pa.py_buffer(data)])

    def numbers(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        shape = len(columns), len(self.lines)
        values, hard = np.empty(shape), np.empty(shape, bool)
        with announced():
            kernels()[1](self.buffer, self.starts, self.ends, shape[1], self.width, np.array(columns, np.int64), POWERS, values, hard)
        return values, hard


def fast_blocks(path: Path, head: Head, size: int = CHUNK) -> Iterator[FastBlock]:
    """The records of a file below its header, in blocks; a block is good until the next one is asked for.

    Args:
        size: bytes of a block; a longer record makes it longer.

    Raises:
        TableError: a row too long or too short, quotes that do not pair; with the line.
    """
    width, line, skip = len(head.names), head.line, head.size
    parts = chunks(path, size)
    buffer, held = Buffer(size), 0
    while True:
        found = next(parts, None)
        chunk, last = found or b"", found is None
        if skip:  # the header, which may be longer than a chunk
            chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if not chunk and not last:
                continue
        held = buffer.add(chunk, held)
        with announced():
            rows, used, line, code, cells = kernels()[0](
                buffer.bytes, held, last, ord(head.delimiter), width, LIMIT, line, buffer.starts, buffer.ends, buffer.lines
            )
        if code != WHOLE:
            raise TableError(what(code, cells, head), file=str(path), line=line)
        if rows:
            yield FastBlock(buffer.bytes, buffer.starts, buffer.ends, buffer.lines[:rows], width)
        if last:
            return
        held = buffer.keep(used, held)
        if held > MOST:
            raise TableError(f"a row is longer than {MOST:,} bytes: is a quote left open?", file=str(path), line=line)


class Buffer:
    """The bytes under way, with room for their cells; it grows where a record needs it."""

    def __init__(self, size: int):
        self._room(2 * size)

    def _room(self, size: int) -> None:
        self.bytes = np.empty(size, np.uint8)
        self.starts, self.ends = np.empty(size + 1, np.int32), np.empty(size + 1, np.int32)
        self.lines = np.empty(size + 1, np.int64)

    def add(self, chunk: bytes, held: int) -> int:
        """Append a chunk to the `held` bytes; returns how many there are now."""
        whole = held + len(chunk)
        if whole > len(self.bytes):
            before = self.bytes[:held]
            self._room(2 * whole)
            self.bytes[:held] = before
        self.bytes[held:whole] = np.frombuffer(chunk, np.uint8)
        return whole

    def keep(self, used: int, held: int) -> int:
        """Let the first `used` bytes go; returns how many are left."""
        self.bytes[: held - used] = self.bytes[used:held].copy()
        return held - used


def what(code: int, cells: int, head: Head) -> str:
    if code == MISCOUNT:
        return miscount(cells, len(head.names), head.delimiter)
    return reason({UNCLOSED: "unexpected end", AFTER_QUOTE: "expected after", TOO_LONG: "field larger"}[code])
