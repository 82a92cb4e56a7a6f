"""A plan's batches as a PyTorch batch sampler, without PyTorch: one epoch per iteration, lists of int."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.errors import InvalidValue, PlanEnded

if TYPE_CHECKING:
    from fallline.plan import Plan


class PlanSampler:
    """Gives `DataLoader(data, batch_sampler=...)` the batches of a plan; made by `plan.sampler`.

    Each iteration is one epoch (the rest of it, where it starts inside one); the next goes on with the next epoch.
    Rank r of w takes entries m*r//w .. m*(r+1)//w of each global batch of m rows. Its position counts the batches
    that were handed out: with worker processes, batches on their way are counted too; resume from the optimizer's
    step instead.
    """

    def __init__(self, plan: Plan, rank: int = 0, world: int = 1, start: int = 0):
        if world < 1 or not 0 <= rank < world:
            raise InvalidValue(f"rank={rank}, world={world}: expected 0 <= rank < world")
        if not 0 <= start <= plan.steps:
            raise PlanEnded(f"start={start}: expected an update between 0 and {plan.steps}")
        smallest = plan.visits.smallest
        if smallest < world:
            raise InvalidValue(
                f"the smallest batch has {smallest} rows for {world} processes: expected at least one row each; "
                "take larger batches, or last='drop'"
            )
        self.plan, self.rank, self.world, self._step = plan, rank, world, start
        self._began: int | None = None

    @property
    def batch_size(self) -> int:
        """Rows of this rank's share of a full batch."""
        m = self.plan.visits.stream.batch
        return m * (self.rank + 1) // self.world - m * self.rank // self.world

    @property
    def drop_last(self) -> bool:
        return self.plan.batch_size.last == "drop"

    @property
    def step(self) -> int:
        """The next update."""
        return self._step

    def __len__(self) -> int:
        """Batches of the iteration under way, else of the next one (0 when the plan has ended)."""
        return self._epoch_end() - (self._step if self._began is None else self._began)

    def __iter__(self) -> Iterator[list[int]]:
        if self._step >= self.plan.steps:
            raise PlanEnded(f"the plan ended after update {self.plan.steps - 1}: make a longer plan")
        self._began, end = self._step, self._epoch_end()
        while self._step < end:
            t = self._step
            self._began = self._began if t + 1 < end else None
            self._step = t + 1
            yield self._share(t)

    def _share(self, t: int) -> list[int]:
        plan = self.plan
        rows = np.arange(plan.rows or 0) if plan.batch_size.is_full else plan.visits.between(t, t + 1)
        m = len(rows)
        return rows[m * self.rank // self.world : m * (self.rank + 1) // self.world].tolist()

    def _epoch_end(self) -> int:
        per = self.plan.steps_per_epoch or 1
        return min((self._step // per + 1) * per, self.plan.steps)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch (where the position already lies in it, stay)."""
        per = self.plan.steps_per_epoch or 1
        if self._step // per != epoch:
            if not 0 <= epoch * per <= self.plan.steps:
                raise PlanEnded(f"set_epoch({epoch}): the plan has {self.plan.epochs:g} epochs")
            self._step = epoch * per

    def state_dict(self) -> dict[str, Any]:
        """The position, and which plan it belongs to."""
        return {"step": self._step, "plan": self.plan.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where `state_dict` was.

        Raises:
            InvalidValue: it belongs to another plan.
        """
        if state.get("plan") != self.plan.fingerprint:
            raise InvalidValue("this sampler state belongs to another plan: make the sampler from the plan that was saved")
        self._step = int(state["step"])

    def __repr__(self) -> str:
        return f"{self.plan!r}.sampler(rank={self.rank}, world={self.world}, start={self._step})"
