"""How much curvature a row bears, and the largest stable learning rate: read off the rows, whatever rule wrote them.

On the quadratic h*w^2/2 a row is a linear map of (w, v). With g = h*(w - look*v) put into the law of `fallline.rows`:

    trace = shrink - lr*(direct + through*intake)*(h + l2) + momentum - intake*look*h
    det   = shrink*momentum - shrink*intake*look*h - lr*direct*momentum*(h + l2)

Both are linear in h, and so are the three conditions under which no eigenvalue leaves the unit circle (Jury 1962):
1 - det >= 0, 1 - trace + det >= 0, 1 + trace + det >= 0. The smallest h at which one of them fails is what the row bears.
Rows with a second moment divide by what they have seen, so nothing can be read off them alone. Clipping and thresholds
act on the size of a step and are left aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from fallline.lengths import Clock
from fallline.rows import Rows
from fallline.rules.groups import Group
from fallline.rules.rule import Rule
from fallline.schedules import Schedule

_LATE = 10_000
"""An update by which warm starts are over."""
_PARTS = ("l2", "look", "momentum", "intake", "direct", "through", "shrink", "lr", "second_intake")
_PUT_ASIDE: dict[str, Any] = {"schedule": None, "groups": None, "l1": 0.0, "clip": None, "average": None}
"""What a rule is rid of, beside its own lr, before its edge is read."""
_ROUNDING = 1e-12

quiet = np.errstate(all="ignore")
"""A curvature may be as large as a number can be: what overflows is unstable, not news."""

Parts = Mapping[str, np.ndarray]
"""The columns that decide about stability, by name, all of one shape."""


def parts_of(rows: Rows) -> dict[str, np.ndarray]:
    """The columns of some rows that decide about stability: float64 [steps, groups] each."""
    return {name: np.array(rows.column(name)) for name in _PARTS}


@quiet
def borne(row: Parts) -> np.ndarray:
    """The largest curvature h such that the rows are stable at every curvature up to it; NaN where none can be told.

    Law: infinite for a row that does nothing, 2/lr for a plain step, (2+2b)/lr for a heavy ball with momentum b.

    >>> from fallline.rows import NEUTRAL
    >>> heavy = {name: np.array(value) for name, value in (NEUTRAL | {"lr": 0.1, "momentum": 0.9, "direct": 0.0, "through": 1.0}).items()}
    >>> float(borne(heavy).round(9))
    38.0
    """
    lr, b, look, l2, shrink = row["lr"], row["momentum"], row["look"], row["l2"], row["shrink"]
    pushed = lr * (row["direct"] + row["through"] * row["intake"])
    sunk = lr * row["direct"] * b
    seen = row["intake"] * look
    trace, det = shrink - pushed * l2 + b, shrink * b - sunk * l2
    slope = -sunk - shrink * seen  # of det; that of trace is -(pushed + seen)
    limits = [
        _limit(1 - det, -slope),
        _limit(1 - trace + det, pushed + seen + slope),
        _limit(1 + trace + det, slope - pushed - seen),
    ]
    return np.where(row["second_intake"] > 0, np.nan, np.minimum.reduce(limits))


@quiet
def _limit(value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The largest h with value + slope*h >= 0, where value is that of h = 0; infinite where it never fails."""
    value = np.where(np.abs(value) < _ROUNDING, 0.0, value)
    root = np.where(slope < 0, np.maximum(value, 0.0) / -slope, np.inf)
    return np.where(value < 0, 0.0, root)


@quiet
def radius(row: Parts, h: float) -> np.ndarray:
    """The spectral radius of the rows' maps of (w, v) at curvature h: above 1, that direction grows at every update."""
    pushed = row["lr"] * (row["direct"] + row["through"] * row["intake"])
    seen = row["intake"] * row["look"] * h
    trace = row["shrink"] - pushed * (h + row["l2"]) + row["momentum"] - seen
    det = row["shrink"] * (row["momentum"] - seen) - row["lr"] * row["direct"] * row["momentum"] * (h + row["l2"])
    inner = trace * trace / 4 - det
    real = np.abs(trace) / 2 + np.sqrt(np.maximum(inner, 0.0))
    return np.where(inner < 0, np.sqrt(np.maximum(det, 0.0)), real)


@quiet
def largest_factor(row: Parts, doubled: Parts, h: float) -> np.ndarray:
    """By how much a row's learning rate can be multiplied before it no longer bears the curvature h.

    Args:
        row, doubled: the rows as they are, and as they are with every learning rate doubled: every column of every rule
            is linear in the rate, so the two tell the row at any rate.
        h: the curvature, above 0.
    """

    def bears(factor: np.ndarray) -> np.ndarray:
        return borne({name: row[name] + (factor - 1) * (doubled[name] - row[name]) for name in _PARTS}) >= h

    shape = row["lr"].shape
    known = np.isfinite(borne(row))
    middle = np.where(known, np.maximum(borne(row), 1e-300), h) / h
    low, high = middle * 1e-6, middle * 1e6
    never, always = ~bears(low), bears(high)
    for _ in range(80):  # halving the logarithm: the two then differ in the last bits
        at = np.sqrt(low * high)
        good = bears(at)
        low, high = np.where(good, at, low), np.where(good, high, at)
    out = np.where(never, 0.0, np.where(always, np.inf, low))
    return np.where(row["second_intake"] > 0, np.nan, out).reshape(shape)


def edge(rule: Rule, curvature: float) -> float | None:
    """The largest learning rate at which a quadratic of this curvature does not blow up, or None where none is known.

    Law: 2/h for a plain step, (2+2b)/h for a heavy ball, (2+2b)/((1+2b)h) for Nesterov's form, the textbook's and
    PyTorch's, (2+2b)/((1-b)h) for the moving average, 2/((1-m)h) for Schedule-Free once it has averaged for long. For
    mini-batches and networks it is the edge of a local quadratic.

    Args:
        rule: any rule; its lr is not looked at. None for rules with a second moment (Adam and its kin). Where other
            hyperparameters are schedules, the edge is the smallest on their way.
        curvature: h, the largest eigenvalue of the Hessian, above 0.

    Source: Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability (2021).

    >>> from fallline.rules import SGD
    >>> round(edge(SGD(lr=0.1, momentum=0.9), curvature=2.0), 4)
    1.9
    """
    if not 0 < curvature < float("inf"):
        return None
    clock, rate = Clock(2 * _LATE, 100), 1.0 / curvature
    at = np.linspace(0, 2 * _LATE - 1, 9).astype(int) if _scheduled(rule) else [_LATE]
    row, doubled = (_rows_at(rule, lr, clock, at) for lr in (rate, 2 * rate))
    found = largest_factor(row, doubled, curvature) * rate
    return None if np.isnan(found).any() else float(found.min())


def _scheduled(rule: Any) -> bool:
    """Whether a hyperparameter beside those that are looked past here changes on the way."""
    return any(isinstance(getattr(rule, f.name), Schedule) for f in fields(rule) if f.name not in _PUT_ASIDE and f.name != "lr")


def _rows_at(rule: Any, lr: float, clock: Clock, at: Any) -> Parts:
    """The rows at some updates with a constant lr, decay on every parameter."""
    bare = replace(rule, lr=lr, **_PUT_ASIDE)
    every = [parts_of(bare.rows(clock, (Group(weight_decay=1.0),), int(t), int(t) + 1)) for t in at]
    return {name: np.concatenate([parts[name] for parts in every]) for name in _PARTS}


__all__ = ["borne", "edge", "largest_factor", "parts_of", "radius"]
