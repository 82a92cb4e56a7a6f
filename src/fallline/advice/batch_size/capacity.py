"""The largest batch that fits into memory: doubling, then bisection, one update of each size tried for real."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fallline.errors import InvalidValue

FINE = 16
"""Bisection ends when the largest size that fits and the smallest that does not are within 1/16 of each other."""
FREE_SHARE = 0.5
"""Of the memory that is free on the CPU, a batch may take this much: what is free now may be needed meanwhile."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Capacity:
    """How large a batch may be.

    Args:
        largest: the largest size that was tried and fits; None where none does.
        refused: the smallest size that was tried and does not fit, or None.
        peak: bytes of the largest's update, where they were counted.
        budget: bytes that a batch may take, or None where only the device decides.
        why: in words.
    """

    largest: int | None
    refused: int | None
    peak: int | None
    budget: int | None
    why: str


def search(fits: Callable[[int], int | None], first: int, top: int, budget: int | None, wanted: int, seconds: float) -> Capacity:
    """Double from `first` to `top`, then bisect.

    Args:
        fits: runs one update of so many rows and gives the bytes that it needed (None: not counted).
            Raises MemoryError where they were not there.
        budget: bytes allowed, or None.
        wanted, seconds: sizes above `wanted` are tried for so long at most: a slow model is not kept busy for a number to know.
    """
    began = time.perf_counter()
    largest, refused, peak = None, None, None

    def tried(size: int) -> bool:
        nonlocal largest, refused, peak
        try:
            used = fits(size)
        except MemoryError:
            used, enough = None, False
        else:
            enough = budget is None or used is None or used <= budget
        if enough:
            largest, peak = size, used
        else:
            refused = size
        return enough

    size = min(first, top)
    while tried(size) and size < top and (2 * size <= wanted or time.perf_counter() - began < seconds):
        size = min(2 * size, top)
    if largest is None and size > 1 and not tried(1):
        return Capacity(None, refused, None, budget, "not even a batch of one row fits")
    while refused is not None and largest is not None and refused - largest > max(1, largest // FINE):
        tried((largest + refused) // 2)
    return Capacity(largest, refused, peak, budget, _said(largest, refused))


def _said(largest: int | None, refused: int | None) -> str:
    if largest is None:
        return "not even a batch of one row fits"
    if refused is not None:
        return f"{largest:,} rows fit into memory, {refused:,} do not"
    return f"{largest:,} rows fit into memory, and no more were tried"


def read_bytes(memory: int | float | str) -> int:
    """A number of bytes, or text such as "2GB" or "512 MiB".

    Raises:
        InvalidValue: neither.

    >>> read_bytes("2GB"), read_bytes("1.5 MiB"), read_bytes(1000)
    (2000000000, 1572864, 1000)
    """
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]i?)?b?\s*", memory, re.IGNORECASE)
        try:
            value = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0.0
        except ValueError:
            value = 0.0
    else:
        value = float(memory) if not isinstance(memory, bool) else 0.0
    if not 0 < value < float("inf"):
        raise InvalidValue(f'memory={memory!r}: expected a number of bytes above 0, or text such as "2GB"')
    return int(value)


def free_memory() -> int | None:
    """Bytes of memory that this process could still have, by the system and its control group; None where unknown."""
    found = [n for n in (_available(), _group_left()) if n is not None]
    return min(found) if found else None


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _group_left() -> int | None:
    """What a container's limit leaves."""
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            most, now = (Path("/sys/fs/cgroup", name).read_text().strip() for name in (limit, used))
            if most != "max" and int(most) < 1 << 60:
                return max(int(most) - int(now), 0)
        except (OSError, ValueError):
            continue
    return None
