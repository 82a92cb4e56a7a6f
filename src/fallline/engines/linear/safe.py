"""Learning from rows as they come without a learning rate: any scale of columns, any weight of rows, never too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fallline.compiled import announced
from fallline.engines.linear import safe_kernels as k
from fallline.engines.linear.labels import Labels
from fallline.errors import InvalidValue
from fallline.problems.losses import POISSON, SOFTMAX, Loss

_NO_COLUMNS, _NO_VALUES, _ONE_ROW = np.zeros(0, np.int64), np.zeros(0), np.zeros(2, np.int64)


class SafeOnline:
    """A linear model that learns from rows as they come, by safe steps. Made by `online`.

    Law (`safe_plain` writes it out): the row is seen through a *view* that standardises every column by the mean and deviation
    of the rows so far, this one among them; a sparse entry is divided by the root mean square of its feature instead, so that a
    zero costs nothing. Then the model goes where gradient descent in infinitely many small steps on this row alone would go
    (`flow`), at the rate (1/L) / sqrt(N^2 + N t): L is the loss's largest curvature, N the mean squared length of a row, t how
    often the feature was seen. So

    - columns in other units, or with other zeros, give the same predictions, and least squares follows the target's units too;
    - a row never moves its own score past its target, whatever its size or weight;
    - a row of weight 2 does what two of weight 1 do, but for what the second one tells the view.

    Attributes:
        step: rows learnt so far.
        classes: the labels, where `classes=` was given.
    """

    def __init__(self, loss: Loss, features: int, outputs: int, *, sparse: int = 0, rate: float = 1.0, classes: Sequence[Any] | None = None):
        self.step, self.loss, self.rate = 0, loss, rate
        self._labels = Labels(loss, outputs, classes)
        outputs = self._labels.outputs
        self._dense = np.zeros((k.WEIGHTS + outputs, features))
        self._slots = np.zeros((sparse, k.PARTS + outputs))
        self._b, self._totals = np.zeros(outputs), np.zeros(2)
        self._code, self._parameter, self._rate = loss.code, float(loss.parameter), rate / (loss.curvature or 1.0)
        self._compiled = False
        self._rooms()

    def _rooms(self) -> None:
        """Room for one row."""
        outputs, features = len(self._b), self._dense.shape[1]
        self._x, self._y, self._h = np.zeros((1, features)), np.zeros((1, 1 if self.loss.code == SOFTMAX else outputs)), np.ones(1)
        self._z, self._out = np.zeros((2, features)), np.zeros((1, 1 + outputs))

    # ------------------------------------------------------------------------------------------------ the model

    @property
    def classes(self) -> list[Any] | None:
        return self._labels.classes

    @property
    def features(self) -> int:
        return self._dense.shape[1]

    @property
    def outputs(self) -> int:
        return len(self._b)

    @property
    def sparse(self) -> int:
        return len(self._slots)

    @property
    def base(self) -> np.ndarray:
        """The intercepts beside `view_coef`, (outputs,)."""
        return self._b.copy()

    @property
    def means(self) -> np.ndarray:
        """Mean of each column so far, (features,)."""
        return self._dense[k.MEAN].copy()

    @property
    def deviations(self) -> np.ndarray:
        """Standard deviation of each column so far, (features,); 0 where it was constant."""
        seen = self._dense[k.SEEN]
        found = np.sqrt(self._dense[k.SPREAD] / np.where(seen > 0, seen, 1))
        return np.where(found > k.FLAT * np.abs(self._dense[k.MEAN]), found, 0.0)

    @property
    def scales(self) -> np.ndarray:
        """Root mean square of each sparse feature where it was seen, (sparse,); 0 where it never was."""
        return np.sqrt(self._slots[:, k.SQUARE] / np.maximum(self._slots[:, k.KNOWN], 1e-300))

    @property
    def view_coef(self) -> np.ndarray:
        """Coefficients of the standardised columns, [features, outputs]."""
        return self._dense[k.WEIGHTS :].T.copy()

    @property
    def coef(self) -> np.ndarray:
        """Coefficients in the columns' own units: (features,), or [features, outputs] of a softmax or several outputs."""
        scale = self.deviations
        return self._shaped(self.view_coef / np.where(scale > 0, scale, np.inf)[:, None])

    @property
    def sparse_coef(self) -> np.ndarray:
        """Coefficients of the sparse features in their own units: (sparse,), or [sparse, outputs]."""
        scale = self.scales
        return self._shaped(self._slots[:, k.PARTS :] / np.where(scale > 0, scale, np.inf)[:, None])

    @property
    def intercept(self) -> np.ndarray:
        """The constant beside `coef`: () or (outputs,)."""
        scale = self.deviations
        shift = (self._dense[k.MEAN] / np.where(scale > 0, scale, np.inf)) @ self._dense[k.WEIGHTS :].T
        whole = self._b - shift
        return whole[0] if len(whole) == 1 and self.loss.code != SOFTMAX else whole

    def _shaped(self, coef: np.ndarray) -> np.ndarray:
        return coef[:, 0] if coef.shape[1] == 1 and self.loss.code != SOFTMAX else coef

    # --------------------------------------------------------------------------------------------------- rows

    def score(self, x: Any, *, sparse: Any = None) -> float | np.ndarray:
        """The model's score of one row, in the view of the rows so far.

        Args:
            x: (features,) numbers, NaN where missing.
            sparse: (indices, values) of the row's sparse entries.
        """
        self._check_outputs()
        out = self._taken(x, 0.0, sparse, 0.0)[0, 1:]
        return out.copy() if len(out) > 1 or self.loss.code == SOFTMAX else float(out[0])

    def learn(self, x: Any, y: Any, *, sparse: Any = None, weight: float = 1.0) -> float:
        """Learn from one row; returns its loss before the update.

        Args:
            x: (features,) numbers, NaN where missing: nothing is learnt of such a column, and its mean stands in.
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
        before, index = len(self._b), self._labels.index(y, self.step)
        if self._labels.outputs != before:
            self._resize(self._labels.outputs)
        try:
            loss = float(self._taken(x, index, sparse, weight)[0, 0])
        except InvalidValue:
            if len(self._b) != before:  # a class that came with a row that was refused is none
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
        known = np.array([self._labels.index(label, self.step + i) for i, label in enumerate(y)], np.float64).reshape(len(X), self._y.shape[1])
        h = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
        self.widen(outputs=self._labels.outputs)
        starts, columns, values = np.zeros(len(X) + 1, np.int64), _NO_COLUMNS, _NO_VALUES
        if sparse is not None:
            starts, columns, values = sparse.indptr.astype(np.int64), sparse.indices.astype(np.int64), sparse.data.astype(np.float64)
        return self.rows(X, (starts, columns, values), known, h)[:, 0]

    def rows(self, X: np.ndarray, entries: tuple[np.ndarray, np.ndarray, np.ndarray], y: np.ndarray, h: np.ndarray) -> np.ndarray:
        """As `learn_many`, of arrays that are ready: float64 X, CSR (int64, int64, float64, written over), y [rows, 1 or outputs]
        of class indices below `outputs`, weights. Returns losses and scores, [rows, 1 + outputs]."""
        self._check_outputs()
        if X.ndim != 2 or X.shape[1] != self.features:
            raise InvalidValue(f"X has shape {X.shape}: expected [rows, {self.features}]")
        out = np.empty((len(X), 1 + len(self._b)))
        done = self._kernel(X, entries, y, h, self._z, out)
        self.step += int(done)
        if done < len(X):
            e = slice(entries[0][done], entries[0][done + 1])
            raise self._refused(X[done], y[done], h[done], entries[1][e], entries[2][e])
        return out

    def _taken(self, x: Any, y: Any, sparse: Any, weight: float) -> np.ndarray:
        """One row through the kernel."""
        entries = (_ONE_ROW, _NO_COLUMNS, _NO_VALUES)
        try:
            if len(x) != self._x.shape[1]:  # one number would be spread over all features
                raise ValueError
            self._x[0], self._y[0], self._h[0] = x, y, weight
            if sparse is not None:
                columns, values = np.array(sparse[0], np.int64), np.array(sparse[1], np.float64)
                if columns.shape != values.shape or columns.ndim != 1:
                    raise InvalidValue(f"row {self.step}: sparse= expects (indices, values) of one length, got shapes {columns.shape} and {values.shape}")
                entries = (np.array([0, len(columns)]), columns, values)
        except (ValueError, TypeError) as error:
            if isinstance(error, InvalidValue):
                raise
            raise InvalidValue(f"row {self.step}: expected {self._x.shape[1]} numbers and one target, got x of shape {np.shape(x)} and y={y!r}") from None
        if not self._kernel(self._x, entries, self._y, self._h, self._z, self._out):
            raise self._refused(self._x[0], self._y[0], weight, *entries[1:])
        return self._out

    def _kernel(self, X, entries, y, h, z, out) -> int:
        given = (*entries, y, h, self._code, self._parameter, self._rate, self._dense, self._slots, self._b, self._totals, z, out)
        if self._compiled:
            return k.safe(X, *given)
        with announced():
            self._compiled = True
            return k.safe(X, *given)

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
        if not len(self._b):
            raise InvalidValue("the model knows no class yet: learn a row first, or give classes=")

    def _resize(self, outputs: int) -> None:
        """Room for classes that have appeared, their weights and intercepts 0; or for fewer again."""
        more = max(outputs - len(self._b), 0)
        self._dense = np.vstack([self._dense[: k.WEIGHTS + outputs], np.zeros((more, self._dense.shape[1]))])
        self._slots = np.hstack([self._slots[:, : k.PARTS + outputs], np.zeros((len(self._slots), more))])
        self._b = np.append(self._b[:outputs], np.zeros(more))
        self._rooms()

    def widen(self, *, sparse: int = 0, outputs: int = 0) -> None:
        """Room for more sparse features, or for classes that have been added to `classes`."""
        if outputs > len(self._b) and self._labels.grows:
            self._resize(outputs)
        if sparse > len(self._slots):
            size = max(sparse, min(2 * len(self._slots), sparse + (1 << 16)))
            self._slots = np.vstack([self._slots, np.zeros((size - len(self._slots), self._slots.shape[1]))])

    # ------------------------------------------------------------------------------------------------- on disk

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that it has learnt, copies; `restore` is its inverse."""
        return {"dense": self._dense.copy(), "slots": self._slots.copy(), "b": self._b.copy(), "totals": self._totals.copy()}

    def restore(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on where `arrays` were taken, `step` rows in.

        Raises:
            InvalidValue: arrays of another model.
        """
        outputs = self._labels.outputs
        expected = {"dense": (k.WEIGHTS + outputs, self.features), "slots": (len(self._slots), k.PARTS + outputs), "b": (outputs,), "totals": (2,)}
        for name, shape in expected.items():
            if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != np.float64:
                raise InvalidValue(f"the state's array {name!r} is not float64 {list(shape)}: it is of another model")
        self.step = step
        self._dense, self._slots, self._b, self._totals = (arrays[name].copy() for name in expected)
        self._rooms()

    def __repr__(self) -> str:
        sparse = f", sparse={len(self._slots)}" if len(self._slots) else ""
        return f"<online {self.loss.name}, features={self.features}{sparse}, outputs={self.outputs}, rows learnt: {self.step:,}>"


def safe_online(loss: Loss, features: int, outputs: int, sparse: int, rate: float, classes: Sequence[Any] | None) -> SafeOnline:
    """A `SafeOnline` of checked values; see `online`.

    Raises:
        InvalidValue: a loss without a flow, or a number that cannot stand.
    """
    from fallline.engines.linear.flow import KNOWN

    if loss.code not in (*KNOWN, SOFTMAX):
        raise InvalidValue(f"online({loss.name!r}): this loss has no safe step: give optimizer=, such as fl.SGD(lr=0.01)")
    if loss.code == POISSON and outputs > 1:
        raise InvalidValue("online('poisson', outputs>1): expected one output")
    if isinstance(rate, bool) or not (isinstance(rate, (int, float)) and 0 < rate < np.inf):
        raise InvalidValue(f"online(rate={rate!r}): expected a number above 0; 1 is the safe default")
    return SafeOnline(loss, features, outputs, sparse=sparse, rate=float(rate), classes=classes)
