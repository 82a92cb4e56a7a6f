"""Whether a plan's steps are larger than a problem's curvature bears: `plan.stability(problem)`.

The edge is read off the plan's own rows (`fallline.rules.stability`), so it holds for every rule, schedule and decay. It is that
of a quadratic: exact where the loss is one and every batch is all rows, a forecast for networks and small batches, whose
noise makes the true edge lower.
"""

from __future__ import annotations

import html as markup
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.curvature import Curvature, measured
from fallline.errors import InvalidValue, PlanMismatch
from fallline.layout import start_of
from fallline.rules import Group, resolve_groups
from fallline.rules.stability import borne, largest_factor, parts_of, radius

if TYPE_CHECKING:
    from fallline.plan import Plan
    from fallline.plan.text import PlanTable

EVERY = 50_000
"""Plans of at most this many updates are looked at update by update; of longer ones, `SAMPLED` updates and the peak."""
SAMPLED = 2000


@dataclass(frozen=True, eq=False, repr=False)
class Stability:
    """How a plan's learning rate stands to the edge of stability.

    Attributes:
        curvature: what was measured, or given.
        steps: the updates looked at, int64 (n,): all of them, or of a very long plan an even choice with the peak.
        lr: the schedule's rate at each, float64 (n,).
        edge: the largest rate that each update's row bears at this curvature, all else in the row the same, (n,); NaN where
            none is known (a second moment) or the rate is 0; infinite where the loss does not curve upwards.
        above: whether the update's rate exceeds its edge, bool (n,).
        growth: log10 of the product of the spectral radii of the updates above the edge: how many powers of ten the
            steepest direction grows by, if it stays as steep.
        steps_per_epoch: of the plan, or None.
    """

    curvature: Curvature
    steps: np.ndarray
    lr: np.ndarray
    edge: np.ndarray
    above: np.ndarray
    growth: float
    steps_per_epoch: int | None = None

    @property
    def known(self) -> bool:
        """Whether there is an edge to compare with."""
        return not bool(np.isnan(self.edge[self.lr > 0]).any())

    @property
    def stable(self) -> bool:
        """Whether no update looked at exceeds its edge; True also where no edge is known."""
        return not bool(self.above.any())

    @property
    def safe_lr(self) -> float | None:
        """The largest peak of the plan's learning rate at which no update exceeds its edge; None where none is known.

        At the edge itself the steepest direction neither grows nor shrinks: stay below.
        """
        moving = self.lr > 0
        if not self.known or not moving.any():
            return None
        return float(self.lr.max() * np.min(self.edge[moving] / self.lr[moving]))

    @property
    def verdict(self) -> str:
        """A sentence."""
        if not (self.lr > 0).any():
            return "the learning rate is 0 everywhere: nothing moves"
        if not self.known:
            return "no edge is known: the steps are divided by the root of a second moment, which the curvature alone does not tell"
        if not self.curvature.value > 0:
            return f"no edge: the loss does not curve upwards {self.curvature.where} (largest eigenvalue {self.curvature.value:.3g})"
        safe = self.safe_lr
        assert safe is not None
        if self.stable:
            return f"every step is below the edge: the peak lr is {self.lr.max():.3g}, and up to {safe:.3g} would be ({self.curvature})"
        first = int(np.argmax(self.above))
        grows = f", growing by {'a factor of ' + format(10**self.growth, '.3g') if self.growth < 6 else f'10^{self.growth:.0f}'} in all"
        return (
            f"{int(self.above.sum()):,} of {len(self.steps):,} steps are above the edge of stability, the first at update {self.steps[first]:,}: "
            f"lr {self.lr[first]:.3g}, and the steepest direction bears {self.edge[first]:.3g} ({self.curvature}){grows}; a peak lr below {safe:.3g} would be stable"
        )

    def table(self) -> PlanTable:
        """Rate, edge and their ratio at a dozen updates, the first and last above the edge among them."""
        from fallline.plan.text import PlanTable

        telling = [0, len(self.steps) - 1, int(np.argmax(self.lr)), *np.flatnonzero(self.above)[[0, -1]].tolist()] if self.above.any() else [int(np.argmax(self.lr))]
        at = np.unique([*np.linspace(0, len(self.steps) - 1, 10).astype(int), *telling])
        with np.errstate(invalid="ignore"):
            share = np.where(self.lr[at] > 0, self.lr[at] / self.edge[at], 0.0)
        return PlanTable({"step": self.steps[at], "lr": self.lr[at], "edge": self.edge[at], "lr / edge": share})

    def plot(self) -> Any:
        """The learning rate and its edge by update, as a `charts.Picture`."""
        from fallline import charts

        return charts.stability(self.steps, self.lr, self.edge, self.above, steps_per_epoch=self.steps_per_epoch)

    def __repr__(self) -> str:
        safe = self.safe_lr
        above = "" if self.stable else f", above={int(self.above.sum())}, first={int(self.steps[np.argmax(self.above)])}"
        return f"Stability(stable={self.stable}, lr={self.lr.max():.4g}, safe_lr={'None' if safe is None else format(safe, '.4g')}, curvature={self.curvature.value:.4g}{above})"

    def _repr_html_(self) -> str:
        try:
            picture = self.plot()._repr_html_()
        except ImportError:
            picture = ""
        return f"<p>{markup.escape(self.verdict)}</p>{self.table()._repr_html_()}{picture}"


def stability(plan: Plan, problem: Any, curvature: float | Curvature | None, at: Any) -> Stability:
    """The `Stability` of `plan.stability(...)`."""
    if plan.lr_is_auto:
        raise InvalidValue("the learning rate is auto, so there is no step to look at: give a number, or plan.with_lr(fl.find_lr(problem, plan))")
    if problem is None and curvature is None:
        raise InvalidValue("stability() was given neither a problem, whose curvature is measured, nor curvature=, a number")
    if problem is not None and plan.rows is not None and problem.rows != plan.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}: make it with Plan(problem, ...)")
    groups, group_of = ((Group(weight_decay=1.0),), None) if problem is None else resolve_groups(plan.optimizer, problem.layout)
    found = _given(curvature) if curvature is not None else _measured(problem, groups, group_of, at)
    steps = _looked_at(plan)
    lr = plan.lr_at(steps)
    # Multipliers are in the curvature's metric, so every group's row is that of multiplier 1; what is frozen thaws.
    even = list(dict.fromkeys(replace(g, lr=1.0, frozen=None) for g in groups if g.lr > 0)) or [Group()]
    row = _parts(plan.optimizer, plan.clock, even, steps)
    h = found.value
    if not h > 0:
        nothing = np.full(len(steps), np.nan if (row["second_intake"] > 0).any() else np.inf)
        return Stability(found, steps, lr, nothing, np.zeros(len(steps), bool), 0.0, plan.steps_per_epoch)
    above = (borne(row) < h).any(axis=1)
    growth = float(np.log10(radius({k: v[above] for k, v in row.items()}, h).max(axis=1)).sum()) if above.any() else 0.0
    doubled = _parts(_doubled(plan.optimizer), plan.clock, even, steps)
    with np.errstate(invalid="ignore"):
        edge = np.where(lr > 0, largest_factor(row, doubled, h).min(axis=1) * lr, np.nan)
    return Stability(found, steps, lr, edge, above, growth, plan.steps_per_epoch)


def _given(curvature: float | Curvature) -> Curvature:
    if isinstance(curvature, Curvature):
        return curvature
    if isinstance(curvature, bool) or not isinstance(curvature, (int, float, np.number)) or not math.isfinite(curvature):
        raise InvalidValue(f"curvature={curvature!r}: expected a finite number, the largest eigenvalue of the Hessian")
    return Curvature(float(curvature), where="given")


def _measured(problem: Any, groups: Sequence[Group], group_of: Sequence[int] | None, at: Any) -> Curvature:
    """The curvature in the metric of the groups' learning-rate multipliers: that of sqrt(D) H sqrt(D)."""
    scale = np.ones(problem.layout.size)
    for part, group in zip(problem.layout.slices, group_of or (), strict=True):
        scale[part] = math.sqrt(groups[group].lr)
    found = measured(problem, None if at is None else start_of(problem, at), scale=None if (scale == 1).all() else scale)
    if math.isnan(found.value):
        raise InvalidValue(f"the curvature {found.where} is not finite: the loss or its gradient is not; look at problem.gradient(problem.start())")
    return found


def _looked_at(plan: Plan) -> np.ndarray:
    if plan.steps <= EVERY:
        return np.arange(plan.steps)
    coarse = np.unique(np.linspace(0, plan.steps - 1, EVERY).astype(np.int64))
    top, reach = int(coarse[np.argmax(plan.lr_at(coarse))]), plan.steps // EVERY + 1
    near = np.arange(max(0, top - reach), min(plan.steps, top + reach + 1))
    peak = near[np.argmax(plan.lr_at(near))]
    return np.unique(np.append(coarse[np.linspace(0, len(coarse) - 1, SAMPLED).astype(int)], peak))


def _parts(rule: Any, clock: Any, groups: Sequence[Group], steps: np.ndarray) -> dict[str, np.ndarray]:
    """The deciding columns at some updates, float64 [n, groups]; a whole stretch is written at once."""
    if len(steps) == steps[-1] - steps[0] + 1:
        return parts_of(rule.rows(clock, groups, int(steps[0]), int(steps[-1]) + 1))
    every = [parts_of(rule.rows(clock, groups, t, t + 1)) for t in steps.tolist()]
    return {name: np.concatenate([parts[name] for parts in every]) for name in every[0]}


def _doubled(rule: Any) -> Any:
    """The rule with its learning rate doubled at every update."""
    return replace(rule, schedule=rule.schedule * 2.0) if getattr(rule, "schedule", None) is not None else rule.with_lr(rule.lr * 2.0)


__all__ = ["Stability", "stability"]
