"""Gradient descent and its momentum forms: the heavy ball, PyTorch's Nesterov, the textbook's, the moving average.

`docs/momentum.md` says how they relate, and where they differ when the learning rate changes.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from fallline.errors import InvalidValue
from fallline.lengths import Clock
from fallline.rules.law_text import show
from fallline.rules.rule import Hyper, Rule, digits
from fallline.rules.writing import Column, check_hyper, over_time
from fallline.schedules import Schedule


@dataclass(frozen=True, repr=False)
class SGD(Rule):
    """Gradient descent, with momentum in the form of PyTorch on request.

    Law: d = g + weight_decay*w;  v = momentum*v + (1 - dampening)*d (the first time d);  w = w - lr*v, or with
    nesterov w = w - lr*(d + momentum*v).

    Args:
        momentum: in [0, 1): a number or a schedule.
        nesterov: PyTorch's form of Nesterov's momentum (see `Nesterov` for the textbook's).
        dampening: in [0, 1], with momentum only; the first update is not dampened, as in PyTorch.
        decoupled: w = (1 - lr*weight_decay)*w - ... in place of the gradient's term.

    Raises:
        InvalidValue: a value outside its range, or flags that do not go together.

    >>> print(SGD(lr=0.1, momentum=0.9).formula())
    g = gradient at w
    v = 0.9*v + g
    w = w - lr*v
    lr = 0.1
    """

    momentum: Hyper = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    _: KW_ONLY
    decoupled: bool = False

    def __post_init__(self) -> None:
        self._check()
        check_hyper("SGD", "momentum", self.momentum, below=1.0)
        check_hyper("SGD", "dampening", self.dampening, most=1.0, scheduled=False)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise InvalidValue(
                f"SGD(nesterov=True, momentum={self.momentum!r}, dampening={self.dampening!r}): Nesterov's form needs a "
                "momentum above 0 and no dampening"
            )
        if self.dampening != 0 and self.momentum == 0:
            raise InvalidValue(
                f"SGD(momentum=0, dampening={self.dampening!r}): dampening weakens what enters the velocity, and without "
                "momentum there is none (PyTorch ignores it silently); give a momentum, or a smaller lr"
            )

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        if self.momentum == 0:
            return {}
        b = over_time("momentum", self.momentum, clock, t)
        out: dict[str, Column] = {"momentum": b, "direct": 0.0, "through": 1.0}
        if self.nesterov:
            out |= {"direct": 1.0, "through": b}
        if self.dampening:
            out["intake"] = np.where(age == 0, 1.0, 1.0 - self.dampening)
        return out

    def typical_lr(self) -> tuple[float, float]:
        """0.01 to 0.1, with momentum to 0.3."""
        return 0.01, 0.1 if self.momentum == 0 else 0.3

    def _law(self) -> list[str]:
        d = f"g{self._decay()}"
        grouped = f"({d})" if self._decay() else d
        if self.momentum == 0:
            return ["g = gradient at w", f"w = {self._shrunk()} - lr*{grouped}"]
        b = show(self.momentum)
        taken = f"{1 - self.dampening:g}*{grouped}" if self.dampening else d
        first = "        the first update undampened" if self.dampening else ""
        step = f"({d} + {b}*v)" if self.nesterov else "v"
        return ["g = gradient at w", f"v = {b}*v + {taken}{first}", f"w = {self._shrunk()} - lr*{step}"]


@dataclass(frozen=True, repr=False)
class Nesterov(Rule):
    """Nesterov's momentum as the textbook states it: the gradient is taken where the velocity is about to lead.

    Law: g = gradient at (w - lr*momentum*v);  v = momentum*v + g;  w = w - lr*v.

    Args:
        momentum: in [0, 1): a number or a schedule.
        decoupled: w = (1 - lr*weight_decay)*w - ... in place of the gradient's term.

    Source: Sutskever, Martens, Dahl & Hinton (2013), with the learning rate outside the velocity.

    >>> print(Nesterov(lr=0.1, momentum=0.9).formula())
    g = gradient at (w - lr*0.9*v)
    v = 0.9*v + g
    w = w - lr*v
    lr = 0.1
    """

    momentum: Hyper = 0.9
    _: KW_ONLY
    decoupled: bool = False

    def __post_init__(self) -> None:
        self._check()
        check_hyper("Nesterov", "momentum", self.momentum, below=1.0)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        b = over_time("momentum", self.momentum, clock, t)
        return {"look": lr * b, "momentum": b, "direct": 0.0, "through": 1.0}

    def typical_lr(self) -> tuple[float, float]:
        """0.01 to 0.1, with momentum to 0.3."""
        return 0.01, 0.1 if self.momentum == 0 else 0.3

    def _law(self) -> list[str]:
        b = show(self.momentum)
        return [f"g = gradient at (w - lr*{b}*v)", f"v = {b}*v + g{self._decay()}", f"w = {self._shrunk()} - lr*v"]


@dataclass(frozen=True, repr=False)
class MovingAverage(Rule):
    """Momentum as an exponential moving average of gradients: the step of a constant gradient is lr*g, for any momentum.

    Law: v = momentum*v + (1 - momentum)*g;  w = w - lr*v.

    Args:
        momentum: in [0, 1): a number or a schedule.
        decoupled: w = (1 - lr*weight_decay)*w - ... in place of the gradient's term.

    >>> print(MovingAverage(lr=0.1, momentum=0.9).formula())
    g = gradient at w
    v = 0.9*v + (1 - 0.9)*g
    w = w - lr*v
    lr = 0.1
    """

    momentum: Hyper = 0.9
    _: KW_ONLY
    decoupled: bool = False

    def __post_init__(self) -> None:
        self._check()
        check_hyper("MovingAverage", "momentum", self.momentum, below=1.0)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        b = over_time("momentum", self.momentum, clock, t)
        return {"momentum": b, "intake": 1.0 - b, "direct": 0.0, "through": 1.0}

    def typical_lr(self) -> tuple[float, float]:
        """Those of momentum divided by 1 - momentum, for the same steps."""
        b = 0.9 if isinstance(self.momentum, Schedule) else float(self.momentum)
        return digits(0.01 / (1 - b)), digits((0.3 if b else 0.1) / (1 - b))

    def _law(self) -> list[str]:
        b, d = show(self.momentum), f"(g{self._decay()})" if self._decay() else "g"
        return ["g = gradient at w", f"v = {b}*v + (1 - {b})*{d}", f"w = {self._shrunk()} - lr*v"]
