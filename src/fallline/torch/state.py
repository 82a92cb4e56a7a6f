"""The registers of a module: `w` is the module's own memory wherever the gradient point is `w` itself."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fallline.history import State
from fallline.rows import Answer, Registers, Start

Tensors = list[torch.Tensor]


@dataclass(frozen=True, eq=False)
class Point:
    """The parameters of an answer and the buffers that go with them.

    Args:
        values: the trained parameters in the layout's order.
        buffers: the module's buffers by name (copies).
        present: the module itself holds just this, so it can be measured where it is.
    """

    values: Tensors
    buffers: Mapping[str, torch.Tensor]
    present: bool


@dataclass(eq=False)
class ModuleState:
    """The registers, one tensor per parameter, laid out in memory as the parameter is.

    Args:
        step: the next update.
        module: the parameters themselves, which hold the gradient point while training.
        w: copies where the gradient point is not `w` (true look-ahead), else None.
        v, s, a: velocity, second moment, average; None until a row needs them.
        start: how the rule's registers begin.
        scale: what the loss is multiplied by in float16, and `good`, the updates since it last changed.
    """

    step: int
    module: Tensors
    start: Start
    w: Tensors | None = None
    v: Tensors | None = None
    s: Tensors | None = None
    a: Tensors | None = None
    scale: float = 1.0
    good: int = 0

    @property
    def weights(self) -> Tensors:
        """Register w, wherever it is."""
        return self.module if self.w is None else self.w

    def need(self, needs: Registers) -> None:
        """Make the registers that a segment's rows use and that do not exist yet."""
        if needs.look and self.w is None:
            self.w = copies(self.module)
        if self.v is None and (needs.v or self.start.v_from_w):
            self.v = copies(self.weights) if self.start.v_from_w else [torch.zeros_like(p) for p in self.module]
        if self.s is None and needs.s:
            self.s = [torch.full_like(p, self.start.s) for p in self.module]
        if self.a is None and needs.a:
            self.a = copies(self.weights)

    def reading(self, answer: Answer) -> Tensors:
        """c_w*w + c_v*v + c_a*a, new tensors."""
        if answer == Answer():
            return copies(self.weights)
        out = [torch.zeros_like(p) for p in self.module]
        for factor, register in ((answer.w, self.weights), (answer.v, self.v), (answer.a, self.a or self.weights)):
            if factor and register is not None:
                torch._foreach_add_(out, register, alpha=factor)
        return out

    def registers(self) -> State:
        """The registers as flat float64 vectors in the layout's order."""
        return State(self.step, flat(self.weights), *(None if r is None else flat(r) for r in (self.v, self.s, self.a)))

    def copy(self) -> ModuleState:
        """An independent copy; its `module` is a copy too."""
        made = [None if r is None else copies(r) for r in (self.w, self.v, self.s, self.a)]
        return ModuleState(self.step, copies(self.module), self.start, *made, scale=self.scale, good=self.good)


def relaid(state: ModuleState) -> bool:
    """Lay registers out in memory as their parameters are by now (`.to(memory_format=...)`); whether any was not."""
    changed = False
    for register in (state.w, state.v, state.s, state.a):
        for k, (r, p) in enumerate(zip(register or (), state.module, strict=False)):
            if r.stride() != p.stride() and register is not None:
                register[k], changed = torch.empty_like(p).copy_(r), True
    return changed


def copies(tensors: Tensors) -> Tensors:
    """Detached copies with the same layout in memory."""
    return [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]


def write(targets: Tensors, values: Tensors) -> None:
    """Copy values into tensors in place."""
    if targets:  # PyTorch refuses an empty list
        with torch.no_grad():
            torch._foreach_copy_(targets, values)


def flat(tensors: Tensors) -> np.ndarray:
    """float64 [size], each tensor's elements in their logical order."""
    if not tensors:
        return np.empty(0)
    return torch.cat([t.detach().reshape(-1).to("cpu", torch.float64) for t in tensors]).numpy()


def unflat(values: np.ndarray, like: Tensors) -> Tensors:
    """The tensors that a flat vector describes, in the type, shape and layout of `like`."""
    source, out, at = torch.from_numpy(np.ascontiguousarray(values, np.float64)), [], 0
    for t in like:
        out.append(torch.empty_like(t).copy_(source[at : at + t.numel()].view(t.shape)))
        at += t.numel()
    return out
