"""Which kernel runs a segment of a linear model, and what it is handed.

The choice rests on the plan and the data alone (never on where a segment was cut, nor on a measurement), so the same
plan gives the same bits wherever it is cut and on any number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline import compiled
from fallline.engines.linear import dense, sparse
from fallline.engines.linear.state import Lazy, LinearState
from fallline.errors import InvalidValue, NoClosedForm
from fallline.history import Advance, Packed, State, Trace, check_packed
from fallline.layout import start_of
from fallline.rows import INDEX, Answer, Registers, Start

if TYPE_CHECKING:
    from fallline.plan import Segment
    from fallline.problems import LinearProblem

GRAM_FEATURES = 256
"""Up to this many features the Gram pipeline wins: beyond, its extra product costs more than the wait it saves."""
LANES = 8
"""Parts of a large batch. Fixed, so that sums have the same bits on any number of threads."""
THREADED = 4_000_000
"""Multiply-adds of a step from which both cores are worth waking (about a millisecond of work)."""
EAGER_SHARE = 8
"""A batch whose non-zeros are at least 1/8 of the features updates all of them: cheaper than catching up by stamps."""
PREFETCHED = 1 << 21
"""Weights above this many bytes (a second cache) are asked for rows ahead: below, it costs more than it saves."""
DENSE_COST = 64
"""A rule without a lazy form runs on sparse rows while the model is at most 64 times a batch's non-zeros."""


CONSTANT_BLOCK = 1 << 30
"""Steps of a block where no column varies: its table has digits of 64."""
MOVED_BLOCK = 1 << 18
"""As it, where columns are seen less a base: at its end the weights' products with the base are summed anew, so that roundings do not add up."""


class LinearEngine:
    """Runs segments of a linear problem in compiled code, dense or sparse.

    Args:
        problem: a `LinearProblem`.
        threads: cores for large batches; None means all that this process may use. It never changes a bit.
    """

    name = "linear"

    def __init__(self, problem: LinearProblem, threads: int | None = None):
        self.problem = problem
        self.threads = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        X = problem.X
        self._sparse = problem.sparse
        self._dtype = X.dtype
        self._features = X.shape[1]
        self._data = data_of(problem)
        self._base = problem.view.base if self._sparse and problem.view is not None else None
        self._loss = (int(problem.loss.code), float(problem.loss.parameter))
        self._nonzeros = max(1.0, X.nnz / X.shape[0]) if self._sparse else float(self._features)

    def begin(self, start: Any, rule_start: Start) -> State:
        """The state before update 0, from a user's weights or the problem's own."""
        return State.begin(start_of(self.problem, start), rule_start)

    def answer(self, state: Any, answer: Answer) -> np.ndarray:
        """The answer as flat weights, float64 [size]."""
        return state.registers().answer(answer)

    def norms(self, state: State | LinearState) -> tuple[float, float]:
        """The sum of the coefficients' squares and that of their sizes; without a copy but where a ledger has to be settled."""
        if isinstance(state, LinearState) and state.lazy is None:
            square, size = sparse.norms(state.w.reshape(-1), state.debt[0], self._base if state.moved is not None else None, state.moved)
            return square * state.scale[0] ** 2, size * abs(state.scale[0])
        return sparse.norms(np.ascontiguousarray(state.registers().w[: self.problem.layout.parameters[0].size]), 0.0, None, None)

    def pack(self, state: State | LinearState) -> Packed:
        """Everything of a state, in its own arrangement."""
        return state.pack()

    def unpack(self, packed: Packed, rule_start: Start) -> State | LinearState:
        """The state that was packed."""
        if not packed.values.get("arranged"):
            check_packed(packed, {k: ((self.problem.layout.size,), packed.arrays[k].dtype) for k in packed.arrays})
            return State.unpack(packed)
        check_packed(packed, self._expected(packed))
        return LinearState.unpack(packed, self.problem.layout, self._base)

    def _expected(self, packed: Packed) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and types that a packed state must have here."""
        outputs = self.problem.outputs
        typed: dict[str, tuple[tuple[int, ...], Any]] = {n: ((count,), np.float64) for n, count in (("ahead", 2), ("scale", 1), ("debt", 2))}
        typed["b"] = ((4, outputs), self._dtype)
        if self._base is not None and "moved" in packed.arrays:
            typed["moved"] = ((4, 2, outputs), np.float64)
        shape = (self._features, outputs) if self._sparse else (outputs, self._features)
        typed |= {k: (shape, self._dtype) for k in ("w", "v", "s", "a") if k == "w" or k in packed.arrays}
        owed = packed.values.get("lazy")
        if owed is not None:
            typed |= {"lazy.table": (self._table_shape(packed, owed["begin"]), np.float64), "lazy.stamps": ((self._features,), np.int32)}
        return typed

    def _table_shape(self, packed: Packed, begin: int) -> tuple[int, ...]:
        """The shape that a block's ledger must have: kernels read it by stamps, so those must lie within.

        Raises:
            InvalidValue: they do not.
        """
        block, stamps, now = self._varying_block, packed.arrays["lazy.stamps"], packed.step - begin
        constant, varying = (5, sparse.BASE, sparse.MAPS), (int(np.log2(block)) + 1, block + 1, sparse.MAPS)
        shape = constant if packed.arrays["lazy.table"].shape == constant else varying
        if not 0 <= now <= (CONSTANT_BLOCK if shape == constant else block) or (stamps.size and not (0 <= stamps.min() and stamps.max() <= now)):
            raise InvalidValue(f"the state's array 'lazy.stamps' does not lie within its block (update {packed.step}, begun at {begin}): it is of another problem")
        return shape

    def settle(self, state: Any, answer: Answer) -> None:
        """Nothing to do: the run's weights are its own."""

    def advance(self, state: State | LinearState, segment: Segment) -> Advance:
        """Run a segment from a state, which is consumed.

        Returns:
            the state after the segment (or after the last good step), the mean batch loss before each update, and
            the step at which a loss or gradient was not finite (that update was not made), or None.

        Raises:
            NoClosedForm: sparse rows and a rule that has no exact form there at a bearable cost.
        """
        inner = state if isinstance(state, LinearState) else self._arrange(state)
        losses = np.empty(segment.stop - segment.start)
        with compiled.announced():
            done = self._run(inner, segment, losses)
        inner.step = segment.start + done
        stopped = None if done == len(losses) else inner.step
        reason = "" if stopped is None else "the loss or the gradient was not finite"
        return Advance(inner, Trace(losses[:done]), stopped, reason)

    def _arrange(self, state: State) -> LinearState:
        return LinearState.of(state, self.problem.layout, self.problem.outputs, not self._sparse, self._dtype, self._base)

    # ------------------------------------------------------------------------------------------- which kernel

    def _run(self, state: LinearState, segment: Segment, losses: np.ndarray) -> int:
        needs = segment.rows.registers
        law = _Law.of(segment, self.problem.intercept)
        size = segment.nominal or self.problem.rows
        if self._is_large(segment):
            if self._sparse and state.is_behind:  # the plan before was of another kind
                state.settle()
            return self._threaded(state, segment, law, needs, losses)
        if self._sparse:
            return self._run_sparse(state, segment, law, needs, losses, size)
        v, s, a, l1 = state.present(needs)
        common = (*self._loss, law.row, law.names, law.varying)
        if size > 1:
            order, bounds = self._order(segment)
            return dense.batch(*self._data, order, bounds, *common, state.w, v, s, a, l1, state.b, law.intercept, losses)
        order = self._singles(segment)
        if not np.isfinite(self.problem.X[order[0]]).all():  # kernels fill their pipeline with 0 times this row
            return 0
        plain = not (needs.v or needs.s or needs.a or needs.threshold or needs.clip)
        if plain and self.problem.outputs == 1 and self._features <= GRAM_FEATURES and law.intercept:
            following = -1 if segment.following is None else segment.following
            return dense.gram(*self._data, order, following, *common, state.w[0], state.b[0], state.ahead, losses)
        return dense.single(*self._data, order, *common, state.w, v, s, a, l1, state.b, law.intercept, losses)

    def _run_sparse(self, state, segment: Segment, law: _Law, needs: Registers, losses: np.ndarray, size: int) -> int:
        plain = not (needs.v or needs.s or needs.a)
        data, common = self._data, (*self._loss, law.row, law.names, law.varying)
        if plain and size == 1 and not (needs.threshold and self._base is not None):
            if state.lazy is not None or (state.debt[0] and not needs.threshold):  # the plan before was of another kind
                state.settle()
            order = self._singles(segment)
            far = self._features * self.problem.outputs * self._dtype.itemsize > PREFETCHED
            l1 = 1.0 if needs.threshold else None
            seen = (*self._seen, state.moving())
            return sparse.scaled(*data, order, *common, state.w, state.scale, state.debt, l1, state.b, law.intercept, far, *seen, losses)
        if state.lazy is None and state.is_behind:
            state.settle()
        order, bounds = self._order(segment)
        why = _no_lazy_form(needs, segment, self._base is not None)
        many = size * self._nonzeros * EAGER_SHARE >= self._features
        if many or (why and self._features <= DENSE_COST * size * self._nonzeros):
            if state.is_behind:
                state.settle()
            v, s, a, l1 = state.present(needs)
            return sparse.eager(*data, order, bounds, *common, state.w, v, s, a, l1, state.b, law.intercept, self._base, losses)
        if why:
            instead = "SGD (momentum, decay and averaging are exact), AdaGrad or RMSProp without momentum"
            if self._base is not None:
                instead = "columns that are divided and not centred (standardized(center=False)), SGD without l1 (momentum, decay and averaging are exact)"
            raise NoClosedForm(
                f"{why}, so each step would have to touch all {self._features:,} features for the {size * self._nonzeros:,.0f} "
                f"non-zeros of a batch; use {instead}, or batches of at least {int(self._features / (DENSE_COST * self._nonzeros)) + 1} rows"
            )
        return self._lazy(state, segment, law, needs, losses)

    # ---------------------------------------------------------------------------------------- large batches

    def _is_large(self, segment: Segment) -> bool:
        """Whether a step is work for every core."""
        size = segment.nominal or self.problem.rows
        return size * self._nonzeros * self.problem.outputs >= THREADED and (not self._sparse or self._lanes_fit)

    @property
    def _lanes_fit(self) -> bool:
        """Whether the parts of a large sparse batch may each hold a gradient (1 GB in all)."""
        return LANES * self._features * self.problem.outputs * self._dtype.itemsize <= 1 << 30

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="fallline")

    def _threaded(self, state: LinearState, segment: Segment, law: _Law, needs: Registers, losses: np.ndarray) -> int:
        """One step at a time: the lanes of a batch on every core, then the update on one."""
        order, bounds = self._order(segment)
        g = np.empty((LANES, *state.w.shape), self._dtype)
        gb, sums = np.empty((LANES, 1, self.problem.outputs), self._dtype), np.empty(LANES)
        run = sparse.sparse_lanes if self._sparse else dense.lanes
        present = state.present(needs)
        shares = np.linspace(0, LANES, min(self.threads, LANES) + 1).astype(int)
        for t in range(len(losses)):
            u = t if len(bounds) > 2 else 0
            rows = order[bounds[u] : bounds[u + 1]]
            edges = np.linspace(0, len(rows), LANES + 1).astype(np.int64)
            law.fill(t)
            p, pb = law.gradient_point(state)
            if self._base is not None:
                pb = (pb - self._base @ p).astype(self._dtype)
            args = (*self._loss, p, pb, 1.0 / len(rows), g, gb, sums)
            work = [(a, b) for a, b in pairwise(shares.tolist()) if b > a]
            waiting = [self._pool.submit(run, *self._data, rows, edges, a, b, *args) for a, b in work[1:]]
            run(*self._data, rows, edges, *work[0], *args)
            for other in waiting:
                other.result()
            if self._base is not None:
                g[0] -= np.multiply.outer(self._base, gb.sum(axis=(0, 1))).astype(self._dtype)
            if not dense.gather(
                law.row, sums, len(rows), g, gb, state.w, *present, state.b, law.intercept, losses[t : t + 1]
            ):
                return t
        return len(losses)

    def _order(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Rows in visiting order and the batches' bounds; two bounds where every step takes all rows in file order."""
        if segment.indices is not None:
            return segment.indices, segment.bounds
        return self._all_rows, np.array([0, self.problem.rows])

    def _singles(self, segment: Segment) -> np.ndarray:
        """The row of each step, where batches are of one row: a full batch of one row is that row at every step."""
        return np.zeros(segment.steps, np.int32) if segment.indices is None else segment.indices

    @cached_property
    def _all_rows(self) -> np.ndarray:
        return np.arange(self.problem.rows, dtype=np.int32 if self.problem.rows < 2**31 else np.int64)

    # --------------------------------------------------------------------------------- lazy updates, sparse

    @cached_property
    def _seen(self) -> tuple[np.ndarray | None, np.ndarray | None, float | None]:
        """Of columns that are seen less a base: the base, its product with each row, and its squared length; else nothing."""
        if self._base is None:
            return None, None, None
        return self._base, np.asarray(self.problem.X @ self._base, np.float64), float(self._base @ self._base)

    def _block(self, law: _Law) -> int:
        """Steps of a block of the table: the more features there are to settle at its end, the longer."""
        if len(law.names):
            return self._varying_block
        return CONSTANT_BLOCK if self._base is None else MOVED_BLOCK

    @property
    def _varying_block(self) -> int:
        return 1 << int(np.clip(np.ceil(np.log2(max(self._features / 32, 1))), 10, 16))

    def _lazy(self, state: LinearState, segment: Segment, law: _Law, needs: Registers, losses: np.ndarray) -> int:
        """Run a segment block by block; blocks begin at multiples of their length, wherever segments are cut."""
        block, done = self._block(law), 0
        order, bounds = self._order(segment)
        while done < len(losses):
            at = segment.start + done
            begin = at // block * block
            if state.lazy is not None and (state.lazy.begin != begin or state.lazy.constants != law.constants):
                state.step = at
                state.settle()
            if state.lazy is None:
                state.lazy = self._owing(law, needs, begin, block, at)
                state.present(needs)
            part = min(len(losses) - done, begin + block - at)
            varying = law.varying[done : done + part]
            base = at - begin
            if len(law.names):
                sparse.lift(law.row, law.names, varying, base, needs.v, needs.s, needs.a, state.lazy.table)
            made = sparse.lazy(
                *self._data, order, bounds if len(bounds) == 2 else bounds[done : done + part + 1], *self._loss, law.row, law.names, varying,
                state.lazy.table, state.lazy.stamps, base, state.w, *state.present(needs), state.b, law.intercept,
                *self._seen, state.moving(), losses[done : done + part],
            )  # fmt: skip
            done += made
            if made < part:
                break
        return done

    def _owing(self, law: _Law, needs: Registers, begin: int, block: int, at: int) -> Lazy:
        """A block's ledger: nothing is owed at step `at`."""
        stamps = np.full(self._features, at - begin, np.int32)
        if len(law.names):
            table = np.zeros((int(np.log2(block)) + 1, block + 1, sparse.MAPS))
        else:
            table = np.zeros((5, sparse.BASE, sparse.MAPS))
            sparse.powers(law.row, law.names, law.varying, needs.v, needs.s, needs.a, table)
        return Lazy(table, stamps, begin, law.constants, needs)


class _Law:
    """A segment's rows as kernels take them: the two groups' constants, and the varying columns by index."""

    def __init__(self, row: np.ndarray, names: np.ndarray, varying: np.ndarray, intercept: bool):
        self.row, self.names, self.varying, self.intercept = row, names, varying, intercept
        self.constants = row.tobytes()

    @classmethod
    def of(cls, segment: Segment, intercept: bool) -> _Law:
        groups = list(segment.group_of)
        groups = groups if intercept else [groups[0], groups[0]]
        rows = segment.rows
        varying = rows.varying
        if groups != list(range(rows.groups)):
            varying = np.ascontiguousarray(varying[:, groups]) if rows.names else np.empty((len(varying), 2, 0))
        names = np.array([INDEX[n] for n in rows.names], np.int64)
        return cls(np.ascontiguousarray(rows.constants[groups], np.float64), names, varying, intercept)

    def fill(self, t: int) -> None:
        """Write step `t`'s varying columns into the row."""
        self.row[:, self.names] = self.varying[t]

    def gradient_point(self, state: LinearState) -> tuple[np.ndarray, np.ndarray]:
        """w - look*v of coefficients and intercepts."""
        look, look_b = self.row[:, INDEX["look"]].astype(state.w.dtype)
        if look == 0 and look_b == 0:
            return state.w, state.b[0].copy()
        return state.w - look * state.v, state.b[0] - look_b * state.b[1]  # look > 0 only where v is needed, so there


def data_of(problem: LinearProblem) -> tuple[np.ndarray, ...]:
    """A problem's data as kernels take them: X (or its numbers, columns and row starts), targets [rows, outputs], weights."""
    X, target, weight = problem.X, problem.target, problem.weight
    parts = (_frozen(X.data), _unsigned(X.indices), _unsigned(X.indptr)) if problem.sparse else (_frozen(X),)
    target = target if target.ndim == 2 else target.reshape(-1, 1)
    weight = np.empty(0, X.dtype) if weight is None else weight
    return (*parts, _frozen(np.ascontiguousarray(target)), _frozen(np.ascontiguousarray(weight)))


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only view: one compiled signature serves writable, read-only and memory-mapped data."""
    view = np.asarray(array).view(np.ndarray)[...]
    view.flags.writeable = False
    return view


def _unsigned(index: np.ndarray) -> np.ndarray:
    """The same bytes read as unsigned integers: kernels need no test for a negative index then. A canonical CSR has none."""
    return _frozen(np.asarray(index).view(f"u{index.itemsize}"))


def _no_lazy_form(needs: Registers, segment: Segment, centred: bool) -> str:
    """Why these rows cannot skip untouched features exactly, or an empty string."""
    if centred and (needs.s or needs.threshold):  # not linear in the weights, of which every step moves all
        return f"{'a second moment' if needs.s else 'an l1 threshold'} on sparse columns that are centred has no exact form"
    through = bool((segment.rows.column("through") != 0).any()) if "through" not in segment.rows.names else True
    if needs.s and (through or needs.l2 or needs.a):
        return "a second moment with momentum, coupled weight decay or averaging has no exact form on untouched features"
    if needs.threshold and (needs.v or needs.a):
        return "an l1 threshold with momentum or averaging has no exact form on untouched features"
    return ""
