"""`GDClassifier`: its parameters, what a fit makes of labels, and what scores say."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from fallline.problems import LinearModel, Loss
from fallline.sklearn import data
from fallline.sklearn.base import Targets
from fallline.sklearn.partial import Partial, mixture, with_classes
from fallline.sklearn.words import COMMON, NUMBERS, TWO_CLASSES, loss_of


def _has_probabilities(estimator: Any) -> bool:
    if estimator.loss in ("log_loss", "modified_huber"):
        return True
    raise AttributeError(f"probability estimates are not available for loss={estimator.loss!r}")


class GDClassifier(ClassifierMixin, Partial):
    """A linear classifier trained by gradient descent: SGDClassifier's words, and a learning rate that is found.

    Law: it lowers  mean_i weight_i * loss(x_i . coef + intercept, y_i) + alpha * penalty(coef)  by w = w - lr * gradient, one row
    (or a batch) at a time. The penalty is ||w||^2/2, ||w||_1, or (1 - l1_ratio)/2 ||w||^2 + l1_ratio ||w||_1; weights have mean 1.

    Args:
        loss: "hinge", "log_loss" (with three classes or more the softmax), "squared_hinge", "modified_huber", "perceptron"; or of -1
            and 1, "squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive".
        penalty: "l2", "l1" (soft thresholds, which leave exact zeros), "elasticnet", or None.
        alpha: the penalty's strength.
        l1_ratio: the l1 penalty's share of an elastic net.
        fit_intercept: whether a constant is learnt; it is not penalised.
        max_iter: passes over the rows at most; with `schedule`, exactly (unless validation ends it).
        tol: a pass gains where its mean loss and penalty (or with validation the score) are better than the best before by more than this.
        shuffle: whether each pass takes the rows in an order of its own; else in the order given.
        verbose: above 0, a line for each pass.
        epsilon: of the losses that have one, in units of -1 and 1.
        n_jobs: cores for large batches; left out, all. Inside workers of joblib it is one.
        random_state: an int makes every fit the same.
        early_stopping: hold rows out and end when their accuracy no longer gains; the best weights are kept.
        validation_fraction: the share held out, of each class alike.
        n_iter_no_change: passes without a gain after which the fit ends.
        class_weight: a weight by class, "balanced", or None.
        warm_start: whether a fit goes on from the weights there are.
        average: whether the answer is the mean of all weights on the way; or from which row on.
        lr: the first learning rate: a number, or "auto".
        batch_size: rows of an update: a number, "full", or "auto": 1, and 32 with momentum. On one row at a time the compiled
            loop is as fast as on batches, and a pass gets furthest; a search (`fallline.find_batch_size`) takes several times as long as
            the fit itself and has found nothing faster (docs/decisions.md). `partial_fit` with lr="auto" goes row by row.
        momentum: of the heavy ball, in [0, 1).
        nesterov: whether the momentum is Nesterov's, in PyTorch's form.
        schedule: the learning rate's course over max_iter passes, such as "cosine" or "constant"; None halves it after
            each pass that gains nothing (with tol=None after each of the last five too), and lowers it with the penalty.
        scale: whether columns far from 0, or wide, are moved and divided inside (`fallline.sklearn.columns`); "standard" brings every
            column to mean 0 and deviation 1, sparse ones too, which stay sparse. Coefficients are always in the user's units.

    Attributes:
        coef_: (1, features) or (classes, features).
        intercept_: (1,) or (classes,).
        classes_: the labels, sorted.
        n_iter_: passes made.
        t_: updates made, and one.
        lr_: the first learning rate.
        loss_curve_: the mean loss of each pass, each row's before it was learnt from.
        validation_curve_: the accuracy on held-out rows after each pass; only with validation.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        Diverged: at a learning rate that was given.

    >>> import numpy as np
    >>> X = np.array([[-1.0, -1], [-2, -1], [1, 1], [2, 1]])
    >>> model = GDClassifier(loss="log_loss", random_state=0).fit(X, ["no", "no", "yes", "yes"])
    >>> model.predict([[-0.8, -1]])
    array(['no'], dtype='<U3')
    """

    _parameter_constraints = COMMON | {
        "loss": [StrOptions(set(TWO_CLASSES) | set(NUMBERS))],
        "n_jobs": [None, Integral],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def __init__(
        self, loss="hinge", *, penalty="l2", alpha=0.0001, l1_ratio=0.15, fit_intercept=True, max_iter=1000, tol=1e-3, shuffle=True,
        verbose=0, epsilon=0.1, n_jobs=None, random_state=None, early_stopping=False, validation_fraction=0.1, n_iter_no_change=5,
        class_weight=None, warm_start=False, average=False, lr="auto", batch_size="auto", momentum=0.0, nesterov=False, schedule=None,
        scale=True,
    ):  # fmt: skip
        self._keep(locals())

    def _targets(self, y: np.ndarray) -> Targets:
        _check_labels(y)
        self.classes_, index = data.numbered(y)
        if len(self.classes_) < 2:
            raise ValueError(f"The number of classes has to be greater than one; got {len(self.classes_)} class")
        loss = loss_of(self, len(self.classes_))
        return Targets(loss, _as_loss_takes(loss, index, len(self.classes_)), index, 1 if len(self.classes_) == 2 else len(self.classes_))

    def _truth(self, y: Any) -> np.ndarray:
        """Class indices of held-out labels; -1 where a label is not among the classes."""
        at = np.searchsorted(self.classes_, y)
        at = np.minimum(at, len(self.classes_) - 1)
        return np.where(self.classes_[at] == y, at, -1)

    def _score_of(self, scores: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> float:
        found = (scores[:, 0] > 0).astype(np.intp) if scores.shape[1] == 1 else scores.argmax(axis=1)
        return float(np.average(found == truth, weights=weight))

    def _weight(self, sample_weight: Any, targets: Targets) -> np.ndarray | None:
        return data.with_class_weight(sample_weight, self.class_weight, self.classes_, targets.index)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> GDClassifier:
        """Learn from rows as they come, each once, in their order.

        Law: a call with n rows is n calls with one row. lr="auto" makes the safe steps of `fallline.online`, one for each row whatever
        batch_size says: columns of any size, rows of any weight, never past a row's target (`fallline.sklearn.safe`); they have no
        momentum, average or schedule. A given lr is the plain descent, columns as they are. A class that appears later gets weights of zero;
        with one class there is nothing to learn.

        Args:
            X: [rows, features], dense or sparse. One row of a NumPy array of the first call's type takes some microseconds.
            y: [rows] labels.
            classes: all labels that there will be; left out, labels are new classes when they appear. Where it is given, y is held to it.
            sample_weight: [rows], as they are: there is no mean to scale them by.

        Raises:
            ValueError: labels that are not among `classes`, or classes known before that are not; class_weight="balanced".
            ValueError: lr="auto" with momentum, average or schedule.
            Diverged: at a rate that was given.

        >>> model = GDClassifier(loss="log_loss")
        >>> for x, label in ((-1.0, "a"), (1.0, "b"), (9.0, "c")):
        ...     model = model.partial_fit(np.array([[x]]), [label])
        >>> model.classes_, model.coef_.shape
        (array(['a', 'b', 'c'], dtype='<U1'), (3, 1))
        """
        if classes is None and sample_weight is None and self._quick(X, y):
            return self
        X, y, weight = self._checked(X, y, sample_weight)
        _check_labels(y)
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all rows: compute the weights by "
                "sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, y=y) on a sample, and give them as a dict"
            )
        known = getattr(self, "classes_", None)
        now = with_classes(known, classes, y)
        self.classes_ = now
        index, count = np.searchsorted(now, y), len(now)
        loss, outputs = loss_of(self, count), 0 if count == 1 else 1 if count == 2 else count
        if known is not None and count != len(known):
            self._grown(loss, outputs, mixture(known, now, self.loss == "log_loss"))
        if self.class_weight is not None:
            weight = data.with_class_weight(weight, {c: w for c, w in self.class_weight.items() if c in now.tolist()}, now, index, seen=False)
        return self._learn(X, y, Targets(loss, _as_loss_takes(loss, index, count), index, outputs), weight)

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores: of the second class [rows], or of each class [rows, classes].

        Args:
            X: rows, dense or sparse.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The label of each row: of the highest score."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)]

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, [rows, classes]: of the model itself ("log_loss"), or by Zhang's formula ("modified_huber").

        Law: log_loss 1/(1 + e^-z), or the softmax of the scores; modified_huber (clip(z, -1, 1) + 1)/2, as shares of their sum where there are
        three classes or more.
        """
        scores = self.decision_function(X)
        classes = len(self.classes_)
        loss = Loss("softmax" if self.loss == "log_loss" and classes > 2 else TWO_CLASSES[self.loss])
        return LinearModel(loss, self.n_features_in_, scores.shape[1] if scores.ndim == 2 else 1).probabilities(scores)

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


def _check_labels(y: np.ndarray) -> None:
    """Refuse what is no label, as scikit-learn does, which sorts all of y to tell; whole numbers are labels at a glance."""
    if y.dtype.kind not in "iub":
        check_classification_targets(y)


def _as_loss_takes(loss: Loss, index: np.ndarray, classes: int) -> np.ndarray:
    """Class indices as they are, or for a loss of numbers -1 and 1, a column for each class where there are three or more."""
    if loss.classifies:
        return index
    return 2.0 * index - 1 if classes <= 2 else 2.0 * (index[:, None] == np.arange(classes)) - 1
