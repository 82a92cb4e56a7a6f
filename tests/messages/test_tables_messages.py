"""The corpus of malformed tables: each file gives the right parse, or an error with file and line; no row is lost."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import fallline as fl
from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.tables import TableOptions, read

GOOD = "".join(f"{i % 7},{'ab'[i % 2]},{i * 3 % 11}\n" for i in range(40))
HEAD = "x,kind,y\n"


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ERRORS = {
    "empty": (b"", "the file is empty"),
    "only blanks": (b"\n\n  \n", "the file is empty"),
    "header only": (HEAD, r"t\.csv:1: a header and no rows"),
    "a row too long": (HEAD + GOOD + "1,a,2,9\n", r"t\.csv:42: 4 cells where the header has 3 columns"),
    "a row too short": (HEAD + "1,a\n" + GOOD, r"t\.csv:2: 2 cells where the header has 3"),
    "cut off in mid-row": (HEAD + GOOD + "1,", r"t\.csv:42: 2 cells"),
    "unterminated quote": (HEAD + GOOD + '1,"a,2\n3,b,4\n', r"t\.csv:42: a quote is opened and never closed"),
    "text after a quote": (HEAD + '1,"a"b,2\n' + GOOD, r"t\.csv:2: .*expected after"),
    "NUL byte": (HEAD.encode() + b"1,a\0,2\n" + GOOD.encode(), r"t\.csv:2: a NUL byte"),
    "UTF-16": ((HEAD + GOOD).encode("utf-16"), "looks like UTF-16"),
    "Latin-1": ((HEAD + "1,\xe9,2\n" + GOOD).encode("latin-1"), r"t\.csv:2: byte 0xe9 is not UTF-8"),
    "duplicate columns": ("x,x,y\n" + GOOD, r"t\.csv:1: two columns are called 'x'"),
    "duplicate after trimming": ("x, x ,y\n" + GOOD, "two columns are called 'x'"),
    "a column without a name": ("x,,y\n" + GOOD, r"t\.csv:1: column 2 has no name"),
    "1e400": (HEAD + GOOD + "1e400,a,2\n", r"t\.csv:42: column 'x': '1e400' is too large"),
    "inf": (HEAD + GOOD + "inf,a,2\n", r"t\.csv:42: column 'x': 'inf' is too large for a number, or infinite"),
    "a stray letter": (HEAD + GOOD + "4z,a,2\n", r"t\.csv:42: column 'x' holds numbers, but here '4z'.*--type x=category"),
    "a decimal comma": ("x;kind;y\n" + GOOD.replace(",", ";") + "1,5;a;2\n", r"t\.csv:42: .*write decimals with a point"),
    "a stray letter after a quoted newline": (HEAD + '1,"a\nb",2\n' + GOOD + "4z,a,2\n", r"t\.csv:44: column 'x'"),
    "a thousands separator": (HEAD + GOOD + '"1,234",a,2\n', r"t\.csv:42: column 'x' holds numbers"),
    "a target of one class": ("x,y\n" + "".join(f"{i % 5},a\n" for i in range(40)), "one class only"),
    "a target that is always missing": ("x,y\n" + "".join(f"{i % 5},\n" for i in range(40)), "missing in every row"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_malformed_files_are_refused_with_file_and_line(tmp_path, case):
    content, message = ERRORS[case]
    with pytest.raises(TableError, match=message):
        fl.table(write(tmp_path, content), target="y")


FINE = {
    "plain": (HEAD + GOOD, 40),
    "no newline at the end": ((HEAD + GOOD)[:-1], 40),
    "CRLF": ((HEAD + GOOD).replace("\n", "\r\n"), 40),
    "byte order mark": ("\ufeff" + HEAD + GOOD, 40),
    "blank lines": (HEAD + "\n" + GOOD + "\n\n", 40),
    "spaces in the header": (" x , kind,y \n" + GOOD, 40),
    "semicolons": ((HEAD + GOOD).replace(",", ";"), 40),
    "tabs": ((HEAD + GOOD).replace(",", "\t"), 40),
    "quoted delimiters": (HEAD + '1,"a,b",2\n' + GOOD, 41),
    "quoted newlines": (HEAD + '1,"a\nb",2\n' + GOOD, 41),
    "doubled quotes": (HEAD + '1,"say ""a""",2\n' + GOOD, 41),
    "a quote inside a cell": (HEAD + '1,5" pipe,2\n' + GOOD, 41),
    "missing cells of many kinds": (HEAD + "NA,,1\nnull,?,2\nNaN,-,3\nn/a,None,4\n" + GOOD, 44),
    "a long cell": (HEAD + f"1,{'a' * 1_000_000},2\n" + GOOD, 41),
    "umlauts": ("größe,kind,y\n" + GOOD, 40),
}


@pytest.mark.parametrize("case", FINE)
def test_odd_files_are_read_whole(tmp_path, case):
    content, rows = FINE[case]
    made = fl.table(write(tmp_path, content), target="y", options=TableOptions(task="regression"))
    s = made.summary
    assert s.rows == rows == sum(s.parts.values()) + sum(s.reported.values())
    assert sorted(np.concatenate([p.rows for p in (made.train, made.valid, made.test)])) == list(range(rows))
    assert made.encoder.transform(read(tmp_path / "t.csv")).shape[0] == rows


def test_values_survive_the_quoting(tmp_path):
    source = read(write(tmp_path, HEAD + '1,"a,""b""\nc",2\n' + GOOD))
    assert source.values("kind")[0] == 'a,"b"\nc' and source.line(0) == 2 and source.line(1) == 4


def test_rows_with_a_missing_target_are_reported_not_used(tmp_path):
    s = fl.table(write(tmp_path, HEAD + GOOD + "1,a,\n2,b,NA\n"), target="y").summary
    assert s.rows == 42 and s.reported == {"the target 'y' is missing": 2} and "2 rows not used" in s.text()


def test_damaged_archives(tmp_path):
    whole = gzip.compress((HEAD + GOOD).encode())
    assert fl.table(write(tmp_path, whole, "t.csv.gz"), target="y").summary.rows == 40
    with pytest.raises(TableError, match="gzip data is damaged or cut off"):
        fl.table(write(tmp_path, whole[:-20], "t.csv.gz"), target="y")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"x": 1, "y": 2}\n{"x": 1, \n', r"t\.jsonl:2: not JSON"),
        ("t.jsonl", '{"x": 1, "y": 2}\n[1, 2]\n', r"t\.jsonl:2: expected one JSON object a line"),
        ("t.parquet", "not parquet", r"t\.parquet: cannot be read"),
        ("t.arrow", "not arrow", r"t\.arrow: not an Arrow file"),
        ("t.npz", "not npz", r"t\.npz: not a readable \.npz"),
        ("t.svm", "1 1:2\nx 1:2\n", r"t\.svm:2: expected 'label index:value"),
    ],
)
def test_other_formats(tmp_path, name, content, message):
    with pytest.raises(TableError, match=message):
        fl.table(write(tmp_path, content, name), target="y")


def test_an_npz_with_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, X=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TableError, match="plain arrays"):
        read(path)


def test_what_does_not_exist(tmp_path):
    path = write(tmp_path, HEAD + GOOD)
    with pytest.raises(InvalidValue, match=r"no file .*tt\.csv'; did you mean 't\.csv'"):
        read(tmp_path / "tt.csv")
    with pytest.raises(UnknownName, match="no column 'kidn'; did you mean 'kind'"):
        fl.table(path, target="kidn")
    with pytest.raises(UnknownName, match="did you mean 'kind'"):
        fl.table(path, target="y", options=TableOptions(drop=["kinds"]))
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        fl.table("digit")
    with pytest.raises(InvalidValue, match=r"the suffix '\.xlsx' is not known"):
        read(write(tmp_path, "x", "t.xlsx"))
    with pytest.raises(InvalidValue, match="is a folder"):
        read(tmp_path)
    with pytest.raises(InvalidValue, match="expected number, category, text or date"):
        fl.table(path, target="y", options=TableOptions(types={"x": "numbr"}))
    with pytest.raises(InvalidValue, match="at least 10 are needed"):
        fl.table(write(tmp_path, "x,y\n1,2\n3,4\n", "two.csv"), target="y", options=TableOptions(task="regression"))


def test_a_missing_column_at_prediction_is_named(tmp_path):
    made = fl.table(write(tmp_path, HEAD + GOOD), target="y", options=TableOptions(task="regression"))
    with pytest.raises(UnknownName, match="no column 'kind'; did you mean 'kinds'"):
        made.encoder.transform({"x": [1.0], "kinds": ["a"]})
