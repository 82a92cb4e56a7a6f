"""`GDRegressor`: its parameters, what a fit makes of numbers, and what scores say."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions

from fallline.problems.losses import POISSON, Loss
from fallline.sklearn.base import Targets
from fallline.sklearn.partial import Partial
from fallline.sklearn.words import COMMON, OF_REGRESSORS, loss_of


class GDRegressor(RegressorMixin, Partial):
    """A linear regression trained by gradient descent: SGDRegressor's words, and a learning rate that is found.

    Law: it lowers  mean_i weight_i * loss(x_i . coef + intercept, y_i) + alpha * penalty(coef)  by w = w - lr * gradient, one row
    (or a batch) at a time. It starts from the constant that fits best, and a pass gains where its mean loss falls by more than
    tol times that constant's, so y may have any unit.

    Args:
        loss: "squared_error" ((z - y)^2 / 2), "huber", "epsilon_insensitive", "squared_epsilon_insensitive", "quantile", or
            "poisson" (predictions are e^score, y at least 0).
        epsilon: of "huber" and the insensitive losses, in units of y.
        quantile: which one, between 0 and 1: the share of targets that lie below the predictions.
        penalty, alpha, l1_ratio, fit_intercept, max_iter, tol, shuffle, verbose, random_state, early_stopping, validation_fraction,
        n_iter_no_change, warm_start, average, n_jobs, lr, batch_size, momentum, nesterov, schedule, scale: as in `GDClassifier`;
            early stopping looks at R^2.

    Attributes:
        coef_: (features,).
        intercept_: (1,).
        n_iter_, t_, lr_, loss_curve_, validation_curve_, n_features_in_, feature_names_in_: as in `GDClassifier`.

    Raises:
        Diverged: at a learning rate that was given.

    >>> import numpy as np
    >>> X = np.arange(20.0).reshape(-1, 1)
    >>> model = GDRegressor(random_state=0).fit(X, 3 * X[:, 0] + 1)
    >>> bool(abs(model.predict([[10.0]])[0] - 31) < 0.5)
    True
    """

    _parameter_constraints = COMMON | {
        "loss": [StrOptions(set(OF_REGRESSORS))],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self, loss="squared_error", *, penalty="l2", alpha=0.0001, l1_ratio=0.15, fit_intercept=True, max_iter=1000, tol=1e-3,
        shuffle=True, verbose=0, epsilon=0.1, random_state=None, early_stopping=False, validation_fraction=0.1, n_iter_no_change=5,
        warm_start=False, average=False, quantile=0.5, n_jobs=None, lr="auto", batch_size="auto", momentum=0.0, nesterov=False,
        schedule=None, scale=True,
    ):  # fmt: skip
        self._keep(locals())

    def _targets(self, y: np.ndarray) -> Targets:
        loss = loss_of(self, None)
        _rates_only(loss, y)
        return Targets(loss, y, None, 1)

    def _truth(self, y: Any) -> np.ndarray:
        return np.asarray(y, np.float64)

    def _score_of(self, scores: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> float:
        return r2_score(truth, self._meant(scores[:, 0]), sample_weight=weight)

    def _weight(self, sample_weight: Any, targets: Targets) -> np.ndarray | None:
        return sample_weight

    def _meant(self, scores: np.ndarray) -> np.ndarray:
        if self.loss != "poisson":
            return scores
        with np.errstate(over="ignore"):
            return np.exp(scores)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> GDRegressor:
        """Learn from rows as they come, each once, in their order; as `GDClassifier.partial_fit`.

        Args:
            X: [rows, features], dense or sparse.
            y: [rows] numbers.
            sample_weight: [rows], as they are.
        """
        if sample_weight is None and self._quick(X, y):
            return self
        X, y, weight = self._checked(X, y, sample_weight)
        return self._learn(X, y, self._targets(y), weight)

    def predict(self, X: Any) -> np.ndarray:
        """The number of each row: the score, or for "poisson" e^score.

        Args:
            X: rows, dense or sparse.
        """
        return self._meant(self._scores(X)[:, 0])


def _rates_only(loss: Loss, y: np.ndarray) -> None:
    if loss.code == POISSON and (y < 0).any():
        row = int(np.argmax(y < 0))
        raise ValueError(f"y is {y[row]:g} at row {row}: expected counts or rates of at least 0 for loss='poisson'")
