"""Estimators for scikit-learn on the linear engine, in SGDClassifier's words: `GDClassifier`, `GDRegressor`.

`classifier` and `regressor` the two classes, `base` what they share; `words` what their parameters mean; `columns` how columns are brought to a common size and back;
`kept` those that occur in sparse rows; `rates` the first learning rate; `passes` a problem descended pass by pass; `fitting` one `fit`; `partial` rows that come later.
"""

from fallline.errors import MissingExtra

try:
    import sklearn  # noqa: F401
except ImportError:
    raise MissingExtra("scikit-learn", "sklearn", "fallline.sklearn") from None

from fallline.sklearn.classifier import GDClassifier
from fallline.sklearn.regressor import GDRegressor

__all__ = ["GDClassifier", "GDRegressor"]
