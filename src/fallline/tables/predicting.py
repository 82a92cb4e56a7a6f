"""Predictions of a file of any size to a file, piece by piece: one row out per row in, in the same order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, TableError
from fallline.tables.builtin import builtin
from fallline.tables.reading import stream
from fallline.tables.sources import Source, need
from fallline.tables.table import named

ENDINGS = (".csv", ".parquet", ".jsonl", ".ndjson")
Write = Callable[[Any], None]


def predict_file(run: Any, data: Any, out: str | Path, *, id: str | None = None, proba: bool = False) -> int:
    """Predict every row of a table and write the predictions to a file, in memory for a piece of it.

    Args:
        run: a run of a table.
        data: as for `table`: a file that can be read in pieces is, whatever its size.
        out: FILE.csv, .parquet or .jsonl; it takes its name once it is whole.
        id: a column of the table to carry over.
        proba: the probability of each class too.

    Returns:
        how many rows there were.

    Raises:
        InvalidValue: a file's ending that is not known, or probabilities of a model that has none.
        UnknownName: a column is missing.
        TableError: malformed content, with file and line; nothing is written then.
    """
    rows = 0
    with _writer(Path(out)) as write:
        for piece in [builtin(data)[0]] if named(data) else stream(data):
            write(_predicted(run, piece, id, proba))
            rows += piece.rows
    return rows


def _predicted(run: Any, piece: Source, id: str | None, proba: bool) -> Any:
    """A piece's predictions as an Arrow table."""
    columns: dict[str, Any] = {} if id is None else {id: _carried(piece, id)}
    columns[run.reader.target.name if run.reader is not None else "prediction"] = _array(run.predict(piece))
    if proba:
        p = run.predict_proba(piece)
        classes = run.model.classes.tolist() if run.model is not None and run.model.classes is not None else []
        columns |= {f"probability of {c}": _array(p[:, i]) for i, c in enumerate(classes)}
    return need("pyarrow").table(columns)


def _carried(piece: Source, name: str) -> Any:
    """A column as it stands in its file: of a file of text, as text."""
    pa = need("pyarrow")
    column = piece.as_text([name]).column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_null(column.type) and piece.text else column


def _array(values: np.ndarray) -> Any:
    pa = need("pyarrow")
    return pa.array(values.tolist(), pa.string()) if values.dtype.kind in "US" else pa.array(np.ascontiguousarray(values))


@contextmanager
def _writer(path: Path) -> Iterator[Write]:
    """What writes pieces to a file; it is there once all were written, and not at all where one was not."""
    if path.suffix not in ENDINGS:
        raise InvalidValue(f"-o {path}: expected a file that ends in .csv, .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield from _written(file, path)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _written(file: Any, path: Path) -> Iterator[Write]:
    """Once: what writes pieces by the file's ending."""
    if path.suffix in (".jsonl", ".ndjson"):
        yield lambda table: file.write("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()).encode())
        return
    csv, parquet = need("pyarrow.csv"), need("pyarrow.parquet")
    opened: list[Any] = []

    def write(table: Any) -> None:
        if not opened:
            opened.append(csv.CSVWriter(file, table.schema) if path.suffix == ".csv" else parquet.ParquetWriter(file, table.schema))
            opened.append(table.schema)
        opened[0].write_table(_alike(table, opened[1], path))

    yield write
    if opened:
        opened[0].close()


def _alike(table: Any, schema: Any, path: Path) -> Any:
    """A piece with the first one's types."""
    pa = need("pyarrow")
    if table.schema.equals(schema):
        return table
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        name = next(a.name for a, b in zip(table.schema, schema, strict=True) if a.type != b.type)
        raise TableError(f"column {name!r} changes its type: write it as .jsonl, which has none", file=str(path)) from None
