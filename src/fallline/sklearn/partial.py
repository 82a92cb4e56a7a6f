"""`partial_fit`: what a call is given, checked; classes that appear later; the way to the learner.

Without a learning rate the learner makes safe steps (`safe`), with one the plain engine descends (`stream`).

A new class gets a column of zeros, at its sorted place. Where there were two classes and so one column w, telling the second from
the first, they become (-w/2, w/2) under the softmax and (-w, w) each against the rest: what the model said of the two, it says still.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import _check_sample_weight, validate_data

from fallline.problems import LinearModel, Loss
from fallline.problems.arrays import is_sparse
from fallline.sklearn.base import ROWS, Linear, Targets
from fallline.sklearn.data import numbered
from fallline.sklearn.safe import Safe
from fallline.sklearn.stream import Learner
from fallline.sklearn.words import rule_of

_told = attrgetter(
    "loss", "penalty", "alpha", "l1_ratio", "epsilon", "fit_intercept", "lr", "batch_size", "momentum", "nesterov", "schedule", "average", "early_stopping", "scale"
)
"""The parameters that a call reads."""


class Partial(Linear):
    """The part of the estimators that learns from rows as they come."""

    # The weights are the learner's while rows come, and worked out when they are asked for; those that a fit leaves, or the user
    # sets, stand in `__dict__` until the next row.

    @property
    def coef_(self) -> Any:
        """Coefficients, in the columns' own units."""
        return self._weights_of("_coef", 0)

    @coef_.setter
    def coef_(self, value: Any) -> None:
        self._coef = value

    @property
    def intercept_(self) -> Any:
        """Constants."""
        return self._weights_of("_intercept", 1)

    @intercept_.setter
    def intercept_(self, value: Any) -> None:
        self._intercept = value

    def _weights_of(self, name: str, which: int) -> Any:
        held = self.__dict__
        if name in held:
            return held[name]
        if "_learner" not in held:
            raise AttributeError(f"this {type(self).__name__} has no {name[1:]}_ yet: call fit or partial_fit first")
        weights = held["_learner"][0].weights[which]
        return weights[0] if which == 0 and not is_classifier(self) else weights

    def __sklearn_is_fitted__(self) -> bool:
        return "_learner" in self.__dict__ or "_coef" in self.__dict__

    def _quick(self, X: Any, y: Any) -> bool:
        """Learn from one dense row, where everything is as in the call before; False where it is not, and nothing was done."""
        held = self.__dict__
        if "_learner" not in held or "_coef" in held or "_intercept" in held or type(X) is not np.ndarray or X.ndim != 2 or len(y) != 1:
            return False
        learner, told, numbers = held["_learner"]
        if X.shape != (1, learner.model.features) or X.dtype != learner.dtype or told != _told(self) or not learner.is_quick:
            return False
        label, x = y[0], X[0]
        try:
            target = float(label) if numbers is None else numbers.get(label)
        except (TypeError, ValueError):
            return False
        if target is None or not x.dot(x) < 1e300 or not -1e300 < target < 1e300 or not learner.learn_one(x, target):
            return False
        self.t_ += 1
        return True

    def _learn(self, X: Any, y: np.ndarray, targets: Targets, weight: np.ndarray | None) -> Any:
        """Learn from checked rows."""
        learner, rows = self._learner_for(X, targets), X.shape[0]
        self._learner = (learner, _told(self), self._numbers(targets))
        for name in ("_coef", "_intercept"):
            self.__dict__.pop(name, None)
        if targets.outputs and isinstance(learner, Safe):
            learner.learn(X, targets.y, weight)
        elif targets.outputs:
            size = rows if self.batch_size == "full" else 1 if self.batch_size == "auto" else getattr(self.batch_size, "size", self.batch_size)
            learner.learn(X, targets.y, weight, min(int(size or rows), rows))
        self.t_ = getattr(self, "t_", 1) + rows
        self.n_iter_ = getattr(self, "n_iter_", 1)
        return self

    def _learner_for(self, X: Any, targets: Targets) -> Learner | Safe:
        """The learner of the call before where it still fits; else a new one from `coef_`, or from zeros."""
        told, sparse, dtype = _told(self), is_sparse(X), X.dtype
        held, outputs, own = self.__dict__.get("_learner"), max(targets.outputs, 1), "_coef" in self.__dict__ or "_intercept" in self.__dict__
        before = None if held is None else held[0]
        if before is not None and held[1] == told and not own and before.model.outputs == outputs and before.model.loss == targets.loss:
            if isinstance(before, Safe) or (before.sparse == sparse and before.state.w.flags.writeable):
                return before
        coef, intercept = np.zeros((outputs, X.shape[1])), np.zeros(outputs)
        if self.__sklearn_is_fitted__():
            if is_sparse(self.coef_):
                raise ValueError("coef_ is a sparse matrix, as sparsify() leaves it: call densify() before partial_fit")
            coef, intercept = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
            dtype = before.dtype if before is not None else dtype
        model = self._model(targets.loss, X.shape[1], outputs)
        past = getattr(self, "t_", 1) - 1
        if self.lr != "auto":
            return Learner(model, rule_of(self, float(self.lr), 1.0), sparse, dtype, coef, intercept, past if before is not None else 0)
        made = Safe(model, rule_of(self, 1.0, 1.0), bool(self.scale), sparse, dtype, coef, intercept, past)
        if isinstance(before, Safe):
            made.goes_on(before)
        return made

    def _model(self, loss: Loss, features: int, outputs: int) -> LinearModel:
        return LinearModel(loss, features, outputs, self.fit_intercept, self.classes_ if is_classifier(self) else None)

    def _grown(self, loss: Loss, outputs: int, mixture: np.ndarray) -> None:
        """Weights for `outputs` scores, each a mixture [outputs, outputs before] of those there were."""
        held = self.__dict__.get("_learner")
        if held is not None and isinstance(held[0], Safe) and "_coef" not in self.__dict__ and "_intercept" not in self.__dict__:
            held[0].grown(self._model(loss, held[0].model.features, max(outputs, 1)), mixture)
        else:
            self.coef_, self.intercept_ = mixture @ np.atleast_2d(self.coef_), mixture @ self.intercept_

    def _numbers(self, targets: Targets) -> dict[Any, float] | None:
        """What the kernel calls each label where one call can be quick; None for numbers."""
        if targets.index is None:
            return None
        if len(self.classes_) > 2 and not targets.loss.classifies:
            return {}
        low, high = (0.0, 1.0) if targets.loss.classifies else (-1.0, 1.0)
        values = [low, high] if len(self.classes_) == 2 else range(len(self.classes_))
        own = getattr(self, "class_weight", None)
        return {} if own is not None or len(self.classes_) < 2 else {label: float(v) for label, v in zip(self.classes_.tolist(), values, strict=True)}

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """Rows, targets and weights of a call that is not quick."""
        self._validate_params()
        if self.early_stopping:
            raise ValueError("early_stopping should be False with partial_fit")
        if self.lr == "auto":
            _only_safe(self)
        first = not self.__sklearn_is_fitted__()
        X, y = validate_data(self, X, y, reset=first, y_numeric=not is_classifier(self), **ROWS)
        held = self.__dict__.get("_learner")
        if held is not None and X.dtype != held[0].dtype:  # a stream keeps the type of its first rows
            X = X.astype(held[0].dtype)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, weight


def _only_safe(estimator: Any) -> None:
    """Refuse what safe steps cannot honour."""
    for name, usual in (("momentum", 0), ("average", False), ("schedule", None)):
        value = getattr(estimator, name)
        if value != usual:
            raise ValueError(
                f"partial_fit with lr='auto' and {name}={value!r}: it makes safe steps, one for each row, which have no {name}; "
                f"give a learning rate, such as lr=0.01, or leave {name} out"
            )


def mixture(old: np.ndarray, new: np.ndarray, halved: bool) -> np.ndarray:
    """[scores, scores before]: the scores of the classes `new` from those of `old`, which are among them.

    Args:
        halved: two classes share the column between them (softmax), or each has it whole.
    """
    if len(new) <= 2:  # one class has learnt nothing
        return np.zeros((1, 1))
    at = np.searchsorted(new, old)
    if len(old) > 2:
        return (np.arange(len(new))[:, None] == at).astype(np.float64)
    out = np.zeros((len(new), 1))
    if len(old) == 2:
        share = 0.5 if halved else 1.0
        out[at, 0] = -share, share
    return out


def with_classes(known: np.ndarray | None, declared: Any, y: np.ndarray) -> np.ndarray:
    """The classes after a call.

    Args:
        known: those before it, or None.
        declared: what the call says they are, or None: then labels that appear are new classes.

    Raises:
        ValueError: a label that is not among those declared, classes that are missing there, or labels of another kind.
    """
    seen = numbered(y)[0]
    if declared is not None:
        declared = np.unique(declared)
        if known is not None and not np.isin(known, declared).all():
            lost = known[~np.isin(known, declared)].tolist()
            raise ValueError(f"classes={declared.tolist()} lacks {lost}, known from the calls before: give all of them, and any that are new")
        if not np.isin(seen, declared).all():
            raise ValueError(f"y holds {seen[~np.isin(seen, declared)].tolist()}, not among classes={declared.tolist()}: declare them too, or leave classes= out")
        seen = declared
    if known is None:
        return seen
    if (known.dtype.kind in "biuf") != (seen.dtype.kind in "biuf"):
        raise ValueError(f"labels are {seen.dtype} and those before were {known.dtype}: give labels of one kind")
    return known if np.isin(seen, known).all() else np.union1d(known, seen)
