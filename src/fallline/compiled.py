"""The one door to Numba: how kernels are compiled and where their machine code is cached.

Numba's cache does not notice that a helper in another file was edited, so the cache folder's name carries a
hash of every kernel source (any file of the package that imports this one, or Numba) and of the versions in use. Where
the folder cannot be written, kernels are compiled for this process only, and `note()` says so.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
"""Never `nnan` or `ninf`: they compile the guards against NaN and infinity away."""


def _sources() -> list[Path]:
    """Every file of the package that holds kernels or pieces of them: those that import this module, or Numba."""
    marks = b"from fallline.compiled import", b"from numba"
    return sorted(p for p in Path(__file__).parent.rglob("*.py") if any(mark in p.read_bytes() for mark in marks) or p == Path(__file__))


@cache
def digest() -> str:
    """A hash (16 hex digits) of every kernel's source and of the versions that compile them."""
    import numba

    made = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in _sources():
        made.update(source.read_bytes())
    return made.hexdigest()[:16]


def processor() -> str:
    """The processor that kernels are compiled for: its name and a hash of what it can do."""
    from llvmlite import binding

    features = sorted(f"{k}{v}" for k, v in binding.get_host_cpu_features().items())
    return f"{binding.get_host_cpu_name()} {hashlib.sha256(' '.join(features).encode()).hexdigest()[:8]}"


@cache
def cache_folder() -> Path | None:
    """Where machine code is kept, or None where no folder can be written."""
    root = os.environ.get("FALLLINE_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "fallline" / f"kernels-{digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return None
    return folder


def note() -> str | None:
    """A sentence for the journal when kernels cannot be cached, else None."""
    if cache_folder() is None:
        return "the kernel cache cannot be written: kernels are compiled anew in every process; set FALLLINE_CACHE to a writable folder"
    return None


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile `function` with the house's flags: no GIL, IEEE infinities and NaN respected, cached on disk."""
    import numba

    options = {"nogil": True, "fastmath": FASTMATH, "boundscheck": False, "error_model": "numpy"} | options
    with _cached() as cache:
        return numba.njit(cache=cache, **options)(function)


def callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile `function` as a C callback of this signature: `.address` is its entry, `.ctypes` calls it without the GIL."""
    import numba

    with _cached() as cache:
        return numba.cfunc(signature, cache=cache, fastmath=FASTMATH, boundscheck=False, error_model="numpy")(function)


@contextmanager
def _cached() -> Iterator[bool]:
    """Within: Numba keeps its machine code in our folder; False where there is none."""
    import numba.core.config

    folder = cache_folder()
    before = numba.core.config.CACHE_DIR
    if folder is not None:
        numba.core.config.CACHE_DIR = str(folder)
    try:
        yield folder is not None
    finally:
        numba.core.config.CACHE_DIR = before


@contextmanager
def announced() -> Iterator[None]:
    """Within: the first kernel of this process that must be compiled (not loaded) says so on stderr, once."""
    if _Announcer.said:
        yield
        return
    from numba.core import event

    with event.install_listener("numba:compile", _announcer()):
        yield


class _Announcer:
    """Whether this process has said that it compiles."""

    said = False


def _announcer() -> Any:
    from numba.core import event

    class Once(event.Listener):
        def on_start(self, event: Any) -> None:
            if not _Announcer.said:
                _Announcer.said = True
                print("fallline: compiling kernels for this machine (once; some seconds) ...", file=sys.stderr, flush=True)

        def on_end(self, event: Any) -> None:
            pass

    return Once()
