"""One row into registers that lie ready: the kernel of single rows, called by the address of a table.

A call with seventeen arguments takes microseconds to take its arrays apart; this one half a microsecond. The law, and its bits,
are those of `dense.single`.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types

from fallline.compiled import announced, callback, kernel
from fallline.engines.linear import dense
from fallline.pointers import float32_at, float64_at, int32_at, int64_at
from fallline.problems.losses import Loss
from fallline.rows import COLUMNS

FIELDS = 19
(
    AT_X, AT_Y, AT_ORDER, AT_PARAMETER, AT_ROW, AT_NAMES, AT_VARYING, AT_W, AT_V, AT_S, AT_A, AT_B, AT_OUT,
    FEATURES, OUTPUTS, TARGETS, NAMES, CODE, INTERCEPT,
) = range(FIELDS)  # fmt: skip
"""Fields of the table, int64: addresses, sizes, the loss, whether there is an intercept."""
_WIDTH = len(COLUMNS)


@kernel
def _none(task, place):
    return None


def _register(at):
    def held(task, place):
        return carray(at(task[place]), (task[OUTPUTS], task[FEATURES]))

    return kernel(held)


_REGISTERS = {np.dtype(np.float32): _register(float32_at), np.dtype(np.float64): _register(float64_at)}
_AT = {np.dtype(np.float32): float32_at, np.dtype(np.float64): float64_at}


@cache
def _call(dtype: np.dtype, v: bool, s: bool, a: bool, l1: bool) -> tuple[Any, Any]:
    """`one(address, y) -> loss` for these registers, NaN where the row was refused; and its code."""
    at, held = _AT[dtype], _REGISTERS[dtype]
    of_v, of_s, of_a = (held if there else _none for there in (v, s, a))
    mark = 1.0 if l1 else None

    def one(address, y):
        task = carray(int64_at(address), (FIELDS,))
        d, outputs, names = task[FEATURES], task[OUTPUTS], task[NAMES]
        target, out = carray(at(task[AT_Y]), (1, task[TARGETS])), carray(float64_at(task[AT_OUT]), (1,))
        if task[TARGETS] == 1:
            target[0, 0] = y
        done = dense.single(
            carray(at(task[AT_X]), (1, d)), target, carray(at(task[AT_X]), (0,)), carray(int32_at(task[AT_ORDER]), (1,)),
            task[CODE], carray(float64_at(task[AT_PARAMETER]), (1,))[0], carray(float64_at(task[AT_ROW]), (2, _WIDTH)),
            carray(int64_at(task[AT_NAMES]), (names,)), carray(float64_at(task[AT_VARYING]), (1, 2, names)),
            held(task, AT_W), of_v(task, AT_V), of_s(task, AT_S), of_a(task, AT_A), mark, carray(at(task[AT_B]), (4, outputs)),
            task[INTERCEPT] != 0, out,
        )  # fmt: skip
        return out[0] if done else np.nan

    with announced():
        made = callback(one, types.float64(types.int64, types.float64))
    return ctypes.PYFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)(made.address), made


class OneRow:
    """Registers of a linear model, and room for one row.

    Args:
        loss: the loss.
        targets: of a row.
        row: the rule's row, [2, columns].
        names: columns that vary from step to step, by number.
        w, v, s, a: registers, [outputs, features]; all but w perhaps None. l1: 1 with soft thresholds, else None.
        b: the intercepts' registers, [4, outputs].
        intercept: whether there is one.
    """

    def __init__(self, loss: Loss, targets: int, row: np.ndarray, names: np.ndarray, w: Any, v: Any, s: Any, a: Any, l1: Any, b: np.ndarray, intercept: bool):
        outputs, features = w.shape
        self.x, self.y = np.zeros(features, w.dtype), np.zeros(targets, w.dtype)
        order, parameter, out = np.zeros(1, np.int32), np.array([float(loss.parameter)]), np.zeros(1)
        self.kept = kept = {
            AT_X: self.x, AT_Y: self.y, AT_ORDER: order, AT_PARAMETER: parameter, AT_ROW: row, AT_NAMES: names, AT_W: w, AT_V: v, AT_S: s, AT_A: a,
            AT_B: b, AT_OUT: out,
        }  # fmt: skip
        self.task = np.zeros(FIELDS, np.int64)
        for place, array in kept.items():  # which are written through their addresses
            if array is not None:
                assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
                self.task[place] = array.ctypes.data
        self.task[[FEATURES, OUTPUTS, TARGETS, NAMES, CODE, INTERCEPT]] = features, outputs, targets, len(names), loss.code, intercept
        self.address = self.task.ctypes.data
        self.call = _call(w.dtype, v is not None, s is not None, a is not None, l1 is not None)[0]

    def varies(self, values: np.ndarray) -> None:
        """What the columns that vary are in the step to come: a C-contiguous row of numbers, kept by the caller."""
        self.task[AT_VARYING] = values.ctypes.data
