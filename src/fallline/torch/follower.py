"""A scheduler that steps nothing: for frameworks that ask for one beside an `fl.torch.Optimizer`, whose plan is its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


class Follower(LRScheduler):
    """Shows the learning rates of an `fl.torch.Optimizer`; made by its `scheduler()`. It has no state, and `step()` does nothing.

    (It is a subclass of PyTorch's scheduler because frameworks ask for one by its class; it uses nothing of it.)

    Args:
        optimizer: the `fl.torch.Optimizer`.
    """

    def __init__(self, optimizer: Any):
        # PyTorch's constructor is left out on purpose: it replaces optimizer.step and writes an lr of its own.
        self.optimizer, self._step_count = optimizer, 1  # the second is what Accelerate counts; nothing here reads it

    @property
    def last_epoch(self) -> int:
        """Updates made, under the name that PyTorch's schedulers give to their count."""
        return self.optimizer.update

    @property
    def base_lrs(self) -> list[float]:
        """The learning rate of each group, as PyTorch's schedulers show it."""
        return self.get_last_lr()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """As `get_last_lr`."""
        return self.get_last_lr()

    def step(self, epoch: Any = None) -> None:
        """Nothing: the optimizer's plan is its schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the optimizer's state says where it is."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def __repr__(self) -> str:
        return f"{self.optimizer!r}.scheduler()"


__all__ = ["Follower"]
