"""What a search for the learning rate found, or why it found none."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.advice.probe import Rung
from fallline.errors import NoLearningRate


@dataclass(frozen=True)
class Curve:
    """A range test's curve: lr, loss and smoothed loss, (n,) each."""

    lr: np.ndarray
    loss: np.ndarray
    smooth: np.ndarray


@dataclass(frozen=True, repr=False)
class Found:
    """What was found; `lr` is the learning rate.

    Attributes:
        interval: (low, high) that holds the plan's best rate nine times out of ten, or None where none was estimated.
        verdict: a sentence.
        curve: the range test.
        cost: updates spent, with Hessian products and validation passes counted.
        edge: the lowest rate that was seen to diverge above the choice, or None.
        flat: (low, high) of rates that scored as well as the best one over the longest probe, or None.
        rungs: the probes: rates, their horizon and their scores on held-out rows.
        share: `cost` as a share of the plan's own updates, or None where there is no plan.
        first: the score before any update, or None.
    """

    rate: float | None
    interval: tuple[float, float] | None
    verdict: str
    curve: Curve
    cost: int
    edge: float | None = None
    flat: tuple[float, float] | None = None
    rungs: tuple[Rung, ...] = ()
    share: float | None = None
    first: float | None = None

    @property
    def lr(self) -> float:
        """The learning rate.

        Raises:
            NoLearningRate: there is no answer; the verdict says why.
        """
        if self.rate is None:
            raise NoLearningRate(self.verdict)
        return self.rate

    def plot(self) -> Any:
        """The range test, the probes' scores, the interval, the choice and the edge in one picture, on a log axis."""
        from fallline import charts

        low, high = self.interval or (None, None)
        probes = [(r.steps, r.lr, r.score) for r in self.rungs]
        c = self.curve
        return charts.range_test(c.lr, c.loss, c.smooth, chosen=self.rate, low=low, high=high, diverged=self.edge, probes=probes)

    def __repr__(self) -> str:
        return f"Found(lr={'none' if self.rate is None else format(self.rate, '.3g')}, cost={self.cost}, verdict={self.verdict!r})"

    def _repr_html_(self) -> str:
        share = "" if self.share is None else f", {self.share:.2g} of a run"
        return f"<p>{html.escape(self.verdict)} ({self.cost:,} updates{share})</p>{self.plot()._repr_html_()}"


__all__ = ["Curve", "Found"]
