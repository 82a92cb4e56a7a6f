"""What problems say about data that cannot be used: what was given, what was expected, what to do."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import fallline as fl
from fallline import problems as P
from fallline.errors import InvalidValue, UnknownName

X = np.arange(8.0).reshape(4, 2)
HOLE = X.copy()
HOLE[3, 1] = np.nan
Y = [0.0, 1.0, 2.0, 3.0]
TWO = ["a", "b", "a", "b"]


def _network(problem):
    pytest.importorskip("torch")
    from fallline.model_spec import ModelSpec
    from fallline.torch.network import network_of

    return network_of(problem, ModelSpec("mlp", (2,)), on=None, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: P.least_squares(HOLE, Y), "X is nan at row 3, column 1: expected finite numbers"),
        (lambda: P.least_squares(HOLE, Y, feature_names=["u", "v"]), "X is nan at row 3, 'v'"),
        (lambda: P.least_squares(sp.csr_array(HOLE), Y), "X is nan at row 3, column 1"),
        (lambda: P.least_squares(np.full((4, 2), -np.inf), Y), "X is -inf at row 0, column 0"),
        (lambda: P.least_squares(X, [0, 1, np.nan, 3]), "y is nan at row 2: expected finite numbers"),
        (lambda: P.least_squares(X, Y[:3]), "y has 3 entries and X has 4 rows"),
        (lambda: P.least_squares(X, Y, weights=[1, 2]), "weights has 2 entries and X has 4 rows"),
        (lambda: P.least_squares(X, Y, weights=[1, -2, 1, 1]), "weights is -2 at row 1"),
        (lambda: P.least_squares(X, Y, weights=np.zeros(4)), "every sample weight is zero"),
        (lambda: P.least_squares(X[0], Y), "X has shape (2,): expected two dimensions, rows x features; for one feature write X.reshape(-1, 1)"),
        (lambda: P.least_squares(X[:0], []), "X has 0 rows"),
        (lambda: P.least_squares(X[:, :0], Y), "X has 0 features"),
        (lambda: P.least_squares(X + 1j, Y), "X is complex (complex128): expected real numbers"),
        (lambda: P.least_squares(np.array([["a", 1]] * 4, object), Y), "X is 'a' at row 0, column 0: expected numbers"),
        (lambda: P.least_squares(np.array([["a"]] * 4), Y), "X has type <U1: expected numbers"),
        (lambda: P.least_squares(X, Y, feature_names=["u"]), "feature_names has 1 names and X has 2 features"),
        (lambda: P.least_squares(X.astype("f4"), [1e300] * 4), "y exceeds the range of float32"),
        (lambda: P.logistic(X, list("abca")), "y holds 3 classes ('a', 'b', 'c'): logistic takes two; use fl.softmax(X, y)"),
        (lambda: P.quantile(X, Y, level=1), "level=1: expected a number between 0 and 1, such as 0.9 for the 90 % quantile"),
        (lambda: P.epsilon_insensitive(X, Y, epsilon=-1), "epsilon=-1: expected a number of at least 0, in units of y"),
        (lambda: P.Loss("quantile", 1.5), "quantile: level 1.5, expected a number between 0 and 1"),
        (lambda: P.Loss("epsilon_insensitive", -1.0), "epsilon_insensitive: parameter -1.0, expected a finite number of at least 0"),
        (lambda: P.Loss("huber", 0.0), "huber: parameter 0.0, expected a finite number above 0"),
        (lambda: P.perceptron(X, list("aaaa")), "y holds one class only ('a')"),
        (lambda: P.logistic(X, list("aaaa")), "y holds one class only ('a')"),
        (lambda: P.softmax(X, list("aaaa")), "y holds one class only ('a')"),
        (lambda: P.logistic(X, [0, 0.5, 1, 0]), "y is 0.5 at row 1: expected classes; for numbers use fl.least_squares(X, y)"),
        (lambda: P.logistic(X, [0, np.nan, 1, 0]), "y is nan at row 1: expected a label in every row"),
        (lambda: P.logistic(X, np.array(["a", None, "b", "a"], object)), "y is None at row 1: expected a label"),
        (lambda: P.logistic(X, np.array(["a", 1, "b", "a"], object)), "y mixes labels of different types (int, str)"),
        (lambda: P.poisson(X, [0, 1, -2, 3]), "y is -2 at row 2: expected counts or rates of at least 0"),
        (lambda: P.huber(X, Y, delta=0), "delta=0: expected a number above 0"),
        (lambda: P.huber(X, np.ones((4, 2))), "only least_squares takes several outputs"),
        (lambda: P.logistic(X, TWO).on(X, list("abcd")), "y is 'c' at row 2: not among the classes of the training data ('a', 'b')"),
        (lambda: P.logistic(X, TWO).on(X[:, :1], TWO), "X has 1 features and the model was trained with 2"),
        (lambda: P.hinge(X, TWO).predict_proba({"coef": np.zeros(2), "intercept": np.zeros(())}, X), "a hinge model has no probabilities"),
        (lambda: P.logistic(X, TWO).standardized().standardized(), "the problem is standardized already: standardize the one that it was made from"),
        (lambda: P.logistic(X, TWO, intercept=False).standardized(), "centred columns need an intercept, which takes up their means; make the problem with"),
        (
            lambda: P.logistic(X, TWO).standardized().held_out(P.logistic(X, TWO).on(X + X * X, TWO).standardized()),
            "features, float64, standardized> is standardized by columns of its own: give (X, y) or the problem before `standardized()`, and it is seen",
        ),
        (lambda: P.logistic(X, TWO).held_out(P.logistic(X, TWO).standardized()), "is standardized by columns of its own: give (X, y)"),
        (lambda: _network(P.logistic(X, TWO).standardized()), "a network takes rows as they are: standardized() is of linear models; give the problem before"),
        (lambda: P.quadratic([]), "eigenvalues=[]: expected at least one number"),
        (lambda: P.quadratic([1, 2], start=[1]), "start has 1 numbers and eigenvalues has 2"),
        (lambda: P.quadratic([1], noise=-1), "noise=-1: expected a number of at least 0"),
        (lambda: P.rosenbrock(start=[1]), "expected two, x and y"),
        (lambda: P.function(3, start=[1]), "function(3): expected a callable"),  # type: ignore[arg-type]
    ],
)
def test_bad_data(make, message):
    with pytest.raises(InvalidValue) as raised:
        make()
    assert message in str(raised.value)


def test_text_columns_and_missing_columns_of_frames():
    pd = pytest.importorskip("pandas")
    with pytest.raises(InvalidValue, match=r"column 'colour' is not numeric .it holds 'red'.*fl.table"):
        P.least_squares(pd.DataFrame({"a": [1, 2], "colour": ["red", "blue"]}), [1, 2])
    problem = P.least_squares(pd.DataFrame({"price": [1, 2], "area": [3, 4]}), [1, 2])
    weights = problem.layout.split(problem.start())
    with pytest.raises(UnknownName, match="no column 'price'; did you mean 'prise'"):
        problem.predict(weights, pd.DataFrame({"prise": [1], "area": [2]}))


def test_unknown_loss():
    with pytest.raises(UnknownName, match="no loss 'logistik'; did you mean 'logistic'"):
        P.loss_by_name("logistik")


@pytest.mark.parametrize("seen", [False, True])
def test_what_broke_among_sparse_rows_is_told_without_making_them_dense(seen):
    """A million columns: 3,000 dense rows of these would be 12 GB."""
    draw = np.random.default_rng(0)
    entries = draw.standard_normal(9000).astype(np.float32), (np.repeat(np.arange(3000), 3), draw.integers(0, 40, 9000) * 26_000)
    problem = P.least_squares(sp.csr_array(entries, shape=(3000, 1 << 20)), draw.standard_normal(3000))
    problem = problem.standardized() if seen else problem
    plan = fl.Plan(problem, steps=5, batch_size=fl.Batches.full(), optimizer=fl.SGD(lr=1e38))
    tracemalloc.start()
    with pytest.raises(fl.Diverged, match=r"first the (loss|score) of row \d+"):
        fl.train(problem, plan, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6
