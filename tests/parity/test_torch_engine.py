"""The torch engine: against `torch.optim` on real modules, against the reference, and bit against bit with itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402
from fallline.engines.reference import ReferenceEngine  # noqa: E402
from fallline.history import State  # noqa: E402

ROWS, STEPS = 96, 100


class Attention(torch.nn.Module):
    """A transformer of one block over eight tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(4, 8)
        self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.block(self.embed(x.reshape(-1, 8, 4))).mean(dim=1))


def mlp() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def cnn() -> Any:
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (2, 4, 4)), torch.nn.Conv2d(2, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(64, 3),
    )  # fmt: skip


MODULES = {"mlp": mlp, "cnn": cnn, "transformer": Attention}
optim = torch.optim
RULES = {
    "sgd": (fl.SGD(0.05), lambda p: optim.SGD(p, 0.05)),
    "heavy ball": (fl.SGD(0.05, momentum=0.9), lambda p: optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (fl.SGD(0.05, momentum=0.9, nesterov=True), lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
    "dampening": (fl.SGD(0.05, momentum=0.9, dampening=0.3), lambda p: optim.SGD(p, 0.05, momentum=0.9, dampening=0.3)),
    "adam": (fl.Adam(0.003), lambda p: optim.Adam(p, 0.003)),
    "adamw": (fl.AdamW(0.003, weight_decay=0.0), lambda p: optim.AdamW(p, 0.003, weight_decay=0.0)),
    "nadam": (fl.NAdam(0.003), lambda p: optim.NAdam(p, 0.003)),
    "rmsprop": (fl.RMSProp(0.003), lambda p: optim.RMSprop(p, 0.003)),
    "adagrad": (fl.AdaGrad(0.03, eps=1e-6), lambda p: optim.Adagrad(p, 0.03, eps=1e-6)),
}


def data(dtype: Any = None) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 32, generator=draw, dtype=dtype or torch.float64), torch.randint(0, 3, (ROWS,), generator=draw)


def made(name: str, dtype: Any = None, **options: Any) -> Any:
    torch.manual_seed(1)
    return fl.torch.problem(MODULES[name]().to(dtype or torch.float64), torch.nn.functional.cross_entropy, data(dtype), **options)


def plan_for(rule: Any, **changes: Any) -> fl.Plan:
    return fl.Plan(**({"rows": ROWS, "steps": STEPS, "batch_size": 16, "seed": 5, "optimizer": rule} | changes))


def values(model: Any) -> dict[str, Any]:
    return {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float(np.abs(a[k] - b[k]).max()) for k in a)


def trained_by_torch(model: Any, optimizer: Any, plan: fl.Plan) -> dict[str, Any]:
    X, y = data()
    torch.set_default_dtype(torch.float64)  # NAdam keeps its running product in the default type
    try:
        for rows in plan.batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    return values(model)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", RULES)
def test_each_rule_is_the_optimizer_it_is_named_after(module: str, name: str):
    rule, peer = RULES[name]
    problem, plan = made(module), plan_for(rule)
    other = copy.deepcopy(problem.model)
    fl.train(problem, plan, progress=False)
    assert distance(values(problem.model), trained_by_torch(other, peer(other.parameters()), plan)) < 1e-10


def test_the_comparison_notices_one_coefficient():
    problem, plan = made("mlp"), plan_for(fl.SGD(0.05, momentum=0.9 + 1e-6))
    other = copy.deepcopy(problem.model)
    fl.train(problem, plan, progress=False)
    assert distance(values(problem.model), trained_by_torch(other, optim.SGD(other.parameters(), 0.05, momentum=0.9), plan)) > 1e-9


def test_decay_clip_and_ema_are_torch_s_own():
    rule = fl.SGD(0.05, momentum=0.9, weight_decay=1e-2, clip=0.3, average=fl.ema(0.9), groups={"*bias": fl.Group(weight_decay=1)})
    problem, plan = made("mlp"), plan_for(rule)
    model = copy.deepcopy(problem.model)
    mean = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    mean.update_parameters(model)  # its first call copies; ours begins as a copy of the weights before update 0
    optimizer, (X, y) = optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-2), data()
    for rows in plan.batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
        for p in model.parameters():
            p.grad.mul_(min(1.0, 0.3 / float(norm)))
        optimizer.step()
        mean.update_parameters(model)
    run = fl.train(problem, plan, progress=False)
    assert distance(run.weights, values(model)) < 1e-10
    assert distance(run.averaged, values(mean.module)) < 1e-10
    assert distance(values(problem.model), values(mean.module)) < 1e-10, "the module holds the answer, which is the average"


@pytest.mark.parametrize("rule", [*(r for r, _ in RULES.values()), fl.Nesterov(0.05, momentum=0.9), fl.ScheduleFree(0.1), fl.SGD(0.05, l1=0.01, clip=0.5)], ids=repr)
def test_a_linear_module_is_the_reference(rule: Any):
    torch.manual_seed(0)
    X, y = torch.randn(ROWS, 5, dtype=torch.float64), torch.randn(ROWS, 1, dtype=torch.float64)
    problem = fl.torch.problem(torch.nn.Linear(5, 1).double(), torch.nn.functional.mse_loss, (X, y))
    plan = fl.Plan(problem, steps=STEPS, batch_size=16, optimizer=rule)
    segment = plan.segment(0, STEPS, problem.layout)
    expected = ReferenceEngine(problem).advance(State.begin(problem.start(), rule.start()), segment)
    engine = problem.engine()
    result = engine.advance(engine.begin(None, rule.start()), segment)
    got = result.state.registers()
    for register in "wvsa":
        if getattr(got, register) is not None:
            assert np.abs(getattr(got, register) - getattr(expected.state, register)).max() < 1e-12, register
    assert np.abs(result.trace.loss - expected.trace.loss).max() < 1e-12


def noisy() -> Any:
    """Dropout, normalisation and float32: what is hard to repeat to the bit."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(16, 3))
    return fl.torch.problem(model, torch.nn.functional.cross_entropy, data(torch.float32))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.mark.parametrize("rule", [fl.SGD(0.1, momentum=0.9, nesterov=True, schedule="warmup(10%) > cosine"), fl.Nesterov(0.05, momentum=0.9), fl.Adam(0.01), fl.ScheduleFree(0.1)], ids=repr)
def test_the_same_bits_again_and_cut_anywhere(rule: Any):
    plan = plan_for(rule)
    whole = fl.train(noisy(), plan, progress=False)
    torch.manual_seed(99)  # whatever else drew random numbers meanwhile
    assert same(fl.train(noisy(), plan, progress=False).weights, whole.weights)
    problem = noisy()
    engine = problem.engine()
    state, a = engine.begin(None, rule.start()), 0
    for b in (1, 2, 30, 31, 77, STEPS):
        state, a = engine.advance(state, plan.segment(a, b, problem.layout)).state, b
        engine.answer(state, rule.answer())
    assert same(problem.named(engine.answer(state, rule.answer())), whole.weights)


def test_observers_and_the_range_test_change_no_bit():
    plan, (X, y) = plan_for(fl.SGD(0.1, momentum=0.9)), data(torch.float32)
    alone = fl.train(noisy(), plan, progress=False)
    watched = fl.train(noisy(), plan, valid=fl.Validation((X, y), every=fl.steps(7)), stop=fl.EarlyStop(patience=fl.epochs(50)), progress=False)
    assert same(watched.weights, alone.weights) and np.array_equal(watched.history.loss, alone.history.loss)
    problem = noisy()
    before, generator = values(problem.model), torch.random.get_rng_state()
    assert fl.find_lr(problem, plan).cost > 0  # random labels: whether they have a rate is not the question here
    assert same(values(problem.model), before) and torch.equal(torch.random.get_rng_state(), generator)
    assert same(fl.train(problem, plan, progress=False).weights, alone.weights)


@pytest.mark.parametrize("rule", [fl.SGD(0.1, momentum=0.9, weight_decay=1e-3, clip=0.5), fl.Nesterov(0.05, momentum=0.9), fl.AdamW(0.003), fl.ScheduleFree(0.1), fl.SGD(0.1, average=fl.ema(0.9))], ids=repr)
def test_one_s_own_loop_has_the_library_s_bits(rule: Any):
    plan, (X, y) = plan_for(rule), data(torch.float32)
    problem = made("cnn", torch.float32)
    model = copy.deepcopy(problem.model)
    run = fl.train(problem, plan, progress=False)
    optimizer = fl.torch.Optimizer(model, plan)
    model.train()
    for rows in plan.batches():
        torch.nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.eval()
    names = dict(model.named_parameters())
    answer = run.averaged or run.weights
    assert all(names[n].detach().numpy().tobytes() == answer[n].tobytes() for n in names)
