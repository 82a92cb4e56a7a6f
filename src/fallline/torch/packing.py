"""A module's state as plain arrays, and back: parameters, registers, buffers, and what a loader's own generators held.

Nothing is touched before every name, shape and type has been compared.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline.history import Packed, check_packed
from fallline.rows import Start
from fallline.torch import modules
from fallline.torch.data import Stream
from fallline.torch.state import ModuleState, write

if TYPE_CHECKING:
    from fallline.torch.engine import ModuleEngine

_AS_BITS = {torch.bfloat16: torch.int16}
"""Types that NumPy has not, and the ones of the same width that carry their bits."""


def pack(engine: ModuleEngine, state: ModuleState) -> Packed:
    """Everything of a module's state."""
    problem = engine.problem
    held = places(problem.model, problem.parameters, state)
    values: dict[str, Any] = {"scale": state.scale, "good": state.good, "chunk": engine.learnt_chunk}
    if isinstance(problem.source, Stream):
        values["stream"] = problem.source.position()
    return Packed(state.step, {name: array_of(tensor) for name, tensor in held.items()}, values)


def unpack(engine: ModuleEngine, packed: Packed, rule_start: Start) -> ModuleState:
    """The state that was packed, written into the module."""
    problem = engine.problem
    state = ModuleState(packed.step, engine.parameters, rule_start, scale=float(packed.values["scale"]), good=int(packed.values["good"]))
    for register in ("w", "v", "s", "a"):
        if any(name.startswith(f"{register}.") for name in packed.arrays):
            setattr(state, register, [torch.empty_like(p).detach() for p in engine.parameters])
    targets = places(problem.model, problem.parameters, state)
    check_packed(packed, {name: (tuple(t.shape), dtype_of(t)) for name, t in targets.items()})
    write(list(targets.values()), [tensor_of(packed.arrays[name], t) for name, t in targets.items()])
    engine.learnt_chunk = packed.values["chunk"]
    if isinstance(problem.source, Stream):
        problem.source.go_to(packed.values.get("stream"))
    return state


def places(model: torch.nn.Module, parameters: Mapping[str, torch.Tensor], state: ModuleState) -> dict[str, torch.Tensor]:
    """Every tensor that a state consists of, by name: trained and fixed parameters, registers, buffers."""
    trained = {id(p) for p in parameters.values()}
    out = {f"module.{n}": p for n, p in parameters.items()}
    out |= {f"fixed.{n}": p for n, p in model.named_parameters() if id(p) not in trained and not isinstance(p, torch.nn.parameter.UninitializedParameter)}
    for register in ("w", "v", "s", "a"):
        tensors = getattr(state, register)
        if tensors is not None:
            out |= {f"{register}.{n}": t for n, t in zip(parameters, tensors, strict=True)}
    return {n: t.detach() for n, t in (out | {f"buffer.{n}": b for n, b in modules.buffers_of(model).items()}).items()}


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor as an array, bit for bit."""
    plain = tensor.detach()
    return (plain.view(_AS_BITS[plain.dtype]) if plain.dtype in _AS_BITS else plain).cpu().contiguous().numpy().copy()


def tensor_of(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """The tensor whose `array_of` this is, in the type and place of `like`."""
    made = torch.from_numpy(np.array(array, order="C"))
    return (made.view(like.dtype) if like.dtype in _AS_BITS else made).to(like.device).reshape(like.shape)


def dtype_of(tensor: torch.Tensor) -> np.dtype:
    """The type of a tensor's `array_of`."""
    return torch.empty(0, dtype=_AS_BITS.get(tensor.dtype, tensor.dtype)).numpy().dtype


__all__ = ["array_of", "dtype_of", "pack", "places", "tensor_of", "unpack"]
