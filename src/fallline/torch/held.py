"""Updates from the gradients that parameters themselves hold: the pass of one's own loop.

Between two updates user code may do anything to a module: move it, load it, take its gradients away. So both addresses of
every parameter are read anew each time, by `addresses` in microseconds, or by Python where something is out of the ordinary.
"""

from __future__ import annotations

import sys
from operator import is_

import torch

from fallline.errors import InvalidValue
from fallline.torch.addresses import Places, walk
from fallline.torch.checks import check
from fallline.torch.state import ModuleState, Tensors, relaid
from fallline.torch.threads import team
from fallline.torch.update import HostUpdater

BRIEF = 1_000_000
"""Elements up to which an update keeps the GIL: 0.2 milliseconds, where a reference to each gradient would take longer than a small update."""


class HeldUpdates:
    """Makes updates of an updater's parameters from their `.grad`.

    Args:
        updater: of parameters as they are laid out now.
    """

    def __init__(self, updater: HostUpdater):
        self.updater = updater
        self._kinds = [(t.dtype, t.shape) for t in updater.tensors]
        self._placed: tuple[Tensors | None, ...] | None = None
        self._places = self._made()
        locked = getattr(sys, "_is_gil_enabled", lambda: True)()  # Python may be built without
        self._brief = locked and updater.size <= BRIEF and team(keep_gil=True) is not None

    def _made(self) -> Places | None:
        pass_, u = walk(), self.updater
        return Places(u.tensors, u.module, u.grads, pass_) if pass_ is not None and u.tensors else None

    def step(self, t: int, state: ModuleState, factor: float, *, guard: bool) -> bool | None:
        """Update t of the rows in use; None where no parameter has a gradient, else as `HostUpdater.apply`.

        Meanwhile either we hold the gradients, or no other thread runs Python that could take them away.

        Raises:
            InvalidValue: a parameter that has become another type, shape or device, or has a sparse gradient.
        """
        updater = self.updater
        grads = None if self._brief else [p.grad for p in updater.tensors]
        self.place(state)
        found = None if self._places is None else self._places.read()
        if found is None:
            grads = self._asked(state)
            found = sum(g is not None for g in grads)
        return updater.run(t, factor, guard=guard, keep_gil=grads is None) if found else None

    def place(self, state: ModuleState) -> None:
        """Tell the updater where the registers lie, when they are new."""
        registers = (state.v, state.s, state.a, state.w)
        if self._placed is None or not all(map(is_, self._placed, registers)):
            self.updater.place(state)
            self._placed = registers

    def _asked(self, state: ModuleState) -> list[torch.Tensor | None]:
        """The gradients, and where everything lies, asked tensor by tensor; registers follow their parameters' order in memory."""
        updater = self.updater
        for name, p, (dtype, shape) in zip(updater.names, updater.tensors, self._kinds, strict=True):
            if p.device.type != "cpu":
                raise InvalidValue("the module has moved to another device since the optimizer was made: make the optimizer after .to()")
            check(name, p)
            if p.dtype != dtype or p.shape != shape:
                was = f"{dtype} {list(shape)} when the optimizer was made"
                raise InvalidValue(f"parameter {name!r} is {p.dtype} {list(p.shape)} and was {was}: make the optimizer after such changes")
        if relaid(state):
            self._places = self._made()
        updater.place(state)
        grads = [p.grad for p in updater.tensors]
        updater.grads[:] = updater.laid_out(grads)
        return grads
