"""Small pieces that every chart is put together from: rows of data, axes, layers, numbers in words, thinning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.charts.picture import GREY, INK, RED
from fallline.errors import InvalidValue

# Vega formats all labels of an axis alike; these choose by value: 1500 as 1.5k, 0.2 as 0.2, 2e-5 as 2e-5.
PLAIN_LABEL = "abs(datum.value) >= 1e12 ? format(datum.value, '.2~e') : abs(datum.value) >= 1e3 ? format(datum.value, '~s') : datum.value == 0 || abs(datum.value) >= 1e-3 ? format(datum.value, '~g') : format(datum.value, '~e')"
MOST_POINTS = 1500  # per curve; three numbers a point when it is a mean with its extremes


def numbers(values: Any, name: str) -> np.ndarray:
    """`values` as a flat float64 array. Beyond 1e300 a number counts as infinite: no axis can be drawn around it."""
    array = np.asarray(values, dtype=np.float64)
    if array.size and not np.nanmax(np.abs(array), initial=0.0) <= 1e300:
        array = np.where(np.abs(array) > 1e300, np.copysign(np.inf, array), array)
    if array.ndim != 1:
        raise InvalidValue(f"{name} has shape {array.shape}: expected one number per point")
    return array


def same_length(**arrays: np.ndarray) -> None:
    """Raise unless all arrays have the same length."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidValue("a chart needs arrays of one length; given " + ", ".join(f"{k}: {v}" for k, v in lengths.items()))


def short(value: Any, digits: int = 3) -> str:
    """A number as a person writes it.

    >>> short(0.0345678), short(123456.0), short(2e-7), short(float("nan")), short(96.0)
    ('0.0346', '123,456', '2e-07', 'NaN', '96')
    """
    if value is None or math.isnan(value := float(value)):
        return "NaN"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e9 else text


def rows(**columns: Any) -> dict:
    """Columns as Vega-Lite data; what is not finite becomes null, which draws as a gap."""
    plain = {k: [_plain(x) for x in (v.tolist() if isinstance(v, np.ndarray) else v)] for k, v in columns.items()}
    names = list(plain)
    return {"values": [dict(zip(names, row, strict=True)) for row in zip(*plain.values(), strict=True)]}


def _plain(x: Any) -> Any:
    if isinstance(x, float):
        return float(f"{x:.6g}") if math.isfinite(x) else None
    return x


def quantity(field: str, title: str | None = None, **options: Any) -> dict:
    """Encoding of a number. `scale=` and `axis=` are merged, not replaced."""
    axis = {"title": title, **options.pop("axis", {})}
    return {"field": field, "type": "quantitative", "axis": axis, "scale": {"zero": False, "nice": False, **options.pop("scale", {})}, **options}


def log_wanted(values: np.ndarray, ratio: float = 20.0) -> bool:
    """Whether a log axis shows `values` better: all above zero and far apart."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() / ratio >= finite.min())


def log_scale(wanted: bool, values: np.ndarray) -> dict:
    """Scale and axis for `values`: where a log axis is wanted, one with few round labels."""
    if not wanted:
        return {"axis": {"labelExpr": PLAIN_LABEL, "tickCount": 6}}
    finite = values[np.isfinite(values) & (values > 0)]
    low, high = math.log10(finite.min()), math.log10(finite.max())
    stride = max(1, math.ceil((high - low) / 8))
    parts = (1, 2, 5) if high - low < 2 else (1, 3) if high - low < 3.5 else (1,)
    ticks = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1, stride) for m in parts]
    inside = [t for t in ticks if 10 ** (low - 0.02) <= t <= 10 ** (high + 0.02)]
    return {"scale": {"type": "log"}, "axis": {"values": inside, "labelExpr": PLAIN_LABEL}}


def time_axis(title: str | None, **options: Any) -> dict:
    """Encoding of steps or epochs on the horizontal axis: whole numbers, 1,500 as 1.5k."""
    axis = {"labelExpr": PLAIN_LABEL, "tickMinStep": 1, "grid": False, **options}
    return quantity("x", title, axis=axis)


@dataclass(frozen=True, eq=False)
class Thinned:
    """A curve with at most `MOST_POINTS` points: x of each bin, mean, smallest and largest; `per` values a bin."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    per: int

    @property
    def caption(self) -> str:
        return f"each point is the mean of {self.per:,} steps, the band their smallest and largest" if self.per > 1 else ""


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS, per: int = 1) -> Thinned:
    """At most `most` points of a curve: bins of equal length, at least `per` values, with their mean, smallest and largest.

    A bin that holds a value that is not finite has no mean: it shows as a gap, never as a guess.
    Extremes are those of the finite values of the bin.
    """
    per = max(per, math.ceil(len(y) / most))
    if per == 1:
        return Thinned(x, y, y, y, 1)
    edges = np.arange(0, len(y), per)
    finite = np.isfinite(y)
    counts = np.diff(np.append(edges, len(y)))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = np.add.reduceat(np.where(finite, y, np.nan), edges) / counts
    low = np.minimum.reduceat(np.where(finite, y, np.inf), edges)
    high = np.maximum.reduceat(np.where(finite, y, -np.inf), edges)
    middle = np.minimum(edges + counts // 2, len(y) - 1)
    return Thinned(x[middle], mean, np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan), per)


def gaps(x: np.ndarray, y: np.ndarray, name: str) -> tuple[list[dict], str]:
    """Layer that marks where `y` is not finite, and the words for the caption; nothing where all is finite."""
    bad = np.flatnonzero(~np.isfinite(y))
    if not len(bad):
        return [], ""
    shown = bad if len(bad) <= 40 else bad[np.linspace(0, len(bad) - 1, 40).astype(int)]
    layer = {
        "data": rows(x=x[shown], note=[f"{name} is {short(y[i])} at {short(x[i], 6)}" for i in shown]),
        "mark": {"type": "point", "shape": "cross", "angle": 45, "filled": True, "color": RED, "size": 70, "opacity": 1},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"value": 8}, "description": {"field": "note"}},
    }
    count = f"{len(bad):,} values of {name}" if len(bad) > 1 else f"one value of {name}"
    return [layer], f"{count} not finite (crosses at the top; the curve has a gap there)"


def rule_x(value: float, note: str, *, color: str = GREY, dash: Sequence[int] = (4, 3), width: float = 1.5) -> dict:
    """A vertical line at `value`."""
    return {
        "data": rows(x=[float(value)], note=[note]),
        "mark": {"type": "rule", "color": color, "strokeDash": list(dash), "strokeWidth": width},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "description": {"field": "note"}},
    }


def label_x(value: float, text: str, *, align: str = "left", color: str = INK, above: bool = False) -> dict:
    """Words for a vertical line: beside it near the top of the drawing, or above the drawing."""
    aside = {"left": 5, "right": -5}.get(align, 0) if not above else 0
    return {
        "data": rows(x=[float(value)], text=[text]),
        "mark": {"type": "text", "align": align, "dx": aside, "baseline": "middle", "fontSize": 11, "fontWeight": 600, "color": color},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"value": -8 if above else 10}, "text": {"field": "text"}},
    }


def hover(x: np.ndarray, y: np.ndarray, notes: Sequence[str]) -> dict:
    """Invisible dots that carry tooltips along a curve."""
    return {
        "data": rows(x=x, y=y, note=list(notes)),
        "mark": {"type": "circle", "opacity": 0, "size": 200},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}, "description": {"field": "note"}},
    }


def sentence(*parts: str) -> str:
    """Non-empty parts joined as sentences.

    >>> sentence("each point is a mean", "", "two gaps")
    'Each point is a mean. Two gaps.'
    """
    return " ".join(f"{p[0].upper()}{p[1:]}." for p in (part.strip().rstrip(".") for part in parts) if p)
