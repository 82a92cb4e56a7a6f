"""Several descents in one drawing: the median of each as a line, its range over seeds as a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.charts.curves import by_name
from fallline.charts.marks import log_scale, log_wanted, quantity, rows, sentence, short, time_axis
from fallline.charts.picture import INK, WIDTH, Picture
from fallline.errors import InvalidValue, UnknownName

AXES = {"rows": "rows read", "updates": "updates", "seconds": "seconds of descent"}
"""What may stand on the horizontal axis."""
FAR = 100.0
"""What ends at so many times its start has left the others' scale, whether or not it is called diverged."""
ROOM = 3.0
"""The drawing ends at so many times the highest loss of what did not diverge; what rises beyond leaves it at the top."""


@dataclass(frozen=True, eq=False)
class Lane:
    """One descent, measured at K points.

    Args:
        name: as the legend calls it.
        rows, updates, seconds: (K,) where it was measured, on each of the axes.
        middle, low, high: (K,) median, smallest and largest over seeds; infinite where runs had diverged.
        seeds, diverged: runs in all, and those that diverged.
    """

    name: str
    rows: np.ndarray
    updates: np.ndarray
    seconds: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int = 1
    diverged: int = 0


def comparison(
    lanes: Sequence[Lane], *, across: str = "rows", switch: bool = False, data: bool = True, what: str = "training loss",
    title: str = "", caption: str = "", width: int = WIDTH, height: int = 300,
) -> Picture:  # fmt: skip
    """The loss of several descents, by rows read.

    Args:
        lanes: what was measured.
        across: "rows", "updates" or "seconds" on the horizontal axis.
        switch: whether the interactive forms of the picture let the reader choose the axis; `across` is then the first.
        data: False for a function without data, where one row is one update.
        what: the vertical axis.
        title, caption: the finding, and how the numbers were made.
        width, height: in CSS pixels.

    >>> k = np.arange(3.0)
    >>> comparison([Lane("plain", k, k, k, 1 / (k + 1), 1 / (k + 1), 1 / (k + 1))], title="plain ends at 0.333").title
    'plain ends at 0.333'
    """
    if across not in AXES:
        raise UnknownName.among("scale", across, AXES)
    if not lanes:
        raise InvalidValue("comparison([]): expected at least one descent")
    layers, params, note = panel(lanes, across=across, switch=switch, data=data, what=what)
    spec = {"layer": layers, **({"params": params} if params else {})}
    return Picture(title or "Loss by variant", spec, sentence(caption, note), width, height)


def panel(
    lanes: Sequence[Lane], *, across: str, switch: bool, data: bool, what: str, legend: bool = True, size: tuple[int, int] | None = None
) -> tuple[list[dict], list[dict], str]:
    """The layers of the drawing, its parameters, and what the caption should add."""
    names = [lane.name for lane in lanes]
    top = ceiling(lanes)
    kept = [_seen(lane, top) for lane in lanes]
    values = np.concatenate([np.concatenate([middle, low]) for middle, low, _ in kept])
    positive = values[np.isfinite(values) & (values > 0)]
    logarithmic = log_wanted(positive) and len(positive) >= 0.9 * np.isfinite(values).sum()
    if logarithmic:  # a band that touches zero must not stretch the axis to nowhere
        floor = min(float(np.nanmin(np.where(m > 0, m, np.nan))) for m, _, _ in kept if (m > 0).any()) / 3
        kept = [(np.where(m > 0, m, np.nan), np.maximum(lo, floor), np.maximum(hi, floor)) for m, lo, hi in kept]
    shown = np.concatenate([np.concatenate(part) for part in kept])
    shown = shown[np.isfinite(shown) & (shown <= top)]
    scaled = log_scale(logarithmic, shown)
    if np.isfinite(top):
        scaled = {**scaled, "scale": {**scaled.get("scale", {}), "domain": [float(shown.min()) if logarithmic else min(0.0, float(shown.min())), top]}}
    ys = quantity("y", what, **scaled)
    axes = AXES if data else {k: v for k, v in AXES.items() if k != "rows"}
    if across not in axes:
        across = "updates"
    params, xs, position = _across(axes, across, switch)
    color = by_name(names)
    if not legend:
        color = {k: {**v, "legend": None} for k, v in color.items()}
    layers: list[dict] = []
    for lane, (_, low, high), shade in zip(lanes, kept, color["color"]["scale"]["range"], strict=True):
        if lane.seeds > 1:  # in a plain colour: encoded, its pale patches would be those of the legend
            layers.append(position(rows(**_places(lane), y=low, y2=high), {
                "mark": {"type": "area", "opacity": 0.16, "clip": True, "color": shade}, "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}}))  # fmt: skip
    lines = [r for lane, (middle, _, _) in zip(lanes, kept, strict=True) for r in rows(**_places(lane), y=middle, name=[lane.name] * len(middle))["values"]]
    layers.append(position({"values": lines}, {"mark": {"type": "line", "clip": True}, "encoding": {"x": xs, "y": ys, **color}}))
    layers.append(position(_notes(lanes, kept, top), {"mark": {"type": "circle", "opacity": 0, "size": 160},
                                                "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}}))  # fmt: skip
    layers += _lost(lanes, kept, top, xs, position, color["color"])
    if switch:
        layers.append(_axis_words(size))
    gone = [lane.name for lane in lanes if not lane.middle[-1] <= top]
    return layers, params, f"slanted cross: where {' and '.join(gone)} rose off the top of the drawing" if gone else ""


def ceiling(lanes: Sequence[Lane]) -> float:
    """The highest loss that is drawn: what diverges must not flatten the others."""
    start = max(float(lane.middle[0]) for lane in lanes)
    calm = [lane for lane in lanes if not lane.diverged and not lane.middle[-1] > FAR * lane.middle[0]]
    finite = np.concatenate([lane.high for lane in calm] or [lane.middle[:1] for lane in lanes])
    return ROOM * max(start, float(finite[np.isfinite(finite)].max(initial=0.0)), 1e-300) if len(calm) < len(lanes) else np.inf


def _seen(lane: Lane, top: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median and range; what rises off the top of the drawing is clipped there, what is infinite is a gap."""
    off = 100 * top
    middle = np.where(np.isfinite(lane.middle), np.minimum(lane.middle, off), np.nan)
    low = np.where(np.isnan(middle), np.nan, np.minimum(lane.low, off))
    return middle, low, np.where(np.isnan(middle), np.nan, np.minimum(lane.high, off) if np.isfinite(off) else lane.high)


def _places(lane: Lane, at: int | None = None) -> dict[str, np.ndarray]:
    """The three horizontal positions of all measurements, or of one."""
    pick = slice(None) if at is None else slice(at, at + 1)
    return {"rows": lane.rows[pick], "updates": lane.updates[pick], "seconds": lane.seconds[pick]}


def _across(axes: dict[str, str], across: str, switch: bool) -> tuple[list[dict], dict, Any]:
    """Parameters, the encoding of x, and what puts data under a layer so that x is the chosen axis."""
    if not switch:
        return [], time_axis(axes[across], tickMinStep=0) | {"field": across}, lambda data, layer: {"data": data, **layer}
    params = [{"name": "across", "value": across, "bind": {
        "input": "radio", "options": list(axes), "labels": list(axes.values()), "name": "horizontal axis: "}}]  # fmt: skip
    # The title is one blank, to keep its room; the words come from the parameter, which a title cannot do.
    xs = time_axis(" ", tickMinStep=0) | {"field": "at"}
    return params, xs, lambda data, layer: {"data": data, "transform": [{"calculate": "datum[across]", "as": "at"}], **layer}


def _axis_words(size: tuple[int, int] | None) -> dict:
    """The horizontal axis's name, as the parameter says, where a title would stand."""
    words = " : ".join([*(f"across == '{k}' ? '{v}'" for k, v in AXES.items()), "''"])
    low = {"value": {"expr": "height + 32"} if size is None else size[1] + 32}
    middle = {"value": {"expr": "width / 2"} if size is None else size[0] / 2}
    return {"data": {"values": [{}]}, "mark": {"type": "text", "text": {"expr": words}, "fontSize": 12, "opacity": 0.8, "color": INK, "clip": False},
            "encoding": {"x": middle, "y": low}}  # fmt: skip


def _notes(lanes: Sequence[Lane], kept: list, top: float) -> dict:
    """Invisible dots with words along each line."""
    out: list[dict] = []
    for lane, (middle, _, _) in zip(lanes, kept, strict=True):
        good = np.flatnonzero(np.isfinite(middle) & (middle <= top))
        good = good if len(good) <= 40 else good[np.unique(np.linspace(0, len(good) - 1, 40).astype(int))]
        for i in good.tolist():
            span = f" ({short(lane.low[i])} to {short(lane.high[i])})" if lane.seeds > 1 else ""
            words = f"{lane.name}: loss {short(middle[i], 4)}{span} after {lane.rows[i]:,.0f} rows, {lane.updates[i]:,.0f} updates, {short(lane.seconds[i])} s"
            out += rows(**_places(lane, i), y=[float(middle[i])], note=[words])["values"]
    return {"values": out}


def _lost(lanes: Sequence[Lane], kept: list, top: float, xs: dict, position: Any, color: dict) -> list[dict]:
    """A cross at the top where a descent that diverged left the drawing."""
    out: list[dict] = []
    for lane, (middle, _, _) in zip(lanes, kept, strict=True):
        if lane.middle[-1] <= top:
            continue
        last = int(np.flatnonzero(lane.middle <= top)[-1]) if (lane.middle <= top).any() else 0
        last = min(last + 1, len(middle) - 1)
        words = "diverged" if lane.diverged else "far above"
        note = f"{lane.name} diverged in {lane.diverged} of {lane.seeds} runs" if lane.seeds > 1 else f"{lane.name} {words}"
        out += rows(**_places(lane, last), name=[lane.name], note=[note], words=[words])["values"]
    if not out:
        return []
    data, at = {"values": out}, {"x": {k: v for k, v in xs.items() if k != "axis"}, "color": {**color, "legend": None}}
    return [
        position(data, {"mark": {"type": "point", "shape": "cross", "angle": 45, "filled": True, "size": 90, "opacity": 1},
                        "encoding": {**at, "y": {"value": 7}, "description": {"field": "note"}}}),
        position(data, {"mark": {"type": "text", "align": "left", "dx": 9, "fontSize": 11, "fontWeight": 600},
                        "encoding": {**at, "y": {"value": 7}, "text": {"field": "words"}}}),
    ]  # fmt: skip


__all__ = ["AXES", "Lane", "ceiling", "comparison", "panel"]
