"""The picture of a path of weight decays: the score on rows that no run saw, and the choice."""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.charts.marks import label_x, numbers, quantity, rows, rule_x, same_length, sentence, short
from fallline.charts.picture import BLUE, GREEN, Picture


def decay_path(values: Any, score: Any, error: Any = None, *, chosen: float | None = None) -> Picture:
    """Loss on held-out rows against weight decay on a log axis, none at its left end.

    Args:
        values: (k,) weight decays, rising; 0 is none.
        score: (k,) the loss of each; what is not finite is not drawn.
        error: (k,) standard errors of the difference to the best, or None.
        chosen: the weight decay that was chosen, or None.

    >>> decay_path([0, 0.001, 0.01], [0.3, 0.2, 0.25], chosen=0.001).title
    'Chosen weight decay: 0.001'
    """
    x, y = numbers(values, "values"), numbers(score, "score")
    same_length(values=x, score=y)
    e = np.zeros(len(x)) if error is None else numbers(error, "error")
    above = x[x > 0]
    none = float(above.min()) / 10 if len(above) else 1.0
    at = np.where(x > 0, x, none)
    seen = np.isfinite(y)
    places = sorted({float(v) for v in at if np.isclose(np.log10(v) % 1, [0, 1]).any()} | {none})
    axis = {"values": places, "labelExpr": f"datum.value < {1.01 * none!r} ? 'none' : format(datum.value, '~g')" if (x == 0).any() else "format(datum.value, '~g')", "grid": False}
    xs = quantity("x", "weight decay", scale={"type": "log", "domain": [float(at.min()), float(at.max())], "nice": False}, axis=axis)
    ys = quantity("y", "loss on held-out rows", scale={"zero": False})
    notes = [f"weight decay {short(v)}: loss {short(s, 4)}" for v, s in zip(x[seen], y[seen], strict=True)]
    layers: list[dict] = [
        {"data": rows(x=at[seen], y=y[seen] - e[seen], y2=y[seen] + e[seen]), "mark": {"type": "rule", "color": BLUE, "opacity": 0.45, "strokeWidth": 5},
         "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}},
        {"data": rows(x=at[seen], y=y[seen], note=notes), "mark": {"type": "line", "color": BLUE, "strokeWidth": 2, "point": {"color": BLUE, "size": 55, "filled": True}},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
    ]  # fmt: skip
    if chosen is not None:
        place = chosen if chosen > 0 else none
        share = (np.log(place) - np.log(at.min())) / max(np.log(at.max()) - np.log(at.min()), 1e-9)
        align = "left" if share < 0.15 else "right" if share > 0.85 else "center"
        layers += [rule_x(place, f"chosen: weight decay {short(chosen)}", color=GREEN, dash=(1, 0), width=2.5),
                   label_x(place, f"chosen {short(chosen) if chosen else 'none'}", align=align, color=GREEN, above=True)]  # fmt: skip
    lost = int(np.sum(~seen))
    title = "No weight decay trained without diverging" if chosen is None else f"Chosen weight decay: {short(chosen) if chosen else 'none'}"
    return Picture(title, {"layer": layers}, sentence("bars: one standard error of the difference to the best" if e.any() else "", f"{lost} diverged, not drawn" if lost else ""))
