"""`fl.torch.Optimizer` and `plan.sampler` with what surrounds them in real code, each against the plan's own table and a plain loop."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402

F = torch.nn.functional
ROWS, EPOCHS = 42, 3
PLAN = fl.Plan(
    rows=ROWS, epochs=EPOCHS, batch_size=8, seed=1,
    optimizer=fl.AdamW(lr=0.1, schedule="warmup(20%) > cosine", groups={"bias": fl.Group(lr=3)}),
)  # fmt: skip
LR = np.stack([PLAN.lr_at(), 3 * PLAN.lr_at()], axis=1)
"""What stands in the table: the rates of weights and biases at every update; the last batch of an epoch has 2 rows."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def pairs() -> Any:
    draw = torch.Generator().manual_seed(2)
    return torch.utils.data.TensorDataset(torch.randn(ROWS, 3, generator=draw), torch.randn(ROWS, 1, generator=draw))


def recorded(optimizer: Any) -> list[list[float]]:
    used: list[list[float]] = []
    optimizer.register_step_pre_hook(lambda o, a, k: used.append([float(g["lr"]) for g in o.param_groups]))
    return used


def expected() -> Any:
    """The weight after a plain loop over the plan's batches."""
    net, (X, y) = model(), pairs().tensors
    optimizer = fl.torch.Optimizer(net, PLAN)
    for rows in PLAN.batches():
        F.mse_loss(net(X[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.weight.detach().clone()


def loader(**options: Any) -> Any:
    return torch.utils.data.DataLoader(pairs(), batch_sampler=PLAN.sampler(**options))


def loop(net: Any, optimizer: Any, batches: Any, **zero: Any) -> None:
    for _ in range(EPOCHS):
        for x, y in batches:
            F.mse_loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(**zero)


# -------------------------------------------------------------------------------------------------- PyTorch itself


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_both_ways(set_to_none: bool):
    net = model()
    optimizer = fl.torch.Optimizer(net, PLAN)
    used = recorded(optimizer)
    loop(net, optimizer, loader(), set_to_none=set_to_none)
    assert np.array_equal(used, LR) and torch.equal(net.weight, expected())
    assert (net.weight.grad is None) == set_to_none


@pytest.mark.parametrize("change", ["nothing", "cpu", "channels last", "double"])
def test_a_module_that_is_moved_in_the_middle(change: str):
    """`.to()` of every kind: the updates go on as PyTorch's own do, or the optimizer says that it cannot follow."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36, 2))
    peer, x, y = copy.deepcopy(net), torch.randn(8, 3, 5, 5), torch.arange(8) % 2
    plan = fl.Plan(rows=8, steps=6, batch_size=8, optimizer=fl.SGD(0.1, momentum=0.9))
    ours, theirs = fl.torch.Optimizer(net, plan), torch.optim.SGD(peer.parameters(), 0.1, momentum=0.9)
    moves = {"nothing": lambda m: m, "cpu": lambda m: m.to("cpu"), "channels last": lambda m: m.to(memory_format=torch.channels_last), "double": lambda m: m.double()}
    for t in range(plan.steps):
        if t == 3:
            moves[change](net), moves[change](peer)
            x = x.double() if change == "double" else x
        for m, o in ((net, ours), (peer, theirs)):
            F.cross_entropy(m(x), y).backward()
            if change == "double" and t == 3 and o is ours:
                with pytest.raises(fl.InvalidValue, match="float64"):
                    o.step()
                return
            o.step()
            o.zero_grad()
    assert max(float((p - q).detach().abs().max()) for p, q in zip(net.parameters(), peer.parameters(), strict=True)) < 1e-6


def test_batches_come_in_the_plan_s_order_through_worker_processes():
    """Workers ask ahead, in order; the updates see what the plan says."""
    net = model()
    optimizer = fl.torch.Optimizer(net, PLAN)
    numbered = torch.utils.data.TensorDataset(*pairs().tensors, torch.arange(ROWS))
    workers = torch.utils.data.DataLoader(numbered, batch_sampler=PLAN.sampler(), num_workers=2, persistent_workers=True)
    seen = []
    for _ in range(EPOCHS):
        for x, y, rows in workers:
            seen.append(rows.tolist())
            F.mse_loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert seen == [rows.tolist() for rows in PLAN.batches()] and torch.equal(net.weight, expected())


def test_gradient_accumulation_over_a_loader_of_parts():
    """Four parts of a batch, each weighted by its rows, make the plan's update."""
    net, (X, y) = model().double(), (t.double() for t in pairs().tensors)
    whole = copy.deepcopy(net)
    one, other = fl.torch.Optimizer(net, PLAN), fl.torch.Optimizer(whole, PLAN)
    used = recorded(one)
    for rows in PLAN.batches():
        for part in np.array_split(rows, 4 if len(rows) > 4 else 1):
            (F.mse_loss(net(X[part]), y[part]) * len(part) / len(rows)).backward()
        one.step()
        one.zero_grad()
        F.mse_loss(whole(X[rows]), y[rows]).backward()
        other.step()
        other.zero_grad()
    assert np.array_equal(used, LR) and float((net.weight - whole.weight).detach().abs().max()) < 1e-14


def test_a_compiled_model_and_a_compiled_loss():
    """The module that torch.compile wraps is trained, under its own names; what is compiled is compiled once for each shape."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    net = model()
    fast = torch.compile(net, backend="eager", dynamic=False)  # what is compiled how often does not hang on the back end
    optimizer = fl.torch.Optimizer(fast, PLAN)
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    used = recorded(optimizer)
    loop(fast, optimizer, loader())
    assert np.array_equal(used, LR) and torch.allclose(net.weight, expected(), atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2  # batches of 8, and of 2
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_grad_scaler_skips_and_the_row_is_used_up(when: str):
    net = model()
    optimizer = fl.torch.Optimizer(net, PLAN)
    used, scaler, skipped = recorded(optimizer), torch.amp.GradScaler("cpu", init_scale=2.0**10), 0 if when == "before" else 7
    for t, (x, y) in enumerate(_endless(loader())):
        scaler.scale(F.mse_loss(net(x), y)).backward()
        before = net.weight.detach().clone()
        if t == skipped:
            net.weight.grad.fill_(float("inf"))
        scaler.unscale_(optimizer)  # as one does before clipping
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(before, net.weight) == (t == skipped or PLAN.lr_at([t])[0] == 0)
    assert np.array_equal(used, LR) and optimizer.update == PLAN.steps


def _endless(batches: Any) -> Any:
    for _ in range(EPOCHS):
        yield from batches


def test_bfloat16_autocast_around_one_s_own_loop():
    net, plain = model(), model()
    optimizer, other = fl.torch.Optimizer(net, PLAN), fl.torch.Optimizer(plain, PLAN)
    for x, y in _endless(loader()):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        F.mse_loss(plain(x), y).backward()
        other.step()
        other.zero_grad()
    assert net.weight.dtype == torch.float32 and 0 < float((net.weight - plain.weight).detach().abs().max()) < 0.1


DDP = """
import os, sys, torch, numpy as np, fallline as fl
torch.set_num_threads(1)
rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
torch.manual_seed(0)
X, y = torch.randn(42, 3, dtype=torch.float64), torch.randn(42, 1, dtype=torch.float64)
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double())
plan = fl.Plan(rows=42, epochs=3, batch_size=8, seed=1, optimizer=fl.SGD(0.1, momentum=0.9, clip=1.0, weight_decay=1e-3, schedule="linear"))
optimizer = fl.torch.Optimizer(net, plan)
assert optimizer.layout.names[0] == "0.weight"
sampler = plan.sampler(rank=rank, world=world)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_sampler=sampler)
used = []
optimizer.register_step_pre_hook(lambda o, a, k: used.append(o.param_groups[0]["lr"]))
for epoch in range(3):
    sampler.set_epoch(epoch)
    for a, b in loader:
        torch.nn.functional.mse_loss(net(a), b).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=epoch < 2)
assert np.array_equal(used, plan.lr_at()), used
single = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
torch.manual_seed(0); torch.randn(42, 3, dtype=torch.float64), torch.randn(42, 1, dtype=torch.float64)
single = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
alone = fl.torch.Optimizer(single, plan)
for rows in plan.batches():
    torch.nn.functional.mse_loss(single(X[rows]), y[rows]).backward()
    alone.step()
    alone.zero_grad()
apart = max(float((p - q).detach().abs().max()) for p, q in zip(net.module.parameters(), single.parameters()))
print("apart", apart, "weights", sum(p.sum().item() for p in net.parameters()).hex(), flush=True)
torch.distributed.barrier()
os._exit(0)  # gloo's threads may abort a process that takes its group down while the other still talks
"""


def test_two_processes_make_the_updates_of_one(tmp_path):
    """DistributedDataParallel over gloo, each process with its share of the plan's batches: the weights of a single process."""
    script, file = tmp_path / "ddp.py", tmp_path / "rendezvous"
    script.write_text(DDP)
    going = [subprocess.Popen([sys.executable, "-W", "ignore", str(script), str(r), "2", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(2)]
    done = [p.communicate(timeout=120) for p in going]
    assert all(p.returncode == 0 for p in going), done[0][1] + done[1][1]
    lines = [next(line for line in out.splitlines() if line.startswith("apart")).split() for out, _ in done]
    assert lines[0] == lines[1] and float(lines[0][1]) < 1e-13


# ---------------------------------------------------------------------------------------------------- frameworks


def quiet(**options: Any) -> dict[str, Any]:
    return {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"} | options


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    found = pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield found


def module_of(lightning: Any, net: Any) -> Any:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def training_step(self, batch: Any, index: int) -> Any:
            return F.mse_loss(self.inner(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            self.optimizer = fl.torch.Optimizer(self.inner, PLAN)
            self.used = recorded(self.optimizer)
            return self.optimizer

    return Module()


def test_lightning_with_the_optimizer_and_the_sampler(lightning):
    net = model()
    module = module_of(lightning, net)
    trainer = lightning.Trainer(max_epochs=EPOCHS, **quiet())
    trainer.fit(module, loader())
    assert np.array_equal(module.used, LR) and torch.equal(net.weight, expected())
    trainer.save_checkpoint("a.ckpt")
    state = torch.load("a.ckpt", weights_only=False)["optimizer_states"][0]
    assert state["update"] == PLAN.steps and state["plan"] == PLAN.fingerprint


def test_lightning_goes_on_from_its_own_checkpoint(lightning):
    first = model()
    trainer = lightning.Trainer(max_epochs=2, **quiet())
    trainer.fit(module_of(lightning, first), loader())
    trainer.save_checkpoint("two.ckpt")
    second = module_of(lightning, model())
    lightning.Trainer(max_epochs=EPOCHS, **quiet()).fit(second, loader(start=2 * PLAN.steps_per_epoch), ckpt_path="two.ckpt")
    assert np.array_equal(second.used, LR[2 * PLAN.steps_per_epoch :]) and torch.equal(second.inner.weight, expected())


def test_lightning_clips_and_accumulates_by_its_own_settings(lightning):
    """What Lightning does between backward and step it does with this optimizer too; a plan counts updates."""
    half = fl.Plan(rows=ROWS, epochs=EPOCHS, batch_size=16, seed=1, optimizer=fl.SGD(0.1, schedule="linear"))
    net = model()
    module = module_of(lightning, net)

    def configure() -> Any:
        module.optimizer = fl.torch.Optimizer(module.inner, half)
        module.used = recorded(module.optimizer)
        return module.optimizer

    module.configure_optimizers = configure
    batches = torch.utils.data.DataLoader(pairs(), batch_size=8, shuffle=False)
    lightning.Trainer(max_epochs=EPOCHS, accumulate_grad_batches=2, gradient_clip_val=0.5, **quiet()).fit(module, batches)
    assert np.array_equal(np.array(module.used)[:, 0], half.lr_at())


@pytest.fixture
def accelerate():
    found = pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.state.AcceleratorState._reset_state(True)
        yield found
        found.state.AcceleratorState._reset_state(True)


def test_accelerate_with_the_optimizer_and_the_sampler(accelerate, tmp_path):
    net = model()
    own = fl.torch.Optimizer(net, PLAN)
    used = recorded(own)
    accelerator = accelerate.Accelerator(cpu=True)
    wrapped, optimizer, batches, scheduler = accelerator.prepare(net, own, loader(), own.scheduler())
    for _ in range(EPOCHS):
        for x, y in batches:
            accelerator.backward(F.mse_loss(wrapped(x), y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert np.array_equal(used, LR) and torch.equal(net.weight, expected())
    accelerator.save_state(str(tmp_path))
    own.update = 0
    accelerator.load_state(str(tmp_path))
    assert own.update == PLAN.steps


def test_accelerate_s_shares_of_a_batch_are_the_sampler_s(accelerate):
    """`split_batches=True` cuts each global batch as `plan.sampler(rank, world)` does; without it, processes would get whole batches in turn."""
    even = fl.Plan(rows=40, epochs=2, batch_size=8, seed=3)
    for rank in range(2):
        cut = accelerate.data_loader.BatchSamplerShard(even.sampler(), num_processes=2, process_index=rank, split_batches=True)
        assert [*cut, *cut] == [*(own := even.sampler(rank=rank, world=2)), *own]


@pytest.mark.parametrize("given", [True, False], ids=["our scheduler", "its own"])
def test_hugging_face_trainer(given: bool, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    inner = model()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any, labels: Any) -> Any:
            out = self.inner(x)
            return {"loss": F.mse_loss(out, labels), "logits": out}

    plan = PLAN._with(optimizer=fl.AdamW(lr=0.1, schedule="warmup(20%) > cosine", groups={"*bias": fl.Group(lr=3)}))
    net = Model()
    optimizer = fl.torch.Optimizer(net, plan)
    used = recorded(optimizer)
    rows = [{"x": x, "labels": y} for x, y in pairs()]

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(rows, batch_sampler=plan.sampler())

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=EPOCHS, per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True,
        max_grad_norm=0.0, logging_steps=1, save_steps=9,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(model=net, args=arguments, train_dataset=rows, optimizers=(optimizer, optimizer.scheduler() if given else None))
        if not given:  # the Trainer then makes a LambdaLR, which writes the lr
            with pytest.raises(fl.InvalidValue, match=r"give it optimizer\.scheduler\(\)"):
                trainer.train()
            return
        trainer.train()
    assert np.array_equal(used, LR) and torch.equal(inner.weight, expected())
    assert torch.load(tmp_path / "checkpoint-9" / "optimizer.pt", weights_only=True)["update"] == 9
