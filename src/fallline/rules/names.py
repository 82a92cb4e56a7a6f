"""Rules by name: for files, the command line, and refusals that say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fallline.errors import InvalidValue, NotARow, UnknownName
from fallline.rules.adaptive import AdaGrad, Adam, AdamW, NAdam, RMSProp
from fallline.rules.groups import Group
from fallline.rules.momentum import SGD, MovingAverage, Nesterov
from fallline.rules.rule import Rule
from fallline.rules.schedule_free import ScheduleFree
from fallline.rules.writing import auto
from fallline.schedules import Schedule

RULES: dict[str, type[Rule]] = {
    cls.__name__: cls for cls in (SGD, Nesterov, MovingAverage, Adam, AdamW, NAdam, RMSProp, AdaGrad, ScheduleFree)
}
"""Every rule by name."""

_REFUSED = {
    "amsgrad": "the largest second moment so far is not a row; use Adam",
    "adamax": "a largest gradient so far is not a row; use Adam",
    "adadelta": "a running average of updates is not a row; use RMSProp",
    "radam": "a step that changes its form by its own variance is not a row; use Adam with a warmup",
    "lion": "the sign of a velocity is not a row; use AdamW",
    "signsgd": "the sign of a gradient is not a row; use Adam",
    "rprop": "the sign of a gradient is not a row; use Adam",
    "muon": "orthogonalised matrices are not rows; use SGD or AdamW",
    "shampoo": "matrix preconditioners are not rows; use AdamW",
    "lars": "a norm per layer is not a row; use SGD with a warmup and clip",
    "lamb": "a norm per layer is not a row; use AdamW with a warmup and clip",
    "lbfgs": "a memory of past gradients is not a row; use scipy.optimize.minimize",
    "svrg": "a gradient kept per example is not a row; use SGD with average=polyak()",
    "saga": "a gradient kept per example is not a row; use SGD with average=polyak()",
    "sag": "a gradient kept per example is not a row; use SGD with average=polyak()",
}

FAR = 10.0
"""A learning rate this many times outside of the typical ones is remarked on."""


def rule_class(name: str) -> type[Rule]:
    """The rule of a name, however it is capitalised and hyphenated.

    Raises:
        NotARow: a known method that the row machine does not express.
        UnknownName: a rule that does not exist.

    >>> rule_class("adamw").__name__, rule_class("schedule-free").__name__
    ('AdamW', 'ScheduleFree')
    """
    wanted = _folded(str(name))
    for known, cls in RULES.items():
        if _folded(known) == wanted:
            return cls
    if wanted in _REFUSED:
        raise NotARow(f"{name}: {_REFUSED[wanted]}")
    raise UnknownName.among("optimizer", str(name), RULES)


def _folded(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


def unusual_lr(rule: Rule, lr: float) -> str:
    """A sentence where `lr` (a plan's peak) lies more than `FAR` times outside of its typical ones; else nothing.

    >>> unusual_lr(SGD(lr=0.1), 0.1)
    ''
    >>> print(unusual_lr(Adam(lr=0.1), 0.1))
    lr 0.1 is 100 times above the typical rates for Adam, 0.0001 to 0.001: test it with find_lr(problem, plan)
    """
    low, high = rule.typical_lr()
    if lr == 0 or low / FAR <= lr * (1 + 1e-9) <= high * FAR * (1 + 2e-9):
        return ""
    times, where = (lr / high, "above") if lr > high else (low / lr, "below")
    name = type(rule).__name__
    kind = f"{name} with momentum" if isinstance(rule, SGD) and rule.momentum != 0 else name
    return (
        f"lr {lr:g} is {times:.3g} times {where} the typical rates for {kind}, {low:g} to {high:g}: test it with find_lr(problem, plan)"
    )


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """The rule of `Rule.to_json`.

    Raises:
        UnknownName: a rule or an option that does not exist.

    >>> rule_from_json(SGD(lr=0.1, schedule="cosine").to_json())
    SGD(lr=0.1, schedule='cosine(to=0)')
    """
    if not isinstance(data, Mapping) or "rule" not in data:
        raise InvalidValue(f'an optimizer was read from {data!r}: expected an object such as {{"rule": "SGD", "lr": 0.1}}')
    given = dict(data)
    cls = rule_class(given.pop("rule"))
    known = {f.name for f in fields(cls)}
    for key in given:
        if key not in known:
            raise UnknownName.among(f"{cls.__name__} option", key, known)
    return cls(**{key: _value(key, value) for key, value in given.items()})


def _value(key: str, value: Any) -> Any:
    if key == "groups":
        return tuple((pattern, Group.from_json(group)) for pattern, group in value)
    if key == "lr" and value == "auto":
        return auto
    return Schedule.from_json(value["schedule"]) if isinstance(value, Mapping) else value
