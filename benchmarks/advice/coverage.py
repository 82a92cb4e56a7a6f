"""Does the interval of `find_lr` hold the best rate of a grid as often as it claims? Over 100 seeds, in fast cells.

    python -m benchmarks.advice.coverage [--seeds 100] [--first 100] [--record FOLDER]

A seed draws the rows to train on and to validate on, the plan's order, and the search's held-out rows. The best rate is that
of full runs at four rates to the decade, with the lowest loss on rows that the search never saw.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import fallline as fl
from benchmarks.advice import cells as c
from fallline.engines.population import Population

CLAIMED = 0.9
BUDGETS = (0.1, 0.25, 0.5, 1.0, 2.0)
GRID = 10.0 ** (np.arange(-24, 9) / 4)
SHAPE = "warmup(5%) > linear(to=0)"
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _synthetic(seed: int) -> Drawn:
    """Six columns, the first of which tells the class, with noise: 150 rows to train on and as many to validate on."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((300, 6))
    y = X[:, 0] + 0.4 * rng.standard_normal(300) > 0
    return X[:150], y[:150], X[150:], y[150:]


def _rows(name: str, train: int, valid: int) -> Callable[[int], Drawn]:
    """Rows of a real table, drawn anew for each seed."""

    def draw(seed: int) -> Drawn:
        data = c.load(name)
        X, y = np.concatenate([data.X, data.X_valid]), np.concatenate([data.y, data.y_valid])
        order = np.random.default_rng(seed).permutation(len(X))[: train + valid]
        return X[order[:train]], y[order[:train]], X[order[train:]], y[order[train:]]

    return draw


CELLS: dict[str, tuple[Callable[[int], Drawn], Callable[..., Any], int, Any, float]] = {
    "synthetic, logistic, batch 16, momentum": (_synthetic, fl.logistic, 16, fl.SGD(momentum=0.9, schedule=SHAPE), 12),
    "cancer, logistic, batch 16, SGD": (_rows("cancer", 300, 269), fl.logistic, 16, fl.SGD(weight_decay=1e-4, schedule=SHAPE), 15),
    "diabetes, least squares, batch 8, SGD": (_rows("diabetes", 250, 192), fl.least_squares, 8, fl.SGD(schedule=SHAPE), 10),
    "digits, softmax, batch 32, AdamW": (_rows("digits", 500, 500), fl.softmax, 32, fl.AdamW(weight_decay=1e-2, schedule="cosine(to=0)"), 10),
}  # fmt: skip


def searched(cell: str, seed: int, budgets: Iterable[float] = BUDGETS, told: bool = True) -> dict[str, Any]:
    """One seed of a cell: the grid's best rate, and each budget's answer. `told`: with validation rows, or held-out ones."""
    draw, make, batch, rule, epochs = CELLS[cell]
    X, y, V, v = draw(seed)
    problem = make(X, y)
    plan = fl.Plan(problem, epochs=epochs, batch_size=batch, seed=seed, optimizer=rule)
    runs = Population(problem, [plan.with_lr(float(lr)) for lr in GRID])
    runs.advance(plan.steps)
    half = len(v) // 2  # the search scores on one half of the rows, the best rate is that of the other
    losses = np.asarray(runs.evaluate((V[half:], v[half:])), float)
    best = float(GRID[int(np.nanargmin(losses))])
    found = [fl.find_lr(problem, plan, valid=(V[:half], v[:half]) if told else None, budget=b) for b in budgets]
    return {"best": best, "found": [{"budget": b, "lr": f.rate, "interval": f.interval} for b, f in zip(budgets, found, strict=True)]}


def inside(row: dict[str, Any], k: int) -> bool | None:
    """Whether the interval of budget k holds the best rate; None without an answer."""
    between = row["found"][k]["interval"]
    return None if between is None else bool(between[0] <= row["best"] <= between[1])


def text(found: dict[str, list[dict[str, Any]]]) -> str:
    """A table in Markdown: by cell and budget, the share within, the answers, and the median width in decades."""
    lines = [f"| cell | budget | within (claimed: {CLAIMED:.0%}) | answers | median width, decades |", "|---|---|---|---|---|"]
    for cell, rows in found.items():
        for k, budget in enumerate(BUDGETS):
            said = [(inside(r, k), r["found"][k]["interval"]) for r in rows]
            held = [i for i, _ in said if i is not None]
            width = np.median([np.log10(b[1] / b[0]) for _, b in said if b is not None])
            lines.append(f"| {cell} | {budget:g} | {np.mean(held):.0%} | {len(held)} of {len(rows)} | {width:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=100, help="the first seed; the interval's constants were set on 0 to 99")
    parser.add_argument("--cells", help="part of a name; left out, all")
    parser.add_argument("--training", action="store_true", help="the search gets no validation rows, and holds training rows out")
    parser.add_argument("--record", type=Path, help="a folder for coverage.json and coverage.md")
    told = parser.parse_args()
    wanted = [cell for cell in CELLS if not told.cells or told.cells in cell]
    found = {cell: [searched(cell, seed, told=not told.training) for seed in range(told.first, told.first + told.seeds)] for cell in wanted}
    print(text(found))
    if told.record:
        told.record.mkdir(parents=True, exist_ok=True)
        (told.record / "coverage.json").write_text(json.dumps(found) + "\n")
        (told.record / "coverage.md").write_text(text(found) + "\n")


if __name__ == "__main__":
    main()
