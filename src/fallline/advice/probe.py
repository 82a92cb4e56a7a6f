"""The probe: several learning rates from the same weights, on the same batches, along the plan's schedule, scored on held-out rows.

Rows that score are never trained on. What diverges scores +inf. Every update, every gradient of a Hessian product and every
validation pass is counted, in updates of the plan's own batch size; a pass forward counts a third of an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.advice.compressed import compressed, squeezed, without
from fallline.engines.population import Population
from fallline.plan import Plan
from fallline.problems.linear import LinearProblem
from fallline.rules import default_lr
from fallline.shuffle import permutation, stream_key

FORWARD = 1 / 3
"""What a pass forward costs beside one forward and back."""
HELD = 0.2
"""Share of the training rows that is held out where no validation rows are given, between LEAST_HELD and MOST_HELD rows."""
LEAST_HELD, MOST_HELD = 8, 1024
LEAST_SCORED, SCORED = 32, 0.12
"""Rows scored at a time: at least so many, and as many as cost this share of an update for every five updates of the search."""
MOST_SCORED = 4096
"""Validation rows that a probe scores at most: paired differences need no more, and a pass over them costs as much as updates do."""
MOST_PARTS = 0.8
FOLDS = 8
"""Parts that held-out rows are scored in, so that a difference between two rates comes with its error."""
_FOLDS = 0xF01D5
"""Keeps the draw of the folds apart from the plan's own orders."""
REPAID = 1e10
"""Multiply-adds of a rung from which a linear model's runs may be one program: its kernels, which nothing else in a fit needs, take ten
seconds to compile the first time."""


@dataclass(frozen=True)
class Apart:
    """Batches of a stream that were set apart, each a problem, with their rows."""

    parts: list[Any]
    rows: int


@dataclass(frozen=True)
class OutOfFold:
    """In place of validation rows: every training row is scored once, by a run that did not train on it.

    Args:
        folds: parts that the rows are drawn into, at least 2; there is a run for each, so everything costs so many times as much.
    """

    folds: int = 5

    def parts(self, rows: int, seed: int) -> list[np.ndarray]:
        """The row numbers of each fold: together all rows, each once."""
        order = permutation(rows, stream_key(seed, 0, _FOLDS))
        return [np.sort(part).astype(np.int64) for part in np.array_split(order, min(self.folds, rows))]


@dataclass(frozen=True)
class Lane:
    """Rows that are trained on, and others that score: there is one, or one for each fold.

    Args:
        batches: the plan's, without the rows that score.
        scored: the rows that score, in parts, each a problem.
    """

    batches: Any
    scored: list[Any]


@dataclass(frozen=True)
class Rung:
    """Rates tried at one horizon.

    Args:
        steps: updates of each.
        lr: (k,) rising.
        score: (k,) loss on the held-out rows; +inf where it diverged.
        folds: (k, folds) the same by part of the held-out rows.
    """

    steps: int
    lr: np.ndarray
    score: np.ndarray
    folds: np.ndarray

    def errors(self, k: int) -> np.ndarray:
        """(rates,) standard errors of the difference to rate k; paired, because the rows are the same. 0 where there is one part."""
        return paired(self.folds, k)

    def joined(self, other: Rung) -> Rung:
        """Both, in order of the rates."""
        lr = np.concatenate([self.lr, other.lr])
        at = np.argsort(lr, kind="stable")
        return Rung(self.steps, lr[at], np.concatenate([self.score, other.score])[at], np.concatenate([self.folds, other.folds])[at])


@dataclass
class Probe:
    """Tries rates, and counts what that costs.

    Args:
        problem, plan: what is to be trained, and how.
        lanes: rows that are trained on and rows that score; several where scores are out of fold.
        rows: rows that score, in all.
        told: what the scores are of, for the verdict.
        start: initial weights, or None.
        exact: the scores are what the descent is for, without rows: there is nothing to overfit.
        first: the score of each part before any update.
        spent: updates so far, by lane.
    """

    problem: Any
    plan: Plan
    lanes: list[Lane]
    rows: int
    told: str
    start: Any = None
    exact: bool = False
    first: np.ndarray = field(default_factory=lambda: np.empty(0))
    spent: float = 0.0

    @classmethod
    def of(cls, problem: Any, plan: Plan, valid: Any, seed: int, start: Any, updates: float) -> Probe:
        """A probe that scores `valid`, or rows held out of the training rows.

        Args:
            valid: rows as for `train`, `OutOfFold()`, or None.
            updates: what may be spent; with fewer, fewer rows are scored at a time.
        """
        rng = np.random.default_rng([seed, 0xFA11])
        batch = plan.batch_size.size or plan.rows or 1
        most = int(max(LEAST_SCORED, SCORED * batch * updates))
        if isinstance(valid, Apart):
            return cls(problem, plan, [Lane(plan.batch_size, valid.parts)], valid.rows, f"the loss on {valid.rows:,} rows, the stream's first batches,", start)
        if isinstance(valid, OutOfFold) and problem.rows > 1:
            folds = valid.parts(problem.rows, seed)
            lanes = [Lane(without(plan.batch_size, problem.rows, held), [problem.part(held)]) for held in folds]
            return cls(problem, plan, lanes, problem.rows, f"the loss on {problem.rows:,} rows, each out of its fold of {len(folds)},", start)
        if valid is not None and not isinstance(valid, OutOfFold):
            held_out = problem.held_out(valid)
            parts, rows = _parts(held_out, rng.permutation(held_out.rows) if held_out.rows else None, most)
            return cls(problem, plan, [Lane(plan.batch_size, parts)], rows, f"the loss on {rows:,} validation rows", start)
        if not hasattr(problem, "part"):
            return cls(problem, plan, [Lane(plan.batch_size, [problem])], 1, "the function", start, exact=True)
        if problem.rows < 2:
            return cls(problem, plan, [Lane(plan.batch_size, [problem])], problem.rows, "the loss on the one training row", start)
        share = min(max(math.ceil(HELD * problem.rows), min(LEAST_HELD, problem.rows // 2)), MOST_HELD)
        held = np.sort(rng.permutation(problem.rows)[:share])
        parts, rows = _parts(problem, rng.permutation(held), most)
        lane = Lane(without(plan.batch_size, problem.rows, held), parts)
        return cls(problem, plan, [lane], rows, f"the loss on {rows:,} rows held out of the training data", start)

    @property
    def start_score(self) -> float:
        """The score before any update."""
        return float(self.mean(self.first[None, :])[0])

    @property
    def convex(self) -> bool:
        """Whether the loss is known to be convex."""
        return bool(getattr(self.problem, "convex", False))

    def falls(self, rung: Rung, k: int) -> bool:
        """Whether rate k of a rung gained clearly."""
        return clearly(self.first - rung.folds[k], self.start_score)

    @property
    def pass_cost(self) -> float:
        """Updates that one scoring is worth, by lane."""
        batch = self.plan.batch_size.size or self.plan.rows or 1
        return FORWARD * self.rows / batch / len(self.lanes)

    def begin(self) -> float:
        """Score the start, before any update."""
        self.first = self._scores([compressed(self.plan, default_lr(self.plan.optimizer), 1)], 0)[0]
        return self.start_score

    def try_rates(self, rates: Sequence[float], steps: int) -> Rung:
        """Run every rate for `steps` updates and score it."""
        rates = sorted(float(r) for r in rates)
        folds = self._scores([compressed(self.plan, lr, steps) for lr in rates], steps)
        return Rung(steps, np.array(rates), self.mean(folds), folds)

    def try_plans(self, plans: Sequence[Plan], steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Run every plan, its learning rate its own, squeezed into `steps` updates: scores (k,), and by part (k, parts)."""
        folds = self._scores([squeezed(plan, steps) for plan in plans], steps)
        return self.mean(folds), folds

    def _scores(self, plans: Sequence[Plan], steps: int) -> np.ndarray:
        """The score of every plan on each part after so many updates, (plans, parts); +inf where it diverged."""
        parts, made, ended = [], 0, 0
        for lane in self.lanes:
            runs = Population(self.problem, [plan._with(batch_size=lane.batches) for plan in plans], start=self.start, together=self._together(len(plans), max(steps, 1)))
            runs.advance(steps)
            parts += [runs.evaluate(part) for part in lane.scored]
            made += sum(steps if at is None else at + 1 for at in runs.stopped_at)
            ended += sum(at is None for at in runs.stopped_at)
        self.spent += (made + ended * self.pass_cost) / len(self.lanes)
        return np.stack(parts, axis=1)

    def _together(self, runs: int, steps: int) -> bool | None:
        """Whether to ask for one program: left to `Population`, except for little work on a linear model."""
        if not isinstance(self.problem, LinearProblem):
            return None
        batch = self.plan.batch_size.size or self.problem.rows
        return None if float(runs) * steps * batch * self.problem.layout.size >= REPAID else False

    def mean(self, folds: np.ndarray) -> np.ndarray:
        """The score of all parts together, +inf where one is not finite."""
        sizes = np.array([max(part.rows or 1, 1) for lane in self.lanes for part in lane.scored], float)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(folds).all(axis=1), np.where(np.isfinite(folds), folds, 0.0) @ (sizes / sizes.sum()), np.inf)


def paired(folds: np.ndarray, k: int) -> np.ndarray:
    """(k,) standard errors of the difference to row k over the same parts, (k, parts); 0 where there is one part, or one that is not finite."""
    with np.errstate(invalid="ignore"):
        apart = folds - folds[k]
    count = apart.shape[1]
    if count < 2:
        return np.zeros(len(apart))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(apart).all(axis=1), np.where(np.isfinite(apart), apart, 0.0).std(axis=1, ddof=1) / math.sqrt(count), 0.0)


def clearly(gained: np.ndarray, start: float) -> bool:
    """Whether a gain in each part is more than noise: by a standard error, or in MOST_PARTS of them (a heavy row decides the first)."""
    if not gained.mean() > 1e-12 * abs(start):
        return False
    error = gained.std(ddof=1) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
    return bool(gained.mean() > error or (gained > 0).mean() >= MOST_PARTS)


def _parts(problem: Any, order: np.ndarray | None, most: int) -> tuple[list[Any], int]:
    """At most `most` of a problem's rows as problems of their own, at most FOLDS and at least LEAST_HELD rows each."""
    if problem.rows is None or not hasattr(problem, "part"):
        return [problem], problem.rows or 0
    order = np.arange(problem.rows) if order is None else order
    chosen = order[: max(min(most, len(order), MOST_SCORED), 1)]
    folds = max(1, min(FOLDS, len(chosen) // LEAST_HELD))
    return [problem.part(np.sort(rows)) for rows in np.array_split(chosen, folds)], len(chosen)
