"""Sparse rows of many columns: the descent sees those that occur, the most frequent first, and the fit is the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from fallline.sklearn import GDClassifier, kept
from fallline.sklearn.kept import Kept

FEATURES = 40_000


def texts(seed: int, kind=np.float64):
    r = np.random.default_rng(seed)
    rows, words = 300, 20
    columns = (r.zipf(1.3, rows * words) % 900) * 43 % FEATURES
    X = sp.csr_array((r.random(rows * words).astype(kind), columns.astype(np.int32), np.arange(0, rows * words + 1, words)), shape=(rows, FEATURES))
    X.sum_duplicates()
    z = X @ r.standard_normal(FEATURES) + 0.1 * r.standard_normal(rows)
    return X, z - np.median(z)


def fits(make, X, y, monkeypatch, **of_fit):
    """With the columns as they are, and with those that occur."""
    ends = []
    for worth in (1 << 60, 0):
        monkeypatch.setattr(kept, "WORTH", worth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few passes
            ends.append(make().fit(X, y, **of_fit))
    return ends


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [{}, {"penalty": "l1", "alpha": 1e-4}, {"penalty": "elasticnet"}, {"penalty": None}, {"scale": False}], ids=str)
def test_single_rows_give_the_same_bits(rule, kind, monkeypatch):
    X, z = texts(0, kind)
    plain, seen = fits(lambda: GDClassifier(loss="log_loss", max_iter=5, random_state=0, **rule), X, z > 0, monkeypatch)
    assert plain.lr_ == seen.lr_
    assert plain.coef_.shape == seen.coef_.shape == (1, FEATURES)
    assert seen.coef_.any()
    assert np.array_equal(plain.intercept_, seen.intercept_)
    assert np.array_equal(plain.coef_, seen.coef_)
    assert not seen.coef_[0, np.bincount(X.indices, minlength=FEATURES) == 0].any()


@pytest.mark.parametrize("rule", [{"momentum": 0.9}, {"average": True}, {"batch_size": 32}, {"batch_size": "full"}, {"early_stopping": True}, {"schedule": "cosine"}], ids=str)
def test_every_rule_gives_the_same_fit(rule, monkeypatch):
    X, z = texts(1)
    plain, seen = fits(lambda: GDClassifier("log_loss", max_iter=4, random_state=0, **rule), X, np.digitize(z, [-0.5, 0.5]), monkeypatch)
    assert np.allclose(plain.coef_, seen.coef_, rtol=0, atol=1e-9 * np.abs(plain.coef_).max())
    assert np.allclose(plain.loss_curve_, seen.loss_curve_, rtol=1e-9)


def test_a_weight_of_a_column_that_does_not_occur_is_kept_and_shrinks(monkeypatch):
    X, z = texts(2)
    absent = int(np.flatnonzero(np.bincount(X.indices, minlength=FEATURES) == 0)[7])
    start = np.zeros((1, FEATURES))
    start[0, absent] = 1.0
    plain, seen = fits(lambda: GDClassifier(loss="log_loss", alpha=0.01, lr=0.1, max_iter=3, random_state=0), X, z > 0, monkeypatch, coef_init=start)
    assert 0 < seen.coef_[0, absent] < 0.9
    assert np.allclose(plain.coef_, seen.coef_, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_columns_are_numbered_by_how_often_they_occur(rows, features, seed):
    r = np.random.default_rng(seed)
    X = sp.csr_array(r.standard_normal((rows, features)) * (r.random((rows, features)) < r.random(features) ** 2))
    start = np.zeros((features, 2))
    start[r.integers(features), 1] = r.integers(2)
    before, kept.WORTH = kept.WORTH, 0
    try:
        chosen, seen = Kept.of(X, start)
    finally:
        kept.WORTH = before
    counts = np.bincount(X.indices, minlength=features)
    assert sorted(chosen.columns.tolist()) == np.flatnonzero((counts > 0) | start.any(axis=1)).tolist()
    assert (np.diff([int(c).bit_length() for c in counts[chosen.columns]]) <= 0).all()
    assert np.array_equal(seen.toarray(), X.toarray()[:, chosen.columns])
    coef = r.standard_normal((len(chosen.columns), 2))
    assert np.array_equal(chosen.inside(chosen.outside(coef)), coef)
    assert np.array_equal(chosen.outside(coef)[chosen.columns], coef)


def test_few_columns_and_dense_rows_are_left_alone():
    X, _ = texts(3)
    few, dense = X[:, :1000].tocsr(), X[:, :50].toarray()
    for rows in (few, dense):
        chosen, seen = Kept.of(rows, np.zeros((rows.shape[1], 1)))
        assert chosen.columns is None
        assert seen is rows
