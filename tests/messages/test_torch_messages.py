"""What the PyTorch face says when something cannot be: what was given, what was expected, what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402

CE = torch.nn.functional.cross_entropy
X, y = torch.randn(20, 4), torch.randint(0, 2, (20,))


def net() -> Any:
    return torch.nn.Linear(4, 2)


def sparse() -> Any:
    return torch.nn.Sequential(torch.nn.Embedding(5, 3, sparse=True), torch.nn.Flatten(), torch.nn.Linear(6, 2))


def expanded() -> Any:
    model = net()
    model.bias = torch.nn.Parameter(torch.zeros(1).expand(2))
    return model


def plan(problem: Any = None, **changes: Any) -> fl.Plan:
    return fl.Plan(**({"rows": 20, "steps": 3, "batch_size": 5, "optimizer": fl.SGD(0.1)} | changes))


PROBLEMS = {
    "both contracts": (lambda: fl.torch.problem(net(), CE, (X, y), objective=CE), "exactly one of loss"),
    "no contract": (lambda: fl.torch.problem(net(), data=(X, y)), "exactly one of loss"),
    "no data": (lambda: fl.torch.problem(net(), CE), "data is missing"),
    "not a module": (lambda: fl.torch.problem(lambda x: x, CE, (X, y)), "is a function: expected a torch.nn.Module"),
    "frozen module": (lambda: fl.torch.problem(net().requires_grad_(False), CE, (X, y)), "no parameter that requires a gradient"),
    "lazy layer": (lambda: fl.torch.problem(torch.nn.LazyLinear(2), CE, (X, y)), "is not made yet: run the model once"),
    "rows differ": (lambda: fl.torch.problem(net(), CE, (X, y[:5])), "same, non-zero number of rows"),
    "no rows": (lambda: fl.torch.problem(net(), CE, (X[:0], y[:0])), "same, non-zero number of rows"),
    "words": (lambda: fl.torch.problem(net(), CE, (X, np.array(["a"] * 20))), "expected tensors or arrays of numbers"),
    "a generator": (lambda: fl.torch.problem(net(), CE, ((X, y) for _ in range(3))), "can be read only once"),
    "a number": (lambda: fl.torch.problem(net(), CE, 3), "data is a int"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_that_cannot_be(case: str):
    make, says = PROBLEMS[case]
    with pytest.raises(fl.InvalidValue, match=says.replace("(", r"\(")):
        make()


RUNS = {
    "a loss of rows": (net(), lambda p, t: CE(p, t, reduction="none"), (X, y), r"tensor of shape \[5\]: expected one number"),
    "a loss in numbers": (net(), lambda p, t: 1.0, (X, y), "gave a float: expected a tensor of one number"),
    "a loss without a graph": (net(), lambda p, t: CE(p, t).detach(), (X, y), "does not depend on any parameter"),
    "three parts": (net(), CE, (X, y, y), "a batch is .x, y. and this one is a tuple of"),
    "sparse gradients": (sparse(), CE, (torch.randint(0, 5, (20, 2)), y), "'0.weight' has a sparse gradient: build its layer with sparse=False"),
    "half precision": (net().to(torch.bfloat16), CE, (X.to(torch.bfloat16), y), "'weight' is torch.bfloat16: expected float32 or float64.*autocast"),
    "an overlapping view": (expanded(), CE, (X, y), "'bias' is a view with gaps or overlaps"),
}  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_cannot_be(case: str):
    model, loss, data, says = RUNS[case]
    with pytest.raises(fl.InvalidValue, match=says):
        fl.train(fl.torch.problem(model, loss, data), plan(), progress=False)


def test_another_module_s_validation_and_metrics_without_predictions():
    problem = fl.torch.problem(net(), CE, (X, y))
    with pytest.raises(fl.InvalidValue, match="problem of another module"):
        fl.train(problem, plan(), valid=fl.torch.problem(net(), CE, (X, y)), progress=False)
    scalar = fl.torch.problem(net(), objective=lambda m, b: CE(m(b[0]), b[1]), data=(X, y))
    with pytest.raises(fl.InvalidValue, match="needs predictions and an objective gives none"):
        fl.train(scalar, plan(), valid=fl.Validation((X, y), ["accuracy"]), progress=False)
    with pytest.raises(fl.PlanMismatch, match="the plan is for 99 rows"):
        fl.train(problem, plan(rows=99), progress=False)


def test_an_optimizer_that_cannot_be_or_cannot_go_on():
    with pytest.raises(fl.InvalidValue, match="lr is auto"):
        fl.torch.Optimizer(net(), plan(optimizer=fl.SGD()))
    with pytest.raises(fl.InvalidValue, match="matches no parameter"):
        fl.torch.Optimizer(net(), plan(optimizer=fl.SGD(0.1, groups={"body.*": fl.Group(lr=2)})))
    model = net()
    optimizer = fl.torch.Optimizer(model, plan())
    with pytest.raises(fl.InvalidValue, match=r"call loss.backward\(\) before step\(\)"):
        optimizer.step()
    with pytest.raises(fl.InvalidValue, match="the plan's groups decide"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    for _ in range(3):
        CE(model(X), y).backward()
        optimizer.step()
    with pytest.raises(fl.PlanEnded, match="ends with update 2"):
        optimizer.step()
    with pytest.raises(fl.PlanMismatch, match="another plan"):
        fl.torch.Optimizer(net(), plan(seed=1)).load_state_dict(optimizer.state_dict())
    with pytest.raises(fl.PlanMismatch, match="not a state of"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})


def test_another_scheduler_is_named():
    model = net()
    optimizer = fl.torch.Optimizer(model, plan())
    other = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    CE(model(X), y).backward()
    optimizer.step()
    other.step()
    with pytest.raises(fl.InvalidValue, match=r"lr of a parameter group was changed to 0.05 where the plan says 0.1 by"):
        optimizer.step()


def test_the_guard_touches_nothing():
    model = net()
    optimizer = fl.torch.Optimizer(model, plan(), guard=True)
    CE(model(X), y).backward()
    model.bias.grad[1] = float("nan")
    before = model.weight.detach().clone()
    with pytest.raises(fl.Diverged, match="a gradient is not finite before update 0; nothing was changed: first in 'bias'"):
        optimizer.step()
    assert torch.equal(model.weight, before)
