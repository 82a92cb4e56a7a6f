"""Where a module's numbers stop being finite: the first of its parameters, inputs, outputs or gradients that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline.torch import modules
from fallline.torch.data import Stream
from fallline.torch.nest import leaves
from fallline.torch.randomness import borrowed, seeded, step_seed

if TYPE_CHECKING:
    from fallline.torch.module_problem import ModuleProblem


def unsound(problem: ModuleProblem, w: np.ndarray, rows: np.ndarray | None, seed: int, step: int) -> tuple[float, str, bool]:
    """The mean loss of update `step`'s batch at flat weights, and the first tensor on the way that is not finite, by its name, and whether it is the data.

    It is looked for in the order in which they arise: parameters, the batch, outputs of modules, the loss, gradients. Of a
    stream, the batch is the last one that it gave.
    """
    source = problem.source
    batch = source.last if isinstance(source, Stream) else source.take(None if rows is None else torch.from_numpy(np.asarray(rows, np.int64)).to(problem.device))
    found: list[str] = []
    with problem._at(problem._point(w)), modules.mode(problem.model, training=True), borrowed(problem.device, True):
        found += [f"parameter {name!r} ({_where(p)})" for name, p in problem.parameters.items() if not _finite(p)]
        found += [f"the batch's {_numbered(k, batch)} ({_where(leaf, rows)})" for k, leaf in enumerate(leaves(batch)) if not _finite(leaf)]
        data = bool(found) and found[0].startswith("the batch's")
        seeded(step_seed(seed, step), problem.device, True)
        hooks = [m.register_forward_hook(_watch(name, found)) for name, m in problem.model.named_modules() if name and not list(m.children())]
        try:
            value = problem.value(batch)
        finally:
            for hook in hooks:
                hook.remove()
        if not _finite(value.mean):
            found.append("the loss")
        if not found:
            grads = torch.autograd.grad(value.mean, list(problem.parameters.values()), allow_unused=True)
            found += [f"the gradient of {name!r} ({_where(g)})" for name, g in zip(problem.parameters, grads, strict=True) if g is not None and not _finite(g)]
    return float(value.mean.detach()), found[0] if found else "", data


def _watch(name: str, found: list[str]) -> Any:
    def look(module: torch.nn.Module, given: Any, output: Any) -> None:
        for leaf in [output] if isinstance(output, torch.Tensor) else list(leaves(output)) if isinstance(output, (tuple, dict)) else []:
            if not _finite(leaf):
                found.append(f"the output of {name!r} ({type(module).__name__}; {_where(leaf)})")

    return look


def _finite(tensor: Any) -> bool:
    return not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _where(tensor: torch.Tensor, rows: np.ndarray | None = None) -> str:
    """The first value that is not finite and its place; the first index of a batch's tensor is a row of the data where `rows` are known."""
    bad = (~torch.isfinite(tensor.detach())).nonzero()[0].tolist()
    value = float(tensor.detach()[tuple(bad)])
    if rows is not None and bad:
        return f"{value} at row {', '.join(map(str, [int(rows[bad[0]]), *bad[1:]]))}"
    return f"{value} at {bad}" if bad else f"{value}"


def _numbered(k: int, batch: Any) -> str:
    if isinstance(batch, dict):
        return f"tensor {list(batch)[k]!r}" if len(batch) == len(list(leaves(batch))) else f"tensor {k}"
    return ("input", "target")[k] if isinstance(batch, (tuple, list)) and len(batch) == 2 and len(list(leaves(batch))) == 2 else f"tensor {k}"


__all__ = ["unsound"]
