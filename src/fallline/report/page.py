"""One self-contained HTML file: no script, no font, no image, no request.

The drawings are static SVG with tooltips. Embedding Vega would make each report 0.9 MB larger and slower to open
for little more than the tooltips; `Picture.save("x.html")` gives the interactive form of any one chart.
The page carries a Content-Security-Policy that forbids scripts and requests: should a user's text ever get through
unescaped, it still cannot run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fallline.report import rough, sections
from fallline.report.data import ReportData
from fallline.report.html import paragraph, text
from fallline.report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_PARTS = (("decisions", "decisions"), ("descent", "descent"), ("results", "results"), ("coefficients", "coefficients"), ("data", "data"), ("repeat", "repeat"))


def render(data: ReportData) -> str:
    """The page as a string of HTML."""
    if data.rough:
        return _frame(data, rough.parts(data))
    outcome = paragraph(data.outcome, "alert" if data.failed else "outcome soft")
    links = "".join(f'<a href="#{name}">{word}</a>' for name, word in _PARTS)
    body = (
        sections.hero(data.headline), outcome, f"<nav>{links}</nav>",
        sections.decisions(data.decisions, data.range_test, decay=data.weight_decay, size=data.batch_size),
        sections.descent(data.descent),
        sections.results(data.evaluation),
        sections.coefficients(data.coefficients),
        sections.summary(data.data),
        sections.repeat(data.command, dict(data.versions), data.notes),
    )  # fmt: skip
    return _frame(data, body)


def _frame(data: ReportData, body: Iterable[str]) -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}"><meta name="generator" content="fallline">'
        f"<title>{text(data.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<div class="top"><h1>{text(data.title)}</h1><span class="soft small">{text(data.created)}</span></div>'
        f"{''.join(body)}"
        f"<footer>Made by fallline. This file is complete: it opens without a network and runs no script.</footer></main></body></html>"
    )


def page(run: Any, path: str | os.PathLike, **overrides: Any) -> Path:
    """Write the report of a run as one HTML file and return its path.

    Args:
        run: a Run, or a ReportData.
        path: the file to write; it is replaced as a whole, so a reader never sees half of it.
        overrides: fields of ReportData to set, such as `command=` or `notes=`.
    """
    from dataclasses import replace

    from fallline.report.adapter import report_data

    data = run if isinstance(run, ReportData) else report_data(run)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(render(replace(data, **overrides)), encoding="utf-8")
    os.replace(part, path)
    return path
