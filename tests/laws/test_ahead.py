"""What is made ahead on a thread: the same items, the same end, and no thread left behind."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.streaming.ahead import AHEAD, Input, ahead


def running() -> int:
    return sum(t.name == "fallline-ahead" for t in threading.enumerate())


@given(st.integers(0, 12), st.integers(0, 12), st.booleans())
@settings(deadline=None)
def test_the_items_come_in_their_order_and_end_as_they_do(many: int, taken: int, fails: bool):
    """Whether all are taken, fewer, or the maker fails."""

    def items():
        yield from range(many)
        if fails:
            raise OSError("the cable is out")

    stopped, got, found = [], [], ahead(items(), nullcontext, lambda: stopped.append(True))
    try:
        for item in found:
            got.append(item)
            if len(got) == taken:
                break
        else:
            assert not fails
    except OSError as error:
        assert fails and str(error) == "the cable is out"
    found.close()
    assert got == list(range(min(many, taken) if taken else many)) and stopped in ([True], []) and running() == 0


def test_it_is_so_many_ahead_and_no_more():
    made, there = [], threading.Semaphore(0)

    def items():
        for i in range(20):
            made.append(i)
            there.release()
            yield i

    found = ahead(items(), nullcontext, lambda: None)
    assert next(found) == 0
    for _ in range(AHEAD + 1):
        assert there.acquire(timeout=20)
    assert not there.acquire(timeout=0.2) and made == list(range(AHEAD + 1))  # one in use, one waits, one has no room
    found.close()


def test_who_waits_for_bytes_is_woken_when_nobody_wants_them():
    """A pipe that says nothing: leaving it does not hang, and its thread ends."""
    r, w = os.pipe()
    with os.fdopen(r, "rb") as file:
        source = Input(file)
        source.watch()

        def items():
            while data := source.read(10):
                yield data

        os.write(w, b"one")
        found = ahead(items(), nullcontext, source.close)
        assert next(found) == b"one"
        found.close()  # its thread waits in the pipe
        assert running() == 0
        source.leave()
    os.close(w)


def test_a_signal_ends_the_wait():
    class Left(Exception):
        pass

    def raises():
        raise Left

    found = ahead(iter([1]), raises, lambda: None)
    with pytest.raises(Left):
        next(found)
    assert running() == 0
