"""Which model a table is fitted with, as words: `linear`, `mlp:256,128`, or `package.module:factory`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fallline.errors import InvalidValue, did_you_mean

USUAL = (256, 128)
"""Widths of `mlp` where none are given."""
WORDS = "linear, mlp:256,128 (widths of the hidden layers) or package.module:factory, where factory(features, outputs) gives an nn.Module"


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model.

    Args:
        kind: "linear", "mlp" or "factory".
        widths: hidden layers of an mlp, from the inputs on.
        name: of a factory, as package.module:factory; "" where it was given as an object that no name leads to.
        made: the factory itself, or a module, where it was given as an object; it is not saved.
    """

    kind: str
    widths: tuple[int, ...] = ()
    name: str = ""
    made: Any = None

    @property
    def is_linear(self) -> bool:
        return self.kind == "linear"

    def __str__(self) -> str:
        if self.kind == "mlp":
            return f"mlp:{','.join(map(str, self.widths))}"
        return self.name or "a module of your own" if self.kind == "factory" else self.kind

    __repr__ = __str__


def model_spec(given: str | ModelSpec | Callable[..., Any]) -> ModelSpec:
    """Read a model's words, or take a factory or a module as it is.

    Raises:
        InvalidValue: words that name no model.

    >>> model_spec("mlp:64,32").widths, str(model_spec("mlp")), model_spec("nets.small:make").kind
    ((64, 32), 'mlp:256,128', 'factory')
    """
    if isinstance(given, ModelSpec):
        return given
    if isinstance(given, str):
        return _read(given.strip())
    if callable(given):
        return ModelSpec("factory", name=_name_of(given), made=given)
    raise InvalidValue(f"model={given!r}: expected {WORDS}")


def _read(text: str) -> ModelSpec:
    kind, colon, rest = text.partition(":")
    if text == "linear":
        return ModelSpec("linear")
    if kind == "mlp":
        return ModelSpec("mlp", _widths(rest) if colon else USUAL)
    parts = kind.split(".")
    if colon and rest.isidentifier() and all(part.isidentifier() for part in parts):
        if len(parts) > 1 or not did_you_mean(kind, ("mlp", "linear")):
            return ModelSpec("factory", name=text)
    raise InvalidValue(f"model={text!r};{did_you_mean(kind, ('linear', 'mlp'))} expected {WORDS}".replace("?;", "?"))


def _widths(text: str) -> tuple[int, ...]:
    found = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in found):
        raise InvalidValue(f"model='mlp:{text}': expected the widths of the hidden layers, whole numbers above 0 with commas between, such as mlp:256,128")
    return tuple(int(part) for part in found)


def _name_of(factory: Any) -> str:
    """The name that leads to a factory, or "" where none does (a lambda, a function within another, a module)."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or not name.isidentifier():
        return ""
    return f"{module}:{name}"


__all__ = ["ModelSpec", "model_spec"]
