"""A chart as a value: one Vega-Lite description, shown as SVG, PNG, HTML or an Altair chart.

A `Picture` holds plain data. vl-convert draws it without a browser or a network; Altair is loaded only when
somebody asks for `.chart` to change it. Colours are mid-tones that keep a contrast of at least 3.5 to 1 on white
and 4 to 1 on near-black, and all ink is `currentColor` in inline SVG: one drawing serves light and dark pages.
"""

from __future__ import annotations

import json
import re
import textwrap
import zlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fallline.errors import InvalidValue, MissingExtra

INK = "#1b2028"
BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, PINK, OLIVE, GREY = (
    "#3b7dd8", "#d9691e", "#2b9a66", "#9a6dd7", "#d94a45", "#2394a8", "#c2559b", "#8a7a2e", "#7b8794",
)  # fmt: skip
SERIES = (BLUE, ORANGE, GREEN, PURPLE, TEAL, PINK, OLIVE, RED)
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))  # a second sign beside colour, for those who do not see it
WIDTH, HEIGHT = 430, 250
_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"  # one set of widths: what is measured here fits there
_MARK = re.compile(r'<(path|text|rect|line) aria-label="([^"]*)"([^<>]*?)/>')
_LONG = re.compile(r"(\.\d\d)\d+(?!e)")
_KINDS = {"svg", "png", "html"}


def _axis() -> dict:
    return {
        "labelColor": INK, "titleColor": INK, "labelFont": _FONT, "titleFont": _FONT, "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelOpacity": 0.8, "titleOpacity": 0.8, "gridColor": INK, "gridOpacity": 0.1,
        "domain": False, "tickColor": INK, "tickOpacity": 0.25, "tickSize": 4, "labelPadding": 3, "titlePadding": 7,
        "labelOverlap": "greedy", "labelFlush": False,
    }  # fmt: skip


def _config() -> dict:
    text = {"labelColor": INK, "titleColor": INK, "labelFont": _FONT, "titleFont": _FONT}
    return {
        "font": _FONT, "view": {"stroke": None}, "axis": _axis(),
        "title": {"color": INK, "subtitleColor": INK, "anchor": "start", "fontSize": 13, "subtitleFontSize": 11, "offset": 10},
        "legend": {**text, "labelFontSize": 12, "title": None, "orient": "top", "direction": "horizontal", "symbolStrokeWidth": 2.5,
                   "labelLimit": 200, "padding": 0, "offset": 6},
        "range": {"category": list(SERIES)}, "line": {"strokeWidth": 2, "strokeCap": "round"}, "text": {"color": INK, "font": _FONT},
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn finding: the title says what is seen, the caption what was done to the numbers.

    Args:
        title: one sentence, the finding.
        spec: Vega-Lite description without title and theme; data inline.
        caption: how the numbers were made: thinning, smoothing, values left out. May be empty.
        width, height: size of the drawing in CSS pixels, axes included.
    """

    title: str
    spec: dict[str, Any]
    caption: str = ""
    width: int = WIDTH
    height: int = HEIGHT

    def full_spec(self, *, title: bool = True, background: str | None = None) -> dict[str, Any]:
        """The complete Vega-Lite description, with theme, and with the title where asked."""
        size = {"width": self.width, "height": self.height, "autosize": {"type": "fit", "contains": "padding"}}
        spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            **_described(self.spec), **({} if "vconcat" in self.spec else size), "padding": 4,
            "config": {**_config(), "background": background or "transparent"}, "usermeta": {"embedOptions": {"actions": False}},
        }  # fmt: skip
        if title:
            heading = textwrap.wrap(self.title, self.width // 7)
            subtitle = textwrap.wrap(self.caption, self.width // 6)
            spec["title"] = {"text": heading, **({"subtitle": subtitle} if subtitle else {})}
            if "vconcat" not in spec:
                spec["height"] = self.height + 16 * len(heading) + 13 * len(subtitle)
        return spec

    @property
    def chart(self) -> Any:
        """This picture as an Altair chart, to be changed or combined; the theme is left out, because parts cannot carry one."""
        try:
            import altair
        except ImportError:
            raise MissingExtra("altair", "report", "an Altair chart") from None
        size = {} if "vconcat" in self.spec else {"width": self.width, "height": self.height}
        return _altair_chart(altair, {**_described(self.spec), **size, "title": self.title})

    def svg(self, *, title: bool = True) -> str:
        """A complete SVG on white, as for a file or a slide."""
        return _tooltips(_converter().vegalite_to_svg(self.full_spec(title=title, background="white")))

    def inline_svg(self) -> str:
        """SVG to stand inside an HTML page: no title, transparent, text in the page's own colour.

        Marks carry their values as `<title>`, which browsers show as a tooltip.
        """
        drawn = _converter().vegalite_to_svg(self.full_spec(title=False))
        drawn = drawn.replace(f'"{INK}"', '"currentColor"')
        size = f'style="max-width:100%;height:auto" role="img" aria-label="{escape(self.title)}"'
        return re.sub(r'^<svg xmlns="[^"]*" xmlns:xlink="[^"]*"', f"<svg {size}", _slim(_tooltips(_own_ids(drawn))), count=1)

    def figure(self) -> str:
        """An HTML `<figure>`: title, where there is one, drawing, caption."""
        title = f'<figcaption style="font-weight:600;margin-bottom:.4em">{escape(self.title)}</figcaption>' if self.title else ""
        caption = f'<p class="caption" style="opacity:.75;font-size:.85em;margin:.3em 0 0">{escape(self.caption)}</p>' if self.caption else ""
        return f'<figure style="margin:0;max-width:{self.width * 3 // 2}px">{title}{self.inline_svg()}{caption}</figure>'

    def save(self, path: str | Path) -> Path:
        """Write the picture to a `.svg`, `.png` or self-contained `.html` file and return its path."""
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in _KINDS:
            raise InvalidValue(f"cannot save a picture as {path.name!r}: expected a name that ends in .svg, .png or .html")
        if kind == "svg":
            path.write_text(self.svg(), encoding="utf-8")
        elif kind == "png":
            path.write_bytes(_converter().vegalite_to_png(self.full_spec(background="white"), scale=2))
        else:
            path.write_text(_interactive(self), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"<Picture: {self.title}>"

    def _repr_html_(self) -> str:
        return self.figure()


def _interactive(picture: Picture) -> str:
    """The whole of Vega inside one HTML file: nothing is fetched when it opens.

    The description is put in by hand: inside a script, a `</script>` in somebody's column name would end it.
    """
    blank = {"data": {"values": []}, "mark": "point"}
    page = _converter().vegalite_to_html(blank, bundle=True)
    head, found, tail = page.rpartition("const spec = ")
    spec = dumps(picture.full_spec(background="white")).replace("<", "\\u003c")
    rest = tail[tail.index("\n"):]
    return f"{head}{found}{spec};{rest}".replace("<title>Chart</title>", f"<title>{escape(picture.title)}</title>", 1)


def _altair_chart(altair: Any, spec: dict) -> Any:
    """`Chart.from_dict` with the data put in afterwards: wrapping 1,500 points row by row takes seconds."""
    kind = {"layer": altair.LayerChart, "vconcat": altair.VConcatChart}
    parts = next((k for k in kind if k in spec), None)
    bare = {k: v for k, v in spec.items() if k not in ("data", "layer", "vconcat")}
    if "params" in bare:  # a chart of layers asks its parameters for attributes that a dict has not
        bare["params"] = [altair.VariableParameter(**p) for p in bare["params"]]
    data = altair.Data(values=spec["data"]["values"]) if "data" in spec else altair.Undefined
    if parts is None:
        return altair.Chart.from_dict({**bare, "data": {"values": []}}, validate=False).properties(data=data)
    inside = [_altair_chart(altair, part) for part in spec[parts]]
    return kind[parts](**{parts: inside}, data=data, **bare)


def _described(part: Any) -> Any:
    """The description with each mark's words as its tooltip too, which interactive charts show."""
    if isinstance(part, list):
        return [_described(p) for p in part]
    if not isinstance(part, dict):
        return part
    told = {k: v if k == "data" else _described(v) for k, v in part.items()}
    words = told.get("description")
    return {**told, "tooltip": {**words, "type": "nominal"}} if isinstance(words, dict) else told


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise MissingExtra("vl-convert-python", "report", "drawing a picture") from None
    return vl_convert


def _tooltips(svg: str) -> str:
    """Give each described mark of the drawing its description as a tooltip."""

    def with_title(found: re.Match) -> str:
        tag, label, rest = found.groups()
        return f"<{tag}{rest}><title>{label}</title></{tag}>"

    return _MARK.sub(with_title, svg)


def _own_ids(svg: str) -> str:
    """Ids of one drawing must not meet those of another on the same page."""
    mark = f"f{zlib.crc32(svg.encode()):08x}"
    return re.sub(r'(\bid="|url\(#)(?=[\w-])', rf"\g<1>{mark}-", svg)


def _slim(svg: str) -> str:
    """Drop what a page does not need: repeated screen-reader roles (the drawing has one label) and long decimals."""
    svg = re.sub(r' (?:aria-roledescription|aria-label|role|aria-hidden|pointer-events)="[^"]*"', "", svg)
    svg = re.sub(r'<path class="(?:back|fore)ground"[^<>]*/>', "", svg)
    return re.sub(r' (?:d|transform)="[^"]*"', lambda found: _LONG.sub(r"\1", found.group()), svg)


def dumps(spec: dict) -> str:
    """The description as strict JSON; fails on NaN, which Vega-Lite cannot read."""
    return json.dumps(spec, allow_nan=False)
