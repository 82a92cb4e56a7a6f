"""Notes of what objects held, and how to put it back: tensors in their own memory, containers in place, attributes by name.

Each kind of thing is noted at most once, and a note keeps what it is about alive, so nothing takes its place meanwhile.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, dict, set, deque)
_FEW, _DEEP, _MOST = 64, 6, 20_000
"""A search for generators enters containers of at most so many items, so deep, and looks at so many objects."""


class Notes:
    """A list of ways back. Note first; `put_back()` may then be called as often as wanted."""

    def __init__(self) -> None:
        self._back: list[Callable[[], None]] = []
        self._seen: dict[int, Any] = {}

    def put_back(self) -> None:
        """Everything noted, as it was."""
        with torch.no_grad():
            for back in self._back:
                back()

    def _new(self, thing: Any) -> bool:
        if id(thing) in self._seen:
            return False
        self._seen[id(thing)] = thing
        return True

    def tensor(self, tensor: torch.Tensor) -> None:
        """A tensor's values (and of a parameter: its gradient, and whether it requires one)."""
        if not self._new(tensor):
            return
        memory, needs = tensor.detach(), tensor.requires_grad
        values = _own(memory).clone()

        def back() -> None:
            _own(memory).copy_(values)
            if tensor.data_ptr() != memory.data_ptr():
                tensor.data = memory
            if tensor.requires_grad != needs:
                tensor.requires_grad_(needs)

        self._back.append(back)
        if tensor.is_leaf:
            grad = tensor.grad
            if grad is not None:
                self.tensor(grad)
            self._back.append(lambda: setattr(tensor, "grad", grad) if tensor.grad is not grad else None)

    def container(self, held: Any, depth: int = 3, tensors: bool = True) -> None:
        """The items of a list, dict, set or deque, in place; and what lies in them, `depth` deep."""
        if isinstance(held, torch.Tensor):
            if tensors:
                self.tensor(held)
            return
        if isinstance(held, tuple) and depth:
            for one in held:
                self.container(one, depth - 1, tensors)
        if not isinstance(held, _CONTAINERS) or not self._new(held):
            return
        before = list(held.items()) if isinstance(held, dict) else list(held)
        self._back.append(lambda: _refill(held, before))
        for one in before if depth else ():
            self.container(one[1] if isinstance(held, dict) else one, depth - 1, tensors)

    def attributes(self, owner: Any, *, depth: int = 3, tensors: bool = True, leave: Callable[[str], bool] = lambda name: False) -> None:
        """Plain values, tensors and containers among an object's attributes; those that did not exist are taken away."""
        held = getattr(owner, "__dict__", None)
        if not isinstance(held, dict) or not self._new(owner):
            return
        before = {name: value for name, value in held.items() if not leave(name) and _notable(value)}
        known = set(held)

        def back() -> None:
            for name in [n for n in held if n not in known and not leave(n) and _notable(held[n])]:
                del held[name]
            held.update((n, v) for n, v in before.items() if n not in held or held[n] is not v)

        self._back.append(back)
        for value in before.values():
            self.container(value, depth, tensors)

    def generators(self, roots: Iterable[Any]) -> None:
        """Python's, NumPy's and PyTorch's generators, and those that can be reached from `roots`."""
        python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._back += [
            lambda: random.setstate(python),
            lambda: np.random.set_state(legacy),
            lambda: torch.set_rng_state(cpu),
        ]  # fmt: skip
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            cuda = torch.cuda.get_rng_state_all()
            self._back.append(lambda: torch.cuda.set_rng_state_all(cuda))
        if torch.backends.mps.is_available():
            mps = torch.mps.get_rng_state()
            self._back.append(lambda: torch.mps.set_rng_state(mps))
        for one in _generators(roots):
            self._generator(one)

    def _generator(self, one: Any) -> None:
        if not self._new(one):
            return
        if isinstance(one, torch.Generator):
            state = one.get_state()
            self._back.append(lambda: one.set_state(state) and None)
        elif isinstance(one, np.random.Generator):
            bits = copy.deepcopy(one.bit_generator.state)
            self._back.append(lambda: setattr(one.bit_generator, "state", bits))
        elif isinstance(one, np.random.RandomState):
            legacy = one.get_state()
            self._back.append(lambda: one.set_state(legacy))
        else:
            python = one.getstate()
            self._back.append(lambda: one.setstate(python))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The part that has memory of its own: an expanded dimension repeats one and the same."""
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)) if tensor.layout == torch.strided else ():
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def _notable(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, *_CONTAINERS, tuple, torch.Tensor))


def _refill(held: Any, before: list[Any]) -> None:
    """The container's items as they were; left alone where they still are, because compiled code watches some dicts."""
    now = list(held.items()) if isinstance(held, dict) else list(held)
    if isinstance(held, dict):
        same = len(now) == len(before) and all(a[0] is b[0] and a[1] is b[1] for a, b in zip(now, before, strict=True))
    else:
        same = len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))
    if same:
        return
    held.clear()
    (held.extend if isinstance(held, (list, deque)) else held.update)(before)


_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_DATA = (*_PLAIN, torch.Tensor, np.ndarray, type)


def _generators(roots: Iterable[Any]) -> Iterator[Any]:
    """Generators among the attributes and items of objects, and of theirs."""
    waiting = deque((root, 0) for root in roots)
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST:
        one, depth = waiting.popleft()
        if isinstance(one, _DATA) or id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, _KINDS):
            yield one
        elif depth < _DEEP:
            inside = one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple, set, deque)) else vars(one).values() if hasattr(one, "__dict__") else ()
            if len(inside) <= _FEW or not isinstance(one, (dict, list, tuple, set, deque)):
                waiting.extend((child, depth + 1) for child in list(inside))
