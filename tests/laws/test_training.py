"""Laws of `train`: cutting changes nothing, observers change nothing, the best is kept, judges rule alike everywhere."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fallline import loop
from fallline.batches import Batches
from fallline.engines.reference import ReferenceEngine
from fallline.errors import Diverged, InvalidValue
from fallline.history import State
from fallline.judges import EarlyStop, Explosion, Go, Stop, TimeBudget, View
from fallline.lengths import Clock, epochs, fraction, steps
from fallline.metrics import METRICS, Metric
from fallline.plan import Plan
from fallline.problems import (
    LinearProblem,
    function,
    least_squares,
    logistic,
    poisson,
    quadratic,
    rosenbrock,
    softmax,
)
from fallline.rules import SGD, Adam, Nesterov, ScheduleFree
from fallline.training import Validation, train


def data(rows: int = 120, features: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, features))
    return X, np.where(X[:, 0] + 0.3 * draw.normal(size=rows) > 0, "yes", "no")


def run_of(problem: Any, plan: Plan, **options: Any) -> Any:
    return train(problem, plan, engine=ReferenceEngine(problem), progress=False, **options)


RULES = [SGD(lr=0.1, momentum=0.9, schedule="warmup(5%) > cosine(to=0)"), SGD(lr=0.1, average=0.1), Adam(lr=0.01), ScheduleFree(lr=0.3)]


@given(st.sampled_from(RULES), st.sampled_from([1e-7, 1e-4, 10.0]), st.sampled_from([steps(1), steps(7), epochs(0.5), epochs(3)]))
@settings(deadline=None, max_examples=25)
def test_neither_cuts_nor_observers_change_a_bit(rule: Any, seconds: float, every: Any):
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=3, batch_size=16, optimizer=rule)
    whole = ReferenceEngine(problem).advance(State.begin(problem.start(), rule.start()), plan.segment(0, plan.steps, problem.layout))
    seen: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SEGMENT_SECONDS", seconds)
        run = run_of(problem, plan, valid=Validation((X, y), every=every), log=seen.append, stop=TimeBudget("1h"))
    assert run.history.loss.tolist() == whole.trace.loss.tolist()
    expected = whole.state.w if rule.average is not None else whole.state.answer(rule.answer())
    assert problem.layout.join(run.weights).tolist() == expected.tolist()
    assert seen == run.history.evaluations and seen[-1]["step"] == plan.steps


def test_the_chosen_engine_does_what_the_reference_does():
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=2, batch_size=16, optimizer=SGD(lr=0.1, momentum=0.9))
    fast, reference = train(problem, plan, valid=(X, y), progress=False), run_of(problem, plan, valid=(X, y))
    np.testing.assert_allclose(fast.weights["coef"], reference.weights["coef"], rtol=1e-10)
    assert [e["valid_loss"] for e in fast.history.evaluations] == pytest.approx([e["valid_loss"] for e in reference.history.evaluations])


def test_an_evaluation_measures_the_answer_and_the_mean_loss_since_the_last():
    X, y = data()
    problem = logistic(X, y)
    rule = ScheduleFree(lr=0.5)
    plan = Plan(problem, epochs=2, batch_size=16, optimizer=rule)
    run = run_of(problem, plan, valid=Validation((X, y), metrics=["accuracy", "log_loss"]))
    first, last = run.history.evaluations
    assert last["valid_loss"] == pytest.approx(problem.loss(problem.layout.join(run.weights)), rel=1e-12)
    assert last["valid_log_loss"] == pytest.approx(last["valid_loss"], rel=1e-9)
    assert last["valid_accuracy"] == np.mean(problem.predict(run.weights, X) == y)
    per = plan.steps_per_epoch
    assert [first["loss"], last["loss"]] == [run.history.loss[:per].mean(), run.history.loss[per:].mean()]
    assert (first["epoch"], first["lr"]) == (1.0, 0.5)


def test_best_is_the_best_by_loss_or_by_the_metric_that_stops():
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=8, batch_size=8, optimizer=SGD(lr=2.0))
    by_loss = run_of(problem, plan, valid=data(seed=1))
    scores = [e["valid_loss"] for e in by_loss.history.evaluations]
    held_out = problem.on(*data(seed=1))
    assert held_out.loss(problem.layout.join(by_loss.best)) == min(scores)
    by_accuracy = run_of(problem, plan, valid=data(seed=1), stop=EarlyStop(patience=epochs(8), metric="accuracy"))
    accuracies = [e["valid_accuracy"] for e in by_accuracy.history.evaluations]
    X1, y1 = data(seed=1)
    assert np.mean(problem.predict(by_accuracy.best, X1) == y1) == max(accuracies)


def test_a_first_evaluation_that_is_not_a_number_does_not_stay_the_best(monkeypatch: pytest.MonkeyPatch):
    X, y = data()
    values = iter([math.nan, 0.7, 0.2, 0.5])
    monkeypatch.setitem(METRICS, "made_up", Metric("made_up", lambda y, p: next(values), "labels", "lower"))
    problem = logistic(X, y)
    plan = Plan(problem, epochs=4, batch_size=40, optimizer=SGD(lr=0.1))
    run = run_of(problem, plan, valid=(X, y), stop=EarlyStop(patience=epochs(9), metric="made_up"))
    assert next(e["value"] for e in run.journal if e["what"] == "best") == 9


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(deadline=None)
def test_early_stop_is_patience_evaluations_without_improvement(scores: list[int], patience: int, min_delta: float):
    look = EarlyStop(patience=epochs(patience), min_delta=min_delta).begin(Clock(100, 5))
    best, waited, expected = math.inf, 0, None
    for i, score in enumerate(scores):
        best, waited = (score, 0) if score < best - min_delta else (best, waited + 1)
        if waited >= patience:
            expected = i
            break
    given_up = next((i for i, s in enumerate(scores) if isinstance(look(View(5 * (i + 1), np.empty(0), {"valid_loss": float(s)})), Stop)), None)
    assert given_up == expected


def test_a_judge_serves_many_runs():
    judge, clock = EarlyStop(patience=epochs(1)), Clock(10, 1)
    for _ in range(2):
        look = judge.begin(clock)
        assert isinstance(look(View(1, np.empty(0), {"valid_loss": 1.0})), Go)
        assert isinstance(look(View(2, np.empty(0), {"valid_loss": 1.0})), Stop)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_guard_rules_alike_however_losses_are_cut(cuts: list[int]):
    losses = np.concatenate([np.full(100, 1.0), np.full(100, 1e5)])
    edges = np.unique(np.clip([0, *np.cumsum(cuts), 50, 100, 150, 200], 0, 200))
    look, verdicts = Explosion().begin(Clock(1000, 500)), {}
    for a, b in pairwise(edges):
        verdicts[int(b)] = look(View(int(b), losses[a:b], {} if b % 50 == 0 else None))
    assert [b for b, v in verdicts.items() if isinstance(v, Stop)] == [150, 200]


@pytest.mark.parametrize("seconds", [1e-7, 1e-3, 10.0])
def test_a_divergence_is_found_at_the_same_update_on_any_machine(seconds: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "SEGMENT_SECONDS", seconds)
    X, _ = data(400)
    problem = least_squares(X, X[:, 0])
    caught: Any
    with pytest.raises(Diverged) as caught:
        run_of(problem, Plan(problem, epochs=60, batch_size=40, optimizer=SGD(lr=2.0)), start=np.ones(5))
    assert caught.value.step == STEP_OF_DIVERGENCE
    assert caught.value.run.history.steps == STEP_OF_DIVERGENCE


STEP_OF_DIVERGENCE = 90


@pytest.mark.parametrize("start", [[0.0, 0.0], [1e-5, 1e-5]])
def test_noise_around_the_minimum_is_no_divergence(start: list[float]):
    problem = quadratic([1, 10], noise=1, start=start)
    run = run_of(problem, Plan(problem, epochs=1, batch_size=1, optimizer=SGD(lr=0.05)))
    assert run.outcome.name == "Finished"


def test_a_loss_that_is_negative_or_begins_at_zero_is_no_divergence():
    saddle = function(lambda w: float(w[0] ** 2 - 3 * w[1] + 0.1 * w[1] ** 2), start=[0.0, 0.0])
    run = run_of(saddle, Plan(saddle, steps=300, optimizer=SGD(lr=0.1)))
    assert run.outcome.name == "Finished" and run.history.loss[-1] < -10


def test_the_path_starts_at_the_start_and_follows_the_textbook_loop():
    problem = quadratic([1.0, 10.0], start=[1.0, -2.0])
    run = run_of(problem, Plan(problem, steps=50, optimizer=SGD(lr=0.05, momentum=0.5)))
    w, v, path = np.array([1.0, -2.0]), np.zeros(2), [[1.0, -2.0]]
    for _ in range(50):
        v = 0.5 * v + np.array([1.0, 10.0]) * w
        w = w - 0.05 * v
        path.append(w.tolist())
    np.testing.assert_allclose(run.history.path, path, rtol=1e-14, atol=1e-300)
    assert run.history.path.shape == (51, 2)


def test_only_small_problems_that_are_not_models_keep_a_path():
    X, y = data()
    problem: LinearProblem = logistic(X, y)
    assert run_of(problem, Plan(problem, epochs=1, optimizer=SGD(lr=0.1))).history.path is None
    wide = quadratic([1.0] * 11)
    assert run_of(wide, Plan(wide, steps=5, optimizer=SGD(lr=0.1))).history.path is None
    assert run_of(rosenbrock(), Plan(rosenbrock(), steps=5, optimizer=SGD(lr=1e-3))).history.path is not None


def test_a_finished_plan_is_finished_whatever_a_judge_says_of_its_last_update():
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=2, batch_size=16, optimizer=SGD(lr=0.1))
    run = run_of(problem, plan, valid=(X, y), stop=EarlyStop(patience=epochs(1), min_delta=10.0))
    assert run.outcome.name == "Finished" and run.history.steps == plan.steps


def test_a_time_budget_is_honoured_between_segments():
    X, y = data(2000)
    problem = logistic(X, y)
    plan = Plan(problem, epochs=1000, batch_size=1, optimizer=SGD(lr=0.01))
    run = run_of(problem, plan, stop=TimeBudget(0.2))
    assert run.outcome.name == "TimeUp" and 0 < run.history.steps < plan.steps
    assert "0.2 s" in run.reason


def test_a_start_is_used_as_given():
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=1, batch_size=Batches.full(), optimizer=SGD(lr=0.1))
    flat = np.arange(5.0) / 10
    by_vector, by_name = run_of(problem, plan, start=flat), run_of(problem, plan, start=problem.layout.split(flat))
    assert by_vector.history.loss[0] == by_name.history.loss[0] == problem.loss(flat)


def test_lengths_of_every_kind_set_the_cadence():
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, epochs=4, batch_size=12, optimizer=SGD(lr=0.1))
    for every, expected in [(epochs(2), [20, 40]), (steps(15), [15, 30, 40]), (fraction(0.5), [20, 40])]:
        run = run_of(problem, plan, valid=Validation((X, y), every=every))
        assert [e["step"] for e in run.history.evaluations] == expected


@pytest.mark.parametrize(("engine", "lr"), [(None, 1e3), (ReferenceEngine, 1e30)], ids=["chosen, float32", "reference"])
@pytest.mark.parametrize("rule", [SGD(lr=1.0), Nesterov(lr=1.0, momentum=0.9)], ids=["sgd", "look-ahead"])
def test_the_loss_that_failed_is_the_last_of_the_history_but_no_update(rule: Any, engine: Any, lr: float):
    X, _ = data()
    problem = least_squares(X.astype(np.float32), X[:, 0].astype(np.float32))
    plan = Plan(problem, epochs=4, batch_size=16, optimizer=replace(rule, lr=lr))
    with pytest.raises(Diverged, match=r"loss (inf|nan) before step") as caught:
        train(problem, plan, engine=engine and engine(problem), progress=False)
    history, step = caught.value.run.history, caught.value.step
    assert history.steps == step == len(history.loss) - 1 > 2
    assert np.isfinite(history.loss[:-1]).all() and not np.isfinite(history.loss[-1])


def test_the_loss_that_failed_is_taken_where_the_gradient_was():
    """A function that is finite at w and not at w - look*v: only the look-ahead point shows what failed."""
    wall = function(lambda w: float("nan") if w[0] < 0 else float(w[0]), lambda w: np.array([1.0]), start=[1.0])
    with pytest.raises(Diverged) as caught:
        train(wall, Plan(wall, steps=50, optimizer=Nesterov(lr=0.1, momentum=0.9)), progress=False)
    run = caught.value.run
    assert run.weights["w"][0] > 0 and np.isnan(run.history.loss[-1]) and np.isfinite(run.history.loss[:-1]).all()


@pytest.mark.parametrize(("total", "stop", "seen"), [(400, None, 4), (50, None, 1), (400, EarlyStop(patience=steps(2)), 2)])
def test_full_batches_are_measured_a_hundred_times_or_as_patience_asks(total: int, stop: Any, seen: int):
    X, y = data()
    problem = logistic(X, y)
    plan = Plan(problem, steps=total, batch_size=Batches.full(), optimizer=SGD(lr=0.01))
    at = [e["step"] for e in run_of(problem, plan, valid=(X, y), stop=stop).history.evaluations]
    assert at == list(range(seen, total + 1, seen))


def test_the_usual_metrics_of_classes_are_accuracy_and_log_loss():
    X, y = data()
    problem = logistic(X, y)
    run = run_of(problem, Plan(problem, epochs=1, batch_size=16, optimizer=SGD(lr=0.1)), valid=(X, y))
    last, point = run.history.evaluations[-1], problem.layout.join(run.weights)
    assert [k for k in last if k.startswith("valid_")] == ["valid_loss", "valid_accuracy", "valid_log_loss"]
    assert last["valid_loss"] == problem.loss(point) and last["valid_accuracy"] == np.mean(problem.predict(run.weights, X) == y)
    assert last["valid_log_loss"] == METRICS["log_loss"]((y == "yes").astype(int), problem.predict_proba(run.weights, X))


@pytest.mark.parametrize("make", [least_squares, logistic, softmax, poisson], ids=lambda f: f.__name__)
def test_one_pass_measures_what_predictions_give(make: Any):
    X, y = data(90)
    y = y if make is logistic else np.arange(90) % 3 if make is softmax else np.abs(X[:, 0])
    problem = make(X, y, weights=np.arange(1.0, 91.0))
    point = np.random.default_rng(1).normal(size=problem.layout.size)
    names = ["accuracy", "log_loss"] if problem.classes is not None else ["rmse", "mae"]
    loss, values = problem.measure(point, [METRICS[n] for n in names])
    assert loss == problem.loss(point) and problem.measure(point, ()) == (loss, [])
    weights = problem.named(point)
    for name, value in zip(names, values, strict=True):
        truth, guess = (np.arange(90) % 3 if make is softmax else (y == "yes").astype(int), problem.predict_proba(weights, X)) if name == "log_loss" else (y, problem.predict(weights, X))
        np.testing.assert_allclose(value, METRICS[name](truth, guess), rtol=1e-12)


@pytest.mark.parametrize("rule", [SGD(0.05), SGD(0.05, momentum=0.9, weight_decay=0.01), SGD(0.05, momentum=0.9, nesterov=True), SGD(0.05, l1=0.002), SGD(0.05, average=0.1)], ids=repr)
@pytest.mark.parametrize("sizes", [(1, 8, None), (8, 1, 8), (None, 1, 4)], ids=str)
def test_batches_may_change_their_size_on_the_way_on_sparse_rows_too(rule: Any, sizes: tuple[int | None, ...]):
    """What one size leaves owing (decay, thresholds, momentum of features not seen) is settled where another one begins."""
    draw = np.random.default_rng(0)
    X = draw.normal(size=(90, 30)) * (draw.random((90, 30)) < 0.15)
    y = np.where(X[:, :5].sum(axis=1) + 0.3 * draw.normal(size=90) > 0, 1.0, 0.0)
    journal = [(50 * k, Plan(rows=90, steps=160, batch_size=size or Batches.full(), optimizer=rule, seed=1)) for k, size in enumerate(sizes)]
    ends = []
    for rows, engine in ((sparse.csr_array(X), None), (X, None), (X, ReferenceEngine)):
        problem = logistic(rows, y)
        run = train(problem, journal, engine=None if engine is None else engine(problem), progress=False)
        ends.append(np.concatenate([np.ravel(w) for w in (run.averaged or run.weights).values()]))
    assert max(np.abs(end - ends[0]).max() for end in ends[1:]) < 1e-13


def test_an_engine_is_no_word():
    problem = quadratic([1.0])
    with pytest.raises(InvalidValue, match=r"engine='reference': expected an engine, such as fallline.engines.reference.ReferenceEngine\(problem\); left out, the fastest is taken"):
        train(problem, Plan(problem, steps=2, optimizer=SGD(0.1)), engine="reference", progress=False)  # type: ignore[arg-type]
