"""Engines run rows. One method: `advance(state, segment)`.

`reference` is the meaning, in NumPy float64; `linear` runs linear models in compiled code. An engine owns and
consumes the state that it is given, tests loss and gradient *before* each update, and stops there when they are not
finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fallline.history import Advance, Packed
    from fallline.plan import Segment
    from fallline.rows import Answer, Start


class Engine(Protocol):
    """What runs a segment of a plan on a problem."""

    @property
    def name(self) -> str: ...

    def begin(self, start: Any, rule_start: Start) -> Any:
        """The state before update 0, from a user's weights (by name or flat) or, where they are None, the problem's own."""
        ...

    def advance(self, state: Any, segment: Segment) -> Advance:
        """Run a segment from a state, which is consumed."""
        ...

    def answer(self, state: Any, answer: Answer) -> Any:
        """The point that the answer's coefficients give, an independent copy, as the problem's `measure` takes it."""
        ...

    def pack(self, state: Any) -> Packed:
        """Everything that a state is, as plain things; the state goes on."""
        ...

    def unpack(self, packed: Packed, rule_start: Start) -> Any:
        """The state that was packed, as if it had never been left (a module's own memory too).

        Raises:
            InvalidValue: it is of another problem; nothing was touched.
        """
        ...

    def settle(self, state: Any, answer: Answer) -> None:
        """The run is over: leave the answer where the user looks for it (a module's own memory)."""
        ...


def choose(problem: Any) -> Engine:
    """The fastest engine that runs this problem: linear models in compiled code, modules in PyTorch, all else in NumPy.

    >>> import fallline as fl
    >>> choose(fl.rosenbrock()).name
    'reference'
    """
    from fallline.problems import LinearProblem

    if hasattr(problem, "engine"):
        return problem.engine()
    if isinstance(problem, LinearProblem):
        if hasattr(problem, "window"):
            from fallline.engines.linear.stored import StoredEngine

            return StoredEngine(problem)
        from fallline.engines.linear import LinearEngine

        return LinearEngine(problem)
    from fallline.engines.reference import ReferenceEngine

    return ReferenceEngine(problem)
