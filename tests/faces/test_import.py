"""`import fallline`: what it loads, what it offers, and that the two lists of names agree."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fallline

PACKAGE = Path(fallline.__file__).parent
THIRD_PARTY = {"numpy"}
"""What `import fallline` may load beside the standard library and itself."""


def _loaded_by(code: str) -> set[str]:
    """Top-level modules that the code adds to a fresh interpreter, the standard library left out."""
    program = f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(sorted({{m.split('.')[0] for m in set(sys.modules) - before}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout)) - set(sys.stdlib_module_names) - {"fallline"}


def test_import_loads_nothing_heavier_than_numpy() -> None:
    assert _loaded_by("import fallline") <= THIRD_PARTY


def test_values_load_nothing_heavier_than_numpy() -> None:
    assert _loaded_by("import fallline as fl\nfl.SGD(0.1, schedule='warmup(5%) > cosine'), fl.epochs(2), fl.Diverged") <= THIRD_PARTY


def test_help_loads_no_engine_and_no_reader() -> None:
    loaded = _loaded_by(
        "import contextlib, io\nfrom fallline.cli import main\nwith contextlib.redirect_stdout(io.StringIO()):\n"
        "    try:\n        main(['fit', '--help'])\n    except SystemExit:\n        pass"
    )
    assert not loaded & {"numba", "scipy", "duckdb", "pyarrow", "altair", "vl_convert", "sklearn", "pandas", "torch"}


def test_import_time_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted to the target of 0.25 s: machines differ. The bound only notices a mistake in kind."""
    program = "import time\nt = time.perf_counter()\nimport fallline\nprint(time.perf_counter() - t)"
    seconds = min(float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout) for _ in range(3))
    with capsys.disabled():
        print(f"\nimport fallline: {seconds:.3f} s")
    assert seconds < 2


def test_stub_says_what_the_package_offers() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    homes = {
        alias.asname or alias.name: node.module
        for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }  # fmt: skip
    declared = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    expected = {name: f"fallline.{home}" for name, home in fallline._HOME_OF.items()}
    expected |= dict.fromkeys(fallline._MODULES, "fallline")
    assert homes == expected
    assert declared >= {"__version__"}


@pytest.mark.parametrize("name", fallline.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(fallline, name) is not None


def test_a_wrong_name_says_which_was_meant() -> None:
    with pytest.raises(AttributeError, match="did you mean 'SGD'"):
        fallline.SGDD  # noqa: B018
