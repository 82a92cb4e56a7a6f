"""Nests: a batch may be a tensor, or tuples, lists and mappings of them to any depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fallline.errors import InvalidValue


def leaves(nest: Any) -> Iterator[Any]:
    """The leaves of a nest, in order.

    >>> list(leaves({"a": (1, 2), "b": [3]}))
    [1, 2, 3]
    """
    if isinstance(nest, Mapping):
        for value in nest.values():
            yield from leaves(value)
    elif isinstance(nest, (tuple, list)):
        for value in nest:
            yield from leaves(value)
    else:
        yield nest


def mapped(f: Callable[[Any], Any], nest: Any) -> Any:
    """The nest with `f` applied to each leaf; mappings keep their type where they can be made from a dict.

    >>> mapped(abs, {"a": (-1, 2)})
    {'a': (1, 2)}
    """
    if isinstance(nest, torch.Tensor):
        return f(nest)
    if isinstance(nest, Mapping):
        values = {k: mapped(f, v) for k, v in nest.items()}
        return values if type(nest) is dict else _like(type(nest), values)
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(mapped(f, v) for v in nest))
    if isinstance(nest, (tuple, list)):
        return type(nest)(mapped(f, v) for v in nest)
    return f(nest)


def _like(kind: type, values: dict[Any, Any]) -> Any:
    try:
        return kind(values)
    except TypeError:
        return values


def as_tensors(data: Any, device: torch.device) -> Any:
    """Arrays, frames' columns and tensors of a nest as tensors on a device; float64 and int32 arrays keep their types.

    Raises:
        InvalidValue: a leaf is not an array of numbers.
    """

    def tensor(leaf: Any) -> torch.Tensor:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().to(device)
        if hasattr(leaf, "to_numpy"):
            leaf = leaf.to_numpy()
        array = np.asarray(leaf)
        if array.dtype.kind not in "fiub":
            raise InvalidValue(f"data holds a {type(leaf).__name__} of type {array.dtype}: expected tensors or arrays of numbers")
        if not array.flags.writeable:
            array = array.copy()  # torch shares memory and may not be told that it must not be written
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return mapped(tensor, data)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device; other leaves stay."""
    return mapped(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, torch.Tensor) else leaf, batch)


def rows_of(batch: Any) -> int:
    """Rows of a batch: the length of its first tensor with a dimension.

    Raises:
        InvalidValue: it holds none.
    """
    for leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return len(leaf)
    raise InvalidValue(f"a batch of type {type(batch).__name__} holds no tensor with a first dimension: its rows cannot be counted")


def described(batch: Any) -> str:
    """The types and shapes of a batch, for messages."""
    parts = [f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else type(leaf).__name__ for leaf in leaves(batch)]
    return f"{type(batch).__name__} of {', '.join(parts[:6])}{' ...' if len(parts) > 6 else ''}"
