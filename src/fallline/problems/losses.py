"""The losses of linear models: value and slope of a score, in NumPy, and the code that kernels know them by.

    least_squares   (z - y)^2 / 2                                     y any number
    logistic        log(1 + e^z) - y z                                y in {0, 1}
    huber           e^2/2 where |e| <= delta, else delta (|e| - delta/2), e = z - y
    hinge           max(0, 1 - s z), s = 2y - 1                       y in {0, 1}
    squared_hinge   max(0, 1 - s z)^2
    poisson         e^z - y z                                         y >= 0; the rate is e^z
    softmax         log(sum_k e^(z_k)) - z_y                          y a class index
    modified_huber  max(0, 1 - s z)^2 where s z >= -1, else -4 s z    y in {0, 1}
    perceptron      max(0, -s z)                                      y in {0, 1}
    epsilon_insensitive          max(0, |z - y| - epsilon)            y any number
    squared_epsilon_insensitive  max(0, |z - y| - epsilon)^2
    quantile        q (y - z) where z < y, else (1 - q) (z - y)       y any number

With several scores to a row and one label, a loss of two classes is taken of every class against the rest, and summed:
class k sees y = 1 where the label is k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue, UnknownName

SQUARED, LOGISTIC, HUBER, HINGE, SQUARED_HINGE, POISSON, SOFTMAX, MODIFIED_HUBER, PERCEPTRON, INSENSITIVE, SQUARED_INSENSITIVE, QUANTILE = range(12)
NAMES = (
    "least_squares", "logistic", "huber", "hinge", "squared_hinge", "poisson", "softmax",
    "modified_huber", "perceptron", "epsilon_insensitive", "squared_epsilon_insensitive", "quantile",
)  # fmt: skip
"""Names by code."""
_CURVATURE = {SQUARED: 1.0, LOGISTIC: 0.25, HUBER: 1.0, SQUARED_HINGE: 2.0, SOFTMAX: 0.5, MODIFIED_HUBER: 2.0, SQUARED_INSENSITIVE: 2.0}
_USUAL = {INSENSITIVE: 0.1, SQUARED_INSENSITIVE: 0.1, QUANTILE: 0.5}
"""Parameters that are not given; 1 elsewhere."""
TWO_CLASSES = frozenset({LOGISTIC, HINGE, SQUARED_HINGE, MODIFIED_HUBER, PERCEPTRON})
"""Losses of labels 0 and 1, which several scores take one against the rest."""


@dataclass(frozen=True)
class Loss:
    """A loss of one row as a function of its score.

    Args:
        name: one of NAMES.
        parameter: delta of the Huber loss and epsilon of the insensitive ones (in units of y), the quantile's level; without
            meaning elsewhere. Left out, 1; 0.1 for an epsilon; 0.5 for a level.

    >>> Loss("logistic").value(np.array([0.0, 40.0]), np.array([1.0, 1.0])).round(3)
    array([0.693, 0.   ])
    """

    name: str
    parameter: float = None  # type: ignore[assignment]  # always a number once it is made

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UnknownName.among("loss", self.name, NAMES)
        if self.parameter is None:
            object.__setattr__(self, "parameter", _USUAL.get(self.code, 1.0))
        given, insensitive = self.parameter, self.code in (INSENSITIVE, SQUARED_INSENSITIVE)
        if not (np.isfinite(given) and (given > 0 or (given == 0 and insensitive))):
            raise InvalidValue(f"{self.name}: parameter {given!r}, expected a finite number {'of at least' if insensitive else 'above'} 0")
        if self.code == QUANTILE and given >= 1:
            raise InvalidValue(f"quantile: level {given!r}, expected a number between 0 and 1, such as 0.9")

    @property
    def code(self) -> int:
        """The integer branch of the compiled kernels."""
        return NAMES.index(self.name)

    @property
    def classifies(self) -> bool:
        """Whether targets are classes."""
        return self.code == SOFTMAX or self.code in TWO_CLASSES

    @property
    def has_probabilities(self) -> bool:
        """Whether a score says how probable a class is: by the model itself, or (modified Huber) by the loss's least point."""
        return self.code in (LOGISTIC, SOFTMAX, MODIFIED_HUBER)

    @property
    def is_likelihood(self) -> bool:
        """Whether a classifier's loss is that of its probabilities, so that their log loss is worth measuring."""
        return self.code in (LOGISTIC, SOFTMAX)

    def targets(self, y: np.ndarray, outputs: int) -> np.ndarray:
        """Targets as `value` and `slope` take them: [rows, outputs], but a softmax's as they are.

        Args:
            y: [rows] or [rows, outputs]; class indices where there are classes.
            outputs: scores of a row.
        """
        if self.code == SOFTMAX:
            return y
        y = y.reshape(len(y), -1)
        return (y == np.arange(outputs)).astype(np.float64) if outputs > y.shape[1] else y

    @property
    def curvature(self) -> float | None:
        """The largest second derivative with respect to the score; None where there is no bound (Poisson) or a corner (hinge)."""
        return _CURVATURE.get(self.code)

    def value(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Loss by element; for softmax by row.

        Args:
            z: scores [...]; for softmax [rows, classes].
            y: targets of the same shape; for softmax class indices [rows].
        """
        code = self.code
        if code == LOGISTIC:
            return np.logaddexp(0, z) - y * z
        if code == SQUARED:
            return 0.5 * (z - y) ** 2
        if code == HUBER:
            e = np.abs(z - y)
            return np.where(e <= self.parameter, 0.5 * e * e, self.parameter * (e - 0.5 * self.parameter))
        if code == POISSON:
            return _exp(z) - y * z
        if code == SOFTMAX:
            top = z.max(axis=1)
            return np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(z)), y.astype(np.intp)]
        if code == QUANTILE:
            return np.maximum(self.parameter * (y - z), (self.parameter - 1) * (y - z))
        if code in (INSENSITIVE, SQUARED_INSENSITIVE):
            over = np.maximum(np.abs(z - y) - self.parameter, 0)
            return over if code == INSENSITIVE else over * over
        side = 2 * y - 1
        if code == PERCEPTRON:
            return np.maximum(-side * z, 0)
        gap = np.maximum(1 - side * z, 0)
        if code == MODIFIED_HUBER:
            return np.where(gap > 2, -4 * side * z, gap * gap)
        return gap if code == HINGE else gap * gap

    def slope(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Derivative of `value` with respect to the score, of z's shape; at a corner 0, where the loss is 0.

        At the perceptron's corner it is -s: at a score of 0 no side is chosen, and there must be a first step.
        """
        code = self.code
        if code == LOGISTIC:
            return sigmoid(z) - y
        if code == SQUARED:
            return z - y
        if code == HUBER:
            return np.clip(z - y, -self.parameter, self.parameter)
        if code == POISSON:
            return _exp(z) - y
        if code == SOFTMAX:
            p = soft(z)
            p[np.arange(len(z)), y.astype(np.intp)] -= 1
            return p
        if code == QUANTILE:
            return np.where(z < y, -self.parameter, np.where(z > y, 1 - self.parameter, 0.0))
        if code in (INSENSITIVE, SQUARED_INSENSITIVE):
            over = np.maximum(np.abs(z - y) - self.parameter, 0)
            return np.sign(z - y) * (over > 0 if code == INSENSITIVE else 2 * over)
        side = 2 * y - 1
        if code == PERCEPTRON:
            return np.where(side * z <= 0, -side, 0.0)
        gap = np.maximum(1 - side * z, 0)
        if code == MODIFIED_HUBER:
            return -2 * np.minimum(gap, 2) * side
        return np.where(gap > 0, -side, 0.0) if code == HINGE else -2 * gap * side

    def bend(self, z: np.ndarray, y: np.ndarray, dz: np.ndarray) -> np.ndarray:
        """How the slope changes where the scores change by `dz` (of z's shape): the second derivative times dz."""
        code = self.code
        if code == LOGISTIC:
            p = sigmoid(z)
            return p * (1 - p) * dz
        if code == SQUARED:
            return dz
        if code == HUBER:
            return np.where(np.abs(z - y) <= self.parameter, dz, 0.0)
        if code == POISSON:
            return _exp(z) * dz
        if code == SOFTMAX:
            p = soft(z)
            return p * (dz - (p * dz).sum(axis=1, keepdims=True))
        if code == SQUARED_INSENSITIVE:
            return np.where(np.abs(z - y) > self.parameter, 2 * dz, 0.0)
        margin = (2 * y - 1) * z
        if code == SQUARED_HINGE:
            return np.where(margin < 1, 2 * dz, 0.0)
        return np.where((margin < 1) & (margin >= -1), 2 * dz, 0.0) if code == MODIFIED_HUBER else np.zeros_like(dz)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def soft(z: np.ndarray) -> np.ndarray:
    """Softmax over the last axis without overflow."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def loss_by_name(name: str, parameter: float | None = None) -> Loss:
    """The loss of that name; the parameter as in `Loss`.

    Raises:
        UnknownName: there is none, with "did you mean".
    """
    return Loss(name, parameter)  # type: ignore[arg-type]


def _exp(z: np.ndarray) -> np.ndarray:
    """e^z where an infinite rate is an answer (the guard of the descent sees it), not a warning."""
    with np.errstate(over="ignore"):
        return np.exp(z)
