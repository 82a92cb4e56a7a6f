"""The values that a sweep tries: a list, evenly spaced numbers, or either in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.charts.marks import short
from fallline.errors import InvalidValue
from fallline.rules.rule import Rule

_RANGE = re.compile(r"(?P<low>[^:,]+?)\.\.(?P<high>[^:,]+):(?P<count>\d+)(?::(?P<kind>\w+))?")


@dataclass(frozen=True, repr=False)
class Spaced:
    """Numbers from `low` to `high`, both among them, with even steps: of the logarithm ("log"), or of the number ("linear").

    Made by `fl.log(low, high, count)` and `fl.values("low..high:count")`.
    """

    low: float
    high: float
    count: int
    kind: str = "log"

    def __post_init__(self) -> None:
        where = f"{self.low!r}..{self.high!r}:{self.count!r}"
        if self.kind not in ("log", "linear"):
            raise InvalidValue(f"values {where}:{self.kind}: expected :log or :linear at the end, or neither, which is log")
        numbers = [isinstance(v, (int, float, np.number)) and not isinstance(v, bool) and np.isfinite(v) for v in (self.low, self.high)]
        if not all(numbers) or not self.low < self.high or (self.kind == "log" and self.low <= 0):
            raise InvalidValue(f"values {where}: expected numbers with {'0 < low < high' if self.kind == 'log' else 'low < high'}")
        if isinstance(self.count, bool) or not isinstance(self.count, (int, np.integer)) or self.count < 2:
            raise InvalidValue(f"values {where}: expected a count of at least 2; a single value is a list of one")

    def __len__(self) -> int:
        return int(self.count)

    def __iter__(self) -> Iterator[float]:
        spaced = np.geomspace if self.kind == "log" else np.linspace
        inner = spaced(self.low, self.high, int(self.count)).tolist()[1:-1]
        return iter([float(self.low), *(float(f"{v:.15g}") for v in inner), float(self.high)])  # 0.3, not 0.30000000000000004

    def __repr__(self) -> str:
        if self.kind == "log":
            return f"fl.log({self.low:g}, {self.high:g}, {self.count})"
        return f'fl.values("{self.low:g}..{self.high:g}:{self.count}:linear")'


def log(low: float, high: float, count: int) -> Spaced:
    """`count` numbers from `low` to `high`, each the same factor above the one before.

    Args:
        low, high: both among the numbers; 0 < low < high.
        count: at least 2.

    Raises:
        InvalidValue: anything else.

    >>> [round(v, 6) for v in log(0.001, 1, 4)]
    [0.001, 0.01, 0.1, 1.0]
    """
    return Spaced(low, high, count)


def values(text: str) -> Spaced | tuple[Any, ...]:
    """Values in words, as the command line takes them.

    Args:
        text: "1e-4..1:9" (nine, evenly spaced on a log scale), "0.1..0.9:5:linear", or values with commas between:
            numbers, true, false, none, or words such as schedules (a comma inside parentheses belongs to its value).

    Raises:
        InvalidValue: no values, or a range that cannot be read.

    >>> values("1e-4..1:9"), values("0, 0.9"), values("cosine(to=0), linear")
    (fl.log(0.0001, 1, 9), (0, 0.9), ('cosine(to=0)', 'linear'))
    """
    text = str(text).strip()
    if ".." in text:
        found = _RANGE.fullmatch(text.replace(" ", ""))
        low, high = (_value(found["low"]), _value(found["high"])) if found else ("", "")
        if found is None or isinstance(low, str) or isinstance(high, str):
            raise InvalidValue(f"values {text!r}: expected LOW..HIGH:COUNT, such as 1e-4..1:9 (log scale), or 0.1..0.9:5:linear")
        return Spaced(low, high, int(found["count"]), found["kind"] or "log")
    parts = [part.strip() for part in _split(text)]
    if not all(parts):
        raise InvalidValue(f"values {text!r}: expected values with commas between, such as 0,0.9, or LOW..HIGH:COUNT")
    return tuple(_value(part) for part in parts)


def tried(name: str, given: Any) -> list[Any]:
    """The values of one hyperparameter, each once.

    Raises:
        InvalidValue: none, or one twice.
    """
    if isinstance(given, str):
        given = values(given)
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, Spaced) or (isinstance(given, Sequence) and not isinstance(given, (str, bytes))):
        found = [v.item() if isinstance(v, np.generic) else v for v in given]
    else:
        found = [given]
    if not found:
        raise InvalidValue(f"over[{name!r}] holds no value: give a list, such as [0, 0.9], or fl.log(1e-4, 1, 9)")
    twice = [v for i, v in enumerate(found) if any(_same(v, w) for w in found[:i])]
    if twice:
        raise InvalidValue(f"over[{name!r}] holds {twice[0]!r} twice: give each value once")
    if name == "lr" and any(v == 0 for v in found if isinstance(v, (int, float))):
        raise InvalidValue("over['lr'] holds 0: a rate of 0 never moves; expected numbers above 0")
    return found


def shown(value: Any) -> str:
    """A value for a sentence or an axis."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return short(value)
    if isinstance(value, Batches) and value == Batches.full():
        return "full"
    if isinstance(value, Rule):
        return repr(value).replace("lr=auto, ", "").replace("lr=auto", "")
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _split(text: str) -> list[str]:
    """The parts between commas that are not inside parentheses."""
    parts, depth, at = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[at:i])
            at = i + 1
    return [*parts, text[at:]]


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


__all__ = ["Spaced", "log", "shown", "tried", "values"]
