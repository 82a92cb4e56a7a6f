"""The row on a device: the law on whole lists of tensors, compiled to few kernels, with no wait for the device inside a segment.

The row is a tensor, so a changing learning rate compiles nothing anew. The guard stays on the device too: where the loss or
a gradient is not finite, the row in use is the one that leaves every register as it is, from there to the segment's end,
which tells how many updates were made.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import groupby
from types import FunctionType
from typing import Any

import numpy as np
import torch

from fallline.rows import COLUMNS, INDEX, NEUTRAL, Rows
from fallline.torch.state import ModuleState, Tensors

STILL = NEUTRAL | {"momentum": 1.0, "intake": 0.0, "direct": 0.0, "lr": 0.0}
"""The row that changes nothing."""

Grads = Sequence[torch.Tensor | None]


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
        self._law = law_for(self.device)
        self.number = torch.float32 if self.device.type == "mps" else torch.float64  # Metal has no float64
        self._true = torch.ones((), dtype=torch.bool, device=self.device)
        self._factors: dict[float, torch.Tensor] = {}

    # ------------------------------------------------------------------------------------- a segment of the engine

    def begin(self, state: ModuleState, rows: Rows) -> None:
        """Take up a segment."""
        state.need(rows.registers)
        self._state, self._alive = state, self._true
        self._losses: Tensors = []
        self._made: Tensors = []
        self._waits = state.scale != 1  # float16 skips a step whose gradient overflowed, so it has to know at once
        self.use(rows)
        self.look(0, state)

    def step(self, t: int, loss: torch.Tensor, grads: Grads, factor: float) -> bool:
        """Update t of the segment, made on the device unless a loss or gradient so far was not finite."""
        self._alive = self.apply(t, grads, self._state, self.factor(factor), self._alive & torch.isfinite(loss), guard=True)
        if self._waits and not bool(self._alive):
            self._alive = self._true
            return False
        self._note(loss)
        self.look(t + 1, self._state)
        return True

    def skip(self, loss: torch.Tensor) -> bool:
        """Use up an update without making it."""
        self._note(loss)
        return True

    def _note(self, loss: torch.Tensor) -> None:
        self._losses.append(loss.detach().to(self.number))
        self._made.append(self._alive)

    def close(self) -> np.ndarray:
        """The losses of the updates that were made, float64: the one wait of a segment."""
        if not self._losses:
            return np.empty(0)
        both = torch.stack([torch.stack(self._losses), torch.stack(self._made).to(self.number)]).cpu().double().numpy()
        return both[0][: int(both[1].sum())]

    # --------------------------------------------------------------------------------------------------- one update

    def use(self, rows: Rows) -> None:
        """Take up rows, all on the device at once; updates then name them by their place in here."""
        self._needs, self._rows = rows.registers, self._there(rows.dense())
        self._still = self._there(np.array([STILL[column] for column in COLUMNS]))

    def _there(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.number).to(self.device)

    def factor(self, value: float) -> torch.Tensor:
        """A number on the device; one that was asked for before is there already, and nothing waits."""
        if value not in self._factors:
            self._factors = {value: torch.tensor(value, dtype=self.number, device=self.device)}
        return self._factors[value]

    def apply(self, t: int, grads: Grads, state: ModuleState, factor: torch.Tensor, alive: torch.Tensor | None = None, *, guard: bool) -> torch.Tensor:
        """Update t of the rows in use, of the parameters that have a gradient; returns whether it was made, on the device.

        Args:
            t: which of the rows.
            grads: of each parameter; None leaves it alone.
            state: the registers.
            factor: scalar tensor; what every gradient is multiplied by before clipping.
            alive: bool scalar tensor; where False, nothing is changed.
            guard: change nothing where a gradient is not finite.
        """
        alive = self._true if alive is None else alive
        own = sorted((k for k, g in enumerate(grads) if g is not None), key=lambda k: self.group_of[k])
        if not own:
            return alive
        groups = [(int(g), len(list(members))) for g, members in groupby(self.group_of[own])]
        pick = lambda r, on=True: [r[k] for k in own] if on and r is not None else None
        needs = self._needs
        with torch.no_grad():
            return self._law(
                self._rows[t], self._still, groups, pick(grads), factor, alive, pick(state.weights),
                pick(state.v, needs.v), pick(state.s, needs.s), pick(state.a, needs.a), needs.threshold, guard or needs.clip,
            )  # fmt: skip

    def look(self, t: int, state: ModuleState) -> None:
        """Put the gradient point w - look*v of row t into the module."""
        if self._needs.look and t < len(self._rows) and state.v is not None:
            with torch.no_grad():
                for k, p in enumerate(state.module):
                    p.copy_(state.weights[k] - self._rows[t, self.group_of[k], INDEX["look"]].to(self.dtype) * state.v[k])


def law_for(device: torch.device, backend: str = "inductor") -> Callable[..., Any]:
    """The law for a device: compiled where kernels can be written (CUDA with Triton), in PyTorch's multi-tensor operations elsewhere.

    Each call gives a function of its own: PyTorch compiles one function for eight different modules and then no more.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return _update
    return compiled_law(backend)


def compiled_law(backend: str) -> Callable[..., Any]:
    """A copy of the law under `torch.compile`."""
    copy = FunctionType(_update.__code__.replace(), _update.__globals__, _update.__name__, _update.__defaults__, _update.__closure__)
    return torch.compile(copy, dynamic=False, backend=backend)


def _update(
    row: torch.Tensor, still: torch.Tensor, groups: list[tuple[int, int]], grads: Tensors, factor: torch.Tensor, alive: torch.Tensor,
    w: Tensors, v: Tensors | None, s: Tensors | None, a: Tensors | None, l1: bool, measure: bool,
) -> torch.Tensor:  # fmt: skip
    """The law of `fallline.rows` on lists of tensors, sorted by group; registers are None where unused. Returns whether it was applied.

    Args:
        groups: (group, how many of the tensors).
        measure: take the norm of the gradient, for clipping and the guard.
    """
    if measure:
        norm = torch.stack(torch._foreach_norm(grads, 2, dtype=row.dtype)).square().sum().sqrt() * factor
        alive = alive & torch.isfinite(norm)
        clip = row[0, INDEX["clip"]]
        factor = torch.where(norm > clip, factor * clip / norm, factor)
    first = 0
    for group, count in groups:
        part = slice(first, first := first + count)
        r = torch.where(alive, row[group], still).to(w[0].dtype)
        g = [torch.where(alive, g, 0) for g in grads[part]]  # a gradient that is not finite must not meet even a factor of 0
        _group(r, torch._foreach_mul(g, factor.to(w[0].dtype)), w[part], v and v[part], s and s[part], a and a[part], l1)
    return alive


def _group(r: torch.Tensor, g: Tensors, w: Tensors, v: Tensors | None, s: Tensors | None, a: Tensors | None, l1: bool) -> None:
    """The law on the tensors of one group; `r` is its row."""
    c = {name: r[k] for name, k in INDEX.items()}
    times, plus = torch._foreach_mul, torch._foreach_add
    d = plus(g, times(w, c["l2"]))
    u = times(d, c["direct"])
    if v is not None:
        torch._foreach_copy_(v, plus(times(v, c["momentum"]), times(d, c["intake"])))
        u = plus(u, times(v, c["through"]))
    if s is not None:
        on = c["second_intake"] > 0  # a row without a second moment keeps s, and divides by sqrt(0) + 1
        keep, unbias, eps = torch.where(on, c["second_keep"], 1), torch.where(on, c["unbias"], 0), torch.where(on, c["eps"], 1)
        torch._foreach_copy_(s, plus(times(s, keep), times(times(d, d), c["second_intake"])))
        u = torch._foreach_div(u, _shifted(torch._foreach_sqrt(times(s, unbias)), eps))
    new = plus(times(w, c["shrink"]), times(u, -c["lr"]))
    if l1:
        size = torch._foreach_clamp_min(_shifted(torch._foreach_abs(new), -c["threshold"]), 0)
        new = times(torch._foreach_sign(new), size)
    torch._foreach_copy_(w, new)
    if a is not None:
        torch._foreach_copy_(a, plus(a, times(torch._foreach_sub(w, a), c["average"])))


def _shifted(tensors: Sequence[torch.Tensor], by: torch.Tensor) -> Tensors:
    """Each plus one number on the device: PyTorch's own sum of a list and a scalar tensor reads that number into Python."""
    return [x + by for x in tensors]
