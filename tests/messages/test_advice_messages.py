"""What the range test says when it is asked wrongly, or has no answer."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.errors import InvalidValue, NoLearningRate


@pytest.fixture(scope="module")
def problem():
    X = np.random.default_rng(0).standard_normal((100, 3))
    return fl.logistic(X, X[:, 0] > 0)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.1), (1e-3, 1e-3), (1e-3, float("inf")), (float("nan"), 1.0)])
def test_rates_that_make_no_range(problem, low, high):
    plan = fl.Plan(problem, epochs=2, optimizer=fl.SGD())
    with pytest.raises(InvalidValue, match="expected 0 < low < high"):
        fl.find_lr(problem, plan, low=low, high=high)


def test_no_sweep_at_all(problem):
    with pytest.raises(InvalidValue, match=r"sweeps=0.*at least 1"):
        fl.find_lr(problem, fl.Plan(problem, epochs=2, optimizer=fl.SGD()), sweeps=0)


def test_unscaled_columns_are_suspected():
    X = 1e8 * np.random.default_rng(0).standard_normal((100, 3))
    wild = fl.least_squares(X, X[:, 0])
    with np.errstate(all="ignore"):
        found = fl.find_lr(wild, fl.Plan(wild, epochs=20, batch_size=10, optimizer=fl.SGD(momentum=0.9)))
    with pytest.raises(NoLearningRate, match=r"start lower|column"):
        _ = found.lr


def test_a_rate_far_from_the_typical_ones_is_remarked(problem):
    small = fl.logistic(problem.X * 0.2, problem.target)
    found = fl.find_lr(small, fl.Plan(small, epochs=20, batch_size=32, optimizer=fl.SGD()))
    assert "typical rates for SGD are 0.01 to 0.1" in found.verdict


def test_a_flat_curve_says_from_where_to_where():
    flat = fl.least_squares(np.zeros((20, 2)), np.ones(20), intercept=False)
    found = fl.find_lr(flat, fl.Plan(flat, epochs=20, optimizer=fl.SGD()))
    with pytest.raises(NoLearningRate, match=r"never falls clearly: from 0\.5 to 0\.5"):
        _ = found.lr
