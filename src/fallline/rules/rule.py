"""What all optimizers share: the common hyperparameters and columns, JSON, and how a rule prints itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Clock
from fallline.rows import Answer, Rows, Start
from fallline.rules.groups import Group, Patterns, as_patterns
from fallline.rules.law_text import latex, show
from fallline.rules.writing import Auto, Column, age_of, auto, check_hyper, lay, learning_rate, shared
from fallline.schedules import Schedule
from fallline.schedules import schedule as read_schedule

Hyper = float | Schedule


@dataclass(frozen=True)
class Rule:
    """What all optimizers share. Use the concrete ones: SGD, Nesterov, Adam, AdamW, NAdam, RMSProp, AdaGrad, ScheduleFree.

    Args:
        lr: the learning rate: a number, a schedule, or `auto`; the peak where `schedule` is given.
        weight_decay: times w; coupled (added to the gradient) unless the rule is decoupled. Biases and normalisation
            are left alone unless a group says otherwise.
        l1: the l1 penalty's strength, as a soft threshold lr*l1 after each update.
        clip: the largest norm of the gradient over all parameters, above 0, or None.
        average: the weight of the newest iterate in the running average, or None: `ema(0.99)`, `polyak()`, or a
            number above 0 and at most 1.
        schedule: a schedule of lr, as an object or a string.
        groups: patterns over parameter names, each with its `Group` of multipliers.
    """

    lr: float | Schedule | Auto = auto
    _: KW_ONLY
    weight_decay: Hyper = 0.0
    l1: Hyper = 0.0
    clip: Hyper | None = None
    average: Hyper | None = None
    schedule: str | Schedule | None = None
    groups: Mapping[str, Group] | Patterns | None = None

    def _check(self) -> None:
        name = type(self).__name__
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), np.generic):  # numpy's numbers print and compare otherwise
                object.__setattr__(self, f.name, value.item())
        if not isinstance(self.lr, Auto):
            check_hyper(name, "lr", self.lr)
        for hyper in ("weight_decay", "l1"):
            check_hyper(name, hyper, getattr(self, hyper))
        if self.clip is not None:
            check_hyper(name, "clip", self.clip, above=0.0)
        if self.average is not None:
            check_hyper(name, "average", self.average, above=0.0, most=1.0)
        if self.schedule is not None:
            if isinstance(self.lr, Schedule):
                raise InvalidValue(f"{name}: lr is itself a schedule, so schedule={self.schedule!r} has no peak; give lr a number")
            object.__setattr__(self, "schedule", read_schedule(self.schedule))
        object.__setattr__(self, "groups", as_patterns(self.groups))

    def __post_init__(self) -> None:
        self._check()

    def with_lr(self, lr: float | Schedule | Auto) -> Any:
        """The same rule with another learning rate."""
        return replace(self, lr=lr)

    def rows(self, clock: Clock, groups: Sequence[Group], start: int, stop: int) -> Rows:
        """The rows of updates start .. stop-1, for these (resolved) groups. Any cut of a plan gives the same bits.

        Args:
            clock: the updates of the whole plan.
            groups: as `resolve_groups` returns them.

        Raises:
            InvalidValue: lr is still `auto`.

        >>> from fallline.rules import SGD
        >>> SGD(lr=0.1, momentum=0.9).rows(Clock(steps=10), (Group(),), 0, 2).column("momentum")[:, 0].tolist()
        [0.9, 0.9]
        """
        t = np.arange(start, stop, dtype=np.int64)
        rate = learning_rate(self, clock, t)
        columns = []
        for group in groups:
            lr = rate * group.lr
            own = self._columns(lr, clock, t, age_of(group, clock, t))
            columns.append({"lr": lr} | shared(self, lr, clock, t, group) | own)
        return lay(columns, groups, clock, t)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        """The rule's own columns; an entry replaces a shared one.

        Args:
            lr: the group's learning rate at the updates `t`.
            age: the updates since the group's parameters began to move: `t`, less the length they were frozen.
        """
        raise NotImplementedError

    def answer(self) -> Answer:
        """Which reading of the registers is the answer."""
        return Answer() if self.average is None else Answer(w=0.0, a=1.0)

    def start(self) -> Start:
        """How the registers start."""
        return Start()

    def typical_lr(self) -> tuple[float, float]:
        """The textbook's typical learning rates, (low, high); see `fallline.rules.typical`."""
        return 0.01, 0.1

    def formula(self) -> str:
        """The law in use, as plain text with its numbers."""
        lines = list(self._law())
        if self.clip is not None:
            lines.insert(1, f"g = g * min(1, {show(self.clip)} / ||g||)")
        if self.l1 != 0:
            lines.append(f"w = sign(w) * max(|w| - lr*{show(self.l1)}, 0)")
        if self.average is not None:
            lines.append(f"a = a + {show(self.average)} * (w - a)        the answer is a")
        rate = show(self.lr) if self.schedule is None else f"{show(self.schedule)}, peak {show(self.lr)}"
        return "\n".join([*lines, f"lr = {rate}"])

    def _law(self) -> list[str]:
        raise NotImplementedError

    @property
    def _decoupled(self) -> bool:
        return getattr(self, "decoupled", False)

    def _decay(self) -> str:
        """The coupled decay as a term of the gradient."""
        return f" + {show(self.weight_decay)}*w" if self.weight_decay != 0 and not self._decoupled else ""

    def _shrunk(self) -> str:
        return f"(1 - lr*{show(self.weight_decay)})*w" if self.weight_decay != 0 and self._decoupled else "w"

    def _repr_latex_(self) -> str:
        return latex(self.formula())

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `rule_from_json` makes this rule again."""
        out: dict[str, Any] = {"rule": type(self).__name__}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "groups":
                value = [[pattern, group.to_json()] for pattern, group in value]
            elif isinstance(value, Auto):
                value = "auto"
            elif isinstance(value, Schedule):
                value = {"schedule": value.to_json()}
            elif isinstance(value, tuple):
                value = list(value)
            out[f.name] = value
        return out

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            default = () if f.name == "groups" else f.default
            if f.name == "lr" or value != default:
                text = {"schedule": lambda v: repr(str(v)), "groups": lambda v: repr(dict(v))}.get(f.name, repr)(value)
                shown.append(f"{f.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def check_eps(name: str, eps: float) -> None:
    """Refuse an eps that is not a finite number above 0."""
    if not isinstance(eps, (int, float)) or isinstance(eps, bool) or not 0 < eps < float("inf"):
        raise InvalidValue(f"{name}(eps={eps!r}): expected a number above 0; it keeps the first step finite")


def digits(value: float, count: int = 3) -> float:
    """A number rounded to some digits."""
    return float(f"{value:.{count}g}")
