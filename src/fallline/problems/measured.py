"""Measuring a linear problem: validation data that fit it, and metrics of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.problems.linear import LinearProblem


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
    return data


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
