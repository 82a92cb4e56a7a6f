"""Laws of the range test: how a curve is read, what scaling does, and that a probe leaves no trace."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest

import fallline as fl
from fallline.advice.reading import decades, read, smooth

LR = decades(1e-7, 1e2, 12)


def s_curve(lr: np.ndarray, middle: float, edge: float, start: float = 2.0, fall: float = 1.5) -> np.ndarray:
    """A loss that falls around `middle` and explodes at `edge`."""
    return start - fall / (1 + (middle / lr) ** 2) + start * (lr / edge) ** 3


def data(rows: int = 300, features: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    return X, X[:, 0] + 0.3 * rng.standard_normal(rows)


@pytest.fixture(scope="module")
def problem():
    X, z = data()
    return fl.logistic(X, z > 0)


@pytest.mark.parametrize("count", [1e-7, 3e-4])
def test_rates_are_the_chapters_exponential_sweep(count):
    rates = decades(count, 1.0, 12)
    n = len(rates)
    np.testing.assert_allclose(rates, count * (1.0 / count) ** (np.arange(n) / (n - 1)), rtol=1e-12)


def test_smoothing_has_no_lag():
    """The middle of a step stays where it is; a one-sided average would move it towards larger rates."""
    step = np.where(LR < 1e-2, 1.0, 0.0)
    curve = smooth(LR, step)
    crossing = LR[np.flatnonzero(curve <= 0.5)[0]]
    assert abs(np.log10(crossing / 1e-2)) < 1.5 / 12
    np.testing.assert_allclose(curve + smooth(LR, 1 - step), 1.0)


def test_smoothing_leaves_out_what_is_not_finite():
    values = np.full(len(LR), 3.0)
    values[[4, 40]] = np.nan, np.inf
    np.testing.assert_allclose(smooth(LR, values), 3.0)


@pytest.mark.parametrize("middle", [1e-4, 1e-2])
def test_the_steepest_point_is_that_of_the_law(middle):
    found = read(LR, s_curve(LR, middle, 1e3 * middle))
    assert abs(np.log10(found.steepest / middle)) < 0.15
    assert found.steepest < found.lr < found.turn < found.edge


@pytest.mark.parametrize("c", [1e-3, 7.0, 1e4])
def test_scaling_the_loss_leaves_the_choice(c):
    """The reading depends on the shape of the curve alone."""
    y = s_curve(LR, 1e-3, 1.0)
    assert read(LR, c * y).lr == pytest.approx(read(LR, y).lr, rel=1e-9)


@pytest.mark.parametrize("c", [1e-2, 1e3])
def test_scaling_the_rates_scales_the_choice(c):
    y = s_curve(LR, 1e-3, 1.0)
    assert read(c * LR, y).lr == pytest.approx(c * read(LR, y).lr, rel=1e-9)


def test_more_range_below_moves_the_choice_little():
    wide = decades(1e-9, 1e2, 12)
    a, b = read(LR, s_curve(LR, 1e-3, 1.0)).lr, read(wide, s_curve(wide, 1e-3, 1.0)).lr
    assert a == pytest.approx(b, rel=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_noise_moves_the_choice_less_than_a_factor_of_three(seed):
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(LR))
    clean, noisy = read(LR, s_curve(LR, 1e-3, 1.0)), read(LR, s_curve(LR, 1e-3, 1.0) + noise)
    assert abs(np.log(noisy.lr / clean.lr)) < np.log(3)


def test_no_choice_lies_at_or_above_the_explosion():
    for middle in (1e-4, 1e-2, 1.0):
        for ratio in (3.0, 30.0, 3000.0):
            found = read(LR, s_curve(LR, middle, ratio * middle))
            assert found.lr is None or found.edge is None or found.lr <= found.edge / 4 * 1.001


UNUSABLE = {
    "flat": np.full(len(LR), 2.0),
    "zero": np.zeros(len(LR)),
    "only rises": 2.0 + LR,
    "all NaN": np.full(len(LR), np.nan),
    "all infinite": np.full(len(LR), np.inf),
    "noise": 2.0 + 0.3 * np.random.default_rng(1).standard_normal(len(LR)),
    "diverged at once": np.where(np.arange(len(LR)) < 3, 2.0, np.nan),
    "explodes at once": np.where(np.arange(len(LR)) < 3, 2.0, 1e12),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_useless_curve_is_refused_in_words(name):
    found = read(LR, UNUSABLE[name])
    assert found.lr is None
    assert len(found.verdict) > 20


def test_a_nan_at_the_end_is_where_it_broke_off():
    y = s_curve(LR, 1e-3, 1e9)
    broken = np.where(LR < 1.0, y, np.nan)
    assert read(LR, broken).edge == pytest.approx(LR[LR >= 1.0][0])


def test_scaling_the_columns_and_the_range_scales_the_suggestion_exactly():
    """Columns times 2, and rates by 1/4: the same descent in other units. Powers of two keep every bit."""
    X, y = data()
    ask = lambda q, low, high: fl.find_lr(q, fl.Plan(q, epochs=20, batch_size=32, optimizer=fl.SGD(momentum=0.9)), low=low, high=high).lr
    plain = fl.least_squares(X, y, intercept=False)
    doubled = fl.least_squares(2 * X, y, intercept=False)
    assert ask(doubled, 2.0**-22, 0.25) == pytest.approx(ask(plain, 2.0**-20, 1.0) / 4, rel=1e-6)


def test_scaling_the_targets_leaves_the_suggestion(problem):
    """Least squares with targets times c: every loss times c*c, every step times c, the same stable rates."""
    X, y = data()
    plans = [(q, fl.Plan(q, epochs=20, batch_size=32, optimizer=fl.SGD(momentum=0.9))) for q in (fl.least_squares(X, y), fl.least_squares(X, 4 * y))]
    a, b = (fl.find_lr(q, p).lr for q, p in plans)
    assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("optimizer", [fl.SGD(), fl.SGD(momentum=0.9, weight_decay=1e-4), fl.Adam()], ids=["sgd", "momentum", "adam"])
def test_a_probe_leaves_no_trace(problem, optimizer):
    """Problem, plan and every generator keep their bits; training afterwards is bitwise what it is without the probe."""
    plan = fl.Plan(problem, epochs=3, batch_size=32, seed=5, optimizer=optimizer.with_lr(0.05))
    alone = fl.train(problem, plan, progress=False)
    np.random.seed(3)
    random.seed(3)
    before = pickle.dumps((np.random.get_state(), random.getstate(), plan.to_json(), problem.X, problem.target, problem.start()))
    list(plan.batches())[:2]
    fl.find_lr(problem, plan)
    after = pickle.dumps((np.random.get_state(), random.getstate(), plan.to_json(), problem.X, problem.target, problem.start()))
    assert before == after
    probed = fl.train(problem, plan, progress=False)
    assert probed.history.loss.tobytes() == alone.history.loss.tobytes()
    for name in alone.weights:
        assert probed.weights[name].tobytes() == alone.weights[name].tobytes()


def test_the_same_question_has_the_same_answer(problem):
    plan = fl.Plan(problem, epochs=5, batch_size=32, optimizer=fl.SGD(momentum=0.9))
    a, b = fl.find_lr(problem, plan), fl.find_lr(problem, plan)
    assert a.lr == b.lr
    assert a.curve.loss.tobytes() == b.curve.loss.tobytes()
