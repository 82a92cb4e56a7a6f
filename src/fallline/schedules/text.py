"""Schedules as text: `warmup(5%) > cosine(to=1e-6)` and back, and as Python code for `repr`.

    chain   = term { (">" | ",") term }
    term    = [ number "*" ] atom { "per" length }
    atom    = name [ "(" [ argument { "," argument } ] ")" ] | "(" chain ")"
    argument= [ name "=" ] value
    value   = number | number "x" | length | "[" length { "," length } "]" | module ":" function
    length  = number "%" | number ("epoch" | "epochs" | "step" | "steps") | ("epochs" | "steps" | "fraction") "(" number ")"

A number is absolute, `0.01x` a share of the peak. Writing and reading are inverse: the text loses no bit.
"""

from __future__ import annotations

import re
import sys
from types import FunctionType
from typing import Any

from fallline import schedules
from fallline.errors import InvalidValue, UnknownName
from fallline.lengths import Length, epochs, fraction, steps
from fallline.schedules import SHAPES, Chain, Held, Leg, Scaled, Schedule, Times, number_text, times

_UNITS = {"epoch": epochs, "epochs": epochs, "step": steps, "steps": steps, "fraction": fraction}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<suffix>%|x\b)?"
    r"|(?P<path>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[()\[\],>=*]))"
)


# ---- writing


def write(one: Schedule, exact: bool = False) -> str:
    """The text of a schedule; with `exact`, a custom function that cannot be found by its text is refused."""
    if isinstance(one, Chain):
        return " > ".join(write(leg, exact) for leg in one.legs)
    if isinstance(one, Scaled):
        return f"{number_text(one.factor)} * {_inner(one.inner, exact)}"
    if isinstance(one, Held):
        return f"{_inner(one.inner, exact)} per {_length_text(one.length)}"
    assert isinstance(one, Leg)
    arguments = ", ".join(_argument_text(one.kind, name, value, exact) for name, value in _printed(one))
    return f"{one.kind}({arguments})" if arguments else one.kind


def code(one: Schedule) -> str:
    """Python code that makes the schedule."""
    if isinstance(one, Chain):
        first = f"({code(one.legs[0])})" if isinstance(one.legs[0], Scaled) else code(one.legs[0])
        return first + "".join(f".then({code(leg)})" for leg in one.legs[1:])
    if isinstance(one, Scaled):
        return f"{number_text(one.factor)} * {f'({code(one.inner)})' if isinstance(one.inner, Scaled) else code(one.inner)}"
    if isinstance(one, Held):
        inner = f"({code(one.inner)})" if isinstance(one.inner, Scaled) else code(one.inner)
        return f"{inner}.per({_length_code(one.length)})"
    assert isinstance(one, Leg)
    bare = SHAPES[one.kind].first if one.kind != "warmup" else ""
    arguments = [f"{_value_code(v)}" if name == bare else f"{name}={_value_code(v)}" for name, v in _printed(one)]
    return f"{one.kind}({', '.join(arguments)})"


def _printed(leg: Leg) -> list[tuple[str, Any]]:
    """The arguments to print, in the shape's order, the one without a name first."""
    shape, given = SHAPES[leg.kind], dict(leg.arguments)
    names = dict.fromkeys(n for n in (shape.first, *shape.defaults, *given) if n)
    return [(n, leg.get(n)) for n in names if n in given or n in shape.shown]


def _inner(one: Schedule, exact: bool) -> str:
    return write(one, exact) if isinstance(one, Leg) else f"({write(one, exact)})"


def _argument_text(kind: str, name: str, value: Any, exact: bool) -> str:
    text = _value_text(value, exact)
    return text if name == SHAPES[kind].first else f"{name}={text}"


def _value_text(value: Any, exact: bool) -> str:
    if isinstance(value, Length):
        return _length_text(value)
    if isinstance(value, Times):
        return f"{number_text(value.share)}x"
    if isinstance(value, tuple):
        return f"[{', '.join(_length_text(one) for one in value)}]"
    return _function_text(value, exact) if callable(value) else number_text(value)


def _length_text(length: Length) -> str:
    if length.unit == "fraction":
        percent = f"{length.value * 100:.15g}"
        exact = float(percent) / 100 == length.value
        return f"{number_text(float(percent))}%" if exact else f"fraction({number_text(length.value)})"
    return f"{number_text(length.value)} {length.unit[:-1] if length.value == 1 else length.unit}"


def _length_code(length: Length) -> str:
    return f"{length.unit}({number_text(length.value)})"  # Length's own repr rounds to six digits


def _value_code(value: Any) -> str:
    if isinstance(value, Length):
        return _length_code(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_length_code(one) for one in value)}]"
    if isinstance(value, Times):
        return repr(value)
    return getattr(value, "__qualname__", repr(value)) if callable(value) else number_text(value)


def _function_text(function: Any, exact: bool) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "?")
    path = f"{module}:{name}"
    if exact and _found(module, name) is not function:
        raise InvalidValue(
            f"custom({name}) cannot be written to JSON: {path} does not lead back to the function; "
            "define it at the top level of a module, or write the schedule with the library's own legs"
        )
    return path


def _found(module: str | None, name: str) -> Any:
    """The plain function at `module`:`name` among the modules already loaded, or None. Nothing is ever imported."""
    found: Any = sys.modules.get(module or "")
    if module is None or module.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return None  # a file must not be able to name a function of the system
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, FunctionType) else None


# ---- reading


def read(text: str) -> Schedule:
    """The schedule that `text` describes.

    Raises:
        InvalidValue: text that does not follow the grammar; the message points at the place.
        UnknownName: a schedule or argument that does not exist.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidValue(f"schedule({text!r}): expected a text such as 'warmup(5%) > cosine(to=1e-6)', or a schedule")
    reader = _Reader(text)
    found = reader.chain()
    if reader.kind != "end":
        raise reader.unexpected("'>' or the end")
    return found


class _Reader:
    """A cursor over the tokens of one text."""

    def __init__(self, text: str):
        self.text, self.at, self.next = text, 0, 0
        self.kind, self.value, self.suffix = "", "", ""
        self.move()

    def move(self) -> None:
        """Step to the next token."""
        rest = re.compile(r"\s*").match(self.text, self.next)
        self.at = rest.end() if rest else self.next
        found = _TOKEN.match(self.text, self.next)
        if self.at == len(self.text):
            self.kind = "end"
            self.value = ""
            return
        if found is None:
            raise InvalidValue(f"schedule {self.text!r}: cannot read {self.text[self.at :]!r}")
        self.next = found.end()
        self.suffix = found["suffix"] or ""
        self.kind = "number" if found["number"] else "path" if found["path"] else "name" if found["name"] else "sign"
        self.value = found["number"] or found["path"] or found["name"] or found["sign"]

    def unexpected(self, expected: str) -> InvalidValue:
        """The error for the present token."""
        here = f"the end after {self.text!r}" if self.kind == "end" else repr(self.text[self.at :])
        return InvalidValue(f"schedule {self.text!r}: expected {expected}, found {here}")

    def sign(self, *which: str) -> bool:
        """Whether the present token is one of these signs; if so, step over it."""
        if self.kind != "sign" or self.value not in which:
            return False
        self.move()
        return True

    def demand(self, which: str) -> None:
        """Step over a sign that must be here."""
        if not self.sign(which):
            raise self.unexpected(repr(which))

    def chain(self) -> Schedule:
        """Terms joined by `>` or `,`."""
        found = self.term()
        while self.sign(">", ","):
            found = found.then(self.term())
        return found

    def term(self) -> Schedule:
        """One leg, perhaps scaled, perhaps held."""
        if self.kind == "number" and not self.suffix:
            factor = float(self.value)
            self.move()
            self.demand("*")
            return self.term() * factor
        found = self.atom()
        while self.kind == "name" and self.value == "per":
            self.move()
            found = found.per(self.length())
        return found

    def atom(self) -> Schedule:
        """A name with its arguments, or a chain in parentheses."""
        if self.sign("("):
            found = self.chain()
            self.demand(")")
            return found
        if self.kind != "name":
            raise self.unexpected("the name of a schedule")
        name = self.value
        if name not in SHAPES:
            raise UnknownName.among("schedule", name, SHAPES)
        self.move()
        arguments = self.arguments(name) if self.sign("(") else {}
        try:
            return getattr(schedules, name)(**arguments)
        except TypeError:
            missing = SHAPES[name].first
            raise InvalidValue(f"schedule {self.text!r}: {name} needs a value, such as {name}({missing}=...)") from None

    def arguments(self, name: str) -> dict[str, Any]:
        """What stands between the parentheses of `name`."""
        shape, found = SHAPES[name], {}
        while not self.sign(")"):
            key = self.key(name)
            if key in found:
                raise InvalidValue(f"schedule {self.text!r}: {name} got {key} twice")
            found[key] = self.argument(shape, key)
            if self.sign(")"):
                break
            self.demand(",")
        return found

    def key(self, name: str) -> str:
        """The name of the coming argument, given or understood."""
        shape = SHAPES[name]
        known = list(dict.fromkeys(([shape.first] if shape.first else []) + list(shape.defaults)))
        if self.kind == "name" and self.text[self.next :].lstrip().startswith("="):
            key = self.value
            if key not in known:
                raise UnknownName.among(f"argument of {name}", key, known)
            self.move()
            self.demand("=")
            return key
        if not shape.first:
            raise self.unexpected(f"a named argument of {name}, such as {known[0]}=...")
        return shape.first

    def argument(self, shape: Any, key: str) -> Any:
        """A value: number, share, length, list of lengths or function."""
        if self.sign("["):
            return self.listed()
        if self.kind == "path":
            return self.function()
        if self.kind == "name" or self.suffix == "%" or key in ("over", "every", "per", "up") or self._unit_follows():
            return self.length()
        if self.kind != "number":
            raise self.unexpected(f"a value for {key}")
        value: Any = times(float(self.value)) if self.suffix == "x" else float(self.value)
        if key == "cycles" and value == int(value):
            value = int(value)
        self.move()
        return value

    def _unit_follows(self) -> bool:
        return re.match(r"\s*(epochs?|steps?)\b", self.text[self.next :]) is not None

    def listed(self) -> list[Length]:
        """Lengths up to the closing bracket."""
        found = [self.length()]
        while not self.sign("]"):
            self.demand(",")
            found.append(self.length())
        return found

    def length(self) -> Length:
        """`5%`, `30 epochs`, `1 step`, `fraction(0.05)`."""
        if self.kind == "name" and self.value in ("epochs", "steps", "fraction"):
            unit = _UNITS[self.value]
            self.move()
            self.demand("(")
            amount = self.amount()
            self.demand(")")
            return unit(amount)
        percent, bare = self.suffix == "%", self.kind == "number" and not self.suffix
        amount = self.amount()
        if percent:
            return fraction(amount / 100)
        if self.kind != "name" or self.value not in _UNITS or not bare:
            raise InvalidValue(
                f"schedule {self.text!r}: the length {number_text(amount)} has no unit; "
                f"write {number_text(amount)} epochs, {number_text(amount)} steps, or a percentage of the plan such as 5%"
            )
        unit = _UNITS[self.value]
        self.move()
        return unit(amount)

    def amount(self) -> float:
        """A plain number."""
        if self.kind != "number":
            raise self.unexpected("a length such as 5%, 30 epochs or 500 steps")
        value = float(self.value)
        self.move()
        return int(value) if value == int(value) else value

    def function(self) -> Any:
        """The function a path names, from modules that are loaded already."""
        module, _, name = self.value.partition(":")
        function = _found(module, name)
        if function is None:
            raise InvalidValue(
                f"schedule {self.text!r}: no function {self.value} among the loaded modules (nothing is imported for a text); "
                f"import {module} first"
            )
        self.move()
        return function
