"""The loop: plans are cut into segments, an engine runs them, judges look between them.

Cutting never changes a bit, so segments end wherever something wants to look: an evaluation, a state to be kept, another
plan, a signal.
"""

from __future__ import annotations

import math
import signal
import time
from functools import cached_property
from typing import Any

import numpy as np

from fallline.divergence import Failure, failure
from fallline.errors import InvalidValue
from fallline.history import History, Outcome
from fallline.interrupts import Interrupt, Leaving
from fallline.judges import Replan, Skip, Stop, View
from fallline.plan import Plan
from fallline.progress import Progress
from fallline.retreat import Moment, good_states
from fallline.rows import Answer
from fallline.runs import Run
from fallline.runs.keeper import Keeper, Snapshot, numerics
from fallline.task import Task

SEGMENT_SECONDS = 0.05
"""Aim for a segment's length, so that signals and time budgets are honoured in time."""
PATH_SIZE, PATH_STEPS = 10, 100_000
"""A problem with at most this many parameters, that is not a model, keeps its path for at most this many updates."""

Verdicts = Stop | Replan | Skip
Plans = list[tuple[int, Plan]]
"""Plans and the updates from which they are carried out, the first from 0."""


class Loop:
    """One run: the plans in force, the best so far, the clock. `run` is the loop; the rest are its parts."""

    def __init__(self, task: Task, history: History, keeper: Keeper | None = None):
        self.task, self.problem, self.engine, self.history, self.keeper = task, task.problem, task.engine, history, keeper
        self.interrupt = Interrupt()
        self.plans: Plans = [task.plans[0]]
        self.coming: Plans = list(task.plans[1:])
        self.asked = self.plan
        self.best: tuple[float, dict[str, np.ndarray], int] | None = None
        self.reason = ""
        self.measured = 0
        self.failed_at: int | None = None
        self.failure: Failure | None = None
        self.replans = 0
        self.began = time.monotonic()
        self.good = good_states(task.judges, self.plan.clock)
        keeps_path = self.problem.keeps_path and self.problem.layout.size <= PATH_SIZE and self.plan.steps <= PATH_STEPS
        self.path: list[np.ndarray] | None = [] if keeps_path else None
        self._begin_judges()

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What decides about this run's bits."""
        return numerics(self.engine)

    @property
    def plan(self) -> Plan:
        """The plan that is being carried out."""
        return self.plans[-1][1]

    @property
    def _total(self) -> int:
        """Updates of the last plan that is known of."""
        return (self.coming or self.plans)[-1][1].steps

    @property
    def _recorded(self) -> bool:
        """Whether evaluations are written down: not those of a path without validation, which would say nothing more."""
        return self.task.valid is not None or self.path is None

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self, start: Any, shown: Progress, interrupt: Interrupt, earlier: Snapshot | None = None) -> Run:
        """Carry the plans out to their end, or to where a judge, a signal or a divergence ends it.

        Args:
            start: initial weights, or None.
            shown: what shows how far it is.
            interrupt: what notes signals.
            earlier: where to go on; None begins anew.
        """
        self.interrupt = interrupt
        state = self._begin(start) if earlier is None else self._go_on(earlier)
        outcome, length, verdict = None, 1.0, self._owed(state)  # a first update may take long: nobody knows yet
        while outcome is None:
            if isinstance(verdict, Skip):
                verdict = self._skipped(state, verdict)
            if isinstance(verdict, Replan):
                state, verdict = self._replanned(state, verdict)
            outcome = self._ended(state, verdict)
            if outcome is not None:
                break
            if self.keeper is not None and self.keeper.due(state.step, self.plan.clock) and verdict is None:
                self.keeper.save(self._snapshot(state))
            self._turn(state)
            a = state.step
            b = self._segment_end(a, length)
            began = time.perf_counter()
            result = self.engine.advance(state, self.plan.segment(a, b, self.problem.layout))
            length = min(max((b - a) * SEGMENT_SECONDS / max(time.perf_counter() - began, 1e-9), length / 8), length * 8)
            state = result.state
            evaluation, verdict = self._looked(state, a, result)
            if len(result.trace.loss):
                shown.show(state.step, float(result.trace.loss[-1]), evaluation)
        if outcome is Outcome.Diverged and self.failed_at is None:
            self.failed_at = state.step
        if self.keeper is not None:
            self.keeper.save(self._snapshot(state))
        return self._finish(state, outcome)

    def _ended(self, state: Any, verdict: Stop | None) -> Outcome | None:
        """How the run has ended, or None where it goes on."""
        if state.step >= self._total and not (verdict and verdict.outcome in (Outcome.Diverged, Outcome.Interrupted)):
            return Outcome.Finished  # every update was made and measured: finished, whatever else arrived meanwhile
        if verdict is not None:
            self.reason = verdict.reason
            return verdict.outcome
        if self.interrupt.received is not None:
            self.reason = self._interrupted(state)
            return Outcome.Interrupted
        return None

    def _interrupted(self, state: Any) -> str:
        return f"interrupted by {signal.Signals(self.interrupt.received or signal.SIGINT).name} after step {state.step}"

    def _begin(self, start: Any) -> Any:
        state: Any = self.engine.begin(start, self.plan.optimizer.start())
        if self.path is not None:
            self.path.append(np.array(state.registers().w, np.float64))
        if self.good is not None:
            self.good.kept.append(self._moment(state))
        return state

    def _go_on(self, earlier: Snapshot) -> Any:
        """As the run was when the snapshot was made. `history` is the snapshot's own already."""
        self.plans, self.asked = list(earlier.plans), earlier.asked
        self.coming = [(step, plan) for step, plan in self.coming if step >= earlier.step]
        self.best, self.replans, self.began = earlier.moment.best, earlier.replans, time.monotonic() - earlier.seconds
        if self.good is not None:
            self.good = earlier.good or self.good
        if self.path is not None and self.history.path is not None:
            self.path = list(self.history.path)
        else:
            self.path = self.history.path = None
        state = self.engine.unpack(earlier.moment.packed, self.plan.optimizer.start())
        if self.plans[-1][0] == earlier.step > 0:
            _reorder(state, *(plan for _, plan in self.plans[-2:]))
        if self.good is not None and not self.good.kept:
            self.good.kept.append(self._moment(state))
        self._show_again(earlier.step)
        return state

    def _owed(self, state: Any) -> Verdicts | None:
        """The evaluation of a state that goes on from a snapshot, where a signal had cut it off."""
        step = state.step
        if step == 0 or not self._recorded or self.measured == step or step != min(self._next_evaluation(step - 1), self.plan.steps):
            return None
        return self._measured(state, np.empty(0))[1]

    def _segment_end(self, a: int, length: float) -> int:
        ends = [self.plan.steps, self._next_evaluation(a), a + (1 if self.path is not None else max(1, int(length)))]
        if self.good is not None:
            ends.append(self.good.following(a))
        if self.coming:
            ends.append(self.coming[0][0])
        if self.keeper is not None and (due := self.keeper.following(a, self.plan.clock)) is not None:
            ends.append(due)
        return min(ends)

    def _looked(self, state: Any, a: int, result: Any) -> tuple[dict[str, Any] | None, Verdicts | None]:
        """Write down what a segment from update `a` gave, measure where it is time, and ask the judges."""
        losses = result.trace.loss
        self._note_engine()
        self.history.losses.append(losses)
        if self.path is not None:
            self.path.append(np.array(state.registers().w, np.float64))
        if result.stopped_at is not None:
            self.failed_at = result.stopped_at
            self.failure = failure(self.problem, self.plan, state, result.stopped_at)
            self.history.failed, first = self.failure.loss, self.failure.first
            return None, self._rescued(losses, result.stopped_at, f"{result.reason}, first {first}" if first else result.reason, broke=True)
        if state.step not in (self.plan.steps, self._next_evaluation(a)):
            verdict = self._judged(View(state.step, losses, None, **self._now()))
            return None, self._weighed(state, verdict)
        return self._measured(state, losses)

    def _measured(self, state: Any, losses: np.ndarray) -> tuple[dict[str, Any] | None, Verdicts | None]:
        """Measure the state and ask the judges; a signal may cut that off, and then it is owed."""
        try:
            evaluation = self._evaluate(state)
        except Leaving:
            return None, Stop(Outcome.Interrupted, self._interrupted(state))
        verdict = self._judged(View(state.step, losses, evaluation, **self._now()))
        return evaluation, self._weighed(state, verdict)

    def _weighed(self, state: Any, verdict: Verdicts | None) -> Verdicts | None:
        """A verdict, after those who could save a diverged run were asked; and, without one, a look whether the state is good."""
        if isinstance(verdict, Stop) and verdict.outcome is Outcome.Diverged:
            return self._rescued(np.empty(0), state.step, verdict.reason)
        if self.good is not None and verdict is None and state.step % self.good.every == 0:
            self.good.consider(self.history.since(0), lambda: self._moment(state))
        return verdict

    def _note_engine(self) -> None:
        """What the engine had to decide by itself goes into the journal, once."""
        notes = getattr(self.engine, "notes", None)
        while notes:
            self.history.note(*notes.pop(0))

    # ----------------------------------------------------------------------------------------------- evaluations

    def _next_evaluation(self, step: int) -> int:
        """The first update after `step` at which the run is measured."""
        every = self.task.every
        if every.unit == "epochs" and self.plan.clock.steps_per_epoch is None:
            return self.plan.steps
        count = max(1, every.in_steps(self.plan.clock))
        return (step // count + 1) * count

    def _evaluate(self, state: Any) -> dict[str, Any]:
        """Measure the answer on the held-out data; keep the best."""
        done, plan = state.step, self.plan
        recent = self.history.since(self.measured)
        entry: dict[str, Any] = {
            "step": done,
            "epoch": done / plan.steps_per_epoch if plan.steps_per_epoch else None,
            "seconds": round(time.monotonic() - self.began, 4),
            "lr": float(plan.lr_at(np.array([done - 1]))[0]),
            "loss": float(recent.mean()) if len(recent) else math.nan,
        }
        if self.task.valid:
            held_out, metrics = self.task.valid
            with self.interrupt.leaving():
                point = self.engine.answer(state, plan.optimizer.answer())
                entry["valid_loss"], values = held_out.measure(point, metrics)
            entry |= {f"valid_{m.name}": v for m, v in zip(metrics, values, strict=True)}
            name, sign = self.task.score
            score = sign * entry[name]
            if self.best is None or math.isnan(self.best[0]) or score < self.best[0]:
                self.best = (score, self.problem.named(point), done)
        self.measured = done
        if self._recorded:
            self.history.measured(entry)
            if self.task.log is not None:
                self.task.log(dict(entry))
        return entry

    # ---------------------------------------------------------------------------------------------------- judges

    def _begin_judges(self) -> None:
        self.judges = [judge.begin(self.plan.clock) for judge in self.task.judges]

    def _now(self) -> dict[str, Any]:
        return {"plan": self.plan, "seconds": time.monotonic() - self.began, "replans": self.replans, "skipped": self._skips()}

    def _skips(self) -> int:
        return sum(entry["what"] == "skip" for entry in self.history.journal)

    def _judged(self, view: View) -> Verdicts | None:
        for judge in self.judges:
            verdict = judge(view)
            if isinstance(verdict, (Stop, Replan, Skip)):
                return verdict
        return None

    def _rescued(self, losses: np.ndarray, at: int, reason: str, broke: bool = False) -> Verdicts:
        """What the judges say to a descent that has diverged at an update: go on otherwise, or let it be.

        Args:
            losses: those that no judge has seen yet.
            broke: whether the update was not made because its loss or gradient was not finite.
        """
        return self._judged(View(at, losses, None, failed=reason, broke=broke, **self._now())) or Stop(Outcome.Diverged, reason)

    def _show_again(self, upto: int) -> None:
        """Have the judges begin anew and see what has been until update `upto`, evaluation by evaluation."""
        current, self.plans = self.plans, self.plans[:1]
        self._begin_judges()
        self.measured = 0
        entries, losses, a = {e["step"]: e for e in self.history.evaluations}, self.history.since(0), 0
        switches = list(current[1:])
        while a < upto:
            while switches and switches[0][0] <= a:
                self.plans.append(switches.pop(0))
            due = min(self._next_evaluation(a), self.plan.steps)
            b = min(upto, due, *[step for step, _ in switches])
            seen = entries.get(b, None if self._recorded else {"step": b}) if b == due else None  # None: a signal cut it off
            self._judged_all(View(b, losses[a:b], seen, plan=self.plan))
            self.measured = b if seen is not None else self.measured
            a = b
        self.plans = current

    def _judged_all(self, view: View) -> None:
        for judge in self.judges:  # their verdicts were acted on when they were new
            judge(view)

    # ------------------------------------------------------------------------------------------------ other plans

    def _skipped(self, state: Any, verdict: Skip) -> Verdicts | None:
        """Leave the update out whose batch broke: it uses up its t, its loss stands as it was, the registers are untouched."""
        for word in ("settle", "reordered"):  # what a state knew of the update that is not made
            getattr(state, word, lambda: None)()
        at, state.step, self.failed_at, self.failure = state.step, state.step + 1, None, None
        failed, self.history.failed = self.history.failed, None
        self.history.note("skip", at, f"{verdict.reason}; rows {self._rows_shown(at)}")
        losses = np.array([math.nan if failed is None else failed])
        self.history.losses.append(losses)
        if self.path is not None:
            self.path.append(np.array(state.registers().w, np.float64))
        if state.step in (self.plan.steps, self._next_evaluation(at)):
            return self._measured(state, losses)[1]
        return self._weighed(state, self._judged(View(state.step, losses, None, **self._now())))

    def _rows_shown(self, step: int) -> str:
        if self.plan.rows is None:
            return "of the stream's batch"
        rows = self.plan.segment(step, step + 1, self.problem.layout).batch(0)
        return "all" if rows is None else ", ".join(map(str, rows[:10])) + (" ..." if len(rows) > 10 else "")

    def _turn(self, state: Any) -> None:
        """Open loop: take up the next plan of a journal where it begins."""
        while self.coming and self.coming[0][0] == state.step:
            self._take_up(state, *self.coming.pop(0))
            self.history.note("replan", state.step, "as in the journal")

    def _take_up(self, state: Any, step: int, plan: Plan) -> None:
        _reorder(state, self.plan, plan)
        self.plans = [(s, p) for s, p in self.plans if s < step] + [(step, plan)]

    def _replanned(self, state: Any, verdict: Replan) -> tuple[Any, Stop | None]:
        """Go on with another plan, from a kept state where that is asked for; or stop there, where the data are at fault."""
        plan, at = verdict.plan, self.failed_at if self.failed_at is not None else state.step
        if plan.rows != self.plan.rows:
            raise InvalidValue(f"a judge asked for a plan of {plan.rows} rows and this run has {self.plan.rows}: give one for the same rows")
        self.replans += 1
        why = verdict.reason
        if verdict.back:
            if self.good is None:
                raise InvalidValue("a judge asked to go back and keeps no states: give it keep=, a length such as fraction(0.02)")
            state = self._back(self.good.back())
            if not self._bearable(state, at):
                where = f"{verdict.reason}, and neither are they at the weights of update {state.step}, which are good: look at this batch, not at the rate"
                return state, Stop(Outcome.Diverged, where)
            old, new = (float(p.lr_at(np.array([min(state.step, p.steps - 1)]))[0]) for p in (self.plan, plan))
            why = f"{why} at update {at}; back to update {state.step}, lr {old:.4g} -> {new:.4g}"
        if plan.steps <= state.step:
            raise InvalidValue(f"a judge asked for a plan of {plan.steps} updates after {state.step} were made: give a longer one")
        self._take_up(state, state.step, plan)
        self.history.note("rollback" if verdict.back else "replan", state.step, why)
        if verdict.back:
            self._show_again(state.step)
        self.failed_at = self.failure = None
        return state, None

    def _bearable(self, state: Any, at: int) -> bool:
        """Whether the batch of update `at` has a finite loss and gradient at this state; True where that cannot be told."""
        if self.plan.rows is None or at >= self.plan.steps:
            return True
        with np.errstate(all="ignore"):
            loss, gradient = self.problem.gradient(state.registers().w.astype(np.float64), self.plan.segment(at, at + 1, self.problem.layout).batch(0))
        return math.isfinite(loss) and bool(np.isfinite(gradient).all())

    def _moment(self, state: Any) -> Moment:
        return Moment(self.engine.pack(state), self.best)

    def _snapshot(self, state: Any) -> Snapshot:
        if self.path is not None:
            self.history.path = np.array(self.path)
        return Snapshot(
            self._moment(state), list(self.plans), self.asked, self.history, self.good, time.monotonic() - self.began, self.replans,
            self.problem.fingerprint, self.numerics,
        )  # fmt: skip

    def _back(self, moment: Moment) -> Any:
        """As the run was at a kept moment."""
        self.history.go_back(moment.step)
        if self.path is not None:
            del self.path[moment.step + 1 :]
        self.best = moment.best
        self.plans = [(s, p) for s, p in self.plans if s <= moment.step] or self.plans[:1]
        return self.engine.unpack(moment.packed, self.plan.optimizer.start())

    # ------------------------------------------------------------------------------------------------------- the end

    def _finish(self, state: Any, outcome: Outcome) -> Run:
        problem, rule = self.problem, self.plan.optimizer
        averaged = rule.average is not None
        last = self.engine.answer(state, Answer() if averaged else rule.answer())
        mean = self.engine.answer(state, rule.answer()) if averaged else None
        self.engine.settle(state, rule.answer())
        if self.path is not None:
            self.history.path = np.array(self.path)
        if self.best is not None:
            self.history.note("best", self.best[2], f"the update with the best {self.task.score[0].replace('_', ' ')}")
        self.history.note("outcome", outcome.name, self.reason or str(outcome))
        return Run(
            plan=self.plan,
            model=problem.model,
            weights=problem.named(last),
            best=None if self.best is None else self.best[1],
            averaged=None if mean is None else problem.named(mean),
            history=self.history,
            outcome=outcome,
            reason=self.reason or str(outcome),
            problem_fingerprint=problem.fingerprint,
            problem=problem,
            plans=tuple(self.plans),
        )


def _reorder(state: Any, before: Plan, after: Plan) -> None:
    """Tell a state where the rows to come are others from here on."""
    if any(getattr(before, name) != getattr(after, name) for name in ("rows", "batch_size", "seed")):
        getattr(state, "reordered", lambda: None)()


__all__ = ["Loop"]
