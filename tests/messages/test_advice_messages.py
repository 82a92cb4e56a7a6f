"""What the range test says when it is asked wrongly, or has no answer."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.advice.probe import Lane, Probe, Rung
from fallline.advice.search import answer
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


@pytest.mark.parametrize("budget", [0, -1.0, float("inf"), float("nan"), True, "half"])
def test_a_budget_that_is_none(problem, budget):
    with pytest.raises(InvalidValue, match=r"budget=.*expected a number above 0, a share of the full run: 0.5 is half a run"):
        fl.find_lr(problem, fl.Plan(problem, epochs=2, optimizer=fl.SGD()), budget=budget)


def test_unscaled_columns_are_remarked():
    X = 1e8 * np.random.default_rng(0).standard_normal((100, 3))
    wild = fl.least_squares(X, X[:, 0])
    found = fl.find_lr(wild, fl.Plan(wild, epochs=20, batch_size=10, optimizer=fl.SGD(momentum=0.9)))
    assert 1e-19 < found.lr < 1e-15
    assert found.verdict.endswith("typical rates for SGD are 0.01 to 0.3, so look at the scale of the columns")


def test_a_rate_far_from_the_typical_ones_is_remarked(problem):
    small = fl.logistic(problem.X * 0.01, problem.target, intercept=False)
    found = fl.find_lr(small, fl.Plan(small, epochs=20, batch_size=32, optimizer=fl.SGD()))
    assert "typical rates for SGD are 0.01 to 0.1" in found.verdict


def said(problem, plan, **asked):
    found = fl.find_lr(problem, plan, **asked)
    with pytest.raises(NoLearningRate) as caught:
        _ = found.lr
    assert found.interval is None and str(caught.value) == found.verdict
    assert len(found.curve.lr) == len(found.curve.loss) > 0
    return found.verdict


def test_nothing_to_descend():
    flat = fl.least_squares(np.zeros((20, 2)), np.ones(20), intercept=False)
    assert said(flat, fl.Plan(flat, epochs=20, optimizer=fl.SGD())) == "the gradient is zero at the start: there is nothing to descend; no answer"


def test_not_finite_at_the_start():
    broken = fl.function(lambda w: float("nan"), start=[1.0])
    said_of_it = said(broken, fl.Plan(broken, steps=50, optimizer=fl.SGD()))
    assert said_of_it == "the loss or its gradient is not finite at the start: look at the data, or start elsewhere; no answer"


def test_nothing_is_gained_on_the_held_out_rows(problem):
    """The answer is known already, and the labels of the validation rows are turned round: every step makes it worse."""
    valid = (problem.X[:40], ~problem.target[:40].astype(bool))
    training = fl.logistic(problem.X, problem.target.astype(bool))
    told = said(training, fl.Plan(training, epochs=30, batch_size=16, optimizer=fl.SGD()), valid=valid)
    assert told.startswith("no rate from ") and "lowers the loss on 40 validation rows clearly: from 0.6931 to" in told


def test_everything_diverges(problem):
    plan = fl.Plan(problem, epochs=2, optimizer=fl.SGD())
    probe = Probe(problem, plan, [Lane(plan.batch_size, [problem])], 100, "the loss", first=np.array([0.7]))
    lost = Rung(5, np.array([0.1, 10.0]), np.full(2, np.inf), np.full((2, 1), np.inf))
    assert answer([lost], probe, plan.steps).verdict == "every rate tried, 0.1 to 10, diverged within 5 updates; no answer"
    rising = Rung(5, np.array([0.1, 10.0]), np.array([0.6, 0.5]), np.array([[0.6], [0.5]]))
    assert answer([rising], probe, plan.steps).verdict == (
        "the best rate tried is the highest one (from 0.7 to 0.5 at 10, over 5 updates), and the budget ended there; no answer"
    )


# ---------------------------------------------------------------------------------------------- the batch size


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"most": 0}, "find_batch_size(most=0): expected a whole number of rows, 1 or more"),
        ({"most": 1.5}, "find_batch_size(most=1.5): expected a whole number of rows, 1 or more"),
        ({"budget": "half"}, "find_batch_size(budget='half'): expected a number above 0, a share of the plan: 0.5 is half a run"),
        ({"memory": "lots"}, "memory='lots': expected a number of bytes above 0, or text such as \"2GB\""),
        ({"memory": 0}, "memory=0: expected a number of bytes above 0, or text such as \"2GB\""),
    ],
)
def test_a_batch_size_asked_for_wrongly(problem, asked, said):
    with pytest.raises(InvalidValue) as caught:
        fl.find_batch_size(problem, fl.Plan(problem, epochs=2, optimizer=fl.SGD(lr=0.1)), **asked)
    assert str(caught.value) == said


def test_a_batch_size_of_what_has_no_rows_to_choose_among():
    function = fl.rosenbrock()
    with pytest.raises(InvalidValue) as caught:
        fl.find_batch_size(function, fl.Plan(function, steps=10, optimizer=fl.SGD(lr=1e-3)))
    assert str(caught.value).endswith("has one row: there is no batch size to choose")


def test_a_batch_size_for_another_plan(problem):
    with pytest.raises(fl.PlanMismatch) as caught:
        fl.find_batch_size(problem, fl.Plan(rows=1000, epochs=1, optimizer=fl.SGD(lr=0.1)))
    assert str(caught.value) == "the plan is for 1,000 rows and the problem has 100; make it with Plan(problem, ...)"


def test_gradients_that_are_too_few():
    from fallline.advice.batch_size.noise import Blocks, noise_scale

    with pytest.raises(InvalidValue) as caught:
        noise_scale(Blocks.of([np.ones((5, 2))]))
    assert str(caught.value) == "noise_scale: expected at least two blocks of gradients and two units beside the largest, of each set of weights"
