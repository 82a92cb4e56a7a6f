"""`partial_fit` where no learning rate is given: the safe steps of `fallline.online`, from the estimator's own weights on.

    score = x . w0 + b0 + (the score of a `SafeOnline` that starts from zero)

w0 and b0 are what the estimator began with: zeros, a fit's weights, or the user's own. What rows tell is added to them, and the
penalty pulls what was added. After a fit of n passes over m rows, steps have the length of row n m and those after it.

Dense rows are standardised by the rows so far. So are sparse rows of up to DENSE columns, which are learnt from as dense ones;
of wider ones a feature is divided by its root mean square where it is stored, and not centred, since a running mean would touch
every column in every row. A stream keeps the view of its first call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fallline.engines.linear import SafeOnline
from fallline.problems import LinearModel
from fallline.problems.arrays import is_sparse
from fallline.problems.losses import POISSON
from fallline.rules import SGD
from fallline.sklearn.data import rows_of

DENSE = 1024
"""Sparse rows of so many columns at most are learnt from as dense ones."""
BLOCK = 1 << 20
"""Numbers of sparse rows that are written out at a time."""


class Safe:
    """The learner of a stream without a learning rate.

    Args:
        model: the loss, features and outputs.
        rule: with the penalties.
        scaled: whether columns are standardised.
        sparse: whether the first rows are.
        dtype: of the weights that are shown.
        coef: [outputs, features]; intercept: [outputs]: w0 and b0.
        age: rows learnt before by a fit.
    """

    def __init__(self, model: LinearModel, rule: SGD, scaled: bool, sparse: bool, dtype: Any, coef: np.ndarray, intercept: np.ndarray, age: float):
        self.model, self.dtype = model, np.dtype(dtype)
        self.sparse = sparse and model.features > DENSE
        self.start = (np.array(coef, np.float64), np.array(intercept, np.float64)) if coef.any() or intercept.any() else None
        features = (0, model.features) if self.sparse else (model.features, 0)
        self.safe = SafeOnline(
            model.loss, features[0], model.outputs, sparse=features[1], weight_decay=float(rule.weight_decay), l1=float(rule.l1),
            scaled=scaled, intercept=model.intercept, age=age,
        )  # fmt: skip
        self._shown: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients [outputs, features] and intercepts [outputs] in the columns' own units; read-only."""
        if self._shown is None:
            safe, outputs = self.safe, self.model.outputs
            coef = (safe.sparse_coef if self.sparse else safe.coef).reshape(-1, outputs).T
            intercept = np.reshape(safe.intercept, outputs)
            if self.start is not None:
                coef, intercept = coef + self.start[0], intercept + self.start[1]
            self._shown = np.ascontiguousarray(coef, self.dtype), intercept.astype(self.dtype)
            for array in self._shown:
                array.flags.writeable = False  # a number written here would be lost
        return self._shown

    def learn(self, X: Any, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Learn from checked rows in their order.

        Args:
            X: [rows, features], dense or CSR.
            y: [rows] class indices or numbers, or [rows, outputs].
            weight: [rows], or None for 1.
        """
        self._shown = None
        rows = X.shape[0]
        weight = np.ones(rows) if weight is None else weight
        step = rows if self.sparse or not is_sparse(X) else max(BLOCK // self.model.features, 1)
        for a in range(0, rows, step):
            part, n = X[a : a + step], min(step, rows - a)
            offset = None if self.start is None else part @ self.start[0].T + self.start[1]
            numbers, entries = self._read(part)
            self.safe.rows(numbers, entries, y[a : a + n].reshape(n, -1), weight[a : a + n], offset)

    def _read(self, X: Any) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows as the kernels take them: numbers, and sparse entries."""
        from scipy.sparse import csr_array

        rows = X.shape[0]
        if not self.sparse:
            return (X.toarray() if is_sparse(X) else X), (np.zeros(rows + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))
        csr = rows_of(X if is_sparse(X) else csr_array(X))
        return np.empty((rows, 0)), (csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data.astype(np.float64))

    @property
    def is_quick(self) -> bool:
        """Whether `learn_one` knows this model."""
        return not self.sparse and self.start is None and self.model.loss.code != POISSON

    def learn_one(self, x: np.ndarray, y: float) -> bool:
        """`learn` for one dense row, weight 1; False where it cannot be learnt, and nothing was."""
        self._shown = None
        return self.safe.quickly(x, y)

    # --------------------------------------------------------------------------------------------- other models

    def grown(self, model: LinearModel, outputs: np.ndarray) -> None:
        """More classes: each new output a mixture [outputs, outputs before] of those there were."""
        self.model, self._shown = model, None
        self.safe.remade(outputs, model.loss)
        if self.start is not None:
            self.start = outputs @ self.start[0], outputs @ self.start[1]

    def goes_on(self, other: Safe) -> None:
        """Take over what another learner of this stream knows of the columns and of time."""
        if self.sparse == other.sparse:
            self.safe.goes_on(other.safe)
