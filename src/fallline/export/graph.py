"""A graph of ONNX operators, written node by node: every method adds one and gives the name of what it makes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.errors import MissingExtra

OPSET, ML_OPSET, FORMAT = 17, 3, 8
"""Versions of the operators, of those for tables, and of the file: of 2022, so that runtimes of these years read it."""


def need(module: str) -> Any:
    """A package of the extra `onnx`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(module.partition(".")[0], "onnx", "exporting to ONNX") from None


class Graph:
    """Nodes, constants, inputs and outputs, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._onnx, self._helper, self._numbers = need("onnx"), need("onnx.helper"), need("onnx.numpy_helper")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._count = 0

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator of one output."""
        out = self._fresh(operator.lower())
        self._nodes.append(self._helper.make_node(operator, list(inputs), [out], domain=domain, **attributes))
        return out

    def constant(self, value: Any) -> str:
        """Numbers, truth values or texts that stand in the file."""
        array = np.asarray(value)
        name = self._fresh("constant")
        self._constants.append(self._numbers.from_array(array.astype(object) if array.dtype.kind == "U" else array, name))
        return name

    def cast(self, value: str, kind: type) -> str:
        """The same numbers in another type."""
        return self.node("Cast", value, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def input(self, name: str, kind: Any, width: int) -> str:
        """A table's column, or all of its numbers: [rows, width] of float64, int64 or text (`object`)."""
        self.inputs[name] = self._value(name, kind, width)
        return name

    def output(self, name: str, value: str, kind: Any, width: int | None = None) -> None:
        """Give a value the name by which it is asked for: [rows] or [rows, width]."""
        self._nodes.append(self._helper.make_node("Identity", [value], [name]))
        self.outputs[name] = self._value(name, kind, width)

    def model(self, about: dict[str, str]) -> Any:
        """The whole, checked by the package's own rules; `about` stands in its metadata."""
        helper = self._helper
        graph = helper.make_graph(self._nodes, "fallline", list(self.inputs.values()), list(self.outputs.values()), self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=FORMAT, producer_name="fallline")
        helper.set_model_props(made, about)
        self._onnx.checker.check_model(made, full_check=True)
        return made

    def _value(self, name: str, kind: Any, width: int | None) -> Any:
        kinds = self._onnx.TensorProto
        code = kinds.STRING if kind is object else self._helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self._helper.make_tensor_value_info(name, code, ["rows"] if width is None else ["rows", width])

    def _fresh(self, word: str) -> str:
        self._count += 1
        return f"{word}-{self._count}"


def concatenated(graph: Graph, parts: Sequence[str]) -> str:
    """Columns side by side."""
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


__all__ = ["Graph", "concatenated", "need"]
