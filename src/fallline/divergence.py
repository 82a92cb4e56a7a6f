"""What went wrong in a descent that diverged: the loss that failed, the rows, the likely cause."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.errors import Diverged
from fallline.plan import Plan
from fallline.rules import edge


def failed_loss(problem: Any, plan: Plan, state: Any, step: int) -> float:
    """The mean loss of update `step`'s batch at its gradient point w - look*v, in the registers' own type.

    It is not finite, or its gradient is not: a finite number says that the gradient alone broke.
    """
    registers, layout = state.registers(), problem.layout
    segment = plan.segment(step, step + 1, layout)
    point, look = np.array(registers.w, np.float64), segment.rows.column("look")[0]
    if registers.v is not None:
        for part, group in zip(layout.slices, segment.group_of, strict=True):
            point[part] -= look[group] * registers.v[part]
    with np.errstate(all="ignore"):
        return float(np.asarray(problem.loss(point, segment.batch(0))).astype(registers.w.dtype))


def diverged(problem: Any, plan: Plan, run: Any, step: int) -> Diverged:
    """The error that says where it went wrong, and the likely cause; it carries the partial run."""
    loss = run.history.loss
    rows = plan.segment(step, step + 1, problem.layout).batch(0) if step < plan.steps and plan.rows is not None else None
    shown = () if rows is None else tuple(int(r) for r in rows[:10])
    value = f"loss {loss[-1]:.3g}" if len(loss) else "the first loss is not finite"
    where = f"row{'s' if len(shown) > 1 else ''} {', '.join(map(str, shown))}{' ...' if rows is not None and len(rows) > 10 else ''}" if shown else "all rows"
    cause = _cause(problem, plan, step)
    error = Diverged(f"Diverged: {value} before step {step} ({where}): {run.reason}. {cause}", step=step, rows=shown, cause=cause)
    error.run = run
    return error


def _cause(problem: Any, plan: Plan, step: int) -> str:
    lr = float(plan.lr_at(np.array([min(step, plan.steps - 1)]))[0])
    advice = f"lr was {lr:.3g}; try {lr / 10:.2g}"
    if not hasattr(problem, "curvature"):
        return advice + "."
    curvature = problem.curvature()
    top = edge(plan.optimizer, curvature) if curvature and np.isfinite(curvature) else None
    if top and lr > top:
        momentum = getattr(plan.optimizer, "momentum", 0)
        advice = f"lr {lr:.3g} was above the edge {top:.3g} estimated for this data (curvature {curvature:.3g}, momentum {momentum}); try lr {0.5 * top:.2g}"
    scales = problem.scales()
    worst = int(np.argmax(scales))
    if scales[worst] > 10 * max(float(np.median(scales)), 1e-30) and scales[worst] > 3:
        return f"{advice}, or standardise {problem.feature_name(worst)} (scale {scales[worst]:.2g})."
    return advice + "."


__all__ = ["diverged", "failed_loss"]
