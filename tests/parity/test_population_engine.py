"""Runs together against the reference, each alone: every rule x every loss x batches, float64 to 1e-10, float32 to 1e-4.

The members of one population are all the rules at once, so every register is there; populations of one kind of rule leave
registers out. The canary shows that the comparison would notice a rate moved by 1e-6.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_linear_engine import LOSSES, RULES, STEPS, problem_of

import fallline as fl
from fallline.engines.population import Population
from fallline.engines.population.linear import Together
from fallline.engines.reference import ReferenceEngine

KINDS = {
    "no register": ["plain", "scheduled, coupled decay", "decoupled decay", "clipped, plain"],
    "velocity": ["plain", "heavy ball", "heavy ball, scheduled", "dampened", "nesterov", "look-ahead", "moving average", "clipped", "momentum scheduled"],
    "second moment": ["rmsprop", "adagrad"],
    "both": ["adam", "adamw", "nadam", "plain"],
    "averages": ["averaged", "plain"],
    "l1": ["l1", "plain"],
    "schedule-free": ["schedule-free", "plain"],
    "all": list(RULES),
}


def plans_of(problem, rules, batch, steps=STEPS):
    size = fl.Batches.full() if batch == "full" else batch
    return [fl.Plan(problem, steps=steps, batch_size=size, optimizer=RULES[name], seed=3) for name in rules]


def by_reference(problem, plan):
    engine = ReferenceEngine(problem)
    done = engine.advance(engine.begin(None, plan.optimizer.start()), plan.segment(0, plan.steps, problem.layout))
    assert done.stopped_at is None
    return engine.answer(done.state, plan.optimizer.answer()), done.trace.loss


def worst(problem, plans):
    runs = Population(problem, plans, together=True)
    for stop in (1, plans[0].steps // 2, plans[0].steps):
        runs.advance(stop)
    out = 0.0
    for k, (answer, loss) in enumerate(by_reference(problem, plan) for plan in plans):
        assert len(runs.losses[k]) == len(loss)
        scale = max(1.0, np.abs(answer).max())
        out = max(out, np.abs(runs.answers()[k] - answer).max() / scale, np.abs(runs.losses[k] - loss).max() / max(1.0, np.abs(loss).max()))
    return out


@pytest.mark.parametrize("batch", [1, 7, 32, "full"])
@pytest.mark.parametrize("loss", LOSSES)
def test_all_rules_at_once_are_each_the_reference(loss, batch):
    problem = problem_of(loss, "dense")
    assert worst(problem, plans_of(problem, RULES, batch)) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_rules(kind):
    problem = problem_of("softmax", "dense")
    assert worst(problem, plans_of(problem, KINDS[kind], 32)) < 1e-10


@pytest.mark.parametrize("loss", ["logistic", "softmax", "several outputs", "huber"])
def test_float32(loss):
    problem, wide = problem_of(loss, "dense", np.float32), problem_of(loss, "dense")
    assert worst(problem, plans_of(problem, RULES, 32)) < 1e-4
    assert wide.X.dtype == np.float64


@pytest.mark.parametrize("features", [1, 5, 6, 7, 64, 65, 200])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_sizes(features, rows):
    r = np.random.default_rng(1)
    X, y = r.standard_normal((rows, features)) / np.sqrt(features), r.standard_normal(rows)
    problem = fl.least_squares(X, y)
    plans = plans_of(problem, ["plain", "heavy ball", "adam"], min(rows, 17), steps=9)
    assert worst(problem, plans) < 1e-11
    assert worst(problem, plans[:1]) < 1e-11


def test_batches_larger_than_the_room(monkeypatch):
    monkeypatch.setattr(Together, "_room", 12)
    for loss in ("logistic", "softmax"):
        problem = problem_of(loss, "dense")
        for batch in (13, 40, "full"):
            assert worst(problem, plans_of(problem, RULES, batch)) < 1e-10


def test_the_comparison_notices():
    problem = problem_of("logistic", "dense")
    plans = plans_of(problem, ["heavy ball", "adam"], 32)
    runs = Population(problem, [plan.with_lr(plan.optimizer.lr * (1 + 1e-6)) for plan in plans], together=True)
    runs.advance(STEPS)
    for k, plan in enumerate(plans):
        assert np.abs(runs.answers()[k] - by_reference(problem, plan)[0]).max() > 1e-8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["softmax", "logistic", "poisson"])
def test_a_runs_bits_depend_on_nothing_but_its_plan(loss, dtype):
    """Not on how many there are, on its place, on threads, on cuts, nor on one that diverges beside it."""
    problem = problem_of(loss, "dense", dtype)
    plans = plans_of(problem, RULES, 32)
    whole = Population(problem, plans, together=True)
    whole.advance(STEPS)
    alone = [Population(problem, [plan], together=True) for plan in plans]
    wild = plans_of(problem, ["plain"], 32)[0].with_lr(3e38 if dtype is np.float32 else 1e100)
    mixed = Population(problem, [wild, *reversed(plans), wild], together=True)
    mixed._runs.threads = 5
    for stop in (1, 2, 31, STEPS):
        mixed.advance(stop)
        for each in alone:
            each.advance(stop)
    assert np.array_equal(whole.answers(), np.concatenate([each.answers() for each in alone]))
    assert np.array_equal(whole.answers(), mixed.answers()[-2:0:-1])
    assert mixed.stopped_at[0] is not None and mixed.stopped_at[-1] == mixed.stopped_at[0]
    assert all(np.array_equal(a, b) for a, b in zip(whole.losses, mixed.losses[-2:0:-1], strict=True))


@pytest.mark.parametrize(("rule", "rates"), [("plain", (8.0, 1e3, 1e100)), ("heavy ball", (8.0, 1e300)), ("adam", (1e155, 1e300)), ("clipped", (1e154, 1e300))])
def test_a_run_stops_where_it_stops_alone(rule, rates):
    problem = problem_of("least_squares", "dense")
    for rate in rates:
        plan = plans_of(problem, [rule], 32, steps=3000)[0].with_lr(rate)
        together, apart = (Population(problem, [plan, plan.with_lr(1e-3)], together=which) for which in (True, False))
        together.advance(3000)
        apart.advance(3000)
        assert together.stopped_at == apart.stopped_at and together.stopped_at[0] is not None
        np.testing.assert_allclose(together.answers(), apart.answers(), rtol=1e-6)
