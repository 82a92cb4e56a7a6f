"""scikit-learn's callbacks (1.9 and later): a fit announces its passes to them. Without them in the installed version, nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fallline.sklearn.fitting import Watch, Weights

try:
    from sklearn.callback import CallbackSupportMixin  # type: ignore[assignment]
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """Callbacks are of scikit-learn 1.9 and later."""


class Announced(Watch):
    """Tells an estimator's callbacks of each pass, with the estimator as it would be if the fit ended there.

    Args:
        estimator: whose fit it is.
        seen: what callbacks may ask for: X, y, metadata.
    """

    def __init__(self, estimator: Any, seen: dict[str, Any]):
        self.estimator, self.seen = estimator, seen
        self.root = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self.root.call_on_fit_task_begin(estimator=estimator, **seen)
        self.task: Any = None

    def begins(self, number: int, weights: Callable[[], Weights]) -> None:
        self.task = self.root.subcontext(task_name="pass")
        self.task.call_on_fit_task_begin(estimator=self.estimator, reconstruction_attributes=lambda: self._as_fitted(weights()), **self.seen)

    def ended(self, number: int, weights: Callable[[], Weights]) -> bool:
        return bool(self.task.call_on_fit_task_end(estimator=self.estimator, reconstruction_attributes=lambda: self._as_fitted(weights()), **self.seen))

    def finished(self) -> None:
        self.root.call_on_fit_task_end(estimator=self.estimator, reconstruction_attributes={}, **self.seen)

    def _as_fitted(self, weights: Weights) -> dict[str, Any]:
        coef, intercept = self.estimator._shaped(*weights)
        return {"coef_": coef, "intercept_": intercept}


def watching(estimator: Any, **seen: Any) -> Watch:
    """What looks at a fit: the estimator's callbacks, or nothing."""
    return Announced(estimator, seen) if getattr(estimator, "_skl_callbacks", None) else Watch()


__all__ = ["CallbackSupportMixin", "watching"]
