"""What can be read off a rule's rows: the largest stable learning rate; and the textbook's typical rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fallline.lengths import Clock
from fallline.rows import INDEX
from fallline.rules.adaptive import Adam, RMSProp
from fallline.rules.groups import Group
from fallline.rules.momentum import SGD, MovingAverage, Nesterov
from fallline.rules.rule import Rule
from fallline.rules.schedule_free import ScheduleFree
from fallline.schedules import Schedule

_LATE = 10_000
"""An update by which warm starts are over."""


def edge(rule: Rule, curvature: float) -> float | None:
    """The largest learning rate at which a quadratic of this curvature does not blow up, or None where none is known.

    The rule's row on the quadratic h*w^2/2 is a 2 x 2 matrix on (w, v); the edge is where its spectral radius passes 1:
    2/h for a plain step, (2+2b)/h for a heavy ball, (2+2b)/((1+2b)h) for Nesterov's form, the textbook's and PyTorch's,
    (2+2b)/((1-b)h) for the moving average. For mini-batches and networks it is the edge of a local quadratic.

    Args:
        rule: any rule without a second moment (Adam and its kin have no such edge). Its lr is not looked at. Under a
            scheduled momentum the edge is the smallest over the schedule.
        curvature: h, the largest eigenvalue of the Hessian, above 0.

    Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability (2021).

    >>> round(edge(SGD(lr=0.1, momentum=0.9), curvature=2.0), 4)
    1.9
    """
    if not 0 < curvature < float("inf") or isinstance(rule, ScheduleFree):
        return None
    if _late_row(rule, 1.0)[INDEX["second_intake"]] > 0:
        return None
    momentum = getattr(rule, "momentum", None)
    if not isinstance(momentum, Schedule):
        return _edge(rule, curvature)
    curve = momentum.bind(Clock(2 * _LATE, 100))
    at = np.linspace(0, 2 * _LATE - 1, 9).astype(np.int64)
    with_momentum: Any = replace  # not every Rule has one; this one does
    return min(_edge(with_momentum(rule, momentum=float(b)), curvature) for b in np.unique(curve(at)) if 0 < b < 1)


def _edge(rule: Rule, curvature: float) -> float:
    low, high = 1e-9 / curvature, 1e9 / curvature
    for _ in range(70):  # halving the logarithm: the two then differ in the last bits
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _radius(_late_row(rule, middle), curvature) <= 1 else (low, middle)
    return low


def _late_row(rule: Rule, lr: float) -> np.ndarray:
    changes: dict[str, Any] = {"lr": lr, "schedule": None, "groups": None, "l1": 0.0, "clip": None, "average": None}
    if isinstance(getattr(rule, "momentum", None), Schedule):
        changes["momentum"] = 0.9
    if isinstance(rule.weight_decay, Schedule):
        changes["weight_decay"] = 0.0
    group = Group(weight_decay=1.0, l1=1.0)
    return replace(rule, **changes).rows(Clock(2 * _LATE, 100), (group,), _LATE, _LATE + 1).dense()[0, 0]


def _radius(row: np.ndarray, h: float) -> float:
    """Spectral radius of one update on (w, v) where the gradient is h*(w - look*v)."""
    r = {n: float(row[i]) for n, i in INDEX.items()}
    d = np.array([h + r["l2"], -h * r["look"]])
    v = np.array([0.0, r["momentum"]]) + r["intake"] * d
    w = np.array([r["shrink"], 0.0]) - r["lr"] * (r["direct"] * d + r["through"] * v)
    return float(np.abs(np.linalg.eigvals(np.array([w, v]))).max())


def typical_lr(rule: Rule) -> tuple[float, float]:
    """The textbook's typical learning rates for a rule, (low, high): they bracket a search and word a warning.

    SGD 0.01 to 0.1, with momentum to 0.3; Adam 0.0001 to 0.001; RMSProp 0.001 to 0.01. Not in the textbook: AdaGrad
    stands with SGD; the moving average's rates are those of momentum divided by 1 - momentum, for the same steps; and
    Schedule-Free SGD asks for 10 to 50 times SGD's (its authors' advice).

    >>> typical_lr(SGD(lr=0.1)), typical_lr(SGD(lr=0.1, momentum=0.9)), typical_lr(Adam(lr=0.001))
    ((0.01, 0.1), (0.01, 0.3), (0.0001, 0.001))
    """
    if isinstance(rule, Adam):
        return 1e-4, 1e-3
    if isinstance(rule, RMSProp):
        return 1e-3, 1e-2
    if isinstance(rule, ScheduleFree):
        return 0.1, 5.0
    if isinstance(rule, MovingAverage):
        b = 0.9 if isinstance(rule.momentum, Schedule) else float(rule.momentum)
        return _digits(0.01 / (1 - b)), _digits((0.3 if b else 0.1) / (1 - b))
    if isinstance(rule, (SGD, Nesterov)) and rule.momentum != 0:
        return 0.01, 0.3
    return 0.01, 0.1


def default_lr(rule: Rule) -> float:
    """The learning rate for when nothing could be measured: the middle of `typical_lr` on a log scale, to one digit.

    >>> default_lr(SGD()), default_lr(SGD(momentum=0.9)), default_lr(Adam())
    (0.03, 0.05, 0.0003)
    """
    low, high = typical_lr(rule)
    return _digits((low * high) ** 0.5, 1)


def _digits(value: float, count: int = 3) -> float:
    return float(f"{value:.{count}g}")
