"""A linear problem whose rows lie in files: mapped into memory, read block by block, never all at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.batches import Blocks, Shuffled
from fallline.errors import InvalidValue
from fallline.plan import Plan
from fallline.problems.linear import LinearProblem
from fallline.problems.window import Window

SEARCH_PASSES, SEARCH_LEAST, SEARCH_SHARE = 20, 240, 0.5
"""A search on the sample costs at most so many passes over it, at least so many updates, and this share of the plan."""


@dataclass(frozen=True, eq=False, repr=False)
class StoredProblem(LinearProblem):
    """A linear problem whose arrays are mapped from files. Made by a table that is larger than memory.

    It is a `LinearProblem` in all; what differs is which rows are in memory.

    Attributes:
        window: what keeps the rows in use in memory, and no others.
        order: the order that batches of a plain size take: blocks, several shuffled together.
        sample: some of the rows in memory, drawn at random: where a learning rate is searched for.
        digest: a hash of the stored bytes.
        column_scales, top: root mean square of each column, and the largest size of a number; measured as they were written.
    """

    window: Window | None = None
    order: Blocks = Blocks(1 << 16)
    sample: LinearProblem | None = None
    digest: str = ""
    column_scales: np.ndarray | None = None
    top: float = 0.0

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """sha256 of the model and of the hash that the stored bytes had when they were written."""
        words = json.dumps([sorted(self.model.to_json().items()), self.digest, str(self.target.dtype), self.rows], default=str)
        return hashlib.sha256(words.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, in files>"

    @property
    def _scales(self) -> np.ndarray:  # type: ignore[override]
        assert self.column_scales is not None
        return self.column_scales

    @property
    def _largest(self) -> float:  # type: ignore[override]
        return self.top

    def _chunks(self, batch: Any, chunk: int | None) -> Iterator[tuple[Any, np.ndarray, np.ndarray | None]]:
        """As in memory; rows that were read in passing are let go."""
        at = 0
        for part in super()._chunks(batch, chunk):
            yield part
            if batch is None and self.window is not None:
                self.window.passed(at, at + len(part[1]))
                at += len(part[1])

    def standardized(self, *, center: bool = True) -> LinearProblem:
        """Refused: the rows are in files, as they were written."""
        raise InvalidValue("standardized(): these rows lie in files, as they were encoded; a table in memory can be standardized (a larger memory=...), or scale the columns in the file")

    def in_memory(self, plan: Plan, budget: float | None) -> tuple[LinearProblem, Plan, float | None]:
        """The sample, the plan for it (of as many updates), and what a search there may cost: see `find_lr`."""
        some = self.sample
        if some is None:
            return self, plan, budget
        size = plan.batch_size.size
        batches = plan.batch_size if size is None else replace(plan.batch_size, size=min(size, some.rows), order=Shuffled())
        there = Plan(rows=some.rows, steps=plan.steps, batch_size=batches, optimizer=plan.optimizer, seed=plan.seed)
        if budget is None:
            most = max(SEARCH_PASSES * batches.steps_per_epoch(some.rows), SEARCH_LEAST)
            budget = min(SEARCH_SHARE, most / plan.steps)
        return some, there, budget


def blocks_for(row_bytes: float, buffer_bytes: float, block_bytes: float) -> Blocks:
    """Blocks of about `block_bytes` in buffers of about `buffer_bytes`."""
    block = max(int(block_bytes / row_bytes), 1)
    many = max(math.floor(buffer_bytes / (block * row_bytes)), 1)
    return Blocks(block * many, block)


__all__ = ["StoredProblem", "blocks_for"]
