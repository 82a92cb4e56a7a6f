"""Arrays in files, mapped into memory, of which only the rows in use are kept there."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

PAGE = mmap.PAGESIZE
WILL_NEED, DONT_NEED = (getattr(mmap, name, None) for name in ("MADV_WILLNEED", "MADV_DONTNEED"))
"""Advice to the system, where it takes any."""
AHEAD = 8
"""Stretches that the system is asked for beyond the one that is waited for: a disk is at its speed only with several requests at once."""


class Mapped:
    """An array of a .npy file, mapped read-only: `array`, and its bytes to be asked for and let go."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            self._first, count = file.tell(), int(np.prod(shape))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.array = np.frombuffer(self._map, dtype, count, self._first).reshape(shape)
        self._row = self.array.itemsize * int(np.prod(shape[1:]))

    def _within(self, start: int, stop: int, inner: bool = False) -> tuple[int, int]:
        """The bytes of some rows, in whole pages: those that hold any of them, or (inner) nothing else."""
        a, b = self._first + start * self._row, self._first + stop * self._row
        down, up = a // PAGE * PAGE, -(-b // PAGE) * PAGE
        if inner:
            down, up = -(-a // PAGE) * PAGE, b // PAGE * PAGE
        return down, min(up, len(self._bytes))

    def ask(self, start: int, stop: int) -> None:
        """Have the system begin to read rows; nobody waits for them."""
        a, b = self._within(start, stop)
        if b > a and WILL_NEED is not None:
            self._map.madvise(WILL_NEED, a, b - a)

    def read(self, start: int, stop: int) -> None:
        """Bring rows into memory: each of their pages is looked at."""
        a, b = self._within(start, stop)
        if b > a:
            np.add.reduce(self._bytes[a:b:PAGE], dtype=np.uint64)

    def drop(self, start: int, stop: int) -> None:
        """Let rows go from this process's memory (but for pages that others share); they are read again where they are needed."""
        a, b = self._within(start, stop, inner=True)
        if b > a and DONT_NEED is not None:
            self._map.madvise(DONT_NEED, a, b - a)


class Window:
    """The rows of several mapped arrays that are in memory: those in use, and those that a thread reads ahead.

    Args:
        arrays: one entry a row.
        entries: arrays with one entry for each of a CSR matrix's non-zeros.
        starts: of such a matrix: where each row's entries begin, and the end.
    """

    def __init__(self, arrays: tuple[Mapped, ...], entries: tuple[Mapped, ...] = (), starts: np.ndarray | None = None):
        self.arrays, self.entries, self.starts = arrays, entries, starts
        self._held: np.ndarray | None = None
        self._coming: tuple[np.ndarray, Future[None]] | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def enter(self, spans: np.ndarray, following: np.ndarray | None) -> None:
        """Have the rows of some spans (int64 [spans, 2]) in memory, begin to read those that follow, and let go of all others."""
        before, self._held = self._held, spans
        coming, self._coming = self._coming, None
        if coming is not None:
            coming[1].result()
        ahead = coming is not None and _same(coming[0], following)
        if _same(before, spans) and (ahead or following is None):
            self._coming = coming
            return
        if not (_same(coming and coming[0], spans) or _same(before, spans)):
            self._read(spans)
        kept = spans if following is None else np.concatenate([spans, following])
        self._drop(_between(kept, self.arrays[0].array.shape[0]))
        if following is not None:
            self._coming = following, coming[1] if ahead and coming is not None else self._reader().submit(self._read, following)

    def leave(self) -> None:
        """Let go of all rows."""
        if self._coming is not None:
            self._coming[1].result()
        self._held = self._coming = None
        self._drop(np.array([[0, self.arrays[0].array.shape[0]]]))

    def passed(self, start: int, stop: int) -> None:
        """Let go of rows that were read in passing."""
        self._drop(np.array([[start, stop]]))

    def _read(self, spans: np.ndarray) -> None:
        asked = self._parts(spans)
        for array, a, b in islice(asked, AHEAD):
            array.ask(a, b)
        for array, a, b in self._parts(spans):
            for other, c, d in islice(asked, 1):
                other.ask(c, d)
            array.read(a, b)

    def _drop(self, spans: np.ndarray) -> None:
        for array, a, b in self._parts(spans):
            array.drop(a, b)

    def _parts(self, spans: np.ndarray) -> Iterator[tuple[Mapped, int, int]]:
        for a, b in spans.tolist():
            for array in self.arrays:
                yield array, a, b
            for array in self.entries:
                assert self.starts is not None
                yield array, int(self.starts[a]), int(self.starts[b])

    def _reader(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool[0] != os.getpid():  # a forked child has no threads of its parent's
            self._pool = os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="fallline-ahead")
        return self._pool[1]


def _between(spans: np.ndarray, rows: int) -> np.ndarray:
    """The rows that are in none of some spans, as spans. The system maps more than it is asked for: what lies between is let go whole."""
    ends = np.maximum.accumulate(spans[np.argsort(spans[:, 0])], axis=0)
    gaps = np.stack([np.concatenate([[0], ends[:, 1]]), np.concatenate([ends[:, 0], [rows]])], axis=1)
    return gaps[gaps[:, 1] > gaps[:, 0]]


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)
