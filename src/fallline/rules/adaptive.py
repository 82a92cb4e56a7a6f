"""Rules that divide by the root of squared gradients: Adam, AdamW, NAdam, RMSProp, AdaGrad."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from fallline.errors import InvalidValue, NotARow
from fallline.lengths import Clock
from fallline.rows import Start
from fallline.rules.rule import Hyper, Rule, check_eps
from fallline.rules.writing import Column, check_hyper

_VANISHED = 1e-18
"""A power below this changes nothing when it is taken from 1 in float64."""


@dataclass(frozen=True, repr=False)
class Adam(Rule):
    """Adam (Kingma & Ba 2015), with its bias corrections.

    Law: v = b1*v + (1-b1)*d;  s = b2*s + (1-b2)*d^2;  w = w - lr/(1-b1^(t+1)) * v / (sqrt(s/(1-b2^(t+1))) + eps).
    A frozen group counts t from the update that sets it free.

    Args:
        betas: b1 and b2, each in [0, 1).
        eps: added to the root, above 0.
        amsgrad: refused: the largest second moment so far is not a row.

    Raises:
        NotARow: amsgrad=True.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        self._check()
        name = type(self).__name__
        if self.amsgrad:
            raise NotARow(f"{name}(amsgrad=True): the largest second moment so far is not a row; use {name} without it")
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise InvalidValue(f"{name}(betas={self.betas!r}): expected two numbers, such as (0.9, 0.999)")
        object.__setattr__(self, "betas", tuple(self.betas))
        for which, beta in zip(("betas[0]", "betas[1]"), self.betas, strict=True):
            check_hyper(name, which, beta, below=1.0, scheduled=False)
        check_eps(name, self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        b1, b2 = self.betas
        return {
            "momentum": b1, "intake": 1.0 - b1, "direct": 0.0, "through": 1.0,
            "second_keep": b2, "second_intake": 1.0 - b2, "unbias": 1.0 / _correction(b2, age), "eps": self.eps,
            "lr": lr / _correction(b1, age),
        }  # fmt: skip

    def typical_lr(self) -> tuple[float, float]:
        """0.0001 to 0.001."""
        return 1e-4, 1e-3

    def _law(self) -> list[str]:
        b1, b2 = self.betas
        return [
            "g = gradient at w",
            f"d = g{self._decay()}",
            f"v = {b1:g}*v + (1 - {b1:g})*d",
            f"s = {b2:g}*s + (1 - {b2:g})*d*d",
            f"w = {self._shrunk()} - lr/(1 - {b1:g}^(t+1)) * v / (sqrt(s/(1 - {b2:g}^(t+1))) + {self.eps:g})",
        ]


def _correction(beta: float, age: np.ndarray) -> np.ndarray:
    """1 - beta^(age+1), float64; `age` never falls. Powers are taken only where they still change the result."""
    out = np.ones(len(age))
    if 0.0 < beta:
        alive = int(np.searchsorted(age, math.log(_VANISHED) / math.log(beta)))
        out[:alive] = 1.0 - beta ** (age[:alive] + 1).astype(np.float64)
    return out


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): w is first multiplied by 1 - lr*weight_decay."""

    _: KW_ONLY
    weight_decay: Hyper = 0.01
    decoupled: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016), with PyTorch's momentum schedule.

    Law: m_t = b1*(1 - 0.5*0.96^(t*momentum_decay)), t from 1, and M_t the product m_1 ... m_t;
    w = w - lr*((1-m_t)/(1-M_t)*d + m_(t+1)/(1-M_t*m_(t+1))*v) / (sqrt(s/(1-b2^t)) + eps), v and s as in Adam.
    (PyTorch keeps M in its default type, so in float32 it parts from this by about 1e-8.)

    Args:
        momentum_decay: not negative.
    """

    momentum_decay: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hyper("NAdam", "momentum_decay", self.momentum_decay, scheduled=False)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        out = super()._columns(lr, clock, t, age)
        now, after = self._momenta(age + 1), self._momenta(age + 2)
        product = self._product(age)
        out |= {"lr": lr, "direct": (1.0 - now) / (1.0 - product), "through": after / (1.0 - product * after)}
        return out

    def _momenta(self, n: np.ndarray) -> np.ndarray:
        return self.betas[0] * (1.0 - 0.5 * 0.96 ** (n * self.momentum_decay))

    def _product(self, age: np.ndarray) -> np.ndarray:
        """m_1 ... m_(age+1), float64. Always multiplied from m_1 on, so that every cut gives the same bits."""
        b1 = self.betas[0]
        vanished = math.ceil(math.log(_VANISHED) / math.log(b1)) if b1 > 0 else 1  # every m is below b1
        alive = int(np.searchsorted(age, vanished))
        out = np.zeros(len(age))
        if alive:
            running = np.cumprod(self._momenta(np.arange(1, age[alive - 1] + 2)))
            out[:alive] = running[age[:alive]]
        return out

    def _law(self) -> list[str]:
        first, b2, decay = super()._law()[:4], self.betas[1], f"{self.momentum_decay:g}"
        return [
            *first,
            f"m = {self.betas[0]:g}*(1 - 0.5*0.96^((t+1)*{decay}))        n is the next m, M the product of m so far",
            f"w = w - lr*((1 - m)/(1 - M)*d + n/(1 - M*n)*v) / (sqrt(s/(1 - {b2:g}^(t+1))) + {self.eps:g})",
        ]


@dataclass(frozen=True, repr=False)
class RMSProp(Rule):
    """RMSProp (Hinton 2012): each step is divided by the root of a moving average of squared gradients.

    Law: s = alpha*s + (1-alpha)*d^2;  w = w - lr*d / (sqrt(s) + eps).

    Args:
        alpha: in [0, 1).
        eps: added to the root, above 0.
        momentum, centered: refused: momentum after the division, and a second average, are not rows.

    Raises:
        NotARow: momentum or centered.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    _: KW_ONLY
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        self._check()
        if self.momentum != 0:
            raise NotARow(
                f"RMSProp(momentum={self.momentum!r}): momentum taken after the division is not a row; use RMSProp without it, "
                "or Adam, which takes it before"
            )
        if self.centered:
            raise NotARow("RMSProp(centered=True): a second running average is not a row; use RMSProp without it, or Adam")
        check_hyper("RMSProp", "alpha", self.alpha, below=1.0, scheduled=False)
        check_eps("RMSProp", self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        return {"second_keep": self.alpha, "second_intake": 1.0 - self.alpha, "eps": self.eps}

    def typical_lr(self) -> tuple[float, float]:
        """0.001 to 0.01."""
        return 1e-3, 1e-2

    def _law(self) -> list[str]:
        a = f"{self.alpha:g}"
        return [
            "g = gradient at w",
            f"d = g{self._decay()}",
            f"s = {a}*s + (1 - {a})*d*d",
            f"w = {self._shrunk()} - lr*d / (sqrt(s) + {self.eps:g})",
        ]


@dataclass(frozen=True, repr=False)
class AdaGrad(Rule):
    """AdaGrad (Duchi, Hazan & Singer 2011): each step is divided by the root of the sum of squared gradients.

    Law: s = s + d^2;  w = w - lr*d / (sqrt(s) + eps).

    Args:
        eps: added to the root, above 0.
        initial: the sum's start, not negative.
    """

    eps: float = 1e-10
    initial: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        check_hyper("AdaGrad", "initial", self.initial, scheduled=False)
        check_eps("AdaGrad", self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray, age: np.ndarray) -> dict[str, Column]:
        return {"second_keep": 1.0, "second_intake": 1.0, "eps": self.eps}

    def start(self) -> Start:
        return Start(s=self.initial)

    def _law(self) -> list[str]:
        start = f"        s starts at {self.initial:g}" if self.initial else ""
        return [
            "g = gradient at w",
            f"d = g{self._decay()}",
            f"s = s + d*d{start}",
            f"w = {self._shrunk()} - lr*d / (sqrt(s) + {self.eps:g})",
        ]
