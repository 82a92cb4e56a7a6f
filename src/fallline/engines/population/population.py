"""`Population`: K runs of one problem, advanced together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fallline.errors import InvalidValue, PlanMismatch
from fallline.plan import Plan


class Runs(Protocol):
    """What advances the runs of a population: one after another, or in one program."""

    choice: str
    losses: list[list[np.ndarray]]
    stopped_at: list[int | None]

    def advance(self, stop: int) -> None:
        """All runs that have not diverged, up to update `stop`."""
        ...

    def answer(self, k: int) -> np.ndarray:
        """The answer of run k, flat float64 (size,)."""
        ...

    def loss_on(self, held_out: Any, k: int) -> float:
        """The mean loss of run k's answer on a problem."""
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
        return np.array([self._runs.answer(k) for k in range(len(self))])

    def evaluate(self, data: Any) -> np.ndarray:
        """The mean loss of each run's answer on held-out data, float64 [K]; +inf where the run has diverged.

        Args:
            data: a problem of the same layout, or the rows as `train(valid=...)` takes them.
        """
        held_out = data if hasattr(data, "layout") else self.problem.held_out(data)
        if held_out.layout != self.problem.layout:
            raise InvalidValue(f"{held_out!r} has other parameters than {self.problem!r}: give rows of the same columns")
        out = np.full(len(self), np.inf)
        for k, at in enumerate(self._runs.stopped_at):
            if at is None:
                loss = self._runs.loss_on(held_out, k)
                out[k] = loss if math.isfinite(loss) else np.inf
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
    from fallline.engines.population.serial import OneByOne

    if hasattr(problem, "population"):
        return problem.population(plans, start, together)
    if together:
        raise InvalidValue(f"together=True: {problem!r} has no program for several runs at once; leave it out")
    return OneByOne(problem, plans, start, "this problem has no program for several runs at once")
