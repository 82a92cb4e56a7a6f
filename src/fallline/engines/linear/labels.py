"""What a label of an online model may be: a class, known or new, a class index, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.problems.losses import SOFTMAX, Loss


class Labels:
    """The labels of a model that learns row by row.

    With `classes`, a label that is not among them is a new class and gets the next index: the model then has one output more,
    whose weights are 0. Without, classes are their indices.

    Args:
        loss: which loss.
        outputs: scores of a row, where `classes` is None.
        classes: labels known at the start, perhaps none; or None.
    """

    def __init__(self, loss: Loss, outputs: int, classes: Sequence[Any] | None = None):
        self.classes: list[Any] | None = None if classes is None else list(dict.fromkeys(classes))
        self._softmax = loss.code == SOFTMAX
        self._places = {label: place for place, label in enumerate(self.classes or ())}
        self._most = outputs if self._softmax else max(outputs, 2)
        self._plain = None if not loss.classifies else range(self._most)
        self._outputs = outputs
        self._not_negative = loss.name == "poisson"
        if self.classes is None:
            if self._softmax and outputs < 2:
                raise InvalidValue(f"online('softmax', outputs={outputs}): expected at least 2 outputs, one for each class, or classes=[...] (may be empty: classes are added as they appear)")
            return
        if not loss.classifies:
            raise InvalidValue(f"online({loss.name!r}, classes=...): expected a loss of classes, such as softmax or logistic")
        if not self._softmax and len(self.classes) > 2:
            raise InvalidValue(f"online({loss.name!r}, classes of {len(self.classes)} labels): expected two at most; use softmax")
        if len(self.classes) < len(classes or ()):
            raise InvalidValue("classes= holds a label twice: keep one")

    @property
    def places(self) -> dict[Any, Any] | None:
        """What a kernel calls each label that may come as it is; None where that is any number; the rest is for `index`."""
        if self.classes is not None:
            return self._places
        if self._plain is not None:
            return {label: float(label) for label in self._plain}
        return {} if self._not_negative else None

    @property
    def outputs(self) -> int:
        """Scores of a row now."""
        return self._outputs if self.classes is None or not self._softmax else len(self.classes)

    @property
    def grows(self) -> bool:
        """Whether a new class is a new output."""
        return self.classes is not None and self._softmax

    def index(self, y: Any, row: int) -> Any:
        """A label as the kernels take it; a new class is added.

        Raises:
            InvalidValue: it is none.
        """
        if self.classes is not None:
            try:
                return self._places[y]
            except KeyError:
                return self._added(y, row)
            except TypeError:
                raise InvalidValue(f"y={y!r} at row {row}: expected a label, such as a string or a number") from None
        if self._plain is not None and y not in self._plain:
            raise InvalidValue(f"y={y!r} at row {row}: expected a class index from 0 to {self._most - 1}" + ("; classes that may appear later need classes=[]" if self._softmax else ""))
        if self._not_negative and not np.all(np.asarray(y) >= 0):
            raise InvalidValue(f"y={y!r} at row {row}: expected a count or rate of at least 0 for poisson")
        return y

    def _added(self, y: Any, row: int) -> int:
        assert self.classes is not None
        if y is None or y != y:
            raise InvalidValue(f"y={y!r} at row {row}: expected a label; a missing one is none")
        if not self._softmax and len(self.classes) == 2:
            raise InvalidValue(f"y={y!r} at row {row}: a third class beside {self.classes[0]!r} and {self.classes[1]!r}; use softmax")
        self.classes.append(y)
        self._places[y] = len(self.classes) - 1
        return self._places[y]

    def forget(self, outputs: int) -> None:
        """Only the first classes, as before a row that was refused."""
        assert self.classes is not None
        for label in self.classes[outputs:]:
            del self._places[label]
        del self.classes[outputs:]
