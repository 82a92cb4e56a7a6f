"""One pass over the tensors for every rule: the row applied to parameters and registers where they lie.

On the CPU a compiled kernel walks a table of addresses, on as many threads as PyTorch uses; `device.py` has the same for
other devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from fallline.errors import InvalidValue
from fallline.rows import Rows
from fallline.torch import kernel
from fallline.torch.checks import check
from fallline.torch.state import ModuleState, relaid
from fallline.torch.threads import shared

THREADED = 75_000
"""Elements from which several threads are worth their hand-over (some microseconds of work)."""
_is_contiguous, _data_ptr = torch.Tensor.is_contiguous, torch.Tensor.data_ptr

Tensors = list[torch.Tensor]


class Updater(Protocol):
    """What applies a segment's rows to a module's tensors."""

    group_of: np.ndarray

    def begin(self, state: ModuleState, rows: Rows) -> None: ...

    def use(self, rows: Rows) -> None: ...

    def step(self, t: int, loss: torch.Tensor, grads: Sequence[torch.Tensor | None], factor: float) -> bool: ...

    def skip(self, loss: torch.Tensor) -> bool: ...

    def close(self) -> np.ndarray: ...


def updater_of(parameters: dict[str, torch.Tensor], group_of: Sequence[int]) -> Updater:
    """The updater for where the parameters are."""
    if next(iter(parameters.values())).device.type == "cpu":
        return HostUpdater(parameters, group_of)
    from fallline.torch.device import DeviceUpdater

    return DeviceUpdater(parameters, group_of)


class HostUpdater:
    """Applies rows to parameters on the CPU.

    Args:
        parameters: by name; each a dense tensor of float32 or float64, all of one type.
        group_of: the group of each.

    Raises:
        InvalidValue: a parameter that cannot be updated; the message names it.
    """

    def __init__(self, parameters: dict[str, torch.Tensor], group_of: Sequence[int]):
        self.names, self.tensors = list(parameters), list(parameters.values())
        for name, tensor in parameters.items():
            check(name, tensor)
        kinds = {t.dtype for t in self.tensors}
        if len(kinds) > 1:
            raise InvalidValue(f"parameters of several types ({', '.join(sorted(map(str, kinds)))}): expected one; use model.float() or model.double()")
        self.group_of = np.array(group_of, np.int64)
        self._single = kinds == {torch.float32}
        self._plain = False
        self.size = sum(t.numel() for t in self.tensors)
        self._copies: Tensors = []
        self._make_task()

    def _make_task(self) -> None:
        """The table that the callback reads, and the arrays whose addresses stand in it."""
        chunks = kernel.pieces([t.numel() for t in self.tensors])
        starts = kernel.shares(chunks)
        self._task, self._turn = np.zeros(kernel.FIELDS, np.int64), np.zeros(2, np.int64)
        self._squares, self._factor = np.zeros(max(len(chunks), 1)), np.ones(1)
        self.grads, self.module = np.zeros((2, len(self.tensors)), np.int64)
        self._held = [chunks, starts]
        task = self._task
        task[kernel.PIECES], task[kernel.SHARES] = len(chunks), len(starts) - 1
        for field, array in (
            (kernel.TURN, self._turn), (kernel.CHUNKS, chunks), (kernel.STARTS, starts), (kernel.GROUP_OF, self.group_of),
            (kernel.SQUARES, self._squares), (kernel.FACTOR, self._factor), (kernel.G, self.grads), (kernel.MODULE, self.module),
        ):  # fmt: skip
            task[field] = array.ctypes.data
        self._address = task.ctypes.data

    # ------------------------------------------------------------------------------------- a segment of the engine

    def begin(self, state: ModuleState, rows: Rows) -> None:
        """Take up a segment: its rows, its registers, and the first gradient point."""
        state.need(rows.registers)
        relaid(state)
        self._losses: list[float] = []
        self.use(rows)
        self.place(state)
        self.look(0)

    def step(self, t: int, loss: torch.Tensor, grads: Sequence[torch.Tensor | None], factor: float) -> bool:
        """Update t of the segment; False, and nothing done, where loss or gradient are not finite."""
        value = float(loss)
        if not math.isfinite(value) or not self.apply(t, grads, factor, guard=True):
            return False
        self._losses.append(value)
        if self._looks:
            self.look(t + 1)
        return True

    def skip(self, loss: torch.Tensor) -> bool:
        """Use up an update without making it."""
        self._losses.append(float(loss))
        return True

    def close(self) -> np.ndarray:
        """The losses of the segment's updates, float64."""
        return np.array(self._losses)

    # ------------------------------------------------------------------------------------------- rows and places

    def use(self, rows: Rows) -> None:
        """Take up rows; updates then name them by their place in here."""
        needs = rows.registers
        self._rows = np.ascontiguousarray(rows.dense())
        self._needs, self._looks, self._clips = needs, needs.look, needs.clip
        self._run = kernel.callback_for(self._single, needs.v, needs.s, needs.a, needs.threshold).address
        self._first_row, self._row_bytes = self._rows.ctypes.data, self._rows.strides[0]
        self._task[kernel.GROUPS] = self._rows.shape[1]

    def place(self, state: ModuleState) -> None:
        """Take up where the registers lie, and the module's tensors."""
        tables = [None if r is None else addresses(r) for r in (state.v, state.s, state.a, state.w)]
        for field, table in zip((kernel.V, kernel.S, kernel.A, kernel.W), tables, strict=True):
            self._task[field] = 0 if table is None else table.ctypes.data
        if state.w is None:
            self._task[kernel.W] = self.module.ctypes.data
        self._held[2:] = tables
        self.module[:] = addresses(state.module)
        self._plain = all(map(_is_contiguous, state.module))

    # --------------------------------------------------------------------------------------------------- one update

    def apply(self, t: int, grads: Sequence[torch.Tensor | None], factor: float, *, guard: bool) -> bool:
        """One update with its clipping; False, and nothing done, where `guard` is set and a gradient is not finite.

        Args:
            t: which of the rows in use.
            grads: of each parameter; None leaves it alone.
            factor: what every gradient is multiplied by before clipping.
        """
        self.grads[:] = self.gradients(grads)
        return self.run(t, factor, guard=guard)

    def run(self, t: int, factor: float, *, guard: bool, keep_gil: bool = False) -> bool:
        """As `apply`, for gradients whose addresses stand in `grads`; `keep_gil` as in `threads.shared`."""
        task = self._task
        task[kernel.ROW] = self._first_row + t * self._row_bytes
        task[kernel.GUARD], task[kernel.FAILED] = guard, 0
        self._factor[0] = factor
        self._share((kernel.SUM, kernel.UPDATE) if guard or self._clips else (kernel.UPDATE,), keep_gil)
        return not task[kernel.FAILED]

    def look(self, t: int) -> None:
        """Put the gradient point w - look*v of row t into the module."""
        if self._looks and t < len(self._rows):
            self._task[kernel.ROW] = self._first_row + t * self._row_bytes
            self._share((kernel.POINT,))

    def _share(self, phases: tuple[int, ...], keep_gil: bool = False) -> None:
        """The pieces on as many threads as PyTorch uses; results do not depend on their number."""
        threads = torch.get_num_threads() if self.size >= THREADED else 1
        for phase in phases if threads > 1 else (sum(phases),):
            self._turn[:] = 0
            self._task[kernel.PHASE] = phase
            shared(self._run, self._address, threads, keep_gil=keep_gil)

    def gradients(self, grads: Sequence[torch.Tensor | None]) -> list[int]:
        """Addresses of gradients laid out as their parameters; 0 where there is none.

        PyTorch itself sees to it that a gradient has its parameter's type, shape and device. The caller keeps `grads`
        alive while the addresses are in use; copies made here live until the next call.

        Raises:
            InvalidValue: a sparse gradient.
        """
        if self._plain:
            try:  # the usual case, in as few calls as possible: this is most of a small update's time
                if all(map(_is_contiguous, grads)):
                    return list(map(_data_ptr, grads))
            except (TypeError, RuntimeError):  # None, or a sparse gradient
                pass
        return self.laid_out(grads)

    def laid_out(self, grads: Sequence[torch.Tensor | None]) -> list[int]:
        """As `gradients`, each looked at by itself."""
        self._copies.clear()
        return [0 if g is None else self._laid_out(k, g).data_ptr() for k, g in enumerate(grads)]

    def _laid_out(self, k: int, g: torch.Tensor) -> torch.Tensor:
        """The gradient in its parameter's order in memory, a copy where it lies otherwise."""
        if g.layout is not torch.strided:
            raise InvalidValue(f"parameter {self.names[k]!r} has a sparse gradient: build its layer with sparse=False")
        p = self.tensors[k]
        if g.dtype != p.dtype or g.shape != p.shape:
            raise InvalidValue(f"parameter {self.names[k]!r} is {p.dtype} {list(p.shape)} and its gradient {g.dtype} {list(g.shape)}: call zero_grad() and backward() again")
        if g.stride() != p.stride():
            g = torch.empty_like(p).copy_(g)
            self._copies.append(g)
        return g


def addresses(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """Where tensors lie, int64."""
    return np.array(list(map(_data_ptr, tensors)), np.int64)
