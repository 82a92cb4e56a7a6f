"""The textbook's typical learning rates: they bracket a search and word a warning. Each rule states its own."""

from __future__ import annotations

from fallline.rules.rule import Rule, digits


def typical_lr(rule: Rule) -> tuple[float, float]:
    """The textbook's typical learning rates for a rule, (low, high).

    SGD 0.01 to 0.1, with momentum to 0.3; Adam 0.0001 to 0.001; RMSProp 0.001 to 0.01. Not in the textbook: AdaGrad
    stands with SGD; the moving average's rates are those of momentum divided by 1 - momentum, for the same steps; and
    Schedule-Free SGD asks for 10 to 50 times SGD's (its authors' advice).

    >>> from fallline.rules import SGD, Adam
    >>> typical_lr(SGD(lr=0.1)), typical_lr(SGD(lr=0.1, momentum=0.9)), typical_lr(Adam(lr=0.001))
    ((0.01, 0.1), (0.01, 0.3), (0.0001, 0.001))
    """
    return rule.typical_lr()


def default_lr(rule: Rule) -> float:
    """The learning rate for when nothing could be measured: the middle of `typical_lr` on a log scale, to one digit.

    >>> from fallline.rules import SGD, Adam
    >>> default_lr(SGD()), default_lr(SGD(momentum=0.9)), default_lr(Adam())
    (0.03, 0.05, 0.0003)
    """
    low, high = rule.typical_lr()
    return digits((low * high) ** 0.5, 1)
