"""Metrics by name, in NumPy, and 95 % intervals for them.

A metric is a function of the truth and of a prediction: labels, probabilities or numbers. scikit-learn's values are
the tests' reference; importing it costs a second and a half, which a short run should not pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fallline.errors import InvalidValue, UnknownName

Needs = Literal["labels", "probabilities", "numbers"]


@dataclass(frozen=True)
class Metric:
    """A named measure of predictions.

    Args:
        name: how it is called everywhere.
        function: f(y, prediction) -> number; `probabilities` are [rows, classes] and `y` then the class index.
        needs: what the prediction is.
        better: "higher" or "lower".
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    needs: Needs
    better: Literal["higher", "lower"]

    def __call__(self, y: Any, prediction: Any) -> float:
        y, prediction = np.asarray(y), np.asarray(prediction)
        if len(y) != len(prediction):
            raise InvalidValue(f"{self.name}: {len(y)} true values and {len(prediction)} predictions; give one prediction a row")
        if len(y) == 0:
            return math.nan
        return float(self.function(y, prediction))

    def __repr__(self) -> str:
        return f"metric({self.name!r})"


def _accuracy(y: np.ndarray, p: np.ndarray) -> float:
    return float(np.mean(y == p))


def _balanced_accuracy(y: np.ndarray, p: np.ndarray) -> float:
    return float(np.mean([np.mean(p[y == c] == c) for c in np.unique(y)]))


def _f1(y: np.ndarray, p: np.ndarray) -> float:
    """Macro average over the classes that occur; with two classes, the second (larger) one's; NaN with one: which is it?"""
    classes = np.unique(np.concatenate([y, p]))
    if len(classes) == 1:
        return math.nan
    scores = []
    for c in classes[-1:] if len(classes) <= 2 else classes:
        hit = np.sum((y == c) & (p == c))
        total = np.sum(y == c) + np.sum(p == c)
        scores.append(2 * hit / total if total else 0.0)
    return float(np.mean(scores))


def _positive(p: np.ndarray, name: str) -> np.ndarray:
    if p.ndim == 2 and p.shape[1] != 2:
        raise InvalidValue(f"{name} is for two classes; these predictions have {p.shape[1]}")
    return p[:, 1] if p.ndim == 2 else p


def _auc(y: np.ndarray, p: np.ndarray) -> float:
    """Chance that a row of the second class scores above one of the first, ties counted half (Mann-Whitney)."""
    score = _positive(p, "auc")
    if np.isnan(score).any():
        return math.nan
    order = np.argsort(score, kind="stable")
    _, inverse, counts = np.unique(score[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(y))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    ones = y == 1
    n1, n0 = ones.sum(), (~ones).sum()
    return float((ranks[ones].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n1 and n0 else math.nan


def _average_precision(y: np.ndarray, p: np.ndarray) -> float:
    score = _positive(p, "average_precision")
    if np.isnan(score).any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(y[order] == 1)[last]
    seen = np.arange(1, len(y) + 1)[last]
    if hits[-1] == 0:
        return math.nan
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / seen))


def _log_loss(y: np.ndarray, p: np.ndarray) -> float:
    chosen = p[np.arange(len(y)), y.astype(np.intp)]
    return float(-np.mean(np.log(np.clip(chosen, np.finfo(np.float64).tiny, 1.0))))


def _brier(y: np.ndarray, p: np.ndarray) -> float:
    return float(np.mean((_positive(p, "brier") - (y == 1)) ** 2))


def _r2(y: np.ndarray, p: np.ndarray) -> float:
    """Share of the variance explained; with several outputs, the mean over them."""
    spread, error = np.sum((y - y.mean(axis=0)) ** 2, axis=0), np.sum((y - p) ** 2, axis=0)
    return float(np.mean(1 - error / spread)) if np.all(spread > 0) else math.nan


def _rmsle(y: np.ndarray, p: np.ndarray) -> float:
    if (y < 0).any():
        raise InvalidValue(f"rmsle: a true value is {y.min():g}; it needs values that are not negative")
    return float(np.sqrt(np.mean((np.log1p(y) - np.log1p(np.maximum(p, 0))) ** 2)))


def _poisson_deviance(y: np.ndarray, p: np.ndarray) -> float:
    """Infinite where a rate of 0 was predicted and something was counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(y > 0, y / p, 1.0)
        return float(2 * np.mean(y * np.log(ratio) - y + p))


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", _accuracy, "labels", "higher"),
        Metric("balanced_accuracy", _balanced_accuracy, "labels", "higher"),
        Metric("f1", _f1, "labels", "higher"),
        Metric("auc", _auc, "probabilities", "higher"),
        Metric("average_precision", _average_precision, "probabilities", "higher"),
        Metric("log_loss", _log_loss, "probabilities", "lower"),
        Metric("brier", _brier, "probabilities", "lower"),
        Metric("rmse", lambda y, p: math.sqrt(np.mean((y - p) ** 2)), "numbers", "lower"),
        Metric("mae", lambda y, p: float(np.mean(np.abs(y - p))), "numbers", "lower"),
        Metric("r2", _r2, "numbers", "higher"),
        Metric("rmsle", _rmsle, "numbers", "lower"),
        Metric("poisson_deviance", _poisson_deviance, "numbers", "lower"),
    )
}
"""Every metric by name."""


def metric(name: str | Metric | Callable[..., float]) -> Metric:
    """A metric by name, or around a user's own f(y, prediction), whose larger values count as better.

    >>> metric("accuracy")(["a", "b"], ["a", "a"])
    0.5
    """
    if isinstance(name, Metric):
        return name
    if callable(name):
        return Metric(getattr(name, "__name__", "metric"), name, "labels", "higher")
    if name not in METRICS:
        raise UnknownName.among("metric", str(name), METRICS)
    return METRICS[name]


def interval(which: Metric, y: Any, prediction: Any, *, seed: int = 0, resamples: int = 500) -> tuple[float, float]:
    """A 95 % interval: Wilson's for accuracy, else percentiles of a bootstrap over rows.

    >>> low, high = interval(metric("accuracy"), [1] * 90 + [0] * 10, [1] * 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    y, prediction = np.asarray(y), np.asarray(prediction)
    n = len(y)
    if n == 0:
        return math.nan, math.nan
    if which.name == "accuracy":
        z, p = 1.959963984540054, which(y, prediction)
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = draw.integers(0, n, n)
        values.append(which(y[rows], prediction[rows]))
    low, high = np.nanpercentile(values, [2.5, 97.5]) if not np.isnan(values).all() else (math.nan, math.nan)
    return float(low), float(high)
