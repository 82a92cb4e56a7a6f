"""The rules: each a frozen value that writes rows of `fallline.rows`, and prints the law that it writes.

All take `lr` (a number, a schedule, or `auto`), and by keyword `weight_decay`, `l1`, `clip`, `average`, `schedule` and
`groups`; every hyperparameter is a number or a schedule. Sources: the README of each method is its formula; see
`docs/momentum.md` and `docs/conventions.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from fallline.errors import InvalidValue, NotARow, UnknownName
from fallline.lengths import Clock
from fallline.rows import Answer, Rows, Start
from fallline.rules.groups import Group, Patterns, as_patterns
from fallline.rules.writing import Auto, Column, auto, check_hyper, lay, learning_rate, over_time, shared
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
        clip: the largest norm of the gradient over all parameters, or None.
        average: the weight of the newest iterate in the running average, or None: `ema(0.99)`, `polyak()`, a number.
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
    decoupled: ClassVar[bool] = False

    def _check(self) -> None:
        name = type(self).__name__
        if not isinstance(self.lr, Auto):
            check_hyper(name, "lr", self.lr)
        for hyper in ("weight_decay", "l1"):
            check_hyper(name, hyper, getattr(self, hyper))
        for hyper in ("clip", "average"):
            if getattr(self, hyper) is not None:
                check_hyper(name, hyper, getattr(self, hyper))
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
        """The rows of updates start .. stop-1, for these (resolved) groups.

        Raises:
            InvalidValue: lr is still `auto`.
        """
        t = np.arange(start, stop, dtype=np.int64)
        rate = learning_rate(self, clock, t)
        columns = []
        for group in groups:
            lr = rate * group.lr
            columns.append({"lr": lr} | shared(self, lr, clock, t, group) | self._columns(lr, clock, t))
        return lay(columns, groups, clock, t)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        """The rule's own columns; an entry replaces a shared one."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """Which reading of the registers is the answer."""
        return Answer() if self.average is None else Answer(w=0.0, a=1.0)

    def start(self) -> Start:
        """How the registers start."""
        return Start()

    def formula(self) -> str:
        """The law in use, as plain text with its numbers."""
        lines = [line for line in self._law() if line]
        if self.clip is not None:
            lines.insert(1, f"g = g * min(1, {_show(self.clip)} / ||g||)")
        if self.l1 != 0:
            lines.append(f"w = sign(w) * max(|w| - lr*{_show(self.l1)}, 0)")
        if self.average is not None:
            lines.append(f"a = a + {_show(self.average)} * (w - a)        the answer is a")
        rate = _show(self.lr) if self.schedule is None else f"{_show(self.schedule)}, peak {_show(self.lr)}"
        return "\n".join([*lines, f"lr = {rate}"])

    def _law(self) -> list[str]:
        raise NotImplementedError

    def _decay(self, sign: str = "+") -> str:
        """The coupled decay as a term of the gradient."""
        return f" {sign} {_show(self.weight_decay)}*w" if self.weight_decay != 0 and not self.decoupled else ""

    def _shrunk(self) -> str:
        return f"(1 - lr*{_show(self.weight_decay)})*w" if self.weight_decay != 0 and self.decoupled else "w"

    def _repr_latex_(self) -> str:
        lines = (line.replace("_", r"\_").replace("*", r"\,").replace("||g||", r"\lVert g\rVert") for line in self.formula().split("\n"))
        return r"$\begin{aligned}" + r" \\ ".join("&" + line for line in lines) + r"\end{aligned}$"

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
            out[f.name] = value
        return out

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            default = () if f.name == "groups" else f.default
            if f.name == "lr" or value != default:
                if f.name == "schedule":
                    shown.append(f"schedule={str(value)!r}")
                elif f.name == "groups":
                    shown.append(f"groups={dict(value)!r}")
                else:
                    shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


@dataclass(frozen=True, repr=False)
class SGD(Rule):
    """Gradient descent, with momentum in the form of PyTorch on request.

    Law: d = g + weight_decay*w;  v = momentum*v + (1 - dampening)*d (the first time d);  w = w - lr*v, or with
    nesterov w = w - lr*(d + momentum*v).

    Args:
        momentum: in [0, 1): a number or a schedule.
        nesterov: PyTorch's form of Nesterov's momentum (see `Nesterov` for the textbook's).
        dampening: in [0, 1]; the first update is not dampened, as in PyTorch.
        decoupled: w = (1 - lr*weight_decay)*w - ... in place of the gradient's term.

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
        check_hyper("SGD", "dampening", self.dampening, below=1.0 + 1e-12)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise InvalidValue(
                f"SGD(nesterov=True, momentum={self.momentum!r}, dampening={self.dampening!r}): Nesterov's form needs a "
                "momentum above 0 and no dampening"
            )

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        if self.momentum == 0:
            return {} if self.dampening == 0 else {"direct": np.where(t == 0, 1.0, 1.0 - self.dampening)}
        b = over_time(self.momentum, clock, t)
        out: dict[str, Column] = {"momentum": b, "direct": 1.0, "through": b} if self.nesterov else {"momentum": b, "direct": 0.0, "through": 1.0}
        if self.dampening:
            out["intake"] = np.where(t == 0, 1.0, 1.0 - self.dampening)
        return out

    def _law(self) -> list[str]:
        d = f"g{self._decay()}"
        if self.momentum == 0:
            return ["g = gradient at w", f"w = {self._shrunk()} - lr*" + (f"({d})" if self._decay() else "g")]
        b = _show(self.momentum)
        taken = f"{1 - self.dampening:g}*({d})" if self.dampening else d
        first = "        (the first update undampened)" if self.dampening else ""
        step = f"(g{self._decay()} + {b}*v)" if self.nesterov else "v"
        return ["g = gradient at w", f"v = {b}*v + {taken}{first}", f"w = {self._shrunk()} - lr*{step}"]


@dataclass(frozen=True, repr=False)
class Nesterov(Rule):
    """Nesterov's momentum as the textbook states it: the gradient is taken where the velocity is about to lead.

    Law: g = gradient at (w - lr*momentum*v);  v = momentum*v + g;  w = w - lr*v.

    Args:
        momentum: in (0, 1): a number or a schedule.

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

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        b = over_time(self.momentum, clock, t)
        return {"look": lr * b, "momentum": b, "direct": 0.0, "through": 1.0}

    def _law(self) -> list[str]:
        b = _show(self.momentum)
        return [f"g = gradient at (w - lr*{b}*v)", f"v = {b}*v + g{self._decay()}", f"w = {self._shrunk()} - lr*v"]


@dataclass(frozen=True, repr=False)
class MovingAverage(Rule):
    """Momentum as an exponential moving average of gradients: the step of a constant gradient is lr*g, for any momentum.

    Law: v = momentum*v + (1 - momentum)*g;  w = w - lr*v.

    >>> print(MovingAverage(lr=0.1, momentum=0.9).formula())
    g = gradient at w
    v = 0.9*v + (1 - 0.9)*(g)
    w = w - lr*v
    lr = 0.1
    """

    momentum: Hyper = 0.9
    _: KW_ONLY
    decoupled: bool = False

    def __post_init__(self) -> None:
        self._check()
        check_hyper("MovingAverage", "momentum", self.momentum, below=1.0)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        b = over_time(self.momentum, clock, t)
        return {"momentum": b, "intake": 1.0 - b, "direct": 0.0, "through": 1.0}

    def _law(self) -> list[str]:
        b = _show(self.momentum)
        return ["g = gradient at w", f"v = {b}*v + (1 - {b})*(g{self._decay()})", f"w = {self._shrunk()} - lr*v"]


@dataclass(frozen=True, repr=False)
class Adam(Rule):
    """Adam (Kingma & Ba 2015), with its bias corrections.

    Law: v = b1*v + (1-b1)*d;  s = b2*s + (1-b2)*d^2;  w = w - lr/(1-b1^(t+1)) * v / (sqrt(s/(1-b2^(t+1))) + eps).

    Args:
        betas: b1 and b2, each in [0, 1).
        eps: added to the root, above 0.
        amsgrad: refused: the largest second moment so far is not a row.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        self._check()
        name = type(self).__name__
        if self.amsgrad:
            raise NotARow(f"{name}(amsgrad=True): the largest second moment so far is not a row; use {name} without it")
        object.__setattr__(self, "betas", tuple(self.betas))
        for which, beta in zip(("betas[0]", "betas[1]"), self.betas, strict=True):
            check_hyper(name, which, beta, below=1.0)
        _check_eps(name, self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        b1, b2 = self.betas
        n = (t + 1).astype(np.float64)
        return {
            "momentum": b1, "intake": 1.0 - b1, "direct": 0.0, "through": 1.0,
            "second_keep": b2, "second_intake": 1.0 - b2, "unbias": 1.0 / (1.0 - b2**n), "eps": self.eps,
            "lr": lr / (1.0 - b1**n),
        }  # fmt: skip

    def _law(self) -> list[str]:
        b1, b2 = self.betas
        return [
            "g = gradient at w",
            f"d = g{self._decay()}",
            f"v = {b1:g}*v + (1 - {b1:g})*d",
            f"s = {b2:g}*s + (1 - {b2:g})*d*d",
            f"w = {self._shrunk()} - lr/(1 - {b1:g}^(t+1)) * v / (sqrt(s/(1 - {b2:g}^(t+1))) + {self.eps:g})",
        ]


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): w is first multiplied by 1 - lr*weight_decay."""

    _: KW_ONLY
    weight_decay: Hyper = 0.01
    decoupled: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016), with PyTorch's momentum schedule.

    Law: m_t = b1*(1 - 0.5*0.96^(t*momentum_decay)), t from 1;  the step mixes d and v by m_t, m_(t+1) and the running
    products of m.
    """

    momentum_decay: float = 4e-3

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        out = super()._columns(lr, clock, t)
        b1 = self.betas[0]
        # The product has long underflowed to 0 by the 8192nd update, so no update needs more than this prefix.
        many = int(min(t[-1] + 2, 8192)) if len(t) else 2
        m = lambda n: b1 * (1.0 - 0.5 * 0.96 ** (n * self.momentum_decay))  # noqa: E731
        product = np.cumprod(m(np.arange(1, many + 1, dtype=np.float64)))
        now, after = m((t + 1).astype(np.float64)), m((t + 2).astype(np.float64))
        through_now = np.where(t < many, product[np.minimum(t, many - 1)], 0.0)
        out |= {"lr": lr, "direct": (1.0 - now) / (1.0 - through_now), "through": after / (1.0 - through_now * after)}
        return out


@dataclass(frozen=True, repr=False)
class RMSProp(Rule):
    """RMSProp (Hinton 2012): each step is divided by the root of a moving average of squared gradients.

    Law: s = alpha*s + (1-alpha)*d^2;  w = w - lr*d / (sqrt(s) + eps).

    Args:
        alpha: in [0, 1).
        momentum, centered: refused: momentum after the division, and a second average, are not rows.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    _: KW_ONLY
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        self._check()
        if self.momentum != 0 or self.centered:
            raise NotARow("RMSProp with momentum or centered is not a row: use RMSProp without them, Adam, or NAdam")
        check_hyper("RMSProp", "alpha", self.alpha, below=1.0)
        _check_eps("RMSProp", self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        return {"second_keep": self.alpha, "second_intake": 1.0 - self.alpha, "eps": self.eps}

    def _law(self) -> list[str]:
        a = f"{self.alpha:g}"
        return ["g = gradient at w", f"d = g{self._decay()}", f"s = {a}*s + (1 - {a})*d*d", f"w = {self._shrunk()} - lr*d / (sqrt(s) + {self.eps:g})"]


@dataclass(frozen=True, repr=False)
class AdaGrad(Rule):
    """AdaGrad (Duchi, Hazan & Singer 2011): each step is divided by the root of the sum of squared gradients.

    Law: s = s + d^2;  w = w - lr*d / (sqrt(s) + eps).

    Args:
        initial: the sum's start, not negative.
    """

    eps: float = 1e-10
    initial: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        check_hyper("AdaGrad", "initial", self.initial)
        _check_eps("AdaGrad", self.eps)

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        return {"second_keep": 1.0, "second_intake": 1.0, "eps": self.eps}

    def start(self) -> Start:
        return Start(s=self.initial)

    def _law(self) -> list[str]:
        return ["g = gradient at w", f"d = g{self._decay()}", "s = s + d*d", f"w = w - lr*d / (sqrt(s) + {self.eps:g})"]


@dataclass(frozen=True, repr=False)
class ScheduleFree(Rule):
    """Schedule-Free SGD (Defazio et al. 2024): no schedule to choose; the answer is an average kept in the registers.

    Law: z = z - lr*d;  x = (1-c)*x + c*z;  y = (1-m)*z + m*x, with the gradient taken at y; c = weight/sum of weights,
    weight = (largest lr so far)^2, so 1/(t+1) at a constant lr. Here w is y and v is z; the answer is x = (w-(1-m)*v)/m.

    Args:
        momentum: m in (0, 1]; 0 is refused: the answer could not be read.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        self._check()
        if self.average is not None:
            raise InvalidValue("ScheduleFree(average=...): it averages already; leave average out")
        number = isinstance(self.momentum, (int, float)) and not isinstance(self.momentum, bool)
        if not number or not 0 < self.momentum <= 1:
            raise InvalidValue(f"ScheduleFree(momentum={self.momentum!r}): expected a number above 0 and at most 1; at 0 the answer cannot be read")

    def _columns(self, lr: Column, clock: Clock, t: np.ndarray) -> dict[str, Column]:
        c = 1.0 / (t + 1.0)
        if isinstance(lr, np.ndarray) and len(t):  # weights from update 0 on: the same prefix sums for every cut
            rates = learning_rate(self, clock, np.arange(t[-1] + 1, dtype=np.int64))
            weight = np.maximum.accumulate(np.asarray(rates)) ** 2
            total = np.cumsum(weight)
            c = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)[t[0] :]
        m = self.momentum
        return {
            "momentum": 1.0, "intake": -lr, "shrink": 1.0 - c, "lr": 1.0,
            "direct": lr * (1.0 - c) * (1.0 - m), "through": -c,
        }  # fmt: skip

    def answer(self) -> Answer:
        return Answer(w=1.0 / self.momentum, v=-(1.0 - self.momentum) / self.momentum)

    def start(self) -> Start:
        return Start(v_from_w=True)

    def _law(self) -> list[str]:
        m = f"{self.momentum:g}"
        return [
            "g = gradient at y",
            f"z = z - lr*(g{self._decay().replace('w', 'y')})",
            "x = (1 - c)*x + c*z        c = 1/(t+1) at a constant lr",
            f"y = (1 - {m})*z + {m}*x        the answer is x",
        ]


def _check_eps(name: str, eps: float) -> None:
    if not isinstance(eps, (int, float)) or not 0 < eps < float("inf"):
        raise InvalidValue(f"{name}(eps={eps!r}): expected a number above 0; it keeps the first step finite")


RULES: dict[str, type[Rule]] = {
    cls.__name__: cls for cls in (SGD, Nesterov, MovingAverage, Adam, AdamW, NAdam, RMSProp, AdaGrad, ScheduleFree)
}
"""Every rule by name."""


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """The rule of `Rule.to_json`.

    Raises:
        UnknownName: a rule that does not exist.

    >>> rule_from_json(SGD(lr=0.1, schedule="cosine").to_json())
    SGD(lr=0.1, schedule='cosine(to=0)')
    """
    given = dict(data)
    name = given.pop("rule", None)
    if name not in RULES:
        raise UnknownName.among("optimizer", str(name), RULES)
    known = {f.name for f in fields(RULES[name])}
    for key in given:
        if key not in known:
            raise UnknownName.among("option", key, known)
    return RULES[name](**{key: _value(key, value) for key, value in given.items()})


def _value(key: str, value: Any) -> Any:
    if key == "groups":
        return tuple((pattern, Group.from_json(group)) for pattern, group in value)
    if value == "auto":
        return auto
    return Schedule.from_json(value["schedule"]) if isinstance(value, Mapping) else value
