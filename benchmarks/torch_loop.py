"""Seconds per epoch of small networks beside hand-written loops and frameworks: same model, batch, rows and threads.

    python benchmarks/torch_loop.py [--quick] [--only NAME,...] [--json FILE]

Every peer runs in a process of its own, in turn with ours in that same process, epoch by epoch; ratios are of medians, and
the spread is the distance between the quartiles of the rounds' own ratios. Rounds in which other programs were busy are made
again (machine.py). Beside each line stand two floors measured in the same run: forward and backward of the same batches and
nothing else (no shuffle, no gather, no update), and the five matrix products in them and nothing else. Frameworks that are not installed are named as not measured. Without
Debian's package dataset-fashion-mnist the large case takes random pixels of the same shape, and says so. NAME is one of:
loader, tensors, digits, lightning, skorch, fastai, keras-torch, keras-jax, keras-jax-32.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"
if hasattr(os, "sched_setaffinity"):  # whatever pool a peer brings, it has the same two cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from frameworks import FRAMEWORKS, LR, MOMENTUM, Epoch, loader, timed
from machine import about, alternating

import fallline as fl

warnings.filterwarnings("ignore")
torch.set_num_threads(2)
loss = torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Line:
    """One line of the table; milliseconds per epoch."""

    case: str
    peer: str
    ours_ms: float
    peer_ms: float
    ratio: float
    spread: float
    target: float
    floor_ms: float
    products_ms: float
    others: float
    disturbed: int


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


# ------------------------------------------------------------------------------------------------- the contenders


def ours(case: Case) -> Epoch:
    """`train`'s own work: segments of about 50 ms, history of every loss."""
    problem = fl.torch.problem(case.model(), loss, (case.X, case.y))
    plan = fl.Plan(problem, epochs=1000, batch_size=case.batch, optimizer=fl.SGD(LR, momentum=MOMENTUM, nesterov=True))
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

    return timed(epoch)


def over_tensors(case: Case) -> Epoch:
    """A loop over shuffled indices, SGD(fused=True)."""
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, fused=True)

    def epoch() -> list[torch.Tensor]:
        losses = []
        for rows in torch.randperm(len(case.X)).split(case.batch):
            value = loss(model(case.X[rows]), case.y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        return losses

    return timed(epoch)


def over_loader(case: Case) -> Epoch:
    """The loop that tutorials write: DataLoader and SGD with their defaults."""
    model, batches = case.model(), loader(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)

    def epoch() -> None:
        for x, y in batches:
            value = loss(model(x), y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return timed(epoch)


def floor(case: Case) -> Epoch:
    """Forward and backward alone, on one batch again and again."""
    model, x, y = case.model(), case.X[: case.batch], case.y[: case.batch]
    parameters, count = list(model.parameters()), -(-len(case.X) // case.batch)

    def epoch() -> None:
        for _ in range(count):
            torch.autograd.grad(loss(model(x), y), parameters)

    return timed(epoch)


def products(case: Case) -> Epoch:
    """The matrix products of forward and backward alone, into arrays that are there already."""
    a, b, c = case.widths
    x, hidden, scores = case.X[: case.batch], torch.randn(case.batch, b), torch.randn(case.batch, c)
    first, second, count = torch.randn(b, a), torch.randn(c, b), -(-len(case.X) // case.batch)
    made = [torch.empty_like(t) for t in (hidden, scores, hidden, second, first)]

    def epoch() -> None:
        for _ in range(count):
            torch.mm(x, first.T, out=made[0])
            torch.mm(hidden, second.T, out=made[1])
            torch.mm(scores, second, out=made[2])
            torch.mm(scores.T, hidden, out=made[3])
            torch.mm(hidden.T, x, out=made[4])

    return timed(epoch)


@dataclass(frozen=True)
class Peer:
    """Who is measured on what."""

    label: str
    maker: Callable[[Case], Epoch]
    target: float
    case: Callable[[], Case] = fashion
    rounds: int = 5
    needs: tuple[str, ...] = ()


PEERS = {
    "loader": Peer("DataLoader + SGD, defaults", over_loader, 1.4),
    "tensors": Peer("loop over tensors, SGD(fused=True)", over_tensors, 1.0, rounds=9),
    "digits": Peer("loop over tensors, SGD(fused=True)", over_tensors, 1.3, digits, rounds=15),
} | {name: Peer(label, maker, 1.8, needs=needs) for name, (label, needs, maker) in FRAMEWORKS.items()}


# ---------------------------------------------------------------------------------------------------- measurement


def measured(peer: Peer, rounds: int) -> Line:
    """Rounds of one epoch of each contender (many, where an epoch is short)."""
    case = peer.case()
    epochs = {"peer": peer.maker(case), "ours": ours(case), "floor": floor(case), "products": products(case)}
    t = alternating({n: rested(e) for n, e in epochs.items()}, rounds, seconds=1.0)
    ms = {n: t.median(n) * 1e3 for n in epochs}
    ratio, spread = t.ratio("peer", "ours"), t.spread("peer", "ours")
    return Line(case.name, peer.label, ms["ours"], ms["peer"], ratio, spread, peer.target, ms["floor"], ms["products"], t.others, t.disturbed)


def rested(epoch: Epoch) -> Epoch:
    """After a pause: a pool that still spins for the contender before would slow this one down."""

    def call() -> float:
        time.sleep(0.02)
        return epoch()

    return call


def apart(name: str, quick: bool) -> Line | None:
    """The line of a peer measured in a process of its own; None, with the end of its errors, where that failed."""
    ran = subprocess.run([sys.executable, __file__, "--alone", name, *(["--quick"] if quick else [])], capture_output=True, text=True)
    if ran.returncode:
        print(f"{name} failed: {ran.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return Line(**json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--json", help="add the numbers to this file")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.alone:
        peer = PEERS[told.alone]
        print(json.dumps(asdict(measured(peer, 1 if told.quick else peer.rounds))))
        return
    wanted = told.only.split(",") if told.only else list(PEERS)
    installed = [n for n in wanted if all(importlib.util.find_spec(m) for m in PEERS[n].needs)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds per epoch, Nesterov's momentum")
    print(f"{'case':40} {'peer':36} {'ours':>8} {'peer':>9} {'ratio':>6} {'spread':>6} {'target':>6} {'floor':>8} {'products':>8}", flush=True)
    lines: dict[str, Line] = {}
    for name in installed:
        x = apart(name, told.quick)
        if x is not None:
            lines[name] = x
            print(f"{x.case:40} {x.peer:36} {x.ours_ms:8.2f} {x.peer_ms:9.2f} {x.ratio:6.2f} {x.spread:6.2f} {x.target:6.1f} {x.floor_ms:8.2f} {x.products_ms:8.2f}", flush=True)
            if told.json:
                record(Path(told.json), lines)
    missing = [PEERS[n].label for n in wanted if n not in lines]
    print(f"not measured: {', '.join([*missing, 'a GPU'])}")


def record(file: Path, lines: dict[str, Line]) -> None:
    """Write the lines, keeping those of peers that this run did not measure."""
    packages = sorted({m for _, needs, _ in FRAMEWORKS.values() for m in needs})
    before = json.loads(file.read_text())["lines"] if file.exists() else {}
    file.write_text(json.dumps({"about": about(*packages), "lines": before | {n: asdict(x) for n, x in lines.items()}}, indent=1))


if __name__ == "__main__":
    main()
