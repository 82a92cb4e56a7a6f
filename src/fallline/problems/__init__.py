"""Problems: a model, a loss and data, or a function; what a plan descends.

A problem answers one question: the loss and gradient of a batch at some weights. Engines bind to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from fallline.layout import Layout
from fallline.problems.linear import LinearProblem, hinge, huber, least_squares, logistic, poisson, softmax
from fallline.problems.losses import Loss, loss_by_name
from fallline.problems.model import LinearModel
from fallline.problems.teaching import FunctionProblem, function, quadratic, rosenbrock

__all__ = [
    "FunctionProblem", "LinearModel", "LinearProblem", "Loss", "Problem", "function", "hinge", "huber", "least_squares",
    "logistic", "loss_by_name", "poisson", "quadratic", "rosenbrock", "softmax",
]  # fmt: skip


@runtime_checkable
class Problem(Protocol):
    """What every problem offers.

    Attributes:
        rows: number of data rows N (1 for a function without noise).
        layout: names, shapes and roles of the parameters.
        name: one word for reports.
        fingerprint: sha256 (hex) of the data, so that a resumed run can tell that it is the same problem.
    """

    @property
    def rows(self) -> int: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def name(self) -> str: ...

    if TYPE_CHECKING:  # hidden from isinstance, which would read it and so hash all the data (Python 3.11)

        @property
        def fingerprint(self) -> str: ...

    def start(self) -> np.ndarray:
        """Initial weights, float64 [layout.size]."""
        ...

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Mean loss and gradient (float64 [layout.size]) of the rows `batch`, or of all rows where it is None."""
        ...

    def loss(self, w: np.ndarray, batch: np.ndarray | None = None) -> float:
        """Mean loss of the rows `batch`, or of all rows where it is None."""
        ...
