"""`partial_fit`: rows as they come, one at a time or many, classes that appear later."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("sklearn")

from sklearn.base import clone

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
        {"loss": "log_loss"}, {"loss": "hinge"}, {"loss": "squared_error"}, {"loss": "perceptron", "penalty": "l1"}, {"loss": "modified_huber", "momentum": 0.5},
        {"loss": "log_loss", "lr": 0.05}, {"loss": "log_loss", "lr": 0.5, "schedule": "inverse_scaling(0.5)"}, {"loss": "hinge", "average": True},
        {"loss": "log_loss", "fit_intercept": False},
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
    assert np.abs(weights(one) - weights(many)).max() < 1e-10 * max(1, np.abs(weights(many)).max())
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


def test_pickled_streams_go_on_alike():
    X, y = stream(classes=3)
    model = GDClassifier(loss="log_loss", momentum=0.5).partial_fit(X[:100], y[:100])
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


def test_huge_and_unscaled_rows_do_not_diverge():
    X, y = stream()
    X = X * [1e-3, 1.0, 1e6, 1.0, 1.0, 1.0]
    model = GDClassifier(loss="log_loss").partial_fit(X, y)
    assert np.isfinite(model.coef_).all()
    model.partial_fit(X[:1] * 1e9, y[:1])
    assert np.isfinite(model.coef_).all()
