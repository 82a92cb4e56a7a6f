"""Whether a file is still the one that was looked at."""

from __future__ import annotations

from pathlib import Path

from fallline.errors import TableError

Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What tells one state of a file from another: size, time of the last change and inode; None where it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def unchanged(path: Path, before: Stamp) -> None:
    """Refuse a file that is no longer what it was.

    Raises:
        TableError: it was written to, replaced or removed since.
    """
    after = stamp(path)
    if after == before:
        return
    if after is None:
        how = "was removed"
    elif before is not None and after[0] != before[0]:
        how = f"changed from {before[0]:,} to {after[0]:,} bytes"
    else:
        how = "changed"
    raise TableError(f"the file {how} while it was read: copy it when nothing writes to it, and read the copy", file=str(path))
