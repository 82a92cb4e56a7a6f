"""The ravine: contours of a function of two parameters with the path of each optimizer, still and moving."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fallline.charts import compare
from fallline.charts.marks import PLAIN_LABEL, quantity, rows, sentence, short
from fallline.charts.paths import _box, _contour_layer, _track
from fallline.charts.picture import INK, SERIES, Picture, _converter
from fallline.errors import InvalidValue, MissingExtra

LEVELS = 14
MOST = 400
PANEL = (380, 118)
"""Width and height of the panel of one path, in CSS pixels."""


def ravine(
    paths: Mapping[str, Any], function: Callable[[np.ndarray], float], lanes: Sequence[compare.Lane] = (), *, minimum: Any = None,
    data: bool = False, title: str = "", caption: str = "",
) -> Picture:  # fmt: skip
    """One panel for each path, all over the same contours, and the value by update below.

    Args:
        paths: name -> (steps, 2) positions, the start first.
        function: f(w) with w of shape (2,).
        lanes: the measured values of each path, or none.
        minimum: (2,) where the function is lowest, or None.
        data: whether a row is less than an update (a function with noise).
        title, caption: the finding, and how the numbers were made.

    >>> ravine({"plain": [[1, 1], [0.5, 0.2], [0.1, 0.0]]}, lambda w: w[0]**2 + w[1]**2, title="plain").title
    'plain'
    """
    if not paths:
        raise InvalidValue("ravine({}): expected at least one path")
    tracks = {name: _track(name, positions) for name, positions in paths.items()}
    box = view(tracks, minimum)
    panels: list[dict] = [_panel(name, tracks[name], i, function, box, minimum, last=i == len(tracks) - 1) for i, name in enumerate(tracks)]
    note = ""
    if lanes:
        layers, _, note = compare.panel(lanes, across="updates", switch=False, data=data, what="value", size=(PANEL[0], 150))
        legend = [p for p in layers if "color" in p.get("encoding", {})]
        for layer in legend:
            for channel in ("color", "strokeDash"):
                if channel in layer["encoding"]:
                    layer["encoding"][channel] = {**layer["encoding"][channel], "legend": None}
        panels.append({"layer": layers, "width": PANEL[0], "height": 150})
    outside = [name for name, way in tracks.items() if not _inside(way, box).all()]
    left = f"{' and '.join(outside)} leave{'s' if len(outside) == 1 else ''} the drawing" if outside else ""
    marks = "ring: start" + ("; cross: minimum" if minimum is not None else "")
    return Picture(title or "Paths over the contours", {"vconcat": panels, "spacing": 10}, sentence(marks, left, caption, note))


def view(tracks: Mapping[str, np.ndarray], minimum: Any) -> list[list[float]]:
    """What to show: start, minimum and the paths near them; what a diverging path does far away is not."""
    calm = {name: way for name, way in tracks.items() if np.isfinite(way).all() and np.abs(way).max() <= 4 * np.abs(way[0]).max() + 1e-9}
    held = calm or {name: way[:1] for name, way in tracks.items()}
    low, high = (np.array(side) for side in zip(*_box(held, minimum), strict=True))
    return [[float(a), float(b)] for a, b in zip(low, high, strict=True)]


def _inside(way: np.ndarray, box: list[list[float]]) -> np.ndarray:
    (xa, xb), (ya, yb) = box
    return (way[:, 0] >= xa) & (way[:, 0] <= xb) & (way[:, 1] >= ya) & (way[:, 1] <= yb)


def _at(box: list[list[float]], bottom: bool, title: str = "") -> dict:
    """The encodings of the two parameters."""
    bare = {"labels": bottom, "ticks": bottom}
    xs = quantity("x", "w[0]" if bottom else None, scale={"domain": box[0]}, axis={"grid": False, "labelExpr": PLAIN_LABEL, "tickCount": 6, **bare})
    ys = quantity("y", "w[1]", scale={"domain": box[1]}, axis={"grid": False, "labelExpr": PLAIN_LABEL, "tickCount": 3})
    return {"x": xs, "y": ys}


def _panel(name: str, way: np.ndarray, i: int, function: Callable, box: list, minimum: Any, *, last: bool) -> dict:
    """Contours with one path."""
    at = _at(box, last)
    color = SERIES[i % len(SERIES)]
    keep = np.arange(len(way)) if len(way) <= MOST else np.unique(np.linspace(0, len(way) - 1, MOST).astype(int))
    seen = way[keep]
    width, height = box[0][1] - box[0][0], box[1][1] - box[1][0]
    room = np.array([[box[0][0] - 50 * width, box[1][0] - 50 * height], [box[0][1] + 50 * width, box[1][1] + 50 * height]])
    line = np.clip(np.where(np.isfinite(seen), seen, 0.0), *room)  # far off the panel, where it is clipped anyway
    data = rows(x=line[:, 0], y=line[:, 1], k=keep)
    inside = _inside(seen, box)
    dots = rows(x=seen[inside, 0], y=seen[inside, 1], note=[f"{name}, update {k}: ({short(a)}, {short(b)}), value {short(function(np.array([a, b])), 4)}"
                                                           for k, (a, b) in zip(keep[inside].tolist(), seen[inside].tolist(), strict=True)])  # fmt: skip
    first = rows(x=way[:1, 0], y=way[:1, 1], note=["start"])
    layers = [
        _contour_layer(function, box, LEVELS, at),
        {"data": data, "mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.9, "clip": True, "color": color},
         "encoding": {**at, "order": {"field": "k", "type": "quantitative"}}},
        {"data": dots, "mark": {"type": "circle", "size": 16, "opacity": 0.9, "clip": True, "color": color}, "encoding": {**at, "description": {"field": "note"}}},
        {"data": first, "mark": {"type": "point", "color": INK, "size": 70, "strokeWidth": 2}, "encoding": {**at, "description": {"field": "note"}}},
    ]  # fmt: skip
    if minimum is not None:
        layers.append({"data": rows(x=[float(minimum[0])], y=[float(minimum[1])], note=["minimum"]), "mark": {"type": "point", "shape": "cross", "filled": True, "color": INK, "size": 80},
                       "encoding": {**at, "description": {"field": "note"}}})  # fmt: skip
    end = float(function(way[-1])) if np.isfinite(way[-1]).all() else float("inf")
    words = f"{name}: {'left the drawing' if not _inside(way[-1:], box)[0] else short(end)} after {len(way) - 1:,} updates"
    heading = {"text": words, "color": color, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 4, "frame": "group"}
    return {"layer": layers, "width": PANEL[0], "height": PANEL[1], "title": heading}


# ----------------------------------------------------------------------------------------------- one drawing, its place known

LEGEND = 26
"""Height of an animation's line of names and values."""
MARGIN = {"left": 46, "right": 12, "top": 10, "bottom": 40}


def backdrop(function: Callable, box: list[list[float]], minimum: Any, width: int, height: int) -> str:
    """The contours with axes as SVG; parameter values lie linearly between MARGIN and the far side.

    For what draws paths over it: frames of an animation, and a page that does so in the browser.
    """
    at = _at(box, True)
    layers = [_contour_layer(function, box, LEVELS, at)]
    if minimum is not None:
        layers.append({"data": rows(x=[float(minimum[0])], y=[float(minimum[1])]), "encoding": at,
                       "mark": {"type": "point", "shape": "cross", "filled": True, "color": INK, "size": 90}})  # fmt: skip
    spec = Picture("", {"layer": layers}).full_spec(title=False)
    inner = {"width": width - MARGIN["left"] - MARGIN["right"], "height": height - MARGIN["top"] - MARGIN["bottom"]}
    return _converter().vegalite_to_svg({**spec, "autosize": "none", "padding": MARGIN, **inner})


def place(way: np.ndarray, box: list[list[float]], width: int, height: int) -> np.ndarray:
    """(n, 2) positions in the pixels of `backdrop`."""
    (xa, xb), (ya, yb) = box
    inner = width - MARGIN["left"] - MARGIN["right"], height - MARGIN["top"] - MARGIN["bottom"]
    x = MARGIN["left"] + (way[:, 0] - xa) / (xb - xa) * inner[0]
    y = MARGIN["top"] + (yb - way[:, 1]) / (yb - ya) * inner[1]
    return np.stack([x, y], axis=1)


def animation(
    path: str | Path, paths: Mapping[str, Any], function: Callable[[np.ndarray], float], *, minimum: Any = None, seconds: float = 6.0,
    width: int = 720, height: int = 400, frames: int = 72,
) -> Path:  # fmt: skip
    """Write the paths growing over the contours as a GIF that repeats.

    Args:
        path: a name that ends in .gif.
        paths, function, minimum: as for `ravine`.
        seconds: length of one round; its last second stands still.
        width, height: in pixels.
        frames: pictures in all; with fewer updates, one for each.

    Raises:
        InvalidValue: another ending, or no time.
        MissingExtra: Pillow is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise InvalidValue(f"cannot animate into {path.name!r}: expected a name that ends in .gif")
    if not 0.5 <= seconds <= 120:
        raise InvalidValue(f"animate(seconds={seconds!r}): expected between 0.5 and 120")
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "report", "an animated GIF") from None
    tracks = {name: _track(name, positions) for name, positions in paths.items()}
    box = view(tracks, minimum)
    base = _picture(Image, backdrop(function, box, minimum, width, height - LEGEND).replace("<svg ", '<svg style="background:white" ', 1))
    last = max(len(way) for way in tracks.values()) - 1
    steps = np.unique(np.linspace(0, last, min(frames, last + 1)).round().astype(int))
    pictures = []
    for step in steps.tolist():
        sheet = Image.new("RGB", (width, height), "white")
        sheet.paste(base, (0, LEGEND), base)
        over = _picture(Image, _frame(tracks, function, box, step, width, height))
        sheet.paste(over, (0, 0), over)
        pictures.append(sheet)
    palette = pictures[-1].quantize(128)  # the last frame holds every colour; one palette keeps still parts still
    colors = np.array(palette.getpalette()).reshape(-1, 3)
    colors[colors.min(axis=1) > 240] = 255  # the cut has averaged the paper's white with what is nearly so
    ink = Image.new("P", (1, 1))
    ink.putpalette(colors.reshape(-1).tolist())
    drawn = [p.quantize(palette=ink, dither=Image.Dither.NONE) for p in pictures]
    each = max(20, round(1000 * max(seconds - 1, 0.3) / len(drawn) / 10) * 10)  # GIF counts hundredths of a second
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=[each] * (len(drawn) - 1) + [1000], loop=0, optimize=True)
    return path


def _picture(image: Any, svg: str) -> Any:
    return image.open(io.BytesIO(_converter().svg_to_png(svg, scale=1))).convert("RGBA")


def _frame(tracks: Mapping[str, np.ndarray], function: Callable, box: list, step: int, width: int, height: int) -> str:
    """Every path as far as one update, and a line of values above, on nothing: it is laid over the backdrop."""
    inner = width - MARGIN["left"] - MARGIN["right"], height - LEGEND - MARGIN["top"] - MARGIN["bottom"]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"><g transform="translate(0,{LEGEND})">',
        f'<clipPath id="inside"><rect x="{MARGIN["left"]}" y="{MARGIN["top"]}" width="{inner[0]}" height="{inner[1]}"/></clipPath><g clip-path="url(#inside)">',
    ]
    words = []
    for i, (name, way) in enumerate(tracks.items()):
        color, reached = SERIES[i % len(SERIES)], way[: step + 1]
        spot = np.clip(place(reached[np.isfinite(reached).all(axis=1)], box, width, height - LEGEND), -1e4, 1e4)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spot)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round" stroke-opacity=".85"/>')
        out.append(f'<circle cx="{spot[-1, 0]:.1f}" cy="{spot[-1, 1]:.1f}" r="5.5" fill="{color}" stroke="white" stroke-width="1.5"/>')
        value = float(function(reached[-1]))
        words.append((color, f"{name} {short(value)}" if _inside(reached[-1:], box)[0] else f"{name} left the drawing"))
    out.append("</g></g>")
    x, font = MARGIN["left"], 'font-family="Helvetica, Arial, Liberation Sans, sans-serif" font-size="14"'
    out.append(f'<text x="{width - MARGIN["right"]}" y="20" text-anchor="end" {font} fill="{INK}">update {step}</text>')
    for color, word in words:
        out.append(f'<circle cx="{x + 5}" cy="15" r="5" fill="{color}"/><text x="{x + 15}" y="20" {font} fill="{INK}">{_safe(word)}</text>')
        x += 32 + 7.6 * len(word)
    return "".join(out) + "</svg>"


def _safe(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


__all__ = ["animation", "backdrop", "place", "ravine", "view"]
