"""Files that outlive a kill and a power cut: written whole, flushed to the disk, named last.

A rename is the only step at which something becomes visible, and it is made when the bytes are already on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path


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
