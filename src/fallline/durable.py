"""Files that outlive a kill and a power cut: written whole, flushed to the disk, named last; and read with a look at every byte.

A rename is the only step at which something becomes visible, and it is made when the bytes are already on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

PART = 1 << 25
"""Bytes of a file that share a hash: larger files are hashed, and read, by several threads at once."""
PIECE = 1 << 20
"""Bytes read at once; they are still in the cache when they are hashed."""


class Damaged(Exception):
    """A file that is not what it was when it was written; says which and why."""


def described(data: bytes) -> dict[str, Any]:
    """What a manifest says of a file: its length, and the hash of each part of it."""
    view = memoryview(data)
    hashes = _each(lambda part: hashlib.sha256(view[part : part + PART]).hexdigest(), len(data))
    return {"bytes": len(data), "sha256": hashes}


def read_file(path: Path, expected: Mapping[str, Any]) -> memoryview:
    """The bytes of a plain file, as long as `described` has said and with those hashes.

    The length is looked at first, and links, pipes and devices are refused, so a few bytes cannot ask for much memory.

    Raises:
        Damaged: missing, no plain file, another length or another hash.
    """
    if path.is_symlink() or not path.is_file():
        raise Damaged(f"{path.name} is missing" if not path.exists() else f"{path.name} is no plain file")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise Damaged(f"{path.name} has {size:,} bytes where {expected['bytes']:,} were written")
    data = memoryview(np.empty(size, np.uint8))
    with open(path, "rb", buffering=0) as file:
        found = _each(lambda part: _read_part(file.fileno(), part, data[part : part + PART]), size)
    if found != expected["sha256"]:
        raise Damaged(f"{path.name} does not match its hash in the manifest: it was changed or damaged")
    return data


def _read_part(descriptor: int, begin: int, into: memoryview) -> str:
    """Fill `into` with the bytes from `begin` on; the hash of what was read, which is shorter where the file has become so."""
    hashed, done = hashlib.sha256(), 0
    while done < len(into):
        piece = into[done : done + PIECE]
        count = os.preadv(descriptor, [piece], begin + done)
        if not count:
            break
        hashed.update(piece[:count])
        done += count
    return hashed.hexdigest()


def _each(work: Callable[[int], str], size: int) -> list[str]:
    """What `work` makes of each part's first byte; on both sides of a large file at once, since hashing lets other threads run."""
    parts = range(0, max(size, 1), PART)
    if len(parts) == 1:
        return [work(0)]
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        return list(pool.map(work, parts))


def read_json(name: str, data: bytes | memoryview) -> Any:
    """A JSON document.

    Raises:
        Damaged: it is none, or nested without end.
    """
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name} is not JSON ({type(error).__name__})") from None


def listed(files: Any) -> Mapping[str, Mapping[str, Any]]:
    """The files of a manifest, once their names are names and each has a length and a hash.

    Raises:
        Damaged: anything else.
    """
    if not isinstance(files, dict):
        raise Damaged("the manifest does not list files")
    for name, expected in files.items():
        if Path(name).name != name or name.startswith("."):
            raise Damaged(f"the manifest names a file outside of its folder: {name[:80]!r}")
        if not isinstance(expected, dict) or type(expected.get("bytes")) is not int or not isinstance(expected.get("sha256"), list):
            raise Damaged(f"the manifest says too little of {name[:80]}")
    return files


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on the disk.

    Raises:
        OSError: the disk is full or broken; what was written is left for the caller to remove.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and its names need no such care
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder that is not there yet."""
    os.mkdir(path, 0o777)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder its name, for good: the folder that holds it is flushed too."""
    os.rename(source, target)
    sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a flat folder: out of sight by one rename, then file by file, so that a kill leaves nothing half visible."""
    hidden = folder
    if not folder.name.startswith("."):
        hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        os.rename(folder, hidden)
    for entry in os.listdir(hidden):
        os.unlink(hidden / entry)
    os.rmdir(hidden)
