"""32 logistic regressions in one program beside 32 runs of our own, and beside the machine's rate of matrix products.

    python benchmarks/population.py [--rounds N] [--json FILE]

60,000 x 784 float32 rows, batches of 64, one pass, 32 learning rates. Contenders: the population engine with both cores; 32 single
runs of the linear engine one after another, and the same on as many threads as there are cores, a run each. All keep every
step's loss. The limit: an update of K runs is two products, [64, 784] by [784, K] and its transpose's, 4 * 64 * 784 * K
operations; the machine's rate is the best that NumPy's BLAS reaches on both cores for large square matrices in this very
run, beside what it reaches for a product of this shape.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from machine import about, alternating
from threadpoolctl import threadpool_limits

import fallline as fl
from fallline.engines.population import Population

ROWS, FEATURES, BATCH, RUNS = 60_000, 784, 64, 32
TARGET_SHARE, TARGET_RATIO = 0.7, 4


def rate(m: int, n: int, k: int, threads: int, seconds: float = 1.0) -> float:
    """Operations a second of the best product [m, k] by [k, n] in float32."""
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    out, best = np.empty((m, n), np.float32), float("inf")
    repeats = max(1, int(2e8 / (2 * m * n * k)))
    with threadpool_limits(threads):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            for _ in range(repeats):
                np.matmul(a, b, out=out)
            best = min(best, (time.perf_counter() - began) / repeats)
    return 2 * m * n * k / best


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--json", help="write the record to this file")
    given = arguments.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    r = np.random.default_rng(0)
    X = r.standard_normal((ROWS, FEATURES), dtype=np.float32)
    y = (X @ r.standard_normal(FEATURES, dtype=np.float32) + r.standard_normal(ROWS) > 0).astype(int)
    problem = fl.logistic(X, y)
    plan = fl.Plan(problem, epochs=1, batch_size=BATCH, optimizer=fl.SGD())
    plans = [plan.with_lr(lr) for lr in fl.log(1e-4, 1, RUNS)]
    answers = {}

    def together() -> float:
        runs = Population(problem, plans, together=True)
        runs.advance(1)  # what is made once (threads, the rows' largest number) is not part of an update
        began = time.perf_counter()
        runs.advance(plan.steps)
        took = time.perf_counter() - began
        answers["together"] = runs.answers()
        return took * plan.steps / (plan.steps - 1)

    def alone(lr_plan: fl.Plan) -> np.ndarray:
        runs = Population(problem, [lr_plan], together=False)
        runs.advance(plan.steps)
        return runs.answers()[0]

    def one_by_one() -> None:
        answers["one by one"] = np.array([alone(p) for p in plans])

    def threads() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(alone, plans))

    large, shaped = rate(2048, 2048, 2048, cores), max(rate(BATCH, RUNS, FEATURES, n) for n in {1, cores})
    times = alternating({"together": together, "one by one": one_by_one, "on threads": threads}, given.rounds)
    large = max(large, rate(2048, 2048, 2048, cores))
    difference = np.abs(answers["together"] - answers["one by one"]).max() / np.abs(answers["one by one"]).max()
    reached = 4 * ROWS * FEATURES * RUNS / times.median("together")
    share = reached / large
    print(f"matrix products: {large / 1e9:.1f} G operations/s (2048 x 2048), {shaped / 1e9:.1f} G for [{BATCH}, {FEATURES}] by [{FEATURES}, {RUNS}], {cores} cores")
    print(f"together         {times.median('together'):6.3f} s a pass: {reached / 1e9:.1f} G operations/s, {share:.0%} of the machine's rate (target {TARGET_SHARE:.0%}), {reached / shaped:.0%} of BLAS at this shape")
    record = {"about": about(), "case": f"{RUNS} logistic regressions, {ROWS} x {FEATURES} float32, batch {BATCH}", "rate": large, "rate_of_this_shape": shaped,
              "reached": reached, "share": share, "others": times.others, "largest_difference": float(difference), "contenders": {}}  # fmt: skip
    for name in times.rounds:
        ratio = times.ratio(name, "together")
        record["contenders"][name] = {"seconds": times.median(name), "rounds": times.rounds[name], "times_slower": ratio, "spread": times.spread(name, "together")}
        if name != "together":
            print(f"{name:16} {times.median(name):6.3f} s a pass: {ratio:.2f} times as long (target {TARGET_RATIO}; spread {times.spread(name, 'together'):.2f})")
    print(f"largest difference of weights: {difference:.1e} of the largest weight")
    if given.json:
        with open(given.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
