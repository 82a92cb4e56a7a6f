"""A table as it was read: one Arrow table, and what is known of the file it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fallline.errors import MissingExtra, TableError, UnknownName


@dataclass(frozen=True)
class Source:
    """A table as it was read.

    Args:
        table: a pyarrow Table.
        name: the file as the user named it, or a word for a frame.
        text: True for a file of text (CSV): columns that hold numbers throughout are numbers, all others are still text.
        lines: line (1-based) of each row in its file, int64 (rows,), 0 where it has none; or None.
        csr: the features as a sparse matrix where the format is sparse (then `table` holds the target, if there is one).
        again: reads some columns of a file of text again, as the text that stands there; None elsewhere.
        notes: what a reader should know of how it was read.
        parts: where rows come from several files: the first row of each and its name.
    """

    table: Any
    name: str
    text: bool = False
    lines: np.ndarray | None = None
    csr: Any = None
    again: Callable[[Sequence[str]], Any] | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[int, str], ...] = ()

    @property
    def rows(self) -> int:
        return self.table.num_rows if self.csr is None else self.csr.shape[0]

    @cached_property
    def names(self) -> list[str]:
        return list(self.table.column_names)

    def where(self, row: int) -> dict[str, Any]:
        """Where a row stands, as `TableError` takes it."""
        first, name = next((p for p in reversed(self.parts) if p[0] <= row), (0, self.name))
        line = 0 if self.lines is None else int(self.lines[row])
        return {"file": name, "line": line} if line else {"file": name, "row": row - first}

    def column(self, name: str) -> Any:
        """A column as Arrow holds it.

        Raises:
            UnknownName: there is none of that name.
        """
        if name not in self._places:
            raise UnknownName.among("column", name, self.names)
        return self.table.column(self._places[name])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def values(self, name: str) -> np.ndarray:
        """A column as an object array; missing cells are None. Cells of a file of text are as they stand there."""
        self.column(name)
        out = np.empty(self.rows, object)
        out[:] = self.as_text([name]).column(name).to_pylist()
        return out

    def as_text(self, columns: Sequence[str]) -> Source:
        """This source with some columns of a file of text as they stand there, so that "007" is not 7; else itself."""
        numbers = [n for n in dict.fromkeys(columns) if self.again is not None and not is_text(self.column(n))]
        if self.again is None or not numbers:
            return self
        text, table = self.again(numbers), self.table
        for name in numbers:
            table = table.set_column(self.names.index(name), name, text.column(name))
        return replace(self, table=table)


def is_text(column: Any) -> bool:
    """Whether an Arrow column is of strings."""
    types = need("pyarrow").types
    return types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type)


def need(package: str) -> Any:
    """Import a package of the extra `tables`."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, "tables", "reading tables") from None


def checked(source: Source) -> Source:
    """The source, with distinct column names and at least one row."""
    check_unique(source.names, source.name, 1 if source.text else None)
    if source.rows == 0:
        raise no_rows(source.name)
    return source


def no_rows(name: str) -> TableError:
    """The error for a table that has none."""
    return TableError("no rows: expected at least one", file=name)


def check_unique(names: Sequence[str], file: str, line: int | None) -> None:
    """Refuse two columns of one name."""
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise TableError(f"two columns are called {twice!r}: rename one", file=file, line=line)
