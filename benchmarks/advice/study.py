"""The study, resumable: each cell's parts are kept as JSON, and only what is missing or has changed is run again.

    python -m benchmarks.advice [--cells NAME,NAME] [--tiny] [--finders PYTHON] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fallline as fl
from benchmarks.advice import cells as c
from benchmarks.advice.reference import final_loss, measure
from fallline.rules import default_lr

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "advice"
BUDGETS = (0.1, 0.25, 0.5, 1.0, 2.0)
BATCHES = 400
"""Batches that the other finders are given; they begin again after them."""


def study(cells: tuple[c.Cell, ...], seeds: tuple[int, ...], finders: str | None, cache: Path) -> dict[str, Any]:
    """Everything measured, by cell."""
    cache.mkdir(parents=True, exist_ok=True)
    out = {}
    for cell in cells:
        began = time.perf_counter()
        kept = Kept(cache / f"{cell.name}.json", f"{cell!r} {seeds}")
        entry = {"tuned": cell.name in c.TUNED, "steps": _plan(cell, 0).steps}
        entry["reference"] = kept.part("reference", "1", lambda: measure(cell, seeds, bisections=4 if len(seeds) > 1 else 2))
        entry["decades"] = kept.part("decades", "1", lambda: [decades(cell, s) for s in seeds])
        entry["ours"] = kept.part("ours", _source(), lambda: [ours(cell, s) for s in seeds])
        if finders is not None:
            entry["finders"] = kept.part("finders", _text("finders.py", "models.py"), lambda: others(cell, seeds, finders))
        out[cell.name] = entry
        print(f"{cell.name:32s} {time.perf_counter() - began:6.1f} s", file=sys.stderr, flush=True)
    return out


class Kept:
    """A cell's results in a file, by part, each with the key that says what it was made from."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.parts = json.loads(path.read_text()) if path.exists() else {}

    def part(self, name: str, key: str, make: Callable[[], Any]) -> Any:
        key = hashlib.sha256(f"{self.key} {key}".encode()).hexdigest()[:16]
        if self.parts.get(name, {}).get("key") != key:
            self.parts[name] = {"key": key, "value": make()}
            self.path.write_text(json.dumps(self.parts))
        return self.parts[name]["value"]


def ours(cell: c.Cell, seed: int) -> dict[str, Any]:
    """`find_lr` at every budget; once more without validation rows."""
    out = {}
    for budget, valid in [*((b, True) for b in BUDGETS), (0.5, False)]:
        problem, held = c.problem_of(cell, seed)
        began = time.perf_counter()
        found = fl.find_lr(problem, c.plan_of(cell, problem, seed), valid=held if valid else None, budget=budget)
        took = time.perf_counter() - began
        name = f"find_lr {budget:g}" + ("" if valid else ", training rows held out")
        out[name] = {"lr": found.rate, "updates": found.cost, "seconds": round(took, 3), "interval": found.interval, "verdict": found.verdict}
    return out


def decades(cell: c.Cell, seed: int) -> dict[str, Any]:
    """Five full runs at decades, the best kept: 1e-4 to 1, for AdamW 1e-5 to 0.1."""
    top = -1 if cell.rule == "adamw" else 0
    rates = [10.0**k for k in range(top - 4, top + 1)]
    began = time.perf_counter()
    losses = [final_loss(cell, lr, seed)[1] for lr in rates]
    took = time.perf_counter() - began
    best = int(np.argmin(losses))
    lr = rates[best] if math.isfinite(losses[best]) else None
    return {"lr": lr, "updates": 5 * _plan(cell, seed).steps, "seconds": round(took, 3)}


def others(cell: c.Cell, seeds: tuple[int, ...], python: str) -> list[dict[str, Any]]:
    """The other finders, on the same weights, data and batches."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Path(folder) / f"{seed}.npz" for seed in seeds]
        for seed, job in zip(seeds, jobs, strict=True):
            _write_job(cell, seed, job)
        words = [python, str(Path(__file__).with_name("finders.py")), *map(str, jobs)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{cell.name}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.strip().splitlines() if line.startswith("{")]


def _write_job(cell: c.Cell, seed: int, path: Path) -> None:
    data, model = c.load(cell.data), c.module_of(cell, seed)
    rows = [b for b, _ in zip(_plan(cell, seed).with_lr(1e-3).batches(), range(BATCHES), strict=False)]
    outputs = data.outputs if data.task == "classes" else 1
    spec = {"model": cell.model, "features": data.X.shape[1], "outputs": outputs, "task": data.task, "rule": cell.rule, "decay": cell.decay}
    np.savez(
        path, spec=json.dumps(spec), X=data.X, y=data.y, X_valid=data.X_valid, y_valid=data.y_valid, rows=np.concatenate(rows),
        sizes=np.array([len(r) for r in rows]), **{f"w.{k}": v.numpy() for k, v in model.state_dict().items()},
    )  # fmt: skip


def fallback(cell: c.Cell) -> float:
    """What stands in where a finder has no answer: the typical rate that `fit` would take. For everybody."""
    return default_lr(c.rule_of(cell))


def _plan(cell: c.Cell, seed: int) -> Any:
    rows = len(c.load(cell.data).X)
    batches = fl.Batches.full() if cell.batch == 0 else cell.batch
    return fl.Plan(rows=rows, epochs=cell.epochs, batch_size=batches, optimizer=c.rule_of(cell), seed=seed)


def _source() -> str:
    """The text of the finder: what was found with another is found anew."""
    folder = Path(fl.__file__).parent / "advice"
    names = ("bracket", "compressed", "lr", "probe", "reading", "search", "sweep")
    return "".join((folder / f"{n}.py").read_text() for n in names)


def _text(*names: str) -> str:
    return "".join(Path(__file__).with_name(n).read_text() for n in names)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", help="names, with commas; left out, all")
    parser.add_argument("--tiny", action="store_true", help="two small cells, one seed")
    parser.add_argument("--finders", help="a Python in which fastai, lightning, torch-lr-finder and pytorch-ignite are installed")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--record", type=Path, help="a folder for results.json, table.md and the pictures")
    told = parser.parse_args()
    wanted = c.TINY if told.tiny else told.cells.split(",") if told.cells else [cell.name for cell in c.CELLS]
    chosen = tuple(cell for cell in c.CELLS if cell.name in wanted)
    if told.tiny:
        chosen = tuple(replace(cell, epochs=cell.epochs / 2) for cell in chosen)
    found = study(chosen, (0,) if told.tiny else c.SEEDS, told.finders, told.cache)
    from benchmarks.advice import table

    print(table.text(found))
    if told.record:
        table.write(found, told.record)
