"""Optimizers as rules that write rows: `laws` the rules, `groups` parameter groups, `writing` how columns become rows,
`stability` what can be read off them."""

from fallline.rules.groups import Group, resolve_groups
from fallline.rules.laws import (
    RULES,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    MovingAverage,
    NAdam,
    Nesterov,
    RMSProp,
    Rule,
    ScheduleFree,
    rule_from_json,
)
from fallline.rules.stability import edge, typical_lr
from fallline.rules.writing import Auto, auto

__all__ = [
    "RULES", "SGD", "AdaGrad", "Adam", "AdamW", "Auto", "Group", "MovingAverage", "NAdam", "Nesterov", "RMSProp", "Rule",
    "ScheduleFree", "auto", "edge", "resolve_groups", "rule_from_json", "typical_lr",
]  # fmt: skip
