"""Running out of memory: how it is recognised, whatever device says it."""

from __future__ import annotations

import torch

_SAID = ("can't allocate memory", "out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Words of allocators that raise a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), out_of_memory(ValueError())
    (True, True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def release(device: torch.device) -> None:
    """Give cached memory of a device back, so that a smaller request finds room."""
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()
