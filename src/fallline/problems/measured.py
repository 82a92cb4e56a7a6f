"""Measuring a linear problem: validation data that fit it, metrics of its rows, and the spread of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.problems.arrays import CHUNK_BYTES
from fallline.problems.linear import LinearProblem
from fallline.problems.losses import SOFTMAX
from fallline.problems.view import row_squares

MEASURED_BYTES = 1 << 27
"""Scores of several weights that are held at once, where metrics need those of all rows."""


def held_out(problem: LinearProblem, data: Any) -> LinearProblem:
    """The validation data as a problem with the training problem's columns and classes."""
    if not isinstance(data, LinearProblem):
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise InvalidValue(f"valid= is a {type(data).__name__}: expected (X, y), (X, y, weights) or a problem of this kind")
        return problem.on(*data)
    if data.layout != problem.layout or data.loss.name != problem.loss.name:
        raise InvalidValue(f"valid={data!r} does not fit {problem!r}: give (X, y), or problem.on(X, y)")
    if problem.classes is not None and data.classes is not None and not np.array_equal(problem.classes, data.classes):
        raise InvalidValue(
            f"valid= has the classes {data.classes.tolist()[:6]} and the problem {problem.classes.tolist()[:6]}: "
            "make it with problem.on(X, y), which numbers them alike"
        )
    return _seen_alike(problem, data)


def _seen_alike(problem: LinearProblem, data: LinearProblem) -> LinearProblem:
    """Validation data whose columns are seen as the training data's are."""
    if data.view is None and problem.view is not None:
        return replace(data, X=problem.view.stored(data.X), view=problem.view)
    if data.view is not None and not data.view.same_as(problem.view):
        raise InvalidValue(f"valid={data!r} is standardized by columns of its own: give (X, y) or the problem before `standardized()`, and it is seen as the training data are")
    return data


def measured_together(problem: LinearProblem, points: np.ndarray, metrics: Sequence[Any]) -> np.ndarray:
    """The mean loss and the metrics of a problem's rows at several flat weights, float64 [points, 1 + metrics].

    One pass over the rows for as many points as have their scores in MEASURED_BYTES.
    """
    each = 8 * problem.rows * problem.outputs if metrics else 1
    at_once = max(1, MEASURED_BYTES // each)
    parts = [_pass(problem, points[a : a + at_once], metrics) for a in range(0, len(points), at_once)]
    return np.concatenate(parts)


def _pass(problem: LinearProblem, points: np.ndarray, metrics: Sequence[Any]) -> np.ndarray:
    count, outputs, loss = len(points), problem.outputs, problem.model.loss
    size = problem.features * outputs
    coef = points[:, :size].reshape(count, problem.features, outputs).transpose(1, 0, 2).reshape(problem.features, -1)
    intercept = points[:, size:].reshape(-1) if problem.intercept else 0.0
    total, kept = np.zeros(count), []
    with np.errstate(over="ignore", invalid="ignore"):
        for X, y, weight in problem._chunks(None, max(1, CHUNK_BYTES // (8 * (problem.features + outputs * count)))):
            z = (X @ coef + intercept).reshape(-1, count, outputs)
            if metrics:
                kept.append(z)
            if loss.code == SOFTMAX:
                value = loss.value(z.reshape(-1, outputs), np.repeat(y.reshape(-1), count)).reshape(-1, count)
            else:
                value = loss.value(z, loss.targets(y, outputs)[:, None, :]).sum(axis=2)
            total += value.sum(axis=0) if weight is None else weight @ value
    out = np.empty((count, 1 + len(metrics)))
    out[:, 0] = total / problem.rows
    if metrics:
        scores = np.concatenate(kept)
        for k in range(count):
            out[k, 1:] = values(problem, scores[:, k], metrics)
    return out


def values(problem: LinearProblem, scores: np.ndarray, metrics: Sequence[Any]) -> list[float]:
    """Metrics of a problem's own rows.

    Args:
        problem: whose rows.
        scores: [rows, outputs], in the rows' order.
        metrics: functions f(y, prediction) that say what they `needs`.
    """
    one = problem.model.layout.parameters[0].shape == (problem.features,)
    z = scores.reshape(-1) if one else scores
    truth = problem.target.reshape(-1) if problem.outputs == 1 or problem.classes is not None else problem.target
    labels = problem.classes[truth.astype(np.intp)] if problem.classes is not None else truth
    out = []
    for m in metrics:
        if m.needs == "probabilities":
            out.append(m(truth.astype(np.intp), problem.model.probabilities(z)))
        else:
            out.append(m(labels, problem.model.predicted(z)))
    return out


def gradient_blocks(problem: LinearProblem, w: np.ndarray, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """See `LinearProblem.gradient_blocks`: row i's gradient is weight_i * slope_i * (x_i, 1), so |g_i|^2 = |x_i, 1|^2 * |slope_i|^2."""
    loss, size, one = problem.model.loss, problem.layout.parameters[0].size, float(problem.intercept)
    coef = w[:size].reshape(problem.features, -1)
    sums, squares, total = np.zeros((len(blocks), problem.layout.size)), np.zeros(len(blocks)), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for j, block in enumerate(blocks):
            for X, y, weight in problem._chunks(block, None):
                z = X @ coef + (w[size:] if problem.intercept else 0.0)
                y = loss.targets(y, problem.outputs)
                slope, value = loss.slope(z, y), loss.value(z, y)
                value = value.sum(axis=1) if value.ndim > 1 else value
                if weight is not None:
                    slope, value = slope * weight[:, None], value * weight
                squares[j] += float((row_squares(X) + one) @ (slope * slope).sum(axis=1))
                sums[j, :size] += (X.T @ slope).reshape(-1)
                if problem.intercept:
                    sums[j, size:] += slope.sum(axis=0)
                total += float(value.sum())
    return sums @ sums.T, squares, total / sum(map(len, blocks))
