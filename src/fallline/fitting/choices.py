"""`Choices`: what `fit` is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from fallline.batches import Batches
from fallline.errors import InvalidValue
from fallline.metrics import metric
from fallline.model_spec import ModelSpec, model_spec
from fallline.plan import Plan
from fallline.rules import Rule
from fallline.rules.writing import Auto
from fallline.schedules import Schedule
from fallline.tables import TableOptions

SCHEDULE = "warmup(5%) > linear(to=0)"


@dataclass(frozen=True)
class Choices:
    """What `fit` is told; what is None it chooses. All by keyword.

    Args:
        epochs: passes over the training rows.
        batch_size: rows of a batch, a `Batches`, or None.
        optimizer: a rule, whose lr may be `auto`; None chooses one.
        schedule: of the learning rate, where the optimizer has none of its own; None for a constant rate.
        loss: a loss's name.
        metrics: names or functions; the first is the headline.
        plan: a plan to carry out as it stands, instead of all of the above.
        seed: of order, split and intervals, and of a network's first weights.
        model: which model a table gets: "linear", "mlp:256,128", "package.module:factory", a factory(features, outputs), or a module.
        device: where a network is: "cpu", "cuda", "cuda:0", "mps"; None is the CPU.
        steps: updates, in place of epochs.
        lr: a learning rate, in place of one that is found; without an optimizer it is of SGD.
        weight_decay: a number; `auto` finds one for a linear model; None finds one only where the optimizer is chosen too.
    """

    epochs: float = 20
    batch_size: int | Batches | None = None
    optimizer: Rule | None = None
    schedule: str | None = SCHEDULE
    loss: str | None = None
    metrics: Sequence[str | Callable[..., float]] | None = None
    plan: Plan | None = None
    seed: int = 0
    model: Any = "linear"
    device: str | None = None
    steps: int | None = None
    lr: float | Schedule | Auto | None = None
    weight_decay: float | Auto | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            given, own = getattr(self, name), getattr(self.optimizer, name, None)
            if given is None or isinstance(given, Auto):
                continue
            if isinstance(given, bool) or not isinstance(given, (int, float, Schedule)):
                raise InvalidValue(f"{name}={given!r}: expected a number, or fl.auto")
            if self.plan is not None:
                raise InvalidValue(f"{name}={given!r} beside plan=: a plan is carried out as it stands; give plan.with_lr(...) or leave one out")
            if self.optimizer is not None and own is None:
                raise InvalidValue(f"{name}={given!r}: {type(self.optimizer).__name__} has none")
            if name == "lr" and self.optimizer is not None and not isinstance(own, Auto) and own != given:
                raise InvalidValue(f"lr={given!r} beside optimizer={self.optimizer!r}: two learning rates; leave one out")

    @property
    def spec(self) -> ModelSpec:
        """The model, read.

        Raises:
            InvalidValue: words that name no model, or a device for a linear one.
        """
        spec = model_spec(self.model)
        if spec.is_linear and self.device not in (None, "cpu"):
            raise InvalidValue(f"device={self.device!r} is for networks: a linear model is fitted on the CPU; leave it out, or give model='mlp:256,128'")
        return spec

    def words(self, options: TableOptions | None) -> dict[str, str]:
        """All that a run which goes on must have in common with its beginning, in words: everything but its length and its plan."""
        names = None if self.metrics is None else [metric(m).name for m in self.metrics]
        told = replace(self, metrics=names, model=str(self.spec))
        kept = {f.name: repr(getattr(told, f.name)) for f in fields(told) if f.name not in ("epochs", "steps", "plan")}
        return kept | {"options": repr(options)}
