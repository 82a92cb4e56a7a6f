"""Optimizers as rules that write rows: `rule` what they share, `momentum`, `adaptive` and `schedule_free` the rules,
`names` all of them by name, `groups` parameter groups, `writing` how columns become rows, `stability` what can be read
off them, `typical` the textbook's rates, `law_text` how they print."""

from fallline.rules.adaptive import AdaGrad, Adam, AdamW, NAdam, RMSProp
from fallline.rules.groups import Group, resolve_groups
from fallline.rules.momentum import SGD, MovingAverage, Nesterov
from fallline.rules.names import RULES, rule_class, rule_from_json, unusual_lr
from fallline.rules.rule import Rule
from fallline.rules.schedule_free import ScheduleFree
from fallline.rules.stability import edge
from fallline.rules.typical import default_lr, typical_lr
from fallline.rules.writing import Auto, auto

__all__ = [
    "RULES", "SGD", "AdaGrad", "Adam", "AdamW", "Auto", "Group", "MovingAverage", "NAdam", "Nesterov", "RMSProp", "Rule",
    "ScheduleFree", "auto", "default_lr", "edge", "resolve_groups", "rule_class", "rule_from_json", "typical_lr",
    "unusual_lr",
]  # fmt: skip
