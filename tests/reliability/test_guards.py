"""Numbers that are not finite and poisoned batches, in small; `make reliability` makes the same injections in full."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.reliability import guards


def test_what_is_not_finite_is_named_and_left_out():
    tally = guards.not_finite((8,), (np.nan,))
    assert tally.injections == 40 and tally.lost == 0, tally.detail


def test_poisoned_batches_are_recovered_from():
    tally = guards.poisoned(2)
    assert tally.injections == 4 and tally.lost == 0, tally.detail
