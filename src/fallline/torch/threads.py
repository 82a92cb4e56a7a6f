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
def team(keep_gil: bool = False) -> Callable[..., Any] | None:
    """`GOMP_parallel` of the OpenMP library that PyTorch has loaded, or None; calls of it let go of the GIL or keep it."""
    if sys.platform == "win32":
        return None
    kind = ctypes.PyDLL if keep_gil else ctypes.CDLL
    folder = Path(torch.__file__).parent
    found = [p for place in (folder / "lib", folder.parent / "torch.libs") for p in sorted(place.glob("lib*omp*"))]
    for path in found:
        try:  # RTLD_NOLOAD: only the library that is in use already; another copy would be another team
            entry = kind(str(path), mode=ctypes.DEFAULT_MODE | getattr(os, "RTLD_NOLOAD", 0)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes, entry.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return entry
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fallline")


@cache
def entry(address: int, keep_gil: bool) -> Callable[[int], None]:
    """A compiled callback `void (void*)` as a function that lets go of the GIL while it runs, or keeps it."""
    kind = ctypes.PYFUNCTYPE if keep_gil else ctypes.CFUNCTYPE
    return kind(None, ctypes.c_void_p)(address)


def shared(callback: int, task: int, threads: int, *, keep_gil: bool = False) -> None:
    """Run a callback on several threads at once; it takes its share of the work piece by piece.

    Args:
        callback: address of a compiled void (void*).
        task: address that each of them is given.
        threads: how many.
        keep_gil: let no Python run meanwhile; for work of microseconds, and where there is a `team`.
    """
    run, crew = entry(callback, keep_gil), team(keep_gil) if threads > 1 else None
    if threads == 1:
        run(task)
    elif crew is not None:
        crew(callback, task, threads, 0)
    else:
        waiting = [_pool(threads).submit(run, task) for _ in range(threads - 1)]
        run(task)
        for other in waiting:
            other.result()
