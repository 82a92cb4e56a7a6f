"""The readable twin of `safe_kernels`: the law of safe steps, row by row in NumPy, the flow by many small steps.

It is what the kernels must equal; it takes milliseconds a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.problems.losses import HINGE, HUBER, INSENSITIVE, PERCEPTRON, POISSON, QUANTILE, SOFTMAX, Loss

STEPS = 400
"""Steps of the flow, by Runge and Kutta's fourth order."""


@dataclass
class Plain:
    """A linear model that learns by safe steps from dense rows.

    Law, for row x of weight h and target y; columns j, those that are missing left out:

        n_j, m_j, s_j = weight, mean and deviation of column j so far, this row among it
        z = ((x_j - m_j) / s_j; 1)             0 where s_j is 0; the 1 is the intercept's
        N = mean of |z|^2 over the rows so far, weighted, this one among them
        R_j = integral of (rate / L) / sqrt(N^2 + N t) dt from n_j - h to n_j
        H = sum_j R_j z_j^2
        w_j += R_j z_j (p' - p) / H            p = w.z, and p' where the row's flow takes it in time H U
        U = 1; where the loss's slope has a size of its own, of the mean e of |y - p| so far, this row's among them: e for the quantile
            and insensitive losses, max(e / delta, 1) for Huber's, and 1 / max(m, root of m) for Poisson's, m the mean of y
        w_j = sign(w_j) max(0, (|w_j| + l1/l2) e^(-l2 R_j) - l1/l2)     the penalty's flow; not of the intercept

    Args:
        loss, features, outputs, rate: as in `fallline.online`.
        l2, l1: its weight_decay and l1.
    """

    loss: Loss
    features: int
    outputs: int = 1
    rate: float = 1.0
    l2: float = 0.0
    l1: float = 0.0
    w: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.w = np.zeros((self.features + 1, self.outputs))
        self.x, self.h = np.empty((0, self.features)), np.empty(0)
        self._lengths: list[float] = []
        self._errors = np.zeros(self.outputs)

    def learn(self, x: Any, y: Any, weight: float = 1.0) -> float:
        """Learn from one row; returns its loss before the update."""
        self.x, self.h = np.vstack([self.x, x]), np.append(self.h, weight)
        seen, mean, deviation = self.view()
        z = np.append(standardised(self.x[-1], mean, deviation), 1.0)
        p, y = z @ self.w, np.atleast_1d(np.asarray(y, np.float64))
        loss = float(self._value(p, y))
        self._lengths.append(float(z @ z))
        if weight > 0:
            N = float(np.average(self._lengths, weights=self.h))
            until = np.append(seen, self.h.sum())
            step = self.rate / (self.loss.curvature or 1.0)
            R = 2 * step / N * (np.sqrt(N * N + N * until) - np.sqrt(N * N + N * np.maximum(until - weight, 0)))
            H = float(R @ (z * z))
            self._errors += weight * (y if self.loss.code == POISSON else np.abs(y - p)) if self.loss.code != SOFTMAX else 0
            self.w += np.outer(R * z, self._flow(p, y, H * self._unit()) - p) / H
            self.w[:-1] = self._penalised(self.w[:-1], R[:-1, None])
        return loss

    def _unit(self) -> Any:
        mean, code = self._errors / self.h.sum(), self.loss.code
        if code in (QUANTILE, INSENSITIVE):
            return mean
        if code == HUBER:
            return np.maximum(mean / self.loss.parameter, 1)
        return np.where(mean > 0, 1 / np.maximum(np.maximum(mean, np.sqrt(mean)), 1e-300), 1) if code == POISSON else 1.0

    def _penalised(self, w: np.ndarray, T: np.ndarray) -> np.ndarray:
        if self.l2 == 0:
            return np.sign(w) * np.maximum(np.abs(w) - self.l1 * T, 0)
        share = self.l1 / self.l2
        return np.sign(w) * np.maximum((np.abs(w) + share) * np.exp(-self.l2 * T) - share, 0)

    def view(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, mean and deviation of each column over the rows so far."""
        there = ~np.isnan(self.x) * self.h[:, None]
        seen, x = there.sum(axis=0), np.nan_to_num(self.x)
        mean = (there * x).sum(axis=0) / np.where(seen > 0, seen, 1)
        square = (there * (x - mean) ** 2).sum(axis=0) / np.where(seen > 0, seen, 1)
        return seen, mean, np.sqrt(square)

    def _value(self, p: np.ndarray, y: np.ndarray) -> float:
        return self.loss.value(p[None], y)[0] if self.loss.code == SOFTMAX else self.loss.value(p, y).sum()

    def _slope(self, p: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.loss.slope(p[None], y)[0] if self.loss.code == SOFTMAX else self.loss.slope(p, y)

    def _flow(self, p: np.ndarray, y: np.ndarray, H: Any) -> np.ndarray:
        """dp/dt = -slope(p) for a time H; a slope of one size is followed as far as its corner."""
        if self.loss.code in (HINGE, PERCEPTRON, QUANTILE, INSENSITIVE):
            slope, corner = self._slope(p, y), y
            if self.loss.code in (HINGE, PERCEPTRON):
                corner = 2 * y - 1
            elif self.loss.code == INSENSITIVE:
                corner = np.clip(p, y - self.loss.parameter, y + self.loss.parameter)
            return p - np.sign(slope) * np.minimum(np.abs(slope) * H, np.abs(p - corner))
        h, p = H / STEPS, p.copy()
        for _ in range(STEPS):
            a = self._slope(p, y)
            b = self._slope(p - h / 2 * a, y)
            c = self._slope(p - h / 2 * b, y)
            p = p - h / 6 * (a + 2 * b + 2 * c + self._slope(p - h * c, y))
        return p


def standardised(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(x - mean) / deviation, 0 where a number is missing or a column is constant."""
    constant = deviation <= 1e-12 * np.abs(mean)
    return np.where(constant | np.isnan(x), 0.0, (x - mean) / np.where(constant, 1.0, deviation))
