"""Laws of the metrics: scikit-learn's values, ties and edge cases included; intervals that cover."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.errors import InvalidValue, UnknownName
from fallline.metrics import METRICS, interval, metric


@cache
def peers() -> Any:
    """scikit-learn's metrics, imported once: it costs a second and a half."""
    return pytest.importorskip("sklearn.metrics")


labels = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=60)
"""Two classes, scores on a coarse grid: most examples hold ties."""


@given(labels)
@settings(deadline=None, max_examples=60)
def test_label_metrics_equal_the_peers(pairs: list[tuple[int, int]]):
    y, p = np.array(pairs).T
    assert metric("accuracy")(y, p) == pytest.approx(peers().accuracy_score(y, p), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer warns of predicted classes that do not occur
        expected = peers().balanced_accuracy_score(y, p)
    assert metric("balanced_accuracy")(y, p) == pytest.approx(expected, abs=1e-12)


@given(labels)
@settings(deadline=None, max_examples=60)
def test_f1_equals_the_peers_macro_average_over_three_classes(pairs: list[tuple[int, int]]):
    y, p = np.array([*pairs, (0, 0), (1, 1), (2, 2)]).T
    assert metric("f1")(y, p) == pytest.approx(peers().f1_score(y, p, average="macro"), abs=1e-12)


@given(binary)
@settings(deadline=None, max_examples=80)
def test_ranking_metrics_equal_the_peers_with_ties(pairs: list[tuple[int, int]]):
    y, grid = np.array([*pairs, (0, 3), (1, 3)]).T
    score = grid / 8
    p = np.stack([1 - score, score], axis=1)
    assert metric("auc")(y, p) == pytest.approx(peers().roc_auc_score(y, score), abs=1e-12)
    assert metric("average_precision")(y, p) == pytest.approx(peers().average_precision_score(y, score), abs=1e-12)
    assert metric("brier")(y, p) == pytest.approx(peers().brier_score_loss(y, score), abs=1e-12)
    assert metric("f1")(y, (score > 0.5).astype(int)) == pytest.approx(
        peers().f1_score(y, score > 0.5, zero_division=0), abs=1e-12
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 50))
@settings(deadline=None, max_examples=40)
def test_log_loss_equals_the_peer(seed: int, classes: int, rows: int):
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.ones(classes), rows)
    y = draw.integers(0, classes, rows)
    expected = peers().log_loss(y, p, labels=np.arange(classes))
    assert metric("log_loss")(y, p) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.sampled_from([1e-3, 1.0, 1e6]))
@settings(deadline=None, max_examples=40)
def test_number_metrics_equal_the_peers(seed: int, rows: int, scale: float):
    draw = np.random.default_rng(seed)
    y, p = scale * draw.normal(size=rows), scale * draw.normal(size=rows)
    assert metric("rmse")(y, p) == pytest.approx(math.sqrt(peers().mean_squared_error(y, p)), rel=1e-10)
    assert metric("mae")(y, p) == pytest.approx(peers().mean_absolute_error(y, p), rel=1e-10)
    assert metric("r2")(y, p) == pytest.approx(peers().r2_score(y, p), rel=1e-8, abs=1e-8)
    counts, rates = np.abs(y), np.abs(p) + 1e-3 * scale
    counts[0] = 0.0
    assert metric("rmsle")(counts, rates) == pytest.approx(math.sqrt(peers().mean_squared_log_error(counts, rates)), rel=1e-9)
    assert metric("poisson_deviance")(counts, rates) == pytest.approx(peers().mean_poisson_deviance(counts, rates), rel=1e-7)


def test_several_outputs_equal_the_peers():
    draw = np.random.default_rng(3)
    y, p = draw.normal(size=(40, 3)), draw.normal(size=(40, 3))
    y[:, 1] *= 50
    assert metric("rmse")(y, p) == pytest.approx(math.sqrt(peers().mean_squared_error(y, p)))
    assert metric("mae")(y, p) == pytest.approx(peers().mean_absolute_error(y, p))


def test_r2_of_several_outputs_is_the_mean_over_outputs():
    draw = np.random.default_rng(3)
    y, p = draw.normal(size=(40, 3)), draw.normal(size=(40, 3))
    y[:, 1] *= 50
    assert metric("r2")(y, p) == pytest.approx(peers().r2_score(y, p))


def test_what_has_no_value_is_nan_and_says_nothing_else():
    one_class = np.zeros(4, int), np.array([0.1, 0.2, 0.2, 0.9])
    assert math.isnan(metric("auc")(*one_class))
    assert math.isnan(metric("average_precision")(*one_class))
    assert math.isnan(metric("r2")([2.0, 2.0], [1.0, 3.0]))
    assert all(math.isnan(m([], [])) for m in METRICS.values())


def test_a_score_that_is_not_a_number_gives_no_ranking():
    y, p = np.array([0, 1, 0, 1]), np.array([0.1, np.nan, 0.3, 0.9])
    assert math.isnan(metric("auc")(y, p))


def test_certainty_that_is_wrong_stays_finite():
    assert math.isfinite(metric("log_loss")(np.array([0]), np.array([[0.0, 1.0]])))


def test_messages_name_the_values():
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        metric("acuracy")
    with pytest.raises(InvalidValue, match="3 true values and 2 predictions"):
        metric("mae")([1, 2, 3], [1, 2])
    with pytest.raises(InvalidValue, match="two classes; these predictions have 3"):
        metric("auc")([0, 1], np.ones((2, 3)) / 3)
    with pytest.raises(InvalidValue, match="-1"):
        metric("rmsle")([-1.0, 1.0], [1.0, 1.0])


def test_intervals_cover_about_as_often_as_they_say():
    draw, hits = np.random.default_rng(0), {"accuracy": 0, "mae": 0}
    for trial in range(100):
        right = (draw.random(80) < 0.8).astype(int)
        low, high = interval(metric("accuracy"), right, np.ones(80, int))
        hits["accuracy"] += low <= 0.8 <= high
        error = draw.exponential(1.0, 80)
        low, high = interval(metric("mae"), error, np.zeros(80), seed=trial, resamples=200)
        hits["mae"] += low <= 1.0 <= high
    assert all(88 <= n <= 100 for n in hits.values()), hits


def test_an_interval_is_a_function_of_its_seed():
    draw = np.random.default_rng(1)
    y, p = draw.normal(size=30), draw.normal(size=30)
    assert interval(metric("rmse"), y, p, seed=4) == interval(metric("rmse"), y, p, seed=4)
