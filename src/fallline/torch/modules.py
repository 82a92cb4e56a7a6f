"""What fallline asks of a module: its trainable parameters, their roles, its buffers and its mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from fallline.errors import InvalidValue
from fallline.layout import Layout, Parameter, Role

_ACROSS = (torch.nn.modules.batchnorm._BatchNorm,)


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that require a gradient, each once (tied ones under their first name), in the module's order.

    Raises:
        InvalidValue: there is none, they are not made yet (lazy layers), or they lie on several devices.
    """
    if not isinstance(model, torch.nn.Module):
        raise InvalidValue(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    found = dict(model.named_parameters())
    for name, p in found.items():
        if isinstance(p, torch.nn.parameter.UninitializedParameter):
            raise InvalidValue(f"parameter {name!r} is not made yet: run the model once on a batch, so that its lazy layers know their sizes")
    named: dict[str, torch.Tensor] = {n: p for n, p in found.items() if p.requires_grad}
    if not named:
        raise InvalidValue(f"{type(model).__name__} has no parameter that requires a gradient: nothing to train")
    devices = {p.device for p in named.values()}
    if len(devices) > 1:
        raise InvalidValue(f"the parameters lie on {', '.join(sorted(map(str, devices)))}: expected one device")
    return named


def layout_of(model: torch.nn.Module, parameters: dict[str, torch.Tensor]) -> Layout:
    """Names, shapes and roles: normalisation by the layer's kind, biases by name."""
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}

    def role(name: str, p: torch.Tensor) -> Role:
        return "norm" if id(p) in norms else "bias" if name.rsplit(".", 1)[-1].startswith("bias") or name.endswith("_bias") else "weight"

    return Layout(tuple(Parameter(n, tuple(p.shape), role(n, p)) for n, p in parameters.items()))


def buffers_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every buffer by name, also those that are not saved."""
    return {n: b for n, b in model.named_buffers() if b is not None}


def notes_of(model: torch.nn.Module) -> Iterator[str]:
    """Remarks for the journal: what is frozen, what is tied."""
    fixed = [n for n, p in model.named_parameters() if not p.requires_grad]
    if fixed:
        yield f"{len(fixed)} parameters do not require a gradient and stand still: {', '.join(fixed[:4])}{' ...' if len(fixed) > 4 else ''}"
    names: dict[int, list[str]] = {}
    for n, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(n)
    for same in names.values():
        if len(same) > 1:
            yield f"tied: {' = '.join(same)}, trained once under the first name"


def across_rows(model: torch.nn.Module) -> str:
    """The name of a layer that normalises over the rows of a batch in its present mode, or ""."""
    for name, m in model.named_modules():
        if isinstance(m, _ACROSS) and (m.training or not m.track_running_stats):
            return f"{type(m).__name__} {name!r}"
    return ""


def averaging_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Layers whose running statistics belong to the weights they were gathered with."""
    return [m for m in model.modules() if isinstance(m, _ACROSS) and m.track_running_stats]


@contextmanager
def kept_mode(model: torch.nn.Module) -> Iterator[None]:
    """After: every module trains or evaluates as before."""
    before = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for m, training in before:
            m.training = training


@contextmanager
def mode(model: torch.nn.Module, *, training: bool) -> Iterator[None]:
    """Within: the module trains or evaluates; a module that trains already keeps the layers its owner put into eval()."""
    with kept_mode(model):
        if not (training and model.training):
            model.train(training)
        yield


@contextmanager
def standing_still(model: torch.nn.Module, parameters: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within: these parameters need no gradient, and normalisation layers that hold only such keep their statistics."""
    frozen = list(parameters)
    known = {id(p) for p in frozen}
    layers = [m for m in averaging_layers(model) if (own := list(m.parameters(recurse=False))) and all(id(p) in known for p in own)]
    before = [m.training for m in layers]
    for p in frozen:
        p.requires_grad_(False)
    for m in layers:
        m.eval()
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
        for m, training in zip(layers, before, strict=True):
            m.training = training
