"""`compare`: several optimizers or plans on one problem, in one picture and one table."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.comparing.comparison import Comparison, Curve, Variant
from fallline.comparing.contenders import (
    Common,
    Contender,
    Finder,
    begun,
    contender,
    named,
    planned,
    rows_read,
)
from fallline.comparing.measuring import MeasuringEngine, points
from fallline.engines import choose
from fallline.errors import Diverged, InvalidValue, NoLearningRate
from fallline.history import Outcome
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.problems import FunctionProblem
from fallline.progress import progress_for
from fallline.report.side_by_side import peak_lr
from fallline.training import Validation, train

MOST_POINTS, FEWEST_POINTS = 100, 20
"""Measurements along a run; fewer on large data, where each reads all rows."""
WORK = 1e9
"""Multiplications that the measurements of one run may take before they are made fewer."""
WHOLE_PATH = 2000
"""A function of two parameters is measured at each of so many updates, so that its path is whole."""


def compare(
    problem: Any,
    variants: Any,
    *,
    seeds: int = 5,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | Batches | None = None,
    start: Any = None,
    valid: Any = None,
    find: Finder | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Let several variants descend the same problem from the same start, and measure them alike.

    Law: every variant is measured by the loss over *all* training rows (not by that of its own batches), at many updates,
    outside of its clock. A variant whose lr is `auto` runs at the rate that `find_lr` finds for it. Its line is the
    median over seeds, its band their range. One that diverges is shown as diverged; the others do not notice. A module is
    left as it was.

    Args:
        problem: what to descend.
        variants: {"name": optimizer, Plan or a variant's name}, or a list of names: batch, sgd, minibatch, momentum, nesterov, cosine, ...
        seeds: runs of each variant, with the plan's seed and those after it; one where nothing is drawn.
        epochs, steps, batch_size: of bare optimizers, as in `Plan`; left out, 20 epochs (100 steps of a function) and batches of 64.
        start: initial weights of all variants; left out, the problem's own.
        valid: (X, y) held out, or a `Validation`: measured beside the training loss.
        find: f(problem, plan) that gives the rate of a plan whose lr is auto; left out, `find_lr`.
        progress: as for `train`.

    Raises:
        UnknownName: a variant's name that does not exist.
        NoLearningRate: no variant could run.

    >>> import fallline as fl
    >>> fl.compare(fl.quadratic([1, 10]), {"plain": fl.SGD(lr=.1), "momentum": fl.SGD(lr=.1, momentum=.5)}, steps=40, progress=False)
    Comparison(plain=0.0001092, momentum=5.659e-14)
    """
    if isinstance(seeds, bool) or not isinstance(seeds, (int, np.integer)) or seeds < 1:
        raise InvalidValue(f"seeds={seeds!r}: expected a whole number of at least 1")
    if epochs is not None and steps is not None:
        raise InvalidValue(f"compare(epochs={epochs!r}, steps={steps!r}): give one of them")
    given = named(variants)
    problem, begin = begun(problem, start)
    common = Common(epochs, steps, batch_size)
    plans = {name: planned(problem, name, value, common) for name, value in given.items()}
    held_out, which = _held_out(problem, valid)
    contenders = [contender(problem, name, plan, int(seeds), find) for name, plan in plans.items()]
    if all(c.refusal for c in contenders):
        raise NoLearningRate("; ".join(f"{c.name}: {c.refusal}" for c in contenders))
    shown = progress_for(progress, sum(c.plan.steps * len(c.seeds) for c in contenders))
    work = _Work(problem, begin, held_out, which, shown, _Module(problem))
    try:
        return Comparison(problem, tuple(work.run(c) for c in contenders), which)
    finally:
        work.module.put_back()
        shown.close()


@dataclass
class _Work:
    """What the variants share: the problem, the start, what they are measured on, and the bar that shows how far they are."""

    problem: Any
    begin: Any
    held_out: Any
    metric: Metric | None
    shown: Any
    module: _Module
    done: int = 0

    def run(self, c: Contender) -> Variant:
        """All runs of one variant."""
        if c.refusal:
            return Variant(c.name, c.plan, None, c.lr_source, (), None, note=f"not run: {c.refusal}")
        runs, seen, notes = [], [], []
        for plan in c.plans():
            engine = self._engine(plan)
            try:
                run = train(self.problem, plan, start=self.begin, engine=engine, progress=False)
            except Diverged as error:
                run = error.run
                assert run is not None
                notes.append(_why(self.problem, plan, error))
            if run.outcome is Outcome.Interrupted:
                raise KeyboardInterrupt(run.reason)
            runs.append(run)
            seen.append(engine)
            self.done += plan.steps
            self.shown.show(self.done, float(engine.seen.values[-1][0]), None)
        curve = _curve(c.plan, seen)
        lost = int(np.sum(~np.isfinite(curve.loss[:, -1])))
        notes += ["diverged: the loss at its last update is not finite"] if lost > len(notes) else []
        note = "" if not lost else notes[0] if len(runs) == 1 else f"{lost} of {len(runs)} runs diverged; the first: {notes[0]}"
        source = c.lr_source + (f", {c.cost:,} updates" if c.cost else "")
        paths = tuple(np.array(e.seen.answers) for e in seen) if seen[0].keep else ()
        return Variant(c.name, c.plan, peak_lr(c.plan), source, tuple(runs), curve, _score(seen), paths, note)

    def _engine(self, plan: Plan) -> MeasuringEngine:
        layout = self.problem.layout
        keep = isinstance(self.problem, FunctionProblem) and layout.size == 2
        most = self.most(self.problem)
        at = np.arange(1, plan.steps + 1) if keep and plan.steps <= WHOLE_PATH else points(plan.steps, most)
        score = None if self.metric is None else lambda point: self.held_out.measure(point, [self.metric])[1][0]
        engine = MeasuringEngine(choose(self.problem), plan, layout, at, self._look, keep=keep, score=score)
        self.module.put_back()
        engine.warm(self.begin)
        self.module.put_back()
        return engine

    @staticmethod
    def most(problem: Any) -> int:
        """How many measurements a run gets: by the work of one, not by its time, which would not be the same twice."""
        if not hasattr(problem, "features"):
            return MOST_POINTS
        one = (problem.X.nnz if problem.sparse else problem.rows * problem.features) * problem.outputs
        return int(np.clip(WORK / one, FEWEST_POINTS, MOST_POINTS))

    def _look(self, point: Any) -> tuple[float, ...]:
        loss = self.problem.measure(point, ())[0]
        return (loss,) if self.held_out is None else (loss, self.held_out.measure(point, ())[0])


class _Module:
    """The state of a problem's module, to put back before each run and at the end; nothing for other problems."""

    def __init__(self, problem: Any):
        model = getattr(problem, "model", None)
        self._model = model if hasattr(model, "load_state_dict") else None
        self._state = None if self._model is None else copy.deepcopy(self._model.state_dict())

    def put_back(self) -> None:
        if self._model is not None:
            self._model.load_state_dict(self._state)


def _score(engines: list[MeasuringEngine]) -> float | None:
    """The metric's median over the seeds that reached the end."""
    scores = [e.scored for e in engines if e.scored is not None]
    return float(np.median(scores)) if scores else None


def _held_out(problem: Any, valid: Any) -> tuple[Any, Metric | None]:
    """The held-out rows as a problem, and their metric."""
    if valid is None:
        return None, None
    given = valid if isinstance(valid, Validation) else Validation(valid)
    data = problem.held_out(given.data)
    wanted = given.metrics if given.metrics is not None else problem.usual_metrics
    first = wanted if callable(wanted) or isinstance(wanted, str) else next(iter(wanted), None)
    return data, None if first is None else metric(first)


def _curve(plan: Plan, engines: list[MeasuringEngine]) -> Curve:
    """The measurements of all seeds side by side; where a run ended early, the loss is infinite."""
    longest = max((e.seen.updates for e in engines), key=len)
    updates = np.array(longest, np.int64)
    if any(e.seen.updates[-1] != plan.steps for e in engines) and updates[-1] != plan.steps:
        updates = np.append(updates, updates[-1] + 1)  # the update that failed: all runs diverged
    values = np.full((2, len(engines), len(updates)), np.inf)
    seconds = np.full((len(engines), len(updates)), np.nan)
    for i, e in enumerate(engines):
        n = len(e.seen.updates)
        seconds[i, :n] = e.seen.seconds
        seconds[i, n:] = e.seconds
        for k, look in enumerate(zip(*e.seen.values, strict=True)):
            values[k, i, :n] = np.where(np.isfinite(look), look, np.inf)
    held = values[1] if len(engines[0].seen.values[0]) > 1 else None
    return Curve(updates, rows_read(plan, updates), np.median(seconds, axis=0), values[0], held)


def _why(problem: Any, plan: Plan, error: Diverged) -> str:
    """Why a run diverged: where a function's curvature tells the edge, by that."""
    if isinstance(problem, FunctionProblem):
        found = plan.stability(problem)
        if not found.stable:
            first = int(np.argmax(found.above))
            where = f"lr {found.lr[first]:.4g} is above its edge {found.edge[first]:.4g} ({found.curvature})"
            return f"diverged at update {error.step}: {where}"
    return f"diverged at update {error.step}; {error.cause}" if error.cause else f"diverged at update {error.step}"


__all__ = ["Comparison", "compare"]
