"""`train`: the one loop. A plan is cut into segments, an engine runs them, judges look between them."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline.divergence import diverged, failed_loss
from fallline.engines import Engine, choose
from fallline.errors import InvalidValue, PlanMismatch
from fallline.history import History, Outcome
from fallline.interrupts import ended_by, interactive, watched
from fallline.judges import EarlyStop, Explosion, Judge, Replan, Stop, View
from fallline.lengths import Length, epochs, steps
from fallline.live import LiveFolder
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.progress import Progress, progress_for
from fallline.rows import Answer
from fallline.runs import Run

SEGMENT_SECONDS = 0.05
"""Aim for a segment's length, so that signals and time budgets are honoured in time. Cutting never changes a bit."""
PATH_SIZE, PATH_STEPS = 10, 100_000
"""A problem with at most this many parameters, that is not a model, keeps its path for at most this many updates."""

EPOCH = epochs(1)

Log = Callable[[dict[str, Any]], Any]


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
    plan: Plan,
    *,
    valid: Any = None,
    start: Any = None,
    stop: Judge | Sequence[Judge] | None = None,
    engine: Engine | None = None,
    save: str | Path | LiveFolder | None = None,
    resume: bool = False,
    log: Log | None = None,
    progress: bool | None = None,
) -> Run:
    """Carry out a plan on a problem.

    Args:
        problem: what to descend.
        plan: how; `lr=auto` in it is found by `find_lr` first.
        valid: (X, y), or a `Validation`.
        start: initial weights: a dict by parameter name, or a flat vector; left out, the problem's own.
        stop: judges, such as EarlyStop(patience=epochs(3)) or TimeBudget("5m").
        engine: left out, the fastest that runs the problem.
        save: a folder for the run: made at the start, its history written as it happens, complete at the end.
        resume: not available yet; a clear error says so.
        log: called with one flat dict per evaluation.
        progress: False silences; left out, as the place suggests.

    Raises:
        PlanMismatch: the plan's rows are not the problem's.
        Diverged: the loss left the finite numbers or exploded; carries the partial run.
        NoLearningRate: lr is auto and the range test has no answer.
        KeyboardInterrupt: interrupted in a script; carries the partial run as `.run`.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 10.0], start=[1.0, 1.0])
    >>> run = fl.train(problem, fl.Plan(problem, steps=200, optimizer=fl.SGD(lr=0.1)), progress=False)
    >>> run.outcome.name, bool(run.history.loss[-1] < 1e-15)
    ('Finished', True)
    """
    if resume:
        raise InvalidValue("resume=True: runs cannot be resumed in this version; leave it out to start anew")
    if plan.rows is not None and plan.rows != problem.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}; make it with Plan(problem, ...)")
    if plan.rows is None and problem.rows is not None and problem.rows > 1:
        raise PlanMismatch(f"the plan does not know its rows and the problem has {problem.rows:,}: make it with Plan(problem, ...)")
    live = save if save is None or isinstance(save, LiveFolder) else LiveFolder.claim(save)
    history = History()
    plan, found = _with_rate(problem, plan, history)
    valid = getattr(problem, "valid", None) if valid is None else valid
    judges = _judges(stop, valid)
    loop = _Loop(problem, plan, _validation(problem, plan, valid, judges), judges, engine or choose(problem), history, log)
    history.note("engine", loop.engine.name, "the fastest that runs this problem" if engine is None else "given")
    for note in (*getattr(problem, "notes", ()), *plan.notes):
        history.note("note", note, "")
    with watched() as interrupt:
        shown = progress_for(progress, plan.steps)
        try:
            if live is not None:
                live.open(plan, problem, history)
            run = loop.run(start, shown, interrupt)
        except BaseException:
            if live is not None:
                live.close()
            raise
        finally:
            shown.close()
        run.found = found
        if live is not None and live is not save:  # a folder that came open is finished by whoever opened it
            live.finish(run)
    if run.outcome is Outcome.Diverged:
        raise diverged(problem, plan, run, loop.failed_at or 0)
    if interrupt.received is not None and not interactive():  # also when it came during the last update: never swallowed
        raise ended_by(interrupt.received, run)
    return run


def _with_rate(problem: Any, plan: Plan, history: History) -> tuple[Plan, Any]:
    """The plan with its learning rate found, where it is auto, and what was found."""
    if not plan.lr_is_auto:
        return plan, None
    from fallline.advice.lr import find_lr

    found = find_lr(problem, plan)
    history.note("lr", found.lr, found.verdict)
    return plan.with_lr(found), found


def _validation(problem: Any, plan: Plan, valid: Any, judges: Sequence[Judge]) -> tuple[Any, tuple[Metric, ...], Length] | None:
    """The held-out problem, its metrics (those that a judge asks for among them), and the cadence."""
    if valid is None:
        return None
    given = valid if isinstance(valid, Validation) else Validation(valid)
    if given.every is not None and not isinstance(given.every, Length):
        raise InvalidValue(f"Validation(every={given.every!r}): expected a length with its unit, such as epochs(1) or steps(500)")
    held_out = problem.held_out(given.data)
    names = problem.usual_metrics if given.metrics is None else given.metrics
    metrics = [metric(m) for m in ([names] if isinstance(names, str) or callable(names) else names)]
    asked = [metric(j.metric) for j in judges if isinstance(j, EarlyStop) and j.metric is not None]
    metrics += [m for m in asked if m.name not in [n.name for n in metrics]]
    return held_out, tuple(metrics), _cadence(plan, judges) if given.every is None else given.every


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


class _Loop:
    """One run: the state, the best so far, the clock. `run` is the loop; the rest are its parts."""

    def __init__(self, problem, plan: Plan, valid, judges, engine: Engine, history: History, log: Log | None):
        self.problem, self.plan, self.valid, self.engine, self.history, self.log = problem, plan, valid, engine, history, log
        self.judges = [j.begin(plan.clock) for j in judges]
        chosen = next((metric(j.metric) for j in judges if isinstance(j, EarlyStop) and j.metric is not None), None)
        self.score = f"valid_{chosen.name}" if chosen else "valid_loss"
        self.sign = -1.0 if chosen and chosen.better == "higher" else 1.0
        self.best: tuple[float, Any, int] | None = None
        self.stopped = ""
        self.failed_at: int | None = None
        self.recent: list[np.ndarray] = []
        self.every = valid[2] if valid else _cadence(plan, judges)
        self.began = time.monotonic()
        keeps_path = problem.keeps_path and problem.layout.size <= PATH_SIZE and plan.steps <= PATH_STEPS
        self.path: list[np.ndarray] | None = [] if keeps_path else None

    def run(self, start: Any, shown: Progress, interrupt: Any) -> Run:
        plan, history = self.plan, self.history
        state: Any = self.engine.begin(start, plan.optimizer.start())
        outcome, length = Outcome.Finished, 64.0
        if self.path is not None:
            self.path.append(np.array(state.registers().w, np.float64))
        while state.step < plan.steps:
            a = state.step
            b = min(plan.steps, self._next_evaluation(a), a + (1 if self.path is not None else max(1, int(length))))
            began = time.perf_counter()
            result = self.engine.advance(state, plan.segment(a, b, self.problem.layout))
            length = min(max((b - a) * SEGMENT_SECONDS / max(time.perf_counter() - began, 1e-9), length / 8), length * 8)
            state = result.state
            self._note_engine()
            history.losses.append(result.trace.loss)
            self.recent.append(result.trace.loss)
            if self.path is not None:
                self.path.append(np.array(state.registers().w, np.float64))
            if result.stopped_at is not None:
                outcome, self.stopped, self.failed_at = Outcome.Diverged, result.reason, result.stopped_at
                history.failed = failed_loss(self.problem, plan, state, result.stopped_at)
                break
            evaluation = self._evaluate(state) if state.step in (plan.steps, self._next_evaluation(a)) else None
            if len(result.trace.loss):
                shown.show(state.step, float(result.trace.loss[-1]), evaluation)
            verdict = self._judged(View(state.step, result.trace.loss, evaluation))
            if state.step == plan.steps and not (verdict and verdict.outcome is Outcome.Diverged):
                break  # every update was made: finished, whatever else arrived meanwhile
            if isinstance(verdict, Stop):
                outcome, self.stopped = verdict.outcome, verdict.reason
                break
            if interrupt.received is not None:
                outcome, self.stopped = Outcome.Interrupted, f"interrupted by {signal.Signals(interrupt.received).name} after step {state.step}"
                break
        if outcome is Outcome.Diverged and self.failed_at is None:
            self.failed_at = state.step
        return self._finish(state, outcome)

    def _note_engine(self) -> None:
        """What the engine had to decide by itself goes into the journal, once."""
        notes = getattr(self.engine, "notes", None)
        while notes:
            self.history.note(*notes.pop(0))

    def _next_evaluation(self, step: int) -> int:
        """The first update after `step` at which the run is measured."""
        every = self.every
        if every.unit == "epochs" and self.plan.clock.steps_per_epoch is None:
            return self.plan.steps
        count = max(1, every.in_steps(self.plan.clock))
        return (step // count + 1) * count

    def _evaluate(self, state: Any) -> dict[str, Any]:
        """Measure the answer on the held-out data; keep the best."""
        done, plan = state.step, self.plan
        recent, self.recent = np.concatenate(self.recent), []
        entry: dict[str, Any] = {
            "step": done,
            "epoch": done / plan.steps_per_epoch if plan.steps_per_epoch else None,
            "seconds": round(time.monotonic() - self.began, 4),
            "lr": float(plan.lr_at(np.array([done - 1]))[0]),
            "loss": float(recent.mean()) if len(recent) else math.nan,
        }
        if self.valid:
            held_out, metrics, _ = self.valid
            point = self.engine.answer(state, plan.optimizer.answer())
            entry["valid_loss"], values = held_out.measure(point, metrics)
            entry |= {f"valid_{m.name}": v for m, v in zip(metrics, values, strict=True)}
            score = self.sign * entry[self.score]
            if self.best is None or math.isnan(self.best[0]) or score < self.best[0]:
                self.best = (score, point, done)
        if self.valid or self.path is None:
            self.history.measured(entry)
            if self.log is not None:
                self.log(dict(entry))
        return entry

    def _judged(self, view: View) -> Stop | None:
        for judge in self.judges:
            verdict = judge(view)
            if isinstance(verdict, Replan):
                raise InvalidValue("a judge asked for another plan in mid-run: that is not available yet")
            if isinstance(verdict, Stop):
                return verdict
        return None

    def _finish(self, state: Any, outcome: Outcome) -> Run:
        problem, rule = self.problem, self.plan.optimizer
        averaged = rule.average is not None
        last = self.engine.answer(state, Answer() if averaged else rule.answer())
        mean = self.engine.answer(state, rule.answer()) if averaged else None
        self.engine.settle(state, rule.answer())
        if self.path is not None:
            self.history.path = np.array(self.path)
        if self.best is not None:
            self.history.note("best", self.best[2], f"the update with the best {self.score.replace('_', ' ')}")
        self.history.note("outcome", outcome.name, self.stopped or str(outcome))
        return Run(
            plan=self.plan,
            model=problem.model,
            weights=problem.named(last),
            best=None if self.best is None else problem.named(self.best[1]),
            averaged=None if mean is None else problem.named(mean),
            history=self.history,
            outcome=outcome,
            reason=self.stopped or str(outcome),
            problem_fingerprint=self.problem.fingerprint,
            problem=self.problem,
        )


def measure(problem: Any, point: Any, metrics: Sequence[Metric]) -> list[float]:
    """Metrics of a problem's own rows at a point."""
    return problem.measure(point, metrics)[1]


__all__ = ["Validation", "measure", "train"]
