"""What was exported, run by onnxruntime on rows made from the encoders, must say what the run says."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.tables.columns import Column
from fallline.tables.encoders import Encoder

ROWS = 64
TOLERANCE = 1e-5
"""Largest difference, relative to the largest number: a network's sums are made in another order."""


@dataclass(frozen=True)
class Checked:
    """How far an exported file agrees.

    Attributes:
        rows: rows that were compared, 0 where onnxruntime is not installed.
        difference: the largest difference of a score, probability or number, relative to the largest.
    """

    rows: int
    difference: float

    def __str__(self) -> str:
        if not self.rows:
            return "not checked: onnxruntime is not installed"
        return f"checked with onnxruntime: {self.rows} made-up rows, the same predictions (largest difference {self.difference:.1g})"


def agrees(run: Any, data: bytes) -> Checked:
    """Compare the file's outputs with the run's on made-up rows.

    Raises:
        InvalidValue: they differ; nothing should be written.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return Checked(0, 0.0)
    runtime = importlib.import_module("onnxruntime")
    feeds, rows = _made_up(run)
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    ours = {"prediction": run.predict(rows)}
    if "probabilities" in outputs:
        ours["probabilities"] = run.predict_proba(rows)
    worst = 0.0
    for name, mine in ours.items():
        theirs = outputs[name]
        if mine.dtype.kind == "f":
            worst = max(worst, float(np.abs(theirs - mine).max() / max(1.0, np.abs(mine).max())))
        elif (theirs.astype(str) != mine.astype(str)).mean() > 0.02:  # a tie may fall the other way
            worst = np.inf
    if worst > TOLERANCE:
        raise InvalidValue(f"the exported model differs from the run by {worst:.2g} on made-up rows: it is not written; please report this")
    return Checked(ROWS, worst)


def _made_up(run: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Rows as ONNX takes them, and as the run does."""
    draw = np.random.default_rng(0)
    encoder = None if run.reader is None else run.reader.encoder
    if not isinstance(encoder, Encoder) or encoder.sparse_width:
        from scipy import sparse

        X = draw.normal(size=(ROWS, run.model.features))
        return {"X": X}, sparse.csr_matrix(X) if encoder is not None else X
    feeds, columns = {}, {}
    for column in encoder.columns:
        feeds[column.name], columns[column.name] = _column(column, draw)
    return {name: values[:, None] for name, values in feeds.items()}, columns


def _column(column: Column, draw: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Numbers and dates about the training rows', every level and one that is none, and missing cells."""
    gone = draw.random(ROWS) < 0.1
    if column.kind == "category":
        pool = np.array([*column.levels, "a level that nobody has seen"], object)
        values = np.where(gone, "", pool[draw.integers(len(pool), size=ROWS)])
        return values, [None if missing else str(v) for v, missing in zip(values, gone, strict=True)]
    if column.kind == "number":
        mean, scale = column.numbers[:, 0]
        values = np.where(gone, np.nan, mean + 2 * scale * draw.normal(size=ROWS))
        return values, values
    mean, scale = column.numbers[:, 3]
    days = np.clip(mean + 2 * scale * draw.normal(size=ROWS), -700_000, 2_900_000)
    dates = (days * 86_400e6).astype(np.int64).astype("datetime64[us]")
    dates[gone] = np.datetime64("NaT")
    return dates.astype(np.int64), dates
