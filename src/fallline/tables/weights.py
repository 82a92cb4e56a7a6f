"""Row weights: a column of them, and weights of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fallline.errors import InvalidValue, TableError, UnknownName
from fallline.tables.cells import Cells, cells
from fallline.tables.options import TableOptions
from fallline.tables.sources import Source
from fallline.tables.target import Target, numbered


def row_weights(data: Source, given: TableOptions, wanted: Cells, goal: Target, train: np.ndarray) -> np.ndarray | None:
    """The weight of every row, float64, or None where all count alike."""
    weight = None if given.sample_weight is None else weights_of(data, given.sample_weight)
    if given.class_weight is None:
        return weight
    if goal.task != "classification":
        raise InvalidValue(f"class_weight is for classes; the target {goal.name!r} is of numbers ({goal.why})")
    factors = _classes(given.class_weight, wanted, train)
    return factors if weight is None else weight * factors


def weights_of(data: Source, name: str) -> np.ndarray:
    """A column of weights, float64.

    Raises:
        TableError: one is missing or below 0, by its line.
    """
    column = cells(data, name, "number")
    bad = column.missing | ~(column.values >= 0)
    if bad.any():
        row = int(np.argmax(bad))
        what = "missing" if column.missing[row] else f"{column.values[row]:g}"
        raise TableError(f"the weight {name!r} is {what}: expected a number of at least 0", **data.where(row))
    return column.values.astype(np.float64, copy=False)


def _classes(given: Any, wanted: Cells, train: np.ndarray) -> np.ndarray:
    """Each row's class's weight: "balanced" gives every class the same total in the training rows."""
    codes, found = numbered(wanted)
    names = [str(f) for f in found]
    counts = np.bincount(codes[train], minlength=len(names))
    if given == "balanced":
        by_class = len(train) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    elif isinstance(given, Mapping):
        by_name = {str(k): float(v) for k, v in given.items()}
        for name, value in by_name.items():
            if name not in names:
                raise UnknownName.among("class", name, names)
            if not 0 <= value < np.inf:
                raise InvalidValue(f"class_weight: {value:g} for {name!r}: expected a number of at least 0")
        by_class = np.array([by_name.get(n, 1.0) for n in names])
    else:
        raise InvalidValue(f"class_weight={given!r}: expected 'balanced' or a mapping from label to weight")
    return np.where(codes < 0, 1.0, by_class[codes])
