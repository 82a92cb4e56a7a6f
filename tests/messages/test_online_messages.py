"""What `online` says of rows and arguments that cannot stand."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl


def said(call) -> str:
    with pytest.raises(fl.InvalidValue) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"loss": "softmax", "features": 2}, "online('softmax', outputs=1): expected at least 2 outputs, one for each class, or classes=[...] (may be empty: classes are added as they appear)"),
        ({"loss": "logistic", "features": 0}, "online(features=0): expected a whole number of at least 1, or names"),
        ({"loss": "logistic", "features": 2, "rate": 0}, "online(rate=0): expected a number above 0; 1 is the safe default"),
        ({"loss": "logistic", "features": 2, "l1": -1.0}, "online(l1=-1.0): expected a number of at least 0"),
        ({"loss": "logistic", "features": 2, "dtype": "float32"}, "online(dtype='float32'): safe steps are made in float64; give optimizer= for float32"),
        ({"loss": "logistic", "features": 2, "sparse": 3, "optimizer": fl.SGD(0.1)}, "online(sparse=, rate=, weight_decay=, l1=): for safe steps only; leave optimizer= out, or give the optimizer its penalty"),
        ({"loss": "least_squares", "features": 2, "classes": []}, "online('least_squares', classes=...): expected a loss of classes, such as softmax or logistic"),
        ({"loss": "logistic", "features": 2, "classes": "abc"}, "online('logistic', classes of 3 labels): expected two at most; use softmax"),
    ],
)
def test_arguments(arguments, words):
    assert said(lambda: fl.online(**arguments)) == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (([1.0], 0), "row 1: expected 2 numbers and one target, got x of shape (1,) and y=0"),
        (([np.inf, 0], 0), "row 1: feature 0 is inf: expected a number up to 1e+140, or NaN where it is missing"),
        (([0.0, 0], 3), "y=3 at row 1: expected a class index from 0 to 2; classes that may appear later need classes=[]"),
    ],
)
def test_rows(row, words):
    model = fl.online("softmax", features=2, outputs=3)
    model.learn([1.0, 2.0], 1)
    before = model.arrays()
    assert said(lambda: model.learn(*row)) == words
    assert model.step == 1 and all((before[name] == held).all() for name, held in model.arrays().items())


def test_other_rows():
    model = fl.online("least_squares", features=1, sparse=4)
    assert said(lambda: model.learn([0.0], np.nan)) == "row 0: y=nan: expected a number up to 1e+140"
    assert said(lambda: model.learn([0.0], 1, weight=-1)) == "row 0: weight=-1: expected a number of at least 0"
    assert said(lambda: model.learn([0.0], 1, sparse=([4], [1.0]))) == "row 0: sparse index 4: expected 0 to 3 (the model was made with sparse=4)"
    assert said(lambda: model.learn([0.0], 1, sparse=([1, 2], [1.0]))) == "row 0: sparse= expects (indices, values) of one length, got shapes (2,) and (1,)"
    assert said(lambda: fl.online("poisson", features=1).learn([0.0], -1)) == "y=-1 at row 0: expected a count or rate of at least 0 for poisson"
    named = fl.online("logistic", features=1, classes=["a", "b"])
    assert said(lambda: named.learn([0.0], "c")) == "y='c' at row 0: a third class beside 'a' and 'b'; use softmax"
    assert said(lambda: fl.online("softmax", features=1, classes=[]).score([0.0])) == "the model knows no class yet: learn a row first, or give classes="


def test_rows_by_name():
    X = np.random.default_rng(0).standard_normal((50, 2))
    y = (X[:, 0] > 0).astype(int).tolist()
    for more in ({}, {"optimizer": fl.SGD(0.1), "dtype": "float64"}):
        named, plain = fl.online("logistic", features=["cm", "kg"], **more), fl.online("logistic", features=2, **more)
        for (cm, kg), label in zip(X.tolist(), y, strict=True):
            assert named.learn({"kg": kg, "cm": cm}, label) == plain.learn([cm, kg], label)
        assert named.score({"kg": 1.0, "cm": 2.0}) == plain.score([2.0, 1.0])
        assert said(lambda: named.learn({"cm": 1.0, "kgs": 2.0}, 1)) == "no feature 'kgs'; did you mean 'kg'? features: cm, kg"
        assert said(lambda: plain.learn({"cm": 1.0, "kg": 2.0}, 1)) == "row 50 is a dict: expected 2 numbers, or a model made with names, such as features=['cm', 'kg']"
        if more:
            assert said(lambda: named.learn({"cm": 1.0}, 1)) == (
                "row 50 lacks 'kg': an optimizer's own law needs every feature; say 0, or leave optimizer= out, whose safe steps bear missing ones"
            )
        else:
            assert named.learn({"cm": 1.0}, 1) == plain.learn([1.0, np.nan], 1)
    assert said(lambda: fl.online("logistic", features=["a", "a"])) == "online(features=['a', 'a']): expected different names, or their number"


def test_arrays_that_kernels_would_follow_blindly():
    model, none = fl.online("softmax", features=1, sparse=3, outputs=3), (np.zeros(3, np.int64), np.zeros(0, np.int64), np.zeros(0))
    X, y, h = np.zeros((2, 1)), np.array([[0.0], [2.0]]), np.ones(2)
    assert said(lambda: model.rows(X, none, y + 1, h)) == "y holds 1 to 3: expected class indices below 3"
    assert said(lambda: model.rows(X, none, y[:1], h)) == "an array of shape (1, 1): expected (2, 1), as of these rows"
    short = (np.array([0, 1, 2]), np.zeros(1, np.int64), np.ones(1))
    assert said(lambda: model.rows(X, short, y, h)) == "sparse entries: expected int64 starts, int64 columns and float64 values, the last two of one length"
    assert model.rows(X, none, y, h).shape == (2, 4)


def test_a_class_that_came_with_a_refused_row_is_none():
    for optimizer in (None, fl.SGD(0.1)):
        model = fl.online("softmax", features=1, classes=["a", "b"], optimizer=optimizer)
        with pytest.raises((fl.InvalidValue, fl.Diverged)):
            model.learn([np.inf], "c")
        assert model.classes == ["a", "b"] and model.coef.shape == (1, 2)
