"""How well rows were predicted before they were learnt: running sums, the same bits however the stream was cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.compiled import kernel


@kernel
def commonest(labels, weight, counts, hits):
    """Whether each label was the commonest so far, before it was counted; `counts` goes on."""
    best = 0
    for k in range(len(counts)):
        if counts[k] > counts[best]:
            best = k
    for i in range(len(labels)):
        hits[i] = 1.0 if counts[best] > 0 and labels[i] == best else 0.0
        counts[labels[i]] += weight[i]
        if counts[labels[i]] > counts[best]:
            best = labels[i]


@dataclass
class Tally:
    """Running sums over the rows learnt, weighted.

    Attributes:
        rows: how many.
        sums: float64: weight, loss; then hits and hits of the commonest class so far, or squared error, absolute error and
            squared error of the mean so far, and the sum of the targets.
        counts: weight of each class, float64.
    """

    classifies: bool
    rows: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(6))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, loss: np.ndarray, prediction: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The next rows; returns the sums after each of them, [rows, 6].

        Args:
            loss: (rows,); prediction, y: class indices or numbers; weight: (rows,).
        """
        parts = np.zeros((1 + len(loss), 6))
        parts[0] = self.sums
        parts[1:, 0], parts[1:, 1] = weight, weight * loss
        if self.classifies:
            labels = y.astype(np.int64)
            self.counts = np.append(self.counts, np.zeros(max(0, int(labels.max(initial=-1)) + 1 - len(self.counts))))
            hits = np.empty(len(loss))
            if len(labels):
                commonest(labels, weight, self.counts, hits)
            parts[1:, 2], parts[1:, 3] = weight * (prediction == y), weight * hits
        else:
            seen = np.cumsum(np.append(self.sums[0], weight))[:-1]
            total = np.cumsum(np.append(self.sums[5], weight * y))
            mean = np.where(seen > 0, total[:-1] / np.where(seen > 0, seen, 1), 0.0)
            parts[1:, 2], parts[1:, 3] = weight * (prediction - y) ** 2, weight * np.abs(prediction - y)
            parts[1:, 4], parts[1:, 5] = weight * (mean - y) ** 2, weight * y
        running = np.cumsum(parts, axis=0)[1:]  # one after the other: where a stream is cut changes no bit
        if len(running):
            self.sums = running[-1].copy()
        self.rows += len(loss)
        return running

    def measures(self, sums: np.ndarray | None = None) -> dict[str, float]:
        """Means over the rows so far, by name."""
        s = self.sums if sums is None else sums
        if not s[0] > 0:
            return {}
        if self.classifies:
            return {"loss": s[1] / s[0], "accuracy": s[2] / s[0]}
        return {"loss": s[1] / s[0], "rmse": math.sqrt(s[2] / s[0]), "mae": s[3] / s[0]}

    def headline(self) -> dict[str, Any]:
        """The metric, beside what needs no model."""
        s, found = self.sums, self.measures()
        if self.classifies:
            n, p, z = self.rows, found.get("accuracy", math.nan), 1.959963984540054
            middle, half = (p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) if n else (math.nan, math.nan)
            span = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)) if n else (math.nan, math.nan)
            return {"metric": "accuracy", "value": p, "interval": span, "baseline": s[3] / s[0] if s[0] > 0 else math.nan, "baseline_name": "the commonest class so far", "better": "higher", "rows": n, "part": "each row before it was learnt"}  # fmt: skip
        rmse = found.get("rmse", math.nan)
        return {"metric": "rmse", "value": rmse, "interval": None, "baseline": math.sqrt(s[4] / s[0]) if s[0] > 0 else math.nan, "baseline_name": "the mean so far", "better": "lower", "rows": self.rows, "part": "each row before it was learnt"}  # fmt: skip
