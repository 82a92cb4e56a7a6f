"""How a linear model's loss bends: its Hessian times a direction, and the bound of its curvature over all weights.

    H u = (1/m) sum_i weight_i * x_i * (change of the slope of row i along x_i . u)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.curvature import Product, top_eigenvalue

if TYPE_CHECKING:
    from fallline.problems.linear import LinearProblem

CURVED_VALUES = 1 << 23
"""Numbers of X that a Hessian reads at each product, so that it takes some hundredths of a second."""


def rows_for(problem: LinearProblem) -> int:
    """Rows that a Hessian is taken over where the problem has more."""
    width = problem.X.nnz / problem.rows if problem.sparse else problem.features
    return int(np.clip(CURVED_VALUES / max(width * problem.outputs, 1), 256, 1 << 16))


@contextmanager
def hessian(problem: LinearProblem, w: np.ndarray, batch: Any) -> Iterator[Product]:
    """Products with the Hessian of the mean loss of some rows, in chunks."""
    loss, size, outputs = problem.model.loss, problem.layout.parameters[0].size, problem.outputs
    count = problem.rows if batch is None else len(batch)
    coef, shift = np.asarray(w[:size]).reshape(-1, outputs), w[size:] if problem.intercept else 0.0

    def product(u: np.ndarray) -> np.ndarray:
        out = np.zeros(problem.layout.size)
        across, along = u[:size].reshape(-1, outputs), u[size:] if problem.intercept else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for X, y, weight in problem._chunks(batch, None):
                bent = loss.bend(X @ coef + shift, loss.targets(y, outputs), X @ across + along)
                bent = bent if weight is None else bent * weight[:, None]
                out[:size] += (X.T @ bent).reshape(-1)
                if problem.intercept:
                    out[size:] += bent.sum(axis=0)
        return out / count

    yield product


def smoothness(problem: LinearProblem, batch: Any) -> float | None:
    """The bound of the loss's second derivative times the top eigenvalue of (1/m) X'X (weighted), intercept included."""
    bound = problem.model.loss.curvature
    if bound is None:
        return None
    count, features = problem.rows if batch is None else len(batch), problem.features
    unit = max(float(problem.scales().max()), 1.0)  # columns in units of the largest, or squares of huge ones would overflow

    def product(u: np.ndarray) -> np.ndarray:
        out = np.zeros(len(u))
        for X, _, weight in problem._chunks(batch, None):
            z = X @ (u[:features] / unit) + (u[features] / unit if problem.intercept else 0.0)
            z = (z if weight is None else z * weight) / unit
            out[:features] += X.T @ z
            if problem.intercept:
                out[features] += z.sum()
        return out / count

    value, error, _ = top_eigenvalue(product, features + int(problem.intercept))
    with np.errstate(over="ignore"):
        return bound * (value + error) * np.float64(unit) * unit
