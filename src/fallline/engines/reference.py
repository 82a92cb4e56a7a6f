"""The meaning of the library, in plain NumPy float64: every other engine is tested against this one.

It runs any problem, one update after the other, in the words of `fallline.rows`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.history import Advance, Packed, State, Trace, check_packed
from fallline.layout import start_of
from fallline.rows import COLUMNS, INDEX, Answer, Start, update

if TYPE_CHECKING:
    from fallline.plan.segment import Segment


class ReferenceEngine:
    """Runs segments of any problem in NumPy float64, row by row.

    Args:
        problem: anything with `layout` and `gradient(w, batch)`.
    """

    name = "reference"

    def __init__(self, problem: Any):
        self.problem = problem

    def begin(self, start: Any, rule_start: Start) -> State:
        """The state before update 0, from a user's weights or the problem's own."""
        return State.begin(start_of(self.problem, start), rule_start)

    def answer(self, state: Any, answer: Answer) -> np.ndarray:
        """The answer as flat weights, float64 [size]."""
        return state.registers().answer(answer)

    def pack(self, state: State) -> Packed:
        """The registers."""
        return state.pack()

    def unpack(self, packed: Packed, rule_start: Start) -> State:
        """The registers as they were."""
        check_packed(packed, {k: ((self.problem.layout.size,), packed.arrays[k].dtype) for k in packed.arrays})
        return State.unpack(packed)

    def settle(self, state: Any, answer: Answer) -> None:
        """Nothing to do: the run's weights are its own."""

    def advance(self, state: State, segment: Segment) -> Advance:
        """Run a segment from a state, which is consumed; stops before an update whose loss or gradient is not finite."""
        w = np.array(state.w, np.float64)
        v, s = (np.zeros_like(w) if r is None else np.array(r, np.float64) for r in (state.v, state.s))
        a = w.copy() if state.a is None else np.array(state.a, np.float64)
        rows = segment.rows.dense()
        parts = list(zip(self.problem.layout.slices, segment.group_of, strict=True))
        losses: list[float] = []
        for t in range(segment.stop - segment.start):
            with np.errstate(all="ignore"):  # the guard looks at the result; an overflow on the way is not news
                loss, g = self.problem.gradient(self._gradient_point(rows[t], parts, w, v), segment.batch(t))
                norm = math.sqrt(float(g @ g))
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    at = segment.start + t
                    return Advance(State(at, w, v, s, a), Trace(np.array(losses)), at, "the loss or the gradient was not finite")
                losses.append(loss)
                clip = rows[t, 0, INDEX["clip"]]
                if norm > clip:
                    g = g * (clip / norm)
                for part, group in parts:
                    row = dict(zip(COLUMNS, rows[t, group], strict=True))
                    update(row, g[part], w[part], v[part], s[part], a[part])
        return Advance(State(segment.stop, w, v, s, a), Trace(np.array(losses)))

    @staticmethod
    def _gradient_point(row: np.ndarray, parts: list[tuple[slice, int]], w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """w - look*v, each parameter with its group's look."""
        point = w.copy()
        for part, group in parts:
            look = row[group, INDEX["look"]]
            if look:
                point[part] -= look * v[part]
        return point
