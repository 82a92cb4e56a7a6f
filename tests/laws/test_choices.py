"""What `fit` chooses: each choice is what its search says, one's own number stays, and nothing is searched for twice."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.advice.compressed import peak, squeezed
from fallline.advice.probe import OutOfFold, Probe
from fallline.advice.weight_decay import PATH, find_weight_decay
from fallline.fitting import choosing

SCHEDULE = "warmup(5%) > linear(to=0)"


def noisy(rows=90, features=60, seed=0):
    """One column that says something, many that do not: without decay the fit follows the noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    return fl.least_squares(X, X[:, 0] + rng.standard_normal(rows))


def plan_of(problem, epochs=60, lr=0.02, batch=8, **own):
    return fl.Plan(problem, epochs=epochs, batch_size=batch, optimizer=fl.SGD(lr=lr, schedule=SCHEDULE, **own), seed=3)


@pytest.fixture(scope="module")
def small():
    return fl.table("breast-cancer")


@pytest.fixture
def no_search(monkeypatch):
    """From here on every search is an error."""

    def searched(*args, **kwargs):
        raise AssertionError("a search was made")

    for name in ("find_lr", "find_batch_size", "find_weight_decay"):
        monkeypatch.setattr(choosing, name, searched)


# ---------------------------------------------------------------------------------------------------- folds


@given(rows=st.integers(2, 400), folds=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_folds_hold_every_row_once(rows, folds, seed):
    parts = OutOfFold(folds).parts(rows, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    sizes = [len(p) for p in parts]
    assert len(parts) == min(folds, rows) and max(sizes) - min(sizes) <= 1 and min(sizes) > 0


@settings(max_examples=10)
@given(rows=st.integers(6, 60), batch=st.integers(1, 20), full=st.booleans())
def test_a_fold_is_never_trained_on_by_the_run_that_scores_it(rows, batch, full):
    problem = noisy(rows, 3)
    plan = plan_of(problem, batch=fl.Batches(rows) if full else min(batch, rows))
    probe = Probe.of(problem, plan, OutOfFold(), 0, None, 1e6)
    for lane, held in zip(probe.lanes, OutOfFold().parts(rows, 0), strict=True):
        seen = np.concatenate([lane.batches.order.indices(rows, plan.seed, epoch) for epoch in range(3)])
        assert not np.isin(held, seen).any()
        assert sum(part.rows for part in lane.scored) == len(held)


def test_scores_are_those_of_the_runs_alone():
    problem = noisy()
    plan = plan_of(problem, epochs=5, weight_decay=0.1)
    probe = Probe.of(problem, plan, OutOfFold(), 3, None, 1e9)
    score, folds = probe.try_plans([plan], plan.steps)
    alone = []
    for lane in probe.lanes:
        run = fl.train(problem, plan._with(batch_size=lane.batches), progress=False)
        alone.append(lane.scored[0].measure(problem.layout.join(run.weights), [])[0])
    np.testing.assert_allclose(folds[0], alone, rtol=1e-9)
    assert score[0] == pytest.approx(np.average(alone, weights=[lane.scored[0].rows for lane in probe.lanes]))
    assert probe.spent * len(probe.lanes) == pytest.approx(5 * plan.steps + problem.rows / 3 / 8)


def test_a_rate_can_be_found_out_of_fold():
    problem = noisy()
    found = fl.find_lr(problem, plan_of(problem, lr=fl.auto), valid=OutOfFold(), budget=20)
    assert "each out of its fold of 5" in found.verdict and found.share <= 20.5
    assert all(rung.folds.shape == (len(rung.lr), 5) for rung in found.rungs)


# --------------------------------------------------------------------------------------------- the decay path


def test_the_choice_is_the_lowest_of_the_path():
    found = find_weight_decay(noisy(), plan_of(noisy()), valid=OutOfFold())
    assert found.chosen == found.values[np.argmin(found.score)] and set(PATH) <= set(found.values.tolist())
    assert found.error[np.argmin(found.score)] == 0 and (found.error >= 0).all()
    assert found.rows == 90 and found.folds == 5 and found.steps == found.total
    assert f"weight decay {found.chosen:g}" in found.verdict and "out of its fold of 5" in found.verdict


def test_decay_is_chosen_where_it_helps_and_only_there():
    few, many = noisy(90, 60), noisy(4000, 3)
    assert find_weight_decay(few, plan_of(few), valid=OutOfFold()).chosen > 0.03
    assert find_weight_decay(many, plan_of(many, epochs=5), valid=OutOfFold()).chosen < 0.03


def test_the_path_goes_on_while_the_largest_is_the_best():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 80))
    problem = fl.least_squares(X, rng.standard_normal(60))
    found = find_weight_decay(problem, plan_of(problem, lr=1e-3), valid=OutOfFold(), values=(0.0, 0.01))
    assert found.chosen > 0.01 and found.values[-1] > 0.1


def test_what_diverges_is_never_chosen():
    problem = noisy()
    found = find_weight_decay(problem, plan_of(problem, lr=0.02), valid=OutOfFold(), values=(0.0, 1e5))
    assert np.isinf(found.score[-1]) and found.chosen < 1e5
    lost = find_weight_decay(problem, plan_of(problem, lr=1e6), valid=OutOfFold())
    assert lost.chosen is None and "diverged" in lost.verdict
    assert lost.to_json()["score"] == [None] * len(PATH)


def test_the_path_leaves_its_problem_and_repeats_itself():
    problem, plan = noisy(), plan_of(noisy())
    before = problem.fingerprint
    a, b = (find_weight_decay(problem, plan, valid=OutOfFold()) for _ in range(2))
    assert a.to_json() == b.to_json() and problem.fingerprint == before


@pytest.mark.parametrize("rule", [fl.AdamW(lr=0.05), fl.SGD(lr=fl.cosine(start=0.02, to=0), momentum=0.9), fl.ScheduleFree(lr=0.05)])
def test_any_rule_with_a_decay_has_a_path(rule):
    problem = noisy()
    plan = fl.Plan(problem, epochs=20, batch_size=8, optimizer=rule)
    assert find_weight_decay(problem, plan, valid=OutOfFold()).chosen is not None


def test_a_plan_squeezed_keeps_its_own_rates():
    problem = noisy()
    for rule in (fl.SGD(lr=0.02, schedule=SCHEDULE), fl.SGD(lr=fl.cosine(start=0.02, to=0.001))):
        plan = fl.Plan(problem, epochs=50, batch_size=8, optimizer=rule)
        short = squeezed(plan, 60)
        at = (2 * np.arange(60) + 1) * plan.steps // 120
        np.testing.assert_allclose(short.lr_at(), plan.lr_at(at))
        assert squeezed(plan, plan.steps) is plan and peak(plan) == pytest.approx(plan.lr_at().max())


# ------------------------------------------------------------------------------------------------------- fit


def test_every_choice_is_in_the_journal_with_its_reason(small):
    run = fl.fit(small, progress=False)
    said = {e["what"]: e for e in run.journal}
    assert all(said[what]["why"] for what in ("optimizer", "schedule", "batch size", "lr", "weight decay", "searched"))
    assert said["batch size"]["value"] == run.plan.batch_size.size
    assert said["lr"]["value"] == run.plan.optimizer.lr == run.found.rate
    assert said["weight decay"]["value"] == run.plan.optimizer.weight_decay
    path = run.summary["evidence"]["weight_decay"]
    assert path["chosen"] == path["values"][int(np.argmin(path["score"]))] == run.plan.optimizer.weight_decay
    assert run.summary["evidence"]["batch_size"]["batch_size"] == run.plan.batch_size.size
    assert run.summary["evidence"]["cost"]["runs"] > 0


def test_of_few_rows_every_one_scores_out_of_its_fold_else_the_validation_rows(small):
    path = fl.fit(small, epochs=3, progress=False).summary["evidence"]["weight_decay"]
    assert path["folds"] == 5 and path["rows"] == len(small.train.rows) < choosing.SMALL
    digits = fl.table("digits")
    path = fl.fit(digits, epochs=3, progress=False).summary["evidence"]["weight_decay"]
    assert path["folds"] == 1 and path["rows"] == len(digits.valid.rows) and len(digits.train.rows) > choosing.SMALL


@pytest.mark.parametrize("kept", ["group", "time"])
def test_rows_that_belong_together_are_not_drawn_into_folds(kept):
    rng = np.random.default_rng(0)
    frame = {"a": rng.standard_normal(300), "b": rng.standard_normal(300), "g": np.arange(300) % 30, "y": rng.standard_normal(300)}
    run = fl.fit(frame, target="y", options=fl.TableOptions(**{kept: "g"}), epochs=3, progress=False)
    assert run.summary["evidence"]["weight_decay"]["folds"] == 1


def test_more_validation_rows_than_training_rows_are_taken():
    problem, other = noisy(90, 5), noisy(200, 5, seed=1)
    run = fl.fit(problem, valid=other, epochs=3, progress=False)
    assert run.summary["evidence"]["weight_decay"]["rows"] == 200


OWN = {"batch_size": (32, "batch size"), "lr": (0.013, "lr"), "weight_decay": (0.007, "weight decay")}


@pytest.mark.parametrize("name", OWN)
def test_a_number_of_ones_own_stays_and_the_others_are_found(small, name):
    value, what = OWN[name]
    run = fl.fit(small, epochs=5, progress=False, **{name: value})
    rule = run.plan.optimizer
    assert {"batch_size": run.plan.batch_size.size, "lr": rule.lr, "weight_decay": rule.weight_decay}[name] == value
    searched = {"batch_size": "batch_size" in run.summary["evidence"], "lr": run.found is not None, "weight_decay": "weight_decay" in run.summary["evidence"]}
    assert searched == {other: other != name for other in OWN}
    assert all(e["why"] == "given" for e in run.journal if e["what"] == what)
    assert run.summary["lr_source"] == ("given" if name == "lr" else "find_lr")


def test_an_optimizer_keeps_its_own_decay_unless_one_is_asked_for(small):
    own = fl.fit(small, epochs=3, optimizer=fl.SGD(momentum=0.9, weight_decay=0.02), progress=False)
    assert own.plan.optimizer.weight_decay == 0.02 and "weight_decay" not in own.summary["evidence"]
    asked = fl.fit(small, epochs=3, optimizer=fl.SGD(momentum=0.9, weight_decay=0.02), weight_decay=fl.auto, progress=False)
    assert asked.plan.optimizer.weight_decay == asked.summary["evidence"]["weight_decay"]["chosen"]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step_decay(0.1, every=2 epochs)", None])
def test_another_schedule_on_request(small, schedule):
    run = fl.fit(small, choices=fl.Choices(epochs=6, schedule=schedule), progress=False)
    assert run.plan.optimizer.schedule is None if schedule is None else str(run.plan.optimizer.schedule).startswith(schedule.partition("(")[0])
    assert run.summary["lr_source"] == "find_lr"


def test_the_same_seed_makes_the_same_choices(small):
    a, b = (fl.fit(small, epochs=5, progress=False) for _ in range(2))
    assert a.plan.fingerprint == b.plan.fingerprint and a.journal == b.journal


def test_a_saved_plan_is_carried_out_without_a_search(small, request):
    first = fl.fit(small, epochs=4, progress=False)
    plan = fl.Plan.from_json(first.plan.to_json())
    request.getfixturevalue("no_search")
    second = fl.fit(small, choices=fl.Choices(plan=plan), progress=False)
    assert second.weights["coef"].tobytes() == first.weights["coef"].tobytes()
    assert "searched" not in {e["what"] for e in second.journal}


def test_what_goes_on_is_not_searched_for_again(small, tmp_path, request):
    first = fl.fit(small, epochs=4, save=tmp_path / "run", progress=False)
    request.getfixturevalue("no_search")
    again = fl.fit(small, epochs=4, save=tmp_path / "run", resume=True, progress=False)
    assert again.plan.fingerprint == first.plan.fingerprint
    longer = fl.fit(small, epochs=6, save=tmp_path / "run", resume=True, progress=False)
    assert longer.plan.optimizer == first.plan.optimizer and longer.plan.epochs == 6
    assert longer.summary["evidence"]["weight_decay"] == first.summary["evidence"]["weight_decay"]
    back = fl.load(tmp_path / "run")
    assert back.summary["evidence"]["weight_decay"]["chosen"] == first.plan.optimizer.weight_decay


def test_a_plan_of_a_million_epochs_is_searched_for_in_seconds():
    problem = noisy(200, 5)
    began = time.monotonic()
    made = choosing.chosen(problem, fl.Choices(epochs=1_000_000, lr=0.01))
    assert time.monotonic() - began < 20 and made.evidence["cost"]["runs"] < 0.2


@pytest.mark.parametrize("rows", [2, 3, 10])
def test_a_handful_of_rows_is_enough_to_choose(rows):
    problem = noisy(rows, 2)
    made = choosing.chosen(problem, fl.Choices(epochs=5))
    assert made.plan.batch_size.size <= rows and not made.plan.lr_is_auto


def test_one_row_and_functions_have_nothing_to_choose_a_decay_by():
    for problem in (noisy(1, 2), fl.quadratic([1.0, 10.0], start=[1.0, 1.0])):
        made = choosing.chosen(problem, fl.Choices(steps=50) if problem.rows is None else fl.Choices(epochs=50))
        assert "weight_decay" not in made.evidence and not made.plan.lr_is_auto


def test_sparse_rows_choose_too():
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = sparse.random(400, 300, density=0.05, random_state=0, format="csr")
    y = (X @ rng.standard_normal(300) > 0).astype(int)
    made = choosing.chosen(fl.logistic(X, y), fl.Choices(epochs=5))
    assert made.plan.batch_size.size == 1 and made.evidence["weight_decay"]["folds"] == 5
