"""Going back after a divergence: bounded, journalled, and replayed by its journal bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline import loop
from fallline.judges import GO, Replan, Stop, View
from fallline.lengths import Clock, steps

draw = np.random.default_rng(0)
X = draw.normal(size=(240, 4))
Y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * draw.normal(size=240)


def regression(lr: float, **more: Any) -> tuple[Any, fl.Plan]:
    problem = fl.least_squares(X, Y)
    return problem, fl.Plan(problem, epochs=10, batch_size=20, optimizer=fl.SGD(lr, momentum=0.9, **more))


def train(problem: Any, plan: Any, **options: Any) -> fl.Run:
    return fl.train(problem, plan, progress=False, **options)


def same(one: fl.Run, other: fl.Run) -> None:
    assert {k: v.tobytes() for k, v in one.weights.items()} == {k: v.tobytes() for k, v in other.weights.items()}
    assert one.history.loss.tobytes() == other.history.loss.tobytes()
    drop = {"seconds"}
    assert [{k: v for k, v in e.items() if k not in drop} for e in one.history.evaluations] == [{k: v for k, v in e.items() if k not in drop} for e in other.history.evaluations]
    assert (one.best is None) == (other.best is None)
    for name, value in (one.best or {}).items():
        assert value.tobytes() == other.best[name].tobytes()


@given(lr=st.floats(2.5, 50.0), cut=st.sampled_from([0.5, 0.1]), keep=st.sampled_from([steps(7), fl.fraction(0.02), fl.epochs(1)]))
@settings(max_examples=12)
def test_a_run_that_went_back_is_replayed_by_its_journal(lr: float, cut: float, keep: Any):
    problem, plan = regression(lr)
    run = train(problem, plan, valid=(X[:50], Y[:50]), stop=fl.Rollback(cut=cut, keep=keep))
    assert run.outcome.name == "Finished" and run.history.steps == plan.steps == len(run.history.loss)
    assert np.isfinite(run.history.loss).all() and 1 <= len(run.history.undone) <= 10
    assert run.plans[-1][1] == run.plan and [s for s, _ in run.plans] == sorted({s for s, _ in run.plans})
    same(run, train(problem, run.plans, valid=(X[:50], Y[:50])))


def test_what_was_undone_stands_in_the_journal_and_is_kept():
    problem, plan = regression(2.0)
    run = train(problem, plan, stop=fl.Rollback())
    notes = [e for e in run.journal if e["what"] == "rollback"]
    assert len(notes) == len(run.history.undone) and "times where it began" in notes[0]["why"] and "lr 2 -> 1" in notes[0]["why"]
    for note, (step, lost) in zip(notes, run.history.undone, strict=True):
        assert note["value"] == step and len(lost)
    assert run.plan.optimizer.lr < 1 and run.history.loss[-1] < 0.2


def test_a_run_that_does_not_diverge_is_as_if_nothing_had_watched():
    problem, plan = regression(0.02)
    same(train(problem, plan), train(problem, plan, stop=fl.Rollback()))


def test_a_rate_that_explodes_late_goes_back_to_a_good_state_not_to_the_start():
    """The rate rises through the edge: the good states before it are used, and the loss there was low."""
    problem = fl.quadratic([1.0, 100.0])
    plan = fl.Plan(problem, steps=2000, optimizer=fl.SGD(fl.linear(start=0.001, to=0.2)))
    run = train(problem, plan, stop=fl.Rollback())
    first = run.history.undone[0][0]
    assert 100 < first < 2000 and run.outcome.name == "Finished" and run.history.loss[first - 1] < 1e-3 * run.history.loss[0]
    same(run, train(problem, run.plans))
    assert run.history.path is not None and len(run.history.path) == 2001


@pytest.mark.parametrize("seconds", [1e-6, 10.0])
def test_where_segments_are_cut_changes_nothing(seconds: float, monkeypatch: pytest.MonkeyPatch):
    problem, plan = regression(3.0)
    whole = train(problem, plan, stop=fl.Rollback())
    monkeypatch.setattr(loop, "SEGMENT_SECONDS", seconds)
    cut = train(problem, plan, stop=fl.Rollback())
    same(whole, cut)
    assert whole.plans == cut.plans


def test_each_failure_without_progress_goes_back_further_and_the_number_is_bounded():
    problem, plan = regression(1e6)
    with pytest.raises(fl.Diverged, match="after the learning rate was cut 3 times") as caught:
        train(problem, plan, stop=fl.Rollback(most=3))
    assert len(caught.value.run.history.undone) == 3 and np.isfinite(caught.value.run.weights["coef"]).all()


def test_a_batch_that_is_at_fault_is_told_from_a_rate():
    """One row's loss is not finite whatever the rate: it is looked for in the data after two tries, not ten."""

    def broken(w: np.ndarray, batch: Any) -> float:
        return float("nan") if batch is not None and 7 in batch else 0.5 * float(w @ w)

    class Poisoned:
        rows, name, fingerprint, model, keeps_path, usual_metrics = 40, "poisoned", "", None, False, ()
        layout = fl.quadratic([1.0, 1.0]).layout
        start = staticmethod(lambda: np.ones(2))
        loss = staticmethod(broken)
        gradient = staticmethod(lambda w, batch=None: (broken(w, batch), np.array(w)))
        named = staticmethod(lambda point: {"w": np.array(point)})

    problem = Poisoned()
    plan = fl.Plan(problem, epochs=2, batch_size=4, optimizer=fl.SGD(0.1), seed=1)
    with pytest.raises(fl.Diverged, match="neither are they at the weights of update 0, which are good: look at this batch, not at the rate") as caught:
        train(problem, plan, stop=fl.Rollback())
    assert 7 in caught.value.rows and len(caught.value.run.history.undone) == 1


def test_judges_see_the_past_again_after_going_back():
    """A judge that counts evaluations counts only those that stand."""
    seen: list[list[int]] = []

    class Counter:
        def begin(self, clock: Clock) -> Any:
            mine: list[int] = []
            seen.append(mine)

            def look(view: View) -> Any:
                if view.evaluation is not None and not view.failed:
                    mine.append(view.step)
                return GO

            return look

    problem, plan = regression(2.0)
    run = train(problem, plan, stop=[fl.Rollback(), Counter()])
    assert len(seen) == 1 + len(run.history.undone)
    assert seen[-1] == [e["step"] for e in run.history.evaluations] == list(range(12, 121, 12))


def test_a_judge_of_ones_own_replans_from_where_the_run_is():
    problem, plan = regression(0.02)
    slower = fl.Plan(problem, epochs=20, batch_size=20, optimizer=fl.SGD(0.005, momentum=0.9))

    class Halfway:
        def begin(self, clock: Clock) -> Any:
            return lambda view: Replan(slower, "halfway") if view.step == 60 and view.evaluation and not view.replans else GO

    run = train(problem, plan, stop=Halfway())
    assert run.plans == ((0, plan), (60, slower)) and run.history.steps == 240
    same(run, train(problem, run.plans))
    note = next(e for e in run.journal if e["what"] == "replan")
    assert (note["value"], note["why"]) == (60, "halfway")


def test_other_batches_from_a_replan_on_forget_the_score_that_was_computed_ahead():
    problem = fl.least_squares(X, Y)
    first, second = (fl.Plan(problem, epochs=2, batch_size=1, optimizer=fl.SGD(0.01), seed=seed) for seed in (0, 1))
    run = train(problem, [(0, first), (100, second)])
    state = fl.train(problem, fl.Plan(problem, steps=100, batch_size=1, optimizer=fl.SGD(0.01), seed=0), progress=False)
    w = problem.layout.join(state.weights)
    for t in range(100, 480):
        w = w - 0.01 * problem.gradient(w, second.segment(t, t + 1, problem.layout).batch(0))[1]
    np.testing.assert_allclose(problem.layout.join(run.weights), w, rtol=1e-9)


def test_a_module_goes_back_with_its_buffers():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
    rows = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)[:, None]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    problem = fl.torch.problem(model, torch.nn.functional.mse_loss, rows)
    plan = fl.Plan(problem, epochs=5, batch_size=24, optimizer=fl.Nesterov(1e4, momentum=0.9))
    run = train(problem, plan, stop=fl.Rollback(cut=0.1, keep=steps(5)))
    assert run.history.undone and run.outcome.name == "Finished"
    model.load_state_dict(before)
    same(run, train(problem, run.plans))


def test_what_went_back_is_saved_and_loaded(tmp_path: Any):
    problem, plan = regression(2.0)
    run = train(problem, plan, stop=fl.Rollback(), save=tmp_path / "a")
    back = fl.load(tmp_path / "a")
    assert back.plans == run.plans and back.plan == run.plan
    assert [(s, v.tobytes()) for s, v in back.history.undone] == [(s, v.tobytes()) for s, v in run.history.undone]
    same(back, train(problem, back.plans))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fl.Rollback(cut=1.0), r"Rollback\(cut=1.0\): expected a number above 0 and below 1"),
        (lambda: fl.Rollback(most=0), r"Rollback\(most=0\): expected a whole number of at least 1"),
        (lambda: fl.Rollback(beyond=1), r"Rollback\(beyond=1\): expected a number above 1"),
        (lambda: fl.Rollback(keep=5), r"Rollback\(keep=5\): expected a length with its unit"),
        (lambda: train(*_with([(3, regression(0.1)[1])])), r"expected a Plan, or a run's journal: \[\(0, plan\)"),
        (lambda: train(*_with([])), "expected a Plan, or a run's journal"),
        (lambda: train(*_with([(0, regression(0.1)[1]), (900, regression(0.1)[1])])), "from update 900 on has other rows, or lies beyond an end"),
    ],
)
def test_what_cannot_be_is_said(make: Any, words: str):
    with pytest.raises(fl.InvalidValue, match=words):
        make()


def _with(plans: Any) -> tuple[Any, Any]:
    return regression(0.1)[0], plans


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Replan(fl.Plan(rows=7, epochs=1, optimizer=fl.SGD(0.1)), ""), "a judge asked for a plan of 7 rows and this run has 240"),
        (Replan(fl.Plan(rows=240, steps=5, optimizer=fl.SGD(0.1)), ""), "a judge asked for a plan of 5 updates after 12 were made"),
        (Replan(fl.Plan(rows=240, steps=500, optimizer=fl.SGD(0.1)), "", back=True), "a judge asked to go back and keeps no states"),
    ],
)
def test_judges_that_ask_for_what_cannot_be_are_told(verdict: Any, words: str):
    class Asking:
        def begin(self, clock: Clock) -> Any:
            return lambda view: verdict if view.evaluation is not None else GO

    with pytest.raises(fl.InvalidValue, match=words):
        train(*regression(0.02), stop=Asking())


def test_a_stop_ends_a_run_that_was_replanned_too():
    problem, plan = regression(2.0)

    class AtSixty:
        def begin(self, clock: Clock) -> Any:
            return lambda view: Stop(loop.Outcome.EarlyStopped, "enough") if view.step >= 60 and not view.failed else GO

    run = train(problem, plan, stop=[fl.Rollback(), AtSixty()])
    assert run.outcome.name == "EarlyStopped" and run.reason == "enough" and run.history.steps == 60
