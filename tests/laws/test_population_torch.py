"""Several runs of a module: each as alone, and the module as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fallline as fl
from fallline.engines.population import Population

torch = pytest.importorskip("torch")


def module_problem(norm=True):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(300, 6, generator=generator)
    y = (X.sum(1) > 0).long()
    torch.manual_seed(1)
    layers = [torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2)]
    model = torch.nn.Sequential(*(layers if norm else [layers[0], torch.nn.Tanh(), layers[4]]))
    return fl.torch.problem(model, torch.nn.functional.cross_entropy, (X, y)), (X, y)


def everything(problem):
    state = {n: t.clone() for n, t in problem.model.state_dict().items()}
    modes = [m.training for m in problem.model.modules()]
    return state, modes, torch.get_rng_state(), [p.grad for p in problem.model.parameters()]


def same(a, b):
    return all(torch.equal(t, b[0][n]) for n, t in a[0].items()) and a[1] == b[1] and torch.equal(a[2], b[2]) and a[3] == b[3]


def test_each_run_is_the_run_alone_and_the_module_is_untouched():
    problem, rows = module_problem()
    plan = fl.Plan(problem, epochs=3, batch_size=32, optimizer=fl.SGD(momentum=0.9, average=0.1))
    plans = [plan.with_lr(lr) for lr in (0.01, 0.1, 3e38)]
    before = everything(problem)
    runs = Population(problem, plans)
    for stop in (7, plan.steps):
        runs.advance(stop)
    scores = runs.evaluate(rows)
    assert same(before, everything(problem))
    assert runs.stopped_at[:2] == [None, None] and runs.stopped_at[2] is not None and np.isinf(scores[2])
    for k in (0, 1):
        twin = fl.torch.problem(copy.deepcopy(problem.model), torch.nn.functional.cross_entropy, rows)
        run = fl.train(twin, plans[k], valid=rows, progress=False)
        np.testing.assert_allclose(runs.answers()[k], problem.layout.join(run.averaged), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(scores[k], run.history.evaluations[-1]["valid_loss"], rtol=1e-5)


def test_an_error_leaves_the_module_untouched():
    problem, _ = module_problem()
    plan = fl.Plan(problem, epochs=3, batch_size=32, optimizer=fl.SGD(lr=0.1))
    runs = Population(problem, [plan, plan.with_lr(0.2)])
    before, calls = everything(problem), []

    def hook(module, inputs):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("no")

    handle = problem.model.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="no"):
        runs.advance(plan.steps)
    handle.remove()
    assert same(before, everything(problem))
    runs.advance(plan.steps)
    whole = Population(problem, [plan, plan.with_lr(0.2)])
    whole.advance(plan.steps)
    assert np.array_equal(runs.answers(), whole.answers())
