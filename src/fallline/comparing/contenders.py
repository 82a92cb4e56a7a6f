"""Who takes part in a comparison: names, optimizers and plans become plans, each with its learning rate and its seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.advice.lr import find_lr
from fallline.batches import Batches, InFile
from fallline.errors import InvalidValue, NoLearningRate, PlanMismatch, UnknownName
from fallline.lengths import epochs, fraction
from fallline.plan import Plan
from fallline.problems import FunctionProblem
from fallline.rules import SGD, AdaGrad, Adam, AdamW, NAdam, Nesterov, RMSProp, ScheduleFree
from fallline.rules.rule import Rule
from fallline.schedules import cosine, exponential, linear, one_cycle, step_decay, warmup

EPOCHS, STEPS = 20, 100
"""Length where none is given: passes over data, updates of a function without data."""

Finder = Callable[[Any, Plan], Any]

VARIANTS: dict[str, tuple[str, Rule, Batches | None]] = {
    "batch": ("all rows in every update", SGD(), Batches.full()),
    "sgd": ("one row an update", SGD(), Batches.single()),
    "minibatch": ("a batch an update", SGD(), None),
    "momentum": ("mini-batches, heavy ball 0.9", SGD(momentum=0.9), None),
    "nesterov": ("mini-batches, the look-ahead gradient, 0.9", Nesterov(momentum=0.9), None),
    "step-decay": ("momentum; lr a tenth at half and at three quarters", SGD(momentum=0.9, schedule=step_decay(0.1, at=[fraction(0.5), fraction(0.75)])), None),
    "exponential": ("momentum; lr times 0.9 each epoch", SGD(momentum=0.9, schedule=exponential(gamma=0.9, per=epochs(1))), None),
    "linear": ("momentum; lr linear to zero", SGD(momentum=0.9, schedule=linear(to=0)), None),
    "cosine": ("momentum; lr along a cosine to zero", SGD(momentum=0.9, schedule=cosine(to=0)), None),
    "warmup-cosine": ("momentum; 5 % warmup, then a cosine to zero", SGD(momentum=0.9, schedule=warmup(fraction(0.05)).then(cosine(to=0))), None),
    "one-cycle": ("momentum; lr up, then down", SGD(momentum=0.9, schedule=one_cycle()), None),
    "adam": ("mini-batches, Adam", Adam(), None),
    "adamw": ("mini-batches, AdamW", AdamW(), None),
    "nadam": ("mini-batches, NAdam", NAdam(), None),
    "rmsprop": ("mini-batches, RMSProp", RMSProp(), None),
    "adagrad": ("mini-batches, AdaGrad", AdaGrad(), None),
    "schedule-free": ("mini-batches, Schedule-Free", ScheduleFree(), None),
}  # fmt: skip
"""The variants that go by a name: in words, the optimizer, its batches (None: those of the comparison)."""


@dataclass(frozen=True)
class Contender:
    """One variant before it runs.

    Args:
        name: as the user calls it.
        plan: what it will do; its lr is still `auto` where `refusal` says why none was found.
        lr_source: where the learning rate came from, in words.
        cost: updates that the search for its rate took.
        seeds: one run for each.
        refusal: why it cannot run, or an empty string.
    """

    name: str
    plan: Plan
    lr_source: str
    cost: int
    seeds: tuple[int, ...]
    refusal: str = ""

    def plans(self) -> list[Plan]:
        """The plan of each seed."""
        return [self.plan._with(seed=seed) for seed in self.seeds]


@dataclass(frozen=True)
class Common:
    """What a bare optimizer takes from the comparison: length and batches."""

    epochs: float | None = None
    steps: int | None = None
    batch_size: int | Batches | None = None

    def plan(self, problem: Any, rule: Rule, batches: int | Batches | None = None) -> Plan:
        """A plan of this length for an optimizer."""
        passes, steps = self.epochs, self.steps
        if passes is None and steps is None:
            passes, steps = (None, STEPS) if problem.rows in (1, None) else (EPOCHS, None)
        size = self.batch_size if batches is None else batches
        return Plan(problem, epochs=passes, steps=steps, batch_size=size, optimizer=rule)


def named(variants: Any) -> dict[str, Any]:
    """The variants by name, as the user gave them.

    Raises:
        InvalidValue: none, or not a mapping nor names.
        UnknownName: a name that no variant has.
    """
    if isinstance(variants, str):
        variants = [variants]
    if isinstance(variants, Mapping):
        given = {str(name): value for name, value in variants.items()}
    elif isinstance(variants, Sequence) and all(isinstance(v, str) for v in variants):
        given = {name: name for name in variants}
    else:
        raise InvalidValue(f'variants={variants!r}: expected {{"name": optimizer or plan}}, or names such as ["batch", "sgd", "momentum"]')
    if not given:
        raise InvalidValue("compare needs at least one variant: give {\"name\": optimizer or plan}, or names such as [\"batch\", \"sgd\"]")
    for value in given.values():
        if isinstance(value, str) and value not in VARIANTS:
            raise UnknownName.among("variant", value, VARIANTS)
    return given


def planned(problem: Any, name: str, value: Any, common: Common) -> Plan:
    """The plan of one variant.

    Raises:
        InvalidValue: neither a plan, an optimizer nor a name.
        PlanMismatch: a plan for other rows.
    """
    if isinstance(value, str):
        _, rule, batches = VARIANTS[value]
        return common.plan(problem, rule, batches)
    if isinstance(value, Rule):
        return common.plan(problem, value)
    if not isinstance(value, Plan):
        kind = f"the class {value.__name__}; write {value.__name__}(...)" if isinstance(value, type) else f"a {type(value).__name__}"
        raise InvalidValue(f"variant {name!r} is {kind}: expected an optimizer such as fl.SGD(lr=0.1), a Plan, or a variant's name")
    if value.rows is not None and value.rows != problem.rows:
        raise PlanMismatch(f"variant {name!r}: its plan is for {value.rows:,} rows and the problem has {problem.rows:,}; make it with Plan(problem, ...)")
    return value


def contender(problem: Any, name: str, plan: Plan, seeds: int, find: Finder | None) -> Contender:
    """A variant with its learning rate found, where it is auto, and its seeds: one where nothing is drawn."""
    count = 1 if draws_nothing(problem, plan) else seeds
    numbers = tuple(range(plan.seed, plan.seed + count))
    if not plan.lr_is_auto:
        return Contender(name, plan, "given", 0, numbers)
    try:
        found = (find or find_lr)(problem, plan)
        told = plan.with_lr(found)
    except NoLearningRate as none:
        return Contender(name, plan, "find_lr without an answer", 0, (), none.verdict)
    if told.lr_is_auto:
        raise InvalidValue(f"find= gave {found!r} for {name!r}: expected a number, a schedule, or what fl.find_lr gives")
    cost = int(getattr(found, "cost", 0))
    return Contender(name, told, "find_lr" if find is None else "find", cost, numbers)


def draws_nothing(problem: Any, plan: Plan) -> bool:
    """Whether every seed gives the same run: all rows in every update, the file's order, or no noise to draw."""
    batches = plan.batch_size
    if plan.rows is None or plan.rows == 1 or batches.is_full or batches.size == plan.rows or isinstance(batches.order, InFile):
        return True
    noise = getattr(problem, "noise", None)
    return isinstance(problem, FunctionProblem) and (noise is None or not noise.any())


def begun(problem: Any, start: Any) -> tuple[Any, Any]:
    """The problem and the start that every variant gets: a function is moved there, so that searches begin there too."""
    if start is None:
        return problem, problem.start()
    if not isinstance(problem, FunctionProblem):
        return problem, start
    given = np.asarray(start, np.float64)
    if given.size != problem.begin.size or not np.isfinite(given).all():
        raise InvalidValue(f"start={start!r}: expected {problem.begin.size} finite numbers")
    moved = replace(problem, begin=given.reshape(problem.begin.shape))
    return moved, moved.start()


def rows_read(plan: Plan, updates: np.ndarray) -> np.ndarray:
    """Rows read in all after so many updates; a function without data counts its updates."""
    return updates if plan.rows is None else plan.visits.position(updates)
