"""Runs of a small network stacked into one program, beside the same runs one after another, from which the crossover was read.

    python benchmarks/stacked.py [--json FILE]

Both sides are `Population` on the same plans (SGD with momentum, cross-entropy, float32) and make the same updates. "cores" is the
ratio to a run on each core, taken as the serial time over the number of cores: what processes would give at best.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time

import torch
from machine import about

import fallline as fl
from fallline.engines.population import Population
from fallline.torch import stacked

UPDATES, TIMES = 25, 3


def seconds(problem: fl.torch.ModuleProblem, plans: list[fl.Plan], together: bool) -> float:
    """The least time of an update of all runs."""
    runs = Population(problem, plans, together=together)
    runs.advance(4)
    best, step = float("inf"), 4
    for _ in range(TIMES):
        began = time.perf_counter()
        runs.advance(step := step + UPDATES)
        best = min(best, (time.perf_counter() - began) / UPDATES)
    return best


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", help="write the record to this file")
    given = arguments.parse_args()
    cores, found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, []
    for sizes in ((20, 16, 2), (64, 32, 10), (64, 128, 10), (784, 64, 10), (784, 256, 128, 10)):
        torch.manual_seed(0)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        X, y = torch.randn(4096, sizes[0]), torch.randint(0, sizes[-1], (4096,))
        problem = fl.torch.problem(torch.nn.Sequential(*layers[:-1]), torch.nn.functional.cross_entropy, (X, y))
        for batch in (16, 64, 256):
            for runs in (6 * cores, 16 * cores):
                plan = fl.Plan(problem, steps=4 + UPDATES * TIMES, batch_size=batch, optimizer=fl.SGD(momentum=0.9))
                plans = [plan.with_lr(lr) for lr in fl.log(1e-4, 1e-2, runs)]
                one, many = seconds(problem, plans, True), seconds(problem, plans, False)
                chosen = not stacked.too_few(problem, plans)
                found.append({"sizes": sizes, "batch": batch, "runs": runs, "parameters": problem.layout.size, "stacked_s": one, "serial_s": many, "chosen": chosen})
                print(f"{'-'.join(map(str, sizes)):15} batch {batch:3} x {runs:2} runs: stacked {one * 1e6:7.0f} us, one by one {many * 1e6:7.0f} us, "
                      f"ratio {many / one:4.1f}, to cores {many / one / cores:4.1f}{'  stacked' if chosen else ''}")  # fmt: skip
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"about": about(), "cores": cores, "cases": found}, file, indent=1)


if __name__ == "__main__":
    main()
