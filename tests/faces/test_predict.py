"""Predictions of a file of any size to a file: what the library predicts, row by row in order, in memory for a piece of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

import fallline as fl
from fallline.errors import InvalidValue, TableError
from fallline.tables import predict_file, read


def table(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4))
    kind = random.choice(["a", "b", "c"], rows)
    y = np.where(x[:, 0] + (kind == "a") + 0.3 * random.normal(size=rows) > 0.3, "yes", "no")
    return pa.table({f"x{i}": x[:, i] for i in range(4)} | {"kind": kind, "Id": [f"{i:07}" for i in range(rows)], "y": y})


@pytest.fixture(scope="module")
def run():
    return fl.fit(table(2000), target="y", options=fl.TableOptions(drop=["Id"]), epochs=3, progress=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    small, large = table(60_000, 1), table(600_000, 2)
    csv.write_csv(small, folder / "small.csv")
    csv.write_csv(large, folder / "large.csv")
    parquet.write_table(small, folder / "small.parquet", row_group_size=7000)
    return {p.name: p for p in folder.iterdir()}


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("source", ["small.csv", "small.parquet"])
def test_one_row_out_per_row_in_in_the_same_order(run, files, tmp_path, source: str, ending: str):
    out = tmp_path / "deep" / f"p.{ending}"
    assert predict_file(run, str(files[source]), out, id="Id", proba=True) == 60_000
    found = read(out)
    assert found.names == ["Id", "y", "probability of no", "probability of yes"]
    assert found.values("Id").tolist() == [f"{i:07}" for i in range(60_000)]
    whole = read(files[source])
    assert (found.values("y") == run.predict(whole)).all()
    assert found.values("probability of yes").astype(float) == pytest.approx(run.predict_proba(whole)[:, 1])
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_memory_is_that_of_a_piece(run, files, tmp_path):
    """Ten times the rows, the same peak: the system's own count, set back before each."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("the system does not say what the peak was")

    def peak(source: str) -> int:
        predict_file(run, str(files[source]), tmp_path / "warm.csv")
        reset.write_text("5")
        before = status("VmRSS")
        predict_file(run, str(files[source]), tmp_path / "p.csv")
        return status("VmHWM") - before

    small, large = peak("small.csv"), peak("large.csv")
    assert large < max(2 * small, 32_000), (small, large)


def status(name: str) -> int:
    """In kilobytes."""
    return int(next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith(name)).split()[1])


def test_a_bad_cell_far_down_leaves_no_file(run, tmp_path):
    path = tmp_path / "t.csv"
    csv.write_csv(table(100_000), path)
    path.write_text(path.read_text() + '1,2,three,4,"a","9","no"\n')
    with pytest.raises(TableError, match=r"t\.csv:100002: column 'x2' holds numbers, but here 'three'"):
        predict_file(run, str(path), tmp_path / "out" / "p.csv")
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_written_is_said(run, files, tmp_path):
    with pytest.raises(InvalidValue) as error:
        predict_file(run, str(files["small.csv"]), tmp_path / "p.xlsx")
    assert str(error.value) == f"-o {tmp_path / 'p.xlsx'}: expected a file that ends in .csv, .parquet or .jsonl"
    rows = [{"x0": 1.0, "x1": 2.0, "x2": 3.0, "x3": 4.0, "kind": "a", "Id": i} for i in range(20_000)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {**rows[0], "Id": "last"}]))
    assert predict_file(run, str(path), tmp_path / "p.jsonl", id="Id") == 20_001
