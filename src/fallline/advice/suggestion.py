"""Which rule for which model: the textbook's reasons, read off the layers, the rows and the epochs.

A module is known by the class names of its layers, so nothing is imported to look at one, and a layer of one's own
counts where its name says what it is (`MyAttention`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np

from fallline.advice import recipes
from fallline.errors import InvalidValue, PlanMismatch
from fallline.plan import Plan
from fallline.problems import LinearProblem
from fallline.rules import SGD, AdaGrad, AdamW, Rule, auto
from fallline.schedules import schedule

MANY, QUICK = 100, 10
"""Epochs: the textbook's "many (100+)"; fewer than ten we read as its "quick prototyping"."""
LARGE = 200_000
"""Rows from which the textbook's ImageNet numbers are taken rather than those for smaller data; ours."""
HEAVY = 1_000_000
"""Parameters from which the optimizer's memory is worth a sentence; ours."""
UNEVEN = 100.0
"""Ratio of the largest to the smallest column scale from which one rate cannot suit all columns; ours."""
_ENDS = schedule("warmup(5%) > linear(to=0)")
_KINDS = {
    "attention": ("attention", "transformer"),
    "recurrent": ("lstm", "gru", "rnn", "recurrent"),
    "embedding": ("embedding",),
    "convolution": ("conv",),
    "normalisation": ("norm",),
}
"""What a layer's class name says, in small letters; the first that fits."""


@dataclass(frozen=True, repr=False)
class Suggestion:
    """A plan to start from, and why.

    Attributes:
        plan: ready to print, change and train.
        reasons: sentences.
    """

    plan: Plan
    reasons: tuple[str, ...]

    @property
    def rule(self) -> Rule:
        """The plan's optimizer."""
        return self.plan.optimizer

    def __repr__(self) -> str:
        return f"Suggestion(rule={self.rule!r}, reasons={len(self.reasons)})"

    def __str__(self) -> str:
        return "\n".join([repr(self.rule), *(f"  - {reason}" for reason in self.reasons), *(f"  note: {note}" for note in self.plan.notes)])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons)
        return f"<p><b>{escape(type(self.rule).__name__)}</b></p><ul>{items}</ul>{self.plan._repr_html_()}"


def choose(model: Any, rows: int | None, epochs: float) -> Suggestion:
    """The answer of `recipes.suggest`."""
    if isinstance(model, LinearProblem):
        if rows is not None and rows != model.rows:
            raise PlanMismatch(f"suggest(rows={rows}): the problem has {model.rows:,} rows; leave rows out")
        return _for_linear(model, epochs)
    if not callable(getattr(model, "modules", None)) or not callable(getattr(model, "named_parameters", None)):
        raise InvalidValue(
            f"suggest({type(model).__name__}): expected a module with modules() and named_parameters(), or a linear problem such as fl.logistic(X, y)"
        )
    if rows is None:
        raise InvalidValue("suggest(rows=None): a module does not know its data; give the number of training rows")
    found = inventory(model)
    size = sum(_count(parameter) for _, parameter in model.named_parameters())
    plan, reasons = _for_module(found, rows, epochs)
    return Suggestion(plan, (*reasons, *_asides(found, size, plan)))


def inventory(module: Any) -> Counter[str]:
    """How many layers of each kind a module holds, by class name; containers and unknown layers are not counted.

    >>> Conv2d, Holder = type("Conv2d", (), {}), type("Holder", (), {"modules": lambda self: [self, Conv2d(), Conv2d()]})
    >>> inventory(Holder())
    Counter({'convolution': 2})
    """
    found: Counter[str] = Counter()
    for layer in module.modules():
        name = type(layer).__name__.casefold()
        kind = next((kind for kind, words in _KINDS.items() if any(word in name for word in words)), None)
        if kind is not None:
            found[kind] += 1
    return found


def _layers(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"


def _count(parameter: Any) -> int:
    size = getattr(parameter, "numel", None)
    return int(size()) if callable(size) else int(np.size(parameter))


def _for_module(found: Counter[str], rows: int, epochs: float) -> tuple[Plan, list[str]]:
    if found["attention"]:
        return _fitted(recipes.transformer, rows, epochs, 64), [
            f"{_layers(found['attention'], 'layer')} with attention: transformers train better with Adam than with SGD, and need a warmup",
        ]
    if found["recurrent"]:
        return _fitted(recipes.transformer, rows, epochs, 64), [
            f"{_layers(found['recurrent'], 'recurrent layer')}: Adam is better for RNNs, and the gradient's norm is clipped, because it can explode over time",
        ]
    if found["embedding"]:
        return _fitted(recipes.transformer, rows, epochs, 64), [
            f"{_layers(found['embedding'], 'embedding')}: most rows of a table get no gradient in a batch, and an adaptive rate keeps rare ones learning",
        ]
    if epochs < QUICK:
        return _quick(rows, epochs), [f"{epochs:g} epochs: a quick prototype, and SGD wants tuning that there is no time for"]
    if not found["convolution"] and epochs < MANY:
        return _quick(rows, epochs), [
            f"{epochs:g} epochs of a dense network: an adaptive rule gets there with less tuning; from {MANY} epochs on SGD often ends better",
        ]
    reasons = [f"{_layers(found['convolution'], 'convolution')}: for CNNs SGD with momentum often generalises better than Adam in the end"] if found["convolution"] else []
    if epochs >= MANY:
        reasons.append(f"{epochs:g} epochs: long enough for SGD with momentum to reach its better end")
    return _momentum(rows, epochs, reasons)


def _momentum(rows: int, epochs: float, reasons: list[str]) -> tuple[Plan, list[str]]:
    """SGD with momentum: the textbook's numbers by the amount of data, its step decay where there is time for it."""
    if rows >= LARGE and epochs >= MANY:
        plan = recipes.imagenet_resnet(rows=rows, epochs=epochs)
        return plan, [*reasons, f"{rows:,} rows: the textbook's numbers for data of ImageNet's size"]
    plan = _fitted(recipes.small_data, rows, epochs, 32)
    plan = plan._with(optimizer=replace(plan.optimizer, schedule=_ENDS, groups=None))
    return plan, [
        *reasons,
        f"{rows:,} rows, {epochs:g} epochs: the textbook's numbers for smaller data, with weights alone decayed",
        "lr falls to zero in a straight line after a warmup, which matches or beats other schedules (Defazio et al. 2023)",
        "lr is the textbook's start: SGD is sensitive to it, so test it with find_lr(problem, plan)",
    ]


def _quick(rows: int, epochs: float) -> Plan:
    plan = Plan(rows=rows, epochs=epochs, batch_size=min(64, rows), optimizer=AdamW(lr=1e-3, schedule=_ENDS))
    return _said_small(plan, 64)


def _fitted(recipe: Callable[..., Plan], rows: int, epochs: float, own: int) -> Plan:
    """A recipe at its own batch size, or at all rows where there are fewer."""
    return recipe(rows=rows, epochs=epochs, batch_size=min(own, rows))


def _said_small(plan: Plan, own: int) -> Plan:
    rows = plan.rows or 0
    return plan._with(notes=(*plan.notes, f"a batch holds all {rows} rows: there are fewer than {own}")) if rows < own else plan


def _asides(found: Counter[str], size: int, plan: Plan) -> list[str]:
    """What else there is to say of a module: normalisation, parameters against rows, memory."""
    said = []
    patterns = dict(plan.optimizer.groups)
    if found["normalisation"] and "*" not in patterns:
        said.append(f"{_layers(found['normalisation'], 'normalisation layer')}: scales and offsets, and biases, are left out of weight decay")
    if size and plan.rows and size > 10 * plan.rows:
        said.append(f"{size:,} parameters for {plan.rows:,} rows: watch the validation loss, and stop early or decay more where it turns")
    copies = 1 + (not isinstance(plan.optimizer, SGD))
    if size >= HEAVY:
        each = "a velocity" if copies == 1 else "a velocity and a second moment"
        said.append(f"{size:,} parameters: the optimizer keeps {each} of each, {4e-6 * size * copies:,.1f} MB in float32")
    return said


def _for_linear(problem: LinearProblem, epochs: float) -> Suggestion:
    """A linear problem: sparse or unevenly scaled columns take an adaptive rule, all others SGD with momentum."""
    batch = min(64, problem.rows)
    if problem.sparse:
        rule: Rule = AdaGrad(lr=auto)
        reasons = ["sparse rows: rare columns get few gradients, and AdaGrad's rate per weight keeps theirs large (Duchi et al. 2011)"]
    else:
        scales = problem.scales()
        used = scales[scales > 0]
        ratio = float(used.max() / used.min()) if used.size else 1.0
        if ratio > UNEVEN:
            low, high = (problem.feature_name(int(np.flatnonzero(scales == s)[0])) for s in (used.min(), used.max()))
            rule = AdamW(lr=auto, schedule=_ENDS)
            reasons = [f"columns of uneven scale, {high} {ratio:.3g} times {low}: a rate per weight evens them out; standardised, SGD would do"]
        else:
            rule = SGD(lr=auto, momentum=0.9, schedule=_ENDS)
            reasons = ["a linear model on dense columns of like scale: one rate suits all weights, and there is no local minimum to be stuck in"]
    reasons.append("lr is auto: the range test finds it, which takes the place of tuning by hand")
    plan = Plan(problem, epochs=epochs, batch_size=batch, optimizer=rule)
    return Suggestion(_said_small(plan, 64), tuple(reasons))
