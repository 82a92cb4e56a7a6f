"""The evidence of a run: one HTML page, and curves in a terminal.

`page(run, path)` writes the page; `ReportData` is all that it shows, as plain values.
"""

from __future__ import annotations

from fallline.report.data import (
    Coefficients,
    Column,
    DataSummary,
    DecayPath,
    Decision,
    Descent,
    Evaluation,
    Headline,
    MetricLine,
    RangeTest,
    ReportData,
    SizeChoice,
)
from fallline.report.page import page, render
from fallline.report.text import headline_text, line_chart, sparkline

__all__ = [
    "Coefficients", "Column", "DataSummary", "DecayPath", "Decision", "Descent", "Evaluation", "Headline", "MetricLine", "RangeTest", "ReportData", "SizeChoice",
    "headline_text", "line_chart", "page", "render", "sparkline",
]  # fmt: skip
