"""`Population`: K runs of one problem, advanced together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from fallline.engines.population.serial import OneByOne
from fallline.errors import InvalidValue, PlanMismatch
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.problems import LinearProblem

FEW, FEW_SINGLE = 3, 8
"""Runs of a linear model from which one program is faster (benchmarks/population.py); with one row and one output an update, the
single run's pipeline is hard to beat."""


class Runs(Protocol):
    """What advances the runs of a population: one after another, or in one program."""

    choice: str
    losses: list[list[np.ndarray]]
    stopped_at: list[int | None]

    def advance(self, stop: int) -> None:
        """All runs that have not diverged, up to update `stop`."""
        ...

    def answers(self) -> np.ndarray:
        """The answer of each run, flat float64 [runs, size]."""
        ...

    def measure(self, held_out: Any, metrics: Sequence[Any]) -> np.ndarray:
        """The mean loss and the metrics of each run's answer on a problem, float64 [runs, 1 + metrics]."""
        ...

    def keep(self, indices: Sequence[int]) -> Runs:
        """Some of the runs, with a state of their own."""
        ...


class Population:
    """K runs of one problem over the same batches, advanced together.

    Law: run k is the run of plans[k] alone, within 1e-5 of its weights in float32 and 1e-12 in float64. A run that diverges
    stops, and changes no bit of the others. The problem is left as it was (a module too, also after an error or Ctrl-C).

    Args:
        problem: what they descend.
        plans: one for each run. They share rows, steps, batch_size and seed, and differ in their optimizers.
        start: initial weights of all runs, as for `train`; left out, the problem's own.
        together: True for one program, False for one run after another; left out, what is faster.

    Attributes:
        step: updates that the living runs have made.

    Raises:
        PlanMismatch: plans that do not share rows, steps, batch size and seed.
        InvalidValue: no plan, an lr that is still auto, or together=True where there is no such program; it says why.

    >>> import fallline as fl
    >>> problem = fl.quadratic([1.0, 10.0], start=[1.0, 1.0])
    >>> plan = fl.Plan(problem, steps=50, optimizer=fl.SGD(lr=0.1))
    >>> runs = Population(problem, [plan.with_lr(lr) for lr in (0.01, 0.1, 1e9)])
    >>> runs.advance(50)
    >>> runs.stopped_at, runs.evaluate(problem).round(3).tolist()
    ([None, None, 16], [0.183, 0.0, inf])
    """

    def __init__(self, problem: Any, plans: Sequence[Plan], *, start: Any = None, together: bool | None = None):
        self.problem, self.plans = problem, alike(problem, plans)
        self.step = 0
        self._runs: Runs = _runs(problem, self.plans, start, together)

    def __len__(self) -> int:
        return len(self.plans)

    def __repr__(self) -> str:
        lost = sum(at is not None for at in self.stopped_at)
        return f"Population({len(self)} runs of {self.problem!r}, update {self.step} of {self.plans[0].steps}, {lost} diverged, {self.choice})"

    @property
    def choice(self) -> str:
        """How the runs go on: "together" or "one after another", and why."""
        return self._runs.choice

    @property
    def together(self) -> bool:
        """Whether the runs are one program."""
        return self.choice.startswith("together")

    @property
    def losses(self) -> list[np.ndarray]:
        """The mean loss of each update's batch, before the update, by run: float64 (updates,); fewer where it diverged."""
        for parts in self._runs.losses:
            if len(parts) != 1:
                parts[:] = [np.concatenate(parts) if parts else np.empty(0)]
        return [parts[0] for parts in self._runs.losses]

    @property
    def stopped_at(self) -> list[int | None]:
        """By run: the update that was not made because its loss or gradient was not finite, or None."""
        return list(self._runs.stopped_at)

    def advance(self, stop: int) -> None:
        """Advance every living run to update `stop`; an interrupted call can be made again.

        Raises:
            PlanEnded: `stop` lies past the plans' end; nothing was touched.
            InvalidValue: `stop` lies before what was done already.
        """
        if stop < self.step:
            raise InvalidValue(f"advance({stop}): the runs are at update {self.step} already; expected {self.step} .. {self.plans[0].steps}")
        self.plans[0].rows_between(stop, stop)
        self._runs.advance(stop)
        self.step = stop

    def answers(self) -> np.ndarray:
        """Each run's answer, float64 [K, size]: where it diverged, that before the failing update."""
        return self._runs.answers()

    def evaluate(self, data: Any) -> np.ndarray:
        """The mean loss of each run's answer on held-out data, float64 [K]; +inf where the run has diverged.

        Args:
            data: a problem of the same layout, or the rows as `train(valid=...)` takes them.
        """
        return self.measure(data)[:, 0]

    def measure(self, data: Any, metrics: Sequence[str | Metric | Callable[..., float]] = ()) -> np.ndarray:
        """The mean loss and the metrics of each run's answer on held-out data, float64 [K, 1 + metrics].

        The loss is +inf where the run has diverged, and its metrics are NaN.

        Args:
            data: as for `evaluate`.
            metrics: names, or functions f(y, prediction).
        """
        held_out = data if hasattr(data, "layout") else self.problem.held_out(data)
        if held_out.layout != self.problem.layout:
            raise InvalidValue(f"{held_out!r} has other parameters than {self.problem!r}: give rows of the same columns")
        out = self._runs.measure(held_out, [metric(m) for m in metrics])
        lost = np.array([at is not None for at in self._runs.stopped_at]) | ~np.isfinite(out[:, 0])
        out[lost] = np.nan
        out[lost, 0] = np.inf
        return out

    def keep(self, indices: Sequence[int]) -> Population:
        """The runs of these numbers, in this order, as a population of their own; this one stays as it is.

        Raises:
            InvalidValue: a number that is no run's, or none at all.
        """
        chosen = [int(k) for k in indices]
        if not chosen or not all(0 <= k < len(self) for k in chosen):
            raise InvalidValue(f"keep({list(indices)!r}): expected at least one of 0 .. {len(self) - 1}")
        some = object.__new__(Population)
        some.problem, some.plans, some.step = self.problem, tuple(self.plans[k] for k in chosen), self.step
        some._runs = self._runs.keep(chosen)
        return some


def alike(problem: Any, plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The plans, checked; they share one cache of orders."""
    plans = tuple(plans)
    if not plans:
        raise InvalidValue("a population needs at least one plan")
    first = plans[0]
    if first.rows is not None and first.rows != problem.rows:
        raise PlanMismatch(f"the plans are for {first.rows:,} rows and the problem has {problem.rows:,}; make them with Plan(problem, ...)")
    for k, plan in enumerate(plans):
        if plan.lr_is_auto:
            raise InvalidValue(f"plan {k} has lr=auto: give each run of a population a number, with plan.with_lr(0.1)")
        for name in ("rows", "steps", "batch_size", "seed"):
            if getattr(plan, name) != getattr(first, name):
                raise PlanMismatch(
                    f"plan {k} has {name}={getattr(plan, name)!r} and plan 0 {name}={getattr(first, name)!r}: the runs of a population "
                    "share rows, steps, batch_size and seed; make one population for each"
                )
    return tuple(plan.sharing_orders(first) for plan in plans)


def _runs(problem: Any, plans: tuple[Plan, ...], start: Any, together: bool | None) -> Runs:
    if hasattr(problem, "population"):
        return problem.population(plans, start, together)
    refusal = not_together(problem)
    if together and refusal:
        raise InvalidValue(f"together=True: {refusal}; leave it out")
    least = FEW_SINGLE if refusal == "" and problem.outputs == 1 and plans[0].batch_size.size == 1 else FEW
    if together is None and not refusal and len(plans) < least:
        refusal = f"{len(plans)} runs are fewer than the {least} from which one program is faster"
    if together is False or refusal:
        return OneByOne(problem, plans, start, refusal or "as asked")
    from fallline.engines.population.linear import Together

    return Together(problem, plans, start, "together: one pass over a batch's rows for all runs")


def not_together(problem: Any) -> str:
    """Why the runs of a problem cannot be one program, or an empty string."""
    if not isinstance(problem, LinearProblem):
        return f"{problem!r} has no program for several runs at once"
    return "rows are sparse" if problem.sparse else ""
