"""One fit: passes over the rows until they no longer gain, watched, with the best weights kept where there is a score."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fallline.errors import Diverged
from fallline.sklearn.columns import Columns
from fallline.sklearn.kept import Kept
from fallline.sklearn.passes import Passes, flat
from fallline.sklearn.rates import first_rate, without_idle

RETREAT, RETREATS = 8.0, 12
"""A fit whose rate was found, and that diverges all the same, begins again at an eighth of it; so often at most."""
LAST = 5
"""Where the number of passes is fixed the rate is halved after each of the last ones too, down to a 16th: nothing else would still the steps."""
EXPLODED = 10.0
"""A pass whose mean loss is so many times that of the first one, or of the unit, has diverged."""
NOT_YET = "Maximum number of iteration reached before convergence"
"""scikit-learn's own words, which people filter by."""

Weights = tuple[np.ndarray, np.ndarray]
"""Coefficients [features, outputs] and intercepts [outputs], in the user's units."""


@dataclass(frozen=True)
class Task:
    """What a fit has to do.

    Args:
        passes: the descent.
        kept: which of the user's columns it sees.
        columns: how the descent's columns follow from the user's.
        start: coefficients and intercepts to start from, in the user's units.
        lr: the learning rate, or None where it is to be found.
        tol: how much a pass must gain, in units of `unit`; None makes all passes.
        patience: passes without a gain after which a fit ends.
        unit: of the loss above its floor.
        floor: the least that the mean loss could be.
        score: weights -> a score of held-out rows, higher is better, or None.
        watch: looks at the fit pass by pass.
        steady: the rate is the same in every pass (or follows the rule's own schedule).
        verbose: whether passes are printed.
    """

    passes: Passes
    kept: Kept
    columns: Columns
    start: Weights
    lr: float | None
    tol: float | None
    patience: int
    unit: float
    floor: float
    score: Callable[[Weights], float] | None
    watch: Watch
    steady: bool
    verbose: bool

    def inside(self, weights: Weights) -> Weights:
        """The user's weights as the descent holds them."""
        return self.columns.inside(self.kept.inside(weights[0]), weights[1])

    def outside(self, weights: Weights) -> Weights:
        """The user's weights, from those of the descent."""
        coef, intercept = self.columns.outside(*weights)
        return self.kept.outside(coef), intercept


class Watch:
    """Looks at a fit pass by pass; the base looks away."""

    def begins(self, number: int, weights: Callable[[], Weights]) -> None:
        """Before pass `number`."""

    def ended(self, number: int, weights: Callable[[], Weights]) -> bool:
        """After it; true ends the fit."""
        return False

    def finished(self) -> None:
        """After the fit, when the estimator has its weights."""


@dataclass
class Fitted:
    """What a fit leaves.

    Attributes:
        weights: the last ones, or with a score the best.
        lr: the rate it began with.
        losses: the mean loss of each pass, each row's before it was learnt from.
        scores: the score after each pass.
    """

    weights: Weights
    lr: float
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


def fit(task: Task) -> Fitted:
    """Carry a fit out.

    Raises:
        Diverged: at a rate that was given; the message says what to do.
    """
    passes = task.passes
    start = flat(passes.problem, *task.inside(task.start))
    found = task.lr is None
    rate = first_rate(passes, task.columns.square, start, task.unit, task.steady) if task.lr is None else task.lr
    for _ in range(RETREATS):
        made = _descent(task, start, rate, found)
        if made is not None:
            return made
        rate /= RETREAT
    raise Diverged(f"Diverged at every learning rate down to {rate:.3g}: look for values far beyond the others in X or y", step=0)


def _descent(task: Task, start: np.ndarray, lr: float, found: bool) -> Fitted | None:
    """The passes at one first rate; None where they diverged and another rate may be tried."""
    passes, made, base = task.passes, Fitted(task.start, lr), lr
    waiting = _Waiting((task.tol or 0.0) * (task.unit if task.score is None else 1.0))
    state = passes.begin(start)
    current = lambda: task.outside(passes.weights(state))
    for number in range(passes.length):
        task.watch.begins(number, current)
        rate = base if task.steady else base / (1 + base * passes.decay * number * passes.per)
        done = passes.run(state, number, rate)
        state, losses = done.state, done.trace.loss
        loss = float(losses.mean()) if len(losses) else math.inf
        if done.stopped_at is not None or not loss - task.floor <= EXPLODED * max(task.unit, (made.losses or [loss])[0] - task.floor):
            if found:
                return None
            raise _diverged(number, rate, loss)
        made.losses.append(loss)
        if task.score is not None:
            weights = current()
            made.scores.append(task.score(weights))
            if made.scores[-1] >= max(made.scores):
                made.weights = weights
        if task.verbose:
            shown = f", validation score {made.scores[-1]:.6g}" if made.scores else ""
            print(f"-- Epoch {number + 1}: mean loss {loss:.6g}, lr {rate:.3g}{shown}")
        gained = waiting.gains(-made.scores[-1] if made.scores else loss + passes.penalty(state))
        if not task.steady and (not gained or (task.tol is None and passes.length - number <= min(LAST, passes.length // 2))):
            base /= 2
        if task.watch.ended(number, current) or (task.tol is not None and waiting.since >= task.patience):
            break
    else:
        if task.tol is not None:
            warnings.warn(f"{NOT_YET}: give a larger max_iter than {passes.length}, or a larger tol", ConvergenceWarning, stacklevel=2)
    weights = passes.weights(state) if task.score is None else task.inside(made.weights)
    if passes.rule.l1:
        weights = without_idle(passes, *weights)
    made.weights = task.outside(weights)
    return made


class _Waiting:
    """Counts passes without a gain."""

    def __init__(self, least: float):
        self.least, self.best, self.since = least, math.inf, 0

    def gains(self, value: float) -> bool:
        """Whether a pass is better than the best before it by more than the least that counts."""
        gained = value < self.best - self.least or self.best == math.inf
        self.since = 0 if gained else self.since + 1
        self.best = min(self.best, value)
        return gained


def _diverged(number: int, rate: float, loss: float) -> Diverged:
    said = f"a mean loss of {loss:.3g}" if math.isfinite(loss) else "a loss or gradient that is not finite"
    return Diverged(f"Diverged in pass {number + 1} ({said}) at lr {rate:.3g}: give a smaller lr, or lr='auto', which finds one that these data bear", step=number)
