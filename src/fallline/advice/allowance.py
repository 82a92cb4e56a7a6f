"""What a search may cost: a share of the run, but always some tenths of a second, which nobody waits for, and never hours."""

from __future__ import annotations

from typing import Any

from fallline.plan import Plan
from fallline.problems import LinearProblem

WORK, UPDATE = 400e6, 2000.0
"""Multiply-adds that a search on a linear model may always cost, and those that an update takes besides its rows' (its registers, its
share of a call): so searches on small tables run to the plan's own length, on every machine alike."""
PASSES = 200.0
"""Passes over the rows that a search on a linear model makes at most: a plan of a million epochs is no reason to search for a day."""


def affordable(problem: Any, plan: Plan, share: float, runs: float) -> float:
    """The updates that a search may make.

    Args:
        share: of the plan's own updates; on a linear model at most PASSES.
        runs: how many full runs it may have where they are next to free; on a linear model only.
    """
    if not isinstance(problem, LinearProblem):
        return share * plan.steps
    row = problem.X.nnz / problem.rows * problem.outputs if problem.sparse else float(problem.layout.size)
    batch = plan.batch_size.size or problem.rows
    return max(min(share * plan.steps, PASSES * plan.batch_size.steps_per_epoch(problem.rows)), min(WORK / (batch * row + UPDATE), runs * plan.steps))
