"""The columns of a stream: their kinds are told from the first rows, their numbers and categories encoded as they come.

Numbers and the parts of dates are dense features, which the model's view standardises. Categories and text are hashed, by the very
encoders that predictions use, and a missing number is marked by a feature of its own; these are sparse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines.linear import SafeOnline
from fallline.errors import TableError, UnknownName
from fallline.streaming.parts import Part
from fallline.tables.cells import cells
from fallline.tables.columns import WORDS, Column
from fallline.tables.columns import parts_of as dates
from fallline.tables.encoders import Encoder

WIDTH = 1 << 12
"""Hashed columns of a category."""
NAMED = 10_000
"""Levels of a category whose names are kept."""
_FEW = 8


@dataclass(frozen=True)
class Feature:
    """A column of the stream.

    Args:
        column: how it becomes numbers; means and scales of numbers and dates are the model's, and 0 and 1 here.
        dense: its first dense feature, or -1.
        sparse: its first sparse feature.
    """

    column: Column
    dense: int
    sparse: int

    @property
    def width(self) -> int:
        """Sparse features: hashed ones, and one that marks what is missing."""
        return self.column.width + 1


@dataclass
class Columns:
    """All columns to learn from. Made by `chosen`; `levels` and `missing` grow as rows come in."""

    features: tuple[Feature, ...]
    notes: tuple[str, ...] = ()
    levels: dict[str, dict[str, None]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    @property
    def dense(self) -> int:
        return sum(len(_dense_names(f.column)) for f in self.features)

    @property
    def sparse(self) -> int:
        return sum(f.width for f in self.features)

    @property
    def plain(self) -> tuple[Feature, ...]:
        """Columns of numbers as such."""
        return tuple(f for f in self.features if f.column.kind == "number" and not f.column.form)

    # ------------------------------------------------------------------------------------------------- encoding

    def encode(self, part: Part) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The part's rows: dense [rows, dense] with NaN where missing, and sparse entries in CSR.

        Raises:
            TableError: a cell that is not what its column holds, with its line.
        """
        X, blocks = np.empty((part.rows, self.dense)), []
        fast = self.plain if part.numbers is not None else ()
        if fast:
            values, odd = part.numbers([f.column.name for f in fast])  # type: ignore[misc]
            for f, column, other in zip(fast, values, odd, strict=True):
                X[:, f.dense] = self._read(part, f)[0] if other else column
        for f in self.features:
            if f in fast:
                continue
            if f.column.kind in ("number", "date"):
                for k, values in enumerate(self._read(part, f)):
                    X[:, f.dense + k] = values
            else:
                blocks.append((f.sparse, self._hashed(part, f)))
        blocks += self._marks(X)
        return X, _csr(blocks, part.rows)

    def _read(self, part: Part, f: Feature) -> np.ndarray:
        found = cells(part.source([f.column.name]), f.column.name, f.column.kind, f.column.form)
        return dates(found, np.arange(part.rows))

    def _hashed(self, part: Part, f: Feature) -> Any:
        found = cells(part.source([f.column.name]), f.column.name, f.column.kind, f.column.form)
        kept = self.levels.setdefault(f.column.name, {})
        for level in found.levels:
            if len(kept) >= NAMED:
                break
            kept.setdefault(level)
        return f.column.sparse(found, np.arange(part.rows))

    def _marks(self, X: np.ndarray) -> list[tuple[int, Any]]:
        """A feature 1 where a number or a date is missing."""
        from scipy import sparse

        out = []
        holes = np.isnan(X)
        if not holes.any():
            return out
        for f in self.features:
            if f.dense >= 0 and holes[:, f.dense].any():
                self.missing.add(f.column.name)
                out.append((f.sparse + f.column.width, sparse.csr_matrix(holes[:, f.dense][:, None].astype(np.float64))))
        return out

    # ------------------------------------------------------------------------------------------- what is saved

    def encoder(self, model: SafeOnline) -> Encoder:
        """The encoder of a table as the model sees it now."""
        return Encoder(tuple(self._frozen(f, model) for f in self.features))

    def _frozen(self, f: Feature, model: SafeOnline) -> Column:
        from dataclasses import replace

        if f.dense < 0:
            return f.column
        at = slice(f.dense, f.dense + len(_dense_names(f.column)))
        scale = model.deviations[at]
        numbers = np.array([model.means[at], np.where(scale > 0, scale, 1.0)])
        return replace(f.column, numbers=numbers, marks_missing=f.column.name in self.missing)

    def coef(self, model: SafeOnline) -> np.ndarray:
        """Coefficients of the encoder's columns, [columns, outputs]."""
        dense, sparse = model.view_coef, model.sparse_coef.reshape(-1, model.outputs)
        blocks = []
        for f in self.features:
            if f.dense >= 0:
                blocks.append(dense[f.dense : f.dense + len(_dense_names(f.column))])
                if f.column.name in self.missing:
                    blocks.append(sparse[f.sparse + f.column.width : f.sparse + f.width])
            else:
                blocks.append(sparse[f.sparse : f.sparse + f.width])
        return np.vstack(blocks)

    def to_json(self) -> dict[str, Any]:
        told = [{"name": f.column.name, "kind": f.column.kind, "form": f.column.form} for f in self.features]
        return {"columns": told, "notes": list(self.notes), "levels": {k: list(v) for k, v in self.levels.items()}, "missing": sorted(self.missing)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        made = placed([_column(c["name"], c["kind"], c["form"]) for c in data["columns"]], data["notes"])
        made.levels = {k: dict.fromkeys(v) for k, v in data["levels"].items()}
        made.missing = set(data["missing"])
        return made


def chosen(part: Part, apart: Mapping[str, str], drop: Sequence[str], only: Sequence[str], types: Mapping[str, str]) -> Columns:
    """Which columns to learn from and what they hold, told from the first rows.

    Args:
        part: the first rows.
        apart: columns that are not to be learnt from, and why.
        drop, only, types: as in a table's options.

    Raises:
        UnknownName: a column that is not there.
        TableError: none is left.
    """
    source = part.source(None)
    for name in (*apart, *drop, *only, *types):
        if name not in source.names:
            raise UnknownName.among("column", name, source.names)
    made, notes = [], []
    for name in source.names:
        if name in apart or name in drop or (only and name not in only):
            continue
        found = cells(source, name, types.get(name))  # type: ignore[arg-type]
        told = name in types or name in only
        if found.kind == "category" and not told and not found.missing.any() and source.rows > _FEW and len(found.levels) == source.rows:
            notes.append(f"column {name!r} is left out: it differs in each of the first {source.rows} rows, as an identifier does (--only or --type keeps it)")
            continue
        if found.missing.all() and not told:
            notes.append(f"column {name!r} is empty in the first {source.rows} rows and read as categories (--type {name}=number reads it as numbers)")
        if found.note:
            notes.append(f"column {name!r} {found.note}")
        made.append(_column(name, found.kind, found.form))
    if not made:
        raise TableError("no column is left to learn from", file=source.name)
    return placed(made, notes)


def placed(columns: Sequence[Column], notes: Sequence[str]) -> Columns:
    """The columns with their features side by side."""
    features, dense, sparse = [], 0, 0
    for column in columns:
        many = len(_dense_names(column))
        features.append(Feature(column, dense if many else -1, sparse))
        dense, sparse = dense + many, sparse + features[-1].width
    return Columns(tuple(features), tuple(notes))


def _column(name: str, kind: str, form: str) -> Column:
    if kind == "text":
        return Column(name, "text", np.ones(WORDS), marks_missing=True, width=WORDS)
    if kind == "category":
        return Column(name, "category", np.empty(0), marks_missing=True, width=WIDTH)
    many = 4 if kind == "date" else 1
    return Column(name, kind, np.array([np.zeros(many), np.ones(many)]), form=form)  # type: ignore[arg-type]


def _dense_names(column: Column) -> tuple[str, ...]:
    return () if column.width else Column(column.name, column.kind, column.numbers).outputs


def _csr(blocks: list[tuple[int, Any]], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of some columns each, side by side, as one CSR matrix of wide columns."""
    if not blocks:
        return np.zeros(rows + 1, np.int64), np.empty(0, np.int64), np.empty(0)
    row = np.concatenate([np.repeat(np.arange(rows), np.diff(m.indptr)) for _, m in blocks])
    column = np.concatenate([m.indices.astype(np.int64) + first for first, m in blocks])
    value = np.concatenate([m.data.astype(np.float64) for _, m in blocks])
    order = np.argsort(row, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64), column[order], value[order]
