"""What `fit` chooses beside constants: test metrics and seconds, over several splits of each built-in table.

    python benchmarks/choices.py [--splits N] [--json FILE]

Constants: batches for about 1,500 updates (8 to 256 rows), weight decay 1e-4, and a learning rate from `find_lr` on the validation rows for at most half a
run. Both get SGD with momentum 0.9, the same schedule, 20 epochs, the same splits and seeds; seconds are those of a whole `fit`, one after the other,
kernels compiled before. Errors are standard errors of the paired differences over the splits.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
from machine import about

import fallline as fl
from fallline.fitting import SCHEDULE, drafted, table_problem, table_rows
from fallline.fitting.draft import beginning
from fallline.rules import typical_lr

TABLES = ("digits", "breast-cancer", "diabetes")
SHOWN = {"accuracy": 1, "log_loss": -1, "rmse": -1}
"""Metrics that are shown, and whether more of one is better."""


def constants(table: fl.Table, seed: int) -> fl.Choices:
    """The plan of constants for a table."""
    told = fl.Choices(seed=seed, batch_size=min(len(table.train.rows), beginning(len(table.train.rows), 20)), optimizer=fl.SGD(momentum=0.9, weight_decay=1e-4), schedule=SCHEDULE)
    problem, valid, _ = table_problem(table, table_rows(table, told), told)
    plan = drafted(problem, told)
    found = fl.find_lr(problem, plan, valid=valid)
    return fl.Choices(seed=seed, plan=plan.with_lr(found if found.rate is not None else math.sqrt(math.prod(typical_lr(plan.optimizer)))))


def fits(name: str, splits: int) -> dict[str, dict[str, np.ndarray]]:
    """By way of choosing and metric, the values of each split."""
    out: dict[str, dict[str, list[float]]] = {"constants": {}, "chosen": {}}
    for seed in range(-1, splits):  # the first is for the kernels
        table = fl.table(name, options=fl.TableOptions(seed=max(seed, 0)))
        for way, choose in (("constants", constants), ("chosen", lambda table, seed: fl.Choices(seed=seed))):
            began = time.perf_counter()
            run = fl.fit(table, choices=choose(table, max(seed, 0)), progress=False)
            seconds = time.perf_counter() - began
            if seed < 0:
                continue
            values = {m: v["value"] for m, v in run.summary["test"]["metrics"].items() if m in SHOWN}
            for metric, value in (values | {"seconds": seconds}).items():
                out[way].setdefault(metric, []).append(value)
    return {way: {metric: np.array(v) for metric, v in metrics.items()} for way, metrics in out.items()}


def main() -> None:
    """Print a table, and save what it rests on."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--splits", type=int, default=24)
    arguments.add_argument("--json")
    asked = arguments.parse_args()
    record: dict = {"machine": about(), "splits": asked.splits, "tables": {}}
    print(f"{'':32}{'constants':>12}{'chosen':>12}{'difference':>14}{'its error':>12}")
    for name in TABLES:
        made = fits(name, asked.splits)
        record["tables"][name] = {way: {metric: v.tolist() for metric, v in metrics.items()} for way, metrics in made.items()}
        for metric, before in made["constants"].items():
            apart = made["chosen"][metric] - before
            error = apart.std(ddof=1) / math.sqrt(len(apart))
            print(f"{name + ', ' + metric:32}{before.mean():12.4f}{made['chosen'][metric].mean():12.4f}{apart.mean():+14.4f}{error:12.4f}", flush=True)
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
