"""`fl.torch.Scheduler` in loops of one's own: every update uses the plan's number, whatever else is called how often."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.torch.scheduler import Scheduler

PLAN = fl.Plan(rows=640, epochs=2, batch_size=32, optimizer=fl.SGD(lr=0.2, schedule="warmup(5%) > cosine(to=1e-3)"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The models are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Recorder:
    """A model of one parameter, its optimizer, and the numbers that the optimizer used at each update."""

    def __init__(self, make=lambda p: torch.optim.SGD(p, lr=1.0)):
        self.w = torch.nn.Parameter(torch.ones(2))
        self.optimizer = make([self.w])
        self.used: list[list[float]] = []
        self.optimizer.register_step_pre_hook(lambda o, a, k: self.used.append([float(g["lr"]) for g in o.param_groups]))

    def update(self, finite: bool = True):
        self.w.grad = torch.ones(2) if finite else torch.full((2,), float("inf"))
        self.optimizer.step()

    @property
    def lr(self):
        return np.array(self.used)[:, 0]


def test_plain_loop_uses_the_plans_table():
    run = Recorder()
    scheduler = Scheduler(run.optimizer, PLAN)
    assert run.optimizer.param_groups[0]["lr"] == PLAN.lr_at([0])[0]
    for _ in range(PLAN.steps):
        run.update()
    assert np.array_equal(run.lr, PLAN.lr_at())
    assert scheduler.last_epoch == PLAN.steps
    assert scheduler.get_last_lr() == [1e-3]  # the end value, legal to read


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_step_may_be_called_at_will(calls):
    run = Recorder()
    scheduler = Scheduler(run.optimizer, PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PLAN.steps):
            run.update()
            for _ in range(calls):
                scheduler.step()
        scheduler.step()  # once more at the end
        scheduler.step(3)
    assert np.array_equal(run.lr, PLAN.lr_at())


def test_gradient_accumulation_counts_updates_and_not_batches():
    run = Recorder()
    scheduler = Scheduler(run.optimizer, PLAN)
    for micro in range(4 * PLAN.steps):
        run.w.grad = torch.ones(2)
        if micro % 4 == 3:
            run.optimizer.step()
        scheduler.step()
    assert np.array_equal(run.lr, PLAN.lr_at())


def test_an_update_that_gradscaler_skips_is_not_counted():
    run = Recorder()
    scheduler = Scheduler(run.optimizer, PLAN)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for t in range(6):
        run.w.grad = None
        scaler.scale(run.w.sum() * (1.0 if t % 2 else float("inf"))).backward()
        scaler.step(run.optimizer)
        scaler.update()
        scheduler.step()
    assert scheduler.last_epoch == 3
    assert np.array_equal(run.lr, PLAN.lr_at([0, 1, 2]))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_an_update_that_a_fused_optimizer_skips_within_its_step_is_not_counted_either(name):
    """GradScaler leaves the skipping to optimizers that can do it on their device: their step runs, and its hooks too."""
    run = Recorder(lambda p: getattr(torch.optim, name)(p, lr=1.0, fused=True))
    scheduler = Scheduler(run.optimizer, PLAN)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    made = []
    for t in range(7):
        before = run.w.detach().clone()
        run.w.grad = None
        scaler.scale((run.w * 3).sum() * (float("inf") if t % 3 == 1 else 1.0)).backward()
        scaler.step(run.optimizer)
        scaler.update()
        made.append(not torch.equal(run.w, before))
    assert made == [False, False, True, True, False, True, True]  # update 0 has lr 0; 1 and 4 were skipped
    used = run.lr
    assert np.array_equal(used, PLAN.lr_at([0, 1, 1, 2, 3, 3, 4]))
    assert scheduler.last_epoch == 5 and scheduler.state_dict() == {"update": 5} and scheduler.get_last_lr() == [PLAN.lr_at([5])[0]]


def test_groups_keep_their_ratio_and_the_largest_gets_the_plans_lr():
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in "ab")
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.01}, {"params": [b]}], lr=0.1)
    scheduler = Scheduler(optimizer, PLAN)
    for t in range(5):
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1 * PLAN.lr_at([t])[0], PLAN.lr_at([t])[0]], rel=1e-15)
        assert scheduler.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
        a.grad = b.grad = torch.ones(1)
        optimizer.step()
    # update 0 has lr 0 everywhere, and still the ratio is known to a new scheduler of the same optimizer
    scheduler.load_state_dict({"update": 0})
    scheduler.detach()
    assert [g["lr"] for g in optimizer.param_groups] == [0.0, 0.0]
    assert Scheduler(optimizer, PLAN).shares == pytest.approx([0.1, 1.0])


def test_the_plans_groups_decide_where_names_are_known():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(
        [{"params": list(layer.named_parameters(prefix=str(i)))} for i, layer in enumerate(model)], lr=0.5, weight_decay=0.1
    )
    rule = fl.SGD(lr=0.1, weight_decay=0.01, groups={"1.*": fl.Group(lr=10, weight_decay=2)})
    Scheduler(optimizer, fl.Plan(rows=10, steps=4, optimizer=rule))
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 1.0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.02]


@pytest.mark.parametrize("name, place", [("SGD", lambda g: g["momentum"]), ("AdamW", lambda g: g["betas"][0]), ("RMSprop", lambda g: g["momentum"])])
def test_momentum_and_weight_decay_follow_where_they_are_scheduled(name, place):
    run = Recorder(lambda p: getattr(torch.optim, name)(p, lr=0.1, weight_decay=0.3))
    rule = fl.SGD(lr=0.1, schedule="one_cycle", momentum=fl.one_cycle_momentum(), weight_decay=fl.linear(start=0.1, to=0.0))
    plan = fl.Plan(rows=10, steps=10, optimizer=rule)
    Scheduler(run.optimizer, plan)
    group, seen = run.optimizer.param_groups[0], []
    for _ in range(plan.steps):
        seen.append((place(group), group["weight_decay"]))
        run.update()
    table = plan.table(range(plan.steps))
    assert np.array_equal(np.array(seen)[:, 0], table["momentum"])
    assert np.array_equal(np.array(seen)[:, 1], fl.linear(start=0.1, to=0.0).bind(plan.clock)(np.arange(plan.steps)))
    assert np.array_equal(run.lr, plan.lr_at())


def test_what_is_not_scheduled_stays_the_optimizers_own():
    run = Recorder(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.2))
    Scheduler(run.optimizer, fl.Plan(rows=10, steps=3, optimizer=fl.SGD(lr=0.1, momentum=0.9)))
    run.update()
    assert (run.optimizer.param_groups[0]["momentum"], run.optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.2)


def test_past_the_end_nothing_is_touched():
    run = Recorder(lambda p: torch.optim.Adam(p, lr=0.1))
    scheduler = Scheduler(run.optimizer, fl.Plan(rows=10, steps=2, optimizer=fl.SGD(lr=0.1)))
    run.update(), run.update()
    before, moment = run.w.detach().clone(), run.optimizer.state[run.w]["exp_avg"].clone()
    with pytest.raises(fl.PlanEnded, match="update 2 was asked for"):
        run.update()
    assert torch.equal(run.w, before)
    assert torch.equal(run.optimizer.state[run.w]["exp_avg"], moment)
    assert scheduler.last_epoch == 2


def test_an_update_that_raises_is_not_counted():
    run = Recorder(lambda p: torch.optim.SGD(p, lr=0.1))
    scheduler = Scheduler(run.optimizer, PLAN)

    def closure():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        run.optimizer.step(closure)
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("order", ["scheduler first", "optimizer first"])
def test_resume_from_one_integer(order):
    make = lambda p: torch.optim.Adam(p, lr=0.5)
    whole = Recorder(make)
    Scheduler(whole.optimizer, PLAN)
    for _ in range(PLAN.steps):
        whole.update()
    one = Recorder(make)
    scheduler = Scheduler(one.optimizer, PLAN)
    for _ in range(7):
        one.update()
    saved, moments, weights = scheduler.state_dict(), one.optimizer.state_dict(), one.w.detach().clone()
    assert saved == {"update": 7}
    two = Recorder(make)
    resumed = Scheduler(two.optimizer, PLAN)
    with torch.no_grad():
        two.w.copy_(weights)
    if order == "scheduler first":
        resumed.load_state_dict(saved)
        two.optimizer.load_state_dict(moments)
    else:
        two.optimizer.load_state_dict(moments)
        resumed.load_state_dict(saved)
    assert two.optimizer.param_groups[0]["lr"] == PLAN.lr_at([7])[0]
    for _ in range(7, PLAN.steps):
        two.update()
    assert np.array_equal(two.lr, PLAN.lr_at()[7:])
    assert torch.equal(two.w, whole.w)


def test_the_loaded_lr_of_an_optimizer_does_not_stay():
    other = Recorder(lambda p: torch.optim.SGD(p, lr=0.77))
    run = Recorder()
    Scheduler(run.optimizer, PLAN)
    run.update()
    run.optimizer.load_state_dict(other.optimizer.state_dict())
    assert run.optimizer.param_groups[0]["lr"] == PLAN.lr_at([1])[0]
    run.update()


def test_a_longer_plan_takes_the_state_on():
    run = Recorder()
    scheduler = Scheduler(run.optimizer, fl.Plan(rows=10, steps=4, optimizer=fl.SGD(lr=0.4, schedule="linear")))
    for _ in range(4):
        run.update()
    state = scheduler.state_dict()
    scheduler.detach()
    longer = fl.Plan(rows=10, steps=8, optimizer=fl.SGD(lr=0.4, schedule="linear"))
    again = Scheduler(run.optimizer, longer)
    again.load_state_dict(state)
    run.update()
    assert run.lr[-1] == longer.lr_at([4])[0]


def test_detach_lets_go():
    run = Recorder()
    scheduler = Scheduler(run.optimizer, fl.Plan(rows=10, steps=1, optimizer=fl.SGD(lr=0.4)))
    scheduler.detach()
    for _ in range(3):
        run.update()
    run.optimizer.param_groups[0]["lr"] = 9.0
    run.update()
    assert scheduler.last_epoch == 0


def test_a_tensor_lr_is_written_in_place():
    lr = torch.tensor(0.1)
    run = Recorder(lambda p: torch.optim.Adam(p, lr=lr, capturable=False))
    held = run.optimizer.param_groups[0]["lr"]
    Scheduler(run.optimizer, PLAN)
    for _ in range(10):
        run.update()
    assert run.optimizer.param_groups[0]["lr"] is held
    assert np.array_equal(run.lr, PLAN.lr_at(range(10)).astype(np.float32))


def test_a_compiled_step_with_a_tensor_lr_is_compiled_once():
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    run = Recorder(lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1)))
    run.optimizer._optimizer_step_pre_hooks.clear()  # the recorder's hook reads numbers, which compiled code does not do
    scheduler = Scheduler(run.optimizer, PLAN)
    step = torch.compile(run.optimizer.step, backend="eager")  # what is compiled how often does not hang on the back end
    used = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(10):
            run.w.grad = torch.ones(2)
            used.append(float(run.optimizer.param_groups[0]["lr"]))
            step()
    assert np.array_equal(used, PLAN.lr_at(range(10)).astype(np.float32))
    assert scheduler.last_epoch == 10
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_every_optimizer_of_pytorch():
    """All that PyTorch has: the numbers used are the plan's."""
    made = 0
    for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop", "Adafactor", "LBFGS"):
        run = Recorder(lambda p, name=name: getattr(torch.optim, name)(p, lr=0.5))
        Scheduler(run.optimizer, PLAN)
        for _ in range(3):
            run.w.grad = torch.ones(2)
            run.optimizer.step((lambda: torch.zeros(())) if name == "LBFGS" else None)
        assert np.array_equal(run.lr, PLAN.lr_at([0, 1, 2])), name
        made += 1
    assert made == 13


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_a_tensor_lr_is_written_without_waiting():
    w = torch.nn.Parameter(torch.ones(2, device="cuda"))
    lr = torch.tensor(0.1, device="cuda")
    optimizer = torch.optim.Adam([w], lr=lr, capturable=True)
    Scheduler(optimizer, PLAN)
    held, used = optimizer.param_groups[0]["lr"], []
    torch.cuda.set_sync_debug_mode("error")  # a wait for the device raises
    try:
        for _ in range(10):
            w.grad = torch.ones_like(w)
            used.append(held.clone())
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(torch.stack(used).cpu().numpy(), PLAN.lr_at(range(10)).astype(np.float32))


# ---- equivalents: what torch.optim.lr_scheduler does, said as a plan; docs/torch-schedulers.md has this table

T, PER = 60, 10
S = torch.optim.lr_scheduler
per_epoch = fl.epochs(1)
EQUAL = {
    "LambdaLR": (lambda o: S.LambdaLR(o, lambda t: 1 / (1 + t)), fl.custom(lambda t, steps: fl.times(1 / (1 + t))), 1),
    "StepLR": (lambda o: S.StepLR(o, 2, 0.5), "step_decay(0.5, every=epochs(2))", PER),
    "MultiStepLR": (lambda o: S.MultiStepLR(o, [2, 4], 0.1), "step_decay(0.1, at=[epochs(2), epochs(4)])", PER),
    "ExponentialLR": (lambda o: S.ExponentialLR(o, 0.9), fl.exponential(gamma=0.9, per=per_epoch).per(per_epoch), PER),
    "ExponentialLR by update": (lambda o: S.ExponentialLR(o, 0.97), "exponential(gamma=0.97)", 1),
    "CosineAnnealingLR": (lambda o: S.CosineAnnealingLR(o, T, eta_min=1e-4), "cosine(to=1e-4)", 1),
    "CosineAnnealingLR by epoch": (lambda o: S.CosineAnnealingLR(o, T // PER), fl.cosine(to=0).per(per_epoch), PER),
    "CosineAnnealingWarmRestarts": (lambda o: S.CosineAnnealingWarmRestarts(o, 20), "cosine(to=0, cycles=3)", 1),
    "PolynomialLR": (lambda o: S.PolynomialLR(o, T, power=1.0), "linear(to=0)", 1),
    "ConstantLR": (lambda o: S.ConstantLR(o, 0.25, 20), "constant(0.25x, over=steps(20)) > constant(1x)", 1),
    "LinearLR": (lambda o: S.LinearLR(o, 0.1, 1.0, 20), "warmup(steps(20), start=0.1x) > constant", 1),
    "SequentialLR": (
        lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1.0, 20), S.CosineAnnealingLR(o, T - 20)], [20]),
        "warmup(steps(20), start=0.1x) > cosine(to=0)", 1,
    ),
}  # fmt: skip


def torch_values(make, every):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        out = []
        for t in range(T):
            out.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if (t + 1) % every == 0:
                scheduler.step()
    return np.array(out)


@pytest.mark.parametrize("name", EQUAL)
def test_equivalents_of_pytorchs_schedulers(name):
    make, words, every = EQUAL[name]
    run = Recorder()
    Scheduler(run.optimizer, fl.Plan(rows=PER, batch_size=1, steps=T, optimizer=fl.SGD(lr=0.2, schedule=words)))
    for _ in range(T):
        run.update()
    np.testing.assert_allclose(run.lr, torch_values(make, every), rtol=1e-12, atol=1e-16)


def test_equivalent_of_one_cycle():
    """PyTorch's comes to its top at p*T-1 and to its end at T-1; here a leg ends where the next begins, so the ends lie
    one update later: the two agree where their own clocks do."""
    top, steps = 0.2, 11  # PyTorch's legs: 0 to p*T-1 and to T-1, so legs of 4 and 6
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01, momentum=0.9)
    theirs = S.OneCycleLR(optimizer, top, total_steps=steps, pct_start=5 / 11, div_factor=25, final_div_factor=1e4)
    values, momenta = [], []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if len(values) < steps:
            theirs.step()
    rule = fl.SGD(lr=top, schedule=fl.one_cycle(up=fl.steps(4)), momentum=fl.one_cycle_momentum(up=fl.steps(4)))
    plan = fl.Plan(rows=10, steps=steps - 1, optimizer=rule)
    run = Recorder(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))
    scheduler = Scheduler(run.optimizer, plan)
    ours = []
    for _ in range(plan.steps):
        ours.append(run.optimizer.param_groups[0]["momentum"])
        run.update()
    np.testing.assert_allclose([*run.lr, *scheduler.get_last_lr()], values, rtol=1e-12)
    np.testing.assert_allclose(ours, momenta[:-1], rtol=1e-12)


def _keras_cosine(t, initial, target, warm, decay, alpha):
    x = np.minimum(t - warm, decay) / decay
    return np.where(t < warm, initial + (target - initial) * t / max(warm, 1), target * ((1 - alpha) * 0.5 * (1 + np.cos(np.pi * x)) + alpha))


def _fastai_cosine(start, end, x):
    return start + (1 + np.cos(np.pi * (1 - x))) * (end - start) / 2


FORMULAS = {
    "Keras ExponentialDecay": (lambda t: 0.2 * 0.9 ** (t / 5), "exponential(gamma=0.9, per=steps(5))"),
    "Keras ExponentialDecay, staircase": (lambda t: 0.2 * 0.9 ** (t // 5), "step_decay(0.9, every=steps(5))"),
    "Keras CosineDecay": (lambda t: _keras_cosine(t, 0, 0.2, 0, T, 0.1), "cosine(to=0.1x)"),
    "Keras CosineDecay, warmup": (lambda t: _keras_cosine(t, 0.02, 0.2, 15, T - 15, 0.1), "warmup(steps(15), start=0.02) > cosine(to=0.1x)"),
    "Keras PiecewiseConstantDecay": (lambda t: np.where(t <= 20, 0.2, 0.02), "step_decay(0.1, at=[steps(21)])"),
    "Keras PolynomialDecay": (lambda t: 0.01 + 0.19 * (1 - t / T), "linear(to=0.01)"),
    "fastai fit_one_cycle": (
        lambda t: np.where(t < T / 4, _fastai_cosine(0.2 / 25, 0.2, 4 * t / T), _fastai_cosine(0.2, 0.2 / 1e5, (t / T - 0.25) / 0.75)),
        "one_cycle(start=0.04x, end=1e-5x, up=25%)",
    ),
    "fastai fit_flat_cos": (
        lambda t: np.where(t < 45, 0.2, _fastai_cosine(0.2, 0.2 / 1e5, (t / T - 0.75) / 0.25)), "constant(over=75%) > cosine(to=1e-5x)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_equivalents_of_formulas_that_others_document(name):
    formula, words = FORMULAS[name]
    plan = fl.Plan(rows=PER, batch_size=1, steps=T, optimizer=fl.SGD(lr=0.2, schedule=words))
    np.testing.assert_allclose(plan.lr_at(), formula(np.arange(T)), rtol=1e-12, atol=1e-16)


# ---- frameworks


def _model_and_loader():
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(40, 3), torch.randn(40, 1))
    return torch.nn.Linear(3, 1), torch.utils.data.DataLoader(data, batch_size=4)


def _recorded(optimizer):
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda o, a, k: used.append(float(o.param_groups[0]["lr"])))
    return used


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_lightning(interval, tmp_path):
    lightning = pytest.importorskip("lightning")
    model, loader = _model_and_loader()
    plan = fl.Plan(rows=40, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.1, schedule="linear"))

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = model

        def training_step(self, batch, index):
            return torch.nn.functional.mse_loss(self.inner(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            self.used, self.scheduler = _recorded(optimizer), Scheduler(optimizer, plan)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": interval}}

    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=2, accumulate_grad_batches=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, loader)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert np.array_equal(module.used, plan.lr_at())
    assert torch.load(tmp_path / "a.ckpt", weights_only=False)["lr_schedulers"] == [{"update": plan.steps}]


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model, loader = _model_and_loader()
    plan = fl.Plan(rows=40, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.1, schedule="cosine"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    used, scheduler = _recorded(optimizer), Scheduler(optimizer, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, optimizer, loader, prepared = accelerator.prepare(model, optimizer, loader, scheduler)
        assert isinstance(prepared, accelerate.scheduler.AcceleratedScheduler)
        for _ in range(2):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(torch.nn.functional.mse_loss(model(x), y))
                    optimizer.step()
                    prepared.step()
                    optimizer.zero_grad()
        accelerator.save_state(str(tmp_path))
        scheduler._count = 3
        accelerator.load_state(str(tmp_path))
    assert np.array_equal(used, plan.lr_at())
    assert scheduler.last_epoch == plan.steps


def test_a_wrapped_optimizer_is_unwrapped():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]

        def step(self, closure=None):
            self.optimizer.step()

    run = Recorder()
    wrapped = Wrapper(run.optimizer)
    Scheduler(wrapped, PLAN)
    wrapped.step()
    assert run.lr.tolist() == [PLAN.lr_at([0])[0]]


def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    plan = fl.Plan(rows=40, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.1, schedule="warmup(20%) > linear"))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 1)

        def forward(self, x, labels):
            out = self.inner(x)
            return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}

    torch.manual_seed(0)
    rows = [{"x": torch.randn(3), "labels": torch.randn(1)} for _ in range(40)]
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    used, scheduler = _recorded(optimizer), Scheduler(optimizer, plan)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
        report_to=[], logging_steps=1, save_steps=5, disable_tqdm=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, scheduler)).train()
    assert np.array_equal(used, plan.lr_at())
    assert torch.load(tmp_path / "checkpoint-5" / "scheduler.pt", weights_only=True) == {"update": 5}


DDP = """
import os, sys, torch, numpy as np, fallline as fl
from fallline.torch.scheduler import Scheduler
from fallline.torch.finder import find_lr
torch.set_num_threads(1)
rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)))
x = torch.randn(64, 3)
y = x @ torch.tensor([[1.0], [2.0], [3.0]])
share = torch.utils.data.Subset(torch.utils.data.TensorDataset(x, y), list(range(rank, 64, world)))
loader = torch.utils.data.DataLoader(share, batch_size=8 // world)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
plan = fl.Plan(rows=64, epochs=2, batch_size=8, optimizer=fl.SGD(lr=0.05, schedule="linear"))
scheduler = Scheduler(optimizer, plan)
used = []
optimizer.register_step_pre_hook(lambda o, a, k: used.append(o.param_groups[0]["lr"]))
probe = len(sys.argv) > 4
for epoch in range(2):
    for i, (a, b) in enumerate(loader):
        if probe and epoch == 0 and i == 3:
            found = find_lr(model, torch.nn.MSELoss(), loader, optimizer, sweeps=1, high=10.0)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(a), b).backward()
        optimizer.step()
        for _ in range(world):
            scheduler.step()
assert np.array_equal(used, plan.lr_at()), used
print("weights", sum(p.double().sum().item() for p in model.parameters()).hex(), found.lr.hex() if probe else "", flush=True)
torch.distributed.barrier()
os._exit(0)  # gloo's threads may abort a process that takes its group down while the other still talks
"""


def _ddp(tmp_path, world: int, *words: str) -> list[str]:
    script = tmp_path / "ddp.py"
    script.write_text(DDP)
    file = tmp_path / ("rendezvous" + "".join(words))
    going = [
        subprocess.Popen([sys.executable, "-W", "ignore", str(script), str(rank), str(world), str(file), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    done = [p.communicate(timeout=120) for p in going]
    assert all(p.returncode == 0 for p in going), done[0][1] + done[-1][1]
    return [next(line for line in out.splitlines() if line.startswith("weights")) for out, _ in done]


def test_two_processes_use_the_same_numbers_and_the_range_test_leaves_no_trace(tmp_path):
    plain = _ddp(tmp_path, 2)
    probed = _ddp(tmp_path, 2, "probe")
    assert plain[0] == plain[1]
    assert probed[0] == probed[1]  # the same answer in both
    assert probed[0].split()[1] == plain[0].split()[1]
