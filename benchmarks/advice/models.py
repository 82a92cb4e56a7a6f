"""The models of the study, in PyTorch alone: this file is also run where only the other finders are installed."""

from __future__ import annotations

import torch
from torch import nn


def build(kind: str, features: int, outputs: int, seed: int) -> nn.Module:
    """A model of that kind, its weights a function of the seed: "linear" (zeros), "mlp:64", "dropout:64" or "cnn"."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return _built(kind, features, outputs)
    finally:
        torch.random.set_rng_state(generator)


def _built(kind: str, features: int, outputs: int) -> nn.Module:
    name, _, size = kind.partition(":")
    width = int(size or 0)
    if name == "linear":
        model = nn.Linear(features, outputs)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model
    if name == "mlp":
        return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, outputs))
    if name == "deep":
        return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    if name == "dropout":
        return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, outputs))
    if name == "cnn":
        side = round(features**0.5)
        small = ((side + 1) // 2 + 1) // 2
        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * small * small, outputs),
        )
    raise ValueError(f"{kind!r}: expected linear, mlp:WIDTH, deep:WIDTH, dropout:WIDTH or cnn")


def loss_of(task: str):
    """The loss as PyTorch has it: cross-entropy, or half the squared error."""
    if task == "classes":
        return nn.CrossEntropyLoss()
    return HalfSquares()


class HalfSquares(nn.Module):
    """(z - y)^2 / 2, the mean over rows."""

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((z.squeeze(-1) - y) ** 2).mean()
