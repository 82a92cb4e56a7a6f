"""The examples, run at small size as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = {"mlp": 0.9, "cnn": 0.85, "own_loop": 0.85, "fine_tune": 0.8, "lightning_user": 0.85, "accelerate_user": 0.85}
"""Each with the accuracy that it must reach on the held-out digits."""
NEEDS = {"lightning_user": "lightning", "accelerate_user": "accelerate"}


def test_every_example_is_tested():
    assert {p.stem for p in FOLDER.glob("*.py")} == {*EXAMPLES, "images"}


def test_fine_tuning_takes_at_most_thirty_lines():
    assert len((FOLDER / "fine_tune.py").read_text().splitlines()) <= 30


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_learns(name: str):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"examples/{name}.py needs the package {NEEDS[name]!r}, which is not installed")
    done = subprocess.run([sys.executable, "-W", "ignore", FOLDER / f"{name}.py", "--small"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"accuracy (\d\.\d+)", done.stdout)
    assert found and float(found[1]) > EXAMPLES[name], done.stdout
