"""Encoders: frozen values that turn columns into numbers, saved as JSON and arrays.

Numbers are standardised, categories one-hot (hashed where there are many levels), text is hashed 1-2-grams with
tf-idf, dates become year, month, weekday and days. Missing values are imputed and marked by an indicator column.
Everything is learnt from the training rows alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from fallline.errors import InvalidValue, UnknownName
from fallline.tables.cells import Cells, Kind, cells
from fallline.tables.sources import read

LEVELS = 64
"""More levels than this are hashed."""
HASHED = 256
"""Columns of a hashed category."""
WORDS = 1 << 14
"""Columns of a hashed text."""
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers.

    Args:
        name: the table's column.
        kind: what its cells are.
        numbers: means and scales (numbers, dates), or idf (text): float64.
        levels: levels of a category in order; empty where hashed.
        marks_missing: whether an indicator column follows.
        fill: level for missing categories.
        width: hashed columns, or 0.
    """

    name: str
    kind: Kind
    numbers: np.ndarray
    levels: tuple[str, ...] = ()
    marks_missing: bool = False
    width: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns that it gives."""
        if self.kind == "number":
            out = (self.name,)
        elif self.kind == "date":
            out = tuple(f"{self.name}: {part}" for part in ("year", "month", "weekday", "days"))
        elif self.width:
            out = tuple(f"{self.name} #{i}" for i in range(self.width))
        else:
            out = tuple(f"{self.name}={level}" for level in self.levels)
        return (*out, f"{self.name} is missing") if self.marks_missing else out

    @property
    def treatment(self) -> str:
        """In words."""
        what = {
            "number": "standardised",
            "date": "year, month, weekday, days; standardised",
            "text": f"hashed 1-2-grams with tf-idf, {self.width} columns",
            "category": f"hashed to {self.width} columns" if self.width else f"one-hot, {len(self.levels)} levels",
        }[self.kind]
        return what + (", missing imputed and marked" if self.marks_missing else "")

    def encode(self, column: Cells) -> np.ndarray | sparse.csr_matrix:
        """The column's numbers, float32 [rows, outputs]; sparse where hashed."""
        missing = column.missing
        if self.kind in ("number", "date"):
            values = column.values[:, None] if self.kind == "number" else _parts(column.values)
            body = (np.where(missing[:, None], self.numbers[0], values) - self.numbers[0]) / self.numbers[1]
        elif self.kind == "text":
            return _stack(_tfidf(column.values, self.width, self.numbers), missing, self.marks_missing)
        elif self.width:
            return _stack(_hashed(column.values, self.width), missing, self.marks_missing)
        else:
            place = {level: i for i, level in enumerate(self.levels)}
            body = np.zeros((len(column.values), len(self.levels)))
            for row, value in enumerate(column.values):
                i = place.get(value)
                if i is not None:
                    body[row, i] = 1
        body = np.hstack([body, missing[:, None]]) if self.marks_missing else body
        return body.astype(np.float32)


def fit_column(column: Cells, rows: np.ndarray) -> Column:
    """Learn a column's encoder from its training rows."""
    missing = column.missing
    marks = bool(missing[rows].any())
    present = rows[~missing[rows]]
    if column.kind in ("number", "date"):
        values = column.values[present][:, None] if column.kind == "number" else _parts(column.values[present])
        means, scales = values.mean(axis=0), values.std(axis=0)
        scales = np.where(scales > 1e-12 * np.maximum(np.abs(means), 1), scales, 1.0)
        return Column(column.name, column.kind, np.stack([means, scales]), marks_missing=marks)
    if column.kind == "text":
        counts = _grams(column.values[rows], WORDS)
        frequency = np.bincount(counts.indices, minlength=WORDS)
        return Column(column.name, "text", np.log((1 + len(rows)) / (1 + frequency)) + 1, marks_missing=marks, width=WORDS)
    levels = sorted(set(column.values[present].tolist()))
    if len(levels) > LEVELS:
        return Column(column.name, "category", np.empty(0), marks_missing=marks, width=HASHED)
    return Column(column.name, "category", np.empty(0), tuple(levels), marks)


def _parts(values: np.ndarray) -> np.ndarray:
    """Year, month, weekday and days since 1970, float64 [rows, 4]; NaN where missing."""
    out = np.full((len(values), 4), np.nan)
    for row, v in enumerate(values):
        if v is not None:
            out[row] = v.year, v.month, v.weekday(), v.toordinal() - 719163 + (v.hour * 3600 + v.minute * 60 + v.second) / 86400
    return out


def _hash(text: str, width: int) -> tuple[int, float]:
    """A column and a sign for a string: the same on every machine and in every version."""
    h = zlib.crc32(text.encode())
    return (h >> 1) % width, 1.0 if h & 1 else -1.0


def _hashed(values: np.ndarray, width: int) -> sparse.csr_matrix:
    rows = [i for i, v in enumerate(values) if v is not None]
    where = [_hash(values[i], width) for i in rows]
    return sparse.csr_matrix(
        (np.array([s for _, s in where], np.float32), ([*rows], [j for j, _ in where])), shape=(len(values), width)
    )


def _grams(values: np.ndarray, width: int) -> sparse.csr_matrix:
    """Counts of hashed words and pairs of words."""
    data, columns, starts = [], [], [0]
    for value in values:
        words = _WORD.findall((value or "").lower())
        counts: dict[int, float] = {}
        for gram in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
            j, _ = _hash(gram, width)
            counts[j] = counts.get(j, 0.0) + 1.0
        for j in sorted(counts):
            columns.append(j)
            data.append(counts[j])
        starts.append(len(data))
    return sparse.csr_matrix((np.array(data, np.float32), np.array(columns, np.int32), np.array(starts)), shape=(len(values), width))


def _tfidf(values: np.ndarray, width: int, idf: np.ndarray) -> sparse.csr_matrix:
    counts = _grams(values, width)
    counts.data = ((1 + np.log(counts.data)) * idf[counts.indices]).astype(np.float32)
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).reshape(-1))
    return (sparse.diags_array(1 / np.where(norms > 0, norms, 1)) @ counts).tocsr().astype(np.float32)


def _stack(body: sparse.csr_matrix, missing: np.ndarray, marks: bool) -> sparse.csr_matrix:
    return sparse.hstack([body, missing[:, None].astype(np.float32)], format="csr") if marks else body


@dataclass(frozen=True)
class Encoder:
    """All columns of a table as one matrix. A frozen value; `to_json` and `arrays` save it.

    Args:
        columns: one `Column` each, in the matrix's order.
        sparse_width: features of a table that is sparse already (svmlight), with no columns to encode; else 0.
    """

    columns: tuple[Column, ...]
    sparse_width: int = 0

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
            if table.csr is None:
                raise InvalidValue("this model was trained on a sparse file (svmlight): give one")
            wide = table.csr.copy()
            wide.resize(wide.shape[0], self.sparse_width)
            return wide
        for column in self.columns:
            if column.name not in table.names:
                raise UnknownName.among("column", column.name, table.names)
        return join([c.encode(cells(table, c.name, c.kind)) for c in self.columns], table.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the numbers are in `arrays`."""
        columns = [
            {"name": c.name, "kind": c.kind, "levels": list(c.levels), "marks_missing": c.marks_missing, "width": c.width}
            for c in self.columns
        ]
        return {"columns": columns, "sparse_width": self.sparse_width}

    def arrays(self) -> dict[str, np.ndarray]:
        """Each column's numbers, by its place."""
        return {f"column.{i}": c.numbers for i, c in enumerate(self.columns)}

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Encoder:
        """The encoder of `to_json` and `arrays`."""
        columns = tuple(
            Column(c["name"], c["kind"], arrays[f"column.{i}"], tuple(c["levels"]), c["marks_missing"], c["width"])
            for i, c in enumerate(data["columns"])
        )
        return cls(columns, data["sparse_width"])


def join(blocks: Sequence[Any], rows: int) -> np.ndarray | sparse.csr_matrix:
    """Blocks of columns side by side; sparse if one of them is."""
    if not blocks:
        raise InvalidValue("no column is left to learn from: keep at least one beside the target")
    if any(sparse.issparse(b) for b in blocks):
        joined = sparse.hstack([b if sparse.issparse(b) else sparse.csr_matrix(b) for b in blocks], format="csr")
        return joined.astype(np.float32)
    return np.ascontiguousarray(np.hstack(blocks), np.float32)
