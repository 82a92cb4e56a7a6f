"""Checkpoints of one's own loop: the same bits after a kill, with any optimizer; what does not fit is refused and touches nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.checkpoints import Checkpoints
from fallline.errors import CheckpointFailed, RunDamaged

draw = np.random.default_rng(0)
ROWS = torch.utils.data.TensorDataset(torch.tensor(draw.normal(size=(96, 5)), dtype=torch.float32), torch.tensor(draw.normal(size=(96, 2)), dtype=torch.float32))
PLAN = fl.Plan(rows=96, epochs=3, batch_size=8, optimizer=fl.AdamW(0.01))

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW([{"params": [p for n, p in m.named_parameters() if "weight" in n]}, {"params": [p for n, p in m.named_parameters() if "weight" not in n], "weight_decay": 0.0}], lr=0.01, amsgrad=True),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.01),
    "lbfgs": lambda m: torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=2),
    "ours": lambda m: fl.torch.Optimizer(m, PLAN),
}  # fmt: skip


def network(wide: int = 6) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, wide), torch.nn.BatchNorm1d(wide), torch.nn.Dropout(0.3), torch.nn.Linear(wide, 2))


class Cut(Exception):
    pass


def loop(kind: str, folder: Path | None, cut: int | None = None, workers: int = 0) -> tuple[torch.nn.Module, list[float]]:
    model = network()
    optimizer = OPTIMIZERS[kind](model)
    scheduler = None if kind == "ours" else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 36)
    sampler, losses, step = PLAN.sampler(), [], 0
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    if folder is not None:
        step = fl.torch.restore(folder, model=model, optimizer=optimizer, sampler=sampler)
        losses = list(step.extra.get("losses", []))
        if scheduler is not None and step:
            scheduler.load_state_dict(step.extra["scheduler"])
    step = int(step)
    loader = torch.utils.data.DataLoader(ROWS, batch_sampler=sampler, num_workers=workers, generator=torch.Generator())  # or each pass draws a number that the model's dropout shares
    while step < PLAN.steps:
        for x, y in loader:
            def closure(x: Any = x, y: Any = y) -> Any:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x + 0.01 * random.random() * float(np.random.rand())), y)
                loss.backward()
                return loss

            losses.append(float(optimizer.step(closure).detach()) if kind == "lbfgs" else float(closure().detach()))
            if kind != "lbfgs":
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
            step += 1
            if folder is not None and step % 5 == 0:
                extra = {"losses": losses, "scheduler": None if scheduler is None else scheduler.state_dict()}
                fl.torch.save(folder, step, model=model, optimizer=optimizer, sampler=sampler, extra=extra)
            if step == cut:
                raise Cut
    return model, losses


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_any_optimizer_goes_on_to_the_same_bits(kind: str, tmp_path: Path):
    whole, losses = loop(kind, None)
    for cut in (7, 13, 24, 31):
        with pytest.raises(Cut):
            loop(kind, tmp_path / "a", cut)
    model, again = loop(kind, tmp_path / "a")
    assert again == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_loader_with_workers_reads_ahead_and_no_row_is_lost(tmp_path: Path):
    losses = loop("sgd", None)[1]
    with pytest.raises(Cut):
        loop("sgd", tmp_path / "a", 17, workers=1)
    assert loop("sgd", tmp_path / "a")[1] == losses


def test_the_extra_comes_back_with_its_types(tmp_path: Path):
    model = network()
    extra = {"best": float("nan"), "list": [1, 2.5, None, True, "x"], "pair": (1, (2, 3)), 7: {"deep": torch.arange(3)}, "half": torch.ones(2, dtype=torch.bfloat16), "array": np.arange(4.0)}
    fl.torch.save(tmp_path / "a", 12, model=model, extra=extra, consumed=48)
    step = fl.torch.restore(tmp_path / "a", model=model)
    back = step.extra
    assert step == 12 and step.consumed == 48 and np.isnan(back["best"]) and back["list"] == extra["list"] and back["pair"] == (1, (2, 3))
    assert torch.equal(back[7]["deep"], torch.arange(3)) and torch.equal(back["half"], extra["half"]) and back["half"].dtype == torch.bfloat16
    assert np.array_equal(back["array"], extra["array"])
    with pytest.raises(fl.InvalidValue, match=r"extra.f is a function: expected numbers, texts, lists, dicts and tensors; anything else would need pickle"):
        fl.torch.save(tmp_path / "a", 13, model=model, extra={"f": network})
    assert Checkpoints(tmp_path / "a", "fallline.torch").steps() == [12]


def test_bfloat16_tied_weights_a_scaler_and_a_generator(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).to(torch.bfloat16)
    model[1].weight = model[0].weight
    scaler, generator = torch.amp.GradScaler("cpu", init_scale=8.0), torch.Generator().manual_seed(5)
    fl.torch.save(tmp_path / "a", 3, model=model, scaler=scaler, sampler=generator)
    kept, drawn = {k: v.clone() for k, v in model.state_dict().items()}, torch.rand(3, generator=generator)
    with torch.no_grad():
        model[0].weight.zero_()
    other = torch.amp.GradScaler("cpu", init_scale=2.0)
    assert fl.torch.restore(tmp_path / "a", model=model, scaler=other, sampler=generator) == 3
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items()) and other.get_scale() == 8.0
    assert torch.equal(torch.rand(3, generator=generator), drawn)


def renamed() -> torch.nn.Module:
    return torch.nn.Sequential(OrderedDict(zip(("0", "1", "2", "head"), network(), strict=True)))


def twice(m: Any) -> Any:
    return torch.optim.SGD([{"params": list(m[0].parameters())}, {"params": list(m[1].parameters()) + list(m[3].parameters())}], lr=0.1)


@pytest.mark.parametrize(
    ("make", "optimizer", "words"),
    [
        (lambda: network(7), "sgd", r"parameter '0.bias' is torch.float32 \[7\] in the module and torch.float32 \[6\] in the checkpoint"),
        (lambda: network().double(), "sgd", r"parameter '0.bias' is torch.float64 \[6\] in the module"),
        (renamed, "sgd", r"parameter '3.bias' is none in the module"),
        (network, "adamw", "optimizer is SGD and yours is AdamW"),
        (network, twice, r"group 0 has other parameters than in the checkpoint \(another number of groups\)|group 0 has other parameters"),
    ],
)
def test_what_does_not_fit_is_refused_and_touches_nothing(make: Any, optimizer: Any, words: str, tmp_path: Path):
    with pytest.raises(Cut):
        loop("sgd", tmp_path / "a", 10)
    model = make()
    used = (OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer)(model)
    before, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(fl.InvalidValue, match=words):
        fl.torch.restore(tmp_path / "a", model=model, optimizer=used)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and not used.state and torch.equal(rng, torch.get_rng_state())


def test_a_swapped_order_of_parameters_is_put_right_by_names(tmp_path: Path):
    """PyTorch's own load attaches a momentum to another parameter here, without a word."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(ROWS.tensors[0]).sum().backward()
    optimizer.step()
    fl.torch.save(tmp_path / "a", 1, model=model, optimizer=optimizer)
    other = network()
    swapped = torch.optim.SGD(list(other.parameters())[::-1], lr=0.1, momentum=0.9)
    fl.torch.restore(tmp_path / "a", model=other, optimizer=swapped)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[a]["momentum_buffer"], swapped.state[b]["momentum_buffer"])


def test_a_late_refusal_puts_everything_back(tmp_path: Path):
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            if state == {"n": 1} and not hasattr(self, "once"):
                self.once = True
                raise ValueError("not today")

    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    fl.torch.save(tmp_path / "a", 1, model=model, optimizer=optimizer, sampler=Odd())
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    with pytest.raises(fl.InvalidValue, match=r"sampler refused the checkpoint's state \(not today\)"):
        fl.torch.restore(tmp_path / "a", model=model, optimizer=optimizer, sampler=Odd())
    assert (model[0].weight == 2).all()


def test_damage_is_said_and_weights_that_are_not_finite_are_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = network()
    for step in (1, 2):
        fl.torch.save(tmp_path / "a", step, model=model)
    paths = sorted((tmp_path / "a").glob("0*"))
    with (paths[1] / "parameters.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x07\x07")
    step = fl.torch.restore(tmp_path / "a", model=model)
    assert step == 1 and len(step.damaged) == 1 and "is damaged" in capsys.readouterr().err
    (paths[0] / "state.json").write_text("{}")
    with pytest.raises(RunDamaged, match=r"no checkpoint in .* verifies \(2 damaged\)"):
        fl.torch.restore(tmp_path / "a", model=model)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(CheckpointFailed, match=r"the state after step 3 is not kept as good: parameter '0.weight' is not finite"):
        fl.torch.save(tmp_path / "a", 3, model=model)


def test_another_process_is_refused_and_a_runs_folder_is_not_mistaken(tmp_path: Path):
    model = torch.nn.Linear(1, 1)
    fl.torch.save(tmp_path / "a", 1, model=model)
    code = "import sys, torch, fallline as fl\ntry: fl.torch.save(sys.argv[1], 2, model=torch.nn.Linear(1, 1))\nexcept fl.RunExists as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, timeout=60)
    assert "holds a run that is under way" in done.stdout, done.stderr
    problem = fl.quadratic([1.0, 2.0])
    fl.train(problem, fl.Plan(problem, steps=10, optimizer=fl.SGD(0.1)), save=tmp_path / "b", progress=False)
    with pytest.raises(fl.InvalidValue, match="holds checkpoints of another kind of run"):
        fl.torch.restore(tmp_path / "b" / "checkpoints", model=model)
    with pytest.raises(fl.InvalidValue, match=r"step=-1: expected the number of updates made"):
        fl.torch.save(tmp_path / "c", -1, model=model)
