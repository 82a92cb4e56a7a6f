"""From a table to what is descended: the training rows with their loss, the validation rows, a network where one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from scipy.sparse import issparse

from fallline.errors import InvalidValue, MissingExtra
from fallline.fitting.choices import Choices
from fallline.model_spec import ModelSpec
from fallline.problems import LinearProblem
from fallline.tables import Table
from fallline.tables.frames import from_memory
from fallline.tables.sources import Source
from fallline.tables.table import Part


def check_network(spec: ModelSpec, device: str | None) -> None:
    """Before any data are read: the device is there, and the factory can be imported.

    Raises:
        InvalidValue: it is not; MissingExtra: PyTorch is not installed.
    """
    if not spec.is_linear:
        _networks().check(spec, device)


def table_rows(made: Table, told: Choices) -> LinearProblem:
    """The training rows with the loss: what is given, else by the table's task (of two classes, a network has two scores)."""
    loss = told.loss
    if loss is None and not told.spec.is_linear and made.target.task == "classification":
        loss = "softmax"
    return made.problem(loss)


def table_problem(made: Table, rows: LinearProblem, told: Choices) -> tuple[Any, Any, Any]:
    """What is descended, the validation rows for it, and the network (None of a linear model)."""
    held_out = _held_out(made, rows, made.valid)
    if told.spec.is_linear:
        return rows, held_out, None
    face = _networks()
    problem, network = face.network_of(rows, told.spec, on=told.device, seed=told.seed)
    return problem, None if held_out is None else face.part(problem, held_out), network


def _networks() -> Any:
    """The PyTorch face lies above; only here is it asked for, by name.

    Raises:
        MissingExtra: PyTorch is not installed.
    """
    try:
        return importlib.import_module("fallline.torch.network")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("torch", "torch", "fitting a network") from None


def columns(X: Any, y: Any) -> Any:
    """X and y as one table: columns, or a sparse matrix, which stays one, with its labels."""
    if issparse(X):
        _one_label_each(X.shape[0], y)
        return Source(from_memory({"target": y}).table, "the matrix", csr=X.tocsr())
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        columns = {str(c): X[c] for c in X.columns}
    else:
        try:
            X = np.asarray(X)
        except ValueError as error:
            raise InvalidValue(f"X cannot be made an array: {error}") from None
        if X.ndim != 2:
            raise InvalidValue(f"X has {X.ndim} dimensions: expected rows x features; one feature is X.reshape(-1, 1)")
        columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    if "target" in columns:
        raise InvalidValue("X has a column called 'target': rename it, or give fit one frame and target=")
    _one_label_each(len(X), y)
    return columns | {"target": y}


def _one_label_each(rows: int, y: Any) -> None:
    if len(y) != rows:
        raise InvalidValue(f"X has {rows} rows and y {len(y)}: expected one label for each row")


def _held_out(made: Table, problem: LinearProblem, part: Part) -> LinearProblem | None:
    """A part of a table as a problem of the training part's kind, or None where it has no rows."""
    if not len(part.rows):
        return None
    return problem.on(part.X, made.target.decode(part.y) if problem.loss.name == "poisson" else part.y, part.weights)
