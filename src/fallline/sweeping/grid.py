"""The grid of a sweep: every combination of the values as a plan."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fallline.errors import InvalidValue, UnknownName
from fallline.plan import Plan
from fallline.rules import auto
from fallline.rules.rule import Rule
from fallline.sweeping.values import tried

LENGTHS = ("epochs", "steps")
PLANS = ("optimizer", "batch_size", *LENGTHS)
"""What belongs to the plan; everything else is the optimizer's."""


@dataclass(frozen=True)
class Setting:
    """One combination: its values by name, and the plan that they make (with the first seed)."""

    values: Mapping[str, Any]
    plan: Plan


def grid(plan: Plan, over: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[Setting]]:
    """The values by name, and a plan for each combination, the last name's values varying fastest.

    Raises:
        UnknownName: no such hyperparameter of the plan or its optimizer.
        InvalidValue: nothing to try, a combination that cannot stand, or no learning rate.
    """
    if not isinstance(over, Mapping) or not over:
        raise InvalidValue('over= names what is tried, such as over={"lr": fl.log(1e-4, 1, 9), "momentum": [0, 0.9]}; it is empty')
    optimizers = tried("optimizer", over["optimizer"]) if "optimizer" in over else [plan.optimizer]
    for rule in optimizers:
        if not isinstance(rule, Rule):
            raise InvalidValue(f"over['optimizer'] holds {rule!r}: expected rules such as fl.SGD(lr=0.1)")
    for name in over:
        _known(str(name), optimizers)
    if all(name in over for name in LENGTHS):
        raise InvalidValue("over= holds epochs and steps: they say the same thing, give one of them")
    names = {str(name): tried(name, given) for name, given in over.items()}
    ordered = sorted(names, key=lambda name: PLANS.index(name) if name in PLANS else len(PLANS))
    settings = []
    for values in itertools.product(*names.values()):
        chosen = dict(zip(names, values, strict=True))
        settings.append(Setting(chosen, _plan(plan, {name: chosen[name] for name in ordered})))
    return names, settings


def _known(name: str, optimizers: list[Rule]) -> None:
    if name in ("seed", "seeds"):
        raise InvalidValue(f"over= holds {name!r}: give the number of seeds as seeds=3; they begin with the plan's")
    for rule in optimizers:
        own = [f.name for f in fields(rule)]
        if name not in PLANS and name not in own:
            raise UnknownName.among(f"{type(rule).__name__} hyperparameter", name, [*own, *PLANS])


def _plan(plan: Plan, chosen: Mapping[str, Any]) -> Plan:
    """The plan with these values."""
    try:
        for name, value in chosen.items():
            if name == "optimizer":
                plan = plan._with(optimizer=value)
            elif name == "batch_size":
                plan = _sized(plan, value, rates_given="lr" in chosen or "optimizer" in chosen)
            elif name in LENGTHS:
                plan = Plan(rows=plan.rows, batch_size=plan.batch_size, optimizer=plan.optimizer, seed=plan.seed, **{name: value})
        rule = replace(plan.optimizer, **{name: value for name, value in chosen.items() if name not in PLANS})
    except InvalidValue as error:
        told = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise InvalidValue(f"the combination {told} cannot stand: {error}") from error
    if rule.lr is auto:
        raise InvalidValue("lr is auto and not swept: give over={'lr': fl.log(1e-4, 1, 9), ...}, or plan.with_lr(0.1)")
    return plan._with(optimizer=rule)


def _sized(plan: Plan, size: Any, *, rates_given: bool) -> Plan:
    """Another batch size over the same rows: rates that the sweep itself gives stand as they are, the plan's own are rescaled."""
    if not rates_given:
        return plan.with_batch_size(size)
    lr = plan.optimizer.lr
    return plan.with_lr(auto).with_batch_size(size).with_lr(lr)
