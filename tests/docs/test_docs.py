"""Documentation is executed: every python and console block of README.md and docs/*.md.

A file's python blocks run in order in one namespace, in an empty folder. A `text` block right after a python block
is its expected output (doctest's ELLIPSIS and NORMALIZE_WHITESPACE). In a `console` block each line `$ fallline ...`
runs as a command; it must exit with 0, or with N where the line ends in `# exit N`. Docstrings run with
`--doctest-modules`.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```[ \t]*$", re.S | re.M)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: its language, text, first line, and the output expected of it (None: not compared)."""

    language: str
    text: str
    line: int
    expected: str | None = None


def blocks(page: str) -> list[Block]:
    """The python and console blocks of a page, each python block with the text block right after it."""
    out: list[Block] = []
    end_of_python = None
    for match in FENCE.finditer(page):
        language, text = match[1], match[2]
        follows = end_of_python is not None and not page[end_of_python : match.start()].strip()
        if language == "text" and follows:
            out[-1] = out[-1]._replace(expected=text)
        if language in ("python", "console"):
            out.append(Block(language, text, page.count("\n", 0, match.start()) + 2))
        end_of_python = match.end() if language == "python" else None
    return out


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Run one block, and compare what it prints where the page says."""
    printed = io.StringIO()
    # The line numbers of a traceback are the page's own.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    if block.expected is not None and not doctest.OutputChecker().check_output(block.expected, printed.getvalue(), FLAGS):
        pytest.fail(f"{page.name}:{block.line} printed\n{printed.getvalue()}\nwhere the page says\n{block.expected}", pytrace=False)


def run_console(block: Block, page: Path) -> None:
    """Run each `$ fallline ...` of a block."""
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not line.startswith("$ "):
            continue
        command, _, note = line[2:].partition("  # exit ")
        words = shlex.split(command, comments=True)
        assert words[0] == "fallline", f"{page.name}:{number}: only fallline's own commands are executed, not {words[0]!r}"
        done = subprocess.run(
            [sys.executable, "-c", "from fallline.cli import main; main()", *words[1:]],
            capture_output=True, text=True, timeout=120, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
        )  # fmt: skip
        expected = int(note or 0)
        assert done.returncode == expected, f"{page.name}:{number}: exit {done.returncode}, not {expected}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page.read_text()):
        if block.language == "python":
            run_python(block, page, namespace)
        else:
            run_console(block, page)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / link).exists(), f"{page.name} links to {link}, which does not exist"


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [page.name for page in PAGES[1:] if page.name != "index.md" and f"({page.name})" not in index]
    assert not missing, f"docs/index.md does not link to {missing}"


# The harness itself: it must notice what it exists to notice.


def _page(tmp_path: Path, text: str) -> tuple[Path, list[Block]]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page, blocks(text)


def test_harness_notices_wrong_output(tmp_path: Path) -> None:
    page, found = _page(tmp_path, "```python\nprint(1)\n```\n```text\n2\n```\n")
    with pytest.raises(pytest.fail.Exception, match="where the page says"):
        run_python(found[0], page, {})


def test_harness_lets_an_error_through(tmp_path: Path) -> None:
    page, found = _page(tmp_path, "words\n\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(found[0], page, {})
    assert caught.traceback[-1].lineno == 3  # counted from 0: line 4 of the page


def test_harness_notices_a_failing_command(tmp_path: Path) -> None:
    page, found = _page(tmp_path, "```console\n$ fallline nonsense\n```\n")
    with pytest.raises(AssertionError, match="exit 2, not 0"):
        run_console(found[0], page)


def test_text_after_prose_is_not_an_expectation() -> None:
    found = blocks("```python\nprint(1)\n```\n\nSome words.\n\n```text\n2\n```\n")
    assert [block.expected for block in found] == [None]


LETTERS = {"a": "0.001", "n": "3", "m": "4", "w": "3", "r": "0.5", "T": "30"}
"""What the tables' letters stand for here."""


def schedules_in_tables() -> list[str]:
    """Every quoted schedule in a table row of the pages on other tools' schedulers, its letters replaced by numbers."""
    rows = [line for page in ("torch-schedulers.md", "coming-from.md") for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("|")]
    quoted = [text for row in rows for text in re.findall(r'`"([^"`]+)"`|schedule="([^"]+)"', row)]
    told = [a or b for a, b in quoted]
    return [re.sub(r"\b([amnwrT])\b", lambda m: LETTERS[m[1]], text) for text in told if "(" in text]


@pytest.mark.parametrize("text", schedules_in_tables())
def test_a_schedule_in_a_table_parses_and_prints_back(text: str):
    import fallline as fl

    schedule = fl.SGD(0.1, schedule=text).schedule
    assert fl.SGD(0.1, schedule=str(schedule)).schedule == schedule


def test_the_tables_hold_schedules():
    assert len(schedules_in_tables()) > 12
