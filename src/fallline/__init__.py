"""Gradient descent and its variants as software people rely on.

The public names, and nothing else. They are loaded when first used, so `import fallline` costs NumPy and no more.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "advice": ("recipes",),
    "advice.batch_size": ("find_batch_size",),
    "advice.lr": ("find_lr",),
    "batches": ("Batches", "Blocks", "InFile", "Resampled", "Shuffled"),
    "comparing": ("Comparison", "compare"),
    "engines.linear": ("online",),
    "errors": (
        "CheckpointFailed", "Diverged", "FalllineError", "InvalidValue", "MissingExtra", "NoClosedForm", "NoLearningRate", "NotARow",
        "PlanEnded", "PlanMismatch", "RunDamaged", "RunExists", "RunUnfinished", "TableError", "UnknownName",
    ),
    "fitting": ("Choices", "fit"),
    "judges": ("EarlyStop", "Rollback", "SkipBroken", "TimeBudget"),
    "lengths": ("epochs", "fraction", "steps"),
    "runs.live": ("Save",),
    "plan": ("Plan",),
    "problems": (
        "epsilon_insensitive", "function", "hinge", "huber", "least_squares", "logistic", "modified_huber", "perceptron", "poisson",
        "quadratic", "quantile", "rosenbrock", "softmax",
    ),
    "rules": ("SGD", "AdaGrad", "Adam", "AdamW", "Group", "MovingAverage", "NAdam", "Nesterov", "RMSProp", "ScheduleFree", "auto"),
    "runs": ("Run", "load"),
    "schedules": (
        "constant", "cosine", "custom", "ema", "exponential", "inverse_scaling", "linear", "one_cycle", "one_cycle_momentum",
        "one_minus_sqrt", "optimal", "polyak", "schedule", "step_decay", "times", "warmup",
    ),
    "sweeping": ("Sweep", "log", "sweep", "values"),
    "tables": ("Table", "TableOptions", "table"),
    "training": ("Validation", "train"),
}  # fmt: skip
"""Where each public name lives; the stub `__init__.pyi` says the same to type checkers, and a test holds them together."""
_MODULES = ("charts", "logs", "sklearn", "torch")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted([*_HOME_OF, *_MODULES])]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        home = f"{__name__}.{_HOME_OF[name]}"
        value = getattr(importlib.import_module(home), name, None) or importlib.import_module(f"{home}.{name}")  # a name, or a module
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        from fallline.errors import did_you_mean

        raise AttributeError(f"module 'fallline' has no attribute {name!r};{did_you_mean(name, __all__)}".rstrip(";"))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
