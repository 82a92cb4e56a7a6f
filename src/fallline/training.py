"""`train`: the one loop. A plan is cut into segments, an engine runs them, judges look between them."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline import run_folder
from fallline.engines import Engine, choose
from fallline.errors import Diverged, InvalidValue, PlanMismatch, UnknownName
from fallline.history import History, Outcome, State
from fallline.interrupts import interactive, watched
from fallline.judges import EarlyStop, Explosion, Judge, Replan, Stop, View
from fallline.layout import Layout
from fallline.lengths import Length, epochs
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.problems import LinearProblem
from fallline.progress import Progress, progress_for
from fallline.rules import edge
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
        every: how often, with its unit; the last update is always measured.
    """

    data: Any
    metrics: Sequence[str | Metric | Callable[..., float]] | None = None
    every: Length = EPOCH


def train(
    problem: Any,
    plan: Plan,
    *,
    valid: Any = None,
    start: Any = None,
    stop: Judge | Sequence[Judge] | None = None,
    engine: Engine | None = None,
    save: str | Path | None = None,
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
        save: a folder for the run.
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
    if plan.rows is None and problem.rows > 1:
        raise PlanMismatch(f"the plan does not know its rows and the problem has {problem.rows:,}: make it with Plan(problem, ...)")
    folder = None if save is None else run_folder.fresh(save)
    history = History()
    plan = _with_rate(problem, plan, history)
    judges = _judges(stop, valid)
    loop = _Loop(problem, plan, _validation(problem, valid, judges), judges, engine or choose(problem), history, log)
    history.note("engine", loop.engine.name, "the fastest that runs this problem" if engine is None else "given")
    for note in (*getattr(problem, "notes", ()), *plan.notes):
        history.note("note", note, "")
    with watched() as interrupt:
        shown = progress_for(progress, plan.steps)
        try:
            run = loop.run(start, shown, interrupt)
        finally:
            shown.close()
    if folder is not None:
        run.save(folder)
    if run.outcome is Outcome.Diverged:
        raise loop.diverged(run)
    if interrupt.received is not None and not interactive():  # also when it came during the last update: never swallowed
        if interrupt.received == signal.SIGTERM:
            raise SystemExit(143)
        stopped = KeyboardInterrupt(run.reason)
        stopped.run = run  # type: ignore[attr-defined]
        raise stopped
    return run


def _with_rate(problem: Any, plan: Plan, history: History) -> Plan:
    """The plan with its learning rate found, where it is auto."""
    if not plan.lr_is_auto:
        return plan
    from fallline.advice.lr import find_lr

    found = find_lr(problem, plan)
    history.note("lr", found.lr, found.verdict)
    return plan.with_lr(found)


def _validation(problem: Any, valid: Any, judges: Sequence[Judge]) -> tuple[LinearProblem, tuple[Metric, ...], Length] | None:
    """The held-out problem, its metrics (those that a judge asks for among them), and the cadence."""
    if valid is None:
        return None
    given = valid if isinstance(valid, Validation) else Validation(valid)
    if not isinstance(problem, LinearProblem):
        raise InvalidValue(f"valid= needs a problem with data; this one is {problem.name}: leave valid out")
    if not isinstance(given.every, Length):
        raise InvalidValue(f"Validation(every={given.every!r}): expected a length with its unit, such as epochs(1) or steps(500)")
    names = given.metrics
    if names is None:
        names = ["accuracy"] if problem.loss.classifies else ["rmse", "r2"]
    metrics = [metric(m) for m in ([names] if isinstance(names, str) or callable(names) else names)]
    asked = [metric(j.metric) for j in judges if isinstance(j, EarlyStop) and j.metric is not None]
    metrics += [m for m in asked if m.name not in [n.name for n in metrics]]
    return _held_out(problem, given.data), tuple(metrics), given.every


def _held_out(problem: LinearProblem, data: Any) -> LinearProblem:
    """The validation data as a problem with the training problem's columns and classes."""
    if not isinstance(data, LinearProblem):
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise InvalidValue(f"valid= is a {type(data).__name__}: expected (X, y), (X, y, weights) or a problem of this kind")
        return problem.on(*data)
    if data.layout != problem.layout or data.loss.name != problem.loss.name:
        raise InvalidValue(f"valid={data!r} does not fit {problem!r}: give (X, y), or problem.on(X, y)")
    if problem.classes is not None and data.classes is not None and not np.array_equal(problem.classes, data.classes):
        raise InvalidValue(
            f"valid= has the classes {data.classes.tolist()[:6]} and the problem {problem.classes.tolist()[:6]}: "
            "make it with problem.on(X, y), which numbers them alike"
        )
    return data


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
        self.best: tuple[float, np.ndarray, int] | None = None
        self.stopped = ""
        self.failed_at: int | None = None
        self.seen_at_evaluation = 0
        self.began = time.monotonic()
        keeps_path = not isinstance(problem, LinearProblem) and problem.layout.size <= PATH_SIZE and plan.steps <= PATH_STEPS
        self.path: list[np.ndarray] | None = [] if keeps_path else None

    def run(self, start: Any, shown: Progress, interrupt: Any) -> Run:
        plan, history = self.plan, self.history
        state: Any = State.begin(self._initial(start), plan.optimizer.start())
        outcome, length = Outcome.Finished, 64.0
        if self.path is not None:
            self.path.append(np.array(state.w, np.float64))
        while state.step < plan.steps:
            a = state.step
            b = min(plan.steps, self._next_evaluation(a), a + (1 if self.path is not None else max(1, int(length))))
            began = time.perf_counter()
            result = self.engine.advance(state, plan.segment(a, b, self.problem.layout))
            length = min(max((b - a) * SEGMENT_SECONDS / max(time.perf_counter() - began, 1e-9), length / 8), length * 8)
            state = result.state
            history.losses.append(result.trace.loss)
            if self.path is not None:
                self.path.append(np.array(state.registers().w, np.float64))
            if result.stopped_at is not None:
                outcome, self.stopped, self.failed_at = Outcome.Diverged, result.reason, result.stopped_at
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
        return self._finish(state.registers(), outcome)

    def _initial(self, start: Any) -> np.ndarray:
        if start is None:
            return self.problem.start()
        return _start(self.problem.layout, start)

    def _next_evaluation(self, step: int) -> int:
        """The first update after `step` at which the run is measured."""
        every = self.valid[2] if self.valid else epochs(1)
        if every.unit == "epochs" and self.plan.clock.steps_per_epoch is None:
            return self.plan.steps
        count = max(1, every.in_steps(self.plan.clock))
        return (step // count + 1) * count

    def _evaluate(self, state: Any) -> dict[str, Any]:
        """Measure the answer on the held-out data; keep the best."""
        done, plan, loss = state.step, self.plan, self.history.loss
        recent = loss[self.seen_at_evaluation :]
        self.seen_at_evaluation = len(loss)
        entry: dict[str, Any] = {
            "step": done,
            "epoch": done / plan.steps_per_epoch if plan.steps_per_epoch else None,
            "seconds": round(time.monotonic() - self.began, 4),
            "lr": float(plan.lr_at(np.array([done - 1]))[0]),
            "loss": float(recent.mean()) if len(recent) else math.nan,
        }
        if self.valid:
            held_out, metrics, _ = self.valid
            flat = state.registers().answer(plan.optimizer.answer())
            entry["valid_loss"] = held_out.loss(flat)
            entry |= {f"valid_{m.name}": v for m, v in zip(metrics, measure(held_out, flat, metrics), strict=True)}
            score = self.sign * entry[self.score]
            if self.best is None or math.isnan(self.best[0]) or score < self.best[0]:
                self.best = (score, flat, done)
        if self.valid or self.path is None:
            self.history.evaluations.append(entry)
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

    def _finish(self, state: State, outcome: Outcome) -> Run:
        layout, rule = self.problem.layout, self.plan.optimizer
        averaged = rule.average is not None
        last = state.w if averaged else state.answer(rule.answer())
        if self.path is not None:
            self.history.path = np.array(self.path)
        if self.best is not None:
            self.history.note("best", self.best[2], f"the update with the best {self.score.replace('_', ' ')}")
        self.history.note("outcome", outcome.name, self.stopped or str(outcome))
        return Run(
            plan=self.plan,
            model=self.problem.model if isinstance(self.problem, LinearProblem) else None,
            weights=_named(layout, last),
            best=None if self.best is None else _named(layout, self.best[1]),
            averaged=_named(layout, state.answer(rule.answer())) if averaged else None,
            history=self.history,
            outcome=outcome,
            reason=self.stopped or str(outcome),
            problem_fingerprint=self.problem.fingerprint,
            problem=self.problem,
        )

    def diverged(self, run: Run) -> Diverged:
        """The error that says where it went wrong, and the likely cause."""
        step = self.failed_at or 0
        loss = run.history.loss
        rows = self.plan.segment(step, step + 1, self.problem.layout).batch(0) if step < self.plan.steps else None
        shown = () if rows is None else tuple(int(r) for r in rows[:10])
        value = f"loss {loss[-1]:.3g}" if len(loss) else "the first loss is not finite"
        where = f"row{'s' if len(shown) > 1 else ''} {', '.join(map(str, shown))}{' ...' if rows is not None and len(rows) > 10 else ''}" if shown else "all rows"
        cause = self._cause(step)
        text = f"Diverged: {value} before step {step} ({where}): {self.stopped}. {cause}"
        error = Diverged(text, step=step, rows=shown, cause=cause)
        error.run = run
        return error

    def _cause(self, step: int) -> str:
        lr = float(self.plan.lr_at(np.array([min(step, self.plan.steps - 1)]))[0])
        advice = f"lr was {lr:.3g}; try {lr / 10:.2g}"
        if not isinstance(self.problem, LinearProblem):
            return advice + "."
        curvature = self.problem.curvature()
        top = edge(self.plan.optimizer, curvature) if curvature else None
        if top and lr > top:
            momentum = getattr(self.plan.optimizer, "momentum", 0)
            advice = f"lr {lr:.3g} was above the edge {top:.3g} estimated for this data (curvature {curvature:.3g}, momentum {momentum}); try lr {0.5 * top:.2g}"
        scales = self.problem.scales()
        worst = int(np.argmax(scales))
        if scales[worst] > 10 * max(float(np.median(scales)), 1e-30) and scales[worst] > 3:
            return f"{advice}, or standardise {self.problem.feature_name(worst)} (scale {scales[worst]:.2g})."
        return advice + "."


def _start(layout: Layout, start: Any) -> np.ndarray:
    """Initial weights given by the user, flat and checked."""
    if isinstance(start, Mapping):
        for name in start:
            if name not in layout.names:
                raise UnknownName.among("parameter", str(name), layout.names)
        for p in layout.parameters:
            shape = np.shape(start[p.name]) if p.name in start else None
            if shape != p.shape:
                given = "is missing" if shape is None else f"has shape {shape}"
                raise InvalidValue(f"start[{p.name!r}] {given}: expected shape {p.shape}")
        flat = layout.join(start)
    else:
        flat = np.asarray(start, np.float64).reshape(-1)
    if len(flat) != layout.size:
        raise InvalidValue(f"start has {len(flat)} numbers and the problem {layout.size} parameters ({', '.join(layout.names)})")
    if not np.isfinite(flat).all():
        raise InvalidValue(f"start holds {flat[~np.isfinite(flat)][0]} at position {int(np.argmin(np.isfinite(flat)))}: expected finite numbers")
    return flat


def _named(layout: Any, flat: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in layout.split(np.asarray(flat)).items()}


def measure(problem: LinearProblem, flat: np.ndarray, metrics: Sequence[Metric]) -> list[float]:
    """Metrics of flat weights on a problem's own rows."""
    weights = problem.layout.split(flat)
    truth = problem.target.reshape(-1) if problem.outputs == 1 or problem.classes is not None else problem.target
    labels = problem.classes[truth.astype(np.intp)] if problem.classes is not None else truth
    out = []
    for m in metrics:
        if m.needs == "probabilities":
            out.append(m(truth.astype(np.intp), problem.predict_proba(weights, problem.X)))
        else:
            out.append(m(labels, problem.predict(weights, problem.X)))
    return out


__all__ = ["Validation", "measure", "train"]
