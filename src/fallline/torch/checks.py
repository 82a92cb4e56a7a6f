"""What the compiled update cannot write, refused by name."""

from __future__ import annotations

import torch

from fallline.errors import InvalidValue


def check(name: str, tensor: torch.Tensor) -> None:
    """Refuse what the kernel cannot write.

    Raises:
        InvalidValue: the message names the parameter, and what would do.
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InvalidValue(f"parameter {name!r} is {tensor.dtype}: expected float32 or float64 parameters; for bfloat16 arithmetic use autocast, which keeps them so")
    if hasattr(tensor, "full_tensor") or type(tensor).__name__ in ("DTensor", "FlatParameter"):
        raise InvalidValue(f"parameter {name!r} is a {type(tensor).__name__} spread over devices (FSDP): fallline updates whole tensors; use DDP, or torch.optim with fl.torch.Scheduler")
    if tensor.layout is not torch.strided:
        raise InvalidValue(f"parameter {name!r} is sparse ({tensor.layout}): expected a dense tensor")
    if tensor.numel() and not _dense(tensor):
        raise InvalidValue(f"parameter {name!r} is a view with gaps or overlaps (strides {tensor.stride()}): make it a tensor of its own with .clone()")


def _dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each place once."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True

