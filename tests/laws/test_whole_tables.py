"""Laws of tables: rows in = rows used + rows reported, and every cell comes out as what stands in the file."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fallline as fl
from fallline.errors import TableError
from fallline.tables.files.gather import MISSING

pytest.importorskip("pyarrow")

WORDS = ["", "NA", "n/a", "?"]
NUMBERS = st.one_of(st.integers(-999, 999).map(str), st.floats(-1e6, 1e6).map(lambda v: f"{v:.4g}"), st.floats(-1e6, 1e6).map(repr))
KINDS = {
    "number": NUMBERS,
    "level": st.sampled_from(["red", "green", 'say "no"', "a;b,c|d", "two\nlines", "größe", "Red"]),
    "date": st.dates().map(lambda d: d.strftime("%Y").rjust(4, "0") + d.strftime("-%m-%d")),
}


def may_miss(cells):
    return st.one_of(cells, cells, cells, st.sampled_from(WORDS))


@st.composite
def files(draw):
    """Columns by kind, their cells as text, the target's cells, and the file."""
    n = draw(st.integers(12, 40))
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
    columns = {f"{kind} {i}": draw(st.lists(may_miss(KINDS[kind]), min_size=n, max_size=n)) for i, kind in enumerate(kinds)}
    goal = draw(st.sampled_from([NUMBERS, st.sampled_from(["yes", "no"])]))
    columns["y"] = draw(st.lists(may_miss(goal), min_size=n, max_size=n))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=draw(st.sampled_from(",;\t|")), quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])))
    writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return columns, out.getvalue()


def missing(cell):
    return cell.strip().lower() in MISSING


@given(files())
def test_rows_in_are_rows_used_and_rows_reported(tmp_path_factory, made):
    columns, text = made
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_text(text, newline="")
    there = [i for i, cell in enumerate(columns["y"]) if not missing(cell)]
    try:
        table = fl.table(path, target="y")
    except (TableError, fl.errors.InvalidValue) as error:
        words = str(error)
        assert any(w in words for w in ("nothing can be learnt", "missing in every row", "no column is left", "at least 10 are needed", "different values in"))
        return
    s = table.summary
    assert s.rows == len(columns["y"]) and sum(s.reported.values()) == s.rows - len(there)
    assert sorted(np.concatenate([p.rows for p in (table.train, table.valid, table.test)])) == there
    assert {c.name: c.missing for c in s.columns if c.used} == {c.name: sum(map(missing, columns[c.name])) for c in s.columns if c.used}
    assert table.encoder.transform(path).shape == (s.rows, len(table.feature_names))


@given(files())
def test_every_cell_comes_out_as_it_went_in(tmp_path_factory, made):
    """Numbers are the file's to float32, levels their own column, missing cells the mean (or no level) and marked."""
    columns, text = made
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_text(text, newline="")
    try:
        table = fl.table(path, target="y")
    except fl.errors.InvalidValue:
        assume(False)
    X = table.encoder.transform(path)
    names = table.feature_names
    for column in table.encoder.columns:
        cells = columns[column.name]
        gone = np.array([missing(c) for c in cells])
        if column.marks_missing:
            assert (X[:, names.index(f"{column.name} is missing")] == gone).all()
        if column.kind == "number":
            mean, scale = column.numbers[:, 0]
            back = X[:, names.index(column.name)].astype(np.float64) * scale + mean
            expected = np.array([mean if g else float(c) for c, g in zip(cells, gone, strict=True)])
            np.testing.assert_allclose(back, expected, rtol=1e-5, atol=1e-6 * (scale + abs(mean)))
        elif column.kind == "category" and not column.width:
            block = X[:, [names.index(f"{column.name}={level}") for level in column.levels]]
            assert (block == [[c.strip() == level and not g for level in column.levels] for c, g in zip(cells, gone, strict=True)]).all()
        elif column.kind == "date" and column.name.startswith("date"):
            at = names.index(f"{column.name}: days")
            mean, scale = column.numbers[:, 3]
            days = [np.datetime64(c).astype(int) for c, g in zip(cells, gone, strict=True) if not g]
            np.testing.assert_allclose(X[~gone, at] * scale + mean, days, rtol=1e-4, atol=1e-5 * scale + 1e-4 * abs(mean))


@given(st.integers(20, 60), st.data(), st.sampled_from(["4z", "1e999", "1.2.3", "--", "0x10", "1_000", "3 4", "inf"]))
def test_one_cell_that_is_no_number_is_found_on_its_line(tmp_path_factory, n, data, odd):
    at = data.draw(st.integers(0, n - 1))
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    path.write_text("note,x,y\n" + "".join(f'"a\nb",{odd if i == at else i * 7 % 31},{i % 5}\n' for i in range(n)))
    with pytest.raises(TableError) as refused:
        fl.table(path, target="y")
    assert refused.value.line == 2 + 2 * at and refused.value.file == str(path) and repr(odd) in str(refused.value)


@given(st.integers(20, 60), st.data(), st.sampled_from(["soon", "2024-13-01", "31.12.2024", "2024"]))
def test_one_cell_that_is_no_date_is_found_on_its_line(tmp_path_factory, n, data, odd):
    at = data.draw(st.integers(0, n - 1))
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    path.write_text("x,y\n" + "".join(f"{odd if i == at else f'2024-0{1 + i % 9}-1{i % 7}'},{i % 5}\n" for i in range(n)))
    with pytest.raises(TableError) as refused:
        fl.table(path, target="y")
    assert refused.value.line == 2 + at and repr(odd) in str(refused.value)
