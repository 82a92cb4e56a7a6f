"""The largest curvature of a problem at a point: the top eigenvalue of its Hessian, by Lanczos iteration.

Only products of the Hessian with vectors are needed. A problem that has `hessian(w, batch)` gives them in closed form or by
automatic differentiation; of any other they are differences of its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]
"""From a direction to the Hessian times it; float64 [size]."""

ROWS = 4096
"""Rows that a Hessian is taken over where a problem has more, unless it says otherwise (`curvature_rows`)."""
MOST = 60
"""Products at most; some twenty are usual."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Curvature:
    """A measured curvature.

    Attributes:
        value: the largest eigenvalue of the Hessian; of all, not of the largest magnitude.
        error: how far it may be from the eigenvalue that it stands for, from the iteration's own residual.
        products: Hessian-vector products that it took.
        rows: data rows that the Hessian is a mean over.
        where: the point, in words.
    """

    value: float
    error: float = 0.0
    products: int = 0
    rows: int | None = None
    where: str = "at the start"

    def __repr__(self) -> str:
        rows = "" if self.rows is None else f", rows={self.rows}"
        return f"Curvature({self.value:.6g}, error={self.error:.1g}, products={self.products}{rows}, where={self.where!r})"

    def __str__(self) -> str:
        return f"curvature {self.value:.4g} {self.where}"


def measured(problem: Any, at: np.ndarray | None = None, *, batch: np.ndarray | None = None, scale: np.ndarray | None = None, where: str = "") -> Curvature:
    """The largest curvature of a problem at a point.

    Args:
        problem: anything with `layout`, `start` and `gradient`; `hessian` is used where it has one.
        at: flat weights, float64 [layout.size]; left out, the problem's start (of a module: where it is).
        batch: row numbers; left out, all rows, or an even draw of `curvature_rows` where there are more.
        scale: positive [layout.size]: the eigenvalue is that of D*H*D, D the diagonal matrix of these numbers.
        where: the point in words.

    >>> import fallline as fl
    >>> round(measured(fl.quadratic([1.0, 100.0])).value, 6)
    100.0
    """
    w = problem.start() if at is None else np.asarray(at, np.float64)
    batch = drawn(problem) if batch is None else batch
    seen = getattr(problem, "rows", None) if batch is None else len(batch)
    d = np.ones(len(w)) if scale is None else np.asarray(scale, np.float64)
    with getattr(problem, "hessian", lambda w, batch: differences(problem, w, batch))(w, batch) as product:
        value, error, count = top_eigenvalue(lambda u: d * product(d * u), len(w))
    return Curvature(value, error, count, seen, where or ("at the start" if at is None else "at the weights given"))


def top_eigenvalue(product: Product, size: int, *, most: int = MOST, tolerance: float = TOLERANCE) -> tuple[float, float, int]:
    """The largest eigenvalue of a symmetric matrix, the bound of its error, and the products made.

    Lanczos from a fixed random start: value = top of the tridiagonal matrix, error = |last residual|. It ends where the error
    is below `tolerance` of the value. A matrix that is not finite gives NaN.

    >>> top_eigenvalue(lambda u: np.array([3.0, 1.0]) * u, 2)[0].__round__(9)
    3.0
    """
    q = np.random.default_rng(0).standard_normal(size)
    q /= np.linalg.norm(q)
    before, beta = np.zeros(size), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    value, error = math.nan, math.inf
    for count in range(1, min(most, size) + 1):
        r = product(q) - beta * before
        alpha = float(q @ r)
        if not math.isfinite(alpha):
            return math.nan, math.inf, count
        r = r - alpha * q
        diagonal.append(alpha)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        beta = float(np.linalg.norm(r))
        value, error = float(values[-1]), beta * abs(float(vectors[-1, -1]))
        if beta <= 1e-13 * max(abs(value), abs(float(values[0]))) or (count >= 4 and error <= tolerance * abs(value)):
            return value, error, count
        before, q = q, r / beta
        beside.append(beta)
    return value, error, len(diagonal)


@contextmanager
def differences(problem: Any, w: np.ndarray, batch: np.ndarray | None) -> Iterator[Product]:
    """Products with the Hessian as central differences of the gradient."""
    h = 1e-4 * max(1.0, float(np.abs(w).max(initial=0.0)))

    def product(u: np.ndarray) -> np.ndarray:
        reach = h / max(float(np.abs(u).max()), 1e-300)
        with np.errstate(all="ignore"):
            return (problem.gradient(w + reach * u, batch)[1] - problem.gradient(w - reach * u, batch)[1]) / (2 * reach)

    yield product


def drawn(problem: Any) -> np.ndarray | None:
    """An even draw of rows where there are many, the same each time."""
    rows, most = getattr(problem, "rows", None), getattr(problem, "curvature_rows", ROWS)
    if rows is None or rows <= most:
        return None
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


__all__ = ["Curvature", "differences", "drawn", "measured", "top_eigenvalue"]
