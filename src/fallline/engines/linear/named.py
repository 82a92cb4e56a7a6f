"""Rows of an online model that are given by name, as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fallline.errors import InvalidValue, UnknownName


class Named:
    """The features of a row: how many, and perhaps their names.

    Args:
        features: their number, or their names in order.
        fill: what stands for a name that a row lacks; None refuses such a row.
    """

    def __init__(self, features: int | Sequence[str], fill: float | None):
        self.names = None if isinstance(features, int) else tuple(features)
        self.count = features if isinstance(features, int) else len(features)
        self.fill = fill

    def row(self, x: Mapping[str, Any], step: int) -> list[Any]:
        """A row's numbers in order.

        Raises:
            InvalidValue: the model knows no names, or a name is lacking where none may be.
            UnknownName: a name that the model does not know.
        """
        names = self.names
        if names is None:
            raise InvalidValue(f"row {step} is a dict: expected {self.count} numbers, or a model made with names, such as features={[str(name) for name in list(x)[:3]]!r}")
        if len(x) == len(names):
            try:
                return [x[name] for name in names]
            except KeyError:
                pass
        for name in x:
            if name not in names:
                raise UnknownName.among("feature", str(name), names)
        if self.fill is None:
            lacking = next(name for name in names if name not in x)
            raise InvalidValue(f"row {step} lacks {lacking!r}: an optimizer's own law needs every feature; say 0, or leave optimizer= out, whose safe steps bear missing ones")
        return [x.get(name, self.fill) for name in names]


def named(features: Any, least: int, fill: float | None) -> Named:
    """Checked features of `online`.

    Raises:
        InvalidValue: neither a whole number of at least `least` nor different names.
    """
    if isinstance(features, (list, tuple)):
        if len(features) < least or len(set(features)) < len(features) or not all(isinstance(name, str) for name in features):
            raise InvalidValue(f"online(features={features!r}): expected different names, or their number")
        return Named(features, fill)
    if isinstance(features, bool) or not hasattr(features, "__index__") or features < least:
        raise InvalidValue(f"online(features={features!r}): expected a whole number of at least {least}, or names")
    return Named(int(features), fill)
