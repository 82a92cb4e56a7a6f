"""Finding the weight decay of a linear model: a path of values, trained side by side, scored on rows that none of them saw.

Law: every value trains from the same weights, on the same batches, at the plan's own learning rate, with its schedule compressed to
m updates (all T where that is affordable); the value with the lowest score is chosen. No other rule comes in between, so the
choice is what the path says; the standard errors of the paired differences say which other values would have done as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.advice.allowance import affordable
from fallline.advice.probe import Probe, paired
from fallline.errors import InvalidValue
from fallline.plan import Plan

PATH = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Values that are always tried; the half decades beside the best follow, and further decades where the largest is the best."""
MOST = 1e3
"""No larger decay is tried."""
SHARE, RUNS = 0.5, 12.0
"""What the path may cost in full runs: as a share, and where they are next to free; each fold counts as a run of its own."""


@dataclass(frozen=True, repr=False)
class DecayPath:
    """Scores of a plan by its weight decay.

    Attributes:
        values: (k,) rising; 0 is none.
        score: (k,) loss on the rows that score; +inf where a run diverged.
        error: (k,) standard error of the difference to the best one's score, over the same parts of the rows; 0 at the best.
        chosen: the value with the lowest score, or None where all diverged.
        rows: rows that scored; folds: runs that each value took, 1 on validation rows.
        steps, total: updates that each value had, and those of the plan.
        cost, share: updates spent in all, and in full runs.
        verdict: a sentence.
    """

    values: np.ndarray
    score: np.ndarray
    error: np.ndarray
    chosen: float | None
    rows: int
    folds: int
    steps: int
    total: int
    cost: int
    share: float
    verdict: str

    def plot(self) -> Any:
        """The score against the weight decay, with the choice marked."""
        from fallline import charts

        return charts.decay_path(self.values, self.score, self.error, chosen=self.chosen)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a score that is not finite is None."""
        score = [float(v) if math.isfinite(v) else None for v in self.score]
        return {
            "values": self.values.tolist(), "score": score, "error": self.error.tolist(), "chosen": self.chosen, "rows": self.rows, "folds": self.folds,
            "steps": self.steps, "total": self.total, "cost": self.cost, "share": self.share, "verdict": self.verdict,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"DecayPath(chosen={self.chosen!r}, values={self.values.tolist()}, cost={self.share:.2g} of a run, verdict={self.verdict!r})"


def find_weight_decay(problem: Any, plan: Plan, *, valid: Any = None, values: Sequence[float] = PATH, seed: int | None = None) -> DecayPath:
    """Find the weight decay for a plan by a path of values.

    Args:
        problem: what the plan descends; it is left as it is.
        plan: with a learning rate; its own weight decay is not looked at.
        valid: rows that score, as for `train`, or `OutOfFold()`; left out, rows held out of the training data.
        values: tried first, none below 0.
        seed: of the folds, or of the rows held out; left out, the plan's.

    Raises:
        InvalidValue: values that are no decays, or a rule that knows none.

    >>> import numpy as np, fallline as fl
    >>> from fallline.advice.probe import OutOfFold
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 40))
    >>> problem = fl.least_squares(X, X[:, 0] + rng.standard_normal(60))
    >>> plan = fl.Plan(problem, epochs=200, batch_size=8, optimizer=fl.SGD(lr=0.02, schedule="linear(to=0)"))
    >>> find_weight_decay(problem, plan, valid=OutOfFold()).chosen > 0.03
    True
    """
    tried = sorted({float(v) for v in values})
    if not tried or tried[0] < 0 or not math.isfinite(tried[-1]):
        raise InvalidValue(f"find_weight_decay(values={list(values)!r}): expected numbers of 0 or more")
    if not hasattr(plan.optimizer, "weight_decay"):
        raise InvalidValue(f"{type(plan.optimizer).__name__} has no weight decay to find")
    most = math.inf
    if hasattr(problem, "in_memory"):  # rows in files: a sample of them says as much
        problem, plan, share = problem.in_memory(plan, None)
        most = math.inf if share is None else share * plan.steps
    lanes = len(valid.parts(problem.rows, 0)) if hasattr(valid, "parts") else 1
    allowed = min(affordable(problem, plan, SHARE, RUNS * lanes), most) / lanes
    probe = Probe.of(problem, plan, valid, plan.seed if seed is None else seed, None, allowed * lanes)
    steps = int(min(max(allowed / (len(tried) + 2) - probe.pass_cost, 1), plan.steps))
    search = _Path(probe, plan, steps, allowed)
    search.take(tried)
    search.widen()
    search.refine()
    return search.read()


class _Path:
    """The values tried so far."""

    def __init__(self, probe: Probe, plan: Plan, steps: int, allowed: float):
        self.probe, self.plan, self.steps, self.allowed = probe, plan, steps, allowed
        self.folds: dict[float, np.ndarray] = {}
        self.scores: dict[float, float] = {}

    def take(self, values: Sequence[float]) -> None:
        """Train with these values, side by side."""
        new = [v for v in values if v not in self.scores]
        plans = [self.plan._with(optimizer=replace(self.plan.optimizer, weight_decay=v)) for v in new]
        score, folds = self.probe.try_plans(plans, self.steps)
        self.scores |= dict(zip(new, score.tolist(), strict=True))
        self.folds |= dict(zip(new, folds, strict=True))

    @property
    def best(self) -> float:
        return min(sorted(self.scores), key=self.scores.__getitem__)

    def _room(self, runs: int) -> bool:
        return self.probe.spent + runs * (self.steps + self.probe.pass_cost) <= self.allowed

    def widen(self) -> None:
        """Further decades, while the largest value is the best."""
        while 0 < self.best == max(self.scores) < MOST and self._room(1):
            self.take([10 * self.best])

    def refine(self) -> None:
        """The half decades on both sides of the best."""
        if self.best > 0 and math.isfinite(self.scores[self.best]) and self._room(2):
            self.take([float(f"{self.best * 10**half:.2g}") for half in (-0.5, 0.5)])

    def read(self) -> DecayPath:
        """What the path says."""
        values = np.array(sorted(self.scores))
        score = np.array([self.scores[v] for v in values.tolist()])
        k, lanes = int(np.argmin(score)), len(self.probe.lanes)
        error = paired(np.array([self.folds[v] for v in values.tolist()]), k)
        chosen = float(values[k]) if math.isfinite(score[k]) else None
        cost = self.probe.spent * lanes
        share = cost / self.plan.steps
        told = verdict(values, score, error, chosen, self.probe.told, self.steps, self.plan.steps) + f"; it cost {share:.2g} runs"
        return DecayPath(values, score, error, chosen, self.probe.rows, lanes, self.steps, self.plan.steps, math.ceil(cost), share, told)


def verdict(
    values: np.ndarray, score: np.ndarray, error: np.ndarray, chosen: float | None, told: str, steps: int, total: int
) -> str:  # fmt: skip
    """Why this value, in a sentence."""
    span = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
    if chosen is None:
        return f"every one of {span} diverged within {steps:,} updates"
    k = int(np.argmin(score))
    name = "no weight decay" if chosen == 0 else f"weight decay {chosen:g}"
    beside = "" if k == 0 or values[0] != 0 else f" (none: {score[0]:.4g})"
    good = values[np.isfinite(score) & (score <= score[k] + error)]
    alike = f"{good[0]:g} to {good[-1]:g} do as well within a standard error" if len(good) > 1 else "no other does as well within a standard error"
    length = "" if steps == total else f", over {steps:,} updates in place of {total:,}"
    return f"{name}: {told} is {score[k]:.4g}, the lowest of {span}{beside}{length}; {alike}"


__all__ = ["DecayPath", "find_weight_decay"]
