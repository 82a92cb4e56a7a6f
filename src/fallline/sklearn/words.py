"""What the estimators' parameters mean: their constraints, the loss and the rule that they name, the words that have changed."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Hidden, Interval, StrOptions

from fallline.batches import Batches
from fallline.errors import InvalidValue
from fallline.problems.losses import Loss
from fallline.rules import SGD
from fallline.schedules import Schedule, polyak
from fallline.schedules import schedule as read_schedule

TWO_CLASSES = {"log_loss": "logistic", "hinge": "hinge", "squared_hinge": "squared_hinge", "modified_huber": "modified_huber", "perceptron": "perceptron"}
"""Losses of classifiers by scikit-learn's name, and ours."""
NUMBERS = {
    "squared_error": "least_squares", "huber": "huber", "epsilon_insensitive": "epsilon_insensitive",
    "squared_epsilon_insensitive": "squared_epsilon_insensitive",
}  # fmt: skip
"""Losses of numbers by scikit-learn's name, and ours. A classifier takes them of -1 and 1."""
OF_REGRESSORS = NUMBERS | {"quantile": "quantile", "poisson": "poisson"}
WITH_EPSILON = ("huber", "epsilon_insensitive", "squared_epsilon_insensitive")

RENAMED = {
    "learning_rate": "lr= takes the learning rate (a number, or 'auto'), schedule= its course, such as 'constant' or 'cosine'",
    "eta0": "lr= takes the learning rate: a number, or 'auto'",
    "power_t": "schedule= takes the course of the learning rate, such as fallline.inverse_scaling(0.5)",
}
"""SGDClassifier's words that are others here, and what to do."""

COMMON: dict[str, list[Any]] = {
    "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
    "fit_intercept": ["boolean"],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left"), None],
    "shuffle": ["boolean"],
    "verbose": ["verbose"],
    "epsilon": [Interval(Real, 0, None, closed="left")],
    "random_state": ["random_state"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "warm_start": ["boolean"],
    "average": [Interval(Integral, 0, None, closed="neither"), "boolean"],
    "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
    "batch_size": [StrOptions({"auto", "full"}), Interval(Integral, 1, None, closed="left"), Hidden(Batches)],
    "momentum": [Interval(Real, 0, 1, closed="left")],
    "nesterov": ["boolean"],
    "schedule": [str, Schedule, None],
    "scale": ["boolean", StrOptions({"standard"})],
}
"""What each parameter may be, as scikit-learn writes it."""


def refuse(estimator: type, given: Iterable[str], error: type[Exception]) -> None:
    """Refuse SGDClassifier's words that are others here.

    Raises:
        TypeError, ValueError: as asked for; the message says what to write.
    """
    for name in given:
        if name in RENAMED and name not in estimator._get_param_names():
            raise error(f"{estimator.__name__} has no {name}=: {RENAMED[name]}")


def loss_of(estimator: Any, classes: int | None) -> Loss:
    """The loss that an estimator's words name.

    Args:
        estimator: with `loss`, `epsilon` and, for a regressor, `quantile`.
        classes: how many there are, or None for numbers.
    """
    name = estimator.loss
    if name == "log_loss" and classes is not None and classes > 2:
        return Loss("softmax")
    if name in WITH_EPSILON:
        if name == "huber" and estimator.epsilon == 0:
            raise InvalidValue("loss='huber' with epsilon=0: expected a number above 0, in units of y; the loss of absolute errors is 'epsilon_insensitive'")
        return Loss(NUMBERS[name], float(estimator.epsilon))
    if name == "quantile":
        return Loss("quantile", float(estimator.quantile))
    return Loss((TWO_CLASSES | OF_REGRESSORS)[name])


def penalties(estimator: Any) -> tuple[float, float]:
    """The strengths of the l2 and the l1 penalty: alpha * ((1 - l1_ratio)/2 ||w||^2 + l1_ratio ||w||_1)."""
    alpha = float(estimator.alpha)
    if estimator.penalty is None:
        return 0.0, 0.0
    if estimator.penalty == "elasticnet":
        if estimator.l1_ratio is None:
            raise InvalidValue("penalty='elasticnet' with l1_ratio=None: expected the l1 penalty's share, a number from 0 to 1")
        return alpha * (1 - estimator.l1_ratio), alpha * estimator.l1_ratio
    return (alpha, 0.0) if estimator.penalty == "l2" else (0.0, alpha)


def rule_of(estimator: Any, lr: float, updates_per_row: float) -> SGD:
    """The rule that an estimator's words name, at a learning rate.

    Args:
        updates_per_row: 1/m for batches of m rows; `average=N` counts rows.
    """
    if estimator.nesterov and estimator.momentum == 0:
        raise InvalidValue("nesterov=True with momentum=0: Nesterov's form needs a momentum above 0, such as 0.9")
    l2, l1 = penalties(estimator)
    average = None
    if estimator.average:
        from fallline.lengths import steps

        after = 0 if estimator.average is True else int(estimator.average) - 1
        average = polyak(steps(int(after * updates_per_row)))
    shape = None if estimator.schedule is None or is_constant(estimator) else estimator.schedule
    return SGD(lr=lr, momentum=float(estimator.momentum), nesterov=bool(estimator.nesterov), weight_decay=l2, l1=l1, average=average, schedule=shape)


def is_constant(estimator: Any) -> bool:
    """Whether the learning rate stays as it is."""
    return estimator.schedule is not None and read_schedule(estimator.schedule) == read_schedule("constant")
