"""`fit` at its face: every kind of data, good results with no option given, and a run that carries its evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

import fallline as fl
from fallline.errors import InvalidValue, PlanMismatch

LEAST = {"digits": ("accuracy", 0.95), "breast-cancer": ("accuracy", 0.95)}


@pytest.fixture(scope="module")
def arrays():
    """Columns of very unlike scales and offsets."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 4)) * [1e-3, 1.0, 1e3, 1e5] + [0.0, 5.0, -1e4, 0.0]
    z = X[:, 0] * 1e3 + X[:, 2] * 1e-3 + 10 + 0.3 * rng.standard_normal(400)
    return X, z


@pytest.fixture(scope="module")
def fitted():
    return {name: fl.fit(name, progress=False) for name in ("digits", "breast-cancer", "diabetes")}


@pytest.mark.parametrize("name", LEAST)
def test_real_data_with_no_option_given(fitted, name):
    metric, least = LEAST[name]
    head = fitted[name].summary["headline"]
    assert head["metric"] == metric and head["part"] == "test"
    assert head["value"] >= least
    low, high = head["interval"]
    assert head["baseline"] < low <= head["value"] <= high
    assert fitted[name].summary["lr_source"] == "find_lr"


def test_diabetes_is_near_ridge(fitted):
    from sklearn.linear_model import Ridge

    t = fl.table("diabetes")
    peer = Ridge(alpha=1.0).fit(t.train.X, t.train.y).score(t.test.X, t.test.y)
    assert fitted["diabetes"].summary["test"]["metrics"]["r2"]["value"] > peer - 0.05


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "diabetes"])
def test_the_run_carries_its_evidence(fitted, name):
    run = fitted[name]
    whats = {e["what"] for e in run.history.journal}
    assert {"task", "batch size", "optimizer", "schedule", "lr"} <= whats
    assert all(e["why"] for e in run.history.journal if e["what"] in {"task", "batch size", "optimizer", "schedule", "lr"})
    assert run.best is not None
    json.dumps(run.summary)
    account = run.summary["data"]["rows"]
    assert account["rows in the table"] == sum(v for k, v in account.items() if k != "rows in the table")
    assert run.found.rate == run.plan.optimizer.lr


def test_the_test_part_is_what_the_headline_says(fitted):
    run = fitted["breast-cancer"]
    test = run.summary["test"]
    assert np.mean(np.array(test["y"]) == np.array(test["prediction"])) == pytest.approx(run.summary["headline"]["value"])


def test_advice_never_sees_test_rows():
    """Other values in the test rows leave the plan and the weights bitwise as they were."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 3)), np.arange(200) % 2
    X[:, 0] += 2 * y
    one = fl.fit(X, y, epochs=5, progress=False)
    held = fl.table({**{f"x{i}": X[:, i] for i in range(3)}, "target": y}, target="target").test.rows
    assert len(held) == pytest.approx(30, abs=4)
    X2 = X.copy()
    X2[held] = 3 * X[held] + 1
    other = fl.fit(X2, y, epochs=5, progress=False)
    assert one.plan.fingerprint == other.plan.fingerprint
    assert one.weights["coef"].tobytes() == other.weights["coef"].tobytes()


def test_unscaled_arrays(arrays):
    X, z = arrays
    from sklearn.linear_model import LogisticRegression

    t = fl.table({**{f"x{i}": X[:, i] for i in range(4)}, "target": (z > 0).astype(int)}, target="target")
    peer = LogisticRegression(C=100).fit(t.train.X, t.train.y).score(t.test.X, t.test.y)
    run = fl.fit(X, (z > 0).astype(int), progress=False)
    assert run.summary["headline"]["value"] >= peer - 0.02
    assert np.mean(run.predict(X) == (z > 0)) > 0.9


def test_boolean_labels_come_back_as_booleans(arrays):
    X, z = arrays
    assert np.mean(fl.fit(X, z > 0, epochs=5, progress=False).predict(X) == (z > 0)) > 0.9


def test_the_scale_of_columns_and_target_does_not_matter(arrays):
    X, z = arrays
    a = fl.fit(X, z, progress=False).predict(X)
    b = fl.fit(X * [1e3, 1.0, 1e-2, 7.0], 100 * z, progress=False).predict(X * [1e3, 1.0, 1e-2, 7.0])
    np.testing.assert_allclose(b, 100 * a, rtol=1e-3, atol=100 * 1e-3 * np.abs(a).max())


def test_labels_come_back_as_they_were_given(arrays):
    X, z = arrays
    run = fl.fit(X, np.where(z > 0, "good", "bad"), epochs=5, progress=False)
    assert set(run.predict(X[:50])) <= {"good", "bad"}


def test_frames_paths_tables_and_problems(arrays, tmp_path):
    import pandas as pd

    X, z = arrays
    frame = pd.DataFrame(X, columns=list("abcd")).assign(price=z)
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    by_frame = fl.fit(frame, target="price", epochs=5, progress=False)
    by_table = fl.fit(fl.table(frame, target="price"), epochs=5, progress=False)
    by_path = fl.fit(str(path), target="price", epochs=5, progress=False)
    np.testing.assert_allclose(by_frame.predict(frame), by_table.predict(frame))
    np.testing.assert_allclose(by_frame.predict(frame), by_path.predict(str(path)), rtol=1e-4, atol=1e-4 * z.std())
    problem = fl.least_squares((X - X.mean(axis=0)) / X.std(axis=0), z / z.std())
    run = fl.fit(problem, epochs=5, progress=False)
    assert run.outcome.name == "Finished" and run.found.rate == run.plan.optimizer.lr


def test_what_is_given_is_obeyed(arrays):
    X, z = arrays
    run = fl.fit(X, z, epochs=3, batch_size=10, optimizer=fl.SGD(lr=0.01, schedule="cosine"), progress=False)
    assert run.plan.batch_size.size == 10 and run.plan.epochs == 3
    assert run.plan.optimizer == fl.SGD(lr=0.01, schedule="cosine")
    assert run.summary["lr_source"] == "given" and run.found is None


def test_without_an_answer_the_typical_rate_stands_in_and_says_so():
    """Columns that say nothing of the labels: no learning rate can be read off, and nothing hides that."""
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((300, 2)), np.arange(300) % 2
    run = fl.fit(X, rng.permutation(y), epochs=5, optimizer=fl.SGD(momentum=0.9), progress=False)
    assert run.summary["lr_source"] == "default"
    assert run.plan.optimizer.lr == pytest.approx(np.sqrt(0.01 * 0.3))
    assert any(e["what"] == "lr" and "typical" in e["why"] and "no answer" in e["why"] for e in run.history.journal)


def test_the_same_call_gives_the_same_bits(arrays):
    X, z = arrays
    a, b = (fl.fit(X, z, epochs=3, progress=False) for _ in range(2))
    assert a.weights["coef"].tobytes() == b.weights["coef"].tobytes()


def test_saved_and_loaded(arrays, tmp_path):
    X, z = arrays
    run = fl.fit(X, z, epochs=3, save=tmp_path / "run", progress=False)
    back = fl.load(tmp_path / "run")
    np.testing.assert_array_equal(back.predict(X), run.predict(X))
    assert back.summary["headline"]["value"] == run.summary["headline"]["value"]


def test_refusals(arrays):
    X, z = arrays
    with pytest.raises(InvalidValue, match="399"):
        fl.fit(X, z[:399], progress=False)
    with pytest.raises(InvalidValue, match="reshape"):
        fl.fit(X[:, 0], z, progress=False)
    from fallline.fitting import Choices

    with pytest.raises(PlanMismatch, match="400"):
        fl.fit(X, z, choices=Choices(plan=fl.Plan(rows=400, epochs=2, optimizer=fl.SGD(lr=0.1))), progress=False)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_rows_stay_sparse(kind: str):
    """A million columns: made dense, these rows would be 2 GB."""
    draw = np.random.default_rng(0)
    entries = draw.standard_normal(3000), (np.repeat(np.arange(500), 6), draw.integers(0, 40, 3000) * 26_000)
    X = sparse.coo_array(entries, shape=(500, 1 << 20)).asformat(kind)
    y = np.where(X @ draw.standard_normal(1 << 20) > 0, "up", "down")
    run = fl.fit(X, y, epochs=5, progress=False)
    assert sparse.issparse(run.problem.X) and run.summary["headline"]["value"] > 0.7
    assert set(run.predict(X.tocsr()[:20])) <= {"up", "down"}
    with pytest.raises(fl.InvalidValue, match="X has 500 rows and y 5: expected one label for each row"):
        fl.fit(X, y[:5])
