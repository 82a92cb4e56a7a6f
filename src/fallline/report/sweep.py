"""The page of a sweep: the verdict, the picture, the table, the edges of stability. No script, no request."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.charts.marks import short
from fallline.report.comparison import SWITCH, shell, write
from fallline.report.html import drawing, missing, paragraph, section, table, text


def sweep_page(found: Any, path: str | os.PathLike, *, data: str = "", command: str = "", created: str = "") -> Path:
    """Write the page of a Sweep as one HTML file and return its path.

    Args:
        found: a `fallline.Sweep`.
        path: the file to write; it is replaced as a whole.
        data: what was swept on, in words. command: what to type to have it again. created: date and time in words.
    """
    several = any(len(values) > 1 for values in found.over.values())
    head = f"{data + ': ' if data else ''}{len(found.cells)} combinations, {len(found.runs)} runs"
    parts = [
        section("result", "The result", "", drawing(lambda: replace(found.plot(), title="")) if several else missing("One combination only: nothing to draw along.")),
        section("table", "The combinations", _how(found), _table(found)),
        section("edges", "The edge of stability", EDGE, _edges(found)) if found.edges else "",
        section("settings", "What all runs share", "", f"<pre>{text(found.plan.explain() if not found.plan.lr_is_auto else repr(found.plan))}</pre>"),
        section("repeat", "To repeat it", "", f"<pre>{text(command)}</pre>" if command else missing("This sweep was made from Python and kept no call.")),
    ]
    return write(path, shell(found.verdict, "".join(parts), head=head, created=created, style=SWITCH))


EDGE = (
    "Measured: between the largest rate below which no seed broke and the smallest at which one did (it diverged, or ended with a higher loss than it "
    "began with). Predicted: the largest stable rate for the curvature at the start; with small batches the true edge is lower, and the curvature moves."
)


def _how(found: Any) -> str:
    rungs = found.told.rungs
    halved = "" if len(rungs) == 1 else " Successive halving: " + ", ".join(f"{cells} combinations to {share:.3g} of the updates" for share, cells in rungs) + "."
    return f"{'; '.join(found.told.choices) or 'Read from the folder'}.{halved} Spent: {found.cost:.4g} full runs."


def _table(found: Any) -> str:
    cells = found.table().shown(most=None)
    names = list(cells)
    lines = [[text(cells[name][i]) for name in names] for i in range(len(found.cells))]
    return table(names, lines, kind="tight", numeric=range(len(names)))


def _edges(found: Any) -> str:
    others = list(found.edges[0].values)
    lines = []
    for edge in found.edges:
        low, high = edge.measured
        seen = "not seen" if high is None else f"{'below' if low is None else short(low) + ' to'} {short(high)}"
        lines.append([*(text(v) for v in edge.words), text(seen), text("none is known" if edge.predicted is None else short(edge.predicted))])
    return table([*others, "measured", "predicted"], lines, kind="tight", numeric=range(len(others) + 2)) + paragraph("")


__all__ = ["sweep_page"]
