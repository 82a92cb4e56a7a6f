"""The losses of linear models: value and slope of a score, in NumPy, and the code that kernels know them by.

    least_squares   (z - y)^2 / 2                                     y any number
    logistic        log(1 + e^z) - y z                                y in {0, 1}
    huber           e^2/2 where |e| <= delta, else delta (|e| - delta/2), e = z - y
    hinge           max(0, 1 - s z), s = 2y - 1                       y in {0, 1}
    squared_hinge   max(0, 1 - s z)^2
    poisson         e^z - y z                                         y >= 0; the rate is e^z
    softmax         log(sum_k e^(z_k)) - z_y                          y a class index
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fallline.errors import InvalidValue, UnknownName

SQUARED, LOGISTIC, HUBER, HINGE, SQUARED_HINGE, POISSON, SOFTMAX = range(7)
NAMES = ("least_squares", "logistic", "huber", "hinge", "squared_hinge", "poisson", "softmax")
"""Names by code."""
_CURVATURE = {SQUARED: 1.0, LOGISTIC: 0.25, HUBER: 1.0, SQUARED_HINGE: 2.0, SOFTMAX: 0.5}


@dataclass(frozen=True)
class Loss:
    """A loss of one row as a function of its score.

    Args:
        name: one of NAMES.
        parameter: delta of the Huber loss (in units of y); 1 and without meaning elsewhere.

    >>> Loss("logistic").value(np.array([0.0, 40.0]), np.array([1.0, 1.0])).round(3)
    array([0.693, 0.   ])
    """

    name: str
    parameter: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UnknownName.among("loss", self.name, NAMES)
        if not (np.isfinite(self.parameter) and self.parameter > 0):
            raise InvalidValue(f"{self.name}: parameter {self.parameter!r}, expected a finite number above 0")

    @property
    def code(self) -> int:
        """The integer branch of the compiled kernels."""
        return NAMES.index(self.name)

    @property
    def classifies(self) -> bool:
        """Whether targets are classes."""
        return self.code in (LOGISTIC, HINGE, SQUARED_HINGE, SOFTMAX)

    @property
    def has_probabilities(self) -> bool:
        return self.code in (LOGISTIC, SOFTMAX)

    @property
    def curvature(self) -> float | None:
        """The largest second derivative with respect to the score; None where there is no bound (hinge, Poisson)."""
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
        gap = np.maximum(1 - (2 * y - 1) * z, 0)
        return gap if code == HINGE else gap * gap

    def slope(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Derivative of `value` with respect to the score, of z's shape; at a hinge's corner 0, where the loss is 0."""
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
        side = 2 * y - 1
        gap = np.maximum(1 - side * z, 0)
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
        return np.where((2 * y - 1) * z < 1, 2 * dz, 0.0) if code == SQUARED_HINGE else np.zeros_like(dz)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def soft(z: np.ndarray) -> np.ndarray:
    """Softmax over the last axis without overflow."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def loss_by_name(name: str, parameter: float = 1.0) -> Loss:
    """The loss of that name.

    Raises:
        UnknownName: there is none, with "did you mean".
    """
    return Loss(name, parameter)


def _exp(z: np.ndarray) -> np.ndarray:
    """e^z where an infinite rate is an answer (the guard of the descent sees it), not a warning."""
    with np.errstate(over="ignore"):
        return np.exp(z)
