"""The law for devices, run where every machine can: equal to the kernel's, compiled once, never waiting for the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fallline as fl  # noqa: E402
from fallline.torch import device, update  # noqa: E402
from fallline.torch.device import DeviceUpdater  # noqa: E402

ROWS, STEPS = 96, 30
GROUPS = {"0.*": fl.Group(lr=0.5), "*.bias": fl.Group(lr=2)}
RULES = [
    fl.SGD(0.05, momentum=0.9, nesterov=True, schedule="warmup(10%) > cosine"), fl.Nesterov(0.05, momentum=0.9), fl.AdamW(0.003, clip=0.5),
    fl.SGD(0.05, average=fl.ema(0.9), l1=0.01, groups=GROUPS), fl.Adam(0.003, groups=GROUPS), fl.RMSProp(0.003), fl.ScheduleFree(0.1),
    fl.SGD(0.05, momentum=0.9, groups={"0.*": fl.Group(frozen=fl.steps(7))}),
]  # fmt: skip


def data() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 32, generator=draw, dtype=torch.float64), torch.randint(0, 3, (ROWS,), generator=draw)


def net(width: int = 16) -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(32, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)).double()


def plan_for(rule: Any, **changes: Any) -> fl.Plan:
    return fl.Plan(**({"rows": ROWS, "steps": STEPS, "batch_size": 16, "seed": 5, "optimizer": rule} | changes))


def trained(rule: Any, model: Any = None, **changes: Any) -> Any:
    return fl.train(fl.torch.problem(model or net(), F.cross_entropy, data()), plan_for(rule, **changes), progress=False)


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float(np.abs(a[k] - b[k]).max()) for k in a)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every updater is the one of devices."""
    monkeypatch.setattr("fallline.torch.engine.updater_of", DeviceUpdater)
    monkeypatch.setattr("fallline.torch.optimizer.updater_of", DeviceUpdater)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The law under torch.compile up to the point where kernels would be written; gives what counts its graphs."""
    monkeypatch.setattr(device, "law_for", lambda _: device.compiled_law("aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_law_is_the_kernel_s(rule: Any, monkeypatch: pytest.MonkeyPatch):
    ours = trained(rule)
    monkeypatch.setattr("fallline.torch.engine.updater_of", DeviceUpdater)
    assert distance(trained(rule).weights, ours.weights) < 1e-12


@pytest.mark.parametrize("rule", [RULES[0], RULES[2], RULES[3]], ids=repr)
def test_the_compiled_law_is_the_kernel_s_and_compiles_once_whatever_the_learning_rate(rule: Any, compiled: Any, monkeypatch: pytest.MonkeyPatch):
    ours = trained(rule)
    monkeypatch.setattr("fallline.torch.engine.updater_of", DeviceUpdater)
    assert distance(trained(rule).weights, ours.weights) < 1e-12
    assert compiled() == 1


def test_any_number_of_modules_is_compiled(on_device: None, compiled: Any):
    """PyTorch gives a function up after eight versions of it; each updater has a law of its own."""
    for width in range(1, 10):
        trained(fl.SGD(0.05), net(width), steps=2)
    assert compiled() == 9


def test_a_group_that_thaws_compiles_once_more(on_device: None, compiled: Any):
    trained(RULES[-1])
    assert compiled() == 2


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a device: a number read into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nothing_waits_for_the_device_within_a_segment(rule: Any, on_device: None):
    problem = fl.torch.problem(net(), F.cross_entropy, data())
    plan = plan_for(rule)
    engine = problem.engine()
    state, segment = engine.begin(None, rule.start()), plan.segment(0, STEPS, problem.layout)
    with Waits() as waits:
        engine.advance(state, segment)
    assert waits.seen == 0


def test_the_count_of_waits_counts():
    with Waits() as waits:
        float(torch.ones(()))
        bool(torch.ones(()) > 0)
    assert waits.seen == 2


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
def test_one_s_own_loop_waits_for_nothing_of_ours(scaled: bool, on_device: None):
    model, (X, y) = net(), data()
    optimizer = fl.torch.Optimizer(model, plan_for(fl.AdamW(0.003)))
    F.cross_entropy(model(X), y).backward()
    if scaled:
        optimizer.grad_scale, optimizer.found_inf = torch.full((), 2.0), torch.zeros(())
    with Waits() as waits:
        for _ in range(3):
            optimizer.step()
    assert waits.seen == 0


@pytest.mark.parametrize("rule", [RULES[0], RULES[1], RULES[2]], ids=repr)
def test_one_s_own_loop_has_the_library_s_law(rule: Any, on_device: None):
    plan, model, (X, y) = plan_for(rule), net(), data()
    optimizer = fl.torch.Optimizer(model, plan)
    for rows in plan.batches():
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()
    optimizer.eval()
    weights = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    assert distance(weights, trained(rule).weights) < 1e-12


def test_what_a_grad_scaler_hands_over_is_used_on_the_device(on_device: None):
    model, (X, y) = net(), data()
    other = copy.deepcopy(model)
    one, two = (fl.torch.Optimizer(m, plan_for(fl.SGD(0.1, momentum=0.9, schedule="linear(to=0)"))) for m in (model, other))
    for k in range(4):
        for m, optimizer, scale in ((model, one, 8.0), (other, two, 1.0)):
            optimizer.zero_grad()
            (scale * F.cross_entropy(m(X), y)).backward()
        one.grad_scale, one.found_inf = torch.tensor([8.0]), torch.tensor([float(k == 2)])
        before = [p.detach().clone() for p in model.parameters()]
        if k == 2:
            model[0].weight.grad[0, 0] = float("nan")
            two.update += 1
            two._load_rows()
        else:
            two.step()
        one.step()
        assert (k == 2) == all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert one.update == two.update == 4
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("rule", [RULES[0], RULES[4], RULES[6]], ids=repr)
def test_a_gradient_that_is_not_finite_ends_the_segment_with_every_register_as_it_was(rule: Any, monkeypatch: pytest.MonkeyPatch):
    X, y = data()
    X[int(plan_for(rule).segment(11, 12, None).batch(0)[3])] = float("nan") if rule is RULES[4] else 1e308
    results = []
    for updater in (update.HostUpdater, DeviceUpdater):
        monkeypatch.setattr("fallline.torch.engine.updater_of", updater)
        problem = fl.torch.problem(net(), F.cross_entropy, (X, y))
        engine = problem.engine()
        results.append(engine.advance(engine.begin(None, rule.start()), plan_for(rule).segment(0, STEPS, problem.layout)))
    host, there = results
    assert host.stopped_at == there.stopped_at is not None
    assert np.allclose(host.trace.loss, there.trace.loss, rtol=0, atol=1e-12)
    for register in "wvs":
        a, b = getattr(host.state.registers(), register), getattr(there.state.registers(), register)
        assert (a is None) == (b is None) and (a is None or np.abs(a - b).max() < 1e-12)


def test_the_guard_of_one_s_own_loop_touches_nothing(on_device: None):
    model, (X, y) = net(), data()
    optimizer = fl.torch.Optimizer(model, plan_for(fl.Adam(0.01)), guard=True)
    F.cross_entropy(model(X), y).backward()
    optimizer.step()
    model[2].bias.grad[1] = float("inf")
    before = copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))
    with pytest.raises(fl.Diverged, match=r"first in '2\.bias'"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before[0], model.parameters(), strict=True))
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[1][n][r], after[n][r]) for n in after for r in after[n])
