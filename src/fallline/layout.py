"""The layout of a problem's parameters: names, shapes and roles over one flat vector.

Registers are flat vectors; the layout says which stretch of them is which parameter. A `Plan` carries group
*patterns*; matched against a layout they say which row each parameter obeys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from fallline.errors import InvalidValue, UnknownName

Role = Literal["weight", "bias", "norm"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named array of a problem. `role` decides weight decay: biases and normalisation are left alone."""

    name: str
    shape: tuple[int, ...]
    role: Role = "weight"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The parameters of a problem in the order in which they lie in the flat registers."""

    parameters: tuple[Parameter, ...]

    @cached_property
    def size(self) -> int:
        """Number of scalars in one register."""
        return sum(p.size for p in self.parameters)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each parameter lies in a flat register."""
        edges = np.cumsum([0] + [p.size for p in self.parameters]).tolist()
        return tuple(slice(a, b) for a, b in pairwise(edges))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Named, shaped views of a flat register."""
        return {p.name: flat[s].reshape(p.shape) for p, s in zip(self.parameters, self.slices, strict=True)}

    def join(self, named: Mapping[str, np.ndarray], dtype: np.dtype | type = np.float64) -> np.ndarray:
        """The flat register that holds these named arrays (a copy)."""
        flat = np.empty(self.size, dtype)
        for p, s in zip(self.parameters, self.slices, strict=True):
            flat[s] = np.asarray(named[p.name], dtype).reshape(-1)
        return flat


def as_flat(layout: Layout, start: Any) -> np.ndarray:
    """Weights by name or as a flat vector, checked, float64 [layout.size].

    Raises:
        UnknownName, InvalidValue: names, shapes or numbers that are not the layout's.
    """
    if isinstance(start, Mapping):
        for name in start:
            if name not in layout.names:
                raise UnknownName.among("parameter", str(name), layout.names)
        for p in layout.parameters:
            shape = np.shape(start[p.name]) if p.name in start else None
            if shape != p.shape:
                given = "is missing" if shape is None else f"has shape {shape}"
                raise InvalidValue(f"start[{p.name!r}] {given}: expected shape {p.shape}")
        flat = layout.join(start)
    else:
        flat = np.asarray(start, np.float64).reshape(-1)
    if len(flat) != layout.size:
        raise InvalidValue(f"start has {len(flat)} numbers and the problem {layout.size} parameters ({', '.join(layout.names)})")
    if not np.isfinite(flat).all():
        raise InvalidValue(f"start holds {flat[~np.isfinite(flat)][0]} at position {int(np.argmin(np.isfinite(flat)))}: expected finite numbers")
    return flat


def start_of(problem: Any, start: Any) -> np.ndarray:
    """Where a descent of a problem starts, flat float64: its own start, or weights of a user's, checked and brought to the problem's units.

    Raises:
        UnknownName, InvalidValue: weights that are not the layout's.
    """
    if start is None:
        return problem.start()
    flat = as_flat(problem.layout, start)
    placed = getattr(problem, "placed", None)
    return flat if placed is None else placed(flat)
