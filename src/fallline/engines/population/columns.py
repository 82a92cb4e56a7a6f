"""How the registers of many runs lie in memory: runs side by side, so that a vector holds the same number of eight runs.

Column c*K + k is output c of run k. Columns go in groups of one or two vectors, [groups, features, width]; the last group is
filled up with columns of zeros. Intercepts stand apart, [4, columns].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.engines.linear.vectors import WIDE
from fallline.history import State
from fallline.layout import Layout
from fallline.rows import Registers


@dataclass
class Block:
    """Some runs of a population, which one thread carries on.

    Args:
        runs: their numbers in the population.
        step: the next update of all of them.
        w, v, s, a: coefficients' registers, [groups, features, width]; None for what no run needs.
        b: the intercepts' registers w, v, s, a, [4, columns].
        layout, outputs: of the problem.
    """

    runs: list[int]
    step: int
    w: np.ndarray
    v: np.ndarray | None
    s: np.ndarray | None
    a: np.ndarray | None
    b: np.ndarray
    layout: Layout
    outputs: int

    @classmethod
    def of(cls, runs: Sequence[int], states: Sequence[State], layout: Layout, outputs: int, needs: Registers, dtype: np.dtype) -> Block:
        """Arrange flat registers (copied) side by side; what they lack and the rows need begins as `State` says."""
        columns = padded(len(runs) * outputs, dtype)
        b = aligned((4, columns), dtype)
        parts = []
        for which, needed in enumerate((True, needs.v, needs.s, needs.a)):
            if not needed:
                parts.append(None)
                continue
            flats = [_register(state, which) for state in states]
            part, b[which] = _arranged(flats, layout, outputs, columns, dtype)
            parts.append(part)
        return cls(list(runs), states[0].step, *parts, b, layout, outputs)

    def states(self) -> list[State]:
        """The registers of each run, flat, in the type that they have here."""
        flats = [None if part is None else self._flats(part, self.b[i]) for i, part in enumerate((self.w, self.v, self.s, self.a))]
        return [State(self.step, *(None if f is None else f[k] for f in flats)) for k in range(len(self.runs))]

    def _flats(self, part: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[runs, size] of one register."""
        runs, (groups, features, width) = len(self.runs), part.shape
        matrix = part.transpose(1, 0, 2).reshape(features, groups * width)[:, : runs * self.outputs]
        coef = matrix.reshape(features, self.outputs, runs).transpose(2, 0, 1).reshape(runs, -1)
        if self.layout.size == coef.shape[1]:
            return np.ascontiguousarray(coef)
        return np.concatenate([coef, b[: runs * self.outputs].reshape(self.outputs, runs).T], axis=1)


def _register(state: State, which: int) -> np.ndarray:
    """One of w, v, s, a; those that nothing has touched yet are zeros, a copy of w for `a`."""
    register = (state.w, state.v, state.s, state.a)[which]
    if register is not None:
        return register
    return state.w if which == 3 else np.zeros_like(state.w)


def _arranged(flats: Sequence[np.ndarray], layout: Layout, outputs: int, columns: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Flat registers of some runs as [groups, features, width] and the intercepts' [columns]."""
    runs, size = len(flats), layout.parameters[0].size
    features, width = size // outputs, width_of(columns, dtype)
    full = np.zeros((features, columns), dtype)
    stacked = np.array([flat[:size] for flat in flats], dtype).reshape(runs, features, outputs)
    full[:, : runs * outputs] = stacked.transpose(1, 2, 0).reshape(features, outputs * runs)
    out = aligned((columns // width, features, width), dtype)
    out[:] = full.reshape(features, -1, width).transpose(1, 0, 2)
    b = np.zeros(columns, dtype)
    if layout.size > size:
        b[: runs * outputs] = np.array([flat[size:] for flat in flats], dtype).T.reshape(-1)
    return out, b


def lanes(dtype: np.dtype) -> int:
    """Numbers of a vector."""
    return WIDE // np.dtype(dtype).itemsize


def padded(columns: int, dtype: np.dtype) -> int:
    """Columns, filled up to whole groups: of one vector where that is enough, else of two."""
    each = lanes(dtype)
    return each if columns <= each else -(-columns // (2 * each)) * 2 * each


def width_of(columns: int, dtype: np.dtype) -> int:
    """Columns of a group."""
    return min(columns, 2 * lanes(dtype))


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that begin at a cache line."""
    count, line = int(np.prod(shape)), 64 // np.dtype(dtype).itemsize
    room = np.zeros(count + line, dtype)
    skip = -room.ctypes.data % 64 // room.itemsize
    return room[skip : skip + count].reshape(shape)


__all__ = ["Block", "aligned", "lanes", "padded", "width_of"]
