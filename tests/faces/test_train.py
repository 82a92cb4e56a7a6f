"""`train` as people meet it: what comes back, signals, progress, logs, the run as an object."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fallline import progress as shown
from fallline.engines.reference import ReferenceEngine
from fallline.errors import UnknownName
from fallline.interrupts import notebook
from fallline.plan import Plan
from fallline.problems import least_squares, logistic, quadratic, softmax
from fallline.rules import SGD
from fallline.runs import load
from fallline.training import Validation, train

X = np.random.default_rng(0).normal(size=(90, 3))
LABELS = np.where(X[:, 0] > 0, "up", "down")


def run_of(problem: Any, plan: Plan, **options: Any) -> Any:
    return train(problem, plan, engine=ReferenceEngine(problem), progress=False, **options)


def plan_of(problem: Any, **options: Any) -> Plan:
    return Plan(problem, **({"epochs": 3, "batch_size": 10, "optimizer": SGD(lr=0.1)} | options))


def test_weights_have_the_shapes_of_the_model():
    for problem, coef, intercept in [
        (logistic(X, LABELS), (3,), ()),
        (softmax(X, np.arange(90) % 4), (3, 4), (4,)),
        (least_squares(X, X[:, :2]), (3, 2), (2,)),
    ]:
        run = run_of(problem, plan_of(problem))
        assert (run.weights["coef"].shape, run.weights["intercept"].shape) == (coef, intercept)


def test_predict_uses_best_then_averaged_then_last_and_says_which():
    problem = logistic(X, LABELS)
    last = run_of(problem, plan_of(problem))
    averaged = run_of(problem, plan_of(problem, optimizer=SGD(lr=0.1, average=0.1)))
    best = run_of(problem, plan_of(problem, optimizer=SGD(lr=0.1, average=0.1)), valid=(X, LABELS))
    assert [r.used for r in (last, averaged, best)] == ["last", "averaged", "best"]
    assert last.best is None and last.averaged is None
    assert not np.array_equal(averaged.averaged["coef"], averaged.weights["coef"])
    for run, weights in [(last, last.weights), (averaged, averaged.averaged), (best, best.best)]:
        assert np.array_equal(run.predict(X), problem.predict(weights, X))


def test_score_is_accuracy_r2_or_the_metric_that_is_named():
    problem = logistic(X, LABELS)
    run = run_of(problem, plan_of(problem))
    assert run.score(X, LABELS) == np.mean(run.predict(X) == LABELS)
    assert run.score(X, LABELS, "auc") > 0.95
    with pytest.raises(UnknownName, match="no label 'sideways'"):
        run.score(X[:1], ["sideways"], "log_loss")
    regression = least_squares(X, X[:, 0])
    assert run_of(regression, plan_of(regression, epochs=20)).score(X, X[:, 0]) > 0.99


def test_a_run_prints_on_one_line_and_as_a_table():
    problem = logistic(X, LABELS)
    run = run_of(problem, plan_of(problem), valid=(X, LABELS))
    assert repr(run).startswith("Run(outcome=Finished, updates=27, loss=") and "\n" not in repr(run)
    assert "<table>" in run._repr_html_() and "valid accuracy" in run._repr_html_()
    assert repr(run.history) == f"History(updates=27, evaluations=3, decisions={len(run.journal)})"


def test_history_goes_to_pandas():
    pandas = pytest.importorskip("pandas")
    problem = logistic(X, LABELS)
    frame = run_of(problem, plan_of(problem), valid=(X, LABELS)).history.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert {"step", "epoch", "seconds", "lr", "loss", "valid_loss", "valid_accuracy"} <= set(frame.columns) and len(frame) == 3


def test_any_callable_logs_and_any_function_measures():
    problem = logistic(X, LABELS)
    seen: list[dict[str, Any]] = []

    def ups(y: np.ndarray, prediction: np.ndarray) -> float:
        return float(np.mean(prediction == "up"))

    run_of(problem, plan_of(problem), valid=Validation((X, LABELS), metrics=["accuracy", ups]), log=seen.append)
    assert [e["step"] for e in seen] == [9, 18, 27]
    assert all(isinstance(v, (int, float)) for e in seen for v in e.values()) and "valid_ups" in seen[0]


def test_a_log_cannot_change_the_history():
    problem = logistic(X, LABELS)
    run = run_of(problem, plan_of(problem), log=lambda entry: entry.clear())
    assert len(run.history.evaluations[0]) > 3


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_run_between_segments_and_handlers_are_put_back(number: Any, kind: Any, tmp_path: Path):
    problem = logistic(X, LABELS)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(kind) as caught:
        run_of(problem, plan_of(problem), save=tmp_path / "a", log=lambda entry: os.kill(os.getpid(), number))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    saved = load(tmp_path / "a")
    assert saved.outcome.name == "Interrupted" and saved.history.steps == 9
    if kind is SystemExit:
        assert caught.value.code == 143
    else:
        assert np.array_equal(caught.value.run.weights["coef"], saved.weights["coef"])  # type: ignore[attr-defined]


def test_an_interrupt_during_the_last_update_is_not_swallowed():
    problem = logistic(X, LABELS)

    def late(entry: dict[str, Any]) -> None:
        if entry["step"] == 27:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run_of(problem, plan_of(problem), log=late)
    assert caught.value.run.outcome.name == "Finished"  # type: ignore[attr-defined]


def test_in_ipython_an_interrupt_gives_the_partial_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fallline.training.interactive", lambda: True)
    problem = logistic(X, LABELS)
    run = run_of(problem, plan_of(problem), log=lambda entry: os.kill(os.getpid(), signal.SIGINT))
    assert run.outcome.name == "Interrupted" and run.history.steps == 9


def test_training_works_away_from_the_main_thread():
    problem, out = logistic(X, LABELS), []
    worker = threading.Thread(target=lambda: out.append(run_of(problem, plan_of(problem)).outcome.name))
    worker.start()
    worker.join()
    assert out == ["Finished"]


def test_progress_is_plain_lines_away_from_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(shown, "EVERY", 0.0)
    problem = logistic(X, LABELS)
    train(problem, plan_of(problem), valid=(X, LABELS), engine=ReferenceEngine(problem))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("fallline: step 27 of 27 (100%), loss ") and "valid loss" in lines[-1]


@pytest.mark.parametrize("kernel", [True, False], ids=["notebook", "terminal"])
def test_in_a_notebook_one_bar_moves_under_the_cell_and_goes_away(kernel: bool, monkeypatch: pytest.MonkeyPatch):
    drawn: list[str] = []
    shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
    handle = types.SimpleNamespace(update=lambda page: drawn.append(page))
    asked: list[Any] = []
    display = types.SimpleNamespace(HTML=str, display=lambda page, display_id: asked.append(display_id) or handle)
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(shown, "REDRAW", 0.0)
    problem = logistic(X, LABELS)
    if not kernel:
        assert not isinstance(shown.progress_for(False, 3), shown.Notebook) and not notebook()
        return
    train(problem, plan_of(problem), valid=(X, LABELS), engine=ReferenceEngine(problem))
    assert asked == [True] and drawn[-1] == ""  # one bar, and none is left
    assert 'value="27" max="27"' in drawn[-2] and "27 of 27" in drawn[-2] and "valid loss" in drawn[-2]
    values = [int(re.search(r'value="(\d+)"', page)[1]) for page in drawn[:-1]]  # type: ignore[index]
    assert values == sorted(values) and len(values) >= 3


def test_a_notebook_is_redrawn_five_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch):
    drawn: list[str] = []
    display = types.SimpleNamespace(HTML=str, display=lambda page, display_id: types.SimpleNamespace(update=drawn.append))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    clock = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: clock[0])
    bar = shown.Notebook(1000)
    for step in range(1, 1000):
        clock[0] += 0.01
        bar.show(step, 0.5, {"valid_<b>": 1.0})
    assert 45 <= len(drawn) <= 51 and "&lt;b&gt;" in drawn[-1] and "<b>" not in drawn[-1]


def test_progress_false_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(shown, "EVERY", 0.0)
    problem = logistic(X, LABELS)
    run_of(problem, plan_of(problem))
    assert capsys.readouterr() == ("", "")


def test_a_function_has_nothing_to_predict_and_auto_is_resolved_and_written_down():
    problem = quadratic([1.0, 10.0])
    run = train(problem, Plan(problem, steps=100), progress=False)
    lr = next(e for e in run.journal if e["what"] == "lr")
    assert lr["value"] == run.plan.optimizer.lr > 0 and lr["why"]
    assert set(run.weights) == {"w"}


def test_training_loads_nothing_heavy():
    code = "import fallline.training, sys; print([m for m in ('pandas', 'altair', 'sklearn', 'duckdb', 'rich', 'IPython') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
