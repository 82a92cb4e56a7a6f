"""A network on a table's rows without its data: its module turns rows into scores, and the scores mean what a linear model's mean."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.model_spec import ModelSpec, model_spec
from fallline.problems.model import LinearModel


@dataclass(eq=False, repr=False)
class NetworkModel:
    """scores = module(rows), and what they mean. PyTorch is loaded when the module is first asked for.

    Args:
        spec: what the module is, in words.
        table: of the table's linear model, the features, the classes and what a score means; its coefficients do not exist.
        given: the module, where it is at hand; left out, it is made from `spec` when it is first needed.
        typed: whether the user named a factory himself; a name out of a file is imported only where he has used it before.
    """

    spec: ModelSpec
    table: LinearModel
    given: Any = None
    typed: bool = field(default=False)

    @cached_property
    def module(self) -> Any:
        """The `nn.Module`; of a loaded run, made anew with other weights than the run's, which `predict` puts in.

        Raises:
            InvalidValue: it is of a factory that no name leads to, or that you have not used here.
            MissingExtra: PyTorch is not installed.
        """
        if self.given is not None:
            return self.given
        return importlib.import_module("fallline.torch.network").rebuilt(self.spec, self.table.features, self.table.outputs, self.typed)

    @property
    def loss(self) -> Any:
        return self.table.loss

    @property
    def classes(self) -> np.ndarray | None:
        return self.table.classes

    @property
    def features(self) -> int:
        return self.table.features

    @property
    def outputs(self) -> int:
        return self.table.outputs

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self.table.feature_names

    def __repr__(self) -> str:
        return f"NetworkModel({self.spec}, {self.features} features, {self.outputs} output{'s' * (self.outputs != 1)}, {self.loss.name})"

    def scores(self, weights: Mapping[str, np.ndarray], X: Any) -> np.ndarray:
        """The module's outputs for every row, float64 [rows] or [rows, outputs].

        Args:
            weights: the module's state_dict as arrays.
            X: rows x features.
        """
        rows = self.table.rows(X)
        z = importlib.import_module("fallline.torch.predicting").outputs(self.module, weights, rows.astype(np.float32, copy=False))
        return z.astype(np.float64).reshape(len(z), *self._shape)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.table.layout.parameters[0].shape[1:]

    def predict(self, weights: Mapping[str, np.ndarray], X: Any) -> np.ndarray:
        """Labels of a classifier; numbers of a regression; rates of a Poisson model."""
        return self.table.predicted(self.scores(weights, X))

    def predict_proba(self, weights: Mapping[str, np.ndarray], X: Any) -> np.ndarray:
        """Probability of each class, float64 [rows, classes].

        Raises:
            InvalidValue: the loss gives no probabilities.
        """
        return self.table.probabilities(self.scores(weights, X))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes this model again: never code."""
        return {"spec": str(self.spec) if self.spec.kind != "factory" or self.spec.name else None, "table": self.table.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], model: Any = None) -> NetworkModel:
        """The model of `to_json`; nothing is imported before its module is asked for.

        Args:
            data: as it was saved.
            model: the user's own word, factory or module in place of what the file says.
        """
        told = None if model is None else model_spec(model)
        if told is not None and told.is_linear:
            raise InvalidValue(f"model={model!r}: this run is of a network ({data['spec'] or 'a module of your own'})")
        spec = told or (ModelSpec("factory") if data["spec"] is None else model_spec(data["spec"]))
        return cls(spec, LinearModel.from_json(data["table"]), typed=told is not None)


__all__ = ["NetworkModel"]
