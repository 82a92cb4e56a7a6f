"""Linear problems by the names of their losses, from data as people have them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.problems import arrays
from fallline.problems.linear import LinearProblem
from fallline.problems.losses import SOFTMAX, Loss
from fallline.problems.model import LinearModel
from fallline.problems.targets import target_of


def least_squares(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """Linear regression, loss (z - y)^2 / 2; with y [rows, outputs], one column of coefficients for each output.

    Args:
        X: [rows, features] numbers: array, memory map, frame, or SciPy sparse. C-order float32 and float64 are not copied.
        y: [rows] or [rows, outputs] finite numbers.
        weights: [rows] sample weights, not negative; scaled to mean 1.
        intercept: whether a constant is learnt.
        feature_names: names by column; a frame brings its own.

    Raises:
        InvalidValue: data that cannot be used; the message names row and column.

    >>> least_squares([[1.0], [2.0]], [1.0, 2.0])
    <least_squares problem: 2 rows x 1 features, float64>
    """
    return _problem(Loss("least_squares"), X, y, weights, intercept, feature_names)


def huber(
    X: Any, y: Any, *, delta: float = 1.0, weights: Any = None, intercept: bool = True, feature_names: Any = None
) -> LinearProblem:
    """Regression that outliers cannot pull far: squared up to an error of `delta` (in units of y), linear beyond.

    Arguments and errors otherwise as `least_squares`, one output.
    """
    if isinstance(delta, bool) or not isinstance(delta, (int, float, np.number)) or not (np.isfinite(delta) and delta > 0):
        raise InvalidValue(f"delta={delta!r}: expected a number above 0, in units of y")
    return _problem(Loss("huber", float(delta)), X, y, weights, intercept, feature_names)


def poisson(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """Regression of counts or rates with a log link, loss e^z - y z; predictions are e^z.

    Arguments and errors otherwise as `least_squares`, one output; a negative y is an error.
    """
    return _problem(Loss("poisson"), X, y, weights, intercept, feature_names)


def logistic(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """Logistic regression of two classes, loss log(1 + e^z) - y z with y 0 for the first class and 1 for the second.

    Args:
        X: as in `least_squares`.
        y: [rows] labels of any type, sorted into two classes.
        weights, intercept, feature_names: as in `least_squares`.

    Raises:
        InvalidValue: not exactly two classes, or data that cannot be used.

    >>> logistic([[0.0], [1.0]], ["no", "yes"]).classes
    array(['no', 'yes'], dtype='<U3')
    """
    return _problem(Loss("logistic"), X, y, weights, intercept, feature_names)


def softmax(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """Multinomial logistic regression, loss log(sum_k e^(z_k)) - z_y: one column of coefficients for each class.

    Arguments and errors as `logistic`, two classes or more.
    """
    return _problem(Loss("softmax"), X, y, weights, intercept, feature_names)


def hinge(
    X: Any, y: Any, *, squared: bool = False, weights: Any = None, intercept: bool = True, feature_names: Any = None
) -> LinearProblem:
    """The linear support vector machine, loss max(0, 1 - s z), squared on request.

    With three classes or more, each has a column of coefficients that tells it from the rest, and the losses are summed.
    Arguments and errors otherwise as `logistic`.
    """
    return _problem(Loss("squared_hinge" if squared else "hinge"), X, y, weights, intercept, feature_names)


def modified_huber(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """A squared hinge that grows only linearly where a row lies far on the wrong side; its scores say probabilities.

    Law: loss max(0, 1 - s z)^2 where s z >= -1, else -4 s z; the second class has probability (clip(z, -1, 1) + 1)/2.
    Classes and arguments as for `hinge`. Source: Zhang 2004.
    """
    return _problem(Loss("modified_huber"), X, y, weights, intercept, feature_names)


def perceptron(X: Any, y: Any, *, weights: Any = None, intercept: bool = True, feature_names: Any = None) -> LinearProblem:
    """Rosenblatt's perceptron, loss max(0, -s z): with one row at a time, only what is classified wrongly changes anything.

    Classes and arguments as for `hinge`.
    """
    return _problem(Loss("perceptron"), X, y, weights, intercept, feature_names)


def epsilon_insensitive(
    X: Any, y: Any, *, epsilon: float = 0.1, squared: bool = False, weights: Any = None, intercept: bool = True, feature_names: Any = None
) -> LinearProblem:
    """Support vector regression, loss max(0, |z - y| - epsilon), squared on request; `epsilon` in units of y.

    Arguments and errors otherwise as `least_squares`, one output.
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float, np.number)) or not 0 <= epsilon < np.inf:
        raise InvalidValue(f"epsilon={epsilon!r}: expected a number of at least 0, in units of y")
    name = "squared_epsilon_insensitive" if squared else "epsilon_insensitive"
    return _problem(Loss(name, float(epsilon)), X, y, weights, intercept, feature_names)


def quantile(
    X: Any, y: Any, *, level: float = 0.5, weights: Any = None, intercept: bool = True, feature_names: Any = None
) -> LinearProblem:
    """Regression to a quantile of y: the share `level` of the targets lies below the predictions.

    Law: loss level*(y - z) where z < y, else (1 - level)*(z - y). Source: Koenker & Bassett 1978.
    Arguments and errors otherwise as `least_squares`, one output; a level not between 0 and 1 is an error.

    >>> quantile([[1.0], [2.0]], [1.0, 2.0], level=0.9).loss.parameter
    0.9
    """
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0 < level < 1:
        raise InvalidValue(f"level={level!r}: expected a number between 0 and 1, such as 0.9 for the 90 % quantile")
    return _problem(Loss("quantile", float(level)), X, y, weights, intercept, feature_names)


def _problem(loss: Loss, X: Any, y: Any, weights: Any, intercept: bool, feature_names: Any) -> LinearProblem:
    names = None if feature_names is None else tuple(str(n) for n in feature_names)
    data = arrays.matrix(X, names)
    rows, features = data.X.shape
    target, classes = target_of(loss, y, rows, data.X.dtype, None)
    outputs = target.shape[1] if target.ndim == 2 else 1
    if classes is not None and (loss.code == SOFTMAX or len(classes) > 2):
        outputs = len(classes)
    model = LinearModel(loss, features, outputs, intercept, classes, data.names)
    return LinearProblem(data.X, target, arrays.sample_weights(weights, rows, data.X.dtype), model, data.notes)
