"""What all tests share: one Hypothesis profile, and the markers."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A shell that runs the tests in the background ignores Ctrl-C for them; the tests of Ctrl-C need Python's own handling.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the first example of a law may compile a kernel. The same examples on every run unless asked for others.
settings.register_profile("fallline", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fallline"))


@pytest.fixture(autouse=True)
def _no_display_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own FALLLINE_DEBUG must not change what the tests see."""
    monkeypatch.delenv("FALLLINE_DEBUG", raising=False)
