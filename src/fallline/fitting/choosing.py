"""Choosing what was not given, one number after the other, each from what the one before left: batch size, learning rate, weight decay.

Test rows are never looked at. Choices rest on the validation rows; of fewer than SMALL training rows those are too few to choose
by, and every training row scores out of its fold instead.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from fallline.advice.allowance import PASSES, affordable
from fallline.advice.batch_size import find_batch_size
from fallline.advice.batch_size.choice import LEAST
from fallline.advice.found import Found
from fallline.advice.lr import BUDGET, LEAST_FREE, find_lr
from fallline.advice.modules import is_module
from fallline.advice.probe import OutOfFold
from fallline.advice.weight_decay import find_weight_decay
from fallline.errors import FalllineError, NoLearningRate
from fallline.fitting.choices import Choices
from fallline.fitting.draft import UPDATES, Draft, drafted
from fallline.plan import Plan
from fallline.plan.scale import LARGE
from fallline.problems import LinearProblem
from fallline.rules import typical_lr
from fallline.rules.writing import Auto
from fallline.training import Validation

SMALL = 1000
"""Training rows of a linear model below which choices rest on five folds."""
BATCH_SHARE = 0.1
"""What the search for a batch size may cost, in full runs, where it is not next to free."""
RUNS = 8.0
"""Full runs that the search for a rate may have where they are next to free, by fold: enough to probe at the plan's own length."""


@dataclass
class Chosen:
    """A plan, and what it rests on.

    Attributes:
        plan: what is carried out.
        found: what the search for a learning rate found, or None where it was given.
        notes: the journal: what, value, why.
        evidence: by what was searched, plain values for the run's summary and its report.
    """

    plan: Plan
    found: Found | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)


def chosen(problem: Any, told: Choices, valid: Any = None, *, folds: bool = True) -> Chosen:
    """The plan for a problem, its numbers searched for where they were not given.

    Args:
        valid: rows to choose by, as for `train`.
        folds: whether rows may be drawn into folds one by one: not where groups or time keep some apart.
    """
    if told.plan is not None:
        plan = drafted(problem, told)
        return Chosen(plan, notes=[{"what": "plan", "value": plan.fingerprint[:16], "why": "given"}])
    return _Choosing(problem, told, valid.data if isinstance(valid, Validation) else valid, folds).run()


class _Choosing:
    """The searches, one after the other."""

    def __init__(self, problem: Any, told: Choices, valid: Any, folds: bool):
        self.problem, self.told = problem, told
        self.draft = Draft(problem, told)
        self.found: Found | None = None
        self.evidence: dict[str, Any] = {}
        self.spent: dict[str, float] = {}
        self.valid = OutOfFold() if folds and _is_small(problem, valid) else valid

    def run(self) -> Chosen:
        began = time.perf_counter()
        plan = self._weight_decay(self._rate(self._sized()))
        if self.spent:
            seconds, runs = time.perf_counter() - began, sum(self.spent.values())
            self.evidence["cost"] = {"runs": runs, "seconds": seconds}
            each = ", ".join(f"{what} {cost:.2g}" for what, cost in self.spent.items())
            self.draft.note("searched", f"as much as {runs:.2g} runs", f"{each}; a run is {plan.steps:,} updates")
        return Chosen(plan, self.found, self.draft.notes, self.evidence)

    @property
    def _stored(self) -> bool:
        """Whether the rows are in files, and searches go over a sample of them."""
        return hasattr(self.problem, "in_memory")

    def _sized(self) -> Plan:
        """The plan in batches of a size that was given, or found."""
        draft, told = self.draft, self.told
        plan = draft.plan()
        if draft.stream is not None:
            return plan
        if told.batch_size is not None:
            draft.note("batch size", plan.batch_size.size or "all rows", "given")
            return plan
        if draft.sparse:
            draft.note("batch size", 1, "sparse rows: one at a time touches only its own features")
            return plan
        if not (isinstance(self.problem, LinearProblem) or is_module(self.problem)) or self.problem.rows < 2:
            draft.note("batch size", draft.size, "there is nothing to measure it by" if self.problem.rows > 1 else "one row")
            return plan
        timed = _on_a_device(self.problem)
        most, fewer = (LARGE, "") if timed else (draft.size, f"; at most {draft.size}, for about {UPDATES:,} updates")
        if most <= LEAST and is_module(self.problem):
            draft.note("batch size", draft.size, f"the smallest of the textbook's table{fewer}: there was nothing to measure")
            return plan
        try:
            # Without timings, so that the same call makes the same choice on every machine; only a device's updates have to be timed.
            problem, there, _ = self.problem.in_memory(plan, None) if self._stored else (self.problem, plan, None)  # rows in files: a sample of them
            found = find_batch_size(problem, there, most=most, budget=min(BATCH_SHARE, PASSES / (plan.epochs or 1)), timing=timed)
        except FalllineError as error:
            draft.note("batch size", draft.size, f"no search was possible ({error})")
            return plan
        self.spent["batch size"] = found.share
        self.evidence["batch_size"] = found.to_json()
        draft.note("batch size", found.batch_size, "; ".join((found.verdict.removeprefix(f"batch size {found.batch_size:,}: "), *found.warnings)) + fewer)
        return draft.plan(found.batch_size)

    def _rate(self, plan: Plan) -> Plan:
        """The plan with a learning rate that was given, or found; else with the typical one."""
        if not plan.lr_is_auto:
            if isinstance(plan.optimizer.lr, (int, float)):
                self.draft.note("lr", plan.optimizer.lr, "given")
            return plan
        lanes = self.valid.folds if isinstance(self.valid, OutOfFold) else 1
        budget = None
        if isinstance(self.problem, LinearProblem) and not self._stored:
            budget = max(affordable(self.problem, plan, BUDGET, RUNS * lanes), LEAST_FREE) / plan.steps
        self.found = found = find_lr(self.problem, plan, valid=self.valid, budget=budget)
        self.spent["lr"] = found.share or 0.0
        try:
            self.draft.note("lr", found.lr, found.verdict)
            return plan.with_lr(found)
        except NoLearningRate as none:
            low, high = typical_lr(plan.optimizer)
            typical = math.sqrt(low * high)
            self.draft.note("lr", typical, f"the search gave no answer ({none.verdict}); this is the textbook's typical value")
            return plan.with_lr(typical)

    def _weight_decay(self, plan: Plan) -> Plan:
        """The plan with the weight decay that a path of values speaks for, where it is left to be found."""
        asked = self.told.weight_decay
        if asked is not None and not isinstance(asked, Auto):
            self.draft.note("weight decay", asked, "given")
        left = isinstance(asked, Auto) or (asked is None and self.told.optimizer is None)
        if not left or not isinstance(self.problem, LinearProblem) or self.problem.rows < 2 or not hasattr(plan.optimizer, "weight_decay"):
            return plan
        found = find_weight_decay(self.problem, plan, valid=self.valid)
        self.spent["weight decay"], self.evidence["weight_decay"] = found.share, found.to_json()
        own = plan.optimizer.weight_decay
        if found.chosen is None:
            self.draft.note("weight decay", own, f"{found.verdict}; this is the usual value")
            return plan
        self.draft.note("weight decay", found.chosen, found.verdict)
        return plan._with(optimizer=replace(plan.optimizer, weight_decay=found.chosen))


def _is_small(problem: Any, valid: Any) -> bool:
    """Whether validation rows are too few to choose by, and folds of the training rows more."""
    if not isinstance(problem, LinearProblem) or not 1 < problem.rows < SMALL:
        return False
    return valid is None or problem.held_out(valid).rows < problem.rows


def _on_a_device(problem: Any) -> bool:
    device = getattr(problem, "device", None)
    return device is not None and getattr(device, "type", "cpu") != "cpu"
