"""What `fl.torch.Scheduler` and `fl.torch.find_lr` say when they are asked wrongly: what was given, and what to do."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import mse_loss

import fallline as fl
from fallline.errors import InvalidValue, PlanEnded, PlanMismatch
from fallline.torch.finder import find_lr
from fallline.torch.scheduler import Scheduler


def plan(**rule):
    return fl.Plan(rows=100, epochs=1, batch_size=10, optimizer=fl.SGD(**({"lr": 0.1} | rule)))


@pytest.fixture
def model():
    return torch.nn.Linear(2, 1)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=1.0)


def update(model, optimizer):
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()


# ---- Scheduler


def test_lr_auto_says_how_to_find_it(optimizer):
    with pytest.raises(InvalidValue, match=r"lr is auto.*found = fl\.torch\.find_lr\(.*plan\.with_lr\(found\)"):
        Scheduler(optimizer, plan(lr=fl.auto))


def test_what_is_no_optimizer_or_no_plan(optimizer):
    with pytest.raises(InvalidValue, match=r"optimizer is a str: expected a torch\.optim\.Optimizer"):
        Scheduler("sgd", plan())
    with pytest.raises(InvalidValue, match=r"Scheduler\(optimizer, str\): expected a plan, such as"):
        Scheduler(optimizer, "cosine")


def test_two_plans_are_both_named(optimizer):
    Scheduler(optimizer, plan(lr=0.25))
    with pytest.raises(InvalidValue, match=r"SGD\(lr=0\.25\).* already drives this optimizer, and .*SGD\(lr=0\.125\).* would too: call \.detach\(\)"):
        Scheduler(optimizer, plan(lr=0.125))
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_another_scheduler_is_named(model, optimizer):
    ours = Scheduler(optimizer, plan())
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    update(model, optimizer)
    theirs.step()
    before = model.weight.detach().clone()
    with pytest.raises(InvalidValue, match=r"lr of parameter group 0 is 0\.05 and .* had written 0\.1: the optimizer also has StepLR"):
        update(model, optimizer)
    assert torch.equal(model.weight, before)
    assert ours.last_epoch == 1


@pytest.mark.parametrize("lr", [1.0, torch.tensor(1.0)], ids=["number", "tensor"])
def test_a_hand_that_writes_lr_is_noticed(model, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    Scheduler(optimizer, plan())
    update(model, optimizer)
    if isinstance(lr, torch.Tensor):
        optimizer.param_groups[0]["lr"].mul_(0.5)
    else:
        optimizer.param_groups[0]["lr"] = 0.05
    with pytest.raises(InvalidValue, match=r"is 0\.05 .*something else wrote it.*param_groups\[\.\.\.\] in the loop"):
        update(model, optimizer)


def test_a_plan_that_has_ended(model, optimizer):
    Scheduler(optimizer, plan())
    for _ in range(10):
        update(model, optimizer)
    with pytest.raises(PlanEnded, match=r"update 10 was asked for and the plan ends with update 9: make a longer plan, .* nothing was changed"):
        update(model, optimizer)


@pytest.mark.parametrize(
    "rule, words",
    [
        ({"clip": 1.0}, r"clips the gradient's norm to 1\.0.*clip_grad_norm_.*fl\.torch\.Optimizer"),
        ({"l1": 0.1}, r"l1=0\.1, which a torch optimizer does not do"),
        ({"average": fl.ema(0.9)}, r"average=.*does not do"),
        ({"groups": {"*": fl.Group(frozen=fl.epochs(1))}}, r"group '\*' is frozen"),
    ],
)  # fmt: skip
def test_what_a_torch_optimizer_cannot_do(optimizer, rule, words):
    with pytest.raises(InvalidValue, match=words):
        Scheduler(optimizer, plan(**rule))


def test_momentum_that_an_optimizer_has_not(model):
    with pytest.raises(InvalidValue, match="drives momentum, and Adagrad has none"):
        Scheduler(torch.optim.Adagrad(model.parameters()), plan(momentum=fl.linear(start=0.9, to=0.5)))


def test_groups_of_the_plan(model, optimizer):
    asked = plan(groups={"weight": fl.Group(lr=10)})
    with pytest.raises(InvalidValue, match=r"does not know its parameters' names: give it names, torch\.optim\.SGD\(model\.named_parameters\(\)"):
        Scheduler(optimizer, asked)
    with pytest.raises(InvalidValue, match="parameter group 0 holds 'weight' and 'bias', which fall into different groups of the plan"):
        Scheduler(torch.optim.SGD(model.named_parameters(), lr=1.0), asked)
    with pytest.raises(InvalidValue, match="group pattern 'head' matches no parameter; parameters: weight, bias"):
        Scheduler(torch.optim.SGD(model.named_parameters(), lr=1.0), plan(groups={"head": fl.Group(lr=10)}))
    unequal = torch.optim.SGD([{"params": [("weight", model.weight)], "lr": 0.5}, {"params": [("bias", model.bias)]}], lr=1.0)
    with pytest.raises(InvalidValue, match=r"\[0\.5, 1\.0\].*give the ratios in one place"):
        Scheduler(unequal, asked)


def test_a_group_that_is_added_later(model, optimizer):
    Scheduler(optimizer, plan())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(InvalidValue, match=r"had 1 parameter groups .* has 2: .*scheduler\.detach\(\).*load the state"):
        update(model, optimizer)


def test_states_that_do_not_fit(optimizer):
    scheduler = Scheduler(optimizer, plan())
    with pytest.raises(InvalidValue, match=r"keys \['last_epoch'\]: expected \{'update'"):
        scheduler.load_state_dict({"last_epoch": 3})
    with pytest.raises(PlanMismatch, match="state is of update 11 and this plan ends after 10: make a longer plan"):
        scheduler.load_state_dict({"update": 11})
    assert scheduler.state_dict() == {"update": 0}


def test_a_scheduler_is_not_copied(optimizer):
    with pytest.raises(InvalidValue, match=r"belongs to its optimizer.*state_dict\(\)"):
        copy.deepcopy(Scheduler(optimizer, plan()))


def test_it_prints_on_one_line(optimizer):
    text = repr(Scheduler(optimizer, plan(schedule="cosine")))
    assert "\n" not in text
    assert "update 0 of 10" in text


# ---- find_lr


BATCHES = [(torch.randn(8, 2), torch.randn(8, 1))]


@pytest.mark.parametrize(
    "given, words",
    [
        ({"low": 1.0, "high": 0.1}, r"low=1\.0, high=0\.1\): expected 0 < low < high"),
        ({"sweeps": 0}, r"sweeps=0\): expected a whole number of at least 1"),
        ({"accumulate": 1.5}, r"accumulate=1\.5\): expected a whole number"),
        ({"loader": []}, "the loader gave no batch"),
        ({"loader": 5}, "loader is a int: expected a DataLoader, or a list of batches"),
        ({"loader": iter(BATCHES)}, r"an iterator, and its position cannot be put back.*may_consume=True"),
        ({"loader": iter(BATCHES), "may_consume": True}, "the iterator ended after 1 batches, before the test did"),
        ({"loss": None}, "neither of loss and objective"),
        ({"objective": lambda m, b: m(b[0]).mean()}, "both of loss and objective"),
        ({"loss": lambda a, b: (a - b) ** 2}, "a tensor of shape"),
        ({"loader": [torch.ones(4, 2)]}, r"with loss=, a batch is \(x, y\)"),
        ({"model": torch.nn.functional.relu}, "model is a .*: expected a torch.nn.Module"),
    ],
)  # fmt: skip
def test_find_lr_asked_wrongly(model, given, words):
    arguments = {"model": model, "loss": mse_loss, "loader": BATCHES} | given
    with pytest.raises(InvalidValue, match=words):
        find_lr(**arguments)


def test_an_optimizer_with_a_closure_is_refused_by_name(model):
    with pytest.raises(InvalidValue, match="LBFGS evaluates a closure several times"):
        find_lr(model, mse_loss, BATCHES, torch.optim.LBFGS(model.parameters()))

    class Sam(torch.optim.SGD):
        def step(self, closure):
            return closure()

    with pytest.raises(InvalidValue, match="Sam evaluates a closure"):
        find_lr(model, mse_loss, BATCHES, Sam(model.parameters(), lr=0.1))


def test_an_optimizer_of_another_model(model):
    with pytest.raises(InvalidValue, match="holds none of the model's parameters"):
        find_lr(model, mse_loss, BATCHES, torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1))


def test_without_torch_the_extra_is_named():
    program = (
        "import sys\nsys.modules['torch'] = None\nimport fallline as fl\n"
        "for name in ('Scheduler', 'find_lr'):\n"
        "    try:\n        getattr(fl.torch, name)\n    except fl.MissingExtra as error:\n        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [line.endswith("pip install 'fallline[torch]'") for line in done.stdout.splitlines()] == [True, True]


def test_an_optimizer_that_carries_out_its_plan_needs_no_scheduler():
    plan = fl.Plan(rows=10, steps=3, optimizer=fl.SGD(0.1))
    own = fl.torch.Optimizer(torch.nn.Linear(1, 1), plan)
    with pytest.raises(fl.InvalidValue) as said:
        fl.torch.Scheduler(own, plan)
    assert str(said.value) == (
        f"{own!r} carries out its plan itself, schedule and all: leave the Scheduler out; where a framework asks for one, give it optimizer.scheduler()"
    )
    shown = own.scheduler()
    shown.step()
    assert (shown.get_last_lr(), shown.base_lrs, shown.last_epoch, shown.state_dict()) == ([0.1, 0.1], [0.1, 0.1], 0, {}) and isinstance(shown, torch.optim.lr_scheduler.LRScheduler)
