"""Laws of problems: gradients, batches, weights, chunks, and what is kept or converted of the data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline import problems
from fallline.curvature import measured
from fallline.problems.losses import NAMES, Loss

KINDS = (
    "least_squares", "logistic", "huber", "hinge", "squared_hinge", "poisson", "softmax", "two_outputs", "modified_huber", "perceptron",
    "epsilon_insensitive", "squared_epsilon_insensitive", "quantile", "each_against_the_rest",
)  # fmt: skip


def made(kind: str, n: int = 40, d: int = 3, *, seed: int = 0, sparse: bool = False, weights=None, intercept: bool = True):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.7)
    X = sp.csr_matrix(X) if sparse else X
    options = {"weights": weights, "intercept": intercept}
    if kind in ("logistic", "hinge", "squared_hinge"):
        y = np.arange(n) % 2 == 0
        return problems.logistic(X, y, **options) if kind == "logistic" else problems.hinge(X, y, squared=kind != "hinge", **options)
    if kind in ("modified_huber", "perceptron"):
        return getattr(problems, kind)(X, np.arange(n) % 2, **options)
    if kind in ("softmax", "each_against_the_rest"):
        y = np.array(["a", "b", "c"])[np.arange(n) % 3]
        return problems.softmax(X, y, **options) if kind == "softmax" else problems.modified_huber(X, y, **options)
    if kind == "two_outputs":
        return problems.least_squares(X, rng.standard_normal((n, 2)), **options)
    y = rng.poisson(2.0, n) if kind == "poisson" else 2 * rng.standard_normal(n)
    if kind.endswith("epsilon_insensitive"):
        return problems.epsilon_insensitive(X, y, squared=kind.startswith("squared"), **options)
    return getattr(problems, kind)(X, y, **options)


def differences(problem, w, batch, h=1e-6):
    eye = np.eye(w.size)
    return np.array([(problem.loss(w + h * e, batch) - problem.loss(w - h * e, batch)) / (2 * h) for e in eye])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_derivative_of_the_loss(kind, sparse):
    rng = np.random.default_rng(3)
    problem = made(kind, sparse=sparse, weights=rng.random(40))
    w = rng.standard_normal(problem.layout.size)
    for batch in (None, rng.integers(0, 40, 7)):
        loss, g = problem.gradient(w, batch)
        assert loss == pytest.approx(problem.loss(w, batch), rel=1e-12)
        np.testing.assert_allclose(g, differences(problem, w, batch), atol=2e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intercept", [False, True])
def test_sparse_equals_dense(kind, intercept):
    dense, sparse = made(kind, intercept=intercept), made(kind, sparse=True, intercept=intercept)
    w = np.random.default_rng(1).standard_normal(dense.layout.size)
    np.testing.assert_allclose(sparse.gradient(w)[1], dense.gradient(w)[1], atol=1e-14)
    np.testing.assert_allclose(sparse.scales(), dense.scales(), atol=1e-14)
    if dense.smoothness() is not None:
        assert sparse.smoothness() == pytest.approx(dense.smoothness(), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 50), st.integers(1, 60))
def test_chunked_full_gradient_is_the_one_shot_gradient(kind, chunk, n):
    n = max(n, 3)
    problem = made(kind, n)
    w = np.random.default_rng(n).standard_normal(problem.layout.size)
    whole, parts = problem.gradient(w, chunk=n), problem.gradient(w, chunk=chunk)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-12)


def test_full_gradient_needs_memory_for_one_chunk_only():
    peaks = []
    for n in (100_000, 400_000):
        X = np.ones((n, 10), np.float32)
        problem = problems.least_squares(X, np.arange(n) % 5)
        tracemalloc.start()
        problem.gradient(np.zeros(11), chunk=10_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 4e6


def test_mini_batch_gradient_is_unbiased_and_its_spread_falls_as_one_over_root_m():
    problem = made("logistic", 4096, 4)
    w = np.random.default_rng(0).standard_normal(5)
    full, order = problem.gradient(w)[1], np.random.default_rng(1).permutation(4096)
    spread = []
    for m in (4, 16, 64):
        parts = np.array([problem.gradient(w, b)[1] for b in order.reshape(-1, m)])
        np.testing.assert_allclose(parts.mean(axis=0), full, atol=1e-13)
        spread.append(np.sqrt(((parts - full) ** 2).sum(axis=1).mean()))
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.1)
    assert spread[1] / spread[2] == pytest.approx(2, rel=0.25)


@given(st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_whole_weight_is_a_repeated_row(seed):
    rng = np.random.default_rng(seed)
    X, y, count = rng.standard_normal((12, 2)), rng.standard_normal(12), rng.integers(1, 4, 12)
    weighted = problems.least_squares(X, y, weights=count)
    repeated = problems.least_squares(np.repeat(X, count, axis=0), np.repeat(y, count))
    assert weighted.weight is not None and weighted.weight.mean() == pytest.approx(1)
    w = rng.standard_normal(3)
    np.testing.assert_allclose(weighted.gradient(w)[1], repeated.gradient(w)[1], atol=1e-12)
    assert weighted.loss(w) == pytest.approx(repeated.loss(w))


def test_what_is_already_right_is_not_copied(tmp_path):
    y = np.arange(6.0)
    for dtype in (np.float32, np.float64):
        X = np.arange(12, dtype=dtype).reshape(6, 2)
        X.flags.writeable = False
        np.save(tmp_path / "x.npy", X)
        for data in (X, np.load(tmp_path / "x.npy", mmap_mode="r")):
            problem = problems.least_squares(data, y)
            assert np.shares_memory(problem.X, data) and problem.X.dtype == dtype and problem.notes == ()
            assert problem.gradient(np.zeros(3))[1].shape == (3,)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("?", "f4"), ("i1", "f4"), ("u2", "f4"), ("f2", "f4"), ("i4", "f8"), ("i8", "f8"), (">f4", "f4"), (">f8", "f8"), ("O", "f8")],
)
def test_other_types_become_the_smallest_exact_one_and_say_so(dtype, kept):
    X = np.array([[0, 1], [1, 0]]).astype(dtype)
    problem = problems.least_squares(X, [0.0, 1.0])
    assert problem.X.dtype == np.dtype(kept) and problem.X.dtype.isnative and len(problem.notes) == 1
    np.testing.assert_array_equal(problem.X, [[0, 1], [1, 0]])


def test_column_order_is_copied_once_and_said():
    problem = problems.least_squares(np.asfortranarray(np.ones((3, 2))), np.arange(3))
    assert problem.X.flags.c_contiguous and "row-major" in problem.notes[0]


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("wrap", [sp.csr_matrix, sp.csr_array])
def test_every_sparse_kind_becomes_canonical_csr(kind, wrap):
    X = np.array([[0, 1.0, 2], [3, 0, 0]])
    problem = problems.least_squares(wrap(X).asformat(kind), [0.0, 1.0])
    assert problem.X.format == "csr" and problem.X.indptr.dtype == np.int64 and problem.X.indices.dtype == np.int32
    np.testing.assert_array_equal(problem.X.toarray(), X)


def test_unsorted_duplicates_are_summed_on_a_copy_and_wide_indices_narrowed():
    X = sp.csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2], np.int64), np.array([0, 3], np.int64)), shape=(1, 3))
    before = X.data.copy(), X.indices.copy()
    problem = problems.least_squares(X, [1.0])
    np.testing.assert_array_equal(problem.X.toarray(), [[2, 0, 4]])
    np.testing.assert_array_equal(X.data, before[0])
    np.testing.assert_array_equal(X.indices, before[1])
    assert problem.notes


@pytest.mark.parametrize("y", [["b", "a", "b"], [True, False, True], [7, -1, 7], [2.0, 1.0, 2.0], np.array(["b", "a", "b"], object)])
def test_labels_of_any_type_come_back_as_they_were(y):
    X = [[1.0], [-1.0], [1.0]]
    for make in (problems.logistic, problems.hinge, problems.softmax):
        problem = make(X, y)
        assert problem.classes.tolist() == sorted(set(y))
        w = problem.layout.split(-problem.gradient(problem.start())[1])
        assert problem.predict(w, X).tolist() == list(y)


def test_frames_bring_names_and_are_read_by_name():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for frame in (pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}), pl.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})):
        problem = problems.least_squares(frame, [1.0, 2.0])
        assert problem.feature_names == ("a", "b")
        w = {"coef": np.array([1.0, 10.0]), "intercept": np.array(0.5)}
        np.testing.assert_array_equal(problem.predict(w, frame[["b", "a"]]), [31.5, 42.5])
    y = pd.Series(["u", "v"], dtype="category")
    assert problems.logistic(frame.to_numpy(), y).classes.tolist() == ["u", "v"]


def test_probabilities_are_stable_and_sum_to_one():
    for problem in (made("logistic"), made("softmax"), made("modified_huber"), made("each_against_the_rest")):
        w = {n: 1e4 * np.random.default_rng(0).standard_normal(v.shape) for n, v in problem.layout.split(problem.start()).items()}
        p = problem.predict_proba(w, problem.X)
        assert np.isfinite(p).all() and (p >= 0).all()
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
        best = problem.classes[p.argmax(axis=1)]
        sure = "modified_huber" in problem.name  # beyond a margin of 1, and where every class is ruled out, probabilities tie
        assert (best == problem.predict(w, problem.X)).mean() > (0.3 if sure else 0.99)


def test_each_class_against_the_rest_is_the_sum_of_problems_of_two_classes():
    many, rng = made("each_against_the_rest"), np.random.default_rng(4)
    w = rng.standard_normal(many.layout.size)
    coef, intercept = many.layout.split(w).values()
    parts = [problems.modified_huber(many.X, many.target == k) for k in range(3)]
    flat = [np.append(coef[:, k], intercept[k]) for k in range(3)]
    assert many.loss(w) == pytest.approx(sum(p.loss(v) for p, v in zip(parts, flat, strict=True)), rel=1e-12)
    gradients = np.stack([p.gradient(v)[1] for p, v in zip(parts, flat, strict=True)], axis=1)
    np.testing.assert_allclose(many.gradient(w)[1], np.append(gradients[:-1].reshape(-1), gradients[-1]), atol=1e-12)
    scores = many.scores(many.layout.split(w), many.X)
    assert (many.predict(many.layout.split(w), many.X) == many.classes[scores.argmax(axis=1)]).all()


def test_a_quantile_has_its_share_of_targets_below_it():
    rng = np.random.default_rng(0)
    y = rng.exponential(size=4000)
    problem = problems.quantile(np.zeros((4000, 1)), y, level=0.8)
    grid = np.linspace(0, 4, 401)
    best = grid[np.argmin([problem.loss(np.array([0.0, q])) for q in grid])]
    assert abs((y < best).mean() - 0.8) < 0.01


def test_the_perceptron_takes_a_first_step_from_zero():
    problem = problems.perceptron([[1.0], [-1.0]], [1, 0])
    assert problem.loss(problem.start()) == 0 and problem.gradient(problem.start())[1][0] == -1


def test_scores_of_a_row_do_not_hang_on_its_neighbours():
    problem = made("softmax", 200, 17)
    w = problem.layout.split(np.random.default_rng(0).standard_normal(problem.layout.size))
    whole = problem.scores(w, problem.X)
    np.testing.assert_allclose([problem.scores(w, problem.X[i : i + 1])[0] for i in range(200)], whole, atol=1e-12)


def test_model_survives_json_without_its_data():
    problem = made("softmax")
    model = problems.LinearModel.from_json(problem.model.to_json())
    w = problem.layout.split(np.random.default_rng(0).standard_normal(problem.layout.size))
    np.testing.assert_array_equal(model.predict(w, problem.X), problem.predict(w, problem.X))
    assert model.layout == problem.layout


def test_on_other_data_keeps_the_classes():
    problem = problems.logistic([[0.0], [1.0]], ["no", "yes"])
    other = problem.on([[5.0]], ["yes"])
    assert other.classes.tolist() == ["no", "yes"] and other.target.tolist() == [1.0]


def test_fingerprint_tells_data_labels_and_kind_apart():
    X, y = np.eye(3), np.array([0.0, 1.0, 2.0])
    base = problems.least_squares(X, y)
    others = [
        problems.least_squares(X + 1e-12, y), problems.least_squares(X, y + 1e-12), problems.huber(X, y),
        problems.least_squares(X, y, weights=[1, 2, 3]), problems.least_squares(X, y, intercept=False),
        problems.least_squares(X.astype(np.float32), y), problems.least_squares(sp.csr_array(X), y), problems.huber(X, y, delta=2),
    ]  # fmt: skip
    assert len({p.fingerprint for p in [base, *others]}) == 9
    assert problems.least_squares(X.copy(), y.tolist()).fingerprint == base.fingerprint


def test_curvature_bounds_the_hessian():
    for kind in ("least_squares", "logistic", "softmax", "squared_hinge", "modified_huber", "squared_epsilon_insensitive"):
        problem = made(kind, 60)
        A = np.column_stack([problem.X, np.ones(60)])
        top = np.linalg.eigvalsh(A.T @ A / 60)[-1] * problem.loss.curvature
        assert top * (1 - 1e-9) <= problem.smoothness() <= top * 1.002
        w = np.random.default_rng(1).standard_normal(problem.layout.size)
        assert measured(problem, w).value <= top * 1.001
    assert made("poisson").smoothness() is None


def test_one_row_and_constant_columns_are_legal():
    problem = problems.least_squares([[1.0, 1.0]], [2.0])
    assert problem.gradient(np.zeros(3))[0] == 2.0
    assert problem.feature_name(1) == "column 1"


def test_losses_know_their_codes():
    from fallline.engines.linear import scalar

    upper = lambda n: n.replace("least_squares", "squared").replace("epsilon_insensitive", "insensitive").upper()
    codes = {n: getattr(scalar, upper(n)) for n in NAMES}
    assert {n: Loss(n).code for n in NAMES} == codes


# ------------------------------------------------------------------------------------------------------ teaching


def test_quadratic_noise_is_zero_on_average_and_has_its_size():
    problem = problems.quadratic([1, 10], noise=0.5, rows=100)
    w = np.array([1.0, -2.0])
    parts = np.array([problem.gradient(w, np.array([i]))[1] for i in range(100)])
    np.testing.assert_allclose(parts.mean(axis=0), [1, -20], atol=1e-12)
    np.testing.assert_allclose(parts.std(axis=0), 0.5, atol=1e-12)
    assert problem.loss(w) == 20.5 and problem.rows == 100 and problems.quadratic([1]).rows == 1


@pytest.mark.parametrize(
    "problem", [problems.quadratic([1, 3], noise=1), problems.rosenbrock(), problems.function(lambda w: float(np.sin(w).sum()), np.cos, start=[1, 2])]
)
def test_teaching_gradients_are_derivatives(problem):
    w = problem.start() + 0.3
    batch = np.array([0])
    np.testing.assert_allclose(problem.gradient(w, batch)[1], differences(problem, w, batch), atol=1e-5, rtol=1e-7)
    assert isinstance(problem, problems.Problem) and len(problem.fingerprint) == 64


def test_function_without_gradient_takes_central_differences_in_the_shape_of_the_start():
    problem = problems.function(lambda w: float((w**3).sum()), start=np.ones((2, 2)))
    assert problem.layout.parameters[0].shape == (2, 2)
    np.testing.assert_allclose(problem.gradient(problem.start())[1], 3, rtol=1e-9)
