"""Gradients of chunks of rows at one set of weights, summed in blocks: what the gradient noise scale is read off."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fallline.torch import modules
from fallline.torch.gradients import gradients
from fallline.torch.randomness import borrowed, seeded, step_seed

if TYPE_CHECKING:
    from fallline.torch.module_problem import ModuleProblem

_UP = 2.0**10
"""float16: what the loss is multiplied by, so that small gradients do not vanish."""


def gradient_blocks(problem: ModuleProblem, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the module is: dot products of the blocks' sums [J, J], sums of squared norms [J], mean loss.

    Each chunk is a batch of its own, in training mode: dropout adds its noise, and batch normalisation sees the chunk's rows.

    Args:
        blocks: row numbers, each [chunks, rows of a chunk].
    """
    tensors, up = list(problem.parameters.values()), _UP if problem.autocast is torch.float16 else 1.0
    sums, squares, losses = [], [], []
    with borrowed(problem.device, True), modules.mode(problem.model, training=True):
        for block in blocks:
            total: list[torch.Tensor | None] = [None] * len(tensors)
            square = torch.zeros((), dtype=torch.float64, device=problem.device)
            for rows in block:
                seeded(step_seed(0, len(losses)), problem.device, True)
                value = problem.value(problem.source.take(torch.from_numpy(np.asarray(rows, np.int64)).to(problem.device)))
                losses.append(value.mean.detach().double())
                for k, g in enumerate(gradients(value.mean * up, tensors)):
                    if g is not None:
                        square += (g.double() / up).square().sum()
                        total[k] = g.detach().clone() if (before := total[k]) is None else before.add_(g)
            sums.append(total)
            squares.append(square)
    gram = np.array([[_dot(a, b) / up**2 for b in sums] for a in sums])
    return gram, torch.stack(squares).cpu().numpy(), float(torch.stack(losses).mean())


def _dot(a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None]) -> float:
    return sum(float((x.double() * y).sum()) for x, y in zip(a, b, strict=True) if x is not None and y is not None)
