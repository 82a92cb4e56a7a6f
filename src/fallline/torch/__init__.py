"""fallline for PyTorch: any `nn.Module` in the library's loop, or the library's parts in your own.

- `problem(model, loss, data)`: then `fl.train`, `fl.find_lr`, `fl.fit` and all the rest.
- `Optimizer(model, plan)`: your loop, the plan's optimizer, schedule and groups.
- `Scheduler(optimizer, plan)` and `find_lr(model, loss, loader, optimizer)`: any `torch.optim.Optimizer`.
- `save(folder, step, model=..., optimizer=...)` and `step = restore(folder, ...)`: safe checkpoints for your own loop.

PyTorch is imported when one of these is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fallline.torch.finder import find_lr as find_lr
    from fallline.torch.module_problem import ModuleProblem as ModuleProblem
    from fallline.torch.module_problem import problem as problem
    from fallline.torch.optimizer import Optimizer as Optimizer
    from fallline.torch.own_loop import restore as restore
    from fallline.torch.own_loop import save as save
    from fallline.torch.scheduler import Scheduler as Scheduler

_HOMES = {"find_lr": "finder", "ModuleProblem": "module_problem", "Optimizer": "optimizer", "problem": "module_problem", "restore": "own_loop", "save": "own_loop", "Scheduler": "scheduler"}

__all__ = ["ModuleProblem", "Optimizer", "Scheduler", "find_lr", "problem", "restore", "save"]


def __getattr__(name: str) -> Any:
    from fallline.errors import MissingExtra, did_you_mean

    if name not in _HOMES:
        raise AttributeError(f"module 'fallline.torch' has no attribute {name!r};{did_you_mean(name, __all__)}".rstrip(";"))
    try:
        value = getattr(importlib.import_module(f"fallline.torch.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("torch", "torch", f"fallline.torch.{name}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
