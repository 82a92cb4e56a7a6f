"""`partial_fit`: rows as they come, one at a time or many, classes that appear later."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("sklearn")

from sklearn.base import clone

import fallline as fl
from fallline.sklearn import GDClassifier, GDRegressor


def stream(n: int = 600, d: int = 6, classes: int = 2, seed: int = 0):
    r = np.random.default_rng(seed)
    X = r.standard_normal((n, d))
    z = X @ r.standard_normal((d, max(classes, 2)))
    return X, z.argmax(axis=1) if classes > 2 else (z[:, 0] > 0).astype(int)


def weights(model) -> np.ndarray:
    return np.append(model.coef_.reshape(-1), model.intercept_)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "log_loss"}, {"loss": "hinge"}, {"loss": "squared_error"}, {"loss": "perceptron", "penalty": "l1"}, {"loss": "modified_huber", "lr": 0.01, "momentum": 0.5},
        {"loss": "log_loss", "lr": 0.05}, {"loss": "log_loss", "lr": 0.5, "schedule": "inverse_scaling(0.5)"}, {"loss": "hinge", "lr": 0.05, "average": True},
        {"loss": "log_loss", "fit_intercept": False}, {"loss": "log_loss", "scale": False}, {"loss": "squared_hinge", "penalty": "elasticnet", "alpha": 0.01},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("classes", [2, 4])
def test_n_rows_are_n_calls(options, classes):
    X, y = stream(300, classes=classes)
    one, many = GDClassifier(**options), GDClassifier(**options)
    one.partial_fit(X[:1], y[:1], classes=range(classes))
    for i in range(1, 300):
        one.partial_fit(X[i : i + 1], y[i : i + 1])
    many.partial_fit(X[:120], y[:120], classes=range(classes)).partial_fit(X[120:], y[120:])
    far = np.abs(weights(one) - weights(many)).max()
    assert far < 1e-10 * max(1, np.abs(weights(many)).max()) if "lr" in options else far == 0  # safe steps: bit for bit
    assert one.score(X, y) > (0.8 if classes == 2 else 0.55) and one.t_ == many.t_ == 301


def test_n_rows_are_n_calls_of_a_regressor():
    X, _ = stream(400)
    for loss, y in (("squared_error", X @ np.arange(6.0) + 3), ("quantile", 1e3 * X[:, 0]), ("huber", X[:, 0]), ("poisson", np.round(np.exp(X[:, 0])))):
        one, many = GDRegressor(loss=loss), GDRegressor(loss=loss).partial_fit(X, y)
        for i in range(400):
            one.partial_fit(X[i : i + 1], y[i : i + 1])
        assert np.abs(weights(one) - weights(many)).max() < 1e-9 * max(1, np.abs(weights(many)).max()), loss
        assert many.score(X, y) > 0.5, loss


def test_a_quick_call_sees_everything_that_changes():
    X, y = stream()
    model = GDClassifier(loss="log_loss").partial_fit(X[:50], y[:50])
    before = model.coef_.copy()
    model.set_params(lr=1e-12).partial_fit(X[:1], y[:1])
    assert np.abs(model.coef_ - before).max() < 1e-9  # the new rate counts at once
    model.coef_ = np.full((1, 6), 2.0)  # and so do weights of the user's own
    assert np.abs(model.partial_fit(X[:1], y[:1]).coef_ - 2).max() < 1e-9
    for bad, error in ((X[:1, :5], "X has 5 features"), (np.full((1, 6), np.nan), "NaN"), (np.full((1, 6), np.inf), "infinity")):
        with pytest.raises(ValueError, match=error):
            model.partial_fit(bad, y[:1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.partial_fit(X[:1], y[:2])


@pytest.mark.parametrize("options", [{}, {"lr": 0.02, "momentum": 0.5}], ids=str)
def test_pickled_streams_go_on_alike(options):
    X, y = stream(classes=3)
    model = GDClassifier(loss="log_loss", **options).partial_fit(X[:100], y[:100])
    other = pickle.loads(pickle.dumps(model))
    for i in range(100, 200):
        model.partial_fit(X[i : i + 1], y[i : i + 1])
    other.partial_fit(X[100:200], y[100:200])
    assert np.abs(weights(model) - weights(other)).max() < 1e-10


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_classes_that_appear_later(loss):
    X, y = stream(900, classes=4)
    names = np.array(["d", "b", "a", "c"])[y]
    model = GDClassifier(loss=loss)
    model.partial_fit(X[names == "d"][:1], ["d"])  # one class: nothing to learn yet
    assert (model.coef_ == 0).all() and model.predict(X[:3]).tolist() == ["d"] * 3
    two = np.isin(names, ["d", "b"])
    model.partial_fit(X[two], names[two])
    assert model.coef_.shape == (1, 6)
    before = model.decision_function(X)
    kept = clone(model)
    kept.__dict__.update(pickle.loads(pickle.dumps(model)).__dict__)
    row = X[names == "a"][:1]
    kept.set_params(lr=1e-15).partial_fit(row, ["a"])  # a step of no length shows what a new column is
    assert kept.classes_.tolist() == ["a", "b", "d"] and kept.coef_.shape == (3, 6) and np.abs(kept.coef_[0]).max() < 1e-12
    after = kept.decision_function(X)
    if loss == "log_loss":
        ours = kept.predict_proba(X)[:, 1:]
        assert np.allclose(ours[:, 1] / ours.sum(axis=1), 1 / (1 + np.exp(-before)), atol=1e-9)
    else:
        assert np.allclose(after[:, 2], before, atol=1e-9) and np.allclose(after[:, 1], -before, atol=1e-9)
    for _ in range(3):
        model.partial_fit(X, names)
    assert model.classes_.tolist() == ["a", "b", "c", "d"] and model.score(X, names) > 0.75


def test_declared_classes_are_held_to():
    X, y = stream(classes=3)
    model = GDClassifier().partial_fit(X[:9], y[:9] % 2, classes=[0, 1, 2])
    assert model.coef_.shape == (3, 6)
    with pytest.raises(ValueError, match=r"y holds \[7\], not among classes=\[0, 1, 2\]: declare them too"):
        model.partial_fit(X[:1], [7], classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"classes=\[0, 1\] lacks \[2\], known from the calls before"):
        model.partial_fit(X[:1], [1], classes=[0, 1])
    with pytest.raises(ValueError, match="give labels of one kind"):
        model.partial_fit(X[:1], ["0"])
    assert model.partial_fit(X[:1], [7], classes=[0, 1, 2, 7]).classes_.tolist() == [0, 1, 2, 7]


def test_fit_then_partial_fit_and_back():
    X, y = stream(classes=3)
    model = GDClassifier(loss="log_loss", random_state=0).fit(X, y)
    good = model.score(X, y)
    assert model.partial_fit(X[:50], y[:50]).score(X, y) > good - 0.1
    assert np.array_equal(model.fit(X, y).coef_, GDClassifier(loss="log_loss", random_state=0).fit(X, y).coef_)


def test_sparse_and_dense_calls_may_alternate():
    X, y = stream(classes=3)
    mixed, plain = GDClassifier(loss="log_loss"), GDClassifier(loss="log_loss")
    for a in range(0, 300, 50):
        part = X[a : a + 50]
        mixed.partial_fit(sp.csr_array(part) if a % 100 else part, y[a : a + 50], classes=[0, 1, 2])
        plain.partial_fit(part, y[a : a + 50], classes=[0, 1, 2])
    assert np.abs(weights(mixed) - weights(plain)).max() < 1e-10


def test_weights_of_rows_and_classes():
    X, y = stream()
    twice = GDClassifier(loss="log_loss", lr=0.01).partial_fit(X, y, sample_weight=np.full(len(y), 2.0))
    faster = GDClassifier(loss="log_loss", lr=0.02, alpha=5e-5).partial_fit(X, y)
    assert np.abs(twice.coef_ - faster.coef_).max() < 1e-12
    by_class = GDClassifier(loss="log_loss", class_weight={1: 3.0}).partial_fit(X, y, classes=[0, 1])
    plain = GDClassifier(loss="log_loss").partial_fit(X, y, classes=[0, 1])
    assert by_class.predict(X).mean() > plain.predict(X).mean()
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported for partial_fit"):
        GDClassifier(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="early_stopping should be False with partial_fit"):
        GDClassifier(early_stopping=True).partial_fit(X, y)


@pytest.mark.parametrize("momentum", [{"momentum": 0.9}, {"average": True}, {"schedule": "cosine"}], ids=str)
def test_safe_steps_refuse_what_they_do_not_have(momentum):
    (name, value), (X, y) = *momentum.items(), stream()
    with pytest.raises(ValueError) as caught:
        GDClassifier(**momentum).partial_fit(X, y)
    assert str(caught.value) == (
        f"partial_fit with lr='auto' and {name}={value!r}: it makes safe steps, one for each row, which have no {name}; "
        f"give a learning rate, such as lr=0.01, or leave {name} out"
    )


def test_safe_steps_are_those_of_online():
    X, y = stream()
    X = X * [1e-3, 1.0, 1e6, 1.0, 1.0, 1.0] + [0, 0, 0, 40, 0, 0]
    model, other = GDClassifier(loss="log_loss", alpha=0.01).partial_fit(X, y), fl.online("logistic", features=6, weight_decay=0.01)
    other.learn_many(X, y)
    assert np.array_equal(model.coef_[0], other.coef) and model.intercept_[0] == other.intercept
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron"])
@pytest.mark.parametrize("classes", [2, 4])
def test_units_of_columns_change_no_prediction(loss, classes):
    X, y = stream(classes=classes)
    scale, shift = np.array([1e-9, 1.0, 1e9, 1e3, 1.0, 7.0]), [0, 0, 0, 1e4, 0, 0]
    plain, other = GDClassifier(loss=loss).partial_fit(X, y), GDClassifier(loss=loss).partial_fit(X * scale + shift, y)
    assert (plain.predict(X) == other.predict(X * scale + shift)).mean() > 0.999 and plain.score(X, y) > 0.8


def test_wide_sparse_rows_make_safe_steps_too():
    r = np.random.default_rng(0)
    X = sp.random_array((1500, 5000), density=0.004, rng=r, format="csr")
    X.data[:] = r.choice([1.0, 1e4], 5000)[X.indices]
    y = (X @ np.where(X.max(axis=0).toarray().ravel() > 1, 1e-4, 1.0) * 1.0 > np.median(np.asarray((X > 0).sum(axis=1)))).astype(int)
    one, many = GDClassifier(loss="log_loss", penalty="elasticnet"), GDClassifier(loss="log_loss", penalty="elasticnet")
    many.partial_fit(X, y, classes=[0, 1])
    one.partial_fit(X[:1], y[:1], classes=[0, 1])
    for i in range(1, 1500):
        one.partial_fit(X[[i]] if i % 2 else X[[i]].toarray(), y[i : i + 1])  # a stream keeps the view of its first rows
    assert np.array_equal(one.coef_, many.coef_) and many.coef_.shape == (1, 5000) and np.isfinite(many.coef_).all()
    assert many.score(X, y) > 0.8


def test_a_stream_goes_on_from_a_fit_and_from_weights_of_ones_own():
    X, y = stream(2000)
    model = GDClassifier(loss="log_loss", random_state=0).fit(X[:1500], y[:1500])
    kept, passes = model.coef_.copy(), model.n_iter_
    model.partial_fit(X[1500:1501], y[1500:1501])
    assert 0 < np.abs(model.coef_ - kept).max() + abs(model.intercept_[0]) and np.abs(model.coef_ - kept).max() < 0.05 * np.abs(kept).max()
    assert model.t_ == 2 + 1500 * passes
    before = model.coef_.copy()
    with pytest.raises(ValueError, match="read-only"):
        model.coef_[0, 0] = 5.0  # would be lost
    model.coef_ = 2 * before
    model.partial_fit(X[1501:1502], y[1501:1502])
    assert np.abs(model.coef_ - 2 * before).max() < 0.1 * np.abs(before).max()
    model.sparsify()
    with pytest.raises(ValueError, match=r"call densify\(\) before partial_fit"):
        model.partial_fit(X[:1], y[:1])
    assert model.densify().partial_fit(X[:1], y[:1]).coef_.shape == (1, 6)
    assert not hasattr(GDClassifier(), "coef_")


def test_new_words_in_mid_stream_keep_what_is_known_of_the_columns():
    X, y = stream()
    X = X * 1e6 + 5e6
    model = GDClassifier(loss="log_loss").partial_fit(X[:500], y[:500])
    before = model.coef_.copy()
    model.set_params(alpha=0.01).partial_fit(X[500:501], y[500:501])
    assert np.abs(model.coef_ - before).max() < 0.2 * np.abs(before).max()


def test_streams_mapped_from_disk_go_on(tmp_path):
    import joblib

    X, y = stream()
    model = GDClassifier(loss="log_loss").partial_fit(X[:300], y[:300])
    joblib.dump(model, tmp_path / "model.joblib")
    other = joblib.load(tmp_path / "model.joblib", mmap_mode="r").partial_fit(X[300:], y[300:])
    assert np.array_equal(other.coef_, model.partial_fit(X[300:], y[300:]).coef_)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive", "quantile", "poisson"])
def test_a_regressor_s_rows_may_be_huge(loss):
    X, _ = stream()
    y = np.abs(X @ np.arange(6.0)) + 1
    X = X * [1e-3, 1.0, 1e6, 1.0, 1.0, 1.0]
    model = GDRegressor(loss=loss).partial_fit(X, y)
    model.partial_fit(X[:1] * 1e9, y[:1] * (1 if loss == "poisson" else 1e9))
    assert np.isfinite(model.coef_).all() and np.isfinite(model.intercept_).all()


def test_huge_and_unscaled_rows_do_not_diverge():
    X, y = stream()
    X = X * [1e-3, 1.0, 1e6, 1.0, 1.0, 1.0]
    model = GDClassifier(loss="log_loss").partial_fit(X, y)
    assert np.isfinite(model.coef_).all()
    model.partial_fit(X[:1] * 1e9, y[:1])
    assert np.isfinite(model.coef_).all()
