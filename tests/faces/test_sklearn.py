"""GDClassifier and GDRegressor as scikit-learn's users meet them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("sklearn")

import joblib
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, QuantileRegressor, SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fallline as fl
from fallline.sklearn import GDClassifier, GDRegressor
from fallline.sklearn.passes import threads_for


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X, y


def test_the_namespace_is_lazy_and_complete():
    assert fl.sklearn.GDClassifier is GDClassifier and "sklearn" in dir(fl)


def test_without_scikit_learn_the_extra_is_named():
    program = "import sys; sys.modules['sklearn'] = None\nimport fallline as fl\ntry:\n    fl.sklearn\nexcept fl.MissingExtra as e:\n    print(e)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "fallline.sklearn needs the package 'scikit-learn'" in said and "pip install 'fallline[sklearn]'" in said


@pytest.mark.parametrize(("ours", "theirs"), [(GDClassifier, SGDClassifier), (GDRegressor, SGDRegressor)])
def test_every_word_of_theirs_is_ours_with_the_same_default_or_names_its_successor(ours, theirs):
    mine, other = ours().get_params(), theirs().get_params()
    for name in other:
        if name in ("learning_rate", "eta0", "power_t"):
            with pytest.raises(TypeError, match=f"{ours.__name__} has no {name}=: .*(lr=|schedule=)"):
                ours(**{name: other[name]})
            with pytest.raises(ValueError, match=f"has no {name}=: "):
                ours().set_params(**{name: other[name]})
        else:
            assert mine[name] == other[name], name


def test_unscaled_columns_are_learnt_as_scaled_ones_are():
    X, y = load_wine(return_X_y=True)
    raw = cross_val_score(GDClassifier(loss="log_loss", random_state=0), X, y).mean()
    scaled = cross_val_score(make_pipeline(StandardScaler(), GDClassifier(loss="log_loss", random_state=0)), X, y).mean()
    assert raw > 0.95 and abs(raw - scaled) < 0.03
    far = np.random.default_rng(0).normal(100, 1, (300, 3))
    model = GDClassifier(random_state=0).fit(far, far[:, 0] > 100)
    assert model.score(far, far[:, 0] > 100) > 0.95
    assert np.abs(model.decision_function(far) - (far @ model.coef_[0] + model.intercept_)).max() < 1e-9  # in the user's units


def test_the_softmax_is_that_of_logistic_regression(digits):
    X, y = digits
    exact = LogisticRegression(C=1 / (1e-3 * len(y)), tol=1e-8, max_iter=3000).fit(X / 16, y)
    model = GDClassifier(loss="log_loss", alpha=1e-3, tol=1e-6, max_iter=400, random_state=0).fit(X / 16, y)
    loss = lambda m: -m.predict_log_proba(X / 16)[np.arange(len(y)), y].mean() + 5e-4 * (m.coef_**2).sum()
    assert loss(model) < 1.005 * loss(exact) and model.coef_.shape == (10, 64) and model.intercept_.shape == (10,)
    assert np.abs(model.predict_proba(X / 16).sum(axis=1) - 1).max() < 1e-12


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron", "squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"])
def test_every_loss_of_a_classifier_learns_two_classes_and_ten(loss, digits):
    X, y = digits
    for labels in (y >= 5, y):
        model = GDClassifier(loss=loss, random_state=0, max_iter=30, tol=None).fit(X, labels)
        flat = loss in ("huber", "epsilon_insensitive")  # of -1 and 1, where one class in ten is 1, they are content with -1
        assert model.score(X, labels) > (0.85 if labels is not y else 0.65 if flat else 0.89), loss
    assert hasattr(model, "predict_proba") == (loss in ("log_loss", "modified_huber"))


@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive", "quantile", "poisson"])
def test_every_loss_of_a_regressor_learns_in_any_unit(loss):
    X, y = load_diabetes(return_X_y=True, scaled=False)
    for unit in (1.0, 1e4):
        epsilon = 5.0 * unit if loss == "huber" else 0.1 * unit
        model = GDRegressor(loss=loss, epsilon=epsilon, alpha=1e-4 / unit, random_state=0).fit(X, y * unit)  # alpha has a unit too
        assert model.score(X, y * unit) > 0.45, (loss, unit)


def test_a_quantile_is_that_of_the_exact_solver():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((800, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.exponential(size=800)
    exact = QuantileRegressor(quantile=0.8, alpha=0, solver="highs").fit(X, y)
    model = GDRegressor(loss="quantile", quantile=0.8, alpha=0, tol=1e-5, random_state=0).fit(X, y)
    assert np.abs(model.coef_ - exact.coef_).max() < 0.05 and abs((y < model.predict(X)).mean() - 0.8) < 0.02


def test_l1_leaves_exact_zeros_and_the_penalty_is_as_asked():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    zeros = [(GDClassifier(loss="log_loss", penalty="l1", alpha=a, random_state=0).fit(X, y).coef_ == 0).sum() for a in (1e-4, 1e-2, 1e-1)]
    assert zeros == sorted(zeros) and zeros[-1] >= 20
    sparse = GDClassifier(penalty="l1", alpha=0.05, random_state=0).fit(X, y)
    scores = sparse.decision_function(X)
    assert sp.issparse(sparse.sparsify().coef_) and np.allclose(sparse.decision_function(X), scores)
    assert np.allclose(sparse.densify().decision_function(X), scores)


def test_the_same_random_state_is_the_same_fit(digits):
    X, y = digits
    one, two, three = (GDClassifier(random_state=s, max_iter=3, tol=None).fit(X, y) for s in (0, 0, 1))
    assert np.array_equal(one.coef_, two.coef_) and not np.array_equal(one.coef_, three.coef_)


def test_class_and_sample_weights():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (900, 2)), rng.normal(1.5, 1, (60, 2))])
    y = np.repeat([0, 1], [900, 60])
    plain, balanced = (GDClassifier(loss="log_loss", class_weight=w, random_state=0).fit(X, y) for w in (None, "balanced"))
    by_row = GDClassifier(loss="log_loss", random_state=0).fit(X, y, sample_weight=np.where(y, 960 / 120, 960 / 1800))
    recall = lambda m: m.predict(X[y == 1]).mean()
    assert recall(balanced) > recall(plain) + 0.2 and np.allclose(by_row.coef_, balanced.coef_, atol=1e-12)
    assert recall(GDClassifier(loss="log_loss", class_weight={1: 20}, random_state=0).fit(X, y)) > recall(plain)


def test_a_row_of_weight_zero_is_no_row_and_a_full_batch_takes_weight_for_number():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((60, 4)), rng.integers(0, 2, 60)
    weight = rng.integers(0, 4, 60)
    options = {"loss": "log_loss", "batch_size": "full", "lr": 0.5, "max_iter": 30, "tol": None, "schedule": "constant"}
    weighted = GDClassifier(**options).fit(X, y, sample_weight=weight)
    repeated = GDClassifier(**options).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert np.abs(weighted.coef_ - repeated.coef_).max() < 1e-12


def test_early_stopping_keeps_the_best_weights(digits):
    X, y = digits
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 10, len(y)), y)
    train, held = slice(0, 1200), slice(1200, None)
    model = GDClassifier(loss="log_loss", alpha=0, random_state=0).fit(X[train], noisy[train], X_val=X[held], y_val=y[held])
    assert len(model.validation_curve_) == len(model.loss_curve_) == model.n_iter_
    assert model.score(X[held], y[held]) == pytest.approx(max(model.validation_curve_), abs=1e-12)
    split = GDClassifier(loss="log_loss", early_stopping=True, validation_fraction=0.2, random_state=0).fit(X, y)
    assert split.score(X, y) > 0.93 and split.n_iter_ < 100
    refit = split.set_params(early_stopping=False).fit(X, y)
    assert not hasattr(refit, "validation_curve_")
    numbers = GDRegressor(early_stopping=True, random_state=0).fit(*load_diabetes(return_X_y=True, scaled=False))
    assert numbers.validation_curve_ and numbers.score(*load_diabetes(return_X_y=True, scaled=False)) > 0.4


def test_validation_data_is_routed_like_any_metadata(digits):
    X, y = digits
    with sklearn.config_context(enable_metadata_routing=True):
        model = GDClassifier(loss="log_loss", random_state=0).set_fit_request(X_val=True, y_val=True, sample_weight=False)
        pipe = make_pipeline(StandardScaler(), model).fit(X[:900], y[:900], X_val=X[900:], y_val=y[900:])
    assert pipe[-1].validation_curve_


def test_warm_start_goes_on_and_init_is_taken(digits):
    X, y = digits
    model = GDClassifier(loss="log_loss", random_state=0, max_iter=2, tol=None, warm_start=True, lr=0.01)
    first = model.fit(X, y).loss_curve_[-1]
    assert model.fit(X, y).loss_curve_[0] < first
    given = GDClassifier(loss="log_loss", random_state=0, max_iter=1, tol=None, lr=1e-12).fit(X, y, coef_init=model.coef_, intercept_init=model.intercept_)
    assert np.allclose(given.coef_, model.coef_, atol=1e-6) and np.allclose(given.intercept_, model.intercept_, atol=1e-6)
    two = GDClassifier(lr=1e-12, max_iter=1, tol=None).fit(X, y > 4, coef_init=np.ones(64), intercept_init=[2.0])
    assert np.allclose(two.coef_, 1, atol=1e-6) and np.allclose(two.intercept_, 2, atol=1e-6)


def test_average_momentum_schedule_and_batches(digits):
    X, y = digits
    for options in ({"average": True}, {"average": 1000}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"schedule": "warmup(5%) > cosine", "max_iter": 15}, {"batch_size": 16}, {"batch_size": "full", "momentum": 0.9, "max_iter": 200}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = GDClassifier(loss="log_loss", random_state=0, **options).fit(X, y)
        assert model.score(X, y) > 0.93, options
    assert len(GDClassifier(loss="log_loss", random_state=0, max_iter=7, schedule="linear").fit(X, y).loss_curve_) == 7


def test_one_thread_in_a_worker_and_a_grid_search_on_text():
    texts = [f"good great fine {w}" for w in ("film", "book", "song") * 20] + [f"bad poor dull {w}" for w in ("film", "book", "song") * 20]
    y = [1] * 60 + [0] * 60
    pipe = make_pipeline(TfidfVectorizer(), GDClassifier(loss="log_loss", alpha=1e-5))
    search = GridSearchCV(pipe, {"gdclassifier__alpha": [1e-6, 1e-5, 1e-4]}, n_jobs=-1).fit(texts, y)
    assert search.best_score_ == 1 and search.predict(["a great film"]) == [1]
    assert set(joblib.Parallel(2)(joblib.delayed(threads_for)(n) for n in (None, 4, -1))) == {1}
    assert set(joblib.Parallel(2, backend="threading")(joblib.delayed(threads_for)(n) for n in (None, 4))) == {1}
    assert threads_for(2) == 2 and threads_for(None) is None


def test_pickle_joblib_and_clone(tmp_path, digits):
    X, y = digits
    model = GDClassifier(loss="log_loss", random_state=0, max_iter=3, tol=None).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    for other in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib"), joblib.load(tmp_path / "model.joblib", mmap_mode="r")):
        assert np.array_equal(other.predict_proba(X), model.predict_proba(X))
        other.partial_fit(X[:100], y[:100])  # from a read-only map too
    assert clone(model).get_params() == model.get_params() and not hasattr(clone(model), "coef_")
    assert "GDClassifier" in model._repr_html_()


def test_frames_bring_names():
    pd = pytest.importorskip("pandas")
    X, y = load_wine(return_X_y=True, as_frame=True)
    model = GDClassifier(loss="log_loss", random_state=0).fit(X, y)
    assert list(model.feature_names_in_) == list(X.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[X.columns[::-1]])
    assert isinstance(X, pd.DataFrame)


def test_callbacks_see_each_pass(digits):
    pytest.importorskip("sklearn.callback", reason="callbacks are of scikit-learn 1.9")
    seen = []

    class Seen:
        def setup(self, estimator, context):
            seen.append("setup")

        def teardown(self, estimator, context):
            seen.append("teardown")

        def on_fit_task_begin(self, estimator, context, *, X=None):
            seen.append(("begin", context.task_name))

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            seen.append(("end", context.task_name, fitted_estimator.score(*digits)))
            return context.task_name == "pass" and context.task_id == 2

    model = GDClassifier(loss="log_loss", random_state=0).set_callbacks(Seen()).fit(*digits)
    assert model.n_iter_ == 3 and seen[0] == "setup" and seen[-1] == "teardown"
    ends = [s for s in seen if s[0] == "end"]
    assert [e[1] for e in ends] == ["pass"] * 3 + ["fit"] and ends[-1][2] == model.score(*digits) and ends[0][2] > 0.7


def test_verbose_prints_a_line_for_each_pass(capsys, digits):
    GDClassifier(random_state=0, max_iter=2, tol=None, verbose=1).fit(*digits)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["-- Epoch 1", "-- Epoch 2"]


def test_float32_stays_float32_and_wide_sparse_columns_work(digits):
    X, y = digits
    model = GDClassifier(random_state=0, max_iter=2, tol=None).fit(X.astype(np.float32), y)
    assert model.coef_.dtype == np.float32 and model.decision_function(X[:2].astype(np.float32)).dtype == np.float32
    wide = sp.csr_array((X[:, :3].ravel(), np.tile([0, 5, 99_999], len(X)), np.arange(len(X) + 1) * 3), shape=(len(X), 100_000))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert GDClassifier(random_state=0, max_iter=2, tol=None).fit(wide, y > 4).coef_.shape == (1, 100_000)


def test_a_fit_that_has_not_ended_says_so(digits):
    with pytest.warns(ConvergenceWarning, match="Maximum number of iteration reached before convergence: give a larger max_iter than 2"):
        GDClassifier(random_state=0, max_iter=2).fit(*digits)
