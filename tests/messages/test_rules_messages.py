"""What rules say when they refuse."""

from __future__ import annotations

import math

import pytest

from fallline.errors import InvalidValue, NotARow, UnknownName
from fallline.layout import Layout, Parameter
from fallline.lengths import Clock, epochs
from fallline.plan import Plan
from fallline.rules import (
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
    resolve_groups,
    rule_class,
    rule_from_json,
)
from fallline.schedules import cosine, linear, polyak

LAYOUT = Layout((Parameter("coef", (3,)), Parameter("intercept", (), "bias")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "SGD(lr=-0.1): expected a number of at least 0, or a schedule, or auto"),
        (lambda: SGD(math.nan), "SGD(lr=nan): expected a number of at least 0, or a schedule, or auto"),
        (lambda: SGD(math.inf), "SGD(lr=inf): expected a number of at least 0, or a schedule, or auto"),
        (lambda: SGD(True), "SGD(lr=True): expected a number of at least 0, or a schedule, or auto"),
        (
            lambda: SGD("cosine"),
            "SGD(lr='cosine'): expected a number of at least 0, or a schedule, or auto; a schedule in words is read by schedule('cosine')",
        ),
        (lambda: SGD(0.1, momentum=1.0), "SGD(momentum=1.0): expected a number of at least 0 and below 1, or a schedule"),
        (lambda: SGD(0.1, momentum=-0.5), "SGD(momentum=-0.5): expected a number of at least 0 and below 1, or a schedule"),
        (lambda: Nesterov(0.1, momentum=math.nan), "Nesterov(momentum=nan): expected a number of at least 0 and below 1, or a schedule"),
        (lambda: MovingAverage(0.1, momentum=2), "MovingAverage(momentum=2): expected a number of at least 0 and below 1, or a schedule"),
        (lambda: SGD(0.1, weight_decay=-1), "SGD(weight_decay=-1): expected a number of at least 0, or a schedule"),
        (lambda: SGD(0.1, l1=-1), "SGD(l1=-1): expected a number of at least 0, or a schedule"),
        (lambda: SGD(0.1, clip=0), "SGD(clip=0): expected a number above 0, or a schedule"),
        (lambda: SGD(0.1, average=0), "SGD(average=0): expected a number above 0 and at most 1, or a schedule"),
        (lambda: SGD(0.1, average=1.5), "SGD(average=1.5): expected a number above 0 and at most 1, or a schedule"),
        (lambda: SGD(0.1, momentum=0.9, dampening=1.5), "SGD(dampening=1.5): expected a number of at least 0 and at most 1"),
        (
            lambda: SGD(0.1, nesterov=True),
            "SGD(nesterov=True, momentum=0.0, dampening=0.0): Nesterov's form needs a momentum above 0 and no dampening",
        ),
        (
            lambda: SGD(0.1, momentum=0.9, nesterov=True, dampening=0.5),
            "SGD(nesterov=True, momentum=0.9, dampening=0.5): Nesterov's form needs a momentum above 0 and no dampening",
        ),
        (
            lambda: SGD(0.1, dampening=0.5),
            ("SGD(momentum=0, dampening=0.5): dampening weakens what enters the velocity, and without momentum there is none "
            "(PyTorch ignores it silently); give a momentum, or a smaller lr"),
        ),
        (
            lambda: SGD(cosine(), schedule="cosine"),
            "SGD: lr is itself a schedule, so schedule='cosine' has no peak; give lr a number",
        ),
        (lambda: Adam(0.1, betas=(0.9, 1.0)), "Adam(betas[1]=1.0): expected a number of at least 0 and below 1"),
        (lambda: AdamW(0.1, betas=(-0.1, 0.9)), "AdamW(betas[0]=-0.1): expected a number of at least 0 and below 1"),
        (lambda: Adam(0.1, betas=0.9), "Adam(betas=0.9): expected two numbers, such as (0.9, 0.999)"),
        (lambda: Adam(0.1, eps=0), "Adam(eps=0): expected a number above 0; it keeps the first step finite"),
        (lambda: NAdam(0.1, momentum_decay=-1), "NAdam(momentum_decay=-1): expected a number of at least 0"),
        (lambda: RMSProp(0.1, alpha=1), "RMSProp(alpha=1): expected a number of at least 0 and below 1"),
        (lambda: AdaGrad(0.1, initial=-1), "AdaGrad(initial=-1): expected a number of at least 0"),
        (
            lambda: ScheduleFree(0.1, momentum=0),
            "ScheduleFree(momentum=0): expected a number above 0 and at most 1; at 0 the answer cannot be read",
        ),
        (lambda: ScheduleFree(0.1, average=polyak()), "ScheduleFree(average=...): it averages already; leave average out"),
        (lambda: Group(lr=-1), "Group(lr=-1): expected a multiplier, a finite number that is not negative"),
        (lambda: Group(frozen=3), "Group(frozen=3): expected a length with its unit, such as epochs(1)"),
        (lambda: SGD(0.1, groups={"*": 3}), "groups['*'] = 3: expected a Group, such as Group(lr=10)"),
        (
            lambda: resolve_groups(SGD(0.1, groups={"fc.*": Group(lr=2)}), LAYOUT),
            "group pattern 'fc.*' matches no parameter; parameters: coef, intercept",
        ),
        (
            lambda: SGD().rows(Clock(5), (Group(),), 0, 5),
            "lr is auto: find it first, with plan.with_lr(find_lr(problem, plan)), or let train or fit do so",
        ),
        (
            lambda: SGD(0.1).rows(Clock(5), (Group(weight_decay=1, l1=1, frozen=epochs(1)),), 0, 5),
            "epochs(1) cannot be counted in updates: this plan does not know its rows; use steps(...)",
        ),
        (
            lambda: rule_from_json({"lr": 0.1}),
            "an optimizer was read from {'lr': 0.1}: expected an object such as {\"rule\": \"SGD\", \"lr\": 0.1}",
        ),
    ],
)
def test_values_are_refused_with_what_was_given_and_what_was_expected(make, message):
    with pytest.raises(InvalidValue) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RMSProp(0.1, momentum=0.9),
            ("RMSProp(momentum=0.9): momentum taken after the division is not a row; use RMSProp without it, or Adam, which "
            "takes it before"),
        ),
        (lambda: RMSProp(0.1, centered=True), "RMSProp(centered=True): a second running average is not a row; use RMSProp without it, or Adam"),
        (lambda: Adam(0.1, amsgrad=True), "Adam(amsgrad=True): the largest second moment so far is not a row; use Adam without it"),
        (lambda: AdamW(0.1, amsgrad=True), "AdamW(amsgrad=True): the largest second moment so far is not a row; use AdamW without it"),
        (lambda: ScheduleFree(0.1, l1=0.1), "ScheduleFree(l1=0.1): the threshold belongs to z, and a row has it for w only; use SGD for l1"),
        (lambda: rule_class("Lion"), "Lion: the sign of a velocity is not a row; use AdamW"),
        (lambda: rule_class("L-BFGS"), "L-BFGS: a memory of past gradients is not a row; use scipy.optimize.minimize"),
        (lambda: rule_from_json({"rule": "SAGA"}), "SAGA: a gradient kept per example is not a row; use SGD with average=polyak()"),
    ],
)
def test_what_is_not_a_row_is_refused_by_name(make, message):
    with pytest.raises(NotARow) as caught:
        make()
    assert str(caught.value) == message


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no optimizer 'AdmaW'; did you mean 'AdamW'\? optimizers: SGD, Nesterov"):
        rule_from_json({"rule": "AdmaW"})
    with pytest.raises(UnknownName, match=r"no SGD option 'momentun'; did you mean 'momentum'\?"):
        rule_from_json({"rule": "SGD", "momentun": 0.9})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SGD(lr=0.1, momentum=linear(start=0.5, to=1.5)), "momentum=linear(to=1.5, start=0.5) is 1 at update 10: expected a number of at least 0 and below 1 at every update"),
        (SGD(lr=0.1, weight_decay=linear(start=0.1, to=-0.1)), "weight_decay=linear(to=-0.1, start=0.1) is -0.01 at update 11: expected at least 0 at every update"),
        (SGD(lr=0.1, clip=linear(start=1.0, to=-1.0)), "clip=linear(to=-1, start=1) is 0 at update 10: expected a number above 0 at every update"),
        (SGD(lr=0.1, average=linear(start=0.5, to=2.5)), "average=linear(to=2.5, start=0.5) is 1.1 at update 6: expected a number from 0 to 1 at every update"),
        (SGD(lr=0.1, schedule="linear(to=-0.1)"), "is -0.01 at update 11: expected at least 0 at every update"),
    ],
)
def test_a_schedule_that_leaves_the_range_names_the_update(rule, message):
    plan = Plan(rows=100, epochs=2, batch_size=10, optimizer=rule)
    with pytest.raises(InvalidValue) as said:
        plan.rows_between(0, 20)
    assert message in str(said.value)
