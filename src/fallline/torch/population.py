"""Several runs of one module: each has copies of parameters and buffers, and the module is only visited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fallline.engines.population.serial import OneByOne
from fallline.errors import InvalidValue
from fallline.history import Advance, State
from fallline.rows import Answer, Start
from fallline.torch import modules
from fallline.torch.engine import ModuleEngine
from fallline.torch.stacked import Stacked, not_stacked, too_few
from fallline.torch.state import ModuleState, Point, Tensors, copies, write

if TYPE_CHECKING:
    from fallline.plan import Plan
    from fallline.plan.segment import Segment
    from fallline.torch.module_problem import ModuleProblem


def runs_of(problem: ModuleProblem, plans: Sequence[Plan], start: Any, together: bool | None) -> OneByOne | Stacked:
    """What advances the runs of a module.

    Raises:
        InvalidValue: together=True and the module cannot be stacked; it says why.
    """
    why = "as asked" if together is False else "" if together else too_few(problem, plans)
    if not why and (refusal := not_stacked(problem, plans)):
        if together:
            raise InvalidValue(f"together=True: {refusal}; leave it out")
        why = refusal
    if why:
        return OneByOne(problem, plans, start, why, Visiting(problem))
    return Stacked(problem, plans, start, "together: the module's parameters stacked, one pass for all runs")


@dataclass
class Visit:
    """What one run leaves outside of the module: what the module would hold, and the registers.

    Args:
        values, buffers: copies, in the order of the module's own.
        state: the registers; its `module` is the module's memory, which holds this run's only during a visit.
    """

    values: Tensors
    buffers: Tensors
    state: ModuleState

    @property
    def step(self) -> int:
        return self.state.step

    def copy(self) -> Visit:
        """An independent copy."""
        made = self.state.copy()
        return Visit(copies(self.values), copies(self.buffers), replace(made, module=self.state.module))

    def registers(self) -> State:
        """The registers, flat."""
        return replace(self.state, module=self.values).registers()


class Visiting:
    """The module's engine, for runs that share the module: before a segment a run moves in, after it the owner is back.

    Args:
        problem: whose module is visited.
    """

    name = "torch"

    def __init__(self, problem: ModuleProblem):
        self.problem, self.inner = problem, ModuleEngine(problem)
        self._tensors: Tensors = list(problem.parameters.values())
        self._buffers: Tensors = list(modules.buffers_of(problem.model).values())

    def begin(self, start: Any, rule_start: Start) -> Visit:
        """A run where the module is, or at weights by name or flat."""
        with self.problem.untouched():
            state = self.inner.begin(start, rule_start)
            return Visit(copies(self._tensors), copies(self._buffers), state)

    def advance(self, state: Visit, segment: Segment) -> Advance:
        """Run a segment in the module, and leave."""
        with self._inside(state):
            result = self.inner.advance(state.state, segment)
            after = Visit(copies(self._tensors), copies(self._buffers), result.state)
        return Advance(after, result.trace, result.stopped_at, result.reason)

    def answer(self, state: Visit, answer: Answer) -> Point:
        """The parameters of the answer and the buffers that belong to them."""
        with self._inside(state), torch.no_grad():
            return replace(self.inner.answer(state.state, answer), present=False)

    def settle(self, state: Visit, answer: Answer) -> None:
        """Nothing to do: the module is its owner's."""

    @contextmanager
    def _inside(self, state: Visit) -> Iterator[None]:
        with self.problem.untouched():
            write(self._tensors, state.values)
            write(self._buffers, state.buffers)
            yield


__all__ = ["Visit", "Visiting", "runs_of"]
