"""What the two estimators share: `fit`, the scores, and scikit-learn's protocols."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted, validate_data

from fallline.batches import Batches, InFile
from fallline.errors import NoClosedForm
from fallline.problems import Loss
from fallline.problems.arrays import is_sparse
from fallline.sklearn import data, fitting
from fallline.sklearn.callbacks import CallbackSupportMixin, watching
from fallline.sklearn.columns import Columns
from fallline.sklearn.kept import Kept
from fallline.sklearn.passes import Passes, threads_for
from fallline.sklearn.words import refuse, rule_of

WITH_MOMENTUM = 32
"""Rows of a batch where there is momentum: a velocity made of single rows is mostly noise."""
ROWS: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "order": "C"}
"""How rows are checked."""


@dataclass(frozen=True)
class Targets:
    """What a fit makes of y.

    Args:
        loss: the loss in use.
        y: targets as it takes them, [rows] or [rows, outputs].
        index: class indices, or None for numbers.
        outputs: scores of a row.
    """

    loss: Loss
    y: np.ndarray
    index: np.ndarray | None
    outputs: int

    def part(self, rows: np.ndarray) -> Targets:
        """Those of some rows."""
        return Targets(self.loss, self.y[rows], None if self.index is None else self.index[rows], self.outputs)


class Linear(CallbackSupportMixin, BaseEstimator):
    """A linear model of scikit-learn's kind. Use `GDClassifier` or `GDRegressor`."""

    def __new__(cls, *args: Any, **parameters: Any) -> Any:
        refuse(cls, parameters, TypeError)
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls.__signature__ = inspect.Signature(parameters)  # that of __new__ would say nothing

    def _keep(self, given: dict[str, Any]) -> None:
        """Keep an `__init__`'s parameters, which are its `locals()`, as they are: scikit-learn wants them written out in a signature,
        and nothing done to them."""
        self.__dict__.update((name, value) for name, value in given.items() if name != "self")

    def set_params(self, **params: Any) -> Any:
        """As everywhere in scikit-learn; SGDClassifier's words that are others here are refused by what took their place."""
        refuse(type(self), params, ValueError)
        return super().set_params(**params)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> Any:
        """Learn from rows, until a pass over them no longer gains.

        Args:
            X: [rows, features], dense or sparse; float32 and float64 stay what they are.
            y: [rows] labels, or numbers.
            coef_init, intercept_init: weights to start from, in the shapes of `coef_` and `intercept_`.
            sample_weight: [rows], not negative; scaled to mean 1. Rows of weight 0 are left out.
            X_val, y_val: rows held out by the caller: their score decides when the fit ends, and the best weights are kept.

        Returns:
            self
        """
        X, y = validate_data(self, X, y, y_numeric=not is_classifier(self), **ROWS)
        if sample_weight is not None:
            X, y, sample_weight = data.with_weight(X, y, sample_weight)
        targets = self._targets(y)
        weight = self._weight(sample_weight, targets)
        score, rows = self._held_out(X, y, targets, weight, X_val, y_val)
        watch = watching(self, X=X, y=y, metadata=None if sample_weight is None else {"sample_weight": sample_weight})
        if rows is not None:
            X, targets, weight = X[rows], targets.part(rows), None if weight is None else weight[rows]
        start, unit, floor = self._start(X.shape[1], targets, weight, coef_init, intercept_init)
        kept, rows = Kept.of(data.rows_of(X), start[0])
        columns = Columns.of(rows, weight, self.fit_intercept, self.scale not in (False, "standard"))
        problem = data.problem_of(targets.loss, columns.view(rows), targets.y, weight, targets.outputs, self.fit_intercept)
        if self.scale == "standard":
            problem, columns = Columns.standard(problem)
        batches, seed = self._batches(X), check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        passes = Passes(problem, rule_of(self, 1.0, 1 / (batches.size or problem.rows)), batches, seed, self.max_iter, threads_for(self.n_jobs))
        task = fitting.Task(
            passes, kept, columns, start, lr=None if self.lr == "auto" else float(self.lr), tol=self.tol if self.schedule is None or score else None,
            patience=self.n_iter_no_change, unit=unit, floor=floor, score=score, watch=watch, steady=self.schedule is not None, verbose=self.verbose > 0,
        )  # fmt: skip
        try:
            made = fitting.fit(task)
        except NoClosedForm as error:
            raise NoClosedForm(f"{error}. Here: scale=True, penalty='l2', or fit_intercept=False, with which columns are only divided") from None
        self._take(made, X.dtype, passes.per)
        watch.finished()
        return self

    # ------------------------------------------------------------------------------------------- the parts of a fit

    def _targets(self, y: np.ndarray) -> Targets:
        raise NotImplementedError

    def _weight(self, sample_weight: Any, targets: Targets) -> np.ndarray | None:
        raise NotImplementedError

    def _truth(self, y: Any) -> np.ndarray:
        """Held-out targets as `_score_of` takes them."""
        raise NotImplementedError

    def _score_of(self, scores: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> float:
        raise NotImplementedError

    def _held_out(
        self, X: Any, y: np.ndarray, targets: Targets, weight: np.ndarray | None, X_val: Any, y_val: Any
    ) -> tuple[Callable[[fitting.Weights], float] | None, np.ndarray | None]:
        """How weights are scored, or None; and the rows that are left to learn from, or None for all."""
        rows = own = None
        if (X_val is None) != (y_val is None):
            raise ValueError(f"{'X_val' if y_val is None else 'y_val'} without {'y_val' if y_val is None else 'X_val'}: give both, rows held out and their targets")
        if X_val is not None:
            X_val, y_val = validate_data(self, X_val, y_val, reset=False, y_numeric=not is_classifier(self), **ROWS)
        elif self.early_stopping:
            rows, held = data.held_apart(self.validation_fraction, len(y), targets.index, self.random_state)
            X_val, y_val, own = X[held], y[held], None if weight is None else weight[held]
            if own is not None and not own.any():
                raise ValueError("The sample weights for validation set are all zero, consider using a different random state.")
        else:
            return None, None
        truth = self._truth(y_val)
        return lambda w: self._score_of(safe_sparse_dot(X_val, w[0], dense_output=True) + w[1], truth, own), rows

    def _batches(self, X: Any) -> Batches:
        order = {} if self.shuffle else {"order": InFile()}
        if isinstance(self.batch_size, Batches):
            return self.batch_size
        if self.batch_size == "full":
            return Batches.full()
        if self.batch_size == "auto":
            return Batches(min(WITH_MOMENTUM, X.shape[0]) if self.momentum else 1, **order)
        return Batches(int(self.batch_size), **order)

    def _start(self, features: int, targets: Targets, weight: np.ndarray | None, coef: Any, intercept: Any) -> tuple[fitting.Weights, float, float]:
        """Weights to start from, the unit of the loss, and the least that it could be."""
        shape = (features, targets.outputs)
        constant, unit, floor = (0.0, 1.0, 0.0) if targets.index is not None else data.best_constant(targets.loss, targets.y, weight)
        if self.warm_start and hasattr(self, "coef_"):
            coef, intercept = self.coef_ if coef is None else coef, self.intercept_ if intercept is None else intercept
        first = np.zeros(shape) if coef is None else _given("coef_init", coef, shape)
        shift = np.full(shape[1], constant if self.fit_intercept else 0.0) if intercept is None else _given("intercept_init", intercept, (1, shape[1]))[0]
        return (first, shift), max(unit, float(np.finfo(np.float32).tiny)), floor

    def _take(self, made: fitting.Fitted, dtype: Any, updates: int) -> None:
        coef, intercept = self._shaped(*made.weights)
        self.coef_, self.intercept_ = coef.astype(dtype, copy=False), intercept.astype(dtype, copy=False)
        self.n_iter_, self.lr_, self.loss_curve_ = len(made.losses), made.lr, made.losses
        self.t_ = 1 + self.n_iter_ * updates
        self.__dict__.pop("validation_curve_", None)
        self.__dict__.pop("_learner", None)
        if made.scores:
            self.validation_curve_ = made.scores

    def _shaped(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients and intercepts in the shapes of `coef_` and `intercept_`."""
        return np.ascontiguousarray(coef.T if is_classifier(self) else coef[:, 0]), np.atleast_1d(intercept)

    # ------------------------------------------------------------------------------------------------- afterwards

    def _scores(self, X: Any) -> np.ndarray:
        """x . coef + intercept, [rows, outputs]."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=[np.float64, np.float32])
        coef = self.coef_ if self.coef_.ndim == 2 else self.coef_.reshape(1, -1)
        return safe_sparse_dot(X, coef.T, dense_output=True) + self.intercept_

    def export(self, path: Any) -> Any:
        """Write the model as an ONNX file: `X` [rows, features] in, `prediction` (and `probabilities`) out.

        Args:
            path: FILE.onnx.

        Returns:
            Checked: how far the file agrees, by onnxruntime where that is installed.
        """
        from fallline.export import export
        from fallline.sklearn.exporting import exported

        return export(exported(self), path)

    def sparsify(self) -> Any:
        """Keep `coef_` as a SciPy sparse matrix: for an l1 penalty that has left few. Predictions go on; learning needs `densify()`."""
        from scipy.sparse import csr_matrix

        check_is_fitted(self)
        self.coef_ = csr_matrix(self.coef_)
        return self

    def densify(self) -> Any:
        """Keep `coef_` as an array again."""
        check_is_fitted(self)
        if not isinstance(self.coef_, np.ndarray):
            self.coef_ = np.asarray(self.coef_.todense()) if is_classifier(self) else np.asarray(self.coef_.todense())[0]
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _given(name: str, values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Weights to start from, as float64 `shape` [features or 1, outputs].

    Raises:
        ValueError: of another shape, or not finite.
    """
    array = values.toarray() if is_sparse(values) else np.asarray(values, np.float64)
    expected = {(shape[1], shape[0])} | ({(shape[0],), (shape[1],)} if 1 in shape else set()) | ({()} if shape == (1, 1) else set())
    if array.shape not in expected or array.size != shape[0] * shape[1]:
        raise ValueError(f"{name} has shape {array.shape}: expected {(shape[1], shape[0]) if name == 'coef_init' else (shape[1],)}, as of these rows and classes")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite: expected numbers")
    return np.ascontiguousarray(array.reshape(shape[1], shape[0]).T, np.float64)
