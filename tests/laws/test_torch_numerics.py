"""What precision, compilation, dropout and batch normalisation do in our loop: each is there, and each is what it says."""

from __future__ import annotations

import copy
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402
from fallline.torch.engine import FIRST_SCALE  # noqa: E402

F = torch.nn.functional


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(rows: int = 96) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(rows, 6, generator=draw)
    return X, (X[:, 0] > 0).long()


def net(*extra: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), *extra, torch.nn.ReLU(), torch.nn.Linear(8, 2))


def trained(model: Any, rule: Any = None, loss: Any = F.cross_entropy, **options: Any) -> fl.Run:
    problem = fl.torch.problem(model, loss, data(), **options)
    plan = fl.Plan(problem, epochs=4, batch_size=16, seed=5, optimizer=rule or fl.SGD(0.1, momentum=0.9, schedule="linear(to=0)"))
    return fl.train(problem, plan, progress=False)


def apart(one: fl.Run, other: fl.Run) -> float:
    return max(float(np.abs(one.weights[k] - other.weights[k]).max()) for k in one.weights)


def test_a_compiled_module_descends_as_the_plain_one_and_is_compiled_once(monkeypatch):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # what is compiled how often does not hang on the back end
    model = net()
    fast = trained(model, compile=True)
    assert counters["stats"]["unique_graphs"] == 1, "a changing lr compiles nothing anew"
    assert apart(fast, trained(net())) < 1e-6 and fast.model is model and set(fast.weights) == set(model.state_dict())
    torch._dynamo.reset()


def test_bfloat16_computes_in_bfloat16_and_descends_like_float32():
    seen = set()

    def loss(z: Any, y: Any) -> Any:
        seen.add(z.dtype)
        return F.cross_entropy(z, y)

    half = trained(net(), loss=loss, autocast=torch.bfloat16)
    assert seen == {torch.bfloat16} and {w.dtype for w in half.weights.values()} == {np.dtype(np.float32)}
    assert 0 < apart(half, trained(net())) < 0.05


class Half(torch.autograd.Function):
    """Passes values on; its gradient goes through float16, where too large ones are infinite, as on a device."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.half().float()


def test_float16_scales_the_loss_halves_on_overflow_and_uses_the_row_up():
    """The first scale, 2^16, overflows where a row's gradient is 1: those updates are not made, and the schedule goes on."""

    class Loud(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(6, 1)

        def forward(self, x: Any) -> Any:
            return Half.apply(self.inner(x))

    def error(z: Any, y: Any) -> Any:
        return (z[:, 0].float() - 40 * y).abs().sum()  # a gradient of 1 or -1 for each row

    torch.manual_seed(0)
    model = Loud()
    problem = fl.torch.problem(model, error, data(), autocast=torch.float16)
    plan = fl.Plan(problem, steps=20, batch_size=16, seed=5, optimizer=fl.SGD(1e-4, schedule="linear(to=0)"))
    engine, skipped = problem.engine(), []
    state = engine.begin(None, plan.optimizer.start())
    for t in range(plan.steps):
        before, scale = copy.deepcopy(model.state_dict()), state.scale if t else FIRST_SCALE
        state = engine.advance(state, plan.segment(t, t + 1, problem.layout)).state
        same = all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert state.scale == (scale / 2 if same else scale), "an update that overflowed is not made, and halves the scale"
        skipped += [t] if same else []
    assert 1 <= len(skipped) <= 8 and skipped[0] == 0 and state.step == plan.steps
    torch.manual_seed(0)
    plain = Loud()
    for t, rows in enumerate(plan.batches()):
        if t in skipped:
            continue
        grads = torch.autograd.grad(error(plain.inner(data()[0][rows]), data()[1][rows]), list(plain.parameters()))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), grads, strict=True):
                p -= float(plan.lr_at([t])[0]) * g
    assert all(torch.allclose(p, q, rtol=1e-3, atol=1e-4) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_float16_stops_where_no_scale_helps():
    problem = fl.torch.problem(net(), lambda z, y: F.cross_entropy(z, y) * float("inf"), data(), autocast=torch.float16)
    with pytest.raises(fl.Diverged):
        fl.train(problem, fl.Plan(problem, steps=5, batch_size=16, optimizer=fl.SGD(0.1)), progress=False)


def test_the_dropout_of_a_step_is_a_function_of_seed_and_step():
    """Whatever ran before, on the same or another generator's state; and another seed or step draws another mask."""
    masks: dict[Any, list[Any]] = {}

    class Watched(torch.nn.Dropout):
        def forward(self, x: Any) -> Any:
            out = super().forward(x)
            if self.training:
                masks[self.key].append((out == 0).clone())
            return out

    for key, seed, cuts in (("whole", 5, (0, 8)), ("cut", 5, (0, 3, 4, 8)), ("late", 5, (6, 8)), ("other", 6, (0, 8))):
        torch.rand(17)
        layer = Watched(0.5)
        layer.key, masks[key] = key, []
        torch.manual_seed(0)
        model = torch.nn.Sequential(layer, torch.nn.Linear(6, 2))
        problem = fl.torch.problem(model, F.cross_entropy, (torch.ones(96, 6), data()[1]))
        plan = fl.Plan(problem, steps=8, batch_size=16, seed=seed, optimizer=fl.SGD(0.1))
        engine = problem.engine()
        state = engine.begin(None, plan.optimizer.start())
        state.step = cuts[0]
        outside = torch.get_rng_state()
        for a, b in pairwise(cuts):
            state = engine.advance(state, plan.segment(a, b, problem.layout)).state
        assert torch.equal(torch.get_rng_state(), outside), "the process's own generator is as it was"
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert same(masks["whole"], masks["cut"]) and same(masks["whole"][6:], masks["late"])
    assert not same(masks["whole"], masks["other"]) and not torch.equal(masks["whole"][0], masks["whole"][1])


@pytest.mark.parametrize("rule", [fl.SGD(0.1, average=fl.ema(0.9)), fl.ScheduleFree(0.3)], ids=["average", "schedule-free"])
def test_an_averaged_answer_has_statistics_of_its_own(rule: Any):
    """BatchNorm's running statistics belong to the weights they were gathered with: for an average they are gathered anew, as an even mean."""
    model = net(torch.nn.BatchNorm1d(8))
    run = trained(model, rule)
    answer = run.averaged if run.averaged is not None else run.weights
    X, _ = data()
    with torch.no_grad():
        hidden = X @ torch.tensor(answer["0.weight"]).T + torch.tensor(answer["0.bias"])
    assert np.allclose(answer["1.running_mean"], hidden.mean(0), atol=1e-5) and np.allclose(answer["1.running_var"], hidden.var(0), atol=1e-4)
    assert torch.equal(model[1].running_mean, torch.tensor(answer["1.running_mean"])), "the module is left with its answer"
    if run.averaged is not None:
        assert not np.allclose(run.weights["1.running_mean"], answer["1.running_mean"], atol=1e-4), "those of the last weights are the run's own"
    assert model[1].momentum == 0.1 and model[1].training
