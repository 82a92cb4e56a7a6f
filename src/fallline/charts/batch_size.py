"""The picture of a batch size: its cost, its rate, and the noise it has to average out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.charts.marks import (
    gaps,
    label_x,
    log_scale,
    numbers,
    quantity,
    rows,
    rule_x,
    same_length,
    sentence,
    short,
)
from fallline.charts.picture import BLUE, GREEN, GREY, ORANGE, Picture
from fallline.errors import InvalidValue

Numbers = Sequence[float | None]


def batch_size(
    sizes: Any, *, chosen: int, steps: Numbers | None, seconds: Numbers | None = None, measured: tuple[Any, Any, Any] | None = None,
    knee: int | None = None, noise: tuple[Any, Any, Any, Any] | None = None,
) -> Picture:  # fmt: skip
    """What a batch size was chosen by, in up to three panels one under the other.

    Args:
        sizes: (n,) batch sizes, rising.
        chosen: the one that was chosen.
        steps: (n,) updates predicted for each, or None; None in place of all leaves their panel out.
        seconds: (n,) seconds predicted for each, or None.
        measured: sizes, rows a second and the smoothed rates, (m,) each; or None.
        knee: the smallest size with nearly the best rate, or None.
        noise: loss, noise scale, and its interval's ends, (k,) each in the order of the descent; or None.

    >>> batch_size([8, 16, 32], chosen=16, steps=[400, 250, 180]).title
    'Chosen batch size: 16'
    """
    x = numbers(sizes, "sizes")
    if not len(x):
        raise InvalidValue("batch_size(sizes=[]): expected at least one size")
    across = _axis(x, "rows of a batch")
    panels, notes = [] if steps is None else [_cost(x, steps, seconds, chosen, across)], []
    if measured is not None and len(np.atleast_1d(measured[0])):
        panels.append(_rates(*measured, knee, chosen, across))
        notes.append("dots: median of several timings; line: never falling")
    if noise is not None and len(np.atleast_1d(noise[0])):
        panel, missing = _noise(*noise, chosen)
        panels.append(panel)
        notes += ["the larger the noise scale beside the batch, the more a larger batch would save updates" if steps is None else "", "bars: 95 % intervals", missing]
    if not panels:
        raise InvalidValue("batch_size(steps=None): without updates there must be rates or noise to draw")
    spec = {"vconcat": panels, "spacing": 14} if len(panels) > 1 else {k: v for k, v in panels[0].items() if k not in ("width", "height")}
    return Picture(f"Chosen batch size: {chosen:,}", spec, sentence(*notes))


def _axis(x: np.ndarray, title: str) -> dict:
    scale = log_scale(True, x)
    ticks = [float(v) for v in x] if len(x) <= 12 else scale["axis"]["values"]
    return quantity("x", title, scale={"type": "log"}, axis={"values": ticks, "labelExpr": "format(datum.value, ',~r')", "grid": False})


def _cost(x: np.ndarray, steps: Numbers, seconds: Numbers | None, chosen: int, across: dict) -> dict:
    """Seconds for the same loss where they are known, else updates."""
    timed = seconds is not None and any(s is not None for s in seconds)
    y = _filled(seconds if timed and seconds is not None else steps)
    same_length(sizes=x, steps=y)
    name = "seconds to the same loss" if timed else "updates to the same loss"
    said = [f"{short(a)} rows: {short(b)} {name}" for a, b in zip(x, y, strict=True)]
    known = y[np.isfinite(y) & (y > 0)]
    far = len(known) > 0 and known.max() > 10 * known.min()
    ys = quantity("y", name, **log_scale(True, y)) if far else quantity("y", name, scale={"zero": False}, **log_scale(False, y))
    return _panel([
        {"data": rows(x=x, y=y), "mark": {"type": "line", "color": BLUE, "strokeWidth": 2.5}, "encoding": {"x": across, "y": ys}},
        {"data": rows(x=x, y=y, note=said), "mark": {"type": "circle", "color": BLUE, "size": 40, "opacity": 1},
         "encoding": {"x": across, "y": ys, "description": {"field": "note"}}},
        rule_x(float(chosen), f"chosen: {chosen} rows", color=GREEN, dash=(1, 0), width=2.5),
        label_x(float(chosen), f"chosen {chosen:,}", align=_side(float(chosen), x), color=GREEN, above=True),
    ], 150)  # fmt: skip


def _rates(sizes: Any, rate: Any, smooth: Any, knee: int | None, chosen: int, across: dict) -> dict:
    x, y, line = numbers(sizes, "sizes"), numbers(rate, "rate"), numbers(smooth, "smooth")
    same_length(sizes=x, rate=y, smooth=line)
    ys = quantity("y", "rows a second", **log_scale(True, np.concatenate([y, line])))
    said = [f"{short(a)} rows: {short(b)} rows a second" for a, b in zip(x, y, strict=True)]
    own = _axis(x, "rows of a batch") if len(x) > 1 else across
    layers = [
        {"data": rows(x=x, y=y, note=said), "mark": {"type": "circle", "color": GREY, "size": 30, "opacity": 0.8},
         "encoding": {"x": own, "y": ys, "description": {"field": "note"}}},
        {"data": rows(x=x, y=line), "mark": {"type": "line", "color": BLUE, "strokeWidth": 2.5}, "encoding": {"x": own, "y": ys}},
        rule_x(float(chosen), f"chosen: {chosen} rows", color=GREEN, dash=(1, 0), width=2),
    ]  # fmt: skip
    if knee is not None and knee != chosen:
        layers += [rule_x(float(knee), f"knee: {knee} rows", color=ORANGE), label_x(float(knee), "knee", align=_side(float(knee), x), color=ORANGE, above=True)]
    return _panel(layers, 130)


def _noise(loss: Any, scale: Any, low: Any, high: Any, chosen: int) -> tuple[dict, str]:
    """The noise scale against the loss, which falls from left to right."""
    x, y, a, b = (numbers(v, n) for v, n in ((loss, "loss"), (scale, "noise scale"), (low, "low"), (high, "high")))
    same_length(loss=x, scale=y, low=a, high=b)
    known = np.concatenate([y, a, b, [float(chosen)]])
    known = known[np.isfinite(known) & (known > 0)]
    top = float(known.max()) * 3
    a, ends = np.maximum(a, known.min() / 3), np.where(np.isfinite(b), b, top)
    straight = log_scale(True, x) if (x > 0).all() and len(np.unique(x)) > 1 else log_scale(False, x)
    xs = quantity("x", "loss, falling", scale={**straight.get("scale", {}), "reverse": True}, axis={**straight["axis"], "grid": False})
    ys = quantity("y", "noise scale, rows", **log_scale(True, np.concatenate([known, [top]])))
    said = [f"at loss {short(v)}: {short(m)} rows, {short(lo)} to {'no end' if math.isinf(hi) else short(hi)}" for v, m, lo, hi in zip(x, y, a, b, strict=True)]
    marks, missing = gaps(x, y, "noise scale")
    layers = [
        {"data": rows(x=x, y=a, y2=ends), "mark": {"type": "rule", "color": BLUE, "opacity": 0.5, "strokeWidth": 4}, "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}},
        {"data": rows(x=x, y=y, note=said), "mark": {"type": "line", "color": BLUE, "point": {"size": 45, "filled": True, "color": BLUE}},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
        {"data": rows(y=[float(chosen)], note=[f"chosen: {chosen} rows"]), "mark": {"type": "rule", "color": GREEN, "strokeWidth": 2},
         "encoding": {"y": {"field": "y", "type": "quantitative"}, "description": {"field": "note"}}},
        *marks,
    ]  # fmt: skip
    return _panel(layers, 150), missing


def _panel(layers: list[dict], height: int) -> dict:
    return {"layer": layers, "width": 380, "height": height}


def _side(value: float, x: np.ndarray) -> str:
    place = math.log(value / x[0]) / math.log(x[-1] / x[0]) if len(x) > 1 and x[-1] > x[0] and value > 0 else 0.5
    return "right" if place > 0.85 else "left" if place < 0.15 else "center"


def _filled(values: Numbers) -> np.ndarray:
    return np.array([np.nan if v is None else float(v) for v in values])
