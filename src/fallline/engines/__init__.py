"""Engines run rows. One method: `advance(state, segment)`.

`reference` is the meaning, in NumPy float64; `linear` runs linear models in compiled code. An engine owns and
consumes the state that it is given, tests loss and gradient *before* each update, and stops there when they are not
finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fallline.history import Advance
    from fallline.plan import Segment


class Engine(Protocol):
    """What runs a segment of a plan on a problem."""

    @property
    def name(self) -> str: ...

    def advance(self, state: Any, segment: Segment) -> Advance:
        """Run a segment from a state, which is consumed."""
        ...


def choose(problem: Any) -> Engine:
    """The fastest engine that runs this problem: linear models in compiled code, all else in NumPy.

    >>> import fallline as fl
    >>> choose(fl.rosenbrock()).name
    'reference'
    """
    from fallline.problems import LinearProblem

    if isinstance(problem, LinearProblem):
        from fallline.engines.linear import LinearEngine

        return LinearEngine(problem)
    from fallline.engines.reference import ReferenceEngine

    return ReferenceEngine(problem)
