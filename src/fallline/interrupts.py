"""Signals during a run: noted at once, honoured between segments, and everything put back after."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Interrupt:
    """The signal that arrived, if one did. A second one acts at once, as it would without us."""

    received: int | None = None


@contextmanager
def watched() -> Iterator[Interrupt]:
    """Watch SIGINT and SIGTERM in the main thread; elsewhere signals are the main thread's own affair."""
    noted = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: object) -> None:
        if noted.received is not None:
            raise KeyboardInterrupt
        noted.received = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within: what must be done whole. A first Ctrl-C or SIGTERM waits until it is."""
    with watched() as noted:
        yield
    if noted.received is not None:
        signal.raise_signal(noted.received)


def ended_by(number: int, run: Any = None) -> BaseException:
    """What to raise once a signal has been honoured: it carries the partial run as `.run`."""
    ended = SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt(run.reason if run is not None else "interrupted")
    ended.run = run  # type: ignore[union-attr]
    return ended


def interactive() -> bool:
    """Whether a person sits at IPython or a notebook: an interrupt then gives the partial run back."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def notebook() -> bool:
    """Whether that person's cells are answered by a kernel (Jupyter), not by a terminal."""
    return interactive() and hasattr(sys.modules["IPython"].get_ipython(), "kernel")
