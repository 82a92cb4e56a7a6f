"""An engine that runs another one and looks at the answer at chosen updates, with its clock stopped meanwhile.

A plan cut anywhere gives the same bits, so a run that is looked at is the run that is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.engines import Engine
from fallline.history import Advance, Packed, Trace
from fallline.layout import Layout
from fallline.plan import Plan
from fallline.rows import Answer, Start

Look = Callable[[Any], tuple[float, ...]]
"""From a point (what an engine's `answer` gives) to numbers."""


@dataclass
class Seen:
    """What was seen: the update, the seconds of descent until then, the looked-at numbers, and the answers where kept."""

    updates: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    values: list[tuple[float, ...]] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)


class MeasuringEngine:
    """Runs `inner`, and calls `look(answer)` before update 0 and after each of the updates `at`.

    Args:
        inner: the engine that does the work.
        plan: what is carried out; its segments are cut where there is something to see.
        layout: of the problem.
        at: counts of updates made, rising; int (K,).
        look: from the answer to numbers. Its time is not counted.
        keep: whether the answers are kept (a path of a few parameters).
        score: from the last answer to a number, kept as `scored`; or None.
    """

    def __init__(
        self, inner: Engine, plan: Plan, layout: Layout, at: np.ndarray, look: Look, *, keep: bool = False, score: Callable[[Any], float] | None = None
    ):
        self.inner, self.plan, self.layout, self.look, self.keep, self.score = inner, plan, layout, look, keep, score
        self.scored: float | None = None
        self.at = np.asarray(at, np.int64)
        self.seen = Seen()
        self.seconds = 0.0

    @property
    def name(self) -> str:
        return self.inner.name

    def begin(self, start: Any, rule_start: Start) -> Any:
        """The inner engine's state before update 0."""
        return self.inner.begin(start, rule_start)

    def answer(self, state: Any, answer: Answer) -> Any:
        """The inner engine's point."""
        return self.inner.answer(state, answer)

    def settle(self, state: Any, answer: Answer) -> None:
        """As the inner engine does, after the last look."""
        if self.score is not None and state.step == self.plan.steps:
            self.scored = self.score(self.inner.answer(state, answer))
        self.inner.settle(state, answer)

    def pack(self, state: Any) -> Packed:
        """As the inner engine does."""
        return self.inner.pack(state)

    def unpack(self, packed: Packed, rule_start: Start) -> Any:
        """As the inner engine does."""
        return self.inner.unpack(packed, rule_start)

    def warm(self, start: Any) -> None:
        """Run two updates of a state that is thrown away, so that compiling is not counted as descending."""
        state = self.begin(start, self.plan.optimizer.start())
        for a in range(min(2, self.plan.steps)):
            result = self.inner.advance(state, self.plan.segment(a, a + 1, self.layout))
            if result.stopped_at is not None:
                return
            state = result.state

    def advance(self, state: Any, segment: Any) -> Advance:
        """Run the segment's updates, in parts that end where there is something to see."""
        if not self.seen.updates:
            self._see(state)
        inside = self.at[(self.at > segment.start) & (self.at < segment.stop)].tolist()
        a, losses = segment.start, []
        for b in (*inside, segment.stop):
            began = time.perf_counter()
            result = self.inner.advance(state, self.plan.segment(a, b, self.layout))
            self.seconds += time.perf_counter() - began
            state, a = result.state, b
            losses.append(result.trace.loss)
            if result.stopped_at is not None:
                return Advance(state, Trace(np.concatenate(losses)), result.stopped_at, result.reason)
            if len(self.at) and self.at[np.searchsorted(self.at, b).clip(max=len(self.at) - 1)] == b:
                self._see(state)
        return Advance(state, Trace(np.concatenate(losses)))

    def _see(self, state: Any) -> None:
        answer = self.inner.answer(state, self.plan.optimizer.answer())
        self.seen.updates.append(int(state.step))
        self.seen.seconds.append(self.seconds)
        with np.errstate(all="ignore"):  # far out, a loss may overflow: it shows as infinite
            self.seen.values.append(self.look(answer))
        if self.keep:
            self.seen.answers.append(np.array(answer, np.float64))


def points(steps: int, most: int) -> np.ndarray:
    """About `most` counts of updates: close together at the beginning, evenly spread later on, the last always among them.

    >>> points(1000, 10).tolist()
    [1, 6, 32, 168, 178, 334, 500, 667, 834, 1000]
    """
    early = np.geomspace(1, steps, max(2, most // 2))
    late = np.linspace(1, steps, max(2, most - most // 2 + 2))
    return np.unique(np.concatenate([early, late]).round().astype(np.int64))
