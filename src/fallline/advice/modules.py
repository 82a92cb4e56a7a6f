"""Where `fit` begins with a module: the rule that `recipes.suggest` gives, and the length of a stream in updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fallline.advice import recipes
from fallline.errors import InvalidValue
from fallline.plan import Plan
from fallline.rules import Rule, auto
from fallline.schedules import Schedule


def is_module(problem: Any) -> bool:
    """Whether a problem's model has layers that can be looked at."""
    model = getattr(problem, "model", None)
    return callable(getattr(model, "modules", None)) and callable(getattr(model, "named_parameters", None))


def suggested(problem: Any, rows: int, epochs: float) -> tuple[Rule, tuple[str, ...]]:
    """The rule for a problem's module, its lr left to be found, and the reasons.

    What the reasons say of the rate itself belongs to the recipe's own number and is left out.
    """
    answer = recipes.suggest(problem.model, rows=rows, epochs=epochs)
    rule = answer.rule
    found = rule if isinstance(rule.lr, Schedule) else replace(rule, lr=auto)
    return found, tuple(reason for reason in answer.reasons if "find_lr" not in reason)


@dataclass(frozen=True)
class StreamLength:
    """How long a descent along a stream is.

    Args:
        steps: updates.
        per_pass: updates of one pass, or None where the stream has no length.
        batch: rows of its first batch.
    """

    steps: int
    per_pass: int | None
    batch: int

    @property
    def epochs(self) -> float:
        """Passes; one where a pass has no end."""
        return self.steps / self.per_pass if self.per_pass else 1.0

    @property
    def rows(self) -> int:
        """Rows of a pass, about; of all updates where a pass has no end."""
        return self.batch * (self.per_pass or self.steps)

    def plan(self, rule: Rule, seed: int) -> Plan:
        """The plan in updates."""
        return Plan(steps=self.steps, batch_size=self.batch, optimizer=rule, seed=seed)


def stream_length(problem: Any, epochs: float, steps: int | None) -> StreamLength:
    """The updates of so many passes over a stream, or those that are given.

    Raises:
        InvalidValue: neither the stream nor the caller knows a length.
    """
    per_pass, batch = problem.stream()
    if steps is None and per_pass is None:
        raise InvalidValue("the data is a stream of batches without a length, so epochs= cannot be counted: give fit(problem, steps=1000), the updates to make")
    return StreamLength(steps if steps is not None else max(1, round(epochs * per_pass)), per_pass, batch)
