"""What went wrong in a descent that diverged: the loss that failed, the rows, the likely cause."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.curvature import drawn, measured
from fallline.errors import Diverged, InvalidValue
from fallline.plan import Plan

if TYPE_CHECKING:
    from fallline.plan.stability import Stability


def check_start(problem: Any) -> None:
    """Refuse to begin at weights that are not finite: no learning rate would help.

    Raises:
        InvalidValue: the first parameter that holds such a number is named.
    """
    start = np.asarray(problem.start())
    if not np.isfinite(start).all():
        for parameter, part in zip(problem.layout.parameters, problem.layout.slices, strict=True):
            check_finite(parameter.name, start[part])


def check_finite(name: str, values: np.ndarray) -> None:
    """Refuse a parameter that is not finite before anything was trained.

    Raises:
        InvalidValue: it is not.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InvalidValue(
            f"parameter {name!r} holds {np.ravel(values)[bad[0]]} before the first update ({len(bad):,} of its {values.size:,} numbers are not finite): "
            "the weights were broken before training; initialise them anew, or load weights that are finite"
        )


@dataclass(frozen=True)
class Failure:
    """Why an update was not made.

    Attributes:
        loss: the mean loss of its batch.
        first: what broke first, by its name; "" where the problem cannot tell.
        data: whether that is the data: then no learning rate would help.
    """

    loss: float
    first: str = ""
    data: bool = False


def failure(problem: Any, plan: Plan, state: Any, step: int) -> Failure:
    """The mean loss of update `step`'s batch at its gradient point w - look*v, in the registers' own type, and what broke first.

    The loss is not finite, or its gradient is not: a finite number says that the gradient alone broke. What broke is a column, a
    tensor or a gradient.
    """
    registers, layout = state.registers(), problem.layout
    segment = plan.segment(step, step + 1, layout)
    point, look = np.array(registers.w, np.float64), segment.rows.column("look")[0]
    if registers.v is not None:
        for part, group in zip(layout.slices, segment.group_of, strict=True):
            point[part] -= look[group] * registers.v[part]
    with np.errstate(all="ignore"):
        if hasattr(problem, "unsound"):
            loss, first, data = problem.unsound(point, segment.batch(0), plan.seed, step)
        else:
            loss, first, data = problem.loss(point, segment.batch(0)), "", False
        return Failure(float(np.asarray(loss).astype(registers.w.dtype)), first, data)


def diverged(problem: Any, plan: Plan, run: Any, step: int, why: Failure | None = None) -> Diverged:
    """The error that says where it went wrong, and the likely cause; it carries the partial run."""
    loss = run.history.loss
    rows = plan.segment(step, step + 1, problem.layout).batch(0) if step < plan.steps and plan.rows is not None else None
    shown = () if rows is None else tuple(int(r) for r in rows[:10])
    value = f"loss {loss[-1]:.3g}" if len(loss) else "the first loss is not finite"
    where = f"row{'s' if len(shown) > 1 else ''} {', '.join(map(str, shown))}{' ...' if rows is not None and len(rows) > 10 else ''}" if shown else "all rows"
    cause = _DATA if why is not None and why.data else _cause(problem, plan, step, rows)
    error = Diverged(f"Diverged: {value} before step {step} ({where}): {run.reason}. {cause}", step=step, rows=shown, cause=cause)
    error.run = run
    return error


_DATA = "The data are at fault, not the learning rate: mend or remove such rows, or leave their batches out (stop=SkipBroken())."


def _cause(problem: Any, plan: Plan, step: int, rows: np.ndarray | None) -> str:
    """What is likely to blame, and a learning rate to try."""
    lr = float(plan.lr_at(np.array([min(step, plan.steps - 1)]))[0])
    advice = f"lr was {lr:.3g}; try {lr / 10:.2g}"
    for found, of in _stabilities(problem, plan, rows):
        past = found.steps <= step
        if found.above[past].any() and found.safe_lr and math.isfinite(found.safe_lr):  # not known of a rate that overflows
            first = int(np.argmax(found.above))
            at = first if found.lr[past][-1] <= found.edge[past][-1] else int(past.sum()) - 1
            share = 0.9 if rows is None else 0.5  # the noise of batches lowers the edge
            momentum = float(plan.rows_between(int(found.steps[at]), int(found.steps[at]) + 1)[0].column("momentum")[0, 0])
            advice = (
                f"lr {found.lr[at]:.3g} was above the edge {found.edge[at]:.3g} estimated for {of} "
                f"(curvature {found.curvature.value:.3g}, momentum {momentum:g}); try lr {share * found.safe_lr:.2g}"
            )
            break
    return f"{advice}{_unscaled(problem)}."


def _stabilities(problem: Any, plan: Plan, rows: np.ndarray | None) -> Iterator[tuple[Stability, str]]:
    """How the plan stands to the edge of all the data, then to that of the batch that failed."""
    batches = [(None, "this data")] + ([] if rows is None else [(rows, f"this batch of {len(rows)} row{'' if len(rows) == 1 else 's'}")])
    for batch, of in batches:
        try:
            yield plan.stability(problem, curvature=_curvature(problem, batch)), of
        except (InvalidValue, ArithmeticError, RuntimeError):  # nothing that can be measured: it stays with a tenth of the rate
            return


def _curvature(problem: Any, batch: np.ndarray | None) -> float:
    """A bound over all weights where the problem has one, else what is measured at its start (of a module: where it is)."""
    if hasattr(problem, "smoothness"):
        bound = problem.smoothness(drawn(problem) if batch is None else batch)
        if bound is not None:
            return float(bound)
    return measured(problem, batch=batch).value


def _unscaled(problem: Any) -> str:
    """The column whose scale stands out, where one does."""
    if not hasattr(problem, "scales"):
        return ""
    scales = problem.scales()
    worst = int(np.argmax(scales))
    if scales[worst] > 10 * max(float(np.median(scales)), 1e-30) and scales[worst] > 3:
        return f", or standardise {problem.feature_name(worst)} (scale {scales[worst]:.2g})"
    return ""


__all__ = ["Failure", "check_finite", "check_start", "diverged", "failure"]
