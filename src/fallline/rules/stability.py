"""What can be read off a rule's rows: the largest stable learning rate; and the textbook's typical rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fallline.lengths import Clock
from fallline.rows import INDEX
from fallline.rules.groups import Group
from fallline.rules.laws import SGD, Adam, MovingAverage, Nesterov, RMSProp, Rule, ScheduleFree
from fallline.schedules import Schedule

_LATE = 10_000
"""An update by which warm starts and bias corrections are over."""


def edge(rule: Rule, curvature: float) -> float | None:
    """The largest learning rate at which a quadratic of this curvature does not blow up, or None where none is known.

    The rule's row on the quadratic h*w^2/2 is a 2 x 2 matrix on (w, v); the edge is where its spectral radius passes 1:
    2/h for a plain step, (2+2b)/h for a heavy ball, (2+2b)/((1+2b)h) for Nesterov's in PyTorch's form.

    Args:
        rule: any rule without a second moment (Adam and its kin have no such edge).
        curvature: h, the largest eigenvalue of the Hessian, above 0.

    >>> round(edge(SGD(lr=0.1, momentum=0.9), curvature=2.0), 4)
    1.9
    """
    row = _late_row(rule, 1.0)
    if row[INDEX["second_intake"]] > 0 or isinstance(rule, ScheduleFree) or not curvature > 0:
        return None
    low, high = 1e-9 / curvature, 1e9 / curvature
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _radius(_late_row(rule, middle), curvature) <= 1 else (low, middle)
    return low


def _late_row(rule: Rule, lr: float) -> np.ndarray:
    changes = {"lr": lr, "schedule": None, "groups": None, "l1": 0.0, "clip": None, "average": None}
    held = {n: 0.9 for n in ("momentum",) if isinstance(getattr(rule, n, None), Schedule)}
    decay = {"weight_decay": 0.0} if isinstance(rule.weight_decay, Schedule) else {}
    plain = replace(rule, **changes, **held, **decay)
    return plain.rows(Clock(2 * _LATE), (Group(weight_decay=1.0, l1=1.0),), _LATE, _LATE + 1).dense()[0, 0]


def _radius(row: np.ndarray, h: float) -> float:
    """Spectral radius of one update on (w, v) where the gradient is h*(w - look*v)."""
    r = {n: float(row[i]) for n, i in INDEX.items()}
    d = np.array([h + r["l2"], -h * r["look"]])
    v = np.array([0.0, r["momentum"]]) + r["intake"] * d
    w = np.array([r["shrink"], 0.0]) - r["lr"] * (r["direct"] * d + r["through"] * v)
    return float(np.abs(np.linalg.eigvals(np.array([w, v]))).max())


def typical_lr(rule: Rule) -> tuple[float, float]:
    """The textbook's typical learning rates for a rule, (low, high): they bracket a search and word a warning.

    >>> typical_lr(SGD(lr=0.1)), typical_lr(SGD(lr=0.1, momentum=0.9)), typical_lr(Adam(lr=0.001))
    ((0.01, 0.1), (0.01, 0.3), (0.0001, 0.001))
    """
    if isinstance(rule, Adam):
        return 1e-4, 1e-3
    if isinstance(rule, RMSProp):
        return 1e-3, 1e-2
    if isinstance(rule, (Nesterov, MovingAverage)) or getattr(rule, "momentum", 0) != 0:
        return 0.01, 0.3
    return 0.01, 0.1
