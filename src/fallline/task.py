"""What a loop has to do: a problem, its engine, one plan or a journal of them, and who looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fallline.engines import Engine
from fallline.errors import InvalidValue
from fallline.judges import EarlyStop, Judge
from fallline.lengths import Length
from fallline.metrics import Metric, metric
from fallline.plan import Plan

Log = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Task:
    """What a loop has to do.

    Attributes:
        problem, engine: what is descended, and what runs it.
        plans: the plan, or several with the updates from which they hold: a journal to be carried out again.
        valid: the held-out problem, its metrics, or None.
        every: how often the run is measured.
        judges: all of them.
        log: called with one flat dict per evaluation.
    """

    problem: Any
    engine: Engine
    plans: tuple[tuple[int, Plan], ...]
    valid: tuple[Any, tuple[Metric, ...]] | None
    every: Length
    judges: tuple[Judge, ...]
    log: Log | None = None

    @property
    def score(self) -> tuple[str, float]:
        """The evaluation's entry by which the best weights are chosen, and 1 where lower is better, else -1."""
        chosen = next((metric(j.metric) for j in self.judges if isinstance(j, EarlyStop) and j.metric is not None), None)
        return (f"valid_{chosen.name}", -1.0 if chosen.better == "higher" else 1.0) if chosen else ("valid_loss", 1.0)


def checked_plans(given: Any) -> tuple[tuple[int, Plan], ...]:
    """A plan, or a journal of plans: [(0, plan), (120, another), ...].

    Raises:
        InvalidValue: neither.
    """
    if isinstance(given, Plan):
        return ((0, given),)
    plans = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    right = all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], int) and isinstance(p[1], Plan) for p in plans)
    steps = [p[0] for p in plans] if right else []
    if not plans or not right or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise InvalidValue(f"plan={given!r}: expected a Plan, or a run's journal: [(0, plan), (update, plan), ...] in the order of their updates")
    for (_, before), (step, after) in pairwise(plans):
        if step > before.steps or step >= after.steps or before.rows != after.rows:
            raise InvalidValue(f"plan={given!r}: the plan from update {step} on has other rows, or lies beyond an end")
    return plans


__all__ = ["Log", "Task", "checked_plans"]
