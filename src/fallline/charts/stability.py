"""The learning rate beside the edge of stability."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.charts.curves import _telling, _time
from fallline.charts.marks import log_scale, numbers, quantity, rows, same_length, sentence, short, time_axis
from fallline.charts.picture import BLUE, DASHES, RED, Picture


def stability(steps: Any, lr: Any, edge: Any, above: Any, *, steps_per_epoch: int | None = None) -> Picture:
    """The learning rate by update, the edge of stability beside it, and the updates above the edge marked.

    Args:
        steps: (n,) update indices, rising.
        lr: (n,) learning rate of each.
        edge: (n,) the largest stable rate of each; what is not finite is a gap.
        above: (n,) whether the rate exceeds the edge.
        steps_per_epoch: given, the axis counts epochs.

    >>> stability([0, 1, 2], [0.1, 0.3, 0.1], [0.2, 0.2, 0.2], [False, True, False]).title
    '1 of 3 steps above the edge of stability, the first at update 1'
    """
    x, y, limit, over = numbers(steps, "steps"), numbers(lr, "lr"), numbers(edge, "edge"), np.asarray(above, bool)
    same_length(steps=x, lr=y, edge=limit, above=over)
    keep = np.unique(np.concatenate([_telling(y), np.flatnonzero(np.diff(over, prepend=over[:1]))])).astype(int)
    time, unit = _time(x[keep], steps_per_epoch)
    y, limit, shown = np.where(y[keep] > 0, y[keep], np.nan), limit[keep], over[keep]
    scale = log_scale(True, np.concatenate([y, limit]))
    xs, ys = time_axis(unit), quantity("y", "learning rate", **scale)
    names = ["learning rate", "edge of stability"]
    color = {"color": {"field": "name", "scale": {"domain": names, "range": [BLUE, RED]}, "legend": {}},
             "strokeDash": {"field": "name", "scale": {"domain": names, "range": [list(DASHES[0]), list(DASHES[1])]}, "legend": None}}  # fmt: skip
    layers: list[dict] = [
        {"data": rows(x=time, y=values, name=[name] * len(time)), "mark": {"type": "line"}, "encoding": {"x": xs, "y": ys, **color}}
        for name, values in zip(names, (y, limit), strict=True)
    ]
    layers.append({"data": rows(x=time, y=np.where(shown, y, np.nan)), "mark": {"type": "line", "color": RED, "strokeWidth": 4, "opacity": 0.5},
                   "encoding": {"x": xs, "y": ys}})  # fmt: skip
    count = int(over.sum())
    first = f", the first at update {int(x[np.argmax(over)]):,}" if count else ""
    title = f"{count:,} of {len(x):,} steps above the edge of stability{first}" if count else f"Every step is below the edge of stability; the peak is {short(np.nanmax(y))}"
    return Picture(title, {"layer": layers}, sentence("thick red: above the edge" if count else ""), height=220)
