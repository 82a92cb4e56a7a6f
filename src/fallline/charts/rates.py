"""The picture of a search for the learning rate: the range test, the probes' scores, the interval, the choice, the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.charts.marks import (
    gaps,
    label_x,
    log_scale,
    log_wanted,
    numbers,
    quantity,
    rows,
    rule_x,
    same_length,
    sentence,
    short,
    thin,
)
from fallline.charts.picture import BLUE, GREEN, GREY, ORANGE, RED, Picture

PROBES = (ORANGE, "#b35900", "#7a3d00")
"""Colours of the probes, the longest darkest."""


def range_test(
    lr: Any, loss: Any, smooth: Any = None, *, chosen: float | None = None, low: float | None = None,
    high: float | None = None, diverged: float | None = None, probes: Sequence[tuple[int, Any, Any]] = (),
) -> Picture:  # fmt: skip
    """Loss against learning rate on a log axis, with the choice marked.

    Args:
        lr: (n,) learning rates tried, rising.
        loss: (n,) mean batch loss at each.
        smooth: (n,) smoothed loss, drawn over the dots.
        chosen: the learning rate that was chosen, or None.
        low, high: an interval around it, or None.
        diverged: the learning rate where the loss exploded, or None.
        probes: (updates, rates, scores) of each probe, the longest last; a score that is not finite is not drawn.

    >>> range_test([1e-3, 1e-2, 1e-1], [2.0, 1.0, 5.0], chosen=0.01).title
    'Chosen learning rate: 0.01'
    """
    x, y = numbers(lr, "lr"), numbers(loss, "loss")
    line = y if smooth is None else numbers(smooth, "smooth")
    same_length(lr=x, loss=y, smooth=line)
    top = _ceiling(y)
    points = thin(x, np.where(y > top, np.nan, y))
    lines = thin(x, np.where(line > top, np.nan, line))
    cut = int(np.sum(y > top))
    tried = [_probe(steps, rates, scores, top) for steps, rates, scores in probes]
    heights = np.concatenate([points.mean, *(scores for _, _, scores in tried)])
    ys = quantity("y", "loss", **log_scale(log_wanted(heights), heights))
    across = log_scale(True, np.concatenate([x, *(rates for _, rates, _ in tried)]))
    xs = quantity("x", "learning rate", scale=across["scale"], axis={**across["axis"], "grid": False})
    marks, missing = gaps(x, y, "loss")
    layers: list[dict] = []
    if low is not None and high is not None:
        layers.append({"data": rows(x=[float(low)], x2=[float(high)]), "mark": {"type": "rect", "color": GREEN, "opacity": 0.15},
                       "encoding": {"x": xs, "x2": {"field": "x2"}}})  # fmt: skip
    layers += [
        {"data": rows(x=points.x, y=points.mean, note=[f"lr {short(a)}: loss {short(b, 4)}" for a, b in zip(points.x, points.mean, strict=True)]),
         "mark": {"type": "circle", "color": GREY, "size": 14, "opacity": 0.55},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
        {"data": rows(x=lines.x, y=lines.mean), "mark": {"type": "line", "color": BLUE, "strokeWidth": 2.5}, "encoding": {"x": xs, "y": ys}},
        *marks,
        *(_probe_layer(*one, PROBES[min(k, len(PROBES) - 1)], xs, ys) for k, one in enumerate(tried)),
    ]  # fmt: skip
    layers += _rate_marks(float(x[0]), float(x[-1]), chosen, diverged)
    title = f"Chosen learning rate: {short(chosen)}" if chosen is not None else f"The {'search' if probes else 'range test'} found no learning rate"
    if low is not None and high is not None and chosen is not None:
        title += f" (between {short(low)} and {short(high)})"
    told = "range test: dots are batch losses, the blue line smoothed" if probes else "dots: batch loss; line: smoothed" if smooth is not None else ""
    lost = sum(int(np.sum(~np.isfinite(scores))) for _, _, scores in tried)
    notes = (told, _probes_told(tried), f"{lost} scores above the drawing" if lost else "", f"{cut:,} losses above {short(top)} not drawn" if cut else "")
    return Picture(title, {"layer": layers}, sentence(*notes, missing))


def _probe(steps: int, rates: Any, scores: Any, top: float) -> tuple[int, np.ndarray, np.ndarray]:
    """A probe with what lies above the drawing taken out."""
    x, y = numbers(rates, "rates"), numbers(scores, "scores")
    same_length(rates=x, scores=y)
    return steps, x, np.where(y > top, np.nan, y)


def _probe_layer(steps: int, x: np.ndarray, y: np.ndarray, color: str, xs: dict, ys: dict) -> dict:
    """A probe's scores, joined by a line."""
    notes = [f"lr {short(a)}: held-out loss {short(b, 4)} after {steps:,} updates" for a, b in zip(x, y, strict=True)]
    return {
        "data": rows(x=x, y=y, note=notes), "mark": {"type": "line", "color": color, "strokeWidth": 1.5, "point": {"color": color, "size": 55, "filled": True}},
        "encoding": {"x": xs, "y": ys, "description": {"field": "note"}},
    }  # fmt: skip


def _probes_told(tried: list[tuple[int, np.ndarray, np.ndarray]]) -> str:
    if not tried:
        return ""
    shades = "" if len(tried) == 1 else " (the darker)"
    return f"brown: held-out loss of the probes, {' and '.join(f'{steps:,}' for steps, _, _ in tried)}{shades} updates each; band: where the best rate of the whole plan lies, which is longer and wants a lower one"


def _rate_marks(first: float, last: float, chosen: float | None, diverged: float | None) -> list[dict]:
    """The chosen rate and the rate where the loss exploded: lines, and words above the drawing that keep apart."""

    def place(value: float) -> float:
        return float(np.log(value / first) / np.log(last / first)) if last > first else 0.5

    marks: list[dict] = []
    if diverged is not None:
        align = "right" if place(diverged) > 0.85 else "left" if chosen is not None and place(diverged) - place(chosen) < 0.25 else "center"
        marks += [rule_x(diverged, f"diverged at lr {short(diverged)}", color=RED), label_x(diverged, "diverged", align=align, color=RED, above=True)]
    if chosen is not None:
        close = diverged is not None and place(diverged) - place(chosen) < 0.3
        align = "right" if close or place(chosen) > 0.85 else "left" if place(chosen) < 0.15 else "center"
        marks += [rule_x(chosen, f"chosen: lr {short(chosen)}", color=GREEN, dash=(1, 0), width=2.5),
                  label_x(chosen, f"chosen {short(chosen)}", align=align, color=GREEN, above=True)]  # fmt: skip
    return marks


def _ceiling(y: np.ndarray) -> float:
    """Where to cut losses that exploded, so that the part before stays readable."""
    finite = y[np.isfinite(y)]
    if not len(finite):
        return np.inf
    start = float(np.median(finite[: max(3, len(finite) // 10)]))
    return max(4 * abs(start), float(np.percentile(finite, 60)), 1e-12)
