"""The linear engine over rows in files: the same kernels, handed one buffer of rows after another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.engines.linear import dense, sparse
from fallline.engines.linear.engine import LANES, LinearEngine
from fallline.history import Advance, State, Trace
from fallline.problems.arrays import CHUNK_BYTES

if TYPE_CHECKING:
    from fallline.engines.linear.state import LinearState
    from fallline.plan import Segment
    from fallline.problems.stored import StoredProblem


class StoredEngine(LinearEngine):
    """Runs segments of a `StoredProblem`. Bits are those of the same rows in memory, in the same order, but for batches of millions of numbers."""

    def __init__(self, problem: StoredProblem, threads: int | None = None):
        super().__init__(problem, threads)
        assert problem.window is not None
        self.window = problem.window

    def advance(self, state: State | LinearState, segment: Segment) -> Advance:
        """As in memory, cut where another buffer of rows begins."""
        if not segment.buffers or segment.indices is None or self._is_large(segment):
            return super().advance(state, segment)
        losses, result = [], None
        for first, past, spans, following in _pieces(segment):
            self.window.enter(spans, following)
            result = super().advance(state, segment.part(first, past))
            state = result.state  # type: ignore[assignment]
            losses.append(result.trace.loss)
            if result.stopped_at is not None:
                break
        assert result is not None
        return Advance(result.state, Trace(np.concatenate(losses)), result.stopped_at, result.reason)

    def settle(self, state: Any, answer: Any) -> None:
        """The run is over: no row is needed any more."""
        self.window.leave()

    # ------------------------------------------------------------------------------------------ large batches

    def _threaded(self, state: LinearState, segment: Segment, law: Any, needs: Any, losses: np.ndarray) -> int:
        """One step at a time, its rows in stretches that fit into memory, summed in float64."""
        g = np.empty((LANES, *state.w.shape), self._dtype)
        gb, sums = np.empty((LANES, 1, self.problem.outputs), self._dtype), np.empty(LANES)
        present = state.present(needs)
        for t in range(len(losses)):
            count = self.problem.rows if segment.indices is None else int(segment.bounds[t + 1] - segment.bounds[t])
            law.fill(t)
            args = (*self._loss, *law.gradient_point(state), 1.0 / count)
            total, total_b, value = np.zeros(state.w.shape), np.zeros((1, self.problem.outputs)), 0.0
            for data, rows in self._stretches(segment, t):
                self._lanes(data, rows, args, g, gb, sums)
                total += g.sum(axis=0, dtype=np.float64)
                total_b += gb.sum(axis=0, dtype=np.float64)
                value += float(sums.sum())
            with np.errstate(over="ignore"):
                whole, whole_b = total[None].astype(self._dtype), total_b[None].astype(self._dtype)
            if not dense.gather(law.row, np.array([value]), count, whole, whole_b, state.w, *present, state.b, law.intercept, losses[t : t + 1]):
                return t
        return len(losses)

    def _lanes(self, data: Any, rows: np.ndarray, args: Any, g: np.ndarray, gb: np.ndarray, sums: np.ndarray) -> None:
        """The gradients of the lanes of some rows, on every core."""
        run = sparse.sparse_lanes if self._sparse else dense.lanes
        edges = np.linspace(0, len(rows), LANES + 1).astype(np.int64)
        shares = np.linspace(0, LANES, min(self.threads, LANES) + 1).astype(int).tolist()
        work = [(a, b) for a, b in pairwise(shares) if b > a]
        waiting = [self._pool.submit(run, *data, rows, edges, a, b, *args, g, gb, sums) for a, b in work[1:]]
        run(*data, rows, edges, *work[0], *args, g, gb, sums)
        for other in waiting:
            other.result()

    def _stretches(self, segment: Segment, t: int) -> Iterator[tuple[Any, np.ndarray]]:
        """The rows of a step: all of them in file order, or buffer by buffer."""
        if segment.indices is not None:
            at = segment.bounds[t : t + 2]
            for first, past, spans, following in _overlapping(segment, int(at[0]), int(at[1])):
                self.window.enter(spans, following)
                yield self._data, segment.indices[first:past]
            return
        rows, width = self.problem.rows, int(self._nonzeros * self._dtype.itemsize) + 16
        step = max(8 * CHUNK_BYTES // width, 1)
        spans = [np.array([[a, min(a + step, rows)]]) for a in range(0, rows, step)]
        order = np.arange(min(step, rows), dtype=np.int32)
        for k, span in enumerate(spans):
            a, b = span[0].tolist()
            self.window.enter(span, spans[(k + 1) % len(spans)] if len(spans) > 1 else None)
            yield self._part(a, b), order[: b - a]

    def _part(self, a: int, b: int) -> tuple[np.ndarray, ...]:
        """The data of rows a .. b-1 as kernels take them."""
        *X, target, weight = self._data
        head = (X[0], X[1], X[2][a : b + 1]) if self._sparse else (X[0][a:b],)
        return (*head, target[a:b], weight[a:b] if len(weight) else weight)


Piece = tuple[int, int, np.ndarray, np.ndarray | None]


def _pieces(segment: Segment) -> Iterator[Piece]:
    """The updates of a segment by the buffer that their first row lies in: from, to, the buffer's rows, those of the next."""
    first = segment.bounds[:-1]
    for k, buffer in enumerate(segment.buffers):
        a, b = np.searchsorted(first, [buffer.start, buffer.stop]).tolist()
        if b > a:
            yield a, b, buffer.spans, _next(segment, k)


def _overlapping(segment: Segment, start: int, stop: int) -> Iterator[Piece]:
    """Entries start .. stop-1 of a segment by buffer."""
    for k, buffer in enumerate(segment.buffers):
        a, b = max(buffer.start, start), min(buffer.stop, stop)
        if b > a:
            yield a, b, buffer.spans, _next(segment, k)


def _next(segment: Segment, k: int) -> np.ndarray | None:
    return segment.buffers[k + 1].spans if k + 1 < len(segment.buffers) else None
