"""Running a callback on the threads that PyTorch itself uses.

PyTorch's own OpenMP team waits, awake, for the next operation. A second pool would fight it for the cores; so the
callback runs on that very team, through the entry that compilers use (`GOMP_parallel`, which LLVM's OpenMP offers too).
Where PyTorch brings no such library, plain threads do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def _team() -> Callable[..., Any] | None:
    """`GOMP_parallel` of the OpenMP library that PyTorch has loaded, or None."""
    folder = Path(torch.__file__).parent
    found = [p for place in (folder / "lib", folder.parent / "torch.libs") for p in sorted(place.glob("lib*omp*"))]
    for path in found:
        try:  # RTLD_NOLOAD: only the library that is in use already; another copy would be another team
            entry = ctypes.CDLL(str(path), mode=ctypes.DEFAULT_MODE | getattr(os, "RTLD_NOLOAD", 0)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes, entry.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return entry
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fallline")


def shared(callback: Any, task: int, threads: int) -> None:
    """Run a callback on several threads at once; it takes its share of the work piece by piece.

    Args:
        callback: compiled, void (void*).
        task: address that each of them is given.
        threads: how many.
    """
    team = _team() if sys.platform != "win32" else None
    if team is not None:
        team(callback.address, task, threads, 0)
        return
    waiting = [_pool(threads).submit(callback.ctypes, task) for _ in range(threads - 1)]
    callback.ctypes(task)
    for other in waiting:
        other.result()
