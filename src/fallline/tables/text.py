"""Text as counts of hashed words and pairs of words, and strings as hashed columns: the same on every machine."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from fallline.compiled import announced, kernel
from fallline.tables.sources import need

SMALL = 1 << 16
"""Bytes up to which text is counted without compiled kernels."""
APART = r"[^\pL\pN\pM_]+"
"""What stands between words: anything but letters, digits, marks (accents, vowel signs) and underscores."""


def hashed(strings: Sequence[str], width: int) -> tuple[np.ndarray, np.ndarray]:
    """A column, int32, and a sign, float32, for each string."""
    codes = np.array([zlib.crc32(s.encode()) for s in strings], np.uint32)
    return ((codes >> 1) % width).astype(np.int32), np.where(codes & 1, np.float32(1), np.float32(-1))


def grams(cells: Any, width: int) -> sparse.csr_matrix:
    """Counts of hashed words and pairs of neighbouring words, in small letters.

    Args:
        cells: an Arrow array of strings; null is no word.
        width: columns.
    """
    words = _words(cells)
    if words.nbytes <= SMALL:
        return plain_grams(words.to_pylist(), width)
    compute = need("pyarrow.compute")
    room = 2 * (compute.sum(compute.count_substring(words, " ")).as_py() + len(words))
    starts, columns, counts = np.zeros(len(words) + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.float32)
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    data = words.buffers()[2]
    with announced():
        used = _kernel()(
            np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), offsets, _table(), width, np.zeros(width, np.float32), starts, columns, counts
        )
    made = sparse.csr_matrix((counts[:used].copy(), columns[:used].copy(), starts), shape=(len(words), width))
    made.sort_indices()
    return made


def plain_grams(words: Sequence[str], width: int) -> sparse.csr_matrix:
    """The readable twin of the kernel: rows of words with one blank between them."""
    counts = []
    for row in words:
        parts = row.split(" ") if row else []
        columns, _ = hashed([*parts, *(f"{a} {b}" for a, b in pairwise(parts))], width)
        counts.append(sorted(Counter(columns.tolist()).items()))
    columns = [j for row in counts for j, _ in row]
    data = [float(n) for row in counts for _, n in row]
    starts = np.cumsum([0, *map(len, counts)])
    return sparse.csr_matrix((np.array(data, np.float32), np.array(columns, np.int32), starts), shape=(len(counts), width))


def _words(cells: Any) -> Any:
    """Cells in small letters, one blank between words, none around them."""
    pa, compute = need("pyarrow"), need("pyarrow.compute")
    apart = compute.replace_substring_regex(compute.utf8_lower(compute.fill_null(cells, "").cast(pa.large_string())), APART, " ")
    return compute.ascii_trim(apart, " ")


def _grams(data, offsets, table, width, seen, starts, columns, counts):
    """Count the grams of every row. `seen` is zeros (width,); returns how many entries were written."""
    used = 0
    for row in range(len(offsets) - 1):
        first = used
        before, start, end = -1, offsets[row], offsets[row + 1]
        for p in range(start, end + 1):
            if p < end and data[p] != 32:
                continue
            if p > start:  # a word, and the pair that it ends
                for begin in (start, before):
                    if begin >= 0:
                        code = np.uint32(0xFFFFFFFF)
                        for q in range(begin, p):
                            code = table[(code ^ data[q]) & np.uint32(0xFF)] ^ (code >> np.uint32(8))
                        column = ((code ^ np.uint32(0xFFFFFFFF)) >> np.uint32(1)) % np.uint32(width)
                        if seen[column] == 0:
                            columns[used] = column
                            used += 1
                        seen[column] += 1
                before = start
            start = p + 1
        for k in range(first, used):
            counts[k] = seen[columns[k]]
            seen[columns[k]] = 0
        starts[row + 1] = used
    return used


@cache
def _kernel() -> Any:
    return kernel(_grams)


@cache
def _table() -> np.ndarray:
    """The table of CRC-32 (zlib's polynomial), uint32 (256,)."""
    codes = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        codes = np.where(codes & 1, np.uint32(0xEDB88320) ^ (codes >> 1), codes >> 1).astype(np.uint32)
    return codes
