"""Initial weights as a user gives them: by parameter name, or as one flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, UnknownName
from fallline.layout import Layout


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
