"""Where a linear model's numbers stop being finite: the first row and column, score, loss or gradient that is not."""

from __future__ import annotations

from typing import Any

import numpy as np

ROWS = 4096
"""Rows that are looked at in one go."""


def unsound(problem: Any, w: np.ndarray, batch: np.ndarray | None) -> tuple[str, bool]:
    """The first thing that is not finite among rows at flat weights, in words ("" where everything is), and whether it is the data.

    Numbers are computed in the data's own type, as the kernels do: what overflows there need not in float64.
    """
    count = problem.rows if batch is None else len(batch)
    gradient: np.ndarray | None = None
    for a in range(0, count, ROWS):
        rows = np.arange(a, min(a + ROWS, count)) if batch is None else np.asarray(batch[a : a + ROWS])
        found = _in_data(problem, rows)
        if found:
            return found, True
        found, part = _of_rows(problem, w, rows)
        if found:
            return found, False
        gradient = part if gradient is None else gradient + part
        if not np.isfinite(gradient).all():
            return f"the gradient of {_names(problem, gradient)}", False
    return "", False


def _in_data(problem: Any, rows: np.ndarray) -> str:
    """The first number among features and targets that is not finite: arrays may have been changed since they were checked."""
    X, y = problem.X[rows], problem.target[rows]
    odd = np.flatnonzero(~np.isfinite(X.data if problem.sparse else X))
    if len(odd):
        row = int(np.searchsorted(X.indptr, odd[0], "right")) - 1 if problem.sparse else int(odd[0]) // X.shape[1]
        x = _one_row(problem._as_seen(X), row)
        column = int(np.flatnonzero(~np.isfinite(x))[0])
        return f"{x[column]} in {problem.feature_name(column)} of row {rows[row]}"
    if not np.isfinite(y).all():
        at = int(np.flatnonzero(~np.isfinite(y.reshape(len(y), -1)).all(axis=1))[0])
        return f"{y[at]} in the target of row {rows[at]}"
    return ""


def _of_rows(problem: Any, w: np.ndarray, rows: np.ndarray) -> tuple[str, np.ndarray]:
    """The first score or loss that is not finite, and the gradient's sum over these rows; sparse rows stay sparse."""
    X, y = problem._as_seen(problem.X[rows]), problem.target[rows]
    kind, size, loss = problem.X.dtype, problem.layout.parameters[0].size, problem.loss
    coef = w[:size].reshape(problem.features, -1).astype(kind)
    z = np.asarray(X @ coef).astype(kind, copy=False) + (w[size:].astype(kind) if problem.intercept else kind.type(0))
    if not np.isfinite(z).all():
        row = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
        x = _one_row(X, row)
        part = np.abs(x[:, None].astype(np.float64) * coef)
        column = int(np.unravel_index(np.argmax(part), part.shape)[0])
        return f"the score of row {rows[row]}, by {problem.feature_name(column)} (value {x[column]:.3g})", coef
    y = loss.targets(y, problem.outputs)
    value = loss.value(z, y)
    value = (value.sum(axis=1) if value.ndim > 1 else value).astype(kind)
    if not np.isfinite(value).all():
        row = int(np.flatnonzero(~np.isfinite(value))[0])
        return f"the loss of row {rows[row]} (score {np.ravel(z[row])[0]:.3g})", coef
    return "", np.asarray(X.T @ loss.slope(z, y).astype(kind))


def _one_row(X: Any, row: int) -> np.ndarray:
    """One row of an array, CSR or `Seen`, dense."""
    one = X[row : row + 1, :]
    return np.asarray(one.toarray() if hasattr(one, "toarray") else one)[0]


def _names(problem: Any, gradient: np.ndarray) -> str:
    return problem.feature_name(int(np.argwhere(~np.isfinite(gradient))[0][0]))


__all__ = ["unsound"]
