"""Networks on tables: the module, its loss by the table's task, and the problem that `fit` descends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from fallline.errors import InvalidValue
from fallline.metrics import Metric
from fallline.model_spec import ModelSpec
from fallline.problems import LinearModel, LinearProblem
from fallline.problems import Loss as RowLoss
from fallline.problems.losses import (
    HINGE,
    HUBER,
    INSENSITIVE,
    LOGISTIC,
    MODIFIED_HUBER,
    PERCEPTRON,
    POISSON,
    QUANTILE,
    SOFTMAX,
    SQUARED,
    SQUARED_INSENSITIVE,
)
from fallline.problems.network import NetworkModel
from fallline.torch import factories, modules
from fallline.torch.devices import device
from fallline.torch.module_problem import ModuleProblem
from fallline.torch.objective import Value, forward
from fallline.torch.randomness import borrowed, seeded, step_seed

LOOKED_AT = 2
"""Rows on which a module's outputs are looked at before training."""


def network_of(rows: LinearProblem, spec: ModelSpec, *, on: str | None = None, seed: int = 0) -> tuple[ModuleProblem, NetworkModel]:
    """A table's training rows as a problem for a module, and the model that predicts from its outputs.

    Law: what is descended is (1/m) sum of weight_i * loss(module(x_i), y_i), as for the linear model of the same rows;
    the module's first weights are drawn from the seed.

    Args:
        rows: the training rows with their loss, classes and weights.
        spec: which module.
        on: the device's name; left out, the CPU.
        seed: of the first weights.

    Raises:
        InvalidValue: no such device, or a module that does not fit the rows.
    """
    if hasattr(rows, "window"):
        raise InvalidValue(f"model={str(spec)!r} takes its rows in memory, and this table goes through files: give more memory=, fewer rows, or model='linear'")
    place = device(on)
    made = built(spec, rows.features, rows.outputs, seed)
    factories.remember(spec)
    module = made.to(place)
    problem = ModuleProblem(module, TableLoss(rows.model), _data(rows))
    _look(spec, problem, rows)
    return problem, NetworkModel(spec, rows.model, module, typed=True)


def check(spec: ModelSpec, on: str | None) -> None:
    """Refuse a device that is not there, or a factory that cannot be imported."""
    device(on)
    if spec.kind == "factory":
        factories.factory_of(spec)


def part(problem: ModuleProblem, rows: LinearProblem) -> ModuleProblem:
    """Other rows of the same table for the same module."""
    return problem.held_out(_data(rows))


def built(spec: ModelSpec, features: int, outputs: int, seed: int) -> torch.nn.Module:
    """The module of a spec, its first weights a function of the seed; the generators are left as they were."""
    with borrowed(torch.device("cpu"), True):
        seeded(step_seed(seed, -1), torch.device("cpu"), True)
        return perceptron(features, spec.widths, outputs) if spec.kind == "mlp" else factories.module_of(spec, features, outputs)


def rebuilt(spec: ModelSpec, features: int, outputs: int, typed: bool) -> torch.nn.Module:
    """The module of a saved run, for weights that are put in later."""
    if spec.kind == "factory":
        if typed:
            factories.remember(spec)
        else:
            spec = factories.admitted(spec)
    return built(spec, features, outputs, 0)


def perceptron(features: int, widths: Sequence[int], outputs: int) -> torch.nn.Sequential:
    """Dense layers with a ReLU behind each but the last.

    >>> perceptron(4, [8], 3)
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    sizes = [features, *widths]
    hidden = [layer for a, b in pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(sizes[-1], outputs))


@dataclass(frozen=True, eq=False)
class TableLoss:
    """The contract of tables: the mean of weight * loss over rows, on batches (x, y) or (x, y, weight).

    Args:
        table: the loss, the classes, and what scores mean.
    """

    table: LinearModel

    @property
    def mark(self) -> str:
        """What belongs to the data's fingerprint beside the numbers."""
        return repr(sorted(self.table.to_json().items()))

    def __call__(self, model: Any, batch: Any) -> Value:
        x, y, *weight = batch
        outputs = forward(model, x)
        z = outputs if self.table.loss.code == SOFTMAX or self.table.outputs > 1 else outputs.reshape(len(outputs))
        each = row_losses(self.table.loss, z, y)
        return Value((each * weight[0] if weight else each).mean(), float(len(y)), outputs)

    def truth(self, batch: Any) -> Any:
        """The targets of a batch."""
        return batch[1]

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        """As for the linear model of the same table."""
        if not self.table.loss.classifies:
            return ("rmse", "r2")
        return ("accuracy", "log_loss") if self.table.loss.is_likelihood else ("accuracy",)

    def values(self, metrics: Sequence[Metric], truth: np.ndarray, outputs: np.ndarray) -> list[float]:
        """Metrics of a module's outputs [rows, outputs], for targets [rows] as the loss has them."""
        z = outputs.astype(np.float64).reshape(len(outputs), *self.table.layout.parameters[0].shape[1:])
        labels = truth if self.table.classes is None else self.table.classes[truth.astype(np.intp)]
        predicted = lambda m: m(truth.astype(np.intp), self.table.probabilities(z)) if m.needs == "probabilities" else m(labels, self.table.predicted(z))
        return [predicted(m) for m in metrics]


def row_losses(loss: RowLoss, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`fallline.problems.losses` on tensors: the loss of each row, [rows].

    Args:
        loss: which.
        z: scores [rows]; for softmax, and for each class against the rest, [rows, classes].
        y: targets [rows]: numbers, 0 and 1, or class indices.
    """
    if loss.code == SOFTMAX:
        return F.cross_entropy(z, y, reduction="none")
    if z.ndim == 2 and y.ndim == 1:
        return _row_losses(loss, z, (y[:, None] == torch.arange(z.shape[1], device=y.device)).to(z.dtype)).sum(dim=1)
    return _row_losses(loss, z, y)


def _row_losses(loss: RowLoss, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of each score, of z's shape."""
    if loss.code == SQUARED:
        return 0.5 * (z - y) ** 2
    if loss.code == LOGISTIC:
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")
    if loss.code == HUBER:
        return F.huber_loss(z, y, reduction="none", delta=loss.parameter)
    if loss.code == POISSON:
        return torch.exp(z) - y * z
    if loss.code == QUANTILE:
        return torch.maximum(loss.parameter * (y - z), (loss.parameter - 1) * (y - z))
    if loss.code in (INSENSITIVE, SQUARED_INSENSITIVE):
        over = torch.relu((z - y).abs() - loss.parameter)
        return over if loss.code == INSENSITIVE else over * over
    side = 2 * y - 1
    if loss.code == PERCEPTRON:
        return torch.relu(-side * z)
    gap = torch.relu(1 - side * z)
    if loss.code == MODIFIED_HUBER:
        return torch.where(gap > 2, -4 * side * z, gap * gap)
    return gap if loss.code == HINGE else gap * gap


def _data(rows: LinearProblem) -> tuple[Any, ...]:
    """(x, y) or (x, y, weight) as a module takes them: float32, classes as int64; rows that are sparse stay so until they are batches."""
    if rows.view is not None:
        raise InvalidValue("a network takes rows as they are: standardized() is of linear models; give the problem before it, or scale the columns")
    x = rows.X.astype(np.float32) if rows.sparse else rows.X.astype(np.float32, copy=False)
    y = rows.target.astype(np.int64 if rows.model.loss.code == SOFTMAX else np.float32)
    return (x, y) if rows.weight is None else (x, y, rows.weight.astype(np.float32))


def _look(spec: ModelSpec, problem: ModuleProblem, rows: LinearProblem) -> None:
    """Try the module on a few rows, before anything is trained."""
    first = torch.arange(min(LOOKED_AT, rows.rows), device=problem.device)
    with modules.mode(problem.model, training=False), torch.no_grad(), borrowed(problem.device, True):
        factories.fits(spec, problem.model, problem.source.take(first)[0], rows.outputs, one=rows.outputs == 1)


__all__ = ["TableLoss", "check", "network_of", "part", "perceptron", "rebuilt", "row_losses"]
