"""`sweep`: a grid of hyperparameters and seeds on one problem, and what came of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fallline.comparing.contenders import draws_nothing
from fallline.errors import InvalidValue, PlanMismatch
from fallline.layout import start_of
from fallline.metrics import metric as metric_of
from fallline.plan import Plan
from fallline.progress import progress_for
from fallline.sweeping.edges import edges_of
from fallline.sweeping.folder import FORMAT, SweepFolder
from fallline.sweeping.grid import Setting, grid
from fallline.sweeping.halving import Rung, rungs
from fallline.sweeping.jobs import Job, Ruler, SweepRun
from fallline.sweeping.result import Sweep, Told
from fallline.sweeping.work import Work
from fallline.training import Validation


def sweep(
    problem: Any,
    plan: Plan,
    over: Mapping[str, Any],
    *,
    seeds: int = 1,
    valid: Any = None,
    metric: str | None = None,
    budget: float | None = None,
    start: Any = None,
    save: str | Path | None = None,
    resume: bool = False,
    processes: int | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Try every combination of some hyperparameters, each with several seeds.

    Law: run (c, s) is `train(problem, plan of combination c with seed plan.seed + s)`. Runs that share an order of rows, a
    batch size and a length are one program where that is faster (`engines.population`), else each takes a core of its own.
    With a `budget` below the grid's cost, successive halving: all combinations for a while, the best third for three times
    as long, and so on.

    Args:
        problem: what to descend; a module is left as it was.
        plan: what all runs share: length, batches, optimizer, schedule, first seed.
        over: name -> values: a list, `fl.log(1e-4, 1, 9)`, or in words "1e-4..1:9". Names are those of the optimizer (lr,
            momentum, weight_decay, schedule, ...) and optimizer, batch_size, epochs, steps. Where lr is swept, its values
            stand as they are at every batch size; else another batch size rescales it, as `plan.with_batch_size` does.
        seeds: runs of each combination; one where nothing is drawn.
        valid: (X, y), or a `Validation` with metrics: what combinations are ranked by; left out, the loss over all training rows.
        metric: rank by this metric of the held-out rows rather than by their loss.
        budget: full runs that may be spent; left out, as many as the grid has.
        start: initial weights of all runs, as for `train`.
        save: a folder: every run is written down as it comes to its end. Of one that holds this very sweep, all runs are read.
        resume: continue what the folder holds a part of; begin where it holds nothing.
        processes: cores for runs that go one after another; left out, all.
        progress: False silences; left out, as the place suggests.

    Returns:
        Sweep: `.best` (a combination with its spread over seeds), `.cells`, `.runs`, `.table()`, `.plot()`.

    Raises:
        UnknownName: a name that is no hyperparameter of the plan or its optimizer.
        InvalidValue: nothing to try, a combination that cannot stand, or a budget that is too small.
        RunExists, RunUnfinished: `save` holds another sweep, or a part of this one without `resume`.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1, 10], start=[1.0, 1.0])
    >>> plan = fl.Plan(problem, steps=40, optimizer=fl.SGD())
    >>> found = sweep(problem, plan, {"lr": [0.01, 0.1, 1.0], "momentum": [0, 0.5]}, progress=False)
    >>> found.best.values
    {'lr': 0.1, 'momentum': 0.5}
    """
    names, settings = grid(plan, over)
    _check(problem, plan, {"seeds": seeds, "processes": 1 if processes is None else processes}, budget)
    ruler = _ruler(problem, valid, metric)
    jobs = [job for i, setting in enumerate(settings) for job in _jobs(problem, i, setting, int(seeds))]
    ladder = rungs(len(settings), max(job.seed for job in jobs) + 1, budget, min(s.plan.steps for s in settings))
    held = None if save is None else SweepFolder.claim(save, _definition(problem, plan, names, int(seeds), ruler, ladder, start), len(jobs), resume=resume)
    shown = progress_for(progress, sum(job.plan.steps for job in jobs))
    work = Work(problem, ruler, start, processes, lambda done, loss: shown.show(done, loss, None), len(jobs))
    began = time.monotonic()
    try:
        made = _carried_out(work, jobs, ladder, held)
    finally:
        shown.close()
        if held is not None:
            held.close()
    made.sort(key=lambda run: (run.cell, run.seed))
    told = Told(ruler.name, ruler.lower, tuple(work.choices), round(time.monotonic() - began, 3), tuple((r.share, r.cells) for r in ladder))
    return Sweep(plan, names, tuple(settings), tuple(made), edges_of(problem, names, settings, made, ruler, start), told)


def _check(problem: Any, plan: Plan, counts: Mapping[str, Any], budget: Any) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise InvalidValue(f"{name}={count!r}: expected a whole number of at least 1")
    number = isinstance(budget, (int, float, np.number)) and not isinstance(budget, bool)
    if budget is not None and not (number and 0 < budget < math.inf):
        raise InvalidValue(f"budget={budget!r}: expected a number of full runs above 0")
    if plan.rows != problem.rows and not (plan.rows is None and problem.rows in (None, 1)):
        raise PlanMismatch(f"the plan is for {plan.rows} rows and the problem has {problem.rows}: make it with Plan(problem, ...)")


def _jobs(problem: Any, cell: int, setting: Setting, seeds: int) -> list[Job]:
    count = 1 if draws_nothing(problem, setting.plan) else seeds
    return [Job(cell, s, setting.plan._with(seed=setting.plan.seed + s)) for s in range(count)]


def _ruler(problem: Any, valid: Any, by: str | None) -> Ruler:
    """How runs are measured, and by what they are ranked."""
    valid = getattr(problem, "valid", None) if valid is None else valid
    if valid is None:
        if by is not None:
            raise InvalidValue(f"metric={by!r} is of held-out rows: give valid=(X_valid, y_valid)")
        return Ruler(problem, None, ())
    given = valid if isinstance(valid, Validation) else Validation(valid)
    usual = tuple(name for name in problem.usual_metrics if name != "log_loss")  # which is what these problems' loss is
    wanted = usual if given.metrics is None else given.metrics
    metrics = [metric_of(m) for m in ([wanted] if isinstance(wanted, str) or callable(wanted) else wanted)]
    if by is not None and by not in [m.name for m in metrics]:
        metrics.append(metric_of(by))
    return Ruler(problem, problem.held_out(given.data), tuple(metrics), by)


def _carried_out(work: Work, jobs: list[Job], ladder: list[Rung], folder: SweepFolder | None) -> list[SweepRun]:
    """The runs that a folder held already, and all others, which it is told of as they come."""
    made = list(folder.runs) if folder is not None else []

    def report(runs: Sequence[SweepRun], rung: Sequence[int] | None = None) -> None:
        made.extend(runs)
        if folder is not None:
            folder.add(runs, rung)

    over = {(run.cell, run.seed) for run in made}
    left = [job for job in jobs if (job.cell, job.plan.seed) not in over]
    work.done = sum(job.plan.steps for job in jobs) - sum(job.plan.steps for job in left)
    if left and len(ladder) == 1:
        work.whole(left, report)
    elif left:
        work.halved(jobs, ladder, [] if folder is None else folder.rungs, report)
    return made


def _definition(problem: Any, plan: Plan, names: Mapping[str, list[Any]], seeds: int, ruler: Ruler, ladder: list[Rung], start: Any) -> dict[str, Any]:
    """All that decides what a sweep's runs are, plain values."""
    begin = start_of(problem, start)
    return {
        "format": FORMAT,
        "plan": plan.to_json(),
        "over": {name: [value.to_json() if hasattr(value, "to_json") else value for value in values] for name, values in names.items()},
        "seeds": seeds,
        "scores": list(ruler.names),
        "ranked_by": ruler.name,
        "rungs": [[rung.share, rung.cells] for rung in ladder],
        "problem": problem.fingerprint,
        "held_out": None if ruler.held_out is None else ruler.held_out.fingerprint,
        "start": hashlib.sha256(np.ascontiguousarray(begin, np.float64).tobytes()).hexdigest(),
    }


__all__ = ["sweep"]
