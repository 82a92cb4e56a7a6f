"""One update pass beside PyTorch's: the same law on the same tensors, alternating in one process, medians and ratios.

    python benchmarks/update.py [--quick] [--json FILE]

Beside each ratio stands the memory limit measured in the same run: the bytes that the law must move over the rate at
which an in-place scaling of three arrays moves them. Gradients stand still; only updates are timed.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fallline as fl

torch.set_num_threads(2)


@dataclass(frozen=True)
class Line:
    """One line of the table; times in microseconds of one update."""

    case: str
    peer: str
    ours_us: float
    peer_us: float
    ratio: float
    target: float
    limit_us: float


class Parameters(torch.nn.Module):
    """`count` tensors of `size` numbers, each with a gradient."""

    def __init__(self, count: int, size: int):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.all = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(size, generator=draw)) for _ in range(count))
        for p in self.all:
            p.grad = torch.randn(size, generator=draw)


def alternating(contenders: dict[str, Callable[[], Any]], repeats: int, block: int) -> dict[str, float]:
    """Median microseconds of each, `block` calls at a time, one contender after the other."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 2):
        for name, call in contenders.items():
            began = time.perf_counter()
            for _ in range(block):
                call()
            times[name].append((time.perf_counter() - began) / block * 1e6)
    return {name: statistics.median(t[2:]) for name, t in times.items()}


def optimizer(model: torch.nn.Module, **changes: Any) -> Any:
    rule = fl.SGD(0.001, momentum=0.9, nesterov=True, weight_decay=1e-4, groups={"*": fl.Group(weight_decay=1)}, **changes)
    return fl.torch.Optimizer(model, fl.Plan(steps=10**7, batch_size=1, optimizer=rule))


def sgd(model: torch.nn.Module, **changes: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-4, **changes)


def limit(numbers: int) -> Callable[[], None]:
    """Scales three arrays in place: six streams of `numbers`, the fastest that memory moves while reading and writing."""
    arrays = [torch.randn(numbers) for _ in range(3)]

    def scale() -> None:
        for a in arrays:
            a.mul_(1.0000001)

    return scale


def large(clip: bool, repeats: int) -> Line:
    count, size = 25, 1_000_000
    ours, theirs = Parameters(count, size), Parameters(count, size)
    mine = optimizer(ours, average=fl.ema(0.999), **({"clip": 1.0} if clip else {}))
    peer, mean = sgd(theirs, fused=True), AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def step() -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        peer.step()
        mean.update_parameters(theirs)

    streams = 8 if clip else 7  # w, v and a read and written; g read, twice where its norm is needed first
    t = alternating({"ours": mine.step, "peer": step, "limit": limit(count * size)}, repeats, 1)
    name = f"25 M parameters, Nesterov + weight decay{' + clip' if clip else ''} + EMA"
    return Line(name, f"{'clip_grad_norm_ + ' if clip else ''}SGD(fused=True) + AveragedModel", t["ours"], t["peer"], t["peer"] / t["ours"], 1.3 if clip else 1.5, t["limit"] * streams / 6)


def small(repeats: int) -> list[Line]:
    models = [Parameters(100, 1000) for _ in range(3)]
    mine, fused, plain = optimizer(models[0]), sgd(models[1], fused=True), sgd(models[2])
    t = alternating({"ours": mine.step, "fused": fused.step, "plain": plain.step, "limit": limit(100_000)}, repeats * 4, 20)
    return [
        Line("100 tensors of 1,000, through Optimizer", peer, t["ours"], t[key], t[key] / t["ours"], target, t["limit"] * 5 / 6)
        for key, peer, target in (("fused", "SGD(fused=True)", 5.0), ("plain", "SGD, defaults", 20.0))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    told = parser.parse_args()
    repeats = 3 if told.quick else 15
    lines = [large(True, repeats), large(False, repeats), *small(repeats)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; microseconds of one update")
    print(f"{'case':58} {'peer':46} {'ours':>9} {'peer':>9} {'ratio':>6} {'target':>6} {'limit':>9}")
    for x in lines:
        print(f"{x.case:58} {x.peer:46} {x.ours_us:9.1f} {x.peer_us:9.1f} {x.ratio:6.2f} {x.target:6.1f} {x.limit_us:9.1f}")
    print("on a GPU: not measured" if not torch.cuda.is_available() else "")
    if told.json:
        with open(told.json, "w") as file:
            json.dump({"lines": [asdict(x) for x in lines], "torch": torch.__version__, "machine": platform.processor() or platform.machine()}, file, indent=1)


if __name__ == "__main__":
    main()
