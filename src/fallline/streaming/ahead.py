"""What comes next is made on a thread of its own, while what is there is used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from queue import SimpleQueue
from typing import IO, Any, TypeVar

T = TypeVar("T")
AHEAD = 2
"""Items that may wait."""


class Input:
    """A file that a thread reads while another one may close it down: `read` gives b"" then, as at the end.

    Args:
        file: binary, with `read1`.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._closed, self._wake = file, False, -1
        self._poll: Any = None

    def watch(self) -> None:
        """From now on `close` ends a `read` that waits, where the system can wait for two things at once."""
        import select

        try:
            number = self._file.fileno()
            self._woken, self._wake = os.pipe()
            self._poll = select.poll()
        except (OSError, AttributeError, ValueError):  # bytes in memory, which nobody waits for; or a system without poll
            return
        self._poll.register(number, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Bytes as they arrive, b"" at the end."""
        if self._poll is not None:
            self._poll.poll()
        return b"" if self._closed else self._file.read1(size)  # type: ignore[attr-defined]

    def close(self) -> None:
        """End it for the thread that reads."""
        self._closed = True
        if self._wake >= 0:
            os.write(self._wake, b".")

    def leave(self) -> None:
        """Nobody reads any more."""
        self._poll = None
        if self._wake >= 0:
            for number in (self._woken, self._wake):
                with suppress(OSError):
                    os.close(number)
            self._wake = -1


def ahead(items: Iterator[T], waiting: Callable[[], AbstractContextManager[Any]], stop: Callable[[], None]) -> Iterator[T]:
    """The same items in the same order, each made before it is asked for; what ends them by an error ends them so here.

    Args:
        items: run on a thread of its own from now on.
        waiting: a context in which the next item is waited for.
        stop: has an item that is under way end; called where no more are wanted.
    """
    found: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    room, unwanted = threading.Semaphore(AHEAD), threading.Event()

    def make() -> None:
        try:
            for item in items:
                room.acquire()
                if unwanted.is_set():
                    return
                found.put(("item", item))
            found.put(("end", None))
        except BaseException as error:  # whatever it is, it is the other thread's to raise
            found.put(("error", error))

    thread = threading.Thread(target=make, name="fallline-ahead", daemon=True)
    thread.start()
    try:
        while True:
            with waiting():
                what, value = found.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
            room.release()
    finally:
        unwanted.set()
        room.release()
        stop()
        thread.join(5)
