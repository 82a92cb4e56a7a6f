"""Nests of plain values and tensors as JSON and arrays, and back: what a state_dict is, without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fallline.errors import InvalidValue
from fallline.torch.packing import array_of, tensor_of

_KEPT = {str(t): t for t in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint32,
)}  # fmt: skip


class Plain:
    """Collects the tensors of several nests, each under a name of its own."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def of(self, value: Any, path: str) -> Any:
        """The JSON of a value; tensors stand in it by their names.

        Raises:
            InvalidValue: something else than plain values, lists, tuples, dicts and dense tensors; says where it is.
        """
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.generic):
            return self.of(value.item(), path)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return {"array": self._tensor(torch.from_numpy(np.array(value)), path)}
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, Mapping):
            if not all(type(k) in (str, int) for k in value):
                raise InvalidValue(f"{path} has keys that are neither texts nor whole numbers: they cannot be kept without pickle")
            return {"dict": [[k, self.of(v, f"{path}.{k}")] for k, v in value.items()]}
        if isinstance(value, (list, tuple)):
            return {"tuple" if isinstance(value, tuple) else "list": [self.of(v, f"{path}.{i}") for i, v in enumerate(value)]}
        raise InvalidValue(f"{path} is a {type(value).__name__}: expected numbers, texts, lists, dicts and tensors; anything else would need pickle")

    def _tensor(self, tensor: torch.Tensor, path: str) -> dict[str, Any]:
        if str(tensor.dtype) not in _KEPT or tensor.layout is not torch.strided or hasattr(tensor, "full_tensor"):
            raise InvalidValue(f"{path} is a tensor of {tensor.dtype}, {tensor.layout}: expected a dense tensor of real or whole numbers")
        self.arrays[path] = array_of(tensor)
        return {"tensor": path, "type": str(tensor.dtype)}


def tensors_of(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `Plain.of` was given.

    Raises:
        KeyError, TypeError: it is not of that form.
    """
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensor_of(arrays[value["tensor"]], torch.empty(arrays[value["tensor"]].shape, dtype=_KEPT[value["type"]]))
    ((kind, inner),) = value.items()
    if kind == "array":
        return tensors_of(inner, arrays).numpy()
    if kind == "float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[inner]
    if kind == "dict":
        return {k: tensors_of(v, arrays) for k, v in inner}
    return {"list": list, "tuple": tuple}[kind](tensors_of(v, arrays) for v in inner)


__all__ = ["Plain", "tensors_of"]
