"""Laws of reading CSV: Python's csv module is the meaning; the compiled reader gives the same rows, lines and errors."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.errors import TableError
from fallline.tables.files.csv_fast import fast_blocks
from fallline.tables.files.csv_file import read_csv
from fallline.tables.files.csv_head import Head, head
from fallline.tables.files.csv_plain import plain_blocks
from fallline.tables.files.gather import MISSING, Gathering

pytest.importorskip("pyarrow")

CELLS = st.one_of(
    st.sampled_from(["", "0", "-1", "+2.50", " 3 ", "1e5", "1e-400", "NA", "nan", "12345678901234567890", "0.1234567890123456789", "-0", ".", "-", "1.", ".5", "1.2.3", "007"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.text(st.sampled_from('ab1 ",;\t|\n\r\'é中\U0001f600'), max_size=6),
)
SOUP = st.text(st.sampled_from('ab1",;\n\r é'), max_size=60)


@st.composite
def tables(draw):
    """A delimiter, names, rows, and a file that holds them: quoted where it must be, and elsewhere by chance."""
    width = draw(st.integers(1, 4))
    delimiter, end, always = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans())
    names = [f"c{i}" for i in range(width)]
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=12))

    def quoted(cell):
        must = always or set(cell) & {delimiter, '"', "\n", "\r"} or (width == 1 and not cell)
        return '"' + cell.replace('"', '""') + '"' if must else cell

    records = [delimiter.join(map(quoted, r)) for r in (names, *rows)]
    blank = end if width > 1 and draw(st.booleans()) else ""
    return delimiter, names, rows, (end + blank).join(records) + draw(st.sampled_from([end, ""]))


def gathered(blocks, head):
    """Text, numbers, mixed columns and lines, or the error's words."""
    try:
        text, numbers = Gathering(range(len(head.names)), numbers=False), Gathering(range(len(head.names)))
        for block in blocks:
            text.add(block)
            numbers.add(block)
        return text.table(head.names).to_pylist(), text.lines.tolist()
    except TableError as error:
        return str(error)


@given(tables(), st.integers(4, 40))
def test_both_readers_give_what_was_written(tmp_path_factory, made, size):
    delimiter, names, rows, text = made
    path = tmp_path_factory.getbasetemp() / "law.csv"
    path.write_text(text, newline="")
    start = Head(tuple(names), delimiter, len(next(iter(io.StringIO(text, newline="")))), 2)
    plain, fast = (gathered(blocks, start) for blocks in (plain_blocks(path, start), fast_blocks(path, start, size)))
    assert plain == fast
    assert [[r[n] or "" for n in names] for r in plain[0]] == rows


@settings(max_examples=300)
@given(SOUP, st.integers(4, 40), st.sampled_from(",;"), st.integers(1, 3))
def test_both_readers_refuse_the_same_files_in_the_same_words(tmp_path_factory, soup, size, delimiter, width):
    path = tmp_path_factory.getbasetemp() / "soup.csv"
    path.write_text("h\n" + soup, newline="")
    start = Head(tuple("xyz"[:width]), delimiter, 2, 2)
    assert gathered(plain_blocks(path, start), start) == gathered(fast_blocks(path, start, size), start)


@given(tables(), st.integers(4, 40))
def test_numbers_are_those_of_python(tmp_path_factory, made, size):
    """Columns of numbers are float() of every cell, to the bit; a column with another cell stays text."""
    delimiter, names, rows, text = made
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    path.write_text(text, newline="")
    start = Head(tuple(names), delimiter, len(next(iter(io.StringIO(text, newline="")))), 2)
    for blocks in (plain_blocks(path, start), fast_blocks(path, start, size)):
        found = Gathering(range(len(names)))
        for block in blocks:
            found.add(block)
        table = found.table(names)
        for i, name in enumerate(names):
            cells = [r[i].strip() for r in rows]
            if table.column(name).type != "double":
                continue
            expected = [np.nan if c.lower() in MISSING else float(c) for c in cells]
            np.testing.assert_array_equal(table.column(name).to_numpy(), expected)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.sampled_from(["{!r}", "{:.3f}", "{:.17g}", "{:e}"]))
def test_every_float_is_read_exactly(tmp_path_factory, values, form):
    path = tmp_path_factory.getbasetemp() / "floats.csv"
    path.write_text("a,b\n" + "".join(f"{form.format(v)},0\n" for v in values))
    start = head(path)
    for blocks in (plain_blocks(path, start), fast_blocks(path, start, 64)):
        found = Gathering([0])
        for block in blocks:
            found.add(block)
        assert found.table(["a"]).column("a").to_pylist() == [float(form.format(v)) for v in values]


@given(tables())
def test_what_is_read_is_what_the_csv_module_reads(tmp_path_factory, made):
    """The whole way, header and delimiter found: each row is there, on its line, or the file is refused."""
    delimiter, names, _, text = made
    path = tmp_path_factory.getbasetemp() / "whole.csv"
    path.write_text(text, newline="")
    if len(names) == 1 and delimiter != ",":
        return  # a header of one name shows no delimiter
    source = read_csv(path)
    assert source.names == names
    expected = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if r or len(names) == 1][1:]
    assert [[v or "" for v in row] for row in zip(*(source.values(n) for n in names), strict=True)] == [r or [""] for r in expected]
    assert len(source.lines) == source.rows and (np.diff(source.lines) > 0).all()
