"""Tables as a person uses them: every source gives the same table, and every kind of column becomes what it should."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fallline as fl
from fallline.tables import Encoder, TableOptions, read

ROWS = 60


@pytest.fixture
def columns():
    r = np.random.default_rng(0)
    return {
        "id": [f"row-{i}" for i in range(ROWS)],
        "count": list(range(100, 100 + ROWS)),
        "area": [None if i % 10 == 3 else float(i * 7 % 31) for i in range(ROWS)],
        "kind": [("flat", "house", "villa")[i % 3] for i in range(ROWS)],
        "sold": [f"20{10 + i % 9}-0{1 + i % 9}-1{i % 9}" for i in range(ROWS)],
        "words": [f"a {('nice', 'bad', 'old')[i * 5 % 3]} place number {r.integers(1000)} near the {('sea', 'wood')[i % 2]}" for i in range(ROWS)],
        "same": [1.0] * ROWS,
        "price": [float(i * 11 % 37) + 0.5 for i in range(ROWS)],
    }


def csv_text(columns):
    lines = [",".join(columns)]
    lines += [",".join("" if v is None else str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines) + "\n"


def test_what_becomes_of_each_column(columns):
    made = fl.table(columns, target="price")
    notes = {c.name: c for c in made.summary.columns}
    assert not notes["id"].used and "identifier" in notes["id"].treatment
    assert not notes["count"].used and "identifier" in notes["count"].treatment
    assert not notes["same"].used and notes["same"].treatment == "constant"
    assert notes["area"].treatment == "standardised, missing imputed and marked" and notes["area"].missing == 6
    assert notes["kind"].treatment == "one-hot, 3 levels"
    assert notes["sold"].kind == "date" and notes["words"].kind == "text"
    assert made.target.task == "regression" and {"kind=flat", "area is missing", "sold: weekday"} <= set(made.feature_names)
    text = made.summary.text()
    assert "60 rows, 60 used" in text and "set aside: constant: same" in text


def test_every_source_is_the_same_table(columns, tmp_path):
    pa, pd, pl = pytest.importorskip("pyarrow"), pytest.importorskip("pandas"), pytest.importorskip("polars")
    from pyarrow import feather, parquet

    arrow = pa.table(columns)
    parquet.write_table(arrow, tmp_path / "t.parquet")
    feather.write_feather(arrow, str(tmp_path / "t.arrow"))
    (tmp_path / "t.csv").write_text(csv_text(columns))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arrow.to_pylist()))
    sources = [arrow, pd.DataFrame(columns), pl.DataFrame(columns), *(str(tmp_path / f"t.{s}") for s in ("parquet", "arrow", "csv", "jsonl"))]
    first = fl.table(columns, target="price")
    for source in sources:
        other = fl.table(source, target="price")
        assert other.feature_names == first.feature_names, source
        assert (other.train.rows == first.train.rows).all() and np.allclose(other.train.y, first.train.y)
        assert abs(other.train.X - first.train.X).max() < 1e-6


def test_types_can_be_said(columns):
    options = TableOptions(types={"count": "category", "kind": "text", "id": "category"}, drop=["sold"])
    notes = {c.name: c for c in fl.table(columns, target="price", options=options).summary.columns}
    assert notes["count"].used and notes["count"].kind == "category" and notes["id"].used
    assert notes["kind"].kind == "text" and "hashed 1-2-grams" in notes["kind"].treatment
    assert notes["sold"].treatment == "dropped as asked"
    only = fl.table(columns, target="price", options=TableOptions(only=["area"]))
    assert only.feature_names == ("area", "area is missing")


def test_the_encoder_is_learnt_from_the_training_rows_alone(columns):
    made = fl.table(columns, target="price", options=TableOptions(only=["area"]))
    area = np.array([np.nan if v is None else v for v in columns["area"]])[made.train.rows]
    column = made.encoder.columns[0]
    assert column.numbers[0, 0] == pytest.approx(np.nanmean(area)) and column.numbers[1, 0] == pytest.approx(np.nanstd(area))


def test_encoders_survive_saving_and_read_unseen_rows(columns):
    made = fl.table(columns, target="price")
    again = Encoder.from_parts(json.loads(json.dumps(made.encoder.to_json())), made.encoder.arrays())
    assert abs(again.transform(columns) - made.encoder.transform(columns)).max() == 0
    odd = {k: v[:2] for k, v in columns.items()} | {"kind": ["castle", None], "area": [None, 1e3], "extra": [1, 2]}
    X = again.transform(odd)
    place = [n.startswith("kind=") for n in again.names]
    assert X.shape == (2, len(again.names)) and X[:, place].sum() == 0


def test_splits(columns):
    labels = columns | {"y": [("a", "b", "c")[i % 3] if i % 20 else "rare" for i in range(ROWS)]}
    made = fl.table(labels, target="y", options=TableOptions(drop=["price"]))
    assert set(made.train.y) == {"a", "b", "c", "rare"} and made.target.task == "classification"
    by_time = fl.table(columns, target="price", options=TableOptions(time="sold"))
    when = [sorted(columns["sold"][i] for i in part.rows) for part in (by_time.train, by_time.valid, by_time.test)]
    assert when[0][-1] <= when[1][0] <= when[1][-1] <= when[2][0]
    groups = columns | {"who": [i // 6 for i in range(ROWS)]}
    whole = fl.table(groups, target="price", options=TableOptions(group="who"))
    who = np.array(groups["who"])
    parts = [set(who[p.rows]) for p in (whole.train, whole.valid, whole.test)]
    assert not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


def test_own_test_file(columns, tmp_path):
    (tmp_path / "test.csv").write_text(csv_text({k: v[:12] for k, v in columns.items()}))
    (tmp_path / "train.csv").write_text(csv_text({k: v[12:] for k, v in columns.items()}))
    made = fl.table(str(tmp_path / "train.csv"), target="price", options=TableOptions(test=str(tmp_path / "test.csv")))
    assert len(made.test.rows) == 12 and made.summary.rows == ROWS and "test from" in made.summary.split


def test_a_leak_is_said():
    y = [float(i * 7 % 23) for i in range(50)]
    made = fl.table({"x": [float(i % 5) for i in range(50)], "twice": [2 * v + 1 for v in y], "y": y}, target="y")
    assert any("'twice'" in n and "leak" in n for n in made.summary.notes)


def test_targets():
    x = [float(i % 7) for i in range(40)]
    log = fl.table({"x": x, "y": [10.0**i for i in range(40)]}, target="y", options=TableOptions(log_target=True))
    assert np.allclose(log.target.decode(log.target.encode(np.array([3.0, 1e5]))), [3.0, 1e5])
    assert fl.table({"x": x, "y": [i % 3 for i in range(40)]}, target="y").target.classes == (0, 1, 2)
    assert fl.table({"x": x, "y": [i % 3 for i in range(40)]}, target="y", options=TableOptions(task="regression")).target.task == "regression"
    assert fl.table({"x": x, "y": [i % 2 == 0 for i in range(40)]}, target="y").target.classes == (False, True)


def test_class_weights_balance():
    made = fl.table({"x": [float(i % 7) for i in range(100)], "y": ["rare" if i % 10 == 0 else "often" for i in range(100)]}, target="y",
                    options=TableOptions(class_weight="balanced"))  # fmt: skip
    totals = [made.train.weights[made.train.y == label].sum() for label in ("rare", "often")]
    assert totals[0] == pytest.approx(totals[1])


@pytest.mark.parametrize(("name", "rows", "features"), [("digits", 1797, 61), ("breast-cancer", 569, 30), ("diabetes", 442, 10)])
def test_built_in_sets(name, rows, features):
    pytest.importorskip("sklearn")
    made = fl.table(name)
    assert made.summary.rows == rows and len(made.feature_names) == features


def test_fashion_mnist_or_how_to_get_it():
    from fallline.errors import InvalidValue
    from fallline.tables.builtin import builtin

    try:
        source, own_test = builtin("fashion-mnist")
    except InvalidValue as missing:
        assert "apt install dataset-fashion-mnist" in str(missing)
        pytest.skip("dataset-fashion-mnist is not installed")
    assert source.rows == 70_000 and own_test == 10_000


def test_svmlight_stays_sparse(tmp_path):
    (tmp_path / "t.svm").write_text("".join(f"{i % 2} {1 + i % 5}:1 {7 + i % 3}:0.5 # row {i}\n" for i in range(40)))
    made = fl.table(str(tmp_path / "t.svm"))
    assert made.train.X.shape[1] == 9 and made.train.X.nnz == 2 * len(made.train.rows)
    run = fl.fit(made, epochs=2, progress=False)
    assert len(run.predict(str(tmp_path / "t.svm"))) == 40


def test_many_levels_are_hashed():
    made = fl.table({"city": [f"city {i % 120}" for i in range(400)], "y": [float(i % 13) for i in range(400)]}, target="y")
    assert made.summary.columns[0].treatment == "hashed to 512 columns" and made.train.X.shape[1] == 512


def test_reading_leaves_the_source_alone(columns):
    before = json.dumps(columns)
    read(columns)
    fl.table(columns, target="price")
    assert json.dumps(columns) == before
