"""Judges look at a run between segments and say: go on, stop, or go on with another plan.

A judge is a frozen value with one method: `begin(clock)` gives a fresh verdict function, which keeps what it has to
remember for that run; so a judge can serve many runs. Where a run goes back or is resumed, judges begin again and are shown
what has been, evaluation by evaluation, so what they remember need not be saved.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fallline.errors import InvalidValue
from fallline.history import Outcome
from fallline.lengths import Clock, Length, fraction
from fallline.metrics import metric
from fallline.schedules import times


@dataclass(frozen=True)
class View:
    """What a judge sees.

    Args:
        step: updates made.
        losses: mean batch losses of the newest segment, float64.
        evaluation: the newest evaluation, if it was made just now, else None.
        plan: what is being carried out.
        seconds: how long the run has taken, all its parts together.
        failed: why the descent is about to be called diverged, or "": then `step` is the update that was not made.
        replans: how often the plan has been replaced so far.
        broke: whether update `step` was not made because its loss or gradient was not finite.
        skipped: how many updates have been left out so far.
    """

    step: int
    losses: np.ndarray
    evaluation: dict[str, Any] | None = None
    plan: Any = None
    seconds: float = 0.0
    failed: str = ""
    replans: int = 0
    broke: bool = False
    skipped: int = 0


@dataclass(frozen=True)
class Go:
    """Go on."""


@dataclass(frozen=True)
class Stop:
    """Stop here, with this outcome and reason."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Replan:
    """Go on with another plan: from here, or from the last good state that was kept (`back`).

    Attributes:
        plan: for the same rows; its update t goes on where the old plan's update t would have been.
        reason: for the journal.
        back: go back first; only judges that have `keep`, how often a good state is kept, may ask for it.
    """

    plan: Any
    reason: str
    back: bool = False


@dataclass(frozen=True)
class Skip:
    """Leave out the update whose batch broke, and go on."""

    reason: str


Verdict = Go | Stop | Replan | Skip
GO = Go()


class Judge(Protocol):
    """Anything with `begin`."""

    def begin(self, clock: Clock) -> Callable[[View], Verdict]: ...


@dataclass(frozen=True)
class EarlyStop:
    """Stop when the validation score has not improved for a while.

    Args:
        patience: how long to wait for an improvement, with its unit.
        metric: a metric's name; left out, the validation loss.
        min_delta: the least improvement that counts, in the metric's unit.

    >>> from fallline.lengths import epochs
    >>> EarlyStop(patience=epochs(3))
    EarlyStop(patience=epochs(3), metric=None, min_delta=0.0)
    """

    patience: Length
    metric: str | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.patience, Length):
            raise InvalidValue(f"EarlyStop(patience={self.patience!r}): expected a length with its unit, such as epochs(3)")
        if self.metric is not None:
            metric(self.metric)

    def begin(self, clock: Clock) -> Callable[[View], Verdict]:
        name = f"valid_{self.metric or 'loss'}"
        sign = 1.0 if self.metric is None or metric(self.metric).better == "lower" else -1.0
        patience = max(1, self.patience.in_steps(clock))
        best, since = math.inf, 0

        def look(view: View) -> Verdict:
            nonlocal best, since
            if view.failed or view.evaluation is None:
                return GO
            value = sign * view.evaluation.get(name, math.nan)
            if value < best - self.min_delta:
                best, since = value, view.step
            if view.step - since >= patience:
                return Stop(Outcome.EarlyStopped, f"{name} has not improved on {sign * best:.6g} since step {since}")
            return GO

        return look


@dataclass(frozen=True)
class Explosion:
    """The default guard beside the kernels' own: stop when the loss has grown far beyond where it began.

    It rules at evaluations only: they fall on the same updates however a plan is cut into segments, so the same plan
    stops at the same update on a fast machine and on a slow one. The beginning is the first epoch, at most 100 updates:
    one noisy example may have a loss near 0 by chance, many do not.

    Args:
        factor: how many times the largest loss of the beginning; a single noisy example does not count, because it is
            the median of as many updates that must lie above.
    """

    factor: float = 1e4

    def begin(self, clock: Clock) -> Callable[[View], Verdict]:
        beginning = min(100, clock.steps_per_epoch or 100)
        scale, seen, recent = 0.0, 0, np.empty(0)

        def look(view: View) -> Verdict:
            nonlocal scale, seen, recent
            losses = view.losses[np.isfinite(view.losses)]  # an update that was left out says nothing about the scale
            opening = losses[: max(beginning - seen, 0)]
            scale = max(scale, float(np.abs(opening).max())) if len(opening) else scale
            seen += len(losses)
            recent = np.concatenate([recent, losses])[-beginning:]
            if view.failed or view.evaluation is None or seen <= beginning:
                return GO
            level = float(np.median(recent))
            if scale > 0 and level > self.factor * max(scale, 1e-12):
                return Stop(Outcome.Diverged, f"the loss is {level:.3g}, {self.factor:g} times where it began")
            return GO

        return look


@dataclass(frozen=True)
class TimeBudget:
    """Stop when the time is used up.

    Args:
        seconds: a number of seconds, or a text such as "90s", "5m" or "2h".

    >>> TimeBudget("5m").seconds
    300.0
    """

    seconds: float | str

    def __post_init__(self) -> None:
        value = self.seconds
        if isinstance(value, str):
            found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|)\s*", value)
            if not found:
                raise InvalidValue(f'TimeBudget({value!r}): expected seconds, or a text such as "90s", "5m" or "2h"')
            value = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "": 1}[found[2]]
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise InvalidValue(f"TimeBudget({self.seconds!r}): expected a time above 0")
        object.__setattr__(self, "seconds", float(value))

    def begin(self, clock: Clock) -> Callable[[View], Verdict]:
        reason = f"the time budget of {self.seconds:g} s was used up"
        return lambda view: Stop(Outcome.TimeUp, reason) if view.seconds >= float(self.seconds) and not view.failed else GO


@dataclass(frozen=True)
class Rollback:
    """Where a descent diverges: go back to the last good state, cut the learning rate, go on; a bounded number of times.

    Good is a state whose recent loss lay within a tenth of the way from the lowest so far to where the run began. Each time
    that it fails before another good state is kept, it goes back one further, to the start in the end. A batch whose loss or
    gradient is not finite at the good state either is the data's fault, not the rate's: then the run stops, and says so.

    Args:
        cut: what the learning rate is multiplied by, from there to the end; above 0 and below 1.
        most: how often, at most.
        beyond: goes back, too, where the loss has grown so many times the largest of the beginning, as medians; looked at
            when the run is measured. (What ends a run without `Rollback` is ten thousand times.)
        keep: how often a good state is kept, with its unit. Costs a copy of the registers each time; three are held.

    >>> Rollback()
    Rollback(cut=0.5, most=10, beyond=10.0, keep=fraction(0.02))
    """

    cut: float = 0.5
    most: int = 10
    beyond: float = 10.0
    keep: Length = fraction(0.02)

    def __post_init__(self) -> None:
        number = isinstance(self.cut, (int, float)) and not isinstance(self.cut, bool)
        if not number or not 0 < self.cut < 1:
            raise InvalidValue(f"Rollback(cut={self.cut!r}): expected a number above 0 and below 1, what the learning rate is multiplied by")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise InvalidValue(f"Rollback(most={self.most!r}): expected a whole number of at least 1")
        if isinstance(self.beyond, bool) or not isinstance(self.beyond, (int, float)) or not self.beyond > 1:
            raise InvalidValue(f"Rollback(beyond={self.beyond!r}): expected a number above 1, how many times the loss may grow")
        if not isinstance(self.keep, Length):
            raise InvalidValue(f"Rollback(keep={self.keep!r}): expected a length with its unit, such as epochs(1) or fraction(0.02)")

    def begin(self, clock: Clock) -> Callable[[View], Verdict]:
        grown = Explosion(self.beyond).begin(clock)

        def look(view: View) -> Verdict:
            if not view.failed:
                return grown(view)
            if view.replans >= self.most:
                return Stop(Outcome.Diverged, f"{view.failed}, after the learning rate was cut {view.replans} times")
            return Replan(view.plan.with_lr(times(self.cut)), view.failed, back=True)

        return look


@dataclass(frozen=True)
class SkipBroken:
    """Where a batch's loss or gradient is not finite: leave that update out, go on with the next; a bounded number of times.

    The update uses up its t, so the schedule and the order of rows stay as planned; the registers are untouched; the journal
    names the rows and what broke; the loss stands as it was, NaN as NaN. What is left out too often is no accident: then the
    run stops.

    Args:
        most: how many updates, at most.

    >>> SkipBroken()
    SkipBroken(most=10)
    """

    most: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise InvalidValue(f"SkipBroken(most={self.most!r}): expected a whole number of at least 1")

    def begin(self, clock: Clock) -> Callable[[View], Verdict]:
        def look(view: View) -> Verdict:
            if not view.broke:
                return GO
            if view.skipped >= self.most:
                return Stop(Outcome.Diverged, f"{view.failed}, after {view.skipped} updates were left out already")
            return Skip(view.failed)

        return look
