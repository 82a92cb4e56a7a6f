"""Tables that go through files: each malformed file gives the error that it gives in memory; what cannot be done is refused by name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import fallline as fl
from fallline.errors import InvalidValue, TableError
from fallline.tables import TableOptions
from fallline.tables.stored import budget
from tests.messages.test_tables_messages import ERRORS, GOOD, HEAD, write


@pytest.mark.parametrize("name", [n for n in ERRORS if "deep" not in n])
def test_a_malformed_file_gives_the_error_that_it_gives_in_memory(tmp_path, name: str):
    content, pattern = ERRORS[name]
    path = write(tmp_path, content)
    with pytest.raises(TableError, match=pattern):
        fl.table(path, target="y", options=TableOptions(cache=str(tmp_path / "rows")))
    assert not (tmp_path / "rows").exists() or not list((tmp_path / "rows").iterdir())


def refused(error: type[Exception], text: str, source, **options):
    with pytest.raises(error) as found:
        fl.table(source, target="y", options=TableOptions(**options))
    assert str(found.value) == text


def test_what_is_refused_and_what_it_says(tmp_path, monkeypatch):
    path, rows = write(tmp_path, HEAD + GOOD), str(tmp_path / "rows")
    for words in ("much", "1 parsec", 0, -5, True, "0GB"):
        refused(InvalidValue, f"memory={words!r}: expected bytes, or words such as 1GB, 512MB or 2GiB", path, memory=words, cache=rows)
    refused(InvalidValue, "cache= keeps the encoded rows of a file (CSV, Parquet, Arrow, .npy, JSON lines, svmlight) on disk: give a file's path, or leave it out",
            {"x": [1.0, 2.0], "y": [0, 1]}, cache=rows)  # fmt: skip
    refused(InvalidValue, "time= needs all rows at once, and this table goes through files: split it by time beforehand, and give valid= and test= as files",
            path, cache=rows, time="x")  # fmt: skip
    refused(InvalidValue, "valid= is a dict, and this table goes through files: give a share, or a file's path", path, cache=rows, valid={"x": [1]})
    refused(InvalidValue, "class_weight and sample_weight together: for a table larger than memory give one of them",
            path, cache=rows, types={"y": "category"}, class_weight="balanced", sample_weight="x")  # fmt: skip
    monkeypatch.setattr(budget, "held", lambda: 300_000_000)
    refused(InvalidValue, "memory=400 MB is too little: this process alone holds 300 MB; give 747 MB at least", path, memory="400MB", cache=rows)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))
    refused(TableError, f"the encoded rows need 0.00 GB and {rows} has 0.00 GB free: make room, or give cache= (--cache) on another disk", path, cache=rows)


def test_a_network_takes_its_rows_in_memory(tmp_path):
    pytest.importorskip("torch")
    path = write(tmp_path, HEAD + GOOD)
    with pytest.raises(InvalidValue, match="model='mlp:4' takes its rows in memory, and this table goes through files"):
        fl.fit(path, target="y", options=TableOptions(cache=str(tmp_path / "rows")), model="mlp:4", progress=False)


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch):
    from fallline.tables.stored import writing

    def full(self, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.ArrayFile, "add", full)
    with pytest.raises(TableError, match="is full: make room, or give cache="):
        fl.table(write(tmp_path, HEAD + GOOD), target="y", options=TableOptions(cache=str(tmp_path / "rows")))
    assert not list((tmp_path / "rows").iterdir())


def test_a_small_table_stays_in_memory_and_one_over_its_budget_does_not(tmp_path, monkeypatch):
    path = tmp_path / "t.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20_000, 5)))
    assert type(fl.table(path, target="x4")).__name__ == "Table"
    assert type(fl.table(path, target="x4", options=TableOptions(memory="4GB"))).__name__ == "Table"
    monkeypatch.setattr(budget, "held", lambda: 0)
    monkeypatch.setattr("fallline.tables.stored.opened.LEAST", 1)
    monkeypatch.chdir(tmp_path)
    made = fl.table(path, target="x4", options=TableOptions(memory="2MB"))
    assert type(made).__name__ == "StoredTable" and (tmp_path / ".fallline-rows").is_dir()
    assert made.problem().rows == made.summary.parts["train"]
