"""The way an optimizer takes over a function of two parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fallline.charts.curves import by_name
from fallline.charts.marks import PLAIN_LABEL, quantity, rows, sentence, short
from fallline.charts.picture import GREY, INK, Picture
from fallline.errors import InvalidValue

_GRID = 120
_MOST = 400


def path(
    paths: Mapping[str, Any], function: Callable[[np.ndarray], float] | None = None, *, minimum: Any = None, levels: int = 14, title: str = "",
) -> Picture:  # fmt: skip
    """Contours of a function of two parameters, with the path of each optimizer over them.

    Args:
        paths: name -> (steps, 2) positions, the start first.
        function: f(w) with w of shape (2,), or None for paths alone.
        minimum: (2,) position of the minimum, or None.
        levels: number of contours, spaced evenly in the logarithm of f above its lowest value.

    >>> path({"plain": [[1, 1], [0.5, 0.2], [0.1, 0.0]]}, lambda w: w[0]**2 + w[1]**2).title
    'plain ends at 0.01 after 2 steps'
    """
    if not paths:
        raise InvalidValue("path({}): expected at least one path")
    tracks = {name: _track(name, positions) for name, positions in paths.items()}
    box = _box(tracks, minimum)
    xs = quantity("x", "w[0]", scale={"domain": box[0]}, axis={"grid": False, "labelExpr": PLAIN_LABEL, "tickCount": 6})
    ys = quantity("y", "w[1]", scale={"domain": box[1]}, axis={"grid": False, "labelExpr": PLAIN_LABEL, "tickCount": 6})
    at = {"x": xs, "y": ys}
    layers = [] if function is None else [_contour_layer(function, box, levels, at)]
    names = list(tracks)
    every, outside = [], 0
    for name, way in tracks.items():
        keep = np.arange(len(way)) if len(way) <= _MOST else np.unique(np.linspace(0, len(way) - 1, _MOST).astype(int))
        inside = np.isfinite(way).all(axis=1)
        outside += int(np.sum(~inside))
        note = [f"{name}, step {k}: ({short(a)}, {short(b)})" for k, (a, b) in zip(keep.tolist(), way[keep].tolist(), strict=True)]
        every += rows(x=way[keep, 0], y=way[keep, 1], name=[name] * len(keep), k=keep, note=note)["values"]
    color = by_name(names)["color"]
    data = {"values": every}
    track = {"order": {"field": "k", "type": "quantitative"}, "color": color}
    starts = np.array([way[0] for way in tracks.values()])
    layers += [
        {"data": data, "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.9, "clip": True}, "encoding": {**at, **track}},
        {"data": data, "mark": {"type": "circle", "size": 16, "opacity": 0.9, "clip": True},
         "encoding": {**at, "color": color, "description": {"field": "note"}}},
        {"data": rows(x=starts[:, 0], y=starts[:, 1], note=["start"] * len(starts)),
         "mark": {"type": "point", "color": INK, "size": 70, "strokeWidth": 2}, "encoding": {**at, "description": {"field": "note"}}},
    ]  # fmt: skip
    if minimum is not None:
        least = np.asarray(minimum, dtype=np.float64)
        layers.append({"data": rows(x=least[:1], y=least[1:], note=["minimum"]), "mark": {"type": "point", "shape": "cross", "filled": True, "color": INK, "size": 90},
                       "encoding": {**at, "description": {"field": "note"}}})  # fmt: skip
    found = title or _title(tracks, function)
    thinned = [f"{n}: {_MOST} of {len(w):,} positions drawn" for n, w in tracks.items() if len(w) > _MOST]
    gone = f"{outside} positions are not finite and not drawn" if outside else ""
    marks = "circle: start" + ("; cross: minimum" if minimum is not None else "")
    return Picture(found, {"layer": layers}, sentence(marks, *thinned, gone), height=340)


def _track(name: str, positions: Any) -> np.ndarray:
    way = np.asarray(positions, dtype=np.float64)
    if way.ndim != 2 or way.shape[1] != 2 or not len(way):
        raise InvalidValue(f"path {name!r} has shape {way.shape}: expected (steps, 2), one position of two parameters per step")
    return way


def _box(tracks: Mapping[str, np.ndarray], minimum: Any) -> list[list[float]]:
    """What to show: all positions but far outliers of a path that diverged, with a margin."""
    points = np.concatenate(list(tracks.values()))
    points = points[np.isfinite(points).all(axis=1)]
    starts = np.array([w[0] for w in tracks.values()])
    anchor = np.concatenate([starts, np.atleast_2d(np.asarray(minimum, dtype=np.float64))]) if minimum is not None else starts
    reach = 3 * max(float(np.abs(anchor - anchor.mean(axis=0)).max()), float(np.median(np.abs(points - anchor.mean(axis=0)))), 1e-9)
    near = np.concatenate([anchor, points[(np.abs(points - anchor.mean(axis=0)) <= reach).all(axis=1)]])
    low, high = near.min(axis=0), near.max(axis=0)
    margin = 0.08 * np.maximum(high - low, 0.35 * max(float((high - low).max()), 1e-9))
    return [[float(a), float(b)] for a, b in zip(low - margin, high + margin, strict=True)]


def _contour_layer(function: Callable, box: list[list[float]], levels: int, at: dict) -> dict:
    gx, gy = (np.linspace(low, high, _GRID) for low, high in box)
    grid = np.array([[float(function(np.array([a, b]))) for a in gx] for b in gy])
    finite = grid[np.isfinite(grid)]
    least, most = float(finite.min()), float(finite.max())
    heights = least + np.geomspace(1e-4, 1, levels + 1)[:-1] * (most - least) if most > least else []
    values: list[dict] = []
    for i, height in enumerate(heights):
        for k, line in enumerate(contour(grid, float(height))):
            x, y = np.interp(line[:, 1], np.arange(_GRID), gx), np.interp(line[:, 0], np.arange(_GRID), gy)
            values += rows(x=x, y=y, line=[f"{i}.{k}"] * len(x), o=np.arange(len(x)))["values"]
    return {"data": {"values": values}, "mark": {"type": "line", "color": GREY, "strokeWidth": 1, "opacity": 0.5},
            "encoding": {**at, "detail": {"field": "line", "type": "nominal"}, "order": {"field": "o", "type": "quantitative"}}}  # fmt: skip


def contour(grid: np.ndarray, height: float) -> list[np.ndarray]:
    """Lines along which a grid of values has `height`: marching squares.

    Args:
        grid: (rows, columns) values.
        height: the level.

    Returns:
        Arrays (points, 2) of fractional (row, column) positions, one per connected line.
    """
    ends: dict[tuple, list[tuple]] = {}
    above = grid > height
    mixed = above[:-1, :-1].astype(int) + above[1:, :-1] + above[:-1, 1:] + above[1:, 1:]
    for i, j in np.argwhere((mixed > 0) & (mixed < 4)).tolist():
        corners = ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))
        crossed = [tuple(sorted((a, b))) for a, b in zip(corners, corners[1:] + corners[:1], strict=True) if above[a] != above[b]]
        for a, b in zip(crossed[::2], crossed[1::2], strict=True):
            ends.setdefault(a, []).append(b)
            ends.setdefault(b, []).append(a)
    return [np.array([_crossing(grid, height, edge) for edge in line]) for line in _chains(ends)]


def _crossing(grid: np.ndarray, height: float, edge: tuple) -> tuple[float, float]:
    (i, j), (k, m) = edge
    here, there = grid[i, j], grid[k, m]
    share = (height - here) / (there - here) if np.isfinite(there - here) else 0.5
    return i + share * (k - i), j + share * (m - j)


def _chains(ends: dict[tuple, list[tuple]]) -> list[list[tuple]]:
    """Walk the graph of crossed edges: open lines from their ends first, then closed ones."""
    lines = []
    for first in sorted(ends, key=lambda e: (len(ends[e]) != 1, e)):
        while ends[first]:
            line = [first]
            while ends[line[-1]]:
                following = ends[line[-1]].pop()
                ends[following].remove(line[-1])
                line.append(following)
            lines.append(line)
    return lines


def _title(tracks: Mapping[str, np.ndarray], function: Callable | None) -> str:
    parts = []
    for name, way in tracks.items():
        if function is None:
            parts.append(f"{name} ends at ({short(way[-1, 0])}, {short(way[-1, 1])})")
        else:
            parts.append(f"{name} ends at {short(float(function(way[-1])))}")
    count = {len(w) - 1 for w in tracks.values()}
    return "; ".join(parts) + (f" after {count.pop()} steps" if len(count) == 1 else "")


