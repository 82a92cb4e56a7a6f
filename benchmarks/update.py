"""One update pass beside PyTorch's: the same law on the same tensors, in turn in one process, medians and ratios.

    python benchmarks/update.py [--quick] [--json FILE]

Beside each ratio stands the memory limit measured in the same run: the bytes that the law must move over the rate at
which an in-place scaling of three arrays moves them. Gradients stand still and nobody zeroes them; only updates are timed.
The spread is the distance between the quartiles of the rounds' own ratios; rounds in which other programs were busy are
made again (machine.py).
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "2"

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from machine import Times, about, alternating
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
    spread: float
    target: float
    limit_us: float
    others: float
    disturbed: int


class Parameters(torch.nn.Module):
    """`count` tensors of `size` numbers, each with a gradient."""

    def __init__(self, count: int, size: int):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.all = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(size, generator=draw)) for _ in range(count))
        for p in self.all:
            p.grad = torch.randn(size, generator=draw)


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


def large(clip: bool, rounds: int) -> Line:
    count, size = 25, 1_000_000
    ours, theirs = Parameters(count, size), Parameters(count, size)
    mine = optimizer(ours, average=fl.ema(0.999), **({"clip": 1.0} if clip else {}))
    peer, mean = sgd(theirs, fused=True), AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def step() -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        peer.step()
        mean.update_parameters(theirs)

    t = alternating({"ours": mine.step, "peer": step, "limit": limit(count * size)}, rounds, seconds=0.5)
    name = f"25 M parameters, Nesterov + weight decay{' + clip' if clip else ''} + EMA"
    streams = 8 if clip else 7  # w, v and a read and written; g read, twice where its norm is needed first
    return line(name, f"{'clip_grad_norm_ + ' if clip else ''}SGD(fused=True) + AveragedModel", t, "peer", 1.3 if clip else 1.5, streams)


def small(rounds: int) -> list[Line]:
    models = [Parameters(100, 1000) for _ in range(3)]
    mine, fused, plain = optimizer(models[0]), sgd(models[1], fused=True), sgd(models[2])
    t = alternating({"ours": mine.step, "fused": fused.step, "plain": plain.step, "limit": limit(100_000)}, rounds, block=20, seconds=0.5)
    name = "100 tensors of 1,000, through Optimizer"
    return [line(name, "SGD(fused=True)", t, "fused", 5.0, 5), line(name, "SGD, defaults", t, "plain", 20.0, 5)]


def line(case: str, peer: str, t: Times, key: str, target: float, streams: int) -> Line:
    """`streams` of the six that the scaling moves are what the law has to move."""
    us = {n: t.median(n) * 1e6 for n in t.rounds}
    return Line(case, peer, us["ours"], us[key], t.ratio(key, "ours"), t.spread(key, "ours"), target, us["limit"] * streams / 6, t.others, t.disturbed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    told = parser.parse_args()
    rounds = 1 if told.quick else 11
    lines = [large(True, rounds), large(False, rounds), *small(rounds)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; microseconds of one update")
    print(f"{'case':56} {'peer':46} {'ours':>9} {'peer':>9} {'ratio':>6} {'spread':>6} {'target':>6} {'limit':>9}")
    for x in lines:
        print(f"{x.case:56} {x.peer:46} {x.ours_us:9.1f} {x.peer_us:9.1f} {x.ratio:6.2f} {x.spread:6.2f} {x.target:6.1f} {x.limit_us:9.1f}")
    print("not measured: a GPU")
    if told.json:
        with open(told.json, "w") as file:
            json.dump({"about": about(), "lines": [asdict(x) for x in lines]}, file, indent=1)


if __name__ == "__main__":
    main()
