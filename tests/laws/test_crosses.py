"""Laws of hashed categories and crosses: what they are, the same in memory, in files and after loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fallline as fl
from fallline.errors import InvalidValue, UnknownName
from fallline.tables import Encoder, TableOptions
from fallline.tables.crosses import crossed
from fallline.tables.sources import Source
from fallline.tables.text import hashed

ROWS = 2000


def frame() -> pd.DataFrame:
    """The target is an exclusive or of two columns: no line tells it, a cross does."""
    random = np.random.default_rng(0)
    a, b = random.choice(["p", "q"], ROWS), random.choice(["u", "v", None], ROWS)
    users = [f"user {i}" for i in random.integers(0, 3000, ROWS)]
    return pd.DataFrame({"a": a, "b": b, "n": random.integers(0, 3, ROWS), "user": users, "y": np.where((a == "p") ^ (b == "u"), "yes", "no")})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_cross_is_a_category_of_pairs(tmp_path: Path, kind: str):
    path = tmp_path / f"t.{kind}"
    frame().to_csv(path, index=False) if kind == "csv" else frame().to_parquet(path)
    plain = TableOptions(drop=["user"])
    options = TableOptions(drop=["user"], cross=[("a", "b"), ("a", "n", "b")])
    table = fl.table(str(path), target="y", options=options)
    column = next(c for c in table.encoder.columns if c.name == "a x b")
    assert column.levels == ("p x u", "p x v", "q x u", "q x v") and column.marks_missing
    assert any(c.name == "a x n x b" and "p x 1 x u" in c.levels for c in table.encoder.columns)
    scores = [fl.fit(str(path), target="y", options=o, epochs=5, progress=False).summary["headline"]["value"] for o in (plain, options)]
    assert scores[0] < 0.85 and scores[1] == 1.0
    stored = fl.table(str(path), target="y", options=TableOptions(drop=["user"], cross=[("a", "b"), ("a", "n", "b")], cache=str(tmp_path / "rows")))
    assert stored.feature_names == table.feature_names
    assert np.array_equal(stored.train.X, stored.encoder.transform(str(path))[stored.train.rows])


def test_a_cross_is_missing_where_any_of_its_cells_is():
    import pyarrow as pa

    source = Source(pa.table({"a": ["p", None, "q", "q"], "b": ["u", "v", None, "u"]}), "t")
    assert crossed(source, [("a", "b")]).values("a x b").tolist() == ["p x u", None, None, "q x u"]


@pytest.mark.parametrize("cache", [None, "rows"])
def test_a_category_is_hashed_to_as_many_columns_as_is_said(tmp_path: Path, cache: str | None):
    """One entry with its sign a row, in the column that its name tells; few levels are hashed too where that is asked."""
    path = tmp_path / "t.parquet"
    frame().to_parquet(path)
    options = TableOptions(types={"user": "hash:2^12", "a": "hash:16"}, only=["user", "a"], cache=cache and str(tmp_path / cache))
    table = fl.table(str(path), target="y", options=options)
    widths = {c.name: c.width for c in table.encoder.columns}
    assert widths == {"a": 16, "user": 4096} and len(table.feature_names) == 4112
    X = table.encoder.transform(frame())
    assert (np.diff(X.indptr) == 2).all()
    places, signs = hashed(frame().user.tolist(), 4096)
    assert all(X[i, 16 + places[i]] == signs[i] for i in range(0, ROWS, 97))
    names = table.feature_names
    some = next(c for c in table.encoder.columns if c.name == "user").levels[0]
    assert any(some in name.removeprefix("user=").split("|") for name in names if name.startswith("user="))
    assert fl.fit(table, epochs=2, progress=False).outcome.name == "Finished"


def test_names_of_levels_are_kept_where_there_are_few():
    many = fl.table({"c": [f"v{i % 30_000}" for i in range(60_000)], "y": [i % 2 for i in range(60_000)]}, target="y", options=TableOptions(types={"c": "hash"}))
    (column,) = many.encoder.columns
    assert column.width == 1 << 18 and not column.levels and many.feature_names[5] == "c #5"


def test_encoders_come_back_as_they_were():
    options = TableOptions(cross=[("a", "b")], types={"user": "hash:2^10", "a x b": "hash:32"})
    encoder = fl.table(frame(), target="y", options=options).encoder
    again = Encoder.from_parts(json.loads(json.dumps(encoder.to_json())), encoder.arrays())
    assert again.names == encoder.names and again.crosses == (("a", "b"),)
    assert (abs(again.transform(frame()) - encoder.transform(frame()))).max() == 0


def test_keys_that_come_up_late_in_a_file_are_columns(tmp_path: Path):
    """JSON objects may lack a key for thousands of rows: the same columns as in memory."""
    random = np.random.default_rng(1)
    rows = [{"x": float(v), "y": int(v > 0)} | ({"late": float(i % 5)} if i > 40_000 else {}) | ({"early": 1.0 * (i % 3)} if i < 20_000 else {}) for i, v in enumerate(random.normal(size=70_000))]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    stored, memory = (fl.table(str(path), target="y", options=TableOptions(cache=c)) for c in (str(tmp_path / "rows"), None))
    assert sorted(stored.feature_names) == sorted(memory.feature_names)
    assert {n.name: n.missing for n in stored.summary.columns} == {n.name: n.missing for n in memory.summary.columns}


def test_what_is_refused_and_what_it_says():
    def says(error, text, **options):
        with pytest.raises(error) as found:
            fl.table(frame(), target="y", options=TableOptions(**options))
        assert str(found.value) == text

    for word in ("hash:1", "hash:2^40", "hash:many", "hashed", "hash:"):
        says(InvalidValue, f"type {word!r} of column 'a': expected number, category, text, date, hash or hash:2^18 (2 to 2^24 columns)", types={"a": word})
    says(InvalidValue, "cross='a': expected two different columns or more, such as city,kind", cross=["a"])
    says(InvalidValue, "cross='a,a': expected two different columns or more, such as city,kind", cross=[("a", "a")])
    with pytest.raises(UnknownName, match="column 'c'"):
        fl.table(frame(), target="y", options=TableOptions(cross=[("a", "c")]))
    with pytest.raises(InvalidValue, match="there is a column 'a x b' already; rename it"):
        fl.table(frame().assign(**{"a x b": 1.0}), target="y", options=TableOptions(cross=[("a", "b")]))


@pytest.mark.parametrize("cache", [None, "rows"])
def test_millions_of_columns(tmp_path: Path, cache: str | None):
    """No list of names, no dense array."""
    path = tmp_path / "t.parquet"
    frame().to_parquet(path)
    table = fl.table(str(path), target="y", options=TableOptions(types={"user": "hash:2^22"}, cross=[("a", "b")], cache=cache and str(tmp_path / cache)))
    problem = table.problem()
    assert problem.features > 1 << 22 and problem.feature_names is None and problem.feature_name(3) == "column 3"
    plan = fl.Plan(problem, epochs=2, batch_size=1, optimizer=fl.SGD(lr=0.1))
    run = fl.train(problem, plan, progress=False)
    assert run.score(table.test.X, table.test.y) > 0.9
