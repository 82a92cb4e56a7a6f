"""Which columns of a table to learn from, and why not from the others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from fallline.errors import TableError
from fallline.tables.account import ColumnNote
from fallline.tables.cells import Cells, cells
from fallline.tables.columns import Column
from fallline.tables.leaks import Leaks
from fallline.tables.options import TableOptions
from fallline.tables.sources import Source

NAMED = re.compile(r"(^|[_\s.-])(id|ids|key|uuid|guid|index|idx|no|nr|number|#)$|[a-z](Id|ID|No|Key)$", re.IGNORECASE)
FEW = 8
"""Up to this many rows, values that are all different say nothing."""


@dataclass(frozen=True)
class Choice:
    """The cells of the columns to learn from, a note on every column, and warnings."""

    used: tuple[Cells, ...]
    notes: tuple[ColumnNote, ...]
    warnings: tuple[str, ...]

    def treated(self, columns: tuple[Column, ...]) -> tuple[ColumnNote, ...]:
        """The notes, with what the encoder does to the columns in use."""
        by_name = {c.name: c.treatment for c in columns}
        return tuple(replace(n, treatment=by_name[n.name]) if n.used else n for n in self.notes)


def choose(data: Source, target: str, given: TableOptions, leaks: Leaks, train: np.ndarray) -> Choice:
    """Look at every column of a table."""
    used, notes, warnings = [], [], list(data.notes)
    apart = {target: "the target", given.group: "the group column", given.sample_weight: "the weight column"}
    told = {*given.types, *given.only}
    for name in data.names:
        why = apart.get(name) or ("dropped as asked" if name in given.drop else "not among the only ones" if given.only and name not in given.only else "")
        if why:
            notes.append(ColumnNote(name, "", False, why, 0))
            continue
        column = cells(data, name, given.kinds.get(name))
        missing = int(np.count_nonzero(column.missing))
        why = _set_aside(column, train, name in told)
        notes.append(ColumnNote(name, column.kind, not why, why, missing, "" if why else column.why))
        warnings += [f"column {name!r} {column.note}"] if column.note else []
        if not why:
            used.append(column)
            if leaks.has(column):
                warnings.append(f"column {name!r} alone nearly determines the target: a leak? leave it out with --drop {name}")
    if not used and data.csr is None:
        reasons = "; ".join(f"{n.name}: {n.treatment}" for n in notes if n.name != target)
        raise TableError(f"no column is left to learn from beside the target {target!r}" + (f" ({reasons})" if reasons else ""), file=data.name)
    return Choice(tuple(used), tuple(notes), tuple(warnings))


def _set_aside(column: Cells, train: np.ndarray, told: bool) -> str:
    """Why a column cannot help, or an empty string. What the user named stays, unless it is empty."""
    missing = column.missing
    there = train[~missing[train]]
    if len(there) == 0:
        return "every value is missing" if missing.all() else "every value in the training rows is missing"
    if told:
        return ""
    alike = len(there) == len(train)
    if column.kind == "number":
        values = column.values[there]
        if values[0] == values[-1] and (values == values[0]).all():
            return "constant" if alike else ""
        return _counts(column, missing)
    if column.kind == "text":
        return ""
    distinct = len(np.unique(column.values[there]))
    if distinct == 1:
        return "constant" if alike else ""
    if column.kind == "category" and distinct == len(there) and len(there) > FEW:
        return "an identifier: different in every row"
    return ""


def _counts(column: Cells, missing: np.ndarray) -> str:
    """Whether a column of numbers counts or names the rows, or an empty string."""
    values = column.values[~missing] if missing.any() else column.values
    if len(values) <= FEW + 1:
        return ""
    if float(values[1]) - float(values[0]) == 1 and (np.diff(values.astype(np.float64)) == 1).all():
        return "an identifier: it counts the rows"
    if NAMED.search(column.name) and (values == np.round(values)).all() and len(np.unique(values)) == len(values):
        return "an identifier: different in every row"
    return ""
