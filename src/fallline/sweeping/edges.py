"""Where learning rates stop working: as the runs showed it, and as the curvature predicts it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.curvature import Curvature, measured
from fallline.engines.population import Population
from fallline.errors import InvalidValue
from fallline.layout import start_of
from fallline.sweeping.grid import Setting
from fallline.sweeping.jobs import Ruler, SweepRun
from fallline.sweeping.values import shown


@dataclass(frozen=True)
class Edge:
    """The edge of stability of one combination of everything but the learning rate.

    Attributes:
        values: that combination.
        measured: (low, high): the largest rate below which no seed broke, and the smallest at which one did: it diverged, or
            ended with a higher loss than it began with. None at an end that was not seen.
        predicted: the largest stable peak rate for the problem's curvature at the start (`plan.stability`); None where none is
            known (a second moment, a loss that does not curve upwards).
    """

    values: Mapping[str, Any]
    measured: tuple[float | None, float | None]
    predicted: float | None

    @property
    def words(self) -> list[str]:
        """The values, as a person writes them."""
        return [shown(value) for value in self.values.values()]


def edges_of(problem: Any, names: Mapping[str, list[Any]], settings: Sequence[Setting], runs: Sequence[SweepRun], ruler: Ruler, start: Any) -> tuple[Edge, ...]:
    """The edge for each combination of what is not the learning rate; none where lr is not swept over several numbers."""
    if len(names.get("lr", ())) < 2 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in names["lr"]):
        return ()
    lanes: dict[tuple[str, ...], list[int]] = {}
    for i, setting in enumerate(settings):
        lanes.setdefault(tuple(repr(v) for name, v in setting.values.items() if name != "lr"), []).append(i)
    alone = Population(problem, [settings[0].plan], start=start, together=False)
    first = float(ruler.measure(alone)[0, 0])
    broke = {run.cell for run in runs if _broke(run, first, ruler)}
    curvature = _curvature(problem, start)
    return tuple(_edge(sorted(cells, key=lambda i: settings[i].values["lr"]), settings, broke, curvature) for cells in lanes.values())


def _edge(cells: Sequence[int], settings: Sequence[Setting], broke: set[int], curvature: Curvature | None) -> Edge:
    """The edge of some combinations, by rising rate."""
    rates = [settings[i].values["lr"] for i in cells]
    high = next((rate for rate, i in zip(rates, cells, strict=True) if i in broke), None)
    held = [rate for rate in rates if high is None or rate < high]
    others = {name: v for name, v in settings[cells[0]].values.items() if name != "lr"}
    safe = None if curvature is None else settings[cells[0]].plan.stability(curvature=curvature).safe_lr
    return Edge(others, (held[-1] if held else None, high), safe if safe is not None and math.isfinite(safe) else None)


def _broke(run: SweepRun, first: float, ruler: Ruler) -> bool:
    end = run.scores[ruler.names[0]]
    return run.outcome == "Diverged" or not math.isfinite(end) or end > first


def _curvature(problem: Any, start: Any) -> Curvature | None:
    try:
        found = measured(problem, None if start is None else start_of(problem, start))
    except InvalidValue:
        return None
    return found if np.isfinite(found.value) and found.value > 0 else None
