"""The wheel: what it holds, and that nothing else slips in."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_wheel_is_typed_and_licensed(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("hatchling", reason="the build back end is not installed; `make test` installs it")
    made = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = tmp_path.glob("fallline-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"fallline/py.typed", "fallline/__init__.pyi", "fallline/cli/main.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fallline"}
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "fallline").rglob("*.py")}
    assert sources <= names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "fallline = fallline.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
