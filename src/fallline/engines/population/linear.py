"""The runs of a linear model together: one pass over a batch's rows for all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline import compiled
from fallline.engines.linear.engine import data_of
from fallline.engines.population import kernels
from fallline.engines.population.columns import Block, lanes
from fallline.engines.population.serial import Pace
from fallline.engines.population.tiles import TILE
from fallline.history import State
from fallline.layout import start_of
from fallline.plan import Plan
from fallline.problems.measured import measured_together
from fallline.rows import COLUMNS, INDEX, Registers, Rows
from fallline.shuffle import index_dtype

if TYPE_CHECKING:
    from fallline.plan.segment import Segment
    from fallline.problems import LinearProblem

ROOM_BYTES, ROOM_ROWS = 1 << 18, (24, 192)
"""Rows of a batch that are scored, then accumulated: they and their scores stay in half of a second cache."""
LAW_NUMBERS = 1 << 21
"""Numbers of a segment's rows at most: runs x updates x what varies."""


class Together:
    """Runs of a linear model on dense rows, advanced together.

    Each run's numbers come from the same operations in the same order wherever its column lies, so its bits depend
    neither on the number of runs nor on that of threads. Threads take runs, not rows: they need not wait for each other.

    Args:
        problem: a `LinearProblem` of dense rows.
        plans: one for each run.
        start: initial weights of all, or None.
        choice: why together.
        threads: cores; None means all that this process may use.
    """

    def __init__(self, problem: LinearProblem, plans: Sequence[Plan], start: Any, choice: str, threads: int | None = None):
        self.problem, self.plans, self.choice = problem, list(plans), choice
        self.threads = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        begin = start_of(problem, start)
        self.losses: list[list[np.ndarray]] = [[] for _ in plans]
        self.stopped_at: list[int | None] = [None for _ in plans]
        self._states: list[State] = [State.begin(begin, plan.optimizer.start()) for plan in plans]
        self._blocks: list[Block] = []
        self._pace = Pace()
        self._constant: dict[int, tuple[Rows, list[int]]] = {}

    # ------------------------------------------------------------------------------------------------ going on

    def advance(self, stop: int) -> None:
        """All runs that have not diverged, up to update `stop`."""
        self._arrange()
        start = min((block.step for block in self._blocks), default=stop)
        with compiled.announced():
            self._pace.segments(start, stop, self._segment, max(1, LAW_NUMBERS // (8 * len(self.plans))))

    def _segment(self, a: int, b: int) -> bool:
        living = [k for block in self._blocks for k in block.runs]
        if not living:
            return False
        segment = self.plans[living[0]].segment(a, b, self.problem.layout)
        waiting = [self._pool.submit(self._advance, block, segment) for block in self._blocks[1:]]
        blocks = self._advance(self._blocks[0], segment)
        for other in waiting:
            blocks += other.result()
        self._blocks = blocks
        return True

    def _advance(self, block: Block, segment: Segment) -> list[Block]:
        """Carry a block through a segment; runs that must stop leave it. What is left: one block, or none."""
        order, bounds = (self._all_rows, np.array([0, self.problem.rows])) if segment.indices is None else (segment.indices, segment.bounds)
        while block.step < segment.stop:
            done = block.step - segment.start
            law = self._law(block.runs, block.step, segment.stop)
            bad, out = np.zeros(len(block.runs), np.bool_), np.empty((segment.stop - block.step, len(block.runs)))
            made = kernels.batch(
                *self._data, order, bounds if len(bounds) == 2 else bounds[done:], *self._loss, self._reach, *law, self.problem.outputs,
                block.w, block.v, block.s, block.a, 1.0 if self._needs[block.runs[0]].threshold else None, block.b, self.problem.intercept, self._room, bad, out,
            )  # fmt: skip
            block.step += made
            for i, k in enumerate(block.runs):
                self.losses[k].append(out[:made, i].copy())
            if made < len(out):
                block = self._without(block, bad)
                if not block.runs:
                    return []
        return [block]

    def _without(self, block: Block, bad: np.ndarray) -> Block:
        """The block without the runs that must stop, whose states are put aside."""
        left, states = [], []
        for k, state, stops in zip(block.runs, block.states(), bad, strict=True):
            if stops:
                self._states[k], self.stopped_at[k] = state, block.step
            else:
                left.append(k)
                states.append(state)
        return self._block(left, states) if left else Block([], block.step, block.w, None, None, None, block.b, block.layout, block.outputs)

    def _law(self, runs: Sequence[int], a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of some runs over a stretch of updates: constants [2 * runs, columns], names and values of what varies."""
        written = [self._rows(k, a, b) for k in runs]
        names = [n for n in COLUMNS if any(n in rows.names for rows, _ in written)]
        row = np.concatenate([rows.constants[groups] for rows, groups in written])
        varying = np.empty((b - a if names else 0, 2, len(names), len(runs)))
        for i, (rows, groups) in enumerate(written):
            for n, name in enumerate(names):
                varying[:, :, n, i] = rows.column(name)[: len(varying), groups]
        return np.ascontiguousarray(row, np.float64), np.array([INDEX[n] for n in names], np.int64), varying

    def _rows(self, k: int, a: int, b: int) -> tuple[Rows, list[int]]:
        """Rows of one run, and the groups of coefficients and intercepts; what never varies is written once."""
        if k in self._constant:
            rows, groups = self._constant[k]
            return Rows(rows.constants, (), np.empty((b - a, rows.groups, 0))), groups
        rows, group_of = self.plans[k].rows_between(a, b, self.problem.layout)
        groups = [group_of[0], group_of[-1]]
        if not rows.names:
            self._constant[k] = rows, groups
        return rows, groups

    # ---------------------------------------------------------------------------------------------- arrangement

    @cached_property
    def _needs(self) -> list[Registers]:
        """The registers of each run. What only decides about a step (look, clip) is left out: runs differ in it within a block."""
        layout = self.problem.layout
        each = [plan.rows_between(0, 1, layout)[0].registers for plan in self.plans]
        return [replace(needs, look=False, clip=False, l2=False) for needs in each]

    def _arrange(self) -> None:
        """The living runs in blocks: apart by their registers, and each kind in as many parts as are worth a core each.

        They stay as they are until others would make a step shorter.
        """
        living = [k for block in self._blocks for k in block.runs] or [k for k, at in enumerate(self.stopped_at) if at is None]
        kinds: dict[Registers, list[int]] = {}
        for k in sorted(living):
            kinds.setdefault(self._needs[k], []).append(k)
        parts = [runs[a:b] for runs in kinds.values() for a, b in pairwise(np.cumsum([0, *self._shares(len(runs))]).tolist())]
        widest = max(map(len, parts), default=0)
        if self._blocks and (max(len(b.runs) for b in self._blocks) <= widest or len({b.step for b in self._blocks}) > 1):
            return
        self._put_aside()
        self._blocks = [self._block(runs, [self._states[k] for k in runs]) for runs in parts]

    def _shares(self, runs: int) -> list[int]:
        """How many runs each thread takes: no thread less than a whole group of columns, which costs as much as a part of one."""
        outputs, dtype = self.problem.outputs, self.problem.X.dtype
        count = min(self.threads, max(1, runs * outputs // (2 * lanes(dtype))), runs)
        return [runs // count + (i < runs % count) for i in range(count)]

    def _put_aside(self) -> None:
        """The states of runs in blocks, as flat registers."""
        for block in self._blocks:
            for k, state in zip(block.runs, block.states(), strict=True):
                self._states[k] = state

    def _block(self, runs: Sequence[int], states: Sequence[State]) -> Block:
        problem = self.problem
        return Block.of(runs, states, problem.layout, problem.outputs, self._needs[runs[0]], problem.X.dtype)

    @cached_property
    def _data(self) -> tuple[np.ndarray, ...]:
        return data_of(self.problem)

    @cached_property
    def _loss(self) -> tuple[int, float]:
        return int(self.problem.loss.code), float(self.problem.loss.parameter)

    @cached_property
    def _reach(self) -> float:
        return self.problem.features * self.problem.largest()

    @cached_property
    def _room(self) -> int:
        """Rows of a batch that are worked on at a time."""
        each = self.problem.X.itemsize * (self.problem.features + 2 * self.problem.outputs * len(self.plans) // self.threads)
        return int(np.clip(ROOM_BYTES // each // TILE * TILE, *ROOM_ROWS))

    @cached_property
    def _all_rows(self) -> np.ndarray:
        return np.arange(self.problem.rows, dtype=index_dtype(self.problem.rows))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="fallline")

    # ------------------------------------------------------------------------------------------------- reading

    def answers(self) -> np.ndarray:
        """The answer of each run, flat float64 [runs, size]."""
        self._put_aside()
        return np.array([state.answer(plan.optimizer.answer()) for state, plan in zip(self._states, self.plans, strict=True)], np.float64)

    def measure(self, held_out: Any, metrics: Sequence[Any]) -> np.ndarray:
        """The mean loss and the metrics of each run's answer, float64 [runs, 1 + metrics], in one pass over the rows."""
        return measured_together(held_out, self.answers(), metrics)

    def keep(self, indices: Sequence[int]) -> Together:
        """Some of the runs, with states of their own."""
        self._put_aside()
        some = Together(self.problem, [self.plans[k] for k in indices], None, self.choice, self.threads)
        some.losses = [list(self.losses[k]) for k in indices]
        some.stopped_at = [self.stopped_at[k] for k in indices]
        some._states = [self._states[k].copy() for k in indices]
        return some
