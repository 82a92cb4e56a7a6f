"""The beginning of a CSV file: its delimiter and its header."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import TableError
from fallline.tables.files.csv_plain import LIMIT, reason, wide_cells
from fallline.tables.files.text_bytes import chunks
from fallline.tables.sources import check_unique

DELIMITERS = ",;\t|"
_START = 1 << 20
"""Bytes that are looked at first."""
_RECORDS = 20
"""Records that a delimiter must cut into as many cells as the header has."""
_QUOTED = re.compile(r'"[^"]*"')
_SEP = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)
INDEX = "index"
"""What the first column is called where it has no name, as frames are often saved."""


@dataclass(frozen=True)
class Head:
    """What a file begins with.

    Args:
        names: of the columns.
        delimiter: one character.
        size: bytes up to the end of the header.
        line: the line (1-based) on which the first record begins.
        notes: what a reader should know of the header.
    """

    names: tuple[str, ...]
    delimiter: str
    size: int
    line: int
    notes: tuple[str, ...] = ()


def head(path: Path) -> Head:
    """Read a file's header.

    Raises:
        TableError: an empty file, a header that is none, columns without a name or with the same one.
    """
    for text, whole in _starts(path):
        found = head_of(text, whole, path)
        if found is not None:
            return found
    raise TableError("the file is empty: expected a header and rows", file=str(path))


def head_of(text: str, whole: bool, path: Path) -> Head | None:
    """The header that a text begins with; None where more of it is needed. `whole`: whether there is no more."""
    if not text.strip():
        return None
    skip, sep = _told(text)
    delimiter = sep or _delimiter(text, whole)
    found = _first(text, skip, delimiter, whole, path)
    if found is None:
        return None
    record, size, line = found
    names, notes = _names(record, delimiter, path, line - 1)
    return Head(names, delimiter, size, line, notes)


def _starts(path: Path) -> Iterator[tuple[str, bool]]:
    """Longer and longer beginnings of a file, and whether each is the whole of it."""
    size, held = _START, b""
    for chunk in chunks(path):
        held += chunk
        while len(held) > size:
            yield held[:size].decode(errors="ignore"), False  # a character may be cut at the end
            size *= 4
    yield held.decode(), True


def _told(text: str) -> tuple[int, str]:
    """Lines to skip, and the delimiter, of a first line such as `sep=;`, which spreadsheets write."""
    found = _SEP.fullmatch(text[: text.find("\n") + 1 or len(text)])
    return (1, found[1]) if found else (0, "")


def _delimiter(text: str, whole: bool) -> str:
    """The commonest known delimiter of the first line under which the first records fit the header; else the commonest."""
    first = next(line for line in io.StringIO(text, newline="") if line.strip())
    bare = _QUOTED.sub("", first)
    ranked = sorted(DELIMITERS, key=bare.count, reverse=True)
    return next((d for d in ranked if d in bare and _fits(text, d, whole)), ranked[0])


def _fits(text: str, delimiter: str, whole: bool) -> bool:
    counts: list[int] = []
    with wide_cells():
        try:
            for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
                counts += [len(record)] if record else []
                if len(counts) > _RECORDS:
                    break
        except csv.Error:
            pass
    if not whole and len(counts) <= _RECORDS:
        counts = counts[:-1]  # the last one may be cut
    return len(set(counts)) == 1


def _first(text: str, skip: int, delimiter: str, whole: bool, path: Path) -> tuple[list[str], int, int] | None:
    """The header's cells, the bytes up to its end and the line after it; None where more of the file is needed."""
    lines = list(io.StringIO(text, newline=""))
    with wide_cells():
        reader = csv.reader(lines[skip:], delimiter=delimiter, strict=True)
        try:
            record = next((r for r in reader if any(c.strip() for c in r)), None)
        except csv.Error as error:
            if not whole and len(text) < LIMIT:
                return None
            raise TableError(reason(str(error)), file=str(path), line=skip + 1) from None
    used = skip + reader.line_num
    if record is None or (used == len(lines) and not whole):
        return None
    return record, sum(len(line.encode()) for line in lines[:used]), used + 1


def _names(record: list[str], delimiter: str, path: Path, line: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names, notes = [n.strip() for n in record], []
    if len(names) > 1 and not names[0] and INDEX not in names:
        names[0] = INDEX
        notes.append(f"the first column has no name in the file: it is called {INDEX!r}")
    if "" in names:
        raise TableError(f"column {names.index('') + 1} has no name: give it one in the header", file=str(path), line=line)
    if _looks_like_data(names):
        shown = delimiter.join(names[:4]) + (" ..." if len(names) > 4 else "")
        raise TableError(f"the first line holds numbers, not names ({shown}): put a line with the columns' names above it", file=str(path), line=line)
    check_unique(names, str(path), line)
    return tuple(names), tuple(notes)


def _looks_like_data(names: list[str]) -> bool:
    """Whether a header is numbers throughout; different whole numbers, such as years or places, are names."""
    try:
        values = [float(n) for n in names]
    except ValueError:
        return False
    return all(map(math.isfinite, values)) and (len(set(values)) < len(values) or not all(n.isdigit() for n in names))
