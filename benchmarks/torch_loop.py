"""Seconds per epoch of small networks beside hand-written loops: same model, batch, rows and threads, alternating.

    python benchmarks/torch_loop.py [--quick] [--json FILE]

Beside each line stands the floor measured in the same run: forward and backward of the same batches and nothing else
(no shuffle, no gather, no update). Frameworks that are not installed are named as not measured. Without Debian's
package dataset-fashion-mnist the large case takes random pixels of the same shape, and says so.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

import fallline as fl

torch.set_num_threads(2)
Epoch = Callable[[], Any]
loss = torch.nn.functional.cross_entropy
FRAMEWORKS = ("lightning", "skorch", "keras", "fastai")
"""Peers that are measured where they are installed; Keras and fastai have no case yet."""


@dataclass(frozen=True)
class Line:
    """One line of the table; milliseconds per epoch."""

    case: str
    peer: str
    ours_ms: float
    peer_ms: float
    ratio: float
    target: float
    floor_ms: float


@dataclass(frozen=True)
class Case:
    name: str
    X: torch.Tensor
    y: torch.Tensor
    widths: tuple[int, ...]
    batch: int

    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        a, b, c = self.widths
        return torch.nn.Sequential(torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Linear(b, c))


def fashion() -> Case:
    from fallline.tables.builtin import builtin

    try:
        source, tests = builtin("fashion-mnist")
    except fl.InvalidValue:
        draw = torch.Generator().manual_seed(0)
        X, y = torch.rand(60_000, 784, generator=draw), torch.randint(0, 10, (60_000,), generator=draw)
        return Case("MLP 784-256-10 on 60,000 random rows, batch 64", X, y, (784, 256, 10), 64)
    X = torch.stack([torch.tensor(source.table.column(i).to_numpy()) for i in range(784)], dim=1).float() / 255
    y = torch.tensor(source.table.column("target").to_numpy())
    return Case("Fashion-MNIST MLP 784-256-10, batch 64", X[:-tests].contiguous(), y[:-tests], (784, 256, 10), 64)


def digits() -> Case:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return Case("digits MLP 64-32-10, batch 32", torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y), (64, 32, 10), 32)


def ours(case: Case) -> Epoch:
    """`train`'s own work: segments of about 50 ms, history of every loss."""
    problem = fl.torch.problem(case.model(), loss, (case.X, case.y))
    plan = fl.Plan(problem, epochs=1000, batch_size=case.batch, optimizer=fl.SGD(0.01, momentum=0.9, nesterov=True))
    engine, per = problem.engine(), plan.steps_per_epoch
    assert per is not None
    state, stretch, losses = engine.begin(None, plan.optimizer.start()), max(1, min(per, 250)), []

    def epoch() -> None:
        nonlocal state
        first = state.step
        for a in range(first, first + per, stretch):
            result = engine.advance(state, plan.segment(a, min(a + stretch, first + per), problem.layout))
            state = result.state
            losses.append(result.trace.loss)

    return epoch


def over_tensors(case: Case) -> Epoch:
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def epoch() -> list[torch.Tensor]:
        losses = []
        for rows in torch.randperm(len(case.X)).split(case.batch):
            value = loss(model(case.X[rows]), case.y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        return losses

    return epoch


def over_loader(case: Case) -> Epoch:
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.X, case.y), batch_size=case.batch, shuffle=True)

    def epoch() -> None:
        for x, y in loader:
            value = loss(model(x), y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return epoch


def with_lightning(case: Case) -> Epoch:
    """Trainer.fit of one epoch over the same DataLoader, with checkpoints, loggers, summary and progress off."""
    import logging

    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.model()

        def training_step(self, batch: Any, _: int) -> Any:
            return loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    quiet = {"enable_checkpointing": False, "logger": False, "enable_model_summary": False, "enable_progress_bar": False}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.X, case.y), batch_size=case.batch, shuffle=True)
    module = Module()
    return lambda: lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(module, loader)


def with_skorch(case: Case) -> Epoch:
    """partial_fit of one epoch; no validation split, no printing."""
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        case.model(), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, optimizer__momentum=0.9, optimizer__nesterov=True,
        lr=0.01, batch_size=case.batch, max_epochs=1, train_split=None, iterator_train__shuffle=True, verbose=0,
    )  # fmt: skip
    return lambda: net.partial_fit(case.X, case.y)


def floor(case: Case) -> Epoch:
    """Forward and backward alone, on one batch again and again."""
    model, x, y = case.model(), case.X[: case.batch], case.y[: case.batch]
    parameters, count = list(model.parameters()), -(-len(case.X) // case.batch)

    def epoch() -> None:
        for _ in range(count):
            torch.autograd.grad(loss(model(x), y), parameters)

    return epoch


def measured(case: Case, peers: Iterable[str], repeats: int) -> dict[str, float]:
    """Median milliseconds per epoch of each contender, one epoch after the other."""
    makers = {"tensors": over_tensors, "loader": over_loader, "lightning": with_lightning, "skorch": with_skorch}
    epochs = {"ours": ours(case), "floor": floor(case)} | {name: makers[name](case) for name in peers}
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(repeats + 1):
        for name, epoch in epochs.items():
            began = time.perf_counter()
            epoch()
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    told = parser.parse_args()
    lines = []
    frameworks = {name: 1.8 for name in ("lightning", "skorch") if importlib.util.find_spec(name)}
    names = {"loader": "DataLoader + SGD, defaults", "tensors": "loop over tensors, SGD(fused=True)", "lightning": "Lightning", "skorch": "skorch"}
    for case, targets, repeats in ((fashion(), {"loader": 1.4, "tensors": 1.0} | frameworks, 5), (digits(), {"tensors": 1.3}, 40)):
        t = measured(case, targets, 1 if told.quick else repeats)
        lines += [Line(case.name, names[k], t["ours"], t[k], t[k] / t["ours"], target, t["floor"]) for k, target in targets.items()]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds per epoch, Nesterov's momentum")
    print(f"{'case':48} {'peer':36} {'ours':>8} {'peer':>8} {'ratio':>6} {'target':>6} {'floor':>8}")
    for x in lines:
        print(f"{x.case:48} {x.peer:36} {x.ours_ms:8.2f} {x.peer_ms:8.2f} {x.ratio:6.2f} {x.target:6.1f} {x.floor_ms:8.2f}")
    missing = [name for name in FRAMEWORKS if name not in frameworks]
    print(f"not measured: {', '.join(missing)}; a GPU")
    if told.json:
        with open(told.json, "w") as file:
            json.dump({"lines": [asdict(x) for x in lines], "torch": torch.__version__}, file, indent=1)


if __name__ == "__main__":
    main()
