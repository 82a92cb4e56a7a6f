"""Which rows train, validate and test: files of their own put beside the table's rows, the rest drawn."""

from __future__ import annotations

import numpy as np

from fallline.errors import InvalidValue, TableError
from fallline.tables.cells import Cells, cells
from fallline.tables.joining import joined
from fallline.tables.options import SHARE, TableOptions
from fallline.tables.reading import read
from fallline.tables.sources import Source
from fallline.tables.splits import Split, split
from fallline.tables.target import Task, numbered


def with_files(data: Source, given: TableOptions, own_test: int) -> tuple[Source, dict[str, np.ndarray], str]:
    """Append validation and test tables of their own; returns which rows they are, and a word on them.

    Args:
        own_test: how many of the last rows are the data set's own test part.
    """
    parts: dict[str, np.ndarray] = {}
    words = []
    if own_test and given.test == SHARE:
        parts["test"] = np.arange(data.rows - own_test, data.rows)
        words.append("the data set's own test part")
    for part in ("valid", "test"):
        value = getattr(given, part)
        if isinstance(value, (int, float)):
            continue
        more = read(value)
        parts[part] = np.arange(data.rows, data.rows + more.rows)
        data = joined(data, more)
        words.append(f"{part} from {more.name}")
    return data, parts, "; ".join(words)


def drawn(data: Source, wanted: Cells, task: Task, usable: np.ndarray, given: TableOptions, parts: dict[str, np.ndarray], why: str) -> Split:
    """The split: `parts` are fixed, the other usable rows are drawn."""
    fixed = {k: v[np.isin(v, usable)] for k, v in parts.items()}
    own = usable[~np.isin(usable, np.concatenate([np.empty(0, np.int64), *fixed.values()]))]
    shares = {k: 0.0 if k in fixed else float(getattr(given, k)) for k in ("valid", "test")}
    found = split(
        own, shares["valid"], shares["test"], given.seed,
        strata=numbered(wanted)[0] if task == "classification" and not (given.group or given.time) else None,
        groups=None if given.group is None else _groups(data, given.group),
        times=None if given.time is None else _times(data, given),
    )  # fmt: skip
    return Split(found.train, fixed.get("valid", found.valid), fixed.get("test", found.test), f"{why}; {found.why}" if why else found.why)


def _groups(data: Source, name: str) -> np.ndarray:
    return numbered(_whole(cells(data, name, "category"), data, "group"))[0]


def _times(data: Source, given: TableOptions) -> np.ndarray:
    column = _whole(cells(data, str(given.time), given.kinds.get(str(given.time))), data, "time")
    if column.kind not in ("number", "date"):
        raise InvalidValue(f"the time column {given.time!r} is of kind {column.kind}: expected dates or numbers")
    return column.values


def _whole(column: Cells, data: Source, what: str) -> Cells:
    if column.missing.any():
        raise TableError(f"the {what} column {column.name!r} is missing: fill the cell, or split without it", **data.where(int(np.argmax(column.missing))))
    return column
