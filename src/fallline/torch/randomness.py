"""Random numbers of a step: a pure function of (seed, step), so that a resumed run repeats the same dropout."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = 2**64 - 1


def step_seed(seed: int, step: int) -> int:
    """A 63-bit seed for one update, by SplitMix64 of (seed, step).

    >>> step_seed(0, 0) == step_seed(0, 0) != step_seed(0, 1)
    True
    """
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xD1342543DE82EF95) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return (z ^ z >> 31) >> 1


@contextmanager
def borrowed(device: torch.device, also_python: bool) -> Iterator[None]:
    """Within: PyTorch's generators of the CPU and the device (and Python's and NumPy's) may be set; after, they are as before."""
    cpu = torch.random.default_generator.get_state()
    other = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    python, legacy = (random.getstate(), np.random.get_state()) if also_python else (None, None)
    try:
        yield
    finally:
        torch.random.default_generator.set_state(cpu)
        if other is not None:
            torch.cuda.set_rng_state(other, device)
        if python is not None and legacy is not None:
            random.setstate(python)
            np.random.set_state(legacy)


def seeded(seed: int, device: torch.device, also_python: bool) -> None:
    """Set the generators to a step's seed."""
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    if also_python:
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
