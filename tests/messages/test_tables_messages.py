"""The corpus of malformed tables: each file gives the right parse, or an error with file and line; no row is lost."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import fallline as fl
from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.tables import TableOptions, read, stream
from fallline.tables.files import json_file, text_bytes

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
    "text after a quote": (HEAD + '1,"a"b,2\n' + GOOD, r"t\.csv:2: text follows a closing quote"),
    "NUL byte": (HEAD.encode() + b"1,a\0,2\n" + GOOD.encode(), r"t\.csv:2: a NUL byte"),
    "UTF-16": ((HEAD + GOOD).encode("utf-16"), "looks like UTF-16"),
    "Latin-1": ((HEAD + "1,\xe9,2\n" + GOOD).encode("latin-1"), r"t\.csv:2: byte 0xe9 is not UTF-8"),
    "duplicate columns": ("x,x,y\n" + GOOD, r"t\.csv:1: two columns are called 'x'"),
    "duplicate after trimming": ("x, x ,y\n" + GOOD, "two columns are called 'x'"),
    "a column without a name": ("x,,y\n" + GOOD, r"t\.csv:1: column 2 has no name"),
    "1e400": (HEAD + GOOD + "1e400,a,2\n", r"t\.csv:42: column 'x': '1e400' is too large"),
    "inf": (HEAD + GOOD + "inf,a,2\n", r"t\.csv:42: column 'x': 'inf' is too large for a number, or infinite"),
    "a stray letter": (HEAD + GOOD + "4z,a,2\n", r"t\.csv:42: column 'x' holds numbers, but here '4z'.*--type x=category"),
    "a decimal comma among points": ("x;kind;y\n" + GOOD.replace(",", ";") + "1.5;a;2\n" + "1,5;a;2\n", r"t\.csv:43: .*write decimals with a point"),
    "commas that may be either": (HEAD + '"1,234",a,2\n' + GOOD.replace("1,a", '"12,345",a'), r"t\.csv:2: column 'x' holds numbers, but here '1,234': it could be 1234 or 1.234"),
    "a stray letter deep in the file": (HEAD + GOOD * 4_000 + "4z,a,2\n", r"t\.csv:160002: column 'x' holds numbers, but here '4z'"),
    "a row too short deep in the file": (HEAD + GOOD * 4_000 + "4,a\n" + GOOD, r"t\.csv:160002: 2 cells where the header has 3"),
    "a byte that is no text deep in the file": ((HEAD + GOOD * 4_000).encode() + b"1,\xff,2\n", r"t\.csv:160002: byte 0xff is not UTF-8"),
    "a NUL byte deep in the file": ((HEAD + GOOD * 4_000).encode() + b"1,\0,2\n", r"t\.csv:160002: a NUL byte at offset"),
    "a quote left open in a large file": (HEAD + '1,"a,2\n' + GOOD * 80_000, r"t\.csv:2: a cell is longer than 16,777,216 bytes: is a quote left open"),
    "text after a quote deep in the file": (HEAD + GOOD * 4_000 + '1,"a"b,2\n' + GOOD, r"t\.csv:160002: text follows a closing quote"),
    "a header that is none": ("5.1,3.5,0\n" + GOOD.replace("a", "1").replace("b", "2"), r"t\.csv:1: the first line holds numbers, not names"),
    "a header with an open quote": ('x,"kind,y\n' + GOOD, r"t\.csv:1: a quote is opened and never closed"),
    "a date that is none": ("x,y\n" + "".join(f"2024-01-{1 + i % 28:02},{i % 5}\n" for i in range(40)) + "2024-02-30,1\n", r"t\.csv:42: column 'x' holds dates, but here '2024-02-30'"),
    "a date in another order": ("x,y\n" + "".join(f"13/{1 + i % 12}/2024,{i % 5}\n" for i in range(40)) + "1/13/2024,1\n", r"t\.csv:42: .*here '1/13/2024'"),
    "a target of different words": ("x,y\n" + "".join(f"{i % 5},name {i}\n" for i in range(40)), "40 different values in 40 rows, as 'name 0'"),
    "a target of dates": ("x,y\n" + "".join(f"{i % 5},2024-01-{1 + i % 28:02}\n" for i in range(40)), "the target 'y' holds dates"),
    "a constant target": ("x,y\n" + "".join(f"{i % 5},1.5\n" for i in range(40)), "is 1.5 in every row"),
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
    "lone carriage returns": ((HEAD + GOOD).replace("\n", "\r"), 40),
    "pipes": ((HEAD + GOOD).replace(",", "|"), 40),
    "everything quoted": ("".join(",".join(f'"{c}"' for c in line.split(",")) + "\n" for line in (HEAD + GOOD).splitlines()), 40),
    "quoted delimiters of another kind in the header": ('"x,a,b,c";kind;y\n' + GOOD.replace(",", ";"), 40),
    "more commas than semicolons": ("x, in m, net;kind;y\n" + GOOD.replace(",", ";"), 40),
    "a spreadsheet's first line": ("sep=;\n" + (HEAD + GOOD).replace(",", ";"), 40),
    "a frame's index without a name": ("," + HEAD + "".join(f"{i},{line}\n" for i, line in enumerate(GOOD.splitlines())), 40),
    "years as names": ("2019,kind,y\n" + GOOD, 40),
    "decimal commas": ("x;kind;y\n" + GOOD.replace(",", ";") + "1,5;a;2\n-0,25;b;3\n", 42),
    "points between thousands": ("x;kind;y\n" + GOOD.replace(",", ";") + "1.234,5;a;2\n", 41),
    "commas between thousands": (HEAD + GOOD + '"1,234,567",a,2\n', 41),
    "numbers with blanks and signs": (HEAD + GOOD + " +3 ,a,2\n-0,b,1\n.5,a,1\n1.,b,2\n1e-5,a,3\n", 45),
    "digits beyond float64": (HEAD + GOOD + "0.12345678901234567890123,a,2\n123456789012345678901,b,1\n", 42),
    "a missing cell's word deep in the file": (HEAD + GOOD * 4_000 + "NA,?,2\n", 160_001),
    "a long cell in a large file": (HEAD + GOOD * 4_000 + f"1,{'a' * 9_000_000},2\n" + GOOD, 160_041),
    "quoted newlines at every place": (HEAD + '1,"a\r\nb",2\n' * 60_000 + GOOD, 60_040),
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
    assert source.values("kind")[0] == 'a,"b"\nc' and source.lines[:2].tolist() == [2, 4]


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
    with pytest.raises(InvalidValue, match=r"expected number, category, text, date, hash or hash:2\^18"):
        fl.table(path, target="y", options=TableOptions(types={"x": "numbr"}))
    with pytest.raises(InvalidValue, match="at least 10 are needed"):
        fl.table(write(tmp_path, "x,y\n1,2\n3,4\n", "two.csv"), target="y", options=TableOptions(task="regression"))


def test_a_missing_column_at_prediction_is_named(tmp_path):
    made = fl.table(write(tmp_path, HEAD + GOOD), target="y", options=TableOptions(task="regression"))
    with pytest.raises(UnknownName, match="no column 'kind'; did you mean 'kinds'"):
        made.encoder.transform({"x": [1.0], "kinds": ["a"]})


CHANGES = {
    "grown": (lambda path, data: path.write_bytes(data + data), r"changed from [\d,]+ to [\d,]+ bytes while it was read"),
    "cut off": (lambda path, data: path.write_bytes(data[:-3]), r"changed from [\d,]+ to [\d,]+ bytes while it was read"),
    "written over with as many bytes": (lambda path, data: path.write_bytes(data[:-20] + data[-20:][::-1]), "the file changed while it was read"),
    "replaced by another": (lambda path, data: write(path.parent, data, "new").replace(path), "the file changed while it was read"),
    "removed": (lambda path, data: path.unlink(), "the file was removed while it was read"),
}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change, name):
    """Whatever the reader saw of it, the change is what it says: never half of one file and half of another."""
    act, message = CHANGES[change]
    data = "".join('{"x": 1, "y": 2}\n' for _ in range(40)).encode() if name.endswith("jsonl") else (HEAD + GOOD).encode()
    path = write(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name)
    opened, calls = text_bytes.open_bytes, []

    def late(of):
        """The change comes after the reader has looked at the file's state, before its content is read."""
        if not calls:
            calls.append(act(path, path.read_bytes()))
        return opened(of)

    monkeypatch.setattr(text_bytes, "open_bytes", late)
    monkeypatch.setattr(json_file, "open_bytes", late)
    with pytest.raises(TableError, match=message) as refused:
        read(path)
    assert refused.value.file == str(path) and calls


def test_a_file_that_changes_before_its_text_is_read_again_is_refused(tmp_path):
    source = read(write(tmp_path, HEAD + GOOD))
    assert source.values("x")[0] == "0"
    write(tmp_path, HEAD + "9" + GOOD[1:])
    with pytest.raises(TableError, match="changed while it was read"):
        source.values("x")


def test_a_stream_of_a_file_that_grows_is_refused(tmp_path):
    path = write(tmp_path, HEAD + GOOD * 40_000)
    parts = stream(path)
    assert next(parts).rows > 1000
    with path.open("a") as file:
        file.write(GOOD)
    with pytest.raises(TableError, match="changed from"):
        list(parts)
