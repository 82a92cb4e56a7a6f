"""The memory that one update of a module needs, measured by making it.

On a CUDA device its allocator counts. On the CPU every tensor that an operation makes is counted while it lives: what kernels
take inside of one operation is not seen.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fallline.plan import Plan
from fallline.torch.engine import ModuleEngine
from fallline.torch.memory import out_of_memory, release

if TYPE_CHECKING:
    from fallline.torch.module_problem import ModuleProblem


class LiveBytes(TorchDispatchMode):
    """Within: the bytes of tensors made since, `now` and at their most, `most`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._take(leaf.untyped_storage())
        return out

    def _take(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._held:
            return
        self._held[key] = storage.nbytes()
        self.now += self._held[key]
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._held.pop(key, 0)


def peak_bytes(problem: ModuleProblem, plan: Plan) -> int | None:
    """The bytes that update 0 of a plan takes above what is there already, its batch computed in one go.

    Returns:
        bytes; None on devices that do not count.

    Raises:
        MemoryError: they were not there; what had been taken is given back.
    """
    engine = ModuleEngine(problem, splits=False)
    try:
        return _counted(problem.device, lambda: engine.advance(engine.begin(None, plan.optimizer.start()), plan.segment(0, 1, problem.layout)))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
    gc.collect()  # an error's frames hold its tensors, until here
    release(problem.device)
    raise MemoryError(said)


def _counted(device: torch.device, work: Any) -> int | None:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        work()
        return None
    with LiveBytes() as live:
        work()
    return live.most
