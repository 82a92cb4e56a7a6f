"""Learning from rows as they come without a learning rate: any scale of columns, any weight of rows, never too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import ArgumentError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines.linear import safe_kernels as k
from fallline.engines.linear.labels import Labels
from fallline.engines.linear.named import Named
from fallline.engines.linear.safe_state import SafeState
from fallline.errors import InvalidValue
from fallline.problems.losses import POISSON, SOFTMAX, Loss

_NO_COLUMNS, _NO_VALUES = np.zeros(0, np.int64), np.zeros(0)
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Sparse entries in CSR: starts and columns int64, values float64."""


class SafeOnline(SafeState):
    """A linear model that learns from rows as they come, by safe steps. Made by `online`.

    Law (`safe_plain` writes it out): the row is seen through a *view* that standardises every column by the mean and deviation
    of the rows so far, this one among them; a sparse entry is divided by the root mean square of its feature instead, so that a
    zero costs nothing. Then the model goes where gradient descent in infinitely many small steps on this row alone would go
    (`flow`), at the rate (1/L) / sqrt(N^2 + N t): L is the loss's largest curvature, N the mean squared length of a row, t how
    often the feature was seen. Where a loss has no curvature of one size, 1/L is the mean of |y - score| so far (quantile,
    epsilon_insensitive), that over delta where it is above 1 (huber), or one over the mean of y, or its root if below 1 (poisson). So

    - columns in other units, or with other zeros, give the same predictions, and least squares and quantiles follow the target's units too;
    - a row never moves its own score past its target, whatever its size or weight;
    - a row of weight 2 does what two of weight 1 do, but for what the second one tells the view and the mean.

    A penalty pulls the weights *in the view*, so that it means the same for every column: each row's step is followed by the flow of
    weight_decay/2 ||w||^2 + l1 ||w||_1 for the time that the step took. A sparse feature that is absent is pulled on at its last rate,
    settled when it comes again or is asked for.

    Attributes:
        step: rows learnt so far.
        classes: the labels, where `classes=` was given.
    """

    def __init__(self, loss: Loss, features: int | Named, outputs: int, *, classes: Sequence[Any] | None = None, **more: Any):
        self._labels = Labels(loss, outputs, classes)
        self._features = features if isinstance(features, Named) else Named(features, np.nan)
        super().__init__(loss, self._features.count, self._labels.outputs, **more)
        self._furnish()

    def _furnish(self) -> None:
        """Room for one row, and where everything lies."""
        for name in ("_law", "_dense", "_slots", "_b", "_totals"):  # written through their addresses: never into a read-only map
            held = getattr(self, name)
            if not (held.flags.c_contiguous and held.flags.writeable and held.flags.aligned):
                setattr(self, name, np.array(held, order="C"))
        self._rooms = room = _Rooms(self.features, self.outputs, self._targets)
        self._task = task = np.zeros(k.FIELDS, np.int64)
        placed = {
            k.AT_X: room.x, k.AT_STARTS: room.starts, k.AT_COLUMNS: room.columns, k.AT_VALUES: room.values, k.AT_Y: room.y, k.AT_WEIGHT: room.h,
            k.AT_LAW: self._law, k.AT_DENSE: self._dense, k.AT_SLOTS: self._slots, k.AT_B: self._b, k.AT_TOTALS: self._totals, k.AT_Z: room.z, k.AT_OUT: room.out,
        }  # fmt: skip
        for place, array in placed.items():
            task[place] = array.ctypes.data
        task[[k.ROWS, k.FEATURES, k.OUTPUTS, k.SLOTS, k.PARTS, k.TARGETS]] = 1, self.features, self.outputs, *self._slots.shape, self._targets
        self._address, self._x = task.ctypes.data, room.x[0]
        self._width, (self._several, self._one, _) = len(self._x), k.calls()
        self._known = self._labels.places if self._targets == 1 and self.outputs else {}

    @property
    def _targets(self) -> int:
        """Targets of a row."""
        return 1 if self.loss.classifies else self.outputs

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rooms", "_task", "_x", "_known", "_several", "_one")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._furnish()

    @property
    def classes(self) -> list[Any] | None:
        return self._labels.classes

    # --------------------------------------------------------------------------------------------------- rows

    def score(self, x: Any, *, sparse: Any = None) -> float | np.ndarray:
        """The model's score of one row, in the view of the rows so far.

        Args:
            x: (features,) numbers, NaN where missing; or a dict of them by name.
            sparse: (indices, values) of the row's sparse entries.
        """
        x = self._features.row(x, self.step) if type(x) is dict else x
        self._check_outputs()
        out = self._taken(x, 0.0, sparse, 0.0)[0, 1:]
        return out.copy() if len(out) > 1 or self.loss.code == SOFTMAX else float(out[0])

    def learn(self, x: Any, y: Any, *, sparse: Any = None, weight: float = 1.0) -> float:
        """Learn from one row; returns its loss before the update.

        Args:
            x: (features,) numbers, NaN where missing: nothing is learnt of such a column, and its mean stands in; or a dict of them by name.
            y: the label, one of `classes` or a new one; 0 or 1, a class index or a number where no classes were given.
            sparse: (indices, values) of the row's sparse entries.
            weight: how often the row counts; 0 predicts only.

        Raises:
            InvalidValue: a row of another length, a number that is infinite or beyond 1e140, or a label that is none; nothing
                was applied.

        >>> from fallline import online
        >>> model = online("logistic", features=2)
        >>> rows = [([1e-6, 2e6], 0), ([3e-6, 1e6], 1)] * 50
        >>> losses = [model.learn(x, y) for x, y in rows]
        >>> round(losses[0], 4), losses[-1] < 0.05
        (0.6931, True)
        """
        if type(x) is dict:
            x = self._features.row(x, self.step)
        if sparse is None:  # all that is usual, in one call of compiled code; what is odd is told below
            try:
                if len(x) == self._width:
                    known = self._known
                    self._x[:] = x
                    loss = self._one(self._address, y if known is None else known[y], weight)
                    if loss == loss:
                        self.step += 1
                        return loss
            except (KeyError, ValueError, TypeError, ArgumentError):
                pass
        return self._learn(x, y, sparse, weight)

    def _learn(self, x: Any, y: Any, sparse: Any, weight: float) -> float:
        before, index = self.outputs, self._labels.index(y, self.step)
        if self._labels.outputs != before:
            self._resize(self._labels.outputs)
        try:
            loss = float(self._taken(x, index, sparse, weight)[0, 0])
        except InvalidValue:
            if self.outputs != before:  # a class that came with a row that was refused is none
                self._labels.forget(before)
                self._resize(before)
            raise
        self.step += 1
        return loss

    def learn_many(self, X: Any, y: Any, *, sparse: Any = None, weight: Any = None) -> np.ndarray:
        """Learn from rows in their order, as `learn` would one by one; returns each row's loss before its update, float64 (rows,).

        Args:
            X: [rows, features] numbers; anything of width 0 where there are none.
            y: [rows] as in `learn`.
            sparse: [rows, sparse] in CSR, or None.
            weight: [rows], or None for 1.

        Raises:
            InvalidValue: as `learn`; the rows before that one have been learnt.
        """
        X = np.ascontiguousarray(X, np.float64)
        known = np.array([self._labels.index(label, self.step + i) for i, label in enumerate(y)], np.float64)
        h = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
        self.widen(outputs=self._labels.outputs)
        entries = (np.zeros(len(X) + 1, np.int64), _NO_COLUMNS, _NO_VALUES) if sparse is None else entries_of(sparse)
        return self.rows(X, entries, known.reshape(len(X), self._targets), h)[:, 0]

    def rows(self, X: np.ndarray, entries: Entries, y: np.ndarray, h: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
        """As `learn_many`, of arrays that are ready.

        Args:
            X: [rows, features] float64.
            entries: sparse entries; the values are written over.
            y: [rows, 1] class indices below `outputs`, or [rows, outputs].
            h: [rows] weights.
            offset: [rows, outputs] scores that are added to the model's, or None.

        Returns:
            losses and scores, [rows, 1 + outputs].
        """
        self._check_outputs()
        rows = len(X)
        if X.ndim != 2 or X.shape[1] != self.features:
            raise InvalidValue(f"X has shape {X.shape}: expected [rows, {self.features}]")
        given = {k.AT_X: X, k.AT_Y: y, k.AT_WEIGHT: h, k.AT_OUT: np.empty((rows, 1 + self.outputs)), k.AT_OFFSET: np.empty((0, self.outputs)) if offset is None else offset}
        given = {place: np.ascontiguousarray(array, np.float64) for place, array in given.items()}
        given |= dict(zip((k.AT_STARTS, k.AT_COLUMNS, k.AT_VALUES), map(np.ascontiguousarray, entries), strict=True))
        expected = {k.AT_Y: (rows, self._targets), k.AT_WEIGHT: (rows,), k.AT_OFFSET: (0 if offset is None else rows, self.outputs), k.AT_STARTS: (rows + 1,)}
        for place, shape in expected.items():  # addresses are followed blindly
            if given[place].shape != shape:
                raise InvalidValue(f"an array of shape {given[place].shape}: expected {shape}, as of these rows")
        starts, columns, values = entries
        if any(a.dtype != d for a, d in zip(entries, (np.int64, np.int64, np.float64), strict=True)) or not len(columns) == len(values) >= starts[-1]:
            raise InvalidValue("sparse entries: expected int64 starts, int64 columns and float64 values, the last two of one length")
        if self.loss.classifies and rows and not (y.min() >= 0 and y.max() < (self.outputs if self.loss.code == SOFTMAX else max(self.outputs, 2))):
            raise InvalidValue(f"y holds {y.min():g} to {y.max():g}: expected class indices below {max(self.outputs, 2)}")
        task = self._task.copy()
        for place, array in given.items():
            task[place] = array.ctypes.data
        task[k.ROWS], task[k.OFFSETS] = rows, len(given[k.AT_OFFSET])
        done = self._several(task.ctypes.data)
        self.step += done
        if done < rows:
            e = slice(entries[0][done], entries[0][done + 1])
            raise self._refused(X[done], y[done], h[done], entries[1][e], entries[2][e])
        return given[k.AT_OUT]

    def quickly(self, x: np.ndarray, y: float) -> bool:
        """Learn from a row of `features` numbers, weight 1, and a target as the kernels take it; False where it was refused."""
        self._x[:] = x
        loss = self._one(self._address, y, 1.0)
        if loss != loss:
            return False
        self.step += 1
        return True

    def _taken(self, x: Any, y: Any, sparse: Any, weight: float) -> np.ndarray:
        """One row through the kernel: loss and scores, until the next row."""
        room, columns, values = self._rooms, _NO_COLUMNS, _NO_VALUES
        try:
            if len(x) != self._width:  # one number would be spread over all features
                raise ValueError
            room.x[0], room.y[0], room.h[0] = x, y, weight
            if sparse is not None:
                columns, values = np.array(sparse[0], np.int64), np.array(sparse[1], np.float64)
        except (ValueError, TypeError):
            raise InvalidValue(f"row {self.step}: expected {self._width} numbers and one target, got x of shape {np.shape(x)} and y={y!r}") from None
        if columns.shape != values.shape or columns.ndim != 1:
            raise InvalidValue(f"row {self.step}: sparse= expects (indices, values) of one length, got shapes {columns.shape} and {values.shape}")
        self._enter(columns, values)
        try:
            if not self._several(self._address):
                raise self._refused(room.x[0], room.y[0], weight, columns, values)
        finally:
            room.starts[1] = 0
        return room.out

    def _enter(self, columns: np.ndarray, values: np.ndarray) -> None:
        """A row's sparse entries, into the room."""
        room, count = self._rooms, len(columns)
        if count > len(room.columns):
            room.columns, room.values = np.zeros(2 * count, np.int64), np.zeros(2 * count)
            self._task[k.AT_COLUMNS], self._task[k.AT_VALUES] = room.columns.ctypes.data, room.values.ctypes.data
        room.columns[:count], room.values[:count], room.starts[1] = columns, values, count

    def _refused(self, x: np.ndarray, y: np.ndarray, weight: float, columns: np.ndarray, values: np.ndarray) -> InvalidValue:
        where = f"row {self.step}"
        for j in np.flatnonzero(np.abs(x) > k.LARGEST):
            return InvalidValue(f"{where}: feature {j} is {x[j]:g}: expected a number up to {k.LARGEST:g}, or NaN where it is missing")
        for column, value in zip(columns, values, strict=True):
            if not 0 <= column < len(self._slots):
                return InvalidValue(f"{where}: sparse index {column}: expected 0 to {len(self._slots) - 1} (the model was made with sparse={len(self._slots)})")
            if not abs(value) <= k.LARGEST:
                return InvalidValue(f"{where}: sparse feature {column} is {value:g}: expected a number up to {k.LARGEST:g}")
        if not 0 <= weight <= k.LARGEST:
            return InvalidValue(f"{where}: weight={weight:g}: expected a number of at least 0")
        return InvalidValue(f"{where}: y={y[0]:g}: expected a number up to {k.LARGEST:g}")

    def _check_outputs(self) -> None:
        if not self.outputs:
            raise InvalidValue("the model knows no class yet: learn a row first, or give classes=")

    # ----------------------------------------------------------------------------------------------- other sizes

    def remade(self, outputs: np.ndarray, loss: Loss | None = None) -> None:
        super().remade(outputs, loss)
        self._furnish()

    def _resize(self, outputs: int) -> None:
        """Room for classes that have appeared, their weights and intercepts 0; or for fewer again."""
        self.remade(np.eye(outputs, self.outputs))

    def widen(self, *, sparse: int = 0, outputs: int = 0) -> None:
        """Room for more sparse features, or for classes that have been added to `classes`."""
        if outputs > self.outputs and self._labels.grows:
            self._resize(outputs)
        if sparse > len(self._slots):
            self._lengthened(sparse)
            self._furnish()

    def restore(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on where `arrays` were taken, `step` rows in.

        Raises:
            InvalidValue: arrays of another model.
        """
        self._restored(step, arrays, self._labels.outputs)
        self._furnish()

    def __repr__(self) -> str:
        sparse = f", sparse={len(self._slots)}" if len(self._slots) else ""
        return f"<online {self.loss.name}, features={self.features}{sparse}, outputs={self.outputs}, rows learnt: {self.step:,}>"


@dataclass
class _Rooms:
    """Room for one row."""

    features: int
    outputs: int
    targets: int
    starts: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    columns: np.ndarray = field(default_factory=lambda: np.zeros(8, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(8))
    h: np.ndarray = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        self.x, self.y = np.zeros((1, self.features)), np.zeros((1, self.targets))
        self.z, self.out = np.zeros((3, self.features)), np.zeros((1, 1 + self.outputs))


def entries_of(csr: Any) -> Entries:
    """A CSR matrix as the kernels take it; its values copied."""
    return csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data.astype(np.float64)


def safe_online(loss: Loss, features: Named, outputs: int, sparse: int, classes: Sequence[Any] | None, **numbers: float) -> SafeOnline:
    """A `SafeOnline` of checked values; see `online`.

    Raises:
        InvalidValue: a number that cannot stand.
    """
    if loss.code == POISSON and outputs > 1:
        raise InvalidValue("online('poisson', outputs>1): expected one output")
    for name, value in numbers.items():
        good = not isinstance(value, bool) and isinstance(value, (int, float, np.number)) and (value > 0 or (value == 0 and name != "rate")) and value < np.inf
        if not good:
            raise InvalidValue(f"online({name}={value!r}): expected a number {'above 0; 1 is the safe default' if name == 'rate' else 'of at least 0'}")
    return SafeOnline(loss, features, outputs, sparse=sparse, classes=classes, **{name: float(value) for name, value in numbers.items()})
