"""How much memory a table may take, and whether it fits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fallline.errors import InvalidValue

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_WORDS = re.compile(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*")
SMALL = 1 << 26
"""Bytes of a file up to which nobody asks whether it fits, unless a budget is given."""
FREE = 0.7
"""Share of the free memory that a table may take where no budget is given."""
TIMES = 3.0
"""A table in memory takes up to this many times what its columns take: they, their encoded rows, and what lies between."""


def size(memory: Any) -> int | None:
    """A budget in bytes: None, a number of bytes, or words such as "1GB", "512 MB" (powers of ten) or "1GiB".

    >>> size("1GB"), size("1.5 GiB"), size(None)
    (1000000000, 1610612736, None)
    """
    if memory is None:
        return None
    if isinstance(memory, (int, float)) and not isinstance(memory, bool) and memory > 0:
        return int(memory)
    found = _WORDS.fullmatch(memory) if isinstance(memory, str) else None
    if found is None or found[2].upper() not in _UNITS or not float(found[1] or 0) > 0:
        raise InvalidValue(f"memory={memory!r}: expected bytes, or words such as 1GB, 512MB or 2GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def shown(count: float) -> str:
    """Bytes in words.

    >>> shown(3.2e9), shown(64_000_000)
    ('3.2 GB', '64 MB')
    """
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")) if count >= u), (1.0, "bytes"))
    return f"{count / unit:.3g} {name}"


def held() -> int:
    """Bytes of its own that this process holds; 0 where the system does not say."""
    return _proc("/proc/self/status", "RssAnon") or _proc("/proc/self/status", "VmRSS")


def free() -> int:
    """Bytes of memory that can be had; 0 where the system does not say."""
    return _proc("/proc/meminfo", "MemAvailable")


def _proc(file: str, name: str) -> int:
    try:
        line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return 0
    return 1024 * int(line.split()[1])
