"""A stream of bytes as parts: whole records, their lines, and where they ended, so that another process can go on there."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from fallline.compiled import announced
from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.streaming.ahead import Input, ahead
from fallline.tables.files.csv_fast import MOST, Buffer, FastBlock, what
from fallline.tables.files.csv_head import Head, head_of
from fallline.tables.files.csv_kernels import WHOLE, kernels
from fallline.tables.files.csv_plain import LIMIT
from fallline.tables.files.gather import read_hard
from fallline.tables.files.json_file import parsed_object, rows_table
from fallline.tables.files.svmlight import parsed_row
from fallline.tables.sources import Source, need

FORMATS = ("csv", "jsonl", "svmlight")
CHUNK = 1 << 20
"""Bytes that are taken together where so many are there."""
LOOK = 64
"""Lines below the header from which the columns' kinds are told."""
_SVMLIGHT = re.compile(rb"\s*[-+.\deE]+(\s+qid:\d+)?(\s+\d+:\S+)+\s*(#.*)?")


@dataclass
class Place:
    """Where a stream is: what another process needs to find the next row again.

    Args:
        bytes: from the start to the end of the last record taken.
        crc: CRC-32 of them.
        line: the line of the next record.
    """

    bytes: int = 0
    crc: int = 0
    line: int = 1

    def passed(self, data: Any) -> None:
        self.bytes += len(data)
        self.crc = zlib.crc32(data, self.crc)


@dataclass(frozen=True)
class Part:
    """Some whole records.

    Args:
        rows: how many.
        source: makes a table of some of their columns (all of them for None); cells of a CSV stream as their text.
        numbers: columns as float64 (columns, rows), NaN where missing, and which columns hold a cell that is none; None where
            the format has no such way.
        place: where it ends.
    """

    rows: int
    source: Callable[[list[str] | None], Source]
    numbers: Callable[[list[str]], tuple[np.ndarray, np.ndarray]] | None = None
    place: Place = field(default_factory=Place)


class Stream:
    """The records of a stream. `parts` yields them; `place` is where the last one that was yielded ended.

    Args:
        file: binary; read as its bytes arrive.
        name: what messages call it.
        format: one of FORMATS, or None to tell it from the first bytes.
        waiting: a context in which bytes are waited for.

    Attributes:
        wanted: columns whose cells are read as numbers together with their records, so that they are there already when asked for.
    """

    def __init__(self, file: IO[bytes], name: str, format: str | None, waiting: Callable[[], Any]):
        if format is not None and format not in FORMATS:
            raise UnknownName.among("format", format, FORMATS)
        self.name, self.format, self.place, self._at, self.head = name, format, Place(), Place(), None
        self._file, self._waiting, self._held, self._ended = Input(file), waiting, b"", False
        self.wanted: tuple[str, ...] = ()
        self.header = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    # -------------------------------------------------------------------------------------------------- bytes

    def _more(self, size: int = CHUNK) -> bytes:
        """Bytes as they arrive; b"" at the end."""
        with self._waiting():
            data = self._file.read(size)
        self._ended = not data
        return data

    def _checked(self, data: bytes, whole: bool = False) -> bytes:
        """The bytes, if they are text."""
        zero = data.find(b"\0")
        if zero >= 0:
            raise TableError("a NUL byte: expected text, as UTF-8", file=self.name, line=self._at.line + data.count(b"\n", 0, zero))
        if not data.isascii() or self._decoder.getstate()[0]:
            try:
                self._decoder.decode(data, whole)
            except UnicodeDecodeError as error:
                line = self._at.line + data.count(b"\n", 0, max(error.start, 0))
                raise TableError("the bytes are not UTF-8: give text as UTF-8", file=self.name, line=line) from None
        return data

    def begin(self) -> bool:
        """Take the first lines: the format and a header are known then. False where the stream is empty."""
        data = b""
        while data.count(b"\n") < LOOK + 2 and (more := self._more()):
            data += more
        if not data.strip():
            return False
        lines = data.split(b"\n", LOOK + 2)
        first = len(data) - len(lines[-1]) if len(lines) > LOOK + 2 else len(data)
        self._first, self._held = self._checked(data[:first], first == len(data) and self._ended), data[first:]
        bare = self._first.removeprefix(codecs.BOM_UTF8)
        self.format = self.format or _told(bare)
        if self.format == "csv":
            self.head = head_of(bare.decode(errors="ignore"), self._ended and not self._held, Path(self.name))
            if self.head is None:
                raise TableError(f"no header within the first {LOOK + 2} lines: is a quote left open?", file=self.name, line=1)
            mark = len(self._first) - len(bare)
            self.header = bare[: self.head.size]
            self._at.passed(self._first[: mark + self.head.size])
            self._first, self._at.line = self._first[mark + self.head.size :], self.head.line
        self.place = replace(self._at)
        return True

    def again(self, place: Place, format: str, head: Head | None) -> None:
        """Go on after what another process has learnt, in a stream that is given from its start.

        Raises:
            InvalidValue: the stream is shorter, or begins otherwise.
        """
        left = place.bytes
        while left and (data := self._more(min(left, CHUNK))):
            self._at.passed(data)
            left -= len(data)
        if left:
            raise InvalidValue(f"{self.name} has {place.bytes - left:,} bytes, and {place.bytes:,} were learnt: give the stream from its start, or --from-here where it goes on")
        if self._at.crc != place.crc:
            raise InvalidValue(f"{self.name} does not begin with the rows that were learnt: give the same stream from its start, or --from-here where it goes on")
        self.place, self._at, self.format, self.head, self._first = place, replace(place), format, head, b""

    def onwards(self, place: Place, format: str, head: Head | None, names: bytes) -> None:
        """Go on in a stream that holds only what comes after; a header like the first one is passed over."""
        data = b""
        while b"\n" not in data and (more := self._more()):
            data += more
        if names and data.startswith(names):
            data = data[len(names) :]
        self.place, self.format, self.head, self._first = Place(), format, head, self._checked(data)

    def _chunks(self) -> Iterator[tuple[bytes, bool]]:
        """Chunks, and whether each is the last."""
        held, self._held = self._held, b""
        yield self._first, self._ended and not held
        if held:
            yield self._checked(held), self._ended
        while not self._ended:
            data = self._more()
            yield self._checked(data, not data), not data

    # -------------------------------------------------------------------------------------------------- records

    def parts(self) -> Iterator[Part]:
        """The records. Those of CSV are read and taken apart on a thread of their own while others are in use: compiled code does it,
        so both run at once. The other formats' are made by Python, which would only take turns.

        Raises:
            TableError: a malformed record, with its line, once all before it were yielded.
        """
        if self.format == "csv":
            waiting, self._waiting = self._waiting, nullcontext
            self._file.watch()
            found = ahead(self._csv(), waiting, self._file.close)
        else:
            found = self._lines()
        try:
            for part in found:
                self.place = part.place
                yield part
            self.place = replace(self._at)
        finally:
            found.close()  # type: ignore[attr-defined]
            self._file.leave()

    def _csv(self) -> Iterator[Part]:
        assert self.head is not None
        width, buffer, held = len(self.head.names), Buffer(CHUNK), 0
        for chunk, last in self._chunks():
            held = buffer.add(chunk, held)
            with announced():
                rows, used, line, code, cells = kernels()[0](
                    buffer.bytes, held, last, ord(self.head.delimiter), width, LIMIT, self._at.line, buffer.starts, buffer.ends, buffer.lines
                )
            begun = self._at.line
            self._at.passed(buffer.bytes[:used])
            self._at.line = line
            if rows:
                own = (a.copy() for a in (buffer.bytes[:used], buffer.starts[: rows * width], buffer.ends[: rows * width], buffer.lines[:rows]))
                yield self._block(FastBlock(*own, width))
            if code != WHOLE:
                raise TableError(what(code, cells, self.head), file=self.name, line=line)
            held = buffer.keep(used, held)
            if held > MOST:
                raise TableError(f"a row is longer than {MOST:,} bytes: is a quote left open?", file=self.name, line=begun)

    def _block(self, block: FastBlock) -> Part:
        assert self.head is not None
        places = {name: i for i, name in enumerate(self.head.names)}
        wanted = self.wanted

        def source(names: list[str] | None) -> Source:
            names = list(places) if names is None else names
            for name in names:
                if name not in places:
                    raise UnknownName.among("column", name, places)
            table = need("pyarrow").table([block.text(places[n]) for n in names], names=names)
            return Source(table, self.name, text=True, lines=block.lines)

        def read(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
            values, hard = block.numbers([places[n] for n in names])
            odd = hard.any(axis=1)
            for k in np.flatnonzero(odd):
                odd[k] = not read_hard(block, places[names[k]], values[k], hard[k])
            return values, odd

        ready = read(wanted) if wanted else None

        def numbers(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
            if ready is None or not set(names) <= set(wanted):
                return read(tuple(names))
            at = [wanted.index(n) for n in names]
            return ready[0][at], ready[1][at]

        return Part(len(block.lines), source, numbers, replace(self._at))

    def _lines(self) -> Iterator[Part]:
        held, make = b"", self._objects if self.format == "jsonl" else self._sparse
        for chunk, last in self._chunks():
            data = held + chunk
            cut = len(data) if last else data.rfind(b"\n") + 1
            whole, held = data[:cut], data[cut:]
            taken = whole.splitlines(keepends=True)
            broken: TableError | None = None
            rows, lines, line = [], [], self._at.line
            for raw in taken:
                try:
                    bare = raw.removeprefix(codecs.BOM_UTF8).strip()
                    if bare and not (self.format == "svmlight" and bare.startswith(b"#")):
                        rows.append(make(bare, line))
                        lines.append(line)
                except TableError as error:
                    broken = error
                    break
                self._at.passed(raw)
                line += 1
            self._at.line = line
            if rows:
                yield self._rows(rows, np.array(lines, np.int64))
            if broken is not None:
                raise broken

    def _objects(self, raw: bytes, line: int) -> Any:
        return parsed_object(raw, Path(self.name), line)

    def _sparse(self, raw: bytes, line: int) -> Any:
        return parsed_row(raw, Path(self.name), line)

    def _rows(self, rows: list[Any], lines: np.ndarray) -> Part:
        if self.format == "jsonl":
            table = rows_table(rows)

            def source(names: list[str] | None) -> Source:
                some = table
                if names is not None:  # a key that no object of this part has is a missing cell
                    pa = need("pyarrow")
                    some = pa.table([table.column(n) if n in table.column_names else pa.nulls(len(rows)) for n in names], names=names)
                return Source(some, self.name, lines=lines)

            return Part(len(rows), source, place=replace(self._at))
        from scipy import sparse

        starts = np.cumsum([0, *(len(r[1]) for r in rows)])
        columns = np.array([c for r in rows for c in r[1]], np.int64)
        values = np.array([v for r in rows for v in r[2]], np.float64)
        width = int(columns.max()) + 1 if len(columns) else 1
        csr = sparse.csr_matrix((values, columns, starts), shape=(len(rows), width))
        table = need("pyarrow").table({"target": np.array([r[0] for r in rows])})
        return Part(len(rows), lambda names: Source(table, self.name, lines=lines, csr=csr), place=replace(self._at))


def _told(data: bytes) -> str:
    """The format that the first line is of."""
    line = next(line for line in data.splitlines() if line.strip())
    if line.lstrip().startswith(b"{"):
        return "jsonl"
    if line.lstrip().startswith(b"["):
        raise InvalidValue("a list of objects is no stream of rows: give one JSON object a line (jq -c '.[]')")
    return "svmlight" if _SVMLIGHT.fullmatch(line) else "csv"
