"""States to go back to: which are good enough to be kept, and which one is next when a descent has diverged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fallline.history import Packed

HELD = 2
"""Good states held beside the start."""
SLACK = 0.1
"""A good state's loss lies within this share of the way from the lowest so far to where the run began."""
WINDOW = 100
"""Updates whose median is the loss of a moment, at most."""


@dataclass(frozen=True)
class Moment:
    """A run at one update: everything that going on from there needs, beside what the history holds.

    Attributes:
        packed: the engine's state.
        best: (score, weights by name, step) of the best evaluation until then, or None.
    """

    packed: Packed
    best: tuple[float, dict[str, np.ndarray], int] | None = None

    @property
    def step(self) -> int:
        return self.packed.step


@dataclass
class GoodStates:
    """The good states of a run.

    Args:
        every: updates between two that are considered.
        opening: updates that count as the beginning.

    Attributes:
        kept: moments, oldest first; the start is the first of them and always stays.
        lowest: the lowest loss so far, as medians over the window.
    """

    every: int
    opening: int
    kept: list[Moment] = field(default_factory=list)
    lowest: float = np.inf

    def following(self, step: int) -> int:
        """The first update after `step` at which a state is considered."""
        return (step // self.every + 1) * self.every

    def good(self, losses: np.ndarray) -> bool:
        """Whether the newest losses are those of a good state."""
        if not len(losses):
            return True
        level, low = self._level(losses), min(self.lowest, float(losses[0]))
        return level <= low or level - low <= SLACK * (float(np.max(losses[: self.opening])) - low)

    def _level(self, losses: np.ndarray) -> float:
        return float(np.median(losses[-min(self.every, WINDOW) :]))

    def consider(self, losses: np.ndarray, moment: Callable[[], Moment]) -> None:
        """Keep the present state where it is good."""
        fine = self.good(losses)
        self.lowest = min(self.lowest, self._level(losses))
        if fine:
            self.kept.append(moment())
            del self.kept[1:-HELD]

    def back(self) -> Moment:
        """The newest good state; the next time, unless another was kept meanwhile, the one before it."""
        return self.kept.pop() if len(self.kept) > 1 else self.kept[0]


def good_states(judges: Any, clock: Any) -> GoodStates | None:
    """What to keep for the judges that may ask to go back; None where none does."""
    wanted = [max(1, j.keep.in_steps(clock)) for j in judges if getattr(j, "keep", None) is not None]
    return GoodStates(min(wanted), min(WINDOW, clock.steps_per_epoch or WINDOW)) if wanted else None


__all__ = ["GoodStates", "Moment", "good_states"]
