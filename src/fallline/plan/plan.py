"""The plan: data rows x epochs x batches x optimizer x seed, as one frozen value; and the segments engines run.

Everything that will happen is a pure function of the plan: update t's row of numbers, its learning rate and its
batch. So a plan can be read before it runs, cut anywhere, resumed from one integer, and compared by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline import rows as row_machine
from fallline.batches import Batches
from fallline.errors import FalllineError, InvalidValue, PlanEnded, PlanMismatch
from fallline.layout import Layout
from fallline.lengths import Clock
from fallline.plan.check import checked_batches, checked_optimizer, checked_rows, checked_steps, checked_whole
from fallline.plan.segment import Segment
from fallline.plan.visits import Visits
from fallline.rows import Rows
from fallline.rules import Group, auto, resolve_groups, rule_from_json
from fallline.schedules import Schedule, Times, curve_of, schedule

if TYPE_CHECKING:
    from fallline.plan.sampler import PlanSampler
    from fallline.plan.stability import Stability
    from fallline.plan.text import PlanTable

SCHEMA = 1
"""Version of the plan's JSON; the version of the row's columns stands beside it."""


@dataclass(frozen=True, init=False, repr=False)
class Plan:
    """What a descent will do, update by update.

    Args:
        problem: anything with `.rows`; or give `rows` instead. With neither, the rows are a stream: give `steps`.
        rows: number of data rows N.
        epochs: passes over the rows; may be a fraction.
        steps: updates, instead of epochs.
        batch_size: rows of a batch over all processes, or a `Batches`; left out, 64 (all rows where there are fewer).
        optimizer: a rule; left out, SGD(lr=auto, momentum=0.9).
        seed: seed of the order of rows.

    Raises:
        InvalidValue: a value that cannot stand; the message says what to do.

    >>> from fallline.rules import SGD
    >>> plan = Plan(rows=1000, epochs=2, batch_size=100, optimizer=SGD(lr=0.1))
    >>> plan.steps, plan.steps_per_epoch
    (20, 10)
    """

    rows: int | None
    steps: int
    batch_size: Batches
    optimizer: Any
    seed: int
    notes: tuple[str, ...] = field(compare=False)
    _visits: Visits | None = field(compare=False)

    def __init__(
        self,
        problem: Any = None,
        *,
        rows: int | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        batch_size: int | Batches | None = None,
        optimizer: Any = None,
        seed: int = 0,
    ):
        rows = checked_rows(problem, rows)
        batches = checked_batches(batch_size, rows, problem)
        self._set("rows", rows)
        self._set("batch_size", batches)
        self._set("steps", checked_steps(epochs, steps, None if rows is None else batches.steps_per_epoch(rows)))
        self._set("optimizer", checked_optimizer(optimizer))
        self._set("seed", checked_whole("seed", seed, 0))
        self._set("notes", ())
        self._set("_visits", None)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _with(self, **changes: Any) -> Plan:
        same = {"rows": self.rows, "steps": self.steps, "batch_size": self.batch_size, "optimizer": self.optimizer, "seed": self.seed}
        notes = changes.pop("notes", self.notes)
        plan = Plan(**(same | changes))
        plan._set("notes", notes)
        return plan

    def __repr__(self) -> str:
        per = self.steps_per_epoch
        length = f"epochs={self.steps // per}" if per and self.steps % per == 0 else f"steps={self.steps}"
        rows = "" if self.rows is None else f"rows={self.rows}, "
        return f"Plan({rows}{length}, batch_size={self.batch_size!r}, optimizer={self.optimizer!r}, seed={self.seed})"

    # ----------------------------------------------------------------------------------------------- time

    @property
    def steps_per_epoch(self) -> int | None:
        """Updates in one pass over the rows; None where the rows are unknown."""
        return None if self.rows is None else self.batch_size.steps_per_epoch(self.rows)

    @property
    def epochs(self) -> float | None:
        """Passes over the rows; None where the rows are unknown."""
        return None if self.steps_per_epoch is None else self.steps / self.steps_per_epoch

    @property
    def clock(self) -> Clock:
        return Clock(self.steps, self.steps_per_epoch)

    @property
    def lr_is_auto(self) -> bool:
        """Whether the learning rate is still to be found."""
        return self.optimizer.lr is auto

    def lr_at(self, steps: Any = None) -> np.ndarray:
        """The learning rate at updates `steps` (all where left out), float64: the schedule's value, before multipliers."""
        at = np.arange(self.steps) if steps is None else np.asarray(steps, np.int64)
        if self.lr_is_auto:
            raise InvalidValue("the learning rate is auto: give a number, or plan.with_lr(fl.find_lr(problem, plan))")
        rule = self.optimizer
        shape = getattr(rule, "schedule", None)
        curve = curve_of(rule.lr, self.clock) if shape is None else curve_of(schedule(shape), self.clock, rule.lr)
        values = curve(at) if callable(curve) else curve
        return np.broadcast_to(np.asarray(values, np.float64), at.shape).copy()

    # ------------------------------------------------------------------------------------------- segments

    def rows_between(self, start: int, stop: int, layout: Layout | None = None) -> tuple[Rows, tuple[int, ...]]:
        """The rows of updates start .. stop-1 by group, and the group of each parameter (without a layout, that of a weight)."""
        self._inside(start, stop)
        groups, group_of = ((Group(weight_decay=1.0, l1=1.0),), ()) if layout is None else resolve_groups(self.optimizer, layout)
        return self.optimizer.rows(self.clock, groups, start, stop), tuple(group_of)

    def segment(self, start: int, stop: int, layout: Layout) -> Segment:
        """Updates start .. stop-1 made concrete; the same bits wherever a plan is cut.

        Raises:
            PlanEnded: `stop` lies past the end; nothing was touched.
            InvalidValue: the learning rate is still auto, or start and stop are not in order.
        """
        rows, group_of = self.rows_between(start, stop, layout)
        batches = self.batch_size
        if self.rows is None or batches.is_full:
            return Segment(start, stop, rows, group_of, None, None, None, batches.chunk, None, self.seed, self._frozen_until(layout))
        visits, frozen = self.visits, self._frozen_until(layout)
        size = visits.stream.batch
        indices = visits.between(start, stop)  # before what follows, or the cache would drop this epoch's order
        following = int(visits.between(stop, stop + 1)[0]) if size == 1 else None  # past the end too: a longer plan goes on there
        return Segment(start, stop, rows, group_of, indices, size, following, batches.chunk, visits.stream, self.seed, frozen, visits.buffers(start, stop))

    def _frozen_until(self, layout: Layout) -> tuple[int, ...]:
        """By group, the update before which it stands still; empty where no group is ever frozen."""
        if not any(g.frozen for _, g in self.optimizer.groups):
            return ()
        groups, _ = resolve_groups(self.optimizer, layout)
        return tuple(0 if g.frozen is None else int(g.frozen.in_steps(self.clock)) for g in groups)

    def batches(self, start: int = 0) -> Iterator[np.ndarray]:
        """The batches of updates start .. T-1: one array of data rows each."""
        self._know_rows("batches")
        self._inside(start, max(start, self.steps))
        for t in range(start, self.steps):
            yield np.arange(self.rows or 0) if self.batch_size.is_full else self.visits.between(t, t + 1).copy()

    def sampler(self, rank: int = 0, world: int = 1, start: int = 0) -> PlanSampler:
        """A batch sampler for `torch.utils.data.DataLoader(data, batch_sampler=...)`: one epoch per iteration.

        Args:
            rank, world: this process and how many there are; each takes its contiguous share of every global batch.
            start: the update to start at.
        """
        from fallline.plan.sampler import PlanSampler

        self._know_rows("a sampler")
        return PlanSampler(self, rank, world, start)

    @property
    def visits(self) -> Visits:
        """Which rows each update reads, of a plan that knows its rows."""
        self._know_rows("the visits")
        visits = self._visits
        if visits is None:
            visits = Visits(self.rows or 0, self.batch_size, self.seed)
            self._set("_visits", visits)
        return visits

    def sharing_orders(self, other: Plan) -> Plan:
        """This plan with the other's orders of rows, where both visit the same rows in the same order; else this plan itself."""
        if any(getattr(self, name) != getattr(other, name) for name in ("rows", "batch_size", "seed")) or self is other:
            return self
        plan = self._with()
        plan._set("_visits", None if other.rows is None else other.visits)
        return plan

    def _inside(self, start: int, stop: int) -> None:
        if stop > self.steps:
            raise PlanEnded(f"update {stop - 1} was asked for and the plan ends with update {self.steps - 1}: make a longer plan")
        if not 0 <= start <= stop:
            raise InvalidValue(f"segment({start}, {stop}): expected 0 <= start <= stop <= {self.steps}")

    def _know_rows(self, what: str) -> None:
        if self.rows is None:
            raise PlanMismatch(f"{what} of a plan that does not know its rows: give Plan(rows=...) or Plan(problem, ...)")

    # -------------------------------------------------------------------------------------------- changes

    def with_lr(self, lr: Any) -> Plan:
        """This plan with another learning rate: a number, a Schedule, what `find_lr` gave, or `times(0.5)`: half of what it is.

        >>> from fallline import times
        >>> from fallline.rules import SGD
        >>> Plan(rows=100, epochs=1, optimizer=SGD(lr=0.1, schedule="cosine")).with_lr(times(0.5)).optimizer
        SGD(lr=0.05, schedule='cosine(to=0)')
        """
        if isinstance(lr, Times):
            from fallline.plan.scale import with_rate_times

            return self._with(optimizer=with_rate_times(self.optimizer, lr.share))
        value = lr if isinstance(lr, (int, float, Schedule, np.number)) or lr is auto else getattr(lr, "lr", lr)
        if isinstance(value, np.number):
            value = float(value)
        return self._with(optimizer=self.optimizer.with_lr(value))

    def with_batch_size(self, size: int | Batches) -> Plan:
        """This plan with other batches over the same rows, its learning rate rescaled.

        Law: with k = new size / old size, every rate times k for SGD and its momentum forms, times sqrt(k) for adaptive
        rules. Lengths in epochs and fractions stay, those in steps change to cover the same rows, and so do the plan's own
        updates; averages forget over the same rows. Momentum, betas, weight decay and the groups' multipliers stay. A
        rate that rises gets a warmup over 5 % of the plan, from the rate before, unless the schedule has one.
        `plan.notes` and `explain()` say each thing that was done, and warn above 512 rows.

        Args:
            size: rows of a batch, or a `Batches`.

        Raises:
            InvalidValue: a batch larger than the data, or than twice the rows that the plan sees at all.

        >>> from fallline.rules import SGD
        >>> plan = Plan(rows=1000, epochs=2, batch_size=100, optimizer=SGD(lr=0.1, schedule="warmup(5%) > cosine"))
        >>> larger = plan.with_batch_size(200)
        >>> larger.optimizer.lr, larger.steps, larger.with_batch_size(100) == plan
        (0.2, 10, True)

        Source: Goyal et al. 2017 (linear, and the warmup); Malladi et al. 2022 (square root).
        """
        from fallline.plan.scale import rescaled

        return rescaled(self, size)

    # -------------------------------------------------------------------------------------------- records

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `Plan.from_json` makes this plan again."""
        return {
            "schema": SCHEMA,
            "row_columns": row_machine.VERSION,
            "rows": self.rows,
            "steps": self.steps,
            "batch_size": self.batch_size.to_json(),
            "optimizer": self.optimizer.to_json(),
            "seed": self.seed,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Plan:
        """The plan of `to_json`, given as its dictionary or as text.

        Raises:
            InvalidValue: not a plan, or one of a newer version.
        """
        try:
            values = json.loads(data) if isinstance(data, str) else dict(data)
            versions = values["schema"], values["row_columns"]
            if versions == (SCHEMA, row_machine.VERSION):
                return cls._of(values)
        except FalllineError:
            raise
        except Exception as error:  # whatever a stranger's file holds
            raise InvalidValue(f"not a plan: expected the JSON of plan.to_json() ({type(error).__name__}: {str(error)[:200]})") from None
        known = (SCHEMA, row_machine.VERSION)
        raise InvalidValue(f"plan of versions {versions}, this fallline reads {known}: use the version that wrote it")

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Plan:
        plan = cls(
            rows=values["rows"], steps=values["steps"], seed=values["seed"],
            batch_size=Batches.from_json(values["batch_size"]), optimizer=rule_from_json(values["optimizer"]),
        )  # fmt: skip
        plan._set("notes", tuple(map(str, values.get("notes", ()))))
        return plan

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that decides what happens."""
        values = {k: v for k, v in self.to_json().items() if k != "notes"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    # ------------------------------------------------------------------------------------------- showing

    def explain(self, problem: Any = None) -> str:
        """What will happen, in a few lines; with a problem, which parameter falls into which group."""
        from fallline.plan.text import explain

        return explain(self, problem)

    def stability(self, problem: Any = None, *, curvature: Any = None, at: Any = None) -> Stability:
        """Whether any update's learning rate is above the edge of stability for the problem's largest curvature.

        Law: on the quadratic h*w^2/2 a row is a linear map of (w, v); the edge is the rate at which an eigenvalue leaves the
        unit circle: 2/h for a plain step, (2+2b)/h for a heavy ball, (2+2b)/((1+2b)h) for Nesterov's form, and whatever the
        plan's rows say. A forecast, never an error: small batches have a lower edge, and a network's curvature moves.

        Args:
            problem: its curvature is measured by Hessian-vector products, on a few thousand rows where there are more.
            curvature: h, where it is known; nothing is measured then.
            at: weights, by name or flat; left out, the problem's start (of a module: where it is).

        Raises:
            InvalidValue: lr is auto, or neither problem nor curvature.

        >>> import fallline as fl
        >>> bowl = fl.quadratic([1, 100])
        >>> fl.Plan(bowl, steps=50, optimizer=fl.SGD(lr=0.03)).stability(bowl)
        Stability(stable=False, lr=0.03, safe_lr=0.02, curvature=100, above=50, first=0)

        Source: Cohen et al. 2021.
        """
        from fallline.plan.stability import stability

        return stability(self, problem, curvature, at)

    def table(self, steps: Any = None) -> PlanTable:
        """The columns of the row machine that matter in this plan, at some updates (a dozen where left out)."""
        from fallline.plan.text import table

        return table(self, steps)

    def plot(self) -> Any:
        """The learning rate by update, as a `charts.Picture`."""
        from fallline import charts

        at = np.unique(np.linspace(0, self.steps - 1, min(self.steps, 4000)).astype(np.int64))
        return charts.lr_curve(at, self.lr_at(at), steps_per_epoch=self.steps_per_epoch)

    def _repr_html_(self) -> str:
        from fallline.plan.text import html

        return html(self)
