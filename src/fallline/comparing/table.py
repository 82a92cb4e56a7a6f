"""The table of a comparison: one line a variant, as text, as HTML, as columns, as plain rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from fallline.charts.marks import short
from fallline.columns import Columns
from fallline.errors import UnknownName

NUMERIC = {"loss", "range", "valid_loss", "rows", "updates", "seconds", "lr", "rows_to_target", "seconds_to_target"}
"""Columns that stand to the right."""


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonTable(Columns):
    """`table["loss"]` is a column, `table.row("momentum")` a line, printing shows the whole.

    Attributes:
        columns: name -> values, one for each variant. `loss` is the median over seeds, `loss_low` and `loss_high` their
            range; a run that diverged counts as infinite. `lr` is the peak of a schedule.
        target: the loss that `rows_to_target` and `seconds_to_target` speak of, or None.
    """

    columns: dict[str, list[Any]]
    target: float | None

    def row(self, variant: str) -> dict[str, Any]:
        """The line of one variant."""
        if variant not in self["variant"]:
            raise UnknownName.among("variant", variant, self["variant"])
        return self.rows()[self["variant"].index(variant)]

    def shown(self) -> dict[str, list[str]]:
        """The columns in words, by heading, in the order in which people read them."""
        out: dict[str, list[str]] = {"variant": list(self["variant"])}
        out["loss"] = [_loss(v) for v in self["loss"]]
        if any(n > 1 for n in self["runs"]):
            spans = zip(self["loss_low"], self["loss_high"], self["runs"], strict=True)
            out["range over seeds"] = ["one seed" if n == 1 else "" if n == 0 else f"{short(a)} to {_loss(b)}" for a, b, n in spans]
        for name, heading in (("valid_loss", "held-out loss"), ("metric", self.columns.get("metric_name", [""])[0])):
            if name in self.columns:
                out[heading.replace("_", " ")] = [_loss(v) if name == "valid_loss" else short(v) for v in self[name]]
        out["rows read"] = [f"{v:,}" for v in self["rows"]]
        if self["rows"] != self["updates"]:
            out["updates"] = [f"{v:,}" for v in self["updates"]]
        else:
            out["updates"] = out.pop("rows read")
        out["seconds"] = [_seconds(v) for v in self["seconds"]]
        if self.target is not None:
            unit = "rows" if self["rows"] != self["updates"] else "updates"
            out[f"{unit} to {short(self.target)}"] = ["never" if v is None else f"{v:,}" for v in self["rows_to_target"]]
            out[f"seconds to {short(self.target)}"] = ["never" if v is None else _seconds(v) for v in self["seconds_to_target"]]
        out["lr"] = ["none" if v is None else short(v) for v in self["lr"]]
        out["lr from"] = list(self["lr_source"])
        return out

    def __repr__(self) -> str:
        cells = self.shown()
        width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
        left = {"variant", "lr from"}

        def line(values: list[str]) -> str:
            pairs = zip(cells, values, strict=True)
            return "  ".join(f"{v:<{width[n]}}" if n in left else f"{v:>{width[n]}}" for n, v in pairs).rstrip()

        notes = [f"{name}: {note}" for name, note in zip(self["variant"], self["note"], strict=True) if note]
        return "\n".join([line(list(cells)), *(line([column[i] for column in cells.values()]) for i in range(len(self))), *notes])

    def _repr_html_(self) -> str:
        cells = self.shown()
        head = "".join(f"<th>{escape(name)}</th>" for name in cells)
        body = "".join("<tr>" + "".join(f"<td>{escape(column[i])}</td>" for column in cells.values()) + "</tr>" for i in range(len(self)))
        notes = "".join(f"<p><b>{escape(n)}</b>: {escape(note)}</p>" for n, note in zip(self["variant"], self["note"], strict=True) if note)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _loss(value: float | None) -> str:
    if value is None:
        return "not run"
    return "diverged" if not math.isfinite(value) else short(value, 4)


def _seconds(value: float | None) -> str:
    return "" if value is None else "under 0.001" if value < 0.001 else f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
