"""What recipes, batch sizes and typical rates say."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.advice import recipes
from fallline.errors import InvalidValue, PlanMismatch
from fallline.plan import Plan
from fallline.rules import typical_lr, unusual_lr


class Net:
    def named_parameters(self):
        return [("body.weight", 0), ("fc.weight", 0)]


class Still:
    def named_parameters(self):
        return [(name, type("P", (), {"requires_grad": name == "fc"})()) for name in ("conv", "fc")]


PLAN = Plan(rows=5000, epochs=4, batch_size=50, optimizer=fl.SGD(lr=0.1))
LINE = fl.least_squares(np.eye(3), [1, 2, 3])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: recipes.fine_tune(Net(), rows=9, head="head.*"), "the pattern 'head.*' is left without a parameter that trains; parameters: body.weight, fc.weight"),
        (lambda: recipes.fine_tune(Net(), rows=9, head="*"), "expected at least one pattern for the head, and none of them in the body too"),
        (lambda: recipes.fine_tune(Net(), rows=9, head="[bf]*"), "the pattern '*' is left without a parameter"),
        (lambda: recipes.fine_tune(Net(), rows=9, head="fc.*", body={"layer*": 0.1}), "no pattern matches the parameter 'body.weight'; patterns: fc.*, layer*; add '*' to body"),
        (lambda: recipes.fine_tune(Still(), rows=9, head="fc"), "the pattern '*' is left without a parameter that trains; parameters: fc"),
        (lambda: recipes.fine_tune(object(), rows=9, head="fc.*"), "fine_tune(object): expected a model with named_parameters()"),
        (lambda: recipes.fine_tune(Net(), rows=9, head="fc.*", optimizer=fl.SGD(lr=1, groups={"*": fl.Group()})), "it has groups already"),
        (lambda: recipes.imagenet_resnet(drops=()), "imagenet_resnet(drops=()): expected at least one epoch"),
        (lambda: recipes.small_data(rows=20), "a batch of 32 rows was asked for, but the data have only 20 rows"),
        (lambda: recipes.suggest(object(), 10), "suggest(object): expected a module with modules() and named_parameters(), or a linear problem"),
        (lambda: PLAN.with_batch_size(5001), "a batch of 5001 rows was asked for, but the data have only 5000 rows"),
        (lambda: PLAN.with_batch_size(0), "Batches(size=0): expected a whole number of rows, 1 or more"),
        (lambda: Plan(steps=5, batch_size=10).with_batch_size(fl.Batches.full()), "a stream's plan does not know its rows; expected a number of rows for a batch"),
        (
            lambda: Plan(rows=5000, steps=5, batch_size=10, optimizer=fl.SGD(lr=0.1)).with_batch_size(5000),
            "with_batch_size(5000): the plan's 5 updates of 10 rows are less than half an update of 5,000; take a smaller batch, or make a longer plan",
        ),
    ],
)
def test_refusals_say_what_to_do(make, message):
    with pytest.raises(InvalidValue) as raised:
        make()
    assert message in str(raised.value)


def test_rows_that_disagree():
    with pytest.raises(PlanMismatch, match="the problem has 3 rows; leave rows out"):
        recipes.suggest(LINE, 4)
    with pytest.raises(InvalidValue, match="a module does not know its data; give the number of training rows"):
        recipes.suggest(type("M", (), {"modules": lambda s: [], "named_parameters": lambda s: []})())


def test_the_textbooks_warning_above_512():
    said = "a batch of 1,000 rows is above 512: there the rule is not enough, tune the learning rate with care, e.g. find_lr(problem, plan)"
    assert said in PLAN.with_batch_size(1000).notes and f"note: {said}" in PLAN.with_batch_size(1000).explain()
    assert not any("above 512" in note for note in PLAN.with_batch_size(512).notes)
    assert any("above 512" in note for note in PLAN.with_batch_size(513).notes)


RULES = [fl.SGD(lr=1), fl.SGD(lr=1, momentum=0.9), fl.Nesterov(lr=1), fl.MovingAverage(lr=1), fl.Adam(lr=1), fl.AdamW(lr=1), fl.NAdam(lr=1), fl.RMSProp(lr=1), fl.AdaGrad(lr=1), fl.ScheduleFree(lr=1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_explain_warns_far_outside_the_typical_rates(rule):
    low, high = typical_lr(rule)
    for lr, word in ((low / 11, "below"), (high * 11, "above")):
        text = Plan(rows=100, epochs=1, batch_size=10, optimizer=rule.with_lr(lr)).explain()
        assert f"is 11 times {word} the typical rates for {type(rule).__name__}" in text and "test it with find_lr(problem, plan)" in text
    for lr in (low / 10, low, high, high * 10):
        assert "typical" not in Plan(rows=100, epochs=1, batch_size=10, optimizer=rule.with_lr(lr)).explain()


def test_the_warning_reads_the_peak_and_names_momentum():
    plan = Plan(rows=100, epochs=1, batch_size=10, optimizer=fl.SGD(lr=5.0, momentum=0.9, schedule="warmup(50%) > linear(to=0)"))
    assert "    lr 5 is 16.7 times above the typical rates for SGD with momentum, 0.01 to 0.3: test it with" in plan.explain()
    cosine = Plan(rows=100, epochs=1, batch_size=10, optimizer=fl.Adam(lr=fl.cosine(start=0.5)))
    assert "lr 0.5 is 500 times above the typical rates for Adam, 0.0001 to 0.001" in cosine.explain()
    assert unusual_lr(fl.SGD(), 0.0) == "" and "lr 0: no update does anything" in Plan(rows=9, epochs=1, optimizer=fl.SGD(lr=0)).explain()
