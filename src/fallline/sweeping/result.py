"""`Sweep`: what a grid of runs showed; its best combination with the spread over seeds."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fallline.charts.marks import short
from fallline.errors import NoLearningRate
from fallline.plan import Plan
from fallline.sweeping.edges import Edge
from fallline.sweeping.grid import Setting
from fallline.sweeping.jobs import SweepRun
from fallline.sweeping.table import SweepTable
from fallline.sweeping.values import shown


@dataclass(frozen=True)
class Told:
    """How a sweep was made.

    Attributes:
        score: what combinations are ranked by, and `lower`, whether lower is better.
        choices: how the runs went: together or one after another, and why.
        seconds: of this call (what a folder held already took none).
        rungs: (share of the updates, combinations) of successive halving; one of all where there was no need.
    """

    score: str
    lower: bool
    choices: tuple[str, ...]
    seconds: float
    rungs: tuple[tuple[float, int], ...]


@dataclass(frozen=True, repr=False)
class Cell:
    """One combination with all its runs.

    Attributes:
        values: by name.
        plan: of its first seed: `train(problem, cell.plan)` is that run again.
        runs: one for each seed.
        score: the name of what it is ranked by.
        mean, spread, low, high: of the score over seeds: mean, standard deviation (0 of one seed), least, greatest; a run that
            diverged makes the mean infinite (or NaN, of a metric).
        finished: whether every run came to its end.
    """

    values: Mapping[str, Any]
    plan: Plan
    runs: tuple[SweepRun, ...]
    score: str
    mean: float
    spread: float
    low: float
    high: float
    finished: bool

    @classmethod
    def of(cls, setting: Setting, runs: tuple[SweepRun, ...], score: str) -> Cell:
        """A combination and its runs, of which there is at least one."""
        found = np.array([run.scores[score] for run in runs])
        with np.errstate(invalid="ignore"):
            spread = float(found.std(ddof=1)) if found.min() != found.max() else 0.0  # of equal numbers, not their rounding
        finished = all(run.outcome == "Finished" for run in runs)
        return cls(setting.values, setting.plan, runs, score, float(found.mean()), spread, float(found.min()), float(found.max()), finished)

    @property
    def diverged(self) -> int:
        """Runs that diverged."""
        return sum(run.outcome == "Diverged" for run in self.runs)

    def __repr__(self) -> str:
        return f"Cell({values_in_words(self)}: {score_in_words(self)})"


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What a sweep found; made by `fl.sweep`.

    Attributes:
        plan: what all runs share.
        over: the values by name.
        settings: the combinations, the last name's values varying fastest.
        runs: every run, by combination and seed.
        edges: measured and predicted edge of stability, for each combination of everything but lr.
        told: how it was made.
    """

    plan: Plan
    over: Mapping[str, list[Any]]
    settings: tuple[Setting, ...]
    runs: tuple[SweepRun, ...]
    edges: tuple[Edge, ...]
    told: Told

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every combination with its runs, in the grid's order."""
        by: dict[int, list[SweepRun]] = {}
        for run in self.runs:
            by.setdefault(run.cell, []).append(run)
        return tuple(Cell.of(setting, tuple(by[i]), self.told.score) for i, setting in enumerate(self.settings))

    @cached_property
    def ranked(self) -> tuple[Cell, ...]:
        """The combinations, the best first: those that came to their end, then those that diverged, then those left behind."""

        def key(cell: Cell) -> tuple[int, float]:
            value = cell.mean if self.told.lower else -cell.mean
            if cell.finished and math.isfinite(value):
                return 0, value
            left = any(run.outcome == "Stopped" for run in cell.runs)
            return 2 if left else 1, math.inf if math.isnan(value) else value

        return tuple(sorted(self.cells, key=key))

    @property
    def best(self) -> Cell:
        """The best combination, by the mean over its seeds.

        Raises:
            NoLearningRate: every combination diverged in some seed.
        """
        first = self.ranked[0]
        if not first.finished or not math.isfinite(first.mean):
            raise NoLearningRate(f"every combination diverged in some seed: try smaller learning rates than {self._smallest()}, or look at the data's scale")
        return first

    @property
    def verdict(self) -> str:
        """What was found, in a sentence."""
        try:
            best = self.best
        except NoLearningRate as none:
            return none.verdict
        out = [f"{values_in_words(best)}: {score_in_words(best)}"]
        close = [cell for cell in self.ranked[1:] if cell.finished and abs(cell.mean - best.mean) <= max(best.spread, cell.spread)]
        if close and len(best.runs) > 1:
            out.append(f"{len(close)} other{'s' if len(close) > 1 else ''} within the spread over seeds, such as {values_in_words(close[0])}")
        end = self._end_of_lr(best)
        if end:
            out.append(f"lr {short(best.values['lr'])} is the {end} that was tried: look beyond it")
        lost = sum(cell.diverged > 0 for cell in self.cells)
        if lost:
            out.append(f"{lost} of {len(self.cells)} combinations diverged in some seed")
        return "; ".join(out)

    @property
    def cost(self) -> float:
        """Full runs that were spent: updates made over those of the combinations' plans, in all."""
        return float(sum(run.steps / self.settings[run.cell].plan.steps for run in self.runs))

    def table(self) -> SweepTable:
        """One line a combination, the best first."""
        ranked = self.ranked
        columns: dict[str, list[Any]] = {name: [cell.values[name] for cell in ranked] for name in self.over}
        columns[self.told.score] = [cell.mean for cell in ranked]
        columns |= {"spread": [cell.spread for cell in ranked], "low": [cell.low for cell in ranked], "high": [cell.high for cell in ranked]}
        for name in self.runs[0].scores:
            if name != self.told.score:
                columns[name] = [float(np.mean([run.scores[name] for run in cell.runs])) for cell in ranked]
        columns["loss"] = [float(np.mean([run.loss for run in cell.runs])) for cell in ranked]
        columns["seeds"] = [len(cell.runs) for cell in ranked]
        columns["diverged"] = [cell.diverged for cell in ranked]
        columns["updates"] = [max(run.steps for run in cell.runs) for cell in ranked]
        columns["outcome"] = [_outcome(cell) for cell in ranked]
        return SweepTable(columns)

    def plot(self, x: str | None = None, y: str | None = None) -> Any:
        """The scores as a heat map over two hyperparameters, or a curve over one, with the edges of stability.

        Args:
            x, y: names; left out, lr and the first other one with several values. Of what else was tried, the best is shown.

        Raises:
            UnknownName, InvalidValue: a name that was not tried, or an x that is not numbers.
        """
        from fallline.sweeping.picture import picture

        return picture(self, x, y)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the verdict, the table's lines, the edges, and how it was made."""
        first = self.ranked[0]
        found = first.finished and math.isfinite(first.mean)
        return {
            "verdict": self.verdict,
            "score": self.told.score,
            "best": {"values": dict(first.values), "mean": first.mean, "spread": first.spread, "plan": first.plan.to_json()} if found else None,
            "cost": self.cost,
            "seconds": self.told.seconds,
            "how": list(self.told.choices),
            "rungs": [list(rung) for rung in self.told.rungs],
            "edges": [{"values": dict(e.values), "measured": list(e.measured), "predicted": e.predicted} for e in self.edges],
            "combinations": self.table().rows(),
        }

    def __repr__(self) -> str:
        return f"Sweep({len(self.cells)} combinations, {len(self.runs)} runs; {self.verdict})"

    def _repr_html_(self) -> str:
        try:
            drawn = self.plot()._repr_html_()
        except (ImportError, ValueError):  # no charts installed, or nothing that was tried is a number
            drawn = ""
        return f"<p>{html.escape(self.verdict)}</p>{self.table()._repr_html_()}{drawn}"

    def _smallest(self) -> str:
        numbers = [v for v in self.over.get("lr", [self.plan.optimizer.lr]) if isinstance(v, (int, float))]
        return short(min(numbers)) if numbers else "those tried"

    def _end_of_lr(self, best: Cell) -> str:
        """Whether the best learning rate is the smallest or the largest of several."""
        rates = [v for v in self.over.get("lr", ()) if isinstance(v, (int, float))]
        if len(rates) < 3 or best.values["lr"] not in (min(rates), max(rates)):
            return ""
        return "smallest" if best.values["lr"] == min(rates) else "largest"


def values_in_words(cell: Cell) -> str:
    """The values of a combination, for a sentence."""
    return ", ".join(f"{name} {shown(v)}" for name, v in cell.values.items())


def score_in_words(cell: Cell) -> str:
    """The score of a combination with its spread."""
    if not math.isfinite(cell.mean):
        return "diverged"
    spread = f" +- {short(cell.spread, 2)} over {len(cell.runs)} seeds" if len(cell.runs) > 1 else ""
    return f"{cell.score.replace('_', ' ')} {short(cell.mean, 4)}{spread}"


def _outcome(cell: Cell) -> str:
    if cell.diverged:
        return "diverged" if cell.diverged == len(cell.runs) else f"{cell.diverged} of {len(cell.runs)} diverged"
    return "finished" if cell.finished else "left behind"
