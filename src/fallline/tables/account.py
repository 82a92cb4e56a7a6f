"""The account of a table: what became of every row and every column."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fallline.errors import TableError


@dataclass(frozen=True)
class ColumnNote:
    """What became of a column: used or set aside, how and why."""

    name: str
    kind: str
    used: bool
    treatment: str
    missing: int
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """The account of a table: rows in = rows used + rows reported, and every column.

    Args:
        name: the source.
        rows: rows that came in.
        parts: rows used, by part: train, valid, test.
        reported: rows not used, by reason.
        columns: every column.
        split: how the rows were split.
        notes: what a reader should know (likely leaks, ...).
    """

    name: str
    rows: int
    parts: Mapping[str, int]
    reported: Mapping[str, int]
    columns: tuple[ColumnNote, ...]
    split: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        used, left = sum(self.parts.values()), sum(self.reported.values())
        if used + left != self.rows:
            raise TableError(f"{self.rows} rows came in, {used} are used and {left} reported: please report this table", file=self.name)

    def text(self) -> str:
        """The account as text."""
        used = sum(self.parts.values())
        lines = [f"{self.name}: {self.rows:,} rows, {used:,} used ({', '.join(f'{k} {v:,}' for k, v in self.parts.items())}; {self.split})"]
        lines += [f"  {count:,} rows not used: {why}" for why, count in self.reported.items() if count]
        kinds: dict[str, list[str]] = {}
        for c in self.columns:
            kinds.setdefault(c.treatment if c.used else "set aside: " + c.treatment, []).append(c.name)
        for what, names in kinds.items():
            shown = ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
            lines.append(f"  {what}: {shown}")
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])

    def html(self) -> str:
        """The account as a table of columns, for Jupyter."""
        cell = lambda *values: "".join(f"<td>{html.escape(str(v))}</td>" for v in values)
        body = "".join(f"<tr>{cell(c.name, c.kind, c.treatment, c.missing, c.note)}</tr>" for c in self.columns)
        head = "<tr><th>column</th><th>type</th><th>treatment</th><th>missing</th><th>note</th></tr>"
        return f"<pre>{html.escape(self.text())}</pre><table>{head}{body}</table>"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name, "rows": self.rows, "parts": dict(self.parts), "reported": dict(self.reported), "split": self.split,
            "notes": list(self.notes), "columns": [vars(c) for c in self.columns],
        }  # fmt: skip
