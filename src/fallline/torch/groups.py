"""A torch optimizer's parameter groups: the share of the learning rate that each has, and writing numbers into them.

Tensors in a group (a tensor lr of a capturable or compiled optimizer) are written in place, so nothing compiles anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from fallline.errors import InvalidValue
from fallline.rules import Group


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside of the wrappers that frameworks put around it.

    Raises:
        InvalidValue: it is no torch optimizer.
    """
    seen = 0
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer) and seen < 8:
        optimizer, seen = optimizer.optimizer, seen + 1
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidValue(f"optimizer is a {type(optimizer).__name__}: expected a torch.optim.Optimizer, such as torch.optim.SGD(model.parameters(), lr=0.1)")
    for number, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise InvalidValue(f"{type(optimizer).__name__}: parameter group {number} has no 'lr', so there is no learning rate to drive")
    return optimizer


def number(value: Any) -> float:
    """A group's value as a number; a tensor's is fetched, which waits for its device."""
    return float(value.item() if isinstance(value, torch.Tensor) else value)


def shares(optimizer: torch.optim.Optimizer, name: str = "lr") -> list[float]:
    """Each group's value of `name` as a share of the largest; 1 everywhere where all are equal.

    What the groups began with counts (`initial_lr`, which PyTorch's own schedulers write too), and is noted there, so
    that a ratio outlives an lr of 0 and a checkpoint.

    >>> w, b = (torch.nn.Parameter(torch.zeros(1)) for _ in "wb")
    >>> shares(torch.optim.SGD([{"params": [w], "lr": 0.25}, {"params": [b]}], lr=1.0))
    [0.25, 1.0]
    """
    first = [number(group.setdefault(f"initial_{name}", number(group[name]))) for group in optimizer.param_groups]
    top = max(first)
    return [1.0 if value == top else value / top for value in first]


def by_patterns(optimizer: torch.optim.Optimizer, patterns: Sequence[tuple[str, Group]]) -> list[Group]:
    """The plan's group of each parameter group, by the names of its parameters; the first pattern that matches wins.

    Raises:
        InvalidValue: names are not known, a pattern matches nothing, or one parameter group holds two of the plan's.
    """
    found: list[Group] = []
    unused = dict(patterns)
    for index, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        if names is None:
            raise InvalidValue(
                f"the plan has the groups {', '.join(repr(p) for p, _ in patterns)}, and the optimizer does not know its parameters' names: "
                "give it names, torch.optim.SGD(model.named_parameters(), ...), or leave the plan's groups out"
            )
        kinds: dict[Group, str] = {}
        for name in names:
            matching = [(p, g) for p, g in patterns if fnmatchcase(name, p)]
            for pattern, _ in matching:
                unused.pop(pattern, None)
            kinds.setdefault(matching[0][1] if matching else Group(), name)
        if len(kinds) > 1:
            (_, one), (_, other) = list(kinds.items())[:2]
            raise InvalidValue(
                f"parameter group {index} holds {one!r} and {other!r}, which fall into different groups of the plan, and a torch optimizer "
                "has one lr for a parameter group: give the optimizer one parameter group for each, with the names"
            )
        found.append(next(iter(kinds), Group()))
    if unused:
        known = [n for group in optimizer.param_groups for n in group["param_names"]]
        raise InvalidValue(f"group pattern {next(iter(unused))!r} matches no parameter; parameters: {', '.join(known)}")
    return found


def put(group: dict[str, Any], name: str, value: float) -> None:
    """Write one number into a group: `lr`, `weight_decay`, or `momentum` (which is `betas[0]` where the optimizer has betas)."""
    key = place_of(group, name)
    held = group[key]
    first = held[0] if key == "betas" else held
    if isinstance(first, torch.Tensor):
        with torch.no_grad():
            first.fill_(value)
    elif key == "betas":
        group[key] = (value, *held[1:])
    else:
        group[key] = value


def get(group: Mapping[str, Any], name: str) -> Any:
    """What stands in a group where `put` writes."""
    key = place_of(group, name)
    return group[key][0] if key == "betas" else group[key]


def place_of(group: Mapping[str, Any], name: str) -> str:
    """The key under which a group holds `name`, or ""."""
    if name == "momentum" and "betas" in group:
        return "betas"
    return name if name in group else ""
