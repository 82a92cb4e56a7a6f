"""Problems: a model, a loss and data, or a function; what a plan descends.

A problem answers one question: the loss and gradient of a batch at some weights. Engines bind to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from fallline.layout import Layout
from fallline.problems.constructors import (
    epsilon_insensitive,
    hinge,
    huber,
    least_squares,
    logistic,
    modified_huber,
    perceptron,
    poisson,
    quantile,
    softmax,
)
from fallline.problems.linear import LinearProblem
from fallline.problems.losses import Loss, loss_by_name
from fallline.problems.model import LinearModel
from fallline.problems.teaching import FunctionProblem, function, quadratic, rosenbrock

__all__ = [
    "FunctionProblem", "LinearModel", "LinearProblem", "Loss", "Problem", "epsilon_insensitive", "function", "hinge", "huber",
    "least_squares", "logistic", "loss_by_name", "modified_huber", "perceptron", "poisson", "quadratic", "quantile", "rosenbrock",
    "softmax",
]  # fmt: skip


@runtime_checkable
class Problem(Protocol):
    """What every problem offers.

    Attributes:
        rows: number of data rows N (1 for a function without noise).
        layout: names, shapes and roles of the parameters.
        name: one word for reports.
        fingerprint: sha256 (hex) of the data, so that a resumed run can tell that it is the same problem.
        model: what predicts: a LinearModel, None for a function, or an object of the user's (a module).
        keeps_path: whether a run keeps every position (functions for teaching).
        usual_metrics: names of the metrics of a run where `Validation` names none.

    A *point* is what the engine's `answer` gives and only the problem looks into: a flat vector for the problems of this
    package, tensors for a module. A problem may also have `engine()`, which gives the engine that runs it; `notes`,
    sentences for the journal; and `valid`, held-out data that `train` measures where it is given none.
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

    def held_out(self, data: Any) -> Any:
        """Validation data as a problem of this kind, with this problem's columns and classes.

        Raises:
            InvalidValue: data that do not fit, or a problem that has no data.
        """
        ...

    def measure(self, point: Any, metrics: Any) -> tuple[float, list[float]]:
        """Mean loss and metric values of this problem's rows at a point, in one pass over the rows."""
        ...

    def named(self, point: Any) -> dict[str, np.ndarray]:
        """A point as arrays by name and in shape, copies: what `run.weights` shows."""
        ...
