"""Files from strangers, in small; `make reliability` loads 10,000 of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def hostile(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "tests.reliability.hostile", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_strangers_files_load_or_are_refused_and_do_nothing_else():
    seen = hostile("240", "7")
    assert seen["events"] == {} and seen["strays"] == []
    assert seen["refused"] > 40 and seen["refused"] + seen["loaded"] == 240
    assert seen["grown"] < 64 << 20


def test_the_watch_sees_what_must_not_happen():
    seen = " ".join(hostile("canary")["events"])
    assert "exec" in seen and "open /dev/null w" in seen and "os.system" in seen
