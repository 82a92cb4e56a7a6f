"""A module's outputs at weights by name, with the module itself left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fallline.errors import InvalidValue
from fallline.torch import modules
from fallline.torch.data import SparseRows, pieces, source_of
from fallline.torch.nest import described

ROWS = 1024
"""Rows of a piece."""


def outputs(model: torch.nn.Module, weights: Mapping[str, np.ndarray], X: Any) -> np.ndarray:
    """Outputs for rows X (tensors, arrays or CSR as in training, without targets), [rows, ...], in evaluation mode.

    Raises:
        InvalidValue: the model gives something else than one tensor.
    """
    if isinstance(X, list):  # rows written out; tuples are several inputs
        X = np.asarray(X, next((p.detach().cpu().numpy().dtype for p in model.parameters() if p.is_floating_point()), np.float32))
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        here, there = (tuple(held[name].shape) if name in held else "none" for held in (own, weights))
        if here != there:
            raise InvalidValue(f"{name!r} has shape {here} in the module and {there} in the run's weights: build the module as it was")
    tensors = {n: torch.as_tensor(weights[n]).to(t.device, t.dtype) for n, t in own.items()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    source = SparseRows((X.tocsr(),), device) if hasattr(X, "tocsr") else source_of(X, device)
    out = []
    with modules.mode(model, training=False), torch.no_grad():
        for x in pieces(source, ROWS):
            args, named = (tuple(x), {}) if isinstance(x, (tuple, list)) else ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
            result = torch.func.functional_call(model, tensors, args, named, tie_weights=True)
            if not isinstance(result, torch.Tensor):
                raise InvalidValue(f"the model gives a {described(result)}: call the model itself")
            out.append(result.float().cpu().numpy() if result.dtype in (torch.bfloat16, torch.float16) else result.cpu().numpy())
    return np.concatenate(out)
