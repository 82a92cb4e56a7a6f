"""Encoders: frozen values that turn columns into numbers, saved as JSON and arrays.

Numbers are standardised, categories one-hot (hashed where there are many levels), text is hashed 1-2-grams with
tf-idf, dates become year, month, weekday and days. Missing values are imputed and marked by an indicator column.
Everything is learnt from the training rows alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from fallline.errors import InvalidValue
from fallline.tables.cells import Cells, cells
from fallline.tables.columns import Column
from fallline.tables.crosses import crossed
from fallline.tables.reading import read
from fallline.tables.sources import Source

NAMED = 1 << 20
"""Columns of a matrix that are named in a model, at most."""
_TOGETHER = 32
"""Features that are written into the matrix together: a row's part of them is about a line of the cache."""


@dataclass(frozen=True)
class Encoder:
    """All columns of a table as one matrix. A frozen value; `to_json` and `arrays` save it.

    Args:
        columns: one `Column` each, in the matrix's order.
        sparse_width: features of a table that is sparse already (svmlight), with no columns to encode; else 0.
        sparse_first: the index of the first of them in a file: 0 or 1.
        crosses: columns whose values together make another one, which is among `columns`.
    """

    columns: tuple[Column, ...]
    sparse_width: int = 0
    sparse_first: int = 0
    crosses: tuple[tuple[str, ...], ...] = ()

    @property
    def features(self) -> int:
        """Columns of the matrix."""
        return self.sparse_width or sum(c.count for c in self.columns)

    @property
    def kept_names(self) -> tuple[str, ...] | None:
        """Names of the matrix's columns, or None where there are so many that they would take more memory than they tell."""
        return self.names if self.features <= NAMED else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrix's columns."""
        if self.sparse_width:
            return tuple(f"x{i}" for i in range(self.sparse_width))
        return tuple(n for c in self.columns for n in c.outputs)

    def transform(self, source: Any) -> np.ndarray | sparse.csr_matrix:
        """Rows x features, float32: one row out per row in, in the same order; CSR where a column is hashed.

        Args:
            source: a path, a frame, or anything that `read` takes; columns are found by name, others are ignored.

        Raises:
            UnknownName: a column is missing.
            TableError: a cell does not fit its column's type.
        """
        table = read(source)
        if self.sparse_width:
            return self._sparse(table)
        table = crossed(table, self.crosses)
        for column in self.columns:
            table.column(column.name)  # raises where there is none
        table = table.as_text([c.name for c in self.columns if c.kind != "number"])
        return self.matrix([cells(table, c.name, c.kind, c.form) for c in self.columns], np.arange(table.rows))

    def matrix(self, columns: Sequence[Cells], rows: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """The features of some rows, float32 [rows, features]; CSR where a column is hashed.

        Args:
            columns: the cells of each of the encoder's columns.
            rows: int64.
        """
        pairs = list(zip(self.columns, columns, strict=True))
        if not any(c.width for c in self.columns):
            return _dense(pairs, rows)
        blocks: list[Any] = []
        while pairs:
            many = next((i for i, (c, _) in enumerate(pairs) if c.width), len(pairs))
            if many:
                blocks.append(sparse.csr_matrix(_dense(pairs[:many], rows)))
            blocks += [c.sparse(found, rows) for c, found in pairs[many : many + 1]]
            pairs = pairs[many + 1 :]
        return sparse.hstack(blocks, format="csr").astype(np.float32)

    def _sparse(self, table: Source) -> sparse.csr_matrix:
        if table.csr is None:
            raise InvalidValue("this model was trained on a sparse table: give an svmlight file or a SciPy sparse matrix")
        first = self.sparse_first if table.lines is not None else 0
        width = table.csr.shape[1] - first
        if width > self.sparse_width:
            warnings.warn(f"{table.name}: features beyond the {self.sparse_width:,} of training are left out ({width - self.sparse_width:,})", stacklevel=3)
        wide = table.csr.copy()
        wide.resize(wide.shape[0], self.sparse_width + first)
        return wide[:, first:].astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the numbers are in `arrays`."""
        columns = [
            {"name": c.name, "kind": c.kind, "levels": list(c.levels), "marks_missing": c.marks_missing, "width": c.width, "form": c.form}
            for c in self.columns
        ]
        return {"columns": columns, "sparse_width": self.sparse_width, "sparse_first": self.sparse_first, "crosses": [list(c) for c in self.crosses]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Each column's numbers, by its place."""
        return {f"column.{i}": c.numbers for i, c in enumerate(self.columns)}

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Encoder:
        """The encoder of `to_json` and `arrays`; one saved before forms were kept reads points and ISO dates."""
        columns = tuple(
            Column(c["name"], c["kind"], arrays[f"column.{i}"], tuple(c["levels"]), c["marks_missing"], c["width"], c.get("form", ""))
            for i, c in enumerate(data["columns"])
        )
        return cls(columns, data["sparse_width"], data.get("sparse_first", 1), tuple(tuple(c) for c in data.get("crosses", ())))


def _dense(pairs: Sequence[tuple[Column, Cells]], rows: np.ndarray) -> np.ndarray:
    """Columns side by side, float32 [rows, features]: some features at a time, so that rows are written in runs."""
    X = np.empty((len(rows), sum(len(c.outputs) for c, _ in pairs)), np.float32)
    at, waiting = 0, []
    for i, (column, found) in enumerate(pairs, 1):
        waiting.append(column.dense(found, rows))
        many = sum(map(len, waiting))
        if many >= _TOGETHER or i == len(pairs):
            X[:, at : at + many] = np.concatenate(waiting).T
            at, waiting = at + many, []
    return X
