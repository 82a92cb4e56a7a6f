"""The table of a sweep: one line a combination, as text, as HTML, as columns, as plain rows."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from fallline.charts.marks import short
from fallline.columns import Columns
from fallline.sweeping.values import shown

SHOWN = 20
"""Lines that printing shows."""


@dataclass(frozen=True, eq=False, repr=False)
class SweepTable(Columns):
    """`table["lr"]` is a column; printing shows the best combinations first.

    Attributes:
        columns: name -> values, one for each combination: what was tried; the score's mean, spread (standard deviation), low and
            high over seeds; the other measurements' means; runs, runs that diverged, updates, and how it ended.
    """

    columns: dict[str, list[Any]]

    def shown(self, most: int | None = SHOWN) -> dict[str, list[str]]:
        """The columns in words, by heading; without those that say nothing here."""
        several = any(n > 1 for n in self["seeds"])
        hidden = {"low", "high"} | (set() if several else {"spread", "seeds"}) | (set() if any(self["diverged"]) else {"diverged"})
        return {name.replace("_", " "): [_word(v) for v in values[:most]] for name, values in self.columns.items() if name not in hidden}

    def __repr__(self) -> str:
        cells, count = self.shown(), min(SHOWN, len(self))
        width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
        lines = ["  ".join(f"{name:>{width[name]}}" for name in cells)]
        lines += ["  ".join(f"{column[i]:>{width[name]}}" for name, column in cells.items()) for i in range(count)]
        return "\n".join([*lines, *([f"... and {len(self) - count:,} more"] if len(self) > count else [])])

    def _repr_html_(self) -> str:
        cells, count = self.shown(), min(SHOWN, len(self))
        head = "".join(f"<th>{escape(name)}</th>" for name in cells)
        body = "".join("<tr>" + "".join(f"<td>{escape(column[i])}</td>" for column in cells.values()) + "</tr>" for i in range(count))
        more = f"<p>... and {len(self) - count:,} more</p>" if len(self) > count else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _word(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return short(value, 4) if isinstance(value, float) else shown(value)
