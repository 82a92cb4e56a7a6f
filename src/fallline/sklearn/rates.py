"""The first learning rate: a guess in closed form, and a few short passes around it.

    guess = 1 / (bend * mean |x|^2 + alpha)        a step of the guess moves a row's own score about as far as is right

The guess knows nothing of how rows lie to each other. So one short pass over at most 2,000 rows is made at the guess, four
times it, a quarter of it ..., upwards or downwards while that gains, and scored by the loss of each row *before* it is learnt
from (in the second half of the pass): the loss on rows not yet seen, which needs no rows held out. The best rate of m updates is
taken to a pass of T by (m/T)^0.3, as in `fallline.advice.search`; where the penalty lowers the rate as a fit goes on, that is the rate to
come to after one pass, and the first one is as far above it, but not above the best of m updates. The whole costs a tenth of a fit,
and some milliseconds at most.
"""

from __future__ import annotations

import math

import numpy as np

from fallline.advice.search import CONVEX_DRIFT
from fallline.compiled import announced
from fallline.engines.linear.engine import data_of
from fallline.engines.linear.sparse import slopes_along
from fallline.problems.losses import HUBER, INSENSITIVE, PERCEPTRON, POISSON, QUANTILE
from fallline.problems.view import column_squares
from fallline.sklearn.passes import Passes

ROWS, UPDATES = 2000, 8
"""A short pass takes at most so many rows, and at least so many updates (of several passes, where batches are large)."""
WORTH = 0.01
"""What another rate must gain, in units of the loss: rows that are easily told apart say nothing of rates."""
FEW = 5
"""With fewer passes a fit has no time to begin above the rate of a pass."""
STEP, TRIES = 4.0, 8
"""The distance of rates that are tried, and how far from the guess they may go, in such steps."""


def guess(passes: Passes, square: float) -> float:
    """The rate at which a row's own score moves as far as is right.

    Args:
        square: the mean squared length of a row, the intercept's 1 included.
    """
    rule = passes.rule
    return (1 - rule.momentum) / (_bend(passes) * max(square, 1e-12) + float(rule.weight_decay) + float(rule.l1))


def _bend(passes: Passes) -> float:
    """How fast a row's slope changes with its score: the loss's largest second derivative, or where there is none, the slope's size over y's."""
    loss, y = passes.problem.model.loss, passes.problem.target
    if loss.code == POISSON:
        return max(float(y.mean(dtype=np.float64)), 1e-3)
    spread = float(np.std(y, dtype=np.float64)) if loss.code in (HUBER, INSENSITIVE, QUANTILE) else 1.0
    if loss.code == HUBER:
        spread = max(spread / loss.parameter, 1.0)
    return (loss.curvature or 1.0) / max(spread, 1e-12)


def without_idle(passes: Passes, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Under an l1 penalty: a coefficient whose own best value, all others as they are, is 0 is set to 0.

    Law: with c = bend * mean x_j^2 the curvature along coefficient j, and g its gradient over all rows, 0 where |c w_j - g| <= l1.
    Steps of single rows keep stirring coefficients that belong to 0; this takes one pass.
    """
    plain = passes.problem.view is None or passes.problem.view.base is None
    gradient, squares = (_sparse_slopes if passes.problem.sparse and plain else _slopes)(passes, coef, intercept)
    along = _bend(passes) * squares / passes.problem.rows
    gradient = gradient / passes.problem.rows
    idle = np.abs((along[:, None] - float(passes.rule.weight_decay)) * coef - gradient) <= float(passes.rule.l1)
    return np.where(idle, 0.0, coef), intercept


def _slopes(passes: Passes, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the rows: of the loss's slopes along each coefficient, [features, outputs], and of each column's squares."""
    problem, loss = passes.problem, passes.problem.model.loss
    X, kind = problem._as_seen(problem.X), problem.X.dtype
    slope = loss.slope(X @ coef.astype(kind) + intercept, loss.targets(problem.target, coef.shape[1]))
    slope = slope if problem.weight is None else slope * problem.weight[:, None]
    return X.T @ slope.astype(kind), column_squares(X)


def _sparse_slopes(passes: Passes, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_slopes`, in one pass over the numbers of sparse rows."""
    problem, kind = passes.problem, passes.problem.X.dtype
    loss = problem.model.loss
    sums = np.zeros((len(coef), coef.shape[1] + 1))
    with announced():
        slopes_along(*data_of(problem), int(loss.code), float(loss.parameter), np.ascontiguousarray(coef, kind), np.ascontiguousarray(intercept, kind), sums)
    return sums[:, :-1], sums[:, -1]


def first_rate(passes: Passes, square: float, start: np.ndarray, unit: float, steady: bool) -> float:
    """The learning rate to begin with; see the module's head.

    Args:
        start: flat weights.
        unit: of the loss.
        steady: whether the rate stays, or follows the rule's own schedule.
    """
    rate = guess(passes, square)
    if passes.problem.model.loss.code == PERCEPTRON:  # the loss grows with the weights' size, which the rate only scales
        return rate
    batch = passes.batches.size or passes.problem.rows
    updates = max(min(passes.per, ROWS // batch), UPDATES)
    seen = {0: _score(passes, start, rate, updates)}

    def score(k: int) -> float:
        if k not in seen:
            seen[k] = _score(passes, start, rate * STEP**k, updates)
        return seen[k]

    least = WORTH * unit
    way = 1 if score(1) < score(0) - least else -1
    best = 1 if way == 1 else 0
    while abs(best) < TRIES and (score(best + way) < score(best) - least or score(best) == math.inf):
        best += way
    drift = min(updates / passes.per, 1.0) ** CONVEX_DRIFT
    best_of_few = rate * STEP**best
    of_pass = best_of_few * drift
    left = 1 if steady or passes.length < FEW else 1 - of_pass * passes.decay * passes.per
    return min(best_of_few, of_pass / left) if left > 0 else best_of_few


def _score(passes: Passes, start: np.ndarray, rate: float, updates: int) -> float:
    """The mean loss before learning in the second half of a short pass; infinite where it diverges, or ends worse than it began."""
    done = passes.engine.advance(passes.begin(start), passes.segment(0, updates, rate))
    loss = done.trace.loss
    if done.stopped_at is not None or not len(loss):
        return math.inf
    value = float(loss[len(loss) // 2 :].mean())
    return value if math.isfinite(value) else math.inf


__all__ = ["first_rate", "guess"]
