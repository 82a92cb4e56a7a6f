"""HTML written by hand, in few words. Every string that is not markup goes through `text`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from fallline.charts import Picture
from fallline.errors import FalllineError


def text(value: Any) -> str:
    """A value as HTML text, safe inside an element and inside an attribute."""
    return escape(str(value), quote=True)


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text, or nothing for an empty one."""
    return f'<p class="{kind}">{text(value)}</p>' if value else ""


def missing(value: str) -> str:
    """The place of a part that is not there, with the reason."""
    return paragraph(value, "missing")


def section(name: str, title: str, lead: str, *parts: str) -> str:
    """A headed part of the page."""
    return f'<section id="{name}"><h2>{text(title)}</h2>{paragraph(lead, "lead")}{"".join(parts)}</section>'


def table(head: Sequence[str], lines: Iterable[Sequence[str]], *, kind: str = "", numeric: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; `numeric` columns stand to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(f'<{tag}{" class=n" if i in numeric else ""}>{v}</{tag}>' for i, v in enumerate(values))

    body = "".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{cells("th", [text(v) for v in head])}</tr></thead><tbody>{body}</tbody></table></div>'


def charts(*pictures: Callable[[], Picture] | str) -> str:
    """Drawings and cards side by side."""
    parts = [part if isinstance(part, str) else drawing(part) for part in pictures]
    return f'<div class="charts">{"".join(parts)}</div>' if any(parts) else ""


def drawing(draw: Callable[[], Picture]) -> str:
    """One drawing. What cannot be drawn is replaced by the reason: a report is never lost to a picture."""
    try:
        return draw().figure()
    except (FalllineError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        return missing(f"A chart could not be drawn: {error}")


def card(*parts: str) -> str:
    """A framed part, or nothing where all of it is empty."""
    return f'<div class="card">{"".join(parts)}</div>' if any(parts) else ""


def folded(summary: str, inside: str) -> str:
    """Details behind a click."""
    return f"<details><summary>{text(summary)}</summary>{inside}</details>"
