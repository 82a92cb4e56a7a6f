"""One run of a sweep: what is to be done, what came of it, and how a group of them is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines.population import Population
from fallline.metrics import Metric
from fallline.plan import Plan
from fallline.problems import FunctionProblem, LinearProblem

KEPT_NUMBERS = 50_000_000
"""Weights of all runs are kept where they are at most so many numbers (400 MB)."""


@dataclass(frozen=True)
class Job:
    """A run to be made: its combination's number, its seed's number, its plan."""

    cell: int
    seed: int
    plan: Plan


@dataclass(frozen=True)
class SweepRun:
    """A run that was made.

    Attributes:
        cell, seed: the number of its combination; the seed of its plan.
        steps: updates made.
        outcome: "Finished", "Diverged" (its loss or gradient was not finite), or "Stopped" (left behind by successive halving).
        loss: mean loss of the batches of its last pass over the rows; NaN where it made no update.
        scores: what it was measured by at its end: "valid_loss" and metrics, or "train_loss"; infinite or NaN where it diverged.
        weights: by name, as `run.weights`; None where they were not kept.
    """

    cell: int
    seed: int
    steps: int
    outcome: str
    loss: float
    scores: Mapping[str, float]
    weights: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; weights apart."""
        return {name: getattr(self, name) for name in ("cell", "seed", "steps", "outcome", "loss")} | {"scores": dict(self.scores)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None) -> SweepRun:
        """The run of `to_json`."""
        scores = {name: float(value) for name, value in data["scores"].items()}
        return cls(int(data["cell"]), int(data["seed"]), int(data["steps"]), str(data["outcome"]), float(data["loss"]), scores, weights)


@dataclass(frozen=True)
class Ruler:
    """How runs are measured: on held-out rows, or on the problem's own where there are none.

    Args:
        problem: what the runs descend.
        held_out: a problem of other rows, or None.
        metrics: beside the loss.
        by: the metric that combinations are ranked by; None ranks by the loss.
    """

    problem: Any
    held_out: Any
    metrics: tuple[Metric, ...]
    by: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, by name."""
        part = "train" if self.held_out is None else "valid"
        return tuple(f"{part}_{name}" for name in ("loss", *(m.name for m in self.metrics)))

    @property
    def name(self) -> str:
        """What combinations are ranked by."""
        return self.names[0] if self.by is None else f"valid_{self.by}"

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return self.by is None or next(m for m in self.metrics if m.name == self.by).better == "lower"

    def score(self, measured: np.ndarray) -> float:
        """What combinations are ranked by, lower is better, of one run's measurements; infinite where it is not a number."""
        value = float(measured[self.names.index(self.name)])
        return math.inf if math.isnan(value) else value if self.lower else -value

    def measure(self, population: Population) -> np.ndarray:
        """float64 [runs, names]."""
        return population.measure(self.problem if self.held_out is None else self.held_out, self.metrics)


def keeps_weights(problem: Any, runs: int) -> bool:
    """Whether the weights of so many runs are kept: few numbers, and nothing beside them that a prediction needs."""
    return isinstance(problem, (LinearProblem, FunctionProblem)) and problem.layout.size * runs <= KEPT_NUMBERS


def results(jobs: Sequence[Job], population: Population, ruler: Ruler, *, stopped: bool = False, weights: bool = False) -> list[SweepRun]:
    """What came of the runs of a population."""
    scores = ruler.measure(population)
    answers = population.answers() if weights else None
    out = []
    for k, (job, losses, failed) in enumerate(zip(jobs, population.losses, population.stopped_at, strict=True)):
        outcome = "Diverged" if failed is not None else "Stopped" if stopped else "Finished"
        named = None if answers is None else ruler.problem.named(answers[k])
        measured = dict(zip(ruler.names, scores[k].tolist(), strict=True))
        out.append(SweepRun(job.cell, job.plan.seed, len(losses), outcome, _last_pass(losses, job.plan), measured, named))
    return out


def _last_pass(losses: np.ndarray, plan: Plan) -> float:
    last = losses[-(plan.steps_per_epoch or 1) :]
    return float(last.mean()) if len(last) else math.nan
