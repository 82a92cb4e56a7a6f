"""The row on a device: the law in tensor operations, compiled to few kernels, with no wait for the device inside a segment.

The row is a tensor, so a changing learning rate compiles nothing anew. The guard stays on the device too: from the
first loss or gradient that is not finite, updates change nothing, and the end of the segment tells how many were made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from fallline.rows import INDEX, Registers, Rows
from fallline.torch.state import ModuleState, Tensors

_C = INDEX


@cache
def _law(compiled: bool) -> Callable[..., Any]:
    return torch.compile(_update, dynamic=False) if compiled else _update


class DeviceUpdater:
    """Applies rows to parameters on one device.

    Args:
        parameters: by name.
        group_of: the group of each.
    """

    def __init__(self, parameters: dict[str, torch.Tensor], group_of: Sequence[int]):
        self.names, self.tensors = list(parameters), list(parameters.values())
        self.group_of = np.array(group_of, np.int64)
        self.device, self.dtype = self.tensors[0].device, self.tensors[0].dtype

    def begin(self, state: ModuleState, rows: Rows) -> None:
        """Take up a segment."""
        state.need(rows.registers)
        self._rows = torch.from_numpy(rows.dense()).to(self.device)
        self._needs, self._state = rows.registers, state
        self._alive = torch.ones((), dtype=torch.bool, device=self.device)
        self._losses: Tensors = []
        self._made: Tensors = []
        self._waits = state.scale != 1  # float16 skips a step whose gradient overflowed, so it has to know at once
        self._look(0)

    def step(self, t: int, loss: torch.Tensor, grads: Sequence[torch.Tensor | None], factor: float) -> bool:
        """Update t of the segment, made on the device unless a loss or gradient so far was not finite."""
        self._alive = self.apply(self._rows[t], self._needs, grads, self._state, factor, self._alive & torch.isfinite(loss))
        if self._waits and not bool(self._alive):
            self._alive = torch.ones_like(self._alive)
            return False
        self._note(loss)
        self._look(t + 1)
        return True

    def skip(self, loss: torch.Tensor) -> bool:
        """Use up an update without making it."""
        self._note(loss)
        return True

    def _note(self, loss: torch.Tensor) -> None:
        self._losses.append(loss.detach().double())
        self._made.append(self._alive)

    def close(self) -> np.ndarray:
        """The losses of the updates that were made, float64: the one wait of a segment."""
        if not self._losses:
            return np.empty(0)
        both = torch.stack([torch.stack(self._losses), torch.stack(self._made).double()]).cpu().numpy()
        return both[0][: int(both[1].sum())]

    def apply(
        self, row: torch.Tensor, needs: Registers, grads: Sequence[torch.Tensor | None], state: ModuleState, factor: float, alive: torch.Tensor
    ) -> torch.Tensor:
        """One update of all parameters that have a gradient, where `alive` and the gradients are finite; returns that."""
        own = [k for k, g in enumerate(grads) if g is not None]
        if not own:
            return alive
        pick = lambda r, on: [r[k] for k in own] if on and r is not None else None
        law = _law(self.device.type != "cpu")
        scale = torch.tensor(factor, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            return law(
                row, [int(self.group_of[k]) for k in own], [grads[k] for k in own], scale, alive, pick(state.weights, True),
                pick(state.v, needs.v), pick(state.s, needs.s), pick(state.a, needs.a), needs.threshold,
            )  # fmt: skip

    def _look(self, t: int) -> None:
        if self._needs.look and t < len(self._rows) and self._state.v is not None:
            with torch.no_grad():
                for k, p in enumerate(self._state.module):
                    look = self._rows[t, self.group_of[k], _C["look"]].to(self.dtype)
                    p.copy_(self._state.weights[k] - look * self._state.v[k])


def _update(
    row: torch.Tensor, groups: list[int], grads: Tensors, scale: torch.Tensor, alive: torch.Tensor, w: Tensors,
    v: Tensors | None, s: Tensors | None, a: Tensors | None, l1: bool,
) -> torch.Tensor:  # fmt: skip
    """The law of `fallline.rows` on lists of tensors; registers are None where unused. Returns whether it was applied."""
    norm = torch.sqrt(sum((g.double() * g).sum() for g in grads)) * scale  # type: ignore[union-attr]
    alive = alive & torch.isfinite(norm)
    clip = row[0, _C["clip"]]
    scale = torch.where(norm > clip, scale * clip / norm, scale)
    for k, group in enumerate(groups):
        r = row[group].to(w[k].dtype)
        d = grads[k] * scale.to(w[k].dtype) + r[_C["l2"]] * w[k]
        u = r[_C["direct"]] * d
        if v is not None:
            new = r[_C["momentum"]] * v[k] + r[_C["intake"]] * d
            v[k].copy_(torch.where(alive, new, v[k]))
            u = u + r[_C["through"]] * new
        if s is not None:
            on = r[_C["second_intake"]] > 0
            new = r[_C["second_keep"]] * s[k] + r[_C["second_intake"]] * d * d
            s[k].copy_(torch.where(alive & on, new, s[k]))
            u = torch.where(on, u / (torch.sqrt(new * r[_C["unbias"]]) + r[_C["eps"]]), u)
        new = r[_C["shrink"]] * w[k] - r[_C["lr"]] * u
        if l1:
            new = torch.sign(new) * torch.clamp(torch.abs(new) - r[_C["threshold"]], min=0)
        w[k].copy_(torch.where(alive, new, w[k]))
        if a is not None:
            a[k].copy_(torch.where(alive, a[k] + r[_C["average"]] * (w[k] - a[k]), a[k]))
    return alive
