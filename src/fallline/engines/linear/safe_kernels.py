"""Kernels of safe steps: a view that standardises the columns as they come, and the exact flow of each row.

`safe_plain` is the readable twin. How the state lies in memory:

    dense   [3 + outputs, features]     mean, sum of squared deviations, weight seen; then the weights of each output
    slots   [sparse, 2 + outputs]       sum of squares, weight seen; then the weights: one line of the cache for a feature
    b       [outputs]                   intercepts
    totals  [2]                         weight of the rows so far, and the sum of their weighted squared lengths in the view
"""

from __future__ import annotations

import math

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.flow import score_flow, softmax_flow
from fallline.engines.linear.scalar import SOFTMAX, losses_slopes

MEAN, SPREAD, SEEN, WEIGHTS = range(4)
SQUARE, KNOWN, PARTS = range(3)
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
def viewed(X, i, h, dense, z):
    """Row `i` in the view that has seen it, into z[0]; returns its squared length."""
    length = 0.0
    for j in range(X.shape[1]):
        x = X[i, j]
        z[0, j] = 0.0
        if x == x:
            if h > 0:
                seen = dense[SEEN, j] + h
                away = x - dense[MEAN, j]
                dense[MEAN, j] += away * (h / seen)
                dense[SPREAD, j] += h * away * (x - dense[MEAN, j])
                dense[SEEN, j] = seen
            mean = dense[MEAN, j]
            deviation = math.sqrt(dense[SPREAD, j] / dense[SEEN, j]) if dense[SEEN, j] > 0 else 0.0
            if deviation > FLAT * abs(mean):
                z[0, j] = (x - mean) / deviation
                length += z[0, j] * z[0, j]
    return length


@kernel
def entries_viewed(i, h, starts, columns, values, slots):
    """The sparse entries of row `i` in the view, in place of their values; returns their squared length."""
    length = 0.0
    for e in range(starts[i], starts[i + 1]):
        slot = slots[columns[e]]
        if h > 0 and values[e] != 0:
            slot[SQUARE] += h * values[e] * values[e]
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
def safe(X, starts, columns, values, y, weight, code, parameter, step, dense, slots, b, totals, z, out):
    """Learn from rows one after the other; see `fallline.engines.linear.safe`.

    Args:
        X: [rows, features] numbers, NaN where missing.
        starts, columns, values: sparse entries in CSR; `values` is written over.
        y: [rows, 1] or [rows, outputs]; NaN in a row that is to be predicted only.
        weight: [rows] not negative; a row of weight 0 is predicted only.
        code, parameter: the loss; step: its rate.
        z: [2, features], room to work.
        out: [rows, 1 + outputs]: loss before the update, and scores, written.

    Returns:
        How many rows were taken; fewer than given means that the next one cannot be read and that nothing of it was applied.
    """
    rows, d, outputs = X.shape[0], X.shape[1], len(b)
    p, after, slopes = np.zeros((1, outputs)), np.zeros(outputs), np.zeros((1, outputs))
    alone = code == SOFTMAX and outputs == 1  # of one class there is nothing to learn but the columns
    for i in range(rows):
        if not readable(X, i, starts, columns, values, y, weight, len(slots)):
            return i
        h = weight[i]
        first, last = starts[i], starts[i + 1]
        length = 1.0 + viewed(X, i, h, dense, z) + entries_viewed(i, h, starts, columns, values, slots)
        for k in range(outputs):
            score = b[k]
            for j in range(d):
                score += dense[WEIGHTS + k, j] * z[0, j]
            p[0, k] = score
        for e in range(first, last):
            for k in range(outputs):
                p[0, k] += slots[columns[e], PARTS + k] * values[e]
        out[i, 0] = losses_slopes(code, parameter, p, 0, y, i, 1.0, slopes) if not alone else 0.0
        for k in range(outputs):
            out[i, 1 + k] = p[0, k]
        if h == 0:
            continue
        totals[0] += h
        totals[1] += h * length
        if alone:
            continue
        size = totals[1] / totals[0]
        own = time_of(totals[0], h, size, step)  # of the intercept: seen in every row
        time, seen, rate = own, totals[0], own
        for j in range(d):
            if dense[SEEN, j] != seen:  # most columns are seen in every row
                seen = dense[SEEN, j]
                rate = time_of(seen, h, size, step) if seen >= h else 0.0
            z[1, j] = rate * z[0, j]
            time += z[1, j] * z[0, j]
        for e in range(first, last):
            if values[e] != 0:
                time += time_of(slots[columns[e], KNOWN], h, size, step) * values[e] * values[e]
        if code == SOFTMAX:
            softmax_flow(p[0], int(y[i, 0]), time, after)
        else:
            for k in range(outputs):
                after[k] = score_flow(code, parameter, p[0, k], y[i, k], time)
        for k in range(outputs):
            pull = (after[k] - p[0, k]) / time
            b[k] += pull * own
            for j in range(d):
                dense[WEIGHTS + k, j] += pull * z[1, j]
            after[k] = pull
        for e in range(first, last):
            if values[e] != 0:
                rate = time_of(slots[columns[e], KNOWN], h, size, step) * values[e]
                for k in range(outputs):
                    slots[columns[e], PARTS + k] += after[k] * rate
    return rows
