"""The picture of a sweep: which two hyperparameters it shows, and what of the others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fallline.charts.sweeps import Limit, curve, heat_map
from fallline.errors import InvalidValue, UnknownName
from fallline.sweeping.values import shown

if TYPE_CHECKING:
    from fallline.charts.picture import Picture
    from fallline.sweeping.result import Cell, Sweep


def picture(found: Sweep, x: str | None, y: str | None) -> Picture:
    """The picture of `Sweep.plot`."""
    for name in (x, y):
        if name is not None and name not in found.over:
            raise UnknownName.among("name in over", name, found.over)
    x = x or _first(found, y)
    if not _numeric(found, x):
        raise InvalidValue(f"plot(x={x!r}): its values are not numbers; put it on the other axis, as plot(y={x!r})")
    if x == y:
        raise InvalidValue(f"plot(x={x!r}, y={y!r}): expected two different names")
    y = y or next((name for name, values in found.over.items() if name != x and len(values) > 1), None)
    chosen = _best_of_each(found, x, y)
    first = found.ranked[0]
    best = next((i for i, cell in enumerate(chosen) if cell is first and cell.finished and math.isfinite(cell.mean)), None)
    others = [name for name in found.over if name not in (x, y) and len(found.over[name]) > 1]
    told = {"what": found.told.score.replace("_", " "), "title": found.verdict, "caption": f"of {' and '.join(others)}, the best is shown" if others else ""}
    at, mean, notes = np.array([cell.values[x] for cell in chosen], np.float64), np.array([cell.mean for cell in chosen]), [repr(cell) for cell in chosen]
    limits = _limits(found, x, y)
    if y is not None:
        words = [shown(cell.values[y]) for cell in chosen]
        return heat_map(at, words, mean, notes, names=(x, y), lower=found.told.lower, best=best, limits=limits, **told)
    order = np.argsort(at, kind="stable").tolist()
    low, high = (np.array([getattr(cell, side) for cell in chosen])[order] for side in ("low", "high"))
    place = None if best is None else order.index(best)
    return curve(at[order], mean[order], low, high, [notes[i] for i in order], name=x, best=place, limit=limits[0] if limits else None, **told)


def _first(found: Sweep, y: str | None) -> str:
    """lr where it is swept, else the name with most numbers."""
    names = [name for name in found.over if name != y and _numeric(found, name)]
    if not names:
        raise InvalidValue("nothing that was tried is a number, so there is no axis to draw along: see table()")
    return "lr" if "lr" in names else max(names, key=lambda name: len(found.over[name]))


def _numeric(found: Sweep, name: str) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found.over[name])


def _best_of_each(found: Sweep, x: str, y: str | None) -> list[Cell]:
    """For each place in the drawing the best combination there, in the grid's order."""
    rank = {id(cell): i for i, cell in enumerate(found.ranked)}
    places: dict[tuple, Cell] = {}
    for cell in found.cells:
        key = (repr(cell.values[x]), None if y is None else repr(cell.values[y]))
        if key not in places or rank[id(cell)] < rank[id(places[key])]:
            places[key] = cell
    return list(places.values())


def _limits(found: Sweep, x: str, y: str | None) -> list[Limit]:
    """The edges that belong to what is drawn: those of the drawn combinations, where only lr and y were tried."""
    if x != "lr" or any(len(values) > 1 for name, values in found.over.items() if name not in (x, y)):
        return []
    return [Limit("" if y is None else shown(edge.values[y]), edge.measured, edge.predicted) for edge in found.edges]

