"""Linear models with their training data: every loss of `losses`, each with its constructor.

    loss(w)     = (1/m) sum_i weight_i * loss(x_i . coef + intercept, y_i)
    gradient(w) = (1/m) sum_i weight_i * slope_i * x_i

over the m rows of a batch; sample weights are scaled once to mean 1 over the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fallline.errors import InvalidValue
from fallline.layout import Layout
from fallline.problems import arrays
from fallline.problems.losses import Loss
from fallline.problems.model import LinearModel, Weights
from fallline.problems.targets import target_of
from fallline.problems.unsound import unsound
from fallline.problems.view import Seen, View, column_squares, largest


@dataclass(frozen=True)
class MeanLoss(Loss):
    """A loss bound to a problem's rows: `problem.loss(w)` is its mean over them, `problem.loss(w, batch)` over a batch."""

    problem: LinearProblem | None = field(default=None, compare=False, repr=False)

    def __call__(self, w: np.ndarray, batch: np.ndarray | None = None) -> float:
        """Mean loss of the rows `batch` (all rows where it is None) at the flat weights `w`."""
        assert self.problem is not None
        return self.problem._mean(w, batch, None)[0]


@dataclass(frozen=True, eq=False, repr=False)
class LinearProblem:
    """A linear model with its training data; made by `logistic`, `softmax`, `least_squares`, `huber`, `hinge`, `poisson` ...

    Attributes:
        X: [rows, features], C-contiguous float32 or float64, or CSR with int64 indptr.
        target: X's type, [rows] (the class index where there are classes) or [rows, outputs].
        weight: [rows] with mean 1, or None.
        model: the model without the data.
        notes: sentences on what was converted on the way in.
        view: how the columns are seen (`standardized`), or None. X holds what is stored for it, and flat weights are of the columns
            as seen; `named` gives them in the columns' own units.
    """

    X: Any
    target: np.ndarray
    weight: np.ndarray | None
    model: LinearModel
    notes: tuple[str, ...] = field(default=())
    view: View | None = None
    convex: ClassVar[bool] = True
    """Every loss of `losses` is convex in the scores, and so in the weights."""

    @property
    def rows(self) -> int:
        return self.X.shape[0]

    @property
    def features(self) -> int:
        return self.X.shape[1]

    @property
    def outputs(self) -> int:
        return self.model.outputs

    @cached_property
    def loss(self) -> MeanLoss:
        """The loss of a row (`.name`, `.code`, `.value`, `.slope`); called with weights, its mean over the data."""
        return MeanLoss(self.model.loss.name, self.model.loss.parameter, self)

    @property
    def intercept(self) -> bool:
        return self.model.intercept

    @property
    def classes(self) -> np.ndarray | None:
        return self.model.classes

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self.model.feature_names

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def name(self) -> str:
        return self.model.loss.name

    @property
    def sparse(self) -> bool:
        return not isinstance(self.X, np.ndarray)

    def __repr__(self) -> str:
        kind = f"{self.X.nnz:,} non-zeros of " if self.sparse else ""
        seen = "" if self.view is None else ", standardized"
        return f"<{self.name} problem: {kind}{self.rows:,} rows x {self.features:,} features, {self.X.dtype}{seen}>"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the kind, shapes, types and bytes of the data, and of the classes."""
        digest = hashlib.sha256(repr(sorted(self.model.to_json().items(), key=lambda kv: kv[0])).encode())
        parts = [self.X.data, self.X.indices, self.X.indptr] if self.sparse else [self.X]
        for part in [*parts, self.target, *([] if self.weight is None else [self.weight])]:
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            step = max(1, arrays.CHUNK_BYTES // max(1, part[:1].nbytes))
            for a in range(0, len(part), step):
                digest.update(part[a : a + step].tobytes())
        if self.view is not None:
            digest.update(self.view.tobytes())
        return digest.hexdigest()

    def start(self) -> np.ndarray:
        """Zeros, float64 [layout.size]: a convex loss needs no other start."""
        return np.zeros(self.layout.size)

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None, *, chunk: int | None = None) -> tuple[float, np.ndarray]:
        """Mean loss and gradient in float64, computed in chunks of rows, so that memory is that of one chunk.

        Args:
            w: flat weights [layout.size].
            batch: row numbers (a row may occur more than once), or None for all rows.
            chunk: rows of one chunk; None takes 8 MB.

        >>> import fallline as fl
        >>> line = fl.least_squares([[1.0], [2.0]], [1.0, 2.0], intercept=False)
        >>> line.gradient(np.zeros(1))
        (1.25, array([-2.5]))
        """
        g = np.zeros(self.layout.size)
        loss, _ = self._mean(w, batch, g, chunk)
        return loss, g

    def _mean(
        self, w: np.ndarray, batch: Any, g: np.ndarray | None, chunk: int | None = None, scores: list[np.ndarray] | None = None
    ) -> tuple[float, np.ndarray | None]:
        """Mean loss; the gradient is added into `g` and the scores to `scores` where they are given. (Overflow is left
        to show as inf or NaN.)"""
        total, loss = 0.0, self.model.loss
        count = self.rows if batch is None else len(batch)
        w = np.asarray(w, np.float64)
        size = self.layout.parameters[0].size
        coef = w[:size].reshape(self.features, -1)
        with np.errstate(over="ignore", invalid="ignore"):
            for X, y, weight in self._chunks(batch, chunk):
                z = X @ coef + (w[size:] if self.intercept else 0.0)
                if scores is not None:
                    scores.append(z)
                y = loss.targets(y, self.outputs)
                value = loss.value(z, y)
                value = value.sum(axis=1) if value.ndim > 1 else value
                total += float(value.sum() if weight is None else value @ weight)
                if g is None:
                    continue
                slope = loss.slope(z, y)
                slope = slope if weight is None else slope * weight[:, None]
                g[:size] += (X.T @ slope).reshape(-1)
                if self.intercept:
                    g[size:] += slope.sum(axis=0)
            if g is not None:
                g /= count
        return total / count, g

    gradients_by_row = True
    """The norm of a row's gradient falls out of a batch's: |x_i| times its slopes."""

    def gradient_blocks(self, w: np.ndarray, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """Gradients of single rows, summed by block: dot products of the sums [J, J], sums of squared norms [J], mean loss.

        Args:
            w: flat weights [layout.size].
            blocks: row numbers, each [rows] or [rows, 1].
        """
        from fallline.problems import measured

        return measured.gradient_blocks(self, w, [np.asarray(block).reshape(-1) for block in blocks])

    def _chunks(self, batch: Any, chunk: int | None) -> Iterator[tuple[Any, np.ndarray, np.ndarray | None]]:
        """Rows, targets and weights in float64, a bounded number of rows at a time."""
        width = max(1, self.X.nnz // self.rows) if self.sparse else self.features
        step = chunk or max(1, arrays.CHUNK_BYTES // (8 * (width + self.outputs)))
        for a in range(0, self.rows if batch is None else len(batch), step):
            at = slice(a, a + step) if batch is None else batch[a : a + step]
            X = self._as_seen(self.X[at].astype(np.float64, copy=False))
            weight = None if self.weight is None else self.weight[at].astype(np.float64)
            yield X, self.target[at].astype(np.float64), weight

    def _as_seen(self, X: Any) -> Any:
        """Some of the rows of X as the view sees them: an operand of matrix products."""
        base = None if self.view is None or not self.sparse else self.view.base
        return X if base is None else Seen(X, base)

    def unsound(self, w: np.ndarray, batch: np.ndarray | None, seed: int, step: int) -> tuple[float, str, bool]:
        """The mean loss of rows at flat weights; the first column, score or loss that is not finite; whether the data are."""
        return (self._mean(w, batch, None)[0], *unsound(self, w, batch))

    def scores(self, weights: Weights, X: Any) -> np.ndarray:
        """x . coef + intercept of every row of `X`; see `LinearModel.scores`."""
        return self.model.scores(weights, X)

    def predict(self, weights: Weights, X: Any) -> np.ndarray:
        """Labels, numbers or rates of every row of `X`; see `LinearModel.predict`."""
        return self.model.predict(weights, X)

    def predict_proba(self, weights: Weights, X: Any) -> np.ndarray:
        """Probability of each class; see `LinearModel.predict_proba`."""
        return self.model.predict_proba(weights, X)

    def on(self, X: Any, y: Any, weights: Any = None) -> LinearProblem:
        """The same model on other data (for validation), with the same classes and features.

        Raises:
            InvalidValue: other features, or a label that is not among the classes.
        """
        data = self.model.rows(X)
        target = target_of(self.model.loss, y, data.shape[0], data.dtype, self.classes)[0]
        if target.shape[1:] != self.target.shape[1:]:
            raise InvalidValue(f"y has shape {target.shape}: expected {self.outputs} outputs, as in the training data")
        data = data if self.view is None else self.view.stored(data)
        return LinearProblem(data, target, arrays.sample_weights(weights, data.shape[0], data.dtype), self.model, view=self.view)

    def part(self, rows: np.ndarray) -> LinearProblem:
        """Some of the rows as a problem of their own, a copy; their weights scaled to mean 1."""
        weight = None if self.weight is None else self.weight[rows]
        if weight is not None and weight.mean() > 0:
            weight = np.ascontiguousarray(weight / weight.mean(), weight.dtype)
        X = arrays.matrix(self.X[rows]).X if self.sparse else np.ascontiguousarray(self.X[rows])
        return LinearProblem(X, np.ascontiguousarray(self.target[rows]), weight, self.model, view=self.view)

    def standardized(self, *, center: bool = True) -> LinearProblem:
        """The same rows with every column seen at mean 0 and standard deviation 1; sparse rows stay sparse.

        Law: x~ = (x - mean)/scale, of these rows, each counted by its weight; scale is 1 where a column does not vary. The descent is that of
        the dense matrix x~, to rounding, at the cost of the non-zeros. Weights of a run are in the columns' own units all the same:
        coef = w/scale, intercept = b - w.mean/scale. Validation data (X, y) stay as they are: `train` and `on` see them alike.

        Args:
            center: False divides only: a sparse column's zero stays 0 then, and an l1 penalty is exact at any number of features.

        Raises:
            InvalidValue: it is standardized already; or there is no intercept to take up the means.

        >>> import fallline as fl
        >>> from scipy.sparse import csr_array
        >>> fl.logistic(csr_array([[0.0, 4], [0, 0], [9, 0], [0, 4]]), [0, 0, 1, 1]).standardized()
        <logistic problem: 3 non-zeros of 4 rows x 2 features, float64, standardized>

        Source: scikit-learn's StandardScaler, which makes sparse rows dense or refuses them.
        """
        if self.view is not None:
            raise InvalidValue("the problem is standardized already: standardize the one that it was made from")
        if center and not self.intercept:
            raise InvalidValue("standardized(): centred columns need an intercept, which takes up their means; make the problem with intercept=True, or give center=False")
        view = View.of(self.X, self.weight, center)
        return replace(self, X=view.stored(self.X), view=view)

    # ------------------------------------------------------------------------------------------------ for `train`

    keeps_path = False

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that a run is measured by where none is named."""
        if not self.model.loss.classifies:
            return ("rmse", "r2")
        return ("accuracy", "log_loss") if self.model.loss.is_likelihood else ("accuracy",)

    def held_out(self, data: Any) -> LinearProblem:
        """Validation data (X, y), (X, y, weights) or a problem, with this problem's columns and classes.

        Raises:
            InvalidValue: data that do not fit.
        """
        from fallline.problems import measured

        return measured.held_out(self, data)

    def measure(self, point: np.ndarray, metrics: Any) -> tuple[float, list[float]]:
        """The mean loss and the metrics of this problem's rows at flat weights, in one pass over them."""
        from fallline.problems import measured

        scores: list[np.ndarray] | None = [] if metrics else None
        loss, _ = self._mean(point, None, None, scores=scores)
        return loss, measured.values(self, np.concatenate(scores), metrics) if scores else []

    def named(self, point: np.ndarray) -> Weights:
        """Flat weights by name and in shape, copies; in the columns' own units."""
        point = np.asarray(point)
        if self.view is not None:
            point = self._in_units(point, self.view.outside)
        return {name: np.array(value) for name, value in self.layout.split(point).items()}

    def placed(self, flat: np.ndarray) -> np.ndarray:
        """Flat weights of the columns as seen, from those in the columns' own units: where a descent starts."""
        return flat if self.view is None else self._in_units(flat, self.view.inside)

    def _in_units(self, flat: np.ndarray, change: Any) -> np.ndarray:
        size = self.layout.parameters[0].size
        coef, intercept = change(np.asarray(flat[:size], np.float64).reshape(self.features, -1), np.asarray(flat[size:], np.float64))
        return np.concatenate([coef.reshape(-1), intercept if self.intercept else flat[size:]])

    @cached_property
    def _scales(self) -> np.ndarray:
        total = np.zeros(self.features)
        with np.errstate(over="ignore"):
            for X, _, _ in self._chunks(None, None):
                total += column_squares(X)
        scales = np.sqrt(total / self.rows)
        huge = np.flatnonzero(~np.isfinite(scales))  # squares beyond float64
        if huge.size:
            parts = [X[:, huge].toarray() if self.sparse else X[:, huge] for X, _, _ in self._chunks(None, None)]
            peak = np.max([np.abs(part).max(axis=0) for part in parts], axis=0)
            scales[huge] = peak * np.sqrt(sum(np.square(part / peak).sum(axis=0) for part in parts) / self.rows)
        return scales

    @cached_property
    def _largest(self) -> float:
        return max((largest(X) for X, _, _ in self._chunks(None, None)), default=0.0)

    def largest(self) -> float:
        """The largest size of a number in X."""
        return self._largest

    def scales(self) -> np.ndarray:
        """Root mean square of each column, float64 [features]: an unscaled column stands out."""
        return self._scales

    def feature_name(self, column: int) -> str:
        """A column's name for messages: `'income'`, or `column 3` where columns have no names."""
        return arrays.column_name(self.feature_names, column)

    @property
    def curvature_rows(self) -> int:
        """Rows that a Hessian is taken over where there are more."""
        from fallline.problems import bending

        return bending.rows_for(self)

    def hessian(self, w: np.ndarray, batch: np.ndarray | None = None) -> Any:
        """A context whose value maps a direction u to H u, H the Hessian of the mean loss of some rows at flat weights."""
        from fallline.problems import bending

        return bending.hessian(self, w, batch)

    def smoothness(self, batch: np.ndarray | None = None) -> float | None:
        """An upper bound of the curvature at any weights; None for losses without one (hinge, Poisson)."""
        from fallline.problems import bending

        return bending.smoothness(self, batch)
