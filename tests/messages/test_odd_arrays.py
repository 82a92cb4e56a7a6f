"""Odd arrays: each works, or says what was given, what was expected and what to do."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl

r = np.random.default_rng(0)
X = r.normal(size=(60, 3))
y = X @ np.arange(3.0) + 1
sides = y > 1


def trained(problem: object, lr: float = 0.1) -> fl.Run:
    return fl.train(problem, fl.Plan(problem, epochs=2, batch_size=10, optimizer=fl.SGD(lr=lr)), progress=False)


REFUSED = {
    "no rows": (lambda: fl.least_squares(X[:0], y[:0]), "X has 0 rows (shape (0, 3)): expected at least one"),
    "no features": (lambda: fl.least_squares(X[:, :0], y), "X has 0 features (shape (60, 0)): expected at least one"),
    "one column as a vector": (lambda: fl.least_squares(X[:, 0], y), "X has shape (60,): expected two dimensions, rows x features; for one feature write X.reshape(-1, 1), for one row X.reshape(1, -1)"),
    "three dimensions": (lambda: fl.least_squares(X[None], y), "X has shape (1, 60, 3): expected two dimensions, rows x features"),
    "a row short": (lambda: fl.least_squares(X, y[1:]), "y has 59 entries and X has 60 rows: expected one entry per row"),
    "one class": (lambda: fl.logistic(X, np.ones(60)), "y holds one class only (1.0): expected at least two; nothing can be learnt"),
    "three classes for two": (lambda: fl.logistic(X, np.arange(60) % 3), "y holds 3 classes (0, 1, 2): logistic takes two; use fl.softmax(X, y)"),
    "nan": (lambda: fl.logistic(np.where(X > 2, np.nan, X), sides), f"X is nan at row {np.argwhere(X > 2)[0][0]}, column {np.argwhere(X > 2)[0][1]}: expected finite numbers; remove or fill such values (fl.table does it and says how)"),
    "infinity": (lambda: fl.logistic(np.where(X < -2, -np.inf, X), sides), f"X is -inf at row {np.argwhere(X < -2)[0][0]}, column {np.argwhere(X < -2)[0][1]}: expected finite numbers; remove or fill such values (fl.table does it and says how)"),
    "nan in y": (lambda: fl.least_squares(X, np.where(y == y[7], np.nan, y)), "y is nan at row 7: expected finite numbers; remove or fill such rows"),
    "words": (lambda: fl.logistic(X.astype(str), sides), "X has type <U32: expected numbers; encode text and dates, or use fl.table(..., target=...), which does"),
    "dates": (lambda: fl.least_squares(X, np.full(60, np.datetime64("2020-01-01"))), "y has type datetime64[D]: expected numbers"),
    "complex": (lambda: fl.logistic(X + 1j, sides), "X is complex (complex128): expected real numbers; take .real or split it in two"),
    "masked": (lambda: fl.least_squares(np.ma.masked_where(X > 2, X), y), f"X is a masked array with {(X > 2).sum()} masked entries, the first in row {np.argwhere(X > 2)[0][0]}: fill them (X.filled(...)), drop their rows, or give fl.table a frame, which imputes missing cells and says so"),
    "masked target": (lambda: fl.least_squares(X, np.ma.masked_equal(y, y[4])), "y is a masked array with 1 masked entries, the first in row 4: fill them (X.filled(...)), drop their rows, or give fl.table a frame, which imputes missing cells and says so"),
    "a target beyond float32": (lambda: fl.least_squares(X.astype(np.float32), y * 1e300), "y exceeds the range of float32, the type of X: scale it, or give X as float64"),
    "no weight": (lambda: fl.logistic(X, sides, weights=np.zeros(60)), "every sample weight is zero: expected at least one weight above 0"),
    "a negative weight": (lambda: fl.logistic(X, sides, weights=np.r_[np.ones(59), -1]), "weights is -1 at row 59: expected numbers that are not negative"),
    "a count below zero": (lambda: fl.poisson(X, np.r_[np.ones(59), -2]), "y is -2 at row 59: expected counts or rates of at least 0 for poisson"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be(case: str):
    make, message = REFUSED[case]
    with pytest.raises(fl.InvalidValue) as said:
        make()
    assert str(said.value) == message


ACCEPTED = {
    "one row": (X[:1], y[:1]),
    "float16": (X.astype(np.float16), y),
    "whole numbers of 8 bits": ((X * 10).astype(np.int8), y),
    "truth values": (X > 0, y),
    "another byte order": (X.astype(X.dtype.newbyteorder()), y),
    "a constant column": (np.c_[X, np.ones(60)], y),
    "a constant target": (X, np.full(60, 3.5)),
    "zeros": (X * 0, y),
    "very small": (X * 1e-300, y),
    "columns first": (np.asfortranarray(X), y),
    "every second row": (np.repeat(X, 2, axis=0)[::2], y),
    "lists": (X.tolist(), y.tolist()),
    "a mask that hides nothing": (np.ma.masked_where(X > 1e9, X), y),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_works(case: str):
    rows, target = ACCEPTED[case]
    problem = fl.least_squares(rows, target)
    plan = fl.Plan(problem, epochs=2, batch_size=min(10, problem.rows), optimizer=fl.SGD(lr=0.01))
    assert np.isfinite(fl.train(problem, plan, progress=False).weights["coef"]).all()


def test_read_only_rows_stay_as_they_are(tmp_path):
    np.save(tmp_path / "X.npy", X)
    kept = X.copy()
    kept.flags.writeable = False
    ends = [trained(fl.least_squares(rows, y)).weights["coef"] for rows in (X, kept, np.load(tmp_path / "X.npy", mmap_mode="r"))]
    assert (ends[0] == ends[1]).all() and (ends[0] == ends[2]).all()


def test_whole_numbers_beyond_the_exact_are_said():
    assert fl.least_squares(np.full((3, 1), 2**53), [1, 2, 3]).notes == ("X was converted from int64 to float64",)
    for value, kind in ((2**62 + 1, np.int64), (2**64 - 1, np.uint64), (-(2**63), np.int64)):
        said = fl.least_squares(np.full((3, 1), value, kind), [1, 2, 3]).notes
        assert said == (f"X was converted from {np.dtype(kind)} to float64; whole numbers beyond 2**53 were rounded",)


@pytest.mark.parametrize("scale", [1e30, 1e150, 1e200, 1e307])
def test_huge_columns_diverge_with_a_cause_and_without_a_warning(scale: float):
    wide = X * [1, 1, scale]
    with pytest.raises(fl.Diverged, match=r"or standardise column 2 \(scale [\d.e+]+\)\.$"):
        trained(fl.least_squares(wide, y))


def test_half_of_the_rows_without_weight_is_the_other_half():
    """Rows of weight zero count as rows, so the full batch's gradient is the other half's (weights have mean 1)."""
    half = np.r_[np.zeros(30), np.ones(30)]
    ends = []
    for problem in (fl.least_squares(X, y, weights=half), fl.least_squares(X[30:], y[30:])):
        plan = fl.Plan(problem, steps=20, batch_size=fl.Batches.full(), optimizer=fl.SGD(lr=0.1))
        ends.append(fl.train(problem, plan, progress=False).weights["coef"])
    np.testing.assert_allclose(*ends, rtol=1e-12)
