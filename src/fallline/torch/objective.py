"""What is descended: `loss(model(x), y)`, or any function of model and batch that says what it is a mean over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from fallline.errors import InvalidValue
from fallline.metrics import Metric
from fallline.torch.nest import described, rows_of


@dataclass(frozen=True)
class Value:
    """An objective's value on a batch: `sum / weight` is the mean that is descended.

    Args:
        mean: scalar tensor with a graph.
        weight: what it is a mean over: rows, or what the objective declares (tokens).
        outputs: what the model gave, where the contract shows it.
    """

    mean: torch.Tensor
    weight: float
    outputs: Any = None


class Contract(Protocol):
    """What a module is asked for: its value on a batch, and, where outputs show, metrics of them.

    Attributes:
        mark: what belongs to the data's fingerprint beside the numbers, or "".
    """

    @property
    def mark(self) -> str: ...

    def __call__(self, model: Callable[..., Any], batch: Any) -> Value: ...

    def truth(self, batch: Any) -> Any:
        """The targets of a batch.

        Raises:
            InvalidValue: the contract knows none.
        """
        ...

    def values(self, metrics: Sequence[Metric], truth: np.ndarray, outputs: np.ndarray) -> list[float]:
        """Metrics of all rows."""
        ...


@dataclass(frozen=True)
class Loss:
    """The contract `loss(model(x), y)`, a mean over rows, on batches (x, y).

    `x` may be a tensor, a tuple (model(*x)) or a mapping (model(**x)).
    """

    loss: Callable[[Any, Any], torch.Tensor]
    mark = ""

    def __call__(self, model: Callable[..., Any], batch: Any) -> Value:
        x, _ = pair(batch)
        outputs = forward(model, x)
        mean = self.loss(outputs, batch[1])
        return Value(_scalar(mean, "loss(model(x), y)"), float(rows_of(batch)), outputs)

    def truth(self, batch: Any) -> Any:
        """y."""
        return pair(batch)[1]

    def values(self, metrics: Sequence[Metric], truth: np.ndarray, outputs: np.ndarray) -> list[float]:
        """Metrics of raw outputs: columns are scores of classes where the truth is class indices."""
        classes = outputs.ndim == 2 and outputs.shape[1] > 1 and truth.dtype.kind in "iu" and truth.ndim == 1
        out = []
        for m in metrics:
            if m.needs == "numbers" or not classes:
                out.append(m(truth, outputs.reshape(truth.shape) if outputs.size == truth.size else outputs))
            elif m.needs == "labels":
                out.append(m(truth, outputs.argmax(axis=1)))
            else:
                shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                out.append(m(truth, shifted / shifted.sum(axis=1, keepdims=True)))
        return out


@dataclass(frozen=True)
class Objective:
    """The contract `f(model, batch)`: a scalar, a mean over rows; or (sum, weight), such as (sum over tokens, tokens)."""

    f: Callable[[Any, Any], Any]
    mark = ""

    def __call__(self, model: Callable[..., Any], batch: Any) -> Value:
        value = self.f(model, batch)
        if not isinstance(value, tuple):
            return Value(_scalar(value, "objective(model, batch)"), float(rows_of(batch)))
        if len(value) != 2:
            raise InvalidValue(f"objective(model, batch) gave a tuple of {len(value)}: expected a scalar, or (sum, weight)")
        total, weight = _scalar(value[0], "the sum of objective(model, batch)"), float(value[1])
        if not weight > 0:
            raise InvalidValue(f"objective(model, batch) gave the weight {weight:g}: expected what the sum is over, above 0")
        return Value(total / weight, weight)

    def truth(self, batch: Any) -> Any:
        """There is none to be known."""
        raise InvalidValue("a metric needs predictions and an objective gives none: use loss=, or leave metrics out")

    def values(self, metrics: Sequence[Metric], truth: np.ndarray, outputs: np.ndarray) -> list[float]:
        raise NotImplementedError  # `truth` has refused


def pair(batch: Any) -> tuple[Any, Any]:
    """The batch as (x, y)."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise InvalidValue(f"with loss=, a batch is (x, y) and this one is a {described(batch)}: give objective=f(model, batch) for other batches")
    return batch[0], batch[1]


def forward(model: Callable[..., Any], x: Any) -> Any:
    """model(x), model(*x) of a tuple, model(**x) of a mapping."""
    if isinstance(x, (tuple, list)):
        return model(*x)
    if isinstance(x, Mapping):
        return model(**x)
    return model(x)


def _scalar(value: Any, what: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise InvalidValue(f"{what} gave a {type(value).__name__}: expected a tensor of one number")
    if value.numel() != 1:
        raise InvalidValue(f"{what} gave a tensor of shape {list(value.shape)}: expected one number; take its mean over rows (reduction='mean')")
    return value.reshape(())
