"""An estimator as the model without its data that `fallline.export` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from fallline.problems import LinearModel
from fallline.sklearn.words import loss_of


@dataclass(frozen=True)
class Exported:
    """What `fallline.export` takes of a run, of a fitted estimator."""

    estimator: Any
    reader: None = None
    used: str = "coef_"

    @property
    def model(self) -> LinearModel:
        classes = getattr(self.estimator, "classes_", None)
        outputs = 1 if classes is None or len(classes) == 2 else len(classes)
        return LinearModel(loss_of(self.estimator, None if classes is None else len(classes)), self.estimator.n_features_in_, outputs, classes=classes)

    @property
    def answer(self) -> dict[str, np.ndarray]:
        e = self.estimator
        coef, intercept = (e.coef_ if isinstance(e.coef_, np.ndarray) else e.coef_.toarray()), e.intercept_
        many = is_classifier(e) and len(e.classes_) > 2
        return {"coef": coef.T if many else coef.reshape(-1), "intercept": intercept if many else np.float64(intercept[0])}

    def predict(self, X: Any) -> np.ndarray:
        return self.estimator.predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        return self.estimator.predict_proba(X)


def exported(estimator: Any) -> Exported:
    """The model of a fitted estimator.

    Raises:
        NotFittedError: it has not been fitted.
    """
    check_is_fitted(estimator)
    return Exported(estimator)
