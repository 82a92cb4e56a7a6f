"""Runs as ONNX files: raw columns in, encoders inside, predictions out, for whatever runs such files.

`columns` are the encoders, `scores` the model, `graph` writes operators, `check` compares the file with the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.export.check import Checked, agrees
from fallline.export.columns import features
from fallline.export.graph import Graph
from fallline.export.scores import meaning, scores
from fallline.problems import LinearModel
from fallline.problems.network import NetworkModel
from fallline.tables import Reader


def export(run: Any, path: str | Path) -> Checked:
    """Write a run's model as an ONNX file.

    Args:
        run: of a linear model, or of a table's `mlp`; the weights are those that `run.predict` uses.
        path: FILE.onnx.

    Returns:
        Checked: how far the file agrees with the run, by onnxruntime where that is installed.

    Raises:
        InvalidValue: a model or a column that ONNX has no words for, by name; nothing is written.
        MissingExtra: the package onnx is not installed.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise InvalidValue(f"{str(path)!r}: expected a file that ends in .onnx")
    if not isinstance(run.model, (LinearModel, NetworkModel)):
        raise InvalidValue("the run cannot be exported: its model is code of your own; of an nn.Module, use torch.onnx.export(run.model, ...)")
    graph = Graph()
    table = run.reader if isinstance(run.reader, Reader) else None
    rows = graph.input("X", np.float64, run.model.features) if table is None else features(graph, table.encoder)
    meaning(graph, run.model, scores(graph, run.model, run.answer, rows), None if table is None else table.target)
    about = {"weights": run.used, "loss": run.model.loss.name, "target": "" if table is None else table.target.name}
    data = graph.model(about).SerializeToString()
    checked = agrees(run, data)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return checked


__all__ = ["Checked", "export"]
