"""Recipes against PyTorch's optimizers and schedulers, written as its users write them: the same rates and weights."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.advice import recipes
from fallline.engines.reference import ReferenceEngine
from fallline.history import State

torch = pytest.importorskip("torch")
scheduler = torch.optim.lr_scheduler
RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((96, 3)), RNG.standard_normal(96)
PROBLEM = fl.least_squares(X, Y)


def ours(plan: fl.Plan) -> np.ndarray:
    state = State.begin(PROBLEM.start(), plan.optimizer.start())
    return ReferenceEngine(PROBLEM).advance(state, plan.segment(0, plan.steps, PROBLEM.layout)).state.w


def theirs(plan: fl.Plan, optimizer, schedules=None, per_epoch: bool = False, clip: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The weights (coefficients, then intercept) after the plan's batches, and the rate of every update."""
    coef, intercept = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    peer = optimizer([coef, intercept])
    schedule = None if schedules is None else schedules(peer)
    rates, x, y = [], torch.tensor(X), torch.tensor(Y)
    for t, batch in enumerate(plan.batches()):
        rates.append(peer.param_groups[0]["lr"])
        peer.zero_grad()
        at = torch.tensor(batch.astype(np.int64))
        (0.5 * (x[at] @ coef + intercept - y[at]) ** 2).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([coef, intercept], clip)
        peer.step()
        if schedule is not None and (not per_epoch or (t + 1) % plan.steps_per_epoch == 0):
            schedule.step()
    return np.concatenate([coef.detach().numpy(), intercept.detach().numpy()]), np.array(rates)


def test_imagenet_is_multistep_and_sgd_over_all_parameters():
    plan = recipes.imagenet_resnet(rows=96, batch_size=32, lr=0.1, epochs=8, drops=(2, 4, 6))
    weights, rates = theirs(
        plan, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4), lambda o: scheduler.MultiStepLR(o, [2, 4, 6]), per_epoch=True
    )
    np.testing.assert_allclose(plan.lr_at(), rates, rtol=1e-12)
    np.testing.assert_allclose(ours(plan), weights, rtol=1e-12)
    alone = ours(recipes.imagenet_resnet(rows=96, batch_size=32, lr=0.1, epochs=8, drops=(2, 4, 6), decay_all=False))
    assert abs(alone[3] - weights[3]) > 1e-8  # the intercept's decay is seen


def test_small_data_is_sgd_over_all_parameters():
    plan = recipes.small_data(rows=96, epochs=30)
    weights, rates = theirs(plan, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=5e-4))
    np.testing.assert_array_equal(plan.lr_at(), rates)
    np.testing.assert_allclose(ours(plan), weights, rtol=1e-12)


def test_transformer_is_linear_then_cosine_and_adamw():
    plan = recipes.transformer(rows=96, batch_size=32, lr=0.03, epochs=20, ramp=fl.steps(6))
    groups = lambda p: [{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:], "weight_decay": 0.0}]  # biases are left alone

    def schedules(peer):
        up, down = scheduler.LinearLR(peer, 0.01, 1.0, 6), scheduler.CosineAnnealingLR(peer, 54, 0.003)
        return scheduler.SequentialLR(peer, [up, down], [6])

    weights, rates = theirs(plan, lambda p: torch.optim.AdamW(groups(p), lr=0.03, betas=(0.9, 0.95)), schedules, clip=1.0)
    np.testing.assert_allclose(plan.lr_at(), rates, rtol=1e-12)
    np.testing.assert_allclose(ours(plan), weights, rtol=1e-5)  # PyTorch clips by the norm plus 1e-6


def test_fast_cifar_is_a_lambda_triangle_and_nesterov():
    plan = recipes.fast_cifar(rows=96, batch_size=16, lr=0.05, epochs=5)
    T = plan.steps
    triangle = lambda t: float(np.interp(t, [0, int(0.23 * T + 0.5), T], [0.2, 1, 0.07]))
    weights, rates = theirs(
        plan, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.85, nesterov=True, weight_decay=0.0153 / 11.5), lambda o: scheduler.LambdaLR(o, triangle)
    )
    np.testing.assert_allclose(plan.lr_at(), rates, rtol=1e-12)
    np.testing.assert_allclose(ours(plan), weights, rtol=1e-12)


def test_fine_tune_takes_a_module_as_it_is():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    net[0].weight.requires_grad = False
    plan = recipes.fine_tune(net, rows=100, head="2.*")
    assert [pattern for pattern, _ in plan.optimizer.groups] == ["2.*", "*"]
    with pytest.raises(fl.InvalidValue, match=r"'0\.weight'"):
        recipes.fine_tune(net, rows=100, head=["2.*", "0.weight"])


@pytest.mark.parametrize("make, rule", [(lambda: torch.nn.Conv2d(1, 2, 3), "SGD"), (lambda: torch.nn.LSTM(2, 3), "AdamW"), (lambda: torch.nn.MultiheadAttention(4, 2), "AdamW")])
def test_suggest_reads_real_modules(make, rule):
    answer = recipes.suggest(make(), 5000, 100)
    assert type(answer.rule).__name__ == rule and answer.plan.rows == 5000
