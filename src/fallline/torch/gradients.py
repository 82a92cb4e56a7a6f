"""Gradients of a loss with respect to tensors, by the shortest way into PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from fallline.errors import InvalidValue

_run = getattr(getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None)
"""What `torch.autograd.grad` itself calls, after some twenty microseconds of looking at its arguments."""


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=dtype, device=device)


def gradients(loss: torch.Tensor, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """d loss / d tensor for each, None where the loss does not depend on it; the graph is used up.

    Args:
        loss: a tensor of one number, shape ().

    Raises:
        InvalidValue: the loss has no graph.
    """
    if not tensors:
        return ()
    if not loss.requires_grad:
        raise InvalidValue("the loss does not depend on any parameter that is trained: check .detach(), no_grad() and .item() in it")
    if _run is None:
        return torch.autograd.grad(loss, tensors, allow_unused=True)
    one: Any = _one(loss.dtype, loss.device)
    return _run((loss,), (one,), False, False, tuple(tensors), True, False)  # keep_graph, create_graph, ..., allow_unreachable, accumulate
