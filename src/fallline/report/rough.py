"""The page of a run that is under way: what is known so far, with curves drawn as text, because they cost no time."""

from __future__ import annotations

import numpy as np

from fallline.report import data as d
from fallline.report import sections
from fallline.report.html import card, missing, paragraph, section, text
from fallline.report.text import line_chart

_POINTS = 400
"""A long history is drawn by means of so many stretches; a stretch with a value that is not finite is a gap."""


def parts(data: d.ReportData) -> tuple[str, ...]:
    """The sections of the page, in order."""
    later = missing("Test metrics, coefficients and pictures come at the end of the run.")
    return (
        paragraph(data.outcome, "outcome"),
        sections.decisions(data.decisions, None, tested=False),
        _range_test(data.range_test),
        _descent(data.descent),
        section("results", "Predictions beside the truth", "", later),
        sections.summary(data.data),
        sections.repeat(data.command, dict(data.versions), data.notes),
    )


def _range_test(test: d.RangeTest | None) -> str:
    if test is None:
        return ""
    heights = np.asarray(test.loss if test.smooth is None else test.smooth, np.float64)
    drawn = line_chart(heights, x=np.asarray(test.lr, np.float64), log_x=True, mark=test.chosen)
    return section("range", "The search for a learning rate", "Loss against the learning rate.", card(f"<pre>{text(drawn)}</pre>", paragraph(test.verdict, "soft small")))


def _descent(found: d.Descent | None) -> str:
    if found is None:
        return section("descent", "The descent", "", missing("No update was made when this page was written."))
    loss = np.asarray(found.loss, np.float64)
    stretches = np.array_split(loss, min(_POINTS, len(loss)))
    at = np.cumsum([len(s) for s in stretches])
    drawn = card("<h3>Training loss</h3>", f"<pre>{text(line_chart(np.array([s.mean() for s in stretches]), x=at))}</pre>")
    if found.valid is not None and len(found.valid):
        held = line_chart(np.asarray(found.valid, np.float64), x=np.asarray(found.valid_step, np.float64))
        drawn += card(f"<h3>{text(found.valid_name.capitalize())}</h3>", f"<pre>{text(held)}</pre>")
    law = card("<h3>The update law in use</h3>", f"<pre>{text(found.formula)}</pre>") if found.formula else ""
    return section("descent", "The descent", f"{len(loss):,} updates so far.", f'<div class="charts">{drawn}{law}</div>')


__all__ = ["parts"]
