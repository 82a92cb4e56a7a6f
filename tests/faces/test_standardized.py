"""Sparse columns at mean 0 and deviation 1, wherever a person meets them: library, tables, command line, estimators."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp

import fallline as fl
from fallline.cli.main import app
from fallline.errors import InvalidValue, NoClosedForm

R = np.random.default_rng(0)
ROWS, FEATURES = 300, 20
X = R.standard_normal((ROWS, FEATURES)) * (R.random((ROWS, FEATURES)) < 0.3) * R.choice([0.01, 1.0, 300.0], FEATURES)
X[:, 0] = 5000 + R.standard_normal(ROWS)
STANDARD = (X - X.mean(axis=0)) / X.std(axis=0)
Z = STANDARD @ R.standard_normal(FEATURES)
Y = (Z > 0).astype(int)
SPARSE = sp.csr_array(X)
PLAN = {"epochs": 4, "batch_size": 1, "optimizer": fl.SGD(lr=0.01, momentum=0.5, schedule="linear(to=0)")}


def svm(path, rows=X, labels=Y):
    path.write_text("".join(f"{y} " + " ".join(f"{j + 1}:{v!r}" for j, v in enumerate(row.tolist()) if v) + "\n" for row, y in zip(rows, labels, strict=True)))
    return str(path)


def test_a_run_is_that_of_the_dense_matrix_and_lives_in_the_columns_own_units(tmp_path):
    problem, dense = fl.logistic(SPARSE, Y).standardized(), fl.logistic(STANDARD, Y)
    run = fl.train(problem, fl.Plan(problem, **PLAN), valid=(SPARSE[:50], Y[:50]))
    other = fl.train(dense, fl.Plan(dense, **PLAN), valid=(STANDARD[:50], Y[:50]))
    assert np.abs(run.weights["coef"] * X.std(axis=0) - other.weights["coef"]).max() <= 1e-9
    assert np.abs(run.predict_proba(SPARSE) - other.predict_proba(STANDARD)).max() <= 1e-9
    for one, two in zip(run.history.evaluations, other.history.evaluations, strict=True):
        assert one["valid_loss"] == pytest.approx(two["valid_loss"], rel=1e-9)
    run.save(tmp_path / "run")
    assert np.array_equal(fl.load(tmp_path / "run").predict_proba(X), run.predict_proba(X))


def test_a_run_goes_on_from_the_weights_of_another():
    problem = fl.logistic(SPARSE, Y).standardized()
    first = fl.train(problem, fl.Plan(problem, epochs=1, batch_size=1, optimizer=fl.SGD(lr=0.01)))
    point = problem.placed(problem.layout.join(first.weights))
    still = fl.train(problem, fl.Plan(problem, steps=1, batch_size=1, optimizer=fl.SGD(lr=1e-300)), start=first.weights)
    assert np.allclose(still.weights["coef"], first.weights["coef"], rtol=1e-12)
    assert abs(problem.loss(point) - fl.logistic(SPARSE, Y).loss(problem.layout.join(first.weights))) <= 1e-10


@pytest.mark.parametrize("momentum", [0.0, 0.5], ids=["scaled", "lazy"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, momentum):
    wide = sp.csr_array(sp.hstack([SPARSE, sp.csr_array((ROWS, 5000))]))
    problem = fl.logistic(wide, Y).standardized()
    plan = fl.Plan(problem, epochs=3, batch_size=1, optimizer=fl.SGD(lr=0.01, momentum=momentum, schedule="linear(to=0)"))
    whole = fl.train(problem, plan)

    def cut(entry):
        if entry["step"] >= 400:
            raise KeyError("a kill")

    every = fl.Save(tmp_path / "run", every=fl.steps(150))
    with pytest.raises(KeyError):
        fl.train(problem, plan, valid=fl.Validation((wide, Y), every=fl.steps(100)), save=every, resume=True, log=cut)
    run = fl.train(problem, plan, valid=fl.Validation((wide, Y), every=fl.steps(100)), save=every, resume=True)
    assert "resume" in {e["what"] for e in run.journal}
    assert np.array_equal(run.weights["coef"], whole.weights["coef"]) and np.array_equal(run.weights["intercept"], whole.weights["intercept"])


def test_the_finders_take_it():
    problem = fl.logistic(SPARSE, Y).standardized()
    plan = fl.Plan(problem, epochs=4, batch_size=8, optimizer=fl.SGD(lr=fl.auto))
    assert fl.find_lr(problem, plan).lr > 0
    assert fl.find_batch_size(problem, plan.with_lr(0.01)).batch_size >= 1
    assert plan.with_lr(0.01).stability(problem).safe_lr > 0


def test_fit_of_an_svmlight_file(tmp_path):
    run = fl.fit(svm(tmp_path / "t.svm"), epochs=5, options=fl.TableOptions(standardize=True))
    assert (run.predict(str(tmp_path / "t.svm")) == Y).mean() > 0.9
    assert np.array_equal(run.predict(str(tmp_path / "t.svm")), run.predict(SPARSE.astype(np.float32)))


def test_the_commands_have_a_flag(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = svm(tmp_path / "t.svm")
    app(["fit", data, "--standardize", "--epochs", "4", "--out", "run", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["headline"]["value"] > 0.8
    app(["predict", "run", data, "--out", "p.csv"], standalone_mode=False)
    assert (tmp_path / "p.csv").read_text().count("\n") == ROWS + 1


def test_hashed_columns_and_numbers_together():
    rows = {"user": [f"u{i % 40}" for i in range(400)], "age": [i * 37 % 91 for i in range(400)], "y": [int(i % 40 < 20) for i in range(400)]}
    options = fl.TableOptions(types={"user": "hash:2^12"}, standardize=True)
    made = fl.table(rows, target="y", options=options)
    problem = made.problem()
    assert problem.sparse and "standardized" in repr(problem) and np.abs(problem.scales()[np.flatnonzero(problem.scales())] - 1).max() < 1e-5


def test_a_table_that_goes_through_files_says_that_it_cannot(tmp_path):
    with pytest.raises(InvalidValue, match="standardize=True needs the rows in memory, and this table goes through files: leave it out, give a larger memory="):
        fl.table(svm(tmp_path / "t.svm"), options=fl.TableOptions(standardize=True, cache=str(tmp_path / "c")))


class TestEstimators:
    @pytest.fixture(autouse=True)
    def _sklearn(self):
        pytest.importorskip("sklearn")

    @pytest.mark.parametrize("words", [{}, {"batch_size": 16, "momentum": 0.9}, {"penalty": "l1", "alpha": 0.01}, {"average": True}, {"fit_intercept": False}], ids=str)
    def test_sparse_is_dense(self, words):
        from fallline.sklearn import GDClassifier

        a, b = (GDClassifier(loss="log_loss", scale="standard", max_iter=5, tol=None, random_state=0, **words).fit(data, Y) for data in (SPARSE, X))
        assert a.lr_ == pytest.approx(b.lr_, rel=1e-9) and np.abs((a.coef_ - b.coef_) * X.std(axis=0)).max() <= 1e-8
        assert np.abs(a.decision_function(SPARSE) - b.decision_function(X)).max() <= 1e-7

    def test_it_is_a_scaler_before_it(self):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from fallline.sklearn import GDRegressor

        words = {"max_iter": 20, "tol": None, "random_state": 0, "lr": 0.003, "schedule": "constant"}
        ours = GDRegressor(scale="standard", **words).fit(SPARSE, Z)
        there = make_pipeline(StandardScaler(), GDRegressor(scale=False, **words)).fit(X, Z)
        assert np.abs(ours.predict(SPARSE) - there.predict(X)).max() <= 1e-8

    def test_partial_fit_and_warm_starts(self):
        from fallline.sklearn import GDClassifier

        model = GDClassifier(loss="log_loss", scale="standard", warm_start=True, random_state=0).fit(SPARSE, Y)
        again = model.fit(SPARSE, Y).score(SPARSE, Y)
        assert again > 0.9
        assert model.partial_fit(SPARSE[:50], Y[:50]).score(SPARSE, Y) > 0.85

    def test_l1_in_many_columns_says_what_to_do(self):
        from fallline.sklearn import GDClassifier

        wide = sp.random_array((400, 100_000), density=1e-4, rng=np.random.default_rng(0), format="csr")
        with pytest.raises(NoClosedForm, match=r"an l1 threshold on sparse columns that are centred .* Here: scale=True, penalty='l2', or fit_intercept=False"):
            GDClassifier(penalty="l1", scale="standard").fit(wide, np.arange(400) % 2)
        GDClassifier(penalty="l1", scale="standard", fit_intercept=False, max_iter=2, tol=None).fit(wide, np.arange(400) % 2)
