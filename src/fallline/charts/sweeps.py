"""What a sweep found: scores as a heat map over two hyperparameters, or along one, with the edges of stability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.charts.marks import (
    log_scale,
    log_wanted,
    numbers,
    quantity,
    rows,
    rule_x,
    same_length,
    sentence,
    short,
)
from fallline.charts.picture import BLUE, DASHES, GREY, INK, RED, WIDTH, Picture

SHADES = ("#08306b", "#2b6cb0", "#6fa8dc", "#bcd7f0", "#eef4fb")
"""From the best score to the worst."""
DARK = "#10131a"
"""Letters on light shades; not INK, which a dark page turns light while the shades stay."""
FEW = 12
"""Up to so many columns, each is labelled with its own value."""
VALUE_LABEL = "abs(datum.value) >= 1e3 ? format(datum.value, '.3~s') : format(datum.value, '.2~g')"
WORST = 0.9
"""Colours end at this share of the ranked scores: what is worse has the last colour, so that the good ones can be told apart."""


@dataclass(frozen=True)
class Limit:
    """An edge of stability in one row of a heat map.

    Args:
        y: the row's words ("" of a curve).
        measured: between which two values it was seen; None at an end that was not.
        predicted: where the curvature puts it, or None.
    """

    y: str
    measured: tuple[float | None, float | None]
    predicted: float | None

    @property
    def seen(self) -> float | None:
        """Where the measured edge is drawn: between the last rate that held and the first that did not."""
        low, high = self.measured
        return None if high is None else high if low is None else math.sqrt(low * high)


def heat_map(
    x: Any, y: Sequence[str], score: Any, notes: Sequence[str], *, names: tuple[str, str], what: str, lower: bool = True, best: int | None = None,
    limits: Sequence[Limit] = (), title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """Scores over a number and something else.

    Args:
        x: (n,) numbers. y: (n,) words of the rows, one row for each different one in the order in which they come.
        score: (n,) what is shown; what is not finite is drawn as diverged.
        notes: (n,) what each cell says when it is pointed at.
        names: of x and y. what: of the score; `lower` whether lower is better.
        best: the cell that is marked.
        limits: edges of stability, drawn where x is on a log axis.

    >>> heat_map([0.1, 1.0], ["0", "0"], [0.5, 0.2], ["", ""], names=("lr", "momentum"), what="valid loss", title="0.2 at lr 1").title
    '0.2 at lr 1'
    """
    at, values = numbers(x, "x"), numbers(score, "score")
    same_length(x=at, y=np.asarray(y, object), score=values)
    bands, columns = list(dict.fromkeys(y)), np.unique(at)
    logarithmic = log_wanted(columns)
    low, high = _bounds(columns, logarithmic)
    order = np.searchsorted(columns, at)
    left, right, finite, shade = low[order], high[order], np.isfinite(values), _shades(values, lower)
    xs = _across(names[0], columns, logarithmic, (float(low.min()), float(high.max())))
    ys = {"field": "y", "type": "nominal", "sort": bands, "axis": {"title": names[1], "grid": False, "labelLimit": 160}}
    cell = {"x": xs, "x2": {"field": "x2"}, "y": ys}
    words = [short(v, 2) if ok else "diverged" for v, ok in zip(values, finite, strict=True)]
    size = 11 if len(columns) <= 8 else 9
    middle = np.sqrt(left * right) if logarithmic else (left + right) / 2
    layers: list[dict] = [
        {"data": rows(x=left, x2=right, y=list(y), fill=shade, note=list(notes)), "mark": {"type": "rect", "stroke": "#ffffff", "strokeWidth": 1},
         "encoding": {**cell, "color": {"field": "fill", "type": "nominal", "scale": None}, "description": {"field": "note"}}},
    ]  # fmt: skip
    if best is not None:
        layers.append({"data": rows(x=left[best : best + 1], x2=right[best : best + 1], y=[y[best]]),
                       "mark": {"type": "rect", "filled": False, "stroke": INK, "strokeWidth": 3}, "encoding": cell})  # fmt: skip
    drawn = [_inside(one, low.min(), high.max()) for one in limits] if logarithmic else []
    layers += _ticks(drawn, xs, ys)
    layers.append(
        {"data": rows(x=middle, y=list(y), text=words if len(columns) <= 14 else [""] * len(words), ink=[_ink(c) for c in shade]),
         "mark": {"type": "text", "fontSize": size}, "encoding": {"x": xs, "y": ys, "text": {"field": "text"}, "color": {"field": "ink", "type": "nominal", "scale": None}}}
    )  # fmt: skip
    told = sentence("framed: the best" if best is not None else "", *_told(limits, drawn), "grey: diverged in some seed" if not finite.all() else "", caption)
    return Picture(title or f"{what} over {names[0]} and {names[1]}", {"layer": layers}, told, max(WIDTH + 60, 56 * len(columns) + 90), 70 + 34 * len(bands))


def curve(
    x: Any, mean: Any, low: Any, high: Any, notes: Sequence[str], *, name: str, what: str, best: int | None = None, limit: Limit | None = None,
    title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """Scores along one number: the mean as a line, the range over seeds as a band, the edges of stability as vertical lines.

    Args:
        x, mean, low, high: (n,), x rising; what is not finite is a gap, marked at the top.
        notes: (n,) what each point says. best: the point that is marked.

    >>> curve([0.1, 1.0], [0.5, 0.2], [0.4, 0.1], [0.6, 0.3], ["", ""], name="lr", what="valid loss").title
    'valid loss by lr'
    """
    at, middle, lowest, highest = (numbers(v, n) for v, n in ((x, "x"), (mean, "mean"), (low, "low"), (high, "high")))
    same_length(x=at, mean=middle, low=lowest, high=highest)
    finite = np.isfinite(middle)
    scaled = log_scale(log_wanted(at), at)
    xs = quantity("x", name, **{**scaled, "axis": {**scaled.get("axis", {}), "grid": False}})
    shown = np.concatenate([lowest[finite], highest[finite]])
    ys = quantity("y", what, **log_scale(log_wanted(shown), shown))
    layers: list[dict] = [
        {"data": rows(x=at, y=np.where(finite, lowest, np.nan), y2=np.where(finite, highest, np.nan)), "mark": {"type": "area", "opacity": 0.16, "color": BLUE},
         "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}},
        {"data": rows(x=at, y=np.where(finite, middle, np.nan)), "mark": {"type": "line", "color": BLUE}, "encoding": {"x": xs, "y": ys}},
        {"data": rows(x=at[finite], y=middle[finite], note=[n for n, ok in zip(notes, finite, strict=True) if ok]),
         "mark": {"type": "circle", "color": BLUE, "size": 40, "opacity": 1}, "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
    ]  # fmt: skip
    if not finite.all():
        layers.append({"data": rows(x=at[~finite], note=[n for n, ok in zip(notes, finite, strict=True) if not ok]),
                       "mark": {"type": "point", "shape": "cross", "angle": 45, "filled": True, "color": RED, "size": 80, "opacity": 1},
                       "encoding": {"x": xs, "y": {"value": 8}, "description": {"field": "note"}}})  # fmt: skip
    if best is not None:
        layers.append({"data": rows(x=at[best : best + 1], y=middle[best : best + 1]), "mark": {"type": "point", "size": 140, "color": INK, "strokeWidth": 2},
                       "encoding": {"x": xs, "y": ys}})  # fmt: skip
    given = [] if limit is None else [limit]
    drawn = [_inside(one, at.min(), at.max()) for one in given]
    for one in drawn:
        layers += [rule_x(one.seen, "measured edge", color=RED, dash=DASHES[0])] if one.seen else []
        layers += [rule_x(one.predicted, "predicted edge", color=RED, dash=DASHES[1])] if one.predicted else []
    lost = "crosses: diverged in some seed" if not finite.all() else ""
    return Picture(title or f"{what} by {name}", {"layer": layers}, sentence("ring: the best" if best is not None else "", *_told(given, drawn, "red line", "dashed red"), lost, caption))


def _across(name: str, columns: np.ndarray, logarithmic: bool, ends: tuple[float, float]) -> dict:
    """The axis under the columns: their own values where they are few, else round numbers."""
    axis = log_scale(logarithmic, columns)
    own = {"values": columns.tolist(), "labelExpr": VALUE_LABEL} if len(columns) <= FEW else {}
    return quantity("x", name, **{**axis, "scale": {**axis.get("scale", {}), "domain": list(ends)}, "axis": {**axis.get("axis", {}), **own}})


def _bounds(columns: np.ndarray, logarithmic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Left and right side of each column: half-way to its neighbours, on the axis's own scale."""
    places = np.log(columns) if logarithmic else columns
    if len(places) == 1:
        half = 0.5 if logarithmic or places[0] == 0 else abs(places[0]) / 2
        edges = np.array([places[0] - half, places[0] + half])
    else:
        inner = (places[1:] + places[:-1]) / 2
        edges = np.concatenate([[2 * places[0] - inner[0]], inner, [2 * places[-1] - inner[-1]]])
    edges = np.exp(edges) if logarithmic else edges
    return edges[:-1], edges[1:]


def _shades(values: np.ndarray, lower: bool) -> list[str]:
    """A colour for each score, the best darkest; grey for what is not finite."""
    finite = np.isfinite(values)
    out = np.array([GREY] * len(values), object)
    if finite.any():
        good = values[finite] if lower else -values[finite]
        good = np.log(good) if log_wanted(good) else good
        top = np.quantile(good, WORST)
        share = np.clip((good - good.min()) / max(top - good.min(), 1e-300), 0, 1)
        out[finite] = [SHADES[min(int(s * len(SHADES)), len(SHADES) - 1)] for s in share]
    return out.tolist()


def _ink(shade: str) -> str:
    return "#ffffff" if shade in (*SHADES[:2], GREY) else DARK


def _inside(limit: Limit, low: float, high: float) -> Limit:
    """The limit without a prediction that lies outside of the drawing."""
    return Limit(limit.y, limit.measured, limit.predicted if limit.predicted and low < limit.predicted < high else None)


def _ticks(limits: Sequence[Limit], xs: dict, ys: dict) -> list[dict]:
    layers = []
    for places, thickness, size in (([(one.seen, one.y) for one in limits], 4, 22), ([(one.predicted, one.y) for one in limits], 2, 34)):
        there = [(x, y) for x, y in places if x]
        if there:
            mark = {"type": "tick", "orient": "vertical", "color": RED, "thickness": thickness, "size": size, "opacity": 1}
            layers.append({"data": rows(x=[x for x, _ in there], y=[y for _, y in there]), "mark": mark, "encoding": {"x": xs, "y": ys}})
    return layers


def _told(limits: Sequence[Limit], drawn: Sequence[Limit], seen: str = "thick red", predicted: str = "thin red") -> list[str]:
    """What the caption says of the edges."""
    out = []
    if any(one.seen for one in drawn):
        out.append(f"{seen}: the edge of stability as measured, between the last rate that held and the first that broke")
    if any(one.predicted for one in drawn):
        out.append(f"{predicted}: as the curvature at the start predicts it")
    beyond = [one for one, there in zip(limits, drawn, strict=False) if one.predicted and not there.predicted]
    if beyond:
        out.append(f"predicted outside of the drawing: {', '.join((one.y + ' at ' if one.y else '') + short(one.predicted) for one in beyond[:4])}")
    return out


__all__ = ["Limit", "curve", "heat_map"]
