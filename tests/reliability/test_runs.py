"""Whole runs under kills, signals and observers, in small; `make reliability` runs the same in full.

In one process of its own: it forks, and this one may have threads by now.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
CODE = """
from tests.reliability import runs
for tally in (runs.killed(1, 1), runs.terminated(1, 0), runs.matrix((0, 1), ('mid',)), runs.two_at_once(2, 0.5), runs.observers(4)):
    print(tally.id, tally.injections, tally.lost, tally.detail)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_is_lost():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line[:2] in ("R1",)]
    assert [row[0] for row in told] == ["R1", "R12", "R13", "R15", "R17"], done.stdout
    assert all(int(row[1]) >= 2 and row[2] == "0" for row in told), done.stdout
