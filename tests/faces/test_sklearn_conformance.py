"""scikit-learn's own checks of estimators, all of them, and the three that its list leaves out."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_inplace_ensure_writeable,
    check_param_validation,
    parametrize_with_checks,
)

from fallline.sklearn import GDClassifier, GDRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # the checks cut fits short
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]
ESTIMATORS = [GDClassifier(), GDClassifier(loss="log_loss"), GDRegressor()]
ONE_ROW_AT_A_TIME = "steps of single rows: a weight of 2 is one step twice as long, not two steps (as scikit-learn's own SGD estimators)"


def expected_failures(estimator):
    """Those of scikit-learn's own SGDClassifier and SGDRegressor, and no others."""
    return {f"check_sample_weight_equivalence_on_{kind}_data": ONE_ROW_AT_A_TIME for kind in ("dense", "sparse")}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_conforms(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("check", [check_dataframe_column_names_consistency, check_param_validation, check_inplace_ensure_writeable])
def test_conforms_to_what_the_list_leaves_out(estimator, check):
    check(type(estimator).__name__, estimator)
