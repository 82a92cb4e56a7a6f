"""Nothing happened: within `untouched`, a model may be trained; after it, everything is as it was, to the last bit.

Put back are: parameters and their gradients, buffers, train and eval flags and the plain attributes of modules; the
optimizer's state (what did not exist is taken away again) and groups; the scaler; the position of a loader and its samplers;
and every random generator: Python's, NumPy's, PyTorch's on the CPU and its devices, and those that the loader, its data and
the modules hold. The optimizer's step hooks are silent within.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fallline.interrupts import undisturbed
from fallline.torch.notes import Notes

_CHAIN = 4
"""Samplers and data sets are followed so far into each other."""


class Held:
    """What `untouched` has noted."""

    def __init__(self, modules: Sequence[torch.nn.Module], optimizer: Any, scaler: Any, loader: Any):
        self._trained, self._position, self._rest = Notes(), Notes(), Notes()
        for part in _sampling(loader):
            self._position.attributes(part)
        for data in _chain(loader, "dataset"):
            self._position.attributes(data, depth=0, tensors=False)
        self._rest.generators([loader, *_sampling(loader), *_chain(loader, "dataset"), *(m for top in modules for m in top.modules())])
        for top in modules:
            _note_module(self._trained, top)
        if optimizer is not None:
            _note_optimizer(self._trained, optimizer)
            for hooks in hooks_of(optimizer):
                self._rest.container(hooks, depth=0)
        self._trained.attributes(scaler)
        self._loader, self._iterator = loader, getattr(loader, "__dict__", {}).get("_iterator")

    def quiet(self, optimizer: Any) -> None:
        """Step hooks silent; workers that persist stay with the iteration that they serve."""
        for hooks in hooks_of(optimizer):
            hooks.clear()
        if self._iterator is not None:
            self._loader.__dict__["_iterator"] = None

    def rewind(self) -> None:
        """The model, the optimizer and the scaler as they were; randomness and the loader go on, so another attempt can follow."""
        self._trained.put_back()

    def restart(self) -> None:
        """The loader's position as it was; its randomness goes on."""
        self._position.put_back()

    def put_back(self) -> None:
        """All of it."""
        self._trained.put_back()
        self._position.put_back()
        own = getattr(self._loader, "__dict__", {}).get("_iterator")
        if own is not None and own is not self._iterator:
            getattr(own, "_shutdown_workers", lambda: None)()
        if own is not self._iterator:
            self._loader.__dict__["_iterator"] = self._iterator
        self._rest.put_back()


@contextmanager
def untouched(
    model: torch.nn.Module | Iterable[torch.nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    scaler: Any = None,
    loader: Any = None,
) -> Iterator[Held]:
    """Within: train at will. After, also after an error or Ctrl-C: bitwise as if nothing had happened.

    What it cannot know: files, Python objects beside those named here, and a loader that is itself an iterator.
    Memory: a copy of the parameters, their gradients, the buffers and the optimizer's state.

    Args:
        model: a module, or several (a loss with parameters of its own).
        optimizer, scaler, loader: those in use, or None.

    >>> layer = torch.nn.Linear(1, 1)
    >>> before = layer.weight.item()
    >>> with untouched(layer), torch.no_grad():
    ...     _ = layer.weight.add_(torch.rand(1))
    >>> layer.weight.item() == before
    True
    """
    modules = [model] if isinstance(model, torch.nn.Module) else list(model)
    held = Held(modules, optimizer, scaler, loader)
    try:
        held.quiet(optimizer)
        yield held
    finally:
        with undisturbed():  # a Ctrl-C from here on waits until everything is back
            held.put_back()


def hooks_of(optimizer: Any) -> list[Any]:
    """The hooks that PyTorch calls around an optimizer's step."""
    found = [getattr(optimizer, name, None) for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")]
    return [hooks for hooks in found if hooks is not None]


def _note_module(notes: Notes, top: torch.nn.Module) -> None:
    for one in (*top.parameters(), *top.buffers()):
        notes.tensor(one)
    for module in top.modules():
        notes.attributes(module, depth=2)


def _note_optimizer(notes: Notes, optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for one in group["params"]:
            notes.tensor(one)
    notes.container(optimizer.param_groups, depth=4)
    notes.container(optimizer.state, depth=4)
    notes.attributes(optimizer, leave=lambda name: name.startswith("_optimizer_"))


def _sampling(loader: Any) -> list[Any]:
    """A loader and its samplers."""
    return [loader, *_chain(loader, "batch_sampler"), *_chain(loader, "sampler"), *_chain(getattr(loader, "batch_sampler", None), "sampler")]


def _chain(owner: Any, name: str) -> list[Any]:
    found: list[Any] = []
    while (owner := getattr(owner, name, None)) is not None and len(found) < _CHAIN:
        found.append(owner)
    return found
