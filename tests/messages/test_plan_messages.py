"""What plans say about values that cannot stand."""

from __future__ import annotations

import numpy as np
import pytest

from fallline.batches import Batches
from fallline.errors import FalllineError, InvalidValue, PlanEnded, PlanMismatch
from fallline.plan import Plan
from fallline.problems import least_squares, quadratic
from fallline.rules import SGD

PLAN = Plan(rows=100, epochs=2, batch_size=10, optimizer=SGD(lr=0.1))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Plan(rows=10), InvalidValue, "Plan was given neither: expected one of epochs= (passes over the rows) and steps= (updates)"),
        (lambda: Plan(rows=10, epochs=1, steps=1), InvalidValue, "Plan was given epochs=1 and steps=1: expected one of"),
        (lambda: Plan(rows=10, epochs=0), InvalidValue, "epochs=0: expected a finite number above 0; to evaluate without training"),
        (lambda: Plan(rows=10, epochs=-1), InvalidValue, "epochs=-1: expected a finite number above 0"),
        (lambda: Plan(rows=10, epochs=float("nan")), InvalidValue, "epochs=nan: expected a finite number"),
        (lambda: Plan(rows=10, epochs=True), InvalidValue, "epochs=True"),
        (lambda: Plan(rows=10, steps=0), InvalidValue, "steps=0: expected a whole number of at least 1; to evaluate without training"),
        (lambda: Plan(rows=10, steps=1.5), InvalidValue, "steps=1.5: expected a whole number"),  # type: ignore[arg-type]
        (lambda: Plan(rows=1000, epochs=1e-4), InvalidValue, "epochs=0.0001 is no update at all (16 updates an epoch)"),
        (lambda: Plan(rows=10, epochs=1, batch_size=64), InvalidValue, "use a batch size of at most 10, or Batches.full()"),
        (lambda: Plan(rows=10, epochs=1, batch_size=0), InvalidValue, "batch_size=0: expected a whole number of at least 1"),
        (lambda: Plan(rows=10, epochs=1, batch_size="64"), InvalidValue, "batch_size='64'"),  # type: ignore[arg-type]
        (lambda: Plan(rows=0, epochs=1), InvalidValue, "rows=0: expected a whole number of at least 1"),
        (lambda: Plan(rows=10, epochs=1, seed=-1), InvalidValue, "seed=-1: expected a whole number of at least 0"),
        (lambda: Plan(1000, epochs=1), InvalidValue, "for a number of rows write Plan(rows=1000, ...)"),
        (lambda: Plan("data.csv", epochs=1), InvalidValue, "expected a problem with .rows"),
        (lambda: Plan(epochs=1), InvalidValue, "epochs=1 of a plan that does not know its rows: give rows=, a problem, or steps="),
        (lambda: Plan(rows=10, epochs=1, optimizer="sgd"), InvalidValue, "optimizer='sgd': expected a rule such as fl.SGD(lr=0.1, momentum=0.9)"),
        (lambda: Plan(rows=10, epochs=1, optimizer=SGD), InvalidValue, "expected a rule such as fl.SGD"),
        (lambda: PLAN.segment(19, 21, None), PlanEnded, "update 20 was asked for and the plan ends with update 19"),  # type: ignore[arg-type]
        (lambda: PLAN.segment(5, 4, None), InvalidValue, "expected 0 <= start <= stop <= 20"),  # type: ignore[arg-type]
        (lambda: PLAN.table([20]), InvalidValue, "expected updates between 0 and 19"),
        (lambda: PLAN.table()["learning"], InvalidValue, "no column 'learning'"),
        (lambda: PLAN.explain(least_squares(np.eye(3), [1, 2, 3])), PlanMismatch, "the plan is for 100 rows and the problem has 3"),
        (lambda: list(Plan(steps=5).batches()), PlanMismatch, "batches of a plan that does not know its rows"),
        (lambda: Plan(rows=9, epochs=1).lr_at(), InvalidValue, "the learning rate is auto: give a number"),
        (lambda: PLAN.sampler(rank=2, world=2), InvalidValue, "rank=2, world=2: expected 0 <= rank < world"),
        (lambda: PLAN.sampler(start=21), PlanEnded, "start=21: expected an update between 0 and 20"),
        (lambda: Plan(rows=9, epochs=1, batch_size=4).sampler(0, 2), InvalidValue, "the smallest batch has 1 rows for 2 processes"),
        (lambda: PLAN.sampler().load_state_dict({"step": 1, "plan": "x"}), InvalidValue, "belongs to another plan"),
        (lambda: Plan.from_json("{}"), InvalidValue, "not a plan"),
        (lambda: Plan.from_json(PLAN.to_json() | {"schema": 99}), InvalidValue, "plan of versions (99, 1)"),
        (lambda: Plan(rows=10, epochs=1, batch_size=Batches(11)), InvalidValue, "at most 10"),
    ],
)
def test_values_that_cannot_stand(make, kind, message):
    with pytest.raises(FalllineError) as raised:
        make()
    assert isinstance(raised.value, kind)
    assert message in str(raised.value)


def test_stability_says_what_it_lacks():
    with pytest.raises(InvalidValue, match=r"stability\(\) was given neither a problem, whose curvature is measured, nor curvature="):
        Plan(rows=10, epochs=1, optimizer=SGD(lr=0.1)).stability()
    with pytest.raises(InvalidValue, match="the learning rate is auto, so there is no step to look at"):
        Plan(rows=10, epochs=1).stability(curvature=1.0)
    with pytest.raises(InvalidValue, match="curvature=nan: expected a finite number, the largest eigenvalue of the Hessian"):
        Plan(rows=10, epochs=1, optimizer=SGD(lr=0.1)).stability(curvature=float("nan"))
    bowl = quadratic([1, 100])
    with pytest.raises(PlanMismatch, match="the plan is for 10 rows and the problem has 1"):
        Plan(rows=10, epochs=1, optimizer=SGD(lr=0.1)).stability(bowl)


def test_explain_warns_of_a_rate_above_the_edge_and_of_no_other():
    bowl = quadratic([1, 100])
    above, below = (Plan(bowl, steps=50, optimizer=SGD(lr=lr)).explain(bowl) for lr in (0.03, 0.01))
    assert above.splitlines()[-1] == (
        "warning: 50 of 50 steps are above the edge of stability, the first at update 0: lr 0.03, and the steepest direction bears 0.02 "
        "(curvature 100 at the start), growing by 10^15 in all; a peak lr below 0.02 would be stable"
    )
    assert "warning" not in below and "warning" not in Plan(bowl, steps=50, optimizer=SGD(lr=0.03)).explain()
