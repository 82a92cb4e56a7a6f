"""Changing a plan's batch size: what is rescaled, what stays, that it can be undone, and that it helps on real data."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fallline as fl
from fallline.engines.reference import ReferenceEngine
from fallline.history import State
from fallline.plan import Plan
from fallline.schedules import inverse_scaling, optimal

ROWS = 6000
SHAPES = [
    None, "cosine", "linear(to=0.01)", "warmup(10%) > cosine", "warmup(2 epochs, start=0.1x) > linear", "one_cycle",
    "step_decay(0.1, every=4 epochs)", "step_decay(0.1, at=[4 epochs, 8 epochs])", "step_decay(0.5, at=[25%, 50%])",
    "constant(over=50%) > linear(to=0)", "exponential(gamma=0.999)", "exponential(gamma=0.9, per=1 epoch) per 1 epoch", "cosine(start=0.02)",
]  # fmt: skip


def plan_of(optimizer, batch: int = 50, epochs: float = 12) -> Plan:
    return Plan(rows=ROWS, epochs=epochs, batch_size=batch, optimizer=optimizer)


@pytest.mark.parametrize("rule", [fl.SGD(lr=0.1), fl.SGD(lr=0.1, momentum=0.9, nesterov=True), fl.Nesterov(lr=0.1), fl.MovingAverage(lr=0.1), fl.ScheduleFree(lr=0.1)])
def test_linear_for_sgd_and_its_momentum(rule):
    larger = plan_of(rule).with_batch_size(150)
    assert larger.optimizer.lr == 0.3 and "multiplied by 3 (linear rule)" in larger.notes[0]
    assert getattr(larger.optimizer, "momentum", None) == getattr(rule, "momentum", None)


@pytest.mark.parametrize("rule", [fl.Adam(lr=0.001), fl.AdamW(lr=0.001), fl.NAdam(lr=0.001), fl.RMSProp(lr=0.001), fl.AdaGrad(lr=0.001)])
def test_square_root_for_adaptive_rules(rule):
    larger = plan_of(rule).with_batch_size(200)
    assert larger.optimizer.lr == 0.002 and "multiplied by 2 (square root rule); betas and eps stay" in larger.notes[0]
    assert replace(larger.optimizer, lr=0.001, schedule=None) == rule


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", [fl.SGD(lr=0.1, momentum=0.9), fl.AdamW(lr=0.003)], ids=["sgd", "adamw"])
def test_there_and_back_is_the_same_plan(rule, shape):
    plan = plan_of(replace(rule, schedule=shape))
    for size in (100, 150, 250, 400):
        back = plan.with_batch_size(size).with_batch_size(50)
        assert back == plan, size


@given(st.floats(1e-6, 10), st.integers(1, ROWS), st.integers(1, ROWS), st.sampled_from([fl.SGD, fl.Adam]))
def test_the_rate_comes_back(lr, a, b, rule):
    plan = Plan(rows=ROWS, epochs=4, batch_size=a, optimizer=rule(lr=lr))
    back = plan.with_batch_size(b).with_batch_size(a)
    assert back.optimizer.lr == pytest.approx(lr, rel=2e-15) and back.epochs == pytest.approx(4)
    short = float(f"{lr:.6g}")
    again = plan.with_lr(short).with_batch_size(b).with_batch_size(a)
    assert again.optimizer.lr == short


@pytest.mark.parametrize("shape", ["warmup(10%) > cosine", "warmup(20 steps, start=0.01) > linear(to=0.02)", "one_cycle(start=0.03)", "warmup(1 epoch) > step_decay(0.1, at=[240 steps, 6 epochs])", "warmup(5%) > exponential(gamma=0.998)"])
def test_the_whole_curve_is_multiplied_over_the_same_rows(shape):
    """Absolute rates inside a schedule, and lengths in steps, follow too: new lr at update t = k * old lr at update k*t."""
    plan = plan_of(fl.SGD(lr=0.1, schedule=shape))
    larger = plan.with_batch_size(100)
    t = np.arange(larger.steps)
    np.testing.assert_allclose(larger.lr_at(t), 2 * plan.lr_at(2 * t), rtol=1e-9, atol=1e-12)


def test_a_rate_that_is_a_schedule_is_multiplied():
    plan = plan_of(fl.SGD(lr=fl.linear(start=0.2, to=0.01)))
    smaller = plan.with_batch_size(25)
    np.testing.assert_allclose(smaller.lr_at(2 * np.arange(plan.steps)), plan.lr_at() / 2, rtol=1e-9)
    larger = plan.with_batch_size(100)
    assert larger.optimizer.lr == fl.warmup(fl.fraction(0.05), start=0.2, to=0.4).then(fl.linear(start=0.4, to=0.02))
    assert larger.with_batch_size(50) == plan
    for own in (optimal(1e-3), fl.custom(lambda x, length: 0.5)):
        assert plan_of(fl.SGD(lr=own)).with_batch_size(25).lr_at([0])[0] == own.bind(plan.clock)(0) / 2
        assert plan_of(fl.SGD(lr=own)).with_batch_size(25).with_batch_size(50).lr_at([0])[0] == own.bind(plan.clock)(0)


def test_what_counts_updates_by_a_formula_is_told():
    notes = plan_of(fl.SGD(lr=0.1, schedule=inverse_scaling(0.5))).with_batch_size(25).notes
    assert "schedule: inverse_scaling counts updates by its own formula, which was left as it is" in notes


def test_a_warmup_is_added_where_there_is_none_and_the_milestones_stay():
    plan = plan_of(fl.SGD(lr=0.1, schedule="step_decay(0.1, at=[4 epochs, 8 epochs])"))
    larger = plan.with_batch_size(100)
    lr, w = larger.lr_at(), 36  # 5 % of 720 updates
    assert lr[0] == pytest.approx(0.1) and lr[w] == pytest.approx(0.2) and (np.diff(lr[: w + 1]) > 0).all()
    np.testing.assert_allclose(lr[w:], 2 * plan.lr_at()[2 * w :: 2], rtol=1e-12)
    assert "a warmup over the first 5% of the plan was added, from the rate before" in larger.notes
    every = plan_of(fl.SGD(lr=0.1, schedule="step_decay(0.1, every=4 epochs)")).with_batch_size(100)
    np.testing.assert_allclose(every.lr_at(), lr, rtol=1e-12)


@pytest.mark.parametrize("shape", ["warmup(5%) > constant", "one_cycle", "linear(start=0.1x, to=1x, over=10%) > cosine"])
def test_no_second_warmup(shape):
    larger = plan_of(fl.SGD(lr=0.1, schedule=shape)).with_batch_size(200)
    assert str(larger.optimizer.schedule) == str(fl.schedule(shape)) and not any("warmup" in note for note in larger.notes)


def test_no_warmup_for_a_smaller_rate_and_a_refusal_is_told():
    assert plan_of(fl.SGD(lr=0.1)).with_batch_size(25).optimizer.schedule is None
    doubled = plan_of(fl.SGD(lr=0.1, schedule="2 * cosine")).with_batch_size(100)
    assert any(note.startswith("no warmup was added, because the schedule's beginning has no place") for note in doubled.notes)
    early = plan_of(fl.SGD(lr=0.1, schedule="step_decay(0.1, at=[10 steps])")).with_batch_size(100)
    assert any(note.startswith("no warmup was added") for note in early.notes)


def test_steps_cover_the_same_rows_and_other_lengths_stay():
    rule = fl.SGD(
        lr=0.1, momentum=fl.one_cycle_momentum(up=fl.steps(300)), schedule="warmup(100 steps) > step_decay(0.1, every=400 steps)",
        groups={"a.*": fl.Group(lr=0.3, frozen=fl.steps(60)), "b.*": fl.Group(weight_decay=0.5, frozen=fl.epochs(1))},
    )  # fmt: skip
    larger = plan_of(rule).with_batch_size(100)
    assert larger.steps == 720 and str(larger.optimizer.schedule) == "warmup(50 steps) > step_decay(0.1, every=200 steps)"
    assert larger.optimizer.momentum == fl.one_cycle_momentum(up=fl.steps(150))
    assert dict(larger.optimizer.groups) == {"a.*": fl.Group(lr=0.3, frozen=fl.steps(30)), "b.*": fl.Group(weight_decay=0.5, frozen=fl.epochs(1))}
    text = larger.explain()
    assert "schedule counts steps: warmup(100 steps) > step_decay(0.1, every=400 steps) became warmup(50 steps)" in text
    assert "momentum counts steps" in text and "groups frozen for a number of steps are frozen over the same rows" in text
    assert larger.with_batch_size(50) == plan_of(rule)


def test_the_last_batch_counts_as_the_update_it_is():
    """1,000 rows in batches of 300 are 4 updates an epoch, not 3.33: an epoch in steps stays an epoch."""
    plan = Plan(rows=1000, steps=32, batch_size=64, optimizer=fl.SGD(lr=0.1, schedule="warmup(16 steps) > cosine"))
    larger = plan.with_batch_size(300)
    assert larger.epochs == plan.epochs == 2 and str(larger.optimizer.schedule).startswith("warmup(4 steps)")
    assert larger.optimizer.lr == pytest.approx(0.1 * 300 / 64)


def test_drops_closer_than_an_update_become_one_larger_drop():
    plan = plan_of(fl.SGD(lr=0.1, schedule="warmup(5%) > step_decay(every=2 steps)"))
    larger = plan.with_batch_size(400)
    assert str(larger.optimizer.schedule) == "warmup(5%) > step_decay(0.0001, every=1 step)"
    assert "step_decay(0.1, every=3 steps)" in str(plan_of(fl.SGD(lr=0.1, schedule="step_decay(every=12 steps)")).with_batch_size(200).notes)


def test_dropping_the_last_batch_keeps_the_rate_and_the_epochs():
    plan = Plan(rows=1000, epochs=4, batch_size=300, optimizer=fl.SGD(lr=0.1, schedule="warmup(8 steps) > cosine"))
    dropped = plan.with_batch_size(fl.Batches(300, last="drop"))
    assert dropped.optimizer == fl.SGD(lr=0.1, schedule="warmup(6 steps) > cosine") and dropped.epochs == 4
    assert not any("lr was" in note for note in dropped.notes)


def test_plans_in_steps_and_streams_cover_the_same_rows():
    assert Plan(rows=ROWS, steps=333, batch_size=50, optimizer=fl.SGD(lr=0.1)).with_batch_size(25).steps == 666
    rounded = Plan(rows=ROWS, steps=333, batch_size=50, optimizer=fl.SGD(lr=0.1)).with_batch_size(100)
    assert rounded.steps == 167 and "the plan's length was rounded from 2.775 epochs to 2.78333" in rounded.notes
    stream = Plan(steps=1001, batch_size=64, optimizer=fl.SGD(lr=0.1)).with_batch_size(128)
    assert stream.steps == 501 and stream.optimizer.lr == 0.2 and "the plan's length was rounded from 64,064 rows to 64,128" in stream.notes


@pytest.mark.parametrize("average", [fl.ema(0.99), 0.01])
def test_an_average_forgets_over_the_same_rows(average):
    plan = plan_of(fl.SGD(lr=0.1, average=average))
    larger = plan.with_batch_size(200)
    weight = larger.rows_between(0, 1)[0].column("average")[0, 0]
    assert weight == pytest.approx(1 - 0.99**4, rel=1e-12)
    assert any(note.endswith("it forgets over the same rows") for note in larger.notes)
    assert larger.with_batch_size(50).optimizer == plan.optimizer
    assert plan_of(fl.SGD(lr=0.1, average=fl.polyak(fl.steps(40)))).with_batch_size(200).optimizer.average == fl.polyak(fl.steps(10))


def test_auto_is_found_for_the_new_size():
    larger = plan_of(fl.SGD(momentum=0.9, schedule="warmup(100 steps) > cosine")).with_batch_size(1000)
    assert larger.lr_is_auto and "lr is auto, so it is found for the new size" in larger.notes[0]
    assert str(larger.optimizer.schedule) == "warmup(5 steps) > cosine(to=0)" and "above 512" not in larger.explain()


def test_the_same_size_is_the_same_plan_and_full_batches_count_their_rows():
    plan = plan_of(fl.SGD(lr=0.1))
    assert plan.with_batch_size(50) == plan and plan.with_batch_size(50).notes == ()
    full = plan.with_batch_size(fl.Batches.full())
    assert full.optimizer.lr == 12 and full.steps == 12 and full.batch_size.is_full
    assert full.with_batch_size(50).optimizer.lr == 0.1
    ordered = Plan(rows=100, epochs=1, batch_size=fl.Batches(10, order=fl.InFile(), last="drop"), optimizer=fl.SGD(lr=0.1)).with_batch_size(20)
    assert ordered.batch_size == fl.Batches(20, order=fl.InFile(), last="drop")


# ---- on real data


@pytest.fixture(scope="module")
def digits():
    X, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return fl.softmax(X / 16, y)


def losses(problem, plan: Plan) -> np.ndarray:
    """The loss over all rows after each epoch."""
    engine, state = ReferenceEngine(problem), State.begin(problem.start(), plan.optimizer.start())
    out, per = [], plan.steps_per_epoch or 1
    for start in range(0, plan.steps, per):
        state = engine.advance(state, plan.segment(start, start + per, problem.layout)).state
        out.append(problem.loss(state.w))
    return np.array(out)


@pytest.mark.parametrize("rule", [fl.SGD(lr=0.1), fl.SGD(lr=0.05, momentum=0.9), fl.Adam(lr=0.001), fl.RMSProp(lr=0.001)], ids=["sgd", "momentum", "adam", "rmsprop"])
def test_with_the_rule_the_loss_by_row_stays_close(digits, rule):
    """Seen: the curves part by 0.04, 0.07, 0.10, 0.03 with the rule and by 0.44, 0.56, 0.24, 0.22 without (log of the loss)."""
    plan = Plan(digits, epochs=5, batch_size=32, optimizer=rule)
    reference = losses(digits, plan)
    larger = plan.with_batch_size(64)
    apart = [float(np.abs(np.log(losses(digits, p) / reference)).max()) for p in (larger, replace_rule(larger, rule))]
    assert apart[0] < 0.5 * apart[1] and apart[1] > 0.15, apart
    assert larger.optimizer.lr == pytest.approx(rule.lr * (math.sqrt(2) if isinstance(rule, (fl.Adam, fl.RMSProp)) else 2))


def replace_rule(plan: Plan, rule) -> Plan:
    return Plan(rows=plan.rows, epochs=plan.epochs, batch_size=plan.batch_size, optimizer=rule, seed=plan.seed)
