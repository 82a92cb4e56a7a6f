"""What is not finite is caught before its update, by its name; and the three policies do what they say. (R7, R8 in small.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import fallline as fl
from fallline.advice.lr import find_lr
from fallline.lengths import steps

draw = np.random.default_rng(3)
X = draw.normal(size=(48, 4))
Y = np.where(X[:, 0] > 0, "up", "down")
NAMES = ("age", "height", "income", "rooms")


def linear(kind: str, batch: int, at: int, bad: float, column: int | None = 2) -> tuple[Any, fl.Plan, int]:
    """A problem whose update `at` meets a bad number; the row that holds it."""
    rule = {"plain": fl.SGD(0.1), "adam": fl.AdamW(0.01), "momentum": fl.SGD(0.05, momentum=0.9), "lazy": fl.SGD(0.1, momentum=0.9, schedule="cosine")}[kind]
    data: Any = sp.csr_array(np.where(np.abs(X) > 0.3, X, 0.0)) if kind == "lazy" else X.copy()
    problem = fl.least_squares(data, X[:, 0], feature_names=NAMES)
    plan = fl.Plan(problem, epochs=1, batch_size=batch, optimizer=rule, seed=5)
    row = int(plan.segment(at, at + 1, problem.layout).batch(0)[-1])
    if column is None:
        problem.target[row] = bad
    elif kind == "lazy":
        at_data = slice(*problem.X.indptr[row : row + 2])
        problem.X.data[at_data.start + 1] = bad
    else:
        problem.X[row, column] = bad
    return problem, plan, row


@pytest.mark.parametrize("at", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", ["plain", "adam", "momentum", "lazy"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_feature_stops_in_its_step_by_name(kind: str, batch: int, at: str, bad: float):
    last = 48 // batch - 1
    step = {"first": 0, "middle": last // 2, "last": last}[at]
    problem, plan, row = linear(kind, batch, step, bad)
    with pytest.raises(fl.Diverged) as caught:
        fl.train(problem, plan, progress=False)
    assert caught.value.step == step and row in caught.value.rows
    assert f"first {bad} in '" in str(caught.value) and f"of row {row}" in str(caught.value)
    assert kind == "lazy" or "'income'" in str(caught.value)
    assert "The data are at fault" in caught.value.cause and "try" not in caught.value.cause
    assert np.isfinite(caught.value.run.weights["coef"]).all() and caught.value.run.history.steps == step


def test_a_bad_target_and_an_overflow_are_named():
    problem, plan, row = linear("plain", 8, 3, np.nan, column=None)
    with pytest.raises(fl.Diverged, match=f"first nan in the target of row {row}"):
        fl.train(problem, plan, progress=False)
    problem, plan, row = linear("plain", 8, 3, 1e300)
    with pytest.raises(fl.Diverged, match=rf"first (the loss of row {row}|the gradient of 'income')"):
        fl.train(problem, plan, progress=False)


@pytest.mark.parametrize("kind", ["plain", "adam", "momentum", "lazy"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("at", [0, 2, -1])
def test_skip_leaves_the_update_out_and_nothing_else(kind: str, batch: int, at: int):
    """The registers are those of a run that never saw the batch: the reference engine does the same in plain NumPy."""
    from fallline.engines.reference import ReferenceEngine

    step = at % (48 // batch)
    problem, plan, row = linear(kind, batch, step, np.nan)
    run = fl.train(problem, plan, stop=fl.SkipBroken(), progress=False)
    (note,) = [e for e in run.journal if e["what"] == "skip"]
    assert run.outcome.name == "Finished" and note["value"] == step and str(row) in note["why"].split("rows")[-1]
    assert run.history.steps == plan.steps and np.flatnonzero(np.isnan(run.history.loss)).tolist() == [step]
    other = fl.train(problem, plan, stop=fl.SkipBroken(), engine=ReferenceEngine(problem), progress=False)
    np.testing.assert_allclose(run.weights["coef"], other.weights["coef"], rtol=1e-9)
    assert np.abs(run.weights["coef"]).max() > 0


def test_skips_are_bounded():
    problem, plan, _ = linear("plain", 1, 5, np.nan)
    problem.X[:, 2] = np.nan
    with pytest.raises(fl.Diverged, match="after 4 updates were left out already") as caught:
        fl.train(problem, plan, stop=fl.SkipBroken(most=4), progress=False)
    assert len([e for e in caught.value.run.journal if e["what"] == "skip"]) == 4
    with pytest.raises(fl.InvalidValue, match=r"SkipBroken\(most=0\): expected a whole number of at least 1"):
        fl.SkipBroken(most=0)


def test_a_run_that_skipped_goes_on_to_the_same_bits(tmp_path: Path):
    def run(**options: Any) -> fl.Run:
        problem, plan, _ = linear("adam", 4, 5, np.nan)
        return fl.train(problem, plan, stop=fl.SkipBroken(), progress=False, **options)

    class Cut(Exception):
        pass

    class At:
        def begin(self, clock: Any) -> Any:
            def look(view: Any) -> Any:
                if view.step >= 9:
                    raise Cut
                return fl.judges.GO if hasattr(fl, "judges") else None

            return look

    whole = run()
    problem, plan, _ = linear("adam", 4, 5, np.nan)
    with pytest.raises(Cut):
        fl.train(problem, plan, stop=[At(), fl.SkipBroken()], save=fl.Save(tmp_path / "a", every=steps(3)), progress=False)
    on = run(save=tmp_path / "a", resume=True)
    assert on.weights["coef"].tobytes() == whole.weights["coef"].tobytes()
    assert on.history.loss.tobytes() == whole.history.loss.tobytes() and len([e for e in on.journal if e["what"] == "skip"]) == 1


# ------------------------------------------------------------------------------------------------------- modules


class Breaks(torch.nn.Module):
    """Gives NaN where a row's first number is 99; where one is 77, only the gradient of its parameter breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.where(x[:, :1] > 98, torch.full_like(x, torch.nan), x)
        return wide + torch.sqrt(self.scale * 0) if bool((x[:, 0] == 77).any()) else wide + self.scale * 0


def module(value: float | None = None, row: int = 9, target: bool = False) -> tuple[Any, fl.Plan, int]:
    torch.manual_seed(0)
    x, y = torch.tensor(X, dtype=torch.float32), torch.tensor(X[:, 0], dtype=torch.float32)[:, None]
    if value is not None:
        (y if target else x)[row, 0] = value
    model = torch.nn.Sequential(torch.nn.Identity(), Breaks(), torch.nn.Linear(4, 1))
    problem = fl.torch.problem(model, torch.nn.functional.mse_loss, (x, y))
    plan = fl.Plan(problem, epochs=1, batch_size=8, optimizer=fl.SGD(0.01))
    at = next(t for t in range(plan.steps) if row in plan.segment(t, t + 1, problem.layout).batch(0))
    return problem, plan, at


@pytest.mark.parametrize(
    ("value", "target", "words"),
    [(np.nan, False, r"first the batch's input \(nan at row 9, 0\)"), (np.inf, True, r"first the batch's target \(inf at row 9, 0\)"), (99.0, False, r"first the output of '1' \(Breaks; nan at \[\d, 0\]\)")],
)
def test_a_module_names_the_first_tensor(value: float, target: bool, words: str):
    problem, plan, at = module(value, target=target)
    with pytest.raises(fl.Diverged, match=words) as caught:
        fl.train(problem, plan, progress=False)
    assert caught.value.step == at and 9 in caught.value.rows
    run = fl.train(module(value, target=target)[0], plan, stop=fl.SkipBroken(), progress=False)
    assert run.outcome.name == "Finished" and [e["value"] for e in run.journal if e["what"] == "skip"] == [at]


def test_a_gradient_that_breaks_alone_is_named():
    problem, plan, at = module(77.0)
    with pytest.raises(fl.Diverged, match=r"first the gradient of '1\.scale'") as caught:
        fl.train(problem, plan, progress=False)
    assert caught.value.step == at


def test_a_stream_names_the_tensor_too():
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(5)]
    batches[3][0][2, 1] = torch.nan
    problem = fl.torch.problem(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, batches)
    plan = fl.Plan(problem, steps=5, batch_size=4, optimizer=fl.SGD(0.01))
    with pytest.raises(fl.Diverged, match=r"first the batch's input \(nan at \[2, 1\]\)") as caught:
        fl.train(problem, plan, progress=False)
    assert caught.value.step == 3
    run = fl.train(problem, plan, stop=fl.SkipBroken(), progress=False)
    assert run.history.steps == 5 and np.isnan(run.history.loss[3])


def test_weights_that_were_broken_before_are_told_so():
    problem, plan, _ = module()
    with torch.no_grad():
        problem.model[2].weight[0, 1] = torch.nan
    words = r"parameter '2.weight' holds nan before the first update \(1 of its 4 numbers are not finite\): the weights were broken before training"
    for attempt in (lambda: fl.train(problem, plan, progress=False), lambda: find_lr(problem, plan), lambda: fl.fit(problem, progress=False)):
        with pytest.raises(fl.InvalidValue, match=words):
            attempt()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1)), batch_size=8)
    with pytest.raises(fl.InvalidValue, match=words):
        fl.torch.find_lr(problem.model, torch.nn.functional.mse_loss, loader, torch.optim.SGD(problem.model.parameters(), lr=0.1))
