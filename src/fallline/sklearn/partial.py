"""`partial_fit`: what a call is given, checked; classes that appear later; the way to the learner.

A new class gets a column of zeros, at its sorted place. Where there were two classes and so one column w, telling the second from
the first, they become (-w/2, w/2) under the softmax and (-w, w) each against the rest: what the model said of the two, it says still.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import _check_sample_weight, validate_data

from fallline.problems import LinearModel
from fallline.problems.arrays import is_sparse
from fallline.sklearn.base import ROWS, Linear, Targets
from fallline.sklearn.data import numbered
from fallline.sklearn.stream import Learner
from fallline.sklearn.words import rule_of

_told = attrgetter(
    "loss", "penalty", "alpha", "l1_ratio", "epsilon", "fit_intercept", "lr", "batch_size", "momentum", "nesterov", "schedule", "average", "early_stopping"
)
"""The parameters that a call reads."""


class Partial(Linear):
    """The part of the estimators that learns from rows as they come."""

    def _quick(self, X: Any, y: Any) -> bool:
        """Learn from one dense row, where everything is as in the call before; False where it is not, and nothing was done."""
        held = self.__dict__.get("_learner")
        if held is None or type(X) is not np.ndarray or X.ndim != 2 or len(y) != 1:
            return False
        learner, told, coef, numbers = held
        if X.shape != (1, learner.model.features) or X.dtype != learner.dtype or coef is not self.coef_ or told != _told(self) or not learner.is_quick:
            return False
        label = y[0]
        try:
            target = float(label) if numbers is None else numbers.get(label)
        except (TypeError, ValueError):
            return False
        x = X[0]
        square = float(x.dot(x))
        if target is None or not square < 1e300 or not -1e300 < target < 1e300:
            return False
        learner.learn_one(x, target, square)
        self.t_ += 1
        return True

    def _learn(self, X: Any, y: np.ndarray, targets: Targets, weight: np.ndarray | None) -> Any:
        """Learn from checked rows; `coef_` and `intercept_` look into the learner's registers afterwards."""
        learner = self._learner_for(X, targets)
        size = X.shape[0] if self.batch_size == "full" else 1 if self.batch_size == "auto" else getattr(self.batch_size, "size", self.batch_size)
        if targets.outputs:
            learner.learn(X, targets.y, weight, min(int(size or X.shape[0]), X.shape[0]))
        coef, intercept = learner.weights
        self.coef_ = coef if is_classifier(self) else coef[0]
        self.intercept_ = intercept
        self.t_ = getattr(self, "t_", 1) + X.shape[0]
        self.n_iter_ = getattr(self, "n_iter_", 1)
        self._learner = (learner, _told(self), self.coef_, self._numbers(targets))
        return self

    def _learner_for(self, X: Any, targets: Targets) -> Learner:
        """The learner of the call before where it still fits; else a new one from `coef_`, or from zeros."""
        told, sparse, dtype = _told(self), is_sparse(X), X.dtype
        held = self.__dict__.get("_learner")
        outputs = max(targets.outputs, 1)
        if held is not None:
            learner, before, coef, _ = held
            same = before == told and coef is self.coef_ and learner.sparse == sparse and learner.model.outputs == outputs and learner.model.loss == targets.loss
            if same and learner.state.w.flags.writeable:
                return learner
        if not hasattr(self, "coef_"):
            coef, intercept = np.zeros((outputs, X.shape[1])), np.zeros(outputs)
        else:
            coef, intercept = np.atleast_2d(self.coef_), self.intercept_
            dtype = coef.dtype if held is not None else dtype
        rule = rule_of(self, 1.0 if self.lr == "auto" else float(self.lr), 1.0)
        model = LinearModel(targets.loss, X.shape[1], outputs, self.fit_intercept, None if targets.index is None else self.classes_)
        made = Learner(model, rule, self.lr == "auto", sparse, dtype, coef, intercept)
        if held is not None:  # a stream goes on: what it knows of lengths is kept
            for name in ("rows", "length", "sizes", "sum"):
                setattr(made.rates, name, getattr(held[0].rates, name))
        return made

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
        first = not hasattr(self, "coef_")
        X, y = validate_data(self, X, y, reset=first, y_numeric=not is_classifier(self), **ROWS)
        held = self.__dict__.get("_learner")
        if held is not None and X.dtype != held[0].dtype:  # a stream keeps the type of its first rows
            X = X.astype(held[0].dtype)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, weight


def grown(coef: np.ndarray, intercept: np.ndarray, old: np.ndarray, new: np.ndarray, halved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [classes or 1, features] and intercepts of the classes `old` for the classes `new`, among which they are.

    Args:
        halved: two classes share the column between them (softmax), or each has it whole.
    """
    if len(new) <= 2:  # one class has learnt nothing
        return (coef, intercept) if len(old) == len(new) else (np.zeros_like(coef), np.zeros_like(intercept))
    if len(old) <= 2:
        share = 0.5 if halved else 1.0
        coef, intercept = (np.concatenate([-share * a, share * a]) if len(old) == 2 else 0 * a for a in (coef, intercept))
    more, shift = np.zeros((len(new), coef.shape[1]), coef.dtype), np.zeros(len(new), intercept.dtype)
    at = np.searchsorted(new, old)
    more[at], shift[at] = coef, intercept
    return more, shift


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
