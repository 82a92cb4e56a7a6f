"""The bytes of a text file: opened, unpacked, and refused where they are no text."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fallline.errors import TableError

CHUNK = 1 << 23
"""Bytes of a file that are looked at together."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_bytes(path: Path) -> IO[bytes]:
    """A file, unpacked if its name ends in .gz."""
    return gzip.open(path) if packed(path) else open(path, "rb")  # type: ignore[return-value]


def packed(path: Path) -> bool:
    """Whether the file is a gzip archive by its name."""
    return path.suffix.lower() == ".gz"


def chunks(path: Path, size: int = CHUNK) -> Iterator[bytes]:
    """The file's bytes, `size` at a time, without a byte order mark.

    Raises:
        TableError: a damaged archive, a NUL byte, or bytes that are not UTF-8; with the line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with open_bytes(path) as file:
        while True:
            chunk = _read(file, size, path)
            _check(chunk, decoder, offset, path)
            if not chunk:
                return
            yield chunk if offset else chunk.removeprefix(codecs.BOM_UTF8)
            offset += len(chunk)


def _read(file: IO[bytes], size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        if not packed(path):
            raise
        raise TableError(f"the gzip data is damaged or cut off ({error}): fetch the file again", file=str(path)) from None


def _check(chunk: bytes, decoder: Any, offset: int, path: Path) -> None:
    """Refuse what is no text. `decoder` holds the beginning of a character that the last chunk cut."""
    zero = chunk.find(b"\0")
    if zero >= 0:
        hint = "it looks like UTF-16; save it as UTF-8" if _start(path) in UTF16 else "remove the byte, or export the table again"
        raise TableError(f"a NUL byte at offset {offset + zero}: {hint}", file=str(path), line=_line(path, offset + zero))
    held = decoder.getstate()[0]
    if chunk.isascii() and chunk and not held:
        return
    try:
        decoder.decode(chunk, not chunk)
    except UnicodeDecodeError as error:
        whole, at = held + chunk, offset - len(held) + error.start
        hint = "it looks like UTF-16; save it as UTF-8" if _start(path) in UTF16 else "save the file as UTF-8"
        raise TableError(f"byte 0x{whole[error.start]:02x} is not UTF-8: {hint}", file=str(path), line=_line(path, at)) from None


def _start(path: Path) -> bytes:
    with open_bytes(path) as file:
        return file.read(2)


def _line(path: Path, offset: int) -> int:
    """The line of a byte; a line ends at \\n, \\r or both."""
    line, last = 1, b""
    with open_bytes(path) as file:
        while offset > 0:
            part = file.read(min(CHUNK, offset))
            line += part.count(b"\n") + part.count(b"\r") - (last + part).count(b"\r\n")
            offset, last = offset - len(part), part[-1:]
    return line
