"""Laws of schedules: the textbook's formulas, joins, cuts, texts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.errors import InvalidValue, PlanEnded
from fallline.lengths import Clock, epochs, fraction, steps
from fallline.schedules import (
    Curve,
    Schedule,
    constant,
    cosine,
    curve_of,
    custom,
    ema,
    exponential,
    inverse_scaling,
    linear,
    one_cycle,
    one_cycle_momentum,
    one_minus_sqrt,
    optimal,
    polyak,
    schedule,
    step_decay,
    times,
    warmup,
)  # fmt: skip

CLOCK = Clock(1000, steps_per_epoch=10)

numbers = st.floats(0, 1e3, allow_subnormal=False)
values = numbers | numbers.map(times)
lengths = st.one_of(
    st.floats(0.01, 0.2).map(fraction), st.integers(1, 5).map(steps), st.floats(0.1, 3).map(epochs)
)
legs = st.one_of(
    st.builds(lambda to, over: cosine(to=to, over=over), values, lengths),
    st.builds(lambda to, over: linear(to=to, over=over), values, lengths),
    st.builds(lambda f, n, over: step_decay(f, every=n, over=over), st.floats(0, 1), lengths, lengths),
    st.builds(lambda f, at, over: step_decay(f, at=at, over=over), st.floats(0, 1), st.lists(lengths, min_size=1), lengths),
    st.builds(lambda g, n, over: exponential(gamma=g, per=n, over=over), st.floats(0.5, 1), lengths, lengths),
    st.builds(lambda over, start: warmup(over, start=start), lengths, values),
    st.builds(lambda start, over: constant(start, over=over), values, lengths),
    st.builds(lambda p, over: inverse_scaling(p, over=over), st.floats(0, 2), lengths),
    st.builds(lambda to, over: one_minus_sqrt(to=to, over=over), values, lengths),
)
schedules = st.recursive(
    legs,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a.then(b), inner, inner),
        st.builds(lambda a, f: a * f, inner, st.floats(-2, 2)),
        st.builds(lambda a, n: a.per(n), inner, lengths),
    ),
    max_leaves=3,
)


def test_the_chapter_s_formulas_to_the_letter():
    t = np.arange(1000)
    assert np.array_equal(step_decay(0.1, every=epochs(30)).bind(CLOCK, 0.1)(t), 0.1 * np.power(0.1, t // 300))
    np.testing.assert_allclose(exponential(rate=0.01).bind(CLOCK, 0.1)(t), 0.1 * np.exp(-0.01 * t), rtol=1e-15)
    expected = 1e-3 + 0.5 * (0.1 - 1e-3) * (1 + np.cos(t * np.pi / 1000))
    np.testing.assert_allclose(cosine(to=1e-3).bind(CLOCK, 0.1)(t), expected, rtol=1e-14)
    np.testing.assert_allclose(warmup(steps(50)).bind(CLOCK, 0.1)(t[:50]), 0.1 * t[:50] / 50, rtol=1e-15)
    np.testing.assert_allclose(linear().bind(CLOCK, 0.1)(t), 0.1 * (1000 - t) / 1000, rtol=1e-15)
    np.testing.assert_allclose(one_minus_sqrt().bind(CLOCK, 1)(t), 1 - np.sqrt(t / 1000), rtol=1e-15)
    np.testing.assert_allclose(inverse_scaling(0.25).bind(CLOCK, 0.1)(t), 0.1 / (t + 1.0) ** 0.25, rtol=1e-15)
    assert np.array_equal(polyak().bind(CLOCK)(t), 1 / (t + 1))


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_warmup_then_cosine_joins_at_exactly_the_peak(share):
    curve = warmup(fraction(share)).then(cosine(to=1e-6)).bind(CLOCK, 0.3)
    join = int(share * 1000)
    assert (curve(0), curve(join), curve(1000)) == (0.0, 0.3, 1e-6)
    assert curve(np.arange(1001)).max() == 0.3


def test_the_last_update_of_a_linear_decay_still_works():
    curve = schedule("warmup(5%) > linear(to=0)").bind(CLOCK, 1.0)
    assert curve(999) == pytest.approx(1 / 950) and curve(1000) == 0


@pytest.mark.parametrize("total", [0, 1, 2, 3])
@pytest.mark.parametrize("text", ["cosine", "linear", "warmup > linear", "warmup(0%) > cosine", "warmup(100%)", "polyak", "step_decay(0.1, every=50%)", "warmup(50%) > linear(to=0, over=50%)"])
def test_tiny_plans_give_finite_numbers(total, text):
    t = np.arange(total + 1)
    assert np.all(np.isfinite(schedule(text).bind(Clock(total, 1), 0.5)(t)))


def test_one_cycle_goes_up_then_down_and_its_twin_the_other_way():
    t = np.arange(101)
    rate = one_cycle(start=0.0, end=0.0, up=fraction(0.3)).bind(Clock(100), 1.0)(t)
    momentum = one_cycle_momentum(up=fraction(0.3)).bind(Clock(100))(t)
    assert rate.argmax() == 30 == momentum.argmin() and rate[30] == 1 and momentum[30] == 0.85
    assert np.all(np.diff(rate[:31]) > 0) and np.all(np.diff(rate[30:]) < 0)
    assert np.all(np.isfinite(one_cycle().bind(Clock(2), 1.0)(np.arange(3))))


def test_what_is_left_out():
    later = constant(0.1, over=steps(10)).then(cosine(to=0)).bind(Clock(20), peak=5.0)
    assert later(10) == 0.1  # where the leg before ended, not the peak
    cooldown = schedule("warmup(10%) > constant > linear(over=20%)").bind(Clock(100), 1.0)
    assert (cooldown(10), cooldown(79), cooldown(80), cooldown(90), cooldown(100)) == (1, 1, 1, 0.5, 0)
    held = linear(to=0.2, over=steps(5)).bind(Clock(10), 1.0)
    assert held(5) == held(9) == held(10) == 0.2
    assert linear(to=times(0.1)).bind(Clock(10), 2.0)(10) == 0.2
    assert linear(to=0.1).bind(Clock(10), 2.0)(10) == 0.1


def test_a_milestone_given_twice_multiplies_twice():
    curve = step_decay(0.5, at=[steps(3), steps(3), steps(5)]).bind(Clock(10), 1.0)
    assert [curve(t) for t in (2, 3, 5)] == [1, 0.25, 0.125]


def test_per_epoch_holds_within_an_epoch():
    curve = exponential(gamma=0.9, per=epochs(1)).per(epochs(1)).bind(CLOCK, 1.0)
    assert np.array_equal(curve(np.arange(1000)), np.repeat(np.power(0.9, np.arange(100.0)), 10))


def test_constants_stay_numbers():
    assert curve_of(0.9, CLOCK) == 0.9 and curve_of(constant(), CLOCK, 0.3) == 0.3
    assert curve_of(ema(0.75), CLOCK) == 0.25 and curve_of(2 * constant(0.5), CLOCK) == 1.0
    assert isinstance(curve_of(linear(), CLOCK, 1.0), Curve)


def test_optimal_is_scikit_learn_s():
    curve, weight = optimal(1e-3).bind(CLOCK), math.sqrt(1 / math.sqrt(1e-3))
    assert curve(0) == pytest.approx(weight)
    assert curve(7) == pytest.approx(1 / (1e-3 * (1 / (weight * 1e-3) + 7)))


def test_reading_beyond_the_plan():
    curve = linear().bind(Clock(10), 1.0)
    with pytest.raises(PlanEnded):
        curve(11)
    with pytest.raises(InvalidValue):
        curve(-1)


@settings(deadline=None)
@given(schedules, st.integers(0, 1000), st.integers(0, 1000))
def test_any_cut_and_any_order_gives_the_same_bits(one: Schedule, a: int, b: int):
    a, b = sorted((a, b))
    try:
        curve = one.bind(CLOCK, 0.5)
    except InvalidValue:
        return  # legs that do not fit
    t = np.arange(1001)
    whole = curve(t)
    parts = np.concatenate([curve(t[:a]), curve(t[a:b]), curve(t[b:])])
    assert np.array_equal(whole, parts, equal_nan=True)
    assert np.array_equal(curve(t[::-1]), whole[::-1], equal_nan=True)
    assert [curve(int(k)) for k in t[::97]] == whole[::97].tolist()


@settings(deadline=None)
@given(schedules)
def test_object_to_text_to_object(one: Schedule):
    assert schedule(str(one)) == one and str(schedule(str(one))) == str(one) and hash(schedule(str(one))) == hash(one)
    assert Schedule.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert eval(repr(one)) == one


@pytest.mark.parametrize(
    "text",
    [
        "warmup(5%) > cosine(to=1e-6)", "step_decay(0.1, every=30 epochs)", "one_cycle(up=30%)", "linear(to=0)",
        "step_decay(0.1, at=[30 epochs, 60 epochs])", "0.5 * cosine(to=0.01x)", "exponential(gamma=0.95) per 1 epoch",
        "(warmup(5%) > linear(to=0)) per 1 epoch", "polyak(50%)", "ema(0.999)", "warmup(500 steps, start=0.1x)",
        "constant > one_minus_sqrt(to=0, over=20%)", "optimal(1e-4)",
    ],
)  # fmt: skip
def test_text_to_object_to_text(text: str):
    assert str(schedule(text)) == text.replace("1e-4", "0.0001")


def test_bare_names_and_commas():
    assert schedule("cosine") == cosine() and schedule("warmup, linear") == schedule(" warmup()>linear( to = 0 ) ")


def halving(x: int, length: int) -> float:
    return 1 / (1 + x)


def test_custom_is_called_with_step_and_length():
    assert custom(halving).bind(Clock(10))(np.arange(3)).tolist() == [1, 1 / 2, 1 / 3]
    assert custom(lambda x, n: times(x / n)).bind(Clock(10), 4.0)(5) == 2.0
    assert Schedule.from_json(custom(halving).to_json()) == custom(halving)
