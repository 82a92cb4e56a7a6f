"""`train`: the face of the one loop. It checks what it is given, opens what is to be written, and says how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline.divergence import check_start, diverged
from fallline.engines import Engine, choose
from fallline.errors import InvalidValue, PlanMismatch
from fallline.history import History, Outcome
from fallline.interrupts import Interrupt, Leaving, ended_by, interactive, watched
from fallline.judges import EarlyStop, Explosion, Judge
from fallline.lengths import Length, epochs, steps
from fallline.loop import Loop
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.progress import progress_for
from fallline.runs import Run
from fallline.runs.keeper import Snapshot, differing
from fallline.runs.live import LiveFolder, Save
from fallline.runs.resuming import continued
from fallline.task import Log, Task, checked_plans

EPOCH = epochs(1)



@dataclass(frozen=True)
class Validation:
    """What a run is measured on, and how often.

    Args:
        data: (X, y) held out from training, or a LinearProblem on them.
        metrics: names, or functions f(y, prediction); left out, the usual two for the kind of problem.
        every: how often, with its unit; left out, once an epoch, and with full batches every max(1, steps/100) updates
            (oftener where an EarlyStop's patience is shorter). The last update is always measured.
    """

    data: Any
    metrics: Sequence[str | Metric | Callable[..., float]] | None = None
    every: Length | None = None


def train(
    problem: Any,
    plan: Plan | Sequence[tuple[int, Plan]],
    *,
    valid: Any = None,
    start: Any = None,
    stop: Judge | Sequence[Judge] | None = None,
    engine: Engine | None = None,
    save: str | Path | Save | LiveFolder | None = None,
    resume: bool = False,
    log: Log | None = None,
    progress: bool | None = None,
) -> Run:
    """Carry out a plan on a problem.

    Args:
        problem: what to descend.
        plan: how; `lr=auto` in it is found by `find_lr` first. Or a run's journal, `run.plans`, to be carried out again.
        valid: (X, y), or a `Validation`.
        start: initial weights: a dict by parameter name, or a flat vector; left out, the problem's own.
        stop: judges, such as EarlyStop(patience=epochs(3)), TimeBudget("5m"), Rollback() or SkipBroken().
        engine: left out, the fastest that runs the problem.
        save: a folder for the run: made at the start, its history written as it happens, with checkpoints, complete at the
            end. Or a `Save`, which says how often.
        resume: go on with the run that the folder holds, from its newest checkpoint that verifies; start it where there is
            none; give it back where it is finished. The plan may have become longer.
        log: called with one flat dict per evaluation.
        progress: False silences; left out, as the place suggests.

    Raises:
        PlanMismatch: the plan's rows are not the problem's; or the run that is to go on is of other data or another optimizer.
        Diverged: the loss left the finite numbers or exploded; carries the partial run.
        NoLearningRate: lr is auto and the search has no answer.
        KeyboardInterrupt: interrupted in a script; carries the partial run as `.run`.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 10.0], start=[1.0, 1.0])
    >>> run = fl.train(problem, fl.Plan(problem, steps=200, optimizer=fl.SGD(lr=0.1)), progress=False)
    >>> run.outcome.name, bool(run.history.loss[-1] < 1e-15)
    ('Finished', True)
    """
    if resume and save is None:
        raise InvalidValue("resume=True without save=: give the folder of the run that is to go on")
    if engine is not None and not hasattr(engine, "advance"):
        raise InvalidValue(f"engine={engine!r}: expected an engine, such as fallline.engines.reference.ReferenceEngine(problem); left out, the fastest is taken")
    plans = checked_plans(plan)
    _belongs(plans[0][1], problem)
    engine, given = engine or choose(problem), engine is not None
    live = save if save is None or isinstance(save, LiveFolder) else LiveFolder.claim(save, resume=resume)
    try:
        earlier = None if live is None else continued(live, problem, plans)
        if isinstance(earlier, Run):
            return earlier
        if earlier is None and start is None:
            check_start(problem)
        with watched() as interrupt:
            return _carried_out(Given(problem, plans, valid, start, stop, engine, given, log, progress), live, live is save, earlier, interrupt)
    except BaseException as error:
        if live is not None and getattr(error, "run", None) is None:  # with a run, whoever opened the folder finishes it
            live.close()
        raise


@dataclass(frozen=True)
class Given:
    """What `train` was given, checked as far as that goes without looking at any data."""

    problem: Any
    plans: tuple[tuple[int, Plan], ...]
    valid: Any
    start: Any
    stop: Any
    engine: Engine
    chosen: bool
    log: Log | None
    progress: bool | None


def _carried_out(given: Given, live: LiveFolder | None, came_open: bool, earlier: Snapshot | None, interrupt: Interrupt) -> Run:
    problem, engine, history = given.problem, given.engine, History() if earlier is None else earlier.history
    valid = getattr(problem, "valid", None) if given.valid is None else given.valid
    plans, found = (given.plans, None) if earlier is not None else _with_rate(given, valid, history, interrupt)
    if earlier is not None:
        plans = tuple(earlier.plans) + tuple(p for p in given.plans[1:] if p[0] > earlier.step)
    plan = plans[0][1]
    judges = _judges(given.stop, valid)
    task = Task(problem, engine, plans[:1] if earlier is not None else plans, *_validation(problem, plan, valid, judges), judges, given.log)
    keeper = live.keeper() if live is not None and hasattr(engine, "pack") else None
    loop = Loop(task, history, keeper)
    if earlier is None:
        history.note("engine", engine.name, "given" if given.chosen else "the fastest that runs this problem")
        for note in (*getattr(problem, "notes", ()), *plan.notes):
            history.note("note", note, "")
    else:
        loop.coming = [p for p in plans if p[0] > earlier.step]
        differs = differing(earlier.numerics, loop.numerics)
        history.note("resume", earlier.step, f"within tolerance, not to the bit: {differs}" if differs else "to the bit: the same versions, device and threads")
    shown = progress_for(given.progress, plans[-1][1].steps)
    try:
        if live is not None:
            live.found = live.found or found
            live.open(plans[-1][1] if earlier is not None else plan, problem, history)
        run = loop.run(given.start, shown, interrupt, earlier)
    finally:
        shown.close()
    run.found = found or (live.found if live is not None else None)
    if live is not None and not came_open:  # a folder that came open is finished by whoever opened it
        live.finish(run)
    if run.outcome is Outcome.Diverged:
        raise diverged(problem, run.plan, run, loop.failed_at or 0, loop.failure)
    if interrupt.received is not None and not interactive():  # also when it came during the last update: never swallowed
        raise ended_by(interrupt.received, run)
    return run


def _belongs(plan: Plan, problem: Any) -> None:
    if plan.rows is not None and plan.rows != problem.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}; make it with Plan(problem, ...)")
    if plan.rows is None and problem.rows is not None and problem.rows > 1:
        raise PlanMismatch(f"the plan does not know its rows and the problem has {problem.rows:,}: make it with Plan(problem, ...)")


def _with_rate(given: Given, valid: Any, history: History, interrupt: Interrupt) -> tuple[tuple[tuple[int, Plan], ...], Any]:
    """The plans with the first one's learning rate found, where it is auto, and what was found."""
    plans, plan = given.plans, given.plans[0][1]
    if not plan.lr_is_auto:
        return plans, None
    from fallline.advice.lr import find_lr

    try:
        with interrupt.leaving():
            found = find_lr(given.problem, plan, valid=valid.data if isinstance(valid, Validation) else valid, start=given.start)
    except Leaving:
        raise ended_by(interrupt.received or signal.SIGINT) from None
    history.note("lr", found.lr, found.verdict)
    return ((0, plan.with_lr(found)), *plans[1:]), found


def _validation(problem: Any, plan: Plan, valid: Any, judges: Sequence[Judge]) -> tuple[tuple[Any, tuple[Metric, ...]] | None, Length]:
    """The held-out problem and its metrics (those that a judge asks for among them), and the cadence."""
    if valid is None:
        return None, _cadence(plan, judges)
    given = valid if isinstance(valid, Validation) else Validation(valid)
    if given.every is not None and not isinstance(given.every, Length):
        raise InvalidValue(f"Validation(every={given.every!r}): expected a length with its unit, such as epochs(1) or steps(500)")
    held_out = problem.held_out(given.data)
    names = problem.usual_metrics if given.metrics is None else given.metrics
    metrics = [metric(m) for m in ([names] if isinstance(names, str) or callable(names) else names)]
    asked = [metric(j.metric) for j in judges if isinstance(j, EarlyStop) and j.metric is not None]
    metrics += [m for m in asked if m.name not in [n.name for n in metrics]]
    return (held_out, tuple(metrics)), _cadence(plan, judges) if given.every is None else given.every


def _cadence(plan: Plan, judges: Sequence[Judge]) -> Length:
    """Once an epoch; with full batches, where an epoch is one update, a hundred times in all."""
    if plan.clock.steps_per_epoch != 1:
        return EPOCH
    patience = [max(1, j.patience.in_steps(plan.clock)) for j in judges if isinstance(j, EarlyStop)]
    return steps(min([max(1, plan.steps // 100), *patience]))


def _judges(stop: Any, valid: Any) -> tuple[Judge, ...]:
    judges = () if stop is None else tuple(stop) if isinstance(stop, (list, tuple)) else (stop,)
    for judge in judges:
        if not hasattr(judge, "begin"):
            raise InvalidValue(f"stop={judge!r}: expected judges, such as EarlyStop(patience=epochs(3)) or TimeBudget('5m')")
        if isinstance(judge, EarlyStop) and valid is None:
            raise InvalidValue("EarlyStop needs a validation score: give train(..., valid=(X_valid, y_valid))")
    return (Explosion(), *judges)


def measure(problem: Any, point: Any, metrics: Sequence[Metric]) -> list[float]:
    """Metrics of a problem's own rows at a point."""
    return problem.measure(point, metrics)[1]


__all__ = ["Validation", "measure", "train"]
