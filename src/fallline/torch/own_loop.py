"""Checkpoints for one's own loop: any module, any `torch.optim.Optimizer`, on the store that our own runs use.

    parameters.safetensors   the module's parameters, finite
    tensors.safetensors      every other tensor: buffers, the optimizer's state, generators, what is in `extra`
    state.json               the rest as plain values, with the places of the tensors; names, shapes and versions
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import platform
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fallline import run_folder
from fallline.checkpoints import Checkpoint, Checkpoints, Contents
from fallline.checkpoints.store import writer
from fallline.errors import CheckpointFailed, InvalidValue, RunDamaged
from fallline.runs.keeper import differing
from fallline.torch.optimizer import Optimizer, unwrapped
from fallline.torch.packing import array_of
from fallline.torch.plain import Plain, tensors_of
from fallline.torch.snapshot import Held

RUN = "fallline.torch"
"""The identity of checkpoints of people's own loops: those of other runs are never loaded."""
PARAMETERS, TENSORS, STATE = "parameters.safetensors", "tensors.safetensors", "state.json"

_writing: dict[Path, int | None] = {}
"""Folders that this process writes, and what holds them until it ends."""


class Restored(int):
    """The update at which a loop goes on, an int.

    Attributes:
        consumed: batches that were used, which need not be one for each update.
        extra: what was given to `save` as extra.
        damaged: checkpoints that did not verify and were passed over, as (folder, reason).
    """

    consumed: int
    extra: dict[str, Any]
    damaged: list[tuple[Path, str]]

    def __new__(cls, step: int, consumed: int = 0, extra: dict[str, Any] | None = None, damaged: list[tuple[Path, str]] | None = None) -> Restored:
        made = super().__new__(cls, step)
        made.consumed, made.extra, made.damaged = consumed, extra or {}, damaged or []
        return made


def save(
    folder: str | Path, step: int, *, model: torch.nn.Module, optimizer: Any = None, scaler: Any = None, sampler: Any = None,
    extra: dict[str, Any] | None = None, consumed: int | None = None, keep: int = 2,
) -> Path:  # fmt: skip
    """Write a checkpoint of one's own loop: whole or not there, verified, never in place of another.

    The generators of Python, NumPy and PyTorch are in it.

    Args:
        folder: where this loop's checkpoints lie; one process writes to it.
        step: updates made.
        model: a module, also inside of DistributedDataParallel or torch.compile.
        optimizer: any `torch.optim.Optimizer`, or `fl.torch.Optimizer`.
        scaler, sampler: anything with `state_dict`, or a `torch.Generator`. The position of a `plan.sampler()` is `consumed`.
        extra: plain values and tensors of your own: a scheduler's state_dict(), the best score.
        consumed: batches used so far; left out, one for each update.
        keep: valid checkpoints that stay, at least 2.

    Raises:
        CheckpointFailed: it could not be written, or a parameter is not finite; those before it are as they were.
        InvalidValue: something that cannot be kept without pickle.
        RunExists: another process writes there.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise InvalidValue(f"step={step!r}: expected the number of updates made, a whole number of at least 0")
    contents = _contents(step, unwrapped(model), optimizer, scaler, sampler, extra or {}, step if consumed is None else consumed)
    store = Checkpoints(Path(folder), RUN, keep)
    _hold(store)
    return store.save(step, contents)


def restore(folder: str | Path, *, model: torch.nn.Module, optimizer: Any = None, scaler: Any = None, sampler: Any = None) -> Restored:
    """Go on from the newest checkpoint that verifies; 0 where there is none yet. All or nothing is restored.

    Every hash, name, shape and type is compared before anything is touched; damaged checkpoints are said on stderr and passed over.

    Raises:
        InvalidValue: a module or an optimizer of other names, shapes or groups; nothing was touched.
        RunDamaged: there are checkpoints, and none verifies: that is not a new beginning.

    >>> import tempfile
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = restore(folder, model=model, optimizer=optimizer)
    ...     _ = save(folder, 7, model=model, optimizer=optimizer, extra={"best": 0.25})
    ...     step = restore(folder, model=model, optimizer=optimizer)
    >>> int(first), int(step), step.extra
    (0, 7, {'best': 0.25})
    """
    store = Checkpoints(Path(folder), RUN)
    found = store.newest()
    for path, why in store.damaged:
        print(f"fallline: checkpoint {path} is damaged ({why}){'; an older one is used' if found else ''}", file=sys.stderr, flush=True)
    if found is None:
        if store.damaged:
            raise RunDamaged(f"no checkpoint in {folder} verifies ({len(store.damaged)} damaged): restore one from a copy, or begin anew in another folder")
        if store.steps():
            raise InvalidValue(f"{folder} holds checkpoints of another kind of run: give the folder that fl.torch.save wrote to")
        return Restored(0)
    return _restored(found, store, unwrapped(model), {"optimizer": optimizer, "scaler": scaler, "sampler": sampler})


# ------------------------------------------------------------------------------------------------------- writing


def _contents(step: int, model: torch.nn.Module, optimizer: Any, scaler: Any, sampler: Any, extra: dict[str, Any], consumed: int) -> Contents:
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise CheckpointFailed(f"the state after step {step:,} is not kept as good: parameter {name!r} is not finite; those before it are as they were")
    plain = Plain()
    rest = {k: v for k, v in model.state_dict().items() if k not in parameters}
    document = {
        "step": step, "consumed": consumed, "numerics": _numerics(model), "optimizer_of": _optimizer_of(optimizer, model),
        "types": {k: [str(p.dtype), list(p.shape)] for k, p in parameters.items()},
        "rest": plain.of(rest, "model"), "generators": plain.of(_generators(), "generators"), "extra": plain.of(extra, "extra"),
        "optimizer": plain.of(None if optimizer is None else optimizer.state_dict(), "optimizer"),
        "scaler": plain.of(_state_of(scaler), "scaler"), "sampler": plain.of(_position(sampler, consumed), "sampler"),
    }  # fmt: skip
    arrays = {PARAMETERS: {k: array_of(p) for k, p in parameters.items()}, TENSORS: plain.arrays}
    return Contents({STATE: document}, arrays, (PARAMETERS,))


def _hold(store: Checkpoints) -> None:
    """Hold the folder until this process ends, and remove what kills have left half written."""
    path = store.folder.resolve()
    held = _writing.get(path)
    if path not in _writing or (held is not None and held not in run_folder._held):  # a forked child holds nothing
        _writing[path] = writer(path)
        store.sweep()


def _state_of(thing: Any) -> Any:
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return None if thing is None else thing.state_dict()


def _position(sampler: Any, consumed: int) -> Any:
    """A sampler's state; one of a plan has handed out batches that loaders hold ready, and stands where they were used."""
    state = _state_of(sampler)
    return state | {"step": consumed} if isinstance(state, dict) and hasattr(sampler, "plan") and set(state) == {"step", "plan"} else state


def _generators() -> dict[str, Any]:
    numpy = np.random.get_state()
    held: dict[str, Any] = {"python": random.getstate(), "numpy": [numpy[0], torch.from_numpy(np.array(numpy[1])), *numpy[2:]], "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        held["cuda"] = torch.cuda.get_rng_state_all()
    return held


def _numerics(model: torch.nn.Module) -> dict[str, Any]:
    device = next((p.device.type for p in model.parameters()), "cpu")
    return {"torch": torch.__version__, "machine": platform.machine(), "device": device, "threads": torch.get_num_threads()}


def _optimizer_of(optimizer: Any, model: torch.nn.Module) -> Any:
    """An optimizer's kind, and the names and shapes of its groups' parameters: a state_dict knows only their places."""
    if optimizer is None:
        return None
    names = {id(p): n for n, p in model.named_parameters()}
    unknown = 0
    groups = []
    for group in optimizer.param_groups:
        groups.append([])
        for p in group["params"]:
            if id(p) not in names:
                names[id(p)], unknown = f"(outside of the model) {unknown}", unknown + 1
            groups[-1].append([names[id(p)], list(p.shape)])
    return {"kind": type(optimizer).__name__, "groups": groups}


# ------------------------------------------------------------------------------------------------------- reading


def _restored(found: Checkpoint, store: Checkpoints, model: torch.nn.Module, others: dict[str, Any]) -> Restored:
    try:
        document, arrays = found.contents.documents[STATE], found.contents.arrays
        rest, generators, extra, *states = (tensors_of(document[k], arrays[TENSORS]) for k in ("rest", "generators", "extra", *others))
        given = dict(zip(others, states, strict=True))
        parameters = _parameters(model, document["types"], arrays[PARAMETERS])
        step, consumed, numerics, optimizer_of = document["step"], int(document["consumed"]), dict(document["numerics"]), document["optimizer_of"]
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise RunDamaged(f"{found.path} is whole and not what fl.torch.save writes ({type(error).__name__}: {str(error)[:120]})") from None
    for name, thing in others.items():
        if thing is not None and given[name] is None:
            raise InvalidValue(f"{found.path} was saved without {name}=: leave it out, or begin anew in another folder")
    if others["optimizer"] is not None and not isinstance(others["optimizer"], Optimizer):
        given["optimizer"] = _by_name(given["optimizer"], optimizer_of, _optimizer_of(others["optimizer"], model))
    _all_or_nothing(model, parameters | rest, others, given, generators)
    differs = differing(numerics, _numerics(model))
    if differs:
        print(f"fallline: goes on from step {step:,} within tolerance, not to the bit: {differs}", file=sys.stderr, flush=True)
    return Restored(step, consumed, extra, list(store.damaged))


def _parameters(model: torch.nn.Module, types: Any, arrays: Any) -> dict[str, torch.Tensor]:
    """The parameters as tensors, once their names, types and shapes are the module's.

    Raises:
        InvalidValue: they are not.
    """
    own = {k: [str(p.dtype), list(p.shape)] for k, p in model.named_parameters()}
    for name in sorted(own.keys() | types.keys()):
        if own.get(name) != types.get(name):
            here, there = (" ".join(map(str, one[name])) if name in one else "none" for one in (own, types))
            raise InvalidValue(f"parameter {name!r} is {here} in the module and {there} in the checkpoint: build the module as it was; nothing was touched")
    return {name: tensors_of({"tensor": name, "type": types[name][0]}, arrays) for name in own}


def _by_name(state: Any, then: Any, now: Any) -> dict[str, Any]:
    """The optimizer's state_dict with its places put into the present order of parameters, by their names.

    Raises:
        InvalidValue: another kind of optimizer, or groups of other parameters.
    """
    if then["kind"] != now["kind"]:
        raise InvalidValue(f"the checkpoint's optimizer is {then['kind']} and yours is {now['kind']}: make it as it was; nothing was touched")
    for k in range(max(len(then["groups"]), len(now["groups"]))):
        one, other = (dict(side["groups"][k]) if k < len(side["groups"]) else None for side in (then, now))
        if one != other:
            odd = "another number of groups" if one is None or other is None else ", ".join(sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))[:4])
            raise InvalidValue(f"the optimizer's group {k} has other parameters than in the checkpoint ({odd}): make it as it was; nothing was touched")
    flat = lambda side: [n for group in side["groups"] for n, _ in group]
    place = {name: i for i, name in enumerate(flat(now))}
    moved = {old: place[name] for old, name in enumerate(flat(then))}
    groups = [{**group, "params": [place[n] for n, _ in names]} for group, names in zip(state["param_groups"], now["groups"], strict=True)]
    return {**state, "state": {moved[old]: values for old, values in state["state"].items()}, "param_groups": groups}


def _all_or_nothing(model: torch.nn.Module, tensors: dict[str, Any], others: dict[str, Any], given: dict[str, Any], generators: dict[str, Any]) -> None:
    """Load everything; where anything refuses, everything is as it was.

    Raises:
        InvalidValue: what refused, and why.
    """
    before = Held([model], None if isinstance(others["optimizer"], Optimizer) else others["optimizer"], others["scaler"], None)
    own = None if not isinstance(others["optimizer"], Optimizer) else others["optimizer"].state_dict()
    position = _state_of(others["sampler"])
    what = "model"
    try:
        model.load_state_dict(tensors)
        for what, thing in others.items():
            if isinstance(thing, torch.Generator):
                thing.set_state(given[what])
            elif thing is not None:
                thing.load_state_dict(given[what])
        what = "generators"
        _set(generators)
    except BaseException as error:
        before.put_back()
        if own is not None:
            others["optimizer"].load_state_dict(own)
        if position is not None and not isinstance(others["sampler"], torch.Generator):
            others["sampler"].load_state_dict(position)
        if not isinstance(error, Exception):
            raise
        raise InvalidValue(f"{what} refused the checkpoint's state ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__}): make it as it was; everything is as before") from error


def _set(held: dict[str, Any]) -> None:
    python = held["python"]
    random.setstate((python[0], tuple(python[1]), python[2]))
    kind, keys, *place = held["numpy"]
    np.random.set_state((kind, keys.numpy(), *place))
    torch.set_rng_state(held["torch"])
    if "cuda" in held and torch.cuda.is_available() and len(held["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(held["cuda"])


__all__ = ["Restored", "restore", "save"]
