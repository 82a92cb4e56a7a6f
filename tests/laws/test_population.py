"""Several runs at once: run k is the run that its plan gives alone, whatever becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.engines.population import Population


def digits_like(dtype=np.float64, rows=200, features=7, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features)).astype(dtype)
    return X, (X @ rng.standard_normal((features, classes)) + rng.standard_normal((rows, classes))).argmax(1)


def alone(problem, plan, **more):
    return fl.train(problem, plan, progress=False, **more)


def test_each_run_is_the_run_alone():
    problem = fl.logistic(*digits_like())
    plan = fl.Plan(problem, epochs=3, batch_size=16, seed=5, optimizer=fl.SGD(momentum=0.9))
    plans = [plan.with_lr(lr) for lr in (0.01, 0.1, 1.0)]
    runs = Population(problem, plans, together=True)
    for stop in (1, 13, plan.steps):
        runs.advance(stop)
    for k, one in enumerate(plans):
        run = alone(problem, one)
        np.testing.assert_allclose(runs.answers()[k], problem.layout.join(run.weights), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(runs.losses[k], run.history.loss, rtol=1e-12, atol=1e-14)


def test_a_run_that_diverges_stops_and_the_others_do_not_notice():
    problem = fl.least_squares(*digits_like())
    plan = fl.Plan(problem, epochs=60, batch_size=16, optimizer=fl.SGD())
    runs = Population(problem, [plan.with_lr(lr) for lr in (0.1, 1e6, 0.01)])
    healthy = Population(problem, [plan.with_lr(lr) for lr in (0.1, 0.001, 0.01)])
    for each in (runs, healthy):
        each.advance(plan.steps)
    assert runs.stopped_at[0] is None and runs.stopped_at[1] is not None
    assert len(runs.losses[1]) == runs.stopped_at[1]
    assert np.array_equal(runs.answers()[[0, 2]], healthy.answers()[[0, 2]])
    assert np.array_equal(np.isinf(runs.evaluate(problem)), [False, True, False])


def test_keep_goes_on_with_some():
    problem = fl.logistic(*digits_like())
    plan = fl.Plan(problem, epochs=4, batch_size=16, optimizer=fl.SGD(momentum=0.9))
    runs = Population(problem, [plan.with_lr(lr) for lr in (0.01, 0.1, 1.0)])
    runs.advance(10)
    before = runs.answers()
    some = runs.keep([2, 0])
    some.advance(plan.steps)
    assert np.array_equal(runs.answers(), before) and runs.step == 10
    runs.advance(plan.steps)
    np.testing.assert_allclose(some.answers(), runs.answers()[[2, 0]], rtol=1e-12)
    assert [len(loss) for loss in some.losses] == [plan.steps] * 2


def test_a_start_is_every_runs_start():
    problem = fl.logistic(*digits_like())
    start = np.linspace(-1, 1, problem.layout.size)
    plan = fl.Plan(problem, epochs=1, optimizer=fl.SGD(lr=0.1))
    runs = Population(problem, [plan, plan.with_lr(0.2)], start=start)
    assert np.array_equal(runs.answers(), [start, start])


def test_evaluation_takes_rows_and_problems():
    X, y = digits_like()
    problem = fl.logistic(X[:150], y[:150])
    plan = fl.Plan(problem, epochs=1, optimizer=fl.SGD(lr=0.1))
    runs = Population(problem, [plan])
    runs.advance(plan.steps)
    assert runs.evaluate((X[150:], y[150:])) == runs.evaluate(problem.on(X[150:], y[150:]))


MESSAGES = [
    (lambda p, q: [], "a population needs at least one plan"),
    (lambda p, q: [q.with_lr(fl.auto)], "plan 0 has lr=auto: give each run of a population a number, with plan.with_lr(0.1)"),
    (
        lambda p, q: [q, fl.Plan(p, epochs=1, seed=3, optimizer=fl.SGD(lr=1))],
        "plan 1 has seed=3 and plan 0 seed=0: the runs of a population share rows, steps, batch_size and seed; make one population for each",
    ),
    (lambda p, q: [fl.Plan(rows=3, epochs=1, optimizer=fl.SGD(lr=1))], "the plans are for 3 rows and the problem has 200; make them with Plan(problem, ...)"),
]


@pytest.mark.parametrize(("plans", "message"), MESSAGES)
def test_messages(plans, message):
    problem = fl.logistic(*digits_like())
    with pytest.raises(fl.InvalidValue) as error:
        Population(problem, plans(problem, fl.Plan(problem, epochs=1, optimizer=fl.SGD(lr=1))))
    assert str(error.value) == message


def test_messages_of_steps_and_numbers():
    problem = fl.logistic(*digits_like())
    runs = Population(problem, [fl.Plan(problem, epochs=1, optimizer=fl.SGD(lr=1))])
    runs.advance(3)
    with pytest.raises(fl.InvalidValue, match=r"advance\(2\): the runs are at update 3 already; expected 3 \.\. 4"):
        runs.advance(2)
    with pytest.raises(fl.PlanEnded):
        runs.advance(5)
    with pytest.raises(fl.InvalidValue, match=r"keep\(\[1\]\): expected at least one of 0 \.\. 0"):
        runs.keep([1])
