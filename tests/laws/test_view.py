"""Sparse rows seen at mean 0 and deviation 1 are the dense matrix that a scaler makes of them, to rounding, in everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.engines.linear import LinearEngine
from fallline.engines.linear import engine as linear
from fallline.engines.reference import ReferenceEngine
from fallline.errors import NoClosedForm
from fallline.plan import Plan
from fallline.problems.view import View

LOSSES = {
    "logistic": fl.logistic, "softmax": fl.softmax, "least_squares": fl.least_squares, "huber": fl.huber, "hinge": fl.hinge, "poisson": fl.poisson,
    "quantile": fl.quantile, "perceptron": fl.perceptron, "modified_huber": fl.modified_huber, "epsilon_insensitive": fl.epsilon_insensitive,
}  # fmt: skip
RULES = (
    fl.SGD(lr=2e-3), fl.SGD(lr=2e-3, weight_decay=0.5, schedule="cosine"), fl.SGD(lr=2e-3, clip=0.5), fl.SGD(lr=1e-3, momentum=0.9),
    fl.SGD(lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1, clip=1.0, schedule="linear(to=0)"), fl.Nesterov(lr=1e-3, momentum=0.8),
    fl.SGD(lr=2e-3, average=0.05), fl.SGD(lr=1e-3, momentum=0.5, average=0.1, weight_decay=0.1, decoupled=True), fl.ScheduleFree(lr=1e-3),
)  # fmt: skip
DENSE_ONLY = (fl.SGD(lr=2e-3, l1=0.05), fl.Adam(lr=1e-3), fl.RMSProp(lr=1e-3), fl.SGD(lr=1e-3, momentum=0.5, l1=0.05))
"""Not linear in the weights: exact where each step touches every feature, refused elsewhere."""


def rows(seed: int, n: int, d: int) -> np.ndarray:
    """Sparse columns of all sizes, among them a constant, an empty, a full far-off and an almost full one; an empty row."""
    r = np.random.default_rng(seed)
    X = r.standard_normal((n, d)) * (r.random((n, d)) < 0.05) * r.choice([0.01, 1.0, 50.0], d) + 0.0
    X[n // 2] = 0
    X[:, 0], X[:, 1], X[:, 2], X[:, 3] = 5.0, 0.0, 1e3 + r.standard_normal(n), 3 + r.standard_normal(n)
    X[0, 3] = 0
    return X


def standard(X: np.ndarray) -> np.ndarray:
    """What a scaler makes of it."""
    deviation = X.std(axis=0)
    varies = deviation > 1e-12 * np.abs(X.mean(axis=0))
    return np.where(varies, X - X.mean(axis=0), 0.0) / np.where(varies, deviation, 1.0)


def pair(loss: str, seed: int = 0, n: int = 48, d: int = 60, dtype: type = np.float64):
    """One problem twice: sparse and seen so, dense and made so."""
    X, r = rows(seed, n, d), np.random.default_rng(seed + 1)
    z = r.standard_normal(n)
    y = {"softmax": r.integers(0, 3, n), "hinge": r.integers(0, 3, n), "poisson": r.poisson(2.0, n)}.get(loss)
    if y is None:
        y = z > 0 if loss in ("logistic", "perceptron", "modified_huber") else np.c_[z, 1 - z] if loss == "least_squares" else z
    return LOSSES[loss](sp.csr_array(X.astype(dtype)), y).standardized(), LOSSES[loss](standard(X), y)


def ends(seen, dense, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The answers of the kernels on sparse rows, and of the reference on dense ones."""
    rule, out = plan.optimizer, []
    for engine in (LinearEngine(seen), ReferenceEngine(dense)):
        done = engine.advance(engine.begin(None, rule.start()), plan.segment(0, plan.steps, dense.layout))
        assert done.stopped_at is None
        out.append(engine.answer(done.state, rule.answer()))
    return out[0], out[1]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.sampled_from(RULES), st.sampled_from([1, 3, 48]), st.sampled_from([9, 60, 1500]), st.integers(0, 99))
def test_kernels_on_sparse_rows_are_the_reference_on_dense_ones(loss, rule, batch, d, seed):
    seen, dense = pair(loss, seed, d=d)
    plan = Plan(seen, epochs=3, batch_size=batch, optimizer=rule, seed=seed)
    a, b = ends(seen, dense, plan.with_lr(fl.times(20 / d)))  # rows of d features of size 1 bear about 1/d
    assert np.abs(a - b).max() <= 1e-9 * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("rule", DENSE_ONLY, ids=str)
@pytest.mark.parametrize("batch", [1, 3, 48])
def test_rules_that_are_not_linear_are_exact_where_every_feature_is_touched(rule, batch):
    seen, dense = pair("logistic")
    a, b = ends(seen, dense, Plan(seen, epochs=3, batch_size=batch, optimizer=rule))
    assert np.abs(a - b).max() <= 1e-9


@pytest.mark.parametrize("rule", DENSE_ONLY[:1], ids=str)
def test_divided_columns_go_with_an_l1_penalty_at_any_number_of_features(rule):
    X = rows(0, 48, 1500)
    divided = X / np.where(X.std(axis=0) > 1e-12 * np.abs(X.mean(axis=0)), X.std(axis=0), 1.0)
    divided[:, 2] = X[:, 2] = 0  # at 1000 deviations from 0, not centred: any descent overflows
    seen = fl.logistic(sp.csr_array(X), np.arange(48) % 3 == 0).standardized(center=False)
    a, b = ends(seen, fl.logistic(divided, np.arange(48) % 3 == 0), Plan(seen, epochs=3, batch_size=1, optimizer=rule))
    assert np.abs(a - b).max() <= 1e-9


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_loss_gradient_curvature_and_columns_are_those_of_dense_rows(loss):
    seen, dense = pair(loss)
    w = np.random.default_rng(5).standard_normal(dense.layout.size) / 10
    for batch in (None, np.array([3, 3, 24, 7])):
        (la, ga), (lb, gb) = seen.gradient(w, batch), dense.gradient(w, batch)
        assert abs(la - lb) <= 1e-11 * abs(lb) and np.abs(ga - gb).max() <= 1e-11
    assert np.abs(seen.scales() - dense.scales()).max() <= 1e-11
    assert abs(seen.largest() - dense.largest()) <= 1e-10
    blocks = [np.arange(8), np.arange(8, 16)]
    for one, other in zip(seen.gradient_blocks(w, blocks), dense.gradient_blocks(w, blocks), strict=True):
        assert np.abs(one - other).max() <= 1e-10
    if seen.smoothness() is not None:
        assert abs(seen.smoothness() - dense.smoothness()) <= 1e-8 * dense.smoothness()


@pytest.mark.parametrize("batch", [1, 2], ids=["scaled", "lazy"])
@pytest.mark.parametrize("rule", [RULES[1], RULES[4], RULES[7]], ids=str)
def test_a_plan_cut_anywhere_gives_the_same_bits(rule, batch, monkeypatch):
    monkeypatch.setattr(linear, "MOVED_BLOCK", 32)
    seen, _ = pair("softmax", d=1500)
    plan = Plan(seen, epochs=3, batch_size=batch, optimizer=rule)
    whole, engine = None, LinearEngine(seen)
    for cuts in ([], [1], [7, 8, 40], [33]):
        state = engine.begin(None, rule.start())
        for a, b in zip([0, *cuts], [*cuts, plan.steps], strict=True):
            state = engine.advance(state, plan.segment(a, b, seen.layout)).state
            state = engine.unpack(engine.pack(state), rule.start())  # as a run that is resumed
        answer = engine.answer(state, rule.answer())
        whole = answer if whole is None else whole
        assert np.array_equal(whole, answer)


def test_kernels_of_every_kind_follow_one_another_within_a_run():
    seen, dense = pair("logistic", d=1500)
    engines = LinearEngine(seen), LinearEngine(dense)
    states = [engine.begin(None, RULES[0].start()) for engine in engines]
    step = 0
    for rule, batch in ((RULES[0], 1), (RULES[3], 2), (RULES[6], 1), (RULES[0], 48), (RULES[1], 1), (RULES[4], 2), (RULES[3], 48), (RULES[0], 1)):
        plan = Plan(seen, steps=200, batch_size=batch, optimizer=rule)
        states = [e.advance(s, plan.segment(step, step + 9, dense.layout)).state for e, s in zip(engines, states, strict=True)]
        step += 9
    a, b = (s.registers() for s in states)
    assert np.abs(a.w - b.w).max() <= 1e-10


def test_large_batches_on_all_cores(monkeypatch):
    monkeypatch.setattr(linear, "THREADED", 10)
    seen, dense = pair("softmax")
    a, b = ends(seen, dense, Plan(seen, epochs=5, batch_size=24, optimizer=RULES[4]))
    assert np.abs(a - b).max() <= 1e-11


def test_float32_stays_near():
    seen, dense = pair("logistic", d=1500, dtype=np.float32)
    for batch in (1, 3, 48):
        a, b = ends(seen, dense, Plan(seen, epochs=8, batch_size=batch, optimizer=RULES[3]))
        assert seen.X.dtype == np.float32 and np.abs(a - b).max() <= 2e-4


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_weights_are_in_the_columns_own_units(kind):
    X = rows(2, 48, 30)
    problem = fl.softmax(kind(X), np.arange(48) % 3).standardized()
    point = np.random.default_rng(0).standard_normal(problem.layout.size)
    named = problem.named(point)
    assert np.abs(problem.scores(named, X) - (standard(X) @ point[:90].reshape(30, 3) + point[90:])).max() <= 1e-10
    assert np.abs(problem.placed(problem.layout.join(named)) - point).max() <= 1e-9


def test_validation_data_are_seen_as_the_training_data_are():
    X, y = rows(0, 48, 30), np.arange(48) % 2
    plain = fl.logistic(sp.csr_array(X[:40]), y[:40])
    problem, point = plain.standardized(), np.random.default_rng(0).standard_normal(31)
    expected = plain.on(sp.csr_array(X[40:]), y[40:]).loss(plain.layout.join(problem.named(point)))
    for held_out in ((X[40:], y[40:]), (sp.csr_array(X[40:]), y[40:]), problem.on(X[40:], y[40:]), plain.on(sp.csr_array(X[40:]), y[40:])):
        assert abs(problem.held_out(held_out).loss(point) - expected) <= 1e-10
    assert abs(problem.part(np.arange(9)).loss(point) - plain.part(np.arange(9)).loss(plain.layout.join(problem.named(point)))) <= 1e-10


def test_the_fingerprint_is_that_of_the_view_too():
    problem = fl.logistic(sp.csr_array(rows(0, 48, 30)), np.arange(48) % 2)
    seen = problem.standardized()
    other = replace(seen, view=View(seen.view.mean * 2, seen.view.scale, seen.view.stands))
    assert len({problem.fingerprint, seen.fingerprint, other.fingerprint, problem.standardized(center=False).fingerprint}) == 4
    assert problem.standardized().fingerprint == seen.fingerprint


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_weighted_rows_are_repeated_ones(kind):
    X, times = rows(1, 30, 20), np.random.default_rng(0).integers(0, 4, 30)
    a = fl.least_squares(kind(X), X[:, 5], weights=times).standardized().view
    b = fl.least_squares(kind(np.repeat(X, times, axis=0)), np.repeat(X[:, 5], times)).standardized().view
    assert np.allclose(a.mean, b.mean, rtol=1e-12, atol=1e-14) and np.allclose(a.scale, b.scale, rtol=1e-9)


def test_one_row_and_huge_numbers():
    one = fl.least_squares(sp.csr_array([[0.0, 3.0]]), [1.0]).standardized()
    assert one.gradient(np.zeros(3))[1].tolist() == [0.0, 0.0, -1.0]
    huge = fl.least_squares(sp.csr_array([[1e200, 0.0], [0.0, 1.0], [3e200, 0.0]]), [1.0, 2.0, 3.0]).standardized()
    assert np.abs(huge.scales() - 1).max() <= 1e-12 and np.isfinite(huge.gradient(np.ones(3))[1]).all()


@pytest.mark.parametrize("rule, why", [(DENSE_ONLY[0], "an l1 threshold"), (fl.AdaGrad(lr=0.1), "a second moment")], ids=["l1", "adagrad"])
def test_rules_without_an_exact_form_are_refused_with_what_to_do(rule, why):
    X, y = sp.random_array((40, 100_000), density=1e-4, rng=np.random.default_rng(0), format="csr"), np.arange(40) % 2
    problem = fl.logistic(X, y).standardized()
    message = (
        f"{why} on sparse columns that are centred has no exact form, so each step would have to touch all 100,000 features for the 10 non-zeros of a "
        "batch; use columns that are divided and not centred (standardized(center=False)), SGD without l1 (momentum, decay and averaging are exact), or "
        "batches of at least 157 rows"
    )
    with pytest.raises(NoClosedForm) as refusal:
        fl.train(problem, Plan(problem, epochs=1, batch_size=1, optimizer=rule))
    assert str(refusal.value) == message
    fl.train(fl.logistic(X, y).standardized(center=False), Plan(problem, epochs=1, batch_size=1, optimizer=rule))


@pytest.mark.parametrize("make", [fl.logistic, fl.softmax])
@pytest.mark.parametrize("rule", [fl.SGD(lr=2e-3, weight_decay=0.5), fl.SGD(lr=2e-3, clip=0.5)], ids=repr)
def test_the_sizes_of_weights_are_those_of_the_columns_as_seen(make, rule):
    """Also between steps, where weights lie on the base."""
    X = rows(3, 60, 12)
    y = np.arange(60) % (2 if make is fl.logistic else 3)
    problem = make(sp.csr_array(X), y).standardized()
    engine, plan = LinearEngine(problem, 1), Plan(problem, steps=100, batch_size=1, optimizer=rule)
    state = engine.advance(engine.begin(None, rule.start()), plan.segment(0, 70, problem.layout)).state
    assert state.moved is not None
    told = engine.norms(state)
    w = state.registers().w[: problem.layout.parameters[0].size]
    assert told == pytest.approx((np.square(w).sum(), np.abs(w).sum()), rel=1e-10)
