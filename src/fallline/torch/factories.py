"""Modules of the user's own: found by name, called, and checked; and which names a file may have imported.

A run folder holds no code, and a name in it must not run any either: a name out of a file is imported only where the
user has typed the same name on this machine before, for the same package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fallline.errors import InvalidValue, did_you_mean
from fallline.model_spec import ModelSpec


def factory_of(spec: ModelSpec) -> Any:
    """The factory (or module) of a spec that the user has typed or handed over.

    Raises:
        InvalidValue: it cannot be imported, is not there, or cannot be called.
    """
    if spec.made is not None:
        return spec.made
    module_name, _, name = spec.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name if error.name and not f"{module_name}.".startswith(f"{error.name}.") else None
        why = f"the import of {missing!r} fails" if missing else str(error)
        raise InvalidValue(f"model {spec.name!r}: module {module_name!r} cannot be imported ({why}); expected package.module:factory, found from {os.getcwd()} or installed") from error
    if not hasattr(module, name):
        raise InvalidValue(f"model {spec.name!r}: {module_name} has no {name!r};{did_you_mean(name, dir(module))} expected a function factory(features, outputs)")
    found = getattr(module, name)
    if not callable(found):
        raise InvalidValue(f"model {spec.name!r} is a {type(found).__name__}, which cannot be called: expected a function factory(features, outputs) that gives an nn.Module")
    return found


def module_of(spec: ModelSpec, features: int, outputs: int) -> torch.nn.Module:
    """What a factory makes, or the module that was handed over.

    Raises:
        InvalidValue: it gives no module, or does not take two numbers.
    """
    factory = factory_of(spec)
    if isinstance(factory, torch.nn.Module):
        return factory
    try:
        made = factory(features, outputs)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself, not something within
            raise InvalidValue(f"model {spec}: {error}; expected factory(features, outputs), called with ({features}, {outputs})") from None
        raise
    if not isinstance(made, torch.nn.Module):
        raise InvalidValue(f"model {spec}: factory({features}, {outputs}) gave a {type(made).__name__}: expected an nn.Module")
    return made


def fits(spec: Any, module: Callable[..., Any], x: torch.Tensor, outputs: int, one: bool) -> None:
    """Refuse a module whose outputs for rows `x` are not scores of this table.

    Args:
        spec: the module in words.
        module: in evaluation mode.
        x: [rows, features].
        outputs: scores of a row.
        one: whether [rows] will do too.

    Raises:
        InvalidValue: the module fails on the rows, or gives another shape.
    """
    expected = f"[{len(x)}, {outputs}]" + (f" or [{len(x)}]" if one else "")
    try:
        z = module(x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidValue(f"model {spec} fails on a batch of shape {list(x.shape)}: {error}; expected outputs of shape {expected}") from error
    if not isinstance(z, torch.Tensor):
        raise InvalidValue(f"model {spec} gives a {type(z).__name__}: expected a tensor of shape {expected}")
    if list(z.shape) != [len(x), outputs] and not (one and list(z.shape) == [len(x)]):
        raise InvalidValue(f"model {spec} gives outputs of shape {list(z.shape)} for {len(x)} rows of {x.shape[1]} features: expected {expected}")


# --------------------------------------------------------------------------------------------- names out of files


def remember(spec: ModelSpec) -> None:
    """Note that the user has typed this name here, so that his own runs load without it."""
    if not spec.name or _trusted(spec):
        return
    path = _notes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(_line(spec) + "\n")
    except OSError:
        pass  # then the name has to be typed again, which the error says


def admitted(spec: ModelSpec) -> ModelSpec:
    """A spec out of a file, once it is known from here; says that it is imported.

    Raises:
        InvalidValue: no name leads to it, or the user has not used it here.
    """
    if not spec.name:
        raise InvalidValue("this run's module was made by code that no name leads to: give it, fl.load(folder, model=factory or module)")
    if not _trusted(spec):
        raise InvalidValue(
            f"this run says that its module is made by {spec.name!r}, and a name in a file runs no code that you have not used on this machine yourself: "
            f"if you trust it, give fl.load(folder, model={spec.name!r}), or --model {spec.name} on the command line"
        )
    print(f"fallline: the run's module is made by {spec.name}, which is imported", file=sys.stderr)
    return spec


def _notes() -> Path:
    root = os.environ.get("FALLLINE_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "fallline" / "factories.txt"


def _trusted(spec: ModelSpec) -> bool:
    try:
        return _line(spec) in _notes().read_text().splitlines()
    except OSError:
        return False


def _line(spec: ModelSpec) -> str:
    """A name with the place of its package: the same name in another folder is another one. Nothing is imported to look."""
    top = spec.name.partition(":")[0].partition(".")[0]
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = None
    where = "" if found is None else found.origin or ",".join(found.submodule_search_locations or ())
    return f"{spec.name}\t{where}"
