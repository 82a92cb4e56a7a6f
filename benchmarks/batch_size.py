"""How far the noise scale predicts the updates that a batch size needs: predicted against counted, on real data.

For every problem and target, and every batch size: updates until the loss of all training rows (5,000 of them, of
Fashion-MNIST) is at the target for the first time, at the best constant learning rate of a grid (factor 2), the median of
three orders. The law S(B) = S_min (1 + B_crit/B) is fitted to them. The prediction is made without them: the noise scale at
seven moments of one run in batches of 16 at *its* best rate until the target, `whole_way`.

    python benchmarks/batch_size.py [--quick] [--data NAME ...] [--save DIR]

A record is written after each case; the cases of other data that a record holds already are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import about

import fallline as fl
from fallline.advice.batch_size.choice import whole_way
from fallline.advice.batch_size.law import fitted
from fallline.advice.batch_size.moments import walk
from fallline.engines import choose

OWN = 16
GROWTH = 1.07
CASES = [
    ("digits", 0.9, (0.2, 0.1, 0.06)), ("digits", 0.0, (0.2, 0.1)), ("breast-cancer", 0.9, (0.1, 0.075)), ("diabetes", 0.9, (0.26, 0.235)),
    ("fashion-mnist", 0.9, (0.6, 0.5)), ("fashion-mnist", 0.0, (0.6,)),
]  # fmt: skip


def updates_to(problem: Any, scored: Any, engine: Any, plan: fl.Plan, target: float) -> float:
    """Updates until the scored rows' loss is at the target, looked for at points 7 % apart; inf where it never is."""
    state, done = engine.begin(None, plan.optimizer.start()), 0.0
    for stop in np.unique(np.geomspace(1, plan.steps, int(math.log(plan.steps) / math.log(GROWTH)) + 2).round().astype(int)):
        result = engine.advance(state, plan.segment(state.step, int(stop), problem.layout))
        state = result.state
        loss = scored.loss(engine.answer(state, plan.optimizer.answer()))
        if result.stopped_at is not None or not loss < 1e3:
            return math.inf
        if loss <= target:
            return math.sqrt(max(done, 1.0) * stop)  # between the last look and this one
        done = float(stop)
    return math.inf


def best(problem: Any, scored: Any, engine: Any, size: int, momentum: float, target: float, orders: int) -> tuple[float, float | None]:
    """The least updates over a grid of rates, the median of the orders, and that rate. Ascends until it gets worse three times."""
    found, rate, worse = math.inf, None, 0
    for k in range(-14, 5):
        lr, counts = 2.0**k, []
        for order in range(orders):
            steps = max(2, int(problem.rows * (60 if problem.rows < 5000 else 10) / size))
            plan = fl.Plan(problem, steps=steps, batch_size=size, optimizer=fl.SGD(lr=lr, momentum=momentum), seed=order)
            counts.append(updates_to(problem, scored, engine, plan, target))
        count = float(np.median(counts))
        if count < found:
            found, rate, worse = count, lr, 0
        elif math.isfinite(found):
            worse += 1
            if worse == 3:
                break
    return found, rate


def case(name: str, momentum: float, target: float, quick: bool) -> dict[str, Any]:
    """One problem and target: the law that was counted, and the one that was predicted."""
    problem = fl.table(name).problem()
    scored = problem if problem.rows <= 5000 else problem.part(np.arange(0, problem.rows, problem.rows // 5000))
    engine = choose(problem)
    sizes = [s for s in (1, 4, 16, 64, 256, 1024) if s <= problem.rows / 2]
    counted = {s: best(problem, scored, engine, s, momentum, target, 1 if quick or s >= 256 else 3) for s in sizes}
    known = {s: n for s, (n, _) in counted.items() if math.isfinite(n)}
    law, r2 = fitted(list(known), list(known.values()))
    steps, rate = counted[OWN]
    plan = fl.Plan(problem, steps=max(2, round(steps)), batch_size=OWN, optimizer=fl.SGD(lr=rate, momentum=momentum))
    seen = walk(problem, engine, plan, count=7, rows=min(problem.rows, 4096)).moments
    predicted, interval = whole_way(seen, 1.0, OWN)
    errors = [abs(math.log(float(predicted.steps(s)) / n)) for s, n in known.items() if s != OWN]
    return {
        "data": name, "momentum": momentum, "target": target, "updates": {str(s): n for s, (n, _) in counted.items()},
        "rates": {str(s): r for s, (_, r) in counted.items()}, "B_crit": law.scale, "S_min": law.fewest, "r2": r2,
        "noise_scale": predicted.scale, "interval": list(interval), "error": math.exp(float(np.mean(errors))), "worst": math.exp(max(errors)),
    }  # fmt: skip


def kept(path: Path, without: set[str]) -> list[dict[str, Any]]:
    """The cases that a record holds of other data."""
    return [c for c in json.loads(path.read_text())["cases"] if c["data"] not in without] if path.exists() else []


def main() -> None:
    names = list(dict.fromkeys(name for name, *_ in CASES))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one order of the rows, no Fashion-MNIST")
    parser.add_argument("--data", nargs="+", choices=names, help="only these")
    parser.add_argument("--save", help="folder for record.json")
    told = parser.parse_args()
    wanted = set(told.data or names) - ({"fashion-mnist"} if told.quick else set())
    place = Path(told.save or ".", "record.json")
    made = kept(place, wanted) if told.save else []
    print(f"{'data':14} {'mom':>4} {'target':>7} {'B_crit':>8} {'R2':>6} {'predicted':>10} {'updates off by':>15} {'at most':>8}")
    for name, momentum, target in [(n, m, t) for n, m, targets in CASES if n in wanted for t in targets]:
        try:
            one = case(name, momentum, target, told.quick)
        except fl.InvalidValue as error:
            print(f"{name}: not here ({error})", file=sys.stderr)
            continue
        made.append(one)
        crit = f"{one['B_crit']:.0f}" if one["B_crit"] < 1e6 else "beyond"
        print(f"{name:14} {momentum:4.1f} {target:7.3g} {crit:>8} {one['r2']:6.3f} {one['noise_scale']:10.0f} {one['error']:14.2f}x {one['worst']:7.2f}x", flush=True)
        if told.save:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"about": about(), "cases": made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
