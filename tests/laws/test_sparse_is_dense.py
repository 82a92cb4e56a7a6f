"""The same rows, dense and sparse, give the same fit to rounding: 20 random problems, over every loss and every rule."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("sklearn")

from fallline.sklearn import GDClassifier, GDRegressor
from fallline.sklearn.words import NUMBERS, OF_REGRESSORS, TWO_CLASSES

RULES = (
    {}, {"penalty": "l1", "alpha": 1e-3}, {"penalty": "elasticnet", "alpha": 1e-3, "l1_ratio": 0.5}, {"penalty": None},
    {"average": True}, {"average": 50}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "batch_size": 8}, {"batch_size": 8, "penalty": "l1"},
    {"batch_size": "full", "momentum": 0.5}, {"schedule": "cosine"}, {"fit_intercept": False}, {"shuffle": False, "scale": False},
)  # fmt: skip
LOSSES = [(GDClassifier, loss) for loss in (*TWO_CLASSES, *NUMBERS)] + [(GDRegressor, loss) for loss in OF_REGRESSORS]


def rows(seed: int):
    r = np.random.default_rng(seed)
    n, d = int(r.integers(60, 160)), int(r.integers(4, 40))
    X = r.standard_normal((n, d)) * (r.random((n, d)) < r.uniform(0.1, 0.6)) * r.choice([0.3, 1.0, 20.0], d)
    X[:, 0] = 100 + r.standard_normal(n)  # far from 0, and without a zero
    z = X[:, 1:] @ (r.standard_normal(d - 1) / (1e-3 + np.abs(X[:, 1:]).max(axis=0))) + 0.1 * r.standard_normal(n)
    return X, z


@pytest.mark.parametrize("seed", range(20))
def test_sparse_is_dense(seed):
    X, z = rows(seed)
    for k, (kind, loss) in enumerate(LOSSES):
        rule = RULES[(seed + k) % len(RULES)]
        y = np.round(np.exp(z)) if loss == "poisson" else z
        if kind is GDClassifier:
            y = np.digitize(z, [0.0] if (seed + k) % 2 else np.quantile(z, [0.3, 0.6]))
        ends = []
        seen = X if rule.get("scale", True) else X[:, 1:] / 20  # without scaling, the column at 100 makes roundings grow
        for data in (seen, sp.csr_array(seen), sp.csc_matrix(seen)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # four passes are not enough, and need not be
                model = kind(loss=loss, max_iter=4, random_state=seed, **rule).fit(data, y)
            ends.append(np.append(model.coef_.reshape(-1), model.intercept_))
        for other in ends[1:]:
            assert np.abs(ends[0] - other).max() <= 1e-7 * max(1.0, np.abs(ends[0]).max()), (kind, loss, rule)


@pytest.mark.parametrize("rule", [{}, {"penalty": "l1"}, {"lr": 0.05, "average": True}, {"lr": 0.05, "momentum": 0.9}, {"lr": 0.05, "penalty": "l1"}], ids=str)
def test_partial_fit_of_sparse_rows_is_that_of_dense_ones(rule):
    X, z = rows(3)
    y = (z > 0).astype(int)
    ends = []
    for data in (X, sp.csr_array(X)):
        model = GDClassifier(loss="log_loss", **rule)
        for a in range(0, len(y), 17):
            model.partial_fit(data[a : a + 17], y[a : a + 17], classes=[0, 1])
        ends.append(np.append(model.coef_, model.intercept_))
    assert np.abs(ends[0] - ends[1]).max() <= 1e-10 * max(1.0, np.abs(ends[0]).max())


@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-9), (np.float32, 2e-3)])
def test_thresholds_on_sparse_rows_stay_exact_over_many_steps(dtype, within):
    """What weights have paid lies on top of them, and is taken off every 16,384 steps: the reference is the law on dense rows, in float64."""
    r = np.random.default_rng(5)
    X = r.standard_normal((500, 40)) * (r.random((500, 40)) < 0.1)
    X[:, 30:] *= r.random((500, 10)) < 0.02  # columns that are hardly ever met
    y = (X[:, :8].sum(axis=1) + 0.3 * r.standard_normal(500) > 0).astype(int)
    X = X.astype(np.float32)
    ends = []
    for data in (X.astype(np.float64), sp.csr_array(X.astype(dtype))):
        model = GDClassifier(loss="log_loss", penalty="elasticnet", alpha=2e-3, l1_ratio=0.8, max_iter=80, tol=None, lr=0.02, random_state=0, schedule="constant")
        ends.append(model.fit(data, y).coef_[0])
    assert np.abs(ends[0] - ends[1]).max() <= within * np.abs(ends[0]).max()
    assert np.array_equal(ends[0] == 0, ends[1] == 0)
    assert 0 < (ends[0] == 0).sum() < 40
