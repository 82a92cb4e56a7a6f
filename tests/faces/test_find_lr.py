"""`find_lr` at its face: what it returns, on which plans it works, and that its choices train well."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.errors import NoLearningRate


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5))
    return fl.logistic(X, X[:, 0] + 0.3 * rng.standard_normal(300) > 0)


def ask(problem, optimizer, **plan):
    return fl.find_lr(problem, fl.Plan(problem, **({"epochs": 20, "batch_size": 32} | plan), optimizer=optimizer))


def test_what_is_found(problem):
    found = ask(problem, fl.SGD(momentum=0.9))
    assert 1e-4 < found.lr < 10
    assert found.interval[0] <= found.lr <= found.interval[1] and found.flat[0] <= found.flat[1]
    assert found.edge is None or found.lr < found.edge
    assert found.curve.lr.shape == found.curve.loss.shape == found.curve.smooth.shape
    assert np.all(np.diff(found.curve.lr) > 0)
    assert 0 < found.cost <= 240 and found.share == pytest.approx(found.cost / 200, abs=0.006)
    assert "between" in found.verdict and "rows held out of the training data" in found.verdict
    assert [len(r.lr) == len(r.score) == len(r.folds) for r in found.rungs] == [True] * len(found.rungs)
    assert "\n" not in repr(found)


def test_the_plan_takes_what_was_found(problem):
    plan = fl.Plan(problem, epochs=2, optimizer=fl.SGD(momentum=0.9, schedule="warmup(5%) > linear(to=0)"))
    found = fl.find_lr(problem, plan)
    assert plan.with_lr(found).optimizer.lr == found.lr
    assert plan.lr_is_auto


def test_without_an_answer_lr_raises_with_the_verdict():
    flat = fl.least_squares(np.zeros((50, 2)), np.zeros(50), intercept=False)
    plan = fl.Plan(flat, epochs=20, optimizer=fl.SGD())
    found = fl.find_lr(flat, plan)
    with pytest.raises(NoLearningRate) as caught:
        _ = found.lr
    assert caught.value.verdict == str(caught.value) == found.verdict
    with pytest.raises(NoLearningRate):
        plan.with_lr(found)
    assert "none" in repr(found)


def test_labels_without_a_signal_are_refused_or_small(problem):
    """Labels drawn by chance: an honest test does not promise much."""
    rng = np.random.default_rng(3)
    noise = fl.logistic(problem.X, rng.integers(0, 2, problem.rows))
    found = ask(noise, fl.SGD())
    assert found.rate is None or found.rate < 2


def test_a_loss_that_is_not_finite_from_the_start():
    broken = fl.function(lambda w: float("nan"), start=[1.0])
    with np.errstate(all="ignore"):
        found = fl.find_lr(broken, fl.Plan(broken, steps=50, optimizer=fl.SGD()))
    assert found.rate is None
    assert "finite" in found.verdict


RULES = [
    fl.SGD(), fl.SGD(momentum=0.9, nesterov=True), fl.Nesterov(momentum=0.9), fl.MovingAverage(), fl.Adam(), fl.AdamW(), fl.NAdam(), fl.RMSProp(),
    fl.AdaGrad(), fl.ScheduleFree(), fl.SGD(momentum=0.9, average=fl.ema(0.99)), fl.SGD(clip=1.0), fl.SGD(l1=1e-3), fl.SGD(momentum=fl.cosine(start=0.95, to=0.85)),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_has_its_own_answer(problem, rule):
    found = ask(problem, rule)
    trained = fl.train(problem, fl.Plan(problem, epochs=5, batch_size=32, optimizer=rule.with_lr(found.lr)), progress=False)
    assert trained.history.loss[-20:].mean() < 0.6 * trained.history.loss[0]


def test_groups_are_tested_as_they_are(problem):
    """With all weights at ten times the rate, the rate comes out about a tenth."""
    plain = ask(problem, fl.SGD(momentum=0.9))
    tenfold = ask(problem, fl.SGD(momentum=0.9, groups={"*": fl.Group(lr=10.0)}))
    assert 3 < plain.lr / tenfold.lr < 30


@pytest.mark.parametrize("size", [1, 8, 128, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_batch_size_and_type(problem, size, dtype):
    typed = fl.logistic(problem.X.astype(dtype), problem.target)
    found = ask(typed, fl.SGD(), batch_size=fl.Batches.full() if size is None else fl.Batches(size))
    assert 1e-4 < found.lr < 30


def test_sparse_rows(problem):
    from scipy import sparse

    dense, thin = problem.X, sparse.csr_matrix(np.where(np.abs(problem.X) > 0.5, problem.X, 0.0))
    assert dense.shape == thin.shape
    assert 1e-4 < ask(fl.logistic(thin, problem.target), fl.SGD()).lr < 30


def test_functions_too():
    valley = fl.quadratic([1.0, 100.0], start=[1.0, 1.0])
    found = fl.find_lr(valley, fl.Plan(valley, steps=300, optimizer=fl.SGD()))
    assert 1e-4 < found.lr < 0.02  # the edge is 2/100


def test_auto_in_a_plan_is_found_by_train(problem):
    plan = fl.Plan(problem, epochs=3, batch_size=32)
    run = fl.train(problem, plan, progress=False)
    assert run.plan.optimizer.lr == fl.find_lr(problem, plan).lr
    assert any(e["what"] == "lr" and "between" in e["why"] for e in run.history.journal)


def test_the_picture_and_the_page(problem):
    pytest.importorskip("altair")
    found = ask(problem, fl.SGD(momentum=0.9))
    assert found.plot().title.startswith("Chosen learning rate")
    assert "<svg" in found._repr_html_()


def standardised(name: str):
    from sklearn import datasets

    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    train, held = order[: int(0.7 * len(X))], order[int(0.7 * len(X)) :]
    mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
    X = ((X - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
    if name == "diabetes":
        y = (y - y[train].mean()) / y[train].std()
    make = {"digits": fl.softmax, "breast_cancer": fl.logistic, "diabetes": fl.least_squares}[name]
    problem = make(X[train], y[train])
    return problem, problem.on(X[held], y[held])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("size", [16, 64, None])
@pytest.mark.parametrize("name", ["digits", "breast_cancer", "diabetes"])
def test_the_choice_is_near_the_best_of_a_grid(name, size, momentum):
    """Validation loss at the choice against the best of a grid over four decades, both with warmup and linear decay."""
    problem, held = standardised(name)
    batches = fl.Batches.full() if size is None else fl.Batches(size)
    plan = fl.Plan(problem, epochs=20, batch_size=batches, optimizer=fl.SGD(momentum=momentum, weight_decay=1e-4, schedule="warmup(5%) > linear(to=0)"))

    def score(lr: float) -> float:
        try:
            run = fl.train(problem, plan.with_lr(lr), progress=False)
        except fl.Diverged:
            return np.inf
        return held.loss(problem.layout.join(run.weights))

    best = min(score(lr) for lr in 10.0 ** np.arange(-3, 1.1, 0.5))
    chosen = score(fl.find_lr(problem, plan).lr)
    assert chosen - best < 0.2
