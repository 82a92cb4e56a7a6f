"""What is not finite, batches that poison a descent, and malformed tables: caught where they are, by name, and got over."""

from __future__ import annotations

import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import fallline as fl
from fallline.engines.population import Population
from fallline.engines.reference import ReferenceEngine
from fallline.errors import TableError
from fallline.tables import TableOptions
from tests.laws import test_guard as small
from tests.messages import test_tables_messages as tables
from tests.reliability.injections import QUICK, Tally

MOMENTS = {"first": 0.0, "middle": 0.5, "last": 1.0}


def not_finite(batches: tuple[int, ...] = (1, 8), bad: tuple[float, ...] = (np.nan, np.inf, -np.inf)) -> Tally:
    """R7: NaN and infinity in features, targets, outputs and gradients, at the first, a middle and the last update."""
    tally = Tally("R7", "NaN and infinity in features, targets, outputs, gradients, at the first, a middle, the last update: named there, policy obeyed")
    for kind, batch, share, value, column in product(("plain", "adam", "momentum", "lazy"), batches, MOMENTS.values(), bad, (2, None)):
        step = int(share * (48 // batch - 1))
        what = f"{kind}, batch {batch}, update {step}, {value} in {'the target' if column is None else 'a feature'}"
        tally.count(_stopped(*small.linear(kind, batch, step, value, column), step) and _skipped(*small.linear(kind, batch, step, value, column)[:2], step), what)
    for share, (value, target) in product(MOMENTS.values(), ((np.nan, False), (np.inf, True), (99.0, False), (77.0, False))):
        tally.count(_module(share, value, target), f"a module, {value} in {'the target' if target else 'the input'}, {share:.0%} of the way")
    for at in range(4):
        tally.count(_beside(at), f"run {at} of four in one program")
    return tally


def _stopped(problem: Any, plan: fl.Plan, row: int, step: int) -> bool:
    try:
        fl.train(problem, plan, progress=False)
    except fl.Diverged as error:
        good = all(np.isfinite(v).all() for v in error.run.weights.values())
        return error.step == step and row in error.rows and f"row {row}" in str(error) and good
    return False


def _skipped(problem: Any, plan: fl.Plan, step: int) -> bool:
    """Only that update is left out, and the rest is what plain NumPy makes of the others."""
    run = fl.train(problem, plan, stop=fl.SkipBroken(), progress=False)
    other = fl.train(problem, plan, stop=fl.SkipBroken(), engine=ReferenceEngine(problem), progress=False)
    left_out = [e["value"] for e in run.journal if e["what"] == "skip"] == [step]
    return left_out and run.history.steps == plan.steps and np.allclose(run.weights["coef"], other.weights["coef"], rtol=1e-9)


def _module(share: float, value: float, target: bool) -> bool:
    _, plan, _ = small.module()
    at = int(share * (plan.steps - 1))
    row = int(plan.segment(at, at + 1, small.module()[0].layout).batch(0)[0])
    make = lambda: small.module(value, row, target)[0]
    try:
        fl.train(make(), plan, progress=False)
    except fl.Diverged as error:
        if error.step != at or row not in error.rows or "first " not in str(error):
            return False
    else:
        return False
    run = fl.train(make(), plan, stop=fl.SkipBroken(), progress=False)
    return [e["value"] for e in run.journal if e["what"] == "skip"] == [at]


def _beside(at: int) -> bool:
    """One of four runs in one program diverges; the others are the same to the bit as beside one that does not."""
    problem = fl.logistic(small.X * 10, small.Y)
    rates = [0.1, 0.2, 0.3, 0.4]
    plans = lambda lrs: [fl.Plan(problem, epochs=4, batch_size=8, optimizer=fl.SGD(lr, momentum=0.9)) for lr in lrs]
    fine = Population(problem, plans(rates), together=True)
    broken = Population(problem, plans([1e300 if k == at else lr for k, lr in enumerate(rates)]), together=True)
    for runs in (fine, broken):
        runs.advance(plans(rates)[0].steps)
    same = all(fine.losses[k].tobytes() == broken.losses[k].tobytes() for k in range(4) if k != at)
    return same and broken.stopped_at[at] is not None and broken.stopped_at.count(None) == 3


def poisoned(seeds: int = 20) -> Tally:
    """R8: twenty poisoned batches; left out where they are not finite, gone back from where they make the descent explode."""
    tally = Tally("R8", "batches 500 to 520 poisoned: left out, or gone back from with a lower rate; at the end within 2 standard errors of the clean run")
    for seed, policy in product(range(seeds), ("skip", "go back")):
        distance, backs = _recovered(seed, policy)
        tally.count(distance < 2 and backs <= 10, f"seed {seed}, {policy}: {distance:.1f} standard errors, {backs} times back")
    return tally


def _recovered(seed: int, policy: str, rows: int = 20_000) -> tuple[float, int]:
    """How far from the clean run, in standard errors of its loss on clean rows, and how often it went back."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 5))
    y = x @ np.arange(5.0) + draw.normal(size=rows)
    clean, spoilt = fl.least_squares(x, y), fl.least_squares(x.copy(), y)
    plan = fl.Plan(clean, epochs=1, batch_size=10, optimizer=fl.SGD(0.05, schedule="linear"), seed=seed)
    bad = np.unique(np.concatenate([plan.segment(t, t + 1, clean.layout).batch(0) for t in range(500, 521)]))
    spoilt.X[bad] *= np.nan if policy == "skip" else 6.0
    run = fl.train(spoilt, plan, stop=fl.SkipBroken(most=30) if policy == "skip" else fl.Rollback(), progress=False)
    held = lambda r: np.square(x @ r.weights["coef"] + r.weights["intercept"] - y)
    fine = held(fl.train(clean, plan, progress=False))
    return abs(held(run).mean() - fine.mean()) / (fine.std() / np.sqrt(rows)), len(run.history.undone)


def malformed() -> Tally:
    """R9: the corpus of malformed tables, each refused with file and line, or read whole."""
    tally = Tally("R9", "malformed tables: refused by file and line, or read whole; rows in = rows used + rows reported")
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        for name, (content, message) in tables.ERRORS.items():
            tally.count(_refused(Path(place), content, message), name)
        for name, (content, rows) in tables.FINE.items():
            made = fl.table(tables.write(Path(place), content), target="y", options=TableOptions(task="regression"))
            s = made.summary
            tally.count(s.rows == rows == sum(s.parts.values()) + sum(s.reported.values()), name)
    return tally


def _refused(place: Path, content: Any, message: str) -> bool:
    try:
        fl.table(tables.write(place, content), target="y")
    except TableError as error:
        return re.search(message, str(error)) is not None
    return False
