"""Numbers in words and curves in characters, for the page and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.charts.marks import log_wanted, numbers, short
from fallline.errors import InvalidValue
from fallline.report.data import Headline

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHARES = {"accuracy", "balanced_accuracy"}
_UNIT = {"r2", "auc", "average_precision", "f1", "brier"}
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode braille: bit of (row, column)


def metric_value(name: str, value: float | None) -> str:
    """A metric's value as a person writes it: shares in per cent.

    >>> metric_value("accuracy", 0.9633), metric_value("rmse", 12.345), metric_value("r2", 0.5)
    ('96.3 %', '12.3', '0.500')
    """
    if value is None or math.isnan(value):
        return "not defined"
    if name in _UNIT:
        return f"{value + 0.0:.3f}".replace("-0.000", "0.000")
    return f"{100 * value:.1f} %" if name in _SHARES else short(value)


def metric_name(name: str) -> str:
    """The name of a metric in words.

    >>> metric_name("log_loss"), metric_name("r2"), metric_name("rmse")
    ('log loss', 'R2', 'RMSE')
    """
    return name.upper() if name in {"r2", "rmse", "mae", "rmsle", "auc"} else name.replace("_", " ")


def headline_text(headline: Headline) -> str:
    """The first line of a report in one sentence.

    >>> headline_text(Headline("accuracy", 0.963, 0.94, 0.98, 0.104, "always '3'", rows=270))
    "test accuracy 96.3 % (95 % interval 94.0 % to 98.0 %, 270 rows); baseline (always '3') 10.4 %"
    """
    name = headline.metric
    inside = []
    if headline.low is not None and headline.high is not None:
        inside.append(f"95 % interval {metric_value(name, headline.low)} to {metric_value(name, headline.high)}")
    if headline.rows is not None:
        inside.append(f"{headline.rows:,} rows")
    text = f"{headline.part} {metric_name(name)} {metric_value(name, headline.value)}" + (f" ({', '.join(inside)})" if inside else "")
    if headline.baseline is None:
        return text
    guess = f" ({headline.baseline_name})" if headline.baseline_name else ""
    return f"{text}; baseline{guess} {metric_value(name, headline.baseline)}"


def sparkline(values: Any, width: int = 40) -> str:
    """A curve in one line of blocks; a value that is not finite shows as `x`.

    >>> sparkline([1, 2, 3, 4, float("nan")])
    '▁▃▆█x'
    """
    y = numbers(values, "values")
    if not len(y):
        return ""
    y = np.array([part.mean() for part in np.array_split(y, min(width, len(y)))])
    finite = y[np.isfinite(y)]
    if not len(finite):
        return "x" * len(y)
    low, high = finite.min(), finite.max()
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((v - low) / span * 7)] if math.isfinite(v) else "x" for v in y)


def line_chart(
    values: Any, *, x: Any = None, width: int = 64, height: int = 10, log_x: bool = False, mark: float | None = None,
    ascii_only: bool = False,
) -> str:  # fmt: skip
    """A curve in a terminal, with its scales; the vertical axis is logarithmic where the values are far apart.

    Args:
        values: (n,) heights; what is not finite leaves a gap.
        x: (n,) positions, 0 .. n-1 where not given.
        width, height: size of the drawing in characters, without the scales.
        log_x: logarithmic horizontal axis.
        mark: position on the horizontal axis to mark with `^`.
        ascii_only: draw with `*` instead of braille dots.

    >>> print(line_chart([4, 2, 1], width=8, height=3, ascii_only=True))
    4 |***
      |   ***
    1 |      **
       0      2
    """
    y = numbers(values, "values")
    at = np.arange(len(y), dtype=np.float64) if x is None else numbers(x, "x")
    if len(at) != len(y):
        raise InvalidValue(f"line_chart: {len(y)} values at {len(at)} positions; expected as many")
    good = np.isfinite(y) & np.isfinite(at) & ((at > 0) | (not log_x))
    if not good.any():
        return "(no finite value to draw)"
    log_y = log_wanted(y[good])
    column, row = (1, 1) if ascii_only else (2, 4)
    heights = _place(y, good, height * row, log_y)
    places = _place(at, good, width * column, log_x)
    dots = np.zeros((height * row, width * column), dtype=bool)
    for i in np.flatnonzero(good):
        dots[height * row - 1 - heights[i], places[i]] = True
    _join(dots, heights, places, good)
    body = _characters(dots, ascii_only)
    top, bottom = short(float(y[good].max())), short(float(y[good].min()))
    margin = max(len(top), len(bottom))
    side = [top, *[""] * (height - 2), bottom] if height > 1 else [top]
    lines = [f"{s:>{margin}} |{line}".rstrip() for s, line in zip(side, body, strict=True)]
    left, right = short(float(at[good].min()), 4), short(float(at[good].max()), 4)
    if mark is not None:
        where = _place(np.array([mark, at[good].min(), at[good].max()]), np.ones(3, bool), width, log_x)[0]
        lines.append(" " * (margin + 2 + int(where)) + "^ " + short(mark))
    lines.append(" " * (margin + 2) + left + right.rjust(max(width - len(left), len(right) + 1)))
    return "\n".join(lines) + (f"\n{'':{margin + 2}}(logarithmic heights)" if log_y else "")


def _place(values: np.ndarray, good: np.ndarray, size: int, logarithmic: bool) -> np.ndarray:
    """Each value's cell of `size` cells from smallest to largest."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.log(values) if logarithmic else values
    low, high = scaled[good].min(), scaled[good].max()
    share = (np.where(good, scaled, low) - low) / ((high - low) or 1.0)
    return np.clip(np.rint(share * (size - 1)), 0, size - 1).astype(int)


def _join(dots: np.ndarray, heights: np.ndarray, places: np.ndarray, good: np.ndarray) -> None:
    """Draw the line between neighbours; a gap stays a gap."""
    for i in np.flatnonzero(good[:-1] & good[1:]).tolist():
        count = max(abs(int(places[i + 1] - places[i])), abs(int(heights[i + 1] - heights[i]))) + 1
        across = np.rint(np.linspace(places[i], places[i + 1], count)).astype(int)
        up = np.rint(np.linspace(heights[i], heights[i + 1], count)).astype(int)
        dots[len(dots) - 1 - up, across] = True


def _characters(dots: np.ndarray, ascii_only: bool) -> list[str]:
    if ascii_only:
        return ["".join("*" if d else " " for d in line) for line in dots]
    cells = dots.reshape(dots.shape[0] // 4, 4, dots.shape[1] // 2, 2)
    codes = np.einsum("rich,ih->rc", cells.transpose(0, 1, 2, 3).astype(int), np.array(_DOTS))
    return ["".join(chr(0x2800 + c) if c else " " for c in line) for line in codes.tolist()]


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a row, the rest as a count.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
