"""Signals during a run: noted at once, honoured between segments, and everything put back after."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class Leaving(BaseException):
    """A signal that arrived where work may be left at once (an evaluation, a search): what was begun there is undone or of no use."""


@dataclass
class Interrupt:
    """The signal that arrived, if one did. A second one acts at once, as it would without us."""

    received: int | None = None
    _leave: bool = False

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Within: a signal raises `Leaving` at once, instead of being noted for later.

        Raises:
            Leaving: one came, now or before.
        """
        if self.received is not None:
            raise Leaving
        self._leave = True
        try:
            yield
        finally:
            self._leave = False


_watching: list[Interrupt] = []
"""Those that watch now, the innermost last."""


@contextmanager
def watched() -> Iterator[Interrupt]:
    """Watch SIGINT and SIGTERM in the main thread; elsewhere signals are the main thread's own affair."""
    noted = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: object) -> None:
        if any(one.received is not None for one in _watching):  # the second: what is on disk is whole at any moment
            if number == signal.SIGTERM and not interactive():
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            raise KeyboardInterrupt
        noted.received = number
        if noted._leave:
            raise Leaving

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    _watching.append(noted)
    try:
        yield noted
    finally:
        _watching.remove(noted)
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
