"""Laws of rules and of the reference engine: cuts change nothing, constants stay constants, groups, edges, JSON."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fallline.engines.reference import ReferenceEngine
from fallline.history import State
from fallline.layout import Layout, Parameter
from fallline.lengths import Clock, epochs, fraction, steps
from fallline.plan import Plan
from fallline.rows import INDEX
from fallline.rules import (
    RULES,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Group,
    MovingAverage,
    NAdam,
    Nesterov,
    RMSProp,
    ScheduleFree,
    auto,
    default_lr,
    edge,
    resolve_groups,
    rule_class,
    rule_from_json,
    typical_lr,
)
from fallline.schedules import cosine, ema, linear, one_cycle_momentum, polyak, schedule

LAYOUT = Layout((Parameter("coef", (3,)), Parameter("intercept", (), "bias")))
ALONE = (Group(weight_decay=1.0, l1=1.0),)
NAMES = {
    "SGD": SGD, "Group": Group, "Nesterov": Nesterov, "MovingAverage": MovingAverage, "Adam": Adam, "AdamW": AdamW, "NAdam": NAdam,
    "RMSProp": RMSProp, "AdaGrad": AdaGrad, "ScheduleFree": ScheduleFree, "auto": auto, "epochs": epochs, "steps": steps,
    "fraction": fraction, "linear": linear, "cosine": cosine, "ema": ema, "polyak": polyak,
}  # fmt: skip


class Toy:
    """Least squares on 12 rows, float64; `bad` is the first update whose gradient is not finite."""

    layout = LAYOUT

    def __init__(self, bad: int | None = None):
        r = np.random.default_rng(1)
        self.X, self.y, self.bad, self.calls = r.standard_normal((12, 3)), r.standard_normal(12), bad, 0

    def gradient(self, w, batch):
        X, y = self.X[batch], self.y[batch]
        e = X @ w[:3] + w[3] - y
        self.calls += 1
        g = np.append(X.T @ e, e.sum()) / len(y)
        return float(e @ e / 2 / len(y)), np.full(4, np.nan) if self.bad == self.calls - 1 else g


schedules = st.sampled_from([None, "cosine", "warmup(10%) > linear(to=0)", "step_decay(0.1, every=7steps)", "exponential(rate=0.01)"])
frozen = st.sampled_from([None, steps(0), steps(5), epochs(1), fraction(1)])
groups = st.one_of(
    st.none(),
    st.builds(
        lambda lr, wd, still: {"inter*": Group(lr=lr, weight_decay=wd, frozen=still)},
        st.sampled_from([0, 1, 3.0]), st.sampled_from([None, 0.5]), frozen,
    ),
)  # fmt: skip
common = {
    "lr": st.sampled_from([0.0, 0.01, 0.1]), "weight_decay": st.sampled_from([0.0, 0.01, schedule("linear(start=0.1, to=0)")]),
    "clip": st.sampled_from([None, 0.3]), "schedule": schedules, "groups": groups,
}  # fmt: skip
extra = common | {"l1": st.sampled_from([0.0, 0.05]), "average": st.sampled_from([None, polyak(), ema(0.9), 0.2])}
momentum = st.sampled_from([0.5, 0.9, linear(start=0.95, to=0.8)])
rules = st.one_of(
    st.builds(SGD, **extra, momentum=st.one_of(st.just(0.0), momentum)),
    st.builds(SGD, **extra, momentum=momentum, nesterov=st.just(True), decoupled=st.booleans()),
    st.builds(SGD, **extra, momentum=momentum, dampening=st.sampled_from([0.3, 1.0])),
    st.builds(Nesterov, **extra, momentum=momentum),
    st.builds(MovingAverage, **extra, momentum=momentum, decoupled=st.booleans()),
    st.builds(Adam, **extra, betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.99, 0.9999)])),
    st.builds(AdamW, **extra),
    st.builds(NAdam, **extra, betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)])),
    st.builds(RMSProp, **extra),
    st.builds(AdaGrad, **extra, initial=st.sampled_from([0.0, 0.5])),
    st.builds(ScheduleFree, **common, momentum=st.sampled_from([0.5, 0.9, 1.0])),
)


def cut(total, cuts):
    return itertools.pairwise(sorted({0, total, *(c for c in cuts if c < total)}))


# ---- rows


@settings(max_examples=150, deadline=None)
@given(rules, st.integers(1, 60), st.lists(st.integers(0, 60), max_size=6))
def test_rows_cut_anywhere_have_the_same_bits_and_the_same_columns(rule, total, cuts):
    clock, own = Clock(total, 10), resolve_groups(rule, LAYOUT)[0]
    whole = rule.rows(clock, own, 0, total)
    parts = [rule.rows(clock, own, a, b) for a, b in cut(total, cuts)]
    np.testing.assert_array_equal(np.concatenate([p.dense() for p in parts]).view(np.int64), whole.dense().view(np.int64))
    assert {p.names for p in parts} == {whole.names}
    assert {p.registers for p in parts} == {whole.registers}
    assert rule.rows(clock, own, total, total).names == whole.names


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([Adam(0.1), NAdam(0.1), NAdam(0.1, betas=(0.999, 0.9)), ScheduleFree(0.1, schedule="warmup(10%) > cosine(to=0.01)")]),
    st.integers(0, 100_000), st.integers(1, 9000),
)  # fmt: skip
def test_a_stretch_far_into_a_long_plan_has_the_whole_plans_bits(rule, start, count):
    clock = Clock(100_000)
    stop = min(start + count, clock.steps)
    ours, whole = rule.rows(clock, ALONE, start, stop), long_rows(rule)
    assert ours.names == whole.names
    np.testing.assert_array_equal(ours.varying, whole.varying[start:stop])


@functools.cache
def long_rows(rule):
    return rule.rows(Clock(100_000), ALONE, 0, 100_000)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (SGD(0.1, momentum=0.9, weight_decay=0.1, clip=1.0, l1=0.1, average=0.1), ()),
        (SGD(0.1, momentum=0.9, nesterov=True, schedule="cosine"), ("lr",)),
        (SGD(0.1, schedule="constant()"), ()),
        (SGD(0.1, momentum=linear(start=0.9, to=0.8)), ("momentum",)),
        (SGD(0.1, momentum=0.9, weight_decay=0.1, decoupled=True, schedule="cosine"), ("shrink", "lr")),
        (SGD(0.1, l1=0.1, schedule="cosine"), ("lr", "threshold")),
        (SGD(0.1, average=polyak()), ("average",)),
        (Nesterov(0.1, schedule="cosine"), ("look", "lr")),
        (Adam(0.1), ("unbias", "lr")),
        (RMSProp(0.1), ()),
        (AdaGrad(0.1), ()),
        (NAdam(0.1), ("direct", "through", "unbias")),
    ],
)
def test_only_columns_that_change_are_listed(rule, names):
    assert rule.rows(Clock(50, 10), ALONE, 0, 50).names == names


def test_rows_hold_the_rules_numbers():
    row = dict(zip(INDEX, SGD(0.1, momentum=0.9, weight_decay=0.01, l1=0.5, clip=2.0).rows(Clock(9), ALONE, 0, 1).dense()[0, 0], strict=True))
    assert row == {
        "look": 0, "clip": 2, "l2": 0.01, "momentum": 0.9, "intake": 1, "direct": 0, "through": 1, "second_keep": 0,
        "second_intake": 0, "unbias": 1, "eps": 0, "shrink": 1, "lr": 0.1, "threshold": 0.05, "average": 0,
    }  # fmt: skip


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.999, 0.9999), (0.5, 0.9)])
def test_corrections_and_products_are_those_of_the_plain_loop(betas):
    product, rows = 1.0, NAdam(0.1, betas=betas, momentum_decay=1.0).rows(Clock(60_000), ALONE, 0, 60_000)
    direct, unbias = rows.column("direct")[:, 0], rows.column("unbias")[:, 0]
    for t in range(60_000):
        m = betas[0] * (1 - 0.5 * 0.96 ** (t + 1))
        product *= m
        if t % 97 == 0:
            assert math.isclose(direct[t], (1 - m) / (1 - product), rel_tol=1e-13)
            assert math.isclose(unbias[t], 1 / (1 - betas[1] ** (t + 1)), rel_tol=1e-12)


# ---- the reference engine


def advance(rule, total, cuts=(), problem=None):
    plan = Plan(rows=12, steps=total, batch_size=5, optimizer=rule, seed=2)
    engine, state, losses = ReferenceEngine(problem or Toy()), State.begin(np.arange(4) / 4, rule.start()), []
    step = None
    for a, b in cut(total, cuts):
        step = engine.advance(state, plan.segment(a, b, LAYOUT))
        state = step.state
        losses.append(step.trace.loss)
        if step.stopped_at is not None:
            break
    return step, state, np.concatenate(losses)


@settings(max_examples=60, deadline=None)
@given(rules, st.integers(1, 40), st.lists(st.integers(0, 40), max_size=5))
def test_a_descent_cut_anywhere_ends_in_the_same_bits(rule, total, cuts):
    _, whole, losses = advance(rule, total)
    _, pieces, again = advance(rule, total, cuts)
    assert whole.step == pieces.step == total
    for one, other in ((whole.w, pieces.w), (whole.v, pieces.v), (whole.s, pieces.s), (whole.a, pieces.a), (losses, again)):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(rules, st.integers(0, 14))
def test_the_guard_stands_before_the_update(rule, bad):
    step, state, losses = advance(rule, 15, (4, 9), Toy(bad))
    assert (step.stopped_at, state.step, len(losses)) == (bad, bad, bad)
    if bad:
        before = advance(rule, 15, (bad,), Toy())  # the same plan, looked at after `bad` updates
        assert before[1].step == 15
        engine, begin = ReferenceEngine(Toy()), State.begin(np.arange(4) / 4, rule.start())
        good = engine.advance(begin, Plan(rows=12, steps=15, batch_size=5, optimizer=rule, seed=2).segment(0, bad, LAYOUT)).state
        for one, other in ((good.w, state.w), (good.v, state.v), (good.s, state.s), (good.a, state.a)):
            np.testing.assert_array_equal(one, other)
    assert "not finite" in step.reason


def test_the_whole_data_is_one_batch_where_a_segment_has_no_indices():
    class Whole(Toy):
        def gradient(self, w, batch):
            assert batch is None
            return super().gradient(w, np.arange(12))

    from fallline.batches import Batches

    rule = SGD(0.1, momentum=0.9)
    plan = Plan(rows=12, steps=20, batch_size=Batches.full(), optimizer=rule)
    state = ReferenceEngine(Whole()).advance(State.begin(np.zeros(4)), plan.segment(0, 20, LAYOUT)).state
    by_hand, v, toy = np.zeros(4), np.zeros(4), Toy()
    for _ in range(20):
        v = 0.9 * v + toy.gradient(by_hand, np.arange(12))[1]
        by_hand = by_hand - 0.1 * v
    np.testing.assert_allclose(state.w, by_hand, rtol=1e-14)


# ---- groups


def test_groups_multiply_and_biases_are_not_decayed_unless_a_pattern_says_so():
    found, of = resolve_groups(SGD(0.1, groups={"coef": Group(lr=10, l1=0.5)}), LAYOUT)
    assert found == (Group(10, 1.0, 0.5), Group(1.0, 0.0, 0.0)) and of == (0, 1)
    found, of = resolve_groups(SGD(0.1, groups={"*": Group(weight_decay=2)}), LAYOUT)
    assert found == (Group(1, 2, 1.0), Group(1, 2, 0.0)) and of == (0, 1)
    rows = AdamW(0.1, weight_decay=0.5, l1=0.2).rows(Clock(5), (Group(10, 2.0, 0.5), Group(1.0, 0.0, 0.0)), 0, 5)
    np.testing.assert_allclose(rows.column("shrink")[:, 0], 1 - 0.1 * 10 * 0.5 * 2)
    np.testing.assert_allclose(rows.column("threshold")[:, 0], 0.1 * 10 * 0.2 * 0.5)
    assert (rows.column("shrink")[:, 1] == 1).all() and (rows.column("threshold")[:, 1] == 0).all()


def test_the_first_pattern_that_matches_wins():
    found, of = resolve_groups(SGD(0.1, groups={"coef": Group(lr=2), "*": Group(lr=3)}), LAYOUT)
    assert [found[g].lr for g in of] == [2, 3]


@settings(max_examples=60, deadline=None)
@given(rules, st.integers(0, 12))
def test_a_frozen_group_stands_still_to_the_bit(rule, still):
    from dataclasses import replace

    rule = replace(rule, groups={"inter*": Group(frozen=steps(still))})
    plan = Plan(rows=12, steps=20, batch_size=5, optimizer=rule, seed=2)
    engine, state = ReferenceEngine(Toy()), State.begin(np.arange(4) / 4, rule.start())
    for t in range(still):
        state = engine.advance(state, plan.segment(t, t + 1, LAYOUT)).state
        assert state.w[3] == 0.75 and state.a[3] == 0.75
        assert state.s[3] == rule.start().s
        if plan.segment(0, 20, LAYOUT).rows.registers.v:  # else v is nobody's
            assert state.v[3] == (0.75 if isinstance(rule, ScheduleFree) else 0)


@pytest.mark.parametrize("rule", [Adam(0.1), NAdam(0.1), SGD(0.1, momentum=0.9, dampening=0.5), RMSProp(0.1)])
def test_a_group_that_thaws_starts_as_if_the_plan_began_there(rule):
    late = rule.rows(Clock(30), (Group(1, 1, 1, steps(10)),), 10, 30).dense()
    np.testing.assert_array_equal(late, rule.rows(Clock(30), ALONE, 0, 20).dense())


def test_freezing_makes_only_the_columns_vary_that_it_must():
    def names(rule):
        return rule.rows(Clock(10, 5), (Group(1, 1, 1, epochs(1)),), 0, 10).names

    assert names(SGD(0.1)) == ("lr",)
    assert names(SGD(0.1, momentum=0.9)) == ("momentum", "intake", "direct", "through", "lr")
    assert names(RMSProp(0.1)) == ("second_keep", "second_intake", "eps", "lr")


# ---- stability


@pytest.mark.parametrize("b", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("h", [0.01, 1.0, 250.0])
def test_the_edges_are_those_of_theory(b, h):
    heavy, nesterov, mean = (2 + 2 * b) / h, (2 + 2 * b) / ((1 + 2 * b) * h), (2 + 2 * b) / ((1 - b) * h)
    for rule, expected in (
        (SGD(), 2 / h), (SGD(momentum=b), heavy), (SGD(momentum=b, nesterov=True), nesterov), (Nesterov(momentum=b), nesterov),
        (MovingAverage(momentum=b), mean), (SGD(momentum=b, weight_decay=h / 4), heavy / 1.25), (SGD(momentum=b, dampening=b), mean),
    ):  # fmt: skip
        assert edge(rule, h) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "rule",
    [SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), Nesterov(), MovingAverage(), SGD(momentum=0.5, weight_decay=0.3)],
)
def test_a_quadratic_descends_below_the_edge_and_blows_up_above_it(rule):
    class Quadratic:
        layout = Layout((Parameter("x", (1,)),))

        def gradient(self, w, batch):
            return float(2 * w @ w), 4.0 * w

    top = edge(rule, 4.0)
    assert top is not None
    ends = []
    for lr in (0.999 * top, 1.001 * top):
        plan = Plan(rows=1, steps=20_000, batch_size=1, optimizer=rule.with_lr(lr))
        state, size = State.begin(np.ones(1)), 1.0
        for t in range(0, 20_000, 4000):
            step = ReferenceEngine(Quadratic()).advance(state, plan.segment(t, t + 4000, Quadratic.layout))
            state, size = step.state, abs(float(step.state.w[0]))
            if step.stopped_at is not None or size > 1e3 or size < 1e-3:
                break
        ends.append(size)
    assert ends[0] < 1e-3 and ends[1] > 1e3


def test_no_edge_is_claimed_where_none_is_known():
    for rule in (Adam(), AdamW(), NAdam(), RMSProp(), AdaGrad()):
        assert edge(rule, 1.0) is None
    assert edge(ScheduleFree(momentum=0.9), 1.0) == pytest.approx(2 / (1 - 0.9), rel=2e-3)
    assert edge(SGD(), 0.0) is None and edge(SGD(), float("nan")) is None and edge(SGD(), float("inf")) is None


def test_the_edge_of_a_scheduled_momentum_is_the_smallest_on_its_way():
    assert edge(SGD(momentum=linear(start=0.9, to=0.5)), 1.0) == pytest.approx(3.0, rel=1e-3)
    assert edge(SGD(momentum=linear(start=0.5, to=0.9), nesterov=True), 1.0) == pytest.approx(3.8 / 2.8, rel=1e-3)
    assert edge(SGD(momentum=one_cycle_momentum()), 1.0) is not None


def test_typical_rates_are_the_textbooks():
    assert typical_lr(SGD()) == (0.01, 0.1) and typical_lr(SGD(momentum=0.9)) == typical_lr(Nesterov()) == (0.01, 0.3)
    assert typical_lr(Adam()) == typical_lr(AdamW()) == (1e-4, 1e-3) and typical_lr(RMSProp()) == (1e-3, 1e-2)
    assert typical_lr(MovingAverage(momentum=0.9)) == (0.1, 3.0)
    for cls in RULES.values():
        low, high = typical_lr(cls())
        assert low <= default_lr(cls()) <= high


# ---- values


@settings(max_examples=150, deadline=None)
@given(rules)
def test_json_repr_copies_and_pickles_keep_a_rule(rule):
    assert rule_from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert eval(repr(rule), NAMES) == rule and "\n" not in repr(rule)
    assert pickle.loads(pickle.dumps(rule)) == copy.deepcopy(rule) == rule
    assert hash(rule) == hash(rule_from_json(rule.to_json()))
    assert rule.formula() and rule._repr_latex_().count("{") == rule._repr_latex_().count("}")


@settings(max_examples=60, deadline=None)
@given(rules, st.floats(1e-9, 10))
def test_with_lr_changes_the_lr_alone(rule, lr):
    assume(rule.schedule is None)
    other = rule.with_lr(lr)
    assert other.lr == lr and other.with_lr(rule.lr) == rule and type(other) is type(rule)


def test_auto_survives_every_round_trip():
    rule = SGD(momentum=0.9)
    assert rule.lr is auto and repr(rule) == "SGD(lr=auto, momentum=0.9)"
    for other in (rule_from_json(rule.to_json()), pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
        assert other.lr is auto and other == rule


def test_numpys_numbers_become_plain_ones():
    half: Any = np.float32(0.5)
    assert repr(SGD(np.float64(0.5), momentum=half)) == "SGD(lr=0.5, momentum=0.5)"


def test_rules_are_found_by_name():
    assert rule_class("SGD") is rule_class("sgd") is SGD
    assert rule_class("schedule_free") is rule_class("ScheduleFree") is ScheduleFree


def test_formulas_print_the_law_with_its_numbers():
    assert SGD(0.1, momentum=0.9, weight_decay=1e-4, clip=1.0, average=polyak(), l1=0.5).formula() == (
        "g = gradient at w\n"
        "g = g * min(1, 1 / ||g||)\n"
        "v = 0.9*v + g + 0.0001*w\n"
        "w = w - lr*v\n"
        "w = sign(w) * max(|w| - lr*0.5, 0)\n"
        "a = a + polyak * (w - a)        the answer is a\n"
        "lr = 0.1"
    )
    assert "(g + 0.9*v)" in SGD(0.1, momentum=0.9, nesterov=True).formula()
    assert "(1 - lr*0.01)*w" in AdamW(0.1).formula()
    assert SGD(0.1, schedule="cosine").formula().endswith("lr = cosine(to=0), peak 0.1")


def test_latex_of_a_law():
    assert NAdam(0.1)._repr_latex_().count(r"\sqrt{s/(1 - 0.999^{t+1})}") == 1
    assert r"\nabla L(w - \mathrm{lr}\cdot 0.9\,v)" in Nesterov(0.1)._repr_latex_()
    assert r"\text{warmup(5\%) > cosine(to=0), peak 0.1}" in SGD(0.1, schedule="warmup(5%) > cosine")._repr_latex_()
