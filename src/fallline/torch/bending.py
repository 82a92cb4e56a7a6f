"""How a module's loss bends: its Hessian times a direction, by differentiating the gradient once more.

Where PyTorch cannot (torch.compile, some fused kernels), products are differences of two gradients: in float32 exact to
about a thousandth.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline.curvature import Product
from fallline.torch import modules
from fallline.torch.data import Stream, some_rows
from fallline.torch.randomness import borrowed, seeded
from fallline.torch.state import flat, unflat, write

if TYPE_CHECKING:
    from fallline.torch.module_problem import ModuleProblem

ROWS = 512
"""Rows that a Hessian is taken over where there are more: each product costs two or three gradients of them."""
REACH = 1e-2
"""How far a difference of gradients reaches along a direction of length 1."""


@contextmanager
def hessian(problem: ModuleProblem, w: np.ndarray, batch: np.ndarray | None) -> Iterator[Product]:
    """Products with the Hessian of the mean loss of some rows at flat weights; the module is left as it was."""
    tensors = list(problem.parameters.values())
    with problem._at(problem._point(w)), modules.mode(problem.model, training=True), borrowed(problem.device, True):
        rows = _batch(problem, batch)
        try:
            grads = _gradients(problem, rows, create_graph=True)
            inner = _along(grads, tensors, np.ones(len(w)))
            if inner is not None:  # one product, to see whether a second derivative exists
                torch.autograd.grad(inner, tensors, retain_graph=True, allow_unused=True)
        except (RuntimeError, NotImplementedError):
            yield lambda u: _difference(problem, rows, u)
            return

        def product(u: np.ndarray) -> np.ndarray:
            inner = _along(grads, tensors, u)
            if inner is None:  # a loss that is linear in the parameters
                return np.zeros(len(u))
            found = torch.autograd.grad(inner, tensors, retain_graph=True, allow_unused=True)
            return flat([torch.zeros_like(p) if g is None else g for p, g in zip(tensors, found, strict=True)])

        yield product


def _batch(problem: ModuleProblem, rows: np.ndarray | None) -> Any:
    if isinstance(problem.source, Stream):
        return some_rows(problem.source, ROWS)
    return problem.source.take(None if rows is None else torch.from_numpy(np.asarray(rows, np.int64)).to(problem.device))


def _gradients(problem: ModuleProblem, batch: Any, *, create_graph: bool) -> list[torch.Tensor | None]:
    seeded(0, problem.device, True)  # the same dropout at every evaluation
    with torch.enable_grad():
        return list(torch.autograd.grad(problem.value(batch).mean, list(problem.parameters.values()), create_graph=create_graph, allow_unused=True))


def _along(grads: list[torch.Tensor | None], tensors: list[torch.Tensor], u: np.ndarray) -> torch.Tensor | None:
    """gradient . u with its graph; None where it has none."""
    parts = [(g * p).sum() for g, p in zip(grads, unflat(u, tensors), strict=True) if g is not None and g.requires_grad]
    return torch.stack(parts).sum() if parts else None


def _difference(problem: ModuleProblem, batch: Any, u: np.ndarray) -> np.ndarray:
    tensors = list(problem.parameters.values())
    before, step = [t.detach().clone() for t in tensors], unflat(u * (REACH / max(float(np.linalg.norm(u)), 1e-300)), tensors)
    sides = []
    for sign in (1.0, -1.0):
        write(tensors, [b + sign * s for b, s in zip(before, step, strict=True)])
        grads = _gradients(problem, batch, create_graph=False)
        sides.append(flat([torch.zeros_like(p) if g is None else g for p, g in zip(tensors, grads, strict=True)]))
    write(tensors, before)
    return (sides[0] - sides[1]) * (float(np.linalg.norm(u)) / (2 * REACH))


__all__ = ["ROWS", "hessian"]
