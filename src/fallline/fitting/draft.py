"""The plan before any search: its length, a rule and a schedule by the textbook's reasons, and a batch size to begin with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fallline.advice.modules import StreamLength, is_module, stream_length, suggested
from fallline.batches import Batches
from fallline.errors import InvalidValue, PlanMismatch
from fallline.fitting.choices import SCHEDULE, Choices
from fallline.plan import Plan
from fallline.rules import SGD, Rule
from fallline.rules.writing import Auto
from fallline.schedules import Schedule

UPDATES = 1500
"""Searches begin with the batch size that makes about this many updates, within 8 and 256 rows."""


class Draft:
    """A plan in the making, with its journal.

    Args:
        problem: what is to be descended.
        told: what was given.

    Attributes:
        notes: the journal of choices.
        stream: the length of a stream of batches, or None where there are rows.
        size: the batch size, given or to begin with.
        rule: the optimizer; its lr may be `auto`.
    """

    def __init__(self, problem: Any, told: Choices):
        self.problem, self.told = problem, told
        self.notes: list[dict[str, Any]] = []
        self.stream = stream_length(problem, told.epochs, told.steps) if problem.rows is None else None
        self.size = self._size()
        self.rule = self._scheduled(self._rule())

    def note(self, what: str, value: Any, why: str) -> None:
        """A line of the journal."""
        self.notes.append({"what": what, "value": value, "why": why})

    @property
    def sparse(self) -> bool:
        return bool(getattr(self.problem, "sparse", False))

    def plan(self, size: Any = None) -> Plan:
        """The plan, in batches of a size, else its own."""
        told = self.told
        if self.stream is not None:
            return self.stream.plan(self.rule, told.seed)
        length = {"epochs": told.epochs} if told.steps is None else {"steps": told.steps}
        return Plan(self.problem, **length, batch_size=self.size if size is None else size, optimizer=self.rule, seed=told.seed)

    def _size(self) -> Any:
        told, stream = self.told, self.stream
        if stream is None:
            return told.batch_size if told.batch_size is not None else 1 if self.sparse else min(self.problem.rows, beginning(self.problem.rows, told.epochs))
        if told.batch_size not in (None, stream.batch):
            raise InvalidValue(
                f"batch_size={told.batch_size!r}: the data is a stream that gives {stream.batch} rows at a time; leave batch_size out, or give the rows themselves"
            )
        self.note("length", f"{stream.steps:,} updates", f"{_counted(stream, told)}; the data is a stream of batches, of {stream.batch} rows each")
        return stream.batch

    def _rule(self) -> Rule:
        """The rule that is given, or chosen by what the model is; decay and rate of one's own are put in."""
        told, rule = self.told, self.told.optimizer
        own = {name: value for name in ("lr", "weight_decay") if (value := getattr(told, name)) is not None and not isinstance(value, Auto)}
        if rule is None and is_module(self.problem) and not own:
            return self._of_a_module()
        if rule is None:
            rule = SGD(weight_decay=1e-6) if self.sparse else SGD(momentum=0.9, weight_decay=1e-4)
            why = "plain steps are exact and fast on sparse rows" if self.sparse else "the textbook's starting point"
            self.note("optimizer", _named(rule), why)
        else:
            self.note("optimizer", _named(rule), "given")
        return replace(rule, **own)

    def _of_a_module(self) -> Rule:
        told, stream = self.told, self.stream
        rows, epochs = (self.problem.rows, _passes(self.problem.rows, self.size, told)) if stream is None else (stream.rows, stream.epochs)
        rule, reasons = suggested(self.problem, rows, epochs)
        self.note("optimizer", _named(rule), "; ".join(reasons))
        if told.schedule != SCHEDULE:
            rule = replace(rule, schedule=told.schedule)
        self.note("schedule", str(rule.schedule or "constant"), "of the same starting point" if told.schedule == SCHEDULE else "given")
        return rule

    def _scheduled(self, rule: Rule) -> Rule:
        told = self.told
        if rule.schedule is not None or isinstance(rule.lr, Schedule) or told.schedule is None or "schedule" in {n["what"] for n in self.notes}:
            return rule
        rule = replace(rule, schedule=told.schedule)
        self.note("schedule", str(rule.schedule), "a short warmup, then linear to zero" if told.schedule == SCHEDULE else "given")
        return rule


def drafted(problem: Any, told: Choices) -> Plan:
    """The plan before any search, its lr still `auto` where it is to be found; a plan that is given, as it stands.

    Raises:
        PlanMismatch: a plan for other rows. InvalidValue: a batch size for a stream that has its own.
    """
    if told.plan is None:
        return Draft(problem, told).plan()
    if told.plan.rows != problem.rows and told.plan.rows is not None and problem.rows is not None:
        raise PlanMismatch(f"the plan is for {told.plan.rows:,} rows and the training part has {problem.rows:,}: use the data and split it was made for")
    return told.plan


def beginning(rows: int, epochs: float) -> int:
    """The batch size that a search begins with: about UPDATES updates."""
    return int(2 ** np.clip(np.floor(np.log2(max(rows * epochs / UPDATES, 1))), 3, 8))


def _counted(stream: StreamLength, told: Choices) -> str:
    return f"{stream.epochs:g} passes of {stream.per_pass:,} batches" if told.steps is None else "given"


def _passes(rows: int, size: int | Batches, told: Choices) -> float:
    if told.steps is None:
        return told.epochs
    batches = size if isinstance(size, Batches) else Batches(min(size, rows))
    return told.steps / batches.steps_per_epoch(rows)


def _named(rule: Rule) -> str:
    momentum = getattr(rule, "momentum", 0)
    return type(rule).__name__ + (f", momentum {momentum:g}" if isinstance(momentum, (int, float)) and momentum else "")
