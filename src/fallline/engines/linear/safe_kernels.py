"""Kernels of safe steps: a view that standardises the columns as they come, the exact flow of each row, and of the penalty.

`safe_plain` is the readable twin. How the state lies in memory:

    dense   [3 + outputs, features]     mean, sum of squared deviations, weight seen; then the weights of each output
    slots   [sparse, 2 + outputs]       sum of squares, weight seen; then the weights: one line of the cache for a feature.
            [sparse, 4 + outputs]       with a penalty: also up to when it has been applied, and the feature's rate since
    b       [2, outputs]                intercepts; sum of the weighted errors |y - score| (Poisson: of the weighted y)
    totals  [3]                         weight of the rows so far, the sum of their weighted squared lengths in the view, and the
                                        weight of rows that were learnt elsewhere before (a fit's)

Python calls them by address (`fallline.pointers`): a call of a compiled function with a dozen arrays takes microseconds.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types

from fallline.compiled import announced, callback, kernel
from fallline.engines.linear.flow import penalised, score_flow, softmax_flow
from fallline.engines.linear.scalar import (
    HUBER,
    INSENSITIVE,
    POISSON,
    QUANTILE,
    SOFTMAX,
    losses_slopes,
    target_of,
)
from fallline.pointers import float64_at, int64_at

MEAN, SPREAD, SEEN, WEIGHTS = range(4)
SQUARE, KNOWN, SINCE, RATE = range(4)
"""Of a slot; the last two only with a penalty."""
LAW = 7
CODE, PARAMETER, STEP, L2, L1, SCALED, INTERCEPT = range(LAW)
"""The law: the loss, its rate, the penalty, whether columns are scaled, and whether there is an intercept; without one, columns
are not centred."""
LARGEST = 1e140
"""Numbers beyond are refused: their squares must stay finite over any number of rows."""
FLAT = 1e-12
"""A deviation below this share of the mean is rounding: the column is constant so far."""


@kernel
def readable(X, i, starts, columns, values, y, weight, size):
    """Whether row `i` can be learnt: no number infinite or beyond LARGEST (NaN is a missing one), columns below `size`."""
    good = 0 <= weight[i] <= LARGEST
    for k in range(y.shape[1]):
        good = good and abs(y[i, k]) <= LARGEST
    for j in range(X.shape[1]):
        good = good and not abs(X[i, j]) > LARGEST
    for e in range(starts[i], starts[i + 1]):
        good = good and abs(values[e]) <= LARGEST and 0 <= columns[e] < size
    return good


@kernel
def viewed(X, i, h, scaled, centred, dense, z):
    """Row `i` in the view that has seen it, into z[0]; returns its squared length."""
    length = 0.0
    for j in range(X.shape[1]):
        x = X[i, j]
        z[0, j] = 0.0
        if x == x:
            if h > 0:
                seen = dense[SEEN, j] + h
                if scaled:
                    away = x - dense[MEAN, j]
                    if centred:
                        dense[MEAN, j] += away * (h / seen)
                    dense[SPREAD, j] += h * away * (x - dense[MEAN, j])
                else:
                    dense[SPREAD, j] = seen  # a deviation of 1, always
                dense[SEEN, j] = seen
            mean = dense[MEAN, j]
            deviation = math.sqrt(dense[SPREAD, j] / dense[SEEN, j]) if dense[SEEN, j] > 0 else 0.0
            if deviation > FLAT * abs(mean):
                z[0, j] = (x - mean) / deviation
                length += z[0, j] * z[0, j]
    return length


@kernel
def entries_viewed(i, h, scaled, starts, columns, values, slots):
    """The sparse entries of row `i` in the view, in place of their values; returns their squared length."""
    length = 0.0
    for e in range(starts[i], starts[i + 1]):
        slot = slots[columns[e]]
        if h > 0 and values[e] != 0:
            slot[SQUARE] += h * values[e] * values[e] if scaled else h
            slot[KNOWN] += h
        values[e] = values[e] / math.sqrt(slot[SQUARE] / slot[KNOWN]) if slot[SQUARE] > 0 else 0.0
        length += values[e] * values[e]
    return length


@kernel
def time_of(seen, h, size, step):
    """The integral of step / sqrt(size^2 + size t) from t = seen - h to t = seen."""
    end = size * size + size * seen
    return 2 * step * h / (math.sqrt(end) + math.sqrt(end - size * h))


@kernel
def unit(code, parameter, errors, weight):
    """How much longer a row's flow lasts where the loss's slope has a size of its own; see `fallline.engines.linear.safe`."""
    mean = errors / weight
    if code in (INSENSITIVE, QUANTILE):
        return mean
    if code == HUBER:
        return max(mean / parameter, 1.0)
    if code == POISSON and mean > 0:
        return 1 / max(mean, math.sqrt(mean))
    return 1.0


@kernel
def in_slot(slots, column, at, now, l2, l1):
    """The weight of a sparse feature, with the penalty of the rows in which it was absent."""
    w = slots[column, at]
    if l2 == 0 and l1 == 0:
        return w
    return penalised(w, (now - slots[column, SINCE]) * slots[column, RATE], l2, l1)


@kernel
def safe(X, starts, columns, values, y, weight, offset, law, dense, slots, b, totals, z, out):
    """Learn from rows one after the other; see `fallline.engines.linear.safe`.

    Args:
        X: [rows, features] numbers, NaN where missing.
        starts, columns, values: sparse entries in CSR; `values` is written over.
        y: [rows, 1] or [rows, outputs]; NaN in a row that is to be predicted only.
        weight: [rows] not negative; a row of weight 0 is predicted only.
        offset: [rows or 0, outputs] scores that are added.
        law: see CODE.
        z: [3, features], room to work.
        out: [rows, 1 + outputs]: loss before the update, and scores, written.

    Returns:
        How many rows were taken; fewer than given means that the next one cannot be read and that nothing of it was applied.
    """
    rows, d, outputs = X.shape[0], X.shape[1], b.shape[1]
    code, parameter, l2, l1, scaled = int(law[CODE]), law[PARAMETER], law[L2], law[L1], law[SCALED] > 0
    intercept = law[INTERCEPT] > 0
    p, after, slopes = np.zeros((1, outputs)), np.zeros(outputs), np.zeros((1, outputs))
    alone = code == SOFTMAX and outputs == 1  # of one class there is nothing to learn but the columns
    for i in range(rows):
        if not readable(X, i, starts, columns, values, y, weight, len(slots)):
            return i
        h, now = weight[i], totals[0]
        first, last, at = starts[i], starts[i + 1], slots.shape[1] - outputs
        length = law[INTERCEPT] + viewed(X, i, h, scaled, intercept, dense, z) + entries_viewed(i, h, scaled, starts, columns, values, slots)
        for k in range(outputs):
            score = b[0, k]
            if offset.shape[0] > 0:
                score += offset[i, k]
            for j in range(d):
                score += dense[WEIGHTS + k, j] * z[0, j]
            p[0, k] = score
        for e in range(first, last):
            for k in range(outputs):
                p[0, k] += in_slot(slots, columns[e], at + k, now, l2, l1) * values[e]
        out[i, 0] = losses_slopes(code, parameter, p, 0, y, i, 1.0, slopes) if not alone else 0.0
        for k in range(outputs):
            out[i, 1 + k] = p[0, k]
        if h == 0:
            continue
        totals[0] += h
        totals[1] += h * length
        if alone or totals[1] == 0:
            continue
        size, step, before = totals[1] / totals[0], law[STEP], totals[2]
        own = time_of(before + totals[0], h, size, step)  # of the intercept: seen in every row
        time, seen, rate = own * law[INTERCEPT], totals[0], own
        for j in range(d):
            if dense[SEEN, j] != seen:  # most columns are seen in every row
                seen = dense[SEEN, j]
                rate = time_of(before + seen, h, size, step) if seen >= h else 0.0
            z[1, j] = rate * z[0, j]
            z[2, j] = rate
            time += z[1, j] * z[0, j]
        for e in range(first, last):
            if values[e] != 0:
                time += time_of(before + slots[columns[e], KNOWN], h, size, step) * values[e] * values[e]
        if code == SOFTMAX:
            softmax_flow(p[0], int(y[i, 0]), time, after)
        else:
            for k in range(outputs):
                target = target_of(y, i, k, outputs)
                b[1, k] += h * (target if code == POISSON else abs(target - p[0, k]))
                after[k] = score_flow(code, parameter, p[0, k], target, time * unit(code, parameter, b[1, k], totals[0]))
        for k in range(outputs):
            pull = (after[k] - p[0, k]) / time if time > 0 else 0.0
            if intercept:
                b[0, k] += pull * own
            for j in range(d):
                dense[WEIGHTS + k, j] += pull * z[1, j]
            after[k] = pull
        if l2 > 0 or l1 > 0:
            for k in range(outputs):
                for j in range(d):
                    dense[WEIGHTS + k, j] = penalised(dense[WEIGHTS + k, j], z[2, j], l2, l1)
        for e in range(first, last):
            if values[e] != 0:
                slot = slots[columns[e]]
                rate = time_of(before + slot[KNOWN], h, size, step)
                for k in range(outputs):
                    change = after[k] * rate * values[e]
                    if l2 > 0 or l1 > 0:
                        slot[at + k] = penalised(in_slot(slots, columns[e], at + k, now, l2, l1) + change, rate, l2, l1)
                    else:
                        slot[at + k] += change
                if l2 > 0 or l1 > 0:
                    slot[SINCE] = totals[0]
                    slot[RATE] = rate / h
    return rows


FIELDS = 21
(
    AT_X, AT_STARTS, AT_COLUMNS, AT_VALUES, AT_Y, AT_WEIGHT, AT_OFFSET, AT_LAW, AT_DENSE, AT_SLOTS, AT_B, AT_TOTALS, AT_Z, AT_OUT,
    ROWS, FEATURES, OUTPUTS, SLOTS, PARTS, TARGETS, OFFSETS,
) = range(FIELDS)  # fmt: skip
"""Fields of a task, int64: addresses, then sizes. PARTS is a slot's length, TARGETS those of a row, OFFSETS rows that have one."""


@kernel
def _carried_out(task):
    """`safe`, of the arrays that a task tells."""
    n, d, outputs, sparse = task[ROWS], task[FEATURES], task[OUTPUTS], task[SLOTS]
    starts = carray(int64_at(task[AT_STARTS]), (n + 1,))
    return safe(
        carray(float64_at(task[AT_X]), (n, d)), starts, carray(int64_at(task[AT_COLUMNS]), (starts[n],)),
        carray(float64_at(task[AT_VALUES]), (starts[n],)), carray(float64_at(task[AT_Y]), (n, task[TARGETS])),
        carray(float64_at(task[AT_WEIGHT]), (n,)), carray(float64_at(task[AT_OFFSET]), (task[OFFSETS], outputs)),
        carray(float64_at(task[AT_LAW]), (LAW,)), carray(float64_at(task[AT_DENSE]), (WEIGHTS + outputs, d)),
        carray(float64_at(task[AT_SLOTS]), (sparse, task[PARTS])), carray(float64_at(task[AT_B]), (2, outputs)),
        carray(float64_at(task[AT_TOTALS]), (3,)), carray(float64_at(task[AT_Z]), (3, d)), carray(float64_at(task[AT_OUT]), (n, 1 + outputs)),
    )  # fmt: skip


def _rows(address):
    return _carried_out(carray(int64_at(address), (FIELDS,)))


def _one(address, y, h):
    """One row: its target and weight are numbers, its loss is the answer; NaN where it was refused."""
    task = carray(int64_at(address), (FIELDS,))
    carray(float64_at(task[AT_Y]), (1,))[0] = y
    carray(float64_at(task[AT_WEIGHT]), (1,))[0] = h
    if _carried_out(task) == 0:
        return np.nan
    loss = carray(float64_at(task[AT_OUT]), (1,))[0]
    return loss if loss == loss else np.inf


@cache
def calls() -> tuple[Any, ...]:
    """Two functions, and their code: `rows(address of a task)`, how many rows were taken, see `safe`; and `one(address, y, weight)`, the
    loss of the one row that the task tells, NaN where it was refused and nothing was applied."""
    with announced():
        made = callback(_rows, types.int64(types.int64)), callback(_one, types.float64(types.int64, types.float64, types.float64))
    kinds = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64), ctypes.PYFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double, ctypes.c_double)
    return (*(kind(code.address) for kind, code in zip(kinds, made, strict=True)), made)
