"""Parameter groups: patterns over names, multipliers, and which parameter obeys which row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from fallline.errors import InvalidValue
from fallline.layout import Layout
from fallline.lengths import Length


@dataclass(frozen=True)
class Group:
    """Multipliers for the parameters whose names match a pattern.

    Args:
        lr: multiplies the learning rate.
        weight_decay: multiplies the weight decay; left out, 1 for weights and 0 for biases and normalisation.
        l1: multiplies the l1 penalty; left out, as weight_decay.
        frozen: a length from the plan's start during which the parameters stand still.

    >>> Group(lr=10)
    Group(lr=10, weight_decay=None, l1=None, frozen=None)
    """

    lr: float = 1.0
    weight_decay: float | None = None
    l1: float | None = None
    frozen: Length | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "l1"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value < float("inf")):
                raise InvalidValue(f"Group({name}={value!r}): expected a multiplier, a finite number that is not negative")
        if self.frozen is not None and not isinstance(self.frozen, Length):
            raise InvalidValue(f"Group(frozen={self.frozen!r}): expected a length with its unit, such as epochs(1)")

    def to_json(self) -> dict[str, Any]:
        """Plain values; the length as its number and unit."""
        frozen = None if self.frozen is None else [self.frozen.value, self.frozen.unit]
        return {"lr": self.lr, "weight_decay": self.weight_decay, "l1": self.l1, "frozen": frozen}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Group:
        """The group of `to_json`."""
        frozen = None if data["frozen"] is None else Length(*data["frozen"])
        return cls(data["lr"], data["weight_decay"], data["l1"], frozen)


Patterns = tuple[tuple[str, Group], ...]


def as_patterns(groups: Mapping[str, Group] | Patterns | None) -> Patterns:
    """Groups as a tuple of pairs, which compares and hashes."""
    pairs = tuple(groups.items() if isinstance(groups, Mapping) else groups or ())
    for pattern, group in pairs:
        if not isinstance(group, Group):
            raise InvalidValue(f"groups[{pattern!r}] = {group!r}: expected a Group, such as Group(lr=10)")
    return pairs


def resolve_groups(rule: Any, layout: Layout) -> tuple[tuple[Group, ...], tuple[int, ...]]:
    """The distinct groups of a layout under a rule's patterns, and each parameter's group. The first match wins.

    Raises:
        InvalidValue: a pattern matches no parameter.

    >>> from fallline.layout import Parameter
    >>> layout = Layout((Parameter("coef", (3,)), Parameter("intercept", (), "bias")))
    >>> resolve_groups(None, layout)[1]
    (0, 1)
    """
    patterns: Patterns = getattr(rule, "groups", ())
    found: list[Group] = []
    group_of: list[int] = []
    unused = dict(patterns)
    for parameter in layout.parameters:
        match = next(((p, g) for p, g in patterns if fnmatchcase(parameter.name, p)), None)
        for pattern, _ in patterns:
            if fnmatchcase(parameter.name, pattern):
                unused.pop(pattern, None)
        default = 1.0 if parameter.role == "weight" else 0.0
        group = Group() if match is None else match[1]
        group = replace(
            group,
            weight_decay=default if group.weight_decay is None else group.weight_decay,
            l1=default if group.l1 is None else group.l1,
        )
        if group not in found:
            found.append(group)
        group_of.append(found.index(group))
    if unused:
        raise InvalidValue(f"group pattern {next(iter(unused))!r} matches no parameter; parameters: {', '.join(layout.names)}")
    return tuple(found), tuple(group_of)
