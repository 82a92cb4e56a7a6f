"""Where parameters and their gradients lie, read from PyTorch's tensors in one compiled pass.

Asked from Python, a hundred tensors take 40 microseconds to say `grad`, `is_contiguous()` and `data_ptr()`: longer than
their update. PyTorch answers the same questions through a stable C interface (`aoti_torch_*`, made for code that was
compiled ahead of time), and gives the gradient as `c10::TensorImpl::grad`; a compiled loop asks them in a tenth of that.
Nothing is remembered from update to update, so tensors may move, be swapped, or lose their gradients. What is out of the
ordinary is left to Python, and so is everything where PyTorch does not answer as expected.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import carray, types

from fallline.compiled import callback, kernel
from fallline.pointers import int64_at

COUNT, HANDLES, SHAPES, MODULE, GRADS, DTYPE, NONE, ANSWERS, FOUND, ODD = range(10)
"""Fields of a task, int64: addresses of tables, but for COUNT, DTYPE, NONE (the tensor that is none), FOUND (gradients) and ODD."""

_CODES = {torch.float32: 6, torch.float64: 7}
"""PyTorch's numbers of types; strided and the CPU are 0. `_answers` checks them."""
_QUESTIONS = ("get_data_ptr", "get_layout", "get_device_type", "get_dtype", "get_dim", "get_sizes", "get_strides")
_GRAD = "_ZNK3c1010TensorImpl4gradEv"

_data_ptr, _layout, _device, _dtype, _dim, _sizes, _strides = (
    types.ExternalFunction(f"aoti_torch_{question}", types.int32(types.int64, types.int64)) for question in _QUESTIONS
)
_grad = types.ExternalFunction(_GRAD, types.int64(types.int64))

Walk = Callable[[int], None]


class Places:
    """Reads where parameters and gradients lie at present into two tables.

    Args:
        tensors: the parameters, all of one type and on the CPU, laid out as they will be.
        module, grads: int64 [parameters], filled by `read`; 0 for a gradient that is None.
        walk: the compiled pass, from `walk()`.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], module: np.ndarray, grads: np.ndarray, walk: Walk):
        self._walk, self._task, answers = walk, np.zeros(10, np.int64), np.zeros(2, np.int64)
        described = [[t.ndim, *t.shape, *t.stride()] for t in tensors]
        flat = np.array([n for one in described for n in one], np.int64)
        shapes = flat.ctypes.data + 8 * np.cumsum([0, *map(len, described)])[:-1]
        handles = np.array([id(t) + (_offset() or 0) for t in tensors], np.int64)
        self._held = (tensors, flat, tables := (handles, shapes, module, grads, answers))
        self._task[[HANDLES, SHAPES, MODULE, GRADS, ANSWERS]] = [table.ctypes.data for table in tables]
        self._task[[COUNT, DTYPE, NONE]] = len(tensors), _CODES[tensors[0].dtype], _none()
        self._address = self._task.ctypes.data

    def read(self) -> int | None:
        """Fill the tables; how many gradients there are, or None where Python has to look for itself.

        That is where a tensor is on another device, of another type, shape or order in memory than at first, or sparse.
        """
        self._walk(self._address)
        return None if self._task[ODD] else int(self._task[FOUND])


# ------------------------------------------------------------------------------------------------ the compiled pass


def _at(address):
    return carray(int64_at(address), (1,))[0]


at = kernel(_at, forceinline=True)


def _code(address):
    return np.int32(at(address))  # of eight bytes, PyTorch writes the first four


code = kernel(_code, forceinline=True)


def _usual(tensor, shape, dtype, answers):
    """Whether a tensor is strided, on the CPU, of this type, and laid out as `shape` says; layout first: a sparse one has no strides."""
    _layout(tensor, answers)
    if code(answers) != 0:
        return False
    _device(tensor, answers)
    if code(answers) != 0:
        return False
    _dtype(tensor, answers)
    if code(answers) != dtype:
        return False
    _dim(tensor, answers)
    dim = at(shape)
    if at(answers) != dim:
        return False
    _sizes(tensor, answers)
    _strides(tensor, answers + 8)
    sizes, strides = at(answers), at(answers + 8)
    for d in range(dim):
        size = at(shape + 8 + 8 * d)
        if at(sizes + 8 * d) != size or (size != 1 and at(strides + 8 * d) != at(shape + 8 + 8 * (dim + d))):
            return False
    return True


usual = kernel(_usual)


def _read(address):
    task = carray(address, (10,), np.int64)
    count, dtype, answers = task[COUNT], task[DTYPE], task[ANSWERS]
    handles, shapes = carray(int64_at(task[HANDLES]), (count,)), carray(int64_at(task[SHAPES]), (count,))
    module, grads = carray(int64_at(task[MODULE]), (count,)), carray(int64_at(task[GRADS]), (count,))
    found = 0
    task[ODD] = 1
    for k in range(count):
        if not usual(handles[k], shapes[k], dtype, answers):
            return
        _data_ptr(handles[k], answers)
        module[k] = at(answers)
        grad = _grad(at(handles[k]))
        if at(grad) == task[NONE]:
            grads[k] = 0
            continue
        if not usual(grad, shapes[k], dtype, answers):
            return
        _data_ptr(grad, answers)
        grads[k] = at(answers)
        found += 1
    task[FOUND], task[ODD] = found, 0


# ------------------------------------------------------------------------------------------- whether it can be used


@cache
def walk() -> Walk | None:
    """The pass, which keeps the GIL, so that no other thread takes a gradient away meanwhile; None where it cannot be used."""
    if sys.platform != "linux" or _offset() is None or not _linked():
        return None
    made = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(callback(_read, types.void(types.voidptr)).address)
    return made if _as_python_says(made) else None


def _linked() -> bool:
    """Tell the compiler where PyTorch's functions lie; False where one is missing."""
    folder = Path(torch.__file__).parent / "lib"
    wanted = [("libtorch_cpu.so", f"aoti_torch_{question}") for question in _QUESTIONS] + [("libc10.so", _GRAD)]
    try:  # RTLD_NOLOAD: only the libraries that are in use already
        found = {name: getattr(ctypes.CDLL(str(folder / library), mode=ctypes.DEFAULT_MODE | os.RTLD_NOLOAD), name) for library, name in wanted}
    except (OSError, AttributeError):
        return False
    for name, function in found.items():
        llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value or 0)
    return True


@cache
def _offset() -> int | None:
    """Where in a Python tensor the address of PyTorch's own stands, which `_cdata` tells; None where it does not."""
    probe = torch.empty(0)
    places = range(object.__basicsize__, torch.Tensor.__basicsize__, 8)
    return next((o for o in places if ctypes.c_int64.from_address(id(probe) + o).value == probe._cdata), None)


def _none() -> int:
    """The address of PyTorch's undefined tensor: the gradient of a parameter that has none."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"), mode=ctypes.DEFAULT_MODE | os.RTLD_NOLOAD)
    ask = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)((_GRAD, library))
    probe = torch.nn.Parameter(torch.empty(0))  # the answer points into it
    return ctypes.c_int64.from_address(ask(probe._cdata)).value


def _as_python_says(made: Walk) -> bool:
    """Whether the pass and Python agree on tensors with and without gradients, views, orders in memory, and other types."""
    for dtype in _CODES:
        base = torch.zeros(8, 6, dtype=dtype)
        tensors = [torch.nn.Parameter(t) for t in (base, base[3], base.t(), base[0, 0], torch.zeros(0, dtype=dtype))]
        for p in tensors[:3]:
            p.grad = torch.zeros_like(p)
        tables = np.zeros((2, len(tensors)), np.int64)
        places = Places(tensors, tables[0], tables[1], made)
        said = [[p.data_ptr() for p in tensors], [0 if p.grad is None else p.grad.data_ptr() for p in tensors]]
        if places.read() != 3 or tables.tolist() != said:
            return False
        tensors[2].grad = torch.zeros(6, 8, dtype=dtype)
        if places.read() is not None:
            return False
    return True
