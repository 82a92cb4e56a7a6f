"""Segments: stretches of a plan made concrete, and where each update's batch lies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fallline.batches import Buffer
from fallline.errors import InvalidValue
from fallline.rows import Rows


@dataclass(frozen=True, eq=False)
class Segment:
    """Updates start .. stop-1 of a plan made concrete: the only thing that an engine receives.

    Attributes:
        start, stop: the updates.
        rows: the numbers of each update, by parameter group.
        group_of: the group of each parameter of the layout.
        indices: data rows in the order of their visit, the batches one after the other; None where every update
            takes all rows in file order (or where the plan does not know its rows).
        nominal: rows of a batch (the last one of an epoch may be shorter); None where `indices` is.
        following: the row of update `stop` (of a longer plan, at the end) where batches are of one row, else None.
        chunk: rows that a large batch is computed in at a time, or None.
        stream: where batches lie, or None where `indices` is.
        seed: the plan's, for what else is random in a step.
        frozen_until: by group, the update before which it stands still; empty where none does.
        buffers: where the order is of blocks: those that are read, and the one that follows; entries from the first of `indices`.
    """

    start: int
    stop: int
    rows: Rows
    group_of: tuple[int, ...]
    indices: np.ndarray | None
    nominal: int | None
    following: int | None
    chunk: int | None
    stream: Stream | None = field(repr=False, default=None)
    seed: int = 0
    frozen_until: tuple[int, ...] = ()
    buffers: tuple[Buffer, ...] = field(repr=False, default=())

    def part(self, first: int, past: int) -> Segment:
        """Updates start + first .. start + past - 1 of this segment; it has no buffers."""
        at, following = self.bounds, self.following
        if past < self.steps and self.nominal == 1 and self.indices is not None:
            following = int(self.indices[at[past]])
        return replace(
            self, start=self.start + first, stop=self.start + past, rows=replace(self.rows, varying=self.rows.varying[first:past]),
            indices=None if self.indices is None else self.indices[at[first] : at[past]], following=following, buffers=(),
        )  # fmt: skip

    @property
    def steps(self) -> int:
        return self.stop - self.start

    @cached_property
    def bounds(self) -> np.ndarray:
        """int64 [steps + 1]: the batch of update start + i is indices[bounds[i]:bounds[i+1]]."""
        if self.stream is None:
            raise InvalidValue("this segment takes all rows at every update: it has no bounds")
        at = self.stream.position(np.arange(self.start, self.stop + 1, dtype=np.int64))
        return at - at[0]

    @cached_property
    def batch_size(self) -> int | None:
        """Rows of every batch of this segment; None where they differ, or where every update takes all rows."""
        if self.indices is None or self.nominal is None:
            return None
        return self.nominal if len(self.indices) == self.steps * self.nominal else None

    def batch(self, i: int) -> np.ndarray | None:
        """Data rows of update start + i; None means all."""
        if self.indices is None:
            return None
        return self.indices[self.bounds[i] : self.bounds[i + 1]]


@dataclass(frozen=True)
class Stream:
    """Where each update's batch lies when the epochs' orders are laid end to end.

    Args:
        rows: entries of an epoch that are used; batch: rows of a batch; per_epoch: updates of an epoch.
    """

    rows: int
    batch: int
    per_epoch: int

    def position(self, t: Any) -> Any:
        """First entry of update t's batch, for an integer or an array of them."""
        if self.rows == self.per_epoch * self.batch:
            return t * self.batch
        epoch = t // self.per_epoch
        return epoch * self.rows + (t - epoch * self.per_epoch) * self.batch
