"""Safe steps: any units, any weight, never too far; and equal to the law as NumPy has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.compiled import kernel
from fallline.engines.linear import flow, safe_kernels
from fallline.engines.linear.safe_plain import Plain
from fallline.engines.linear.scalar import loss_slope
from fallline.problems.losses import NAMES, SOFTMAX, Loss

SMALL = [name for name in NAMES if name != "softmax"]
CLASSES = [name for name in SMALL if Loss(name).classifies]
BENT = ("huber", "modified_huber")
"""Losses with a corner in their slope on the way, which small steps see late."""


def rows(seed: int, loss: str, n: int = 40, d: int = 4, classes: int = 3):
    draw = np.random.default_rng(seed)
    X = draw.standard_normal((n, d)) * [1.0, 3.0, 0.5, 2.0][:d] + [0.0, 5.0, -1.0, 0.0][:d]
    score = X @ draw.standard_normal(d) + 0.3 * draw.standard_normal(n)
    if loss == "softmax":
        y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    elif loss in CLASSES:
        y = (score > np.median(score)).astype(int)
    else:
        y = np.floor(np.exp(np.clip(score / 4, -2, 2))) if loss == "poisson" else score
    return X, y


def made(loss: str, d: int = 4, **more):
    return fl.online(loss, features=d, **({"outputs": 3} if loss == "softmax" else {}), **more)


@pytest.mark.parametrize("loss", [*SMALL, "softmax"])
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.3, 1.0, 4.0]), penalty=st.sampled_from([(0.0, 0.0), (0.02, 0.0), (0.0, 0.01), (0.02, 0.01)]))
def test_the_kernels_equal_the_law_as_numpy_has_it(loss, seed, rate, penalty):
    X, y = rows(seed, loss, n=14)
    X[3, 1] = X[7, 1] = X[0, 2] = np.nan
    near = 1e-4 if loss in BENT else 1e-6
    weight = np.random.default_rng(seed).uniform(0.2, 3, len(X))
    weight[5] = 0
    plain, model = Plain(Loss(loss), 4, 3 if loss == "softmax" else 1, rate, *penalty), made(loss, rate=rate, weight_decay=penalty[0], l1=penalty[1])
    for i in range(len(X)):
        assert model.learn(X[i], y[i], weight=weight[i]) == pytest.approx(plain.learn(X[i], y[i], weight[i]), rel=near, abs=1e-9)
    close = {"rtol": near, "atol": 1e-7}
    np.testing.assert_allclose(model.view_coef, plain.w[:-1], **close)
    np.testing.assert_allclose(model.means, plain.view()[1], rtol=1e-12)
    np.testing.assert_allclose(model.deviations, plain.view()[2], rtol=1e-12)


def test_the_twin_is_a_test_that_can_fail():
    X, y = rows(0, "logistic", n=14)
    plain, model = Plain(Loss("logistic"), 4, 1, 1.0 + 1e-4), made("logistic")
    for i in range(len(X)):
        plain.learn(X[i], y[i])
        model.learn(X[i], y[i])
    assert not np.allclose(model.view_coef, plain.w[:-1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", [*SMALL, "softmax"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), powers=st.lists(st.integers(-120, 120), min_size=4, max_size=4), shift=st.floats(-1e3, 1e3))
def test_units_of_columns_change_nothing(loss, seed, powers, shift):
    X, y = rows(seed, loss)
    scale = 10.0 ** np.array(powers)
    here, there = made(loss).learn_many(X, y), made(loss).learn_many((X + [shift, 0, 0, 0]) * scale, y)
    np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 10**6), power=st.integers(-60, 60))
def test_a_power_of_two_changes_no_bit(seed, power):
    X, y = rows(seed, "softmax")
    assert (made("softmax").learn_many(X * 2.0**power, y) == made("softmax").learn_many(X, y)).all()


@pytest.mark.parametrize(("loss", "parameter", "power_of_loss"), [("least_squares", None, 2), ("quantile", 0.8, 1), ("epsilon_insensitive", 0.0, 1)])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), power=st.integers(-6, 6))
def test_losses_follow_the_units_of_the_target(loss, parameter, power_of_loss, seed, power):
    X, y = rows(seed, loss)
    c = 10.0**power
    here, there = (fl.online(loss, features=4, parameter=parameter) for _ in range(2))
    np.testing.assert_allclose(there.learn_many(X, y * c), here.learn_many(X, y) * c**power_of_loss, rtol=1e-9)
    np.testing.assert_allclose(there.coef, here.coef * c, rtol=1e-9)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=60)
@given(z=st.floats(-30, 30), y=st.floats(0, 30), H=st.floats(1e-6, 50))
def test_twice_half_a_time_is_the_time_and_never_too_far(name, z, y, H):
    loss = Loss(name)
    y = float(y > 15) if loss.classifies else y
    once = flow.score_flow(loss.code, loss.parameter, z, y, H)
    half = flow.score_flow(loss.code, loss.parameter, z, y, H / 2)
    twice = flow.score_flow(loss.code, loss.parameter, half, y, H / 2)
    if name == "perceptron":  # its slope ends, where it is 0, in no point of rest: two halves go no farther than the whole
        assert abs(twice - z) <= abs(once - z) + 1e-12
    else:
        assert twice == pytest.approx(once, rel=1e-9, abs=1e-9)
    before, after = (float(loss.slope(np.array([v]), np.array([y]))[0]) for v in (z, once))
    assert np.sign(before) * after >= -1e-12 * (1 + y)  # the slope keeps its sign: the least loss is not passed
    assert loss.value(np.array([once]), np.array([y]))[0] <= loss.value(np.array([z]), np.array([y]))[0] + 1e-12 * (1 + abs(y * z))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "perceptron"])
@settings(max_examples=15)
@given(z=st.floats(-30, 30), y=st.floats(0, 30), H=st.floats(1e-3, 3))
def test_the_flow_is_where_small_steps_of_descent_lead(name, z, y, H):
    """A hundred thousand plain steps of descent, each of length H / 100,000; the step over a corner errs by its own length."""
    loss, steps = Loss(name), 100_000
    y = float(y > 15) if loss.classifies else y
    z = min(z, 3.0) if name == "poisson" else z
    assert flow.score_flow(loss.code, loss.parameter, z, y, H) == pytest.approx(small_steps(loss.code, loss.parameter, z, y, H, steps), rel=1e-3, abs=1e-3)


@kernel
def small_steps(code, parameter, z, y, H, steps):
    for _ in range(steps):
        z -= H / steps * loss_slope(code, parameter, z, y)[1]
    return z


@given(w=st.floats(-10, 10), T=st.floats(0, 50), l2=st.sampled_from([0.0, 1e-9, 1e-3, 1.0]), l1=st.sampled_from([0.0, 1e-3, 1.0]))
def test_the_penalty_s_flow_is_a_flow(w, T, l2, l1):
    once, half = flow.penalised(w, T, l2, l1), flow.penalised(w, T / 2, l2, l1)
    assert flow.penalised(half, T / 2, l2, l1) == pytest.approx(once, rel=1e-9, abs=1e-12)
    assert once * w >= 0 and abs(once) <= abs(w)
    step = 1e-6
    assert w - flow.penalised(w, step, l2, l1) == pytest.approx(step * (l2 * w + l1 * np.sign(w)), rel=1e-4, abs=1e-12 + step * l1 * (abs(w) < 1e-4))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), l2=st.sampled_from([0.0, 0.01]), l1=st.sampled_from([0.0, 0.003]))
def test_absent_features_are_pulled_as_though_they_were_looked_at_in_every_row(seed, l2, l1):
    draw = np.random.default_rng(seed)
    asked, left = (fl.online("logistic", features=0, sparse=5, weight_decay=l2, l1=l1) for _ in range(2))
    for _ in range(40):
        entries, y = (draw.choice(5, 2, replace=False), draw.standard_normal(2)), int(draw.integers(2))
        asked.learn((), y, sparse=entries)
        left.learn((), y, sparse=entries)
        before = asked.sparse_coef
        asked.remade(np.eye(1))  # settles every feature
        np.testing.assert_allclose(asked.sparse_coef, before, rtol=1e-12)
    np.testing.assert_allclose(left.sparse_coef, asked.sparse_coef, rtol=1e-9, atol=1e-12)


def test_a_penalty_makes_weights_small_and_means_the_same_for_every_unit():
    X, y = rows(4, "logistic", n=400)
    X = np.hstack([X, np.random.default_rng(0).standard_normal((400, 6))])
    free, l1, l2 = (fl.online("logistic", features=10, **more) for more in ({}, {"l1": 0.03}, {"weight_decay": 0.1}))
    for model in (free, l1, l2):
        model.learn_many(X, y)
    idle, whole = (np.abs(free.view_coef[at]).sum() for at in (slice(4, None), slice(None)))
    assert np.abs(l1.view_coef[4:]).sum() < 0.7 * idle and np.abs(l2.view_coef).sum() < 0.8 * whole
    other = fl.online("logistic", features=10, l1=0.03)
    other.learn_many(X * 10.0 ** np.arange(-30, 30, 6), y)
    np.testing.assert_allclose(other.view_coef, l1.view_coef, rtol=1e-9, atol=1e-12)


def test_a_sparse_feature_that_stays_away_comes_to_exactly_0():
    model = fl.online("logistic", features=0, sparse=2, l1=0.01)
    model.learn((), 1, sparse=([0], [1.0]))
    for _ in range(500):
        model.learn((), 0, sparse=([1], [1.0]))
    assert model.sparse_coef[0] == 0 > model.sparse_coef[1]


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 40), scale=st.sampled_from([1e-3, 1.0, 10.0, 60.0, 300.0]), H=st.floats(1e-6, 100))
@example(seed=13, classes=7, scale=300.0, H=1.0)
@example(seed=13, classes=7, scale=1e5, H=3e5)
def test_the_softmax_flow_is_a_flow(seed, classes, scale, H):
    z = scale * np.random.default_rng(seed).standard_normal(classes)
    once, half, twice = np.empty(classes), np.empty(classes), np.empty(classes)
    flow.softmax_flow(z, 1, H, once)
    flow.softmax_flow(z, 1, H / 2, half)
    flow.softmax_flow(half, 1, H / 2, twice)
    np.testing.assert_allclose(twice, once, rtol=1e-8, atol=1e-8 * max(scale, 1))
    assert once.sum() == pytest.approx(z.sum(), abs=1e-12 * classes * (scale + H))
    loss = Loss("softmax")
    assert loss.value(once[None], np.array([1]))[0] <= loss.value(z[None], np.array([1]))[0] + 1e-12


@pytest.mark.parametrize("loss", ["least_squares", "logistic", "softmax"])
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), weight=st.floats(0.1, 4))
def test_a_row_of_twice_the_weight_is_two_rows(loss, seed, weight):
    """Exactly, where the view has nothing new to see: features of one size, all in every row."""
    _, y = rows(seed, loss, n=30)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (30, 6))
    once, twice = (fl.online(loss, features=0, sparse=6, **({"outputs": 3} if loss == "softmax" else {})) for _ in range(2))
    for i in range(30):
        entries = (range(6), signs[i])
        once.learn((), y[i], sparse=entries, weight=2 * weight)
        twice.learn((), y[i], sparse=entries, weight=weight)
        twice.learn((), y[i], sparse=entries, weight=weight)
    np.testing.assert_allclose(twice.sparse_coef, once.sparse_coef, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(twice.intercept, once.intercept, rtol=1e-8, atol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), weight=st.floats(0.1, 4))
def test_a_row_s_own_score_goes_as_far_in_two_as_in_one(seed, weight):
    """Also where features were seen unequally often: the score exactly, its features' shares nearly."""
    draw, once = np.random.default_rng(seed), fl.online("logistic", features=0, sparse=6)
    for _ in range(30):
        once.learn((), int(draw.integers(2)), sparse=(draw.choice(6, 2, replace=False), [1.0, -1.0]))
    twice, entries = fl.online("logistic", features=0, sparse=6), ([0, 1, 2], [1.0, 1.0, 1.0])
    once._totals[1] = once._totals[0] * 4  # as though rows of this length had been usual
    twice.restore(once.step, once.arrays())
    once.learn((), 1, sparse=entries, weight=2 * weight)
    twice.learn((), 1, sparse=entries, weight=weight)
    twice.learn((), 1, sparse=entries, weight=weight)
    assert twice.score((), sparse=entries) == pytest.approx(once.score((), sparse=entries), rel=1e-9)


@given(seed=st.integers(0, 10**6))
def test_rows_together_are_rows_one_by_one(seed):
    X, y = rows(seed, "softmax")
    one, many = made("softmax"), made("softmax")
    losses = [one.learn(X[i], y[i]) for i in range(len(X))]
    assert (many.learn_many(X[:13], y[:13]) == losses[:13]).all() and (many.learn_many(X[13:], y[13:]) == losses[13:]).all()
    assert all((one.arrays()[name] == many.arrays()[name]).all() for name in one.arrays())


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 40))
def test_it_goes_on_where_its_arrays_were_taken(seed, cut):
    X, y = rows(seed, "logistic")
    whole, first, second = made("logistic"), made("logistic"), made("logistic")
    whole.learn_many(X, y)
    first.learn_many(X[:cut], y[:cut])
    second.restore(first.step, first.arrays())
    second.learn_many(X[cut:], y[cut:])
    assert second.step == 40 and all((whole.arrays()[name] == second.arrays()[name]).all() for name in whole.arrays())


def test_coefficients_are_in_the_columns_own_units():
    X, y = rows(1, "least_squares", n=400)
    model = made("least_squares")
    model.learn_many(X, y)
    np.testing.assert_allclose(X[:5] @ model.coef + model.intercept, [model.score(x) for x in X[:5]], rtol=1e-9)


def test_an_outlier_and_a_column_of_another_size_overflow_nothing():
    X, y = rows(2, "least_squares", n=200)
    X[100] *= 1e130
    X[150:, 0] *= 1e-9
    model = made("least_squares")
    assert np.isfinite(model.learn_many(X, y)).all() and np.isfinite(model.coef).all()


@pytest.mark.parametrize("optimizer", [None, fl.SGD(0.1), fl.Adam(0.01), fl.AdaGrad(0.1, initial=0.1)], ids=repr)
def test_a_class_that_appears_later_begins_with_the_weights_of_a_new_model(optimizer):
    """Law: it is as though it had been there with weights 0; the loss of the row that brings it is of its score 0."""
    X, y = rows(3, "softmax")
    names = np.array(["a", "b", "c"])[np.where(np.arange(40) < 20, y % 2, y)]
    model = fl.online("softmax", features=4, classes=[], optimizer=optimizer, dtype="float64")
    for i, (x, label) in enumerate(zip(X, names, strict=True)):
        known = list(model.classes)
        scores = np.atleast_1d(model.score(x)) if known else np.empty(0)
        loss = model.learn(x, label)
        if label not in known and optimizer is not None:  # the safe view has seen the row when the loss is taken
            assert loss == pytest.approx(np.log(1 + np.exp(scores).sum()), rel=1e-6), i
    assert model.classes == list(dict.fromkeys(names)) and model.coef.shape == (4, 3)


def test_sparse_rows_are_dense_rows_without_centring():
    """One-hot features: a sparse model learns which is which."""
    draw = np.random.default_rng(0)
    kinds, y = draw.integers(0, 50, 2000), draw.integers(0, 2, 50)
    model = fl.online("logistic", features=0, sparse=50)
    losses = np.array([model.learn((), int(y[j]), sparse=([j], [1e9])) for j in kinds])
    assert losses[-500:].mean() < 0.2 < losses[:50].mean()
    assert safe_kernels.LARGEST > 1e9 and SOFTMAX
