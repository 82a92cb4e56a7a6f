"""Laws of the search for a learning rate: compressed plans, held-out rows, the bracket, scaling, budgets, coverage, no trace."""

from __future__ import annotations

import math
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.advice.bracket import bracket
from fallline.advice.compressed import compressed, without
from fallline.advice.probe import Probe, Rung
from fallline.advice.search import flat_region
from fallline.engines.population import Population
from fallline.rules import edge

SHAPES = [None, "warmup(5%) > linear(to=0)", "cosine(to=1e-4)", "one_cycle()", "step_decay(factor=0.5, every=epochs(1))", "exponential(gamma=0.99)"]


def data(rows: int = 300, features: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    return X, X[:, 0] + 0.3 * rng.standard_normal(rows)


@pytest.fixture(scope="module")
def problem():
    X, z = data()
    return fl.logistic(X, z > 0)


# ------------------------------------------------------------------------------------------------ compressed plans


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_compressed_to_its_own_length_is_itself(problem, shape):
    rule = fl.SGD(momentum=fl.cosine(start=0.95, to=0.85), weight_decay=1e-3, schedule=shape, average=fl.ema(0.9))
    plan = fl.Plan(problem, epochs=4, batch_size=30, optimizer=rule)
    same = compressed(plan, 0.1, plan.steps)
    ours, theirs = (p.rows_between(0, plan.steps)[0].dense() for p in (same, plan.with_lr(0.1)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@given(steps=st.integers(1, 60), rate=st.floats(1e-6, 10))
@settings(max_examples=15)
def test_a_compressed_plan_reads_the_schedule_at_the_same_share(problem, shape, steps, rate):
    plan = fl.Plan(problem, epochs=6, batch_size=30, optimizer=fl.SGD(schedule=shape))
    short = compressed(plan, rate, steps)
    at = [(2 * x + 1) * plan.steps // (2 * steps) for x in range(steps)]
    np.testing.assert_allclose(short.lr_at(), plan.with_lr(rate).lr_at(at), rtol=1e-12)


def test_a_frozen_group_is_frozen_for_the_same_share(problem):
    rule = fl.SGD(groups={"coef": fl.Group(frozen=fl.epochs(1))})
    short = compressed(fl.Plan(problem, epochs=4, batch_size=30, optimizer=rule), 0.1, 8)
    assert short.segment(0, 8, problem.layout).frozen_until == (2, 0)


@pytest.mark.parametrize("batches", [fl.Batches(32), fl.Batches(7, last="drop"), fl.Batches.single(), fl.Batches.full(), fl.Batches(50, order=fl.Resampled())], ids=repr)
def test_rows_held_out_are_never_drawn(batches):
    held = np.array([3, 4, 50, 99])
    plan = fl.Plan(rows=100, epochs=5, batch_size=without(batches, 100, held), optimizer=fl.SGD(lr=0.1))
    drawn = np.concatenate([plan.segment(t, t + 1, fl.quadratic([1.0]).layout).indices for t in range(plan.steps)])
    assert not np.isin(held, drawn).any()
    assert plan.steps == fl.Plan(rows=100, epochs=5, batch_size=batches).steps


def test_the_probe_trains_on_the_plan_s_own_order_less_the_held_out_rows(problem):
    plan = fl.Plan(problem, epochs=5, batch_size=32, optimizer=fl.SGD(lr=0.1))
    held = np.arange(0, 300, 7)
    kept = next(iter(fl.Plan(problem, epochs=5, batch_size=without(plan.batch_size, 300, held), optimizer=fl.SGD(lr=0.1)).batches()))
    own = np.concatenate(list(plan.batches())[:10])
    assert kept.tolist() == [r for r in own.tolist() if r % 7][:32]


def test_parts_of_a_problem_have_its_rows_and_weights():
    X, z = data(50)
    whole = fl.logistic(X, z > 0, weights=np.arange(1.0, 51.0))
    rows, w = np.array([3, 10, 30]), np.linspace(-1, 1, 6)
    weights = np.arange(1.0, 51.0)[rows]
    each = [whole.loss(w, np.array([r])) / whole.weight[r] for r in rows]
    assert whole.part(rows).loss(w) == pytest.approx(np.average(each, weights=weights), rel=1e-12)


# ------------------------------------------------------------------------------------------------ the bracket


@pytest.mark.parametrize(
    ("rule", "factor"),
    [(fl.SGD(), 2.0), (fl.SGD(momentum=0.9), 3.8), (fl.SGD(momentum=0.9, nesterov=True), 3.8 / 2.8), (fl.MovingAverage(momentum=0.9), 38.0)],
    ids=repr,
)
def test_curvature_and_edge_of_a_quadratic_within_one_percent(rule, factor):
    valley = fl.quadratic([50.0, 3.0, 1.0], start=[1.0, 1.0, -2.0])
    found = bracket(valley, fl.Plan(valley, steps=10, optimizer=rule), None, 20)
    assert found.curvature == pytest.approx(50.0, rel=0.01)
    assert found.edge == pytest.approx(factor / 50.0, rel=0.01) == edge(rule, found.curvature)


def test_the_critical_rate_is_where_a_step_no_longer_pays():
    valley = fl.quadratic([50.0, 3.0], start=[0.2, 1.0])
    w, g = valley.start(), valley.gradient(valley.start())[1]
    found = bracket(valley, fl.Plan(valley, steps=10, optimizer=fl.SGD()), None, 0).critical
    assert valley.loss(w - found * g) == pytest.approx(valley.loss(w), rel=1e-6)


def test_without_curvature_the_critical_rate_comes_by_doubling():
    """A cone has no curvature along its slope: the step pays until it is twice the distance to the tip."""
    cone = fl.function(lambda w: float(np.linalg.norm(w)), lambda w: w / np.linalg.norm(w), start=[3.0, 4.0])
    assert bracket(cone, fl.Plan(cone, steps=10, optimizer=fl.SGD()), None, 0).critical == pytest.approx(10.0, rel=0.5)


# ------------------------------------------------------------------------------------------------ reading a rung


def rung(lr, score):
    score = np.asarray(score, float)
    return Rung(10, np.asarray(lr, float), score, score[:, None])


def test_the_flat_region_ends_on_the_line_between_neighbours():
    flat = flat_region(rung([0.01, 0.1, 1.0], [0.52, 0.5, 1.0]), 1.5, tolerance=0.01)
    assert 10**flat.low == pytest.approx(0.1 * 10**-0.5) and math.log10(10**flat.high / 0.1) == pytest.approx(0.02)
    assert not flat.open_low and not flat.open_high


def test_the_flat_region_stops_before_what_diverged():
    flat = flat_region(rung([0.01, 0.1, 1.0], [0.9, 0.5, np.inf]), 1.0)
    assert 10**flat.high == pytest.approx(0.1) and not flat.open_high
    assert flat_region(rung([0.01, 0.1], [0.9, 0.5]), 1.0).open_high


# ------------------------------------------------------------------------------------------------ the whole search


@pytest.mark.parametrize("c", [2.0**-6, 4.0, 2.0**10])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scaling_the_loss_by_c_scales_the_rate_by_one_over_c(c, momentum):
    """Powers of two keep every bit."""
    asked = [fl.quadratic([k, 10 * k, 30 * k], noise=0.5 * k) for k in (1.0, c)]
    plain, scaled = (fl.find_lr(q, fl.Plan(q, steps=400, batch_size=16, optimizer=fl.SGD(momentum=momentum))) for q in asked)
    assert scaled.lr * c == pytest.approx(plain.lr, rel=1e-6)
    assert [b * c for b in scaled.interval] == pytest.approx(list(plain.interval), rel=1e-6)


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.5, 1, 2])
@pytest.mark.parametrize("size", [1, 32, None])
def test_the_budget_is_kept_and_something_sensible_comes(problem, budget, size):
    plan = fl.Plan(problem, steps=600, batch_size=fl.Batches.full() if size is None else size, optimizer=fl.SGD(schedule="warmup(5%) > linear(to=0)"))
    found = fl.find_lr(problem, plan, budget=budget)
    assert found.cost <= max(budget * plan.steps, 40, 300 / (size or 300)) + 1
    assert found.share == pytest.approx(found.cost / plan.steps, abs=1 / 600)
    assert 1e-3 < found.lr < 30 and found.interval[0] < found.lr < found.interval[1]


def test_a_larger_budget_probes_longer_and_narrows_the_interval():
    X, z = data(2000, 20)
    problem = fl.logistic(X, z > 0)
    plan = fl.Plan(problem, epochs=10, batch_size=32, optimizer=fl.SGD(momentum=0.9, schedule="linear(to=0)"))
    found = [fl.find_lr(problem, plan, budget=b) for b in (0.25, 1, 4)]
    assert np.all(np.diff([f.rungs[-1].steps for f in found]) > 0)
    widths = [f.interval[1] / f.interval[0] for f in found]
    assert widths[2] < widths[0]


def test_two_orders_of_the_rows_agree_within_a_factor_of_three():
    X, z = data(2000, 20)
    problem = fl.logistic(X, z > 0)
    plans = [fl.Plan(problem, epochs=10, batch_size=32, seed=s, optimizer=fl.SGD(momentum=0.9, schedule="linear(to=0)")) for s in range(10)]
    rates = np.log([fl.find_lr(problem, p, budget=2).lr for p in plans])
    apart = np.abs(rates[:, None] - rates[None, :])[np.triu_indices(10, 1)]
    assert np.mean(apart < np.log(3)) >= 0.95


def test_the_same_question_has_the_same_answer(problem):
    plan = fl.Plan(problem, epochs=5, batch_size=32, optimizer=fl.SGD(momentum=0.9))
    a, b = fl.find_lr(problem, plan), fl.find_lr(problem, plan)
    assert a.lr == b.lr and a.verdict == b.verdict and a.interval == b.interval
    assert all(x.score.tobytes() == y.score.tobytes() for x, y in zip(a.rungs, b.rungs, strict=True))
    other = fl.find_lr(problem, plan, seed=7)
    assert other.rungs[0].score.tobytes() != a.rungs[0].score.tobytes()


def test_the_interval_holds_the_best_rate_of_the_grid_nine_times_in_ten():
    """Over 100 seeds of data, order and held-out rows, the best of a grid of four rates to the decade."""
    inside, grid = [], 10.0 ** (np.arange(-12, 9) / 4)
    for seed in range(100):
        X, z = data(300, 6, seed)
        z = z + 0.3 * np.random.default_rng(seed).standard_normal(len(z))
        problem, valid = fl.logistic(X[:150], z[:150] > 0), (X[150:], z[150:] > 0)
        plan = fl.Plan(problem, epochs=12, batch_size=16, seed=seed, optimizer=fl.SGD(momentum=0.9, schedule="warmup(5%) > linear(to=0)"))
        runs = Population(problem, [plan.with_lr(float(lr)) for lr in grid])
        runs.advance(plan.steps)
        best = grid[int(np.argmin(runs.evaluate(valid)))]
        found = fl.find_lr(problem, plan, valid=valid)
        if found.interval is not None:
            inside.append(found.interval[0] <= best <= found.interval[1])
    assert len(inside) >= 90 and np.mean(inside) >= 0.9


# ------------------------------------------------------------------------------------------------ no trace


class Stopped(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
def test_an_interrupted_search_of_a_linear_problem_leaves_no_trace(problem, error, monkeypatch):
    plan = fl.Plan(problem, epochs=3, batch_size=32, seed=5, optimizer=fl.SGD(lr=0.05, momentum=0.9))
    alone = fl.train(problem, plan, progress=False)
    tried = Probe.try_rates

    def breaks(self, rates, steps):
        tried(self, rates, steps)
        raise error

    monkeypatch.setattr(Probe, "try_rates", breaks)
    before = pickle.dumps((np.random.get_state(), random.getstate(), plan.to_json(), problem.X, problem.target))
    with pytest.raises(error):
        fl.find_lr(problem, plan)
    assert before == pickle.dumps((np.random.get_state(), random.getstate(), plan.to_json(), problem.X, problem.target))
    after = fl.train(problem, plan, progress=False)
    assert all(after.weights[n].tobytes() == alone.weights[n].tobytes() for n in alone.weights)
