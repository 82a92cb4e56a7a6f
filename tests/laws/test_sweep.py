"""Sweeps: every run is the run that its plan gives alone, however they were carried out, cut short or halved."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import fallline as fl
from fallline.sweeping.halving import cost, rungs
from fallline.sweeping.values import Spaced, tried


def rows(n=160, features=5, seed=0):
    r = np.random.default_rng(seed)
    X = r.standard_normal((n, features))
    return X, (X @ r.standard_normal(features) + 0.5 * r.standard_normal(n) > 0).astype(int)


def made(**more):
    X, y = rows()
    problem = fl.logistic(X[:120], y[:120])
    plan = fl.Plan(problem, epochs=3, batch_size=16, seed=4, optimizer=fl.SGD(momentum=0.5))
    return problem, plan, {"valid": (X[120:], y[120:]), "progress": False, **more}


# ---- values


@given(low=st.floats(1e-6, 1.0), factor=st.floats(1.5, 1e6), count=st.integers(2, 30))
def test_log_values_keep_their_ends_and_their_ratio(low, factor, count):
    found = np.array(list(fl.log(low, low * factor, count)))
    assert found[0] == low and found[-1] == low * factor and len(found) == count
    ratios = found[1:] / found[:-1]
    assert np.allclose(ratios, ratios[0], rtol=1e-9)


def test_values_in_words():
    assert fl.values("1e-4..1:9") == fl.log(1e-4, 1, 9)
    assert list(fl.values("0.1..0.5:3:linear")) == [0.1, 0.3, 0.5]
    assert fl.values("0,0.9") == (0, 0.9) and fl.values("true, none,x") == (True, None, "x")
    assert fl.values("warmup(5%, start=0.1) > cosine, linear(to=0)") == ("warmup(5%, start=0.1) > cosine", "linear(to=0)")
    assert tried("lr", "1,2") == [1, 2] and tried("lr", 0.5) == [0.5] and tried("nesterov", [True, 1]) == [True, 1]
    assert repr(Spaced(0, 1, 3, "linear")) == 'fl.values("0..1:3:linear")'


# ---- runs


def test_every_run_is_train_of_its_plan():
    problem, plan, more = made()
    found = fl.sweep(problem, plan, {"lr": [0.01, 0.1, 1.0], "momentum": [0, 0.9], "batch_size": [16, 32]}, seeds=2, **more)
    assert len(found.cells) == 12 and len(found.runs) == 24
    for cell in found.cells:
        for s, run in enumerate(cell.runs):
            alone = fl.train(problem, cell.plan._with(seed=cell.plan.seed + s), valid=more["valid"], progress=False)
            assert run.steps == alone.history.steps == cell.plan.steps and run.seed == 4 + s
            for name, value in alone.weights.items():
                np.testing.assert_allclose(run.weights[name], value, rtol=1e-9, atol=1e-12)
            last = alone.history.evaluations[-1]
            assert run.scores["valid_loss"] == pytest.approx(last["valid_loss"], rel=1e-9)
            assert run.scores["valid_accuracy"] == last["valid_accuracy"] and run.loss == pytest.approx(last["loss"], rel=1e-9)
    scores = {i: np.mean([run.scores["valid_loss"] for run in cell.runs]) for i, cell in enumerate(found.cells)}
    assert found.best is found.cells[min(scores, key=scores.get)] and found.cost == 24


def test_a_swept_rate_stands_at_every_batch_size_and_another_is_rescaled():
    problem, plan, more = made()
    swept = fl.sweep(problem, plan, {"lr": [0.1], "batch_size": [16, 32]}, **more)
    assert [cell.plan.optimizer.lr for cell in swept.cells] == [0.1, 0.1] and [cell.plan.steps for cell in swept.cells] == [24, 12]
    scaled = fl.sweep(problem, plan.with_lr(0.1), {"batch_size": [16, 32]}, **more)
    assert [cell.plan for cell in scaled.cells] == [plan.with_lr(0.1), plan.with_lr(0.1).with_batch_size(32)]


def test_optimizers_lengths_and_schedules_are_swept_too():
    problem, plan, more = made()
    over = {"optimizer": [fl.SGD(), fl.Adam()], "lr": [0.01, 0.1], "schedule": [None, "cosine"], "epochs": [1, 2]}
    found = fl.sweep(problem, plan, over, **more)
    kinds = {(type(cell.plan.optimizer).__name__, cell.plan.epochs, str(cell.plan.optimizer.schedule)) for cell in found.cells}
    assert len(found.cells) == 16 and len(kinds) == 8


def test_seeds_are_one_where_nothing_is_drawn():
    problem, _, more = made()
    found = fl.sweep(problem, fl.Plan(problem, steps=5, batch_size=fl.Batches.full(), optimizer=fl.SGD()), {"lr": [0.1, 1.0]}, seeds=3, **more)
    assert len(found.runs) == 2


def test_without_held_out_rows_the_training_loss_ranks():
    problem, plan, _ = made()
    found = fl.sweep(problem, plan, {"lr": [0.001, 0.1]}, progress=False)
    assert found.told.score == "train_loss" and found.best.values == {"lr": 0.1}
    assert found.best.mean == pytest.approx(problem.loss(problem.layout.join(found.best.runs[0].weights)), rel=1e-12)


def test_a_metric_may_rank_and_higher_is_then_better():
    problem, plan, more = made()
    found = fl.sweep(problem, plan, {"lr": [1e-4, 0.1]}, metric="accuracy", **more)
    assert found.told.score == "valid_accuracy" and found.best.mean == max(cell.mean for cell in found.cells)


def test_what_diverges_is_last_and_shows_the_edge():
    X, y = rows()
    problem = fl.least_squares(X, y)
    plan = fl.Plan(problem, epochs=30, batch_size=16, optimizer=fl.SGD())
    found = fl.sweep(problem, plan, {"lr": fl.log(1e-3, 1e3, 7), "momentum": [0, 0.9]}, seeds=2, progress=False)
    assert all(cell.diverged == 2 and cell.mean == np.inf for cell in found.cells if cell.values["lr"] >= 10)
    assert found.ranked[-1].diverged and not found.best.diverged
    for edge, factor in zip(found.edges, (2.0, 3.8), strict=True):
        curvature = np.linalg.eigvalsh(np.cov(np.c_[X, np.ones(len(X))].T, bias=True) + np.outer(m := np.append(X.mean(0), 1), m))[-1]
        assert edge.predicted == pytest.approx(factor / curvature, rel=2e-2)
        low, high = edge.measured
        assert low < high and low < 3 * edge.predicted
    table = found.table()
    assert "diverged" in str(table) and table["outcome"].count("diverged") == sum(cell.diverged > 0 for cell in found.cells)


def test_all_diverged_is_said():
    X, y = rows()
    problem = fl.least_squares(X, y)
    found = fl.sweep(problem, fl.Plan(problem, epochs=30, batch_size=16, optimizer=fl.SGD()), {"lr": [1e4, 1e5, 1e6]}, progress=False)
    with pytest.raises(fl.NoLearningRate, match="every combination diverged in some seed: try smaller learning rates than 10,000"):
        _ = found.best
    assert "Sweep(3 combinations" in repr(found) and found.to_json()["best"] is None and found.plot()


# ---- where the runs go


def test_sparse_rows_go_to_threads_and_are_the_same():
    problem, plan, more = made()
    sparse = fl.logistic(sp.csr_matrix(problem.X), problem.target.astype(int))
    valid = (sp.csr_matrix(more["valid"][0]), more["valid"][1])
    over = {"lr": [0.01, 0.1, 1.0]}
    apart = fl.sweep(sparse, plan, over, seeds=2, valid=valid, processes=2, progress=False)
    one = fl.sweep(sparse, plan, over, seeds=2, valid=valid, processes=1, progress=False)
    dense = fl.sweep(problem, plan, over, seeds=2, **more)
    assert apart.told.choices == ("each run on one of 2 threads",) and one.told.choices[0].startswith("one after another")
    assert dense.told.choices[0].startswith("together")
    for a, b, c in zip(apart.runs, one.runs, dense.runs, strict=True):
        assert a.scores == b.scores and a.scores["valid_loss"] == pytest.approx(c.scores["valid_loss"], rel=1e-9)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_functions_go_to_processes_and_are_the_same():
    problem = fl.quadratic([1, 10], noise=0.1, start=[1.0, 1.0])
    plan = fl.Plan(problem, steps=30, batch_size=problem.rows and min(problem.rows, 8), optimizer=fl.SGD())
    over = {"lr": [0.01, 0.1, 5.0]}
    apart, one = (fl.sweep(problem, plan, over, seeds=2, processes=n, progress=False) for n in (2, 1))
    assert apart.told.choices == ("each run in one of 2 processes, one thread each",)
    assert [run.to_json() for run in apart.runs] == [run.to_json() for run in one.runs]


# ---- halving


@given(cells=st.integers(1, 200), seeds=st.integers(1, 5), share=st.floats(0.02, 1.5), steps=st.integers(1, 10_000))
def test_rungs_stay_within_their_budget(cells, seeds, share, steps):
    budget = share * cells * seeds
    try:
        ladder = rungs(cells, seeds, budget, steps)
    except fl.InvalidValue as error:
        assert f"budget={budget:g} full runs is too little" in str(error)
        return
    assert cost(ladder, seeds) <= budget or (len(ladder) == 1 and cost(ladder, seeds) == cells * seeds <= budget)
    assert ladder[0].cells == cells and ladder[-1].share == 1 and ladder[0].share * steps >= 1
    assert all(a.cells >= b.cells >= 1 and a.share < b.share for a, b in itertools.pairwise(ladder))


def test_halving_spends_its_budget_and_keeps_the_good():
    problem, plan, more = made()
    over = {"lr": fl.log(1e-4, 10, 9)}
    whole = fl.sweep(problem, plan, over, seeds=2, **more)
    halved = fl.sweep(problem, plan, over, seeds=2, budget=9, **more)
    assert halved.cost <= 9 and whole.cost == 18 and len(halved.told.rungs) > 1
    outcomes = [cell.runs[0].outcome for cell in halved.cells]
    assert outcomes.count("Finished") == halved.told.rungs[-1][1] and set(outcomes) == {"Finished", "Stopped"}
    for cell, full in zip(halved.cells, whole.cells, strict=True):
        if cell.finished:
            assert cell.mean == pytest.approx(full.mean, rel=1e-12)
    assert halved.best.mean <= np.quantile([cell.mean for cell in whole.cells], 0.34)


# ---- on disk


@pytest.mark.parametrize("budget", [None, 9])
def test_a_killed_sweep_goes_on_where_it_was(tmp_path, budget):
    problem, plan, more = made()
    over, folder = {"lr": fl.log(1e-4, 10, 9), "batch_size": [16, 32] if budget is None else [16]}, tmp_path / "sweep"
    whole = fl.sweep(problem, plan, over, seeds=2, budget=budget, save=folder, **more)
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 4 if budget is None else len(lines) == len(whole.told.rungs)
    for kept in range(len(lines)):
        (folder / "runs.jsonl").write_text("".join(lines[:kept]) + lines[min(kept, len(lines) - 1)][:17])  # the last line cut short
        again = fl.sweep(problem, plan, over, seeds=2, budget=budget, save=folder, resume=True, **more)
        assert [run.to_json() for run in again.runs] == [run.to_json() for run in whole.runs]
        for a, b in zip(again.runs, whole.runs, strict=True):
            assert all(np.array_equal(a.weights[name], b.weights[name]) for name in b.weights)
    read = fl.sweep(problem, plan, over, seeds=2, budget=budget, save=folder, resume=True, **more)
    assert read.told.choices == () and read.best.values == whole.best.values


def test_kill_9_loses_only_what_was_under_way(tmp_path):
    script = tmp_path / "long.py"
    script.write_text(textwrap.dedent(f"""
        import fallline as fl, numpy as np
        r = np.random.default_rng(0)
        X = r.standard_normal((4000, 30))
        problem = fl.logistic(X, (X[:, 0] > 0).astype(int))
        plan = fl.Plan(problem, epochs=40, batch_size=16, optimizer=fl.SGD())
        found = fl.sweep(problem, plan, {{"lr": fl.log(1e-3, 1, 6)}}, seeds=30, save={str(tmp_path / 'sweep')!r}, resume=True, progress=False)
        print(len(found.runs), found.best.values["lr"])
    """))
    lines = tmp_path / "sweep" / "runs.jsonl"
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        while process.poll() is None and (not lines.exists() or lines.read_text().count("\n") < 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    had = lines.read_text().splitlines(keepends=True)
    assert 2 <= len(had) < 30
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ, check=True).stdout
    now = lines.read_text().splitlines(keepends=True)
    assert out.startswith("180 ") and len(now) == 30 and now[: len(had) - 1] == had[:-1]


# ---- showing


def test_a_sweep_prints_and_draws_itself(tmp_path):
    problem, plan, more = made()
    found = fl.sweep(problem, plan, {"lr": fl.log(1e-3, 1, 4), "momentum": [0, 0.9], "batch_size": [16, 32]}, seeds=2, **more)
    assert repr(found).startswith("Sweep(16 combinations, 32 runs; lr ") and "+-" in repr(found.best)
    assert "<table>" in found._repr_html_() and "svg" in found._repr_html_()
    assert found.plot().spec["layer"] and found.plot(x="batch_size", y="lr").spec["layer"]
    json.dumps(found.to_json(), default=float)
    assert list(found.table().to_pandas()["lr"]) == found.table()["lr"]
    one = fl.sweep(problem, plan, {"lr": fl.log(1e-3, 1, 4)}, seeds=2, **more)
    assert one.plot().title == one.verdict and one.plot().svg().startswith("<svg")
    words = fl.sweep(problem, plan.with_lr(0.1), {"schedule": ["cosine", "linear"]}, **more)
    assert words._repr_html_() and words.best.values["schedule"] in ("cosine", "linear")
    with pytest.raises(fl.InvalidValue, match="nothing that was tried is a number"):
        words.plot()
